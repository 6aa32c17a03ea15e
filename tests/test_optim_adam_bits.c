/* SPDX-License-Identifier: Apache-2.0 */
/* What must agree bit by bit: the layout with a remainder and the one with a master, and a range
 * with the same range cut up, listed, of any length and at any alignment.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim_rig.h"

#define FLT_MAX_BITS 0x7f7fffffu

static tess_step_t *plain_step(optim_rig_t *rig)
{
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    config.seed = 77;
    return rig_step_create(rig, &config);
}

/* --- a remainder in place of a master --------------------------------------------------------- */

#define TIES 256
#define PAIR_COUNT 20011

/* Upper halves odd and even, both signs, from the smallest number to FLT_MAX; lower halves at and
 * around the middle between two bf16 numbers. Then random bits, then ordinary weights. */
static void make_weights(float *weights)
{
    static const uint32_t uppers[] = {0x0000, 0x0001, 0x0002, 0x0080, 0x3f80, 0x3f81,
                                      0x3fff, 0x4000, 0x7f7e, 0x7f7f, 0x0081, 0x3e99};
    static const uint32_t lowers[] = {0x8000, 0x7fff, 0x8001, 0x0000, 0xffff, 0x0001};
    int n = 0;
    rig_random_weights(weights, PAIR_COUNT, 9);
    for (size_t u = 0; u < sizeof uppers / sizeof *uppers; u++)
        for (size_t l = 0; l < sizeof lowers / sizeof *lowers; l++)
            for (uint32_t sign = 0; sign < 2; sign++)
                weights[n++] = rig_float_of(sign << 31 | uppers[u] << 16 | lowers[l]);
    assert_true(n <= TIES);
    uint64_t state = 21;
    for (; n < 10000; n++) {
        uint32_t bits;
        do bits = (uint32_t)test_random(&state);
        while ((bits & 0x7fffffffu) > FLT_MAX_BITS);
        if (n % 4 == 0) bits = (bits & 0xffff0000u) | 0x8000u;
        weights[n] = rig_float_of(bits);
    }
}

static void expect_equal_state(rig_model_t *remainder, rig_model_t *master, int t)
{
    static float ours[3][PAIR_COUNT], theirs[3][PAIR_COUNT];
    static uint16_t our_parameter[PAIR_COUNT], their_parameter[PAIR_COUNT];
    static const char *const names[] = {"weight", "moment1", "moment2"};
    char name[RIG_NAME_BYTES];
    rig_export(remainder, ours[0], ours[1], ours[2]);
    rig_export(master, theirs[0], theirs[1], theirs[2]);
    rig_get(remainder, RIG_PARAMETER, our_parameter);
    rig_get(master, RIG_PARAMETER, their_parameter);
    for (int i = 0; i < PAIR_COUNT; i++) {
        if (our_parameter[i] != their_parameter[i])
            fail_msg("%s: step %d: parameter[%d] is %04x, with a master %04x (master %08x)",
                     rig_describe(remainder, name), t, i, our_parameter[i], their_parameter[i],
                     rig_bits_of(theirs[0][i]));
        for (int n = 0; n < 3; n++)
            if (rig_bits_of(ours[n][i]) != rig_bits_of(theirs[n][i]))
                fail_msg("%s: step %d: %s[%d] is %08x, with a master %08x",
                         rig_describe(remainder, name), t, names[n], i, rig_bits_of(ours[n][i]),
                         rig_bits_of(theirs[n][i]));
    }
}

/* A rate of zero in the first steps leaves the weights, and so the ties, as they were made. */
static void run_pair(optim_rig_t *rig, tess_adam_moments_t moments, tess_dtype_t gradient)
{
    static float weights[PAIR_COUNT], values[PAIR_COUNT];
    optim_layout_t layout = {"", TESS_ADAM_MASTER, moments, TESS_DTYPE_BF16};
    tess_adam_config_t config = rig_config(&layout, gradient);
    rig_model_t master, remainder;
    rig_model_open(rig, &config, PAIR_COUNT, NULL, &master);
    config.weights = TESS_ADAM_REMAINDER;
    rig_model_open(rig, &config, PAIR_COUNT, NULL, &remainder);
    master.range.weight_decay = remainder.range.weight_decay = 0.1f;
    tess_step_t *step = plain_step(rig);
    make_weights(weights);
    rig_import(&master, weights, NULL, NULL);
    rig_import(&remainder, weights, NULL, NULL);
    expect_equal_state(&remainder, &master, 0);
    for (int t = 1; t <= 60; t++) {
        rig_random_gradients(values, PAIR_COUNT, (uint64_t)t);
        rig_gradient(&master, values);
        rig_gradient(&remainder, values);
        TEST_OK(tess_step_set_learning_rate(step, rig->stream, t <= 2 ? 0.0 : 1e-3));
        rig_begin(rig, step, 1.0);
        rig_step(&master, step);
        rig_step(&remainder, step);
        if (t <= 4 || t % 8 == 0) expect_equal_state(&remainder, &master, t);
    }
    rig_step_destroy(rig, step);
    rig_model_close(&master);
    rig_model_close(&remainder);
}

static void a_remainder_is_a_master(void **state)
{
    for (int g = 0; g < RIG_GRADIENTS; g++) {
        run_pair(*state, TESS_ADAM_MOMENTS_FP32, rig_gradients[g]);
        run_pair(*state, TESS_ADAM_MOMENTS_BF16, rig_gradients[g]);
    }
}

/* --- ranges cut up ---------------------------------------------------------------------------- */

#define CUT_COUNT 1500
#define PARTS_MAX 8
#define CUT_STEPS 3

typedef struct cut {
    int count;                     /* of parts */
    int64_t starts[PARTS_MAX + 1]; /* the last one is CUT_COUNT */
} cut_t;

static const int64_t cut_points[] = {0,   1,   2,   7,   8,   15,  16,  17,   63,   64,   65,
                                     255, 256, 257, 511, 512, 768, 900, 1024, 1280, 1499, 1500};
#define CUT_POINTS (int)(sizeof cut_points / sizeof *cut_points)

static void step_parts(rig_model_t *model, const tess_step_t *step, const cut_t *cut, int is_list)
{
    tess_adam_range_t parts[PARTS_MAX];
    for (int p = 0; p < cut->count; p++)
        parts[p] = rig_part(model, cut->starts[p], cut->starts[p + 1] - cut->starts[p]);
    if (is_list) {
        tess_adam_list_t *list = NULL;
        TEST_OK(tess_adam_list_create(model->adam, parts, cut->count, &list));
        TEST_OK(tess_adam_step_list(model->adam, model->rig->stream, tess_step_state(step), list));
        rig_wait(model->rig);
        tess_adam_list_destroy(list);
        return;
    }
    for (int p = cut->count - 1; p >= 0; p--)
        TEST_OK(tess_adam_step(model->adam, model->rig->stream, tess_step_state(step), &parts[p]));
}

static void run_cut(optim_rig_t *rig, rig_model_t *whole, const cut_t *cut, const char *what)
{
    rig_model_t model;
    for (int is_list = 0; is_list < 2; is_list++) {
        tess_step_t *step = plain_step(rig);
        rig_model_open(rig, &whole->config, CUT_COUNT, NULL, &model);
        rig_randomize(&model, 4);
        model.range.first_index = whole->range.first_index;
        model.range.weight_decay = whole->range.weight_decay;
        for (int t = 0; t < CUT_STEPS; t++) {
            rig_begin(rig, step, 1.0);
            step_parts(&model, step, cut, is_list);
        }
        rig_expect_same(&model, whole, is_list ? "cut up and listed" : what);
        rig_step_destroy(rig, step);
        rig_model_close(&model);
    }
}

static void a_cut_changes_nothing(void **state)
{
    optim_rig_t *rig = *state;
    for (int n = 0; n < RIG_LAYOUTS; n++) {
        tess_adam_config_t config = rig_config(&rig_layouts[n], rig_gradients[n % 3]);
        int is_coded = config.moments == TESS_ADAM_MOMENTS_8BIT;
        rig_model_t whole;
        rig_model_open(rig, &config, CUT_COUNT, NULL, &whole);
        /* Indices on both sides of 2^32. */
        whole.range.first_index = (INT64_C(1) << 32) - 700;
        whole.range.weight_decay = 0.05f;
        rig_randomize(&whole, 4);
        tess_step_t *step = plain_step(rig);
        for (int t = 0; t < CUT_STEPS; t++) {
            rig_begin(rig, step, 1.0);
            rig_step(&whole, step);
        }
        for (int p = 0; p < CUT_POINTS; p++) {
            if (is_coded && cut_points[p] % TESS_ADAM_BLOCK) continue;
            cut_t cut = {2, {0, cut_points[p], CUT_COUNT}};
            run_cut(rig, &whole, &cut, "cut in two");
        }
        cut_t many = {7, {0, 256, 256, 512, 768, 1024, 1280, CUT_COUNT}};
        cut_t odd = {7, {0, 1, 4, 4, 37, 1003, 1498, CUT_COUNT}};
        run_cut(rig, &whole, &many, "cut at blocks");
        if (!is_coded) run_cut(rig, &whole, &odd, "cut anywhere");
        rig_step_destroy(rig, step);
        rig_model_close(&whole);
    }
}

/* Three hundred ranges of odd sizes, each with its decay and rate, beside one call for each. */
static void a_list_is_its_ranges(void **state)
{
    optim_rig_t *rig = *state;
    enum { RANGES = 300 };
    static tess_adam_range_t listed[RANGES], single[RANGES];
    for (int n = 0; n < RIG_LAYOUTS; n++) {
        tess_adam_config_t config = rig_config(&rig_layouts[n], rig_gradients[(n + 1) % 3]);
        int64_t count = RANGES * TESS_ADAM_BLOCK;
        rig_model_t ours, theirs;
        rig_model_open(rig, &config, count, NULL, &ours);
        rig_model_open(rig, &config, count, NULL, &theirs);
        rig_randomize(&ours, 8);
        rig_randomize(&theirs, 8);
        for (int r = 0; r < RANGES; r++) {
            int64_t length = (r * 37) % (TESS_ADAM_BLOCK + 1);
            listed[r] = rig_part(&ours, r * TESS_ADAM_BLOCK, length);
            single[r] = rig_part(&theirs, r * TESS_ADAM_BLOCK, length);
            listed[r].weight_decay = single[r].weight_decay = (float)(r % 5) * 0.03f;
            listed[r].learning_rate_factor = single[r].learning_rate_factor = (float)(r % 7) * 0.4f;
        }
        tess_step_t *step = plain_step(rig);
        tess_adam_list_t *list = NULL;
        TEST_OK(tess_adam_list_create(ours.adam, listed, RANGES, &list));
        for (int t = 0; t < 2; t++) {
            rig_begin(rig, step, 1.0);
            TEST_OK(tess_adam_step_list(ours.adam, rig->stream, tess_step_state(step), list));
            for (int r = 0; r < RANGES; r++)
                TEST_OK(
                    tess_adam_step(theirs.adam, rig->stream, tess_step_state(step), &single[r]));
        }
        rig_expect_same(&ours, &theirs, "a list");
        tess_adam_list_destroy(list);
        rig_step_destroy(rig, step);
        rig_model_close(&ours);
        rig_model_close(&theirs);
    }
}

/* --- lengths and alignments ------------------------------------------------------------------- */

static void run_shape(optim_rig_t *rig, tess_step_t *step, const tess_adam_config_t *config,
                      int64_t count, const int *offsets)
{
    static float before[3][1100], after[3][1100];
    rig_model_t aligned, model;
    rig_model_open(rig, config, count, NULL, &aligned);
    rig_model_open(rig, config, count, offsets, &model);
    rig_randomize(&aligned, 60);
    rig_randomize(&model, 60);
    rig_expect_same(&model, &aligned, "imported");
    aligned.range.first_index = model.range.first_index = 12345;
    for (int t = 0; t < 2; t++) {
        rig_begin(rig, step, 1.0);
        rig_step(&aligned, step);
        rig_step(&model, step);
    }
    rig_expect_same(&model, &aligned, "moved by some elements");
    rig_export(&model, after[0], after[1], after[2]);
    rig_export(&aligned, before[0], before[1], before[2]);
    for (int n = 0; n < 3; n++)
        for (int64_t i = 0; i < count; i++)
            if (rig_bits_of(before[n][i]) != rig_bits_of(after[n][i]))
                fail_msg("export of array %d, element %lld of %lld: %a, aligned %a", n,
                         (long long)i, (long long)count, (double)after[n][i], (double)before[n][i]);
    rig_model_close(&aligned);
    rig_model_close(&model);
}

/* Moved alike in bytes of each element, or each array on its own. */
static void set_offsets(int offset, int is_alike, int *offsets)
{
    for (int a = 0; a < RIG_ARRAYS; a++) offsets[a] = is_alike ? offset : (offset + 3 * a) % 10;
}

static void any_length_and_alignment(void **state)
{
    optim_rig_t *rig = *state;
    static const int64_t longer[] = {255, 256, 257, 300, 511, 513, 1000, 1025};
    int offsets[RIG_ARRAYS];
    for (int n = 0; n < RIG_LAYOUTS; n++) {
        tess_step_t *step = plain_step(rig);
        for (int count = 0; count <= 65; count++) {
            tess_adam_config_t config = rig_config(&rig_layouts[n], rig_gradients[count % 3]);
            set_offsets((count * 7 + n) % 10, count & 1, offsets);
            run_shape(rig, step, &config, count, offsets);
        }
        for (int offset = 0; offset < 10; offset++)
            for (int is_alike = 0; is_alike < 2; is_alike++) {
                tess_adam_config_t config =
                    rig_config(&rig_layouts[n], rig_gradients[(offset + is_alike) % 3]);
                set_offsets(offset, is_alike, offsets);
                run_shape(rig, step, &config, longer[offset % 8], offsets);
            }
        rig_step_destroy(rig, step);
    }
}

/* Elements do not know of one another, but for the scales: a range is what its elements are when
 * each is stepped alone. */
static void elements_stand_alone(void **state)
{
    optim_rig_t *rig = *state;
    for (int n = 0; n < RIG_LAYOUTS; n++)
        for (int g = 0; g < RIG_GRADIENTS; g++) {
            tess_adam_config_t config = rig_config(&rig_layouts[n], rig_gradients[g]);
            if (config.moments == TESS_ADAM_MOMENTS_8BIT) continue;
            rig_model_t whole, single;
            rig_model_open(rig, &config, 83, NULL, &whole);
            rig_model_open(rig, &config, 83, NULL, &single);
            rig_randomize(&whole, 2);
            rig_randomize(&single, 2);
            tess_step_t *step = plain_step(rig);
            rig_begin(rig, step, 1.0);
            rig_step(&whole, step);
            for (int64_t i = 0; i < 83; i++) {
                tess_adam_range_t part = rig_part(&single, i, 1);
                TEST_OK(tess_adam_step(single.adam, rig->stream, tess_step_state(step), &part));
            }
            rig_expect_same(&whole, &single, "element by element");
            rig_step_destroy(rig, step);
            rig_model_close(&whole);
            rig_model_close(&single);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_remainder_is_a_master), cmocka_unit_test(a_cut_changes_nothing),
        cmocka_unit_test(a_list_is_its_ranges),    cmocka_unit_test(any_length_and_alignment),
        cmocka_unit_test(elements_stand_alone),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
