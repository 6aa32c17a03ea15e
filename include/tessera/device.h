/* SPDX-License-Identifier: Apache-2.0 */
/* Devices: memory, ordered streams, events and copies, the same on CUDA and on the host.
 *
 * Work on one stream runs in order; events order streams; nothing here blocks the caller except the
 * calls named synchronize, and destroy, which waits for what is queued. On the host back end a
 * stream is a worker thread with a queue, so a missing event wait is a real race there too.
 * Errors of queued work stay with the stream: the first one is returned by every later
 * tess_stream_synchronize, and travels along tess_stream_wait_event to the streams that wait. On
 * CUDA a stream fails with any stream whose events it has waited for, also when it has passed them,
 * and an event fails with the stream that recorded it.
 *
 * Threads: a device may be used from any thread; one stream or event by one thread at a time.
 * Lifetime: streams, events and memory must be gone before their device is closed.
 */
#ifndef TESSERA_DEVICE_H
#define TESSERA_DEVICE_H

#include <stddef.h>
#include <stdint.h>
#include <tessera/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tess_device tess_device_t;
typedef struct tess_stream tess_stream_t;
typedef struct tess_event tess_event_t;

typedef enum tess_device_kind { TESS_DEVICE_HOST = 0, TESS_DEVICE_CUDA = 1 } tess_device_kind_t;

typedef enum tess_memory_kind {
    TESS_MEMORY_DEVICE = 0,  /* CUDA: device memory. Host: pageable memory, 64-byte aligned. */
    TESS_MEMORY_PINNED = 1,  /* CUDA: page-locked host memory. Host: locked with mlock. */
    TESS_MEMORY_PAGEABLE = 2 /* ordinary host memory, 64-byte aligned, on both. */
} tess_memory_kind_t;

typedef enum tess_stream_priority {
    TESS_PRIORITY_NORMAL = 0, /* compute */
    TESS_PRIORITY_HIGH = 1    /* communication that compute waits for */
} tess_stream_priority_t;

typedef struct tess_device_properties {
    tess_device_kind_t kind;
    int index;                           /* CUDA ordinal; 0 on the host */
    char name[128];                      /* "NVIDIA H200", or the CPU's model name */
    char bus_id[32];                     /* "0000:1b:00.0"; "" on the host */
    int64_t memory_total_bytes;          /* device memory, or RAM */
    int64_t memory_free_bytes;           /* free when asked */
    int multiprocessors;                 /* SMs, or CPUs this process may run on */
    int compute_major, compute_minor;    /* CUDA compute capability; 0 on the host */
    int driver_version, runtime_version; /* CUDA, 1000 * major + 10 * minor; 0 on the host */
    int numa_node;                       /* -1 where unknown */
} tess_device_properties_t;

/* Number of devices of a kind that this process can open: 1 for the host; for CUDA 0 where the
 * library was built without it or no driver answers. Initialises CUDA: do not fork afterwards. */
TESS_API int tess_device_count(tess_device_kind_t kind);

/* Opens "host", "cuda" (ordinal 0) or "cuda:N". TESS_ERR_NOT_FOUND names the devices there are.
 * Each open is independent; the caller closes it. */
TESS_API TESS_MUST_CHECK tess_status_t tess_device_open(const char *name, tess_device_t **device);

/* NULL is legal. */
TESS_API void tess_device_close(tess_device_t *device);

TESS_API tess_device_kind_t tess_device_kind(const tess_device_t *device);

/* "host", "cuda:3". Owned by the device. */
TESS_API const char *tess_device_name(const tess_device_t *device);

TESS_API TESS_MUST_CHECK tess_status_t tess_device_properties(const tess_device_t *device,
                                                              tess_device_properties_t *properties);

/* Allocates bytes >= 0 (zero gives a valid, freeable pointer), uninitialised. The message of
 * TESS_ERR_OUT_OF_MEMORY names the amount, what is free, and the limit that refused it. */
TESS_API TESS_MUST_CHECK tess_status_t tess_memory_allocate(tess_device_t *device,
                                                            tess_memory_kind_t kind, int64_t bytes,
                                                            void **pointer);

/* Frees what tess_memory_allocate gave for the same device and kind. NULL is legal. The caller sees
 * to it that no queued work still uses the memory. */
TESS_API void tess_memory_free(tess_device_t *device, tess_memory_kind_t kind, void *pointer);

/* Page-locks host memory that the caller has, so that copies of every CUDA device run from and to
 * it without staging (the host back end locks it with mlock). pointer must stand on a page, bytes
 * is > 0, and the range, up to the end of its last page, must not overlap one that is registered.
 * The caller keeps the memory, and unregisters it before it is unmapped.
 * TESS_ERR_OUT_OF_MEMORY names the amount and the limit that refused it. */
TESS_API TESS_MUST_CHECK tess_status_t tess_memory_register(tess_device_t *device, void *pointer,
                                                            int64_t bytes);

/* Ends what tess_memory_register began, with the same arguments. NULL is legal. The caller sees to
 * it that no queued work still uses the memory. */
TESS_API void tess_memory_unregister(tess_device_t *device, void *pointer, int64_t bytes);

TESS_API TESS_MUST_CHECK tess_status_t tess_stream_create(tess_device_t *device,
                                                          tess_stream_priority_t priority,
                                                          tess_stream_t **stream);

/* Wraps a caller's cudaStream_t (which the caller keeps and destroys later). CUDA devices only. */
TESS_API TESS_MUST_CHECK tess_status_t tess_stream_wrap(tess_device_t *device, void *cuda_stream,
                                                        tess_stream_t **stream);

/* Waits for queued work, at most the device's deadline (TESS_TIMEOUT_MS), then frees. NULL is
 * legal. */
TESS_API void tess_stream_destroy(tess_stream_t *stream);

TESS_API tess_device_t *tess_stream_device(const tess_stream_t *stream);

/* The cudaStream_t behind a CUDA stream; NULL on the host. */
TESS_API void *tess_stream_native(const tess_stream_t *stream);

/* Blocks until everything queued so far is done. timeout_ms < 0 takes TESS_TIMEOUT_MS (default 10
 * minutes). Returns the first error of the queued work, or TESS_ERR_TIMEOUT. */
TESS_API TESS_MUST_CHECK tess_status_t tess_stream_synchronize(tess_stream_t *stream,
                                                               int timeout_ms);

/* TESS_OK when idle, TESS_NOT_READY when work is queued, else the stream's error. */
TESS_API TESS_MUST_CHECK tess_status_t tess_stream_query(tess_stream_t *stream);

/* Queues function(argument) in stream order, on a thread of the back end. It must not call into
 * CUDA. A failure that it returns becomes the stream's error. */
typedef tess_status_t (*tess_stream_function_t)(void *argument);
TESS_API TESS_MUST_CHECK tess_status_t tess_stream_call(tess_stream_t *stream,
                                                        tess_stream_function_t function,
                                                        void *argument);

/* Queues a copy of `bytes` between any two of device, pinned and pageable memory; CUDA infers the
 * direction from the pointers. The ranges must not overlap. */
TESS_API TESS_MUST_CHECK tess_status_t tess_stream_copy(tess_stream_t *stream, void *destination,
                                                        const void *source, int64_t bytes);

/* Queues a fill of device memory with one byte value (0 to 255). */
TESS_API TESS_MUST_CHECK tess_status_t tess_stream_fill(tess_stream_t *stream, void *destination,
                                                        int value, int64_t bytes);

typedef enum tess_event_mode {
    TESS_EVENT_ORDER = 0, /* orders streams only; the cheap one */
    TESS_EVENT_TIMING = 1 /* also keeps a time stamp for tess_event_elapsed */
} tess_event_mode_t;

TESS_API TESS_MUST_CHECK tess_status_t tess_event_create(tess_device_t *device,
                                                         tess_event_mode_t mode,
                                                         tess_event_t **event);
TESS_API void tess_event_destroy(tess_event_t *event);

/* Marks the point reached by what is queued on stream. Recording again moves the mark; waits that
 * were queued before keep the earlier one. */
TESS_API TESS_MUST_CHECK tess_status_t tess_event_record(tess_event_t *event,
                                                         tess_stream_t *stream);

/* Work queued on stream from now on starts after the event's latest mark. An event that was never
 * recorded is passed. */
TESS_API TESS_MUST_CHECK tess_status_t tess_stream_wait_event(tess_stream_t *stream,
                                                              tess_event_t *event);

/* TESS_OK when the latest mark was reached (or never recorded), TESS_NOT_READY before. */
TESS_API TESS_MUST_CHECK tess_status_t tess_event_query(tess_event_t *event);

/* Blocks until the latest mark is reached; timeout_ms as tess_stream_synchronize. */
TESS_API TESS_MUST_CHECK tess_status_t tess_event_synchronize(tess_event_t *event, int timeout_ms);

/* Milliseconds from start's mark to end's. Both must be TESS_EVENT_TIMING and reached. */
TESS_API TESS_MUST_CHECK tess_status_t tess_event_elapsed(tess_event_t *start, tess_event_t *end,
                                                          double *elapsed_ms);

#ifdef __cplusplus
}
#endif
#endif
