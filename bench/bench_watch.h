/* SPDX-License-Identifier: Apache-2.0 */
/* A deadline for queued work that nobody else watches, such as NCCL's own calls.
 *
 * Every few operations leave a mark on their stream. Work may take as long as it likes, but from
 * one mark to the next at most the timeout may pass, and a lost rank ends the wait at once. No more
 * operations are queued than a device takes without blocking the caller, where no deadline would
 * reach it.
 */
#ifndef TESSERA_BENCH_WATCH_H
#define TESSERA_BENCH_WATCH_H

#include <tessera/device.h>
#include <tessera/world.h>

#define BENCH_WATCH_MARKS 32
#define BENCH_WATCH_OPERATIONS 8 /* from mark to mark; marks cost time that would be measured */
#define BENCH_WATCH_BYTES (INT64_C(1) << 30) /* likewise, whichever comes first */

typedef struct bench_watch {
    tess_world_t *world;
    const char *what; /* begins the sentence when time is up */
    int timeout_ms;
    tess_event_t *events[BENCH_WATCH_MARKS];
    int64_t marked, reached;   /* marks recorded, and those of them that were passed */
    int64_t operations, bytes; /* since the last mark */
} bench_watch_t;

/* For one stream at a time. `what` must stay. A watch that failed to open can be closed. */
tess_status_t bench_watch_open(tess_world_t *world, tess_device_t *device, const char *what,
                               int timeout_ms, bench_watch_t *watch);
void bench_watch_close(bench_watch_t *watch);

/* To be called after each operation that was queued on stream: may wait until earlier ones end. */
tess_status_t bench_watch_queued(bench_watch_t *watch, tess_stream_t *stream, int64_t bytes);

/* Waits until the stream is idle. */
tess_status_t bench_watch_wait(bench_watch_t *watch, tess_stream_t *stream);

#endif
