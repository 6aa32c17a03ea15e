/* SPDX-License-Identifier: Apache-2.0 */
/* A launch whose result is its own: <<<>>> leaves its error in the thread's last one, where it
 * mixes with what the application's own calls have left there. */
#ifndef TESSERA_OPTIM_LAUNCH_CUDA_CUH
#define TESSERA_OPTIM_LAUNCH_CUDA_CUH

#include <cuda_runtime_api.h>
#include <utility>

/* stream is a cudaStream_t. 0 or a cudaError_t. */
template <typename... Parameters, typename... Arguments>
static int tessi_launch(void (*kernel)(Parameters...), int64_t blocks, unsigned threads,
                        void *stream, Arguments... arguments)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)blocks);
    config.blockDim = dim3(threads);
    config.stream = (cudaStream_t)stream;
    return (int)cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

#endif
