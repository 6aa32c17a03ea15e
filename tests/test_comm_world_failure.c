/* SPDX-License-Identifier: Apache-2.0 */
/* Death and silence: who dies is known to all within a second, who is stopped is named at the
 * deadline, and a failure of one reaches every wait of the communicator.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "watched_rig.h"

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
    tess_world_t *world = rig_open_world(20000);
    for (int r = 0; r < 4; r++)
        if (r != death->victim) others[count++] = r;
    rig_add_watch(world, &with, 1, rig_everyone, 4);
    if (rank != death->victim) rig_add_watch(world, &without, 2, others, count);
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank == death->victim) {
        if (death->how) kill(getpid(), death->how);
        _exit(3);
    }
    /* "Within a second" with room for a machine that runs other things too. */
    RANK_CHECK(rig_wait_for_failure(&with, 3 * SECOND_NS) == TESS_ERR_PEER_LOST);
    rig_expect_rank(tess_last_error(), death->victim);
    rig_expect_in(tess_last_error(), "ended without closing its world");
    RANK_CHECK(tess_world_status(world) == TESS_ERR_PEER_LOST);
    rig_expect_rank(tess_last_error(), death->victim);
    RANK_CHECK(tess_world_barrier(world, 10000) == TESS_ERR_PEER_LOST);
    rig_expect_rank(tess_last_error(), death->victim);
    RANK_OK(tessi_watch_status(&without));
    if (death->victim != 0) {
        /* Those who are left can still talk, also about a communicator opened later. */
        int all[4] = {0};
        RANK_OK(tessi_world_exchange(world, (tessi_group_t){others, count}, "the rest", &rank,
                                     sizeof rank, all, 10000));
        for (int n = 0; n < count; n++) RANK_CHECK(all[n] == others[n]);
    }
    tessi_watch_t later;
    rig_add_watch(world, &later, 3, rig_everyone, 4);
    RANK_CHECK(tessi_watch_status(&later) == TESS_ERR_PEER_LOST);
    rig_expect_rank(tess_last_error(), death->victim);
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
    tess_world_t *world = rig_open_world(30000);
    if (rank == victim) {
        rig_pause_ms(300);
        kill(getpid(), SIGKILL);
    }
    int64_t begin_ns = tessi_now_ns();
    RANK_CHECK(tess_world_barrier(world, 30000) == TESS_ERR_PEER_LOST);
    RANK_CHECK(tessi_now_ns() - begin_ns < 5 * SECOND_NS);
    rig_expect_rank(tess_last_error(), victim);
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
    tess_world_t *world = rig_open_world(1500);
    if (rank == victim) {
        kill(getpid(), SIGSTOP);
        return 1;
    }
    rig_pause_ms(200);
    int64_t begin_ns = tessi_now_ns();
    RANK_CHECK(tess_world_barrier(world, 1000) == TESS_ERR_TIMEOUT);
    RANK_CHECK(tessi_now_ns() - begin_ns < 5 * SECOND_NS);
    rig_expect_rank(tess_last_error(), victim);
    if (victim == 0) rig_expect_in(tess_last_error(), "does not answer");
    begin_ns = tessi_now_ns();
    tess_world_close(world);
    RANK_CHECK(tessi_now_ns() - begin_ns < 5 * SECOND_NS);
    rig_finish_and_kill(2, victim);
    return 0;
}

static void test_stopped_rank_is_named(void **state)
{
    (void)state;
    int codes[3];
    for (int victim = 0; victim < 2; victim++) {
        atomic_store(rig_done, 0);
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
    tess_world_t *world = rig_open_world(20000);
    if (rank < 3) rig_add_watch(world, &watch, 77, rig_everyone, 3);
    rig_add_watch(world, &other, 78, rig_everyone, 4);
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank == 1) tessi_watch_fail(world, &watch, told, "rank 1 met a dragon");
    if (rank < 3) {
        tess_status_t expected = rank == 1                   ? told
                                 : told == TESS_ERR_MISMATCH ? TESS_ERR_MISMATCH
                                                             : TESS_ERR_PEER_LOST;
        RANK_CHECK(rig_wait_for_failure(&watch, 3 * SECOND_NS) == expected);
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
    tess_world_t *world = rig_open_world(20000);
    if (rank == 1) {
        rig_add_watch(world, &watch, 9, rig_everyone, 2);
        tessi_watch_fail(world, &watch, TESS_ERR_ABORTED, "gone already");
    }
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank == 0) {
        rig_add_watch(world, &watch, 9, rig_everyone, 2);
        RANK_CHECK(tessi_watch_status(&watch) == TESS_ERR_PEER_LOST);
        rig_expect_in(tess_last_error(), "gone already");
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

/* One rank's failure ends what the others wait for, also where one of them has no watch yet. */
static int one_fails_during_exchange(int rank, void *argument)
{
    int odd = *(int *)argument, all[4];
    tessi_watch_t watch;
    tess_world_t *world = rig_open_world(20000);
    if (rank != 3) rig_add_watch(world, &watch, 21, rig_everyone, 4);
    RANK_OK(tess_world_barrier(world, 10000));
    int64_t begin_ns = tessi_now_ns();
    if (rank == odd) {
        rig_pause_ms(300);
        tessi_watch_fail(world, &watch, TESS_ERR_ABORTED, "rank odd goes fishing");
    } else if (rank == 3) {
        tessi_group_t group = {rig_everyone, 4};
        RANK_CHECK(tessi_world_exchange(world, group, "fish", &rank, sizeof rank, all, 20000) ==
                   TESS_ERR_PEER_LOST);
        rig_expect_in(tess_last_error(), "exchange 'fish' was given up by rank ");
    }
    if (rank != 3) {
        tess_status_t expected = rank == odd ? TESS_ERR_ABORTED : TESS_ERR_PEER_LOST;
        RANK_CHECK(tessi_world_exchange_watched(world, &watch, "fish", &rank, sizeof rank, all,
                                                20000) == expected);
        rig_expect_in(tess_last_error(), "rank odd goes fishing");
    }
    RANK_CHECK(tessi_now_ns() - begin_ns < 5 * SECOND_NS);
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank != 3) tessi_watch_remove(world, &watch);
    tess_world_close(world);
    return 0;
}

static void test_failure_ends_an_exchange(void **state)
{
    (void)state;
    for (int odd = 0; odd < 3; odd++)
        assert_int_equal(test_ranks(4, one_fails_during_exchange, &odd, 20000, NULL), 0);
}

/* A rank that closed its world is no failure, but named where others wait for it in vain. */
static int one_leaves(int rank, void *argument)
{
    int leaver = *(int *)argument;
    tessi_watch_t watch, other;
    tess_world_t *world = rig_open_world(20000);
    rig_add_watch(world, &watch, 31, rig_everyone, 3);
    rig_add_watch(world, &other, 32, rig_everyone, 3);
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank == leaver) {
        tessi_watch_remove(world, &watch);
        tessi_watch_remove(world, &other);
        tess_world_close(world);
        return 0;
    }
    int finder = leaver == 1 ? 2 : 1;
    if (rank == finder) {
        RANK_CHECK(rig_wait_for_failure(&watch, SECOND_NS / 2) == TESS_OK);
        tessi_watch_fail(world, &watch, TESS_ERR_TIMEOUT, "all_gather 5 timed out");
        tessi_watch_fail(world, &other, TESS_ERR_UCX, "no time was over");
    }
    for (int n = 0; n < 2; n++) {
        tessi_watch_t *failed = n == 0 ? &watch : &other;
        tess_status_t status = rig_wait_for_failure(failed, 3 * SECOND_NS);
        RANK_CHECK(rank == finder ? status != TESS_OK : status == TESS_ERR_PEER_LOST);
        if (n == 1) RANK_CHECK(strcmp(tess_last_error(), "no time was over") == 0);
        if (n == 1) break;
        rig_expect_in(tess_last_error(), "all_gather 5 timed out; rank ");
        rig_expect_rank(tess_last_error(), leaver);
        rig_expect_in(tess_last_error(), "has closed its world");
    }
    RANK_OK(tess_world_status(world));
    tessi_watch_remove(world, &watch);
    tessi_watch_remove(world, &other);
    tess_world_close(world);
    return 0;
}

static void test_rank_that_left_is_named_at_a_deadline(void **state)
{
    (void)state;
    for (int leaver = 0; leaver < 3; leaver++)
        assert_int_equal(test_ranks(3, one_leaves, &leaver, 20000, NULL), 0);
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
    rig_add_watch(world, &watch, 1, &self, 1);
    tessi_op_record_t record = rig_record_of(1, 1);
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
        cmocka_unit_test(test_failure_ends_an_exchange),
        cmocka_unit_test(test_rank_that_left_is_named_at_a_deadline),
    };
    rig_share_done();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
