/* SPDX-License-Identifier: Apache-2.0 */
/* --tune: the recommendation's line and rule, the files, the sample, and what happens without
 * gnuplot.
 */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_rig.h"

#define QUICK "--tune --device host --model-bytes 8M -T 30 --budget 1 "

static int ranks_here(void)
{
    return rig_has_ucx() ? 2 : 1;
}

/* The line that people and scripts look for: exactly once and last, and the fragment before it. */
static void check_recommendation(const char *output, int64_t element_bytes, char *fragment,
                                 size_t fragment_bytes)
{
    long long bytes, elements;
    int end = 0;
    assert_int_equal(rig_count(output, "recommended bucket:"), 1);
    const char *line = strstr(output, "\nrecommended bucket: ");
    assert_non_null(line);
    sscanf(line, "\nrecommended bucket: %lld bytes (%lld elements)\n%n", &bytes, &elements, &end);
    if (end == 0 || line[end] != '\0') fail_msg("not the agreed last line: %s", line);
    assert_true(bytes == elements * element_bytes);
    const char *start = line;
    while (start > output && start[-1] != '\n') start--;
    snprintf(fragment, fragment_bytes, "%.*s", (int)(line - start), start);
    json_t *json = rig_json(fragment);
    assert_non_null(rig_at(json, "zero_optimization"));
    json_decref(json);
}

/* The smallest bucket within 2 % of the best, recomputed from the rows. */
static void check_rule(json_t *document, const char *key)
{
    json_t *rows = rig_at(document, "results");
    double best = INFINITY;
    char path[64];
    snprintf(path, sizeof path, "%s/median_s", key);
    for (size_t r = 0; r < json_array_size(rows); r++) {
        json_t *row = json_array_get(rows, r);
        if (json_object_get(row, key)) best = fmin(best, rig_number(row, path));
    }
    for (size_t r = 0; r < json_array_size(rows); r++) {
        json_t *row = json_array_get(rows, r);
        if (!json_object_get(row, key) || rig_number(row, path) > 1.02 * best) continue;
        assert_true(json_is_true(rig_at(row, "recommended")));
        assert_true(rig_number(row, "bucket_bytes") ==
                    rig_number(document, "recommendation/bucket_bytes"));
        return;
    }
    fail_msg("no row is within 2 %% of the best");
}

static void gathering(void **state)
{
    (void)state;
    char line[256], fragment[4096];
    snprintf(line, sizeof line, "bench_allgather --ranks %d " QUICK "--tokens 4 --out %s/tune.json",
             ranks_here(), rig_folder_make());
    rig_run_t run = rig_expect(0, line);
    check_recommendation(run.out, 2, fragment, sizeof fragment);
    assert_non_null(strstr(fragment, "\"allgather_bucket_size\""));
    assert_non_null(strstr(fragment, "\"stage3_prefetch_bucket_size\""));
    rig_free(&run);

    json_t *document = rig_json_file(strrchr(line, ' ') + 1);
    check_rule(document, "both");
    assert_string_equal(rig_text(document, "config/collective"), "all_gather");
    assert_true(rig_number(document, "config/scale") == 1);
    assert_true(rig_number(document, "config/params") == 4194304);
    for (size_t r = 0; r < json_array_size(rig_at(document, "results")); r++) {
        json_t *row = json_array_get(rig_at(document, "results"), r);
        /* The ring holds two of the largest bucket, in whole pages. */
        double ring = rig_number(row, "memory_bytes"), largest = rig_number(row, "largest_bytes");
        assert_true(ring >= 2 * largest && ring < 2 * largest + 2 * 4096);
        assert_true(largest <= rig_number(row, "bucket_bytes"));
    }
    double deepspeed =
        rig_number(document, "recommendation/deepspeed/zero_optimization/allgather_bucket_size");
    assert_true(deepspeed == rig_number(document, "recommendation/bucket_elements"));
    json_decref(document);
    assert_int_equal(rig_folder_count(), 1);
    rig_folder_remove();
}

static void reducing(void **state)
{
    (void)state;
    char line[256], fragment[4096];
    snprintf(line, sizeof line,
             "bench_reduce_scatter --ranks %d " QUICK "--gemm 4,256,256 -d fp32 --json -",
             ranks_here());
    rig_run_t run = rig_expect(0, line);
    json_t *document = rig_json(run.out);
    check_rule(document, "both");
    assert_int_equal((int)rig_number(document, "config/gemm_repeats"), 2);
    assert_int_equal((int)rig_number(document, "config/gemm_params"), 65536);
    json_decref(document);
    check_recommendation(run.err, 4, fragment, sizeof fragment);
    assert_non_null(strstr(fragment, "\"reduce_bucket_size\""));
    rig_free(&run);
}

static void communication_alone(void **state)
{
    (void)state;
    rig_run_t run = rig_expect(0, "bench_allgather --ranks 1 " QUICK "--tokens 0 -b 2M --json -");
    json_t *document = rig_json(run.out);
    check_rule(document, "communication");
    assert_int_equal((int)json_array_size(rig_at(document, "results")), 3); /* 2, 4, 8 MiB */
    assert_null(json_object_get(rig_at(document, "results/0"), "both"));
    json_decref(document);
    rig_free(&run);
    run = rig_expect(0, "bench_allgather --ranks 1 " QUICK "--tokens 0 --csv -");
    assert_int_equal(rig_count(run.out, "\n"), 1 + 4);
    assert_int_equal(rig_count(run.out, ",1\n"), 1); /* one row is recommended */
    rig_free(&run);
}

/* A size that does not hold the largest tensor of the list would measure larger buckets than it
 * says; it is shown, and neither measured nor recommended. */
static void sizes_below_a_tensor(void **state)
{
    (void)state;
    rig_run_t run = rig_expect(0, "bench_allgather --ranks 1 --tune --device host --model-bytes "
                                  "64M -b 4K -e 64K --tokens 0 --budget 0.1 --json -");
    assert_int_equal(rig_count(run.err, "smaller than a tensor of the list"), 2);
    json_t *document = rig_json(run.out), *rows = rig_at(document, "results");
    assert_int_equal((int)json_array_size(rows), 5); /* 4, 8, 16, 32, 64 KiB; blocks of 15 KiB */
    for (size_t r = 0; r < 5; r++) {
        json_t *row = json_array_get(rows, r);
        assert_int_equal(json_is_true(rig_at(row, "too_small")), r < 2);
        assert_int_equal(json_object_get(row, "communication") == NULL, r < 2);
        if (r >= 2)
            assert_true(rig_number(row, "largest_bytes") <= rig_number(row, "bucket_bytes"));
    }
    check_rule(document, "communication");
    json_decref(document);
    rig_free(&run);
    run = rig_expect(2, "bench_allgather --ranks 1 --tune --device host --model-bytes 64M -b 1K "
                        "-e 4K");
    assert_non_null(strstr(run.err, "no bucket size up to 4096 bytes holds"));
    rig_free(&run);
}

/* A budget that the first rows use up: every row is seen all the same, the late ones once. */
static void budget_ends_early(void **state)
{
    (void)state;
    rig_run_t run = rig_expect(0, "bench_allgather --ranks 1 --tune --device host --model-bytes "
                                  "64M --budget 0.1 --json -");
    json_t *document = rig_json(run.out), *rows = rig_at(document, "results");
    size_t count = json_array_size(rows);
    assert_int_equal((int)count, 7);
    for (size_t r = 0; r < count; r++) {
        size_t passes = json_array_size(rig_at(json_array_get(rows, r), "communication/samples_s"));
        assert_true(passes == 3 || (r > 0 && passes == 1));
        if (r + 1 == count) assert_int_equal((int)passes, 1);
    }
    assert_int_equal((int)rig_number(document, "rounds"), 1);
    assert_true(json_is_true(rig_at(document, "ended_early")));
    assert_false(json_is_true(rig_at(document, "stable")));
    assert_non_null(strstr(run.err, "ended early by --budget 0.1; nothing was repeated"));
    json_decref(document);
    rig_free(&run);
}

/* A model that is larger than the sample is scaled, and that is said. */
static void sampling(void **state)
{
    (void)state;
    rig_run_t run = rig_expect(0, "bench_allgather --ranks 1 --tune --device host --params 8.2e9 "
                                  "--sample-bytes 8M --tokens 0 --budget 1 --json -");
    assert_non_null(strstr(run.err, "# sample: the first 8 MiB (4194304 parameters) are measured"));
    json_t *document = rig_json(run.out);
    double scale = rig_number(document, "config/scale");
    assert_true(fabs(scale - 8.2e9 / 4194304) < 1e-6 * scale);
    /* 1 and 2 MiB: a quarter of the sample is the largest bucket. */
    assert_int_equal((int)json_array_size(rig_at(document, "results")), 2);
    json_decref(document);
    rig_free(&run);
}

/* Tags balance, attributes are quoted, one root named svg: what a reader of XML insists on. */
static void check_svg(const char *text)
{
    char open[64][32];
    int depth = 0, roots = 0;
    for (const char *at = strchr(text, '<'); at; at = strchr(at, '<')) {
        const char *end = strchr(at, '>');
        assert_non_null(end);
        if (strncmp(at, "<!--", 4) == 0) end = strstr(at, "-->");
        int quotes = 0;
        for (const char *c = at; c < end; c++) quotes += *c == '"';
        assert_int_equal(quotes % 2, 0);
        if (at[1] == '/') {
            assert_true(depth > 0);
            size_t length = strlen(open[--depth]);
            if (strncmp(at + 2, open[depth], length) != 0)
                fail_msg("</%.20s closes <%s", at + 2, open[depth]);
        } else if (at[1] != '?' && at[1] != '!' && end[-1] != '/') {
            size_t length = strcspn(at + 1, " \t\n\r>");
            assert_true(depth < 64 && length < 32);
            memcpy(open[depth], at + 1, length);
            open[depth][length] = '\0';
            if (depth == 0) {
                assert_string_equal(open[0], "svg");
                roots++;
            }
            depth++;
        }
        at = end;
    }
    assert_int_equal(depth, 0);
    assert_int_equal(roots, 1);
}

static int has_gnuplot(void)
{
    return access("/usr/bin/gnuplot", X_OK) == 0;
}

static void plots(void **state)
{
    (void)state;
    if (!has_gnuplot()) {
        print_message("no gnuplot here: plots are not tested\n");
        return;
    }
    char line[256], text[200000] = "";
    snprintf(line, sizeof line, "bench_allgather --ranks 1 " QUICK "--tokens 0 --plot %s/it's.svg",
             rig_folder_make());
    rig_run_t run = rig_expect(0, line);
    assert_non_null(strstr(run.out, "communication alone"));
    assert_non_null(strstr(run.out, "2 MiB"));
    rig_free(&run);
    FILE *file = fopen(strrchr(line, ' ') + 1, "r");
    assert_non_null(file);
    assert_true(fread(text, 1, sizeof text - 1, file) > 1000);
    fclose(file);
    check_svg(text);
    assert_non_null(strstr(text, "all_gather, 1 rank, self"));
    assert_int_equal(rig_folder_count(), 1);
    rig_folder_remove();
}

static void without_gnuplot(void **state)
{
    (void)state;
    char line[256];
    rig_run_t run = rig_expect(0, "PATH=/nowhere bench_allgather --ranks 1 " QUICK "--tokens 0");
    assert_int_equal(rig_count(run.out, "# no plot: gnuplot is not on PATH"), 1);
    assert_int_equal(rig_count(run.out, "recommended bucket:"), 1);
    rig_free(&run);
    snprintf(line, sizeof line, "PATH=/nowhere bench_allgather --ranks 1 " QUICK "--plot %s/x.svg",
             rig_folder_make());
    run = rig_expect(2, line);
    assert_non_null(strstr(run.err, "apt install gnuplot-nox"));
    assert_null(strstr(run.out, "recommended"));
    assert_int_equal(rig_folder_count(), 0);
    rig_free(&run);
    rig_folder_remove();
}

/* Rank 0 finds the file unwritable; every rank ends, and one sentence is printed. */
static void unwritable_on_ranks(void **state)
{
    (void)state;
    if (!rig_has_ucx()) return;
    rig_run_t run = rig_expect(2, "bench_allgather --ranks 2 " QUICK "--out /nowhere/x.json");
    assert_int_equal(rig_count(run.err, "cannot write /nowhere/x.json"), 1);
    rig_free(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gathering),
        cmocka_unit_test(reducing),
        cmocka_unit_test(communication_alone),
        cmocka_unit_test(sizes_below_a_tensor),
        cmocka_unit_test(budget_ends_early),
        cmocka_unit_test(sampling),
        cmocka_unit_test(plots),
        cmocka_unit_test(without_gnuplot),
        cmocka_unit_test(unwritable_on_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
