/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA back end: a thin layer over the runtime API that never changes the caller's current
 * device.
 *
 * Waits poll with tessi_backoff instead of blocking in the driver, because a blocked driver call
 * has no deadline. Every CUDA error is translated in one place, fail_cuda.
 */
#include <ctype.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "device_backend.h"

/* Host functions that may be queued on one stream before tess_stream_call waits for the oldest. */
#define CALL_SLOTS 256

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
    int64_t calls; /* queued so far; the next one takes slot calls % CALL_SLOTS */
    cuda_call_t slots[CALL_SLOTS];
} cuda_stream_t;

typedef struct cuda_event {
    tess_event_t base;
    cudaEvent_t handle;
    int source_status; /* of the stream that recorded last, as known then */
    char source_detail[512];
} cuda_event_t;

/* --- errors and the current device ---------------------------------------------------------------
 */

static tess_status_t fail_cuda(cudaError_t error, const char *what)
{
    (void)cudaGetLastError(); /* a recoverable error must not surface again in the next call */
    tess_status_t status = TESS_ERR_CUDA;
    if (error == cudaErrorMemoryAllocation) status = TESS_ERR_OUT_OF_MEMORY;
    if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice ||
        error == cudaErrorInvalidDevice)
        status = TESS_ERR_NOT_FOUND;
    return tessi_fail(status, "%s: %s (%s)", what, cudaGetErrorString(error),
                      cudaGetErrorName(error));
}

/* The fault point "cuda" stands before every call that can fail for lack of something. */
static cudaError_t faulted(cudaError_t error)
{
    return error == cudaSuccess && tessi_fault("cuda") ? cudaErrorUnknown : error;
}

/* A function of the driver where something in this process has already loaded it, else NULL. The
 * library itself never links or loads libcuda. */
static void *driver_function(const char *name)
{
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (!driver) return NULL;
    void *function = dlsym(driver, name);
    dlclose(driver); /* whoever loaded it keeps it */
    return function;
}

/* cudaSetDevice creates a context, which costs hundreds of megabytes; so a device that has none yet
 * is not worth going back to. */
static int has_context(int index)
{
    typedef int (*get_state_t)(int device, unsigned int *flags, int *active);
    get_state_t get_state = (get_state_t)driver_function("cuDevicePrimaryCtxGetState");
    unsigned int flags;
    int active = 0;
    return get_state && get_state(index, &flags, &active) == 0 && active;
}

static void restore_device(const int *previous)
{
    if (*previous >= 0) (void)cudaSetDevice(*previous);
}

/* Makes `index` current and says which device was; -1 where nothing needs to be restored. */
static int enter_device(int index)
{
    int current = -1;
    if (cudaGetDevice(&current) != cudaSuccess || current == index) return -1;
    int previous = has_context(current) ? current : -1;
    (void)cudaSetDevice(index);
    return previous;
}

/* Calls that act on the current device run under this; the caller's device comes back at block end.
 */
#define ON_DEVICE(index)                                                                           \
    __attribute__((cleanup(restore_device), unused)) const int previous_device = enter_device(index)

static cudaStream_t handle_of(const tess_stream_t *stream)
{
    return ((const cuda_stream_t *)stream)->handle;
}

/* --- device --------------------------------------------------------------------------------------
 */

int tessi_device_cuda_count(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    (void)cudaGetLastError();
    return 0;
}

/* Asks the driver only where something in this process has already loaded it: a device pointer
 * cannot exist before that, and asking the runtime would create a context on a GPU that nobody
 * wants. */
int tessi_device_cuda_owns(const void *pointer)
{
    typedef int (*get_attribute_t)(void *data, int attribute, unsigned long long pointer);
    enum { MEMORY_TYPE = 2, MEMORY_TYPE_DEVICE = 2 }; /* CU_POINTER_ATTRIBUTE_, CU_MEMORYTYPE_ */
    static _Atomic(get_attribute_t) known;
    get_attribute_t get_attribute = atomic_load_explicit(&known, memory_order_acquire);
    if (!get_attribute) {
        get_attribute = (get_attribute_t)driver_function("cuPointerGetAttribute");
        if (!get_attribute) return 0;
        atomic_store_explicit(&known, get_attribute, memory_order_release);
    }
    unsigned int type = 0;
    int error = get_attribute(&type, MEMORY_TYPE, (unsigned long long)(uintptr_t)pointer);
    return error == 0 && type == MEMORY_TYPE_DEVICE;
}

static void cuda_close(tess_device_t *device)
{
    tessi_free(device);
}

static int numa_node_of(const char *bus_id)
{
    char path[96], lower[32];
    int node = -1;
    size_t i = 0;
    for (; bus_id[i] && i + 1 < sizeof lower; i++)
        lower[i] = (char)tolower((unsigned char)bus_id[i]);
    lower[i] = '\0';
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/numa_node", lower);
    FILE *file = fopen(path, "re");
    if (!file) return -1;
    if (fscanf(file, "%d", &node) != 1) node = -1;
    fclose(file);
    return node;
}

static tess_status_t cuda_properties(const tess_device_t *device,
                                     tess_device_properties_t *properties)
{
    struct cudaDeviceProp cuda;
    size_t free_bytes = 0, total_bytes = 0;
    ON_DEVICE(device->index);
    cudaError_t error = faulted(cudaGetDeviceProperties(&cuda, device->index));
    if (error == cudaSuccess) error = cudaMemGetInfo(&free_bytes, &total_bytes);
    if (error != cudaSuccess) return fail_cuda(error, "cannot read the device's properties");

    *properties = (tess_device_properties_t){.kind = TESS_DEVICE_CUDA,
                                             .index = device->index,
                                             .memory_total_bytes = (int64_t)total_bytes,
                                             .memory_free_bytes = (int64_t)free_bytes,
                                             .multiprocessors = cuda.multiProcessorCount,
                                             .compute_major = cuda.major,
                                             .compute_minor = cuda.minor};
    snprintf(properties->name, sizeof properties->name, "%.127s", cuda.name);
    error = cudaDeviceGetPCIBusId(properties->bus_id, sizeof properties->bus_id, device->index);
    if (error == cudaSuccess) error = cudaDriverGetVersion(&properties->driver_version);
    if (error == cudaSuccess) error = cudaRuntimeGetVersion(&properties->runtime_version);
    if (error != cudaSuccess) return fail_cuda(error, "cannot read the device's properties");
    properties->numa_node = numa_node_of(properties->bus_id);
    return TESS_OK;
}

/* --- memory --------------------------------------------------------------------------------------
 */

static tess_status_t cuda_allocate(tess_device_t *device, tess_memory_kind_t kind, int64_t bytes,
                                   void **pointer)
{
    size_t wanted_bytes = bytes > 0 ? (size_t)bytes : 1;
    if (kind == TESS_MEMORY_PAGEABLE) {
        *pointer = tessi_aligned_alloc(64, wanted_bytes);
        return *pointer ? TESS_OK : TESS_ERR_OUT_OF_MEMORY;
    }
    ON_DEVICE(device->index);
    cudaError_t error = kind == TESS_MEMORY_DEVICE
                            ? cudaMalloc(pointer, wanted_bytes)
                            : cudaHostAlloc(pointer, wanted_bytes, cudaHostAllocPortable);
    if (error == cudaSuccess) return TESS_OK;

    size_t free_bytes = 0, total_bytes = 0;
    char what[192];
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&free_bytes, &total_bytes);
    if (kind == TESS_MEMORY_DEVICE)
        snprintf(what, sizeof what, "cannot allocate %lld bytes on %s, where %zu of %zu are free",
                 (long long)bytes, device->name, free_bytes, total_bytes);
    else
        snprintf(what, sizeof what,
                 "cannot page-lock %lld bytes of host memory (see `ulimit -l`, the cgroup's memory "
                 "limit and MemAvailable in /proc/meminfo)",
                 (long long)bytes);
    return fail_cuda(error, what);
}

static void cuda_free(tess_device_t *device, tess_memory_kind_t kind, void *pointer)
{
    ON_DEVICE(device->index);
    if (kind == TESS_MEMORY_PAGEABLE) tessi_free(pointer);
    else if (kind == TESS_MEMORY_PINNED) (void)cudaFreeHost(pointer);
    else (void)cudaFree(pointer);
}

/* --- streams -------------------------------------------------------------------------------------
 */

static tess_status_t stream_wrap(tess_device_t *device, void *native, tess_stream_t **stream)
{
    (void)device;
    cuda_stream_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    made->handle = native;
    *stream = &made->base;
    return TESS_OK;
}

static tess_status_t stream_create(tess_device_t *device, tess_stream_priority_t priority,
                                   tess_stream_t **stream)
{
    tess_status_t status = stream_wrap(device, NULL, stream);
    if (status != TESS_OK) return status;

    cuda_stream_t *made = (cuda_stream_t *)*stream;
    int lowest = 0, highest = 0;
    ON_DEVICE(device->index);
    cudaError_t error = cudaDeviceGetStreamPriorityRange(&lowest, &highest);
    if (error == cudaSuccess)
        error = faulted(
            cudaStreamCreateWithPriority(&made->handle, cudaStreamNonBlocking,
                                         priority == TESS_PRIORITY_HIGH ? highest : lowest));
    if (error == cudaSuccess) {
        made->owned = 1;
        return TESS_OK;
    }
    tessi_free(made);
    *stream = NULL;
    return fail_cuda(error, "cannot create a CUDA stream");
}

static tess_status_t wait_until(cudaError_t (*query)(void *), void *handle, const char *what,
                                int timeout_ms)
{
    int64_t deadline_ns = tessi_deadline_ns(timeout_ms);
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    for (;;) {
        cudaError_t error = query(handle);
        if (error == cudaSuccess) return TESS_OK;
        if (error != cudaErrorNotReady) return fail_cuda(error, what);
        (void)cudaGetLastError();
        if (tessi_now_ns() >= deadline_ns)
            return tessi_fail(TESS_ERR_TIMEOUT, "%s: still running after %d ms", what, timeout_ms);
        tessi_backoff_pause(&backoff);
    }
}

static cudaError_t query_stream(void *handle)
{
    return cudaStreamQuery(handle);
}

static cudaError_t query_event(void *handle)
{
    return cudaEventQuery(handle);
}

static tess_status_t stream_synchronize(tess_stream_t *stream, int timeout_ms)
{
    return wait_until(query_stream, handle_of(stream), "work queued on a CUDA stream", timeout_ms);
}

static tess_status_t stream_query(tess_stream_t *stream)
{
    cudaError_t error = cudaStreamQuery(handle_of(stream));
    if (error == cudaSuccess) return TESS_OK;
    if (error != cudaErrorNotReady) return fail_cuda(error, "work queued on a CUDA stream");
    (void)cudaGetLastError();
    return TESS_NOT_READY;
}

static void stream_destroy(tess_stream_t *stream)
{
    cuda_stream_t *cuda = (cuda_stream_t *)stream;
    if (stream_synchronize(stream, tessi_timeout_or_default(-1)) != TESS_OK)
        tessi_log(TESSI_LOG_ERROR, "destroying a stream of %s with unfinished work: %s",
                  stream->device->name, tess_last_error());
    if (cuda->owned) (void)cudaStreamDestroy(cuda->handle);
    tessi_free(cuda);
}

static void *stream_native(const tess_stream_t *stream)
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

static tess_status_t stream_call(tess_stream_t *stream, tess_stream_function_t function,
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
    call->stream = stream;
    call->function = function;
    call->argument = argument;
    atomic_store(&call->busy, 1);
    cudaError_t error = faulted(cudaSuccess);
    if (error == cudaSuccess) error = cudaLaunchHostFunc(cuda->handle, run_call, call);
    if (error != cudaSuccess) {
        atomic_store(&call->busy, 0);
        return fail_cuda(error, "cannot queue a host function");
    }
    cuda->calls++;
    return TESS_OK;
}

static tess_status_t stream_copy(tess_stream_t *stream, void *destination, const void *source,
                                 int64_t bytes)
{
    if (bytes == 0) return TESS_OK;
    ON_DEVICE(stream->device->index);
    cudaError_t error =
        cudaMemcpyAsync(destination, source, (size_t)bytes, cudaMemcpyDefault, handle_of(stream));
    return error == cudaSuccess ? TESS_OK : fail_cuda(error, "cannot queue a copy");
}

static tess_status_t stream_fill(tess_stream_t *stream, void *destination, int value, int64_t bytes)
{
    if (bytes == 0) return TESS_OK;
    ON_DEVICE(stream->device->index);
    cudaError_t error = cudaMemsetAsync(destination, value, (size_t)bytes, handle_of(stream));
    return error == cudaSuccess ? TESS_OK : fail_cuda(error, "cannot queue a fill");
}

/* --- events --------------------------------------------------------------------------------------
 */

static tess_status_t event_create(tess_device_t *device, tess_event_mode_t mode,
                                  tess_event_t **event)
{
    cuda_event_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    ON_DEVICE(device->index);
    cudaError_t error = faulted(cudaEventCreateWithFlags(
        &made->handle, mode == TESS_EVENT_TIMING ? cudaEventDefault : cudaEventDisableTiming));
    if (error != cudaSuccess) {
        tessi_free(made);
        return fail_cuda(error, "cannot create a CUDA event");
    }
    *event = &made->base;
    return TESS_OK;
}

static void event_destroy(tess_event_t *event)
{
    (void)cudaEventDestroy(((cuda_event_t *)event)->handle);
    tessi_free(event);
}

static tess_status_t event_record(tess_event_t *event, tess_stream_t *stream)
{
    cuda_event_t *cuda = (cuda_event_t *)event;
    ON_DEVICE(stream->device->index);
    cudaError_t error = cudaEventRecord(cuda->handle, handle_of(stream));
    if (error != cudaSuccess) return fail_cuda(error, "cannot record an event");
    cuda->source_status = atomic_load_explicit(&stream->fault_status, memory_order_acquire);
    if (cuda->source_status < 0)
        memcpy(cuda->source_detail, stream->fault_detail, sizeof cuda->source_detail);
    return TESS_OK;
}

static tess_status_t stream_wait_event(tess_stream_t *stream, tess_event_t *event)
{
    cuda_event_t *cuda = (cuda_event_t *)event;
    ON_DEVICE(stream->device->index);
    if (cuda->source_status < 0)
        tessi_stream_fail(stream, cuda->source_status, cuda->source_detail);
    cudaError_t error = cudaStreamWaitEvent(handle_of(stream), cuda->handle, 0);
    return error == cudaSuccess ? TESS_OK : fail_cuda(error, "cannot make a stream wait");
}

static tess_status_t event_query(tess_event_t *event)
{
    cudaError_t error = cudaEventQuery(((cuda_event_t *)event)->handle);
    if (error == cudaSuccess) return TESS_OK;
    if (error != cudaErrorNotReady) return fail_cuda(error, "work before a CUDA event");
    (void)cudaGetLastError();
    return TESS_NOT_READY;
}

static tess_status_t event_synchronize(tess_event_t *event, int timeout_ms)
{
    cuda_event_t *cuda = (cuda_event_t *)event;
    tess_status_t status =
        wait_until(query_event, cuda->handle, "work before a CUDA event", timeout_ms);
    if (status == TESS_OK && cuda->source_status < 0)
        return tessi_fail(cuda->source_status, "%s", cuda->source_detail);
    return status;
}

static tess_status_t event_elapsed(tess_event_t *start, tess_event_t *end, double *elapsed_ms)
{
    float milliseconds = 0;
    cudaError_t error = cudaEventElapsedTime(&milliseconds, ((cuda_event_t *)start)->handle,
                                             ((cuda_event_t *)end)->handle);
    if (error == cudaErrorNotReady) {
        (void)cudaGetLastError();
        return tessi_fail(TESS_ERR_STATE, "an event's mark is not reached yet");
    }
    if (error != cudaSuccess) return fail_cuda(error, "cannot read the time between two events");
    *elapsed_ms = (double)milliseconds;
    return TESS_OK;
}

/* --- the table -----------------------------------------------------------------------------------
 */

static const tessi_device_ops_t cuda_ops = {
    .close = cuda_close,
    .properties = cuda_properties,
    .allocate = cuda_allocate,
    .free = cuda_free,
    .stream_create = stream_create,
    .stream_wrap = stream_wrap,
    .stream_destroy = stream_destroy,
    .stream_native = stream_native,
    .stream_synchronize = stream_synchronize,
    .stream_query = stream_query,
    .stream_call = stream_call,
    .stream_copy = stream_copy,
    .stream_fill = stream_fill,
    .stream_wait_event = stream_wait_event,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_query = event_query,
    .event_synchronize = event_synchronize,
    .event_elapsed = event_elapsed,
};

tess_status_t tessi_device_cuda_open(int index, tess_device_t **device)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) return fail_cuda(error, "no CUDA device can be used");
    if (index < 0 || index >= count)
        return tessi_fail(TESS_ERR_NOT_FOUND,
                          "there is no cuda:%d; this process sees cuda:0 to "
                          "cuda:%d",
                          index, count - 1);
    ON_DEVICE(index);
    error = faulted(cudaFree(NULL)); /* makes the context now, where a failure can be explained */
    if (error != cudaSuccess) return fail_cuda(error, "cannot use the CUDA device");
    tess_device_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    made->ops = &cuda_ops;
    made->kind = TESS_DEVICE_CUDA;
    made->index = index;
    snprintf(made->name, sizeof made->name, "cuda:%d", index);
    *device = made;
    return TESS_OK;
}
