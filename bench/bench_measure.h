/* SPDX-License-Identifier: Apache-2.0 */
/* Time of queued operations, and what a list of times says. */
#ifndef TESSERA_BENCH_MEASURE_H
#define TESSERA_BENCH_MEASURE_H

#include <stdint.h>

#include "bench_session.h"

typedef struct bench_statistics {
    int64_t count; /* 0: nothing was measured */
    double min, max, mean, stdev;
    double p50, p95, p99; /* nearest rank: the smallest value that so many percent do not exceed */
} bench_statistics_t;

/* Sorts values. */
bench_statistics_t bench_statistics(double *values, int64_t count);

/* The middle value, or the mean of the two middle ones; sorts values. count >= 1. */
double bench_median(double *values, int64_t count);

/* A barrier of all ranks behind what stream holds, waited for; then the clock. */
tess_status_t bench_meet(bench_route_t *route, tess_stream_t *stream, int64_t *start_ns);
double bench_seconds_since(int64_t start_ns);

/* Queues operation number `iteration` on the session's stream. */
typedef tess_status_t (*bench_operation_t)(void *context, int64_t iteration);

/* A barrier, then `count` operations queued at once and waited for: seconds of one, on this rank.
 */
tess_status_t bench_time_batch(bench_session_t *session, bench_route_t *route,
                               bench_operation_t operation, void *context, int64_t count,
                               double *seconds);

/* Each operation alone: seconds of each, on this rank, the wait for it included. */
tess_status_t bench_time_each(bench_session_t *session, bench_route_t *route,
                              bench_operation_t operation, void *context, int64_t count,
                              double *seconds);

/* GB/s of `bytes` in `seconds`, 1 GB = 1e9 bytes, and the part of it that each rank's link carries
 * in an all-gather or a reduce-scatter. */
double bench_algbw(int64_t bytes, double seconds);
double bench_busbw(double algbw, int ranks);

#endif
