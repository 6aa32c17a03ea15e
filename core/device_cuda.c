/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA devices and their memory, and the table of the CUDA back end.
 *
 * A thin layer over the runtime API. Calls act on their own device and go back to the one that was
 * current, unless that one has no context yet (cuda_base.c).
 */
#include <ctype.h>
#include <stdio.h>

#include "cuda_backend.h"

int tessi_device_cuda_count(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    (void)cudaGetLastError();
    return 0;
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
    TESSI_ON_DEVICE(device->index);
    cudaError_t error = tessi_cuda_faulted(cudaGetDeviceProperties(&cuda, device->index));
    if (error == cudaSuccess) error = cudaMemGetInfo(&free_bytes, &total_bytes);
    if (error != cudaSuccess) return tessi_cuda_fail(error, "cannot read the device's properties");

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
    if (error != cudaSuccess) return tessi_cuda_fail(error, "cannot read the device's properties");
    properties->numa_node = numa_node_of(properties->bus_id);
    return TESS_OK;
}

/* Names the limits where the system refused, and only CUDA's reason where there is another. */
static tess_status_t fail_page_lock(const tess_device_t *device, int64_t bytes, cudaError_t error,
                                    const char *call)
{
    char what[128], cause[192];
    snprintf(what, sizeof what, "page-lock %lld bytes of host memory for %s", (long long)bytes,
             device->name);
    if (error != cudaErrorMemoryAllocation && error != cudaErrorNotSupported &&
        error != cudaErrorNotPermitted) {
        snprintf(cause, sizeof cause, "cannot %s: %s", what, call);
        return tessi_cuda_fail(error, cause);
    }
    (void)cudaGetLastError(); /* a recoverable error must not surface again in the next call */
    snprintf(cause, sizeof cause, "%s: %s (%s)", call, cudaGetErrorString(error),
             cudaGetErrorName(error));
    return tessi_fail_lock(bytes, what, cause);
}

static tess_status_t cuda_allocate(tess_device_t *device, tess_memory_kind_t kind, int64_t bytes,
                                   void **pointer)
{
    size_t wanted_bytes = bytes > 0 ? (size_t)bytes : 1;
    if (kind == TESS_MEMORY_PAGEABLE) {
        *pointer = tessi_aligned_alloc(64, wanted_bytes);
        return *pointer ? TESS_OK : TESS_ERR_OUT_OF_MEMORY;
    }
    TESSI_ON_DEVICE(device->index);
    cudaError_t error = kind == TESS_MEMORY_DEVICE
                            ? cudaMalloc(pointer, wanted_bytes)
                            : cudaHostAlloc(pointer, wanted_bytes, cudaHostAllocPortable);
    if (error == cudaSuccess) return TESS_OK;

    if (kind == TESS_MEMORY_PINNED) return fail_page_lock(device, bytes, error, "cudaHostAlloc");
    size_t free_bytes = 0, total_bytes = 0;
    char what[192];
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&free_bytes, &total_bytes);
    snprintf(what, sizeof what, "cannot allocate %lld bytes on %s, where %zu of %zu are free",
             (long long)bytes, device->name, free_bytes, total_bytes);
    return tessi_cuda_fail(error, what);
}

static void cuda_free(tess_device_t *device, tess_memory_kind_t kind, void *pointer)
{
    TESSI_ON_DEVICE(device->index);
    if (kind == TESS_MEMORY_PAGEABLE) tessi_free(pointer);
    else if (kind == TESS_MEMORY_PINNED) (void)cudaFreeHost(pointer);
    else (void)cudaFree(pointer);
}

static tess_status_t cuda_memory_register(tess_device_t *device, void *pointer, int64_t bytes)
{
    TESSI_ON_DEVICE(device->index);
    /* The fault stands before the call, so that nothing is registered when it strikes. */
    cudaError_t error = tessi_cuda_faulted(cudaSuccess);
    if (error == cudaSuccess)
        error = cudaHostRegister(pointer, (size_t)bytes, cudaHostRegisterPortable);
    if (error == cudaSuccess) return TESS_OK;
    return fail_page_lock(device, bytes, error, "cudaHostRegister");
}

static void cuda_memory_unregister(tess_device_t *device, void *pointer, int64_t bytes)
{
    (void)bytes;
    TESSI_ON_DEVICE(device->index);
    if (cudaHostUnregister(pointer) != cudaSuccess) (void)cudaGetLastError();
}

static const tessi_device_ops_t cuda_ops = {
    .close = cuda_close,
    .properties = cuda_properties,
    .allocate = cuda_allocate,
    .free = cuda_free,
    .memory_register = cuda_memory_register,
    .memory_unregister = cuda_memory_unregister,
    .stream_create = tessi_cuda_stream_create,
    .stream_wrap = tessi_cuda_stream_wrap,
    .stream_destroy = tessi_cuda_stream_destroy,
    .stream_native = tessi_cuda_stream_native,
    .stream_synchronize = tessi_cuda_stream_synchronize,
    .stream_query = tessi_cuda_stream_query,
    .stream_call = tessi_cuda_stream_call,
    .stream_copy = tessi_cuda_stream_copy,
    .stream_fill = tessi_cuda_stream_fill,
    .stream_wait_event = tessi_cuda_stream_wait_event,
    .event_create = tessi_cuda_event_create,
    .event_destroy = tessi_cuda_event_destroy,
    .event_record = tessi_cuda_event_record,
    .event_query = tessi_cuda_event_query,
    .event_synchronize = tessi_cuda_event_synchronize,
    .event_elapsed = tessi_cuda_event_elapsed,
};

tess_status_t tessi_device_cuda_open(int index, tess_device_t **device)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) return tessi_cuda_fail(error, "no CUDA device can be used");
    if (index < 0 || index >= count)
        return tessi_fail(TESS_ERR_NOT_FOUND,
                          "there is no cuda:%d; this process sees cuda:0 to "
                          "cuda:%d",
                          index, count - 1);
    TESSI_ON_DEVICE(index);
    error = tessi_cuda_faulted(
        cudaFree(NULL)); /* makes the context now, where a failure can be explained */
    if (error != cudaSuccess) return tessi_cuda_fail(error, "cannot use the CUDA device");
    tess_device_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    made->ops = &cuda_ops;
    made->kind = TESS_DEVICE_CUDA;
    made->index = index;
    snprintf(made->name, sizeof made->name, "cuda:%d", index);
    *device = made;
    return TESS_OK;
}
