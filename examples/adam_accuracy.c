/* SPDX-License-Identifier: Apache-2.0 */
/* What each layout of Adam's state costs in accuracy: two thousand steps beside Adam in double
 * precision, with the same bf16 gradients. docs/OPTIM.md quotes its output.
 *
 *   adam_accuracy [SPREAD [RATE]]    gradients of parameters in one block of 256 differ by a factor
 *                                    of up to 10^SPREAD (1); learning rate (1e-4)
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tessera/tessera.h>

#define COUNT 16384
#define STEPS 2000
#define DECAY 0.01f

#define CHECK(call)                                                                                \
    do {                                                                                           \
        if ((call) < 0) {                                                                          \
            fprintf(stderr, "adam_accuracy: %s\n", tess_last_error());                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

typedef struct layout {
    const char *name;
    tess_adam_weights_t weights;
    tess_adam_moments_t moments;
} layout_t;

static const layout_t layouts[] = {
    {"master", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_FP32},
    {"remainder", TESS_ADAM_REMAINDER, TESS_ADAM_MOMENTS_FP32},
    {"master-bf16", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_BF16},
    {"remainder-bf16", TESS_ADAM_REMAINDER, TESS_ADAM_MOMENTS_BF16},
    {"master-8bit", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_8BIT},
    {"bf16-8bit", TESS_ADAM_BF16, TESS_ADAM_MOMENTS_8BIT},
    {"bf16", TESS_ADAM_BF16, TESS_ADAM_MOMENTS_BF16},
};

static uint16_t gradients[STEPS][COUNT], start[COUNT];
static double scale[COUNT], weight[COUNT], moment1[COUNT], moment2[COUNT]; /* in double precision */

/* Roughly normal, mean 0, variance 1. */
static double noise(void)
{
    double sum = -6.0;
    for (int i = 0; i < 12; i++) sum += rand() / (double)RAND_MAX;
    return sum;
}

/* The inputs, and what exact Adam makes of them. */
static void reference(double spread, double rate)
{
    for (int i = 0; i < COUNT; i++) {
        scale[i] = 1e-3 * pow(10.0, spread * (rand() / (double)RAND_MAX - 0.5));
        start[i] = tess_bf16_from_float((float)(0.02 * noise()));
        weight[i] = (double)tess_bf16_to_float(start[i]);
    }
    for (int t = 1; t <= STEPS; t++) {
        double factor1 = 1.0 / (1.0 - pow(0.9, t)), factor2 = 1.0 / sqrt(1.0 - pow(0.999, t));
        for (int i = 0; i < COUNT; i++) {
            gradients[t - 1][i] = tess_bf16_from_float((float)(scale[i] * (noise() + 0.3)));
            double g = (double)tess_bf16_to_float(gradients[t - 1][i]);
            moment1[i] += 0.1 * (g - moment1[i]);
            moment2[i] += 0.001 * (g * g - moment2[i]);
            weight[i] -= rate * (factor1 * moment1[i] / (factor2 * sqrt(moment2[i]) + 1e-8) +
                                 (double)DECAY * weight[i]);
        }
    }
}

static void compare(const layout_t *layout, int64_t bytes, float *const got[3])
{
    double moved = 0.0, off = 0.0, size1 = 0.0, off1 = 0.0, mean2 = 0.0, off2 = 0.0;
    for (int i = 0; i < COUNT; i++) {
        moved += pow(weight[i] - (double)tess_bf16_to_float(start[i]), 2.0);
        off += pow((double)got[0][i] - weight[i], 2.0);
        size1 += pow(moment1[i] / scale[i], 2.0);
        off1 += pow(((double)got[1][i] - moment1[i]) / scale[i], 2.0);
        mean2 += (double)got[2][i] / moment2[i] - 1.0;
        off2 += pow((double)got[2][i] / moment2[i] - 1.0, 2.0);
    }
    printf("%-15s %7.2f %14.1e %14.1e %14.1e %+14.1e\n", layout->name, (double)bytes / COUNT,
           sqrt(off / moved), sqrt(off1 / size1), sqrt(off2 / COUNT), mean2 / COUNT);
}

static void run(tess_device_t *device, tess_stream_t *stream, const layout_t *layout, double rate)
{
    tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;
    tess_step_config_t step_config = TESS_STEP_CONFIG_DEFAULT;
    const tess_adam_values_t fresh = {0};
    tess_adam_range_t range = {.count = COUNT, .weight_decay = DECAY, .learning_rate_factor = 1.0f};
    tess_adam_sizes_t sizes;
    tess_adam_t *adam;
    tess_step_t *step;
    config.weights = layout->weights;
    config.moments = layout->moments;
    step_config.learning_rate = rate;
    CHECK(tess_adam_create(device, &config, &adam));
    CHECK(tess_step_create(device, &step_config, &step));
    CHECK(tess_adam_sizes(&config, COUNT, &sizes));
    struct {
        int64_t bytes;
        void **array;
    } arrays[] = {
        {sizes.parameter_bytes, &range.parameter},    {sizes.master_bytes, &range.master},
        {sizes.moment1_bytes, &range.moment1},        {sizes.moment2_bytes, &range.moment2},
        {sizes.scale1_bytes, (void **)&range.scale1}, {sizes.scale2_bytes, (void **)&range.scale2}};
    for (int a = 0; a < 6; a++)
        if (arrays[a].bytes > 0 && !(*arrays[a].array = malloc((size_t)arrays[a].bytes))) abort();
    memcpy(range.parameter, start, sizeof start);
    CHECK(tess_adam_import(adam, stream, &range, &fresh));
    for (int t = 0; t < STEPS; t++) {
        range.gradient = gradients[t];
        CHECK(tess_step_begin(step, stream, NULL, 0));
        CHECK(tess_adam_step(adam, stream, tess_step_state(step), &range));
    }
    static float got[3][COUNT];
    const tess_adam_values_t values = {got[0], got[1], got[2]};
    CHECK(tess_adam_export(adam, stream, &range, &values));
    CHECK(tess_stream_synchronize(stream, -1));
    compare(layout, sizes.traffic_bytes, (float *[]){got[0], got[1], got[2]});
    for (int a = 0; a < 6; a++) free(*arrays[a].array);
    tess_step_destroy(step);
    tess_adam_destroy(adam);
}

int main(int argc, char **argv)
{
    double spread = argc > 1 ? atof(argv[1]) : 1.0, rate = argc > 2 ? atof(argv[2]) : 1e-4;
    tess_device_t *device;
    tess_stream_t *stream;
    CHECK(tess_device_open("host", &device));
    CHECK(tess_stream_create(device, TESS_PRIORITY_NORMAL, &stream));
    srand(1);
    reference(spread, rate);
    printf("%-15s %7s %14s %14s %14s %14s\n", "layout", "B/par", "weights", "moment 1", "moment 2",
           "its mean");
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++)
        run(device, stream, &layouts[l], rate);
    tess_stream_destroy(stream);
    tess_device_close(device);
    return 0;
}
