/* SPDX-License-Identifier: Apache-2.0 */
/* The watch over raw NCCL, with host streams in its place: slow work passes, work that stands still
 * and a lost rank do not, and never are more operations queued than the watch allows.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench_watch.h"
#include "harness.h"

#define QUEUED_MAX ((BENCH_WATCH_MARKS + 1) * BENCH_WATCH_OPERATIONS)

typedef struct rig {
    tess_world_t *world;
    tess_device_t *device;
    tess_stream_t *stream;
    bench_watch_t watch;
} rig_t;

static atomic_int closed_gate; /* 1: work at the gate waits */
static atomic_int passed;

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static tess_status_t slowly(void *argument)
{
    (void)argument;
    sleep_ms(25);
    return TESS_OK;
}

static tess_status_t through_gate(void *argument)
{
    (void)argument;
    while (atomic_load(&closed_gate)) sleep_ms(1);
    atomic_fetch_add(&passed, 1);
    return TESS_OK;
}

static tess_status_t open_rig(int timeout_ms, rig_t *rig)
{
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    config.timeout_ms = 10000;
    tess_status_t status = tess_world_open(&config, &rig->world);
    if (status >= 0) status = tess_device_open("host", &rig->device);
    if (status >= 0) status = tess_stream_create(rig->device, TESS_PRIORITY_NORMAL, &rig->stream);
    if (status >= 0)
        status = bench_watch_open(rig->world, rig->device, "the rig", timeout_ms, &rig->watch);
    return status;
}

static void close_rig(rig_t *rig)
{
    tess_stream_destroy(rig->stream);
    bench_watch_close(&rig->watch);
    tess_device_close(rig->device);
    tess_world_close(rig->world);
}

static tess_status_t queue(rig_t *rig, tess_stream_function_t function, int64_t bytes)
{
    tess_status_t status = tess_stream_call(rig->stream, function, NULL);
    return status < 0 ? status : bench_watch_queued(&rig->watch, rig->stream, bytes);
}

/* A second of work under a deadline of 600 ms: 200 ms from mark to mark. */
static void slow_work_passes(void **state)
{
    (void)state;
    rig_t rig;
    TEST_OK(open_rig(600, &rig));
    int64_t start_ms = now_ms();
    for (int i = 0; i < 40; i++) TEST_OK(queue(&rig, slowly, 0));
    TEST_OK(bench_watch_wait(&rig.watch, rig.stream));
    assert_true(now_ms() - start_ms >= 1000);
    close_rig(&rig);
}

/* Large operations have a mark each. */
static void bytes_make_marks(void **state)
{
    (void)state;
    rig_t rig;
    TEST_OK(open_rig(5000, &rig));
    for (int i = 0; i < 5; i++) TEST_OK(queue(&rig, through_gate, BENCH_WATCH_BYTES));
    assert_int_equal((int)rig.watch.marked, 5);
    for (int i = 0; i < BENCH_WATCH_OPERATIONS; i++) TEST_OK(queue(&rig, through_gate, 1));
    assert_int_equal((int)rig.watch.marked, 6);
    TEST_OK(bench_watch_wait(&rig.watch, rig.stream));
    close_rig(&rig);
}

static void still_work_ends(void **state)
{
    (void)state;
    rig_t rig;
    TEST_OK(open_rig(300, &rig));
    atomic_store(&closed_gate, 1);
    TEST_OK(queue(&rig, through_gate, 0));
    int64_t start_ms = now_ms();
    TEST_STATUS(bench_watch_wait(&rig.watch, rig.stream), TESS_ERR_TIMEOUT);
    assert_non_null(strstr(tess_last_error(), "the rig: nothing moved for 300 ms"));
    assert_true(now_ms() - start_ms >= 300 && now_ms() - start_ms < 5000);
    atomic_store(&closed_gate, 0);
    TEST_OK(tess_stream_synchronize(rig.stream, 5000));
    close_rig(&rig);
}

/* Behind work that stands still queueing ends too; behind work that moves it only waits. */
static void queue_is_bounded(void **state)
{
    (void)state;
    rig_t rig;
    TEST_OK(open_rig(200, &rig));
    tess_status_t status = TESS_OK;
    int queued = 0;
    atomic_store(&closed_gate, 1);
    while (status == TESS_OK && queued < 10 * QUEUED_MAX) {
        status = queue(&rig, through_gate, 0);
        queued++;
    }
    assert_int_equal(status, TESS_ERR_TIMEOUT);
    assert_int_equal(queued, QUEUED_MAX);
    atomic_store(&closed_gate, 0);
    TEST_OK(bench_watch_wait(&rig.watch, rig.stream));
    atomic_store(&passed, 0);
    for (int i = 1; i <= 4 * QUEUED_MAX; i++) {
        TEST_OK(queue(&rig, through_gate, 0));
        assert_true(i - atomic_load(&passed) <= QUEUED_MAX);
    }
    TEST_OK(bench_watch_wait(&rig.watch, rig.stream));
    assert_int_equal(atomic_load(&passed), 4 * QUEUED_MAX);
    close_rig(&rig);
}

static tess_status_t break_down(void *argument)
{
    (void)argument;
    return TESS_ERR_SYSTEM;
}

static void failed_work_is_told(void **state)
{
    (void)state;
    rig_t rig;
    TEST_OK(open_rig(5000, &rig));
    TEST_OK(queue(&rig, break_down, 0));
    TEST_STATUS(bench_watch_wait(&rig.watch, rig.stream), TESS_ERR_SYSTEM);
    close_rig(&rig);
}

/* Rank 1 dies while rank 0 waits: told at once, long before the deadline. */
static int lose_a_rank(int rank, void *argument)
{
    (void)argument;
    rig_t rig;
    RANK_OK(open_rig(20000, &rig));
    RANK_OK(tess_world_barrier(rig.world, 10000));
    if (rank == 1) _exit(0);
    atomic_store(&closed_gate, 1);
    RANK_OK(queue(&rig, through_gate, 0));
    int64_t start_ms = now_ms();
    RANK_CHECK(bench_watch_wait(&rig.watch, rig.stream) == TESS_ERR_PEER_LOST);
    RANK_CHECK(now_ms() - start_ms < 10000);
    RANK_CHECK(strstr(tess_last_error(), "rank 1"));
    atomic_store(&closed_gate, 0);
    close_rig(&rig);
    return 0;
}

static void lost_rank(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(2, lose_a_rank, NULL, 30000, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slow_work_passes),    cmocka_unit_test(bytes_make_marks),
        cmocka_unit_test(still_work_ends),     cmocka_unit_test(queue_is_bounded),
        cmocka_unit_test(failed_work_is_told), cmocka_unit_test(lost_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
