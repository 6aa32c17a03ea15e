/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges of every layout in device memory.
 *
 * Invariant: whatever lies in a model's block outside its arrays holds RIG_GUARD_BYTE, and under
 * the address sanitizer cannot be read either.
 */
#include "optim_rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

#define RIG_GUARD_BYTE 0x5a
#define RIG_ALIGNMENT 256

const optim_layout_t rig_layouts[RIG_LAYOUTS] = {
    {"master bf16, moments fp32", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_FP32, TESS_DTYPE_BF16},
    {"master fp16, moments fp32", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_FP32, TESS_DTYPE_FP16},
    {"master fp32, moments fp32", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_FP32, TESS_DTYPE_FP32},
    {"remainder, moments fp32", TESS_ADAM_REMAINDER, TESS_ADAM_MOMENTS_FP32, TESS_DTYPE_BF16},
    {"bf16, moments fp32", TESS_ADAM_BF16, TESS_ADAM_MOMENTS_FP32, TESS_DTYPE_BF16},
    {"master bf16, moments bf16", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_BF16, TESS_DTYPE_BF16},
    {"master fp16, moments bf16", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_BF16, TESS_DTYPE_FP16},
    {"master fp32, moments bf16", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_BF16, TESS_DTYPE_FP32},
    {"remainder, moments bf16", TESS_ADAM_REMAINDER, TESS_ADAM_MOMENTS_BF16, TESS_DTYPE_BF16},
    {"bf16, moments bf16", TESS_ADAM_BF16, TESS_ADAM_MOMENTS_BF16, TESS_DTYPE_BF16},
    {"master bf16, moments 8bit", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_8BIT, TESS_DTYPE_BF16},
    {"master fp16, moments 8bit", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_8BIT, TESS_DTYPE_FP16},
    {"master fp32, moments 8bit", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_8BIT, TESS_DTYPE_FP32},
    {"bf16, moments 8bit", TESS_ADAM_BF16, TESS_ADAM_MOMENTS_8BIT, TESS_DTYPE_BF16},
};
const tess_dtype_t rig_gradients[RIG_GRADIENTS] = {TESS_DTYPE_BF16, TESS_DTYPE_FP16,
                                                   TESS_DTYPE_FP32};
const char *const rig_array_names[RIG_ARRAYS] = {"gradient", "parameter", "master", "moment1",
                                                 "moment2",  "scale1",    "scale2"};

void rig_open(optim_rig_t *rig, const char *device_name)
{
    if (strcmp(device_name, "host") != 0 && tess_device_count(TESS_DEVICE_CUDA) < 1)
        test_skip("no CUDA device here");
    memset(rig, 0, sizeof *rig);
    TEST_OK(tess_device_open(device_name, &rig->device));
    TEST_OK(tess_stream_create(rig->device, TESS_PRIORITY_NORMAL, &rig->stream));
    rig->sum = rig_memory(rig, sizeof *rig->sum);
}

void rig_close(optim_rig_t *rig)
{
    TEST_OK(tess_stream_synchronize(rig->stream, -1));
    rig_free(rig, rig->sum);
    tess_stream_destroy(rig->stream);
    tess_device_close(rig->device);
}

int rig_setup(void **state)
{
    static optim_rig_t rig;
    rig_open(&rig, test_device_name(0));
    *state = &rig;
    return 0;
}

int rig_teardown(void **state)
{
    rig_close(*state);
    return 0;
}

void *rig_memory(optim_rig_t *rig, int64_t bytes)
{
    void *memory = NULL;
    TEST_OK(tess_memory_allocate(rig->device, TESS_MEMORY_DEVICE, bytes, &memory));
    return memory;
}

void rig_free(optim_rig_t *rig, void *memory)
{
    tess_memory_free(rig->device, TESS_MEMORY_DEVICE, memory);
}

void rig_wait(optim_rig_t *rig)
{
    TEST_OK(tess_stream_synchronize(rig->stream, -1));
}

void rig_upload(optim_rig_t *rig, void *to, const void *from, int64_t bytes)
{
    if (bytes > 0) TEST_OK(tess_stream_copy(rig->stream, to, from, bytes));
    rig_wait(rig);
}

void rig_download(optim_rig_t *rig, void *to, const void *from, int64_t bytes)
{
    rig_upload(rig, to, from, bytes);
}

void rig_begin(optim_rig_t *rig, tess_step_t *step, double sum)
{
    rig_upload(rig, rig->sum, &sum, sizeof sum);
    TEST_OK(tess_step_begin(step, rig->stream, rig->sum, 1));
}

tess_step_t *rig_step_create(optim_rig_t *rig, const tess_step_config_t *config)
{
    tess_step_t *step = NULL;
    TEST_OK(tess_step_create(rig->device, config, &step));
    return step;
}

void rig_step_destroy(optim_rig_t *rig, tess_step_t *step)
{
    rig_wait(rig);
    tess_step_destroy(step);
}

tess_step_state_t rig_step_read(optim_rig_t *rig, tess_step_t *step)
{
    tess_step_state_t state;
    TEST_OK(tess_step_read(step, rig->stream, &state));
    return state;
}

tess_adam_config_t rig_config(const optim_layout_t *layout, tess_dtype_t gradient)
{
    tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;
    config.weights = layout->weights;
    config.moments = layout->moments;
    config.parameter = layout->parameter;
    config.gradient = gradient;
    return config;
}

/* Bytes of one element of each array, from the layouts as the header describes them; 0: none. */
static void element_sizes(const tess_adam_config_t *config, int64_t *bytes)
{
    static const int64_t moments[] = {4, 2, 1};
    int is_own_master = config->weights == TESS_ADAM_MASTER && config->parameter == TESS_DTYPE_FP32;
    bytes[RIG_GRADIENT] = tess_dtype_bytes(config->gradient);
    bytes[RIG_PARAMETER] = is_own_master ? 0 : 2;
    bytes[RIG_MASTER] = config->weights == TESS_ADAM_MASTER      ? 4
                        : config->weights == TESS_ADAM_REMAINDER ? 2
                                                                 : 0;
    bytes[RIG_MOMENT1] = bytes[RIG_MOMENT2] = moments[config->moments];
    bytes[RIG_SCALE1] = bytes[RIG_SCALE2] = config->moments == TESS_ADAM_MOMENTS_8BIT ? 4 : 0;
}

static int64_t elements_of(int array, int64_t count)
{
    return array >= RIG_SCALE1 ? (count + TESS_ADAM_BLOCK - 1) / TESS_ADAM_BLOCK : count;
}

/* Between the arrays; on the host, and only where the sanitizer can. */
static void poison_guards(rig_model_t *model, int is_poisoned)
{
    if (tess_device_kind(model->rig->device) != TESS_DEVICE_HOST) return;
    ASAN_UNPOISON_MEMORY_REGION(model->block, (size_t)model->block_bytes);
    if (!is_poisoned) return;
    ASAN_POISON_MEMORY_REGION(model->block, (size_t)model->block_bytes);
    for (int a = 0; a < RIG_ARRAYS; a++)
        ASAN_UNPOISON_MEMORY_REGION(model->block + model->at[a], (size_t)model->bytes[a]);
}

static void point_range(rig_model_t *model)
{
    unsigned char *arrays[RIG_ARRAYS];
    for (int a = 0; a < RIG_ARRAYS; a++)
        arrays[a] = model->element_bytes[a] ? model->block + model->at[a] : NULL;
    model->range = (tess_adam_range_t){.count = model->count,
                                       .gradient = arrays[RIG_GRADIENT],
                                       .parameter = arrays[RIG_PARAMETER],
                                       .master = arrays[RIG_MASTER],
                                       .moment1 = arrays[RIG_MOMENT1],
                                       .moment2 = arrays[RIG_MOMENT2],
                                       .scale1 = (float *)(void *)arrays[RIG_SCALE1],
                                       .scale2 = (float *)(void *)arrays[RIG_SCALE2],
                                       .learning_rate_factor = 1.0f};
}

void rig_model_open(optim_rig_t *rig, const tess_adam_config_t *config, int64_t count,
                    const int *offsets, rig_model_t *model)
{
    memset(model, 0, sizeof *model);
    model->rig = rig;
    model->config = *config;
    model->count = count;
    TEST_OK(tess_adam_create(rig->device, config, &model->adam));
    element_sizes(config, model->element_bytes);
    int64_t end = 0;
    for (int a = 0; a < RIG_ARRAYS; a++) {
        model->bytes[a] = elements_of(a, count) * model->element_bytes[a];
        model->at[a] = end + RIG_ALIGNMENT;
        if (offsets) model->at[a] += offsets[a] * model->element_bytes[a];
        int64_t array_end = model->at[a] + model->bytes[a] + RIG_ALIGNMENT;
        end = (array_end + RIG_ALIGNMENT - 1) / RIG_ALIGNMENT * RIG_ALIGNMENT;
    }
    model->block_bytes = end;
    model->block = rig_memory(rig, end);
    TEST_OK(tess_stream_fill(rig->stream, model->block, RIG_GUARD_BYTE, end));
    for (int a = 0; a < RIG_ARRAYS; a++)
        if (model->bytes[a] > 0)
            TEST_OK(tess_stream_fill(rig->stream, model->block + model->at[a], 0, model->bytes[a]));
    rig_wait(rig);
    point_range(model);
    poison_guards(model, 1);
}

void rig_model_check_guards(rig_model_t *model)
{
    unsigned char *image = malloc((size_t)model->block_bytes);
    assert_non_null(image);
    rig_wait(model->rig);
    poison_guards(model, 0);
    rig_download(model->rig, image, model->block, model->block_bytes);
    poison_guards(model, 1);
    int64_t at = 0;
    for (int a = 0; a <= RIG_ARRAYS; a++) {
        int64_t end = a < RIG_ARRAYS ? model->at[a] : model->block_bytes;
        for (; at < end; at++)
            if (image[at] != RIG_GUARD_BYTE)
                fail_msg("byte %lld %s array %s was overwritten with %02x (count %lld)",
                         (long long)(a < RIG_ARRAYS ? end - at : at - model->at[a - 1]),
                         a < RIG_ARRAYS ? "before" : "behind the start of",
                         rig_array_names[a < RIG_ARRAYS ? a : a - 1], image[at],
                         (long long)model->count);
        if (a < RIG_ARRAYS) at = end + model->bytes[a];
    }
    free(image);
}

void rig_model_close(rig_model_t *model)
{
    rig_model_check_guards(model);
    poison_guards(model, 0);
    rig_free(model->rig, model->block);
    tess_adam_destroy(model->adam);
    memset(model, 0, sizeof *model);
}

tess_adam_range_t rig_part(const rig_model_t *model, int64_t first, int64_t count)
{
    tess_adam_range_t part = model->range;
    part.count = count;
    part.first_index += first;
    part.gradient = (const char *)part.gradient + first * model->element_bytes[RIG_GRADIENT];
    void **arrays[] = {&part.parameter, &part.master, &part.moment1, &part.moment2};
    for (int a = 0; a < 4; a++)
        if (*arrays[a])
            *arrays[a] = (char *)*arrays[a] + first * model->element_bytes[RIG_PARAMETER + a];
    if (part.scale1) {
        assert_int_equal(first % TESS_ADAM_BLOCK, 0);
        part.scale1 += first / TESS_ADAM_BLOCK;
        part.scale2 += first / TESS_ADAM_BLOCK;
    }
    return part;
}

void rig_get(const rig_model_t *model, int array, void *to)
{
    rig_download(model->rig, to, model->block + model->at[array], model->bytes[array]);
}

void rig_put(const rig_model_t *model, int array, const void *from)
{
    rig_upload(model->rig, model->block + model->at[array], from, model->bytes[array]);
}

void rig_import(rig_model_t *model, const float *weights, const float *moment1,
                const float *moment2)
{
    const float *from[] = {weights, moment1, moment2};
    float *values[3] = {NULL, NULL, NULL};
    int64_t bytes = model->count * (int64_t)sizeof(float);
    for (int n = 0; n < 3; n++) {
        if (!from[n]) continue;
        values[n] = rig_memory(model->rig, bytes);
        rig_upload(model->rig, values[n], from[n], bytes);
    }
    tess_adam_range_t range = model->range;
    range.gradient = NULL;
    TEST_OK(tess_adam_import(model->adam, model->rig->stream, &range,
                             &(tess_adam_values_t){values[0], values[1], values[2]}));
    rig_wait(model->rig);
    for (int n = 0; n < 3; n++) rig_free(model->rig, values[n]);
}

void rig_export(rig_model_t *model, float *weights, float *moment1, float *moment2)
{
    float *to[] = {weights, moment1, moment2};
    float *values[3] = {NULL, NULL, NULL};
    int64_t bytes = model->count * (int64_t)sizeof(float);
    for (int n = 0; n < 3; n++)
        if (to[n]) values[n] = rig_memory(model->rig, bytes);
    tess_adam_range_t range = model->range;
    range.gradient = NULL;
    TEST_OK(tess_adam_export(model->adam, model->rig->stream, &range,
                             &(tess_adam_values_t){values[0], values[1], values[2]}));
    for (int n = 0; n < 3; n++) {
        if (to[n]) rig_download(model->rig, to[n], values[n], bytes);
        rig_free(model->rig, values[n]);
    }
}

void rig_encode(tess_dtype_t dtype, const float *values, int64_t count, void *to)
{
    if (dtype == TESS_DTYPE_FP32) {
        memcpy(to, values, (size_t)count * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        uint16_t bits = dtype == TESS_DTYPE_BF16 ? tess_bf16_from_float(values[i])
                                                 : tess_fp16_from_float(values[i]);
        memcpy((char *)to + 2 * i, &bits, 2);
    }
}

float rig_decode(tess_dtype_t dtype, const void *from, int64_t index)
{
    float value;
    uint16_t bits;
    if (dtype == TESS_DTYPE_FP32) {
        memcpy(&value, (const char *)from + 4 * index, 4);
        return value;
    }
    memcpy(&bits, (const char *)from + 2 * index, 2);
    return dtype == TESS_DTYPE_BF16 ? tess_bf16_to_float(bits) : tess_fp16_to_float(bits);
}

void rig_gradient(rig_model_t *model, const float *values)
{
    void *encoded = malloc((size_t)model->bytes[RIG_GRADIENT] + 1);
    assert_non_null(encoded);
    rig_encode(model->config.gradient, values, model->count, encoded);
    rig_put(model, RIG_GRADIENT, encoded);
    free(encoded);
}

void rig_step(rig_model_t *model, const tess_step_t *step)
{
    TEST_OK(tess_adam_step(model->adam, model->rig->stream, tess_step_state(step), &model->range));
}

const char *rig_describe(const rig_model_t *model, char text[RIG_NAME_BYTES])
{
    const char *name = "?";
    for (int n = 0; n < RIG_LAYOUTS; n++)
        if (rig_layouts[n].weights == model->config.weights &&
            rig_layouts[n].moments == model->config.moments &&
            rig_layouts[n].parameter == model->config.parameter)
            name = rig_layouts[n].name;
    snprintf(text, RIG_NAME_BYTES, "%s, gradient %s, %s", name,
             tess_dtype_name(model->config.gradient), tess_adam_description(model->adam));
    return text;
}

static uint32_t element_bits(const unsigned char *array, int64_t element_bytes, int64_t index)
{
    uint32_t bits = 0;
    memcpy(&bits, array + index * element_bytes, (size_t)element_bytes);
    return bits;
}

void rig_expect_same(rig_model_t *got, rig_model_t *expected, const char *what)
{
    for (int a = RIG_PARAMETER; a < RIG_ARRAYS; a++) {
        assert_int_equal(got->bytes[a], expected->bytes[a]);
        if (got->bytes[a] == 0) continue;
        unsigned char *ours = malloc((size_t)got->bytes[a]);
        unsigned char *theirs = malloc((size_t)got->bytes[a]);
        assert_non_null(ours);
        assert_non_null(theirs);
        rig_get(got, a, ours);
        rig_get(expected, a, theirs);
        for (int64_t i = 0; memcmp(ours, theirs, (size_t)got->bytes[a]) != 0; i++) {
            uint32_t our_bits = element_bits(ours, got->element_bytes[a], i);
            uint32_t their_bits = element_bits(theirs, got->element_bytes[a], i);
            if (our_bits == their_bits) continue;
            char text[RIG_NAME_BYTES];
            fail_msg("%s: %s: %s[%lld] of %lld is %08x, expected %08x", what,
                     rig_describe(got, text), rig_array_names[a], (long long)i,
                     (long long)got->count, our_bits, their_bits);
        }
        free(ours);
        free(theirs);
    }
}

void rig_randomize(rig_model_t *model, uint64_t seed)
{
    size_t count = (size_t)model->count;
    float *values = malloc((4 * count + 1) * sizeof *values);
    assert_non_null(values);
    float *weights = values, *moment1 = values + count, *moment2 = moment1 + count;
    float *gradients = moment2 + count;
    rig_random_weights(weights, model->count, seed);
    rig_random_gradients(moment1, model->count, seed + 1);
    rig_random_gradients(gradients, model->count, seed + 2);
    for (size_t i = 0; i < count; i++) moment2[i] = 2.0f * moment1[i] * moment1[i];
    rig_import(model, weights, moment1, moment2);
    rig_gradient(model, gradients);
    free(values);
}

double rig_uniform(uint64_t *state)
{
    return (double)(test_random(state) >> 11) * 0x1p-53;
}

void rig_random_weights(float *values, int64_t count, uint64_t seed)
{
    for (int64_t i = 0; i < count; i++) values[i] = (float)(2.0 * rig_uniform(&seed) - 1.0);
}

/* Between 2^-12 and 2^3 in size. */
void rig_random_gradients(float *values, int64_t count, uint64_t seed)
{
    for (int64_t i = 0; i < count; i++) {
        double size = exp2(15.0 * rig_uniform(&seed) - 12.0);
        values[i] = (float)(rig_uniform(&seed) < 0.5 ? -size : size);
    }
}

float rig_float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint32_t rig_bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
