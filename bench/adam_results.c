/* SPDX-License-Identifier: Apache-2.0 */
/* bench_adam's rows as JSON and as CSV: the figures of the table, in full precision. */
#include <stdlib.h>

#include "adam_bench.h"
#include "bench_file.h"
#include "bench_json.h"
#include "core/internal.h"

static json_t *list_json(const bench_list_t *list)
{
    json_t *array = json_array();
    for (int i = 0; i < list->count; i++)
        json_array_append_new(array, json_integer((json_int_t)list->values[i]));
    return array;
}

static json_t *config_json(const adam_bench_t *bench)
{
    const bench_options_t *options = bench->session->options;
    char text[160];
    json_t *object = json_pack(
        "{s:s, s:o, s:o, s:I, s:I, s:I, s:I, s:I}", "type", tess_dtype_name(options->dtype),
        "params", list_json(&bench->counts), "threads", list_json(&bench->threads), "iters",
        (json_int_t)options->iterations, "warmup_iters", (json_int_t)options->warmups,
        "repetitions", (json_int_t)options->repetitions, "check", (json_int_t)options->check,
        "seed", (json_int_t)options->seed);
    if (bench->session->kind == TESS_DEVICE_HOST)
        json_object_set_new(
            object, "huge_pages",
            json_string(adam_huge_pages_text(options->huge_pages != 0, text, sizeof text)));
    return object;
}

/* {"time_us": …, "gbps": …}; bytes are read and written. */
static json_t *kind_json(const adam_row_t *row, adam_kind_t kind, int64_t bytes)
{
    return json_pack("{s:f, s:f}", "time_us", row->s[kind] * 1e6, "gbps",
                     bench_algbw(bytes, row->s[kind]));
}

static json_t *row_json(const adam_row_t *row)
{
    double pass_s = row->s[ADAM_PASS];
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:I, s:s, s:f, s:f, s:f, s:f, s:f, s:f}", "layout",
                  row->layout->name, "gradient", tess_dtype_name(row->gradient), "parameter",
                  tess_dtype_name(row->parameter), "params", (json_int_t)row->count, "runs_on",
                  row->description, "bytes_per_param", (double)row->bytes / (double)row->count,
                  "time_us", pass_s * 1e6, "time_us_min", row->pass_s_min * 1e6, "gbps",
                  bench_algbw(row->bytes, pass_s), "copy_gbps", adam_copy_gbps(row),
                  "share_of_copy", bench_algbw(row->bytes, pass_s) / adam_copy_gbps(row));
    json_object_set_new(object, "step", kind_json(row, ADAM_STEP, row->step_bytes));
    json_object_set_new(object, "one_parameter_us", json_real(row->s[ADAM_LAUNCH] * 1e6));
    json_object_set_new(object, "copy_bytes", json_integer((json_int_t)row->copy_bytes));
    json_object_set_new(object, row->threads ? "memcpy" : "device_copy",
                        kind_json(row, ADAM_COPY, 2 * row->copy_bytes));
    if (row->threads) json_object_set_new(object, "threads", json_integer(row->threads));
    if (row->s[ADAM_STREAM_COPY] > 0)
        json_object_set_new(object, "streaming_copy",
                            kind_json(row, ADAM_STREAM_COPY, 2 * row->copy_bytes));
    if (row->s[ADAM_GROUPS] > 0)
        json_object_set_new(object, "groups",
                            json_pack("{s:I, s:f, s:f}", "count", (json_int_t)row->groups,
                                      "time_us", row->s[ADAM_GROUPS] * 1e6, "ratio",
                                      row->s[ADAM_GROUPS] / pass_s));
    if (row->s[ADAM_PLAIN] > 0)
        json_object_set_new(object, "plain",
                            json_pack("{s:f, s:f}", "time_us", row->s[ADAM_PLAIN] * 1e6, "ratio",
                                      row->s[ADAM_PLAIN] / pass_s));
    json_object_set_new(object, "nwrong", row->wrong < 0 ? json_null() : json_integer(row->wrong));
    return object;
}

static tess_status_t write_json(adam_bench_t *bench)
{
    bench_session_t *session = bench->session;
    json_t *document = bench_json_document(session), *rows = json_array();
    for (int r = 0; r < bench->row_count; r++)
        json_array_append_new(rows, row_json(&bench->rows[r]));
    json_object_set_new(document, "config", config_json(bench));
    json_object_set_new(document, "results", rows);
    bench_json_add_wrong(document, session);
    return bench_json_write(document, session->options->json);
}

static void print_number(FILE *file, double number)
{
    if (number > 0) fprintf(file, ",%.6f", number);
    else fputs(",", file);
}

static void print_csv(const void *context, FILE *file)
{
    const adam_bench_t *bench = context;
    fputs("layout,gradient,parameter,params,threads,bytes_per_param,time_us,gbps,copy_gbps,"
          "share_of_copy,step_us,groups,groups_us,one_parameter_us,memcpy_or_device_copy_gbps,"
          "streaming_copy_gbps,plain_us,wrong\n",
          file);
    for (int r = 0; r < bench->row_count; r++) {
        const adam_row_t *row = &bench->rows[r];
        double gbps = bench_algbw(row->bytes, row->s[ADAM_PASS]);
        fprintf(file, "%s,%s,%s,%lld,%d,%.6f", row->layout->name, tess_dtype_name(row->gradient),
                tess_dtype_name(row->parameter), (long long)row->count, row->threads,
                (double)row->bytes / (double)row->count);
        print_number(file, row->s[ADAM_PASS] * 1e6);
        print_number(file, gbps);
        print_number(file, adam_copy_gbps(row));
        print_number(file, gbps / adam_copy_gbps(row));
        print_number(file, row->s[ADAM_STEP] * 1e6);
        fprintf(file, ",%lld", (long long)row->groups);
        print_number(file, row->s[ADAM_GROUPS] * 1e6);
        print_number(file, row->s[ADAM_LAUNCH] * 1e6);
        print_number(file, bench_algbw(2 * row->copy_bytes, row->s[ADAM_COPY]));
        print_number(file, bench_algbw(2 * row->copy_bytes, row->s[ADAM_STREAM_COPY]));
        print_number(file, row->s[ADAM_PLAIN] * 1e6);
        if (row->wrong >= 0) fprintf(file, ",%lld\n", (long long)row->wrong);
        else fputs(",\n", file);
    }
}

tess_status_t adam_write(adam_bench_t *bench)
{
    const bench_options_t *options = bench->session->options;
    tess_status_t status = TESS_OK;
    if (options->json) status = write_json(bench);
    if (options->csv && status >= 0)
        status = bench_csv_write(bench->session->options->csv, print_csv, bench);
    return status;
}
