/* SPDX-License-Identifier: Apache-2.0 */
/* One run of a benchmark on one rank: its world, device, routes, and where it prints.
 *
 * Only rank 0 prints results and progress. When a rank fails, it says so in one sentence and all
 * ranks end with the exit code of that failure.
 */
#ifndef TESSERA_BENCH_SESSION_H
#define TESSERA_BENCH_SESSION_H

#include <stdio.h>
#include <tessera/tessera.h>

#include "bench_options.h"
#include "bench_route.h"

/* What a rank tells the others about itself. */
typedef struct bench_rank {
    char device[16]; /* "cuda:3" */
    char model[128]; /* "NVIDIA H200" */
    char bus_id[32]; /* "" on the host */
    int64_t memory_bytes;
    int32_t multiprocessors; /* or CPUs */
    int32_t kind;            /* tess_device_kind_t */
} bench_rank_t;

typedef struct bench_session {
    bench_options_t *options;
    char **arguments; /* argv, for reports */
    tess_world_t *world;
    tess_device_t *device;
    tess_device_kind_t kind;
    tess_stream_t *stream;
    bench_route_t routes[BENCH_TRANSPORTS_MAX];
    int route_count;
    int rank, size;
    int timeout_ms;
    bench_rank_t *ranks; /* (size) */
    FILE *table;         /* rank 0: standard output, or error where a file is `-`. Else NULL */
    int exchange_count;
    int told;               /* somebody has said what went wrong */
    int progress_shown;     /* a progress line stands on the terminal */
    int64_t wrong_elements; /* over all results of all ranks */
    char start_time[32];    /* UTC, ISO 8601 */
} bench_session_t;

/* Collective. On failure the session can still be closed. */
tess_status_t bench_session_open(bench_options_t *options, char **arguments,
                                 bench_session_t *session);

/* To be called when a call failed, before anything that queued work may use is freed: prints
 * tess_last_error() once, ends what is queued, tells the other ranks. Nothing happens for a status
 * that is no failure. */
void bench_session_fail(bench_session_t *session, tess_status_t status);
void bench_session_close(bench_session_t *session);

/* Small all-gather over the control plane: `bytes` of every rank, (size * bytes) in `all`. */
tess_status_t bench_exchange(bench_session_t *session, const void *mine, int64_t bytes, void *all);

/* Collective: TESS_OK when `status` is no failure on any rank. A rank that failed gets its own
 * status back, the others the first failed rank's, and `told` is set: that rank reports it. */
tess_status_t bench_agree(bench_session_t *session, tess_status_t status);

/* Collective, in place: each value becomes the largest (the sum) over the ranks. count <= 100000.
 */
tess_status_t bench_largest(bench_session_t *session, double *values, int64_t count);
tess_status_t bench_sum(bench_session_t *session, int64_t *value);

/* Collective: rank 0's value for all. */
tess_status_t bench_from_root(bench_session_t *session, int64_t *value);

/* To the table, from rank 0 only. */
void bench_print(bench_session_t *session, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* One line that replaces itself, from rank 0 and only on a terminal. */
void bench_progress(bench_session_t *session, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void bench_progress_clear(bench_session_t *session);

/* "# …" lines about versions, ranks and routes. */
void bench_print_header(bench_session_t *session);

/* Now, as "2025-01-31T12:00:00Z". Returns text. */
const char *bench_time_text(char *text, int64_t text_bytes);

/* --- main (bench_main.c) --------------------------------------------------------------------- */

typedef tess_status_t (*bench_run_t)(bench_session_t *session);

/* Everything a benchmark's main does: options, local ranks, session, run, exit code. */
int bench_main(int argc, char **argv, const bench_program_t *program, bench_run_t run);

/* 2 for a bad argument, 4 for a passed deadline, 3 for any other failure. */
int bench_exit_code(tess_status_t status);

#endif
