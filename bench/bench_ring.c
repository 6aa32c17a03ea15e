/* SPDX-License-Identifier: Apache-2.0 */
/* Nothing is allocated between open and close. Every wait on a buffer is for one that this rank
 * released before, so TESS_NOT_READY is an error here.
 */
#include "bench_ring.h"

#include "core/internal.h"

/* --- opening --------------------------------------------------------------------------------- */

tess_status_t bench_ring_open(bench_ring_t *ring)
{
    const bench_options_t *options = ring->session->options;
    if (ring->collective == BENCH_ALL_GATHER) {
        tess_gatherer_config_t config = {.comm = ring->route->comm,
                                         .plan = ring->plan,
                                         .shard = ring->shard,
                                         .buffer_count = (int)ring->depth};
        return tess_gatherer_create(&config, &ring->gatherer);
    }
    tess_reducer_config_t config = {.comm = ring->route->comm,
                                    .plan = ring->plan,
                                    .reduction = options->reduction,
                                    .order = TESS_REDUCER_REVERSED,
                                    .buffer_count = (int)ring->depth};
    return tess_reducer_create(&config, &ring->reducer);
}

tess_status_t bench_ring_open_flat(bench_ring_t *ring)
{
    int64_t bytes = tess_bucket_plan_largest_count(ring->plan) *
                    tess_dtype_bytes(ring->session->options->dtype);
    for (int f = 0; f < 2 && ring->raw->raw; f++) {
        void *memory = NULL;
        tess_status_t status = bench_route_allocate(ring->raw, BENCH_MEMORY_USER, bytes, &memory);
        if (status < 0) return status;
        ring->flat[f] = memory;
    }
    return TESS_OK;
}

void bench_ring_close(bench_ring_t *ring)
{
    tess_gatherer_destroy(ring->gatherer);
    tess_reducer_destroy(ring->reducer);
    for (int f = 0; f < 2; f++)
        if (ring->flat[f]) bench_route_free(ring->raw, BENCH_MEMORY_USER, ring->flat[f]);
    tess_bucket_plan_destroy(ring->plan);
    *ring = (bench_ring_t){0};
}

int64_t bench_ring_bytes(const bench_ring_t *ring)
{
    if (ring->gatherer) return tess_gatherer_bytes(ring->gatherer);
    return ring->reducer ? tess_reducer_bytes(ring->reducer) : 0;
}

/* --- gatherer and reducer -------------------------------------------------------------------- */

static tess_status_t gather_buckets(bench_ring_t *ring, bench_bucket_work_t work, void *context)
{
    int64_t count = tess_bucket_plan_bucket_count(ring->plan);
    tess_status_t status = tess_gatherer_invalidate(ring->gatherer);
    for (int64_t b = 0; b < ring->depth && b < count && status == TESS_OK; b++)
        status = tess_gatherer_prefetch(ring->gatherer, b, NULL, NULL);
    for (int64_t b = 0; b < count && status == TESS_OK; b++) {
        void *buffer;
        tess_bucket_t bucket = tess_bucket_plan_bucket(ring->plan, b);
        status = tess_gatherer_acquire(ring->gatherer, b, ring->compute, &buffer);
        if (status == TESS_OK && work) status = work(context, &bucket);
        if (status == TESS_OK) status = tess_gatherer_release(ring->gatherer, b, ring->compute);
        if (status == TESS_OK && b + ring->depth < count)
            status = tess_gatherer_prefetch(ring->gatherer, b + ring->depth, NULL, NULL);
    }
    return status == TESS_NOT_READY
               ? tessi_fail(TESS_ERR_STATE, "a gather buffer that was released is not free")
               : status;
}

static tess_status_t reduce_bucket(bench_ring_t *ring, int64_t b, bench_bucket_work_t work,
                                   void *context)
{
    void *memory;
    tess_bucket_t bucket = tess_bucket_plan_bucket(ring->plan, b);
    tess_status_t status = tess_reducer_acquire(ring->reducer, b, ring->compute, &memory);
    if (status == TESS_OK && work) status = work(context, &bucket);
    for (int64_t t = bucket.tensor_count - 1; t >= 0 && status == TESS_OK; t--)
        status = tess_reducer_ready(ring->reducer, bucket.first_tensor + t, ring->compute);
    if (status == TESS_OK) status = tess_reducer_wait(ring->reducer, b, ring->consumer, &memory);
    if (status == TESS_OK) status = tess_reducer_release(ring->reducer, b, ring->consumer);
    return status;
}

static tess_status_t reduce_buckets(bench_ring_t *ring, bench_bucket_work_t work, void *context)
{
    tess_status_t status = TESS_OK;
    int64_t count = tess_bucket_plan_bucket_count(ring->plan);
    for (int64_t b = count - 1; b >= 0 && status == TESS_OK; b--)
        status = reduce_bucket(ring, b, work, context);
    if (status == TESS_NOT_READY)
        return tessi_fail(TESS_ERR_STATE, "a reduce-scatter did not start with its last gradient");
    return status == TESS_OK ? tess_reducer_finish(ring->reducer) : status;
}

tess_status_t bench_ring_queue(bench_ring_t *ring, bench_bucket_work_t work, void *context)
{
    return ring->collective == BENCH_ALL_GATHER ? gather_buckets(ring, work, context)
                                                : reduce_buckets(ring, work, context);
}

tess_status_t bench_ring_finish(bench_ring_t *ring)
{
    int64_t count = tess_bucket_plan_bucket_count(ring->plan);
    tess_status_t status = bench_route_finish(ring->route, ring->compute, count);
    return status < 0 ? status : bench_route_finish(ring->route, ring->consumer, count);
}

/* --- raw NCCL -------------------------------------------------------------------------------- */

tess_status_t bench_ring_queue_raw(bench_ring_t *ring, bench_place_t place)
{
    const bench_options_t *options = ring->session->options;
    int64_t count = tess_bucket_plan_bucket_count(ring->plan);
    int64_t element_bytes = tess_dtype_bytes(options->dtype);
    tess_status_t status = TESS_OK;
    for (int64_t b = 0; b < count && status >= 0; b++) {
        tess_bucket_t bucket = tess_bucket_plan_bucket(ring->plan, b);
        char *flat = ring->flat[b % 2];
        char *own = flat + ring->session->rank * bucket.slice_count * element_bytes;
        char *slice = (char *)ring->shard + bucket.slice_offset * element_bytes;
        tess_collective_t arguments = {.count = bucket.slice_count,
                                       .dtype = options->dtype,
                                       .reduction = options->reduction,
                                       .send = flat,
                                       .recv = own};
        if (ring->collective == BENCH_ALL_GATHER) {
            arguments.send = place == BENCH_IN_PLACE ? own : slice;
            arguments.recv = flat;
        }
        status = bench_route_queue(ring->raw, ring->collective, &arguments, ring->raw_stream);
    }
    return status;
}

tess_status_t bench_ring_finish_raw(bench_ring_t *ring)
{
    return bench_route_finish(ring->raw, ring->raw_stream,
                              tess_bucket_plan_bucket_count(ring->plan));
}
