/* SPDX-License-Identifier: Apache-2.0 */
/* bench_offload as its users run it: figures that belong together in table, JSON and CSV, every
 * mode and engine, files left as they were, wrong data and bad command lines.
 */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_rig.h"

#define QUICK " --device host -w 0 --repeat 1 -T 30 "
#define SMALL QUICK "--total-bytes 2M -b 64K -e 256K -f 4 --tile 64K --params 1e5,70001 "

static void expect_near(const char *what, double value, double expected)
{
    /* JSON has 9 digits; a quotient of two such numbers has 8. */
    if (!(fabs(value - expected) <= 1e-7 * fabs(expected)))
        fail_msg("%s is %.12g, and %.12g is expected", what, value, expected);
}

/* --- figures --------------------------------------------------------------------------------- */

static void check_row(json_t *row, int ranks)
{
    double us = rig_number(row, "prefetch/time_us"), raw_us = rig_number(row, "raw/time_us");
    double bytes = rig_number(row, "bytes"), way_bytes = rig_number(row, "visits");
    const char *what = rig_text(row, "what"), *kind = rig_text(row, "kind");
    assert_true(us > 0 && raw_us > 0);
    expect_near("GB/s", rig_number(row, "prefetch/gbps"), bytes / us * 1e-3);
    expect_near("raw GB/s", rig_number(row, "raw/gbps"), bytes / raw_us * 1e-3);
    expect_near("ratio", rig_number(row, "ratio"), raw_us / us);
    assert_int_equal((int)rig_number(row, "nwrong"), 0);
    assert_true(rig_number(row, "slots") >= 1);
    if (strcmp(what, "adam") == 0) {
        expect_near("bytes", bytes, rig_number(row, "params") * 24);
        return;
    }
    int ways = strcmp(kind, "both") == 0 || strcmp(kind, "read_write") == 0 ? 2 : 1;
    expect_near("bytes", bytes, way_bytes * rig_number(row, "tile_bytes") * ways * ranks);
}

static void check_compute(json_t *row)
{
    double us = rig_number(row, "prefetch/time_us"), compute = rig_number(row, "compute_us");
    expect_near("efficiency", rig_number(row, "efficiency"),
                fmax(us, compute) / rig_number(row, "both_us"));
    expect_near("raw efficiency", rig_number(row, "raw_efficiency"),
                fmax(rig_number(row, "raw/time_us"), compute) / rig_number(row, "raw_both_us"));
    /* The first wait is one of them; both are of one pass, because there is one repetition. */
    assert_true(rig_number(row, "stalls_us") >= rig_number(row, "first_stall_us") * (1 - 1e-7));
    assert_true(rig_number(row, "products") >= 1);
}

static void check_adam(json_t *row)
{
    double scale = 1e6 / rig_number(row, "params"); /* us to ms per 1e9 */
    expect_near("ms per 1e9", rig_number(row, "ms_per_1e9"),
                rig_number(row, "prefetch/time_us") * scale);
    expect_near("raw ms per 1e9", rig_number(row, "raw_ms_per_1e9"),
                rig_number(row, "raw/time_us") * scale);
    expect_near("CPU ms per 1e9", rig_number(row, "cpu/ms_per_1e9"),
                rig_number(row, "cpu/time_us") * scale);
    expect_near("CPU ratio", rig_number(row, "cpu/ratio"),
                rig_number(row, "cpu/time_us") / rig_number(row, "prefetch/time_us"));
    assert_true(rig_number(row, "cpu/threads") >= 1);
}

static void check_file(json_t *row, double block_bytes)
{
    expect_near("ratio of the store", rig_number(row, "store/ratio"),
                rig_number(row, "raw/time_us") / rig_number(row, "store/time_us"));
    expect_near("GB/s of the store", rig_number(row, "store/gbps"),
                rig_number(row, "bytes") / rig_number(row, "store/time_us") * 1e-3);
    expect_near("block", rig_number(row, "block_bytes"), block_bytes);
}

/* Three ways for each of two sizes, two kinds of access, two numbers of parameters, two ways. */
static void figures(void **state)
{
    (void)state;
    static const char *const kinds[] = {"h2d",  "d2h",        "both", "h2d",  "d2h",   "both",
                                        "read", "read_write", "adam", "adam", "write", "read"};
    const int count = sizeof kinds / sizeof *kinds;
    char line[512];
    snprintf(line, sizeof line,
             "bench_offload" SMALL "--file %s/tiles --file-bytes 2M --block 16K --depth 4 --json -",
             rig_folder_make());
    rig_run_t run = rig_expect(0, line);
    json_t *document = rig_json(run.out), *rows = rig_at(document, "results");
    assert_int_equal((int)json_array_size(rows), count);
    for (int r = 0; r < count; r++) {
        json_t *row = json_array_get(rows, (size_t)r);
        assert_string_equal(rig_text(row, "kind"), kinds[r]);
        check_row(row, 1);
        if (r == 6 || r == 7) check_compute(row);
        if (r == 8 || r == 9) check_adam(row);
        if (r >= 10) check_file(row, 16384);
    }
    assert_true(json_is_true(rig_at(document, "out_of_bounds/okay")));
    assert_true(rig_number(document, "config/pinned/bytes") >= 2 << 20);
    assert_int_equal(rig_folder_count(), 0); /* the file was ours, and is gone */
    json_decref(document);
    rig_free(&run);
    rig_folder_remove();
}

/* Fewer tiles than slots, and so few that raw copies cannot read some and write others. */
static void few_tiles(void **state)
{
    (void)state;
    for (int tiles = 1; tiles <= 4; tiles++) {
        char line[256];
        snprintf(line, sizeof line,
                 "bench_offload" QUICK "--tiles %d -b 64K -e 64K --tile 64K --gemms 1 --params %d "
                 "--json -",
                 tiles, 16384 * tiles - 1);
        rig_run_t run = rig_expect(0, line);
        json_t *document = rig_json(run.out), *rows = rig_at(document, "results");
        assert_int_equal((int)json_array_size(rows), 6);
        for (size_t r = 0; r < 6; r++) check_row(json_array_get(rows, r), 1);
        json_decref(document);
        rig_free(&run);
    }
}

/* A schedule is as long as --tiles says, or a few large tiles in turn. */
static void schedules(void **state)
{
    (void)state;
    rig_run_t run = rig_expect(0, "bench_offload" QUICK "--what copy,compute --tiles 500 -b 4K "
                                  "-e 4K --tile 1000 --gemms 3 --slots 5 --json -");
    json_t *document = rig_json(run.out);
    for (int r = 0; r < 5; r++) {
        char path[32];
        snprintf(path, sizeof path, "results/%d", r);
        json_t *row = rig_at(document, path);
        assert_int_equal((int)rig_number(row, "tiles"), 500);
        assert_int_equal((int)rig_number(row, "visits"), 500);
        assert_int_equal((int)rig_number(row, "slots"), 5);
        assert_int_equal((int)rig_number(row, "tile_bytes"), r < 3 ? 4096 : 1024);
    }
    assert_int_equal((int)rig_number(document, "results/4/products"), 3);
    json_decref(document);
    rig_free(&run);

    run = rig_expect(0, "bench_offload" QUICK "--what copy --total-bytes 1M -b 1M -e 1M --json -");
    document = rig_json(run.out);
    assert_int_equal((int)rig_number(document, "results/2/tiles"), 8);
    assert_int_equal((int)rig_number(document, "results/2/visits"), 32);
    check_row(rig_at(document, "results/2"), 1);
    json_decref(document);
    rig_free(&run);
}

static void table(void **state)
{
    (void)state;
    char line[512];
    snprintf(line, sizeof line, "bench_offload" SMALL "--cpu-adam 0 --csv %s/rows.csv",
             rig_folder_make());
    rig_run_t run = rig_expect(0, line);
    static const char *const texts[] = {"# pinned memory of rank 0: ",
                                        "\n  h2d ",
                                        "\n  d2h ",
                                        "\n  both ",
                                        "\n  read ",
                                        "\n  read_write ",
                                        "100000",
                                        "Out of bounds values : 0 OK"};
    for (size_t t = 0; t < sizeof texts / sizeof *texts; t++)
        if (!strstr(run.out, texts[t])) fail_msg("there is no \"%s\" in\n%s", texts[t], run.out);
    assert_null(strstr(run.out, "# file"));
    assert_int_equal(rig_folder_count(), 1);
    rig_free(&run);
    rig_folder_remove();

    run = rig_expect(0, "bench_offload" SMALL "--what copy --csv -");
    assert_int_equal(rig_count(run.out, "\n"), 1 + 6);
    assert_int_equal(rig_count(run.out, "\ncopy,both,"), 2);
    assert_non_null(strstr(run.err, "Out of bounds values : 0 OK"));
    rig_free(&run);
}

/* Each rank has tiles, parameters and a file of its own; bandwidths are sums. */
static void ranks(void **state)
{
    (void)state;
    char line[512];
    snprintf(line, sizeof line,
             "bench_offload" SMALL "--ranks 2 --file %s/tiles --file-bytes 1M --json -",
             rig_folder_make());
    rig_run_t run = rig_expect(0, line);
    json_t *document = rig_json(run.out), *rows = rig_at(document, "results");
    assert_int_equal((int)json_array_size(rig_at(document, "devices")), 2);
    for (size_t r = 0; r < json_array_size(rows); r++) check_row(json_array_get(rows, r), 2);
    assert_int_equal((int)rig_number(document, "results/8/params"), 200000);
    assert_int_equal(rig_folder_count(), 0);
    json_decref(document);
    rig_free(&run);
    rig_folder_remove();
}

/* --- files ----------------------------------------------------------------------------------- */

static void engines(void **state)
{
    (void)state;
    const char *folder = rig_folder_make();
    static const char *const flags[] = {
        "--engine threads --block 64K --depth 3",
        "--engine threads --block 4K --depth 16 --tile 10000",
        "--engine auto --block 1M --depth 1",
        "--engine auto --block 12K --depth 100 --slots 2",
    };
    for (size_t f = 0; f < sizeof flags / sizeof *flags; f++) {
        char line[512];
        snprintf(line, sizeof line,
                 "bench_offload" QUICK "--what file --file %s/tiles --file-bytes 1000000 "
                 "--tile 128K %s --json -",
                 folder, flags[f]);
        rig_run_t run = rig_expect(0, line);
        json_t *document = rig_json(run.out);
        check_row(rig_at(document, "results/0"), 1);
        check_row(rig_at(document, "results/1"), 1);
        const char *engine = rig_text(document, "results/0/runs_on");
        if (strstr(flags[f], "threads") && strncmp(engine, "threads", 7) != 0)
            fail_msg("%s ran on %s", flags[f], engine);
        json_decref(document);
        rig_free(&run);
    }
    assert_int_equal(rig_folder_count(), 0);
    rig_folder_remove();
}

/* What is there already stays, and stays as it is. */
static void existing_file(void **state)
{
    (void)state;
    char name[128], line[512], content[8] = "";
    snprintf(name, sizeof name, "%s/precious", rig_folder_make());
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    assert_true(fputs("precious", file) >= 0);
    assert_int_equal(fclose(file), 0);
    snprintf(line, sizeof line, "bench_offload" QUICK "--what file --file %s", name);
    rig_run_t run = rig_expect(2, line);
    assert_non_null(strstr(run.err, "is there already"));
    rig_free(&run);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, content, sizeof content), 8);
    assert_memory_equal(content, "precious", 8);
    close(fd);
    rig_folder_remove();
}

/* --- failures -------------------------------------------------------------------------------- */

/* Damage is found in every mode. */
static void wrong_data(void **state)
{
    (void)state;
    const char *folder = rig_folder_make();
    static const char *const modes[] = {"copy", "compute", "adam", "file"};
    for (int m = 0; m < 4; m++) {
        char line[512], file[128] = "";
        if (m == 3) snprintf(file, sizeof file, "--file %s/tiles --file-bytes 1M", folder);
        snprintf(line, sizeof line,
                 "TESS_FAULT=bench:1 bench_offload" SMALL "--what %s %s --json -", modes[m], file);
        rig_run_t run = rig_expect(1, line);
        json_t *document = rig_json(run.out);
        assert_int_equal((int)rig_number(document, "results/0/nwrong"), 1);
        assert_int_equal((int)rig_number(document, "results/1/nwrong"), 0);
        assert_int_equal((int)rig_number(document, "out_of_bounds/count"), 1);
        json_decref(document);
        rig_free(&run);
    }
    rig_run_t run = rig_expect(0, "TESS_FAULT=bench:1 bench_offload" SMALL "-c 0");
    assert_non_null(strstr(run.out, "not checked"));
    assert_int_equal(rig_count(run.out, " N/A\n"), 6 + 2 + 2);
    rig_free(&run);
    rig_folder_remove();
}

static void wrong_command_lines(void **state)
{
    (void)state;
    static const struct {
        const char *flags, *sentence;
        int exit_code;
    } wrongs[] = {
        {"--what fast", "is not copy, compute, adam or file", 2},
        {"--what copy,copy", "named twice", 2},
        {"--what file", "needs --file PATH", 2},
        {"--what copy --file x", "--what leaves files out", 2},
        {"--depth 4", "need --file PATH", 2},
        {"--file x --depth 0", "is not a whole number from 1", 2},
        {"--file x --block 1000", "multiple of 4096", 2},
        {"--file x --block 2G", "at most 1G", 2},
        {"--file x --engine aio", "is not auto, io_uring or threads", 2},
        {"--what adam --plot x.svg", "--plot draws copies", 2},
        {"--tiles 4 --total-bytes 1M", "not by both", 2},
        {"--tiles 0", "is not a whole number from 1", 2},
        {"--slots 1", "is not a whole number from 2", 2},
        {"--params 1.5", "is not a whole number", 2},
        {"--cpu-adam 2", "is not a whole number from 0 to 1", 2},
        {"-b 2M -e 1M", "is larger than the largest", 2},
        {"-f 1.01 --device host --what copy", "more than 300 sizes", 2},
        {"-n 4", "--tiles says how long", 2},
        {"-g 4", "--ranks says how many", 2},
        {"-i 4K", "invalid option", 2},
        {"--transport ucx", "unrecognized option", 2},
        {"--json /nowhere/x.json --device host", "cannot write /nowhere/x.json", 2},
        {"--device host --what file --file /nowhere/x", "cannot create store /nowhere/x", 3},
        {"--device host --what copy -b 1T -e 1T", "cannot take", 3},
    };
    for (size_t w = 0; w < sizeof wrongs / sizeof *wrongs; w++) {
        char line[160];
        snprintf(line, sizeof line, "bench_offload %s", wrongs[w].flags);
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
    rig_run_t run = rig_expect(0, "bench_offload --help");
    static const char *const flags[] = {
        "--what=A,B",  "--tiles=N",         "--tile=SIZE",  "--minbytes=SIZE", "--params=A,B",
        "--file=PATH", "--file-bytes=SIZE", "--block=SIZE", "--engine=NAME",   "--plot=FILE.svg",
        "--depth=N",   "--cpu-adam=N",      "--ranks=N",    "--gemms=N",       "Exit codes:"};
    for (size_t f = 0; f < sizeof flags / sizeof *flags; f++)
        if (!strstr(run.out, flags[f])) fail_msg("--help lacks %s\n%s", flags[f], run.out);
    assert_null(strstr(run.out, "--transport"));
    assert_null(strstr(run.out, "--layout"));
    rig_free(&run);
}

/* Every allocation, thread, mapping, copy and transfer fails once, and the program ends with one
 * sentence and code 3, and leaves no file. A fault that a fallback answers ends well. */
static void injected_faults(void **state)
{
    (void)state;
    const char *folder = rig_folder_make();
    static const struct {
        const char *point;
        int step, failures_min;
    } points[] = {{"alloc", 7, 5},  {"memory", 1, 5}, {"map", 1, 0},
                  {"thread", 3, 2}, {"copy", 11, 2},  {"io", 5, 2}};
    for (size_t p = 0; p < sizeof points / sizeof *points; p++) {
        int failures = 0, passed = 0;
        for (int n = 1; n < 400 && passed < 2; n += points[p].step) {
            char line[512];
            snprintf(line, sizeof line,
                     "TESS_FAULT=%s:%d bench_offload" QUICK
                     "--tiles 4 -b 4K -e 4K --tile 4K --gemms 1 --params 2e3 --file %s/tiles "
                     "--file-bytes 64K --block 8K --depth 2",
                     points[p].point, n, folder);
            rig_run_t run = rig_run(line);
            int failed = run.exit_code != 0;
            if (failed && (run.exit_code != 3 || rig_count(run.err, "bench_offload: ") != 1))
                fail_msg("%s: ended with %d\n%s", line, run.exit_code, run.err);
            if (rig_folder_count() != 0) fail_msg("%s: left a file behind", line);
            rig_free(&run);
            failures += failed;
            passed = failed ? 0 : passed + 1;
        }
        if (failures < points[p].failures_min)
            fail_msg("only %d faults of point %s ended the program", failures, points[p].point);
    }
    rig_folder_remove();
}

static void plot(void **state)
{
    (void)state;
    char line[512], name[128];
    snprintf(name, sizeof name, "%s/copies.svg", rig_folder_make());
    snprintf(line, sizeof line, "bench_offload" SMALL "--what copy --plot %s", name);
    rig_run_t run = rig_run(line);
    int missing = strstr(run.err, "--plot needs gnuplot") != NULL;
    assert_int_equal(run.exit_code, missing ? 2 : 0);
    assert_int_equal(access(name, R_OK) == 0, !missing);
    rig_free(&run);
    rig_folder_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures),
        cmocka_unit_test(few_tiles),
        cmocka_unit_test(schedules),
        cmocka_unit_test(table),
        cmocka_unit_test(ranks),
        cmocka_unit_test(engines),
        cmocka_unit_test(existing_file),
        cmocka_unit_test(wrong_data),
        cmocka_unit_test(wrong_command_lines),
        cmocka_unit_test(help),
        cmocka_unit_test(injected_faults),
        cmocka_unit_test(plot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
