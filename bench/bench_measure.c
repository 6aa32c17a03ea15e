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

static tess_status_t meet(bench_session_t *session, bench_route_t *route)
{
    tess_status_t status = bench_route_barrier(route, session->stream);
    if (status < 0) return status;
    return bench_route_finish(route, session->stream, 1);
}

tess_status_t bench_time_batch(bench_session_t *session, bench_route_t *route,
                               bench_operation_t operation, void *context, int64_t count,
                               double *seconds)
{
    tess_status_t status = meet(session, route);
    int64_t start_ns = tessi_now_ns();
    for (int64_t i = 0; status >= 0 && i < count; i++) status = operation(context, i);
    if (status < 0) return status;
    status = bench_route_finish(route, session->stream, count);
    *seconds = (double)(tessi_now_ns() - start_ns) * 1e-9 / (double)count;
    return status;
}

tess_status_t bench_time_each(bench_session_t *session, bench_route_t *route,
                              bench_operation_t operation, void *context, int64_t count,
                              double *seconds)
{
    tess_status_t status = meet(session, route);
    for (int64_t i = 0; status >= 0 && i < count; i++) {
        int64_t start_ns = tessi_now_ns();
        status = operation(context, i);
        if (status < 0) break;
        status = bench_route_finish(route, session->stream, 1);
        seconds[i] = (double)(tessi_now_ns() - start_ns) * 1e-9;
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
