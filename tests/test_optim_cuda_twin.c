/* SPDX-License-Identifier: Apache-2.0 */
/* A GPU and this machine's processors, side by side in one process: the same bits in every layout,
 * for every dtype, over fifty steps.
 */
#include <math.h>
#include <string.h>

#include "optim_rig.h"

#define STEPS 50

typedef struct pair {
    optim_rig_t cuda, host;
} pair_t;

static tess_step_config_t step_config(void)
{
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_loss_scale_config_t rules = {1, 16.0f, 0.25f, 6, 2, 0};
    config.loss_scale = rules;
    config.clip_norm = 2.0;
    config.seed = 5;
    return config;
}

static void expect_same_state(pair_t *pair, tess_step_t *cuda, tess_step_t *host, int t)
{
    tess_step_state_t ours, theirs;
    rig_download(&pair->cuda, &ours, tess_step_state(cuda), (int64_t)sizeof ours);
    rig_download(&pair->host, &theirs, tess_step_state(host), (int64_t)sizeof theirs);
    if (memcmp(&ours, &theirs, sizeof ours) != 0)
        fail_msg("step %d: the states differ: norm %a and %a, factor %a and %a", t,
                 ours.gradient_norm, theirs.gradient_norm, (double)ours.gradient_factor,
                 (double)theirs.gradient_factor);
}

static void run_pair(pair_t *pair, const tess_adam_config_t *config, int64_t count)
{
    static float values[5000], ours[3][5000], theirs[3][5000];
    tess_step_config_t options = step_config();
    rig_model_t cuda, host;
    rig_model_open(&pair->cuda, config, count, NULL, &cuda);
    rig_model_open(&pair->host, config, count, NULL, &host);
    tess_step_t *cuda_step = rig_step_create(&pair->cuda, &options);
    tess_step_t *host_step = rig_step_create(&pair->host, &options);
    cuda.range.weight_decay = host.range.weight_decay = 0.1f;
    cuda.range.first_index = host.range.first_index = 123456789;
    rig_randomize(&cuda, 5);
    rig_randomize(&host, 5);
    rig_expect_same(&cuda, &host, "imported");
    for (int t = 1; t <= STEPS; t++) {
        rig_random_gradients(values, count, (uint64_t)t);
        if (t % 5 == 0) values[0] = 0x1p-140f;
        rig_gradient(&cuda, values);
        rig_gradient(&host, values);
        /* One step in nine overflows. */
        double sum = t % 9 == 4 ? (double)NAN : 3.7 * t;
        rig_begin(&pair->cuda, cuda_step, sum);
        rig_begin(&pair->host, host_step, sum);
        rig_step(&cuda, cuda_step);
        rig_step(&host, host_step);
        if (t > 3 && t % 10) continue;
        if (t % 9 != 4) expect_same_state(pair, cuda_step, host_step, t);
        rig_expect_same(&cuda, &host, "on CUDA, beside the host");
    }
    rig_export(&cuda, ours[0], ours[1], ours[2]);
    rig_export(&host, theirs[0], theirs[1], theirs[2]);
    for (int n = 0; n < 3; n++)
        assert_memory_equal(ours[n], theirs[n], (size_t)count * sizeof(float));
    rig_step_destroy(&pair->cuda, cuda_step);
    rig_step_destroy(&pair->host, host_step);
    rig_model_close(&cuda);
    rig_model_close(&host);
}

static void both_give_the_same_bits(void **state)
{
    static const int64_t counts[] = {1, 33, 255, 300, 4999};
    for (int l = 0; l < RIG_LAYOUTS; l++)
        for (int g = 0; g < RIG_GRADIENTS; g++)
            for (int n = 0; n < 5; n++) {
                tess_adam_config_t config = rig_config(&rig_layouts[l], rig_gradients[g]);
                config.l2 = n % 2;
                /* Small counts meet every dtype often enough without all steps of all. */
                if (n < 4 && (l + g + n) % 2) continue;
                run_pair(*state, &config, counts[n]);
            }
}

/* Sums may differ in the last bits, by what the two orders of addition round. */
static void sums_are_near(void **state)
{
    static float values[100000];
    static unsigned char encoded[400000];
    pair_t *pair = *state;
    rig_random_gradients(values, 100000, 2);
    for (int g = 0; g < RIG_GRADIENTS; g++) {
        double sums[2];
        for (int n = 0; n < 2; n++) {
            optim_rig_t *rig = n ? &pair->host : &pair->cuda;
            int64_t bytes = 100000 * tess_dtype_bytes(rig_gradients[g]);
            tess_gradient_t *gradient = NULL;
            void *memory = rig_memory(rig, bytes);
            tess_gradient_piece_t piece = {memory, 100000, rig_gradients[g]};
            rig_encode(rig_gradients[g], values, 100000, encoded);
            rig_upload(rig, memory, encoded, bytes);
            TEST_OK(tess_gradient_create(rig->device, 1, &gradient));
            TEST_OK(tess_gradient_measure(gradient, rig->stream, 0, &piece));
            TEST_OK(tess_gradient_combine(gradient, rig->stream, rig->sum));
            rig_download(rig, &sums[n], rig->sum, (int64_t)sizeof sums[n]);
            tess_gradient_destroy(gradient);
            rig_free(rig, memory);
        }
        double gap = sums[0] > sums[1] ? sums[0] - sums[1] : sums[1] - sums[0];
        if (!(gap <= 0x1p-36 * sums[1])) /* 100,000 additions of 2^-53 each */
            fail_msg("%s: the sums are %.17g and %.17g", tess_dtype_name(rig_gradients[g]), sums[0],
                     sums[1]);
    }
}

static int open_pair(void **state)
{
    static pair_t pair;
    rig_open(&pair.cuda, test_device_name(0));
    rig_open(&pair.host, "host");
    *state = &pair;
    return 0;
}

static int close_pair(void **state)
{
    pair_t *pair = *state;
    rig_close(&pair->cuda);
    rig_close(&pair->host);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_give_the_same_bits),
        cmocka_unit_test(sums_are_near),
    };
    return cmocka_run_group_tests(tests, open_pair, close_pair);
}
