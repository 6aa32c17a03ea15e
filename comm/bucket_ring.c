/* SPDX-License-Identifier: Apache-2.0 */
/* The ring of buffers behind the gatherer and the reducer, and the sets of streams to wait for.
 *
 * Invariant: a bucket lies in at most one buffer, and buffer_of and buffers agree about it. All
 * events are created here at set-up and live as long as the ring; memory is given back only once no
 * known work uses it.
 */
#include <stdio.h>
#include <string.h>

#include "bucket_internal.h"
#include "comm_internal.h"

/* Buffers start on pages, so that no two of them share one. */
#define RING_PAGE_BYTES 4096

#define RING_BUFFERS_DEFAULT 2

tess_status_t tessi_marks_create(tess_device_t *device, tessi_marks_t *marks)
{
    for (int m = 0; m < TESSI_MARKS_MAX; m++) {
        tess_status_t status = tess_event_create(device, TESS_EVENT_ORDER, &marks->events[m]);
        if (status) return status;
    }
    return TESS_OK;
}

void tessi_marks_destroy(tessi_marks_t *marks)
{
    for (int m = 0; m < TESSI_MARKS_MAX; m++) tess_event_destroy(marks->events[m]);
    memset(marks, 0, sizeof *marks);
}

tess_status_t tessi_marks_record(tessi_marks_t *marks, tess_stream_t *stream, const char *what,
                                 int64_t bucket)
{
    int m = 0;
    while (m < marks->count && marks->streams[m] != stream) m++;
    if (m == TESSI_MARKS_MAX)
        return tessi_fail(
            TESS_ERR_STATE,
            "%s: bucket %lld is used on more than %d different streams; order some of "
            "them with events and hand in one",
            what, (long long)bucket, TESSI_MARKS_MAX);
    tess_status_t status = tess_event_record(marks->events[m], stream);
    if (status) return status;
    marks->streams[m] = stream;
    if (m == marks->count) marks->count++;
    return TESS_OK;
}

tess_status_t tessi_marks_wait(const tessi_marks_t *marks, tess_stream_t *stream)
{
    for (int m = 0; m < marks->count; m++) {
        if (marks->streams[m] == stream) continue; /* its own work is in order anyway */
        tess_status_t status = tess_stream_wait_event(stream, marks->events[m]);
        if (status) return status;
    }
    return TESS_OK;
}

int tessi_marks_drain(const tessi_marks_t *marks, int64_t deadline_ns)
{
    int drained = 1;
    for (int m = 0; m < marks->count; m++) {
        int64_t left_ms = (deadline_ns - tessi_now_ns()) / 1000000;
        tess_status_t status =
            tess_event_synchronize(marks->events[m], left_ms > 0 ? (int)left_ms : 0);
        if (status == TESS_ERR_TIMEOUT) drained = 0;
    }
    return drained;
}

static tess_status_t prepare_buffers(tessi_ring_t *ring, tess_device_t *device)
{
    ring->buffers = tessi_calloc((size_t)ring->buffer_count, sizeof *ring->buffers);
    if (!ring->buffers) return TESS_ERR_OUT_OF_MEMORY;
    for (int b = 0; b < ring->buffer_count; b++) {
        tessi_ring_buffer_t *buffer = &ring->buffers[b];
        buffer->bucket = -1;
        tess_status_t status = tess_event_create(device, TESS_EVENT_ORDER, &buffer->finished);
        if (status) return status;
        status = tessi_marks_create(device, &buffer->consumers);
        if (status) return status;
    }
    return TESS_OK;
}

tess_status_t tessi_ring_prepare(tessi_ring_t *ring, tess_comm_t *comm,
                                 const tess_bucket_plan_t *plan, const char *what, int buffer_count)
{
    ring->comm = comm;
    ring->plan = plan;
    ring->what = what;
    if (buffer_count < 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: buffer_count is %d; it must be at least 1", what, buffer_count);
    ring->buffer_count = buffer_count ? buffer_count : RING_BUFFERS_DEFAULT;
    ring->element_bytes = tess_dtype_bytes(tess_bucket_plan_dtype(plan));
    int64_t largest_bytes = tess_bucket_plan_largest_count(plan) * ring->element_bytes, total_bytes;
    if (largest_bytes == 0) largest_bytes = 1; /* so that the pointers are distinct and valid */
    ring->stride_bytes = (largest_bytes + RING_PAGE_BYTES - 1) / RING_PAGE_BYTES * RING_PAGE_BYTES;
    if (__builtin_mul_overflow(ring->stride_bytes, (int64_t)ring->buffer_count, &total_bytes))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: %d buffers of %lld bytes are over 2^63",
                          what, ring->buffer_count, (long long)ring->stride_bytes);

    int64_t bucket_count = tess_bucket_plan_bucket_count(plan);
    ring->buffer_of = tessi_calloc(bucket_count ? (size_t)bucket_count : 1, sizeof(int));
    if (!ring->buffer_of) return TESS_ERR_OUT_OF_MEMORY;
    for (int64_t b = 0; b < bucket_count; b++) ring->buffer_of[b] = -1;
    tess_device_t *device = tess_comm_device(comm);
    tess_status_t status = prepare_buffers(ring, device);
    if (status) return status;
    return tess_stream_create(device, TESS_PRIORITY_HIGH, &ring->stream);
}

tess_status_t tessi_ring_allocate(tessi_ring_t *ring)
{
    void *memory = NULL;
    tess_status_t status =
        tess_comm_allocate(ring->comm, ring->stride_bytes * ring->buffer_count, &memory);
    if (status) return status;
    ring->memory = memory;
    for (int b = 0; b < ring->buffer_count; b++)
        ring->buffers[b].memory = ring->memory + b * ring->stride_bytes;
    return TESS_OK;
}

/* 1 when neither the ring's stream nor a producer or consumer can still touch the memory. */
static int drain(tessi_ring_t *ring)
{
    int64_t deadline_ns = tessi_deadline_ns(ring->comm->timeout_ms);
    int drained = tess_stream_synchronize(ring->stream, ring->comm->timeout_ms) != TESS_ERR_TIMEOUT;
    if (!drained) {
        /* A collective that is stuck beyond its deadline only ends with its communicator. */
        tess_comm_abort(ring->comm);
        tess_status_t status = tess_stream_synchronize(ring->stream, ring->comm->timeout_ms);
        drained = status != TESS_ERR_TIMEOUT;
    }
    for (int b = 0; b < ring->buffer_count; b++) {
        drained &= tessi_marks_drain(&ring->buffers[b].producers, deadline_ns);
        drained &= tessi_marks_drain(&ring->buffers[b].consumers, deadline_ns);
    }
    return drained;
}

void tessi_ring_close(tessi_ring_t *ring)
{
    if (ring->memory) {
        if (drain(ring)) tess_comm_free(ring->comm, ring->memory);
        else
            tessi_log(TESSI_LOG_ERROR,
                      "%s on communicator %s was destroyed while a stream still used its buffers; "
                      "they are kept until the communicator is closed",
                      ring->what, ring->comm->name);
    }
    tess_stream_destroy(ring->stream);
    for (int b = 0; ring->buffers && b < ring->buffer_count; b++) {
        tess_event_destroy(ring->buffers[b].finished);
        tessi_marks_destroy(&ring->buffers[b].producers);
        tessi_marks_destroy(&ring->buffers[b].consumers);
    }
    tessi_free(ring->buffers);
    tessi_free(ring->buffer_of);
    memset(ring, 0, sizeof *ring);
}

tess_status_t tessi_ring_check(const tessi_ring_t *ring, int64_t bucket,
                               const tess_stream_t *stream, const char *function)
{
    tess_status_t status = tess_comm_status(ring->comm);
    if (status) return status;
    int64_t bucket_count = tess_bucket_plan_bucket_count(ring->plan);
    if (bucket < 0 || bucket >= bucket_count)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: bucket %lld is not one of the plan's %lld", function,
                          (long long)bucket, (long long)bucket_count);
    if (!stream) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: stream is NULL", function);
    return TESS_OK;
}

tessi_ring_buffer_t *tessi_ring_find(const tessi_ring_t *ring, int64_t bucket)
{
    int index = ring->buffer_of[bucket];
    return index < 0 ? NULL : &ring->buffers[index];
}

void tessi_ring_assign(tessi_ring_t *ring, tessi_ring_buffer_t *buffer, int64_t bucket)
{
    if (buffer->bucket >= 0) ring->buffer_of[buffer->bucket] = -1;
    buffer->bucket = bucket;
    if (bucket >= 0) ring->buffer_of[bucket] = (int)(buffer - ring->buffers);
}

char *tessi_ring_slice(const tessi_ring_t *ring, const tessi_ring_buffer_t *buffer)
{
    int64_t slice_count = tess_bucket_plan_bucket(ring->plan, buffer->bucket).slice_count;
    return buffer->memory + tess_comm_rank(ring->comm) * slice_count * ring->element_bytes;
}

int64_t tessi_ring_bucket_bytes(const tessi_ring_t *ring, int64_t bucket)
{
    return tess_bucket_plan_bucket(ring->plan, bucket).padded_count * ring->element_bytes;
}

const char *tessi_ring_text(const tessi_ring_t *ring, char *text, int64_t text_bytes)
{
    int64_t length = 0;
    text[0] = '\0';
    for (int b = 0; b < ring->buffer_count && length < text_bytes; b++) {
        if (ring->buffers[b].bucket < 0) continue;
        length += snprintf(text + length, (size_t)(text_bytes - length), "%s%lld",
                           length ? ", " : "", (long long)ring->buffers[b].bucket);
    }
    return text;
}
