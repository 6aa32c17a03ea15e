/* SPDX-License-Identifier: Apache-2.0 */
/* Builds where the CUDA runtime can be used from C. */
#include <cuda_runtime_api.h>

int main(void)
{
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? 0 : 1;
}
