/* SPDX-License-Identifier: Apache-2.0 */
/* What adam_math.h is made of, for 16 numbers at a time: AVX-512 (F, BW, DQ, VL).
 *
 * Invariant: lane for lane the same bits as the definitions for one number in adam_math.h.
 */
#ifndef TESSERA_OPTIM_ADAM_LANES_AVX512_H
#define TESSERA_OPTIM_ADAM_LANES_AVX512_H

#include <immintrin.h>

#define TESSI_LANES 16
#define TESSI_LINE_VECTORS 2 /* whose lanes, as 16-bit numbers, fill a cache line */

typedef float tessi_number_t __attribute__((vector_size(64)));
typedef uint32_t tessi_word_t __attribute__((vector_size(64)));
typedef tessi_word_t tessi_half_t, tessi_code_t;
typedef __mmask16 tessi_mask_t;

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
    return _mm512_set1_ps(value);
}
TESSI_MATH tessi_word_t tessi_words(uint32_t value)
{
    return (tessi_word_t)_mm512_set1_epi32((int)value);
}
TESSI_MATH tessi_number_t tessi_fma(tessi_number_t a, tessi_number_t b, tessi_number_t c)
{
    return _mm512_fmadd_ps(a, b, c);
}
/* An estimate with Newton's steps and an exact last one takes more of what the loops are short of
 * than the divider does. */
TESSI_MATH tessi_number_t tessi_sqrt(tessi_number_t value)
{
    return _mm512_sqrt_ps(value);
}
TESSI_MATH tessi_number_t tessi_reciprocal(tessi_number_t value)
{
    return 1.0f / value;
}
TESSI_MATH tessi_number_t tessi_smallest(tessi_number_t a, tessi_number_t b)
{
    return _mm512_min_ps(a, b);
}
TESSI_MATH tessi_number_t tessi_magnitude(tessi_number_t value)
{
    return (tessi_number_t)((tessi_word_t)value & 0x7fffffffu);
}
TESSI_MATH tessi_word_t tessi_larger(tessi_word_t a, tessi_word_t b)
{
    return (tessi_word_t)_mm512_max_epu32((__m512i)a, (__m512i)b);
}
TESSI_MATH tessi_mask_t tessi_less(tessi_number_t a, tessi_number_t b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
TESSI_MATH tessi_mask_t tessi_is_number(tessi_word_t bits)
{
    return _mm512_cmp_ps_mask((__m512)bits, (__m512)bits, _CMP_ORD_Q);
}
TESSI_MATH tessi_mask_t tessi_below(tessi_word_t value, uint32_t limit)
{
    return _mm512_cmplt_epi32_mask((__m512i)value, _mm512_set1_epi32((int)limit));
}
TESSI_MATH tessi_word_t tessi_select(tessi_mask_t mask, tessi_word_t a, tessi_word_t b)
{
    return (tessi_word_t)_mm512_mask_blend_epi32(mask, (__m512i)b, (__m512i)a);
}
/* Products of the even lanes and of the odd ones, put in order. */
TESSI_MATH tessi_product_t tessi_product(tessi_word_t a, uint32_t b)
{
    __m512i factor = _mm512_set1_epi64((long long)b);
    __m512i even = _mm512_mul_epu32((__m512i)a, factor);
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), factor);
    tessi_product_t product;
    product.high = (tessi_word_t)_mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
    product.low = (tessi_word_t)_mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA);
    return product;
}

/* --- memory ----------------------------------------------------------------------------------- */

TESSI_MATH tessi_word_t tessi_lane_indices(void)
{
    return (tessi_word_t){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}
TESSI_MATH tessi_number_t tessi_load(const float *from)
{
    return _mm512_loadu_ps(from);
}
TESSI_MATH void tessi_store(float *to, tessi_number_t value)
{
    _mm512_storeu_ps(to, value);
}
TESSI_MATH tessi_half_t tessi_load_halves(const uint16_t *from)
{
    return (tessi_half_t)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from));
}
/* In the upper half of each word; the lower is zero. */
TESSI_MATH tessi_word_t tessi_load_upper(const uint16_t *from)
{
    const tessi_word_t indices = tessi_lane_indices() << 16;
    __m512i halves = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)from));
    return (tessi_word_t)_mm512_maskz_permutexvar_epi16(0xaaaaaaaau, (__m512i)indices, halves);
}
TESSI_MATH tessi_code_t tessi_load_codes(const uint8_t *from)
{
    return (tessi_code_t)_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)from));
}

/* One permutation of half words takes the place of a shift and a narrowing. `odd` is 1 for upper
 * halves and 0 for lower ones. */
TESSI_MATH __m256i tessi_gather_halves(tessi_word_t words, int odd)
{
    const tessi_word_t indices = ((tessi_lane_indices() * 4u + (uint32_t)odd) & 31u) |
                                 ((tessi_lane_indices() * 4u + 2u + (uint32_t)odd) & 31u) << 16;
    return _mm512_castsi512_si256(_mm512_permutexvar_epi16((__m512i)indices, (__m512i)words));
}
TESSI_MATH void tessi_store_lower(uint16_t *to, tessi_word_t words)
{
    _mm256_storeu_si256((void *)to, tessi_gather_halves(words, 0));
}
TESSI_MATH void tessi_store_upper(uint16_t *to, tessi_word_t words)
{
    _mm256_storeu_si256((void *)to, tessi_gather_halves(words, 1));
}
TESSI_MATH void tessi_store_upper_codes(uint8_t *to, tessi_word_t words)
{
    _mm_storeu_si128((void *)to, _mm512_cvtepi32_epi8((__m512i)(words >> 24)));
}
/* To memory that is aligned to a vector of halves, past the cache. */
TESSI_MATH void tessi_stream_upper(uint16_t *to, tessi_word_t words)
{
    _mm256_stream_si256((void *)to, tessi_gather_halves(words, 1));
}
TESSI_MATH void tessi_stream_end(void)
{
    _mm_sfence();
}

#endif
