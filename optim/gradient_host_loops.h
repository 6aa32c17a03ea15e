/* SPDX-License-Identifier: Apache-2.0 */
/* The loops that add squares of gradients, included once by each twin.
 *
 * Invariant: a square of two numbers of 24 bits is exact in fp64, and element i goes to accumulator
 * i mod 16 however wide the processor's vectors are, so all twins give the same bits.
 */
#ifndef TESSERA_OPTIM_GRADIENT_HOST_LOOPS_H
#define TESSERA_OPTIM_GRADIENT_HOST_LOOPS_H

#include "adam_host_loops.h"

#define ACCUMULATORS 16

INLINE void add_squares_of(tess_dtype_t dtype, const void *values, double sums[ACCUMULATORS])
{
    float room[ACCUMULATORS];
    const float *floats = dtype == TESS_DTYPE_FP32 ? (const float *)values : room;
    for (int a = 0; floats == room && a < ACCUMULATORS; a += TESSI_LANES)
        tessi_store(room + a, read_floats(dtype, values, a));
    for (int a = 0; a < ACCUMULATORS; a++) sums[a] += (double)floats[a] * (double)floats[a];
}

/* dtype is a constant at every call. */
INLINE double add_squares(tess_dtype_t dtype, const void *values, int64_t count)
{
    const size_t bytes = dtype == TESS_DTYPE_FP32 ? 4 : 2;
    double sums[ACCUMULATORS] = {0.0};
    int64_t rest = count % ACCUMULATORS, whole = count - rest;
    const char *at = values;
    for (int64_t i = 0; i < whole; i += ACCUMULATORS, at += ACCUMULATORS * bytes)
        add_squares_of(dtype, at, sums);
    if (rest) {
        char room[ACCUMULATORS * sizeof(float)] __attribute__((aligned(64))) = {0};
        memcpy(room, at, (size_t)rest * bytes);
        add_squares_of(dtype, room, sums);
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
