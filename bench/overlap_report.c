/* SPDX-License-Identifier: Apache-2.0 */
/* bench_overlap's table, JSON and CSV. */
#include <stdlib.h>

#include "bench_file.h"
#include "bench_json.h"
#include "bench_sweep.h"
#include "core/internal.h"
#include "overlap.h"

static const char *mover_text(const overlap_t *overlap, const overlap_row_t *row, char *text,
                              size_t text_bytes)
{
    if (row->mover == OVERLAP_RAW) return "raw-nccl";
    snprintf(text, text_bytes, "%s %s", overlap->route->name,
             row->collective == BENCH_ALL_GATHER ? "gatherer" : "reducer");
    return text;
}

void overlap_report_start(overlap_t *overlap)
{
    bench_session_t *session = overlap->session;
    const bench_options_t *options = session->options;
    bench_print(session, "# compute: %lld products, %s, %.3g GFLOP each\n",
                (long long)options->gemm_count, gemm_description(overlap->gemm),
                gemm_flops(overlap->gemm) * 1e-9);
    bench_print(session,
                "# communication: %lld collectives of `size` bytes of %s, one bucket each\n",
                (long long)options->collective_count, tess_dtype_name(options->dtype));
    if (overlap->mover_count == 1)
        bench_print(session, "# raw NCCL is not measured: %s\n",
                    session->kind == TESS_DEVICE_CUDA ? raw_nccl_missing()
                                                      : "it needs CUDA devices");
    bench_print(session,
                "# times: slowest rank, median of %lld repetitions; efficiency = max(compute, "
                "comm) / both, exposed = both - compute\n#\n",
                (long long)options->repetitions);
    bench_print(session, "# %-14s %12s %-14s %11s %11s %11s %10s %11s %8s\n", "collective", "size",
                "through", "compute", "comm", "both", "efficiency", "exposed", "busbw");
    bench_print(session, "# %-14s %12s %-14s %11s %11s %11s %10s %11s %8s\n", "", "(B)", "", "(ms)",
                "(ms)", "(ms)", "", "(ms)", "(GB/s)");
}

void overlap_report_row(overlap_t *overlap, const overlap_row_t *row)
{
    char text[48];
    bench_print(overlap->session, "  %-14s %12lld %-14s %11.3f %11.3f %11.3f %10.4f %11.3f %8.2f\n",
                bench_collective_name(row->collective), (long long)row->bytes,
                mover_text(overlap, row, text, sizeof text), row->compute_s * 1e3,
                row->communication_s * 1e3, row->both_s * 1e3, row->efficiency,
                row->exposed_s * 1e3, row->busbw);
    if (row->mover != OVERLAP_RAW) return;
    const overlap_row_t *ours = row - 1;
    bench_print(overlap->session,
                "#   buckets over raw: comm %.4f, both %.4f, efficiency %.4f (times: below 1 is "
                "faster)\n",
                ours->communication_s / row->communication_s, ours->both_s / row->both_s,
                ours->efficiency / row->efficiency);
}

static json_t *row_json(const overlap_t *overlap, const overlap_row_t *row)
{
    char text[48];
    return json_pack("{s:s, s:I, s:s, s:f, s:f, s:f, s:f, s:f, s:f}", "collective",
                     bench_collective_name(row->collective), "size", (json_int_t)row->bytes,
                     "through", mover_text(overlap, row, text, sizeof text), "compute_s",
                     row->compute_s, "communication_s", row->communication_s, "both_s", row->both_s,
                     "efficiency", row->efficiency, "exposed_s", row->exposed_s, "bus_bw",
                     row->busbw);
}

static tess_status_t write_json(overlap_t *overlap)
{
    const bench_options_t *options = overlap->session->options;
    json_t *document = bench_json_document(overlap->session), *rows = json_array();
    for (int r = 0; r < overlap->row_count; r++)
        json_array_append_new(rows, row_json(overlap, &overlap->rows[r]));
    json_object_set_new(
        document, "config",
        json_pack("{s:s, s:s, s:I, s:I, s:I}", "gemm", gemm_description(overlap->gemm), "type",
                  tess_dtype_name(options->dtype), "gemms", (json_int_t)options->gemm_count,
                  "collectives", (json_int_t)options->collective_count, "repetitions",
                  (json_int_t)options->repetitions));
    json_object_set_new(document, "results", rows);
    return bench_json_write(document, options->json);
}

static void print_csv(const void *context, FILE *file)
{
    const overlap_t *overlap = context;
    char text[48];
    fputs("collective,size,through,compute_s,communication_s,both_s,efficiency,exposed_s,"
          "busbw_gbps\n",
          file);
    for (int r = 0; r < overlap->row_count; r++) {
        const overlap_row_t *row = &overlap->rows[r];
        fprintf(file, "%s,%lld,%s,%.9f,%.9f,%.9f,%.6f,%.9f,%.6f\n",
                bench_collective_name(row->collective), (long long)row->bytes,
                mover_text(overlap, row, text, sizeof text), row->compute_s, row->communication_s,
                row->both_s, row->efficiency, row->exposed_s, row->busbw);
    }
}

tess_status_t overlap_write(overlap_t *overlap)
{
    const bench_options_t *options = overlap->session->options;
    tess_status_t status = TESS_OK;
    if (options->json) status = write_json(overlap);
    if (options->csv && status >= 0)
        status = bench_csv_write(overlap->session->options->csv, print_csv, overlap);
    return status;
}
