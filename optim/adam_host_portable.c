/* SPDX-License-Identifier: Apache-2.0 */
/* Where the processor is no x86-64 there is one twin, for any processor. */
#include "adam_host.h"

static int always(void)
{
    return 1;
}

static const tessi_adam_twin_t base = {"base", always, &tessi_adam_loops_base};

const tessi_adam_twin_t *const tessi_adam_twins[] = {&base, NULL};
