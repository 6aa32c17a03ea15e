/* SPDX-License-Identifier: Apache-2.0 */
/* OpenMP's threads. Invariant: the benchmark names OpenMP in this file alone. How many threads a
 * team has by itself is kept for each thread that starts one, so it is set on the stream's own.
 */
#include <omp.h>

#include "adam_bench.h"

void adam_threads_run(int threads, int64_t count, void (*function)(void *argument, int64_t index),
                      void *argument)
{
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t i = 0; i < count; i++) function(argument, i);
}

int adam_threads_given(int threads)
{
    int given = 0;
#pragma omp parallel num_threads(threads) reduction(+ : given)
    given += 1;
    return given;
}

tess_status_t adam_threads_limit(void *threads)
{
    omp_set_num_threads(*(const int *)threads);
    return TESS_OK;
}
