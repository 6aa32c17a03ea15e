/* SPDX-License-Identifier: Apache-2.0 */
/* The public device interface: checks arguments, opens a trace range, calls the back end's table.
 *
 * Invariant: a back end is never called with NULL, a negative size, or a stream and an event of
 * different kinds of device; and outputs are written only on success. Errors of queued work are
 * kept here, once for all back ends.
 */
#include "device_backend.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAMES_BYTES 256

/* Returns with a sentence that names the call and the argument when it is NULL. */
#define CHECK_POINTER(call, pointer)                                                               \
    do {                                                                                           \
        if (!(pointer))                                                                            \
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: %s is NULL", call, #pointer);        \
    } while (0)

/* --- errors of queued work -------------------------------------------------------------------- */

int tessi_stream_set_fault(tess_stream_t *stream, tess_status_t status, const char *detail)
{
    pthread_mutex_lock(&stream->fault_lock);
    int is_first = atomic_load_explicit(&stream->fault_status, memory_order_relaxed) == TESS_OK;
    if (is_first) {
        snprintf(stream->fault_detail, sizeof stream->fault_detail, "%s", detail);
        atomic_store_explicit(&stream->fault_status, (int)status, memory_order_release);
    }
    pthread_mutex_unlock(&stream->fault_lock);
    return is_first;
}

void tessi_stream_fail(tess_stream_t *stream, tess_status_t status, const char *detail)
{
    int is_first = tessi_stream_set_fault(stream, status, detail);
    if (is_first && stream->device->kind == TESS_DEVICE_CUDA)
        tessi_device_cuda_spread_fault(stream);
}

tess_status_t tessi_stream_fault(const tess_stream_t *stream)
{
    int status = atomic_load_explicit(&stream->fault_status, memory_order_acquire);
    if (status == TESS_OK) return TESS_OK;
    return tessi_fail((tess_status_t)status, "%s", stream->fault_detail);
}

/* --- devices ---------------------------------------------------------------------------------- */

int tess_device_count(tess_device_kind_t kind)
{
    if (kind == TESS_DEVICE_HOST) return 1;
    return kind == TESS_DEVICE_CUDA ? tessi_device_cuda_count() : 0;
}

/* "host, cuda:0, cuda:1". */
static void list_devices(int cuda_count, char *names, size_t names_bytes)
{
    size_t length = (size_t)snprintf(names, names_bytes, "host");
    for (int i = 0; i < cuda_count && length < names_bytes; i++)
        length += (size_t)snprintf(names + length, names_bytes - length, ", cuda:%d", i);
}

/* The ordinal in "cuda" or "cuda:N"; -1 for anything else. */
static int parse_cuda_index(const char *name)
{
    if (strcmp(name, "cuda") == 0) return 0;
    if (strncmp(name, "cuda:", 5) != 0) return -1;
    const char *digits = name + 5;
    size_t count = strspn(digits, "0123456789");
    if (count == 0 || count > 6 || digits[count]) return -1;
    return atoi(digits);
}

static tess_status_t open_by_name(const char *name, tess_device_t **device)
{
    if (strcmp(name, "host") == 0) {
        tess_status_t status = tessi_device_host_open(device);
        if (status < 0) return status;
        (*device)->kind = TESS_DEVICE_HOST;
        (*device)->index = 0;
        snprintf((*device)->name, sizeof(*device)->name, "host");
        return TESS_OK;
    }
    int index = parse_cuda_index(name), count = tess_device_count(TESS_DEVICE_CUDA);
    if (index < 0 || index >= count) {
        char names[NAMES_BYTES];
        list_devices(count, names, sizeof names);
        return tessi_fail(
            TESS_ERR_NOT_FOUND, "there is no device \"%s\" here%s; there are: %s", name,
            index >= 0 && count == 0 ? " (built without CUDA, or no CUDA driver and device answer)"
                                     : "",
            names);
    }
    tess_status_t status = tessi_device_cuda_open(index, device);
    if (status < 0) return status;
    (*device)->kind = TESS_DEVICE_CUDA;
    (*device)->index = index;
    snprintf((*device)->name, sizeof(*device)->name, "cuda:%d", index);
    return TESS_OK;
}

tess_status_t tess_device_open(const char *name, tess_device_t **device)
{
    CHECK_POINTER("tess_device_open", name);
    CHECK_POINTER("tess_device_open", device);
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "device_open", -1, -1);
    tess_device_t *opened = NULL;
    tess_status_t status = open_by_name(name, &opened);
    if (status < 0) return status;
    *device = opened;
    return TESS_OK;
}

void tess_device_close(tess_device_t *device)
{
    if (!device) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "device_close", -1, -1);
    device->ops->close(device);
}

tess_device_kind_t tess_device_kind(const tess_device_t *device)
{
    return device->kind;
}

int tessi_device_index(const tess_device_t *device)
{
    return device->index;
}

const char *tess_device_name(const tess_device_t *device)
{
    return device->name;
}

tess_status_t tess_device_properties(const tess_device_t *device,
                                     tess_device_properties_t *properties)
{
    CHECK_POINTER("tess_device_properties", device);
    CHECK_POINTER("tess_device_properties", properties);
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "device_properties", -1, -1);
    tess_device_properties_t found = {
        .kind = device->kind, .index = device->index, .numa_node = -1};
    tess_status_t status = device->ops->properties(device, &found);
    if (status < 0) return status;
    *properties = found;
    return TESS_OK;
}

int tessi_pointer_is_device(const void *pointer)
{
    return tessi_device_cuda_owns(pointer);
}

/* --- memory ----------------------------------------------------------------------------------- */

static int is_memory_kind(tess_memory_kind_t kind)
{
    return kind == TESS_MEMORY_DEVICE || kind == TESS_MEMORY_PINNED || kind == TESS_MEMORY_PAGEABLE;
}

tess_status_t tess_memory_allocate(tess_device_t *device, tess_memory_kind_t kind, int64_t bytes,
                                   void **pointer)
{
    CHECK_POINTER("tess_memory_allocate", device);
    CHECK_POINTER("tess_memory_allocate", pointer);
    if (!is_memory_kind(kind))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_memory_allocate: %d is no memory kind",
                          (int)kind);
    if (bytes < 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_memory_allocate: bytes is %" PRId64 ", but must not be negative",
                          bytes);
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "memory_allocate", bytes, -1);
    if (tessi_fault("memory"))
        return tessi_fail(TESS_ERR_OUT_OF_MEMORY,
                          "cannot allocate %" PRId64 " bytes on %s: injected fault", bytes,
                          device->name);
    void *allocated = NULL;
    tess_status_t status = device->ops->allocate(device, kind, bytes, &allocated);
    if (status == TESS_OK) *pointer = allocated;
    return status;
}

void tess_memory_free(tess_device_t *device, tess_memory_kind_t kind, void *pointer)
{
    if (!pointer) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "memory_free", -1, -1);
    device->ops->free(device, kind, pointer);
}

tess_status_t tess_memory_register(tess_device_t *device, void *pointer, int64_t bytes)
{
    CHECK_POINTER("tess_memory_register", device);
    CHECK_POINTER("tess_memory_register", pointer);
    int64_t page_bytes = sysconf(_SC_PAGESIZE);
    if ((uintptr_t)pointer % (uintptr_t)page_bytes != 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_memory_register: pointer is %p, but must stand on a page (of "
                          "%" PRId64 " bytes)",
                          pointer, page_bytes);
    if (bytes <= 0 || (uint64_t)bytes > UINTPTR_MAX - (uintptr_t)pointer)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_memory_register: there are no %" PRId64 " bytes from %p on", bytes,
                          pointer);
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "memory_register", bytes, -1);
    char what[96];
    snprintf(what, sizeof what, "page-lock %" PRId64 " bytes of host memory for %s", bytes,
             device->name);
    if (tessi_fault("memory"))
        return tessi_fail(TESS_ERR_OUT_OF_MEMORY, "cannot %s: injected fault", what);
    tess_status_t status = tessi_memory_check(tessi_memory_absent(pointer, bytes), what);
    return status < 0 ? status : device->ops->memory_register(device, pointer, bytes);
}

void tess_memory_unregister(tess_device_t *device, void *pointer, int64_t bytes)
{
    if (!pointer) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "memory_unregister", bytes, -1);
    device->ops->memory_unregister(device, pointer, bytes);
}

/* --- streams ---------------------------------------------------------------------------------- */

/* Fills the base of a new stream and hands it out, unless the back end failed to make it. */
static tess_status_t hand_out_stream(tess_status_t status, tess_device_t *device,
                                     tess_stream_t *made, tess_stream_t **stream)
{
    if (status < 0) return status;
    made->device = device;
    made->fault_detail[0] = '\0';
    atomic_init(&made->fault_status, TESS_OK);
    pthread_mutex_init(&made->fault_lock, NULL);
    *stream = made;
    return TESS_OK;
}

tess_status_t tess_stream_create(tess_device_t *device, tess_stream_priority_t priority,
                                 tess_stream_t **stream)
{
    CHECK_POINTER("tess_stream_create", device);
    CHECK_POINTER("tess_stream_create", stream);
    if (priority != TESS_PRIORITY_NORMAL && priority != TESS_PRIORITY_HIGH)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_stream_create: %d is no priority",
                          (int)priority);
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "stream_create", -1, -1);
    tess_stream_t *made = NULL;
    tess_status_t status = device->ops->stream_create(device, priority, &made);
    return hand_out_stream(status, device, made, stream);
}

tess_status_t tess_stream_wrap(tess_device_t *device, void *cuda_stream, tess_stream_t **stream)
{
    /* A NULL cudaStream_t is CUDA's default stream, and legal. */
    CHECK_POINTER("tess_stream_wrap", device);
    CHECK_POINTER("tess_stream_wrap", stream);
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "stream_wrap", -1, -1);
    tess_stream_t *made = NULL;
    tess_status_t status = device->ops->stream_wrap(device, cuda_stream, &made);
    return hand_out_stream(status, device, made, stream);
}

void tess_stream_destroy(tess_stream_t *stream)
{
    if (!stream) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "stream_destroy", -1, -1);
    stream->device->ops->stream_destroy(stream);
}

tess_device_t *tess_stream_device(const tess_stream_t *stream)
{
    return stream->device;
}

void *tess_stream_native(const tess_stream_t *stream)
{
    return stream->device->ops->stream_native(stream);
}

tess_status_t tess_stream_synchronize(tess_stream_t *stream, int timeout_ms)
{
    CHECK_POINTER("tess_stream_synchronize", stream);
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "stream_synchronize", -1, -1);
    tess_status_t status =
        stream->device->ops->stream_synchronize(stream, tessi_timeout_or_default(timeout_ms));
    /* Work that still runs may use memory, so a missed deadline is told before any error; an error
     * of the queued work explains more than what waiting for it gave. */
    if (status == TESS_ERR_TIMEOUT || status == TESS_ERR_STATE) return status;
    tess_status_t fault = tessi_stream_fault(stream);
    return fault < 0 ? fault : status;
}

tess_status_t tess_stream_query(tess_stream_t *stream)
{
    CHECK_POINTER("tess_stream_query", stream);
    tess_status_t status = stream->device->ops->stream_query(stream);
    if (status == TESS_NOT_READY) return status;
    tess_status_t fault = tessi_stream_fault(stream);
    return fault < 0 ? fault : status;
}

tess_status_t tess_stream_call(tess_stream_t *stream, tess_stream_function_t function,
                               void *argument)
{
    CHECK_POINTER("tess_stream_call", stream);
    CHECK_POINTER("tess_stream_call", function);
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "stream_call", -1, -1);
    return stream->device->ops->stream_call(stream, function, argument);
}

static int overlap(const void *a, const void *b, int64_t bytes)
{
    uintptr_t low = (uintptr_t)a < (uintptr_t)b ? (uintptr_t)a : (uintptr_t)b;
    uintptr_t high = (uintptr_t)a < (uintptr_t)b ? (uintptr_t)b : (uintptr_t)a;
    return high - low < (uintptr_t)bytes;
}

tess_status_t tess_stream_copy(tess_stream_t *stream, void *destination, const void *source,
                               int64_t bytes)
{
    CHECK_POINTER("tess_stream_copy", stream);
    if (bytes < 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_stream_copy: bytes is %" PRId64 ", but must not be negative",
                          bytes);
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "stream_copy", bytes, -1);
    if (bytes == 0) return TESS_OK;
    CHECK_POINTER("tess_stream_copy", destination);
    CHECK_POINTER("tess_stream_copy", source);
    if (overlap(destination, source, bytes))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_stream_copy: the %" PRId64 " bytes at %p and at %p overlap", bytes,
                          destination, source);
    return stream->device->ops->stream_copy(stream, destination, source, bytes);
}

tess_status_t tess_stream_fill(tess_stream_t *stream, void *destination, int value, int64_t bytes)
{
    CHECK_POINTER("tess_stream_fill", stream);
    if (bytes < 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_stream_fill: bytes is %" PRId64 ", but must not be negative",
                          bytes);
    if (value < 0 || value > 255)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_stream_fill: value is %d, but must be from 0 to 255", value);
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "stream_fill", bytes, -1);
    if (bytes == 0) return TESS_OK;
    CHECK_POINTER("tess_stream_fill", destination);
    return stream->device->ops->stream_fill(stream, destination, value, bytes);
}

/* --- events ----------------------------------------------------------------------------------- */

static tess_status_t check_pair(const char *call, const tess_stream_t *stream,
                                const tess_event_t *event)
{
    CHECK_POINTER(call, stream);
    CHECK_POINTER(call, event);
    if (stream->device->kind != event->device->kind)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: the stream is of device %s, but the event of %s", call,
                          stream->device->name, event->device->name);
    return TESS_OK;
}

tess_status_t tess_stream_wait_event(tess_stream_t *stream, tess_event_t *event)
{
    tess_status_t status = check_pair("tess_stream_wait_event", stream, event);
    if (status < 0) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "stream_wait_event", -1, -1);
    return stream->device->ops->stream_wait_event(stream, event);
}

tess_status_t tess_event_create(tess_device_t *device, tess_event_mode_t mode, tess_event_t **event)
{
    CHECK_POINTER("tess_event_create", device);
    CHECK_POINTER("tess_event_create", event);
    if (mode != TESS_EVENT_ORDER && mode != TESS_EVENT_TIMING)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_event_create: %d is no event mode",
                          (int)mode);
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "event_create", -1, -1);
    tess_event_t *made = NULL;
    tess_status_t status = device->ops->event_create(device, mode, &made);
    if (status < 0) return status;
    made->device = device;
    made->mode = mode;
    *event = made;
    return TESS_OK;
}

void tess_event_destroy(tess_event_t *event)
{
    if (!event) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "event_destroy", -1, -1);
    event->device->ops->event_destroy(event);
}

tess_status_t tess_event_record(tess_event_t *event, tess_stream_t *stream)
{
    tess_status_t status = check_pair("tess_event_record", stream, event);
    if (status < 0) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "event_record", -1, -1);
    return event->device->ops->event_record(event, stream);
}

tess_status_t tess_event_query(tess_event_t *event)
{
    CHECK_POINTER("tess_event_query", event);
    return event->device->ops->event_query(event);
}

tess_status_t tess_event_synchronize(tess_event_t *event, int timeout_ms)
{
    CHECK_POINTER("tess_event_synchronize", event);
    TESSI_TRACE_SCOPE(TESS_TRACE_CORE, "event_synchronize", -1, -1);
    return event->device->ops->event_synchronize(event, tessi_timeout_or_default(timeout_ms));
}

tess_status_t tess_event_elapsed(tess_event_t *start, tess_event_t *end, double *elapsed_ms)
{
    CHECK_POINTER("tess_event_elapsed", start);
    CHECK_POINTER("tess_event_elapsed", end);
    CHECK_POINTER("tess_event_elapsed", elapsed_ms);
    if (start->mode != TESS_EVENT_TIMING || end->mode != TESS_EVENT_TIMING)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_event_elapsed: the %s event was not created with TESS_EVENT_TIMING",
                          start->mode == TESS_EVENT_TIMING ? "end" : "start");
    if (start->device->kind != end->device->kind)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_event_elapsed: start is of device %s, but end of %s",
                          start->device->name, end->device->name);
    tess_event_t *const events[] = {start, end};
    for (int i = 0; i < 2; i++) {
        tess_status_t status = tess_event_query(events[i]);
        if (status < 0) return status;
        if (status == TESS_NOT_READY)
            return tessi_fail(TESS_ERR_STATE, "tess_event_elapsed: the %s event is not reached yet",
                              i ? "end" : "start");
    }
    return start->device->ops->event_elapsed(start, end, elapsed_ms);
}
