/* SPDX-License-Identifier: Apache-2.0 */
/* Sums rows of elements on the host with the fastest twin that this processor can run.
 *
 * Invariant: the choice changes the speed and never a bit of the result.
 */
#include <stdatomic.h>

#include "comm_internal.h"
#include "sum_host.h"

static tessi_sum_function_t choose_twin(void)
{
    tessi_sum_function_t best = tessi_sum_base;
    for (int i = 0; tessi_sum_twins[i]; i++)
        if (tessi_sum_twins[i]->usable()) best = tessi_sum_twins[i]->sum;
    return best;
}

void tessi_sum_host(tess_dtype_t dtype, void *destination, const void *const *sources,
                    int source_count, int64_t count, float scale)
{
    /* Threads that come here first at the same time choose alike. */
    static _Atomic(tessi_sum_function_t) chosen;
    tessi_sum_function_t sum = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (!sum) {
        sum = choose_twin();
        atomic_store_explicit(&chosen, sum, memory_order_relaxed);
    }
    sum(dtype, destination, sources, source_count, count, scale);
}
