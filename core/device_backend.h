/* SPDX-License-Identifier: Apache-2.0 */
/* What a device back end provides: one table of functions, and structs that begin with these bases.
 *
 * device.c checks arguments (NULL, negative sizes, streams and events of another device), traces,
 * and then calls the table; a back end may rely on that.
 */
#ifndef TESSERA_CORE_DEVICE_BACKEND_H
#define TESSERA_CORE_DEVICE_BACKEND_H

#include <pthread.h>
#include <stdatomic.h>
#include <tessera/device.h>

#include "internal.h"

typedef struct tessi_device_ops tessi_device_ops_t;

struct tess_device {
    const tessi_device_ops_t *ops;
    tess_device_kind_t kind;
    int index;
    char name[32];
};

/* The first error of a stream's work. status is written last, so a reader that sees it sees detail.
 */
struct tess_stream {
    tess_device_t *device;
    _Atomic int fault_status;
    char fault_detail[512];
    pthread_mutex_t fault_lock;
};

struct tess_event {
    tess_device_t *device;
    tess_event_mode_t mode;
};

struct tessi_device_ops {
    void (*close)(tess_device_t *device);
    tess_status_t (*properties)(const tess_device_t *device, tess_device_properties_t *properties);

    tess_status_t (*allocate)(tess_device_t *device, tess_memory_kind_t kind, int64_t bytes,
                              void **pointer);
    void (*free)(tess_device_t *device, tess_memory_kind_t kind, void *pointer);

    /* pointer stands on a page, bytes > 0, and what of it is not in memory yet has room there. */
    tess_status_t (*memory_register)(tess_device_t *device, void *pointer, int64_t bytes);
    void (*memory_unregister)(tess_device_t *device, void *pointer, int64_t bytes);

    /* The base is filled by device.c after these return. */
    tess_status_t (*stream_create)(tess_device_t *device, tess_stream_priority_t priority,
                                   tess_stream_t **stream);
    tess_status_t (*stream_wrap)(tess_device_t *device, void *native, tess_stream_t **stream);
    void (*stream_destroy)(tess_stream_t *stream);
    void *(*stream_native)(const tess_stream_t *stream);
    tess_status_t (*stream_synchronize)(tess_stream_t *stream, int timeout_ms); /* >= 0 */
    tess_status_t (*stream_query)(tess_stream_t *stream);
    tess_status_t (*stream_call)(tess_stream_t *stream, tess_stream_function_t function,
                                 void *argument);
    tess_status_t (*stream_copy)(tess_stream_t *stream, void *destination, const void *source,
                                 int64_t bytes);
    tess_status_t (*stream_fill)(tess_stream_t *stream, void *destination, int value,
                                 int64_t bytes);
    tess_status_t (*stream_wait_event)(tess_stream_t *stream, tess_event_t *event);

    tess_status_t (*event_create)(tess_device_t *device, tess_event_mode_t mode,
                                  tess_event_t **event);
    void (*event_destroy)(tess_event_t *event);
    tess_status_t (*event_record)(tess_event_t *event, tess_stream_t *stream);
    tess_status_t (*event_query)(tess_event_t *event);
    tess_status_t (*event_synchronize)(tess_event_t *event, int timeout_ms);
    tess_status_t (*event_elapsed)(tess_event_t *start, tess_event_t *end, double *elapsed_ms);
};

/* device_host.c */
tess_status_t tessi_device_host_open(tess_device_t **device);

/* device_cuda.c, or device_cuda_none.c where the library is built without CUDA. */
int tessi_device_cuda_count(void);
tess_status_t tessi_device_cuda_open(int index, tess_device_t **device);
int tessi_device_cuda_owns(const void *pointer);

/* Sets the stream's own fault and no other's; 1 when it had none before. */
int tessi_stream_set_fault(tess_stream_t *stream, tess_status_t status, const char *detail);

/* Gives the stream's fault to those that wait for it. On the host it travels by itself. */
void tessi_device_cuda_spread_fault(tess_stream_t *stream);

#endif
