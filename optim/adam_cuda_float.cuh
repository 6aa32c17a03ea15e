/* SPDX-License-Identifier: Apache-2.0 */
/* The Adam kernel for moments in fp32 and bf16, in which every element stands alone.
 *
 * A block takes one small tile and ends: measured, that beats loops of fewer blocks, because the
 * blocks at work then stay close together in memory. */
#ifndef TESSERA_OPTIM_ADAM_CUDA_FLOAT_CUH
#define TESSERA_OPTIM_ADAM_CUDA_FLOAT_CUH

#include "adam_cuda.cuh"

/* N elements from i on, moments of BYTES bytes: everything is read, then computed, then written. */
template <int BYTES, int WEIGHTS, int GRADIENT, int N, bool ALIGNED>
TESSI_DEVICE void step_elements(const tess_adam_range_t &range, const tessi_adam_scalars_t &scalars,
                                uint64_t key, int64_t i)
{
    float g[N], w[N], m[N], v[N];
    uint32_t tie[N], moment1[N], moment2[N];
    tessi_random_t random[N];
    read_gradient<GRADIENT, N, ALIGNED>(range, i, g);
    weight_pack<WEIGHTS, N> weights = read_weights<WEIGHTS, N, ALIGNED>(range, i);
    tessi_pack<BYTES, N> pack1 = tessi_read<BYTES, N, ALIGNED>(range.moment1, i);
    tessi_pack<BYTES, N> pack2 = tessi_read<BYTES, N, ALIGNED>(range.moment2, i);
#pragma unroll
    for (int n = 0; n < N; n++) {
        if constexpr (BYTES == 4) {
            moment1[n] = pack1.words[n];
            moment2[n] = pack2.words[n];
        } else {
            moment1[n] = tessi_upper(pack1, n);
            moment2[n] = tessi_upper(pack2, n);
        }
        m[n] = tessi_float_of(moment1[n]);
        v[n] = tessi_float_of(WEIGHTS == W_REMAINDER ? moment2[n] & 0x7fffffffu : moment2[n]);
        w[n] = weight_of<WEIGHTS, N>(weights, n, moment2[n] >> 31);
        tessi_adam_update(&scalars, g[n], &w[n], &m[n], &v[n]);
        if (BYTES == 2 || WEIGHTS == W_BF16)
            random[n] = tessi_random(key, range.first_index + i + n);
    }
    write_weights<WEIGHTS, N>(range, i, w, random, tie);
#pragma unroll
    for (int n = 0; n < N; n++) {
        if constexpr (BYTES == 4) {
            pack1.words[n] = tessi_bits_of(m[n]);
            pack2.words[n] = tessi_bits_of(v[n]) | (WEIGHTS == W_REMAINDER ? tie[n] << 31 : 0u);
        } else {
            moment1[n] = tessi_upper_bf16_random(m[n], random[n].moment1);
            moment2[n] = tessi_upper_random(v[n], random[n].moment2);
            if (WEIGHTS == W_REMAINDER) moment2[n] |= tie[n] << 31;
        }
    }
    if constexpr (BYTES == 2) {
        pack1 = tessi_pack_upper16<N>(moment1);
        pack2 = tessi_pack_upper16<N>(moment2);
    }
    tessi_write<BYTES, N>(range.moment1, i, pack1);
    tessi_write<BYTES, N>(range.moment2, i, pack2);
}

/* Reads and writes 14 to 28 bytes an element (tess_adam_sizes) and computes about 60 operations.
 * Bound by: memory bandwidth.
 * Measured share: see docs/PERFORMANCE.md, "Adam". */
template <int BYTES, int WEIGHTS, int GRADIENT, int N, int FLAT>
static __global__ void __launch_bounds__(ADAM_THREADS, 4)
    adam_kernel(const __grid_constant__ tessi_adam_launch_t launch)
{
    tile_t tile = find_tile<FLAT>(launch.work);
    const tess_adam_range_t &range = tile.range;
    if (launch.state->skip) return;
    tessi_adam_scalars_t scalars = tessi_adam_scalars(
        &launch.constants, launch.state, range.weight_decay, range.learning_rate_factor);
    uint64_t key = launch.state->random_key;

    int head = head_of<N>(range, gradient_bytes<GRADIENT>(), master_bytes<WEIGHTS>(), BYTES);
    int32_t lead = tile.count;
    if (head >= 0) {
        lead = (int32_t)(((int64_t)head - tile.first) & (N - 1));
        lead = lead < tile.count ? lead : tile.count;
    }
    int32_t vectors = (tile.count - lead) / N;
    for (int32_t v = (int32_t)threadIdx.x; v < vectors; v += ADAM_THREADS)
        step_elements<BYTES, WEIGHTS, GRADIENT, N, true>(range, scalars, key,
                                                         tile.first + lead + (int64_t)v * N);
    /* What stands before the first and behind the last aligned vector. */
    int32_t singles = tile.count - vectors * N;
    for (int32_t s = (int32_t)threadIdx.x; s < singles; s += ADAM_THREADS) {
        int32_t at = s < lead ? s : s + vectors * N;
        step_elements<BYTES, WEIGHTS, GRADIENT, 1, false>(range, scalars, key, tile.first + at);
    }
}

/* What a .cu file gives to launch_for, by an alias that leaves two parameters open. */
template <int BYTES, int N, int FLAT, int WEIGHTS, int GRADIENT> struct adam_launcher {
    static int run(const tessi_adam_launch_t *launch, void *stream)
    {
        int64_t tiles = launch->work.ranges ? launch->work.tile_count
                                            : (launch->work.range.count + FLAT - 1) / FLAT;
        return tessi_launch(adam_kernel<BYTES, WEIGHTS, GRADIENT, N, FLAT>, tiles, ADAM_THREADS,
                            stream, *launch);
    }
};

#endif
