/* SPDX-License-Identifier: Apache-2.0 */
/* Stands where gemm_cuda.c would in a build without cuBLAS, and says so. */
#include "core/internal.h"
#include "gemm.h"

static tess_status_t missing_open(gemm_t *gemm)
{
    (void)gemm;
    return tessi_fail(TESS_ERR_UNSUPPORTED,
                      "matrix products on CUDA devices need cuBLAS, and this program was built "
                      "without it");
}

const gemm_ops_t gemm_ops_cuda = {
    .dtype = TESS_DTYPE_BF16,
    .open = missing_open,
};
