/* SPDX-License-Identifier: Apache-2.0 */
/* The pass over memory that all Adam kernels share: which thread takes which elements, and how
 * gradients and weights are read and written. A file for each kind of moments instantiates it.
 *
 * Invariant: an element's result depends on its own values, its index and the step alone.
 */
#ifndef TESSERA_OPTIM_ADAM_CUDA_CUH
#define TESSERA_OPTIM_ADAM_CUDA_CUH

#include "launch_cuda.cuh"
#include "memory_cuda.cuh"
#include "optim_cuda.h"

#define ADAM_THREADS 256

/* What the combinations of tess_adam_config_t come to. */
enum { W_FP32, W_MASTER_BF16, W_MASTER_FP16, W_REMAINDER, W_BF16 };
enum { G_BF16 = TESS_DTYPE_BF16, G_FP16 = TESS_DTYPE_FP16, G_FP32 = TESS_DTYPE_FP32 };

/* --- gradients and weights ------------------------------------------------------------------- */

template <int GRADIENT, int N, bool ALIGNED>
TESSI_DEVICE void read_gradient(const tess_adam_range_t &range, int64_t i, float *g)
{
    if constexpr (GRADIENT == G_FP32) {
        tessi_pack<4, N> pack = tessi_read<4, N, ALIGNED>(range.gradient, i);
#pragma unroll
        for (int n = 0; n < N; n++) g[n] = tessi_float_of(pack.words[n]);
    } else {
        tessi_pack<2, N> pack = tessi_read<2, N, ALIGNED>(range.gradient, i);
#pragma unroll
        for (int n = 0; n < N; n++)
            g[n] = GRADIENT == G_BF16 ? tessi_float_of(tessi_upper(pack, n))
                                      : tessi_from_fp16(tessi_half(pack, n));
    }
}

/* Weights as they lie in memory; turned into numbers once moment 2, which may hold ties, is there.
 */
template <int WEIGHTS, int N> struct weight_pack {
    tessi_pack<4, N> master;
};
template <int N> struct weight_pack<W_REMAINDER, N> {
    tessi_pack<2, N> parameter, remainder;
};
template <int N> struct weight_pack<W_BF16, N> {
    tessi_pack<2, N> parameter;
};

template <int WEIGHTS, int N, bool ALIGNED>
TESSI_DEVICE weight_pack<WEIGHTS, N> read_weights(const tess_adam_range_t &range, int64_t i)
{
    weight_pack<WEIGHTS, N> pack;
    if constexpr (WEIGHTS == W_REMAINDER) {
        pack.parameter = tessi_read<2, N, ALIGNED>(range.parameter, i);
        pack.remainder = tessi_read<2, N, ALIGNED>(range.master, i);
    } else if constexpr (WEIGHTS == W_BF16) {
        pack.parameter = tessi_read<2, N, ALIGNED>(range.parameter, i);
    } else {
        pack.master = tessi_read<4, N, ALIGNED>(range.master, i);
    }
    return pack;
}

template <int WEIGHTS, int N>
TESSI_DEVICE float weight_of(const weight_pack<WEIGHTS, N> &pack, int n, uint32_t tie)
{
    if constexpr (WEIGHTS == W_REMAINDER)
        return tessi_join(tessi_half(pack.parameter, n), tessi_half(pack.remainder, n), tie);
    else if constexpr (WEIGHTS == W_BF16) return tessi_float_of(tessi_upper(pack.parameter, n));
    else return tessi_float_of(pack.master.words[n]);
}

/* Random words are looked at by W_BF16 alone; ties come back from W_REMAINDER alone. */
template <int WEIGHTS, int N>
TESSI_DEVICE void write_weights(const tess_adam_range_t &range, int64_t i, const float *w,
                                const tessi_random_t *random, uint32_t *tie)
{
    uint32_t parameter[N];
    if constexpr (WEIGHTS == W_REMAINDER) {
        uint32_t remainder[N];
#pragma unroll
        for (int n = 0; n < N; n++) {
            tessi_split_t split = tessi_split(w[n]);
            parameter[n] = (uint32_t)split.parameter << 16;
            remainder[n] = (uint32_t)split.remainder << 16;
            tie[n] = split.tie;
        }
        tessi_write<2, N>(range.master, i, tessi_pack_upper16<N>(remainder));
    } else if constexpr (WEIGHTS != W_BF16) {
        tessi_pack<4, N> master;
#pragma unroll
        for (int n = 0; n < N; n++) master.words[n] = tessi_bits_of(w[n]);
        tessi_write<4, N>(range.master, i, master);
    }
    if constexpr (WEIGHTS != W_FP32) {
#pragma unroll
        for (int n = 0; n < N; n++) {
            if (WEIGHTS == W_BF16) parameter[n] = tessi_upper_bf16_random(w[n], random[n].weight);
            if (WEIGHTS == W_MASTER_BF16) parameter[n] = tessi_upper_bf16(w[n]);
            if (WEIGHTS == W_MASTER_FP16) parameter[n] = (uint32_t)tessi_to_fp16(w[n]) << 16;
        }
        tessi_write<2, N>(range.parameter, i, tessi_pack_upper16<N>(parameter));
    }
}

/* --- tiles
 * ---------------------------------------------------------------------------------------- */

/* What a block works on. */
struct tile_t {
    tess_adam_range_t range;
    int64_t first;
    int32_t count;
};

/* One range by value is cut into tiles of FLAT elements. */
template <int FLAT> TESSI_DEVICE tile_t find_tile(const tessi_adam_work_t &work)
{
    tile_t tile;
    if (work.ranges) {
        tessi_adam_tile_t entry = work.tiles[blockIdx.x];
        tile.range = work.ranges[entry.range];
        tile.first = entry.first;
        tile.count = entry.count;
        return tile;
    }
    tile.range = work.range;
    tile.first = (int64_t)blockIdx.x * FLAT;
    int64_t left = work.range.count - tile.first;
    tile.count = (int32_t)(left < FLAT ? left : FLAT);
    return tile;
}

/* Elements of `array` before the first whose address is a multiple of N elements; 16-byte accesses
 * are all that larger vectors need. NULL fits every other array. */
template <int N> TESSI_DEVICE int phase_of(const void *array, int element_bytes)
{
    int vector_bytes = element_bytes * N < 16 ? element_bytes * N : 16;
    int off = (int)((uintptr_t)array & (uintptr_t)(vector_bytes - 1)) / element_bytes;
    int per_access = vector_bytes / element_bytes;
    return (per_access - off) % per_access;
}

/* Elements of the range to step one by one before vectors of N are aligned in every array; -1 where
 * no such number exists. */
template <int N>
TESSI_DEVICE int head_of(const tess_adam_range_t &range, int gradient_bytes, int master_bytes,
                         int moment_bytes)
{
    const void *arrays[5] = {range.gradient, range.parameter, range.master, range.moment1,
                             range.moment2};
    const int bytes[5] = {gradient_bytes, 2, master_bytes, moment_bytes, moment_bytes};
    int head = 0;
#pragma unroll
    for (int a = 0; a < 5; a++) {
        int phase = arrays[a] ? phase_of<N>(arrays[a], bytes[a]) : 0;
        head = phase > head ? phase : head;
    }
    bool fits = true;
#pragma unroll
    for (int a = 0; a < 5; a++) {
        int vector_bytes = bytes[a] * N < 16 ? bytes[a] * N : 16;
        uintptr_t at = (uintptr_t)arrays[a] + (uintptr_t)(head * bytes[a]);
        fits = fits && (!arrays[a] || at % (uintptr_t)vector_bytes == 0);
    }
    return fits ? head : -1;
}

template <int WEIGHTS> static __device__ constexpr int master_bytes()
{
    return WEIGHTS == W_REMAINDER || WEIGHTS == W_BF16 ? 2 : 4;
}

template <int GRADIENT> static __device__ constexpr int gradient_bytes()
{
    return GRADIENT == G_FP32 ? 4 : 2;
}

/* --- launching ------------------------------------------------------------------------------- */

static inline int weights_kind(const tess_adam_config_t *config)
{
    if (config->weights == TESS_ADAM_REMAINDER) return W_REMAINDER;
    if (config->weights == TESS_ADAM_BF16) return W_BF16;
    if (config->parameter == TESS_DTYPE_BF16) return W_MASTER_BF16;
    return config->parameter == TESS_DTYPE_FP16 ? W_MASTER_FP16 : W_FP32;
}

/* Calls Launcher<WEIGHTS, GRADIENT>::run for the configuration, with both as constants. */
template <template <int, int> class Launcher, int WEIGHTS>
static int launch_gradient(const tess_adam_config_t *config, const tessi_adam_launch_t *launch,
                           void *stream)
{
    if (config->gradient == TESS_DTYPE_BF16) return Launcher<WEIGHTS, G_BF16>::run(launch, stream);
    if (config->gradient == TESS_DTYPE_FP16) return Launcher<WEIGHTS, G_FP16>::run(launch, stream);
    return Launcher<WEIGHTS, G_FP32>::run(launch, stream);
}

template <template <int, int> class Launcher>
static int launch_for(const tess_adam_config_t *config, const tessi_adam_launch_t *launch,
                      void *stream)
{
    switch (weights_kind(config)) {
    case W_FP32:
        return launch_gradient<Launcher, W_FP32>(config, launch, stream);
    case W_MASTER_BF16:
        return launch_gradient<Launcher, W_MASTER_BF16>(config, launch, stream);
    case W_MASTER_FP16:
        return launch_gradient<Launcher, W_MASTER_FP16>(config, launch, stream);
    case W_REMAINDER:
        return launch_gradient<Launcher, W_REMAINDER>(config, launch, stream);
    default:
        return launch_gradient<Launcher, W_BF16>(config, launch, stream);
    }
}

#endif
