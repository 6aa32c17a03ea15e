/* SPDX-License-Identifier: Apache-2.0 */
/* bench_reduce_scatter: bus bandwidth of reduce-scatters, and with --tune the bucket size for
 * reducing gradients. */
#include "bench_sweep.h"
#include "tune.h"

static const bench_program_t program = {
    .name = "bench_reduce_scatter",
    .purpose = "Measures reduce-scatters over a range of sizes and checks every element of the "
               "results; with --tune, finds the bucket size for reducing gradients.",
    .modes = BENCH_MODE_SWEEP | BENCH_MODE_TUNE,
    .collectives = BENCH_REDUCE_SCATTER,
};

static tess_status_t run(bench_session_t *session)
{
    return session->options->mode == BENCH_MODE_TUNE ? tune_run(session) : bench_sweep_run(session);
}

int main(int argc, char **argv)
{
    return bench_main(argc, argv, &program, run);
}
