/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of tess_comm_allocate: its life and reuse, what ranks that ask differently are told, a
 * /dev/shm that is too small, and that a killed program leaves no shared memory behind.
 *
 * The last two need an IPC namespace and a /dev/shm of their own, which a container may refuse;
 * they are skipped by name there.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm_rig.h"

#define LONG_MS 30000
#define ALIVE 3

/* --- the life of buffers ---------------------------------------------------------------------- */

static void gather_between(comm_rig_t *rig, char *send, char *recv, int64_t bytes, int round)
{
    tess_collective_t arguments = {
        .send = send, .recv = recv, .count = bytes, .dtype = TESS_DTYPE_BYTE};
    memset(send, rig->rank + round, (size_t)bytes);
    RANK_OK(tess_comm_all_gather(rig->comm, &arguments, rig->stream));
    RANK_OK(tess_stream_synchronize(rig->stream, -1));
    for (int r = 0; r < rig->size; r++)
        for (int64_t i = 0; i < bytes; i++) RANK_CHECK(recv[r * bytes + i] == (char)(r + round));
}

/* Buffers come and go in turn beside one that stays; ranks free in different orders. */
static int reuse_buffers(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open(&rig, rank, LONG_MS);
    void *kept, *buffers[ALIVE] = {0};
    RANK_OK(tess_comm_allocate(rig.comm, 5000, &kept));
    memset(kept, 0x42, 5000);
    for (int round = 0; round < 60; round++) {
        int64_t bytes = 100 + round * 997 % 40000;
        int place = round % ALIVE;
        tess_comm_free(rig.comm, buffers[place]);
        RANK_OK(tess_comm_allocate(rig.comm, bytes * rig.size, &buffers[place]));
        RANK_CHECK((uintptr_t)buffers[place] % 4096 == 0);
        gather_between(&rig, rig.send, buffers[place], bytes, round);
        gather_between(&rig, (char *)buffers[place] + rank * bytes, buffers[place], bytes,
                       round + 1);
        if (round % 7 == rank) {
            tess_comm_free(rig.comm, buffers[place]);
            buffers[place] = NULL;
        }
    }
    for (int i = 0; i < 5000; i++) RANK_CHECK(((char *)kept)[i] == 0x42);
    tess_comm_free(rig.comm, buffers[rank % ALIVE]);
    /* Close frees the rest. */
    rig_close(&rig);
    return 0;
}

static void buffers_come_and_go(void **state)
{
    (void)state;
    for (int i = 0; rig_paths[i]; i++) {
        rig_choose_path(rig_paths[i]);
        rig_run(3, reuse_buffers, NULL, 60000);
    }
}

static int shared_mappings(void)
{
    char line[512];
    int count = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    RANK_CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps))
        count += strstr(line, "/SYSV") != NULL || strstr(line, "ucx_shm_posix") != NULL;
    fclose(maps);
    return count;
}

static int count_mappings(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open_world(&rig, rank, RIG_OPEN_TIMEOUT_MS);
    RANK_CHECK(shared_mappings() == 0);
    tess_comm_config_t config = {.name = "maps", .transport = "ucx"};
    RANK_OK(tess_comm_open(rig.world, rig.device, &config, &rig.comm));
    int open = shared_mappings();
    void *buffers[20];
    for (int i = 0; i < 20; i++) RANK_OK(tess_comm_allocate(rig.comm, 4096, &buffers[i]));
    RANK_CHECK(shared_mappings() > open);
    for (int i = 0; i < 20; i++) tess_comm_free(rig.comm, buffers[i]);
    RANK_OK(tess_world_barrier(rig.world, -1));
    /* The next allocation is where the peers' freed parts go. */
    RANK_OK(tess_comm_allocate(rig.comm, 4096, &buffers[0]));
    RANK_CHECK(shared_mappings() <= open + 3); /* own part and two peers', perhaps joined */
    tess_comm_close(rig.comm);
    rig.comm = NULL;
    RANK_CHECK(shared_mappings() == 0);
    rig_close(&rig);
    return 0;
}

static void mappings_are_given_back(void **state)
{
    (void)state;
    rig_choose_path("direct");
    rig_run(3, count_mappings, NULL, 60000);
}

static int ask_differently(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open(&rig, rank, LONG_MS);
    void *buffer = NULL;
    RANK_CHECK(tess_comm_allocate(rig.comm, rank == 1 ? 5000 : 6000, &buffer) == TESS_ERR_MISMATCH);
    rig_check_error_names("5000");
    rig_check_error_names("6000");
    RANK_CHECK(!buffer);
    RANK_OK(tess_comm_allocate(rig.comm, 7000, &buffer));
    gather_between(&rig, rig.send, buffer, 2000, 1);
    rig_close(&rig);
    return 0;
}

static void different_sizes_are_named(void **state)
{
    (void)state;
    rig_choose_path("direct");
    rig_run(3, ask_differently, NULL, 60000);
}

/* --- namespaces of their own ------------------------------------------------------------------ */

#define NOT_PERMITTED 78

/* Runs body in a child that has its own IPC namespace and a /dev/shm of that size; gives its exit
 * code, or NOT_PERMITTED. */
static int in_own_shm(const char *size, void (*body)(void))
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char options[32];
        snprintf(options, sizeof options, "size=%s", size);
        if (unshare(CLONE_NEWNS | CLONE_NEWIPC) != 0 ||
            mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
            mount("tmpfs", "/dev/shm", "tmpfs", 0, options) != 0)
            _exit(NOT_PERMITTED);
        body();
        fflush(NULL);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void expect_in_own_shm(const char *size, void (*body)(void))
{
    int code = in_own_shm(size, body);
    if (code == NOT_PERMITTED) {
        print_message("skipped: this process may not have an IPC namespace and a /dev/shm\n");
        skip();
    }
    assert_int_equal(code, 0);
}

static void run_or_exit(int ranks, test_rank_body_t body)
{
    if (test_ranks(ranks, body, NULL, 30000, NULL) != 0) _exit(1);
}

static int allocate_too_much(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open(&rig, rank, LONG_MS);
    void *buffer = NULL;
    RANK_CHECK(tess_comm_allocate(rig.comm, 64 << 20, &buffer) == TESS_ERR_OUT_OF_MEMORY);
    rig_check_error_names("/dev/shm");
    rig_check_error_names("67108864 bytes");
    rig_check_error_names("--shm-size");
    RANK_CHECK(!buffer);
    /* Neither communicator nor process has suffered. */
    RANK_OK(tess_comm_allocate(rig.comm, 100000, &buffer));
    gather_between(&rig, rig.send, buffer, 30000, 1);
    rig_close(&rig);
    return 0;
}

/* UCX 1.13 loses a little when it cannot make a worker; that is not for the leak check. */
static int end_without_leak_check(comm_rig_t *rig)
{
    rig_close(rig);
    fflush(NULL);
    _exit(0);
}

static int open_nonetheless(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open(&rig, rank, LONG_MS);
    RANK_CHECK(strstr(tess_comm_description(rig.comm), "messages") != NULL);
    gather_between(&rig, rig.send, rig.recv, 30000, 1);
    return end_without_leak_check(&rig);
}

static int open_in_vain(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open_world(&rig, rank, RIG_OPEN_TIMEOUT_MS);
    tess_comm_config_t config = {.transport = "ucx"};
    tess_comm_t *comm = NULL;
    RANK_CHECK(tess_comm_open(rig.world, rig.device, &config, &comm) < 0);
    rig_check_error_names("/dev/shm");
    RANK_CHECK(!comm);
    return end_without_leak_check(&rig);
}

/* UCX takes System V memory first, which /dev/shm does not limit; POSIX memory must be asked for.
 */
static void use_posix_memory(void)
{
    setenv("UCX_ALLOC_PRIO", "md:posix", 1);
}

static void allocate_in_small_shm(void)
{
    use_posix_memory();
    rig_choose_path("direct");
    run_or_exit(3, allocate_too_much);
}

static void open_in_tiny_shm(void)
{
    use_posix_memory();
    rig_choose_path("auto");
    run_or_exit(3, open_nonetheless);
    rig_choose_path("direct");
    run_or_exit(3, open_in_vain);
}

static void small_shm_is_named(void **state)
{
    (void)state;
    expect_in_own_shm("16m", allocate_in_small_shm);
}

static void tiny_shm_is_named(void **state)
{
    (void)state;
    expect_in_own_shm("1m", open_in_tiny_shm);
}

/* What UCX does by default with almost nothing there: open, or say why not. */
static int open_or_explain(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open_world(&rig, rank, RIG_OPEN_TIMEOUT_MS);
    tess_comm_config_t config = {.transport = "ucx"};
    tess_comm_t *comm = NULL;
    if (tess_comm_open(rig.world, rig.device, &config, &comm) == TESS_OK) {
        rig.comm = comm;
        gather_between(&rig, rig.send, rig.recv, 30000, 1);
    } else {
        rig_check_error_names("/dev/shm");
    }
    return end_without_leak_check(&rig);
}

static void open_in_no_shm(void)
{
    rig_choose_path("auto");
    run_or_exit(2, open_or_explain);
}

static void no_shm_at_all(void **state)
{
    (void)state;
    expect_in_own_shm("16k", open_in_no_shm);
}

/* --- nothing is left behind ------------------------------------------------------------------- */

static int die_busy(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    void *buffer;
    rig_open(&rig, rank, LONG_MS);
    RANK_OK(tess_comm_allocate(rig.comm, 1 << 20, &buffer));
    for (int i = 0; i < 100; i++) {
        tess_collective_t arguments = {
            .send = rig.send, .recv = buffer, .count = 100000, .dtype = TESS_DTYPE_BYTE};
        /* The first to die disturbs the others, which does not matter. */
        if (tess_comm_all_gather(rig.comm, &arguments, rig.stream) < 0) break;
    }
    raise(SIGKILL);
    return 0;
}

static int count_lines(const char *command)
{
    char line[256];
    int count = 0;
    FILE *pipe = popen(command, "r");
    if (!pipe) _exit(1);
    while (fgets(line, sizeof line, pipe)) {
        fprintf(stderr, "left behind: %s", line);
        count++;
    }
    pclose(pipe);
    return count;
}

static void kill_all_and_look(void)
{
    for (int posix = 0; posix < 2; posix++) {
        if (posix) use_posix_memory();
        rig_choose_path("direct");
        int codes[3];
        (void)test_ranks(3, die_busy, NULL, 30000, codes);
        for (int r = 0; r < 3; r++)
            if (codes[r] != 128 + SIGKILL) _exit(1);
        if (count_lines("ls -A /dev/shm") + count_lines("tail -n +2 /proc/sysvipc/shm") > 0)
            _exit(2);
    }
}

static void killed_ranks_leave_nothing(void **state)
{
    (void)state;
    expect_in_own_shm("64m", kill_all_and_look);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffers_come_and_go),        cmocka_unit_test(mappings_are_given_back),
        cmocka_unit_test(different_sizes_are_named),  cmocka_unit_test(small_shm_is_named),
        cmocka_unit_test(tiny_shm_is_named),          cmocka_unit_test(no_shm_at_all),
        cmocka_unit_test(killed_ranks_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
