/* SPDX-License-Identifier: Apache-2.0 */
/* What every test needs: the device under test, skipping by name, and running ranks as processes.
 */
#ifndef TESSERA_TESTS_HARNESS_H
#define TESSERA_TESTS_HARNESS_H

/* cmocka wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <tessera/tessera.h>

/* Fails the test with the call's own sentence. */
#define TEST_OK(call)                                                                              \
    do {                                                                                           \
        tess_status_t test_status = (call);                                                        \
        if (test_status != TESS_OK)                                                                \
            fail_msg("%s: %s: %s", #call, tess_status_name(test_status), tess_last_error());       \
    } while (0)

#define TEST_STATUS(call, expected)                                                                \
    do {                                                                                           \
        tess_status_t test_status = (call);                                                        \
        if (test_status != (expected))                                                             \
            fail_msg("%s: got %s (%s), expected %s", #call, tess_status_name(test_status),         \
                     tess_last_error(), tess_status_name(expected));                               \
    } while (0)

/* Inside a rank's body, where cmocka's longjmp cannot be used: print and leave with 1. */
#define RANK_OK(call)                                                                              \
    do {                                                                                           \
        tess_status_t rank_status = (call);                                                        \
        if (rank_status != TESS_OK) test_rank_die(__FILE__, __LINE__, #call, rank_status);         \
    } while (0)
#define RANK_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) test_rank_die(__FILE__, __LINE__, #condition, TESS_OK);                  \
    } while (0)
_Noreturn void test_rank_die(const char *file, int line, const char *what, tess_status_t status);

/* "host" or "cuda", from TESS_TEST_DEVICE (default host). */
const char *test_device_kind(void);

/* The device a rank uses: "host", or "cuda:RANK". */
const char *test_device_name(int rank);

/* Prints why and exits 77, which ctest shows as skipped. */
_Noreturn void test_skip(const char *reason);

/* Exits 77 unless this machine can run `ranks` ranks on the device under test. Never initialises
 * CUDA in this process. */
void test_need_ranks(int ranks);

/* Forks `ranks` processes with TESS_RANK … TESS_ROOT set; each runs body(rank, argument) and exits
 * with what it returns. Waits at most timeout_ms, then kills those still running (their code is
 * 1000). codes may be NULL; a signal gives 128 + signal. Returns the number of non-zero codes. */
typedef int (*test_rank_body_t)(int rank, void *argument);
int test_ranks(int ranks, test_rank_body_t body, void *argument, int timeout_ms, int *codes);

/* Process ids of the ranks now running, shared with all of them, so that one can stop another. */
int test_rank_pid(int rank);

/* Deterministic 64-bit generator (splitmix64). */
uint64_t test_random(uint64_t *state);

#endif
