/* SPDX-License-Identifier: Apache-2.0 */
/* Every twin of the host's loops (plain C, AVX2, AVX-512) against the scalar formula, element by
 * element as the header of each layout describes it, and any number of threads against one.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "optim/adam_host.h"
#include "optim_rig.h"

#define COUNT 3001
#define STEPS 12
/* More than one tile for each of eight threads, and some elements over. */
#define THREADS_COUNT (20 * TESSI_HOST_TILE + 301)

/* State as the reference holds it: what is stored, decoded. */
typedef struct element {
    float weight, moment1, moment2;
} element_t;

static element_t elements[COUNT];
static float gradients[COUNT];

static tess_step_config_t step_config(void)
{
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    config.loss_scale.initial = 4.0f;
    config.clip_norm = 3.0;
    config.seed = 17;
    return config;
}

/* Stores a block's moments as codes and reads them back. */
static void round_codes(element_t *block, int count, uint64_t key, int64_t index)
{
    float largest1 = 0.0f, largest2 = 0.0f;
    for (int i = 0; i < count; i++) {
        largest1 = fmaxf(largest1, fabsf(block[i].moment1));
        largest2 = fmaxf(largest2, block[i].moment2);
    }
    tessi_code_scale_t scale1 = tessi_code1_scale(largest1), scale2 = tessi_code2_scale(largest2);
    for (int i = 0; i < count; i++) {
        tessi_random_t random = tessi_random(key, index + i);
        uint8_t code1 = tessi_to_code1(block[i].moment1, scale1.inverse, random.moment1);
        uint8_t code2 = tessi_to_code2(block[i].moment2, scale2.inverse, random.moment2);
        block[i].moment1 = tessi_from_code1(code1, scale1.scale);
        block[i].moment2 = tessi_from_code2(code2, scale2.scale);
    }
}

static void reference_step(const rig_model_t *model, const tess_step_state_t *state)
{
    const tess_adam_config_t *config = &model->config;
    tessi_adam_constants_t constants = {(float)(1.0 - config->beta1), (float)(1.0 - config->beta2),
                                        (float)config->epsilon, config->l2};
    tessi_adam_scalars_t scalars = tessi_adam_scalars(&constants, state, model->range.weight_decay,
                                                      model->range.learning_rate_factor);
    for (int i = 0; i < COUNT; i++) {
        element_t *e = &elements[i];
        tessi_random_t random = tessi_random(state->random_key, model->range.first_index + i);
        tessi_adam_update(&scalars, gradients[i], &e->weight, &e->moment1, &e->moment2);
        if (config->weights == TESS_ADAM_BF16)
            e->weight = tessi_from_bf16(tessi_to_bf16_random(e->weight, random.weight));
        if (config->moments == TESS_ADAM_MOMENTS_BF16) {
            e->moment1 = tessi_from_bf16(tessi_to_bf16_random(e->moment1, random.moment1));
            e->moment2 = tessi_from_bf16(tessi_to_bf16_random(e->moment2, random.moment2));
        }
    }
    if (config->moments != TESS_ADAM_MOMENTS_8BIT) return;
    for (int first = 0; first < COUNT; first += TESS_ADAM_BLOCK)
        round_codes(&elements[first],
                    COUNT - first < TESS_ADAM_BLOCK ? COUNT - first : TESS_ADAM_BLOCK,
                    state->random_key, model->range.first_index + first);
}

static void compare(rig_model_t *model, const char *twin, int t)
{
    static float got[3][COUNT];
    static uint16_t parameter[COUNT];
    char name[RIG_NAME_BYTES];
    rig_export(model, got[0], got[1], got[2]);
    if (model->bytes[RIG_PARAMETER]) rig_get(model, RIG_PARAMETER, parameter);
    for (int i = 0; i < COUNT; i++) {
        const float expected[] = {elements[i].weight, elements[i].moment1, elements[i].moment2};
        for (int n = 0; n < 3; n++)
            if (rig_bits_of(got[n][i]) != rig_bits_of(expected[n]))
                fail_msg("%s, %s: step %d: array %d[%d] is %a, expected %a", twin,
                         rig_describe(model, name), t, n, i, (double)got[n][i],
                         (double)expected[n]);
        if (!model->bytes[RIG_PARAMETER]) continue;
        uint16_t rounded;
        rig_encode(model->config.parameter, &expected[0], 1, &rounded);
        if (parameter[i] != rounded)
            fail_msg("%s, %s: step %d: parameter[%d] is %04x, expected %04x", twin,
                     rig_describe(model, name), t, i, parameter[i], rounded);
    }
}

static void read_elements(rig_model_t *model)
{
    static float got[3][COUNT];
    rig_export(model, got[0], got[1], got[2]);
    for (int i = 0; i < COUNT; i++) elements[i] = (element_t){got[0][i], got[1][i], got[2][i]};
}

/* Ordinary values, and among them all that is odd: zeros, subnormals, ties, huge ones. */
static void make_gradients(const rig_model_t *model, uint64_t seed)
{
    static const float odd[] = {0.0f, -0.0f, 0x1p-149f, -0x1p-130f, 1e-20f, 1e15f, -65504.0f, 1.0f};
    static unsigned char encoded[COUNT * 4];
    rig_random_gradients(gradients, COUNT, seed);
    for (int i = 0; i < COUNT; i += 11) gradients[i] = odd[(i / 11 + (int)seed) % 8];
    for (int i = 0; i < COUNT; i++)
        if (model->config.gradient == TESS_DTYPE_FP16 && fabsf(gradients[i]) > 65504.0f)
            gradients[i] = 1.0f;
    rig_encode(model->config.gradient, gradients, COUNT, encoded);
    rig_put(model, RIG_GRADIENT, encoded);
    for (int i = 0; i < COUNT; i++) gradients[i] = rig_decode(model->config.gradient, encoded, i);
}

static void run_twin(optim_rig_t *rig, const tessi_adam_twin_t *twin,
                     const tess_adam_config_t *config)
{
    static const int offsets[RIG_ARRAYS] = {1, 3, 0, 2, 5, 1, 0};
    tess_step_config_t step_options = step_config();
    rig_model_t model;
    tessi_adam_host_force(twin);
    tess_step_t *step = rig_step_create(rig, &step_options);
    rig_model_open(rig, config, COUNT, offsets, &model);
    model.range.weight_decay = 0.1f;
    model.range.first_index = 1000;
    rig_randomize(&model, 3);
    read_elements(&model);
    for (int t = 1; t <= STEPS; t++) {
        make_gradients(&model, (uint64_t)t);
        rig_begin(rig, step, 100.0 * t);
        rig_step(&model, step);
        tess_step_state_t state = rig_step_read(rig, step);
        reference_step(&model, &state);
        compare(&model, twin->name, t);
    }
    rig_step_destroy(rig, step);
    rig_model_close(&model);
    tessi_adam_host_force(NULL);
}

static void twins_follow_the_formula(void **state)
{
    for (int n = 0; tessi_adam_twins[n]; n++) {
        if (!tessi_adam_twins[n]->usable()) {
            print_message("twin %s: not on this processor\n", tessi_adam_twins[n]->name);
            continue;
        }
        for (int l = 0; l < RIG_LAYOUTS; l++)
            for (int g = 0; g < RIG_GRADIENTS; g++) {
                tess_adam_config_t config = rig_config(&rig_layouts[l], rig_gradients[g]);
                config.l2 = g == 1;
                run_twin(*state, tessi_adam_twins[n], &config);
            }
    }
}

/* Import rounds to nearest, and export gives what is stored: every twin alike. */
static void twins_import_alike(void **state)
{
    optim_rig_t *rig = *state;
    for (int l = 0; l < RIG_LAYOUTS; l++) {
        tess_adam_config_t config = rig_config(&rig_layouts[l], TESS_DTYPE_BF16);
        rig_model_t first, other;
        tessi_adam_host_force(tessi_adam_twins[0]);
        rig_model_open(rig, &config, COUNT, NULL, &first);
        rig_randomize(&first, 7);
        read_elements(&first);
        for (int n = 1; tessi_adam_twins[n]; n++) {
            if (!tessi_adam_twins[n]->usable()) continue;
            tessi_adam_host_force(tessi_adam_twins[n]);
            rig_model_open(rig, &config, COUNT, NULL, &other);
            rig_randomize(&other, 7);
            rig_expect_same(&other, &first, tessi_adam_twins[n]->name);
            compare(&other, tessi_adam_twins[n]->name, 0);
            rig_model_close(&other);
        }
        rig_model_close(&first);
    }
    tessi_adam_host_force(NULL);
}

static void threads_change_nothing(void **state)
{
    static const int threads[] = {2, 3, 5, 8};
    optim_rig_t *rig = *state;
    tess_step_config_t step_options = step_config();
    for (int l = 0; l < RIG_LAYOUTS; l++) {
        tess_adam_config_t config = rig_config(&rig_layouts[l], rig_gradients[l % 3]);
        rig_model_t alone, team;
        config.threads = 1;
        rig_model_open(rig, &config, THREADS_COUNT, NULL, &alone);
        rig_randomize(&alone, 2);
        tess_step_t *step = rig_step_create(rig, &step_options);
        rig_begin(rig, step, 100.0);
        rig_step(&alone, step);
        for (int n = 0; n < 4; n++) {
            config.threads = threads[n];
            rig_model_open(rig, &config, THREADS_COUNT, NULL, &team);
            rig_randomize(&team, 2);
            rig_step(&team, step);
            rig_wait(rig);
            rig_expect_same(&team, &alone, "with several threads");
            rig_model_close(&team);
        }
        rig_step_destroy(rig, step);
        rig_model_close(&alone);
    }
}

/* --- sums of squares -------------------------------------------------------------------------- */

#define SUMS 6

/* Of two lengths that several threads share, in every dtype. */
static void measure_sums(optim_rig_t *rig, double sums[SUMS])
{
    static float values[400007];
    static unsigned char encoded[4 * 400007];
    tess_gradient_t *gradient = NULL;
    void *memory = rig_memory(rig, (int64_t)sizeof encoded);
    TEST_OK(tess_gradient_create(rig->device, 1, &gradient));
    rig_random_gradients(values, 400007, 4);
    for (int n = 0; n < SUMS; n++) {
        tess_gradient_piece_t piece = {memory, n % 2 ? 400007 : 131071, rig_gradients[n / 2]};
        rig_encode(piece.dtype, values, piece.count, encoded);
        rig_upload(rig, memory, encoded, piece.count * tess_dtype_bytes(piece.dtype));
        TEST_OK(tess_gradient_measure(gradient, rig->stream, 0, &piece));
        TEST_OK(tess_gradient_combine(gradient, rig->stream, rig->sum));
        rig_download(rig, &sums[n], rig->sum, (int64_t)sizeof sums[n]);
    }
    tess_gradient_destroy(gradient);
    rig_free(rig, memory);
}

static void twins_sum_alike(void **state)
{
    double first[SUMS], sums[SUMS];
    for (int n = 0; tessi_adam_twins[n]; n++) {
        if (!tessi_adam_twins[n]->usable()) continue;
        tessi_adam_host_force(tessi_adam_twins[n]);
        measure_sums(*state, n ? sums : first);
        for (int s = 0; n && s < SUMS; s++)
            if (sums[s] != first[s])
                fail_msg("%s: sum %d is %a, %s has %a", tessi_adam_twins[n]->name, s, sums[s],
                         tessi_adam_twins[0]->name, first[s]);
    }
    tessi_adam_host_force(NULL);
}

/* The number of threads is OpenMP's, which reads it once, so each number needs a process. */
static int print_sums(void)
{
    optim_rig_t rig;
    double sums[SUMS];
    rig_open(&rig, "host");
    measure_sums(&rig, sums);
    for (int n = 0; n < SUMS; n++) printf("%a ", sums[n]);
    rig_close(&rig);
    return 0;
}

static void threads_sum_alike(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 5, 8};
    char self[256], command[400], first[512] = "", text[512];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = '\0';
    for (int n = 0; n < 5; n++) {
        snprintf(command, sizeof command, "OMP_NUM_THREADS=%d '%s' sums", threads[n], self);
        FILE *pipe = popen(command, "r");
        assert_non_null(pipe);
        size_t bytes = fread(text, 1, sizeof text - 1, pipe);
        text[bytes] = '\0';
        assert_int_equal(pclose(pipe), 0);
        if (n == 0) memcpy(first, text, sizeof first);
        if (!strstr(text, "0x") || strcmp(text, first) != 0)
            fail_msg("%d threads sum to \"%s\", one to \"%s\"", threads[n], text, first);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "sums") == 0) return print_sums();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(twins_follow_the_formula), cmocka_unit_test(twins_import_alike),
        cmocka_unit_test(threads_change_nothing),   cmocka_unit_test(twins_sum_alike),
        cmocka_unit_test(threads_sum_alike),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
