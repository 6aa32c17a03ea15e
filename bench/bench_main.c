/* SPDX-License-Identifier: Apache-2.0 */
/* A benchmark's main: options, local ranks, session, run, one sentence on failure, exit code.
 *
 * Ranks are forked before CUDA, threads or a world exist in this process.
 */
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

#include "bench_session.h"
#include "core/internal.h"

#define HOST_RANKS_MIN 2
#define HOST_RANKS_MAX 8

int bench_exit_code(tess_status_t status)
{
    if (status >= 0) return BENCH_EXIT_OK;
    if (status == TESS_ERR_TIMEOUT) return BENCH_EXIT_TIMEOUT;
    return status == TESS_ERR_INVALID_ARGUMENT ? BENCH_EXIT_USAGE : BENCH_EXIT_FAILED;
}

/* Enough ranks to show communication, and few enough that the default run of a large machine stays
 * short; --ranks gives any other number. */
static int host_rank_count(void)
{
    cpu_set_t cpus;
    int count = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
    if (count < HOST_RANKS_MIN) return HOST_RANKS_MIN;
    return count > HOST_RANKS_MAX ? HOST_RANKS_MAX : count;
}

static tess_status_t choose_device(bench_options_t *options, int *device_count)
{
    *device_count = 0;
    if (options->device == BENCH_DEVICE_HOST) return TESS_OK;
    *device_count = tess_launch_cuda_devices();
    if (options->device == BENCH_DEVICE_CUDA && *device_count <= 0)
        return tessi_fail(TESS_ERR_NOT_FOUND,
                          "there is no CUDA device here that this program can use; tessera-info "
                          "says more, --device host runs without");
    options->device = *device_count > 0 ? BENCH_DEVICE_CUDA : BENCH_DEVICE_HOST;
    return TESS_OK;
}

/* Ranks from a launcher are taken as they are; without one, this process starts its own. */
static tess_status_t start_ranks(bench_options_t *options, tess_launch_role_t *role, int *exit_code)
{
    int device_count;
    tess_status_t status = choose_device(options, &device_count);
    if (status < 0) return status;
    *role = TESS_LAUNCH_RANK;
    if (tess_launch_detected() && options->ranks == BENCH_UNSET) return TESS_OK;
    int ranks = (int)options->ranks;
    if (ranks == BENCH_UNSET && options->program->ranks > 0) ranks = options->program->ranks;
    if (ranks == BENCH_UNSET) ranks = device_count > 0 ? device_count : host_rank_count();
    if (device_count > 0 && ranks > device_count && !tess_launch_detected())
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "--ranks says %d, but there are %d CUDA devices here; give --device host "
                          "to run ranks on the CPU",
                          ranks, device_count);
    return tess_launch_local(ranks, role, exit_code);
}

/* The deadline of everything in this process, and of the ranks that it starts. */
static void set_deadline(const bench_options_t *options)
{
    char text[24];
    int64_t seconds = options->timeout_s;
    if (seconds == BENCH_UNSET && tessi_option_is_set(TESSI_OPTION_TIMEOUT_MS)) return;
    snprintf(text, sizeof text, "%lld", (long long)(seconds == BENCH_UNSET ? 60 : seconds) * 1000);
    setenv(tessi_option_variable(TESSI_OPTION_TIMEOUT_MS), text, 1);
}

static int run_rank(bench_options_t *options, char **argv, bench_run_t run)
{
    bench_session_t session;
    tess_status_t status = bench_session_open(options, argv, &session);
    if (status >= 0) status = run(&session);
    bench_session_fail(&session, status);
    int code = bench_exit_code(status);
    if (code == BENCH_EXIT_OK && session.wrong_elements > 0) code = BENCH_EXIT_WRONG_DATA;
    if (session.table && (fflush(session.table) || ferror(session.table)) &&
        code == BENCH_EXIT_OK) {
        fprintf(stderr, "%s: the results could not be printed\n", options->program->name);
        code = BENCH_EXIT_FAILED;
    }
    bench_session_close(&session);
    return code;
}

int bench_main(int argc, char **argv, const bench_program_t *program, bench_run_t run)
{
    bench_options_t options;
    bench_options_parse(argc, argv, program, &options);
    signal(SIGPIPE, SIG_IGN); /* a reader that left is an error to report, not a silent death */
    set_deadline(&options);

    tess_launch_role_t role;
    int exit_code = BENCH_EXIT_OK;
    tess_status_t status = start_ranks(&options, &role, &exit_code);
    if (status < 0) {
        fprintf(stderr, "%s: %s\n", program->name, tess_last_error());
        return bench_exit_code(status);
    }
    return role == TESS_LAUNCH_PARENT ? exit_code : run_rank(&options, argv, run);
}
