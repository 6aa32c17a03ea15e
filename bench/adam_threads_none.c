/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in where there is no OpenMP: everything runs on the calling thread. */
#include "adam_bench.h"

void adam_threads_run(int threads, int64_t count, void (*function)(void *argument, int64_t index),
                      void *argument)
{
    (void)threads;
    for (int64_t i = 0; i < count; i++) function(argument, i);
}

int adam_threads_given(int threads)
{
    (void)threads;
    return 1;
}

tess_status_t adam_threads_limit(void *threads)
{
    (void)threads;
    return TESS_OK;
}
