/* SPDX-License-Identifier: Apache-2.0 */
/* Death, silence and disagreement: who dies is known to all within a second, who is stopped is
 * named at the deadline, who differs is named with both operations.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "comm/comm_internal.h"
#include "harness.h"

#define SECOND_NS INT64_C(1000000000)

static void pause_ms(int ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

static void expect_in(const char *text, const char *part)
{
    if (strstr(text, part)) return;
    fprintf(stderr, "[rank %s] expected '%s' in '%s'\n", getenv("TESS_RANK"), part, text);
    _exit(1);
}

static void expect_rank(const char *text, int rank)
{
    char part[64];
    snprintf(part, sizeof part, "rank %d (pid %d on ", rank, test_rank_pid(rank));
    expect_in(text, part);
}

static tess_world_t *open_world(int timeout_ms)
{
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    tess_world_t *world = NULL;
    config.timeout_ms = timeout_ms;
    RANK_OK(tess_world_open(&config, &world));
    RANK_OK(tess_world_barrier(world, 10000));
    return world;
}

/* Ranks that are done, shared with all of them: the last of them ends the one that is stopped. */
static _Atomic int *done;

static void finish_and_kill(int survivors, int stopped)
{
    if (atomic_fetch_add(done, 1) + 1 == survivors) kill(test_rank_pid(stopped), SIGKILL);
}

static const int everyone[] = {0, 1, 2, 3, 4};

static void add_watch(tess_world_t *world, tessi_watch_t *watch, uint64_t id, const int *ranks,
                      int count)
{
    memset(watch, 0, sizeof *watch);
    watch->comm_id = id;
    watch->name = "team";
    watch->group = (tessi_group_t){ranks, count};
    tessi_watch_add(world, watch);
}

/* Waits until the call gives something else than TESS_OK; returns that. */
static tess_status_t wait_for_failure(tessi_watch_t *watch, int64_t most_ns)
{
    int64_t begin_ns = tessi_now_ns();
    tess_status_t status;
    while ((status = tessi_watch_status(watch)) == TESS_OK && tessi_now_ns() - begin_ns < most_ns)
        pause_ms(2);
    return status;
}

/* --- death -------------------------------------------------------------------------------------
 */

typedef struct death {
    int victim;
    int how; /* a signal, or 0 for exit() without closing the world */
} death_t;

static int one_dies(int rank, void *argument)
{
    const death_t *death = argument;
    tessi_watch_t with, without;
    int others[4], count = 0;
    tess_world_t *world = open_world(20000);
    for (int r = 0; r < 4; r++)
        if (r != death->victim) others[count++] = r;
    add_watch(world, &with, 1, everyone, 4);
    if (rank != death->victim) add_watch(world, &without, 2, others, count);
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank == death->victim) {
        if (death->how) kill(getpid(), death->how);
        _exit(3);
    }
    /* "Within a second" with room for a machine that runs other things too. */
    RANK_CHECK(wait_for_failure(&with, 3 * SECOND_NS) == TESS_ERR_PEER_LOST);
    expect_rank(tess_last_error(), death->victim);
    expect_in(tess_last_error(), "ended without closing its world");
    RANK_CHECK(tess_world_status(world) == TESS_ERR_PEER_LOST);
    expect_rank(tess_last_error(), death->victim);
    RANK_CHECK(tess_world_barrier(world, 10000) == TESS_ERR_PEER_LOST);
    expect_rank(tess_last_error(), death->victim);
    RANK_OK(tessi_watch_status(&without));
    if (death->victim != 0) {
        /* Those who are left can still talk, also about a communicator opened later. */
        int all[4] = {0};
        RANK_OK(tessi_world_exchange(world, (tessi_group_t){others, count}, "the rest", &rank,
                                     sizeof rank, all, 10000));
        for (int n = 0; n < count; n++) RANK_CHECK(all[n] == others[n]);
    }
    tessi_watch_t later;
    add_watch(world, &later, 3, everyone, 4);
    RANK_CHECK(tessi_watch_status(&later) == TESS_ERR_PEER_LOST);
    expect_rank(tess_last_error(), death->victim);
    tessi_watch_remove(world, &later);
    tessi_watch_remove(world, &without);
    tessi_watch_remove(world, &with);
    int64_t begin_ns = tessi_now_ns();
    tess_world_close(world);
    RANK_CHECK(rank != 0 || tessi_now_ns() - begin_ns < 10 * SECOND_NS);
    return 0;
}

static void test_death_is_told_at_once(void **state)
{
    (void)state;
    static const death_t deaths[] = {{0, SIGKILL}, {2, SIGKILL}, {3, SIGSEGV}, {1, 0}};
    int codes[4];
    for (size_t n = 0; n < sizeof deaths / sizeof deaths[0]; n++) {
        death_t death = deaths[n];
        assert_int_equal(test_ranks(4, one_dies, &death, 20000, codes), 1);
        /* Sanitizers turn SIGSEGV into an exit code of their own. */
        if (death.how == SIGKILL) assert_int_equal(codes[death.victim], 128 + SIGKILL);
    }
}

/* A rank dies while the others wait for it in an exchange with a long deadline. */
static int dies_during_barrier(int rank, void *argument)
{
    int victim = *(int *)argument;
    tess_world_t *world = open_world(30000);
    if (rank == victim) {
        pause_ms(300);
        kill(getpid(), SIGKILL);
    }
    int64_t begin_ns = tessi_now_ns();
    RANK_CHECK(tess_world_barrier(world, 30000) == TESS_ERR_PEER_LOST);
    RANK_CHECK(tessi_now_ns() - begin_ns < 5 * SECOND_NS);
    expect_rank(tess_last_error(), victim);
    tess_world_close(world);
    return 0;
}

static void test_death_ends_a_wait(void **state)
{
    (void)state;
    for (int victim = 0; victim < 2; victim++)
        assert_int_equal(test_ranks(3, dies_during_barrier, &victim, 20000, NULL), 1);
}

/* --- silence -----------------------------------------------------------------------------------
 */

static int one_is_stopped(int rank, void *argument)
{
    int victim = *(int *)argument;
    tess_world_t *world = open_world(1500);
    if (rank == victim) {
        kill(getpid(), SIGSTOP);
        return 1;
    }
    pause_ms(200);
    int64_t begin_ns = tessi_now_ns();
    RANK_CHECK(tess_world_barrier(world, 1000) == TESS_ERR_TIMEOUT);
    RANK_CHECK(tessi_now_ns() - begin_ns < 5 * SECOND_NS);
    expect_rank(tess_last_error(), victim);
    if (victim == 0) expect_in(tess_last_error(), "does not answer");
    begin_ns = tessi_now_ns();
    tess_world_close(world);
    RANK_CHECK(tessi_now_ns() - begin_ns < 5 * SECOND_NS);
    finish_and_kill(2, victim);
    return 0;
}

static void test_stopped_rank_is_named(void **state)
{
    (void)state;
    int codes[3];
    for (int victim = 0; victim < 2; victim++) {
        atomic_store(done, 0);
        assert_int_equal(test_ranks(3, one_is_stopped, &victim, 20000, codes), 1);
        assert_int_equal(codes[victim], 128 + SIGKILL);
    }
}

/* --- watches -----------------------------------------------------------------------------------
 */

static int one_fails(int rank, void *argument)
{
    tess_status_t told = *(tess_status_t *)argument;
    tessi_watch_t watch, other;
    tess_world_t *world = open_world(20000);
    if (rank < 3) add_watch(world, &watch, 77, everyone, 3);
    add_watch(world, &other, 78, everyone, 4);
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank == 1) tessi_watch_fail(world, &watch, told, "rank 1 met a dragon");
    if (rank < 3) {
        tess_status_t expected = rank == 1                   ? told
                                 : told == TESS_ERR_MISMATCH ? TESS_ERR_MISMATCH
                                                             : TESS_ERR_PEER_LOST;
        RANK_CHECK(wait_for_failure(&watch, 3 * SECOND_NS) == expected);
        RANK_CHECK(strcmp(tess_last_error(), "rank 1 met a dragon") == 0);
        /* The first failure stays. */
        tessi_watch_fail(world, &watch, TESS_ERR_CUDA, "later");
        RANK_CHECK(tessi_watch_status(&watch) == expected);
    }
    RANK_OK(tess_world_barrier(world, 10000));
    RANK_OK(tessi_watch_status(&other));
    RANK_OK(tess_world_status(world));
    if (rank < 3) tessi_watch_remove(world, &watch);
    tessi_watch_remove(world, &other);
    tess_world_close(world);
    return 0;
}

static void test_failure_reaches_the_communicator(void **state)
{
    (void)state;
    tess_status_t statuses[] = {TESS_ERR_ABORTED, TESS_ERR_MISMATCH, TESS_ERR_TIMEOUT};
    for (int n = 0; n < 3; n++)
        assert_int_equal(test_ranks(4, one_fails, &statuses[n], 20000, NULL), 0);
}

/* The failure comes before the other rank has its watch. */
static int fails_before_watch(int rank, void *argument)
{
    (void)argument;
    tessi_watch_t watch;
    tess_world_t *world = open_world(20000);
    if (rank == 1) {
        add_watch(world, &watch, 9, everyone, 2);
        tessi_watch_fail(world, &watch, TESS_ERR_ABORTED, "gone already");
    }
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank == 0) {
        add_watch(world, &watch, 9, everyone, 2);
        RANK_CHECK(tessi_watch_status(&watch) == TESS_ERR_PEER_LOST);
        expect_in(tess_last_error(), "gone already");
    }
    tessi_watch_remove(world, &watch);
    tess_world_close(world);
    return 0;
}

static void test_failure_before_watch(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(2, fails_before_watch, NULL, 20000, NULL), 0);
}

/* --- records -----------------------------------------------------------------------------------
 */

static tessi_op_record_t record_of(uint64_t id, int64_t sequence)
{
    return (tessi_op_record_t){.comm_id = id,
                               .sequence = sequence,
                               .count = 4096,
                               .kind = TESSI_OP_ALL_GATHER,
                               .dtype = TESS_DTYPE_BF16};
}

enum { KIND = 0, COUNT, DTYPE, REDUCTION, ROOT, DIFFERENCES };

static int one_differs(int rank, void *argument)
{
    int difference = *(int *)argument;
    tessi_watch_t watch;
    tess_world_t *world = open_world(20000);
    add_watch(world, &watch, 5, everyone, 3);
    for (int n = 1; n <= 300; n++) {
        tessi_op_record_t record = record_of(5, n);
        if (rank == 2 && n == 290) {
            if (difference == KIND) record.kind = TESSI_OP_REDUCE_SCATTER;
            if (difference == COUNT) record.count++;
            if (difference == DTYPE) record.dtype = TESS_DTYPE_FP32;
            if (difference == REDUCTION) record.reduction = TESS_AVERAGE;
            if (difference == ROOT) record.root = 1;
        }
        tessi_world_record(world, &watch, &record);
    }
    RANK_CHECK(wait_for_failure(&watch, 5 * SECOND_NS) == TESS_ERR_MISMATCH);
    expect_in(tess_last_error(), "ranks disagree in communicator 'team'");
    expect_rank(tess_last_error(), 2);
    expect_in(tess_last_error(), "all_gather 290");
    if (difference == KIND) expect_in(tess_last_error(), "reduce_scatter 290");
    if (difference == COUNT) expect_in(tess_last_error(), "4097");
    tessi_watch_remove(world, &watch);
    tess_world_close(world);
    return 0;
}

static void test_different_operations_are_named(void **state)
{
    (void)state;
    for (int difference = 0; difference < DIFFERENCES; difference++)
        assert_int_equal(test_ranks(3, one_differs, &difference, 20000, NULL), 0);
}

/* Many equal records, far more than the ring holds, at different paces: never a false alarm. */
static int all_agree(int rank, void *argument)
{
    (void)argument;
    tessi_watch_t a, b;
    tess_world_t *world = open_world(20000);
    add_watch(world, &a, 11, everyone, 3);
    add_watch(world, &b, 12, everyone, 3);
    for (int n = 1; n <= 20000; n++) {
        tessi_op_record_t record = record_of(11, n);
        tessi_world_record(world, &a, &record);
        record.comm_id = 12;
        record.count = n;
        tessi_world_record(world, &b, &record);
        if (n % 2000 == 0) pause_ms(20 * (rank + 1));
    }
    RANK_OK(tess_world_barrier(world, 10000));
    pause_ms(200);
    RANK_OK(tessi_watch_status(&a));
    RANK_OK(tessi_watch_status(&b));
    tessi_watch_remove(world, &a);
    tessi_watch_remove(world, &b);
    tess_world_close(world);
    return 0;
}

static void test_equal_operations_pass(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(3, all_agree, NULL, 30000, NULL), 0);
}

/* --- diagnosis ---------------------------------------------------------------------------------
 */

enum { BEHIND = 0, NOTHING, STOPPED, DEAD, LEFT, NOBODY, DIAGNOSES };

static void issue(tess_world_t *world, const tessi_watch_t *watch, int64_t last)
{
    for (int64_t n = 1; n <= last; n++) {
        tessi_op_record_t record = record_of(6, n);
        if (n % 2 == 0) record.kind = TESSI_OP_BARRIER;
        tessi_world_record(world, watch, &record);
    }
}

static void check_diagnosis(int kind, const char *sentence)
{
    if (kind == NOBODY) {
        expect_in(sentence, "every rank of 'team' has called barrier 18 and answers");
        return;
    }
    expect_rank(sentence, 2);
    if (kind == BEHIND)
        expect_in(sentence, "has not called barrier 18; its last was all_gather 17");
    if (kind == NOTHING)
        expect_in(sentence, "has not called barrier 18; it has called nothing yet");
    if (kind == STOPPED) expect_in(sentence, "does not answer");
    if (kind == DEAD) expect_in(sentence, "ended without closing its world");
    if (kind == LEFT) expect_in(sentence, "has closed its world");
}

static int diagnose(int rank, void *argument)
{
    int kind = *(int *)argument;
    char sentence[512];
    tessi_watch_t watch;
    tess_world_t *world = open_world(kind == STOPPED ? 1500 : 20000);
    add_watch(world, &watch, 6, everyone, 3);
    int64_t last = rank != 2 || kind == NOBODY || kind == STOPPED ? 18 : kind == NOTHING ? 0 : 17;
    issue(world, &watch, last);
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank == 2) {
        pause_ms(100); /* until the record of the last operation is on its way */
        if (kind == STOPPED) kill(getpid(), SIGSTOP);
        if (kind == DEAD) kill(getpid(), SIGKILL);
        if (kind == LEFT) tess_world_close(world);
        if (kind == LEFT) return 0;
    } else {
        pause_ms(600);
        int64_t begin_ns = tessi_now_ns();
        tessi_world_diagnose(world, &watch, 18, sentence, sizeof sentence);
        RANK_CHECK(tessi_now_ns() - begin_ns < 3 * SECOND_NS);
        check_diagnosis(kind, sentence);
    }
    if (kind < STOPPED || kind == NOBODY) RANK_OK(tess_world_barrier(world, 10000));
    tessi_watch_remove(world, &watch);
    tess_world_close(world);
    finish_and_kill(2, 2);
    return 0;
}

static void test_diagnosis(void **state)
{
    (void)state;
    for (int kind = 0; kind < DIAGNOSES; kind++) {
        int bad = kind == STOPPED || kind == DEAD;
        atomic_store(done, kind == STOPPED ? 0 : 100);
        assert_int_equal(test_ranks(3, diagnose, &kind, 20000, NULL), bad);
    }
}

static int root_is_stopped(int rank, void *argument)
{
    (void)argument;
    char sentence[512];
    tessi_watch_t watch;
    tess_world_t *world = open_world(20000);
    add_watch(world, &watch, 6, everyone, 2);
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank == 0) kill(getpid(), SIGSTOP);
    pause_ms(200);
    int64_t begin_ns = tessi_now_ns();
    tessi_world_diagnose(world, &watch, 1, sentence, sizeof sentence);
    RANK_CHECK(tessi_now_ns() - begin_ns < 4 * SECOND_NS);
    expect_rank(sentence, 0);
    expect_in(sentence, "does not answer");
    /* Operations go on for a while before anybody notices; nothing may block or grow. */
    for (int n = 1; n <= 200000; n++) {
        tessi_op_record_t record = record_of(6, n);
        tessi_world_record(world, &watch, &record);
    }
    pause_ms(300);
    tessi_watch_remove(world, &watch);
    begin_ns = tessi_now_ns();
    tess_world_close(world);
    RANK_CHECK(tessi_now_ns() - begin_ns < 4 * SECOND_NS);
    finish_and_kill(1, 0);
    return 0;
}

static void test_stopped_root(void **state)
{
    (void)state;
    int codes[2];
    atomic_store(done, 0);
    assert_int_equal(test_ranks(2, root_is_stopped, NULL, 20000, codes), 1);
    assert_int_equal(codes[0], 128 + SIGKILL);
    assert_int_equal(codes[1], 0);
}

/* --- one rank ----------------------------------------------------------------------------------
 */

static void test_world_of_one(void **state)
{
    (void)state;
    tess_world_t *world;
    tessi_watch_t watch;
    char sentence[256];
    int value = 42, got = 0, self = 0;
    TEST_OK(tess_world_open(NULL, &world));
    TEST_OK(
        tessi_world_exchange(world, (tessi_group_t){&self, 1}, "k", &value, sizeof value, &got, 0));
    assert_int_equal(got, 42);
    add_watch(world, &watch, 1, &self, 1);
    tessi_op_record_t record = record_of(1, 1);
    tessi_world_record(world, &watch, &record);
    TEST_OK(tessi_watch_status(&watch));
    tessi_world_diagnose(world, &watch, 1, sentence, sizeof sentence);
    assert_non_null(strstr(sentence, "the only one"));
    tessi_watch_fail(world, &watch, TESS_ERR_TIMEOUT, "too slow");
    TEST_STATUS(tessi_watch_status(&watch), TESS_ERR_TIMEOUT);
    assert_string_equal(tess_last_error(), "too slow");
    int64_t count = -1;
    for (int n = 0; n < 3; n++) {
        TEST_OK(tessi_world_count(world, 99, &count));
        assert_int_equal(count, n);
        TEST_OK(tessi_world_count(world, 100, &count));
        assert_int_equal(count, n);
    }
    tessi_watch_remove(world, &watch);
    tess_world_close(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_world_of_one),
        cmocka_unit_test(test_death_is_told_at_once),
        cmocka_unit_test(test_death_ends_a_wait),
        cmocka_unit_test(test_stopped_rank_is_named),
        cmocka_unit_test(test_failure_reaches_the_communicator),
        cmocka_unit_test(test_failure_before_watch),
        cmocka_unit_test(test_different_operations_are_named),
        cmocka_unit_test(test_equal_operations_pass),
        cmocka_unit_test(test_diagnosis),
        cmocka_unit_test(test_stopped_root),
    };
    done = mmap(NULL, sizeof *done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
