/* SPDX-License-Identifier: Apache-2.0 */
/* The sweep's rows as JSON and as CSV: the same figures as in the table, in full precision. */
#include <stdlib.h>
#include <string.h>

#include "bench_file.h"
#include "bench_json.h"
#include "bench_sweep.h"
#include "core/internal.h"

static json_t *result_json(const bench_row_t *row, int place)
{
    const bench_result_t *result = &row->results[place];
    json_t *object = json_pack("{s:f, s:f, s:f}", "time", result->time_s * 1e6, "alg_bw",
                               result->algbw, "bus_bw", result->busbw);
    json_object_set_new(object, "nwrong",
                        result->wrong < 0 ? json_null() : json_integer(result->wrong));
    json_object_set_new(object, "ratio", json_real(row->ratio[place]));
    if (row->copy.bytes > 0)
        json_object_set_new(object, "share_of_memcpy",
                            json_real(result->busbw / row->copy.all_ranks));
    return object;
}

static json_t *each_json(const bench_statistics_t *each)
{
    return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "count", (json_int_t)each->count,
                     "min_us", each->min * 1e6, "p50_us", each->p50 * 1e6, "p95_us",
                     each->p95 * 1e6, "p99_us", each->p99 * 1e6, "max_us", each->max * 1e6,
                     "stdev_us", each->stdev * 1e6, "cv_pct",
                     each->mean > 0 ? 100 * each->stdev / each->mean : 0);
}

static json_t *copy_json(const bench_copy_t *copy)
{
    return json_pack("{s:I, s:f, s:f}", "bytes", (json_int_t)copy->bytes, "alone_gbps", copy->alone,
                     "all_ranks_gbps", copy->all_ranks);
}

static json_t *row_json(const bench_row_t *row)
{
    static const char *const places[] = {"out_of_place", "in_place"};
    static const char *const each[] = {"out_of_place_per_iter", "in_place_per_iter"};
    const bench_case_t *c = row->measured;
    json_t *object =
        json_pack("{s:I, s:I, s:s, s:s, s:i, s:s, s:s}", "size", (json_int_t)row->bytes, "count",
                  (json_int_t)row->count, "type", tess_dtype_name(c->dtype), "redop",
                  bench_reduction_name(c->collective, c->reduction), "root", -1, "transport",
                  c->route->name, "memory", bench_memory_name(c->memory));
    for (int p = 0; p < BENCH_PLACES; p++) {
        json_object_set_new(object, places[p], result_json(row, p));
        if (row->results[p].each_s.count > 0)
            json_object_set_new(object, each[p], each_json(&row->results[p].each_s));
    }
    if (row->copy.bytes > 0) json_object_set_new(object, "memcpy", copy_json(&row->copy));
    return object;
}

static json_t *config_json(const bench_sweep_t *sweep)
{
    const bench_options_t *options = sweep->session->options;
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "collective",
                     bench_collective_name(options->collectives), "minbytes",
                     (json_int_t)sweep->sizes[0], "maxbytes",
                     (json_int_t)sweep->sizes[sweep->size_count - 1], "iters",
                     (json_int_t)options->iterations, "warmup_iters", (json_int_t)options->warmups,
                     "repetitions", (json_int_t)options->repetitions, "check",
                     (json_int_t)options->check, "seed", (json_int_t)options->seed);
}

static tess_status_t write_json(bench_sweep_t *sweep)
{
    bench_session_t *session = sweep->session;
    json_t *document = bench_json_document(session), *rows = json_array();
    for (int r = 0; r < sweep->row_count; r++)
        json_array_append_new(rows, row_json(&sweep->rows[r]));
    json_object_set_new(document, "config", config_json(sweep));
    if (sweep->copy_large.bytes > 0)
        json_object_set_new(document, "memcpy_beyond_cache", copy_json(&sweep->copy_large));
    json_object_set_new(document, "results", rows);
    bench_json_add_wrong(document, sweep->session);
    json_object_set_new(document, "average_bus_bandwidth", json_real(sweep->average_busbw));
    return bench_json_write(document, session->options->json);
}

static void print_csv(const void *context, FILE *file)
{
    const bench_sweep_t *sweep = context;
    fputs("size,count,type,redop,root,transport,memory,place,time_us,algbw_gbps,busbw_gbps,wrong,"
          "ratio,memcpy_gbps,memcpy_alone_gbps,p50_us,p95_us,p99_us\n",
          file);
    for (int i = 0; i < BENCH_PLACES * sweep->row_count; i++) {
        const bench_row_t *row = &sweep->rows[i / BENCH_PLACES];
        const bench_result_t *result = &row->results[i % BENCH_PLACES];
        const bench_case_t *c = row->measured;
        fprintf(file, "%lld,%lld,%s,%s,-1,%s,%s,%s,%.3f,%.6f,%.6f,", (long long)row->bytes,
                (long long)row->count, tess_dtype_name(c->dtype),
                bench_reduction_name(c->collective, c->reduction), c->route->name,
                bench_memory_name(c->memory), i % BENCH_PLACES ? "in" : "out", result->time_s * 1e6,
                result->algbw, result->busbw);
        if (result->wrong >= 0) fprintf(file, "%lld", (long long)result->wrong);
        fprintf(file, ",%.4f,", row->ratio[i % BENCH_PLACES]);
        if (row->copy.bytes > 0) fprintf(file, "%.4f,%.4f,", row->copy.all_ranks, row->copy.alone);
        else fputs(",,", file);
        if (result->each_s.count > 0)
            fprintf(file, "%.3f,%.3f,%.3f\n", result->each_s.p50 * 1e6, result->each_s.p95 * 1e6,
                    result->each_s.p99 * 1e6);
        else fputs(",,\n", file);
    }
}

tess_status_t bench_sweep_write(bench_sweep_t *sweep)
{
    tess_status_t status = TESS_OK;
    if (sweep->session->options->json) status = write_json(sweep);
    if (status >= 0 && sweep->session->options->csv)
        status = bench_csv_write(sweep->session->options->csv, print_csv, sweep);
    return status;
}
