/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of the CUDA back end, and how a failure travels from one to those that wait for it.
 *
 * CUDA's own streams know nothing of failures that are found beside them, by a watchdog or a host
 * function. Invariant: every stream that has waited for an event of a stream is in that stream's
 * list of waiters (the latest WAITERS_MAX of them), and fails with it. A waiter may have passed the
 * event long ago; that it fails all the same is the price of not asking the GPU.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "cuda_backend.h"

/* Host functions that may be queued on one stream before tess_stream_call waits for the oldest. */
#define CALL_SLOTS 256
#define WAITERS_MAX 32

typedef struct cuda_call {
    tess_stream_t *stream;
    tess_stream_function_t function;
    void *argument;
    _Atomic int busy;
} cuda_call_t;

typedef struct cuda_stream {
    tess_stream_t base;
    cudaStream_t handle;
    int owned;
    uint64_t id;
    struct cuda_stream *next;      /* the next one alive */
    uint64_t waiters[WAITERS_MAX]; /* ids; the waiter_count latest, round and round */
    uint64_t waiter_count;
    int64_t calls; /* queued so far; the next one takes slot calls % CALL_SLOTS */
    cuda_call_t slots[CALL_SLOTS];
} cuda_stream_t;

/* All streams alive; the lock also guards their waiters. */
static pthread_mutex_t alive_lock = PTHREAD_MUTEX_INITIALIZER;
static cuda_stream_t *alive;
static uint64_t last_id;

static cudaStream_t handle_of(const tess_stream_t *stream)
{
    return ((const cuda_stream_t *)stream)->handle;
}

/* --- failures that travel ----------------------------------------------------------------------
 */

static cuda_stream_t *find_alive(uint64_t id)
{
    cuda_stream_t *stream = alive;
    while (stream && stream->id != id) stream = stream->next;
    return stream;
}

static void spread(const cuda_stream_t *from)
{
    uint64_t count = from->waiter_count < WAITERS_MAX ? from->waiter_count : WAITERS_MAX;
    for (uint64_t w = 0; w < count; w++) {
        cuda_stream_t *waiter = find_alive(from->waiters[w]);
        if (waiter && tessi_stream_set_fault(&waiter->base,
                                             (tess_status_t)atomic_load(&from->base.fault_status),
                                             from->base.fault_detail))
            spread(waiter); /* ends: each stream is set once */
    }
}

void tessi_device_cuda_spread_fault(tess_stream_t *stream)
{
    pthread_mutex_lock(&alive_lock);
    spread((cuda_stream_t *)stream);
    pthread_mutex_unlock(&alive_lock);
}

uint64_t tessi_cuda_stream_id(const tess_stream_t *stream)
{
    return ((const cuda_stream_t *)stream)->id;
}

static void add_waiter(cuda_stream_t *source, uint64_t id)
{
    uint64_t count = source->waiter_count < WAITERS_MAX ? source->waiter_count : WAITERS_MAX;
    for (uint64_t w = 0; w < count; w++)
        if (source->waiters[w] == id) return;
    source->waiters[source->waiter_count++ % WAITERS_MAX] = id;
}

void tessi_cuda_stream_note_wait(uint64_t source_id, tess_stream_t *stream)
{
    cuda_stream_t *waiter = (cuda_stream_t *)stream;
    pthread_mutex_lock(&alive_lock);
    cuda_stream_t *source = find_alive(source_id);
    if (source && source != waiter) {
        add_waiter(source, waiter->id);
        if (atomic_load_explicit(&source->base.fault_status, memory_order_acquire) != TESS_OK)
            spread(source);
    }
    pthread_mutex_unlock(&alive_lock);
}

tess_status_t tessi_cuda_stream_fault(uint64_t id)
{
    pthread_mutex_lock(&alive_lock);
    const cuda_stream_t *stream = find_alive(id);
    tess_status_t status = stream ? tessi_stream_fault(&stream->base) : TESS_OK;
    pthread_mutex_unlock(&alive_lock);
    return status;
}

static void join_alive(cuda_stream_t *stream)
{
    pthread_mutex_lock(&alive_lock);
    stream->id = ++last_id;
    stream->next = alive;
    alive = stream;
    pthread_mutex_unlock(&alive_lock);
}

static void leave_alive(cuda_stream_t *stream)
{
    pthread_mutex_lock(&alive_lock);
    cuda_stream_t **link = &alive;
    while (*link != stream) link = &(*link)->next;
    *link = stream->next;
    pthread_mutex_unlock(&alive_lock);
}

/* --- the slots of the table --------------------------------------------------------------------
 */

tess_status_t tessi_cuda_stream_wrap(tess_device_t *device, void *native, tess_stream_t **stream)
{
    (void)device;
    cuda_stream_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    made->handle = native;
    join_alive(made);
    *stream = &made->base;
    return TESS_OK;
}

tess_status_t tessi_cuda_stream_create(tess_device_t *device, tess_stream_priority_t priority,
                                       tess_stream_t **stream)
{
    tess_status_t status = tessi_cuda_stream_wrap(device, NULL, stream);
    if (status != TESS_OK) return status;

    cuda_stream_t *made = (cuda_stream_t *)*stream;
    int lowest = 0, highest = 0;
    TESSI_ON_DEVICE(device->index);
    cudaError_t error = cudaDeviceGetStreamPriorityRange(&lowest, &highest);
    if (error == cudaSuccess)
        error = tessi_cuda_faulted(
            cudaStreamCreateWithPriority(&made->handle, cudaStreamNonBlocking,
                                         priority == TESS_PRIORITY_HIGH ? highest : lowest));
    if (error == cudaSuccess) {
        made->owned = 1;
        return TESS_OK;
    }
    leave_alive(made);
    tessi_free(made);
    *stream = NULL;
    return tessi_cuda_fail(error, "cannot create a CUDA stream");
}

static cudaError_t query_stream(void *handle)
{
    return cudaStreamQuery(handle);
}

tess_status_t tessi_cuda_stream_synchronize(tess_stream_t *stream, int timeout_ms)
{
    TESSI_ON_DEVICE(stream->device->index); /* the NULL stream is the current device's */
    return tessi_cuda_wait(query_stream, handle_of(stream), "work queued on a CUDA stream",
                           timeout_ms);
}

tess_status_t tessi_cuda_stream_query(tess_stream_t *stream)
{
    TESSI_ON_DEVICE(stream->device->index);
    cudaError_t error = cudaStreamQuery(handle_of(stream));
    if (error == cudaSuccess) return TESS_OK;
    if (error != cudaErrorNotReady) return tessi_cuda_fail(error, "work queued on a CUDA stream");
    (void)cudaGetLastError();
    return TESS_NOT_READY;
}

void tessi_cuda_stream_destroy(tess_stream_t *stream)
{
    cuda_stream_t *cuda = (cuda_stream_t *)stream;
    tess_status_t status = tessi_cuda_stream_synchronize(stream, tessi_timeout_or_default(-1));
    leave_alive(cuda);
    if (cuda->owned) (void)cudaStreamDestroy(cuda->handle); /* CUDA lets its work end first */
    if (status == TESS_ERR_TIMEOUT)
        tessi_log(TESSI_LOG_ERROR,
                  "a stream of %s was destroyed while its work still runs (%s); what belongs to "
                  "that work is left behind",
                  stream->device->name, tess_last_error());
    else tessi_free(cuda);
}

void *tessi_cuda_stream_native(const tess_stream_t *stream)
{
    return handle_of(stream);
}

static void CUDART_CB run_call(void *slot)
{
    cuda_call_t *call = slot;
    if (atomic_load(&call->stream->fault_status) == TESS_OK) {
        uint64_t failures = tessi_failure_count();
        tess_status_t status = call->function(call->argument);
        if (status < 0)
            tessi_stream_fail(call->stream, status,
                              tessi_failure_count() != failures ? tess_last_error()
                                                                : "a queued function failed");
    }
    atomic_store_explicit(&call->busy, 0, memory_order_release);
}

tess_status_t tessi_cuda_stream_call(tess_stream_t *stream, tess_stream_function_t function,
                                     void *argument)
{
    cuda_stream_t *cuda = (cuda_stream_t *)stream;
    cuda_call_t *call = &cuda->slots[cuda->calls % CALL_SLOTS];
    int64_t deadline_ns = tessi_deadline_ns(tessi_timeout_or_default(-1));
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    while (atomic_load_explicit(&call->busy, memory_order_acquire)) {
        if (tessi_now_ns() >= deadline_ns)
            return tessi_fail(TESS_ERR_TIMEOUT,
                              "%d host functions are queued on a CUDA stream and "
                              "the oldest does not end",
                              CALL_SLOTS);
        tessi_backoff_pause(&backoff);
    }
    TESSI_ON_DEVICE(stream->device->index);
    call->stream = stream;
    call->function = function;
    call->argument = argument;
    atomic_store(&call->busy, 1);
    cudaError_t error = tessi_cuda_faulted(cudaSuccess);
    if (error == cudaSuccess) error = cudaLaunchHostFunc(cuda->handle, run_call, call);
    if (error != cudaSuccess) {
        atomic_store(&call->busy, 0);
        return tessi_cuda_fail(error, "cannot queue a host function");
    }
    cuda->calls++;
    return TESS_OK;
}

tess_status_t tessi_cuda_stream_copy(tess_stream_t *stream, void *destination, const void *source,
                                     int64_t bytes)
{
    if (bytes == 0) return TESS_OK;
    TESSI_ON_DEVICE(stream->device->index);
    cudaError_t error =
        cudaMemcpyAsync(destination, source, (size_t)bytes, cudaMemcpyDefault, handle_of(stream));
    return error == cudaSuccess ? TESS_OK : tessi_cuda_fail(error, "cannot queue a copy");
}

tess_status_t tessi_cuda_stream_fill(tess_stream_t *stream, void *destination, int value,
                                     int64_t bytes)
{
    if (bytes == 0) return TESS_OK;
    TESSI_ON_DEVICE(stream->device->index);
    cudaError_t error = cudaMemsetAsync(destination, value, (size_t)bytes, handle_of(stream));
    return error == cudaSuccess ? TESS_OK : tessi_cuda_fail(error, "cannot queue a fill");
}
