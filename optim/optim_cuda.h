/* SPDX-License-Identifier: Apache-2.0 */
/* The launchers behind the CUDA table of optim: what optim_cuda.c calls and the .cu files define.
 * They queue on `stream`, which is a cudaStream_t, on the current device, and return CUDA's error.
 */
#ifndef TESSERA_OPTIM_OPTIM_CUDA_H
#define TESSERA_OPTIM_OPTIM_CUDA_H

#include "optim_internal.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What every Adam kernel gets, by value. */
typedef struct tessi_adam_launch {
    tessi_adam_constants_t constants;
    const tess_step_state_t *state;
    tessi_adam_work_t work;
} tessi_adam_launch_t;

/* Elements of a list's tile. */
#define TESSI_ADAM_CUDA_TILE 4096

/* One file a kind of moments. 0 or a cudaError_t. */
int tessi_adam_cuda_fp32(const tess_adam_config_t *config, const tessi_adam_launch_t *launch,
                         void *stream);
int tessi_adam_cuda_bf16(const tess_adam_config_t *config, const tessi_adam_launch_t *launch,
                         void *stream);
int tessi_adam_cuda_8bit(const tess_adam_config_t *config, const tessi_adam_launch_t *launch,
                         void *stream);

int tessi_adam_cuda_export(const tess_adam_config_t *config, const tess_adam_range_t *range,
                           const tess_adam_values_t *values, void *stream);
int tessi_adam_cuda_import(const tess_adam_config_t *config, const tess_adam_range_t *range,
                           const tess_adam_values_t *values, void *stream);

int tessi_gradient_cuda_measure(tessi_gradient_slot_t *slot, const tess_gradient_piece_t *piece,
                                void *stream);
int tessi_gradient_cuda_combine(const tessi_gradient_slot_t *slots, int64_t slot_count, double *sum,
                                void *stream);

int tessi_step_cuda_decide(const tess_step_config_t *config, const tessi_step_input_t *input,
                           tess_step_state_t *state, void *stream);
int tessi_step_cuda_rate(tess_step_state_t *state, float learning_rate, void *stream);
int tessi_step_cuda_store(tess_step_state_t *state, const tess_step_state_t *value, void *stream);

#ifdef __cplusplus
}
#endif
#endif
