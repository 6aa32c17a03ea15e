/* SPDX-License-Identifier: Apache-2.0 */
/* The host back end: its table of functions, memory, and copies.
 *
 * Invariant: memory that was given out stays valid when touched. Pinned memory is locked before it
 * is given out, and refused where the lock would need more than is free, because the kernel would
 * answer such a request by killing a process.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host_backend.h"

#define ALIGNMENT_BYTES 64
#define HUGE_PAGE_BYTES ((int64_t)2 << 20)

/* Stands on the page before pinned memory, because munmap wants the size back. */
typedef struct pinned_header {
    int64_t mapped_bytes;
} pinned_header_t;

static int64_t page_bytes(void)
{
    return sysconf(_SC_PAGESIZE);
}

static tess_status_t fail_memory(int64_t bytes, const char *kind, const char *limit)
{
    int64_t total_bytes, free_bytes;
    tessi_machine_memory(&total_bytes, &free_bytes);
    return tessi_fail(TESS_ERR_OUT_OF_MEMORY,
                      "cannot allocate %" PRId64 " bytes of %s memory on the host: %s (%" PRId64
                      " of %" PRId64 " bytes are free)",
                      bytes, kind, limit, free_bytes, total_bytes);
}

static tess_status_t allocate_pageable(int64_t bytes, void **result)
{
    /* Large ranges start on a huge page and ask for them: fewer page faults and TLB misses. */
    int huge = bytes >= HUGE_PAGE_BYTES;
    size_t alignment = huge ? (size_t)HUGE_PAGE_BYTES : ALIGNMENT_BYTES;
    void *pointer = NULL;
    int error = posix_memalign(&pointer, alignment, bytes > 0 ? (size_t)bytes : ALIGNMENT_BYTES);
    if (error) return fail_memory(bytes, "pageable", strerror(error));
    /* Advice only: kernels without huge pages refuse it, and nothing is lost. */
    if (huge) (void)madvise(pointer, (size_t)bytes, MADV_HUGEPAGE);
    *result = pointer;
    return TESS_OK;
}

static tess_status_t fail_mlock(int64_t bytes, const char *what, int error)
{
    char cause[160];
    snprintf(cause, sizeof cause, "mlock: %s", strerror(error));
    return tessi_fail_lock(bytes, what, cause);
}

static tess_status_t allocate_pinned(int64_t bytes, void **result)
{
    char what[80];
    snprintf(what, sizeof what, "allocate %" PRId64 " bytes of pinned memory on the host", bytes);
    tess_status_t status = tessi_memory_check(bytes, what);
    if (status < 0) return status;
    int64_t page = page_bytes();
    if (bytes > INT64_MAX - 2 * page)
        return fail_memory(bytes, "pinned", "more than can be mapped");

    int64_t mapped_bytes = page + (bytes + page - 1) / page * page;
    unsigned char *map = mmap(NULL, (size_t)mapped_bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return fail_memory(bytes, "pinned", strerror(errno));
    if (bytes > 0 && mlock(map + page, (size_t)bytes) != 0) {
        status = fail_mlock(bytes, what, errno);
        munmap(map, (size_t)mapped_bytes);
        return status;
    }
    ((pinned_header_t *)map)->mapped_bytes = mapped_bytes;
    *result = map + page;
    return TESS_OK;
}

static tess_status_t host_allocate(tess_device_t *device, tess_memory_kind_t kind, int64_t bytes,
                                   void **pointer)
{
    (void)device;
    return kind == TESS_MEMORY_PINNED ? allocate_pinned(bytes, pointer)
                                      : allocate_pageable(bytes, pointer);
}

static void host_free(tess_device_t *device, tess_memory_kind_t kind, void *pointer)
{
    (void)device;
    if (kind != TESS_MEMORY_PINNED) {
        free(pointer);
        return;
    }
    pinned_header_t *header = (pinned_header_t *)((unsigned char *)pointer - page_bytes());
    munmap(header, (size_t)header->mapped_bytes); /* unlocks too */
}

static tess_status_t host_memory_register(tess_device_t *device, void *pointer, int64_t bytes)
{
    if (mlock(pointer, (size_t)bytes) == 0) return TESS_OK;
    int error = errno;
    char what[96];
    snprintf(what, sizeof what, "page-lock %" PRId64 " bytes of host memory for %s", bytes,
             device->name);
    tess_status_t status = fail_mlock(bytes, what, error);
    munlock(pointer, (size_t)bytes); /* pages before the one that failed stay locked otherwise */
    return status;
}

static void host_memory_unregister(tess_device_t *device, void *pointer, int64_t bytes)
{
    (void)device;
    munlock(pointer, (size_t)bytes);
}

static tess_status_t host_properties(const tess_device_t *device,
                                     tess_device_properties_t *properties)
{
    (void)device;
    tessi_machine_cpu_name(properties->name, sizeof properties->name);
    tessi_machine_memory(&properties->memory_total_bytes, &properties->memory_free_bytes);
    properties->multiprocessors = tessi_machine_cpu_count();
    properties->numa_node = -1;
    return TESS_OK;
}

static tess_status_t host_stream_wrap(tess_device_t *device, void *native, tess_stream_t **stream)
{
    (void)native;
    (void)stream;
    return tessi_fail(TESS_ERR_UNSUPPORTED, "device %s has no streams of CUDA to wrap",
                      device->name);
}

static void *host_stream_native(const tess_stream_t *stream)
{
    (void)stream;
    return NULL;
}

typedef struct call_arguments {
    tess_stream_function_t function;
    void *argument;
} call_arguments_t;

static tess_status_t run_call(void *argument)
{
    const call_arguments_t *call = argument;
    return call->function(call->argument);
}

static tess_status_t host_stream_call(tess_stream_t *stream, tess_stream_function_t function,
                                      void *argument)
{
    call_arguments_t call = {function, argument};
    return tessi_stream_push(stream, run_call, &call, sizeof call);
}

typedef struct copy_arguments {
    void *destination;
    const void *source;
    int64_t bytes;
} copy_arguments_t;

static tess_status_t run_copy(void *argument)
{
    const copy_arguments_t *copy = argument;
    memcpy(copy->destination, copy->source, (size_t)copy->bytes);
    return TESS_OK;
}

static tess_status_t host_stream_copy(tess_stream_t *stream, void *destination, const void *source,
                                      int64_t bytes)
{
    copy_arguments_t copy = {destination, source, bytes};
    return tessi_stream_push(stream, run_copy, &copy, sizeof copy);
}

typedef struct fill_arguments {
    void *destination;
    int64_t bytes;
    int value;
} fill_arguments_t;

static tess_status_t run_fill(void *argument)
{
    const fill_arguments_t *fill = argument;
    memset(fill->destination, fill->value, (size_t)fill->bytes);
    return TESS_OK;
}

static tess_status_t host_stream_fill(tess_stream_t *stream, void *destination, int value,
                                      int64_t bytes)
{
    fill_arguments_t fill = {destination, bytes, value};
    return tessi_stream_push(stream, run_fill, &fill, sizeof fill);
}

static void host_close(tess_device_t *device)
{
    tessi_free(device);
}

static const tessi_device_ops_t host_ops = {
    .close = host_close,
    .properties = host_properties,
    .allocate = host_allocate,
    .free = host_free,
    .memory_register = host_memory_register,
    .memory_unregister = host_memory_unregister,
    .stream_create = tessi_host_stream_create,
    .stream_wrap = host_stream_wrap,
    .stream_destroy = tessi_host_stream_destroy,
    .stream_native = host_stream_native,
    .stream_synchronize = tessi_host_stream_synchronize,
    .stream_query = tessi_host_stream_query,
    .stream_call = host_stream_call,
    .stream_copy = host_stream_copy,
    .stream_fill = host_stream_fill,
    .stream_wait_event = tessi_host_stream_wait_event,
    .event_create = tessi_host_event_create,
    .event_destroy = tessi_host_event_destroy,
    .event_record = tessi_host_event_record,
    .event_query = tessi_host_event_query,
    .event_synchronize = tessi_host_event_synchronize,
    .event_elapsed = tessi_host_event_elapsed,
};

tess_status_t tessi_device_host_open(tess_device_t **device)
{
    tess_device_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    made->ops = &host_ops;
    *device = made;
    return TESS_OK;
}
