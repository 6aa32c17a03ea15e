/* SPDX-License-Identifier: Apache-2.0 */
/* The formula of the pattern, once for both twins.
 *
 * Whoever includes this defines PATTERN_FUNCTION first: what stands before a function that is to be
 * inlined on the host or on the device.
 */
#ifndef TESSERA_BENCH_PATTERN_MATH_H
#define TESSERA_BENCH_PATTERN_MATH_H

#include <stdint.h>
#include <string.h>

#include "pattern.h"

/* Three rounds of xor and multiply spread every input bit over the upper half. */
PATTERN_FUNCTION uint64_t pattern_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

PATTERN_FUNCTION int32_t pattern_value(const pattern_t *pattern, int32_t rank, int64_t index)
{
    if (pattern->stride > 1 && (index + rank) % pattern->stride != 0) return 0;
    uint64_t key = pattern->seed + (uint64_t)index * 0x9e3779b97f4a7c15u +
                   ((uint64_t)rank << 32) * 0xd1342543de82ef95u;
    uint64_t span = 2 * (uint64_t)pattern->value_max + 1;
    int32_t spread = (int32_t)(((pattern_mix(key) >> 32) * span) >> 32);
    return (spread - pattern->value_max) * pattern->unit;
}

/* What the element must be after the sum over the range's ranks. */
PATTERN_FUNCTION int32_t pattern_expected(const pattern_t *pattern, const pattern_range_t *range,
                                          int64_t element)
{
    int32_t sum = 0;
    for (int32_t r = 0; r < range->rank_count; r++)
        sum += pattern_value(pattern, range->rank_first + r, range->index_first + element);
    return sum / pattern->divisor;
}

/* The bits of a small integer in the pattern's dtype; exact, so nothing is rounded here. */
PATTERN_FUNCTION uint32_t pattern_bits(tess_dtype_t dtype, int32_t value)
{
    float number = (float)value;
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    if (dtype == TESS_DTYPE_FP32) return bits;
    if (dtype == TESS_DTYPE_BF16) return bits >> 16;
    if (dtype == TESS_DTYPE_BYTE) return (uint32_t)value & 0xffu;
    if (value == 0) return 0;
    uint32_t exponent = ((bits >> 23) & 0xffu) - 127 + 15;
    return ((bits >> 16) & 0x8000u) | (exponent << 10) | ((bits >> 13) & 0x3ffu);
}

/* The number that bits stand for. Infinities and NaNs of fp16 give NaN: they are wrong anyway. */
PATTERN_FUNCTION float pattern_number(tess_dtype_t dtype, uint32_t bits)
{
    uint32_t wide = bits;
    if (dtype == TESS_DTYPE_BF16) wide = bits << 16;
    if (dtype == TESS_DTYPE_FP16) {
        uint32_t exponent = (bits >> 10) & 0x1fu;
        wide = (bits & 0x8000u) << 16;
        if (exponent == 0x1fu) wide = 0x7fc00000u;
        else if (exponent != 0) wide |= ((exponent + 112) << 23) | ((bits & 0x3ffu) << 13);
    }
    float number;
    memcpy(&number, &wide, sizeof number);
    return number;
}

PATTERN_FUNCTION int pattern_is_wrong(const pattern_t *pattern, const pattern_range_t *range,
                                      int64_t element, uint32_t bits)
{
    int32_t expected = pattern_expected(pattern, range, element);
    if (bits == pattern_bits(pattern->dtype, expected)) return 0;
    if (pattern->difference_max == 0) return 1;
    float difference = pattern_number(pattern->dtype, bits) - (float)expected;
    return !(difference <= pattern->difference_max && difference >= -pattern->difference_max);
}

#endif
