/* SPDX-License-Identifier: Apache-2.0 */
/* Options from the environment: defaults, validation, what the log makes of them. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/internal.h"
#include "harness.h"

static void defaults_and_values(void **state)
{
    (void)state;
    unsetenv("TESS_TRANSPORT");
    assert_string_equal(tessi_option(TESSI_OPTION_TRANSPORT), "auto");
    assert_false(tessi_option_is_set(TESSI_OPTION_TRANSPORT));
    setenv("TESS_TRANSPORT", "ucx", 1);
    assert_string_equal(tessi_option(TESSI_OPTION_TRANSPORT), "ucx");
    assert_true(tessi_option_is_set(TESSI_OPTION_TRANSPORT));
    setenv("TESS_TRANSPORT", "", 1);
    assert_string_equal(tessi_option(TESSI_OPTION_TRANSPORT), "auto");
    assert_false(tessi_option_is_set(TESSI_OPTION_TRANSPORT));
    unsetenv("TESS_TRANSPORT");
}

static void every_row_is_complete(void **state)
{
    (void)state;
    for (int i = 0; i < TESSI_OPTION_COUNT; i++) {
        assert_int_equal(strncmp(tessi_option_variable((tessi_option_t)i), "TESS_", 5), 0);
        assert_true(strlen(tessi_option_help((tessi_option_t)i)) > 0);
        assert_non_null(tessi_option((tessi_option_t)i));
    }
}

static void refuse(const char *value, const char *wanted)
{
    int64_t number = 42;
    setenv("TESS_RANK", value, 1);
    TEST_STATUS(tessi_option_int(TESSI_OPTION_RANK, 0, 10, &number), TESS_ERR_INVALID_ARGUMENT);
    assert_int_equal(number, 42);
    assert_non_null(strstr(tess_last_error(), "TESS_RANK"));
    if (!strstr(tess_last_error(), wanted))
        fail_msg("\"%s\" lacks \"%s\"", tess_last_error(), wanted);
}

static void integers_are_checked(void **state)
{
    (void)state;
    int64_t number = -1;
    setenv("TESS_RANK", "10", 1);
    TEST_OK(tessi_option_int(TESSI_OPTION_RANK, 0, 10, &number));
    assert_int_equal(number, 10);
    refuse("11", "from 0 to 10");
    refuse("-1", "\"-1\"");
    refuse("3x", "\"3x\"");
    refuse(" ", "\" \"");
    refuse("0x3", "0x3");
    refuse("99999999999999999999", "99999999999999999999");
    refuse("", "is not set");
    unsetenv("TESS_RANK");
}

static void timeouts(void **state)
{
    (void)state;
    unsetenv("TESS_TIMEOUT_MS");
    assert_int_equal(tessi_timeout_or_default(0), 0);
    assert_int_equal(tessi_timeout_or_default(17), 17);
    assert_int_equal(tessi_timeout_or_default(-1), 600000);
    setenv("TESS_TIMEOUT_MS", "1234", 1);
    assert_int_equal(tessi_timeout_or_default(-1), 1234);
    assert_int_equal(tessi_timeout_or_default(5), 5);
    unsetenv("TESS_TIMEOUT_MS");
}

/* What `write_lines` puts on stderr. */
static void capture(void (*write_lines)(void), char *text, size_t text_bytes)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    write_lines();
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(file);
    size_t length = fread(text, 1, text_bytes - 1, file);
    text[length] = '\0';
    fclose(file);
}

static void write_three_levels(void)
{
    tessi_log(TESSI_LOG_ERROR, "an error %d", 1);
    tessi_log(TESSI_LOG_INFO, "a choice");
    tessi_log(TESSI_LOG_DEBUG, "a detail");
}

static void log_levels(void **state)
{
    (void)state;
    char text[4096];
    unsetenv("TESS_VERBOSE");
    capture(write_three_levels, text, sizeof text);
    assert_string_equal(text, "tessera: an error 1\n");
    setenv("TESS_VERBOSE", "1", 1);
    tessi_log_set_rank(2);
    capture(write_three_levels, text, sizeof text);
    assert_string_equal(text, "tessera[rank 2]: an error 1\ntessera[rank 2]: a choice\n");
    setenv("TESS_VERBOSE", "2", 1);
    tessi_log_set_rank(-1);
    capture(write_three_levels, text, sizeof text);
    assert_string_equal(text, "tessera: an error 1\ntessera: a choice\ntessera: a detail\n");
    setenv("TESS_VERBOSE", "loud", 1);
    capture(write_three_levels, text, sizeof text);
    assert_string_equal(text, "tessera: an error 1\n");
    unsetenv("TESS_VERBOSE");
}

static void use_bad_timeout(void)
{
    setenv("TESS_TIMEOUT_MS", "soon", 1);
    assert_int_equal(tessi_timeout_or_default(-1), 600000);
    assert_int_equal(tessi_timeout_or_default(-1), 600000);
    unsetenv("TESS_TIMEOUT_MS");
}

static void bad_timeout_is_told_once(void **state)
{
    (void)state;
    char text[4096];
    capture(use_bad_timeout, text, sizeof text);
    assert_non_null(strstr(text, "TESS_TIMEOUT_MS is \"soon\""));
    assert_ptr_equal(strchr(text, '\n'), strrchr(text, '\n'));
}

static void write_long_line(void)
{
    char text[5000];
    memset(text, 'b', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    tessi_log(TESSI_LOG_ERROR, "%s", text);
}

static void long_line_is_cut(void **state)
{
    (void)state;
    char text[8192];
    capture(write_long_line, text, sizeof text);
    assert_in_range(strlen(text), 2000, 2048);
    assert_int_equal(text[strlen(text) - 1], '\n');
}

static void deadlines(void **state)
{
    (void)state;
    int64_t before = tessi_now_ns(), deadline = tessi_deadline_ns(50), after = tessi_now_ns();
    assert_in_range(deadline, before + 50000000, after + 50000000);
    assert_true(tessi_deadline_ns(INT32_MAX) > after);
}

/* 200 spins, then 2 ms of yields, then sleeps: 10 sleeps of 50 us take at least 500 us. */
static void backoff_spins_then_yields_then_sleeps(void **state)
{
    (void)state;
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    for (int i = 0; i < 200; i++) tessi_backoff_pause(&backoff);
    assert_int_equal(backoff.first_ns, 0);
    tessi_backoff_pause(&backoff);
    assert_true(backoff.first_ns > 0);
    while (tessi_now_ns() - backoff.first_ns < 2000000) tessi_backoff_pause(&backoff);
    int64_t before = tessi_now_ns();
    for (int i = 0; i < 10; i++) tessi_backoff_pause(&backoff);
    assert_true(tessi_now_ns() - before >= 500000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_and_values),
        cmocka_unit_test(every_row_is_complete),
        cmocka_unit_test(integers_are_checked),
        cmocka_unit_test(timeouts),
        cmocka_unit_test(log_levels),
        cmocka_unit_test(bad_timeout_is_told_once),
        cmocka_unit_test(long_line_is_cut),
        cmocka_unit_test(deadlines),
        cmocka_unit_test(backoff_spins_then_yields_then_sleeps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
