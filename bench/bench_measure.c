/* SPDX-License-Identifier: Apache-2.0 */
/* The host's clock around queued operations. Between barrier and clock nothing else is done. */
#include "bench_measure.h"

#include <math.h>
#include <stdlib.h>

#include "core/internal.h"

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const double *sorted, int64_t count, double percent)
{
    int64_t rank = (int64_t)ceil(percent / 100 * (double)count);
    return sorted[rank < 1 ? 0 : rank - 1];
}

bench_statistics_t bench_statistics(double *values, int64_t count)
{
    bench_statistics_t result = {.count = count};
    if (count == 0) return result;
    qsort(values, (size_t)count, sizeof *values, ascending);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++) sum += values[i];
    result.mean = sum / (double)count;
    for (int64_t i = 0; i < count; i++) squares += pow(values[i] - result.mean, 2);
    result.stdev = sqrt(squares / (double)count);
    result.min = values[0];
    result.max = values[count - 1];
    result.p50 = percentile(values, count, 50);
    result.p95 = percentile(values, count, 95);
    result.p99 = percentile(values, count, 99);
    return result;
}

double bench_median(double *values, int64_t count)
{
    qsort(values, (size_t)count, sizeof *values, ascending);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

tess_status_t bench_meet(bench_route_t *route, tess_stream_t *stream, int64_t *start_ns)
{
    tess_status_t status = bench_route_barrier(route, stream);
    if (status >= 0) status = bench_route_finish(route, stream, 1);
    *start_ns = tessi_now_ns();
    return status;
}

double bench_seconds_since(int64_t start_ns)
{
    return (double)(tessi_now_ns() - start_ns) * 1e-9;
}

tess_status_t bench_time_batch(bench_session_t *session, bench_route_t *route,
                               bench_operation_t operation, void *context, int64_t count,
                               double *seconds)
{
    int64_t start_ns;
    tess_status_t status = bench_meet(route, session->stream, &start_ns);
    for (int64_t i = 0; status >= 0 && i < count; i++) status = operation(context, i);
    if (status < 0) return status;
    status = bench_route_finish(route, session->stream, count);
    *seconds = bench_seconds_since(start_ns) / (double)count;
    return status;
}

tess_status_t bench_time_each(bench_session_t *session, bench_route_t *route,
                              bench_operation_t operation, void *context, int64_t count,
                              double *seconds)
{
    int64_t start_ns;
    tess_status_t status = bench_meet(route, session->stream, &start_ns);
    for (int64_t i = 0; status >= 0 && i < count; i++) {
        start_ns = tessi_now_ns();
        status = operation(context, i);
        if (status < 0) break;
        status = bench_route_finish(route, session->stream, 1);
        seconds[i] = bench_seconds_since(start_ns);
    }
    return status;
}

double bench_algbw(int64_t bytes, double seconds)
{
    return seconds > 0 ? (double)bytes / seconds * 1e-9 : 0;
}

double bench_busbw(double algbw, int ranks)
{
    return algbw * (ranks - 1) / ranks;
}
