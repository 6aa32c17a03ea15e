/* SPDX-License-Identifier: Apache-2.0 */
/* The pattern on host memory; twin of pattern_cuda.cu. */
#define PATTERN_FUNCTION static inline

#include "pattern.h"
#include "pattern_math.h"

void pattern_fill_host(const pattern_t *pattern, const pattern_range_t *range, void *data)
{
    uint8_t *bytes = data;
    uint16_t *halves = data;
    uint32_t *words = data;
    int64_t element_bytes = tess_dtype_bytes(pattern->dtype);
    for (int64_t i = 0; i < range->count; i++) {
        int32_t value = pattern_value(pattern, range->rank_first, range->index_first + i);
        uint32_t bits = pattern_bits(pattern->dtype, value);
        if (element_bytes == 1) bytes[i] = (uint8_t)bits;
        else if (element_bytes == 2) halves[i] = (uint16_t)bits;
        else words[i] = bits;
    }
}

int64_t pattern_check_host(const pattern_t *pattern, const pattern_range_t *range, const void *data)
{
    const uint8_t *bytes = data;
    const uint16_t *halves = data;
    const uint32_t *words = data;
    int64_t element_bytes = tess_dtype_bytes(pattern->dtype), wrong = 0;
    for (int64_t i = 0; i < range->count; i++) {
        uint32_t bits = element_bytes == 1 ? bytes[i] : element_bytes == 2 ? halves[i] : words[i];
        wrong += pattern_is_wrong(pattern, range, i, bits);
    }
    return wrong;
}
