/* SPDX-License-Identifier: Apache-2.0 */
/* The sweep's table in the columns of nccl-tests, and what is added to them on the right: the
 * route, on the host the share of memcpy, with several cases the ratio to the first, and
 * percentiles.
 */
#include <string.h>

#include "bench_sweep.h"

const char *bench_collective_name(bench_collective_t collective)
{
    return collective == BENCH_ALL_GATHER ? "all_gather" : "reduce_scatter";
}

const char *bench_reduction_name(bench_collective_t collective, tess_reduction_t reduction)
{
    if (collective == BENCH_ALL_GATHER) return "none";
    return reduction == TESS_AVERAGE ? "avg" : "sum";
}

const char *bench_memory_name(bench_memory_t memory)
{
    return memory == BENCH_MEMORY_REGISTERED ? "registered" : "user";
}

static void print_parameters(bench_sweep_t *sweep)
{
    bench_session_t *session = sweep->session;
    const bench_options_t *options = session->options;
    bench_print(session,
                "# minbytes %lld maxbytes %lld warmup %lld iters %lld repetitions %lld check %lld "
                "seed %lld\n",
                (long long)sweep->sizes[0], (long long)sweep->sizes[sweep->size_count - 1],
                (long long)options->warmups, (long long)options->iterations,
                (long long)options->repetitions, (long long)options->check,
                (long long)options->seed);
    bench_print(session,
                "# time: one of %lld queued operations, slowest rank, median of %lld repetitions; "
                "GB = 1e9 bytes\n",
                (long long)options->iterations, (long long)options->repetitions);
    if (options->collectives == BENCH_ALL_GATHER)
        bench_print(session, "# size: bytes gathered in all; count: elements of one rank\n");
    else
        bench_print(session,
                    "# size: bytes of one rank's input; count: elements of one rank's result\n");
}

void bench_report_start(bench_sweep_t *sweep)
{
    bench_session_t *session = sweep->session;
    int host = sweep->copy_large.bytes > 0, each = session->options->per_iteration != 0;
    print_parameters(sweep);
    if (host) {
        char text[32];
        bench_print(session,
                    "# memcpy beyond cache (%s): one rank alone %.2f GB/s, all %d ranks at once "
                    "%.2f GB/s each\n",
                    bench_bytes_text(sweep->copy_large.bytes, text, sizeof text),
                    sweep->copy_large.alone, session->size, sweep->copy_large.all_ranks);
        bench_print(session,
                    "# memcpy at a size: copies of the bytes that a rank receives, all ranks at "
                    "once, GB/s each (one rank alone); %%: bus bandwidth of it\n");
        if (session->options->collectives == BENCH_ALL_GATHER)
            bench_print(session,
                        "# out of place a rank also copies its own slice, which no bandwidth here "
                        "counts\n");
    }
    bench_print(session, "#\n# %12s %12s %6s %6s %5s  %-35s  %-35s", "", "", "", "", "",
                "           out-of-place", "             in-place");
    bench_print(session, "%s\n", "");
    bench_print(session, "# %12s %12s %6s %6s %5s", "size", "count", "type", "redop", "root");
    for (int p = 0; p < BENCH_PLACES; p++)
        bench_print(session, " %10s %7s %7s %8s", "time", "algbw", "busbw", "#wrong");
    bench_print(session, "  %-8s %-10s", "route", "memory");
    if (host) bench_print(session, " %15s %4s %4s", "memcpy (alone)", "%out", "%in");
    if (sweep->case_count > 1) bench_print(session, " %6s %6s", "xout", "xin");
    if (each)
        for (int p = 0; p < BENCH_PLACES; p++)
            bench_print(session, " %9s %9s %9s", p ? "in p50" : "out p50", "p95", "p99");
    bench_print(session, "\n# %12s %12s %6s %6s %5s", "(B)", "(elements)", "", "", "");
    for (int p = 0; p < BENCH_PLACES; p++)
        bench_print(session, " %10s %7s %7s %8s", "(us)", "(GB/s)", "(GB/s)", "");
    bench_print(session, "\n");
}

static void print_result(bench_session_t *session, const bench_result_t *result)
{
    bench_print(session, " %10.2f %7.2f %7.2f", result->time_s * 1e6, result->algbw, result->busbw);
    if (result->wrong < 0) bench_print(session, " %8s", "N/A");
    else bench_print(session, " %8lld", (long long)result->wrong);
}

void bench_report_row(bench_sweep_t *sweep, const bench_row_t *row)
{
    bench_session_t *session = sweep->session;
    const bench_case_t *c = row->measured;
    bench_print(session, "  %12lld %12lld %6s %6s %5d", (long long)row->bytes,
                (long long)row->count, tess_dtype_name(c->dtype),
                bench_reduction_name(c->collective, c->reduction), -1);
    for (int p = 0; p < BENCH_PLACES; p++) print_result(session, &row->results[p]);
    bench_print(session, "  %-8s %-10s", c->route->name, bench_memory_name(c->memory));
    if (row->copy.bytes > 0) {
        bench_print(session, " %6.2f (%6.2f)", row->copy.all_ranks, row->copy.alone);
        for (int p = 0; p < BENCH_PLACES; p++)
            bench_print(session, " %4.0f", 100 * row->results[p].busbw / row->copy.all_ranks);
    }
    if (sweep->case_count > 1) bench_print(session, " %6.3f %6.3f", row->ratio[0], row->ratio[1]);
    for (int p = 0; p < BENCH_PLACES && row->results[p].each_s.count > 0; p++) {
        const bench_statistics_t *each = &row->results[p].each_s;
        bench_print(session, " %9.2f %9.2f %9.2f", each->p50 * 1e6, each->p95 * 1e6,
                    each->p99 * 1e6);
    }
    bench_print(session, "\n");
}

void bench_report_end(bench_sweep_t *sweep)
{
    bench_session_t *session = sweep->session;
    if (sweep->case_count > 1)
        bench_print(session, "# xout, xin: bus bandwidth over that of %s with %s memory\n",
                    sweep->cases[0].route->name, bench_memory_name(sweep->cases[0].memory));
    bench_print(session, "# Out of bounds values : %lld %s\n", (long long)session->wrong_elements,
                session->wrong_elements   ? "FAILED"
                : session->options->check ? "OK"
                                          : "not checked");
    bench_print(session, "# Avg bus bandwidth    : %.4f\n", sweep->average_busbw);
}
