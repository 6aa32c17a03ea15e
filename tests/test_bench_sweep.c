/* SPDX-License-Identifier: Apache-2.0 */
/* The message sweep on 1, 2 and 4 host ranks: figures that belong together, all types, both kinds
 * of memory, several routes, spoiled data, JSON and CSV.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_rig.h"

/* Few and small, so that the figures mean nothing and the test is quick. */
#define QUICK "-n 2 -w 1 --repeat 2 -T 30 "

static int ranks_max(void)
{
    return rig_has_ucx() ? 4 : 1;
}

/* size, count, algbw and busbw of a row must follow from one another. */
static void check_row(json_t *row, int ranks, int element_bytes)
{
    static const char *const places[] = {"out_of_place", "in_place"};
    double size = rig_number(row, "size");
    assert_true(size == rig_number(row, "count") * ranks * element_bytes);
    assert_int_equal((int)rig_number(row, "root"), -1);
    assert_true(fmod(size / ranks, 16) == 0);
    for (int p = 0; p < 2; p++) {
        json_t *result = rig_at(row, places[p]);
        double time_us = rig_number(result, "time"), algbw = rig_number(result, "alg_bw");
        double busbw = rig_number(result, "bus_bw");
        /* Printed with 9 digits. */
        if (!(time_us > 0) || fabs(algbw - size / time_us * 1e-3) > 1e-6 * algbw ||
            fabs(busbw - algbw * (ranks - 1) / ranks) > 1e-6 * algbw)
            fail_msg("size %g, time %g us: algbw %g, busbw %g on %d ranks", size, time_us, algbw,
                     busbw, ranks);
        assert_int_equal((int)rig_number(result, "nwrong"), 0);
    }
}

static void check_document(json_t *document, const char *program, int ranks, int element_bytes,
                           int row_count)
{
    assert_string_equal(rig_text(document, "program"), program);
    assert_string_equal(rig_text(document, "versions/tessera"), TESS_VERSION);
    assert_int_equal((int)json_array_size(rig_at(document, "devices")), ranks);
    assert_int_equal((int)json_array_size(rig_at(document, "results")), row_count);
    assert_true(json_is_true(rig_at(document, "out_of_bounds/okay")));
    assert_true(rig_number(document, "memcpy_beyond_cache/alone_gbps") > 0);
    double sum = 0;
    for (int r = 0; r < row_count; r++) {
        json_t *row = json_array_get(rig_at(document, "results"), (size_t)r);
        check_row(row, ranks, element_bytes);
        sum += rig_number(row, "out_of_place/bus_bw") + rig_number(row, "in_place/bus_bw");
    }
    double average = rig_number(document, "average_bus_bandwidth");
    assert_true(fabs(average - sum / (2 * row_count)) <= 1e-6 * average);
}

static void ranks_and_programs(void **state)
{
    (void)state;
    static const char *const programs[] = {"bench_allgather", "bench_reduce_scatter"};
    char line[256];
    for (int ranks = 1; ranks <= ranks_max(); ranks *= 2)
        for (int p = 0; p < 2; p++) {
            snprintf(line, sizeof line,
                     "%s --device host --ranks %d -b 4K -e 64K -f 4 " QUICK "--json -", programs[p],
                     ranks);
            rig_run_t run = rig_expect(0, line);
            json_t *document = rig_json(run.out);
            check_document(document, programs[p], ranks, 4, 3);
            assert_string_equal(rig_text(document, "config/collective"),
                                p ? "reduce_scatter" : "all_gather");
            assert_string_equal(rig_text(document, "results/0/redop"), p ? "sum" : "none");
            /* The table moved out of the JSON's way. */
            assert_non_null(strstr(run.err, "Out of bounds values : 0 OK"));
            json_decref(document);
            rig_free(&run);
        }
}

static void types_and_averages(void **state)
{
    (void)state;
    static const char *const flags[] = {
        "bench_allgather -d byte", "bench_allgather -d bf16", "bench_reduce_scatter -d bf16",
        "bench_reduce_scatter -d fp16 -o avg", "bench_reduce_scatter -d fp32 -o avg"};
    static const int element_bytes[] = {1, 2, 2, 2, 4};
    char line[256];
    int ranks = rig_has_ucx() ? 3 : 1; /* averages over 3 are not exact in all transports */
    for (int f = 0; f < 5; f++) {
        snprintf(line, sizeof line, "%s --device host --ranks %d -b 48K -e 48K " QUICK "--json -",
                 flags[f], ranks);
        rig_run_t run = rig_expect(0, line);
        json_t *document = rig_json(run.out);
        check_row(rig_at(document, "results/0"), ranks, element_bytes[f]);
        json_decref(document);
        rig_free(&run);
    }
}

static void rounding_is_printed(void **state)
{
    (void)state;
    rig_run_t run = rig_expect(0, "bench_allgather --ranks 1 -b 1000 -e 1010 -i 10 " QUICK);
    assert_non_null(strstr(run.out, "# size 1000 becomes 992"));
    assert_non_null(strstr(run.out, "# size 1010 becomes 1008"));
    rig_free(&run);
    run = rig_expect(0, "bench_allgather --ranks 1 -b 2 -e 16 " QUICK);
    assert_non_null(
        strstr(run.out, "# size 4 becomes 16: 16-byte slices on 1 ranks, measured once"));
    rig_free(&run);
}

static void table_and_csv(void **state)
{
    (void)state;
    char line[256], name[128], text[4096] = "";
    snprintf(name, sizeof name, "%s/rows.csv", rig_folder_make());
    snprintf(line, sizeof line,
             "bench_allgather --ranks 1 -b 4K -e 8K -I --memory both " QUICK "--csv %s", name);
    rig_run_t run = rig_expect(0, line);
    static const char *const columns[] = {
        "size",   "count",        "type",     "redop",      "root", "time", "algbw", "busbw",
        "#wrong", "out-of-place", "in-place", "registered", "user", "p99",  "xout"};
    for (size_t c = 0; c < sizeof columns / sizeof *columns; c++)
        if (!strstr(run.out, columns[c])) fail_msg("no column %s in\n%s", columns[c], run.out);
    rig_free(&run);

    FILE *file = fopen(name, "r");
    assert_non_null(file);
    assert_true(fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    assert_int_equal(rig_count(text, "\n"), 1 + 2 * 2 * 2); /* sizes, memories, placements */
    int commas = 0;
    for (const char *at = text; *at != '\n'; at++) commas += *at == ',';
    assert_int_equal(rig_count(text, ","), commas * 9);
    assert_non_null(strstr(text, "\n4096,1024,fp32,none,-1,self,registered,out,"));
    rig_free(&run);
    assert_int_equal(rig_folder_count(), 1);
    rig_folder_remove();
}

static void percentiles(void **state)
{
    (void)state;
    rig_run_t run = rig_expect(0, "bench_allgather --ranks 1 -b 64K -e 64K -I " QUICK "--json -");
    json_t *document = rig_json(run.out);
    json_t *each = rig_at(document, "results/0/out_of_place_per_iter");
    assert_int_equal((int)rig_number(each, "count"), 4); /* 2 operations, 2 repetitions */
    double last = 0;
    static const char *const rising[] = {"min_us", "p50_us", "p95_us", "p99_us", "max_us"};
    for (int i = 0; i < 5; i++) {
        assert_true(rig_number(each, rising[i]) >= last);
        last = rig_number(each, rising[i]);
    }
    json_decref(document);
    rig_free(&run);
}

static void several_routes(void **state)
{
    (void)state;
    if (!rig_has_ucx()) return;
    rig_run_t run = rig_expect(0, "bench_allgather --device host --ranks 2 --transport ucx,auto "
                                  "-b 64K -e 64K " QUICK "--json -");
    json_t *document = rig_json(run.out);
    assert_int_equal((int)json_array_size(rig_at(document, "results")), 2);
    assert_true(rig_number(document, "results/0/out_of_place/ratio") == 1);
    double ratio = rig_number(document, "results/1/out_of_place/bus_bw") /
                   rig_number(document, "results/0/out_of_place/bus_bw");
    assert_true(fabs(ratio - rig_number(document, "results/1/out_of_place/ratio")) < 1e-6 * ratio);
    assert_int_equal((int)json_array_size(rig_at(document, "transports")), 2);
    json_decref(document);
    rig_free(&run);
}

static void unusable_transport(void **state)
{
    (void)state;
    rig_run_t run = rig_expect(3, "bench_allgather --device host --ranks 1 --transport nccl -b 4K");
    assert_non_null(strstr(run.err, "nccl"));
    rig_free(&run);
    if (!rig_has_ucx()) return;
    run = rig_expect(3, "bench_allgather --device host --ranks 2 --transport self -b 4K");
    assert_non_null(strstr(run.err, "self"));
    rig_free(&run);
}

/* The check finds data that was spoiled between the operation and the comparison, on every type. */
static void spoiled_data(void **state)
{
    (void)state;
    static const char *const flags[] = {"bench_allgather -d byte", "bench_allgather -d bf16",
                                        "bench_reduce_scatter -d fp16",
                                        "bench_reduce_scatter -d fp32"};
    static const int wrong[] = {14, 8, 8, 4}; /* elements in 16 bytes; of bytes a few may fit */
    char line[256];
    for (int f = 0; f < 4; f++) {
        snprintf(line, sizeof line,
                 "TESS_FAULT=bench_corrupt:1 %s --ranks 1 -b 4K -e 4K " QUICK "--json -", flags[f]);
        rig_run_t run = rig_expect(1, line);
        json_t *document = rig_json(run.out);
        double found = rig_number(document, "out_of_bounds/count");
        if (found < wrong[f] || found > 16) fail_msg("%s: %g wrong elements", flags[f], found);
        assert_true(rig_number(document, "results/0/out_of_place/nwrong") == found);
        assert_true(rig_number(document, "results/0/in_place/nwrong") == 0);
        assert_non_null(strstr(run.err, "FAILED"));
        json_decref(document);
        rig_free(&run);
    }
    rig_run_t run = rig_expect(
        0, "TESS_FAULT=bench_corrupt:1 bench_allgather --ranks 1 -b 4K -e 4K -c 0 " QUICK);
    assert_non_null(strstr(run.out, "N/A"));
    assert_non_null(strstr(run.out, "not checked"));
    rig_free(&run);
}

/* Every rank of several spoils one result; all of it is counted. */
static void spoiled_data_on_ranks(void **state)
{
    (void)state;
    if (!rig_has_ucx()) return;
    rig_run_t run = rig_expect(1, "TESS_FAULT=bench_corrupt:1 bench_allgather --device host "
                                  "--ranks 2 -d fp32 -b 4K -e 4K " QUICK "--json -");
    json_t *document = rig_json(run.out);
    assert_int_equal((int)rig_number(document, "out_of_bounds/count"), 2 * 4);
    json_decref(document);
    rig_free(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_and_programs),    cmocka_unit_test(types_and_averages),
        cmocka_unit_test(rounding_is_printed),   cmocka_unit_test(table_and_csv),
        cmocka_unit_test(percentiles),           cmocka_unit_test(several_routes),
        cmocka_unit_test(unusable_transport),    cmocka_unit_test(spoiled_data),
        cmocka_unit_test(spoiled_data_on_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
