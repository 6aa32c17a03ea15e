/* SPDX-License-Identifier: Apache-2.0 */
/* The pattern on device memory; twin of pattern_host.c. Kernels and their launchers only. */
#include <cuda_runtime_api.h>

#define PATTERN_FUNCTION static __device__ __forceinline__

#include "pattern.h"
#include "pattern_math.h"

#define BLOCK_THREADS 256
#define BLOCKS_MAX 4096

/* Writes 1, 2 or 4 bytes per element and computes about 15 integer operations.
 * Bound by: integer throughput for one rank's 2-byte elements.
 * Measured share: not measured; it runs outside every timed section. */
template <typename word_t>
static __global__ void fill_kernel(pattern_t pattern, pattern_range_t range, word_t *data)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < range.count; i += step)
        data[i] = (word_t)pattern_bits(
            pattern.dtype, pattern_value(&pattern, range.rank_first, range.index_first + i));
}

/* Reads 1, 2 or 4 bytes per element and computes about 15 integer operations per element and rank.
 * Bound by: integer throughput.
 * Measured share: not measured; it runs outside every timed section. */
template <typename word_t>
static __global__ void check_kernel(pattern_t pattern, pattern_range_t range, const word_t *data,
                                    int64_t *wrong)
{
    unsigned long long mine = 0;
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < range.count; i += step)
        mine += (unsigned long long)pattern_is_wrong(&pattern, &range, i, (uint32_t)data[i]);
    if (mine != 0) atomicAdd((unsigned long long *)wrong, mine);
}

static unsigned block_count(int64_t count)
{
    int64_t blocks = (count + BLOCK_THREADS - 1) / BLOCK_THREADS;
    return (unsigned)(blocks > BLOCKS_MAX ? BLOCKS_MAX : blocks);
}

int pattern_fill_cuda(const pattern_t *pattern, const pattern_range_t *range, void *data,
                      int device_index, void *cuda_stream)
{
    cudaStream_t stream = (cudaStream_t)cuda_stream;
    cudaError_t error = cudaSetDevice(device_index);
    if (error != cudaSuccess || range->count == 0) return (int)error;
    unsigned blocks = block_count(range->count);
    int64_t element_bytes = tess_dtype_bytes(pattern->dtype);
    if (element_bytes == 1)
        fill_kernel<<<blocks, BLOCK_THREADS, 0, stream>>>(*pattern, *range, (uint8_t *)data);
    else if (element_bytes == 2)
        fill_kernel<<<blocks, BLOCK_THREADS, 0, stream>>>(*pattern, *range, (uint16_t *)data);
    else fill_kernel<<<blocks, BLOCK_THREADS, 0, stream>>>(*pattern, *range, (uint32_t *)data);
    return (int)cudaGetLastError();
}

int pattern_check_cuda(const pattern_t *pattern, const pattern_range_t *range, const void *data,
                       int64_t *wrong, int device_index, void *cuda_stream)
{
    cudaStream_t stream = (cudaStream_t)cuda_stream;
    cudaError_t error = cudaSetDevice(device_index);
    if (error != cudaSuccess || range->count == 0) return (int)error;
    unsigned blocks = block_count(range->count);
    int64_t element_bytes = tess_dtype_bytes(pattern->dtype);
    if (element_bytes == 1)
        check_kernel<<<blocks, BLOCK_THREADS, 0, stream>>>(*pattern, *range, (const uint8_t *)data,
                                                           wrong);
    else if (element_bytes == 2)
        check_kernel<<<blocks, BLOCK_THREADS, 0, stream>>>(*pattern, *range, (const uint16_t *)data,
                                                           wrong);
    else
        check_kernel<<<blocks, BLOCK_THREADS, 0, stream>>>(*pattern, *range, (const uint32_t *)data,
                                                           wrong);
    return (int)cudaGetLastError();
}

const char *pattern_cuda_error(int error)
{
    return cudaGetErrorString((cudaError_t)error);
}
