/* SPDX-License-Identifier: Apache-2.0 */
/* One bucket size's turn: its plan, its ring, and timed passes over the sample.
 *
 * A pass is what a trainer does: gathering, the next buckets are on their way while compute uses
 * the present one; reducing, a bucket leaves as soon as its last gradient is there.
 */
#include "core/internal.h"
#include "tune.h"

/* --- plans ----------------------------------------------------------------------------------- */

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

/* The same tensors in the same buckets. */
static int is_same_layout(const tess_bucket_plan_t *a, const tess_bucket_plan_t *b)
{
    int64_t count = tess_bucket_plan_bucket_count(a);
    if (count != tess_bucket_plan_bucket_count(b)) return 0;
    for (int64_t i = 0; i < count; i++) {
        tess_bucket_t x = tess_bucket_plan_bucket(a, i), y = tess_bucket_plan_bucket(b, i);
        if (x.first_tensor != y.first_tensor || x.padded_count != y.padded_count) return 0;
    }
    return 1;
}

/* `previous`: the plan of the nearest smaller row that counts, replaced by this row's. */
static tess_status_t describe_row(tune_t *tune, tune_row_t *row, tess_bucket_plan_t **previous)
{
    tess_bucket_plan_t *plan;
    tess_status_t status = create_plan(tune, row, &plan);
    if (status < 0) return status;
    int64_t element_bytes = tess_dtype_bytes(tune->session->options->dtype);
    int64_t shard_bytes = tess_bucket_plan_shard_count(plan) * element_bytes;
    row->bucket_count = tess_bucket_plan_bucket_count(plan);
    row->largest_bytes = tess_bucket_plan_largest_count(plan) * element_bytes;
    row->too_small = row->largest_bytes > row->bucket_bytes;
    row->same_as_previous = !row->too_small && *previous && is_same_layout(*previous, plan);
    if (shard_bytes > tune->shard_bytes) tune->shard_bytes = shard_bytes;
    if (row->too_small) {
        tess_bucket_plan_destroy(plan);
        return TESS_OK;
    }
    tess_bucket_plan_destroy(*previous);
    *previous = plan;
    return TESS_OK;
}

tess_status_t tune_describe_rows(tune_t *tune)
{
    tess_bucket_plan_t *previous = NULL;
    tess_status_t status = TESS_OK;
    for (int r = 0; r < tune->row_count && status >= 0; r++)
        status = describe_row(tune, &tune->rows[r], &previous);
    const tune_row_t *last = &tune->rows[tune->row_count - 1];
    if (status >= 0 && !previous)
        status = tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                            "no bucket size up to %lld bytes holds the model's tensors of up to "
                            "%lld bytes; raise -e, or lower --sample-bytes",
                            (long long)last->bucket_bytes, (long long)last->largest_bytes);
    tess_bucket_plan_destroy(previous);
    return status;
}

/* --- opening --------------------------------------------------------------------------------- */

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

tess_status_t tune_stage_open(tune_t *tune, tune_row_t *row, bench_ring_t *stage)
{
    *stage = (bench_ring_t){.session = tune->session,
                            .route = tune->route,
                            .raw = &tune->raw,
                            .collective = tune->collective,
                            .depth = tune->session->options->depth,
                            .shard = tune->shard,
                            .compute = tune->compute,
                            .consumer = tune->consumer,
                            .raw_stream = tune->raw_stream};
    tess_status_t status = create_plan(tune, row, &stage->plan);
    if (status < 0) return status;
    status = agree_on_memory(tune, bench_ring_open(stage), row);
    row->ring_bytes = bench_ring_bytes(stage);
    if (status >= 0 && !row->too_large)
        status = agree_on_memory(tune, bench_ring_open_flat(stage), row);
    if (status >= 0 && row->too_large) bench_ring_close(stage);
    return status;
}

/* --- passes ---------------------------------------------------------------------------------- */

/* Queues the products that become possible when `params` parameters have been seen. */
static tess_status_t queue_products(tune_t *tune, int64_t params)
{
    for (; (tune->queued + 1) * tune->gemm_params <= params; tune->queued++)
        for (int64_t r = 0; r < tune->gemm_repeats; r++) {
            tess_status_t status = gemm_queue(tune->gemm, tune->compute);
            if (status < 0) return status;
        }
    return TESS_OK;
}

/* Parameters in the tensors before number `tensor`. */
static int64_t params_before(const tune_t *tune, int64_t tensor)
{
    return tensor == 0 ? 0 : tune->model.tensor_ends[tensor - 1];
}

/* Forward has seen all up to the end of the bucket; backward goes from the last parameter to the
 * first. */
static tess_status_t queue_compute(void *context, const tess_bucket_t *bucket)
{
    tune_t *tune = context;
    int64_t seen = params_before(tune, bucket->first_tensor + bucket->tensor_count);
    if (tune->collective == BENCH_REDUCE_SCATTER)
        seen = tune->model.sample_params - params_before(tune, bucket->first_tensor);
    return queue_products(tune, seen);
}

tess_status_t tune_pass_buckets(tune_t *tune, bench_ring_t *stage, int with_compute,
                                double *seconds)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "pass_buckets", tess_bucket_plan_largest_count(stage->plan),
                      with_compute);
    int64_t start_ns;
    tune->queued = 0;
    tess_status_t status = bench_meet(tune->route, tune->compute, &start_ns);
    if (status >= 0) status = bench_ring_queue(stage, with_compute ? queue_compute : NULL, tune);
    if (status >= 0) status = bench_ring_finish(stage);
    *seconds = bench_seconds_since(start_ns);
    return status;
}

tess_status_t tune_pass_compute(tune_t *tune, double *seconds)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "pass_compute", -1, -1);
    int64_t start_ns;
    tune->queued = 0;
    tess_status_t status = bench_meet(tune->route, tune->compute, &start_ns);
    if (status >= 0) status = queue_products(tune, tune->model.sample_params);
    if (status >= 0) status = bench_route_finish(tune->route, tune->compute, tune->queued);
    *seconds = bench_seconds_since(start_ns);
    return status;
}

tess_status_t tune_pass_raw(tune_t *tune, bench_ring_t *stage, bench_place_t place, double *seconds)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "pass_raw_nccl",
                      tess_bucket_plan_largest_count(stage->plan), place);
    int64_t start_ns;
    tess_status_t status = bench_meet(tune->route, tune->compute, &start_ns);
    if (status >= 0) status = bench_ring_queue_raw(stage, place);
    if (status >= 0) status = bench_ring_finish_raw(stage);
    *seconds = bench_seconds_since(start_ns);
    return status;
}
