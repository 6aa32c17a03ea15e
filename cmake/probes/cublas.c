/* SPDX-License-Identifier: Apache-2.0 */
/* Builds where cuBLAS can be used. */
#include <cublas_v2.h>

int main(void)
{
    cublasHandle_t handle;
    return cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS ? 0 : 1;
}
