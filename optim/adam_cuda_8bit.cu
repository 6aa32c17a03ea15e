/* SPDX-License-Identifier: Apache-2.0 */
/* Adam with moments in 8 bits and a scale a block; twin of the loops in adam_host_loops.h.
 *
 * A warp takes one block of 256 elements, a lane 8 neighbours; the block's largest values are found
 * in registers, so memory is touched once. Blocks are counted from the range's element 0.
 */
#include "adam_cuda.cuh"

#define LANE_ELEMENTS (TESS_ADAM_BLOCK / 32)
#define THREADS 128
#define BLOCKS_PER_SM 7
#define MANY_ELEMENTS (1 << 24)
#define HALF_TILE (TESSI_ADAM_CUDA_TILE / 2)

/* One lane's share of a block, as it lies in memory; what is beyond the range's end counts as zero.
 */
template <int WEIGHTS> struct lane_t {
    float g[LANE_ELEMENTS];
    weight_pack<WEIGHTS, LANE_ELEMENTS> weights;
    tessi_pack<1, LANE_ELEMENTS> code1, code2;
    float scale1, scale2;
};

/* This lane's first element of a block. */
TESSI_DEVICE int64_t first_of(int64_t block)
{
    return block * TESS_ADAM_BLOCK + threadIdx.x % 32 * LANE_ELEMENTS;
}

template <int WEIGHTS, int GRADIENT>
TESSI_DEVICE void read_whole(const tess_adam_range_t &range, int64_t block, lane_t<WEIGHTS> *lane)
{
    int64_t i = first_of(block);
    lane->scale1 = range.scale1[block];
    lane->scale2 = range.scale2[block];
    read_gradient<GRADIENT, LANE_ELEMENTS, true>(range, i, lane->g);
    lane->weights = read_weights<WEIGHTS, LANE_ELEMENTS, true>(range, i);
    lane->code1 = tessi_read<1, LANE_ELEMENTS, true>(range.moment1, i);
    lane->code2 = tessi_read<1, LANE_ELEMENTS, true>(range.moment2, i);
}

/* Element by element, of which `left` are there. */
template <int WEIGHTS, int GRADIENT>
TESSI_DEVICE void read_part(const tess_adam_range_t &range, int64_t block, int64_t left,
                            lane_t<WEIGHTS> *lane)
{
    int64_t i = first_of(block);
    *lane = {};
    lane->scale1 = range.scale1[block];
    lane->scale2 = range.scale2[block];
#pragma unroll
    for (int n = 0; n < LANE_ELEMENTS; n++) {
        if (n >= left) continue;
        read_gradient<GRADIENT, 1, false>(range, i + n, &lane->g[n]);
        weight_pack<WEIGHTS, 1> weight = read_weights<WEIGHTS, 1, false>(range, i + n);
        if constexpr (WEIGHTS == W_BF16)
            lane->weights.parameter.words[n / 2] |= weight.parameter.words[0] << n % 2 * 16;
        else lane->weights.master.words[n] = weight.master.words[0];
        lane->code1.words[n / 4] |= (uint32_t)((const uint8_t *)range.moment1)[i + n] << n % 4 * 8;
        lane->code2.words[n / 4] |= (uint32_t)((const uint8_t *)range.moment2)[i + n] << n % 4 * 8;
    }
}

/* (word & MASK) | the bits of 2. One operation can hold one constant, so the other one is kept from
 * the compiler, which would make two operations of it. */
template <uint32_t MASK> TESSI_DEVICE uint32_t number_of(uint32_t word)
{
    uint32_t number, first;
    asm("mov.b32 %0, %1;" : "=r"(first) : "f"(TESSI_CODE_FIRST));
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(number) : "r"(word), "n"(MASK), "r"(first));
    return number;
}

/* tessi_from_code1 and tessi_from_code2 for a code that stands among others in a word. */
TESSI_DEVICE float moment1_of(const tessi_pack<1, LANE_ELEMENTS> &codes, int n, float scale)
{
    uint32_t code = tessi_at_19(codes, n);
    uint32_t bits = tessi_bits_of(tessi_code_value(number_of<0x03f80000u>(code), scale));
    return tessi_float_of(bits | (code << 5 & 0x80000000u));
}

TESSI_DEVICE float moment2_of(const tessi_pack<1, LANE_ELEMENTS> &codes, int n, float scale)
{
    return tessi_code_value(number_of<0x07f80000u>(tessi_at_19(codes, n)), scale);
}

/* The largest value of the warp; none is negative, so their bits compare like numbers. */
TESSI_DEVICE float warp_largest(uint32_t bits)
{
    return tessi_float_of(__reduce_max_sync(0xffffffffu, bits));
}

/* Of a block that is not whole, `left` elements of this lane are there. */
template <int WEIGHTS, bool WHOLE>
TESSI_DEVICE void step_block(const tess_adam_range_t &range, const tessi_adam_scalars_t &scalars,
                             uint64_t key, int64_t block, int64_t left, const lane_t<WEIGHTS> &lane)
{
    int64_t i = first_of(block);
    float g[LANE_ELEMENTS], w[LANE_ELEMENTS], m[LANE_ELEMENTS], v[LANE_ELEMENTS];
#pragma unroll
    for (int n = 0; n < LANE_ELEMENTS; n++) {
        w[n] = weight_of<WEIGHTS, LANE_ELEMENTS>(lane.weights, n, 0u);
        g[n] = lane.g[n] * scalars.gradient_factor;
    }
    /* As in tessi_adam_gradient; most steps have no such decay, and instructions count here. */
    if (scalars.l2 != 0.0f)
#pragma unroll
        for (int n = 0; n < LANE_ELEMENTS; n++) g[n] = fmaf(scalars.l2, w[n], g[n]);
    float largest1 = 0.0f;
    uint32_t largest2 = 0u;
#pragma unroll
    for (int n = 0; n < LANE_ELEMENTS; n++) {
        m[n] = moment1_of(lane.code1, n, lane.scale1);
        v[n] = moment2_of(lane.code2, n, lane.scale2);
        tessi_adam_moments(&scalars, g[n], &w[n], &m[n], &v[n]);
        largest1 = fmaxf(largest1, fabsf(m[n]));
        if (n % 2) largest2 = __vimax3_u32(largest2, tessi_bits_of(v[n - 1]), tessi_bits_of(v[n]));
    }
    tessi_code_scale_t scale1 = tessi_code1_scale(warp_largest(tessi_bits_of(largest1)));
    tessi_code_scale_t scale2 = tessi_code2_scale(warp_largest(largest2));

    uint32_t code1[LANE_ELEMENTS], code2[LANE_ELEMENTS];
    tessi_random_t random[LANE_ELEMENTS];
#pragma unroll
    for (int n = 0; n < LANE_ELEMENTS; n++) {
        random[n] = tessi_random(key, range.first_index + i + n);
        code1[n] = tessi_upper_code1(m[n], scale1.inverse, random[n].moment1);
        code2[n] = tessi_upper_code2(v[n], scale2.inverse, random[n].moment2);
    }
    if (WHOLE) {
        write_weights<WEIGHTS, LANE_ELEMENTS>(range, i, w, random, NULL);
        tessi_write<1, LANE_ELEMENTS>(range.moment1, i, tessi_pack_upper8<LANE_ELEMENTS>(code1));
        tessi_write<1, LANE_ELEMENTS>(range.moment2, i, tessi_pack_upper8<LANE_ELEMENTS>(code2));
    } else {
#pragma unroll
        for (int n = 0; n < LANE_ELEMENTS; n++) {
            if (n >= left) continue;
            write_weights<WEIGHTS, 1>(range, i + n, &w[n], &random[n], NULL);
            tessi_write<1, 1>(range.moment1, i + n, tessi_pack_upper8<1>(&code1[n]));
            tessi_write<1, 1>(range.moment2, i + n, tessi_pack_upper8<1>(&code2[n]));
        }
    }
    if (threadIdx.x % 32 == 0) {
        range.scale1[block] = scale1.scale;
        range.scale2[block] = scale2.scale;
    }
}

/* A run of blocks for a set of warps, and which of them this one is. */
struct run_t {
    int64_t first, whole_end, end; /* pairs of blocks in [first, whole_end) are whole and aligned */
    int64_t warp, warps;
};

/* Two blocks at a time, so that the second one's reads are under way while the first one is
 * computed, and one set of addresses serves both. */
template <int WEIGHTS, int GRADIENT>
TESSI_DEVICE void step_run(const tess_adam_range_t &range, const tessi_adam_constants_t &constants,
                           const tess_step_state_t *state, const run_t &run)
{
    if (state->skip) return;
    tessi_adam_scalars_t scalars =
        tessi_adam_scalars(&constants, state, range.weight_decay, range.learning_rate_factor);
    uint64_t key = state->random_key;
    for (int64_t block = run.first + 2 * run.warp; block < run.whole_end; block += 2 * run.warps) {
        lane_t<WEIGHTS> lanes[2];
        read_whole<WEIGHTS, GRADIENT>(range, block, &lanes[0]);
        read_whole<WEIGHTS, GRADIENT>(range, block + 1, &lanes[1]);
        step_block<WEIGHTS, true>(range, scalars, key, block, LANE_ELEMENTS, lanes[0]);
        step_block<WEIGHTS, true>(range, scalars, key, block + 1, LANE_ELEMENTS, lanes[1]);
    }
    for (int64_t block = run.whole_end + run.warp; block < run.end; block += run.warps) {
        int64_t left = range.count - first_of(block);
        lane_t<WEIGHTS> lane;
        read_part<WEIGHTS, GRADIENT>(range, block, left, &lane);
        step_block<WEIGHTS, false>(range, scalars, key, block, left, lane);
    }
}

static __host__ __device__ bool is_aligned(const tess_adam_range_t &range)
{
    uintptr_t vectors =
        (uintptr_t)range.gradient | (uintptr_t)range.parameter | (uintptr_t)range.master;
    return vectors % 16 == 0 && ((uintptr_t)range.moment1 | (uintptr_t)range.moment2) % 8 == 0;
}

/* Reads and writes 10.1 bytes an element (bf16 weights) and computes about 60 operations.
 * Bound by: memory bandwidth, with the issue of instructions close behind.
 * Measured share: see docs/PERFORMANCE.md, "Adam". */
template <int WEIGHTS, int GRADIENT>
static __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    adam_8bit_kernel(const __grid_constant__ tessi_adam_launch_t launch, int64_t whole_end)
{
    const tess_adam_range_t &range = launch.work.range;
    run_t run;
    run.first = 0;
    run.whole_end = whole_end;
    run.end = (range.count + TESS_ADAM_BLOCK - 1) / TESS_ADAM_BLOCK;
    run.warp = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    run.warps = (int64_t)gridDim.x * THREADS / 32;
    step_run<WEIGHTS, GRADIENT>(range, launch.constants, launch.state, run);
}

/* The same for a list, half a tile a block of threads: a pair of blocks for each warp. */
template <int WEIGHTS, int GRADIENT>
static __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    adam_8bit_list_kernel(const __grid_constant__ tessi_adam_launch_t launch)
{
    tessi_adam_tile_t tile = launch.work.tiles[blockIdx.x / 2];
    tess_adam_range_t range = launch.work.ranges[tile.range];
    int32_t first = (int32_t)(blockIdx.x % 2) * HALF_TILE;
    int32_t count = tile.count - first < HALF_TILE ? tile.count - first : HALF_TILE;
    if (count <= 0) return;
    run_t run;
    run.first = (tile.first + first) / TESS_ADAM_BLOCK;
    run.end = run.first + (count + TESS_ADAM_BLOCK - 1) / TESS_ADAM_BLOCK;
    run.whole_end = run.first + (is_aligned(range) ? count / TESS_ADAM_BLOCK & ~1 : 0);
    run.warp = threadIdx.x / 32;
    run.warps = THREADS / 32;
    step_run<WEIGHTS, GRADIENT>(range, launch.constants, launch.state, run);
}

/* A warp of one range walks through a few blocks, in steps of the whole grid: fewer would not pay
 * for its start, and more let the warps drift apart in memory. Measured: 8 where instructions are
 * the bound, 2 where memory is. */
template <int WEIGHTS, int GRADIENT> struct launcher {
    static int run(const tessi_adam_launch_t *launch, void *stream)
    {
        if (launch->work.ranges)
            return tessi_launch(adam_8bit_list_kernel<WEIGHTS, GRADIENT>,
                                2 * launch->work.tile_count, THREADS, stream, *launch);
        const tess_adam_range_t &range = launch->work.range;
        int64_t whole_end = is_aligned(range) ? range.count / TESS_ADAM_BLOCK & ~(int64_t)1 : 0;
        int64_t warp_blocks = WEIGHTS == W_BF16 && range.count >= MANY_ELEMENTS ? 8 : 2;
        int64_t elements = warp_blocks * TESS_ADAM_BLOCK * THREADS / 32;
        return tessi_launch(adam_8bit_kernel<WEIGHTS, GRADIENT>,
                            (range.count + elements - 1) / elements, THREADS, stream, *launch,
                            whole_end);
    }
};

/* The 8 bits of moment 2 have no room for ties. */
template <int GRADIENT> struct launcher<W_REMAINDER, GRADIENT> {
    static int run(const tessi_adam_launch_t *, void *)
    {
        return (int)cudaErrorInvalidValue;
    }
};

int tessi_adam_cuda_8bit(const tess_adam_config_t *config, const tessi_adam_launch_t *launch,
                         void *stream)
{
    return launch_for<launcher>(config, launch, stream);
}
