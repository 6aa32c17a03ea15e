/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of death, silence and disagreement share. */
#include "watched_rig.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

void rig_pause_ms(int ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

void rig_expect_in(const char *text, const char *part)
{
    if (strstr(text, part)) return;
    fprintf(stderr, "[rank %s] expected '%s' in '%s'\n", getenv("TESS_RANK"), part, text);
    _exit(1);
}

void rig_expect_rank(const char *text, int rank)
{
    char part[64];
    snprintf(part, sizeof part, "rank %d (pid %d on ", rank, test_rank_pid(rank));
    rig_expect_in(text, part);
}

tess_world_t *rig_open_world(int timeout_ms)
{
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    tess_world_t *world = NULL;
    config.timeout_ms = timeout_ms;
    RANK_OK(tess_world_open(&config, &world));
    RANK_OK(tess_world_barrier(world, 10000));
    return world;
}

_Atomic int *rig_done;

void rig_finish_and_kill(int survivors, int stopped)
{
    if (atomic_fetch_add(rig_done, 1) + 1 == survivors) kill(test_rank_pid(stopped), SIGKILL);
}

const int rig_everyone[] = {0, 1, 2, 3, 4};

void rig_add_watch(tess_world_t *world, tessi_watch_t *watch, uint64_t id, const int *ranks,
                   int count)
{
    memset(watch, 0, sizeof *watch);
    watch->comm_id = id;
    watch->name = "team";
    watch->group = (tessi_group_t){ranks, count};
    tessi_watch_add(world, watch);
}

tess_status_t rig_wait_for_failure(tessi_watch_t *watch, int64_t most_ns)
{
    int64_t begin_ns = tessi_now_ns();
    tess_status_t status;
    while ((status = tessi_watch_status(watch)) == TESS_OK && tessi_now_ns() - begin_ns < most_ns)
        rig_pause_ms(2);
    return status;
}

void rig_share_done(void)
{
    rig_done =
        mmap(NULL, sizeof *rig_done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

tessi_op_record_t rig_record_of(uint64_t id, int64_t sequence)
{
    return (tessi_op_record_t){.comm_id = id,
                               .sequence = sequence,
                               .count = 4096,
                               .kind = TESSI_OP_ALL_GATHER,
                               .dtype = TESS_DTYPE_BF16};
}
