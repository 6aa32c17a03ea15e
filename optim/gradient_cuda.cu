/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of squares on the GPU: one pass, deterministic, finished by the block that comes last.
 *
 * Invariant: which thread adds which element, and in what order partial sums are added, depends on
 * the number of elements alone; not on their alignment, nor on the GPU.
 */
#include "launch_cuda.cuh"
#include "memory_cuda.cuh"
#include "optim_cuda.h"

#define BLOCK_THREADS 512
#define VECTOR 8                 /* elements that a thread reads at once */
#define BLOCK_ELEMENTS (1 << 15) /* a piece gets a block for each of these, up to the maximum */
#define ACCUMULATORS 4

/* Element n of a pack as a number. */
template <tess_dtype_t DTYPE, int BYTES>
TESSI_DEVICE double number(const tessi_pack<BYTES, VECTOR> &pack, int n)
{
    if constexpr (DTYPE == TESS_DTYPE_FP32) return (double)tessi_float_of(pack.words[n]);
    else if constexpr (DTYPE == TESS_DTYPE_BF16)
        return (double)tessi_float_of(tessi_upper(pack, n));
    else return (double)tessi_from_fp16(tessi_half(pack, n));
}

/* The sum over the block, in thread 0; the order is fixed. */
static __device__ double block_sum(double mine, double *shared)
{
    for (int distance = 16; distance > 0; distance >>= 1)
        mine = mine + __shfl_down_sync(0xffffffffu, mine, distance);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = mine;
    __syncthreads();
    double sum = 0.0;
    if (threadIdx.x == 0)
        for (int warp = 0; warp < BLOCK_THREADS / 32; warp++) sum = sum + shared[warp];
    __syncthreads();
    return sum;
}

/* The squares of what this thread reads. A product of two fp32 is exact in fp64, so the fused
 * operation rounds once like an addition. */
template <tess_dtype_t DTYPE, bool ALIGNED>
TESSI_DEVICE double thread_sum(const void *values, int64_t count)
{
    constexpr int BYTES = DTYPE == TESS_DTYPE_FP32 ? 4 : 2;
    double sums[ACCUMULATORS] = {0.0, 0.0, 0.0, 0.0};
    int64_t vectors = count / VECTOR, step = (int64_t)gridDim.x * BLOCK_THREADS;
    int64_t first = (int64_t)blockIdx.x * BLOCK_THREADS + threadIdx.x;
#pragma unroll 2
    for (int64_t v = first; v < vectors; v += step) {
        tessi_pack<BYTES, VECTOR> pack = tessi_read<BYTES, VECTOR, ALIGNED>(values, v * VECTOR);
#pragma unroll
        for (int n = 0; n < VECTOR; n++) {
            double x = number<DTYPE, BYTES>(pack, n);
            sums[n % ACCUMULATORS] = fma(x, x, sums[n % ACCUMULATORS]);
        }
    }
    /* The last elements, fewer than a vector, are the first threads'. */
    if (first < count - vectors * VECTOR) {
        tessi_pack<BYTES, 1> last = tessi_read<BYTES, 1, false>(values, vectors * VECTOR + first);
        tessi_pack<BYTES, VECTOR> pack = {{last.words[0]}};
        double x = number<DTYPE, BYTES>(pack, 0);
        sums[0] = fma(x, x, sums[0]);
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* Reads 2 or 4 bytes an element. Bound by: memory bandwidth.
 * Measured share: see docs/PERFORMANCE.md, "Adam". */
template <tess_dtype_t DTYPE, bool ALIGNED>
static __global__ void __launch_bounds__(BLOCK_THREADS)
    measure_kernel(const void *values, int64_t count, tessi_gradient_slot_t *slot)
{
    __shared__ double shared[BLOCK_THREADS / 32];
    __shared__ bool is_last;
    double sum = block_sum(thread_sum<DTYPE, ALIGNED>(values, count), shared);
    if (threadIdx.x == 0) {
        slot->parts[blockIdx.x] = sum;
        __threadfence();
        is_last = atomicAdd(&slot->blocks_done, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    double mine = 0.0;
    for (unsigned part = threadIdx.x; part < gridDim.x; part += BLOCK_THREADS)
        mine = mine + __ldcg(&slot->parts[part]);
    sum = block_sum(mine, shared);
    if (threadIdx.x == 0) {
        slot->sum = sum;
        slot->blocks_done = 0;
    }
}

/* Reads 8 bytes a slot. Bound by: the latency of a launch. Measured share: not measured. */
static __global__ void combine_kernel(const tessi_gradient_slot_t *slots, int64_t slot_count,
                                      double *sum)
{
    __shared__ double shared[BLOCK_THREADS];
    double total = 0.0;
    for (int64_t first = 0; first < slot_count; first += BLOCK_THREADS) {
        int64_t slot = first + threadIdx.x;
        shared[threadIdx.x] = slot < slot_count ? slots[slot].sum : 0.0;
        __syncthreads();
        if (threadIdx.x == 0)
            for (int i = 0; i < BLOCK_THREADS && first + i < slot_count; i++)
                total = total + shared[i];
        __syncthreads();
    }
    if (threadIdx.x == 0) *sum = total;
}

template <tess_dtype_t DTYPE>
static int measure(tessi_gradient_slot_t *slot, const tess_gradient_piece_t *piece, void *stream)
{
    int64_t blocks = (piece->count + BLOCK_ELEMENTS - 1) / BLOCK_ELEMENTS;
    if (blocks < 1) blocks = 1;
    if (blocks > TESSI_GRADIENT_PARTS_MAX) blocks = TESSI_GRADIENT_PARTS_MAX;
    bool aligned = (uintptr_t)piece->values % 16 == 0;
    return tessi_launch(aligned ? measure_kernel<DTYPE, true> : measure_kernel<DTYPE, false>,
                        blocks, BLOCK_THREADS, stream, piece->values, piece->count, slot);
}

int tessi_gradient_cuda_measure(tessi_gradient_slot_t *slot, const tess_gradient_piece_t *piece,
                                void *stream)
{
    if (piece->dtype == TESS_DTYPE_BF16) return measure<TESS_DTYPE_BF16>(slot, piece, stream);
    if (piece->dtype == TESS_DTYPE_FP16) return measure<TESS_DTYPE_FP16>(slot, piece, stream);
    return measure<TESS_DTYPE_FP32>(slot, piece, stream);
}

int tessi_gradient_cuda_combine(const tessi_gradient_slot_t *slots, int64_t slot_count, double *sum,
                                void *stream)
{
    return tessi_launch(combine_kernel, 1, BLOCK_THREADS, stream, slots, slot_count, sum);
}
