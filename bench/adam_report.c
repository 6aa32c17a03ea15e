/* SPDX-License-Identifier: Apache-2.0 */
/* bench_adam's table: a row for each size, layout and number of threads. */
#include "adam_bench.h"

static double gbps(int64_t bytes, double seconds)
{
    return seconds > 0 ? (double)bytes / seconds * 1e-9 : 0;
}

double adam_copy_gbps(const adam_row_t *row)
{
    double copy = gbps(2 * row->copy_bytes, row->s[ADAM_COPY]);
    double streaming = gbps(2 * row->copy_bytes, row->s[ADAM_STREAM_COPY]);
    return streaming > copy ? streaming : copy;
}

void adam_report_start(adam_bench_t *bench)
{
    bench_session_t *session = bench->session;
    const bench_options_t *options = session->options;
    int host = session->kind == TESS_DEVICE_HOST;
    char text[160], calls[48] = "as many calls as take 50 ms";
    if (host)
        bench_print(session, "# huge pages: %s\n",
                    adam_huge_pages_text(options->huge_pages != 0, text, sizeof text));
    if (options->iterations != BENCH_UNSET)
        snprintf(calls, sizeof calls, "%lld call%s", (long long)options->iterations,
                 options->iterations > 1 ? "s" : "");
    bench_print(session,
                "# warmup %lld repetitions %lld (%s each) check %lld seed %lld; slowest rank, "
                "medians; GB = 1e9 bytes, read and written\n",
                (long long)options->warmups, (long long)options->repetitions, calls,
                (long long)options->check, (long long)options->seed);
    bench_print(session,
                "# pass: one call over one range. copy: %s of as many bytes (at most %s), and %%: "
                "pass of it\n",
                host ? "the better of memcpy and a copy with streaming stores, same threads,"
                     : "device to device,",
                bench_bytes_text(2 * bench->memory.copy_bytes, text, sizeof text));
    bench_print(session,
                "# step: statistics, decision and pass. groups: %lld ranges in one call, and over "
                "one range. one: a single parameter\n",
                (long long)options->groups);
    if (host)
        bench_print(session, "# plain: a loop in C at -O3, same threads, and times the pass\n");
    bench_print(session, "#\n# %-14s %4s %5s %12s", "layout", "grad", "param", "parameters");
    if (host) bench_print(session, " %4s", "thr");
    bench_print(session, " %10s %6s %8s %8s %6s | %10s %8s | %10s %6s | %8s", "pass", "B/par",
                "pass", "copy", "%", "step", "step", "groups", "ratio", "one");
    if (host) bench_print(session, " | %8s %8s | %10s %6s", "memcpy", "stream", "plain", "ratio");
    bench_print(session, " %6s\n# %-14s %4s %5s %12s", "#wrong", "", "", "", "");
    if (host) bench_print(session, " %4s", "");
    bench_print(session, " %10s %6s %8s %8s %6s | %10s %8s | %10s %6s | %8s", "(us)", "", "(GB/s)",
                "(GB/s)", "", "(us)", "(GB/s)", "(us)", "", "(us)");
    if (host) bench_print(session, " | %8s %8s | %10s %6s", "(GB/s)", "(GB/s)", "(us)", "");
    bench_print(session, "\n");
}

/* A time and its ratio to the pass, or dashes where there is none. */
static void print_ratio(bench_session_t *session, double seconds, double pass_s)
{
    if (seconds > 0) bench_print(session, " %10.2f %6.3f", seconds * 1e6, seconds / pass_s);
    else bench_print(session, " %10s %6s", "-", "-");
}

static void print_host(bench_session_t *session, const adam_row_t *row)
{
    double streaming = gbps(2 * row->copy_bytes, row->s[ADAM_STREAM_COPY]);
    bench_print(session, " | %8.2f", gbps(2 * row->copy_bytes, row->s[ADAM_COPY]));
    if (streaming > 0) bench_print(session, " %8.2f |", streaming);
    else bench_print(session, " %8s |", "-");
    print_ratio(session, row->s[ADAM_PLAIN], row->s[ADAM_PASS]);
}

void adam_report_row(adam_bench_t *bench, const adam_row_t *row)
{
    bench_session_t *session = bench->session;
    int host = session->kind == TESS_DEVICE_HOST;
    double pass = gbps(row->bytes, row->s[ADAM_PASS]), copy = adam_copy_gbps(row);
    if (bench->row_count == 1) bench_print(session, "# runs on: %s\n", row->description);
    bench_print(session, "  %-14s %4s %5s %12lld", row->layout->name,
                tess_dtype_name(row->gradient), tess_dtype_name(row->parameter),
                (long long)row->count);
    if (host) bench_print(session, " %4d", row->threads);
    bench_print(session, " %10.2f %6.2f %8.2f %8.2f %6.1f | %10.2f %8.2f |",
                row->s[ADAM_PASS] * 1e6, (double)row->bytes / (double)row->count, pass, copy,
                copy > 0 ? 100 * pass / copy : 0, row->s[ADAM_STEP] * 1e6,
                gbps(row->step_bytes, row->s[ADAM_STEP]));
    print_ratio(session, row->s[ADAM_GROUPS], row->s[ADAM_PASS]);
    bench_print(session, " | %8.2f", row->s[ADAM_LAUNCH] * 1e6);
    if (host) print_host(session, row);
    if (row->wrong < 0) bench_print(session, " %6s\n", "N/A");
    else bench_print(session, " %6lld\n", (long long)row->wrong);
}

void adam_report_end(adam_bench_t *bench)
{
    bench_session_t *session = bench->session;
    char text[160];
    if (session->kind == TESS_DEVICE_HOST)
        bench_print(session, "# huge pages at the end: %s\n",
                    adam_huge_pages_text(session->options->huge_pages != 0, text, sizeof text));
    bench_print(session, "# Out of bounds values : %lld %s\n", (long long)session->wrong_elements,
                session->wrong_elements   ? "FAILED"
                : session->options->check ? "OK"
                                          : "not checked");
}
