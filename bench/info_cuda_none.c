/* SPDX-License-Identifier: Apache-2.0 */
/* Without CUDA there is nothing to say beyond the row that the build already has. */
#include "info.h"

void info_add_cuda(info_report_t *report)
{
    (void)report;
}
