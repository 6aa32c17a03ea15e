/* SPDX-License-Identifier: Apache-2.0 */
/* Builds where NCCL can be used. Names of communicators, which its own logs then show, came with
 * 2.27. */
#include <nccl.h>

#if NCCL_VERSION_CODE < NCCL_VERSION(2, 27, 0)
#error NCCL is older than 2.27
#endif

int main(void)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.commName = "probe";
    int version = 0;
    return ncclGetVersion(&version) == ncclSuccess && config.commName ? 0 : 1;
}
