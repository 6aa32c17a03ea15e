/* SPDX-License-Identifier: Apache-2.0 */
/* bench_offload's tables, one a mode, and what its rows have in common. */
#include <math.h>

#include "offload_bench.h"

const char *offload_name(bench_offload_t what)
{
    switch (what) {
    case BENCH_OFFLOAD_COPY:
        return "copy";
    case BENCH_OFFLOAD_COMPUTE:
        return "compute";
    case BENCH_OFFLOAD_ADAM:
        return "adam";
    case BENCH_OFFLOAD_FILE:
        break;
    }
    return "file";
}

double offload_gbps(const offload_row_t *row, double seconds)
{
    return bench_algbw(row->bytes, seconds);
}

offload_row_t offload_row_of(const offload_tiles_t *tiles, bench_offload_t what, const char *kind)
{
    return (offload_row_t){.what = what,
                           .kind = kind,
                           .tile_bytes = tiles->tile_bytes,
                           .tile_count = tiles->tile_count,
                           .visits = tiles->visits,
                           .slot_count = (int)tiles->slot_count,
                           .bytes = offload_pass_bytes(tiles) * tiles->bench->session->size,
                           .wrong = -1};
}

void offload_add_row(offload_bench_t *bench, const offload_row_t *row)
{
    if (row->wrong > 0) bench->session->wrong_elements += row->wrong;
    offload_report_row(bench, row);
    if (bench->row_count < OFFLOAD_ROWS_MAX) bench->rows[bench->row_count++] = *row;
}

/* --- header and footer ----------------------------------------------------------------------- */

void offload_report_start(offload_bench_t *bench)
{
    bench_session_t *session = bench->session;
    const bench_options_t *options = session->options;
    tess_arena_statistics_t arena;
    char capacity[32], locked[32], huge[32];
    tess_arena_statistics(bench->arena, &arena);
    bench_bytes_text(arena.capacity_bytes, capacity, sizeof capacity);
    bench_bytes_text(arena.locked_bytes, locked, sizeof locked);
    bench_bytes_text(arena.huge_bytes > 0 ? arena.huge_bytes : 0, huge, sizeof huge);
    bench_print(session, "# pinned memory of rank 0: %s, %s of it locked, %s in huge pages",
                capacity, locked, arena.huge_bytes < 0 ? "an unknown part" : huge);
    if (arena.numa_node >= 0) bench_print(session, ", NUMA node %d", arena.numa_node);
    bench_print(session, "\n");
    bench_print(session,
                "# warmup %lld repetitions %lld check %lld seed %lld; medians of the slowest rank; "
                "GB = 1e9 bytes, sum of all ranks and of both ways\n",
                (long long)options->warmups, (long long)options->repetitions,
                (long long)options->check, (long long)options->seed);
}

static void start_compute(offload_bench_t *bench)
{
    bench_session_t *session = bench->session;
    bench_print(session,
                "#\n# tiles beside compute: %s\n# both: prefetcher and products; eff = max(tiles, "
                "products) / both, raw eff with raw copies in their place\n# stalls: what the "
                "compute stream waits for tiles; first: of it, until the first one is there\n",
                gemm_description(bench->gemm));
    bench_print(session,
                "# %-10s %10s %6s %5s %8s | %8s %8s %6s | %9s %9s %9s %6s %7s | %8s %8s %6s\n",
                "access", "tile", "visits", "slots", "products", "raw", "prefetch", "ratio",
                "tiles", "products", "both", "eff", "raw eff", "stalls", "first", "#wrong");
    bench_print(session,
                "# %-10s %10s %6s %5s %8s | %8s %8s %6s | %9s %9s %9s %6s %7s | %8s %8s %6s\n", "",
                "(B)", "", "", "", "(GB/s)", "(GB/s)", "", "(ms)", "(ms)", "(ms)", "", "", "(ms)",
                "(ms)", "");
}

void offload_report_mode(offload_bench_t *bench, bench_offload_t what)
{
    bench_session_t *session = bench->session;
    switch (what) {
    case BENCH_OFFLOAD_COPY:
        bench_print(session, "#\n# tiles between pinned memory and device, nothing computed\n");
        bench_print(session, "# %-10s %10s %6s %6s %5s | %9s %9s %6s %6s\n", "way", "tile", "tiles",
                    "visits", "slots", "raw", "prefetch", "ratio", "#wrong");
        bench_print(session, "# %-10s %10s %6s %6s %5s | %9s %9s %6s %6s\n", "", "(B)", "", "", "",
                    "(GB/s)", "(GB/s)", "", "");
        break;
    case BENCH_OFFLOAD_COMPUTE:
        start_compute(bench);
        break;
    case BENCH_OFFLOAD_ADAM:
        bench_print(session,
                    "#\n# Adam with its state (12 B a parameter in, 12 B out) in pinned memory; "
                    "raw: copies of the same bytes, both ways at once\n");
        bench_print(session, "# %12s %10s %6s %5s | %9s %9s %6s | %12s %12s %7s %4s %6s\n",
                    "parameters", "tile", "tiles", "slots", "raw", "streamed", "ratio", "streamed",
                    "CPU Adam", "faster", "thr", "#wrong");
        bench_print(session, "# %12s %10s %6s %5s | %9s %9s %6s | %12s %12s %7s %4s %6s\n",
                    "all ranks", "(B)", "", "", "(GB/s)", "(GB/s)", "", "(ms / 1e9)", "(ms / 1e9)",
                    "", "", "");
        break;
    case BENCH_OFFLOAD_FILE:
        bench_print(session, "# %-6s %10s %6s %5s %10s %5s | %8s %8s %6s %8s %6s %6s\n", "way",
                    "tile", "tiles", "slots", "block", "depth", "raw", "store", "ratio", "prefetch",
                    "ratio", "#wrong");
        bench_print(session, "# %-6s %10s %6s %5s %10s %5s | %8s %8s %6s %8s %6s %6s\n", "", "(B)",
                    "", "", "(B)", "", "(GB/s)", "(GB/s)", "", "(GB/s)", "", "");
        break;
    }
}

void offload_report_end(offload_bench_t *bench)
{
    bench_session_t *session = bench->session;
    bench_print(session, "# Out of bounds values : %lld %s\n", (long long)session->wrong_elements,
                session->wrong_elements   ? "FAILED"
                : session->options->check ? "OK"
                                          : "not checked");
}

/* --- rows ------------------------------------------------------------------------------------ */

static void print_copy(bench_session_t *session, const offload_row_t *row)
{
    bench_print(session, "  %-10s %10lld %6lld %6lld %5d | %9.2f %9.2f %6.3f", row->kind,
                (long long)row->tile_bytes, (long long)row->tile_count, (long long)row->visits,
                row->slot_count, offload_gbps(row, row->raw_s), offload_gbps(row, row->s),
                row->raw_s / row->s);
}

static void print_compute(bench_session_t *session, const offload_row_t *row)
{
    bench_print(session,
                "  %-10s %10lld %6lld %5d %8lld | %8.2f %8.2f %6.3f | %9.3f %9.3f %9.3f %6.3f "
                "%7.3f | %8.3f %8.3f",
                row->kind, (long long)row->tile_bytes, (long long)row->visits, row->slot_count,
                (long long)row->products, offload_gbps(row, row->raw_s), offload_gbps(row, row->s),
                row->raw_s / row->s, row->s * 1e3, row->compute_s * 1e3, row->both_s * 1e3,
                fmax(row->s, row->compute_s) / row->both_s,
                fmax(row->raw_s, row->compute_s) / row->raw_both_s, row->stalls_s * 1e3,
                row->first_stall_s * 1e3);
}

static void print_adam(bench_session_t *session, const offload_row_t *row)
{
    double scale = 1e3 * 1e9 / (double)row->params;
    bench_print(session, "  %12lld %10lld %6lld %5d | %9.2f %9.2f %6.3f | %12.3f",
                (long long)row->params, (long long)row->tile_bytes, (long long)row->tile_count,
                row->slot_count, offload_gbps(row, row->raw_s), offload_gbps(row, row->s),
                row->raw_s / row->s, row->s * scale);
    if (row->cpu_s > 0)
        bench_print(session, " %12.3f %7.3f %4d", row->cpu_s * scale, row->cpu_s / row->s,
                    row->cpu_threads);
    else bench_print(session, " %12s %7s %4s", "-", "-", "-");
}

static void print_file(bench_session_t *session, const offload_row_t *row)
{
    bench_print(session, "  %-6s %10lld %6lld %5d %10lld %5d | %8.2f %8.2f %6.3f %8.2f %6.3f",
                row->kind, (long long)row->tile_bytes, (long long)row->tile_count, row->slot_count,
                (long long)row->block_bytes, row->depth, offload_gbps(row, row->raw_s),
                offload_gbps(row, row->store_s), row->raw_s / row->store_s,
                offload_gbps(row, row->s), row->raw_s / row->s);
}

void offload_report_row(offload_bench_t *bench, const offload_row_t *row)
{
    bench_session_t *session = bench->session;
    switch (row->what) {
    case BENCH_OFFLOAD_COPY:
        print_copy(session, row);
        break;
    case BENCH_OFFLOAD_COMPUTE:
        print_compute(session, row);
        break;
    case BENCH_OFFLOAD_ADAM:
        print_adam(session, row);
        break;
    case BENCH_OFFLOAD_FILE:
        print_file(session, row);
        break;
    }
    if (row->wrong < 0) bench_print(session, " %6s\n", "N/A");
    else bench_print(session, " %6lld\n", (long long)row->wrong);
}
