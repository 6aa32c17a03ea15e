/* SPDX-License-Identifier: Apache-2.0 */
/* Events of the host back end: a mark on a stream, and a time stamp where one was asked for.
 *
 * Invariant: a queued wait holds its own copy of the mark, so recording the event again or
 * destroying it changes nothing for waits that were queued before. Only a stamp that is still to be
 * written points back to the event, and keeps it alive by a reference.
 */
#include "host_backend.h"

typedef struct host_event {
    tess_event_t base;
    tessi_host_mark_t mark;
    _Atomic int references; /* the owner, and each queued stamp */
    int timing;
    pthread_mutex_t stamp_lock;
    uint64_t generation; /* guarded by stamp_lock: which recording the stamp belongs to */
    int64_t stamp_ns;
} host_event_t;

typedef struct stamp_arguments {
    host_event_t *event; /* counted reference */
    uint64_t generation;
} stamp_arguments_t;

static host_event_t *of(tess_event_t *event)
{
    return (host_event_t *)event;
}

static void release(host_event_t *event)
{
    if (atomic_fetch_sub_explicit(&event->references, 1, memory_order_acq_rel) != 1) return;
    tessi_host_mark_release(&event->mark);
    pthread_mutex_destroy(&event->stamp_lock);
    tessi_free(event);
}

tess_status_t tessi_host_event_create(tess_device_t *device, tess_event_mode_t mode,
                                      tess_event_t **result)
{
    (void)device;
    host_event_t *event = tessi_calloc(1, sizeof *event);
    if (!event) return TESS_ERR_OUT_OF_MEMORY;
    atomic_init(&event->references, 1);
    event->timing = mode == TESS_EVENT_TIMING;
    pthread_mutex_init(&event->stamp_lock, NULL);
    *result = &event->base;
    return TESS_OK;
}

void tessi_host_event_destroy(tess_event_t *event)
{
    release(of(event));
}

/* Runs on a stream: notes the time unless the event was recorded again meanwhile. */
static tess_status_t write_stamp(void *argument)
{
    stamp_arguments_t *stamp = argument;
    host_event_t *event = stamp->event;
    pthread_mutex_lock(&event->stamp_lock);
    if (event->generation == stamp->generation) event->stamp_ns = tessi_now_ns();
    pthread_mutex_unlock(&event->stamp_lock);
    release(event);
    return TESS_OK;
}

static tess_status_t queue_stamp(host_event_t *event, tess_stream_t *stream)
{
    stamp_arguments_t stamp = {.event = event};
    pthread_mutex_lock(&event->stamp_lock);
    stamp.generation = ++event->generation;
    pthread_mutex_unlock(&event->stamp_lock);
    atomic_fetch_add_explicit(&event->references, 1, memory_order_relaxed);
    tess_status_t status = tessi_stream_push_always(stream, write_stamp, &stamp, sizeof stamp);
    if (status < 0) release(event);
    return status;
}

tess_status_t tessi_host_event_record(tess_event_t *base, tess_stream_t *stream)
{
    host_event_t *event = of(base);
    if (event->timing) {
        tess_status_t status = queue_stamp(event, stream);
        if (status < 0) return status;
    }
    tessi_host_mark_t earlier = event->mark;
    event->mark = tessi_host_mark_take(stream);
    tessi_host_mark_release(&earlier);
    return TESS_OK;
}

tess_status_t tessi_host_event_query(tess_event_t *event)
{
    return tessi_host_mark_query(&of(event)->mark);
}

tess_status_t tessi_host_event_synchronize(tess_event_t *event, int timeout_ms)
{
    return tessi_host_mark_wait(&of(event)->mark, timeout_ms, 0);
}

static int64_t stamp_of(host_event_t *event)
{
    pthread_mutex_lock(&event->stamp_lock);
    int64_t stamp_ns = event->stamp_ns;
    pthread_mutex_unlock(&event->stamp_lock);
    return stamp_ns;
}

tess_status_t tessi_host_event_elapsed(tess_event_t *start, tess_event_t *end, double *elapsed_ms)
{
    if (!of(start)->mark.stream || !of(end)->mark.stream)
        return tessi_fail(TESS_ERR_STATE, "the %s event was never recorded",
                          of(start)->mark.stream ? "end" : "start");
    *elapsed_ms = (double)(stamp_of(of(end)) - stamp_of(of(start))) * 1e-6;
    return TESS_OK;
}

/* Runs on the stream that waits. Its deadline counts only time in which the other stream stands
 * still, so that long work is no error and a stuck stream is. */
static tess_status_t wait_for_mark(void *argument)
{
    tessi_host_mark_t *mark = argument;
    tess_status_t status = tessi_host_mark_wait(mark, tessi_timeout_or_default(-1), 1);
    tessi_host_mark_release(mark);
    return status;
}

tess_status_t tessi_host_stream_wait_event(tess_stream_t *stream, tess_event_t *event)
{
    tessi_host_mark_t *mark = &of(event)->mark;
    /* A stream is in order with itself, and what was reached needs no entry. */
    if ((void *)mark->stream == (void *)stream) return TESS_OK;
    if (tessi_host_mark_query(mark) == TESS_OK) return TESS_OK;
    tessi_host_mark_t copy = tessi_host_mark_copy(mark);
    tess_status_t status = tessi_stream_push_always(stream, wait_for_mark, &copy, sizeof copy);
    if (status < 0) tessi_host_mark_release(&copy);
    return status;
}
