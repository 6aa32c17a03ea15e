/* SPDX-License-Identifier: Apache-2.0 */
/* Stochastic rounding: right on average, independent from element to element, from moment to moment
 * and from step to step, and the same in every run with the same seed.
 *
 * All elements have one gradient, so each stored value is one of two neighbours, and "up" is a coin
 * with a known probability p. Of N tosses the mean is off by 5 sqrt(p (1 - p) / N) or less, and the
 * correlation of two sets of tosses is 5 / sqrt(N) or less, but once in two million.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim_rig.h"

#define COUNT 65536
#define SIGMAS 5.0

typedef struct tosses {
    double mean;
    signed char up[COUNT]; /* 1 or 0 */
} tosses_t;

static tess_step_t *seeded_step(optim_rig_t *rig, uint64_t seed, double learning_rate)
{
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    config.seed = seed;
    config.learning_rate = learning_rate;
    return rig_step_create(rig, &config);
}

/* Values must all be one of two neighbours around `expected` in bf16. */
static void read_tosses(const float *values, double expected, const char *what, tosses_t *tosses)
{
    float near = (float)expected;
    float low = rig_float_of(rig_bits_of(near) & 0xffff0000u);
    float high = rig_float_of((rig_bits_of(near) & 0xffff0000u) + 0x10000u);
    double p = (fabs(expected) - fabs((double)low)) / (fabs((double)high) - fabs((double)low));
    tosses->mean = 0.0;
    for (int i = 0; i < COUNT; i++) {
        if (values[i] != low && values[i] != high)
            fail_msg("%s[%d] is %a, but %a lies between %a and %a", what, i, (double)values[i],
                     expected, (double)low, (double)high);
        tosses->up[i] = values[i] == high;
        tosses->mean += tosses->up[i] / (double)COUNT;
    }
    double allowed = SIGMAS * sqrt(p * (1.0 - p) / COUNT) + 0x1p-14;
    if (fabs(tosses->mean - p) > allowed)
        fail_msg("%s: %.5f of all were rounded away from zero, expected %.5f +- %.5f", what,
                 tosses->mean, p, allowed);
}

/* Of tosses a[i] and b[i + lag]. */
static void expect_uncorrelated(const tosses_t *a, const tosses_t *b, int lag, const char *what)
{
    double sum = 0.0;
    for (int i = 0; i + lag < COUNT; i++)
        sum += ((double)a->up[i] - a->mean) * ((double)b->up[i + lag] - b->mean);
    double spread = sqrt(a->mean * (1.0 - a->mean) * b->mean * (1.0 - b->mean));
    double correlation = sum / (COUNT - lag) / spread, allowed = SIGMAS / sqrt(COUNT - lag);
    if (fabs(correlation) > allowed)
        fail_msg("%s, %d elements apart: correlation %.4f, allowed %.4f", what, lag, correlation,
                 allowed);
}

static void fill(rig_model_t *model, float weight, float gradient)
{
    static float values[COUNT];
    for (int i = 0; i < COUNT; i++) values[i] = weight;
    rig_import(model, values, NULL, NULL);
    for (int i = 0; i < COUNT; i++) values[i] = gradient;
    rig_gradient(model, values);
}

/* One step of an all-bf16 layout, from zero moments and weights of 1. */
typedef struct throw
{
    int64_t first_index;
    uint64_t seed;
    int steps_before; /* begun, but not taken */
    float gradient;
    double part; /* what the step takes off a weight, in distances of neighbours */
}
throw_t;

/* The tosses of weight, moment 1 and moment 2. The step is made from moments that are not rounded
 * yet, so all elements take the same. */
static void toss(optim_rig_t *rig, throw_t how, tosses_t *tosses)
{
    static float got[3][COUNT];
    optim_layout_t layout = {"", TESS_ADAM_BF16, TESS_ADAM_MOMENTS_BF16, TESS_DTYPE_BF16};
    tess_adam_config_t config = rig_config(&layout, TESS_DTYPE_FP32);
    rig_model_t model;
    rig_model_open(rig, &config, COUNT, NULL, &model);
    model.range.first_index = how.first_index;
    fill(&model, 1.0f, how.gradient);
    tess_step_t *step = seeded_step(rig, how.seed, 1e-3);
    for (int t = 0; t <= how.steps_before; t++) rig_begin(rig, step, 1.0);
    tess_step_state_t state = rig_step_read(rig, step);
    double m = 0.1 * (double)how.gradient;
    double v = 0.001 * (double)how.gradient * (double)how.gradient;
    double direction =
        (double)state.moment1_factor * fabs(m) / (sqrt(v) * (double)state.moment2_factor + 1e-8);
    /* Neighbours are 2^-8 apart below 1, and twice as far above. */
    model.range.learning_rate_factor =
        (float)(how.part * 0x1p-8 / direction / (double)state.learning_rate);
    rig_step(&model, step);
    rig_export(&model, got[0], got[1], got[2]);
    read_tosses(got[0], 1.0 - copysign(how.part * 0x1p-8, m), "weight", &tosses[0]);
    read_tosses(got[1], m, "moment1", &tosses[1]);
    read_tosses(got[2], v, "moment2", &tosses[2]);
    rig_step_destroy(rig, step);
    rig_model_close(&model);
}

static tosses_t first[3], second[3];

static void rounding_is_unbiased(void **state)
{
    static const double parts[] = {0.01, 0.3, 0.5, 0.77, 0.98};
    static const float sizes[] = {1.37f, -2.2f, 0.013f, 77.7f, -0.5f};
    for (size_t n = 0; n < sizeof parts / sizeof *parts; n++)
        toss(*state, (throw_t){.seed = n, .gradient = sizes[n], .part = parts[n]}, first);
}

/* Gradients whose moments lie near the middle of two neighbours, so that tosses are even. */
static void rounding_is_independent(void **state)
{
    static const int lags[] = {1,  2,  3,  4,  5,   8,   13,   16,   21,   32,
                               34, 55, 64, 89, 128, 256, 1024, 4096, 16384};
    static const char *const names[] = {"weight", "moment1", "moment2"};
    static const char *const pairs[] = {"moment1 and weight", "moment2 and weight",
                                        "moment2 and moment1"};
    static const float sizes[] = {2.703f, 1.655f, 3.209f};
    for (uint64_t seed = 0; seed < 3; seed++) {
        const throw_t usual = {.seed = seed, .gradient = sizes[seed], .part = 0.45};
        throw_t other = usual;
        toss(*state, usual, first);
        for (int a = 0; a < 3; a++) {
            for (size_t n = 0; n < sizeof lags / sizeof *lags; n++)
                expect_uncorrelated(&first[a], &first[a], lags[n], names[a]);
            for (int b = 0; b < a; b++)
                expect_uncorrelated(&first[a], &first[b], 0, pairs[a + b - 1]);
        }
        other.steps_before = 1;
        toss(*state, other, second);
        for (int a = 0; a < 3; a++) expect_uncorrelated(&first[a], &second[a], 0, "the next step");
        other = usual;
        other.seed += 100;
        toss(*state, other, second);
        for (int a = 0; a < 3; a++) expect_uncorrelated(&first[a], &second[a], 0, "another seed");
        other = usual;
        other.first_index = COUNT;
        toss(*state, other, second);
        for (int a = 0; a < 3; a++) expect_uncorrelated(&first[a], &second[a], 0, "elsewhere");
    }
}

static void runs_repeat(void **state)
{
    const throw_t usual = {.seed = 3, .gradient = 1.37f, .part = 0.4};
    toss(*state, usual, first);
    toss(*state, usual, second);
    for (int a = 0; a < 3; a++) assert_memory_equal(first[a].up, second[a].up, sizeof first[a].up);
}

/* The same with codes: one element in each block is the largest, all others are 0.3 of it, between
 * two codes. */
static void codes_are_unbiased(void **state)
{
    static float values[COUNT], moment1[COUNT], moment2[COUNT];
    optim_rig_t *rig = *state;
    optim_layout_t layout = {"", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_8BIT, TESS_DTYPE_FP32};
    tess_adam_config_t config = rig_config(&layout, TESS_DTYPE_FP32);
    rig_model_t model;
    rig_model_open(rig, &config, COUNT, NULL, &model);
    for (int i = 0; i < COUNT; i++) values[i] = i % 256 == 9 ? 1.0f : i % 2 ? 0.3f : -0.013f;
    rig_gradient(&model, values);
    tess_step_t *step = seeded_step(rig, 5, 1e-3);
    rig_begin(rig, step, 1.0);
    rig_step(&model, step);
    rig_export(&model, NULL, moment1, moment2);
    for (int parity = 0; parity < 2; parity++) {
        double gradient = parity ? (double)0.3f : (double)-0.013f;
        double expected[] = {0.1 * gradient, 0.001 * gradient * gradient};
        /* Distance of neighbours: 2^-4 of value plus offset, at most. */
        double distance[] = {0x1p-4 * (fabs(expected[0]) + 0x1p-7 * 0.1 / 1.92),
                             0x1p-4 * (expected[1] + 0x1p-15 * 0.001 / 1.92)};
        double mean[2] = {0.0, 0.0};
        int count = 0;
        for (int i = 0; i < COUNT; i++) {
            if (i % 256 == 9 || i % 2 != parity) continue;
            mean[0] += (double)moment1[i];
            mean[1] += (double)moment2[i];
            count++;
        }
        for (int m = 0; m < 2; m++) {
            mean[m] /= count;
            double allowed = SIGMAS * 0.5 * distance[m] / sqrt(count) + 0x1p-20 * expected[1];
            if (fabs(mean[m] - expected[m]) > allowed)
                fail_msg("the mean of moment%d is %.7g, expected %.7g +- %.2g", m + 1, mean[m],
                         expected[m], allowed);
        }
    }
    rig_step_destroy(rig, step);
    rig_model_close(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_is_unbiased),
        cmocka_unit_test(rounding_is_independent),
        cmocka_unit_test(runs_repeat),
        cmocka_unit_test(codes_are_unbiased),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
