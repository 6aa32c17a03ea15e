/* SPDX-License-Identifier: Apache-2.0 */
/* The loops of one step on the host, included once by each twin, which only differ in the
 * instructions that the compiler may use.
 *
 * A slice goes through in pieces that stay in the first-level cache: widen what is not fp32,
 * update, narrow again. What is fp32 is read and written where it lies, so memory is passed once.
 * Invariant: every loop calls the functions of adam_math.h and nothing else that computes, so all
 * twins give the same bits.
 */
#ifndef TESSERA_OPTIM_ADAM_HOST_LOOPS_H
#define TESSERA_OPTIM_ADAM_HOST_LOOPS_H

#include "adam_host.h"

#define PIECE 512 /* elements; a multiple of TESS_ADAM_BLOCK */

/* Stays a function of its own, so that the compiler keeps its `restrict` and vectorises it. */
#define LOOP static __attribute__((noinline))

/* What of a piece has no place of its own in fp32. */
typedef struct piece_buffers {
    float gradient[PIECE], weight[PIECE], moment1[PIECE], moment2[PIECE];
    uint32_t random1[PIECE], random2[PIECE], random_weight[PIECE];
    uint16_t parameter[PIECE];
} __attribute__((aligned(64))) piece_buffers_t;

/* Elements [at, at + count) of a range, and where its fp32 numbers are. */
typedef struct piece {
    const tess_adam_config_t *config;
    const tess_adam_range_t *range;
    int64_t at, count;
    float *weight, *moment1, *moment2; /* (count): in the range's memory or in buffers */
} piece_t;

/* --- widening and narrowing ------------------------------------------------------------------- */

LOOP void copy_fp32(const float *restrict from, float *restrict to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) to[i] = from[i];
}

LOOP void widen_bf16(const uint16_t *restrict from, float *restrict to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) to[i] = tessi_from_bf16(from[i]);
}

LOOP void widen_fp16(const uint16_t *restrict from, float *restrict to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) to[i] = tessi_from_fp16(from[i]);
}

LOOP void narrow_bf16(const float *restrict from, uint16_t *restrict to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) to[i] = tessi_to_bf16(from[i]);
}

LOOP void narrow_fp16(const float *restrict from, uint16_t *restrict to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) to[i] = tessi_to_fp16(from[i]);
}

LOOP void narrow_bf16_random(const float *restrict from, const uint32_t *restrict random,
                             uint16_t *restrict to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) to[i] = tessi_to_bf16_random(from[i], random[i]);
}

LOOP void narrow_moment2(const float *restrict from, const uint32_t *restrict random,
                         uint16_t *restrict to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) to[i] = tessi_moment2_random(from[i], random[i]);
}

static void widen(tess_dtype_t dtype, const void *from, float *to, int64_t count)
{
    if (dtype == TESS_DTYPE_FP32) copy_fp32(from, to, count);
    else if (dtype == TESS_DTYPE_BF16) widen_bf16(from, to, count);
    else widen_fp16(from, to, count);
}

/* The sign of moment 2 is the tie, and is taken off. */
LOOP void join_weights(const uint16_t *restrict parameter, const uint16_t *restrict remainder,
                       float *restrict moment2, float *restrict weight, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = tessi_bits_of(moment2[i]);
        weight[i] = tessi_join(parameter[i], remainder[i], bits >> 31);
        moment2[i] = tessi_float_of(bits & 0x7fffffffu);
    }
}

LOOP void split_weights(const float *restrict weight, float *restrict moment2,
                        uint16_t *restrict parameter, uint16_t *restrict remainder, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        tessi_split_t split = tessi_split(weight[i]);
        parameter[i] = split.parameter;
        remainder[i] = split.remainder;
        moment2[i] = tessi_with_tie(moment2[i], split.tie);
    }
}

/* --- 8 bits ----------------------------------------------------------------------------------- */

LOOP void widen_block(const uint8_t *restrict code1, const uint8_t *restrict code2,
                      const float scales[2], float *restrict moment1, float *restrict moment2,
                      int64_t count)
{
    float scale1 = scales[0], scale2 = scales[1];
    for (int64_t i = 0; i < count; i++) moment1[i] = tessi_from_code1(code1[i], scale1);
    for (int64_t i = 0; i < count; i++) moment2[i] = tessi_from_code2(code2[i], scale2);
}

/* The largest magnitude. The bits of numbers without a sign are ordered as the numbers are, and
 * integers have a maximum in any order of comparisons. */
LOOP float largest_of(const float *restrict values, int64_t count)
{
    int32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t bits = (int32_t)(tessi_bits_of(values[i]) & 0x7fffffffu);
        largest = bits > largest ? bits : largest;
    }
    return tessi_float_of((uint32_t)largest);
}

LOOP void narrow_code1(const float *restrict from, const uint32_t *restrict random, float inverse,
                       uint8_t *restrict to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) to[i] = tessi_to_code1(from[i], inverse, random[i]);
}

LOOP void narrow_code2(const float *restrict from, const uint32_t *restrict random, float inverse,
                       uint8_t *restrict to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) to[i] = tessi_to_code2(from[i], inverse, random[i]);
}

static void load_codes(const piece_t *piece)
{
    const tess_adam_range_t *range = piece->range;
    for (int64_t i = 0; i < piece->count; i += TESS_ADAM_BLOCK) {
        int64_t at = piece->at + i, block = at / TESS_ADAM_BLOCK, rest = piece->count - i;
        const float scales[2] = {range->scale1[block], range->scale2[block]};
        widen_block((const uint8_t *)range->moment1 + at, (const uint8_t *)range->moment2 + at,
                    scales, piece->moment1 + i, piece->moment2 + i,
                    rest < TESS_ADAM_BLOCK ? rest : TESS_ADAM_BLOCK);
    }
}

static void store_codes(const piece_t *piece, const piece_buffers_t *buffers)
{
    const tess_adam_range_t *range = piece->range;
    for (int64_t i = 0; i < piece->count; i += TESS_ADAM_BLOCK) {
        int64_t at = piece->at + i, block = at / TESS_ADAM_BLOCK, rest = piece->count - i;
        int64_t count = rest < TESS_ADAM_BLOCK ? rest : TESS_ADAM_BLOCK;
        tessi_code_scale_t scale1 = tessi_code1_scale(largest_of(piece->moment1 + i, count));
        tessi_code_scale_t scale2 = tessi_code2_scale(largest_of(piece->moment2 + i, count));
        range->scale1[block] = scale1.scale;
        range->scale2[block] = scale2.scale;
        narrow_code1(piece->moment1 + i, buffers->random1 + i, scale1.inverse,
                     (uint8_t *)range->moment1 + at, count);
        narrow_code2(piece->moment2 + i, buffers->random2 + i, scale2.inverse,
                     (uint8_t *)range->moment2 + at, count);
    }
}

/* --- random bits ------------------------------------------------------------------------------ */

LOOP void draw_random(uint64_t key, uint32_t first, uint32_t *restrict random1,
                      uint32_t *restrict random2, uint32_t *restrict weight, int64_t count)
{
    for (uint32_t i = 0; i < (uint32_t)count; i++) {
        tessi_random_t random = tessi_random(key, (int64_t)(first + i)); /* its low 32 bits */
        random1[i] = random.moment1;
        random2[i] = random.moment2;
        weight[i] = random.weight;
    }
}

static void draw(const piece_t *piece, uint64_t key, piece_buffers_t *buffers)
{
    if (piece->config->weights != TESS_ADAM_BF16 &&
        piece->config->moments == TESS_ADAM_MOMENTS_FP32)
        return;
    draw_random(key, (uint32_t)(piece->range->first_index + piece->at), buffers->random1,
                buffers->random2, buffers->random_weight, piece->count);
}

static void draw_nearest(piece_buffers_t *buffers)
{
    for (int i = 0; i < PIECE; i++) {
        buffers->random1[i] = TESSI_NEAREST;
        buffers->random2[i] = TESSI_NEAREST;
        buffers->random_weight[i] = TESSI_NEAREST;
    }
}

/* --- a piece's state -------------------------------------------------------------------------- */

/* Makes piece->moment1, moment2 and weight hold the state, with ties taken off. */
static void load_state(const piece_t *piece)
{
    const tess_adam_range_t *range = piece->range;
    const int64_t at = piece->at, count = piece->count;
    if (piece->config->moments == TESS_ADAM_MOMENTS_BF16) {
        widen_bf16((const uint16_t *)range->moment1 + at, piece->moment1, count);
        widen_bf16((const uint16_t *)range->moment2 + at, piece->moment2, count);
    } else if (piece->config->moments == TESS_ADAM_MOMENTS_8BIT) {
        load_codes(piece);
    } else {
        const float *moment1 = (const float *)range->moment1 + at;
        const float *moment2 = (const float *)range->moment2 + at;
        if (piece->moment1 != moment1) copy_fp32(moment1, piece->moment1, count);
        if (piece->moment2 != moment2) copy_fp32(moment2, piece->moment2, count);
    }
    if (piece->config->weights == TESS_ADAM_MASTER) {
        const float *master = (const float *)range->master + at;
        if (piece->weight != master) copy_fp32(master, piece->weight, count);
    } else if (piece->config->weights == TESS_ADAM_REMAINDER) {
        join_weights((const uint16_t *)range->parameter + at, (const uint16_t *)range->master + at,
                     piece->moment2, piece->weight, count);
    } else {
        widen_bf16((const uint16_t *)range->parameter + at, piece->weight, count);
    }
}

/* The rounded copy of a master. Its lines are never read here, so past the cache they need not be
 * fetched either. */
static void store_parameter(const piece_t *piece, piece_buffers_t *buffers, int past_cache)
{
    if (piece->config->parameter == TESS_DTYPE_FP32) return;
    uint16_t *parameter = (uint16_t *)piece->range->parameter + piece->at;
    int aside = past_cache && (uintptr_t)parameter % 64 == 0;
    uint16_t *to = aside ? buffers->parameter : parameter;
    if (piece->config->parameter == TESS_DTYPE_BF16) narrow_bf16(piece->weight, to, piece->count);
    else narrow_fp16(piece->weight, to, piece->count);
    if (aside) tessi_adam_copy_past_cache(parameter, to, (size_t)piece->count * sizeof *parameter);
}

static void store_weights(const piece_t *piece, piece_buffers_t *buffers, int past_cache)
{
    const tess_adam_range_t *range = piece->range;
    const int64_t at = piece->at, count = piece->count;
    if (piece->config->weights == TESS_ADAM_MASTER) {
        float *master = (float *)range->master + at;
        if (piece->weight != master) copy_fp32(piece->weight, master, count);
        store_parameter(piece, buffers, past_cache);
    } else if (piece->config->weights == TESS_ADAM_REMAINDER) {
        split_weights(piece->weight, piece->moment2, (uint16_t *)range->parameter + at,
                      (uint16_t *)range->master + at, count);
    } else {
        narrow_bf16_random(piece->weight, buffers->random_weight, (uint16_t *)range->parameter + at,
                           count);
    }
}

/* Weights come first, because they may leave a tie in moment 2. */
static void store_state(const piece_t *piece, piece_buffers_t *buffers, int past_cache)
{
    const tess_adam_range_t *range = piece->range;
    const int64_t at = piece->at, count = piece->count;
    store_weights(piece, buffers, past_cache);
    if (piece->config->moments == TESS_ADAM_MOMENTS_BF16) {
        narrow_bf16_random(piece->moment1, buffers->random1, (uint16_t *)range->moment1 + at,
                           count);
        narrow_moment2(piece->moment2, buffers->random2, (uint16_t *)range->moment2 + at, count);
    } else if (piece->config->moments == TESS_ADAM_MOMENTS_8BIT) {
        store_codes(piece, buffers);
    } else {
        float *moment1 = (float *)range->moment1 + at, *moment2 = (float *)range->moment2 + at;
        if (piece->moment1 != moment1) copy_fp32(piece->moment1, moment1, count);
        if (piece->moment2 != moment2) copy_fp32(piece->moment2, moment2, count);
    }
}

/* The piece at `at`, with its fp32 numbers in buffers. */
static piece_t piece_of(const tessi_adam_slice_t *slice, int64_t at, piece_buffers_t *buffers)
{
    int64_t rest = slice->first + slice->count - at;
    return (piece_t){.config = slice->config,
                     .range = slice->range,
                     .at = at,
                     .count = rest < PIECE ? rest : PIECE,
                     .weight = buffers->weight,
                     .moment1 = buffers->moment1,
                     .moment2 = buffers->moment2};
}

/* --- steps ------------------------------------------------------------------------------------ */

LOOP void update(const tessi_adam_scalars_t *scalars, const float *restrict gradient,
                 float *restrict weight, float *restrict moment1, float *restrict moment2,
                 int64_t count)
{
    const tessi_adam_scalars_t own = *scalars;
    for (int64_t i = 0; i < count; i++)
        tessi_adam_update(&own, gradient[i], &weight[i], &moment1[i], &moment2[i]);
}

static void step_piece(piece_t *piece, const tessi_adam_pass_t *pass, piece_buffers_t *buffers)
{
    const tess_adam_config_t *config = piece->config;
    const tess_adam_range_t *range = piece->range;
    const float *gradient = buffers->gradient;
    if (config->gradient == TESS_DTYPE_FP32) {
        gradient = (const float *)range->gradient + piece->at;
    } else {
        widen(config->gradient, (const uint16_t *)range->gradient + piece->at, buffers->gradient,
              piece->count);
    }
    if (config->weights == TESS_ADAM_MASTER) piece->weight = (float *)range->master + piece->at;
    if (config->moments == TESS_ADAM_MOMENTS_FP32) {
        piece->moment1 = (float *)range->moment1 + piece->at;
        piece->moment2 = (float *)range->moment2 + piece->at;
    }
    load_state(piece);
    update(&pass->scalars, gradient, piece->weight, piece->moment1, piece->moment2, piece->count);
    draw(piece, pass->random_key, buffers);
    store_state(piece, buffers, pass->past_cache);
}

/* Asks for what is needed two pieces on: processors foresee streams of accesses, but start anew at
 * every page. */
static void prefetch_array(const void *array, int64_t at, int64_t element_bytes)
{
    if (element_bytes == 0) return;
    const char *from = (const char *)array + at * element_bytes;
    for (int64_t i = 0; i < PIECE * element_bytes; i += 64) __builtin_prefetch(from + i, 1, 2);
}

static void prefetch(const tessi_adam_slice_t *slice, int64_t at)
{
    static const int64_t master[] = {4, 2, 0}, moment[] = {4, 2, 1};
    const tess_adam_config_t *config = slice->config;
    const tess_adam_range_t *range = slice->range;
    if (at > range->count - PIECE) return;
    prefetch_array(range->gradient, at, config->gradient == TESS_DTYPE_FP32 ? 4 : 2);
    prefetch_array(range->parameter, at, config->weights == TESS_ADAM_MASTER ? 0 : 2);
    prefetch_array(range->master, at, master[config->weights]);
    prefetch_array(range->moment1, at, moment[config->moments]);
    prefetch_array(range->moment2, at, moment[config->moments]);
}

static void step_slice(const tessi_adam_slice_t *slice, const tessi_adam_pass_t *pass)
{
    piece_buffers_t buffers;
    int64_t end = slice->first + slice->count;
    for (int64_t at = slice->first; at < end; at += PIECE) {
        piece_t piece = piece_of(slice, at, &buffers);
        if (pass->past_cache) prefetch(slice, at + 2 * (int64_t)PIECE);
        step_piece(&piece, pass, &buffers);
    }
    if (pass->past_cache) tessi_adam_fence();
}

/* --- export and import ------------------------------------------------------------------------ */

static void export_slice(const tessi_adam_slice_t *slice, const tess_adam_values_t *values)
{
    piece_buffers_t buffers;
    int64_t end = slice->first + slice->count;
    for (int64_t at = slice->first; at < end; at += PIECE) {
        piece_t piece = piece_of(slice, at, &buffers);
        load_state(&piece);
        if (values->weights) copy_fp32(piece.weight, values->weights + at, piece.count);
        if (values->moment1) copy_fp32(piece.moment1, values->moment1 + at, piece.count);
        if (values->moment2) copy_fp32(piece.moment2, values->moment2 + at, piece.count);
    }
}

static void copy_or_zero(const float *from, float *to, int64_t count)
{
    if (from) copy_fp32(from, to, count);
    else memset(to, 0, (size_t)count * sizeof *to);
}

static void import_slice(const tessi_adam_slice_t *slice, const tess_adam_values_t *values)
{
    piece_buffers_t buffers;
    const tess_adam_range_t *range = slice->range;
    tess_dtype_t parameter = slice->config->parameter;
    int64_t end = slice->first + slice->count;
    draw_nearest(&buffers);
    for (int64_t at = slice->first; at < end; at += PIECE) {
        piece_t piece = piece_of(slice, at, &buffers);
        if (values->weights) copy_fp32(values->weights + at, piece.weight, piece.count);
        else if (parameter == TESS_DTYPE_FP32)
            copy_fp32((const float *)range->master + at, piece.weight, piece.count);
        else widen(parameter, (const uint16_t *)range->parameter + at, piece.weight, piece.count);
        copy_or_zero(values->moment1 ? values->moment1 + at : NULL, piece.moment1, piece.count);
        copy_or_zero(values->moment2 ? values->moment2 + at : NULL, piece.moment2, piece.count);
        store_state(&piece, &buffers, 0);
    }
}

#endif
