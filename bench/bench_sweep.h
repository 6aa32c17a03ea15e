/* SPDX-License-Identifier: Apache-2.0 */
/* The message sweep: one collective over a range of sizes, on one or several routes, timed out of
 * place and in place, then checked element by element.
 */
#ifndef TESSERA_BENCH_SWEEP_H
#define TESSERA_BENCH_SWEEP_H

#include "bench_measure.h"
#include "bench_memcpy.h"

typedef enum bench_place { BENCH_OUT_OF_PLACE = 0, BENCH_IN_PLACE = 1 } bench_place_t;
#define BENCH_PLACES 2
#define BENCH_CASES_MAX (2 * BENCH_TRANSPORTS_MAX)

/* A route with buffers of one kind. */
typedef struct bench_case {
    bench_route_t *route;
    bench_memory_t memory;
    bench_collective_t collective;
    tess_dtype_t dtype;
    tess_reduction_t reduction;
    int rank, size;
    tess_stream_t *stream;
    int64_t capacity_bytes; /* of whole */
    char *whole;            /* all ranks' slices: result of an all-gather, input of the other */
    char *slice;            /* one rank's slice: input of an all-gather, result of the other */

    int64_t bytes; /* the size being measured, a multiple of 16 * size */
    bench_place_t place;
} bench_case_t;

typedef struct bench_result {
    double time_s;             /* one operation, slowest rank, median of the repetitions */
    double algbw, busbw;       /* GB/s */
    int64_t wrong;             /* elements over all ranks; -1: not checked */
    bench_statistics_t each_s; /* single operations; count 0 without --per-iteration */
} bench_result_t;

typedef struct bench_row {
    const bench_case_t *measured;
    int64_t bytes, count; /* count is per rank */
    bench_result_t results[BENCH_PLACES];
    double ratio[BENCH_PLACES]; /* bus bandwidth over that of the first case of the same size */
    bench_copy_t copy;          /* host only */
} bench_row_t;

typedef struct bench_sweep {
    bench_session_t *session;
    bench_case_t cases[BENCH_CASES_MAX];
    int case_count;
    int64_t *sizes; /* (size_count) */
    int size_count;
    bench_row_t *rows; /* (size_count * case_count) */
    int row_count;
    bench_copy_t copy_large; /* host only: beyond every cache */
    bench_copy_arena_t arena;
    double average_busbw;
} bench_sweep_t;

/* The whole benchmark: header, table, footer, files. */
tess_status_t bench_sweep_run(bench_session_t *session);

/* The sizes that -b, -e, -i and -f ask for, ascending, rounded to whole 16-byte slices, which is
 * printed. The caller frees. */
tess_status_t bench_list_sizes(bench_session_t *session, int64_t **sizes, int *size_count);

/* Queues one operation; the buffers shift with the iteration, so that small sizes do not always hit
 * the same lines of a cache. A bench_operation_t over a bench_case_t. */
tess_status_t bench_case_queue(void *context, int64_t iteration);

/* Arguments of operation number `iteration`. */
tess_collective_t bench_case_arguments(const bench_case_t *c, int64_t iteration);

/* Fills inputs, poisons results, runs one operation and looks at every element of the result.
 * Collective; `wrong` is the sum over the ranks (bench_check.c). */
tess_status_t bench_case_check(bench_session_t *session, bench_case_t *c, int64_t *wrong);

/* --- tables and files (bench_report.c, bench_json.c) ----------------------------------------- */

const char *bench_collective_name(bench_collective_t collective); /* "all_gather" */
const char *bench_reduction_name(bench_collective_t collective, tess_reduction_t reduction);
const char *bench_memory_name(bench_memory_t memory);

void bench_report_start(bench_sweep_t *sweep);
void bench_report_row(bench_sweep_t *sweep, const bench_row_t *row);
void bench_report_end(bench_sweep_t *sweep);

/* Writes the files that the options name; rank 0 only. */
tess_status_t bench_sweep_write(bench_sweep_t *sweep);

#endif
