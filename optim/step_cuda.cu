/* SPDX-License-Identifier: Apache-2.0 */
/* The decision about a step, in a kernel of one thread; the rules are in step_math.h. */
#include "launch_cuda.cuh"
#include "optim_cuda.h"

/* Reads 8 bytes a rank and about 200 bytes of state. Bound by: the latency of a launch.
 * Measured share: not measured, it ends within the launch of what follows. */
static __global__ void decide_kernel(tess_step_config_t config, tessi_step_input_t input,
                                     tess_step_state_t *state)
{
    tess_step_state_t next = *state;
    tessi_step_decide(&config, &input, &next);
    *state = next;
}

/* Writes 4 bytes. Bound by: the latency of a launch. Measured share: not measured. */
static __global__ void rate_kernel(tess_step_state_t *state, float learning_rate)
{
    state->next_learning_rate = learning_rate;
}

/* Writes the state. Bound by: the latency of a launch. Measured share: not measured. */
static __global__ void store_kernel(tess_step_state_t *state, tess_step_state_t value)
{
    *state = value;
}

int tessi_step_cuda_decide(const tess_step_config_t *config, const tessi_step_input_t *input,
                           tess_step_state_t *state, void *stream)
{
    return tessi_launch(decide_kernel, 1, 1, stream, *config, *input, state);
}

int tessi_step_cuda_rate(tess_step_state_t *state, float learning_rate, void *stream)
{
    return tessi_launch(rate_kernel, 1, 1, stream, state, learning_rate);
}

int tessi_step_cuda_store(tess_step_state_t *state, const tess_step_state_t *value, void *stream)
{
    return tessi_launch(store_kernel, 1, 1, stream, state, *value);
}
