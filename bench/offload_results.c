/* SPDX-License-Identifier: Apache-2.0 */
/* bench_offload's rows as JSON, as CSV and as a plot: the figures of the tables, in full precision.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_file.h"
#include "bench_json.h"
#include "core/internal.h"
#include "offload_bench.h"
#include "plot.h"

/* --- JSON ------------------------------------------------------------------------------------ */

static json_t *config_json(const offload_bench_t *bench)
{
    const bench_options_t *options = bench->session->options;
    tess_arena_statistics_t arena;
    tess_arena_statistics(bench->arena, &arena);
    json_t *object =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:o}", "warmup_iters", (json_int_t)options->warmups,
                  "repetitions", (json_int_t)options->repetitions, "check",
                  (json_int_t)options->check, "seed", (json_int_t)options->seed, "total_bytes",
                  (json_int_t)options->total_bytes, "pinned",
                  json_pack("{s:I, s:I, s:I, s:i}", "bytes", (json_int_t)arena.capacity_bytes,
                            "locked_bytes", (json_int_t)arena.locked_bytes, "huge_bytes",
                            (json_int_t)arena.huge_bytes, "numa_node", arena.numa_node));
    if (options->file) json_object_set_new(object, "file", json_string(options->file));
    return object;
}

/* {"time_us": …, "gbps": …} */
static json_t *time_json(const offload_row_t *row, double seconds)
{
    return json_pack("{s:f, s:f}", "time_us", seconds * 1e6, "gbps", offload_gbps(row, seconds));
}

static void set_compute(json_t *object, const offload_row_t *row)
{
    json_object_set_new(object, "products", json_integer((json_int_t)row->products));
    json_object_set_new(object, "compute_us", json_real(row->compute_s * 1e6));
    json_object_set_new(object, "both_us", json_real(row->both_s * 1e6));
    json_object_set_new(object, "raw_both_us", json_real(row->raw_both_s * 1e6));
    json_object_set_new(object, "efficiency",
                        json_real(fmax(row->s, row->compute_s) / row->both_s));
    json_object_set_new(object, "raw_efficiency",
                        json_real(fmax(row->raw_s, row->compute_s) / row->raw_both_s));
    json_object_set_new(object, "stalls_us", json_real(row->stalls_s * 1e6));
    json_object_set_new(object, "first_stall_us", json_real(row->first_stall_s * 1e6));
}

static void set_adam(json_t *object, const offload_row_t *row)
{
    double scale = 1e3 * 1e9 / (double)row->params;
    json_object_set_new(object, "params", json_integer((json_int_t)row->params));
    json_object_set_new(object, "ms_per_1e9", json_real(row->s * scale));
    json_object_set_new(object, "raw_ms_per_1e9", json_real(row->raw_s * scale));
    if (row->cpu_s > 0)
        json_object_set_new(object, "cpu",
                            json_pack("{s:f, s:f, s:f, s:i}", "time_us", row->cpu_s * 1e6,
                                      "ms_per_1e9", row->cpu_s * scale, "ratio",
                                      row->cpu_s / row->s, "threads", row->cpu_threads));
}

static void set_file(json_t *object, const offload_row_t *row)
{
    json_t *store = time_json(row, row->store_s);
    json_object_set_new(store, "ratio", json_real(row->raw_s / row->store_s));
    json_object_set_new(object, "store", store);
    json_object_set_new(object, "block_bytes", json_integer((json_int_t)row->block_bytes));
    json_object_set_new(object, "depth", json_integer(row->depth));
    json_object_set_new(object, "runs_on", json_string(row->description));
}

static json_t *row_json(const offload_row_t *row)
{
    json_t *object = json_pack("{s:s, s:s, s:I, s:I, s:I, s:i, s:I, s:o, s:o, s:f, s:o}", "what",
                               offload_name(row->what), "kind", row->kind, "tile_bytes",
                               (json_int_t)row->tile_bytes, "tiles", (json_int_t)row->tile_count,
                               "visits", (json_int_t)row->visits, "slots", row->slot_count, "bytes",
                               (json_int_t)row->bytes, "prefetch", time_json(row, row->s), "raw",
                               time_json(row, row->raw_s), "ratio", row->raw_s / row->s, "nwrong",
                               row->wrong < 0 ? json_null() : json_integer((json_int_t)row->wrong));
    if (row->what == BENCH_OFFLOAD_COMPUTE) set_compute(object, row);
    if (row->what == BENCH_OFFLOAD_ADAM) set_adam(object, row);
    if (row->what == BENCH_OFFLOAD_FILE) set_file(object, row);
    return object;
}

static tess_status_t write_json(offload_bench_t *bench)
{
    bench_session_t *session = bench->session;
    json_t *document = bench_json_document(session), *rows = json_array();
    for (int r = 0; r < bench->row_count; r++)
        json_array_append_new(rows, row_json(&bench->rows[r]));
    json_object_set_new(document, "config", config_json(bench));
    if (session->options->offload & BENCH_OFFLOAD_COMPUTE) {
        bench_gemm_t gemm = session->options->gemm;
        json_object_set_new(
            document, "gemm",
            json_pack("[I, I, I]", (json_int_t)gemm.m, (json_int_t)gemm.n, (json_int_t)gemm.k));
    }
    json_object_set_new(document, "results", rows);
    bench_json_add_wrong(document, session);
    return bench_json_write(document, session->options->json);
}

/* --- CSV ------------------------------------------------------------------------------------- */

static void print_number(FILE *file, double number)
{
    if (number > 0) fprintf(file, ",%.10g", number);
    else fputs(",", file);
}

static void print_csv(const void *context, FILE *file)
{
    const offload_bench_t *bench = context;
    fputs("what,kind,tile_bytes,tiles,visits,slots,bytes,raw_us,prefetch_us,raw_gbps,prefetch_gbps,"
          "ratio,products,compute_us,both_us,raw_both_us,efficiency,stalls_us,params,ms_per_1e9,"
          "cpu_ms_per_1e9,block_bytes,depth,store_us,store_gbps,store_ratio,wrong\n",
          file);
    for (int r = 0; r < bench->row_count; r++) {
        const offload_row_t *row = &bench->rows[r];
        double scale = row->params ? 1e3 * 1e9 / (double)row->params : 0;
        fprintf(file, "%s,%s,%lld,%lld,%lld,%d,%lld", offload_name(row->what), row->kind,
                (long long)row->tile_bytes, (long long)row->tile_count, (long long)row->visits,
                row->slot_count, (long long)row->bytes);
        const double numbers[] = {row->raw_s * 1e6,
                                  row->s * 1e6,
                                  offload_gbps(row, row->raw_s),
                                  offload_gbps(row, row->s),
                                  row->raw_s / row->s,
                                  (double)row->products,
                                  row->compute_s * 1e6,
                                  row->both_s * 1e6,
                                  row->raw_both_s * 1e6,
                                  row->both_s > 0 ? fmax(row->s, row->compute_s) / row->both_s : 0,
                                  row->stalls_s * 1e6,
                                  (double)row->params,
                                  row->s * scale,
                                  row->cpu_s * scale,
                                  (double)row->block_bytes,
                                  row->depth,
                                  row->store_s * 1e6,
                                  offload_gbps(row, row->store_s),
                                  row->store_s > 0 ? row->raw_s / row->store_s : 0};
        for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++)
            print_number(file, numbers[n]);
        if (row->wrong >= 0) fprintf(file, ",%lld\n", (long long)row->wrong);
        else fputs(",\n", file);
    }
}

/* --- plot ------------------------------------------------------------------------------------ */

#define PLOT_WAYS 3

/* Rows of mode copy come size by size, and within a size way by way. */
static tess_status_t draw(const offload_bench_t *bench)
{
    static const char *const titles[] = {"raw, to the device",   "prefetcher, to the device",
                                         "raw, to the host",     "prefetcher, to the host",
                                         "raw, both ways (sum)", "prefetcher, both ways (sum)"};
    bench_session_t *session = bench->session;
    static double sizes[OFFLOAD_ROWS_MAX], gbps[2 * PLOT_WAYS][OFFLOAD_ROWS_MAX];
    int rows = 0;
    for (int r = 0; r < bench->row_count; r++) {
        const offload_row_t *row = &bench->rows[r];
        if (row->what != BENCH_OFFLOAD_COPY) continue;
        int64_t way = rows % PLOT_WAYS, point = rows / PLOT_WAYS;
        sizes[point] = (double)row->tile_bytes;
        gbps[2 * way][point] = offload_gbps(row, row->raw_s);
        gbps[2 * way + 1][point] = offload_gbps(row, row->s);
        rows++;
    }
    char title[128];
    snprintf(title, sizeof title, "tiles through the device, %d rank%s, %s", session->size,
             session->size > 1 ? "s" : "", session->ranks[0].model);
    plot_t plot = {.title = title,
                   .x_label = "tile",
                   .y_label = "GB/s",
                   .sizes = sizes,
                   .point_count = rows / PLOT_WAYS,
                   .series_count = 2 * PLOT_WAYS};
    for (int s = 0; s < 2 * PLOT_WAYS; s++) plot.series[s] = (plot_series_t){titles[s], gbps[s]};
    return plot_svg(&plot, session->options->plot);
}

tess_status_t offload_write(offload_bench_t *bench)
{
    const bench_options_t *options = bench->session->options;
    tess_status_t status = TESS_OK;
    if (options->json) status = write_json(bench);
    if (options->csv && status >= 0)
        status = bench_csv_write(bench->session->options->csv, print_csv, bench);
    if (options->plot && status >= 0) status = draw(bench);
    return status;
}
