/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation, socket call and thread of a world's life fails once, on each of two ranks.
 *
 * Nothing may crash, hang or leak, and no call may succeed with wrong data. A rank that could not
 * open leaves; the other learns of it, or goes on where the fault did no harm.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "comm/comm_internal.h"
#include "harness.h"

#define TIMEOUT_MS 700

typedef struct plan {
    const char *point;
    int n;
    int victim;
    _Atomic int *passes; /* seen by the victim */
} plan_t;

static const int both[] = {0, 1};

/* Uses everything there is; each step may fail, but only with an error. */
static void use_world(tess_world_t *world, int rank)
{
    char sentence[512];
    unsigned char mine[1000], all[2000];
    tessi_watch_t watch = {.comm_id = 3, .name = "pair", .group = {both, 2}};
    tessi_op_record_t record = {.comm_id = 3, .count = 8, .kind = TESSI_OP_BARRIER};
    int64_t count;
    memset(mine, rank + 1, sizeof mine);
    if (tess_world_barrier(world, TIMEOUT_MS) != TESS_OK) RANK_CHECK(tess_last_error()[0]);
    tessi_watch_add(world, &watch);
    if (tessi_world_exchange(world, watch.group, "data", mine, sizeof mine, all, TIMEOUT_MS) ==
        TESS_OK)
        for (int n = 0; n < 2000; n++) RANK_CHECK(all[n] == 1 + n / 1000);
    for (record.sequence = 1; record.sequence <= 3; record.sequence++)
        tessi_world_record(world, &watch, &record);
    tessi_world_diagnose(world, &watch, 2, sentence, sizeof sentence);
    RANK_CHECK(sentence[0]);
    if (tessi_world_count(world, 5, &count) == TESS_OK) RANK_CHECK(count == 0);
    if (rank == 1) tessi_watch_fail(world, &watch, TESS_ERR_ABORTED, "enough");
    if (tessi_watch_status(&watch) != TESS_OK) RANK_CHECK(tess_last_error()[0]);
    tessi_watch_remove(world, &watch);
}

static int live(int rank, void *argument)
{
    const plan_t *plan = argument;
    tess_world_t *world = NULL;
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    config.timeout_ms = TIMEOUT_MS;
    if (rank == plan->victim) tessi_fault_arm(plan->point, plan->n);
    tess_status_t status = tess_world_open(&config, &world);
    if (status == TESS_OK) {
        use_world(world, rank);
        tess_world_close(world);
    } else {
        RANK_CHECK(status < 0 && !world && tess_last_error()[0]);
    }
    if (rank == plan->victim) atomic_store(plan->passes, tessi_fault_arm(NULL, 0));
    return 0;
}

/* Walks n upwards until the victim lived through its life without reaching the n-th pass. */
static void walk(const char *point, int victim, int least, int most)
{
    plan_t plan = {.point = point, .victim = victim};
    plan.passes =
        mmap(NULL, sizeof *plan.passes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(plan.passes != MAP_FAILED);
    for (plan.n = 1; plan.n <= most; plan.n++) {
        int failed = test_ranks(2, live, &plan, 15000, NULL);
        if (failed != 0)
            fail_msg("%s:%d on rank %d: %d ranks failed", point, plan.n, victim, failed);
        if (atomic_load(plan.passes) < plan.n) break;
    }
    /* Otherwise the walk has not seen what it is for. */
    if (plan.n <= least) fail_msg("%s on rank %d: only %d passes", point, victim, plan.n);
    munmap((void *)plan.passes, sizeof *plan.passes);
}

static void test_alloc(void **state)
{
    (void)state;
    walk("alloc", 0, 20, 200);
    walk("alloc", 1, 15, 200);
}

static void test_socket(void **state)
{
    (void)state;
    /* How many calls there are depends on how bytes arrive; the first of them are all walked. */
    walk("socket", 0, 20, 60);
    walk("socket", 1, 15, 60);
}

static void test_thread(void **state)
{
    (void)state;
    walk("thread", 0, 1, 3);
    walk("thread", 1, 1, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_socket),
        cmocka_unit_test(test_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
