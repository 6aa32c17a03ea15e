/* SPDX-License-Identifier: Apache-2.0 */
/* Stands where pattern_cuda.cu would: a build without CUDA opens no CUDA device, so that nothing
 * here is reached; it still answers with an error and never with success. */
#include "pattern.h"

int pattern_fill_cuda(const pattern_t *pattern, const pattern_range_t *range, void *data,
                      int device_index, void *cuda_stream)
{
    (void)pattern, (void)range, (void)data, (void)device_index, (void)cuda_stream;
    return -1;
}

int pattern_check_cuda(const pattern_t *pattern, const pattern_range_t *range, const void *data,
                       int64_t *wrong, int device_index, void *cuda_stream)
{
    (void)pattern, (void)range, (void)data, (void)wrong, (void)device_index, (void)cuda_stream;
    return -1;
}

const char *pattern_cuda_error(int error)
{
    (void)error;
    return "this program was built without CUDA";
}
