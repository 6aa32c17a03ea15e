/* SPDX-License-Identifier: Apache-2.0 */
/* Adam's state out of and into plain fp32. Twin of the loops in adam_host_loops.h.
 *
 * A warp takes 256 elements, so that a block of 8-bit moments is one warp's. These run once a
 * checkpoint, so layouts are told apart at run time.
 */
#include "adam_cuda.cuh"

#define LANES 32

static __device__ uint32_t tie_of(const tess_adam_config_t &config, const tess_adam_range_t &range,
                                  int64_t i)
{
    if (config.weights != TESS_ADAM_REMAINDER) return 0u;
    if (config.moments == TESS_ADAM_MOMENTS_FP32) return ((const uint32_t *)range.moment2)[i] >> 31;
    return ((const uint16_t *)range.moment2)[i] >> 15;
}

static __device__ float weight_at(const tess_adam_config_t &config, const tess_adam_range_t &range,
                                  int64_t i)
{
    if (config.weights == TESS_ADAM_MASTER) return ((const float *)range.master)[i];
    uint16_t parameter = ((const uint16_t *)range.parameter)[i];
    if (config.weights == TESS_ADAM_BF16) return tessi_from_bf16(parameter);
    return tessi_join(parameter, ((const uint16_t *)range.master)[i], tie_of(config, range, i));
}

static __device__ float moment1_at(const tess_adam_config_t &config, const tess_adam_range_t &range,
                                   int64_t i)
{
    if (config.moments == TESS_ADAM_MOMENTS_FP32) return ((const float *)range.moment1)[i];
    if (config.moments == TESS_ADAM_MOMENTS_BF16)
        return tessi_from_bf16(((const uint16_t *)range.moment1)[i]);
    return tessi_from_code1(((const uint8_t *)range.moment1)[i], range.scale1[i / TESS_ADAM_BLOCK]);
}

static __device__ float moment2_at(const tess_adam_config_t &config, const tess_adam_range_t &range,
                                   int64_t i)
{
    if (config.moments == TESS_ADAM_MOMENTS_FP32) return fabsf(((const float *)range.moment2)[i]);
    if (config.moments == TESS_ADAM_MOMENTS_BF16)
        return fabsf(tessi_from_bf16(((const uint16_t *)range.moment2)[i]));
    return tessi_from_code2(((const uint8_t *)range.moment2)[i], range.scale2[i / TESS_ADAM_BLOCK]);
}

/* Reads the state and writes 12 bytes an element. Bound by: memory bandwidth.
 * Measured share: not measured; it runs once a checkpoint. */
static __global__ void export_kernel(tess_adam_config_t config, tess_adam_range_t range,
                                     tess_adam_values_t values)
{
    int64_t step = (int64_t)gridDim.x * ADAM_THREADS;
    for (int64_t i = (int64_t)blockIdx.x * ADAM_THREADS + threadIdx.x; i < range.count; i += step) {
        if (values.weights) values.weights[i] = weight_at(config, range, i);
        if (values.moment1) values.moment1[i] = moment1_at(config, range, i);
        if (values.moment2) values.moment2[i] = moment2_at(config, range, i);
    }
}

static __device__ float parameter_at(const tess_adam_config_t &config,
                                     const tess_adam_range_t &range, int64_t i)
{
    if (config.parameter == TESS_DTYPE_FP32) return ((const float *)range.master)[i];
    uint16_t bits = ((const uint16_t *)range.parameter)[i];
    return config.parameter == TESS_DTYPE_BF16 ? tessi_from_bf16(bits) : tessi_from_fp16(bits);
}

/* Gives the tie that the weight leaves to moment 2. */
static __device__ uint32_t store_weight(const tess_adam_config_t &config,
                                        const tess_adam_range_t &range, int64_t i, float weight)
{
    if (config.weights == TESS_ADAM_REMAINDER) {
        tessi_split_t split = tessi_split(weight);
        ((uint16_t *)range.parameter)[i] = split.parameter;
        ((uint16_t *)range.master)[i] = split.remainder;
        return split.tie;
    }
    if (config.parameter == TESS_DTYPE_BF16)
        ((uint16_t *)range.parameter)[i] =
            config.weights == TESS_ADAM_MASTER
                ? tessi_to_bf16(weight)
                : tessi_to_bf16_random(weight, tessi_nearest_bf16(weight));
    else if (config.parameter == TESS_DTYPE_FP16)
        ((uint16_t *)range.parameter)[i] = tessi_to_fp16(weight);
    if (config.weights == TESS_ADAM_MASTER) ((float *)range.master)[i] = weight;
    return 0u;
}

static __device__ void store_moments(const tess_adam_config_t &config,
                                     const tess_adam_range_t &range, int64_t i, float m, float v,
                                     uint32_t tie)
{
    if (config.moments == TESS_ADAM_MOMENTS_FP32) {
        ((float *)range.moment1)[i] = m;
        ((float *)range.moment2)[i] = tessi_with_tie(v, tie);
    } else {
        uint32_t upper = tessi_upper_random(v, tessi_nearest_bf16(v));
        ((uint16_t *)range.moment1)[i] = tessi_to_bf16_random(m, tessi_nearest_bf16(m));
        ((uint16_t *)range.moment2)[i] = (uint16_t)(upper >> 16 | tie << 15);
    }
}

/* What one lane has of a block of moments, in 8 bits. */
static __device__ void store_codes(const tess_adam_range_t &range, int64_t block, const float *m,
                                   const float *v)
{
    float largest1 = 0.0f, largest2 = 0.0f;
    for (int n = 0; n < TESS_ADAM_BLOCK / LANES; n++) {
        largest1 = fmaxf(largest1, fabsf(m[n]));
        largest2 = fmaxf(largest2, v[n]);
    }
    largest1 = tessi_float_of(__reduce_max_sync(0xffffffffu, tessi_bits_of(largest1)));
    largest2 = tessi_float_of(__reduce_max_sync(0xffffffffu, tessi_bits_of(largest2)));
    tessi_code_scale_t scale1 = tessi_code1_scale(largest1), scale2 = tessi_code2_scale(largest2);
    for (int n = 0; n < TESS_ADAM_BLOCK / LANES; n++) {
        int64_t i = block * TESS_ADAM_BLOCK + n * LANES + threadIdx.x % LANES;
        if (i >= range.count) continue;
        ((uint8_t *)range.moment1)[i] = tessi_to_code1(m[n], scale1.inverse, TESSI_NEAREST);
        ((uint8_t *)range.moment2)[i] = tessi_to_code2(v[n], scale2.inverse, TESSI_NEAREST);
    }
    if (threadIdx.x % LANES != 0) return;
    range.scale1[block] = scale1.scale;
    range.scale2[block] = scale2.scale;
}

/* Reads 12 bytes an element and writes the state. Bound by: memory bandwidth.
 * Measured share: not measured; it runs once a checkpoint. */
static __global__ void import_kernel(tess_adam_config_t config, tess_adam_range_t range,
                                     tess_adam_values_t values)
{
    int64_t blocks = (range.count + TESS_ADAM_BLOCK - 1) / TESS_ADAM_BLOCK;
    int64_t step = (int64_t)gridDim.x * (ADAM_THREADS / LANES);
    int64_t first = (int64_t)blockIdx.x * (ADAM_THREADS / LANES) + threadIdx.x / LANES;
    for (int64_t block = first; block < blocks; block += step) {
        float m[TESS_ADAM_BLOCK / LANES], v[TESS_ADAM_BLOCK / LANES];
#pragma unroll
        for (int n = 0; n < TESS_ADAM_BLOCK / LANES; n++) {
            int64_t i = block * TESS_ADAM_BLOCK + n * LANES + threadIdx.x % LANES;
            m[n] = v[n] = 0.0f;
            if (i >= range.count) continue;
            if (values.moment1) m[n] = values.moment1[i];
            if (values.moment2) v[n] = tessi_smallest(values.moment2[i], TESSI_MOMENT2_MAX);
            float weight = values.weights ? values.weights[i] : parameter_at(config, range, i);
            uint32_t tie = store_weight(config, range, i, weight);
            if (config.moments != TESS_ADAM_MOMENTS_8BIT)
                store_moments(config, range, i, m[n], v[n], tie);
        }
        if (config.moments == TESS_ADAM_MOMENTS_8BIT) store_codes(range, block, m, v);
    }
}

/* A block steps on by the whole grid. */
static int64_t blocks_for(int64_t count)
{
    int64_t blocks = (count + ADAM_THREADS - 1) / ADAM_THREADS;
    return blocks < 65536 ? blocks : 65536;
}

int tessi_adam_cuda_export(const tess_adam_config_t *config, const tess_adam_range_t *range,
                           const tess_adam_values_t *values, void *stream)
{
    return tessi_launch(export_kernel, blocks_for(range->count), ADAM_THREADS, stream, *config,
                        *range, *values);
}

int tessi_adam_cuda_import(const tess_adam_config_t *config, const tess_adam_range_t *range,
                           const tess_adam_values_t *values, void *stream)
{
    int64_t lanes = (range->count + TESS_ADAM_BLOCK - 1) / TESS_ADAM_BLOCK * LANES;
    return tessi_launch(import_kernel, blocks_for(lanes), ADAM_THREADS, stream, *config, *range,
                        *values);
}
