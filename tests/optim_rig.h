/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of optim share: every layout by name, a range of any of them in device memory with
 * guard zones around each array, and the moving of its state to and from the host.
 *
 * All data passes through device memory, so that the same tests run on the host and on CUDA.
 */
#ifndef TESSERA_TESTS_OPTIM_RIG_H
#define TESSERA_TESTS_OPTIM_RIG_H

#include "harness.h"

#include <tessera/adam.h>
#include <tessera/gradient.h>
#include <tessera/step.h>

typedef struct optim_rig {
    tess_device_t *device;
    tess_stream_t *stream;
    double *sum; /* device memory (1): what rig_begin gives to tess_step_begin */
} optim_rig_t;

/* Skips the program where the device under test is CUDA and there is none. */
void rig_open(optim_rig_t *rig, const char *device_name);
void rig_close(optim_rig_t *rig);
/* For cmocka_run_group_tests: *state becomes an open rig of the device under test. */
int rig_setup(void **state);
int rig_teardown(void **state);

void *rig_memory(optim_rig_t *rig, int64_t bytes);
void rig_free(optim_rig_t *rig, void *memory);
/* Both wait for the copy. */
void rig_upload(optim_rig_t *rig, void *to, const void *from, int64_t bytes);
void rig_download(optim_rig_t *rig, void *to, const void *from, int64_t bytes);
void rig_wait(optim_rig_t *rig);

/* Begins the next step with gradients of this sum of squares. */
void rig_begin(optim_rig_t *rig, tess_step_t *step, double sum);
tess_step_t *rig_step_create(optim_rig_t *rig, const tess_step_config_t *config);
/* Waits for what is queued first. */
void rig_step_destroy(optim_rig_t *rig, tess_step_t *step);
tess_step_state_t rig_step_read(optim_rig_t *rig, tess_step_t *step);

/* Every legal layout, with every dtype of parameter. */
typedef struct optim_layout {
    const char *name; /* "master/bf16, moments fp32" */
    tess_adam_weights_t weights;
    tess_adam_moments_t moments;
    tess_dtype_t parameter;
} optim_layout_t;
#define RIG_LAYOUTS 14
extern const optim_layout_t rig_layouts[RIG_LAYOUTS];
#define RIG_GRADIENTS 3
extern const tess_dtype_t rig_gradients[RIG_GRADIENTS];
tess_adam_config_t rig_config(const optim_layout_t *layout, tess_dtype_t gradient);

/* Arrays of a range, in the order of tess_adam_range_t. */
enum {
    RIG_GRADIENT,
    RIG_PARAMETER,
    RIG_MASTER,
    RIG_MOMENT1,
    RIG_MOMENT2,
    RIG_SCALE1,
    RIG_SCALE2,
    RIG_ARRAYS
};
extern const char *const rig_array_names[RIG_ARRAYS];

typedef struct rig_model {
    optim_rig_t *rig;
    tess_adam_t *adam;
    tess_adam_config_t config;
    int64_t count;
    unsigned char *block; /* device memory: all arrays, each between two guard zones */
    int64_t block_bytes;
    int64_t at[RIG_ARRAYS]; /* byte of the block where an array starts */
    int64_t bytes[RIG_ARRAYS], element_bytes[RIG_ARRAYS];
    tess_adam_range_t range; /* weight_decay 0, learning_rate_factor 1, first_index 0 */
} rig_model_t;

/* offsets (RIG_ARRAYS): elements by which each array lies behind a boundary of 256 bytes; NULL:
 * none. State and gradient start at zero. */
void rig_model_open(optim_rig_t *rig, const tess_adam_config_t *config, int64_t count,
                    const int *offsets, rig_model_t *model);
/* Fails the test where a guard zone was touched. */
void rig_model_close(rig_model_t *model);
void rig_model_check_guards(rig_model_t *model);

/* The part [first, first + count) of the model's range, which must start at a block of scales. */
tess_adam_range_t rig_part(const rig_model_t *model, int64_t first, int64_t count);

/* One array to or from the host. */
void rig_get(const rig_model_t *model, int array, void *to);
void rig_put(const rig_model_t *model, int array, const void *from);

/* fp32 values (count) through tess_adam_import and tess_adam_export; NULL leaves one out. */
void rig_import(rig_model_t *model, const float *weights, const float *moment1,
                const float *moment2);
void rig_export(rig_model_t *model, float *weights, float *moment1, float *moment2);

/* Rounds fp32 values (count) to the gradient's dtype and puts them. */
void rig_gradient(rig_model_t *model, const float *values);
void rig_encode(tess_dtype_t dtype, const float *values, int64_t count, void *to);
float rig_decode(tess_dtype_t dtype, const void *from, int64_t index);

/* "remainder, moments bf16, gradient fp16, host, avx2, 2 threads". */
#define RIG_NAME_BYTES 160
const char *rig_describe(const rig_model_t *model, char text[RIG_NAME_BYTES]);

/* Queues one step over the whole range. */
void rig_step(rig_model_t *model, const tess_step_t *step);

/* Fails the test, naming layout, array and element, where two models differ in a bit of their state
 * (all arrays but the gradient). */
void rig_expect_same(rig_model_t *got, rig_model_t *expected, const char *what);

/* Weights, moments and gradient from rig_random_…; the same values for the same seed and count. */
void rig_randomize(rig_model_t *model, uint64_t seed);

/* Weights of a trained model and gradients of many sizes, signs alike; deterministic. */
void rig_random_weights(float *values, int64_t count, uint64_t seed);
void rig_random_gradients(float *values, int64_t count, uint64_t seed);
/* Uniform in [0, 1). */
double rig_uniform(uint64_t *state);
float rig_float_of(uint32_t bits);
uint32_t rig_bits_of(float value);

#endif
