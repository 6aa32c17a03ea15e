/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA back end of a library that was built without CUDA: there is no device.
 *
 * Invariant: the same functions as device_cuda.c, so that nothing else knows which one was built.
 */
#include "device_backend.h"

int tessi_device_cuda_count(void)
{
    return 0;
}

tess_status_t tessi_device_cuda_open(int index, tess_device_t **device)
{
    (void)device;
    return tessi_fail(TESS_ERR_NOT_FOUND,
                      "cannot open cuda:%d: this library was built without CUDA", index);
}

int tessi_device_cuda_owns(const void *pointer)
{
    (void)pointer;
    return 0;
}

int tessi_cuda_enter(int index)
{
    (void)index;
    return -1;
}

void tessi_cuda_leave(const int *previous)
{
    (void)previous;
}

void tessi_device_cuda_spread_fault(tess_stream_t *stream)
{
    (void)stream;
}
