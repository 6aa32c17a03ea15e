/* SPDX-License-Identifier: Apache-2.0 */
/* The ground of the CUDA back end: the current device, errors, and waiting with a deadline.
 *
 * Waits poll, because a blocked driver call has no deadline. Every CUDA error of the back end is
 * translated here. libcuda is neither linked nor loaded here: the runtime does that where there is
 * a driver, so programs start on machines without one.
 */
#include <dlfcn.h>
#include <stdatomic.h>

#include "cuda_backend.h"

tess_status_t tessi_cuda_fail(cudaError_t error, const char *what)
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

cudaError_t tessi_cuda_faulted(cudaError_t error)
{
    return error == cudaSuccess && tessi_fault("cuda") ? cudaErrorUnknown : error;
}

tess_status_t tessi_cuda_wait(cudaError_t (*query)(void *), void *handle, const char *what,
                              int timeout_ms)
{
    int64_t deadline_ns = tessi_deadline_ns(timeout_ms);
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    for (;;) {
        cudaError_t error = query(handle);
        if (error == cudaSuccess) return TESS_OK;
        if (error != cudaErrorNotReady) return tessi_cuda_fail(error, what);
        (void)cudaGetLastError();
        if (tessi_now_ns() >= deadline_ns)
            return tessi_fail(TESS_ERR_TIMEOUT, "%s: still running after %d ms", what, timeout_ms);
        tessi_backoff_pause(&backoff);
    }
}

/* --- the driver and the current device ---------------------------------------------------------
 */

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
    static _Atomic(get_state_t) known;
    get_state_t get_state = atomic_load_explicit(&known, memory_order_acquire);
    if (!get_state) {
        get_state = (get_state_t)driver_function("cuDevicePrimaryCtxGetState");
        if (!get_state) return 0;
        atomic_store_explicit(&known, get_state, memory_order_release);
    }
    unsigned int flags;
    int active = 0;
    return get_state(index, &flags, &active) == 0 && active;
}

int tessi_cuda_enter(int index)
{
    int current = -1;
    if (cudaGetDevice(&current) != cudaSuccess || current == index) return -1;
    int previous = has_context(current) ? current : -1;
    (void)cudaSetDevice(index);
    return previous;
}

void tessi_cuda_leave(const int *previous)
{
    if (*previous >= 0) (void)cudaSetDevice(*previous);
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
