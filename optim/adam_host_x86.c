/* SPDX-License-Identifier: Apache-2.0 */
/* Which twins an x86-64 processor can run.
 *
 * Invariant: a twin is used only where the processor has every instruction set that CMake allowed
 * its compiler.
 */
#include "adam_host.h"

static int always(void)
{
    return 1;
}

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static int has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma");
}

static const tessi_adam_twin_t base = {"base", always, &tessi_adam_loops_base};
static const tessi_adam_twin_t avx2 = {"avx2", has_avx2, &tessi_adam_loops_avx2};
static const tessi_adam_twin_t avx512 = {"avx512", has_avx512, &tessi_adam_loops_avx512};

const tessi_adam_twin_t *const tessi_adam_twins[] = {&base, &avx2, &avx512, NULL};
