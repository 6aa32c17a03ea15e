/* SPDX-License-Identifier: Apache-2.0 */
/* A whole step captured in a CUDA graph: statistics, decision and update are replayed without the
 * host, with gradients that change and now and then are not finite, and every bit is that of a step
 * that was queued call by call.
 */
#include <cuda_runtime_api.h>
#include <math.h>
#include <string.h>

#include "optim_rig.h"

#define COUNT 5003
#define REPLAYS 20

#define CUDA_OK(call)                                                                              \
    do {                                                                                           \
        cudaError_t test_error = (call);                                                           \
        if (test_error != cudaSuccess) fail_msg("%s: %s", #call, cudaGetErrorString(test_error));  \
    } while (0)

/* A model with all that steps it. */
typedef struct trainer {
    rig_model_t model;
    tess_gradient_t *gradient;
    tess_step_t *step;
    tess_adam_list_t *list;
    double *sum;
} trainer_t;

static void open_trainer(optim_rig_t *rig, const tess_adam_config_t *config, const float *schedule,
                         trainer_t *trainer)
{
    tess_step_config_t options = TESS_STEP_CONFIG_DEFAULT;
    tess_loss_scale_config_t rules = {1, 64.0f, 0.25f, 5, 2, 0};
    options.loss_scale = rules;
    options.clip_norm = 3.0;
    options.seed = 23;
    rig_model_open(rig, config, COUNT, NULL, &trainer->model);
    trainer->model.range.weight_decay = 0.1f;
    rig_randomize(&trainer->model, 3);
    trainer->step = rig_step_create(rig, &options);
    trainer->sum = rig_memory(rig, sizeof *trainer->sum);
    TEST_OK(tess_step_set_schedule(trainer->step, schedule, 3));
    TEST_OK(tess_gradient_create(rig->device, 2, &trainer->gradient));
    TEST_OK(tess_adam_list_create(trainer->model.adam, &trainer->model.range, 1, &trainer->list));
}

static void close_trainer(optim_rig_t *rig, trainer_t *trainer)
{
    tess_adam_list_destroy(trainer->list);
    tess_gradient_destroy(trainer->gradient);
    rig_step_destroy(rig, trainer->step);
    rig_free(rig, trainer->sum);
    rig_model_close(&trainer->model);
}

/* Two slots, and the update as a range or as a list. */
static void queue_step(optim_rig_t *rig, trainer_t *trainer, int is_list)
{
    const tess_adam_range_t *range = &trainer->model.range;
    tess_dtype_t dtype = trainer->model.config.gradient;
    const char *values = range->gradient;
    tess_gradient_piece_t pieces[] = {
        {values, 2000, dtype}, {values + 2000 * tess_dtype_bytes(dtype), COUNT - 2000, dtype}};
    for (int n = 0; n < 2; n++)
        TEST_OK(tess_gradient_measure(trainer->gradient, rig->stream, n, &pieces[n]));
    TEST_OK(tess_gradient_combine(trainer->gradient, rig->stream, trainer->sum));
    TEST_OK(tess_step_begin(trainer->step, rig->stream, trainer->sum, 1));
    if (is_list)
        TEST_OK(tess_adam_step_list(trainer->model.adam, rig->stream,
                                    tess_step_state(trainer->step), trainer->list));
    else rig_step(&trainer->model, trainer->step);
}

static cudaGraphExec_t capture(optim_rig_t *rig, trainer_t *trainer, int is_list)
{
    cudaStream_t stream = tess_stream_native(rig->stream);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t executable = NULL;
    rig_wait(rig);
    CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    queue_step(rig, trainer, is_list);
    CUDA_OK(cudaStreamEndCapture(stream, &graph));
    CUDA_OK(cudaGraphInstantiateWithFlags(&executable, graph, 0));
    CUDA_OK(cudaGraphDestroy(graph));
    return executable;
}

static void expect_same(optim_rig_t *rig, trainer_t *replayed, trainer_t *queued)
{
    tess_step_state_t ours, theirs;
    rig_download(rig, &ours, tess_step_state(replayed->step), (int64_t)sizeof ours);
    rig_download(rig, &theirs, tess_step_state(queued->step), (int64_t)sizeof theirs);
    if (ours.step != theirs.step || ours.skipped != theirs.skipped)
        fail_msg("replayed %lld steps and skipped %lld, queued %lld and %lld", (long long)ours.step,
                 (long long)ours.skipped, (long long)theirs.step, (long long)theirs.skipped);
    /* The norm of a skipped step may be one NaN or another. */
    if (ours.skip) ours.gradient_norm = theirs.gradient_norm = 0.0;
    assert_memory_equal(&ours, &theirs, sizeof ours);
    rig_expect_same(&replayed->model, &queued->model, "replayed");
}

static void run_graph(optim_rig_t *rig, const tess_adam_config_t *config, int is_list)
{
    static float values[COUNT];
    static const float rates[] = {1e-3f, 2e-3f, 5e-4f};
    trainer_t replayed, queued;
    float *schedule = rig_memory(rig, sizeof rates);
    rig_upload(rig, schedule, rates, sizeof rates);
    open_trainer(rig, config, schedule, &replayed);
    open_trainer(rig, config, schedule, &queued);
    cudaGraphExec_t executable = capture(rig, &replayed, is_list);
    /* Capturing alone has run nothing. */
    expect_same(rig, &replayed, &queued);
    for (int t = 0; t < REPLAYS; t++) {
        rig_random_gradients(values, COUNT, (uint64_t)t + 50);
        if (t % 6 == 2) values[t * 250] = t % 4 ? NAN : INFINITY;
        rig_gradient(&replayed.model, values);
        rig_gradient(&queued.model, values);
        CUDA_OK(cudaGraphLaunch(executable, tess_stream_native(rig->stream)));
        queue_step(rig, &queued, is_list);
        expect_same(rig, &replayed, &queued);
    }
    tess_step_state_t state;
    rig_download(rig, &state, tess_step_state(replayed.step), (int64_t)sizeof state);
    assert_int_equal(state.skipped, 3);
    assert_int_equal(state.step, REPLAYS - 3);
    CUDA_OK(cudaGraphExecDestroy(executable));
    close_trainer(rig, &replayed);
    close_trainer(rig, &queued);
    rig_free(rig, schedule);
}

static void graphs_replay_steps(void **state)
{
    for (int l = 0; l < RIG_LAYOUTS; l++) {
        tess_adam_config_t config = rig_config(&rig_layouts[l], rig_gradients[l % 3]);
        run_graph(*state, &config, 0);
        run_graph(*state, &config, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(graphs_replay_steps)};
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
