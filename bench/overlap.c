/* SPDX-License-Identifier: Apache-2.0 */
/* The course of bench_overlap. Within a repetition compute alone, communication alone and both are
 * timed one after the other for every mover, so that all figures come from the same conditions.
 */
#include "overlap.h"

#include <math.h>

#include "bench_file.h"
#include "core/internal.h"

/* --- set-up ---------------------------------------------------------------------------------- */

static tess_status_t open_streams(overlap_t *overlap)
{
    tess_device_t *device = overlap->session->device;
    tess_status_t status = tess_stream_create(device, TESS_PRIORITY_NORMAL, &overlap->compute);
    if (status >= 0) status = tess_stream_create(device, TESS_PRIORITY_NORMAL, &overlap->producer);
    if (status >= 0) status = tess_stream_create(device, TESS_PRIORITY_NORMAL, &overlap->consumer);
    if (status >= 0) status = tess_stream_create(device, TESS_PRIORITY_HIGH, &overlap->raw_stream);
    return status;
}

static tess_status_t open_compute(overlap_t *overlap)
{
    bench_session_t *session = overlap->session;
    tess_status_t status = open_streams(overlap);
    if (status < 0) return status;
    return gemm_create(session->device, session->options->gemm,
                       tess_world_local_size(session->world), &overlap->gemm);
}

static tess_status_t open_raw(overlap_t *overlap)
{
    bench_session_t *session = overlap->session;
    overlap->mover_count = 1;
    if (session->kind != TESS_DEVICE_CUDA || raw_nccl_missing()) return TESS_OK;
    tess_status_t status =
        bench_route_open(session->world, session->device, "raw-nccl", BENCH_TRANSPORTS_MAX,
                         session->timeout_ms, &overlap->raw);
    if (status >= 0) overlap->mover_count = OVERLAP_MOVERS;
    return status;
}

static void close_overlap(overlap_t *overlap)
{
    overlap_case_close(overlap);
    tess_stream_destroy(overlap->raw_stream);
    tess_stream_destroy(overlap->consumer);
    tess_stream_destroy(overlap->producer);
    tess_stream_destroy(overlap->compute);
    gemm_destroy(overlap->gemm);
    bench_route_close(&overlap->raw);
    tessi_free(overlap->rows);
    tessi_free(overlap->sizes);
}

/* --- timing ---------------------------------------------------------------------------------- */

enum { COMPUTE, COMMUNICATION, BOTH, KINDS };

static tess_status_t time_kind(overlap_t *overlap, overlap_mover_t mover, int kind, double *seconds)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "overlap_pass", overlap->bytes, kind);
    int64_t start_ns, products = overlap->session->options->gemm_count;
    tess_status_t status = bench_meet(overlap->route, overlap->compute, &start_ns);
    if (status >= 0 && kind != COMPUTE) status = overlap_case_queue(overlap, mover);
    for (int64_t g = 0; g < products && kind != COMMUNICATION && status >= 0; g++)
        status = gemm_queue(overlap->gemm, overlap->compute);
    if (status >= 0 && kind != COMPUTE) status = overlap_case_finish(overlap, mover);
    if (status >= 0) status = bench_route_finish(overlap->route, overlap->compute, products);
    *seconds = bench_seconds_since(start_ns);
    return status;
}

/* times[(mover, kind), repetition], on this rank; negative repetitions warm up. */
static tess_status_t time_case(overlap_t *overlap, double *times)
{
    const bench_options_t *options = overlap->session->options;
    char text[32];
    for (int64_t r = -options->warmups; r < options->repetitions; r++) {
        bench_progress(overlap->session, "%s, repetition %lld of %lld",
                       bench_bytes_text(overlap->bytes, text, sizeof text),
                       (long long)(r < 0 ? 1 : r + 1), (long long)options->repetitions);
        for (int i = 0; i < overlap->mover_count * KINDS; i++) {
            double seconds;
            tess_status_t status =
                time_kind(overlap, (overlap_mover_t)(i / KINDS), i % KINDS, &seconds);
            if (status < 0) return status;
            if (r >= 0) times[i * options->repetitions + r] = seconds;
        }
    }
    return TESS_OK;
}

static overlap_row_t summary(const overlap_t *overlap, overlap_mover_t mover, double *times)
{
    int64_t repetitions = overlap->session->options->repetitions;
    double median[KINDS];
    for (int k = 0; k < KINDS; k++)
        median[k] = bench_median(times + ((int)mover * KINDS + k) * repetitions, repetitions);
    int64_t moved = overlap->bytes * overlap->session->options->collective_count;
    return (overlap_row_t){
        .collective = overlap->collective,
        .mover = mover,
        .bytes = overlap->bytes,
        .compute_s = median[COMPUTE],
        .communication_s = median[COMMUNICATION],
        .both_s = median[BOTH],
        .efficiency = fmax(median[COMPUTE], median[COMMUNICATION]) / median[BOTH],
        .exposed_s = median[BOTH] - median[COMPUTE],
        .busbw = bench_busbw(bench_algbw(moved, median[COMMUNICATION]), overlap->session->size)};
}

static tess_status_t run_case(overlap_t *overlap)
{
    bench_session_t *session = overlap->session;
    int64_t count = session->options->repetitions * overlap->mover_count * KINDS;
    double *times = tessi_calloc((size_t)count, sizeof *times);
    if (!times) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = overlap_case_open(overlap);
    if (status >= 0) status = time_case(overlap, times);
    if (status >= 0) status = bench_largest(session, times, count);
    for (int m = 0; m < overlap->mover_count && status >= 0; m++) {
        overlap_row_t *row = &overlap->rows[overlap->row_count++];
        *row = summary(overlap, (overlap_mover_t)m, times);
        overlap_report_row(overlap, row);
    }
    bench_session_fail(session, status);
    if (status < 0) bench_route_abort(&overlap->raw);
    overlap_case_close(overlap);
    tessi_free(times);
    return status;
}

/* --- sizes ----------------------------------------------------------------------------------- */

static tess_status_t prepare_rows(overlap_t *overlap)
{
    tess_status_t status =
        bench_list_sizes(overlap->session, &overlap->sizes, &overlap->size_count);
    if (status < 0) return status;
    size_t capacity = (size_t)overlap->size_count * 2 * OVERLAP_MOVERS; /* two collectives */
    overlap->rows = tessi_calloc(capacity, sizeof *overlap->rows);
    return overlap->rows ? TESS_OK : TESS_ERR_OUT_OF_MEMORY;
}

static tess_status_t run_sizes(overlap_t *overlap)
{
    tess_status_t status = TESS_OK;
    for (int s = 0; s < overlap->size_count && status >= 0; s++)
        for (int c = BENCH_ALL_GATHER; c <= BENCH_REDUCE_SCATTER && status >= 0; c <<= 1) {
            overlap->bytes = overlap->sizes[s];
            overlap->collective = (bench_collective_t)c;
            if (overlap->session->options->collectives & overlap->collective)
                status = run_case(overlap);
        }
    return status;
}

tess_status_t overlap_run(bench_session_t *session)
{
    overlap_t overlap = {.session = session, .route = &session->routes[0]};
    tess_status_t status;
    TESS_TRY(bench_files_check(session), close);
    bench_print_header(session);
    TESS_TRY(prepare_rows(&overlap), close);
    TESS_TRY(bench_agree(session, open_compute(&overlap)), close);
    TESS_TRY(bench_agree(session, open_raw(&overlap)), close);
    overlap_report_start(&overlap);
    TESS_TRY(run_sizes(&overlap), close);
    if (session->rank == 0) status = overlap_write(&overlap);
    status = bench_agree(session, status);
close:
    bench_session_fail(session, status);
    if (status < 0) bench_route_abort(&overlap.raw);
    close_overlap(&overlap);
    return status;
}
