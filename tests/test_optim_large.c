/* SPDX-License-Identifier: Apache-2.0 */
/* More than 2^31 elements in one range, in a layout of each kernel: elements at the start, around
 * 2^31 and at the end are stepped again as small ranges with the right first index, and every bit
 * must agree. Needs 35 GB of device memory at most; layouts that find less are skipped.
 */
#include <math.h>
#include <string.h>

#include "optim_rig.h"

#define COUNT ((INT64_C(1) << 31) + 1000003)
#define WINDOW 4096
#define STEPS 3

enum { GRADIENT_FILL = 0x3c, PARAMETER_FILL = 0x3f };

typedef struct large {
    optim_rig_t rig;
    tess_adam_config_t config;
    tess_adam_t *adam;
    tess_adam_range_t range;
    float gradients[WINDOW];
} large_t;

static const struct {
    tess_adam_weights_t weights;
    tess_adam_moments_t moments;
} layouts[] = {{TESS_ADAM_BF16, TESS_ADAM_MOMENTS_8BIT},
               {TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_FP32},
               {TESS_ADAM_REMAINDER, TESS_ADAM_MOMENTS_BF16}};

static void *filled(optim_rig_t *rig, int64_t bytes, int value)
{
    if (bytes == 0) return NULL;
    void *memory = rig_memory(rig, bytes);
    TEST_OK(tess_stream_fill(rig->stream, memory, value, bytes));
    return memory;
}

/* The last window begins at a block and holds the part of a block at the end. */
static const int64_t windows[] = {
    0, (INT64_C(1) << 31) - WINDOW / 2, (INT64_C(1) << 31), (INT64_C(1) << 30) - WINDOW / 2,
    (COUNT - WINDOW + TESS_ADAM_BLOCK) / TESS_ADAM_BLOCK *TESS_ADAM_BLOCK};
#define WINDOWS (int)(sizeof windows / sizeof *windows)

static int64_t window_count(int w)
{
    return COUNT - windows[w] < WINDOW ? COUNT - windows[w] : WINDOW;
}

static void open_large(large_t *large)
{
    optim_rig_t *rig = &large->rig;
    tess_adam_sizes_t sizes;
    TEST_OK(tess_adam_sizes(&large->config, COUNT, &sizes));
    TEST_OK(tess_adam_create(rig->device, &large->config, &large->adam));
    large->range = (tess_adam_range_t){
        .count = COUNT,
        .first_index = 0,
        .gradient = filled(rig, sizes.gradient_bytes, GRADIENT_FILL),
        .parameter = filled(rig, sizes.parameter_bytes, PARAMETER_FILL),
        .master = filled(rig, sizes.master_bytes, PARAMETER_FILL),
        .moment1 = filled(rig, sizes.moment1_bytes, 0),
        .moment2 = filled(rig, sizes.moment2_bytes, 0),
        .scale1 = filled(rig, sizes.scale1_bytes, 0),
        .scale2 = filled(rig, sizes.scale2_bytes, 0),
        .weight_decay = 0.1f,
        .learning_rate_factor = 1.0f,
    };
    rig_wait(rig);
}

static void close_large(large_t *large)
{
    rig_free(&large->rig, (void *)(uintptr_t)large->range.gradient);
    rig_free(&large->rig, large->range.parameter);
    if (large->range.master) rig_free(&large->rig, large->range.master);
    rig_free(&large->rig, large->range.moment1);
    rig_free(&large->rig, large->range.moment2);
    if (large->range.scale1) rig_free(&large->rig, large->range.scale1);
    if (large->range.scale2) rig_free(&large->rig, large->range.scale2);
    tess_adam_destroy(large->adam);
}

/* Gradients of its own for each window, in the large range as in the small one; those of windows
 * that overlap are a function of the element. */
static void put_window(large_t *large, int w, rig_model_t *small)
{
    static uint16_t encoded[WINDOW];
    int64_t count = window_count(w);
    for (int64_t i = 0; i < count; i++) {
        uint64_t random = (uint64_t)(windows[w] + i);
        large->gradients[i] = (float)(rig_uniform(&random) - 0.3);
    }
    rig_gradient(small, large->gradients);
    rig_encode(TESS_DTYPE_BF16, large->gradients, count, encoded);
    char *gradient = (char *)(uintptr_t)large->range.gradient;
    rig_upload(&large->rig, gradient + 2 * windows[w], encoded, 2 * count);
}

static void compare_array(large_t *large, int w, rig_model_t *small, int array)
{
    static unsigned char ours[4 * WINDOW], theirs[4 * WINDOW];
    char *arrays[RIG_ARRAYS] = {
        [RIG_PARAMETER] = large->range.parameter,   [RIG_MASTER] = large->range.master,
        [RIG_MOMENT1] = large->range.moment1,       [RIG_MOMENT2] = large->range.moment2,
        [RIG_SCALE1] = (char *)large->range.scale1, [RIG_SCALE2] = (char *)large->range.scale2};
    int64_t first = array >= RIG_SCALE1 ? windows[w] / TESS_ADAM_BLOCK : windows[w];
    int64_t bytes = small->bytes[array], element = small->element_bytes[array];
    if (bytes == 0) return;
    rig_download(&large->rig, ours, arrays[array] + first * element, bytes);
    rig_get(small, array, theirs);
    for (int64_t n = 0; n < bytes; n++)
        if (ours[n] != theirs[n])
            fail_msg("%s: element %lld is not what it is in a small range", rig_array_names[array],
                     (long long)(first + n / element));
}

static void prepare_small(large_t *large, int w, rig_model_t *small)
{
    static unsigned char bytes[4 * WINDOW];
    rig_model_open(&large->rig, &large->config, window_count(w), NULL, small);
    memset(bytes, PARAMETER_FILL, sizeof bytes);
    rig_put(small, RIG_PARAMETER, bytes);
    if (small->bytes[RIG_MASTER] > 0) rig_put(small, RIG_MASTER, bytes);
    small->range.first_index = windows[w];
    small->range.weight_decay = large->range.weight_decay;
    put_window(large, w, small);
}

/* Every gradient outside the windows is the same number. */
static void check_sum(large_t *large)
{
    optim_rig_t *rig = &large->rig;
    tess_gradient_t *gradient = NULL;
    tess_gradient_piece_t piece = {large->range.gradient, COUNT, TESS_DTYPE_BF16};
    double sum = 0.0, value = (double)tess_bf16_to_float(GRADIENT_FILL << 8 | GRADIENT_FILL);
    double exact = value * value * (double)COUNT;
    TEST_OK(tess_gradient_create(rig->device, 1, &gradient));
    TEST_OK(tess_gradient_measure(gradient, rig->stream, 0, &piece));
    TEST_OK(tess_gradient_combine(gradient, rig->stream, rig->sum));
    rig_download(rig, &sum, rig->sum, (int64_t)sizeof sum);
    /* 2^31 additions of 2^-53 each, at the very worst. */
    if (!(fabs(sum - exact) <= 0x1p-21 * exact))
        fail_msg("the sum is %.17g, expected %.17g", sum, exact);
    tess_gradient_destroy(gradient);
}

static void run_layout(large_t *large)
{
    static rig_model_t small[WINDOWS];
    optim_rig_t *rig = &large->rig;
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_step_t *step = rig_step_create(rig, &config);
    tess_adam_list_t *list = NULL;
    open_large(large);
    check_sum(large);
    for (int w = 0; w < WINDOWS; w++) prepare_small(large, w, &small[w]);
    TEST_OK(tess_adam_list_create(large->adam, &large->range, 1, &list));
    for (int t = 0; t < STEPS; t++) {
        rig_begin(rig, step, 1.0);
        for (int w = 0; w < WINDOWS; w++) rig_step(&small[w], step);
        /* By value, and as a list in the last step. */
        if (t < STEPS - 1)
            TEST_OK(tess_adam_step(large->adam, rig->stream, tess_step_state(step), &large->range));
        else TEST_OK(tess_adam_step_list(large->adam, rig->stream, tess_step_state(step), list));
    }
    for (int w = 0; w < WINDOWS; w++) {
        for (int a = RIG_PARAMETER; a < RIG_ARRAYS; a++) compare_array(large, w, &small[w], a);
        rig_model_close(&small[w]);
    }
    tess_adam_list_destroy(list);
    rig_step_destroy(rig, step);
    close_large(large);
}

static void elements_beyond_2_31(void **state)
{
    large_t *large = *state;
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++) {
        tess_device_properties_t properties;
        tess_adam_sizes_t sizes;
        large->config = (tess_adam_config_t)TESS_ADAM_CONFIG_DEFAULT;
        large->config.weights = layouts[l].weights;
        large->config.moments = layouts[l].moments;
        TEST_OK(tess_adam_sizes(&large->config, COUNT, &sizes));
        TEST_OK(tess_device_properties(large->rig.device, &properties));
        /* What a step moves is no less than what it needs. */
        if (properties.memory_free_bytes > sizes.traffic_bytes) run_layout(large);
        else
            print_message("layout %zu skipped: it moves %lld bytes, and fewer are free\n", l,
                          (long long)sizes.traffic_bytes);
    }
}

static int open_rig(void **state)
{
    static large_t large;
    tess_device_properties_t properties;
    rig_open(&large.rig, test_device_name(0));
    TEST_OK(tess_device_properties(large.rig.device, &properties));
    if (properties.memory_free_bytes < 7 * COUNT) test_skip("less than 15 GB of memory are free");
    *state = &large;
    return 0;
}

static int close_rig(void **state)
{
    rig_close(&((large_t *)*state)->rig);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(elements_beyond_2_31)};
    return cmocka_run_group_tests(tests, open_rig, close_rig);
}
