/* SPDX-License-Identifier: Apache-2.0 */
/* What adam_math.h is made of, for 8 numbers at a time: AVX2 and FMA.
 *
 * Invariant: lane for lane the same bits as the definitions for one number in adam_math.h.
 */
#ifndef TESSERA_OPTIM_ADAM_LANES_AVX2_H
#define TESSERA_OPTIM_ADAM_LANES_AVX2_H

#include <immintrin.h>

#define TESSI_LANES 8
#define TESSI_LINE_VECTORS 4 /* whose lanes, as 16-bit numbers, fill a cache line */

typedef float tessi_number_t __attribute__((vector_size(32)));
typedef uint32_t tessi_word_t __attribute__((vector_size(32)));
typedef tessi_word_t tessi_half_t, tessi_code_t;
typedef __m256i tessi_mask_t;

typedef struct tessi_product {
    tessi_word_t high, low;
} tessi_product_t;

TESSI_MATH tessi_number_t tessi_float_of(tessi_word_t bits)
{
    return (tessi_number_t)bits;
}
TESSI_MATH tessi_word_t tessi_bits_of(tessi_number_t value)
{
    return (tessi_word_t)value;
}
TESSI_MATH tessi_number_t tessi_numbers(float value)
{
    return _mm256_set1_ps(value);
}
TESSI_MATH tessi_word_t tessi_words(uint32_t value)
{
    return (tessi_word_t)_mm256_set1_epi32((int)value);
}
TESSI_MATH tessi_number_t tessi_fma(tessi_number_t a, tessi_number_t b, tessi_number_t c)
{
    return _mm256_fmadd_ps(a, b, c);
}
TESSI_MATH tessi_number_t tessi_sqrt(tessi_number_t value)
{
    return _mm256_sqrt_ps(value);
}
TESSI_MATH tessi_number_t tessi_reciprocal(tessi_number_t value)
{
    return 1.0f / value;
}
TESSI_MATH tessi_number_t tessi_smallest(tessi_number_t a, tessi_number_t b)
{
    return _mm256_min_ps(a, b);
}
TESSI_MATH tessi_number_t tessi_magnitude(tessi_number_t value)
{
    return (tessi_number_t)((tessi_word_t)value & 0x7fffffffu);
}
TESSI_MATH tessi_word_t tessi_larger(tessi_word_t a, tessi_word_t b)
{
    return (tessi_word_t)_mm256_max_epu32((__m256i)a, (__m256i)b);
}
TESSI_MATH tessi_mask_t tessi_less(tessi_number_t a, tessi_number_t b)
{
    return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
TESSI_MATH tessi_mask_t tessi_is_number(tessi_word_t bits)
{
    return _mm256_castps_si256(_mm256_cmp_ps((__m256)bits, (__m256)bits, _CMP_ORD_Q));
}
TESSI_MATH tessi_mask_t tessi_below(tessi_word_t value, uint32_t limit)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)limit), (__m256i)value);
}
TESSI_MATH tessi_word_t tessi_select(tessi_mask_t mask, tessi_word_t a, tessi_word_t b)
{
    return (tessi_word_t)_mm256_blendv_epi8((__m256i)b, (__m256i)a, mask);
}
/* Products of the even lanes and of the odd ones, put in order. */
TESSI_MATH tessi_product_t tessi_product(tessi_word_t a, uint32_t b)
{
    __m256i factor = _mm256_set1_epi64x((long long)b);
    __m256i even = _mm256_mul_epu32((__m256i)a, factor);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), factor);
    tessi_product_t product;
    product.high = (tessi_word_t)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
    product.low = (tessi_word_t)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    return product;
}

/* --- memory ----------------------------------------------------------------------------------- */

TESSI_MATH tessi_word_t tessi_lane_indices(void)
{
    return (tessi_word_t){0, 1, 2, 3, 4, 5, 6, 7};
}
TESSI_MATH tessi_number_t tessi_load(const float *from)
{
    return _mm256_loadu_ps(from);
}
TESSI_MATH void tessi_store(float *to, tessi_number_t value)
{
    _mm256_storeu_ps(to, value);
}
TESSI_MATH tessi_half_t tessi_load_halves(const uint16_t *from)
{
    return (tessi_half_t)_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)from));
}
/* In the upper half of each word; the lower is zero. */
TESSI_MATH tessi_word_t tessi_load_upper(const uint16_t *from)
{
    return tessi_load_halves(from) << 16;
}
TESSI_MATH tessi_code_t tessi_load_codes(const uint8_t *from)
{
    return (tessi_code_t)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)from));
}

/* Words below 65536. */
TESSI_MATH __m128i tessi_narrow(tessi_word_t words)
{
    return _mm_packus_epi32(_mm256_castsi256_si128((__m256i)words),
                            _mm256_extracti128_si256((__m256i)words, 1));
}
TESSI_MATH void tessi_store_lower(uint16_t *to, tessi_word_t words)
{
    _mm_storeu_si128((void *)to, tessi_narrow(words & 0xffffu));
}
TESSI_MATH void tessi_store_upper(uint16_t *to, tessi_word_t words)
{
    _mm_storeu_si128((void *)to, tessi_narrow(words >> 16));
}
TESSI_MATH void tessi_store_upper_codes(uint8_t *to, tessi_word_t words)
{
    __m128i halves = tessi_narrow(words >> 24);
    _mm_storel_epi64((void *)to, _mm_packus_epi16(halves, halves));
}
/* To memory that is aligned to a vector of halves, past the cache. */
TESSI_MATH void tessi_stream_upper(uint16_t *to, tessi_word_t words)
{
    _mm_stream_si128((void *)to, tessi_narrow(words >> 16));
}
TESSI_MATH void tessi_stream_end(void)
{
    _mm_sfence();
}

#endif
