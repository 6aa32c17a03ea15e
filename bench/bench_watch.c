/* SPDX-License-Identifier: Apache-2.0 */
/* Marks are a ring of events; a wait looks at them, at the world and at the clock ten times a
 * second, and otherwise waits as any wait for a stream does, so that times stay comparable.
 */
#include "bench_watch.h"

#include "core/internal.h"

#define LOOK_EVERY_MS 100

tess_status_t bench_watch_open(tess_world_t *world, tess_device_t *device, const char *what,
                               int timeout_ms, bench_watch_t *watch)
{
    *watch = (bench_watch_t){.world = world, .what = what, .timeout_ms = timeout_ms};
    tess_status_t status = TESS_OK;
    for (int m = 0; m < BENCH_WATCH_MARKS && status >= 0; m++)
        status = tess_event_create(device, TESS_EVENT_ORDER, &watch->events[m]);
    return status;
}

void bench_watch_close(bench_watch_t *watch)
{
    for (int m = 0; m < BENCH_WATCH_MARKS; m++) tess_event_destroy(watch->events[m]);
    *watch = (bench_watch_t){0};
}

static tess_event_t *oldest(const bench_watch_t *watch)
{
    return watch->events[watch->reached % BENCH_WATCH_MARKS];
}

static tess_status_t count_reached(bench_watch_t *watch)
{
    while (watch->reached < watch->marked) {
        tess_status_t status = tess_event_query(oldest(watch));
        if (status != TESS_OK) return status < 0 ? status : TESS_OK;
        watch->reached++;
    }
    return TESS_OK;
}

/* For a moment: TESS_OK when done, TESS_NOT_READY when not. */
static tess_status_t wait_a_moment(bench_watch_t *watch, tess_stream_t *stream, int whole_stream)
{
    int moment_ms = watch->timeout_ms < LOOK_EVERY_MS ? watch->timeout_ms : LOOK_EVERY_MS;
    if (!whole_stream) {
        tess_status_t status = tess_event_synchronize(oldest(watch), moment_ms);
        if (status != TESS_ERR_TIMEOUT) return status;
        return tess_event_query(oldest(watch));
    }
    tess_status_t status = tess_stream_synchronize(stream, moment_ms);
    return status == TESS_ERR_TIMEOUT ? tess_stream_query(stream) : status;
}

/* Until the stream is idle, or until its oldest mark is passed. */
static tess_status_t wait_for(bench_watch_t *watch, tess_stream_t *stream, int whole_stream)
{
    int64_t deadline_ns = tessi_deadline_ns(watch->timeout_ms), reached = watch->reached;
    for (;;) {
        tess_status_t status = wait_a_moment(watch, stream, whole_stream);
        if (status != TESS_NOT_READY) return status;
        status = tess_world_status(watch->world);
        if (status >= 0) status = count_reached(watch);
        if (status < 0) return status;
        if (watch->reached > reached) {
            if (!whole_stream) return TESS_OK;
            reached = watch->reached;
            deadline_ns = tessi_deadline_ns(watch->timeout_ms);
        }
        if (tessi_now_ns() >= deadline_ns)
            return tessi_fail(
                TESS_ERR_TIMEOUT,
                "%s: nothing moved for %d ms; a rank has stopped or cannot be reached", watch->what,
                watch->timeout_ms);
    }
}

static int has_room(const bench_watch_t *watch)
{
    return watch->marked - watch->reached < BENCH_WATCH_MARKS;
}

static tess_status_t make_room(bench_watch_t *watch, tess_stream_t *stream)
{
    tess_status_t status = count_reached(watch);
    if (status < 0 || has_room(watch)) return status;
    status = wait_for(watch, stream, 0);
    return status < 0 ? status : count_reached(watch);
}

tess_status_t bench_watch_queued(bench_watch_t *watch, tess_stream_t *stream, int64_t bytes)
{
    watch->bytes += bytes;
    if (++watch->operations < BENCH_WATCH_OPERATIONS && watch->bytes < BENCH_WATCH_BYTES)
        return TESS_OK;
    tess_status_t status = has_room(watch) ? TESS_OK : make_room(watch, stream);
    if (status < 0) return status;
    watch->operations = watch->bytes = 0;
    return tess_event_record(watch->events[watch->marked++ % BENCH_WATCH_MARKS], stream);
}

tess_status_t bench_watch_wait(bench_watch_t *watch, tess_stream_t *stream)
{
    tess_status_t status = wait_for(watch, stream, 1);
    if (status != TESS_OK) return status;
    watch->reached = watch->marked;
    watch->operations = watch->bytes = 0;
    return TESS_OK;
}
