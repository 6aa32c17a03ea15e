/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA table of optim: every function is one launch on the stream's device.
 *
 * Invariant: nothing here allocates, waits or reads device memory, so all of it can be captured in
 * a CUDA graph.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>

#include "optim_cuda.h"

static tess_status_t launched(int error, const char *what)
{
    if (error == 0 && !tessi_fault("cuda")) return TESS_OK;
    cudaError_t cuda = error ? (cudaError_t)error : cudaErrorUnknown;
    (void)cudaGetLastError(); /* it must not surface again in the next call */
    return tessi_fail(TESS_ERR_CUDA, "cannot queue %s: %s (%s)", what, cudaGetErrorString(cuda),
                      cudaGetErrorName(cuda));
}

static tess_status_t cuda_describe(tess_adam_t *adam)
{
    tess_device_properties_t properties;
    tess_status_t status = tess_device_properties(adam->device, &properties);
    if (status < 0) return status;
    snprintf(adam->description, sizeof adam->description, "cuda, sm_%d%d", properties.compute_major,
             properties.compute_minor);
    return TESS_OK;
}

static tess_status_t cuda_step_decide(tess_step_t *step, tess_stream_t *stream,
                                      const tessi_step_input_t *input)
{
    TESSI_ON_DEVICE(tessi_device_index(step->device));
    int error =
        tessi_step_cuda_decide(&step->config, input, step->state, tess_stream_native(stream));
    return launched(error, "the decision about a step");
}

static tess_status_t cuda_step_rate(tess_step_t *step, tess_stream_t *stream, float learning_rate)
{
    TESSI_ON_DEVICE(tessi_device_index(step->device));
    int error = tessi_step_cuda_rate(step->state, learning_rate, tess_stream_native(stream));
    return launched(error, "a learning rate");
}

static tess_status_t cuda_step_store(tess_step_t *step, tess_stream_t *stream,
                                     const tess_step_state_t *state)
{
    TESSI_ON_DEVICE(tessi_device_index(step->device));
    int error = tessi_step_cuda_store(step->state, state, tess_stream_native(stream));
    return launched(error, "a step's state");
}

static tess_status_t cuda_measure(tess_gradient_t *gradient, tess_stream_t *stream, int64_t slot,
                                  const tess_gradient_piece_t *piece)
{
    TESSI_ON_DEVICE(tessi_device_index(gradient->device));
    int error =
        tessi_gradient_cuda_measure(gradient->slots + slot, piece, tess_stream_native(stream));
    return launched(error, "gradient statistics");
}

static tess_status_t cuda_combine(tess_gradient_t *gradient, tess_stream_t *stream, double *sum)
{
    TESSI_ON_DEVICE(tessi_device_index(gradient->device));
    int error = tessi_gradient_cuda_combine(gradient->slots, gradient->slot_count, sum,
                                            tess_stream_native(stream));
    return launched(error, "the sum of gradient statistics");
}

static tess_status_t cuda_adam_step(tess_adam_t *adam, tess_stream_t *stream,
                                    const tess_step_state_t *state, const tessi_adam_work_t *work)
{
    if (work->element_count == 0) return TESS_OK;
    /* A block has 1024 elements of a range at least, or half a tile, and a grid 2^31 - 1 blocks. */
    if (work->element_count > (int64_t)1024 * INT32_MAX || work->tile_count > INT32_MAX / 2)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%lld elements do not fit in one launch",
                          (long long)work->element_count);
    TESSI_ON_DEVICE(tessi_device_index(adam->device));
    tessi_adam_launch_t launch = {adam->constants, state, *work};
    void *native = tess_stream_native(stream);
    int error;
    if (adam->config.moments == TESS_ADAM_MOMENTS_FP32)
        error = tessi_adam_cuda_fp32(&adam->config, &launch, native);
    else if (adam->config.moments == TESS_ADAM_MOMENTS_BF16)
        error = tessi_adam_cuda_bf16(&adam->config, &launch, native);
    else error = tessi_adam_cuda_8bit(&adam->config, &launch, native);
    return launched(error, "an Adam step");
}

static tess_status_t cuda_adam_export(tess_adam_t *adam, tess_stream_t *stream,
                                      const tess_adam_range_t *range,
                                      const tess_adam_values_t *values)
{
    if (range->count == 0) return TESS_OK;
    TESSI_ON_DEVICE(tessi_device_index(adam->device));
    int error = tessi_adam_cuda_export(&adam->config, range, values, tess_stream_native(stream));
    return launched(error, "the export of Adam's state");
}

static tess_status_t cuda_adam_import(tess_adam_t *adam, tess_stream_t *stream,
                                      const tess_adam_range_t *range,
                                      const tess_adam_values_t *values)
{
    if (range->count == 0) return TESS_OK;
    TESSI_ON_DEVICE(tessi_device_index(adam->device));
    int error = tessi_adam_cuda_import(&adam->config, range, values, tess_stream_native(stream));
    return launched(error, "the import of Adam's state");
}

static const tessi_optim_ops_t cuda_ops = {
    .describe = cuda_describe,
    .step_decide = cuda_step_decide,
    .step_rate = cuda_step_rate,
    .step_store = cuda_step_store,
    .measure = cuda_measure,
    .combine = cuda_combine,
    .tile_elements = TESSI_ADAM_CUDA_TILE,
    .adam_step = cuda_adam_step,
    .adam_export = cuda_adam_export,
    .adam_import = cuda_adam_import,
};

const tessi_optim_ops_t *const tessi_optim_cuda = &cuda_ops;
