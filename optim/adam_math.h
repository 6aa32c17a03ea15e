/* SPDX-License-Identifier: Apache-2.0 */
/* The formula of Adam and the formats of its state, element by element, for every twin: reference,
 * plain C, AVX2, AVX-512 and CUDA include this file and nothing else that computes.
 *
 * Invariant: only operations that IEEE 754 rounds once (+, -, *, fmaf, 1 / x, square root) and
 * integers, so that all twins give the same bits. Compile without contraction of what is not
 * written as fmaf (-ffp-contract=off, -fmad=false) and with subnormals.
 */
#ifndef TESSERA_OPTIM_ADAM_MATH_H
#define TESSERA_OPTIM_ADAM_MATH_H

#include <stdint.h>
#include <tessera/adam.h>

/* --- what the formula is made of ----------------------------------------------------------------
 */

#ifdef __CUDACC__
#define TESSI_MATH static __device__ __forceinline__
#else
#include <math.h>
#include <string.h>
#define TESSI_MATH static inline __attribute__((always_inline, unused))
#endif

#ifdef TESSI_LANES_HEADER
#include TESSI_LANES_HEADER /* numbers are vectors here */
#else
typedef float tessi_number_t;
typedef uint32_t tessi_word_t;
typedef uint16_t tessi_half_t; /* where numbers are vectors, the low bits of a word */
typedef uint8_t tessi_code_t;  /* likewise */
typedef int tessi_mask_t;

typedef struct tessi_product {
    tessi_word_t high, low;
} tessi_product_t;

#ifdef __CUDACC__
TESSI_MATH float tessi_float_of(uint32_t bits)
{
    return __uint_as_float(bits);
}
TESSI_MATH uint32_t tessi_bits_of(float value)
{
    return __float_as_uint(value);
}
/* Exactly rounded from 2^-102 up, where the compiler's own would also spend a branch on what cannot
 * come: the error of the estimate is exact in a fused multiply-add. Compared once with __fsqrt_rn
 * and
 * __frcp_rn for every value, on sm_90; optim.cuda_twin compares what steps make of it. */
TESSI_MATH float tessi_sqrt(float value)
{
    float inverse;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(value));
    float root = __fmul_rn(value, inverse);
    return __fmaf_rn(__fmaf_rn(-root, root, value), __fmul_rn(0.5f, inverse), root);
}
/* Likewise for values and results within the normal numbers. */
TESSI_MATH float tessi_reciprocal(float value)
{
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(value));
    return __fmaf_rn(inverse, __fmaf_rn(-value, inverse, 1.0f), inverse);
}
TESSI_MATH float tessi_smallest(float a, float b)
{
    return fminf(a, b);
}
TESSI_MATH tessi_product_t tessi_product(uint32_t a, uint32_t b)
{
    uint64_t product;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
    tessi_product_t words = {(uint32_t)(product >> 32), (uint32_t)product};
    return words;
}
#else
TESSI_MATH float tessi_float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
TESSI_MATH uint32_t tessi_bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
TESSI_MATH float tessi_sqrt(float value)
{
    return sqrtf(value);
}
TESSI_MATH float tessi_reciprocal(float value)
{
    return 1.0f / value;
}
TESSI_MATH float tessi_smallest(float a, float b)
{
    return a < b ? a : b;
}
TESSI_MATH tessi_product_t tessi_product(uint32_t a, uint32_t b)
{
    uint64_t product = (uint64_t)a * b;
    tessi_product_t words = {(uint32_t)(product >> 32), (uint32_t)product};
    return words;
}
#endif

TESSI_MATH float tessi_numbers(float value)
{
    return value;
}
TESSI_MATH uint32_t tessi_words(uint32_t value)
{
    return value;
}
TESSI_MATH float tessi_fma(float a, float b, float c)
{
    return fmaf(a, b, c);
}
TESSI_MATH float tessi_magnitude(float value)
{
    return fabsf(value);
}
TESSI_MATH uint32_t tessi_larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}
TESSI_MATH int tessi_less(float a, float b)
{
    return a < b;
}
/* Vectors compare signed integers faster; the operands here have no sign bit. */
TESSI_MATH int tessi_below(uint32_t value, uint32_t limit)
{
    return (int32_t)value < (int32_t)limit;
}
/* False for NaN. */
TESSI_MATH int tessi_is_number(uint32_t bits)
{
    return tessi_below(bits & 0x7fffffffu, 0x7f800001u);
}
TESSI_MATH uint32_t tessi_select(int mask, uint32_t a, uint32_t b)
{
    return mask ? a : b;
}
#endif

/* --- the update ------------------------------------------------------------------------------- */

/* Of one range in one step. */
typedef struct tessi_adam_scalars {
    float gradient_factor;
    float l2;         /* weight decay that joins the gradient */
    float beta1_rest; /* 1 - beta1 */
    float beta2_rest; /* 1 - beta2 */
    float moment2_factor;
    float epsilon;
    float rate;  /* learning rate * moment1_factor */
    float decay; /* learning rate * decoupled weight decay */
} tessi_adam_scalars_t;

/* The part of the configuration that kernels need. */
typedef struct tessi_adam_constants {
    float beta1_rest, beta2_rest, epsilon;
    int32_t l2;
} tessi_adam_constants_t;

TESSI_MATH tessi_adam_scalars_t tessi_adam_scalars(const tessi_adam_constants_t *constants,
                                                   const tess_step_state_t *state,
                                                   float weight_decay, float learning_rate_factor)
{
    float learning_rate = state->learning_rate * learning_rate_factor;
    tessi_adam_scalars_t scalars;
    scalars.gradient_factor = state->gradient_factor;
    scalars.l2 = constants->l2 ? weight_decay : 0.0f;
    scalars.beta1_rest = constants->beta1_rest;
    scalars.beta2_rest = constants->beta2_rest;
    scalars.moment2_factor = state->moment2_factor;
    scalars.epsilon = constants->epsilon;
    scalars.rate = learning_rate * state->moment1_factor;
    scalars.decay = constants->l2 ? 0.0f : learning_rate * weight_decay;
    return scalars;
}

/* An infinite moment 2 would turn into NaN in the next step. This is a bf16, and 8 bits can hold
 * it.
 */
#define TESSI_MOMENT2_MAX 0x1.ep127f

/* Joins moment 2 under the root: 2^-102, whose root of 4e-16 is nothing beside an epsilon of 1e-8,
 * so that neither root nor reciprocal ever meets a zero or a subnormal number. */
#define TESSI_ROOT_MIN 0x1p-102f

/* Un-scaled, clipped, and with the weight's decay where that joins the gradient. */
TESSI_MATH tessi_number_t tessi_adam_gradient(const tessi_adam_scalars_t *scalars,
                                              tessi_number_t gradient, tessi_number_t weight)
{
    tessi_number_t g = gradient * scalars->gradient_factor;
    return scalars->l2 != 0.0f ? tessi_fma(tessi_numbers(scalars->l2), weight, g) : g;
}

/* What stands in adam.h, with as few roundings as there can be: the weight is rounded once. g is
 * what tessi_adam_gradient gave. */
TESSI_MATH void tessi_adam_moments(const tessi_adam_scalars_t *scalars, tessi_number_t g,
                                   tessi_number_t *weight, tessi_number_t *moment1,
                                   tessi_number_t *moment2)
{
    const tessi_number_t beta1_rest = tessi_numbers(scalars->beta1_rest);
    tessi_number_t w = *weight, m = *moment1, v = *moment2;
    m = tessi_fma(beta1_rest, g, tessi_fma(-beta1_rest, m, m)); /* g - m could overflow */
    v = tessi_fma(tessi_numbers(scalars->beta2_rest), tessi_fma(g, g, -v), v);
    v = tessi_smallest(v, tessi_numbers(TESSI_MOMENT2_MAX));
    tessi_number_t root = tessi_sqrt(v + TESSI_ROOT_MIN);
    tessi_number_t inverse = tessi_reciprocal(
        tessi_fma(root, tessi_numbers(scalars->moment2_factor), tessi_numbers(scalars->epsilon)));
    *weight = w - tessi_fma(tessi_numbers(scalars->rate), m * inverse, w * scalars->decay);
    *moment1 = m;
    *moment2 = v;
}

TESSI_MATH void tessi_adam_update(const tessi_adam_scalars_t *scalars, tessi_number_t gradient,
                                  tessi_number_t *weight, tessi_number_t *moment1,
                                  tessi_number_t *moment2)
{
    tessi_number_t g = tessi_adam_gradient(scalars, gradient, *weight);
    tessi_adam_moments(scalars, g, weight, moment1, moment2);
}

/* --- 16-bit floats ---------------------------------------------------------------------------- */

TESSI_MATH tessi_number_t tessi_from_bf16(tessi_half_t bits)
{
    return tessi_float_of((tessi_word_t)bits << 16);
}

/* Roundings to bf16 give its bits in the upper half of a word; what lies below is of no meaning. */

#define TESSI_BF16_MAX 0x1.fep127f

/* To nearest, ties to even. */
TESSI_MATH tessi_word_t tessi_upper_bf16(tessi_number_t value)
{
    tessi_word_t bits = tessi_bits_of(value);
    tessi_word_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return tessi_select(tessi_is_number(bits), rounded, tessi_words(0x7fc00000u));
}

TESSI_MATH tessi_half_t tessi_to_bf16(tessi_number_t value)
{
    return (tessi_half_t)(tessi_upper_bf16(value) >> 16);
}

/* Up with the probability of the part cut off. Of random words the upper bits count. Not up to
 * infinity, and neither from infinity or NaN to something else. */
TESSI_MATH tessi_word_t tessi_upper_bf16_random(tessi_number_t value, tessi_word_t random)
{
    tessi_word_t bits = tessi_bits_of(value);
    tessi_mask_t finite = tessi_less(tessi_magnitude(value), tessi_numbers(TESSI_BF16_MAX));
    return tessi_select(finite, bits + (random >> 16), bits);
}

TESSI_MATH tessi_half_t tessi_to_bf16_random(tessi_number_t value, tessi_word_t random)
{
    return (tessi_half_t)(tessi_upper_bf16_random(value, random) >> 16);
}

/* The random word with which that rounds to nearest, ties to even. */
TESSI_MATH tessi_word_t tessi_nearest_bf16(tessi_number_t value)
{
    return (((tessi_bits_of(value) >> 16) & 1u) + 0x7fffu) << 16;
}

/* tessi_upper_bf16_random where |value| is known to be below TESSI_BF16_MAX, as of moment 2. */
TESSI_MATH tessi_word_t tessi_upper_random(tessi_number_t value, tessi_word_t random)
{
    return tessi_bits_of(value) + (random >> 16);
}

#ifndef __CUDACC__
TESSI_MATH tessi_number_t tessi_from_fp16(tessi_half_t half)
{
    tessi_word_t bits = half, magnitude = bits & 0x7fffu, wide = magnitude << 13;
    tessi_word_t normal = wide + (112u << 23);
    /* Subnormal: as the fraction of 2^-14 it is exact, and taking that 2^-14 off leaves its value.
     */
    tessi_word_t subnormal = tessi_bits_of(tessi_float_of(wide + (113u << 23)) - 0x1p-14f);
    tessi_word_t special = wide + (224u << 23);
    tessi_word_t value = tessi_select(tessi_below(magnitude, 0x0400u), subnormal, normal);
    value = tessi_select(tessi_below(magnitude, 0x7c00u), value, special);
    return tessi_float_of(value | (bits & 0x8000u) << 16);
}

TESSI_MATH tessi_half_t tessi_to_fp16(tessi_number_t value)
{
    tessi_word_t bits = tessi_bits_of(value);
    tessi_word_t magnitude = bits & 0x7fffffffu, sign = (bits >> 16) & 0x8000u;
    tessi_word_t odd = (magnitude >> 13) & 1u;
    tessi_word_t normal = (magnitude - (112u << 23) + 0x0fffu + odd) >> 13;
    /* Adding 1/2 lines the units of 2^-24 up with the last bit and rounds in the adder. */
    tessi_word_t subnormal = tessi_bits_of(tessi_float_of(magnitude) + 0.5f) - 0x3f000000u;
    tessi_word_t half = tessi_select(tessi_below(magnitude, 0x38800000u), subnormal, normal);
    half = tessi_select(tessi_below(magnitude, 0x47800000u), half, tessi_words(0x7c00u));
    half = tessi_select(tessi_is_number(bits), half | sign, tessi_words(0x7e00u));
    return (tessi_half_t)half;
}
#else
#include <cuda_fp16.h>
TESSI_MATH float tessi_from_fp16(uint16_t half)
{
    return __half2float(__ushort_as_half(half));
}
TESSI_MATH uint16_t tessi_to_fp16(float value)
{
    return tessi_is_number(tessi_bits_of(value)) ? __half_as_ushort(__float2half_rn(value))
                                                 : (uint16_t)0x7e00u;
}
#endif

/* --- REMAINDER: an fp32 weight as a bf16 parameter, 16 bits more, and the tie -------------------
 */

typedef struct tessi_split {
    tessi_half_t parameter; /* the weight rounded to nearest even, as TESS_ADAM_MASTER writes it */
    tessi_half_t remainder; /* the weight's low 16 bits */
    tessi_word_t tie;       /* 1: exactly half way, and rounded away from zero */
} tessi_split_t;

TESSI_MATH tessi_split_t tessi_split(tessi_number_t weight)
{
    tessi_word_t bits = tessi_bits_of(weight), low = bits & 0xffffu, none = tessi_words(0u);
    tessi_split_t split;
    split.parameter = tessi_to_bf16(weight);
    split.remainder = (tessi_half_t)tessi_select(tessi_is_number(bits), low, none);
    split.tie = tessi_select(tessi_below(low ^ 0x8000u, 1u), (bits >> 16) & 1u, none);
    return split;
}

/* Rounding added one to the upper half when the low half was above 0x8000, or there with `tie`. */
TESSI_MATH tessi_number_t tessi_join(tessi_half_t parameter, tessi_half_t remainder,
                                     tessi_word_t tie)
{
    tessi_word_t carried = ((tessi_word_t)remainder + tie + 0x7fffu) >> 16;
    return tessi_float_of(((tessi_word_t)parameter << 16 | (tessi_word_t)remainder) -
                          (carried << 16));
}

/* Moment 2 is never negative, so its sign bit is free to keep a tie. */
TESSI_MATH tessi_number_t tessi_with_tie(tessi_number_t moment2, tessi_word_t tie)
{
    return tessi_float_of((tessi_bits_of(moment2) & 0x7fffffffu) | tie << 31);
}

/* --- random bits for stochastic rounding --------------------------------------------------------
 */

typedef struct tessi_random {
    tessi_word_t moment1, moment2, weight; /* of each the upper bits count, 16 or 19 of them */
} tessi_random_t;

/* A hash of the step's key and the low 32 bits of the element's index in the model: two products of
 * 64 bits, the first folded, as in Wang Yi's wyhash. Elements 2^32 apart draw alike. */
TESSI_MATH tessi_random_t tessi_random_word(uint64_t key, tessi_word_t index)
{
    tessi_product_t first = tessi_product(index + (uint32_t)key, 0x623e4323u);
    tessi_word_t folded = first.high ^ first.low ^ (uint32_t)(key >> 32);
    tessi_product_t second = tessi_product(folded, 0xff96a9e9u);
    tessi_random_t random;
    random.moment1 = second.high ^ second.low;
    random.moment2 = second.low;
    random.weight = (second.high ^ second.low) << 16;
    return random;
}

#ifndef TESSI_LANES_HEADER
TESSI_MATH tessi_random_t tessi_random(uint64_t key, int64_t index)
{
    return tessi_random_word(key, (uint32_t)index);
}
#endif

/* To nearest, where random bits are asked for. */
#define TESSI_NEAREST 0x80000000u

/* --- 8 bits with a scale a block ---------------------------------------------------------------
 */

/* A code counts the fp32 numbers with 4 bits of mantissa upwards from 2: 7 bits of code, and the
 * sign, for m, which end at 496, and 8 bits for v, which end at 126976. Times the block's scale,
 * less 2, that is a moment: evenly spaced near zero, at even ratios above. Scales are powers of
 * two, so that a moment which hardly changes stays on its grid and is not rounded anew, with new
 * noise, in every step. They come from the block's largest value: the least that lets it lie below
 * the end. */
#define TESSI_CODE_FIRST 2.0f
#define TESSI_CODE_FIRST_BITS 0x40000000u
/* As bits of a float: what carries a largest value beyond the end into the next power of two, and
 * the powers of two from there to the scale. */
#define TESSI_CODE1_CARRY 0x0008ffffu
#define TESSI_CODE1_OCTAVES (8u << 23)
#define TESSI_CODE2_CARRY 0x000800ffu
#define TESSI_CODE2_OCTAVES (16u << 23)
/* A block whose largest value is below this is stored as zero; scales and their inverses are normal
 * numbers then. */
#define TESSI_CODE_TINY 1e-30f

/* Exact inverses of one another; 0 and 0 for a block that is stored as zero. */
typedef struct tessi_code_scale {
    tessi_number_t scale, inverse;
} tessi_code_scale_t;

TESSI_MATH tessi_code_scale_t tessi_code_scale(tessi_number_t largest, uint32_t carry,
                                               uint32_t octaves)
{
    tessi_word_t bits = (tessi_bits_of(largest) + carry) & 0x7f800000u, none = tessi_words(0u);
    bits = tessi_select(tessi_below(bits, 0x7f800000u), bits,
                        tessi_words(0x7f000000u)) - /* no infinite moments */
           octaves;
    tessi_mask_t zero = tessi_less(largest, tessi_numbers(TESSI_CODE_TINY));
    tessi_code_scale_t scale;
    scale.scale = tessi_float_of(tessi_select(zero, none, bits));
    scale.inverse = tessi_float_of(tessi_select(zero, none, 0x7f000000u - bits));
    return scale;
}

TESSI_MATH tessi_code_scale_t tessi_code1_scale(tessi_number_t largest)
{
    return tessi_code_scale(largest, TESSI_CODE1_CARRY, TESSI_CODE1_OCTAVES);
}

TESSI_MATH tessi_code_scale_t tessi_code2_scale(tessi_number_t largest)
{
    return tessi_code_scale(largest, TESSI_CODE2_CARRY, TESSI_CODE2_OCTAVES);
}

/* Codes come in the upper byte of a word; what lies below is of no meaning. A number's bits are
 * those of 2, which fall off at the upper end, and the code 19 bits up. */
TESSI_MATH tessi_word_t tessi_upper_code(tessi_number_t number, tessi_word_t random)
{
    return (tessi_bits_of(number) + (random >> 13)) << 5;
}

TESSI_MATH tessi_word_t tessi_upper_code1(tessi_number_t moment1, tessi_number_t inverse,
                                          tessi_word_t random)
{
    tessi_number_t number =
        tessi_fma(tessi_magnitude(moment1), inverse, tessi_numbers(TESSI_CODE_FIRST));
    return tessi_upper_code(number, random) | (tessi_bits_of(moment1) & 0x80000000u);
}

TESSI_MATH tessi_code_t tessi_to_code1(tessi_number_t moment1, tessi_number_t inverse,
                                       tessi_word_t random)
{
    return (tessi_code_t)(tessi_upper_code1(moment1, inverse, random) >> 24);
}

/* Never zero, unless the whole block is: a weight whose moment 2 vanishes while its moment 1 does
 * not would leap. So no moment 2 counts for less than 2^-19 of its block's largest. */
TESSI_MATH tessi_word_t tessi_upper_code2(tessi_number_t moment2, tessi_number_t inverse,
                                          tessi_word_t random)
{
    tessi_number_t number = tessi_fma(moment2, inverse, tessi_numbers(TESSI_CODE_FIRST));
    return tessi_larger(tessi_upper_code(number, random), tessi_words(0x01000000u));
}

TESSI_MATH tessi_code_t tessi_to_code2(tessi_number_t moment2, tessi_number_t inverse,
                                       tessi_word_t random)
{
    return (tessi_code_t)(tessi_upper_code2(moment2, inverse, random) >> 24);
}

/* (number - 2) * scale, exactly. */
TESSI_MATH tessi_number_t tessi_code_value(tessi_word_t number, tessi_number_t scale)
{
    return tessi_fma(tessi_float_of(number), scale, -(scale * TESSI_CODE_FIRST));
}

TESSI_MATH tessi_number_t tessi_from_code1(tessi_code_t code, tessi_number_t scale)
{
    tessi_word_t bits = code, number = (bits & 0x7fu) << 19 | TESSI_CODE_FIRST_BITS;
    return tessi_float_of(tessi_bits_of(tessi_code_value(number, scale)) | (bits & 0x80u) << 24);
}

TESSI_MATH tessi_number_t tessi_from_code2(tessi_code_t code, tessi_number_t scale)
{
    tessi_word_t number = (tessi_word_t)code << 19 | TESSI_CODE_FIRST_BITS;
    return tessi_code_value(number, scale);
}

#endif
