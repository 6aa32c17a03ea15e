/* SPDX-License-Identifier: Apache-2.0 */
/* bench_overlap: how well bucketed collectives hide behind matrix products. */
#include "overlap.h"

static const bench_program_t program = {
    .name = "bench_overlap",
    .purpose =
        "Runs matrix products beside bucketed all-gathers and reduce-scatters, and shows how "
        "much of the communication they hide.",
    .modes = BENCH_MODE_OVERLAP,
    .collectives = BENCH_ALL_GATHER | BENCH_REDUCE_SCATTER,
};

int main(int argc, char **argv)
{
    return bench_main(argc, argv, &program, overlap_run);
}
