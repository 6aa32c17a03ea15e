/* SPDX-License-Identifier: Apache-2.0 */
/* bf16 matrix products with fp32 sums through cuBLAS, queued on the stream's cudaStream_t. */
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <stdio.h>

#include "core/internal.h"
#include "gemm.h"

/* What cuBLAS asks for on Hopper; given up front, so that it never allocates beside a collective.
 */
#define WORKSPACE_BYTES (32 << 20)

typedef struct context {
    cublasHandle_t handle;
    void *workspace;
    tess_stream_t *stream; /* the handle's, so that it is set only when it changes */
    int device_index;
} context_t;

static tess_status_t fail_cublas(cublasStatus_t result, const char *what)
{
    return tessi_fail(TESS_ERR_CUDA, "%s: %s", what, cublasGetStatusString(result));
}

static tess_status_t use_device(const context_t *context)
{
    cudaError_t error = cudaSetDevice(context->device_index);
    return error == cudaSuccess ? TESS_OK
                                : tessi_fail(TESS_ERR_CUDA, "cannot use cuda:%d: %s",
                                             context->device_index, cudaGetErrorString(error));
}

static tess_status_t cuda_open(gemm_t *gemm)
{
    tess_status_t status;
    tess_device_properties_t properties;
    TESS_TRY(tess_device_properties(gemm->device, &properties), done);
    status = TESS_ERR_OUT_OF_MEMORY;
    context_t *context = tessi_calloc(1, sizeof *context);
    if (!context) goto done;
    context->device_index = properties.index;
    TESS_TRY(use_device(context), free_context);
    TESS_TRY(tess_memory_allocate(gemm->device, TESS_MEMORY_DEVICE, WORKSPACE_BYTES,
                                  &context->workspace),
             free_context);
    cublasStatus_t result = cublasCreate(&context->handle);
    if (result != CUBLAS_STATUS_SUCCESS) {
        status = fail_cublas(result, "cublasCreate");
        goto free_workspace;
    }
    int version = 0;
    (void)cublasGetVersion(context->handle, &version);
    snprintf(gemm->library, sizeof gemm->library, "cuBLAS %d.%d.%d", version / 10000,
             version / 100 % 100, version % 100);
    gemm->context = context;
    return TESS_OK;

free_workspace:
    tess_memory_free(gemm->device, TESS_MEMORY_DEVICE, context->workspace);
free_context:
    tessi_free(context);
done:
    return status;
}

static void cuda_close(gemm_t *gemm)
{
    context_t *context = gemm->context;
    (void)cublasDestroy(context->handle);
    tess_memory_free(gemm->device, TESS_MEMORY_DEVICE, context->workspace);
    tessi_free(context);
}

static tess_status_t set_stream(context_t *context, tess_stream_t *stream)
{
    tess_status_t status = use_device(context);
    if (status < 0 || context->stream == stream) return status;
    cublasStatus_t result = cublasSetStream(context->handle, tess_stream_native(stream));
    /* Setting the stream takes the workspace away again. */
    if (result == CUBLAS_STATUS_SUCCESS)
        result = cublasSetWorkspace(context->handle, context->workspace, WORKSPACE_BYTES);
    if (result != CUBLAS_STATUS_SUCCESS) return fail_cublas(result, "cublasSetStream");
    context->stream = stream;
    return TESS_OK;
}

static tess_status_t cuda_queue(gemm_t *gemm, tess_stream_t *stream)
{
    static const float one = 1, zero = 0;
    context_t *context = gemm->context;
    int m = (int)gemm->shape.m, n = (int)gemm->shape.n, k = (int)gemm->shape.k;
    tess_status_t status = set_stream(context, stream);
    if (status < 0) return status;
    /* Row by row, C = A B is what cuBLAS, which counts by columns, calls C' = B' A'. */
    cublasStatus_t result = cublasGemmEx(
        context->handle, CUBLAS_OP_N, CUBLAS_OP_N, n, m, k, &one, gemm->b, CUDA_R_16BF, n, gemm->a,
        CUDA_R_16BF, k, &zero, gemm->c, CUDA_R_16BF, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return result == CUBLAS_STATUS_SUCCESS ? TESS_OK : fail_cublas(result, "cublasGemmEx");
}

const gemm_ops_t gemm_ops_cuda = {
    .dtype = TESS_DTYPE_BF16,
    .open = cuda_open,
    .close = cuda_close,
    .queue = cuda_queue,
};
