/* SPDX-License-Identifier: Apache-2.0 */
/* The loops of one step on the host, included once by each twin, which only differ in how many
 * numbers a tessi_number_t holds.
 *
 * Every combination of layout and dtypes has a loop of its own, in which an element is read,
 * updated, rounded and written in registers; blocks of 8-bit moments go through two loops, because
 * their scale is known only at the end of the first. Invariant: every loop calls the functions of
 * adam_math.h and nothing else that computes, so all twins give the same bits.
 */
#ifndef TESSERA_OPTIM_ADAM_HOST_LOOPS_H
#define TESSERA_OPTIM_ADAM_HOST_LOOPS_H

#include "adam_host.h"

#define INLINE static inline __attribute__((always_inline))

/* Elements that a loop asks for ahead of their use: processors foresee streams of accesses, but
 * start anew at every page. */
#define AHEAD 1024

/* What a loop is compiled for. */
typedef struct layout {
    tess_adam_weights_t weights;
    tess_adam_moments_t moments;
    tess_dtype_t gradient, parameter;
} layout_t;

/* Arrays of a range, and of tess_adam_values_t. */
enum { GRADIENT, PARAMETER, MASTER, MOMENT1, MOMENT2, WEIGHTS, VALUES1, VALUES2, ARRAYS };

/* The elements of a slice. Loops run over whole lines, or whole blocks of 8-bit moments: what
 * lies behind count is read and written too, and has no meaning. */
typedef struct span {
    char *at[ARRAYS];       /* NULL: there is none */
    float *scale1, *scale2; /* from the slice's first block on */
    int64_t count;
    uint32_t first_index;
    int stream; /* the rounded parameter goes past the cache */
} span_t;

/* The state of one vector, in registers. */
typedef struct lanes {
    tessi_number_t weight, moment1, moment2;
} lanes_t;

/* --- reading and writing ---------------------------------------------------------------------- */

INLINE tessi_number_t read_floats(tess_dtype_t dtype, const void *from, int64_t i)
{
    if (dtype == TESS_DTYPE_FP32) return tessi_load((const float *)from + i);
    if (dtype == TESS_DTYPE_BF16)
        return tessi_float_of(tessi_load_upper((const uint16_t *)from + i));
    return tessi_from_fp16(tessi_load_halves((const uint16_t *)from + i));
}

INLINE lanes_t read_lanes(layout_t layout, const span_t *span, int64_t i)
{
    lanes_t lanes;
    if (layout.moments == TESS_ADAM_MOMENTS_8BIT) {
        int64_t block = i / TESS_ADAM_BLOCK;
        lanes.moment1 = tessi_from_code1(tessi_load_codes((const uint8_t *)span->at[MOMENT1] + i),
                                         tessi_numbers(span->scale1[block]));
        lanes.moment2 = tessi_from_code2(tessi_load_codes((const uint8_t *)span->at[MOMENT2] + i),
                                         tessi_numbers(span->scale2[block]));
    } else {
        int wide = layout.moments == TESS_ADAM_MOMENTS_FP32;
        lanes.moment1 = read_floats(wide ? TESS_DTYPE_FP32 : TESS_DTYPE_BF16, span->at[MOMENT1], i);
        lanes.moment2 = read_floats(wide ? TESS_DTYPE_FP32 : TESS_DTYPE_BF16, span->at[MOMENT2], i);
    }
    if (layout.weights == TESS_ADAM_MASTER) {
        lanes.weight = read_floats(TESS_DTYPE_FP32, span->at[MASTER], i);
    } else if (layout.weights == TESS_ADAM_BF16) {
        lanes.weight = read_floats(TESS_DTYPE_BF16, span->at[PARAMETER], i);
    } else { /* the sign of moment 2 is the tie, and is taken off */
        tessi_word_t tie = tessi_bits_of(lanes.moment2) >> 31;
        lanes.weight = tessi_join(tessi_load_halves((const uint16_t *)span->at[PARAMETER] + i),
                                  tessi_load_halves((const uint16_t *)span->at[MASTER] + i), tie);
        lanes.moment2 = tessi_magnitude(lanes.moment2);
    }
    return lanes;
}

/* The rounded copy of a master, where there is one. Its lines are never read here, so past the
 * cache they need not be fetched either. */
INLINE void write_copy(layout_t layout, const span_t *span, int64_t i, tessi_number_t weight)
{
    if (layout.weights != TESS_ADAM_MASTER || layout.parameter == TESS_DTYPE_FP32) return;
    uint16_t *to = (uint16_t *)span->at[PARAMETER] + i;
    tessi_word_t upper = layout.parameter == TESS_DTYPE_BF16
                             ? tessi_upper_bf16(weight)
                             : (tessi_word_t)tessi_to_fp16(weight) << 16;
    if (TESSI_LINE_VECTORS > 1 && span->stream) tessi_stream_upper(to, upper);
    else tessi_store_upper(to, upper);
}

/* Weights come first, because they may leave a tie in moment 2. */
INLINE void write_weights(layout_t layout, const span_t *span, int64_t i, tessi_random_t random,
                          lanes_t *lanes)
{
    uint16_t *parameter = (uint16_t *)span->at[PARAMETER] + i;
    if (layout.weights == TESS_ADAM_MASTER) {
        tessi_store((float *)span->at[MASTER] + i, lanes->weight);
    } else if (layout.weights == TESS_ADAM_BF16) {
        tessi_store_upper(parameter, tessi_upper_bf16_random(lanes->weight, random.weight));
    } else {
        tessi_split_t split = tessi_split(lanes->weight);
        tessi_store_upper(parameter, tessi_upper_bf16(lanes->weight));
        tessi_store_lower((uint16_t *)span->at[MASTER] + i, split.remainder);
        lanes->moment2 = tessi_with_tie(lanes->moment2, split.tie);
    }
}

/* Moments in fp32 and bf16. */
INLINE void write_moments(layout_t layout, const span_t *span, int64_t i, tessi_random_t random,
                          lanes_t lanes)
{
    if (layout.moments == TESS_ADAM_MOMENTS_FP32) {
        tessi_store((float *)span->at[MOMENT1] + i, lanes.moment1);
        tessi_store((float *)span->at[MOMENT2] + i, lanes.moment2);
    } else {
        tessi_store_upper((uint16_t *)span->at[MOMENT1] + i,
                          tessi_upper_bf16_random(lanes.moment1, random.moment1));
        tessi_store_upper((uint16_t *)span->at[MOMENT2] + i,
                          tessi_upper_random(lanes.moment2, random.moment2));
    }
}

/* --- blocks of 8-bit moments ------------------------------------------------------------------ */

typedef struct block {
    float weight[TESS_ADAM_BLOCK], moment1[TESS_ADAM_BLOCK], moment2[TESS_ADAM_BLOCK];
} __attribute__((aligned(64))) block_t;

/* The largest magnitude, in every lane. The bits of numbers without a sign are ordered as the
 * numbers are, and integers have a maximum in any order of comparisons. */
INLINE tessi_number_t largest_of(const float values[TESS_ADAM_BLOCK])
{
    union {
        tessi_word_t words;
        uint32_t each[TESSI_LANES];
    } lanes = {.words = tessi_words(0u)};
    for (int n = 0; n < TESS_ADAM_BLOCK; n += TESSI_LANES)
        lanes.words =
            tessi_larger(lanes.words, tessi_bits_of(tessi_magnitude(tessi_load(values + n))));
    uint32_t largest = 0u;
    for (int n = 0; n < TESSI_LANES; n++)
        largest = lanes.each[n] > largest ? lanes.each[n] : largest;
    return tessi_float_of(tessi_words(largest));
}

INLINE void store_first(float *to, tessi_number_t value)
{
    float lanes[TESSI_LANES];
    tessi_store(lanes, value);
    *to = lanes[0];
}

/* Writes the block at i. Rounds to nearest where key is NULL. */
INLINE void write_block(layout_t layout, const span_t *span, int64_t i, const uint64_t *key,
                        block_t *block)
{
    const tessi_word_t indices = tessi_lane_indices() + span->first_index;
    tessi_random_t random = {tessi_words(TESSI_NEAREST), tessi_words(TESSI_NEAREST),
                             tessi_words(TESSI_NEAREST)};
    for (int64_t n = span->count - i; n < TESS_ADAM_BLOCK; n++)
        block->moment1[n] = block->moment2[n] = 0.0f;
    tessi_code_scale_t scale1 = tessi_code1_scale(largest_of(block->moment1));
    tessi_code_scale_t scale2 = tessi_code2_scale(largest_of(block->moment2));
    store_first(&span->scale1[i / TESS_ADAM_BLOCK], scale1.scale);
    store_first(&span->scale2[i / TESS_ADAM_BLOCK], scale2.scale);
    for (int n = 0; n < TESS_ADAM_BLOCK; n += TESSI_LANES) {
        lanes_t lanes = {tessi_load(block->weight + n), tessi_load(block->moment1 + n),
                         tessi_load(block->moment2 + n)};
        if (key) random = tessi_random_word(*key, indices + (uint32_t)(i + n));
        else random.weight = tessi_nearest_bf16(lanes.weight);
        write_weights(layout, span, i + n, random, &lanes);
        write_copy(layout, span, i + n, lanes.weight);
        tessi_store_upper_codes((uint8_t *)span->at[MOMENT1] + i + n,
                                tessi_upper_code1(lanes.moment1, scale1.inverse, random.moment1));
        tessi_store_upper_codes((uint8_t *)span->at[MOMENT2] + i + n,
                                tessi_upper_code2(lanes.moment2, scale2.inverse, random.moment2));
    }
}

/* --- steps ------------------------------------------------------------------------------------ */

INLINE void prefetch(const void *array, int64_t i, int64_t element_bytes)
{
    if (TESSI_LANES == 1) return; /* the compiler's own vectors would not come about */
    __builtin_prefetch((const char *)array + (i + AHEAD) * element_bytes, 1, 2);
}

INLINE lanes_t update_lanes(layout_t layout, const span_t *span, int64_t i,
                            const tessi_adam_scalars_t *scalars)
{
    static const int64_t master_bytes[] = {4, 2, 0}, moment_bytes[] = {4, 2, 1};
    prefetch(span->at[GRADIENT], i, layout.gradient == TESS_DTYPE_FP32 ? 4 : 2);
    if (layout.weights != TESS_ADAM_MASTER) prefetch(span->at[PARAMETER], i, 2);
    if (layout.weights != TESS_ADAM_BF16)
        prefetch(span->at[MASTER], i, master_bytes[layout.weights]);
    prefetch(span->at[MOMENT1], i, moment_bytes[layout.moments]);
    prefetch(span->at[MOMENT2], i, moment_bytes[layout.moments]);
    tessi_number_t gradient = read_floats(layout.gradient, span->at[GRADIENT], i);
    lanes_t lanes = read_lanes(layout, span, i);
    tessi_adam_update(scalars, gradient, &lanes.weight, &lanes.moment1, &lanes.moment2);
    return lanes;
}

INLINE void step_vectors(layout_t layout, const span_t *shared, const tessi_adam_pass_t *pass)
{
    const span_t span = *shared; /* stores cannot change what is not shared */
    const tessi_adam_scalars_t scalars = pass->scalars;
    const uint64_t key = pass->random_key;
    const tessi_word_t indices = tessi_lane_indices() + span.first_index;
    /* What goes past the cache goes in whole lines. */
    const int copied = layout.weights == TESS_ADAM_MASTER && layout.parameter != TESS_DTYPE_FP32;
    const int64_t vectors = 1 + copied * (TESSI_LINE_VECTORS - 1);
#pragma GCC ivdep
    for (int64_t i = 0; i < span.count; i += vectors * TESSI_LANES) {
        tessi_number_t weights[TESSI_LINE_VECTORS];
        for (int64_t n = 0; n < vectors; n++) {
            int64_t at = i + n * TESSI_LANES;
            tessi_random_t random = tessi_random_word(key, indices + (uint32_t)at);
            lanes_t lanes = update_lanes(layout, &span, at, &scalars);
            write_weights(layout, &span, at, random, &lanes);
            write_moments(layout, &span, at, random, lanes);
            weights[n] = lanes.weight;
        }
        for (int64_t n = 0; n < vectors; n++)
            write_copy(layout, &span, i + n * TESSI_LANES, weights[n]);
    }
}

INLINE void step_blocks(layout_t layout, const span_t *shared, const tessi_adam_pass_t *pass)
{
    const span_t span = *shared;
    const tessi_adam_scalars_t scalars = pass->scalars;
    const uint64_t key = pass->random_key;
    block_t block;
    for (int64_t i = 0; i < span.count; i += TESS_ADAM_BLOCK) {
        for (int n = 0; n < TESS_ADAM_BLOCK; n += TESSI_LANES) {
            lanes_t lanes = update_lanes(layout, &span, i + n, &scalars);
            tessi_store(block.weight + n, lanes.weight);
            tessi_store(block.moment1 + n, lanes.moment1);
            tessi_store(block.moment2 + n, lanes.moment2);
        }
        write_block(layout, &span, i, &key, &block);
    }
}

INLINE void step_layout(layout_t layout, tess_dtype_t gradient, const span_t *span,
                        const tessi_adam_pass_t *pass)
{
    layout.gradient = gradient;
    if (layout.moments == TESS_ADAM_MOMENTS_8BIT) step_blocks(layout, span, pass);
    else step_vectors(layout, span, pass);
}

INLINE void step_gradients(layout_t layout, const tess_adam_config_t *config, const span_t *span,
                           const tessi_adam_pass_t *pass)
{
    if (config->gradient == TESS_DTYPE_BF16) step_layout(layout, TESS_DTYPE_BF16, span, pass);
    else if (config->gradient == TESS_DTYPE_FP16) step_layout(layout, TESS_DTYPE_FP16, span, pass);
    else step_layout(layout, TESS_DTYPE_FP32, span, pass);
}

/* A loop for each combination: the layouts are constants to the compiler. */
INLINE void step_moments(tess_adam_moments_t moments, const tess_adam_config_t *config,
                         const span_t *span, const tessi_adam_pass_t *pass)
{
    layout_t layout = {config->weights, moments, config->gradient, TESS_DTYPE_BF16};
    if (config->weights == TESS_ADAM_BF16) {
        layout.weights = TESS_ADAM_BF16;
        step_gradients(layout, config, span, pass);
    } else if (config->weights == TESS_ADAM_REMAINDER) {
        layout.weights = TESS_ADAM_REMAINDER;
        if (moments != TESS_ADAM_MOMENTS_8BIT) step_gradients(layout, config, span, pass);
    } else {
        layout.weights = TESS_ADAM_MASTER;
        if (config->parameter == TESS_DTYPE_BF16) {
            step_gradients(layout, config, span, pass);
        } else if (config->parameter == TESS_DTYPE_FP16) {
            layout.parameter = TESS_DTYPE_FP16;
            step_gradients(layout, config, span, pass);
        } else {
            layout.parameter = TESS_DTYPE_FP32;
            step_gradients(layout, config, span, pass);
        }
    }
}

static __attribute__((noinline)) void step_fp32(const tess_adam_config_t *config,
                                                const span_t *span, const tessi_adam_pass_t *pass)
{
    step_moments(TESS_ADAM_MOMENTS_FP32, config, span, pass);
}

static __attribute__((noinline)) void step_bf16(const tess_adam_config_t *config,
                                                const span_t *span, const tessi_adam_pass_t *pass)
{
    step_moments(TESS_ADAM_MOMENTS_BF16, config, span, pass);
}

static __attribute__((noinline)) void step_8bit(const tess_adam_config_t *config,
                                                const span_t *span, const tessi_adam_pass_t *pass)
{
    step_moments(TESS_ADAM_MOMENTS_8BIT, config, span, pass);
}

/* --- export and import ------------------------------------------------------------------------ */

/* These run once a checkpoint, so layouts are told apart at run time. */
static layout_t layout_of(const tess_adam_config_t *config)
{
    return (layout_t){config->weights, config->moments, config->gradient, config->parameter};
}

static void export_span(const tess_adam_config_t *config, const span_t *span,
                        const tessi_adam_pass_t *pass)
{
    (void)pass;
    for (int64_t i = 0; i < span->count; i += TESSI_LANES) {
        lanes_t lanes = read_lanes(layout_of(config), span, i);
        if (span->at[WEIGHTS]) tessi_store((float *)span->at[WEIGHTS] + i, lanes.weight);
        if (span->at[VALUES1]) tessi_store((float *)span->at[VALUES1] + i, lanes.moment1);
        if (span->at[VALUES2]) tessi_store((float *)span->at[VALUES2] + i, lanes.moment2);
    }
}

/* Elements that loops run over together. */
static int64_t unit_of(const tess_adam_config_t *config)
{
    return config->moments == TESS_ADAM_MOMENTS_8BIT ? TESS_ADAM_BLOCK
                                                     : TESSI_LINE_VECTORS * TESSI_LANES;
}

static lanes_t import_lanes(const tess_adam_config_t *config, const span_t *span, int64_t i)
{
    lanes_t lanes;
    if (span->at[WEIGHTS]) lanes.weight = tessi_load((float *)span->at[WEIGHTS] + i);
    else if (config->parameter == TESS_DTYPE_FP32)
        lanes.weight = tessi_load((float *)span->at[MASTER] + i);
    else lanes.weight = read_floats(config->parameter, span->at[PARAMETER], i);
    lanes.moment1 =
        span->at[VALUES1] ? tessi_load((float *)span->at[VALUES1] + i) : tessi_numbers(0.0f);
    lanes.moment2 =
        span->at[VALUES2] ? tessi_load((float *)span->at[VALUES2] + i) : tessi_numbers(0.0f);
    return lanes;
}

static void import_span(const tess_adam_config_t *config, const span_t *span,
                        const tessi_adam_pass_t *pass)
{
    (void)pass;
    const layout_t layout = layout_of(config);
    const int64_t unit = unit_of(config);
    const int64_t end = (span->count + unit - 1) / unit * unit;
    block_t block;
    for (int64_t i = 0; i < end; i += TESSI_LANES) {
        lanes_t lanes = import_lanes(config, span, i);
        lanes.moment2 = tessi_smallest(lanes.moment2, tessi_numbers(TESSI_MOMENT2_MAX));
        const tessi_random_t nearest = {tessi_nearest_bf16(lanes.moment1),
                                        tessi_nearest_bf16(lanes.moment2),
                                        tessi_nearest_bf16(lanes.weight)};
        int n = (int)(i % TESS_ADAM_BLOCK);
        if (layout.moments != TESS_ADAM_MOMENTS_8BIT) {
            write_weights(layout, span, i, nearest, &lanes);
            write_copy(layout, span, i, lanes.weight);
            write_moments(layout, span, i, nearest, lanes);
            continue;
        }
        tessi_store(block.weight + n, lanes.weight);
        tessi_store(block.moment1 + n, lanes.moment1);
        tessi_store(block.moment2 + n, lanes.moment2);
        if (n + TESSI_LANES == TESS_ADAM_BLOCK) write_block(layout, span, i - n, NULL, &block);
    }
}

/* --- slices ----------------------------------------------------------------------------------- */

typedef void (*span_loop_t)(const tess_adam_config_t *config, const span_t *span,
                            const tessi_adam_pass_t *pass);

static void element_bytes(const tess_adam_config_t *config, size_t bytes[ARRAYS])
{
    static const size_t master[] = {4, 2, 0}, moment[] = {4, 2, 1};
    bytes[GRADIENT] = (size_t)tess_dtype_bytes(config->gradient);
    bytes[PARAMETER] = (size_t)tess_dtype_bytes(config->parameter);
    bytes[MASTER] = master[config->weights];
    bytes[MOMENT1] = bytes[MOMENT2] = moment[config->moments];
    bytes[WEIGHTS] = bytes[VALUES1] = bytes[VALUES2] = sizeof(float);
}

static void advance(span_t *span, const size_t bytes[ARRAYS], int64_t elements)
{
    for (int a = 0; a < ARRAYS; a++)
        if (span->at[a]) span->at[a] += (size_t)elements * bytes[a];
    if (span->scale1) span->scale1 += elements / TESS_ADAM_BLOCK;
    if (span->scale2) span->scale2 += elements / TESS_ADAM_BLOCK;
    span->count -= elements;
    span->first_index += (uint32_t)elements;
}

/* What does not fill a line or a block goes through memory that has room for all of one. */
static void run_rest(span_loop_t loop, const tess_adam_config_t *config, span_t span,
                     const tessi_adam_pass_t *pass, const size_t bytes[ARRAYS])
{
    char room[ARRAYS][TESS_ADAM_BLOCK * sizeof(float)] __attribute__((aligned(64)));
    const span_t own = span;
    memset(room, 0, sizeof room);
    span.stream = 0;
    for (int a = 0; a < ARRAYS; a++) {
        if (!own.at[a]) continue;
        memcpy(room[a], own.at[a], (size_t)own.count * bytes[a]);
        span.at[a] = room[a];
    }
    loop(config, &span, pass);
    int first = loop == export_span ? WEIGHTS : PARAMETER;
    int end = loop == export_span ? ARRAYS : WEIGHTS;
    for (int a = first; a < end; a++)
        if (own.at[a]) memcpy(own.at[a], room[a], (size_t)own.count * bytes[a]);
}

static void run_slice(span_loop_t loop, const tessi_adam_slice_t *slice,
                      const tess_adam_values_t *values, const tessi_adam_pass_t *pass)
{
    const tess_adam_config_t *config = slice->config;
    const tess_adam_range_t *range = slice->range;
    size_t bytes[ARRAYS];
    span_t span = {.at = {(char *)range->gradient, range->parameter, range->master, range->moment1,
                          range->moment2, (char *)values->weights, (char *)values->moment1,
                          (char *)values->moment2},
                   .scale1 = range->scale1,
                   .scale2 = range->scale2,
                   .count = range->count,
                   .first_index = (uint32_t)range->first_index};
    element_bytes(config, bytes);
    advance(&span, bytes, slice->first);
    int64_t rest = slice->count % unit_of(config);
    span.count = slice->count - rest;
    span.stream = pass && pass->past_cache && (uintptr_t)span.at[PARAMETER] % 64 == 0;
    if (span.count) loop(config, &span, pass);
    if (rest == 0) return;
    advance(&span, bytes, span.count);
    span.count = rest;
    run_rest(loop, config, span, pass, bytes);
}

static void step_slice(const tessi_adam_slice_t *slice, const tessi_adam_pass_t *pass)
{
    static const span_loop_t loops[] = {step_fp32, step_bf16, step_8bit};
    run_slice(loops[slice->config->moments], slice, &(tess_adam_values_t){0}, pass);
    if (pass->past_cache) tessi_stream_end();
}

static void export_slice(const tessi_adam_slice_t *slice, const tess_adam_values_t *values)
{
    run_slice(export_span, slice, values, NULL);
}

static void import_slice(const tessi_adam_slice_t *slice, const tess_adam_values_t *values)
{
    run_slice(import_span, slice, values, NULL);
}

#endif
