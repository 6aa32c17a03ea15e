/* SPDX-License-Identifier: Apache-2.0 */
/* Disagreement: who issues another operation is named with both, and who is behind is named with
 * what it did last.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "watched_rig.h"

/* --- records -----------------------------------------------------------------------------------
 */

enum { KIND = 0, COUNT, DTYPE, REDUCTION, ROOT, DIFFERENCES };

static int one_differs(int rank, void *argument)
{
    int difference = *(int *)argument;
    tessi_watch_t watch;
    tess_world_t *world = rig_open_world(20000);
    rig_add_watch(world, &watch, 5, rig_everyone, 3);
    for (int n = 1; n <= 300; n++) {
        tessi_op_record_t record = rig_record_of(5, n);
        if (rank == 2 && n == 290) {
            if (difference == KIND) record.kind = TESSI_OP_REDUCE_SCATTER;
            if (difference == COUNT) record.count++;
            if (difference == DTYPE) record.dtype = TESS_DTYPE_FP32;
            if (difference == REDUCTION) record.reduction = TESS_AVERAGE;
            if (difference == ROOT) record.root = 1;
        }
        tessi_world_record(world, &watch, &record);
    }
    RANK_CHECK(rig_wait_for_failure(&watch, 5 * SECOND_NS) == TESS_ERR_MISMATCH);
    rig_expect_in(tess_last_error(), "ranks disagree in communicator 'team'");
    rig_expect_rank(tess_last_error(), 2);
    rig_expect_in(tess_last_error(), "all_gather 290");
    if (difference == KIND) rig_expect_in(tess_last_error(), "reduce_scatter 290");
    if (difference == COUNT) rig_expect_in(tess_last_error(), "4097");
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
    tess_world_t *world = rig_open_world(20000);
    rig_add_watch(world, &a, 11, rig_everyone, 3);
    rig_add_watch(world, &b, 12, rig_everyone, 3);
    for (int n = 1; n <= 20000; n++) {
        tessi_op_record_t record = rig_record_of(11, n);
        tessi_world_record(world, &a, &record);
        record.comm_id = 12;
        record.count = n;
        tessi_world_record(world, &b, &record);
        if (n % 2000 == 0) rig_pause_ms(20 * (rank + 1));
    }
    RANK_OK(tess_world_barrier(world, 10000));
    rig_pause_ms(200);
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
        tessi_op_record_t record = rig_record_of(6, n);
        if (n % 2 == 0) record.kind = TESSI_OP_BARRIER;
        tessi_world_record(world, watch, &record);
    }
}

static void check_diagnosis(int kind, const char *sentence)
{
    if (kind == NOBODY) {
        rig_expect_in(sentence, "every rank of 'team' has called barrier 18 and answers");
        return;
    }
    rig_expect_rank(sentence, 2);
    if (kind == BEHIND)
        rig_expect_in(sentence, "has not called barrier 18; its last was all_gather 17");
    if (kind == NOTHING)
        rig_expect_in(sentence, "has not called barrier 18; it has called nothing yet");
    if (kind == STOPPED) rig_expect_in(sentence, "does not answer");
    if (kind == DEAD) rig_expect_in(sentence, "ended without closing its world");
    if (kind == LEFT) rig_expect_in(sentence, "has closed its world");
}

static int diagnose(int rank, void *argument)
{
    int kind = *(int *)argument;
    char sentence[512];
    tessi_watch_t watch;
    tess_world_t *world = rig_open_world(kind == STOPPED ? 1500 : 20000);
    rig_add_watch(world, &watch, 6, rig_everyone, 3);
    int64_t last = rank != 2 || kind == NOBODY || kind == STOPPED ? 18 : kind == NOTHING ? 0 : 17;
    issue(world, &watch, last);
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank == 2) {
        rig_pause_ms(100); /* until the record of the last operation is on its way */
        if (kind == STOPPED) kill(getpid(), SIGSTOP);
        if (kind == DEAD) kill(getpid(), SIGKILL);
        if (kind == LEFT) tess_world_close(world);
        if (kind == LEFT) return 0;
    } else {
        rig_pause_ms(600);
        int64_t begin_ns = tessi_now_ns();
        tessi_world_diagnose(world, &watch, 18, sentence, sizeof sentence);
        RANK_CHECK(tessi_now_ns() - begin_ns < 3 * SECOND_NS);
        check_diagnosis(kind, sentence);
    }
    if (kind < STOPPED || kind == NOBODY) RANK_OK(tess_world_barrier(world, 10000));
    tessi_watch_remove(world, &watch);
    tess_world_close(world);
    rig_finish_and_kill(2, 2);
    return 0;
}

static void test_diagnosis(void **state)
{
    (void)state;
    for (int kind = 0; kind < DIAGNOSES; kind++) {
        int bad = kind == STOPPED || kind == DEAD;
        atomic_store(rig_done, kind == STOPPED ? 0 : 100);
        assert_int_equal(test_ranks(3, diagnose, &kind, 20000, NULL), bad);
    }
}

static int root_is_stopped(int rank, void *argument)
{
    (void)argument;
    char sentence[512];
    tessi_watch_t watch;
    tess_world_t *world = rig_open_world(20000);
    rig_add_watch(world, &watch, 6, rig_everyone, 2);
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank == 0) kill(getpid(), SIGSTOP);
    rig_pause_ms(200);
    int64_t begin_ns = tessi_now_ns();
    tessi_world_diagnose(world, &watch, 1, sentence, sizeof sentence);
    RANK_CHECK(tessi_now_ns() - begin_ns < 4 * SECOND_NS);
    rig_expect_rank(sentence, 0);
    rig_expect_in(sentence, "does not answer");
    /* Operations go on for a while before anybody notices; nothing may block or grow. */
    for (int n = 1; n <= 200000; n++) {
        tessi_op_record_t record = rig_record_of(6, n);
        tessi_world_record(world, &watch, &record);
    }
    rig_pause_ms(300);
    tessi_watch_remove(world, &watch);
    begin_ns = tessi_now_ns();
    tess_world_close(world);
    RANK_CHECK(tessi_now_ns() - begin_ns < 4 * SECOND_NS);
    rig_finish_and_kill(1, 0);
    return 0;
}

static void test_stopped_root(void **state)
{
    (void)state;
    int codes[2];
    atomic_store(rig_done, 0);
    assert_int_equal(test_ranks(2, root_is_stopped, NULL, 20000, codes), 1);
    assert_int_equal(codes[0], 128 + SIGKILL);
    assert_int_equal(codes[1], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_different_operations_are_named),
        cmocka_unit_test(test_equal_operations_pass),
        cmocka_unit_test(test_diagnosis),
        cmocka_unit_test(test_stopped_root),
    };
    rig_share_done();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
