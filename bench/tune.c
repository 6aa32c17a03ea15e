/* SPDX-License-Identifier: Apache-2.0 */
/* The course of a tuning run: rounds over all bucket sizes until one leaves the recommendation as
 * it was, or the time is used up. Rank 0's clock decides; every rank follows.
 */
#include "tune.h"

#include <math.h>

#include "bench_file.h"
#include "core/internal.h"

#define ROUNDS_MIN 3 /* so that a median leaves out the odd one */

/* --- set-up ---------------------------------------------------------------------------------- */

static int64_t sample_limit(const bench_session_t *session)
{
    int64_t limit = session->options->sample_bytes;
    tess_device_properties_t properties;
    if (tess_device_properties(session->device, &properties) != TESS_OK) return limit;
    int64_t sharing = session->kind == TESS_DEVICE_HOST ? session->size : 1;
    int64_t fits = properties.memory_free_bytes / 4 / sharing;
    return fits < limit ? fits : limit;
}

/* The smallest limit of all ranks, so that they list the same tensors. */
static tess_status_t open_model(tune_t *tune)
{
    bench_session_t *session = tune->session;
    double negative = -(double)sample_limit(session);
    tess_status_t status = bench_largest(session, &negative, 1);
    if (status < 0) return status;
    status = tune_model_create(session->options, (int64_t)-negative, &tune->model);
    if (status < 0) return status;
    status = tune_list_rows(tune);
    return status < 0 ? status : tune_describe_rows(tune);
}

/* The product for N*K parameters. --tokens N is such a product with a square of the model's width,
 * made narrower for small samples so that there are several. */
static tess_status_t open_gemm(tune_t *tune)
{
    const bench_options_t *options = tune->session->options;
    bench_gemm_t shape = options->gemm;
    if (shape.m == BENCH_UNSET && options->tokens == 0) return TESS_OK;
    if (shape.m == BENCH_UNSET) {
        int64_t side = (int64_t)sqrt((double)tune->model.sample_params / 16);
        if (side > tune->model.hidden) side = tune->model.hidden;
        if (side > 64) side = side / 64 * 64;
        if (side < 1) side = 1;
        shape = (bench_gemm_t){options->tokens, side, side};
    }
    tune->gemm_params = shape.n * shape.k;
    tune->gemm_repeats = tune->collective == BENCH_ALL_GATHER ? 1 : 2;
    if (tune->gemm_params > tune->model.sample_params)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "--gemm stands for %lld parameters (N*K), more than the %lld measured",
                          (long long)tune->gemm_params, (long long)tune->model.sample_params);
    return gemm_create(tune->session->device, shape, tess_world_local_size(tune->session->world),
                       &tune->gemm);
}

static tess_status_t open_memory(tune_t *tune)
{
    bench_session_t *session = tune->session;
    tess_status_t status =
        bench_route_allocate(tune->route, BENCH_MEMORY_REGISTERED, tune->shard_bytes, &tune->shard);
    if (status >= 0)
        status = tess_stream_create(session->device, TESS_PRIORITY_NORMAL, &tune->compute);
    if (status >= 0)
        status = tess_stream_create(session->device, TESS_PRIORITY_NORMAL, &tune->consumer);
    if (status >= 0) status = tess_stream_fill(tune->compute, tune->shard, 0, tune->shard_bytes);
    if (status >= 0) status = tess_stream_synchronize(tune->compute, -1);
    return status;
}

static tess_status_t open_raw(tune_t *tune)
{
    bench_session_t *session = tune->session;
    if (!session->options->raw_nccl) return TESS_OK;
    tess_status_t status = bench_route_open(session->world, session->device, "raw-nccl",
                                            BENCH_TRANSPORTS_MAX, session->timeout_ms, &tune->raw);
    if (status < 0) return status;
    return tess_stream_create(session->device, TESS_PRIORITY_HIGH, &tune->raw_stream);
}

static tess_status_t open_tune(tune_t *tune)
{
    bench_session_t *session = tune->session;
    tess_status_t status = bench_agree(session, open_model(tune));
    if (status >= 0) status = bench_agree(session, open_gemm(tune));
    if (status >= 0) status = bench_agree(session, open_memory(tune));
    if (status >= 0) status = bench_agree(session, open_raw(tune));
    return status;
}

static void close_tune(tune_t *tune)
{
    tess_stream_destroy(tune->raw_stream);
    tess_stream_destroy(tune->consumer);
    tess_stream_destroy(tune->compute);
    bench_route_close(&tune->raw);
    gemm_destroy(tune->gemm);
    if (tune->shard) bench_route_free(tune->route, BENCH_MEMORY_REGISTERED, tune->shard);
    tune_model_destroy(&tune->model);
    tessi_free(tune);
}

/* --- measuring ------------------------------------------------------------------------------- */

static void add_sample(const tune_t *tune, tune_samples_t *samples, double seconds)
{
    double sorted[TUNE_SAMPLES_MAX];
    samples->seconds[samples->count++] = seconds;
    for (int i = 0; i < samples->count; i++) sorted[i] = samples->seconds[i];
    samples->median = bench_median(sorted, samples->count) * tune->model.scale;
    samples->min = sorted[0] * tune->model.scale;
}

/* The kinds of pass that one row's turn consists of. */
enum { COMMUNICATION, RAW, RAW_OUT, COMPUTE, BOTH, KINDS };

/* Gathering, raw NCCL has two places for what it sends. */
static int has_raw_out(const tune_t *tune)
{
    return tune->raw.raw && tune->collective == BENCH_ALL_GATHER;
}

static tess_status_t visit_once(tune_t *tune, bench_ring_t *stage, double *seconds)
{
    tess_status_t status = tune_pass_buckets(tune, stage, 0, &seconds[COMMUNICATION]);
    if (status >= 0 && tune->raw.raw)
        status = tune_pass_raw(tune, stage, BENCH_IN_PLACE, &seconds[RAW]);
    if (status >= 0 && has_raw_out(tune))
        status = tune_pass_raw(tune, stage, BENCH_OUT_OF_PLACE, &seconds[RAW_OUT]);
    if (status >= 0 && tune->gemm) status = tune_pass_compute(tune, &seconds[COMPUTE]);
    if (status >= 0 && tune->gemm) status = tune_pass_buckets(tune, stage, 1, &seconds[BOTH]);
    return status;
}

static tess_status_t visit_stage(tune_t *tune, tune_row_t *row, bench_ring_t *stage)
{
    double seconds[TUNE_VISITS + 1][KINDS] = {{0}};
    int visits = tune->late ? 1 : TUNE_VISITS;
    tess_status_t status = TESS_OK;
    for (int v = 0; v <= visits && status >= 0; v++) /* the first one only warms up */
        status = visit_once(tune, stage, seconds[v]);
    if (status >= 0)
        status = bench_largest(tune->session, &seconds[0][0], (int64_t)(visits + 1) * KINDS);
    if (status < 0) return status;
    for (int v = 1; v <= visits; v++) {
        add_sample(tune, &row->communication, seconds[v][COMMUNICATION]);
        if (tune->gemm) add_sample(tune, &row->computing, seconds[v][COMPUTE]);
        if (tune->gemm) add_sample(tune, &row->both, seconds[v][BOTH]);
        if (tune->raw.raw) add_sample(tune, &row->raw, seconds[v][RAW]);
        if (has_raw_out(tune)) add_sample(tune, &row->raw_out, seconds[v][RAW_OUT]);
    }
    return TESS_OK;
}

static tess_status_t visit_row(tune_t *tune, tune_row_t *row)
{
    bench_ring_t stage;
    tess_status_t status = tune_stage_open(tune, row, &stage);
    if (status >= 0 && !row->too_large) status = visit_stage(tune, row, &stage);
    bench_session_fail(tune->session, status); /* before the memory that it uses goes */
    if (status < 0) bench_route_abort(&tune->raw);
    bench_ring_close(&stage);
    return status;
}

const tune_samples_t *tune_total(const tune_t *tune, const tune_row_t *row)
{
    return tune->gemm ? &row->both : &row->communication;
}

int tune_is_measured(const tune_row_t *row)
{
    return !row->too_small && !row->too_large && !row->same_as_previous &&
           row->communication.count > 0;
}

static double exposed_seconds(const tune_t *tune, const tune_row_t *row)
{
    double differences[TUNE_SAMPLES_MAX];
    if (row->both.count == 0) return 0;
    for (int i = 0; i < row->both.count; i++)
        differences[i] = row->both.seconds[i] - row->computing.seconds[i];
    return bench_median(differences, row->both.count) * tune->model.scale;
}

static void evaluate_compute(tune_t *tune)
{
    double medians[TUNE_ROWS_MAX];
    int count = 0;
    tune->computing_min_s = INFINITY;
    for (int r = 0; r < tune->row_count; r++) {
        const tune_row_t *row = &tune->rows[r];
        if (row->computing.count == 0) continue;
        medians[count++] = row->computing.median;
        tune->computing_min_s = fmin(tune->computing_min_s, row->computing.min);
    }
    if (count > 0) tune->computing_s = bench_median(medians, count);
}

/* The smallest bucket within the tolerance of the best; every rank computes the same. */
static void evaluate(tune_t *tune)
{
    int previous = tune->recommended;
    int64_t payload_bytes = tune->model.params * tess_dtype_bytes(tune->session->options->dtype);
    tune->best = tune->recommended = -1;
    evaluate_compute(tune);
    for (int r = 0; r < tune->row_count; r++) {
        tune_row_t *row = &tune->rows[r];
        if (!tune_is_measured(row)) continue;
        row->busbw =
            bench_busbw(bench_algbw(payload_bytes, row->communication.median), tune->session->size);
        row->exposed_s = exposed_seconds(tune, row);
        if (tune->best < 0 ||
            tune_total(tune, row)->median < tune_total(tune, &tune->rows[tune->best])->median)
            tune->best = r;
    }
    for (int r = 0; r < tune->row_count && tune->best >= 0 && tune->recommended < 0; r++)
        if (tune_is_measured(&tune->rows[r]) &&
            tune_total(tune, &tune->rows[r])->median <=
                TUNE_TOLERANCE * tune_total(tune, &tune->rows[tune->best])->median)
            tune->recommended = r;
    tune->stable = tune->round_count > 1 && previous == tune->recommended;
}

/* Rank 0's clock, known to all ranks. */
static tess_status_t read_clock(tune_t *tune)
{
    int64_t used_ns = tessi_now_ns() - tune->start_ns;
    tess_status_t status = bench_from_root(tune->session, &used_ns);
    if (status < 0) return status;
    tune->seconds_used = (double)used_ns * 1e-9;
    tune->late = tune->seconds_used > tune->session->options->budget_s;
    return TESS_OK;
}

/* The first round sees every row, in fewer passes once the budget is used; later ones end there. */
static tess_status_t run_round(tune_t *tune)
{
    char text[32];
    tess_status_t status = TESS_OK;
    for (int r = 0; r < tune->row_count && status >= 0; r++) {
        tune_row_t *row = &tune->rows[r];
        if (row->too_small || row->same_as_previous || row->too_large) continue;
        if (tune->late && tune->round_count > 0) {
            tune->cut_short = 1;
            return TESS_OK;
        }
        bench_progress(tune->session, "round %d, bucket %s (%d of %d), %.0f of at most %.0f s",
                       tune->round_count + 1,
                       bench_bytes_text(row->bucket_bytes, text, sizeof text), r + 1,
                       tune->row_count, tune->seconds_used, tune->session->options->budget_s);
        status = visit_row(tune, row);
        if (status >= 0) status = read_clock(tune);
    }
    return status;
}

static tess_status_t run_rounds(tune_t *tune)
{
    int again = 1;
    tune->start_ns = tessi_now_ns();
    while (again) {
        double before_s = tune->seconds_used;
        tess_status_t status = run_round(tune);
        if (status < 0) return status;
        if (!tune->cut_short) tune->round_count++;
        evaluate(tune);
        if (tune->recommended < 0)
            return tessi_fail(TESS_ERR_OUT_OF_MEMORY,
                              "no bucket size fits into memory; give a smaller -b");
        double next_s = 2 * tune->seconds_used - before_s; /* if another round took as long */
        int settled = tune->stable && tune->round_count >= ROUNDS_MIN;
        tune->ended_early = !settled && (tune->late || next_s > tune->session->options->budget_s);
        again = !settled && !tune->ended_early && tune->round_count < TUNE_ROUNDS_MAX;
    }
    return TESS_OK;
}

tess_status_t tune_run(bench_session_t *session)
{
    tess_status_t status = TESS_ERR_OUT_OF_MEMORY;
    tune_t *tune = tessi_calloc(1, sizeof *tune);
    if (!tune) return status;
    tune->session = session;
    tune->route = &session->routes[0];
    tune->collective = session->options->collectives;
    tune->recommended = tune->best = -1;
    TESS_TRY(bench_files_check(session), close);
    bench_print_header(session);
    TESS_TRY(open_tune(tune), close);
    tune_report_start(tune);
    TESS_TRY(run_rounds(tune), close);
    if (session->rank == 0) {
        status = tune_write(tune);
        if (status >= 0) status = tune_report_end(tune);
    }
    status = bench_agree(session, status);
close:
    bench_session_fail(session, status);
    if (status < 0) bench_route_abort(&tune->raw);
    close_tune(tune);
    return status;
}
