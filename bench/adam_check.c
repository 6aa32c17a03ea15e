/* SPDX-License-Identifier: Apache-2.0 */
/* Takes one step and looks at some thousand elements of it: weights and moments against the formula
 * in fp64, from what tess_adam_export says before and after; the parameter against the weight; the
 * norm of the gradients against their sum of squares.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adam_bench.h"
#include "core/internal.h"
#include "optim/adam_math.h"

#define WINDOW INT64_C(1024) /* whole blocks of 8-bit moments */
#define WINDOWS 3
#define EPS 0x1p-24 /* one rounding of fp32 */

/* Elements [first, first + count) before and after the step. */
typedef struct window {
    int64_t first, count;
    float before[3][WINDOW], after[3][WINDOW]; /* weights, moment 1, moment 2 */
    float parameter[WINDOW];                   /* after, as stored */
} window_t;

/* What the step should have made of one element, and how far it may be off. */
typedef struct expected {
    double weight, moment1, moment2;
    double weight_off, moment1_off, moment2_off;
} expected_t;

/* --- reading --------------------------------------------------------------------------------- */

static tess_status_t read_values(adam_case_t *c, const window_t *window, float values[3][WINDOW])
{
    tess_stream_t *stream = c->bench->session->stream;
    tess_adam_range_t part = adam_part(c, window->first, window->count);
    float *device = c->bench->samples.device;
    const tess_adam_values_t to = {device, device + WINDOW, device + 2 * WINDOW};
    tess_status_t status = tess_adam_export(c->adam, stream, &part, &to);
    if (status >= 0)
        status = tess_stream_copy(stream, values, device, 3 * WINDOW * (int64_t)sizeof *device);
    return status < 0 ? status : tess_stream_synchronize(stream, -1);
}

/* The parameter of the window, as fp32; the weight itself where the layout has no other. */
static tess_status_t read_parameter(adam_case_t *c, window_t *window)
{
    uint16_t halves[WINDOW];
    tess_stream_t *stream = c->bench->session->stream;
    tess_adam_range_t part = adam_part(c, window->first, window->count);
    if (!part.parameter) {
        memcpy(window->parameter, window->after[0], sizeof window->parameter);
        return TESS_OK;
    }
    tess_status_t status =
        tess_stream_copy(stream, halves, part.parameter, window->count * (int64_t)sizeof *halves);
    if (status >= 0) status = tess_stream_synchronize(stream, -1);
    for (int64_t i = 0; status >= 0 && i < window->count; i++)
        window->parameter[i] = c->config.parameter == TESS_DTYPE_BF16 ? tessi_from_bf16(halves[i])
                                                                      : tessi_from_fp16(halves[i]);
    return status;
}

/* --- expecting ------------------------------------------------------------------------------- */

static double gradient_of(const adam_case_t *c, int64_t element)
{
    const void *samples = c->bench->samples.gradient;
    int64_t i = element % ADAM_SAMPLES;
    if (c->config.gradient == TESS_DTYPE_FP32) return (double)((const float *)samples)[i];
    uint16_t half = ((const uint16_t *)samples)[i];
    return (double)(c->config.gradient == TESS_DTYPE_BF16 ? tessi_from_bf16(half)
                                                          : tessi_from_fp16(half));
}

/* Each value comes out of at most 8 roundings of numbers no larger than those in brackets; the
 * quotient has those of both moments. */
static expected_t expect(const adam_case_t *c, const tess_step_state_t *state, const float old[3],
                         double gradient, double decay)
{
    expected_t e;
    double w = (double)old[0], m = (double)old[1], v = (double)old[2];
    double g = gradient * (double)state->gradient_factor;
    double rate = (double)state->learning_rate * (double)state->moment1_factor;
    e.moment1 = m + (1 - c->config.beta1) * (g - m);
    e.moment2 = v + (1 - c->config.beta2) * (g * g - v);
    double denominator = sqrt(e.moment2) * (double)state->moment2_factor + c->config.epsilon;
    e.weight = w - (rate * e.moment1 / denominator + (double)state->learning_rate * decay * w);
    e.moment1_off = 8 * EPS * (fabs(m) + fabs(g));
    e.moment2_off = 8 * EPS * (v + g * g);
    e.weight_off = 4 * EPS * fabs(w) + 16 * EPS * rate * (fabs(m) + fabs(g)) / denominator;
    return e;
}

/* Stochastic rounding takes one of the two neighbours, which lie one spacing apart: 2^-7 of a bf16
 * number at most, and in 8 bits 1/16 of the number with its code's offset (2^-7 and 2^-15 of a
 * power of two about the block's largest value). */
static void allow_rounding(const adam_case_t *c, const double scale[2], expected_t *e)
{
    if (c->config.weights == TESS_ADAM_BF16) e->weight_off += 0x1p-7 * fabs(e->weight);
    if (c->config.moments == TESS_ADAM_MOMENTS_BF16) {
        e->moment1_off += 0x1p-7 * fabs(e->moment1);
        e->moment2_off += 0x1p-7 * e->moment2;
    }
    if (c->config.moments == TESS_ADAM_MOMENTS_8BIT) {
        e->moment1_off += (fabs(e->moment1) + 0x1p-7 * scale[0]) / 16;
        e->moment2_off += (e->moment2 + 0x1p-15 * scale[1]) / 16;
    }
}

/* 1 where the parameter is the weight, rounded to nearest. */
static int parameter_fits(const adam_case_t *c, float weight, float parameter)
{
    if (c->config.weights == TESS_ADAM_BF16 || c->config.parameter == TESS_DTYPE_FP32)
        return weight == parameter;
    return parameter == (c->config.parameter == TESS_DTYPE_BF16
                             ? tessi_from_bf16(tessi_to_bf16(weight))
                             : tessi_from_fp16(tessi_to_fp16(weight)));
}

/* Not `off > limit`, which a NaN would pass. */
static int is_near(double value, double expected, double off)
{
    return fabs(value - expected) <= off;
}

static int64_t count_wrong(const adam_case_t *c, adam_kind_t kind, const tess_step_state_t *state,
                           const window_t *window)
{
    static expected_t e[TESS_ADAM_BLOCK];
    int64_t wrong = 0;
    for (int64_t block = 0; block < window->count; block += TESS_ADAM_BLOCK) {
        int64_t left = window->count - block;
        int64_t count = left < TESS_ADAM_BLOCK ? left : TESS_ADAM_BLOCK;
        double scale[2] = {0, 0};
        for (int64_t i = 0; i < count; i++) {
            int64_t w = block + i, element = window->first + w;
            const float old[3] = {window->before[0][w], window->before[1][w], window->before[2][w]};
            e[i] = expect(c, state, old, gradient_of(c, element),
                          (double)adam_case_decay(c, kind, element));
            /* The power of two that codes count from is at most the largest value over 0.96. */
            scale[0] = fmax(scale[0], fabs(e[i].moment1) / 0.96);
            scale[1] = fmax(scale[1], e[i].moment2 / 0.96);
        }
        for (int64_t i = 0; i < count; i++) {
            int64_t w = block + i;
            allow_rounding(c, scale, &e[i]);
            wrong += !is_near((double)window->after[0][w], e[i].weight, e[i].weight_off) ||
                     !is_near((double)window->after[1][w], e[i].moment1, e[i].moment1_off) ||
                     !is_near((double)window->after[2][w], e[i].moment2, e[i].moment2_off) ||
                     !parameter_fits(c, window->after[0][w], window->parameter[w]);
        }
    }
    return wrong;
}

/* Two sums of `count` squares in any order differ by less than count roundings of fp64. */
static int64_t norm_wrong(const adam_case_t *c, const tess_step_state_t *state)
{
    const double *squares = c->bench->samples.squares;
    int64_t whole = c->count / ADAM_SAMPLES;
    double sum = (double)whole * squares[ADAM_SAMPLES] + squares[c->count % ADAM_SAMPLES];
    double norm = sqrt(sum) / (double)ADAM_LOSS_SCALE;
    double factor = fmin(1, ADAM_CLIP_NORM / (norm + 1e-6)) / (double)ADAM_LOSS_SCALE;
    double off = (double)(c->count + 4) * 0x1p-53;
    return !is_near(state->gradient_norm, norm, norm * off) ||
           !is_near((double)state->gradient_factor, factor, factor * (2 * EPS + off));
}

/* --- the course ------------------------------------------------------------------------------ */

static int list_windows(const adam_case_t *c, window_t *windows)
{
    int64_t blocks = c->count / TESS_ADAM_BLOCK, last = (c->count - 1) / WINDOW * WINDOW;
    const int64_t firsts[WINDOWS] = {0, blocks / 2 * TESS_ADAM_BLOCK, last};
    int count = 0;
    for (int w = 0; w < WINDOWS; w++) {
        if (w > 0 && firsts[w] < firsts[w - 1] + WINDOW) continue;
        int64_t left = c->count - firsts[w];
        windows[count].first = firsts[w];
        windows[count++].count = left < WINDOW ? left : WINDOW;
    }
    return count;
}

/* Tests: one moment becomes something else behind the benchmark's back. */
static tess_status_t maybe_damage(adam_case_t *c)
{
    if (!tessi_fault("bench")) return TESS_OK;
    return tess_stream_fill(c->bench->session->stream, c->range.moment1, 0x77, 1);
}

static tess_status_t check_kind(adam_case_t *c, adam_kind_t kind, window_t *windows, int64_t *wrong)
{
    tess_stream_t *stream = c->bench->session->stream;
    int count = list_windows(c, windows);
    tess_step_state_t state;
    tess_status_t status = adam_case_begin(c);
    for (int w = 0; w < count && status >= 0; w++)
        status = read_values(c, &windows[w], windows[w].before);
    if (status >= 0) status = adam_case_queue(c, kind);
    if (status >= 0) status = maybe_damage(c);
    if (status >= 0) status = tess_step_read(c->step, stream, &state);
    for (int w = 0; w < count && status >= 0; w++) {
        status = read_values(c, &windows[w], windows[w].after);
        if (status >= 0) status = read_parameter(c, &windows[w]);
        if (status >= 0) *wrong += count_wrong(c, kind, &state, &windows[w]);
    }
    if (status >= 0) *wrong += norm_wrong(c, &state);
    return status;
}

tess_status_t adam_case_check(adam_case_t *c, int64_t *wrong)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "check", c->sizes.traffic_bytes, -1);
    *wrong = 0;
    window_t *windows = tessi_calloc(WINDOWS, sizeof *windows);
    if (!windows) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = check_kind(c, ADAM_PASS, windows, wrong);
    if (status >= 0 && c->list) status = check_kind(c, ADAM_GROUPS, windows, wrong);
    tessi_free(windows);
    return status;
}

tess_status_t adam_case_finish(adam_case_t *c, int64_t *wrong)
{
    tess_step_state_t state;
    tess_status_t status = tess_step_read(c->step, c->bench->session->stream, &state);
    if (status >= 0) *wrong += state.skipped + llabs((long long)(c->begun - state.step));
    return status;
}
