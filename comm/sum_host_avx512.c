/* SPDX-License-Identifier: Apache-2.0 */
/* Sums for x86-64 with AVX-512 (F, BW, DQ, VL); CMake sets the flags. Invariant: same bits as the
 * other twins. */
#include "sum_host_loops.h"

void tessi_sum_avx512(tess_dtype_t dtype, void *destination, const void *const *sources,
                      int source_count, int64_t count, float scale)
{
    sum_any(dtype, destination, sources, source_count, count, scale);
}
