/* SPDX-License-Identifier: Apache-2.0 */
/* A tuning run for programs: the same document goes to --out and --json; --csv gets the rows. */
#include <stdlib.h>

#include "bench_file.h"
#include "bench_json.h"
#include "bench_sweep.h"
#include "core/internal.h"
#include "tune.h"

static json_t *samples_json(const tune_t *tune, const tune_samples_t *samples)
{
    json_t *array = json_array();
    for (int i = 0; i < samples->count; i++)
        json_array_append_new(array, json_real(samples->seconds[i] * tune->model.scale));
    return json_pack("{s:f, s:f, s:o}", "median_s", samples->median, "min_s", samples->min,
                     "samples_s", array);
}

static json_t *row_json(const tune_t *tune, int index)
{
    const tune_row_t *row = &tune->rows[index];
    int64_t element_bytes = tess_dtype_bytes(tune->session->options->dtype);
    json_t *object = json_pack(
        "{s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:b}", "bucket_bytes", (json_int_t)row->bucket_bytes,
        "bucket_elements", (json_int_t)(row->bucket_bytes / element_bytes), "buckets",
        (json_int_t)row->bucket_count, "largest_bytes", (json_int_t)row->largest_bytes,
        "recommended", index == tune->recommended, "too_small", row->too_small, "same_as_previous",
        row->same_as_previous, "too_large", row->too_large);
    if (row->communication.count == 0) return object;
    json_object_set_new(object, "memory_bytes", json_integer(row->ring_bytes));
    json_object_set_new(object, "communication", samples_json(tune, &row->communication));
    json_object_set_new(object, "bus_bw", json_real(row->busbw));
    if (tune->gemm) {
        json_object_set_new(object, "compute", samples_json(tune, &row->computing));
        json_object_set_new(object, "both", samples_json(tune, &row->both));
        json_object_set_new(object, "exposed_s", json_real(row->exposed_s));
    }
    if (tune->raw.raw) {
        json_object_set_new(object, "raw_nccl", samples_json(tune, &row->raw));
        json_object_set_new(object, "time_over_raw",
                            json_real(row->communication.median / row->raw.median));
    }
    if (row->raw_out.count > 0)
        json_object_set_new(object, "raw_nccl_out_of_place", samples_json(tune, &row->raw_out));
    return object;
}

static json_t *config_json(const tune_t *tune)
{
    const bench_options_t *options = tune->session->options;
    json_t *object = json_pack("{s:s, s:s, s:s, s:I, s:I, s:f, s:I, s:f}", "collective",
                               bench_collective_name(tune->collective), "transport",
                               tune->route->name, "type", tess_dtype_name(options->dtype), "params",
                               (json_int_t)tune->model.params, "sample_params",
                               (json_int_t)tune->model.sample_params, "scale", tune->model.scale,
                               "depth", (json_int_t)options->depth, "tolerance", TUNE_TOLERANCE);
    json_object_set_new(object, "gemm",
                        tune->gemm ? json_string(gemm_description(tune->gemm)) : json_null());
    if (tune->gemm) {
        json_object_set_new(object, "gemm_params", json_integer(tune->gemm_params));
        json_object_set_new(object, "gemm_repeats", json_integer(tune->gemm_repeats));
    }
    return object;
}

static json_t *document_json(tune_t *tune)
{
    char fragment[256];
    const tune_row_t *chosen = &tune->rows[tune->recommended];
    int64_t element_bytes = tess_dtype_bytes(tune->session->options->dtype);
    json_t *document = bench_json_document(tune->session), *rows = json_array();
    for (int r = 0; r < tune->row_count; r++) json_array_append_new(rows, row_json(tune, r));
    json_object_set_new(document, "config", config_json(tune));
    json_object_set_new(document, "rounds", json_integer(tune->round_count));
    json_object_set_new(document, "stable", json_boolean(tune->stable));
    json_object_set_new(document, "ended_early", json_boolean(tune->ended_early));
    if (tune->gemm)
        json_object_set_new(
            document, "compute",
            json_pack("{s:f, s:f}", "median_s", tune->computing_s, "min_s", tune->computing_min_s));
    json_object_set_new(document, "results", rows);
    json_object_set_new(
        document, "recommendation",
        json_pack("{s:I, s:I, s:o}", "bucket_bytes", (json_int_t)chosen->bucket_bytes,
                  "bucket_elements", (json_int_t)(chosen->bucket_bytes / element_bytes),
                  "deepspeed",
                  json_loads(tune_fragment(tune, fragment, sizeof fragment), 0, NULL)));
    return document;
}

static void print_csv(const void *context, FILE *file)
{
    const tune_t *tune = context;
    int64_t element_bytes = tess_dtype_bytes(tune->session->options->dtype);
    fputs(
        "bucket_bytes,bucket_elements,buckets,largest_bytes,memory_bytes,comm_s,comm_min_s,"
        "busbw_gbps,compute_s,both_s,both_min_s,exposed_s,raw_nccl_s,raw_nccl_oop_s,recommended\n",
        file);
    for (int r = 0; r < tune->row_count; r++) {
        const tune_row_t *row = &tune->rows[r];
        if (row->communication.count == 0) continue;
        fprintf(file, "%lld,%lld,%lld,%lld,%lld,%.9f,%.9f,%.6f,", (long long)row->bucket_bytes,
                (long long)(row->bucket_bytes / element_bytes), (long long)row->bucket_count,
                (long long)row->largest_bytes, (long long)row->ring_bytes,
                row->communication.median, row->communication.min, row->busbw);
        if (tune->gemm)
            fprintf(file, "%.9f,%.9f,%.9f,%.9f,", row->computing.median, row->both.median,
                    row->both.min, row->exposed_s);
        else fputs(",,,,", file);
        if (tune->raw.raw) fprintf(file, "%.9f", row->raw.median);
        fputc(',', file);
        if (row->raw_out.count > 0) fprintf(file, "%.9f", row->raw_out.median);
        fprintf(file, ",%d\n", r == tune->recommended);
    }
}

tess_status_t tune_write(tune_t *tune)
{
    const bench_options_t *options = tune->session->options;
    tess_status_t status = TESS_OK;
    if (options->out) status = bench_json_write(document_json(tune), options->out);
    if (options->json && status >= 0) status = bench_json_write(document_json(tune), options->json);
    if (options->csv && status >= 0)
        status = bench_csv_write(tune->session->options->csv, print_csv, tune);
    return status;
}
