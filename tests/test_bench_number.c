/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers of command lines, what a list of times says, and files written aside. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench_file.h"
#include "bench_measure.h"
#include "harness.h"

static void sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t bytes;
    } right[] = {{"1", 1},          {"4096", 4096},           {"64K", 65536},
                 {"64k", 65536},    {"64KiB", 65536},         {"64KB", 65536},
                 {"1.5M", 1572864}, {"8G", INT64_C(8) << 30}, {"1T", INT64_C(1) << 40},
                 {"100B", 100},     {"1e6", 1000000}};
    static const char *const wrong[] = {"",   "0",   "-1",  "K",   "1.3",  "4X",  "4KK",
                                        " 4", "4 K", "nan", "inf", "1e30", "0.3K"};
    int64_t bytes;
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        TEST_OK(bench_read_bytes(right[i].text, &bytes));
        if (bytes != right[i].bytes)
            fail_msg("%s: got %lld, expected %lld", right[i].text, (long long)bytes,
                     (long long)right[i].bytes);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        bytes = -7;
        if (bench_read_bytes(wrong[i], &bytes) != TESS_ERR_INVALID_ARGUMENT || bytes != -7)
            fail_msg("\"%s\" was read as %lld", wrong[i], (long long)bytes);
    }
    char text[32];
    assert_string_equal(bench_bytes_text(64 << 20, text, sizeof text), "64 MiB");
    assert_string_equal(bench_bytes_text(1536, text, sizeof text), "1.5 KiB");
    assert_string_equal(bench_bytes_text(3, text, sizeof text), "3 bytes");
}

static void statistics(void **state)
{
    (void)state;
    double odd[] = {5, 1, 3}, even[] = {4, 1, 3, 2}, hundred[100];
    assert_true(bench_median(odd, 3) == 3);
    assert_true(bench_median(even, 4) == 2.5);
    for (int i = 0; i < 100; i++) hundred[i] = 100 - i;
    bench_statistics_t result = bench_statistics(hundred, 100);
    assert_true(result.min == 1 && result.max == 100 && result.mean == 50.5);
    assert_true(result.p50 == 50 && result.p95 == 95 && result.p99 == 99);
    assert_true(fabs(result.stdev - sqrt(833.25)) < 1e-9); /* (100^2 - 1) / 12 */
    result = bench_statistics(odd, 1);
    assert_true(result.p50 == 1 && result.p99 == 1 && result.stdev == 0);
    assert_true(bench_algbw(2000000000, 0.5) == 4);
    assert_true(bench_busbw(4, 4) == 3 && bench_busbw(4, 1) == 0);
}

static void files(void **state)
{
    (void)state;
    char folder[] = "/tmp/tessera-file-XXXXXX", name[64], link_name[64], text[32] = "";
    assert_non_null(mkdtemp(folder));
    snprintf(name, sizeof name, "%s/a", folder);
    snprintf(link_name, sizeof link_name, "%s/b", folder);
    TEST_OK(bench_file_write(name, "old"));
    assert_int_equal(symlink(name, link_name), 0);
    TEST_OK(bench_file_write(link_name, "new")); /* through the link, which stays one */
    struct stat found;
    assert_int_equal(lstat(link_name, &found), 0);
    assert_true(S_ISLNK(found.st_mode));
    FILE *file = fopen(name, "r");
    assert_non_null(file);
    assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    assert_string_equal(text, "new");
    unlink(link_name);
    unlink(name);
    assert_int_equal(rmdir(folder), 0); /* nothing was left beside them */
    TEST_STATUS(bench_file_write("/tmp", "x"), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(bench_file_write("/nowhere/x", "x"), TESS_ERR_SYSTEM);
    TEST_STATUS(bench_file_write("/dev/full", "x"), TESS_ERR_SYSTEM);
    assert_int_equal(stat("/dev/full", &found), 0);
    assert_true(S_ISCHR(found.st_mode));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sizes), cmocka_unit_test(statistics),
                                       cmocka_unit_test(files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
