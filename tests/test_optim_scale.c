/* SPDX-License-Identifier: Apache-2.0 */
/* The loss scale against DeepSpeed's rules, over thousands of random patterns of overflows, and the
 * saving and restoring of a step's state.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim_rig.h"

/* The rules of DeepSpeed 0.19 (runtime/fp16/loss_scaler.py), written down from what they do:
 * `scale` goes down on the overflow that finds one life left, at which it is an error to be at the
 * minimum; it goes up after each whole window of clean steps behind the step that came after the
 * overflow. */
typedef struct scaler {
    double scale, minimum;
    int64_t window, iteration, last_overflow;
    int lives, lives_full, is_consecutive, has_failed;
} scaler_t;

static void scaler_overflow(scaler_t *scaler)
{
    scaler->last_overflow = scaler->iteration;
    if (scaler->lives > 1) {
        scaler->lives--;
        return;
    }
    if (scaler->scale == scaler->minimum) {
        scaler->has_failed = 1;
        return;
    }
    scaler->scale /= 2.0;
    if (scaler->scale < scaler->minimum) scaler->scale = scaler->minimum;
}

static void scaler_clean(scaler_t *scaler)
{
    int64_t quiet = scaler->iteration - scaler->last_overflow - 1;
    if (scaler->is_consecutive) scaler->lives = scaler->lives_full;
    if (quiet < 1 || quiet % scaler->window) return;
    scaler->scale *= 2.0;
    scaler->lives = scaler->lives_full;
}

static scaler_t scaler_of(const tess_loss_scale_config_t *rules)
{
    return (scaler_t){.scale = (double)rules->initial,
                      .minimum = (double)rules->minimum,
                      .window = rules->window,
                      .last_overflow = -1,
                      .lives = rules->hysteresis,
                      .lives_full = rules->hysteresis,
                      .is_consecutive = rules->consecutive};
}

static tess_step_state_t peek(optim_rig_t *rig, const tess_step_t *step)
{
    tess_step_state_t state;
    rig_download(rig, &state, tess_step_state(step), (int64_t)sizeof state);
    return state;
}

/* Device memory with the two sums that patterns are made of, so that nothing is copied in between.
 */
typedef struct sums {
    double *good, *bad;
} sums_t;

static sums_t open_sums(optim_rig_t *rig)
{
    static const double values[] = {1.0, INFINITY};
    double *memory = rig_memory(rig, sizeof values);
    rig_upload(rig, memory, values, sizeof values);
    return (sums_t){memory, memory + 1};
}

static void begin(optim_rig_t *rig, tess_step_t *step, const sums_t *sums, int is_bad)
{
    TEST_OK(tess_step_begin(step, rig->stream, is_bad ? sums->bad : sums->good, 1));
}

static void expect_like(const tess_step_state_t *state, const scaler_t *scaler, int64_t applied,
                        int pattern, int n)
{
    double scale = (double)state->loss_scale;
    if (scale != scaler->scale || state->exhausted != scaler->has_failed ||
        (!scaler->has_failed && state->hysteresis_left != scaler->lives) ||
        state->step != applied || state->step + state->skipped != n)
        fail_msg("pattern %d, step %d: scale %g, %d lives, exhausted %d, %lld applied, %lld "
                 "skipped; expected scale %g, %d lives, exhausted %d, %lld applied",
                 pattern, n, scale, state->hysteresis_left, state->exhausted,
                 (long long)state->step, (long long)state->skipped, scaler->scale, scaler->lives,
                 scaler->has_failed, (long long)applied);
}

static tess_loss_scale_config_t random_rules(uint64_t *random)
{
    tess_loss_scale_config_t rules = TESS_LOSS_SCALE_DYNAMIC;
    rules.minimum =
        ldexpf(test_random(random) % 3 ? 1.0f : 0.75f, (int)(test_random(random) % 4) - 2);
    rules.initial = ldexpf(1.0f, 2 + (int)(test_random(random) % 10));
    rules.window = 1 + (int64_t)(test_random(random) % 9);
    rules.hysteresis = 1 + (int32_t)(test_random(random) % 4);
    rules.consecutive = (int)(test_random(random) % 2);
    return rules;
}

/* 2,500 patterns of up to 60 steps, with overflows rare, even or frequent, also in runs. */
static void patterns_follow_the_rules(void **unused)
{
    optim_rig_t *rig = *unused;
    sums_t sums = open_sums(rig);
    uint64_t random = 99;
    int failed = 0, grown = 0;
    for (int pattern = 0; pattern < 2500; pattern++) {
        tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
        config.loss_scale = random_rules(&random);
        scaler_t scaler = scaler_of(&config.loss_scale);
        tess_step_t *step = rig_step_create(rig, &config);
        uint64_t odds = 1 + test_random(&random) % 9;
        int64_t applied = 0;
        int is_bad = 0;
        for (int n = 1; n <= 60; n++) {
            if (test_random(&random) % 3) is_bad = test_random(&random) % 10 < odds;
            double scale_before = scaler.scale;
            begin(rig, step, &sums, is_bad);
            if (is_bad) scaler_overflow(&scaler);
            else scaler_clean(&scaler);
            scaler.iteration++;
            applied += !is_bad;
            grown += scaler.scale > scale_before;
            /* Looking at every step of each pattern would take longer than the rest. */
            if (n % 7 == 0 || scaler.has_failed || pattern < 100) {
                tess_step_state_t state = peek(rig, step);
                expect_like(&state, &scaler, applied, pattern, n);
                assert_int_equal(state.skip, is_bad);
            }
            if (scaler.has_failed) break;
        }
        failed += scaler.has_failed;
        rig_step_destroy(rig, step);
    }
    print_message("2500 patterns: %d ended at the minimum, the scale grew %d times\n", failed,
                  grown);
    assert_true(failed > 50 && grown > 1000);
    rig_free(rig, sums.good);
}

static void overflow_at_the_minimum_is_an_error(void **unused)
{
    optim_rig_t *rig = *unused;
    sums_t sums = open_sums(rig);
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_loss_scale_config_t rules = TESS_LOSS_SCALE_DYNAMIC;
    rules.initial = 4.0f;
    rules.hysteresis = 1;
    config.loss_scale = rules;
    tess_step_t *step = rig_step_create(rig, &config);
    tess_step_state_t state, early = rig_step_read(rig, step);
    begin(rig, step, &sums, 1);
    begin(rig, step, &sums, 1);
    state = rig_step_read(rig, step);
    assert_true(state.loss_scale == 1.0f);
    begin(rig, step, &sums, 1);
    memset(&state, 0x55, sizeof state);
    TEST_STATUS(tess_step_read(step, rig->stream, &state), TESS_ERR_STATE);
    if (!strstr(tess_last_error(), "loss scale")) fail_msg("\"%s\"", tess_last_error());
    assert_int_equal(state.exhausted, 1);
    assert_int_equal(state.skipped, 3);
    assert_true(state.loss_scale == 1.0f);
    /* From here on even clean steps are skipped, until an earlier state is restored. */
    begin(rig, step, &sums, 0);
    TEST_STATUS(tess_step_read(step, rig->stream, &state), TESS_ERR_STATE);
    assert_int_equal(state.skip, 1);
    assert_int_equal(state.skipped, 4);
    assert_int_equal(state.step, 0);
    TEST_OK(tess_step_write(step, rig->stream, &early));
    begin(rig, step, &sums, 0);
    state = rig_step_read(rig, step);
    assert_int_equal(state.step, 1);
    assert_int_equal(state.skipped, 0);
    assert_true(state.loss_scale == 4.0f);
    rig_step_destroy(rig, step);
    rig_free(rig, sums.good);
}

/* An infinite scale would make every gradient NaN for good, for half of it is infinite too. */
static void the_scale_stays_finite(void **unused)
{
    optim_rig_t *rig = *unused;
    sums_t sums = open_sums(rig);
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_loss_scale_config_t rules = TESS_LOSS_SCALE_DYNAMIC;
    rules.window = 1;
    rules.initial = 0x1p125f;
    config.loss_scale = rules;
    tess_step_t *step = rig_step_create(rig, &config);
    for (int n = 0; n < 8; n++) begin(rig, step, &sums, 0);
    float scale = peek(rig, step).loss_scale;
    if (!isfinite(scale) || scale < 0x1p125f) fail_msg("the loss scale is %g", (double)scale);
    rig_step_destroy(rig, step);
    rig_free(rig, sums.good);
}

/* Saved in the middle and restored into another step, everything goes on bit by bit: also the
 * weights, whose rounding draws from the state's key. */
static void a_restored_state_goes_on(void **unused)
{
    enum { COUNT = 300, STEPS = 60, SAVED = 23 };
    optim_rig_t *rig = *unused;
    sums_t sums = open_sums(rig);
    optim_layout_t layout = {"", TESS_ADAM_BF16, TESS_ADAM_MOMENTS_BF16, TESS_DTYPE_BF16};
    tess_adam_config_t config = rig_config(&layout, TESS_DTYPE_BF16);
    tess_step_config_t step_config = TESS_STEP_CONFIG_DEFAULT;
    tess_loss_scale_config_t rules = {1, 1024.0f, 0.0625f, 5, 2, 0};
    step_config.loss_scale = rules;
    step_config.seed = 31;
    step_config.clip_norm = 0.5;
    rig_model_t model, other;
    rig_model_open(rig, &config, COUNT, NULL, &model);
    rig_model_open(rig, &config, COUNT, NULL, &other);
    rig_randomize(&model, 2);
    rig_randomize(&other, 2);
    tess_step_t *step = rig_step_create(rig, &step_config);
    tess_step_t *restored = rig_step_create(rig, &step_config);
    tess_step_state_t state = peek(rig, step), now, then;
    uint64_t random = 8;
    for (int n = 0; n < STEPS; n++) {
        int is_bad = test_random(&random) % 5 == 0;
        if (n % 9 == 4) TEST_OK(tess_step_set_learning_rate(step, rig->stream, 1e-3 * (n + 1)));
        if (n % 9 == 4 && n >= SAVED)
            TEST_OK(tess_step_set_learning_rate(restored, rig->stream, 1e-3 * (n + 1)));
        begin(rig, step, &sums, is_bad);
        rig_step(&model, step);
        if (n >= SAVED) begin(rig, restored, &sums, is_bad);
        rig_step(&other, n >= SAVED ? restored : step);
        if (n != SAVED - 1) continue;
        state = peek(rig, step);
        TEST_OK(tess_step_write(restored, rig->stream, &state));
        memset(&state, 0x77, sizeof state); /* the caller's copy may go at once */
    }
    now = peek(rig, step);
    then = peek(rig, restored);
    assert_memory_equal(&now, &then, sizeof now);
    assert_true(now.skipped > 3);
    rig_expect_same(&other, &model, "with a restored state");
    rig_step_destroy(rig, step);
    rig_step_destroy(rig, restored);
    rig_model_close(&model);
    rig_model_close(&other);
    rig_free(rig, sums.good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_follow_the_rules),
        cmocka_unit_test(overflow_at_the_minimum_is_an_error),
        cmocka_unit_test(the_scale_stays_finite),
        cmocka_unit_test(a_restored_state_goes_on),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
