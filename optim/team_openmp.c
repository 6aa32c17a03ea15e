/* SPDX-License-Identifier: Apache-2.0 */
/* A team of OpenMP threads. Each stream's thread has a team of its own, which OpenMP keeps between
 * calls. Invariant: OpenMP is named in this file alone. */
#include <omp.h>

#include "adam_host.h"

int tessi_team_size(int wanted)
{
    return wanted > 0 ? wanted : omp_get_max_threads();
}

void tessi_team_run(int size, int64_t count, void (*function)(void *argument, int64_t index),
                    void *argument)
{
    int members = count < size ? (int)count : size;
    if (members <= 1) {
        for (int64_t i = 0; i < count; i++) function(argument, i);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(members)
    for (int64_t i = 0; i < count; i++) function(argument, i);
}
