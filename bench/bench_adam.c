/* SPDX-License-Identifier: Apache-2.0 */
/* bench_adam: how close Adam's one pass over memory comes to a copy. */
#include "adam_bench.h"

static const bench_program_t program = {
    .name = "bench_adam",
    .purpose = "Times a fused Adam step in every layout of weights and moments, beside a copy of "
               "as many bytes.",
    .modes = BENCH_MODE_ADAM,
    .no_transport = 1,
    .ranks = 1,
};

int main(int argc, char **argv)
{
    return bench_main(argc, argv, &program, adam_bench_run);
}
