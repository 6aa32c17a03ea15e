/* SPDX-License-Identifier: Apache-2.0 */
/* Every cleanup path of opening, allocating and closing: the n-th allocation or call into UCX fails
 * on one rank, for all n. Nobody hangs, both ranks see a failure or neither does, and afterwards
 * the world still serves. What leaks is found by the address sanitizer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "comm_rig.h"
#include "core/internal.h"

#define FAULTY_RANK 1
#define WALK_MAX 200
/* When the control plane itself runs out of memory on one rank, the other one waits this long. */
#define SHORT_MS 700

typedef struct walk {
    const char *point;
    _Atomic int fired; /* of the walk's current step; shared by the ranks */
} walk_t;

static tess_status_t life_of_a_communicator(comm_rig_t *rig, int timeout_ms)
{
    tess_comm_config_t config = {.name = "fault", .transport = "ucx", .timeout_ms = timeout_ms};
    tess_comm_t *comm;
    void *buffer;
    tess_status_t status = tess_comm_open(rig->world, rig->device, &config, &comm);
    if (status < 0) return status;
    rig->comm = comm;
    TESS_TRY(tess_comm_allocate(comm, 10000, &buffer), close_comm);
    TESS_TRY(rig_all_gather(rig, 100), free_buffer);
    TESS_TRY(tess_stream_synchronize(rig->stream, -1), free_buffer);
free_buffer:
    tess_comm_free(comm, buffer);
close_comm:
    tess_comm_close(comm);
    rig->comm = NULL;
    return status;
}

static int walk_faults(int rank, void *argument)
{
    walk_t *walk = argument;
    comm_rig_t rig;
    rig_open_world(&rig, rank, RIG_OPEN_TIMEOUT_MS);
    int n = 1;
    for (; n < WALK_MAX; n++) {
        RANK_OK(tess_world_barrier(rig.world, -1));
        if (rank == FAULTY_RANK) tessi_fault_arm(walk->point, n);
        tess_status_t status = life_of_a_communicator(&rig, SHORT_MS);
        if (rank == FAULTY_RANK) walk->fired = tessi_fault_arm(NULL, 0) >= n;
        RANK_OK(tess_world_barrier(rig.world, -1));
        if (!walk->fired) break;
        /* The faulty rank may get away with it where something falls back; the other one then
         * must not fail either, unless it gave up waiting. */
        if (status == TESS_OK && rank == FAULTY_RANK) walk->fired = 2;
        RANK_OK(tess_world_barrier(rig.world, -1));
        if (rank != FAULTY_RANK && status == TESS_OK) RANK_CHECK(walk->fired == 2);
        /* A failed communicator leaves its stream with the error. */
        tess_stream_destroy(rig.stream);
        RANK_OK(tess_stream_create(rig.device, TESS_PRIORITY_NORMAL, &rig.stream));
    }
    RANK_CHECK(n < WALK_MAX);
    RANK_CHECK(n > 1); /* the point is there */
    if (rank == 0) printf("point %s: %d passes\n", walk->point, n - 1);
    RANK_OK(life_of_a_communicator(&rig, RIG_OPEN_TIMEOUT_MS));
    rig_close(&rig);
    return 0;
}

static void walk(const char *path, const char *point)
{
    walk_t *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    shared->point = point;
    rig_choose_path(path);
    rig_run(2, walk_faults, shared, 120000);
    munmap(shared, sizeof *shared);
}

static void direct(void **state)
{
    (void)state;
    walk("direct", "alloc");
    walk("direct", "ucx");
}

static void message(void **state)
{
    (void)state;
    walk("message", "alloc");
    walk("message", "ucx");
    walk("message", "memory");
}

/* Where auto falls back, a failure to share memory is no failure to open. */
static void automatic(void **state)
{
    (void)state;
    walk("auto", "ucx");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(direct),
        cmocka_unit_test(message),
        cmocka_unit_test(automatic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
