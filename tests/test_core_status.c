/* SPDX-License-Identifier: Apache-2.0 */
/* Status names and messages, and the sentence that each thread keeps about its last failure. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/internal.h"
#include "harness.h"

static void names_and_messages(void **state)
{
    (void)state;
    assert_string_equal(tess_status_name(TESS_OK), "TESS_OK");
    assert_string_equal(tess_status_name(TESS_NOT_READY), "TESS_NOT_READY");
    assert_string_equal(tess_status_name(TESS_ERR_TIMEOUT), "TESS_ERR_TIMEOUT");
    assert_string_equal(tess_status_message(TESS_ERR_TIMEOUT), "deadline passed");
    assert_string_equal(tess_status_name((tess_status_t)-999), "TESS_ERR_UNKNOWN");
    assert_string_equal(tess_status_message((tess_status_t)77), "unknown status");
#define CHECK_ROW(name, value, message)                                                            \
    assert_int_equal(TESS_##name, value);                                                          \
    assert_string_equal(tess_status_name(TESS_##name), "TESS_" #name);                             \
    assert_string_equal(tess_status_message(TESS_##name), message);
    TESS_STATUS_MAP(CHECK_ROW)
#undef CHECK_ROW
}

static void version_is_that_of_the_headers(void **state)
{
    (void)state;
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", TESS_VERSION_MAJOR, TESS_VERSION_MINOR,
             TESS_VERSION_PATCH);
    assert_string_equal(tess_version(), TESS_VERSION);
    assert_string_equal(text, TESS_VERSION);
}

static void detail_is_kept(void **state)
{
    (void)state;
    uint64_t before = tessi_failure_count();
    TEST_STATUS(tessi_fail(TESS_ERR_STATE, "block %d of %s", 7, "x"), TESS_ERR_STATE);
    assert_string_equal(tess_last_error(), "block 7 of x");
    assert_int_equal(tessi_failure_count(), before + 1);
}

static void detail_may_quote_itself(void **state)
{
    (void)state;
    (void)tessi_fail(TESS_ERR_SYSTEM, "inner");
    (void)tessi_fail(TESS_ERR_STATE, "outer because %s, and again %s", tess_last_error(),
                     tess_last_error());
    assert_string_equal(tess_last_error(), "outer because inner, and again inner");
}

static void long_detail_is_cut(void **state)
{
    (void)state;
    char text[3000];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    (void)tessi_fail(TESS_ERR_STATE, "%s", text);
    assert_int_equal(strlen(tess_last_error()), 1023);
    TEST_STATUS(tessi_fail_errno(ENOENT, "%s", text), TESS_ERR_SYSTEM);
    assert_int_equal(strlen(tess_last_error()), 1023);
}

static void errno_is_told(void **state)
{
    (void)state;
    TEST_STATUS(tessi_fail_errno(ENOENT, "cannot open %s", "/x"), TESS_ERR_SYSTEM);
    assert_string_equal(tess_last_error(), "cannot open /x: No such file or directory");
    TEST_STATUS(tessi_fail_errno(ENOMEM, "cannot map"), TESS_ERR_OUT_OF_MEMORY);
    TEST_STATUS(tessi_fail_errno(123456, "odd"), TESS_ERR_SYSTEM);
    assert_non_null(strstr(tess_last_error(), "123456"));
}

static void *read_own_detail(void *argument)
{
    char *seen = argument;
    snprintf(seen, 64, "%s", tess_last_error());
    (void)tessi_fail(TESS_ERR_STATE, "other thread");
    return NULL;
}

static void detail_is_per_thread(void **state)
{
    (void)state;
    char seen[64] = "nothing yet";
    pthread_t thread;
    (void)tessi_fail(TESS_ERR_STATE, "this thread");
    assert_int_equal(pthread_create(&thread, NULL, read_own_detail, seen), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_string_equal(seen, "");
    assert_string_equal(tess_last_error(), "this thread");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_messages),   cmocka_unit_test(version_is_that_of_the_headers),
        cmocka_unit_test(detail_is_kept),       cmocka_unit_test(detail_may_quote_itself),
        cmocka_unit_test(long_detail_is_cut),   cmocka_unit_test(errno_is_told),
        cmocka_unit_test(detail_is_per_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
