/* SPDX-License-Identifier: Apache-2.0 */
/* Builds where the NVTX3 headers can be used. */
#include <nvtx3/nvToolsExt.h>

int main(void)
{
    nvtxRangePushA("probe");
    return nvtxRangePop() < 0;
}
