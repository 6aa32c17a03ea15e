/* SPDX-License-Identifier: Apache-2.0 */
/* All buckets of a plan, once through the gatherer or the reducer as a trainer sends them; or
 * through NCCL's own calls on two flat buffers in turn, which keeps its use of memory and caches
 * like that of a ring.
 */
#ifndef TESSERA_BENCH_RING_H
#define TESSERA_BENCH_RING_H

#include "bench_measure.h"
#include "bench_sweep.h"

typedef struct bench_ring {
    bench_session_t *session;
    bench_route_t *route, *raw; /* raw->raw is NULL where raw NCCL is not measured */
    bench_collective_t collective;
    int64_t depth;            /* buffers of the ring */
    tess_bucket_plan_t *plan; /* given, and destroyed by close */
    void *shard;              /* this rank's slices of all buckets; stays the caller's */
    tess_stream_t *compute;   /* uses gathered buckets, or makes gradients */
    tess_stream_t *consumer;  /* takes what was reduced */
    tess_stream_t *raw_stream;

    tess_gatherer_t *gatherer; /* or */
    tess_reducer_t *reducer;
    char *flat[2]; /* for raw NCCL, of the largest bucket */
} bench_ring_t;

/* Both collective. On failure, and always in the end, close. */
tess_status_t bench_ring_open(bench_ring_t *ring);
tess_status_t bench_ring_open_flat(bench_ring_t *ring);
void bench_ring_close(bench_ring_t *ring);

/* Bytes of the ring on this rank. */
int64_t bench_ring_bytes(const bench_ring_t *ring);

/* Queues compute that goes with a bucket: while it is gathered, or before its gradients are ready.
 */
typedef tess_status_t (*bench_bucket_work_t)(void *context, const tess_bucket_t *bucket);

/* Queues all buckets: gathering from the first to the last, reducing from the last to the first.
 * `work` may be NULL. */
tess_status_t bench_ring_queue(bench_ring_t *ring, bench_bucket_work_t work, void *context);
tess_status_t bench_ring_finish(bench_ring_t *ring);

/* The same buckets through raw NCCL. An all-gather out of place sends from the shard, and in place
 * from the rank's slice of the flat buffer; a reduce-scatter always leaves its sum in that slice.
 */
tess_status_t bench_ring_queue_raw(bench_ring_t *ring, bench_place_t place);
tess_status_t bench_ring_finish_raw(bench_ring_t *ring);

#endif
