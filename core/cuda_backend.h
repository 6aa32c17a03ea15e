/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the CUDA back end share: the current device, errors, streams and events.
 *
 * Only files that CMake picks where there is CUDA include this.
 */
#ifndef TESSERA_CORE_CUDA_BACKEND_H
#define TESSERA_CORE_CUDA_BACKEND_H

#include <cuda_runtime_api.h>

#include "device_backend.h"

/* TESS_ERR_CUDA, or what says more, with CUDA's own text behind `what`. */
tess_status_t tessi_cuda_fail(cudaError_t error, const char *what);

/* The fault point "cuda" stands behind every call that can fail for lack of something. */
cudaError_t tessi_cuda_faulted(cudaError_t error);

/* Polls until query(handle) is no longer cudaErrorNotReady, at most timeout_ms. */
tess_status_t tessi_cuda_wait(cudaError_t (*query)(void *), void *handle, const char *what,
                              int timeout_ms);

/* stream_cuda.c: slots of the table of functions. */
tess_status_t tessi_cuda_stream_create(tess_device_t *device, tess_stream_priority_t priority,
                                       tess_stream_t **stream);
tess_status_t tessi_cuda_stream_wrap(tess_device_t *device, void *native, tess_stream_t **stream);
void tessi_cuda_stream_destroy(tess_stream_t *stream);
void *tessi_cuda_stream_native(const tess_stream_t *stream);
tess_status_t tessi_cuda_stream_synchronize(tess_stream_t *stream, int timeout_ms);
tess_status_t tessi_cuda_stream_query(tess_stream_t *stream);
tess_status_t tessi_cuda_stream_call(tess_stream_t *stream, tess_stream_function_t function,
                                     void *argument);
tess_status_t tessi_cuda_stream_copy(tess_stream_t *stream, void *destination, const void *source,
                                     int64_t bytes);
tess_status_t tessi_cuda_stream_fill(tess_stream_t *stream, void *destination, int value,
                                     int64_t bytes);

/* Streams are named by a number where one may outlive the other; 0 is no stream. */
uint64_t tessi_cuda_stream_id(const tess_stream_t *stream);

/* `stream` waits for work of stream `source_id`: it fails when that one fails, or has. */
void tessi_cuda_stream_note_wait(uint64_t source_id, tess_stream_t *stream);

/* The failure of stream `id`, as a call returns it; TESS_OK for a stream that is gone. */
tess_status_t tessi_cuda_stream_fault(uint64_t id);

/* event_cuda.c: slots of the table of functions. */
tess_status_t tessi_cuda_event_create(tess_device_t *device, tess_event_mode_t mode,
                                      tess_event_t **event);
void tessi_cuda_event_destroy(tess_event_t *event);
tess_status_t tessi_cuda_event_record(tess_event_t *event, tess_stream_t *stream);
tess_status_t tessi_cuda_stream_wait_event(tess_stream_t *stream, tess_event_t *event);
tess_status_t tessi_cuda_event_query(tess_event_t *event);
tess_status_t tessi_cuda_event_synchronize(tess_event_t *event, int timeout_ms);
tess_status_t tessi_cuda_event_elapsed(tess_event_t *start, tess_event_t *end, double *elapsed_ms);

#endif
