/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in where there is no OpenMP: a team of the calling thread alone. */
#include "adam_host.h"

int tessi_team_size(int wanted)
{
    (void)wanted;
    return 1;
}

void tessi_team_run(int size, int64_t count, void (*function)(void *argument, int64_t index),
                    void *argument)
{
    (void)size;
    for (int64_t i = 0; i < count; i++) function(argument, i);
}
