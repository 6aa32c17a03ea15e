/* SPDX-License-Identifier: Apache-2.0 */
/* Times by the device's events. The start is waited for before anything is queued, because copies
 * on other streams could be ahead of a mark that is only queued.
 */
#include "core/internal.h"
#include "offload_bench.h"

tess_status_t offload_time(offload_bench_t *bench, tess_status_t (*queue)(void *context),
                           void *context, double *seconds)
{
    bench_session_t *session = bench->session;
    double elapsed_ms;
    tess_status_t status = tess_world_barrier(session->world, session->timeout_ms);
    if (status >= 0) status = tess_event_record(bench->start, session->stream);
    if (status >= 0) status = tess_event_synchronize(bench->start, session->timeout_ms);
    if (status >= 0) status = queue(context);
    if (status >= 0) status = tess_event_record(bench->end, session->stream);
    if (status >= 0) status = tess_event_synchronize(bench->end, session->timeout_ms);
    if (status >= 0) status = tess_stream_synchronize(session->stream, session->timeout_ms);
    if (status >= 0) status = tess_event_elapsed(bench->start, bench->end, &elapsed_ms);
    if (status >= 0) *seconds = elapsed_ms * 1e-3;
    return status;
}

static tess_status_t queue_tiles(void *context)
{
    const offload_job_t *job = context;
    return offload_queue_tiles(job->tiles, job->hook, job->context);
}

static tess_status_t queue_raw(void *context)
{
    const offload_job_t *job = context;
    return offload_queue_raw(job->tiles, job->hook, job->context);
}

tess_status_t offload_run_tiles(const offload_job_t *job, double *seconds)
{
    offload_job_t copy = *job;
    return offload_time(job->tiles->bench, queue_tiles, &copy, seconds);
}

tess_status_t offload_run_raw(const offload_job_t *job, double *seconds)
{
    offload_job_t copy = *job;
    return offload_time(job->tiles->bench, queue_raw, &copy, seconds);
}

/* times[job, repetition] of this rank; negative repetitions warm up. */
static tess_status_t run_jobs(offload_bench_t *bench, const offload_job_t *jobs, double *times)
{
    const bench_options_t *options = bench->session->options;
    tess_status_t status = TESS_OK;
    for (int64_t r = -options->warmups; r < options->repetitions; r++)
        for (int j = 0; jobs[j].name && status >= 0; j++) {
            TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "timed", j, r);
            double seconds = 0;
            bench_progress(bench->session, "%s, repetition %lld of %lld", jobs[j].name,
                           (long long)(r < 0 ? 1 : r + 1), (long long)options->repetitions);
            status = jobs[j].run(&jobs[j], &seconds);
            if (r >= 0) times[j * options->repetitions + r] = seconds;
        }
    return status;
}

tess_status_t offload_measure(offload_bench_t *bench, const offload_job_t *jobs, double *medians)
{
    int64_t repetitions = bench->session->options->repetitions;
    int count = 0;
    while (jobs[count].name) count++;
    double *times = tessi_calloc((size_t)(count * repetitions), sizeof *times);
    tess_status_t status = times ? TESS_OK : TESS_ERR_OUT_OF_MEMORY;
    if (status >= 0) status = run_jobs(bench, jobs, times);
    status = bench_agree(bench->session, status);
    if (status >= 0) status = bench_largest(bench->session, times, count * repetitions);
    for (int j = 0; j < count && status >= 0; j++)
        medians[j] = bench_median(times + j * repetitions, repetitions);
    tessi_free(times);
    return status;
}
