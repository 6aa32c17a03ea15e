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
    tess_status_t status = tess_bucket_plan_create(&config, &overlap->plan);
    tessi_free(counts);
    return status;
}

static tess_status_t open_buckets(overlap_t *overlap)
{
    const bench_options_t *options = overlap->session->options;
    if (overlap->collective == BENCH_ALL_GATHER) {
        tess_gatherer_config_t config = {.comm = overlap->route->comm,
                                         .plan = overlap->plan,
                                         .shard = overlap->shard,
                                         .buffer_count = RING_BUFFERS};
        return tess_gatherer_create(&config, &overlap->gatherer);
    }
    tess_reducer_config_t config = {.comm = overlap->route->comm,
                                    .plan = overlap->plan,
                                    .reduction = options->reduction,
                                    .order = TESS_REDUCER_FORWARD,
                                    .buffer_count = RING_BUFFERS};
    return tess_reducer_create(&config, &overlap->reducer);
}

static tess_status_t open_memory(overlap_t *overlap)
{
    const bench_options_t *options = overlap->session->options;
    int64_t shard_bytes =
        tess_bucket_plan_shard_count(overlap->plan) * tess_dtype_bytes(options->dtype);
    tess_status_t status =
        bench_route_allocate(overlap->route, BENCH_MEMORY_REGISTERED, shard_bytes, &overlap->shard);
    if (status >= 0) status = tess_stream_fill(overlap->compute, overlap->shard, 0, shard_bytes);
    if (status >= 0) status = tess_stream_synchronize(overlap->compute, -1);
    for (int f = 0; f < 2 && overlap->raw.raw && status >= 0; f++) {
        void *memory = NULL;
        status = bench_route_allocate(&overlap->raw, BENCH_MEMORY_USER, overlap->bytes, &memory);
        overlap->flat[f] = memory;
    }
    return status;
}

tess_status_t overlap_case_open(overlap_t *overlap)
{
    tess_status_t status = create_plan(overlap);
    if (status < 0) return status;
    status = bench_agree(overlap->session, open_memory(overlap));
    if (status < 0) return status;
    return bench_agree(overlap->session, open_buckets(overlap));
}

void overlap_case_close(overlap_t *overlap)
{
    tess_gatherer_destroy(overlap->gatherer);
    tess_reducer_destroy(overlap->reducer);
    if (overlap->shard) bench_route_free(overlap->route, BENCH_MEMORY_REGISTERED, overlap->shard);
    for (int f = 0; f < 2; f++) {
        if (overlap->flat[f]) bench_route_free(&overlap->raw, BENCH_MEMORY_USER, overlap->flat[f]);
        overlap->flat[f] = NULL;
    }
    tess_bucket_plan_destroy(overlap->plan);
    overlap->gatherer = NULL;
    overlap->reducer = NULL;
    overlap->shard = NULL;
    overlap->plan = NULL;
}

static tess_status_t queue_gathers(overlap_t *overlap)
{
    int64_t count = tess_bucket_plan_bucket_count(overlap->plan);
    tess_status_t status = tess_gatherer_invalidate(overlap->gatherer);
    for (int64_t b = 0; b < RING_BUFFERS && b < count && status == TESS_OK; b++)
        status = tess_gatherer_prefetch(overlap->gatherer, b, NULL, NULL);
    for (int64_t b = 0; b < count && status == TESS_OK; b++) {
        void *buffer;
        status = tess_gatherer_acquire(overlap->gatherer, b, overlap->consumer, &buffer);
        if (status == TESS_OK)
            status = tess_gatherer_release(overlap->gatherer, b, overlap->consumer);
        if (status == TESS_OK && b + RING_BUFFERS < count)
            status = tess_gatherer_prefetch(overlap->gatherer, b + RING_BUFFERS, NULL, NULL);
    }
    return status;
}

static tess_status_t queue_reductions(overlap_t *overlap)
{
    int64_t count = tess_bucket_plan_bucket_count(overlap->plan);
    tess_status_t status = TESS_OK;
    for (int64_t b = 0; b < count && status == TESS_OK; b++) {
        void *memory;
        status = tess_reducer_acquire(overlap->reducer, b, overlap->producer, &memory);
        if (status == TESS_OK) status = tess_reducer_ready(overlap->reducer, b, overlap->producer);
        if (status == TESS_OK)
            status = tess_reducer_wait(overlap->reducer, b, overlap->consumer, &memory);
        if (status == TESS_OK)
            status = tess_reducer_release(overlap->reducer, b, overlap->consumer);
    }
    return status == TESS_OK ? tess_reducer_finish(overlap->reducer) : status;
}

static tess_status_t queue_raw(overlap_t *overlap)
{
    const bench_options_t *options = overlap->session->options;
    int64_t count = tess_bucket_plan_bucket_count(overlap->plan);
    int64_t element_bytes = tess_dtype_bytes(options->dtype);
    tess_status_t status = TESS_OK;
    for (int64_t b = 0; b < count && status >= 0; b++) {
        tess_bucket_t bucket = tess_bucket_plan_bucket(overlap->plan, b);
        char *flat = overlap->flat[b % 2];
        char *slice = (char *)overlap->shard + bucket.slice_offset * element_bytes;
        int gathers = overlap->collective == BENCH_ALL_GATHER;
        tess_collective_t arguments = {
            .send = gathers ? slice : flat,
            .recv =
                gathers ? flat : flat + overlap->session->rank * bucket.slice_count * element_bytes,
            .count = bucket.slice_count,
            .dtype = options->dtype,
            .reduction = options->reduction};
        status =
            bench_route_queue(&overlap->raw, overlap->collective, &arguments, overlap->raw_stream);
    }
    return status;
}

tess_status_t overlap_case_queue(overlap_t *overlap, overlap_mover_t mover)
{
    tess_status_t status;
    if (mover == OVERLAP_RAW) status = queue_raw(overlap);
    else if (overlap->collective == BENCH_ALL_GATHER) status = queue_gathers(overlap);
    else status = queue_reductions(overlap);
    return status == TESS_NOT_READY
               ? tessi_fail(TESS_ERR_STATE, "a buffer that was released is not free")
               : status;
}

tess_status_t overlap_case_finish(overlap_t *overlap, overlap_mover_t mover)
{
    int64_t count = tess_bucket_plan_bucket_count(overlap->plan);
    return mover == OVERLAP_RAW ? bench_route_finish(&overlap->raw, overlap->raw_stream, count)
                                : bench_route_finish(overlap->route, overlap->consumer, count);
}
