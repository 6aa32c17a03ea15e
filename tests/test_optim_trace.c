/* SPDX-License-Identifier: Apache-2.0 */
/* What a profiler sees of optim: a range for each call, with the bytes that it moves. */
#include <string.h>

#include "nvtx_trace.h"
#include "optim_rig.h"

#define COUNT 1024
#define TRAFFIC                                                                                    \
    (28 * COUNT) /* bytes of one step: bf16 gradients and parameters, an fp32 master               \
                  */

/* The program that is recorded. */
static int use_optim(void)
{
    static const float rates[] = {0.5f};
    optim_rig_t rig;
    rig_model_t model;
    tess_gradient_t *gradient;
    tess_step_t *step;
    tess_adam_list_t *list;
    tess_step_state_t state;
    tess_step_config_t step_config = TESS_STEP_CONFIG_DEFAULT;
    tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;
    rig_open(&rig, test_device_name(0));
    rig_model_open(&rig, &config, COUNT, NULL, &model);
    tess_gradient_piece_t piece = {model.range.gradient, COUNT, TESS_DTYPE_BF16};
    tess_adam_range_t ranges[] = {model.range, model.range};
    ranges[1].count = 0;
    RANK_OK(tess_step_create(rig.device, &step_config, &step));
    RANK_OK(tess_gradient_create(rig.device, 3, &gradient));
    RANK_OK(tess_adam_list_create(model.adam, ranges, 2, &list));
    RANK_OK(tess_adam_import(model.adam, rig.stream, &model.range,
                             &(tess_adam_values_t){NULL, NULL, NULL}));
    RANK_OK(tess_gradient_measure(gradient, rig.stream, 2, &piece));
    RANK_OK(tess_gradient_combine(gradient, rig.stream, rig.sum));
    RANK_OK(tess_step_set_learning_rate(step, rig.stream, (double)rates[0]));
    RANK_OK(tess_step_begin(step, rig.stream, rig.sum, 1));
    RANK_OK(tess_adam_step(model.adam, rig.stream, tess_step_state(step), &model.range));
    RANK_OK(tess_adam_step(model.adam, rig.stream, tess_step_state(step), &model.range));
    RANK_OK(tess_adam_step_list(model.adam, rig.stream, tess_step_state(step), list));
    RANK_OK(tess_adam_export(model.adam, rig.stream, &model.range,
                             &(tess_adam_values_t){NULL, NULL, NULL}));
    RANK_OK(tess_step_read(step, rig.stream, &state));
    RANK_OK(tess_step_write(step, rig.stream, &state));
    /* A call that is refused closes its range, if it opened one. */
    RANK_CHECK(tess_adam_step(model.adam, rig.stream, NULL, &model.range) < 0);
    RANK_OK(tess_stream_synchronize(rig.stream, -1));
    tess_adam_list_destroy(list);
    tess_gradient_destroy(gradient);
    tess_step_destroy(step);
    rig_model_close(&model);
    rig_close(&rig);
    return 0;
}

static void ranges_are_seen(void **state)
{
    (void)state;
    nvtx_trace_t *trace = nvtx_trace_record("record");
    const struct {
        nvtx_pattern_t pattern;
        int count;
    } expected[] = {
        {{"push", "optim", "adam", TRAFFIC, NVTX_ANY, NVTX_ANY, ""}, 2},
        {{"push", "optim", "adam_list", TRAFFIC, 2, NVTX_ANY, ""}, 1},
        {{"push", "optim", "gradient_statistics", 2 * COUNT, 2, NVTX_ANY, ""}, 1},
        {{"push", "optim", "gradient_combine", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "optim", "step_begin", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "optim", "step_rate", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "optim", "step_read", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "optim", "step_write", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "optim", "adam_import", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "optim", "adam_export", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "optim", "step_create", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "optim", "gradient_create", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "optim", "adam_create", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "optim", "adam_list_create", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
    };
    for (size_t n = 0; n < sizeof expected / sizeof *expected; n++) {
        int count = nvtx_trace_count(trace, &expected[n].pattern);
        if (count != expected[n].count)
            fail_msg("%d ranges '%s', expected %d", count, expected[n].pattern.name,
                     expected[n].count);
    }
    assert_int_equal(nvtx_trace_registrations(trace, "adam"), 1);
    nvtx_trace_free(trace);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ranges_are_seen)};
    test_need_ranks(1);
    if (argc > 1 && strcmp(argv[1], "record") == 0) return use_optim();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
