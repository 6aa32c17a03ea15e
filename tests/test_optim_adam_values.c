/* SPDX-License-Identifier: Apache-2.0 */
/* Values at the ends: denormal, huge and zero gradients, 8-bit blocks of every kind, and rounding
 * that must be unbiased, independent, and the same in every run.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim_rig.h"

#define COUNT_MAX 1000

static tess_step_t *seeded_step(optim_rig_t *rig, uint64_t seed, double learning_rate)
{
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    config.seed = seed;
    config.learning_rate = learning_rate;
    return rig_step_create(rig, &config);
}

/* --- against the formula in float64, one gradient at a time ------------------------------------
 */

typedef struct extreme {
    const char *name;
    float weight, gradient;
    int alternates; /* the sign, from step to step */
} extreme_t;

/* No gradient whose square is infinite in fp32 and within the bound of moment 2 in float64. */
static const extreme_t extremes[] = {
    {"zero", 0.5f, 0.0f, 0},
    {"zero on zero", 0.0f, 0.0f, 0},
    {"smallest fp32", 0.5f, 0x1p-149f, 0},
    {"denormal", 0.5f, 0x1.8p-130f, 1},
    {"denormal in fp16", 0.5f, 0x1.8p-20f, 0},
    {"smallest in fp16", 0.5f, 0x1p-24f, 1},
    {"square is denormal", 0.5f, 0x1p-70f, 0},
    {"tiny", 0.5f, 1e-20f, 0},
    {"denormal weight", 0x1.8p-135f, 0.0f, 0},
    {"largest fp16", 0.5f, 65504.0f, 1},
    {"1e15", 0.5f, 1e15f, 1},
    {"1e30", 0.5f, 1e30f, 0},
    {"1e30 to and fro", 0.5f, 1e30f, 1},
    {"large weight", 3e38f, 1.0f, 0},
};

/* 2 % for what stochastic rounding of bf16 moments may do to a step, and 10 % in 8 bits, whose
 * neighbours are a sixteenth apart; weights in
 * bf16 walk by 2^-8 of their size a step. Otherwise the rounding of fp32: 60 steps of at most a
 * few 2^-24 each, in the moments and then in the weight. */
static double tolerance(const tess_adam_config_t *config, double weight, double moved, int steps)
{
    double bound = 200.0 * 0x1p-24 * (fabs(weight) + moved);
    if (config->moments == TESS_ADAM_MOMENTS_BF16) bound += 0.02 * moved;
    if (config->moments == TESS_ADAM_MOMENTS_8BIT) bound += 0.1 * moved;
    if (config->weights == TESS_ADAM_BF16)
        bound += 0x1p-7 * (fabs(weight) + moved) * sqrt(steps) * 3.0;
    return bound + 0x1p-126 * 0x1p-7;
}

static void run_extreme(optim_rig_t *rig, const tess_adam_config_t *config,
                        const extreme_t *extreme)
{
    enum { STEPS = 60, COUNT = 300 };
    static float values[COUNT], weights[COUNT], moment1[COUNT], moment2[COUNT];
    unsigned char stored[4];
    rig_model_t model;
    char name[RIG_NAME_BYTES];
    tess_step_t *step = seeded_step(rig, 1, 1e-3);
    rig_model_open(rig, config, COUNT, NULL, &model);
    model.range.weight_decay = 0.1f;
    for (int i = 0; i < COUNT; i++) weights[i] = extreme->weight;
    rig_import(&model, weights, NULL, NULL);
    rig_export(&model, weights, NULL, NULL);
    double w = (double)weights[0], m = 0.0, v = 0.0, moved = 0.0, start = w;
    for (int t = 1; t <= STEPS; t++) {
        float sign = extreme->alternates && t % 2 ? -1.0f : 1.0f;
        for (int i = 0; i < COUNT; i++) values[i] = sign * extreme->gradient;
        rig_gradient(&model, values);
        rig_begin(rig, step, 1.0);
        rig_step(&model, step);
        rig_encode(config->gradient, values, 1, stored);
        double g = (double)rig_decode(config->gradient, stored, 0);
        m += 0.1 * (g - m);
        v = fmin(v + 0.001 * (g * g - v), 1.875 * 0x1p127);
        double change = 1e-3 * (m / (1.0 - pow(0.9, t)) / (sqrt(v / (1.0 - pow(0.999, t))) + 1e-8));
        moved += fabs(change);
        w -= change + 1e-3 * (double)0.1f * w;
    }
    rig_export(&model, weights, moment1, moment2);
    double allowed = tolerance(config, start, moved, STEPS);
    for (int i = 0; i < COUNT; i++) {
        if (!isfinite(weights[i]) || !isfinite(moment1[i]) || !isfinite(moment2[i]))
            fail_msg("%s: %s: element %d is %g with moments %g and %g", rig_describe(&model, name),
                     extreme->name, i, (double)weights[i], (double)moment1[i], (double)moment2[i]);
        if (fabs((double)weights[i] - w) > allowed)
            fail_msg("%s: %s: weight[%d] is %.9g, expected %.9g, allowed %.3g",
                     rig_describe(&model, name), extreme->name, i, (double)weights[i], w, allowed);
    }
    rig_step_destroy(rig, step);
    rig_model_close(&model);
}

static void extreme_values(void **state)
{
    for (int n = 0; n < RIG_LAYOUTS; n++)
        for (int g = 0; g < RIG_GRADIENTS; g++)
            for (size_t e = 0; e < sizeof extremes / sizeof *extremes; e++) {
                tess_adam_config_t config = rig_config(&rig_layouts[n], rig_gradients[g]);
                if (config.gradient == TESS_DTYPE_FP16 && extremes[e].gradient > 65504.0f) continue;
                /* It is no number of fp16, and a bf16 copy could only be infinite. */
                if (extremes[e].weight > 65504.0f && config.weights != TESS_ADAM_MASTER) continue;
                run_extreme(*state, &config, &extremes[e]);
            }
}

/* FLT_MAX in every step, with and without changing sign: whatever is stored stays finite. */
static void the_largest_gradients_stay_finite(void **state)
{
    enum { STEPS = 300, COUNT = 300 };
    static float values[COUNT], got[3][COUNT];
    char name[RIG_NAME_BYTES];
    optim_rig_t *rig = *state;
    for (int n = 0; n < RIG_LAYOUTS; n++)
        for (int alternates = 0; alternates < 2; alternates++) {
            tess_adam_config_t config =
                rig_config(&rig_layouts[n], alternates ? TESS_DTYPE_BF16 : TESS_DTYPE_FP32);
            float largest = rig_float_of(alternates ? 0x7f7f0000u : 0x7f7fffffu);
            rig_model_t model;
            tess_step_t *step = seeded_step(rig, 1, 1e-3);
            rig_model_open(rig, &config, COUNT, NULL, &model);
            for (int t = 0; t < STEPS; t++) {
                for (int i = 0; i < COUNT; i++)
                    values[i] = alternates && t / 30 % 2 ? -largest : largest;
                if (t % 30 == 0) rig_gradient(&model, values);
                rig_begin(rig, step, 1.0);
                rig_step(&model, step);
            }
            rig_export(&model, got[0], got[1], got[2]);
            for (int a = 0; a < 3; a++)
                for (int i = 0; i < COUNT; i++)
                    if (!isfinite(got[a][i]))
                        fail_msg("%s: weight, moment1, moment2 of element %d are %g, %g, %g",
                                 rig_describe(&model, name), i, (double)got[0][i],
                                 (double)got[1][i], (double)got[2][i]);
            rig_step_destroy(rig, step);
            rig_model_close(&model);
        }
}

/* --- 8 bits ------------------------------------------------------------------------------------
 */

static tess_adam_config_t coded_config(void)
{
    tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;
    config.moments = TESS_ADAM_MOMENTS_8BIT;
    config.gradient = TESS_DTYPE_FP32;
    config.parameter = TESS_DTYPE_FP32;
    return config;
}

/* Codes count fp32 numbers of 4 bits of mantissa upwards from an offset, which is taken off. */
static double code_value(int code, int offset_exponent)
{
    double offset = ldexp(1.0, offset_exponent);
    return ldexp((1.0 + code % 16 / 16.0) * offset, code / 16) - offset;
}

static void every_code_is_its_value(void **state)
{
    static const float scales[] = {1.0f, 0x1p-7f, 0x1p-100f, 0x1p100f};
    unsigned char codes[512], back[512];
    float moment1[512], moment2[512], block_scales[2], scales_back[2];
    tess_adam_config_t config = coded_config();
    rig_model_t model;
    rig_model_open(*state, &config, 512, NULL, &model);
    for (int i = 0; i < 512; i++) codes[i] = (unsigned char)(i * 7);
    for (int s = 0; s < 4; s += 2) {
        memcpy(block_scales, scales + s, sizeof block_scales);
        rig_put(&model, RIG_MOMENT1, codes);
        rig_put(&model, RIG_MOMENT2, codes);
        rig_put(&model, RIG_SCALE1, block_scales);
        rig_put(&model, RIG_SCALE2, block_scales);
        rig_export(&model, NULL, moment1, moment2);
        for (int i = 0; i < 512; i++) {
            int code = codes[i];
            float size = (float)code_value(code & 127, 1) * block_scales[i / 256];
            float expected1 = code & 128 ? -size : size;
            float expected2 = (float)code_value(code, 1) * block_scales[i / 256];
            if (rig_bits_of(moment1[i]) != rig_bits_of(expected1) ||
                rig_bits_of(moment2[i]) != rig_bits_of(expected2))
                fail_msg("code %d with scale %g is %a and %a, expected %a and %a", code,
                         (double)block_scales[i / 256], (double)moment1[i], (double)moment2[i],
                         (double)expected1, (double)expected2);
        }
        /* Both blocks hold the last code, which a largest value may be, so the scales come back. */
        rig_import(&model, NULL, moment1, moment2);
        rig_get(&model, RIG_MOMENT1, back);
        assert_memory_equal(back, codes, sizeof codes);
        rig_get(&model, RIG_MOMENT2, back);
        for (int i = 0; i < 512; i++) assert_int_equal(back[i], codes[i] ? codes[i] : 1);
        for (int array = RIG_SCALE1; array <= RIG_SCALE2; array++) {
            rig_get(&model, array, scales_back);
            for (int b = 0; b < 2; b++)
                if (scales_back[b] != block_scales[b])
                    fail_msg("%s came back as %a, was %a", rig_array_names[array],
                             (double)scales_back[b], (double)block_scales[b]);
        }
    }
    rig_model_close(&model);
}

/* Random values come back within half the distance of their neighbours: 2^-5 of a value plus the
 * offset, 2 scales. 2^8 (2^16 for moment 2) scales are at most the block's largest value over 0.96,
 * being a power of two. */
static void coded_values_come_back_rounded(void **state)
{
    static float ours[2][COUNT_MAX], theirs[2][COUNT_MAX];
    tess_adam_config_t config = coded_config();
    rig_model_t model;
    rig_model_open(*state, &config, COUNT_MAX, NULL, &model);
    rig_random_gradients(ours[0], COUNT_MAX, 3);
    for (int i = 0; i < COUNT_MAX; i++) ours[1][i] = ours[0][i] * ours[0][i];
    rig_import(&model, NULL, ours[0], ours[1]);
    rig_export(&model, NULL, theirs[0], theirs[1]);
    for (int m = 0; m < 2; m++)
        for (int first = 0; first < COUNT_MAX; first += 256) {
            int end = first + 256 < COUNT_MAX ? first + 256 : COUNT_MAX;
            double largest = 0.0;
            for (int i = first; i < end; i++) largest = fmax(largest, fabs((double)ours[m][i]));
            for (int i = first; i < end; i++) {
                double offset = ldexp(largest / 0.96, m ? -15 : -7);
                double allowed = 0x1p-5 * (fabs((double)ours[m][i]) + offset) * 1.0001;
                /* No moment 2 is rounded to zero. */
                if (m) allowed = fmax(allowed, offset * 0x1p-4);
                double error = fabs((double)theirs[m][i] - (double)ours[m][i]);
                if (error > allowed || (m && theirs[m][i] <= 0.0f))
                    fail_msg("moment%d[%d] %g came back as %g, allowed %g", m + 1, i,
                             (double)ours[m][i], (double)theirs[m][i], allowed);
            }
        }
    rig_model_close(&model);
}

/* One huge gradient, once, among tiny ones and zeros. While Adam's steps are about the learning
 * rate, a moment 2 rounded to zero under a moment 1 above it would make one of rate / epsilon. With
 * the smallest codes, moment 1 is at most 2^-11 / 0.96 of the spike's and the root of moment 2 at
 * least sqrt(2^-19 / 1.94) of it: half a step. An own moment 1 over a root that was rounded
 * down once makes at most sqrt(17 / 16) times 17 / 16 of a step. */
static void a_spike_moves_nobody_far(void **state)
{
    enum { COUNT = 300, STEPS = 40 };
    static float before[COUNT], after[COUNT], values[COUNT];
    static unsigned char codes[COUNT];
    tess_adam_config_t config = coded_config();
    optim_rig_t *rig = *state;
    rig_model_t model;
    tess_step_t *step = seeded_step(rig, 2, 1e-3);
    rig_model_open(rig, &config, COUNT, NULL, &model);
    for (int t = 1; t <= STEPS; t++) {
        for (int i = 0; i < COUNT; i++) values[i] = i % 3 ? 1e-3f : 0.0f;
        if (t == 1) values[100] = 1e4f;
        rig_gradient(&model, values);
        rig_export(&model, before, NULL, NULL);
        rig_begin(rig, step, 1.0);
        rig_step(&model, step);
        rig_export(&model, after, NULL, NULL);
        rig_get(&model, RIG_MOMENT2, codes);
        for (int i = 0; i < COUNT; i++) {
            double moved = fabs((double)after[i] - (double)before[i]);
            if (!(moved <= 1.2e-3)) fail_msg("step %d moved element %d by %g", t, i, moved);
            if (i % 3 == 0 && i != 100 && moved > 0.0)
                fail_msg("step %d moved element %d, which had no gradient, by %g", t, i, moved);
            if (i % 3 && codes[i] == 0) fail_msg("step %d: moment2[%d] became zero", t, i);
        }
    }
    rig_step_destroy(rig, step);
    rig_model_close(&model);
}

static void a_block_of_zeros_stays_zero(void **state)
{
    enum { COUNT = 600 };
    static float values[COUNT], moment1[COUNT], moment2[COUNT];
    float scales[3];
    tess_adam_config_t config = coded_config();
    optim_rig_t *rig = *state;
    rig_model_t model;
    tess_step_t *step = seeded_step(rig, 2, 1e-3);
    rig_model_open(rig, &config, COUNT, NULL, &model);
    for (int i = 0; i < COUNT; i++) values[i] = i / 256 == 1 ? 0.0f : 1.0f;
    rig_gradient(&model, values);
    for (int t = 0; t < 5; t++) {
        rig_begin(rig, step, 1.0);
        rig_step(&model, step);
    }
    rig_export(&model, values, moment1, moment2);
    for (int array = RIG_SCALE1; array <= RIG_SCALE2; array++) {
        rig_get(&model, array, scales);
        if (!(scales[0] > 0.0f) || scales[1] != 0.0f || !(scales[2] > 0.0f))
            fail_msg("scales are %g, %g, %g", (double)scales[0], (double)scales[1],
                     (double)scales[2]);
    }
    for (int i = 0; i < COUNT; i++) {
        int is_zero = values[i] == 0.0f && moment1[i] == 0.0f && moment2[i] == 0.0f;
        if (is_zero != (i / 256 == 1))
            fail_msg("element %d is %g, its moments %g and %g", i, (double)values[i],
                     (double)moment1[i], (double)moment2[i]);
    }
    rig_step_destroy(rig, step);
    rig_model_close(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(extreme_values),
        cmocka_unit_test(the_largest_gradients_stay_finite),
        cmocka_unit_test(every_code_is_its_value),
        cmocka_unit_test(coded_values_come_back_rounded),
        cmocka_unit_test(a_spike_moves_nobody_far),
        cmocka_unit_test(a_block_of_zeros_stays_zero),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
