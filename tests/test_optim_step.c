/* SPDX-License-Identifier: Apache-2.0 */
/* The decision about a step: norm, clipping, schedules, and that a step with gradients that are not
 * finite changes nothing, in any layout, and is told.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "optim_rig.h"

/* fp64 formulas, each rounded to fp32 once: half a unit, and a little for the fp64. */
#define NEAR (0x1p-24 * 1.001)

static void expect_near(double got, double expected, double relative, const char *what)
{
    if (!(fabs(got - expected) <= relative * fabs(expected)))
        fail_msg("%s is %.17g, expected %.17g", what, got, expected);
}

/* The state as it lies in device memory; unlike tess_step_read it says nothing on stderr. */
static tess_step_state_t peek(optim_rig_t *rig, const tess_step_t *step)
{
    tess_step_state_t state;
    rig_download(rig, &state, tess_step_state(step), (int64_t)sizeof state);
    return state;
}

static void expect_refusal(tess_status_t status, const char *name)
{
    if (status != TESS_ERR_INVALID_ARGUMENT || !strstr(tess_last_error(), name))
        fail_msg("%s: got %s and \"%s\"", name, tess_status_name(status), tess_last_error());
}

static void norm_and_factors(void **unused)
{
    optim_rig_t *rig = *unused;
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    static const double scales[] = {1.0, 0.25, 1024.0, 65536.0};
    uint64_t random = 1;
    for (size_t s = 0; s < sizeof scales / sizeof *scales; s++)
        for (int clips = 0; clips < 2; clips++) {
            config.loss_scale.initial = (float)scales[s];
            config.clip_norm = clips ? 1.5 : 0.0;
            tess_step_t *step = rig_step_create(rig, &config);
            for (int t = 1; t <= 50; t++) {
                double norm = exp2(8.0 * rig_uniform(&random) - 4.0);
                if (t == 7) norm = 0.0;
                if (t == 8) norm = clips ? 1e100 : 1e15;
                rig_begin(rig, step, norm * scales[s] * norm * scales[s]);
                tess_step_state_t state = peek(rig, step);
                double clip = clips ? fmin(1.0, 1.5 / (norm + 1e-6)) : 1.0;
                assert_int_equal(state.step, t);
                assert_int_equal(state.skip, 0);
                expect_near(state.gradient_norm, norm, 4.0 * 0x1p-53, "norm");
                if (t == 8) continue; /* the coefficient is below what fp32 holds */
                expect_near((double)state.clip_coefficient, clip, NEAR, "clip coefficient");
                expect_near((double)state.gradient_factor, clip / scales[s], NEAR, "factor");
                expect_near((double)state.moment1_factor, 1.0 / (1.0 - pow(0.9, t)), NEAR, "m");
                expect_near((double)state.moment2_factor, 1.0 / sqrt(1.0 - pow(0.999, t)), NEAR,
                            "v");
                assert_true(state.learning_rate == 1e-3f);
                assert_true(state.loss_scale == (float)scales[s]);
            }
            rig_step_destroy(rig, step);
        }
}

/* A gradient of 2^63 or more, which no norm below that can hide, has no square in fp32. */
static void gradients_too_large_are_skipped(void **unused)
{
    optim_rig_t *rig = *unused;
    for (int clips = 0; clips < 2; clips++) {
        tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
        config.loss_scale.initial = 4.0f;
        config.clip_norm = clips ? 1.0 : 0.0;
        tess_step_t *step = rig_step_create(rig, &config);
        rig_begin(rig, step, 0x1.fp125 * 16.0);
        assert_int_equal(peek(rig, step).skip, 0);
        rig_begin(rig, step, 0x1p126 * 16.0);
        assert_int_equal(peek(rig, step).skip, clips ? 0 : 1);
        assert_int_equal(peek(rig, step).step, clips ? 2 : 1);
        rig_step_destroy(rig, step);
    }
}

static void damaged_states_are_refused(void **unused)
{
    optim_rig_t *rig = *unused;
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_step_t *step = rig_step_create(rig, &config);
    rig_begin(rig, step, 1.0);
    const tess_step_state_t good = rig_step_read(rig, step);
    TEST_OK(tess_step_write(step, rig->stream, &good));
#define DAMAGED(field, value)                                                                      \
    do {                                                                                           \
        tess_step_state_t bad = good;                                                              \
        bad.field = (value);                                                                       \
        expect_refusal(tess_step_write(step, rig->stream, &bad), #field);                          \
    } while (0)
    DAMAGED(step, -3);
    DAMAGED(skipped, -1);
    DAMAGED(loss_scale, 0.0f);
    DAMAGED(loss_scale, NAN);
    DAMAGED(hysteresis_left, -1);
    DAMAGED(skip, 2);
    DAMAGED(exhausted, -1);
    DAMAGED(beta1_power, 1.5);
    DAMAGED(beta2_power, (double)NAN);
    DAMAGED(learning_rate, -1.0f);
    DAMAGED(next_learning_rate, INFINITY);
#undef DAMAGED
    tess_step_state_t after = rig_step_read(rig, step);
    assert_memory_equal(&after, &good, sizeof good);
    rig_step_destroy(rig, step);
}

/* A thousand halves of the last bit of 1 vanish one by one behind it, and count before it. */
static void sums_are_added_in_order(void **unused)
{
    enum { COUNT = 1001 };
    static double sums[COUNT];
    optim_rig_t *rig = *unused;
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_step_t *step = rig_step_create(rig, &config);
    double *on_device = rig_memory(rig, sizeof sums);
    for (int is_first = 0; is_first < 2; is_first++) {
        double total = 0.0;
        for (int i = 0; i < COUNT; i++) sums[i] = 0x1p-53;
        sums[is_first ? 0 : COUNT - 1] = 1.0;
        for (int i = 0; i < COUNT; i++) total += sums[i];
        rig_upload(rig, on_device, sums, sizeof sums);
        TEST_OK(tess_step_begin(step, rig->stream, on_device, COUNT));
        double norm = peek(rig, step).gradient_norm;
        if (norm != sqrt(total)) fail_msg("norm is %a, expected %a", norm, sqrt(total));
        assert_true((norm == 1.0) == is_first);
    }
    rig_free(rig, on_device);
    rig_step_destroy(rig, step);
}

static void no_sums_are_no_overflow(void **unused)
{
    optim_rig_t *rig = *unused;
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_step_t *step = rig_step_create(rig, &config);
    TEST_OK(tess_step_begin(step, rig->stream, NULL, 0));
    tess_step_state_t state = peek(rig, step);
    assert_int_equal(state.step, 1);
    assert_int_equal(state.skip, 0);
    assert_true(state.clip_coefficient == 1.0f && state.gradient_factor == 1.0f);
    rig_step_destroy(rig, step);
}

/* --- skipping --------------------------------------------------------------------------------- */

#define SKIP_COUNT 1000

typedef struct skip_rig {
    tess_gradient_t *gradient;
    tess_step_t *step;
    rig_model_t model, untouched;
} skip_rig_t;

/* A whole step as a trainer takes it: statistics, decision, update. */
static void whole_step(optim_rig_t *rig, skip_rig_t *s, rig_model_t *model)
{
    tess_gradient_piece_t piece = {model->range.gradient, model->count, model->config.gradient};
    TEST_OK(tess_gradient_measure(s->gradient, rig->stream, 0, &piece));
    TEST_OK(tess_gradient_combine(s->gradient, rig->stream, rig->sum));
    TEST_OK(tess_step_begin(s->step, rig->stream, rig->sum, 1));
    rig_step(model, s->step);
}

static void skip_once(optim_rig_t *rig, skip_rig_t *s, float *values, int place, float bad)
{
    float good = values[place];
    tess_step_state_t before = peek(rig, s->step);
    values[place] = bad;
    rig_gradient(&s->model, values);
    whole_step(rig, s, &s->model);
    tess_step_state_t after = peek(rig, s->step);
    values[place] = good;
    rig_expect_same(&s->model, &s->untouched, "after a skipped step");
    assert_int_equal(after.skip, 1);
    assert_int_equal(after.skipped, before.skipped + 1);
    assert_int_equal(after.step, before.step);
    assert_true(after.learning_rate == before.learning_rate);
    assert_true(after.beta1_power == before.beta1_power);
    assert_true(after.beta2_power == before.beta2_power);
    assert_true(after.loss_scale == before.loss_scale);
    assert_int_equal(after.random_key, before.random_key);
    assert_true(!isfinite(after.gradient_norm));
}

static void not_finite_changes_nothing(void **unused)
{
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    static const int places[] = {0, SKIP_COUNT / 2 + 1, SKIP_COUNT - 1};
    static float values[SKIP_COUNT];
    optim_rig_t *rig = *unused;
    for (int n = 0; n < RIG_LAYOUTS; n++)
        for (int g = 0; g < RIG_GRADIENTS; g++) {
            skip_rig_t s;
            tess_adam_config_t config = rig_config(&rig_layouts[n], rig_gradients[g]);
            tess_step_config_t step_config = TESS_STEP_CONFIG_DEFAULT;
            step_config.clip_norm = 1.0;
            s.step = rig_step_create(rig, &step_config);
            TEST_OK(tess_gradient_create(rig->device, 1, &s.gradient));
            rig_model_open(rig, &config, SKIP_COUNT, NULL, &s.model);
            rig_model_open(rig, &config, SKIP_COUNT, NULL, &s.untouched);
            s.model.range.weight_decay = s.untouched.range.weight_decay = 0.1f;
            rig_randomize(&s.model, 1);
            rig_randomize(&s.untouched, 1);
            rig_random_gradients(values, SKIP_COUNT, 3);
            for (int p = 0; p < 3; p++)
                for (int b = 0; b < 3; b++) skip_once(rig, &s, values, places[p], bad[b]);
            assert_int_equal(peek(rig, s.step).skipped, 9);
            /* The next clean step is the first, as if nothing had happened. */
            rig_gradient(&s.model, values);
            rig_gradient(&s.untouched, values);
            whole_step(rig, &s, &s.model);
            assert_int_equal(peek(rig, s.step).step, 1);
            rig_step_destroy(rig, s.step);
            s.step = rig_step_create(rig, &step_config);
            whole_step(rig, &s, &s.untouched);
            rig_expect_same(&s.model, &s.untouched, "the step after those skipped");
            rig_step_destroy(rig, s.step);
            tess_gradient_destroy(s.gradient);
            rig_model_close(&s.model);
            rig_model_close(&s.untouched);
        }
}

/* Sums that are finite one by one but not together, and NaN among finite ones. */
static void the_total_decides(void **unused)
{
    static const double cases[][3] = {
        {1e308, 1e308, 1e308}, {1.0, NAN, 1.0}, {INFINITY, 1.0, 1.0}, {1.0, 1.0, INFINITY}};
    optim_rig_t *rig = *unused;
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_step_t *step = rig_step_create(rig, &config);
    double *sums = rig_memory(rig, sizeof cases[0]);
    for (int n = 0; n < 4; n++) {
        rig_upload(rig, sums, cases[n], sizeof cases[n]);
        TEST_OK(tess_step_begin(step, rig->stream, sums, 3));
        tess_step_state_t state = peek(rig, step);
        assert_int_equal(state.skip, 1);
        assert_int_equal(state.skipped, n + 1);
        /* A static scale knows of no hysteresis and is never exhausted. */
        assert_int_equal(state.exhausted, 0);
        assert_true(state.loss_scale == 1.0f);
    }
    rig_free(rig, sums);
    rig_step_destroy(rig, step);
}

/* What tess_step_read writes to stderr. */
static void read_captured(optim_rig_t *rig, tess_step_t *step, char *text, size_t text_bytes)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stderr);
    int stderr_before = dup(STDERR_FILENO);
    assert_true(stderr_before >= 0);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    tess_step_state_t state;
    tess_status_t status = tess_step_read(step, rig->stream, &state);
    dup2(stderr_before, STDERR_FILENO);
    close(stderr_before);
    TEST_OK(status);
    rewind(file);
    size_t bytes = fread(text, 1, text_bytes - 1, file);
    text[bytes] = '\0';
    fclose(file);
}

static void skips_are_told_once(void **unused)
{
    char text[1024];
    optim_rig_t *rig = *unused;
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_step_t *step = rig_step_create(rig, &config);
    rig_begin(rig, step, 1.0);
    read_captured(rig, step, text, sizeof text);
    assert_string_equal(text, "");
    for (int n = 0; n < 3; n++) rig_begin(rig, step, n ? INFINITY : NAN);
    read_captured(rig, step, text, sizeof text);
    const char *end = strchr(text, '\n');
    if (strncmp(text, "tessera", 7) != 0 || !strstr(text, " 3 ") || !strstr(text, "skipped") ||
        !strstr(text, "not finite") || !end || end[1])
        fail_msg("\"%s\" does not tell in one line that 3 steps were skipped, and why", text);
    read_captured(rig, step, text, sizeof text);
    assert_string_equal(text, "");
    rig_begin(rig, step, NAN);
    read_captured(rig, step, text, sizeof text);
    if (!strstr(text, " 1 ")) fail_msg("\"%s\" does not tell of 1 step", text);
    rig_step_destroy(rig, step);
}

/* --- learning rates --------------------------------------------------------------------------- */

static void a_schedule_waits_for_skipped_steps(void **unused)
{
    static const float rates[] = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f};
    optim_rig_t *rig = *unused;
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_step_t *step = rig_step_create(rig, &config);
    float *on_device = rig_memory(rig, sizeof rates);
    rig_upload(rig, on_device, rates, sizeof rates);
    TEST_OK(tess_step_set_schedule(step, on_device, 5));
    uint64_t random = 4;
    int applied = 0;
    for (int n = 0; n < 40; n++) {
        int is_bad = test_random(&random) % 3 == 0;
        rig_begin(rig, step, is_bad ? NAN : 1.0);
        applied += !is_bad;
        tess_step_state_t state = peek(rig, step);
        float expected = applied == 0 ? 1e-3f : rates[applied < 5 ? applied - 1 : 4];
        if (state.learning_rate != expected)
            fail_msg("after %d applied steps the rate is %g, expected %g", applied,
                     (double)state.learning_rate, (double)expected);
    }
    assert_true(applied > 5);
    /* Without a schedule the rate stays until it is set, in the stream's order. */
    TEST_OK(tess_step_set_schedule(step, NULL, 0));
    rig_begin(rig, step, 1.0);
    assert_true(peek(rig, step).learning_rate == 0.5f);
    TEST_OK(tess_step_set_learning_rate(step, rig->stream, 0.25));
    TEST_OK(tess_step_set_learning_rate(step, rig->stream, 0.125));
    assert_true(peek(rig, step).learning_rate == 0.5f); /* of the step that was begun */
    rig_begin(rig, step, 1.0);
    assert_true(peek(rig, step).learning_rate == 0.125f);
    rig_free(rig, on_device);
    rig_step_destroy(rig, step);
}

/* --- what is refused -------------------------------------------------------------------------- */

#define REFUSED(field, value)                                                                      \
    do {                                                                                           \
        tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;                                      \
        tess_loss_scale_config_t rules = TESS_LOSS_SCALE_DYNAMIC;                                  \
        tess_step_t *step = NULL;                                                                  \
        config.loss_scale = rules;                                                                 \
        config.field = value;                                                                      \
        expect_refusal(tess_step_create(rig->device, &config, &step), #field);                     \
        assert_null(step);                                                                         \
    } while (0)

static void bad_configs_are_refused(void **unused)
{
    optim_rig_t *rig = *unused;
    REFUSED(learning_rate, -1e-3);
    REFUSED(learning_rate, (double)NAN);
    REFUSED(learning_rate, (double)INFINITY);
    REFUSED(beta1, 1.0);
    REFUSED(beta1, -0.5);
    REFUSED(beta1, (double)NAN);
    REFUSED(beta2, 1.0);
    REFUSED(beta2, -0.5);
    REFUSED(beta2, (double)NAN);
    REFUSED(clip_norm, -1.0);
    REFUSED(clip_norm, (double)NAN);
    REFUSED(clip_norm, (double)INFINITY);
    REFUSED(loss_scale.dynamic, 2);
    REFUSED(loss_scale.initial, 0.0f);
    REFUSED(loss_scale.initial, -1.0f);
    REFUSED(loss_scale.initial, NAN);
    REFUSED(loss_scale.initial, INFINITY);
    REFUSED(loss_scale.minimum, 0.0f);
    REFUSED(loss_scale.minimum, NAN);
    REFUSED(loss_scale.minimum, 1e6f);
    REFUSED(loss_scale.window, 0);
    REFUSED(loss_scale.hysteresis, 0);
    REFUSED(loss_scale.consecutive, 2);
    REFUSED(loss_scale.consecutive, -1);
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_step_t *step = NULL;
    expect_refusal(tess_step_create(NULL, &config, &step), "device");
    expect_refusal(tess_step_create(rig->device, NULL, &step), "config");
    expect_refusal(tess_step_create(rig->device, &config, NULL), "step");
    assert_null(step);
    tess_step_destroy(NULL);
}

static void bad_calls_are_refused(void **unused)
{
    optim_rig_t *rig = *unused;
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    config.clip_norm = 1.0;
    tess_step_t *step = rig_step_create(rig, &config);
    tess_step_state_t state = peek(rig, step);
    const float *rates = (const float *)(const void *)rig->sum;
    double *odd = (double *)(void *)((char *)rig->sum + 1);
    expect_refusal(tess_step_begin(NULL, rig->stream, rig->sum, 1), "step");
    expect_refusal(tess_step_begin(step, NULL, rig->sum, 1), "stream");
    expect_refusal(tess_step_begin(step, rig->stream, NULL, 1), "sums");
    expect_refusal(tess_step_begin(step, rig->stream, rig->sum, 0), "sum_count");
    expect_refusal(tess_step_begin(step, rig->stream, rig->sum, -1), "sum_count");
    expect_refusal(tess_step_begin(step, rig->stream, odd, 1), "sums");
    expect_refusal(tess_step_begin(step, rig->stream, NULL, 0), "clip_norm");
    expect_refusal(tess_step_set_learning_rate(NULL, rig->stream, 1.0), "step");
    expect_refusal(tess_step_set_learning_rate(step, NULL, 1.0), "stream");
    expect_refusal(tess_step_set_learning_rate(step, rig->stream, -1.0), "learning_rate");
    expect_refusal(tess_step_set_learning_rate(step, rig->stream, (double)NAN), "learning_rate");
    expect_refusal(tess_step_set_learning_rate(step, rig->stream, 1e300), "learning_rate");
    expect_refusal(tess_step_set_schedule(NULL, rates, 1), "step");
    expect_refusal(tess_step_set_schedule(step, NULL, 1), "rates");
    expect_refusal(tess_step_set_schedule(step, rates, 0), "count");
    expect_refusal(tess_step_set_schedule(step, rates, -1), "count");
    expect_refusal(tess_step_read(NULL, rig->stream, &state), "step");
    expect_refusal(tess_step_read(step, NULL, &state), "stream");
    expect_refusal(tess_step_read(step, rig->stream, NULL), "state");
    expect_refusal(tess_step_write(NULL, rig->stream, &state), "step");
    expect_refusal(tess_step_write(step, NULL, &state), "stream");
    expect_refusal(tess_step_write(step, rig->stream, NULL), "state");
    assert_int_equal(peek(rig, step).step, 0);
    rig_step_destroy(rig, step);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_and_factors),
        cmocka_unit_test(gradients_too_large_are_skipped),
        cmocka_unit_test(damaged_states_are_refused),
        cmocka_unit_test(sums_are_added_in_order),
        cmocka_unit_test(no_sums_are_no_overflow),
        cmocka_unit_test(not_finite_changes_nothing),
        cmocka_unit_test(the_total_decides),
        cmocka_unit_test(skips_are_told_once),
        cmocka_unit_test(a_schedule_waits_for_skipped_steps),
        cmocka_unit_test(bad_configs_are_refused),
        cmocka_unit_test(bad_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
