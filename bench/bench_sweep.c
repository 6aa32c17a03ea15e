/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the message sweep. For one size all cases are timed in turn, repetition by repetition, so
 * that what disturbs the machine disturbs all of them alike.
 */
#include "bench_sweep.h"

#include <math.h>
#include <string.h>

#include "bench_file.h"
#include "core/internal.h"

#define SLICE_BYTES 16 /* a slice is a multiple */
#define SIZES_MAX 100000
#define EACH_MAX 100000 /* single operations whose times one exchange carries */

/* --- one operation --------------------------------------------------------------------------- */

tess_collective_t bench_case_arguments(const bench_case_t *c, int64_t iteration)
{
    int64_t steps = c->capacity_bytes / c->bytes, slice_bytes = c->bytes / c->size;
    int64_t shift = iteration % steps;
    char *whole = c->whole + shift * c->bytes;
    char *slice = c->slice + shift * slice_bytes;
    if (c->place == BENCH_IN_PLACE) slice = whole + c->rank * slice_bytes;
    int gathers = c->collective == BENCH_ALL_GATHER;
    return (tess_collective_t){.send = gathers ? slice : whole,
                               .recv = gathers ? whole : slice,
                               .count = slice_bytes / tess_dtype_bytes(c->dtype),
                               .dtype = c->dtype,
                               .reduction = c->reduction};
}

tess_status_t bench_case_queue(void *context, int64_t iteration)
{
    bench_case_t *c = context;
    tess_collective_t arguments = bench_case_arguments(c, iteration);
    return bench_route_queue(c->route, c->collective, &arguments, c->stream);
}

/* --- sizes ----------------------------------------------------------------------------------- */

static int64_t next_size(const bench_options_t *options, int64_t bytes)
{
    if (options->step_bytes != BENCH_UNSET) return bytes + options->step_bytes;
    return (int64_t)ceil((double)bytes * options->step_factor);
}

tess_status_t bench_list_sizes(bench_session_t *session, int64_t **sizes, int *size_count)
{
    const bench_options_t *options = session->options;
    int64_t unit = SLICE_BYTES * (int64_t)session->size, capacity = 0, *list;
    int count = 0;
    for (int64_t b = options->bytes_min; b <= options->bytes_max && capacity <= SIZES_MAX;
         b = next_size(options, b))
        capacity++;
    if (capacity > SIZES_MAX)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "-b, -e and -i ask for more than %d sizes",
                          SIZES_MAX);
    list = tessi_calloc((size_t)capacity, sizeof *list);
    if (!list) return TESS_ERR_OUT_OF_MEMORY;
    for (int64_t b = options->bytes_min; b <= options->bytes_max; b = next_size(options, b)) {
        int64_t rounded = b < unit ? unit : b / unit * unit;
        int repeated = count > 0 && list[count - 1] == rounded;
        if (rounded != b)
            bench_print(session, "# size %lld becomes %lld: 16-byte slices on %d ranks%s\n",
                        (long long)b, (long long)rounded, session->size,
                        repeated ? ", measured once" : "");
        if (!repeated) list[count++] = rounded;
    }
    *sizes = list;
    *size_count = count;
    return TESS_OK;
}

/* --- set-up ---------------------------------------------------------------------------------- */

static tess_status_t open_case(bench_sweep_t *sweep, bench_route_t *route, bench_memory_t memory)
{
    bench_session_t *session = sweep->session;
    const bench_options_t *options = session->options;
    bench_case_t *c = &sweep->cases[sweep->case_count++];
    *c = (bench_case_t){.route = route,
                        .memory = memory,
                        .collective = options->collectives,
                        .dtype = options->dtype,
                        .reduction = options->reduction,
                        .rank = session->rank,
                        .size = session->size,
                        .stream = session->stream,
                        .capacity_bytes = sweep->sizes[sweep->size_count - 1]};
    void *whole = NULL, *slice = NULL;
    tess_status_t status = bench_route_allocate(route, memory, c->capacity_bytes, &whole);
    c->whole = whole;
    if (status < 0) return status;
    status = bench_route_allocate(route, memory, c->capacity_bytes / c->size, &slice);
    c->slice = slice;
    return status;
}

/* Untouched pages would be paid for in the first timed operations. */
static tess_status_t touch_case(const bench_case_t *c)
{
    tess_status_t status = tess_stream_fill(c->stream, c->whole, 0, c->capacity_bytes);
    if (status < 0) return status;
    status = tess_stream_fill(c->stream, c->slice, 0, c->capacity_bytes / c->size);
    if (status < 0) return status;
    return tess_stream_synchronize(c->stream, -1);
}

/* NCCL's own calls take any device memory; there is nothing to register for them. */
static int is_wanted(const bench_options_t *options, const bench_route_t *route, unsigned memory)
{
    return route->raw ? memory == BENCH_MEMORY_USER : (options->memories & memory) != 0;
}

static tess_status_t open_cases(bench_sweep_t *sweep)
{
    bench_session_t *session = sweep->session;
    tess_status_t status = TESS_OK;
    for (int r = 0; r < session->route_count; r++)
        for (unsigned memory = 1; memory <= BENCH_MEMORY_USER && status >= 0; memory <<= 1)
            if (is_wanted(session->options, &session->routes[r], memory))
                status = open_case(sweep, &session->routes[r], (bench_memory_t)memory);
    for (int i = 0; i < sweep->case_count && status >= 0; i++)
        status = touch_case(&sweep->cases[i]);
    return status;
}

static tess_status_t open_sweep(bench_sweep_t *sweep)
{
    bench_session_t *session = sweep->session;
    tess_status_t status = bench_list_sizes(session, &sweep->sizes, &sweep->size_count);
    if (status < 0) return status;
    status = bench_agree(session, open_cases(sweep));
    if (status < 0) return status;
    if (session->kind == TESS_DEVICE_HOST) {
        int64_t largest = sweep->sizes[sweep->size_count - 1];
        status = bench_agree(session, bench_copy_open(largest, &sweep->arena));
        if (status < 0) return status;
        bench_progress(session, "memcpy of this machine");
        bench_copy_walk_t all = {sweep->arena.bytes, sweep->arena.bytes, sweep->arena.bytes};
        status = bench_copy_measure(session, &sweep->arena, all, &sweep->copy_large);
        if (status < 0) return status;
    }
    sweep->rows =
        tessi_calloc((size_t)sweep->size_count * (size_t)sweep->case_count, sizeof *sweep->rows);
    return sweep->rows ? TESS_OK : TESS_ERR_OUT_OF_MEMORY;
}

static void close_sweep(bench_sweep_t *sweep)
{
    for (int i = 0; i < sweep->case_count; i++) {
        bench_case_t *c = &sweep->cases[i];
        bench_route_free(c->route, c->memory, c->slice);
        bench_route_free(c->route, c->memory, c->whole);
    }
    bench_copy_close(&sweep->arena);
    tessi_free(sweep->rows);
    tessi_free(sweep->sizes);
}

/* --- one size -------------------------------------------------------------------------------- */

static tess_status_t warm_up(bench_sweep_t *sweep, bench_case_t *c)
{
    int64_t warmups = sweep->session->options->warmups;
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "warm_up", c->bytes, warmups);
    if (warmups == 0) return TESS_OK;
    double unused;
    return bench_time_batch(sweep->session, c->route, bench_case_queue, c, warmups, &unused);
}

/* Repetition by repetition, case by case: times[(case, place), repetition], on this rank. */
static tess_status_t time_cases(bench_sweep_t *sweep, int64_t bytes, double *times)
{
    const bench_options_t *options = sweep->session->options;
    int64_t repetitions = options->repetitions;
    char text[32];
    for (int64_t r = -1; r < repetitions; r++) {
        bench_progress(sweep->session, "%s, repetition %lld of %lld",
                       bench_bytes_text(bytes, text, sizeof text), (long long)(r < 0 ? 1 : r + 1),
                       (long long)repetitions);
        for (int i = 0; i < BENCH_PLACES * sweep->case_count; i++) {
            bench_case_t *c = &sweep->cases[i / BENCH_PLACES];
            c->bytes = bytes;
            c->place = (bench_place_t)(i % BENCH_PLACES);
            tess_status_t status;
            if (r < 0) {
                status = warm_up(sweep, c);
            } else {
                TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "timed", bytes, r);
                status = bench_time_batch(sweep->session, c->route, bench_case_queue, c,
                                          options->iterations, &times[i * repetitions + r]);
            }
            if (status < 0) return status;
        }
    }
    return TESS_OK;
}

static tess_status_t time_each(bench_sweep_t *sweep, bench_case_t *c, bench_result_t *result)
{
    bench_session_t *session = sweep->session;
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "timed_each", c->bytes, c->place);
    int64_t count = session->options->iterations * session->options->repetitions;
    if (count > EACH_MAX) count = EACH_MAX;
    double *seconds = tessi_calloc((size_t)count, sizeof *seconds);
    if (!seconds) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = bench_time_each(session, c->route, bench_case_queue, c, count, seconds);
    if (status >= 0) status = bench_largest(session, seconds, count);
    if (status >= 0) result->each_s = bench_statistics(seconds, count);
    tessi_free(seconds);
    return status;
}

static tess_status_t finish_result(bench_sweep_t *sweep, bench_case_t *c, double *times,
                                   bench_result_t *result)
{
    bench_session_t *session = sweep->session;
    const bench_options_t *options = session->options;
    tess_status_t status = bench_largest(session, times, options->repetitions);
    if (status < 0) return status;
    result->time_s = bench_median(times, options->repetitions);
    result->algbw = bench_algbw(c->bytes, result->time_s);
    result->busbw = bench_busbw(result->algbw, session->size);
    result->wrong = -1;
    if (options->per_iteration) status = time_each(sweep, c, result);
    if (status < 0 || !options->check) return status;
    status = bench_case_check(session, c, &result->wrong);
    if (status >= 0) session->wrong_elements += result->wrong;
    return status;
}

static tess_status_t finish_row(bench_sweep_t *sweep, bench_case_t *c, double *times,
                                const bench_row_t *first, const bench_copy_t *copy)
{
    bench_row_t *row = &sweep->rows[sweep->row_count];
    *row = (bench_row_t){.measured = c,
                         .bytes = c->bytes,
                         .count = c->bytes / c->size / tess_dtype_bytes(c->dtype),
                         .copy = *copy};
    for (int p = 0; p < BENCH_PLACES; p++) {
        c->place = (bench_place_t)p;
        tess_status_t status = finish_result(
            sweep, c, times + p * sweep->session->options->repetitions, &row->results[p]);
        if (status < 0) return status;
        double base = first ? first->results[p].busbw : row->results[p].busbw;
        row->ratio[p] = base > 0 ? row->results[p].busbw / base : 1;
    }
    sweep->row_count++;
    bench_report_row(sweep, row);
    return TESS_OK;
}

/* Copies what a rank receives, moving through as much memory as the timed operations do. */
static tess_status_t measure_copy(bench_sweep_t *sweep, int64_t bytes, bench_copy_t *copy)
{
    bench_session_t *session = sweep->session;
    int64_t steps = sweep->sizes[sweep->size_count - 1] / bytes;
    if (steps > session->options->iterations) steps = session->options->iterations;
    int64_t received = session->size > 1 ? bytes / session->size * (session->size - 1) : bytes;
    bench_copy_walk_t walk = {received, bytes, steps * bytes};
    return bench_copy_measure(session, &sweep->arena, walk, copy);
}

static tess_status_t run_size(bench_sweep_t *sweep, int64_t bytes)
{
    bench_session_t *session = sweep->session;
    int64_t repetitions = session->options->repetitions;
    bench_copy_t copy = {0};
    tess_status_t status =
        session->kind == TESS_DEVICE_HOST ? measure_copy(sweep, bytes, &copy) : TESS_OK;
    if (status < 0) return status;
    double *times =
        tessi_calloc((size_t)(repetitions * sweep->case_count * BENCH_PLACES), sizeof *times);
    if (!times) return TESS_ERR_OUT_OF_MEMORY;
    status = time_cases(sweep, bytes, times);
    const bench_row_t *first = NULL;
    for (int i = 0; i < sweep->case_count && status >= 0; i++) {
        status = finish_row(sweep, &sweep->cases[i], times + repetitions * i * BENCH_PLACES, first,
                            &copy);
        if (!first) first = &sweep->rows[sweep->row_count - 1];
    }
    tessi_free(times);
    return status;
}

tess_status_t bench_sweep_run(bench_session_t *session)
{
    bench_sweep_t sweep = {.session = session};
    tess_status_t status;
    TESS_TRY(bench_files_check(session), close);
    bench_print_header(session);
    TESS_TRY(open_sweep(&sweep), close);
    bench_report_start(&sweep);
    for (int s = 0; s < sweep.size_count; s++) TESS_TRY(run_size(&sweep, sweep.sizes[s]), close);
    double sum = 0;
    for (int r = 0; r < sweep.row_count; r++)
        sum += sweep.rows[r].results[0].busbw + sweep.rows[r].results[1].busbw;
    sweep.average_busbw = sum / (BENCH_PLACES * sweep.row_count);
    bench_report_end(&sweep);
    if (session->rank == 0) status = bench_sweep_write(&sweep);
    status = bench_agree(session, status);
close:
    bench_session_fail(session, status);
    close_sweep(&sweep);
    return status;
}
