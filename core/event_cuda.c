/* SPDX-License-Identifier: Apache-2.0 */
/* Events of the CUDA back end. An event remembers the number of the stream that recorded it last,
 * so that whoever waits for it learns of that stream's failure, also of one that is found later.
 */
#include "cuda_backend.h"

typedef struct cuda_event {
    tess_event_t base;
    cudaEvent_t handle;
    uint64_t source_id; /* of the stream that recorded last; 0: none */
} cuda_event_t;

static cudaStream_t handle_of(const tess_stream_t *stream)
{
    return tessi_cuda_stream_native(stream);
}

static cudaError_t query_event(void *handle)
{
    return cudaEventQuery(handle);
}

tess_status_t tessi_cuda_event_create(tess_device_t *device, tess_event_mode_t mode,
                                      tess_event_t **event)
{
    cuda_event_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    TESSI_ON_DEVICE(device->index);
    cudaError_t error = tessi_cuda_faulted(cudaEventCreateWithFlags(
        &made->handle, mode == TESS_EVENT_TIMING ? cudaEventDefault : cudaEventDisableTiming));
    if (error != cudaSuccess) {
        tessi_free(made);
        return tessi_cuda_fail(error, "cannot create a CUDA event");
    }
    *event = &made->base;
    return TESS_OK;
}

void tessi_cuda_event_destroy(tess_event_t *event)
{
    (void)cudaEventDestroy(((cuda_event_t *)event)->handle);
    tessi_free(event);
}

tess_status_t tessi_cuda_event_record(tess_event_t *event, tess_stream_t *stream)
{
    cuda_event_t *cuda = (cuda_event_t *)event;
    TESSI_ON_DEVICE(stream->device->index);
    cudaError_t error = cudaEventRecord(cuda->handle, handle_of(stream));
    if (error != cudaSuccess) return tessi_cuda_fail(error, "cannot record an event");
    cuda->source_id = tessi_cuda_stream_id(stream);
    return TESS_OK;
}

tess_status_t tessi_cuda_stream_wait_event(tess_stream_t *stream, tess_event_t *event)
{
    cuda_event_t *cuda = (cuda_event_t *)event;
    TESSI_ON_DEVICE(stream->device->index);
    cudaError_t error = cudaStreamWaitEvent(handle_of(stream), cuda->handle, 0);
    if (error != cudaSuccess) return tessi_cuda_fail(error, "cannot make a stream wait");
    tessi_cuda_stream_note_wait(cuda->source_id, stream);
    return TESS_OK;
}

tess_status_t tessi_cuda_event_query(tess_event_t *event)
{
    const cuda_event_t *cuda = (const cuda_event_t *)event;
    cudaError_t error = cudaEventQuery(cuda->handle);
    if (error == cudaSuccess) return tessi_cuda_stream_fault(cuda->source_id);
    if (error != cudaErrorNotReady) return tessi_cuda_fail(error, "work before a CUDA event");
    (void)cudaGetLastError();
    return TESS_NOT_READY;
}

tess_status_t tessi_cuda_event_synchronize(tess_event_t *event, int timeout_ms)
{
    cuda_event_t *cuda = (cuda_event_t *)event;
    tess_status_t status =
        tessi_cuda_wait(query_event, cuda->handle, "work before a CUDA event", timeout_ms);
    return status == TESS_OK ? tessi_cuda_stream_fault(cuda->source_id) : status;
}

tess_status_t tessi_cuda_event_elapsed(tess_event_t *start, tess_event_t *end, double *elapsed_ms)
{
    float milliseconds = 0;
    cudaError_t error = cudaEventElapsedTime(&milliseconds, ((cuda_event_t *)start)->handle,
                                             ((cuda_event_t *)end)->handle);
    if (error == cudaErrorNotReady) {
        (void)cudaGetLastError();
        return tessi_fail(TESS_ERR_STATE, "an event's mark is not reached yet");
    }
    if (error != cudaSuccess)
        return tessi_cuda_fail(error, "cannot read the time between two events");
    *elapsed_ms = (double)milliseconds;
    return TESS_OK;
}
