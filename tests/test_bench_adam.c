/* SPDX-License-Identifier: Apache-2.0 */
/* bench_adam as its users run it: figures that belong together in table, JSON and CSV, every
 * layout, wrong data and bad command lines.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_rig.h"

#define QUICK " --device host -n 1 -w 1 --repeat 3 -T 30 "

static void expect_near(const char *what, double value, double expected)
{
    /* JSON has 9 digits; a quotient of two such numbers has 8. */
    if (!(fabs(value - expected) <= 1e-7 * fabs(expected)))
        fail_msg("%s is %.12g, and %.12g is expected", what, value, expected);
}

/* How many numbers of threads this build can run. */
static int thread_counts(void)
{
    return rig_count(BENCH_THREADS, ",") + 1;
}

/* Bytes a parameter with bf16 gradients and parameters, without the scales of 8-bit moments. */
static double bytes_of(const char *layout)
{
    static const struct {
        const char *layout;
        double bytes;
    } table[] = {
        {"master", 2 + 2 + 3 * 8},
        {"remainder", 2 + 4 + 4 + 2 * 8},
        {"master-bf16", 2 + 2 + 8 + 2 * 4},
        {"remainder-bf16", 2 + 4 + 4 + 2 * 4},
        {"master-8bit", 2 + 2 + 8 + 2 * 2 + 4.0 * 4 / 256},
        {"bf16-8bit", 2 + 4 + 2 * 2 + 4.0 * 4 / 256},
        {"bf16", 2 + 4 + 2 * 4},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(layout, table[i].layout) == 0) return table[i].bytes;
    fail_msg("layout %s is unknown here", layout);
    return 0;
}

static void check_row(json_t *row)
{
    double count = rig_number(row, "params"), us = rig_number(row, "time_us");
    double bytes = rig_number(row, "bytes_per_param"), gbps = rig_number(row, "gbps");
    double copy = rig_number(row, "memcpy/gbps");
    assert_true(us > 0 && rig_number(row, "time_us_min") > 0);
    assert_true(rig_number(row, "time_us_min") <= us);
    /* Sizes here are whole blocks. */
    expect_near("bytes a parameter", bytes, bytes_of(rig_text(row, "layout")));
    expect_near("GB/s", gbps, bytes * count / us * 1e-3);
    if (json_object_get(row, "streaming_copy"))
        copy = fmax(copy, rig_number(row, "streaming_copy/gbps"));
    expect_near("GB/s of the copy", rig_number(row, "copy_gbps"), copy);
    expect_near("share of copy", rig_number(row, "share_of_copy"), gbps / copy);
    expect_near("GB/s of memcpy", rig_number(row, "memcpy/gbps"),
                2 * rig_number(row, "copy_bytes") / rig_number(row, "memcpy/time_us") * 1e-3);
    expect_near("GB/s of the step", rig_number(row, "step/gbps"),
                (bytes + 2) * count / rig_number(row, "step/time_us") * 1e-3);
    assert_true(rig_number(row, "one_parameter_us") > 0);
    assert_int_equal((int)rig_number(row, "nwrong"), 0);
}

static void figures(void **state)
{
    (void)state;
    rig_run_t run = rig_expect(0, "bench_adam" QUICK
                                  "--params 25600,1048576 --layout all --threads 1 --groups 100 "
                                  "--json -");
    json_t *document = rig_json(run.out), *rows = rig_at(document, "results");
    assert_int_equal((int)json_array_size(rows), 2 * 7);
    for (size_t r = 0; r < 2 * 7; r++) {
        json_t *row = json_array_get(rows, r);
        check_row(row);
        assert_int_equal((int)rig_number(row, "threads"), 1);
        /* 256 elements a group are too few to be measured, 10485 are not. */
        assert_int_equal(json_object_get(row, "groups") != NULL, r >= 7);
        if (r >= 7)
            expect_near("ratio of groups", rig_number(row, "groups/ratio"),
                        rig_number(row, "groups/time_us") / rig_number(row, "time_us"));
        assert_int_equal(json_object_get(row, "plain") != NULL,
                         strcmp(rig_text(row, "layout"), "master") == 0);
    }
    assert_true(json_is_true(rig_at(document, "out_of_bounds/okay")));
    assert_int_equal((int)json_array_size(rig_at(document, "transports")), 0);
    assert_non_null(strstr(rig_text(document, "results/0/runs_on"), "host"));
    assert_non_null(strstr(rig_text(document, "config/huge_pages"), "asked for"));
    json_decref(document);
    rig_free(&run);
}

/* Every dtype, tails and a size below one block, with the check on: it compares with fp64. */
static void dtypes_and_tails(void **state)
{
    (void)state;
    static const char *const types[] = {"bf16", "fp16", "fp32"};
    char line[256];
    for (int i = 0; i < 9; i++) {
        snprintf(line, sizeof line,
                 "bench_adam" QUICK
                 "--params 1,77,1e5,1500001 --layout all --threads " BENCH_THREADS
                 " -d %s --parameter %s "
                 "--repeat 1 -w 0 --csv -",
                 types[i / 3], types[i % 3]);
        rig_run_t run = rig_run(line);
        if (run.exit_code != 0) fail_msg("%s: ended with %d\n%s", line, run.exit_code, run.err);
        assert_int_equal(rig_count(run.out, "\n"), 1 + 4 * 7 * thread_counts());
        rig_free(&run);
    }
}

static void table(void **state)
{
    (void)state;
    rig_run_t run =
        rig_expect(0, "bench_adam" QUICK "--params 3e5 --threads " BENCH_THREADS " --huge-pages 0");
    static const char *const layouts[] = {"\n  master ", "\n  remainder ", "\n  remainder-bf16 ",
                                          "\n  bf16-8bit ", "\n  bf16 "};
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++)
        assert_int_equal(rig_count(run.out, layouts[l]), thread_counts());
    assert_int_equal(rig_count(run.out, "master-8bit"), 0);
    assert_non_null(strstr(run.out, "# huge pages: refused, the kernel's setting is"));
    assert_non_null(strstr(run.out, "# runs on: host, "));
    assert_non_null(strstr(run.out, "Out of bounds values : 0 OK"));
    rig_free(&run);
}

/* One damaged byte is found, in the first of two layouts. */
static void wrong_data(void **state)
{
    (void)state;
    rig_run_t run = rig_expect(1, "TESS_FAULT=bench:1 bench_adam" QUICK
                                  "--params 1e4 --layout master,remainder --threads 1 --json -");
    json_t *document = rig_json(run.out);
    assert_int_equal((int)rig_number(document, "results/0/nwrong"), 1);
    assert_int_equal((int)rig_number(document, "results/1/nwrong"), 0);
    assert_int_equal((int)rig_number(document, "out_of_bounds/count"), 1);
    json_decref(document);
    rig_free(&run);
    run = rig_expect(0, "TESS_FAULT=bench:1 bench_adam" QUICK
                        "--params 1e4 --layout master --threads 1 -c 0");
    assert_non_null(strstr(run.out, "not checked"));
    rig_free(&run);
}

/* Each rank steps parameters of its own at once. */
static void ranks(void **state)
{
    (void)state;
    rig_run_t run =
        rig_expect(0, "bench_adam" QUICK "--ranks 2 --params 2e5 --layout master,bf16 --threads 1 "
                      "--json -");
    json_t *document = rig_json(run.out);
    assert_int_equal((int)json_array_size(rig_at(document, "devices")), 2);
    assert_int_equal((int)json_array_size(rig_at(document, "results")), 2);
    json_decref(document);
    rig_free(&run);
}

static void wrong_command_lines(void **state)
{
    (void)state;
    static const struct {
        const char *flags, *sentence;
        int exit_code;
    } wrongs[] = {
        {"--params 0", "is not a number from 1", 2},
        {"--params 1.5", "is not a whole number", 2},
        {"--params 1e5,", "is not a number", 2},
        {"--params 1e5,100000", "named twice", 2},
        {"--params 1M", "is not a number", 2},
        {"--layout fast", "there is no layout \"fast\"", 2},
        {"--layout master,master", "named twice", 2},
        {"--layout all,bf16", "named twice", 2},
        {"-d int", "element type", 2},
        {"-d byte", "are bf16, fp16 or fp32", 2},
        {"--parameter byte", "are bf16, fp16 or fp32", 2},
        {"--threads 0", "is not a number from 1", 2},
        {"--threads 1,x", "is not a number", 2},
        {"--device cuda --threads 1", "is for the host", 2},
        {"-b 1M", "--params 1e8,1e9 lists them", 2},
        {"-t 4", "--threads lists", 2},
        {"--huge-pages 2", "is not a whole number from 0 to 1", 2},
        {"--groups -1", "is not a whole number from 0", 2},
        {"--tune", "unrecognized option", 2},
        {"--transport ucx", "unrecognized option", 2},
        {"--json /nowhere/x.json --device host", "cannot write /nowhere/x.json", 2},
        {"--params 1e12 --device host", "parameters need", 3},
    };
    for (size_t w = 0; w < sizeof wrongs / sizeof *wrongs; w++) {
        char line[128];
        snprintf(line, sizeof line, "bench_adam %s", wrongs[w].flags);
        rig_run_t run = rig_run(line);
        if (run.exit_code != wrongs[w].exit_code || !strstr(run.err, wrongs[w].sentence))
            fail_msg("%s: ended with %d; expected %d and \"%s\"\n--- error\n%s", line,
                     run.exit_code, wrongs[w].exit_code, wrongs[w].sentence, run.err);
        rig_free(&run);
    }
}

static void help(void **state)
{
    (void)state;
    rig_run_t run = rig_expect(0, "bench_adam --help");
    static const char *const flags[] = {"--params=A,B", "--layout=A,B",   "--threads=A,B",
                                        "--groups=N",   "--huge-pages=N", "--ranks=N",
                                        "--json=FILE",  "Exit codes:"};
    for (size_t f = 0; f < sizeof flags / sizeof *flags; f++)
        if (!strstr(run.out, flags[f])) fail_msg("--help lacks %s\n%s", flags[f], run.out);
    assert_null(strstr(run.out, "--minbytes"));
    assert_null(strstr(run.out, "--transport"));
    rig_free(&run);
    run = rig_expect(0, "bench_allgather --help");
    assert_null(strstr(run.out, "--layout"));
    assert_non_null(strstr(run.out, "--minbytes=SIZE"));
    rig_free(&run);
}

/* Every allocation fails once, and the program ends with one sentence and code 3. */
static void failed_allocations(void **state)
{
    (void)state;
    static const char *const points[] = {"alloc", "memory"};
    for (int p = 0; p < 2; p++) {
        int failures = 0;
        for (int n = 1; n < 200; n++) {
            char line[256];
            snprintf(line, sizeof line,
                     "TESS_FAULT=%s:%d bench_adam" QUICK
                     "--params 2e3 --layout master,bf16-8bit --threads 1 --groups 1 --repeat 1",
                     points[p], n);
            rig_run_t run = rig_run(line);
            int done = run.exit_code == 0;
            if (!done && (run.exit_code != 3 || rig_count(run.err, "bench_adam: ") != 1))
                fail_msg("%s: ended with %d\n%s", line, run.exit_code, run.err);
            rig_free(&run);
            failures += !done;
            if (done) break;
        }
        if (failures < 5) fail_msg("only %d allocations passed point %s", failures, points[p]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures), cmocka_unit_test(dtypes_and_tails),
        cmocka_unit_test(table),   cmocka_unit_test(wrong_data),
        cmocka_unit_test(ranks),   cmocka_unit_test(wrong_command_lines),
        cmocka_unit_test(help),    cmocka_unit_test(failed_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
