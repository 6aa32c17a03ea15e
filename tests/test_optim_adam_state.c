/* SPDX-License-Identifier: Apache-2.0 */
/* State out and in again, how a fresh model starts, what sizes are told, and every argument that is
 * refused.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim_rig.h"

#define COUNT 777

/* --- export and import ------------------------------------------------------------------------ */

static void fill_state(optim_rig_t *rig, rig_model_t *model)
{
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_step_t *step = rig_step_create(rig, &config);
    rig_randomize(model, 6);
    for (int t = 0; t < 3; t++) {
        rig_begin(rig, step, 1.0);
        rig_step(model, step);
    }
    rig_step_destroy(rig, step);
}

/* Ties go to the even neighbour; what no bf16 holds stays below infinity. */
static void import_rounds_to_nearest_even(void **state)
{
    static const struct {
        uint32_t bits, expected;
    } cases[] = {{0x3f808000u, 0x3f80u}, {0x3f818000u, 0x3f82u}, {0x3f808001u, 0x3f81u},
                 {0x3f817fffu, 0x3f81u}, {0xbf818000u, 0xbf82u}, {0xbf808000u, 0xbf80u},
                 {0x00008000u, 0x0000u}, {0x00018000u, 0x0002u}, {0x7f7fffffu, 0x7f7fu},
                 {0xff7fffffu, 0xff7fu}, {0x7f800000u, 0x7f80u}};
    enum { CASES = sizeof cases / sizeof *cases };
    float values[CASES], moments[CASES];
    uint16_t got[CASES];
    optim_layout_t layout = {"", TESS_ADAM_BF16, TESS_ADAM_MOMENTS_BF16, TESS_DTYPE_BF16};
    tess_adam_config_t config = rig_config(&layout, TESS_DTYPE_BF16);
    rig_model_t model;
    rig_model_open(*state, &config, CASES, NULL, &model);
    for (int i = 0; i < CASES; i++) {
        values[i] = rig_float_of(cases[i].bits);
        moments[i] = fabsf(values[i]);
    }
    rig_import(&model, values, values, moments);
    for (int array = RIG_PARAMETER; array <= RIG_MOMENT2; array++) {
        if (array == RIG_MASTER) continue;
        rig_get(&model, array, got);
        for (int i = 0; i < CASES; i++) {
            uint32_t expected = cases[i].expected;
            if (array == RIG_MOMENT2) {
                expected &= 0x7fffu;
                if (expected >= 0x7f70u) expected = 0x7f70u; /* the most that moment 2 can be */
            }
            if (got[i] != expected)
                fail_msg("%s: %08x became %04x, expected %04x", rig_array_names[array],
                         cases[i].bits, got[i], expected);
        }
    }
    rig_model_close(&model);
}

static void state_comes_back(void **state)
{
    static float weights[COUNT], moment1[COUNT], moment2[COUNT];
    optim_rig_t *rig = *state;
    for (int n = 0; n < RIG_LAYOUTS; n++) {
        tess_adam_config_t config = rig_config(&rig_layouts[n], TESS_DTYPE_BF16);
        rig_model_t from, to;
        rig_model_open(rig, &config, COUNT, NULL, &from);
        rig_model_open(rig, &config, COUNT, NULL, &to);
        fill_state(rig, &from);
        rig_export(&from, weights, moment1, moment2);
        rig_import(&to, weights, moment1, moment2);
        rig_expect_same(&to, &from, "imported again");
        rig_model_close(&from);
        rig_model_close(&to);
    }
}

/* A checkpoint moves between layouts: each rounds to nearest what it cannot hold. */
static void layouts_exchange_state(void **state)
{
    static float weights[COUNT], moment1[COUNT], moment2[COUNT], got[3][COUNT];
    optim_rig_t *rig = *state;
    rig_random_weights(weights, COUNT, 1);
    rig_random_gradients(moment1, COUNT, 2);
    for (int i = 0; i < COUNT; i++) moment2[i] = moment1[i] * moment1[i];
    moment1[3] = -0.0f;
    for (int n = 0; n < RIG_LAYOUTS; n++) {
        tess_adam_config_t config = rig_config(&rig_layouts[n], TESS_DTYPE_BF16);
        rig_model_t model;
        rig_model_open(rig, &config, COUNT, NULL, &model);
        rig_import(&model, weights, moment1, moment2);
        rig_export(&model, got[0], got[1], got[2]);
        const float *all[] = {weights, moment1, moment2};
        for (int a = 0; a < 3; a++) {
            int is_bf16 =
                a ? config.moments == TESS_ADAM_MOMENTS_BF16 : config.weights == TESS_ADAM_BF16;
            if (a && config.moments == TESS_ADAM_MOMENTS_8BIT) continue;
            for (int i = 0; i < COUNT; i++) {
                float value = all[a][i];
                if (is_bf16) value = tess_bf16_to_float(tess_bf16_from_float(value));
                if (rig_bits_of(got[a][i]) != rig_bits_of(value))
                    fail_msg("%s: array %d[%d] is %a, expected %a", rig_layouts[n].name, a, i,
                             (double)got[a][i], (double)value);
            }
        }
        rig_model_close(&model);
    }
}

static void a_fresh_model_starts_from_its_parameter(void **state)
{
    static float weights[COUNT], moment1[COUNT], moment2[COUNT];
    static uint32_t parameter[COUNT], after[COUNT];
    optim_rig_t *rig = *state;
    for (int n = 0; n < RIG_LAYOUTS; n++) {
        tess_adam_config_t config = rig_config(&rig_layouts[n], TESS_DTYPE_BF16);
        int array = config.parameter == TESS_DTYPE_FP32 ? RIG_MASTER : RIG_PARAMETER;
        rig_model_t model;
        rig_model_open(rig, &config, COUNT, NULL, &model);
        fill_state(rig, &model);
        rig_random_weights(weights, COUNT, 5);
        rig_encode(config.parameter, weights, COUNT, parameter);
        rig_put(&model, array, parameter);
        rig_import(&model, NULL, NULL, NULL);
        rig_get(&model, array, after);
        assert_memory_equal(after, parameter, (size_t)model.bytes[array]);
        rig_export(&model, weights, moment1, moment2);
        for (int i = 0; i < COUNT; i++)
            if (weights[i] != rig_decode(config.parameter, parameter, i) ||
                rig_bits_of(moment1[i]) != 0 || rig_bits_of(moment2[i]) != 0)
                fail_msg("%s: element %d starts with %a, %a, %a, its parameter is %a",
                         rig_layouts[n].name, i, (double)weights[i], (double)moment1[i],
                         (double)moment2[i], (double)rig_decode(config.parameter, parameter, i));
        rig_model_close(&model);
    }
}

/* Each value alone: the others are neither written nor needed. */
static void values_may_be_left_out(void **state)
{
    static float weights[COUNT], moment1[COUNT], moment2[COUNT], alone[COUNT];
    optim_rig_t *rig = *state;
    for (int n = 0; n < RIG_LAYOUTS; n++) {
        tess_adam_config_t config = rig_config(&rig_layouts[n], TESS_DTYPE_BF16);
        rig_model_t model;
        rig_model_open(rig, &config, COUNT, NULL, &model);
        fill_state(rig, &model);
        rig_export(&model, weights, moment1, moment2);
        rig_export(&model, alone, NULL, NULL);
        assert_memory_equal(alone, weights, sizeof alone);
        rig_export(&model, NULL, alone, NULL);
        assert_memory_equal(alone, moment1, sizeof alone);
        rig_export(&model, NULL, NULL, alone);
        assert_memory_equal(alone, moment2, sizeof alone);
        rig_export(&model, NULL, NULL, NULL);
        rig_model_close(&model);
    }
}

/* --- sizes and sentences ---------------------------------------------------------------------- */

/* Bytes a parameter as the field counts them: read and written in one step, bf16 gradients. */
static void sizes_are_told(void **state)
{
    (void)state;
    static const struct {
        tess_adam_weights_t weights;
        tess_adam_moments_t moments;
        tess_dtype_t parameter;
        int64_t traffic; /* of 1,024 elements */
    } cases[] = {
        {TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_FP32, TESS_DTYPE_BF16, 28 * 1024},
        {TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_FP32, TESS_DTYPE_FP32, 26 * 1024},
        {TESS_ADAM_REMAINDER, TESS_ADAM_MOMENTS_FP32, TESS_DTYPE_BF16, 26 * 1024},
        {TESS_ADAM_REMAINDER, TESS_ADAM_MOMENTS_BF16, TESS_DTYPE_BF16, 18 * 1024},
        {TESS_ADAM_BF16, TESS_ADAM_MOMENTS_BF16, TESS_DTYPE_BF16, 14 * 1024},
        {TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_8BIT, TESS_DTYPE_BF16, 16 * 1024 + 4 * 16},
        {TESS_ADAM_BF16, TESS_ADAM_MOMENTS_8BIT, TESS_DTYPE_BF16, 10 * 1024 + 4 * 16},
    };
    tess_adam_sizes_t sizes;
    for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
        tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;
        config.weights = cases[n].weights;
        config.moments = cases[n].moments;
        config.parameter = cases[n].parameter;
        TEST_OK(tess_adam_sizes(&config, 1024, &sizes));
        assert_int_equal(sizes.traffic_bytes, cases[n].traffic);
    }
    tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;
    config.moments = TESS_ADAM_MOMENTS_8BIT;
    TEST_OK(tess_adam_sizes(&config, 257, &sizes));
    assert_int_equal(sizes.scale1_bytes, 8);
    assert_int_equal(sizes.moment2_bytes, 257);
    assert_int_equal(sizes.parameter_bytes, 514);
    assert_int_equal(sizes.master_bytes, 1028);
    assert_int_equal(sizes.gradient_bytes, 514);
    TEST_STATUS(tess_adam_sizes(&config, -1, &sizes), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_adam_sizes(NULL, 1, &sizes), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_adam_sizes(&config, 1, NULL), TESS_ERR_INVALID_ARGUMENT);
    config.weights = TESS_ADAM_REMAINDER;
    TEST_STATUS(tess_adam_sizes(&config, 1, &sizes), TESS_ERR_INVALID_ARGUMENT);
}

static void the_description_names_the_device(void **state)
{
    optim_rig_t *rig = *state;
    tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;
    tess_adam_t *adam = NULL;
    config.threads = 3;
    TEST_OK(tess_adam_create(rig->device, &config, &adam));
    const char *text = tess_adam_description(adam);
    const char *kind = strcmp(test_device_kind(), "cuda") == 0 ? "cuda, sm_" : "host, ";
    if (strncmp(text, kind, strlen(kind)) != 0)
        fail_msg("\"%s\" does not start with %s", text, kind);
    /* One, where the library was built without OpenMP. */
    if (*kind == 'h' && !strstr(text, ", 3 threads") && !strstr(text, ", 1 thread"))
        fail_msg("\"%s\" does not tell 3 threads", text);
    tess_adam_destroy(adam);
    tess_adam_destroy(NULL);
    tess_adam_list_destroy(NULL);
}

/* --- what is refused -------------------------------------------------------------------------- */

static void expect_refusal(tess_status_t status, const char *name)
{
    if (status != TESS_ERR_INVALID_ARGUMENT || !strstr(tess_last_error(), name))
        fail_msg("%s: got %s and \"%s\"", name, tess_status_name(status), tess_last_error());
}

#define REFUSED_CONFIG(field, value)                                                               \
    do {                                                                                           \
        tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;                                      \
        tess_adam_t *adam = NULL;                                                                  \
        config.field = value;                                                                      \
        expect_refusal(tess_adam_create(rig->device, &config, &adam), #field);                     \
        assert_null(adam);                                                                         \
    } while (0)

static void bad_configs_are_refused(void **state)
{
    optim_rig_t *rig = *state;
    REFUSED_CONFIG(weights, (tess_adam_weights_t)3);
    REFUSED_CONFIG(weights, (tess_adam_weights_t)-1);
    REFUSED_CONFIG(moments, (tess_adam_moments_t)3);
    REFUSED_CONFIG(moments, (tess_adam_moments_t)-1);
    REFUSED_CONFIG(gradient, TESS_DTYPE_BYTE);
    REFUSED_CONFIG(gradient, (tess_dtype_t)9);
    REFUSED_CONFIG(parameter, TESS_DTYPE_BYTE);
    REFUSED_CONFIG(parameter, (tess_dtype_t)-1);
    REFUSED_CONFIG(beta1, 1.0);
    REFUSED_CONFIG(beta1, -0.1);
    REFUSED_CONFIG(beta1, (double)NAN);
    REFUSED_CONFIG(beta2, 1.0);
    REFUSED_CONFIG(beta2, -1e-9);
    REFUSED_CONFIG(beta2, (double)NAN);
    REFUSED_CONFIG(epsilon, 0.0);
    REFUSED_CONFIG(epsilon, -1e-8);
    REFUSED_CONFIG(epsilon, (double)NAN);
    REFUSED_CONFIG(epsilon, (double)INFINITY);
    REFUSED_CONFIG(epsilon, 1e-50);
    REFUSED_CONFIG(l2, 2);
    REFUSED_CONFIG(l2, -1);
    REFUSED_CONFIG(threads, -1);
    tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;
    tess_adam_t *adam = NULL;
    config.weights = TESS_ADAM_BF16;
    config.parameter = TESS_DTYPE_FP16;
    expect_refusal(tess_adam_create(rig->device, &config, &adam), "parameter");
    config.weights = TESS_ADAM_REMAINDER;
    config.parameter = TESS_DTYPE_FP32;
    expect_refusal(tess_adam_create(rig->device, &config, &adam), "parameter");
    config.parameter = TESS_DTYPE_BF16;
    config.moments = TESS_ADAM_MOMENTS_8BIT;
    expect_refusal(tess_adam_create(rig->device, &config, &adam), "REMAINDER");
    config.weights = TESS_ADAM_MASTER;
    expect_refusal(tess_adam_create(NULL, &config, &adam), "device");
    expect_refusal(tess_adam_create(rig->device, NULL, &adam), "config");
    expect_refusal(tess_adam_create(rig->device, &config, NULL), "adam");
    assert_null(adam);
}

typedef struct refusal_rig {
    rig_model_t *model;
    tess_step_t *step;
} refusal_rig_t;

static void refuse_range(const refusal_rig_t *r, const tess_adam_range_t *range, const char *name)
{
    tess_adam_t *adam = r->model->adam;
    tess_stream_t *stream = r->model->rig->stream;
    tess_adam_values_t values = {NULL, NULL, NULL};
    tess_adam_list_t *list = NULL;
    tess_adam_range_t two[] = {r->model->range, *range};
    expect_refusal(tess_adam_step(adam, stream, tess_step_state(r->step), range), name);
    expect_refusal(tess_adam_list_create(adam, two, 2, &list), name);
    assert_null(list);
    if (strcmp(name, "gradient") == 0) return;
    expect_refusal(tess_adam_export(adam, stream, range, &values), name);
    expect_refusal(tess_adam_import(adam, stream, range, &values), name);
}

#define REFUSED_RANGE(field, value)                                                                \
    do {                                                                                           \
        tess_adam_range_t range = model.range;                                                     \
        range.field = value;                                                                       \
        refuse_range(&refusal, &range, #field);                                                    \
    } while (0)
#define MOVED(pointer) ((void *)((char *)(uintptr_t)(pointer) + 1))

static void refuse_ranges(refusal_rig_t refusal)
{
    rig_model_t model = *refusal.model;
    char there[8];
    REFUSED_RANGE(count, -1);
    REFUSED_RANGE(count, INT64_MAX);
    REFUSED_RANGE(first_index, -1);
    REFUSED_RANGE(first_index, INT64_MAX);
    REFUSED_RANGE(weight_decay, -0.1f);
    REFUSED_RANGE(weight_decay, NAN);
    REFUSED_RANGE(weight_decay, INFINITY);
    REFUSED_RANGE(learning_rate_factor, -1.0f);
    REFUSED_RANGE(learning_rate_factor, NAN);
    REFUSED_RANGE(learning_rate_factor, INFINITY);
    REFUSED_RANGE(gradient, NULL);
    REFUSED_RANGE(gradient, MOVED(model.range.gradient));
    REFUSED_RANGE(moment1, NULL);
    REFUSED_RANGE(moment2, NULL);
    if (model.element_bytes[RIG_MOMENT1] > 1) {
        REFUSED_RANGE(moment1, MOVED(model.range.moment1));
        REFUSED_RANGE(moment2, MOVED(model.range.moment2));
    }
    /* What the layout has may not be missing or misaligned, what it lacks may not be there. */
    REFUSED_RANGE(parameter, model.range.parameter ? NULL : there);
    if (model.range.parameter) REFUSED_RANGE(parameter, MOVED(model.range.parameter));
    REFUSED_RANGE(master, model.range.master ? NULL : there);
    if (model.range.master) REFUSED_RANGE(master, MOVED(model.range.master));
    REFUSED_RANGE(scale1, model.range.scale1 ? NULL : (float *)(void *)there);
    REFUSED_RANGE(scale2, model.range.scale2 ? NULL : (float *)(void *)there);
    if (model.range.scale1) REFUSED_RANGE(scale1, (float *)MOVED(model.range.scale1));
    if (model.range.scale2) REFUSED_RANGE(scale2, (float *)MOVED(model.range.scale2));
}

static void refuse_calls(refusal_rig_t refusal, tess_stream_t *stream)
{
    tess_adam_t *adam = refusal.model->adam;
    const tess_adam_range_t *range = &refusal.model->range;
    const tess_step_state_t *step = tess_step_state(refusal.step);
    tess_adam_values_t values = {NULL, NULL, NULL}, odd = {NULL, NULL, NULL};
    odd.moment1 = (float *)MOVED(NULL);
    tess_adam_list_t *list = NULL;
    expect_refusal(tess_adam_step(NULL, stream, step, range), "adam");
    expect_refusal(tess_adam_step(adam, NULL, step, range), "stream");
    expect_refusal(tess_adam_step(adam, stream, NULL, range), "state");
    expect_refusal(tess_adam_step(adam, stream, step, NULL), "range");
    expect_refusal(tess_adam_export(NULL, stream, range, &values), "adam");
    expect_refusal(tess_adam_export(adam, NULL, range, &values), "stream");
    expect_refusal(tess_adam_export(adam, stream, NULL, &values), "range");
    expect_refusal(tess_adam_export(adam, stream, range, NULL), "values");
    expect_refusal(tess_adam_export(adam, stream, range, &odd), "moment1");
    expect_refusal(tess_adam_import(NULL, stream, range, &values), "adam");
    expect_refusal(tess_adam_import(adam, NULL, range, &values), "stream");
    expect_refusal(tess_adam_import(adam, stream, NULL, &values), "range");
    expect_refusal(tess_adam_import(adam, stream, range, NULL), "values");
    expect_refusal(tess_adam_import(adam, stream, range, &odd), "moment1");
    expect_refusal(tess_adam_list_create(NULL, range, 1, &list), "adam");
    expect_refusal(tess_adam_list_create(adam, NULL, 1, &list), "ranges");
    expect_refusal(tess_adam_list_create(adam, range, -1, &list), "range_count");
    expect_refusal(tess_adam_list_create(adam, range, 1, NULL), "list");
    assert_null(list);
    TEST_OK(tess_adam_list_create(adam, NULL, 0, &list));
    TEST_OK(tess_adam_step_list(adam, stream, step, list));
    expect_refusal(tess_adam_step_list(NULL, stream, step, list), "adam");
    expect_refusal(tess_adam_step_list(adam, NULL, step, list), "stream");
    expect_refusal(tess_adam_step_list(adam, stream, NULL, list), "state");
    expect_refusal(tess_adam_step_list(adam, stream, step, NULL), "list");
    rig_wait(refusal.model->rig);
    tess_adam_list_destroy(list);
}

static void bad_arguments_are_refused(void **state)
{
    optim_rig_t *rig = *state;
    tess_step_config_t step_config = TESS_STEP_CONFIG_DEFAULT;
    tess_step_t *step = rig_step_create(rig, &step_config);
    for (int n = 0; n < RIG_LAYOUTS; n++) {
        tess_adam_config_t config = rig_config(&rig_layouts[n], rig_gradients[n % 3]);
        rig_model_t model;
        rig_model_open(rig, &config, 100, NULL, &model);
        refuse_ranges((refusal_rig_t){&model, step});
        refuse_calls((refusal_rig_t){&model, step}, rig->stream);
        /* A range of nothing needs no arrays. */
        tess_adam_range_t nothing = {.count = 0, .learning_rate_factor = 1.0f};
        TEST_OK(tess_adam_step(model.adam, rig->stream, tess_step_state(step), &nothing));
        rig_wait(rig);
        rig_model_close(&model);
    }
    rig_step_destroy(rig, step);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(import_rounds_to_nearest_even),
        cmocka_unit_test(state_comes_back),
        cmocka_unit_test(layouts_exchange_state),
        cmocka_unit_test(a_fresh_model_starts_from_its_parameter),
        cmocka_unit_test(values_may_be_left_out),
        cmocka_unit_test(sizes_are_told),
        cmocka_unit_test(the_description_names_the_device),
        cmocka_unit_test(bad_configs_are_refused),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
