/* SPDX-License-Identifier: Apache-2.0 */
/* The communication of bench_overlap: one bucket a collective through the gatherer or the reducer,
 * or the same sizes through NCCL's own calls on flat buffers.
 */
#include "core/internal.h"
#include "overlap.h"

#define RING_BUFFERS 2

static tess_status_t create_plan(overlap_t *overlap)
{
    const bench_options_t *options = overlap->session->options;
    int64_t *counts = tessi_calloc((size_t)options->collective_count, sizeof *counts);
    if (!counts) return TESS_ERR_OUT_OF_MEMORY;
    for (int64_t i = 0; i < options->collective_count; i++)
        counts[i] = overlap->bytes / tess_dtype_bytes(options->dtype);
    tess_bucket_plan_config_t config = {.tensor_counts = counts,
                                        .tensor_count = options->collective_count,
                                        .bucket_bytes = overlap->bytes,
                                        .dtype = options->dtype,
                                        .world_size = overlap->session->size};
    tess_status_t status = tess_bucket_plan_create(&config, &overlap->ring.plan);
    tessi_free(counts);
    return status;
}

static tess_status_t open_memory(overlap_t *overlap)
{
    bench_ring_t *ring = &overlap->ring;
    int64_t bytes = tess_bucket_plan_shard_count(ring->plan) *
                    tess_dtype_bytes(overlap->session->options->dtype);
    tess_status_t status =
        bench_route_allocate(overlap->route, BENCH_MEMORY_REGISTERED, bytes, &ring->shard);
    if (status >= 0) status = tess_stream_fill(overlap->compute, ring->shard, 0, bytes);
    if (status >= 0) status = tess_stream_synchronize(overlap->compute, -1);
    return status < 0 ? status : bench_ring_open_flat(ring);
}

tess_status_t overlap_case_open(overlap_t *overlap)
{
    overlap->ring = (bench_ring_t){.session = overlap->session,
                                   .route = overlap->route,
                                   .raw = &overlap->raw,
                                   .collective = overlap->collective,
                                   .depth = RING_BUFFERS,
                                   .compute = overlap->producer,
                                   .consumer = overlap->consumer,
                                   .raw_stream = overlap->raw_stream};
    tess_status_t status = create_plan(overlap);
    if (status < 0) return status;
    status = bench_agree(overlap->session, open_memory(overlap));
    if (status < 0) return status;
    return bench_agree(overlap->session, bench_ring_open(&overlap->ring));
}

void overlap_case_close(overlap_t *overlap)
{
    void *shard = overlap->ring.shard;
    bench_ring_close(&overlap->ring);
    if (shard) bench_route_free(overlap->route, BENCH_MEMORY_REGISTERED, shard);
}

tess_status_t overlap_case_queue(overlap_t *overlap, overlap_mover_t mover)
{
    return mover == OVERLAP_RAW ? bench_ring_queue_raw(&overlap->ring, BENCH_OUT_OF_PLACE)
                                : bench_ring_queue(&overlap->ring, NULL, NULL);
}

tess_status_t overlap_case_finish(overlap_t *overlap, overlap_mover_t mover)
{
    return mover == OVERLAP_RAW ? bench_ring_finish_raw(&overlap->ring)
                                : bench_ring_finish(&overlap->ring);
}
