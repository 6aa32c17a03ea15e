/* SPDX-License-Identifier: Apache-2.0 */
/* Element types: sizes, names, and conversions of single elements in portable integer arithmetic.
 *
 * Invariant: narrowing rounds to nearest, ties to even, overflows to infinity, and turns every NaN
 * into a quiet one of the same sign; widening is exact.
 */
#include <tessera/dtype.h>

#include <string.h>

#include "internal.h"

typedef struct dtype_row {
    const char *name;
    int64_t bytes;
} dtype_row_t;

static const dtype_row_t rows[TESS_DTYPE_COUNT] = {
    [TESS_DTYPE_BYTE] = {"byte", 1},
    [TESS_DTYPE_BF16] = {"bf16", 2},
    [TESS_DTYPE_FP16] = {"fp16", 2},
    [TESS_DTYPE_FP32] = {"fp32", 4},
};

static const struct {
    const char *alias;
    tess_dtype_t dtype;
} aliases[] = {
    {"bfloat16", TESS_DTYPE_BF16}, {"half", TESS_DTYPE_FP16},    {"float16", TESS_DTYPE_FP16},
    {"float", TESS_DTYPE_FP32},    {"float32", TESS_DTYPE_FP32}, {"uint8", TESS_DTYPE_BYTE},
};

static int is_dtype(tess_dtype_t dtype)
{
    return (int)dtype >= 0 && dtype < TESS_DTYPE_COUNT;
}

int64_t tess_dtype_bytes(tess_dtype_t dtype)
{
    return is_dtype(dtype) ? rows[dtype].bytes : 0;
}

const char *tess_dtype_name(tess_dtype_t dtype)
{
    return is_dtype(dtype) ? rows[dtype].name : "unknown";
}

tess_status_t tess_dtype_parse(const char *name, tess_dtype_t *dtype)
{
    if (!name || !dtype)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_dtype_parse: %s is NULL",
                          name ? "dtype" : "name");
    for (int i = 0; i < TESS_DTYPE_COUNT; i++) {
        if (strcmp(name, rows[i].name) != 0) continue;
        *dtype = (tess_dtype_t)i;
        return TESS_OK;
    }
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        if (strcmp(name, aliases[i].alias) != 0) continue;
        *dtype = aliases[i].dtype;
        return TESS_OK;
    }
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "\"%s\" is no element type; legal are byte (uint8), bf16 (bfloat16), "
                      "fp16 (half, float16) and fp32 (float, float32)",
                      name);
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t tess_bf16_from_float(float value)
{
    uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x0040u);
    /* Half of the last kept bit, less one where that bit is even: a tie then stays below. A carry
     * out of the mantissa moves to the next exponent, and from the largest one to infinity. */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float tess_bf16_to_float(uint16_t bits)
{
    return float_of((uint32_t)bits << 16);
}

/* Shifts right, rounding to nearest even. shift is 1 to 31. */
static uint32_t shift_rounded(uint32_t value, int shift)
{
    uint32_t kept = value >> shift, rest = value & ((1u << shift) - 1u), half = 1u << (shift - 1);
    return kept + (rest > half || (rest == half && (kept & 1u)));
}

uint16_t tess_fp16_from_float(float value)
{
    uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffu;
    uint32_t sign = (bits >> 16) & 0x8000u, half;
    if (magnitude > 0x7f800000u) {
        half = 0x7e00u | ((magnitude >> 13) & 0x3ffu); /* a NaN keeps its high payload bits */
    } else if (magnitude >= 0x47800000u) {
        half = 0x7c00u; /* 65536 and more */
    } else if (magnitude >= 0x38800000u) {
        /* Normal: change the bias from 127 to 15; rounding may carry into the exponent, and from
         * 65520 on to infinity. */
        half = shift_rounded(magnitude - (112u << 23), 13);
    } else if (magnitude >= 0x33000000u) {
        /* Subnormal: units of 2^-24, from the mantissa with its implicit one. */
        int exponent = (int)(magnitude >> 23);
        half = shift_rounded((magnitude & 0x7fffffu) | 0x800000u, 126 - exponent);
    } else {
        half = 0; /* below half of the least subnormal */
    }
    return (uint16_t)(sign | half);
}

float tess_fp16_to_float(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    if (magnitude > 0x7c00u) return float_of(sign | 0x7fc00000u | (magnitude & 0x3ffu) << 13);
    if (magnitude == 0x7c00u) return float_of(sign | 0x7f800000u);
    if (magnitude >= 0x0400u) return float_of(sign | ((magnitude << 13) + (112u << 23)));
    /* Subnormal and zero: an exact multiple of 2^-24. */
    float value = (float)magnitude * 0x1p-24f;
    return sign ? -value : value;
}
