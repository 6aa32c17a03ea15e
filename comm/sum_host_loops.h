/* SPDX-License-Identifier: Apache-2.0 */
/* The loops that add rows of elements, included once by each twin, which only differ in the
 * instructions that the compiler may use.
 *
 * Every element is widened to fp32, added in the order of the sources, multiplied by the scale and
 * rounded once, to nearest even. Invariant: all twins give the same bits, which is why conversions
 * are integer arithmetic, contraction is off, and every NaN becomes the one canonical NaN.
 */
#ifndef TESSERA_COMM_SUM_HOST_LOOPS_H
#define TESSERA_COMM_SUM_HOST_LOOPS_H

#include <string.h>

#include "sum_host.h"

/* Up to this many sources are added in registers, in one pass over memory. */
#define SUM_FUSED_MAX 8
/* More than that go through a block of fp32 partial sums that stays in the first-level cache. */
#define SUM_BLOCK 1024

#define SUM_INLINE static inline __attribute__((always_inline))

SUM_INLINE float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

SUM_INLINE uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Vectors compare signed integers faster; the operands here have no sign bit. */
SUM_INLINE int below(uint32_t value, uint32_t limit)
{
    return (int32_t)value < (int32_t)limit;
}

SUM_INLINE float from_fp16(uint16_t half)
{
    uint32_t magnitude = half & 0x7fffu, wide = magnitude << 13;
    uint32_t normal = wide + (112u << 23);
    /* Subnormal: as the fraction of 2^-14 it is exact, and taking that 2^-14 off leaves its value.
     */
    uint32_t subnormal = bits_of(float_of(wide + (113u << 23)) - float_of(113u << 23));
    uint32_t special = wide + (224u << 23);
    uint32_t bits = below(magnitude, 0x0400u) ? subnormal : normal;
    bits = below(magnitude, 0x7c00u) ? bits : special;
    return float_of(bits | (uint32_t)(half & 0x8000u) << 16);
}

SUM_INLINE uint16_t to_fp16(float value)
{
    uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffu, sign = (bits >> 16) & 0x8000u;
    uint32_t odd = (magnitude >> 13) & 1u;
    uint32_t normal = (magnitude - (112u << 23) + 0x0fffu + odd) >> 13;
    /* Adding 1/2 lines the units of 2^-24 up with the last bit and rounds in the adder. */
    uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    uint32_t half = below(magnitude, 0x38800000u) ? subnormal : normal;
    half = below(magnitude, 0x47800000u) ? half : 0x7c00u;
    half |= sign;
    half = below(magnitude, 0x7f800001u) ? half : 0x7e00u;
    return (uint16_t)half;
}

SUM_INLINE uint16_t to_bf16(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)(below(bits & 0x7fffffffu, 0x7f800001u) ? rounded : 0x7fc0u);
}

SUM_INLINE float canonical(float value)
{
    uint32_t bits = bits_of(value);
    return float_of(below(bits & 0x7fffffffu, 0x7f800001u) ? bits : 0x7fc00000u);
}

SUM_INLINE float load(tess_dtype_t dtype, const void *source, int64_t i)
{
    if (dtype == TESS_DTYPE_FP32) return ((const float *)source)[i];
    uint16_t bits = ((const uint16_t *)source)[i];
    return dtype == TESS_DTYPE_BF16 ? float_of((uint32_t)bits << 16) : from_fp16(bits);
}

SUM_INLINE void store(tess_dtype_t dtype, void *destination, int64_t i, float value)
{
    if (dtype == TESS_DTYPE_FP32) ((float *)destination)[i] = canonical(value);
    else ((uint16_t *)destination)[i] = dtype == TESS_DTYPE_BF16 ? to_bf16(value) : to_fp16(value);
}

/* source_count is a constant at every call, so the inner loop vanishes. The destination may be one
 * of the sources: each element is read before it is written, hence no dependency between
 * iterations. */
SUM_INLINE void sum_fused(tess_dtype_t dtype, void *destination, const void *const *sources,
                          int source_count, int64_t count, float scale)
{
    const void *from[SUM_FUSED_MAX];
    for (int s = 0; s < source_count; s++) from[s] = sources[s];
#pragma GCC ivdep
    for (int64_t i = 0; i < count; i++) {
        float sum = load(dtype, from[0], i);
        for (int s = 1; s < source_count; s++) sum += load(dtype, from[s], i);
        store(dtype, destination, i, sum * scale);
    }
}

SUM_INLINE void sum_blocked(tess_dtype_t dtype, void *destination, const void *const *sources,
                            int source_count, int64_t count, float scale)
{
    float partial[SUM_BLOCK];
    for (int64_t start = 0; start < count; start += SUM_BLOCK) {
        int64_t block = count - start < SUM_BLOCK ? count - start : SUM_BLOCK;
        for (int64_t i = 0; i < block; i++) partial[i] = load(dtype, sources[0], start + i);
        for (int s = 1; s < source_count; s++)
            for (int64_t i = 0; i < block; i++) partial[i] += load(dtype, sources[s], start + i);
        for (int64_t i = 0; i < block; i++)
            store(dtype, destination, start + i, partial[i] * scale);
    }
}

SUM_INLINE void sum_sources(tess_dtype_t dtype, void *destination, const void *const *sources,
                            int source_count, int64_t count, float scale)
{
    switch (source_count) {
    case 1:
        sum_fused(dtype, destination, sources, 1, count, scale);
        return;
    case 2:
        sum_fused(dtype, destination, sources, 2, count, scale);
        return;
    case 3:
        sum_fused(dtype, destination, sources, 3, count, scale);
        return;
    case 4:
        sum_fused(dtype, destination, sources, 4, count, scale);
        return;
    case 5:
        sum_fused(dtype, destination, sources, 5, count, scale);
        return;
    case 6:
        sum_fused(dtype, destination, sources, 6, count, scale);
        return;
    case 7:
        sum_fused(dtype, destination, sources, 7, count, scale);
        return;
    case 8:
        sum_fused(dtype, destination, sources, 8, count, scale);
        return;
    default:
        sum_blocked(dtype, destination, sources, source_count, count, scale);
        return;
    }
}

/* The body of every twin. */
SUM_INLINE void sum_any(tess_dtype_t dtype, void *destination, const void *const *sources,
                        int source_count, int64_t count, float scale)
{
    if (dtype == TESS_DTYPE_FP32)
        sum_sources(TESS_DTYPE_FP32, destination, sources, source_count, count, scale);
    else if (dtype == TESS_DTYPE_BF16)
        sum_sources(TESS_DTYPE_BF16, destination, sources, source_count, count, scale);
    else sum_sources(TESS_DTYPE_FP16, destination, sources, source_count, count, scale);
}

#endif
