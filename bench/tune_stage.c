/* SPDX-License-Identifier: Apache-2.0 */
/* One bucket size's turn: its plan, its gatherer or reducer, and timed passes over the sample.
 *
 * A pass is what a trainer does: gathering, the next buckets are on their way while compute uses
 * the present one; reducing, a bucket leaves as soon as its last gradient is there. Nothing is
 * allocated within a pass.
 */
#include "core/internal.h"
#include "tune.h"

/* --- opening --------------------------------------------------------------------------------- */

static tess_status_t create_plan(const tune_t *tune, const tune_row_t *row,
                                 tess_bucket_plan_t **plan)
{
    tess_bucket_plan_config_t config = {.tensor_counts = tune->model.tensor_counts,
                                        .tensor_count = tune->model.tensor_count,
                                        .bucket_bytes = row->bucket_bytes,
                                        .dtype = tune->session->options->dtype,
                                        .world_size = tune->session->size};
    return tess_bucket_plan_create(&config, plan);
}

tess_status_t tune_describe_row(tune_t *tune, int index)
{
    tune_row_t *row = &tune->rows[index];
    tess_bucket_plan_t *plan;
    tess_status_t status = create_plan(tune, row, &plan);
    if (status < 0) return status;
    int64_t element_bytes = tess_dtype_bytes(tune->session->options->dtype);
    int64_t shard_bytes = tess_bucket_plan_shard_count(plan) * element_bytes;
    row->bucket_count = tess_bucket_plan_bucket_count(plan);
    row->largest_bytes = tess_bucket_plan_largest_count(plan) * element_bytes;
    row->plan_hash = tess_bucket_plan_hash(plan);
    row->same_as_previous = index > 0 && tune->rows[index - 1].bucket_count == row->bucket_count &&
                            tune->rows[index - 1].largest_bytes == row->largest_bytes;
    if (shard_bytes > tune->shard_bytes) tune->shard_bytes = shard_bytes;
    tess_bucket_plan_destroy(plan);
    return TESS_OK;
}

static tess_status_t open_ring(tune_t *tune, tune_row_t *row, tune_stage_t *stage)
{
    int depth = (int)tune->session->options->depth;
    tess_status_t status;
    if (tune->collective == BENCH_ALL_GATHER) {
        tess_gatherer_config_t config = {.comm = tune->route->comm,
                                         .plan = stage->plan,
                                         .shard = tune->shard,
                                         .buffer_count = depth};
        status = tess_gatherer_create(&config, &stage->gatherer);
        if (status == TESS_OK) row->ring_bytes = tess_gatherer_bytes(stage->gatherer);
    } else {
        tess_reducer_config_t config = {.comm = tune->route->comm,
                                        .plan = stage->plan,
                                        .reduction = tune->session->options->reduction,
                                        .order = TESS_REDUCER_REVERSED,
                                        .buffer_count = depth};
        status = tess_reducer_create(&config, &stage->reducer);
        if (status == TESS_OK) row->ring_bytes = tess_reducer_bytes(stage->reducer);
    }
    return status;
}

static tess_status_t open_flat(tune_t *tune, const tune_row_t *row, tune_stage_t *stage)
{
    for (int f = 0; f < 2 && tune->raw.raw; f++) {
        void *memory = NULL;
        tess_status_t status =
            bench_route_allocate(&tune->raw, BENCH_MEMORY_USER, row->largest_bytes, &memory);
        if (status < 0) return status;
        stage->flat[f] = memory;
    }
    return TESS_OK;
}

/* Memory that one rank lacks makes the row too large on all of them; other failures stay. */
static tess_status_t agree_on_memory(tune_t *tune, tess_status_t status, tune_row_t *row)
{
    int64_t lacking = status == TESS_ERR_OUT_OF_MEMORY ? 1 : 0, lacking_anywhere = lacking;
    tess_status_t exchanged = bench_sum(tune->session, &lacking_anywhere);
    if (exchanged < 0) return status < 0 ? status : exchanged;
    if (lacking_anywhere == 0) return bench_agree(tune->session, status);
    row->too_large = 1;
    char text[32];
    bench_print(tune->session, "# buckets of %s do not fit: %s\n",
                bench_bytes_text(row->bucket_bytes, text, sizeof text),
                lacking ? tess_last_error() : "another rank has too little memory");
    return TESS_OK;
}

tess_status_t tune_stage_open(tune_t *tune, tune_row_t *row, tune_stage_t *stage)
{
    *stage = (tune_stage_t){0};
    tess_status_t status = create_plan(tune, row, &stage->plan);
    if (status < 0) return status;
    status = agree_on_memory(tune, open_ring(tune, row, stage), row);
    if (status >= 0 && !row->too_large)
        status = agree_on_memory(tune, open_flat(tune, row, stage), row);
    if (status >= 0 && row->too_large) tune_stage_close(tune, stage);
    return status;
}

void tune_stage_close(tune_t *tune, tune_stage_t *stage)
{
    tess_gatherer_destroy(stage->gatherer);
    tess_reducer_destroy(stage->reducer);
    for (int f = 0; f < 2 && tune->raw.raw; f++)
        bench_route_free(&tune->raw, BENCH_MEMORY_USER, stage->flat[f]);
    tess_bucket_plan_destroy(stage->plan);
    *stage = (tune_stage_t){0};
}

/* --- passes ---------------------------------------------------------------------------------- */

/* Parameters that lie before the end of the bucket. */
static int64_t params_until(const tune_t *tune, const tess_bucket_t *bucket)
{
    int64_t last = bucket->first_tensor + bucket->tensor_count - 1;
    return last < 0 ? 0 : tune->model.tensor_ends[last];
}

static int64_t params_before(const tune_t *tune, const tess_bucket_t *bucket)
{
    return bucket->first_tensor == 0 ? 0 : tune->model.tensor_ends[bucket->first_tensor - 1];
}

/* Queues the products that become possible when `params` parameters have been seen, of which
 * `*queued` groups were queued already. */
static tess_status_t queue_products(tune_t *tune, int64_t params, int64_t *queued)
{
    for (; (*queued + 1) * tune->gemm_params <= params; ++*queued)
        for (int64_t r = 0; r < tune->gemm_repeats; r++) {
            tess_status_t status = gemm_queue(tune->gemm, tune->compute);
            if (status < 0) return status;
        }
    return TESS_OK;
}

static tess_status_t gather_buckets(tune_t *tune, tune_stage_t *stage, int with_compute)
{
    int64_t count = tess_bucket_plan_bucket_count(stage->plan), queued = 0;
    int64_t depth = tune->session->options->depth;
    tess_status_t status = tess_gatherer_invalidate(stage->gatherer);
    for (int64_t b = 0; b < depth && b < count && status == TESS_OK; b++)
        status = tess_gatherer_prefetch(stage->gatherer, b, NULL, NULL);
    for (int64_t b = 0; b < count && status == TESS_OK; b++) {
        void *buffer;
        tess_bucket_t bucket = tess_bucket_plan_bucket(stage->plan, b);
        status = tess_gatherer_acquire(stage->gatherer, b, tune->compute, &buffer);
        if (status == TESS_OK && with_compute)
            status = queue_products(tune, params_until(tune, &bucket), &queued);
        if (status == TESS_OK) status = tess_gatherer_release(stage->gatherer, b, tune->compute);
        if (status == TESS_OK && b + depth < count)
            status = tess_gatherer_prefetch(stage->gatherer, b + depth, NULL, NULL);
    }
    return status == TESS_NOT_READY
               ? tessi_fail(TESS_ERR_STATE, "a gather buffer that was released is not free")
               : status;
}

static tess_status_t reduce_bucket(tune_t *tune, tune_stage_t *stage, int64_t b, int with_compute,
                                   int64_t *queued)
{
    void *memory;
    tess_bucket_t bucket = tess_bucket_plan_bucket(stage->plan, b);
    tess_status_t status = tess_reducer_acquire(stage->reducer, b, tune->compute, &memory);
    /* Backward goes from the last parameter to the first. */
    int64_t seen = tune->model.sample_params - params_before(tune, &bucket);
    if (status == TESS_OK && with_compute) status = queue_products(tune, seen, queued);
    for (int64_t t = bucket.tensor_count - 1; t >= 0 && status == TESS_OK; t--)
        status = tess_reducer_ready(stage->reducer, bucket.first_tensor + t, tune->compute);
    if (status == TESS_OK) status = tess_reducer_wait(stage->reducer, b, tune->consumer, &memory);
    if (status == TESS_OK) status = tess_reducer_release(stage->reducer, b, tune->consumer);
    return status;
}

static tess_status_t reduce_buckets(tune_t *tune, tune_stage_t *stage, int with_compute)
{
    int64_t count = tess_bucket_plan_bucket_count(stage->plan), queued = 0;
    tess_status_t status = TESS_OK;
    for (int64_t b = count - 1; b >= 0 && status == TESS_OK; b--)
        status = reduce_bucket(tune, stage, b, with_compute, &queued);
    if (status == TESS_NOT_READY)
        return tessi_fail(TESS_ERR_STATE, "a reduce-scatter did not start with its last gradient");
    return status == TESS_OK ? tess_reducer_finish(stage->reducer) : status;
}

static tess_status_t start_pass(tune_t *tune, int64_t *start_ns)
{
    tess_status_t status = bench_route_barrier(tune->route, tune->compute);
    if (status >= 0) status = bench_route_finish(tune->route, tune->compute, 1);
    *start_ns = tessi_now_ns();
    return status;
}

static double seconds_since(int64_t start_ns)
{
    return (double)(tessi_now_ns() - start_ns) * 1e-9;
}

tess_status_t tune_pass_buckets(tune_t *tune, tune_stage_t *stage, int with_compute,
                                double *seconds)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "pass_buckets", tess_bucket_plan_largest_count(stage->plan),
                      with_compute);
    int64_t start_ns, count = tess_bucket_plan_bucket_count(stage->plan);
    tess_status_t status = start_pass(tune, &start_ns);
    if (status < 0) return status;
    status = tune->collective == BENCH_ALL_GATHER ? gather_buckets(tune, stage, with_compute)
                                                  : reduce_buckets(tune, stage, with_compute);
    if (status < 0) return status;
    status = bench_route_finish(tune->route, tune->compute, count);
    if (status >= 0) status = bench_route_finish(tune->route, tune->consumer, count);
    *seconds = seconds_since(start_ns);
    return status;
}

tess_status_t tune_pass_compute(tune_t *tune, double *seconds)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "pass_compute", -1, -1);
    int64_t start_ns, queued = 0;
    tess_status_t status = start_pass(tune, &start_ns);
    if (status >= 0) status = queue_products(tune, tune->model.sample_params, &queued);
    if (status >= 0) status = bench_route_finish(tune->route, tune->compute, queued);
    *seconds = seconds_since(start_ns);
    return status;
}

/* Two flat buffers in turn keep raw NCCL's use of memory and caches like that of the ring. */
static tess_status_t queue_raw(tune_t *tune, tune_stage_t *stage, int64_t b)
{
    const bench_options_t *options = tune->session->options;
    tess_bucket_t bucket = tess_bucket_plan_bucket(stage->plan, b);
    int64_t element_bytes = tess_dtype_bytes(options->dtype);
    char *flat = stage->flat[b % 2];
    char *own = flat + tune->session->rank * bucket.slice_count * element_bytes;
    int gathers = tune->collective == BENCH_ALL_GATHER;
    tess_collective_t arguments = {
        .send = gathers ? (char *)tune->shard + bucket.slice_offset * element_bytes : flat,
        .recv = gathers ? flat : own,
        .count = bucket.slice_count,
        .dtype = options->dtype,
        .reduction = options->reduction};
    return bench_route_queue(&tune->raw, tune->collective, &arguments, tune->raw_stream);
}

tess_status_t tune_pass_raw(tune_t *tune, tune_stage_t *stage, double *seconds)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "pass_raw_nccl",
                      tess_bucket_plan_largest_count(stage->plan), -1);
    int64_t start_ns, count = tess_bucket_plan_bucket_count(stage->plan);
    tess_status_t status = start_pass(tune, &start_ns);
    for (int64_t b = 0; b < count && status >= 0; b++) status = queue_raw(tune, stage, b);
    if (status < 0) return status;
    status = bench_route_finish(&tune->raw, tune->raw_stream, count);
    *seconds = seconds_since(start_ns);
    return status;
}
