/* SPDX-License-Identifier: Apache-2.0 */
/* Injected faults, armed by a test and by TESS_FAULT, and the heap that passes through them.
 *
 * TESS_FAULT is read once a process, so each of its cases runs this program anew as a child.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/internal.h"
#include "harness.h"

static void nth_pass_fails_once(void **state)
{
    (void)state;
    tessi_fault_arm("here", 3);
    assert_false(tessi_fault("here"));
    assert_false(tessi_fault("elsewhere"));
    assert_false(tessi_fault("here"));
    assert_true(tessi_fault("here"));
    assert_false(tessi_fault("here"));
    assert_int_equal(tessi_fault_arm(NULL, 0), 4);
    assert_false(tessi_fault("here"));
    assert_int_equal(tessi_fault_arm(NULL, 0), 0);
}

static void heap_fails_on_request(void **state)
{
    (void)state;
    tessi_fault_arm("alloc", 2);
    void *first = tessi_calloc(3, 5), *second = tessi_calloc(7, 11);
    assert_non_null(first);
    assert_null(second);
    assert_non_null(strstr(tess_last_error(), "7 x 11"));
    assert_int_equal(tessi_fault_arm("alloc", 1), 2);
    assert_null(tessi_aligned_alloc(4096, 100));
    tessi_fault_arm(NULL, 0);
    tessi_free(first);
}

static void heap_gives_zeroed_and_aligned(void **state)
{
    (void)state;
    unsigned char *zeroed = tessi_calloc(100, 10), *empty = tessi_calloc(0, 8);
    void *aligned = tessi_aligned_alloc(4096, 1), *nothing = tessi_aligned_alloc(64, 0);
    for (int i = 0; i < 1000; i++) assert_int_equal(zeroed[i], 0);
    assert_non_null(empty);
    assert_non_null(nothing);
    assert_int_equal((uintptr_t)aligned % 4096, 0);
    tessi_free(zeroed);
    tessi_free(empty);
    tessi_free(aligned);
    tessi_free(nothing);
    tessi_free(NULL);
}

static void heap_refuses_overflow(void **state)
{
    (void)state;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    /* Sanitizers end the program on such a request instead of refusing it. */
    volatile size_t huge = SIZE_MAX / 2;
    assert_null(tessi_calloc(huge, 3));
#endif
}

#define THREADS 4
#define PASSES 2000

static void *pass_often(void *argument)
{
    int *failures = argument;
    for (int i = 0; i < PASSES; i++) *failures += tessi_fault("shared");
    return NULL;
}

static void one_of_many_threads_fails(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    int failures[THREADS] = {0}, total = 0;
    tessi_fault_arm("shared", THREADS * PASSES / 2);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, pass_often, &failures[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        total += failures[i];
    }
    assert_int_equal(total, 1);
    assert_int_equal(tessi_fault_arm(NULL, 0), THREADS * PASSES);
}

/* The child's part: passes "alloc" four times and prints which failed. */
static int child(void)
{
    for (int i = 0; i < 4; i++) putchar(tessi_fault("alloc") ? 'x' : '.');
    putchar(tessi_fault("alloc2") ? 'x' : '.');
    return 0;
}

static void expect_child(const char *fault, const char *passes, const char *message)
{
    char command[512], output[2048] = "";
    char self[256];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = '\0';
    snprintf(command, sizeof command, "TESS_FAULT='%s' '%s' child 2>&1", fault, self);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t bytes = fread(output, 1, sizeof output - 1, pipe);
    output[bytes] = '\0';
    assert_int_equal(pclose(pipe), 0);
    if (!strstr(output, passes) || !strstr(output, message))
        fail_msg("TESS_FAULT=%s gave \"%s\", expected \"%s\" and \"%s\"", fault, output, passes,
                 message);
}

static void environment_arms(void **state)
{
    (void)state;
    expect_child("alloc:1", "x....", "");
    expect_child("alloc:4", "...x.", "");
    expect_child("alloc:9", ".....", "");
    expect_child("", ".....", "");
}

static void bad_environment_is_told(void **state)
{
    (void)state;
    const char *bad[] = {"alloc", "alloc:", ":1", "alloc:0", "alloc:-2", "alloc:1x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_child(bad[i], ".....", "must be point:n");
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "child") == 0) return child();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nth_pass_fails_once),           cmocka_unit_test(heap_fails_on_request),
        cmocka_unit_test(heap_gives_zeroed_and_aligned), cmocka_unit_test(heap_refuses_overflow),
        cmocka_unit_test(one_of_many_threads_fails),     cmocka_unit_test(environment_arms),
        cmocka_unit_test(bad_environment_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
