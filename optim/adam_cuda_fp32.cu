/* SPDX-License-Identifier: Apache-2.0 */
/* Adam with moments in fp32; twin of the loops in adam_host_loops.h. */
#include "adam_cuda_float.cuh"

template <int WEIGHTS, int GRADIENT> using launcher = adam_launcher<4, 4, 1024, WEIGHTS, GRADIENT>;

int tessi_adam_cuda_fp32(const tess_adam_config_t *config, const tessi_adam_launch_t *launch,
                         void *stream)
{
    return launch_for<launcher>(config, launch, stream);
}
