/* SPDX-License-Identifier: Apache-2.0 */
/* Creating a gatherer or a reducer while the n-th allocation, thread or transport call fails, for
 * every n: no rank is left waiting, no rank believes in what another could not make, and nothing is
 * left behind (file descriptors here, memory under the address sanitizer).
 */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bucket_rig.h"
#include "core/internal.h"

#define TIMEOUT_MS 4000
#define RANKS_MAX 2

/* Shared by the ranks. */
typedef struct scoreboard {
    int over; /* no fault was met any more, or it was met beyond what this test is about */
    int met;  /* faults met so far, over all points */
    int status[RANKS_MAX];
} scoreboard_t;

typedef struct fault_case {
    scoreboard_t *board;
    int is_reducer;
    const char *point;
} fault_case_t;

static int open_files(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    RANK_CHECK(folder != NULL);
    while (readdir(folder)) count++;
    closedir(folder);
    return count;
}

static tess_status_t create_and_destroy(bucket_rig_t *rig, const tess_bucket_plan_t *plan,
                                        int is_reducer)
{
    tess_gatherer_t *gatherer = NULL;
    tess_reducer_t *reducer = NULL;
    tess_gatherer_config_t gatherer_config = {rig->comm, plan, plan, 3};
    tess_reducer_config_t reducer_config = {rig->comm, plan, TESS_SUM, TESS_REDUCER_REVERSED, 3};
    tess_status_t status = is_reducer ? tess_reducer_create(&reducer_config, &reducer)
                                      : tess_gatherer_create(&gatherer_config, &gatherer);
    if (status < 0) {
        RANK_CHECK(!gatherer && !reducer);
        RANK_CHECK(*tess_last_error());
    }
    tess_gatherer_destroy(gatherer);
    tess_reducer_destroy(reducer);
    return status;
}

/* One try: the n-th pass of the point fails on the last rank. The others are told at once, up to
 * the fault that hits the telling itself; from there on it is for the tests of the world. */
static void try_once(bucket_rig_t *rig, const fault_case_t *faults, int n)
{
    scoreboard_t *board = faults->board;
    int is_armed = rig->rank == rig->size - 1;
    tess_comm_config_t config = TESS_COMM_CONFIG_DEFAULT;
    config.timeout_ms = TIMEOUT_MS;
    RANK_OK(tess_comm_open(rig->world, rig->device, &config, &rig->comm));
    tess_bucket_plan_t *plan = rig_plan(TESS_DTYPE_BF16, 9000, rig->size);
    RANK_OK(tess_world_barrier(rig->world, -1));
    if (is_armed) tessi_fault_arm(faults->point, n);
    tess_status_t status = create_and_destroy(rig, plan, faults->is_reducer);
    if (is_armed) {
        int passes = tessi_fault_arm(NULL, 0);
        if (passes < n) board->over = 1;
        board->met += passes >= n;
        if (passes < n && status != TESS_OK)
            test_rank_die(__FILE__, __LINE__, "no fault was met", status);
        if (passes >= n && status == TESS_OK)
            test_rank_die(__FILE__, __LINE__, "the fault was swallowed", status);
    }
    board->status[rig->rank] = status;
    if (!is_armed && status < 0 && !strstr(tess_last_error(), " failed: ")) board->over = 1;
    RANK_OK(tess_world_barrier(rig->world, -1));
    int failed = 0;
    for (int r = 0; r < rig->size; r++) failed += board->status[r] < 0;
    if (failed != 0 && failed != rig->size) {
        fprintf(stderr, "point %s n %d: rank 0 has %s, rank 1 has %s\n", faults->point, n,
                tess_status_name(board->status[0]), tess_status_name(board->status[1]));
        RANK_CHECK(failed == 0 || failed == rig->size);
    }
    tess_bucket_plan_destroy(plan);
    tess_comm_close(rig->comm);
}

static int faults_body(int rank, void *argument)
{
    const fault_case_t *faults = argument;
    bucket_rig_t rig;
    rig_open(&rig, rank);
    RANK_OK(tess_device_open(test_device_name(rank), &rig.device));
    int files = 0;
    for (int n = 1;; n++) {
        try_once(&rig, faults, n);
        if (faults->board->over) break;
        RANK_CHECK(n < 500);
        /* The first round may leave what the library keeps for the process. */
        if (n == 1) files = open_files();
        else RANK_CHECK(open_files() <= files);
    }
    tess_device_close(rig.device);
    rig_close(&rig);
    return 0;
}

static void walk(int ranks, const char *const *points, int point_count)
{
    scoreboard_t *board =
        mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(board != MAP_FAILED);
    for (int p = 0; p < point_count; p++) {
        /* What ends the walk over "alloc" on two ranks is a deadline; once is enough. */
        int kinds = ranks > 1 && strcmp(points[p], "alloc") == 0 ? 1 : 2;
        for (int is_reducer = 0; is_reducer < kinds; is_reducer++) {
            fault_case_t faults = {board, is_reducer, points[p]};
            board->met = board->over = 0;
            assert_int_equal(test_ranks(ranks, faults_body, &faults, 120000, NULL), 0);
            printf("%d ranks, %s, %s: %d faults met\n", ranks, is_reducer ? "reducer" : "gatherer",
                   points[p], board->met);
            if (strcmp(points[p], "alloc") == 0) assert_true(board->met >= 3);
        }
    }
    munmap(board, sizeof *board);
}

static void one_rank_leaves_nothing_behind(void **unused)
{
    (void)unused;
    const char *const points[] = {"alloc", "memory", "thread"};
    walk(1, points, 3);
}

static void two_ranks_fail_together(void **unused)
{
    (void)unused;
    const char *const points[] = {"alloc", "memory", "thread", "ucx"};
    walk(2, points, 4);
}

/* --- settings that differ -------------------------------------------------------------------- */

static void refuse(tess_status_t status, tess_status_t expected, const char *words)
{
    if (status != expected) test_rank_die(__FILE__, __LINE__, words, status);
    if (!strstr(tess_last_error(), words)) test_rank_die(__FILE__, __LINE__, words, status);
}

static int settings_body(int rank, void *unused)
{
    (void)unused;
    bucket_rig_t rig;
    rig_open(&rig, rank);
    rig_open_device(&rig, "threads");
    tess_bucket_plan_t *plan = rig_plan(TESS_DTYPE_BF16, 9000, rig.size);
    tess_bucket_plan_t *other_plan = rig_plan(TESS_DTYPE_BF16, 1 << 20, rig.size);
    tess_gatherer_t *gatherer = NULL;
    tess_reducer_t *reducer = NULL;
    int odd = rank == 1;

    tess_gatherer_config_t gather = {rig.comm, odd ? other_plan : plan, plan, 2};
    refuse(tess_gatherer_create(&gather, &gatherer), TESS_ERR_MISMATCH, "rank 1 ");
    gather.plan = plan;
    gather.buffer_count = odd ? 5 : 2;
    refuse(tess_gatherer_create(&gather, &gatherer), TESS_ERR_MISMATCH, "has buffer_count 5");
    gather.buffer_count = odd ? -1 : 2;
    refuse(tess_gatherer_create(&gather, &gatherer), TESS_ERR_INVALID_ARGUMENT,
           "buffer_count is -1");
    gather.buffer_count = 0;
    RANK_OK(tess_gatherer_create(&gather, &gatherer));

    tess_reducer_config_t reduce = {rig.comm, plan, TESS_SUM, TESS_REDUCER_FORWARD, 2};
    reduce.order = odd ? TESS_REDUCER_REVERSED : TESS_REDUCER_FORWARD;
    refuse(tess_reducer_create(&reduce, &reducer), TESS_ERR_MISMATCH, "has order 0");
    reduce.order = TESS_REDUCER_FORWARD;
    reduce.reduction = odd ? TESS_AVERAGE : TESS_SUM;
    refuse(tess_reducer_create(&reduce, &reducer), TESS_ERR_MISMATCH, "has reduction 1");
    reduce.reduction = TESS_SUM;
    RANK_OK(tess_reducer_create(&reduce, &reducer));
    tess_reducer_destroy(reducer);
    tess_gatherer_destroy(gatherer);
    tess_bucket_plan_destroy(plan);
    tess_bucket_plan_destroy(other_plan);
    rig_close_device(&rig);
    rig_close(&rig);
    return 0;
}

static void differing_ranks_are_named(void **unused)
{
    (void)unused;
    assert_int_equal(test_ranks(3, settings_body, NULL, 60000, NULL), 0);
}

/* --- a rank that dies ------------------------------------------------------------------------ */

/* Rank 1 leaves without a word while rank 0 waits for its part; every entry point then says so. */
static int lost_body(int rank, void *unused)
{
    (void)unused;
    bucket_rig_t rig;
    rig_open(&rig, rank);
    rig_open_device(&rig, "threads");
    tess_bucket_plan_t *plan = rig_plan(TESS_DTYPE_BF16, 1 << 20, rig.size);
    tess_stream_t *stream = rig_stream(&rig);
    int64_t bytes = tess_bucket_plan_shard_count(plan) * 2;
    void *shard = rig_memory(&rig, TESS_MEMORY_DEVICE, bytes), *buffer = NULL;
    tess_gatherer_config_t gather = {rig.comm, plan, shard, 2};
    tess_reducer_config_t reduce = {rig.comm, plan, TESS_SUM, TESS_REDUCER_FORWARD, 2};
    tess_gatherer_t *gatherer = NULL;
    tess_reducer_t *reducer = NULL;
    RANK_OK(tess_gatherer_create(&gather, &gatherer));
    RANK_OK(tess_reducer_create(&reduce, &reducer));
    RANK_OK(tess_world_barrier(rig.world, -1));
    if (rank == 1) _exit(0);
    RANK_OK(tess_stream_fill(stream, shard, 1, bytes));
    RANK_CHECK(tess_gatherer_acquire(gatherer, 0, stream, &buffer) <= TESS_OK);
    RANK_CHECK(tess_stream_synchronize(stream, -1) < 0);
    refuse(tess_gatherer_acquire(gatherer, 0, stream, &buffer), TESS_ERR_PEER_LOST, "rank 1 ");
    refuse(tess_gatherer_prefetch(gatherer, 0, NULL, NULL), TESS_ERR_PEER_LOST, "rank 1 ");
    refuse(tess_gatherer_release(gatherer, 0, stream), TESS_ERR_PEER_LOST, "rank 1 ");
    refuse(tess_gatherer_invalidate(gatherer), TESS_ERR_PEER_LOST, "rank 1 ");
    refuse(tess_reducer_acquire(reducer, 0, stream, &buffer), TESS_ERR_PEER_LOST, "rank 1 ");
    refuse(tess_reducer_ready(reducer, 0, stream), TESS_ERR_PEER_LOST, "rank 1 ");
    refuse(tess_reducer_wait(reducer, 0, stream, &buffer), TESS_ERR_PEER_LOST, "rank 1 ");
    refuse(tess_reducer_release(reducer, 0, stream), TESS_ERR_PEER_LOST, "rank 1 ");
    refuse(tess_reducer_finish(reducer), TESS_ERR_PEER_LOST, "rank 1 ");
    tess_reducer_destroy(reducer);
    tess_gatherer_destroy(gatherer);
    tess_stream_destroy(stream);
    tess_memory_free(rig.device, TESS_MEMORY_DEVICE, shard);
    tess_bucket_plan_destroy(plan);
    rig_close_device(&rig);
    rig_close(&rig);
    return 0;
}

static void a_lost_rank_is_named_by_every_call(void **unused)
{
    (void)unused;
    assert_int_equal(test_ranks(2, lost_body, NULL, 60000, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_leaves_nothing_behind),
        cmocka_unit_test(two_ranks_fail_together),
        cmocka_unit_test(differing_ranks_are_named),
        cmocka_unit_test(a_lost_rank_is_named_by_every_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
