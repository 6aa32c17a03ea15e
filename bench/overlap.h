/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products on one stream beside bucketed collectives on another: what each takes alone, what
 * both take together, and the same for NCCL's own calls in the same run.
 */
#ifndef TESSERA_BENCH_OVERLAP_H
#define TESSERA_BENCH_OVERLAP_H

#include "bench_ring.h"
#include "gemm.h"

/* Who moves the bytes. */
typedef enum overlap_mover { OVERLAP_BUCKETS = 0, OVERLAP_RAW = 1 } overlap_mover_t;
#define OVERLAP_MOVERS 2

typedef struct overlap_row {
    bench_collective_t collective;
    overlap_mover_t mover;
    int64_t bytes; /* of one collective */
    double compute_s, communication_s, both_s;
    double efficiency; /* max(compute, communication) / both */
    double exposed_s;  /* both - compute */
    double busbw;      /* of communication alone */
} overlap_row_t;

typedef struct overlap {
    bench_session_t *session;
    bench_route_t *route; /* the transport behind the buckets */
    bench_route_t raw;    /* open on CUDA where NCCL is */
    int mover_count;
    gemm_t *gemm;
    tess_stream_t *compute; /* the products */
    tess_stream_t *producer, *consumer, *raw_stream;

    /* of the case that is measured */
    bench_collective_t collective;
    int64_t bytes;
    bench_ring_t ring; /* its shard: (collective_count) slices, registered */

    int64_t *sizes; /* (size_count) */
    int size_count;
    overlap_row_t *rows; /* (size_count, collective, mover) */
    int row_count;
} overlap_t;

/* The whole benchmark. */
tess_status_t overlap_run(bench_session_t *session);

/* --- one case (overlap_case.c) --------------------------------------------------------------- */

/* Collective: plan, gatherer or reducer, and buffers for `bytes` and `collective`. */
tess_status_t overlap_case_open(overlap_t *overlap);
void overlap_case_close(overlap_t *overlap);

/* Queues all collectives of the case. */
tess_status_t overlap_case_queue(overlap_t *overlap, overlap_mover_t mover);

/* Waits for them. */
tess_status_t overlap_case_finish(overlap_t *overlap, overlap_mover_t mover);

/* --- results (overlap_report.c) -------------------------------------------------------------- */

void overlap_report_start(overlap_t *overlap);
void overlap_report_row(overlap_t *overlap, const overlap_row_t *row);
tess_status_t overlap_write(overlap_t *overlap);

#endif
