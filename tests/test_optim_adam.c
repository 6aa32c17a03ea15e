/* SPDX-License-Identifier: Apache-2.0 */
/* A thousand steps of every layout and dtype against Adam in float64.
 *
 * The reference carries two numbers beside each value that it computes: a bound of what fp32
 * rounding can have added up to (each operation errs by at most U = 2^-24 of its result, and passes
 * on the errors of its operands), and a standard deviation of what stochastic rounding adds up to,
 * to first order. So there is no tolerance to choose: a value may differ by its own bound, plus
 * 6 standard deviations where it is rounded stochastically. As 64 elements share each gradient and
 * draw independently, their mean may differ by the bound plus 5/8 of a standard deviation: an
 * eighth of the noise, in which a rounding that is not unbiased shows.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim_rig.h"

#define U 0x1p-24
#define STEPS 1000
#define PATTERNS 32
#define LANES 64
#define COPIES 64
#define COUNT                                                                                      \
    (LANES * COPIES + 37) /* a part of a block at the end; element i is of lane i % LANES */
#define SCALE 128.0f
#define RATE_FACTOR 0.7f

typedef struct lane {
    double weight, moment1, moment2;
    double weight_error, moment1_error, moment2_error;    /* bounds of rounding to nearest */
    double weight_spread, moment1_spread, moment2_spread; /* standard deviations */
} lane_t;

/* All that one run needs. */
typedef struct course {
    tess_adam_config_t config;
    rig_model_t model;
    tess_step_t *step;
    float weight_decay;
    double clip_norm;
    double gradients[PATTERNS][LANES]; /* as stored, still scaled */
    double sums[PATTERNS];             /* of squares, still scaled */
    double *sums_on_device;            /* (PATTERNS) */
    void *gradients_on_device;         /* (PATTERNS, COUNT) config.gradient */
    lane_t lanes[LANES];
} course_t;

static double learning_rate(int t)
{
    return 1e-3 * (1.0 + 0.5 * sin(t / 40.0));
}

/* Lanes differ by up to 2^5 in size, so that an 8-bit block holds large and small ones; a drift of
 * one sign under noise of both. One pattern in eight is too small to be clipped. */
static void make_gradients(optim_rig_t *rig, course_t *course)
{
    static float values[COUNT];
    int64_t bytes = COUNT * tess_dtype_bytes(course->config.gradient);
    char *encoded = malloc((size_t)bytes);
    assert_non_null(encoded);
    course->gradients_on_device = rig_memory(rig, PATTERNS * bytes);
    course->sums_on_device = rig_memory(rig, (int64_t)sizeof course->sums);
    uint64_t state = 5;
    for (int p = 0; p < PATTERNS; p++) {
        float lane_values[LANES];
        for (int l = 0; l < LANES; l++) {
            double drift = l % 2 ? 0.3 : -0.3, noise = 2.0 * rig_uniform(&state) - 1.0;
            double size = ldexp(p % 8 == 5 ? 0.01 : 1.0, -(l % 6));
            lane_values[l] = (float)(SCALE * size * (drift + noise));
        }
        for (int i = 0; i < COUNT; i++) values[i] = lane_values[i % LANES];
        rig_encode(course->config.gradient, values, COUNT, encoded);
        long double sum = 0.0L;
        for (int i = 0; i < COUNT; i++) {
            long double value = (long double)rig_decode(course->config.gradient, encoded, i);
            sum += value * value;
        }
        course->sums[p] = (double)sum;
        for (int l = 0; l < LANES; l++)
            course->gradients[p][l] = (double)rig_decode(course->config.gradient, encoded, l);
        rig_upload(rig, (char *)course->gradients_on_device + p * bytes, encoded, bytes);
    }
    rig_upload(rig, course->sums_on_device, course->sums, (int64_t)sizeof course->sums);
    free(encoded);
    course->clip_norm = 0.5 * sqrt(course->sums[0]) / SCALE;
}

static void open_course(optim_rig_t *rig, const optim_layout_t *layout, tess_dtype_t gradient,
                        course_t *course)
{
    static float weights[COUNT];
    memset(course, 0, sizeof *course);
    course->config = rig_config(layout, gradient);
    course->config.l2 = gradient == TESS_DTYPE_FP16;
    course->weight_decay = course->config.l2 ? 0.01f : 0.1f;
    /* A short memory for 8 bits: over 1,000 steps their noise would leave the first order. */
    if (layout->moments == TESS_ADAM_MOMENTS_8BIT) course->config.beta2 = 0.95;
    make_gradients(rig, course);
    tess_step_config_t step = TESS_STEP_CONFIG_DEFAULT;
    step.beta1 = course->config.beta1;
    step.beta2 = course->config.beta2;
    step.clip_norm = course->clip_norm;
    step.loss_scale.initial = SCALE;
    step.seed = 11;
    course->step = rig_step_create(rig, &step);
    rig_model_open(rig, &course->config, COUNT, NULL, &course->model);
    course->model.range.weight_decay = course->weight_decay;
    course->model.range.learning_rate_factor = RATE_FACTOR;
    uint64_t state = 3;
    for (int l = 0; l < LANES; l++) {
        /* Values that bf16 holds, so that all layouts start alike. */
        float weight = (float)(2.0 * rig_uniform(&state) - 1.0);
        course->lanes[l].weight = (double)tess_bf16_to_float(tess_bf16_from_float(weight));
    }
    for (int i = 0; i < COUNT; i++) weights[i] = (float)course->lanes[i % LANES].weight;
    rig_import(&course->model, weights, NULL, NULL);
}

static void close_course(optim_rig_t *rig, course_t *course)
{
    rig_model_close(&course->model);
    rig_step_destroy(rig, course->step);
    rig_free(rig, course->gradients_on_device);
    rig_free(rig, course->sums_on_device);
}

/* --- the reference ---------------------------------------------------------------------------- */

/* Standard deviation of rounding a value of this size stochastically: half the distance of its
 * neighbours at most, and at most sqrt(distance * moved) where it lay on one of them before. */
static double rounding_spread(double distance, double moved)
{
    double half = 0.5 * distance, walk = sqrt(distance * moved);
    return walk < half ? walk : half;
}

/* Neighbours of x are at most 2^-7 |x| apart in bf16. In 8 bits they are 2^-4 of |x| plus an offset
 * apart, which is 2 scales: 2^-7 for moment 1, and 2^-15 for moment 2, of a power of two that is
 * below the largest value over 0.96. A gradient takes a value off the grid in each step. */
static double moment_spread(tess_adam_moments_t moments, double size, double moved, double offset)
{
    if (moments == TESS_ADAM_MOMENTS_FP32) return 0.0;
    if (moments == TESS_ADAM_MOMENTS_BF16) return rounding_spread(0x1p-7 * size, moved);
    return 0.5 * 0x1p-4 * (size + offset);
}

/* The gradient as Adam takes it, and the error of forming it in fp32. */
static double whole_gradient(const course_t *course, const lane_t *lane, double stored,
                             double factor, double *error)
{
    double gradient = stored * factor, l2 = course->config.l2 ? (double)course->weight_decay : 0.0;
    *error = 2.0 * U * fabs(gradient); /* factor and product */
    if (l2 == 0.0) return gradient;
    gradient += l2 * lane->weight;
    *error += U * l2 * fabs(lane->weight) + l2 * lane->weight_error + U * fabs(gradient);
    return gradient;
}

static void update_moments(const course_t *course, lane_t *lane, double gradient, double error,
                           double offset1, double offset2)
{
    double b1 = 1.0 - course->config.beta1, b2 = 1.0 - course->config.beta2;
    double l2 = course->config.l2 ? (double)course->weight_decay : 0.0;
    double gap1 = gradient - lane->moment1, gap2 = gradient * gradient - lane->moment2;
    lane->moment1 += b1 * gap1;
    lane->moment2 += b2 * gap2;
    /* Difference, product, and the constant 1 - beta: 3 U; then the sum. 4 U for an 8-bit scale. */
    int is_coded = course->config.moments == TESS_ADAM_MOMENTS_8BIT;
    double units = is_coded ? 5.0 * U : U;
    lane->moment1_error = (1.0 - b1) * lane->moment1_error + b1 * (error + 3.0 * U * fabs(gap1)) +
                          units * fabs(lane->moment1);
    lane->moment2_error =
        (1.0 - b2) * lane->moment2_error +
        b2 * (2.0 * fabs(gradient) * error + U * gradient * gradient + 3.0 * U * fabs(gap2)) +
        units * lane->moment2;
    /* A moment 2 below the first code, a sixteenth of the offset, is raised to it. */
    double raised = offset2 / 16.0 - fmax(0.0, lane->moment2 - 3.0 * lane->moment2_spread);
    if (is_coded && raised > 0.0) lane->moment2_error += raised;
    double size1 = fabs(lane->moment1) + 3.0 * lane->moment1_spread;
    double size2 = lane->moment2 + 3.0 * lane->moment2_spread;
    lane->moment1_spread =
        hypot((1.0 - b1) * lane->moment1_spread + b1 * l2 * lane->weight_spread,
              moment_spread(course->config.moments, size1, b1 * fabs(gap1), offset1));
    lane->moment2_spread = hypot(
        (1.0 - b2) * lane->moment2_spread + b2 * 2.0 * fabs(gradient) * l2 * lane->weight_spread,
        moment_spread(course->config.moments, size2, b2 * (fabs(gap2) + size2), offset2));
}

static void update_weight(const course_t *course, lane_t *lane, int t)
{
    double rate = learning_rate(t) * (double)RATE_FACTOR;
    double decay = course->config.l2 ? 0.0 : rate * (double)course->weight_decay;
    double factor1 = 1.0 / (1.0 - pow(course->config.beta1, t));
    double factor2 = 1.0 / sqrt(1.0 - pow(course->config.beta2, t));
    double root = sqrt(lane->moment2), size1 = fabs(lane->moment1);
    double denominator = root * factor2 + course->config.epsilon;
    rate *= factor1;
    double change = rate * lane->moment1 / denominator;
    /* The error of a root is half of what is below it; 0.6 makes up for the second order. Root,
     * factor, product, sum: 4 U. Rate: 4 U; quotient and product: 2 U. */
    double root_error = 0.6 * lane->moment2_error / root * factor2 + 4.0 * U * denominator;
    double error = rate * (lane->moment1_error + size1 * root_error / denominator) / denominator +
                   6.0 * U * fabs(change);
    /* 1 / sqrt(v) is on average 3/8 of v's relative variance larger than at the mean of v. */
    double wobble = lane->moment2_spread / lane->moment2;
    error += rate * (size1 + lane->moment1_spread) / denominator * 0.5 * wobble * wobble;
    double spread = rate *
                    (lane->moment1_spread + size1 * 0.5 * wobble * root * factor2 / denominator) /
                    denominator;
    double all = change + decay * lane->weight;
    lane->weight -= all;
    lane->weight_error += error + decay * (lane->weight_error + 4.0 * U * fabs(lane->weight)) +
                          U * fabs(all) + U * fabs(lane->weight);
    double distance = course->config.weights == TESS_ADAM_BF16
                          ? 0x1p-7 * (fabs(lane->weight) + 3.0 * lane->weight_spread)
                          : 0.0;
    /* Errors of the moments last for many steps: their parts add up, unlike those of roundings. */
    lane->weight_spread =
        hypot(lane->weight_spread + spread, rounding_spread(distance, fabs(all) + 3.0 * spread));
}

static void reference_step(course_t *course, int t)
{
    int pattern = t % PATTERNS;
    double norm = sqrt(course->sums[pattern]) / SCALE;
    double coefficient = course->clip_norm / (norm + 1e-6);
    double factor = (coefficient < 1.0 ? coefficient : 1.0) / SCALE;
    double largest1 = 0.0, largest2 = 0.0;
    for (int l = 0; l < LANES; l++) {
        const lane_t *lane = &course->lanes[l];
        double error, size1, size2;
        double gradient =
            whole_gradient(course, lane, course->gradients[pattern][l], factor, &error);
        size1 = fabs(lane->moment1) + 4.0 * lane->moment1_spread + fabs(gradient);
        size2 = lane->moment2 + 4.0 * lane->moment2_spread + 0.05 * gradient * gradient;
        if (size1 > largest1) largest1 = size1;
        if (size2 > largest2) largest2 = size2;
    }
    for (int l = 0; l < LANES; l++) {
        lane_t *lane = &course->lanes[l];
        double error;
        double gradient =
            whole_gradient(course, lane, course->gradients[pattern][l], factor, &error);
        update_moments(course, lane, gradient, error, 0x1p-7 / 0.96 * largest1,
                       0x1p-15 / 0.96 * largest2);
        update_weight(course, lane, t);
    }
}

/* --- comparing -------------------------------------------------------------------------------- */

/* Returns the largest error in units of what is allowed. */
static double compare(const course_t *course, const char *what, const float *got, size_t value_at,
                      size_t error_at, size_t spread_at, int t)
{
    static double means[LANES];
    double worst = 0.0;
    char name[RIG_NAME_BYTES];
    memset(means, 0, sizeof means);
    for (int i = 0; i < COUNT; i++) {
        const char *lane = (const char *)&course->lanes[i % LANES];
        double value = *(const double *)(const void *)(lane + value_at);
        double bound = *(const double *)(const void *)(lane + error_at) +
                       6.0 * *(const double *)(const void *)(lane + spread_at);
        double error = fabs((double)got[i] - value);
        if (!(error <= bound))
            fail_msg("%s: step %d: %s[%d] is %.9g, expected %.9g, off by %.3g, allowed %.3g",
                     rig_describe(&course->model, name), t, what, i, (double)got[i], value, error,
                     bound);
        if (bound > 0.0 && error / bound > worst) worst = error / bound;
        if (i < LANES * COPIES) means[i % LANES] += (double)got[i] / COPIES;
    }
    for (int l = 0; l < LANES; l++) {
        const char *lane = (const char *)&course->lanes[l];
        double value = *(const double *)(const void *)(lane + value_at);
        double bound = *(const double *)(const void *)(lane + error_at) +
                       5.0 / 8.0 * *(const double *)(const void *)(lane + spread_at);
        double error = fabs(means[l] - value);
        if (!(error <= bound))
            fail_msg("%s: step %d: the mean %s of lane %d is %.9g, expected %.9g, off by %.3g, "
                     "allowed %.3g",
                     rig_describe(&course->model, name), t, what, l, means[l], value, error, bound);
        if (bound > 0.0 && error / bound > worst) worst = error / bound;
    }
    return worst;
}

static void check_parameter(course_t *course, const float *weights)
{
    static uint16_t expected[COUNT], got[COUNT];
    if (course->model.bytes[RIG_PARAMETER] == 0) return;
    rig_encode(course->config.parameter, weights, COUNT, expected);
    rig_get(&course->model, RIG_PARAMETER, got);
    for (int i = 0; i < COUNT; i++)
        if (got[i] != expected[i])
            fail_msg("%s: parameter[%d] is %04x, its weight %a rounds to %04x",
                     course->config.weights == TESS_ADAM_MASTER ? "master" : "other", i, got[i],
                     (double)weights[i], expected[i]);
}

static void check(course_t *course, int t, double worst[3])
{
    static float weights[COUNT], moment1[COUNT], moment2[COUNT];
    rig_export(&course->model, weights, moment1, moment2);
    double ratios[] = {
        compare(course, "weight", weights, offsetof(lane_t, weight), offsetof(lane_t, weight_error),
                offsetof(lane_t, weight_spread), t),
        compare(course, "moment1", moment1, offsetof(lane_t, moment1),
                offsetof(lane_t, moment1_error), offsetof(lane_t, moment1_spread), t),
        compare(course, "moment2", moment2, offsetof(lane_t, moment2),
                offsetof(lane_t, moment2_error), offsetof(lane_t, moment2_spread), t)};
    for (int n = 0; n < 3; n++)
        if (ratios[n] > worst[n]) worst[n] = ratios[n];
    check_parameter(course, weights);
}

static void run_course(optim_rig_t *rig, const optim_layout_t *layout, tess_dtype_t gradient)
{
    static course_t course;
    double worst[3] = {0.0, 0.0, 0.0};
    open_course(rig, layout, gradient, &course);
    for (int t = 1; t <= STEPS; t++) {
        int pattern = t % PATTERNS;
        course.model.range.gradient =
            (const char *)course.gradients_on_device + pattern * COUNT * tess_dtype_bytes(gradient);
        TEST_OK(tess_step_set_learning_rate(course.step, rig->stream, learning_rate(t)));
        TEST_OK(tess_step_begin(course.step, rig->stream, course.sums_on_device + pattern, 1));
        rig_step(&course.model, course.step);
        reference_step(&course, t);
        if (t == 1 || t == 2 || t == 30 || t == 200 || t == STEPS) check(&course, t, worst);
    }
    tess_step_state_t state = rig_step_read(rig, course.step);
    assert_int_equal(state.step, STEPS);
    assert_int_equal(state.skipped, 0);
    print_message("%-26s gradient %s: errors up to %.2f (weight) %.2f %.2f (moments) of what is "
                  "allowed; weight off by less than %.2g +- %.2g\n",
                  layout->name, tess_dtype_name(gradient), worst[0], worst[1], worst[2],
                  course.lanes[0].weight_error, course.lanes[0].weight_spread);
    close_course(rig, &course);
}

static void a_thousand_steps(void **state)
{
    optim_rig_t *rig = *state;
    for (int n = 0; n < RIG_LAYOUTS; n++)
        for (int g = 0; g < RIG_GRADIENTS; g++) run_course(rig, &rig_layouts[n], rig_gradients[g]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_thousand_steps)};
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
