/* SPDX-License-Identifier: Apache-2.0 */
/* bench_offload: how close tiles that pass through a device come to raw copies, alone, beside
 * compute, under Adam, and from a file.
 *
 * Invariant: pinned memory is taken once, as much as the mode that needs most.
 */
#include "bench_file.h"
#include "core/internal.h"
#include "offload_bench.h"

static const struct {
    bench_offload_t what;
    tess_status_t (*run)(offload_bench_t *bench);
    int64_t (*pinned_bytes)(const bench_options_t *options);
} modes[] = {
    {BENCH_OFFLOAD_COPY, offload_copy_run, offload_copy_bytes},
    {BENCH_OFFLOAD_COMPUTE, offload_compute_run, offload_compute_bytes},
    {BENCH_OFFLOAD_ADAM, offload_adam_run, offload_adam_bytes},
    {BENCH_OFFLOAD_FILE, offload_file_run, offload_file_bytes},
};
#define MODES (int)(sizeof modes / sizeof *modes)

static tess_status_t open_arena(offload_bench_t *bench)
{
    bench_session_t *session = bench->session;
    tess_arena_config_t config = TESS_ARENA_CONFIG_DEFAULT;
    for (int m = 0; m < MODES; m++) {
        if (!(session->options->offload & modes[m].what)) continue;
        int64_t bytes = modes[m].pinned_bytes(session->options);
        if (bytes > config.bytes) config.bytes = bytes;
    }
    config.bytes += OFFLOAD_SLACK_BYTES;
    /* Only GPUs copy faster from locked memory. */
    config.allow_pageable = session->kind == TESS_DEVICE_HOST;
    return tess_arena_create(session->device, &config, &bench->arena);
}

static tess_status_t open_bench(offload_bench_t *bench)
{
    tess_device_t *device = bench->session->device;
    bench->rows = tessi_calloc(OFFLOAD_ROWS_MAX, sizeof *bench->rows);
    if (!bench->rows) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = offload_copy_prepare(bench->session->options);
    if (status >= 0) status = tess_stream_create(device, TESS_PRIORITY_HIGH, &bench->in);
    if (status >= 0) status = tess_stream_create(device, TESS_PRIORITY_HIGH, &bench->out);
    if (status >= 0) status = tess_event_create(device, TESS_EVENT_TIMING, &bench->start);
    if (status >= 0) status = tess_event_create(device, TESS_EVENT_TIMING, &bench->end);
    if (status >= 0) status = tess_event_create(device, TESS_EVENT_ORDER, &bench->fork);
    if (status >= 0) status = tess_event_create(device, TESS_EVENT_ORDER, &bench->joined);
    if (status >= 0) status = open_arena(bench);
    return status;
}

static void close_bench(offload_bench_t *bench)
{
    tess_arena_destroy(bench->arena);
    tess_event_destroy(bench->joined);
    tess_event_destroy(bench->fork);
    tess_event_destroy(bench->end);
    tess_event_destroy(bench->start);
    tess_stream_destroy(bench->out);
    tess_stream_destroy(bench->in);
    tessi_free(bench->rows);
}

static tess_status_t run(bench_session_t *session)
{
    offload_bench_t bench = {.session = session};
    tess_status_t status;
    TESS_TRY(bench_files_check(session), close);
    bench_print_header(session);
    TESS_TRY(bench_agree(session, open_bench(&bench)), close);
    offload_report_start(&bench);
    for (int m = 0; m < MODES; m++)
        if (session->options->offload & modes[m].what) TESS_TRY(modes[m].run(&bench), close);
    offload_report_end(&bench);
    if (session->rank == 0) status = offload_write(&bench);
    status = bench_agree(session, status);
close:
    bench_session_fail(session, status);
    close_bench(&bench);
    return status;
}

static const bench_program_t program = {
    .name = "bench_offload",
    .purpose = "Moves tiles through a device with the prefetcher, alone, beside compute, under "
               "Adam and from a file, each beside raw copies of the same bytes.",
    .modes = BENCH_MODE_OFFLOAD,
    .no_transport = 1,
    .ranks = 1,
};

int main(int argc, char **argv)
{
    return bench_main(argc, argv, &program, run);
}
