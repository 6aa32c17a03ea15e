/* SPDX-License-Identifier: Apache-2.0 */
/* The loops that add squares of gradients, included once by each twin.
 *
 * Invariant: a square of two numbers of 24 bits is exact in fp64, and element i goes to accumulator
 * i mod 16 however wide the processor's vectors are, so all twins give the same bits.
 */
#ifndef TESSERA_OPTIM_GRADIENT_HOST_LOOPS_H
#define TESSERA_OPTIM_GRADIENT_HOST_LOOPS_H

#include "adam_host.h"

#define ACCUMULATORS 16

static inline __attribute__((always_inline)) double gradient_at(tess_dtype_t dtype,
                                                                const void *values, int64_t i)
{
    if (dtype == TESS_DTYPE_FP32) return (double)((const float *)values)[i];
    uint16_t bits = ((const uint16_t *)values)[i];
    return (double)(dtype == TESS_DTYPE_BF16 ? tessi_from_bf16(bits) : tessi_from_fp16(bits));
}

/* dtype is a constant at every call. */
static inline __attribute__((always_inline)) double add_squares(tess_dtype_t dtype,
                                                                const void *values, int64_t count)
{
    double sums[ACCUMULATORS] = {0.0};
    int64_t whole = count - count % ACCUMULATORS;
    for (int64_t i = 0; i < whole; i += ACCUMULATORS) {
        for (int a = 0; a < ACCUMULATORS; a++) {
            double value = gradient_at(dtype, values, i + a);
            sums[a] += value * value;
        }
    }
    for (int64_t i = whole; i < count; i++) {
        double value = gradient_at(dtype, values, i);
        sums[i - whole] += value * value;
    }
    double sum = 0.0;
    for (int a = 0; a < ACCUMULATORS; a++) sum += sums[a];
    return sum;
}

static double sum_squares(const tess_gradient_piece_t *piece)
{
    if (piece->dtype == TESS_DTYPE_FP32)
        return add_squares(TESS_DTYPE_FP32, piece->values, piece->count);
    if (piece->dtype == TESS_DTYPE_BF16)
        return add_squares(TESS_DTYPE_BF16, piece->values, piece->count);
    return add_squares(TESS_DTYPE_FP16, piece->values, piece->count);
}

#endif
