/* SPDX-License-Identifier: Apache-2.0 */
/* The course of bench_adam. Within a repetition all kinds of a case are timed one after the other,
 * so that a pass and the copy that it is a share of see the same machine.
 */
#include <math.h>
#include <string.h>

#include "adam_bench.h"
#include "bench_file.h"
#include "core/internal.h"

#define WHILE_S 0.05 /* as long as this a repetition queues calls, where -n does not say */
#define CALLS_MAX 1000

/* --- timing ---------------------------------------------------------------------------------- */

/* Seconds of one of `calls` calls on this rank, by the device's own clock. */
static tess_status_t time_calls(adam_case_t *c, adam_kind_t kind, int64_t calls, double *seconds)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "timed", c->sizes.traffic_bytes, kind);
    bench_session_t *session = c->bench->session;
    double elapsed_ms;
    tess_status_t status = tess_world_barrier(session->world, session->timeout_ms);
    if (status >= 0) status = tess_event_record(c->bench->start, session->stream);
    for (int64_t i = 0; i < calls && status >= 0; i++) status = adam_case_queue(c, kind);
    if (status >= 0) status = tess_event_record(c->bench->end, session->stream);
    if (status >= 0) status = tess_event_synchronize(c->bench->end, session->timeout_ms);
    if (status >= 0) status = tess_stream_synchronize(session->stream, session->timeout_ms);
    if (status >= 0) status = tess_event_elapsed(c->bench->start, c->bench->end, &elapsed_ms);
    if (status >= 0) *seconds = elapsed_ms * 1e-3 / (double)calls;
    return status;
}

/* Warm-up, and how many calls a repetition queues: alike on all ranks. */
static tess_status_t choose_calls(adam_case_t *c, adam_kind_t kind, int64_t *calls)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "warm_up", c->sizes.traffic_bytes, kind);
    const bench_options_t *options = c->bench->session->options;
    double seconds = 0;
    tess_status_t status = TESS_OK;
    for (int64_t w = 0; w < options->warmups && status >= 0; w++) status = adam_case_queue(c, kind);
    *calls = options->iterations;
    if (status < 0 || *calls != BENCH_UNSET) return status;
    status = time_calls(c, kind, 1, &seconds);
    if (status >= 0) status = bench_largest(c->bench->session, &seconds, 1);
    double fit = WHILE_S / fmax(seconds, 1e-9);
    *calls = fit < 1 ? 1 : fit > CALLS_MAX ? CALLS_MAX : (int64_t)fit;
    return status;
}

/* times[kind, repetition] of this rank. */
static tess_status_t time_case(adam_case_t *c, double *times)
{
    bench_session_t *session = c->bench->session;
    int64_t repetitions = session->options->repetitions, calls[ADAM_KINDS];
    tess_status_t status = TESS_OK;
    for (int k = 0; k < ADAM_KINDS && status >= 0; k++)
        if (adam_case_has(c, (adam_kind_t)k)) status = choose_calls(c, (adam_kind_t)k, &calls[k]);
    for (int64_t r = 0; r < repetitions; r++) {
        bench_progress(session, "%lld parameters, %s, %d threads, repetition %lld of %lld",
                       (long long)c->count, c->layout->name, c->config.threads, (long long)r + 1,
                       (long long)repetitions);
        for (int k = 0; k < ADAM_KINDS && status >= 0; k++)
            if (adam_case_has(c, (adam_kind_t)k))
                status = time_calls(c, (adam_kind_t)k, calls[k], &times[k * repetitions + r]);
    }
    return status;
}

static void summarise(const adam_case_t *c, double *times, adam_row_t *row)
{
    int64_t repetitions = c->bench->session->options->repetitions;
    *row = (adam_row_t){.layout = c->layout,
                        .gradient = c->config.gradient,
                        .parameter = c->config.parameter,
                        .count = c->count,
                        .threads = c->config.threads,
                        .groups = c->groups,
                        .bytes = c->sizes.traffic_bytes,
                        .step_bytes = c->sizes.traffic_bytes + c->sizes.gradient_bytes,
                        .copy_bytes = c->copy.bytes,
                        .wrong = -1};
    snprintf(row->description, sizeof row->description, "%s", tess_adam_description(c->adam));
    for (int k = 0; k < ADAM_KINDS; k++)
        if (adam_case_has(c, (adam_kind_t)k))
            row->s[k] = bench_median(times + k * repetitions, repetitions);
    row->pass_s_min = times[ADAM_PASS * repetitions]; /* the median has sorted them */
}

/* --- cases ----------------------------------------------------------------------------------- */

static tess_status_t run_opened(adam_case_t *c, double *times, adam_row_t *row)
{
    bench_session_t *session = c->bench->session;
    int64_t wrong = 0, count = ADAM_KINDS * session->options->repetitions;
    tess_status_t status = TESS_OK;
    if (session->options->check) status = bench_agree(session, adam_case_check(c, &wrong));
    if (status >= 0) status = bench_agree(session, time_case(c, times));
    if (status >= 0) status = bench_agree(session, adam_case_finish(c, &wrong));
    if (status >= 0) status = bench_largest(session, times, count);
    if (status >= 0) status = bench_sum(session, &wrong);
    if (status < 0) return status;
    summarise(c, times, row);
    if (session->options->check) row->wrong = wrong;
    session->wrong_elements += wrong;
    return TESS_OK;
}

static tess_status_t run_case(adam_bench_t *bench, const bench_layout_t *layout, int64_t count,
                              int threads)
{
    bench_session_t *session = bench->session;
    adam_case_t c = {.bench = bench,
                     .layout = layout,
                     .config = adam_config(session->options, layout, threads),
                     .count = count};
    adam_row_t *row = &bench->rows[bench->row_count];
    double *times =
        tessi_calloc((size_t)(ADAM_KINDS * session->options->repetitions), sizeof *times);
    if (!times) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = bench_agree(session, adam_case_open(&c));
    if (status >= 0) status = run_opened(&c, times, row);
    if (status >= 0) {
        bench->row_count++;
        adam_report_row(bench, row);
    }
    bench_session_fail(session, status); /* waits until nothing runs any more */
    adam_case_close(&c);
    tessi_free(times);
    return status;
}

static tess_status_t run_cases(adam_bench_t *bench)
{
    unsigned layouts = bench->session->options->layouts;
    tess_status_t status = TESS_OK;
    for (int s = 0; s < bench->counts.count; s++)
        for (int l = 0; l < bench_layout_count; l++)
            for (int t = 0; t < bench->threads.count && status >= 0; t++)
                if (layouts >> l & 1)
                    status = run_case(bench, &bench_layouts[l], bench->counts.values[s],
                                      (int)bench->threads.values[t]);
    return status;
}

/* --- what is run ----------------------------------------------------------------------------- */

/* 1, 2, 4 … and all CPUs that are this rank's share. */
static tess_status_t list_threads(adam_bench_t *bench)
{
    bench_session_t *session = bench->session;
    bench_list_t *threads = &bench->threads;
    *threads = session->options->threads;
    if (session->kind == TESS_DEVICE_CUDA) {
        if (threads->count > 0)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "--threads is for the host, and this run is on CUDA; give --device "
                              "host");
        *threads = (bench_list_t){.values = {0}, .count = 1};
        return TESS_OK;
    }
    int given = adam_threads_given(2);
    if (given < 2 && threads->count > 0 && (threads->count > 1 || threads->values[0] > 1))
        return tessi_fail(TESS_ERR_UNSUPPORTED,
                          "this program was built without OpenMP, so --threads can only be 1");
    if (threads->count > 0) return TESS_OK;
    int all = session->ranks[session->rank].multiprocessors / tess_world_local_size(session->world);
    if (all < 1 || given < 2) all = 1;
    for (int t = 1; t < all; t *= 2) threads->values[threads->count++] = t;
    threads->values[threads->count++] = all;
    return TESS_OK;
}

/* The most that a size needs over the layouts: for its state, and for half the traffic of a pass.
 */
static tess_status_t needs_of(const adam_bench_t *bench, int64_t count, int64_t *state_bytes,
                              int64_t *copy_bytes)
{
    const bench_options_t *options = bench->session->options;
    *state_bytes = *copy_bytes = 0;
    for (int l = 0; l < bench_layout_count; l++) {
        if (!(options->layouts >> l & 1)) continue;
        tess_adam_config_t config = adam_config(options, &bench_layouts[l], 0);
        tess_adam_sizes_t sizes;
        int64_t bytes;
        tess_status_t status = tess_adam_sizes(&config, count, &sizes);
        if (status >= 0) status = adam_state_bytes(&config, count, &bytes);
        if (status < 0) return status;
        if (bytes > *state_bytes) *state_bytes = bytes;
        if (sizes.traffic_bytes / 2 > *copy_bytes) *copy_bytes = sizes.traffic_bytes / 2;
    }
    return TESS_OK;
}

/* The sizes asked for must fit; of the sizes that stand here by default, those that do are taken.
 */
static tess_status_t list_counts(adam_bench_t *bench)
{
    static const bench_list_t on_host = {{100000, 20000000}, 2};
    static const bench_list_t on_cuda = {{100000, 100000000, 1000000000}, 3};
    bench_session_t *session = bench->session;
    const bench_list_t *asked = &session->options->params_each;
    int given = asked->count > 0;
    if (!given) asked = session->kind == TESS_DEVICE_CUDA ? &on_cuda : &on_host;
    int64_t free_bytes, state_bytes, copy_bytes;
    tess_status_t status = adam_memory_free_bytes(session, &free_bytes);
    for (int i = 0; i < asked->count && status >= 0; i++) {
        status = needs_of(bench, asked->values[i], &state_bytes, &copy_bytes);
        if (status < 0) break;
        if (state_bytes <= free_bytes) {
            bench->counts.values[bench->counts.count++] = asked->values[i];
            continue;
        }
        char needed[32], there[32];
        bench_bytes_text(state_bytes, needed, sizeof needed);
        bench_bytes_text(free_bytes > 0 ? free_bytes : 0, there, sizeof there);
        if (given)
            return tessi_fail(TESS_ERR_OUT_OF_MEMORY,
                              "%lld parameters need %s in the largest layout, and a rank has %s; "
                              "give fewer (--params) or a smaller layout (--layout)",
                              (long long)asked->values[i], needed, there);
        bench_print(session, "# %lld parameters are left out: they need %s, and a rank has %s\n",
                    (long long)asked->values[i], needed, there);
    }
    return status;
}

static tess_status_t open_bench(adam_bench_t *bench)
{
    bench_session_t *session = bench->session;
    size_t rows = (size_t)(bench->counts.count * bench_layout_count * bench->threads.count);
    bench->rows = tessi_calloc(rows, sizeof *bench->rows);
    if (!bench->rows) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = adam_samples_open(bench);
    if (status >= 0) status = tess_event_create(session->device, TESS_EVENT_TIMING, &bench->start);
    if (status >= 0) status = tess_event_create(session->device, TESS_EVENT_TIMING, &bench->end);
    if (status >= 0)
        status = tess_memory_allocate(session->device, TESS_MEMORY_DEVICE, sizeof *bench->sum,
                                      (void **)&bench->sum);
    return status;
}

static void close_bench(adam_bench_t *bench)
{
    bench_session_t *session = bench->session;
    adam_memory_close(session, &bench->memory);
    tess_memory_free(session->device, TESS_MEMORY_DEVICE, bench->sum);
    tess_event_destroy(bench->end);
    tess_event_destroy(bench->start);
    adam_samples_close(bench);
    tessi_free(bench->rows);
}

/* Collective: the memory, as every rank has room for it. */
static tess_status_t open_memory(adam_bench_t *bench)
{
    int64_t state_bytes = 0, copy_bytes = 0;
    for (int i = 0; i < bench->counts.count; i++) {
        int64_t state, copy;
        tess_status_t status = needs_of(bench, bench->counts.values[i], &state, &copy);
        if (status < 0) return status;
        if (state > state_bytes) state_bytes = state;
        if (copy > copy_bytes) copy_bytes = copy;
    }
    return adam_memory_open(bench->session, state_bytes, copy_bytes, &bench->memory);
}

tess_status_t adam_bench_run(bench_session_t *session)
{
    adam_bench_t bench = {.session = session};
    tess_status_t status = TESS_OK;
    TESS_TRY(bench_files_check(session), close);
    if (!session->options->layouts)
        TESS_TRY(bench_read_layouts(BENCH_LAYOUTS_DEFAULT_TEXT, &session->options->layouts), close);
    bench_print_header(session);
    TESS_TRY(bench_agree(session, list_threads(&bench)), close);
    TESS_TRY(bench_agree(session, list_counts(&bench)), close);
    TESS_TRY(bench_agree(session, open_bench(&bench)), close);
    TESS_TRY(bench_agree(session, open_memory(&bench)), close);
    adam_report_start(&bench);
    TESS_TRY(run_cases(&bench), close);
    adam_report_end(&bench);
    if (session->rank == 0) status = adam_write(&bench);
    status = bench_agree(session, status);
close:
    bench_session_fail(session, status);
    close_bench(&bench);
    return status;
}
