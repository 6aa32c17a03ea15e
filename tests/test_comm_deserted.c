/* SPDX-License-Identifier: Apache-2.0 */
/* A rank that waits in a step which all take together learns at once that another has failed or
 * given up, and why.
 *
 * A transport of this file's own stands in for ucx, so that one rank alone can fail to open it.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "comm/comm_internal.h"
#include "harness.h"

#define LONG_MS 20000
#define SOON_NS INT64_C(4000000000)

/* World ranks. */
static int opens_not;

static const char *fake_version(void)
{
    return "";
}

static const char *fake_unusable(tess_device_kind_t kind)
{
    (void)kind;
    return NULL;
}

/* One rank fails on its own; the others wait for it in a later exchange, like nccl's id. */
static tess_status_t fake_open(tess_comm_t *comm)
{
    int all[8];
    if (comm->rank == opens_not) return tessi_fail(TESS_ERR_OUT_OF_MEMORY, "no room for a card");
    return tessi_comm_exchange(comm, "fake id", &comm->rank, sizeof comm->rank, all);
}

static void fake_close(tess_comm_t *comm)
{
    (void)comm;
}

static tess_status_t fake_allocate(tess_comm_t *comm, int64_t bytes, void **pointer)
{
    (void)bytes;
    *pointer = NULL;
    return tessi_comm_agree(comm, "allocate", TESS_OK);
}

static void fake_free(tess_comm_t *comm, void *pointer)
{
    (void)comm;
    (void)pointer;
}

static tess_status_t fake_submit(tess_comm_t *comm, const tessi_op_t *op, tess_stream_t *stream)
{
    (void)comm;
    (void)op;
    (void)stream;
    return TESS_OK;
}

const tessi_transport_t tessi_transport_ucx = {
    .name = "ucx",
    .version = fake_version,
    .unusable = fake_unusable,
    .open = fake_open,
    .close = fake_close,
    .allocate = fake_allocate,
    .free = fake_free,
    .submit = fake_submit,
};

/* --- ranks ------------------------------------------------------------------------------------ */

typedef struct rig {
    tess_world_t *world;
    tess_device_t *device;
    tess_comm_t *comm;
} rig_t;

static tess_status_t open_rig(rig_t *rig)
{
    tess_world_config_t world_config = TESS_WORLD_CONFIG_DEFAULT;
    tess_comm_config_t config = {.name = "team", .transport = "ucx", .timeout_ms = LONG_MS};
    world_config.timeout_ms = LONG_MS;
    memset(rig, 0, sizeof *rig);
    RANK_OK(tess_world_open(&world_config, &rig->world));
    RANK_OK(tess_device_open("host", &rig->device));
    return tess_comm_open(rig->world, rig->device, &config, &rig->comm);
}

static void close_rig(rig_t *rig)
{
    tess_comm_close(rig->comm);
    tess_device_close(rig->device);
    tess_world_close(rig->world);
}

static void check_names(int rank, const char *part)
{
    char who[32];
    snprintf(who, sizeof who, "rank %d (pid ", rank);
    if (strstr(tess_last_error(), who) && strstr(tess_last_error(), part)) return;
    fprintf(stderr, "'%s' does not name '%s' and '%s'\n", tess_last_error(), who, part);
    RANK_CHECK(0);
}

static int one_cannot_open(int rank, void *argument)
{
    rig_t rig;
    opens_not = *(int *)argument;
    int64_t begin_ns = tessi_now_ns();
    tess_status_t status = open_rig(&rig);
    RANK_CHECK(tessi_now_ns() - begin_ns < SOON_NS);
    if (rank == opens_not) {
        RANK_CHECK(status == TESS_ERR_OUT_OF_MEMORY);
        RANK_CHECK(strcmp(tess_last_error(), "no room for a card") == 0);
    } else {
        RANK_CHECK(status == TESS_ERR_PEER_LOST);
        check_names(opens_not, "cannot open transport ucx: no room for a card");
    }
    /* The next communicator of the same ranks knows nothing of that. */
    tess_comm_config_t config = {.name = "team", .transport = "ucx", .timeout_ms = LONG_MS};
    opens_not = -1;
    RANK_OK(tess_comm_open(rig.world, rig.device, &config, &rig.comm));
    close_rig(&rig);
    return 0;
}

static void test_open_that_fails_on_one_rank(void **state)
{
    (void)state;
    for (int odd = 0; odd < 3; odd++)
        assert_int_equal(test_ranks(3, one_cannot_open, &odd, LONG_MS, NULL), 0);
}

/* One aborts and goes elsewhere while the others are in an allocation. */
static int one_aborts(int rank, void *argument)
{
    rig_t rig;
    int odd = *(int *)argument;
    void *memory;
    opens_not = -1;
    RANK_OK(open_rig(&rig));
    if (rank == odd) {
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
        tess_comm_abort(rig.comm);
    } else {
        int64_t begin_ns = tessi_now_ns();
        RANK_CHECK(tess_comm_allocate(rig.comm, 4096, &memory) == TESS_ERR_PEER_LOST);
        RANK_CHECK(tessi_now_ns() - begin_ns < SOON_NS);
        check_names(odd, "communicator team was aborted by");
    }
    RANK_OK(tess_world_barrier(rig.world, LONG_MS));
    close_rig(&rig);
    return 0;
}

static void test_abort_ends_an_allocation(void **state)
{
    (void)state;
    for (int odd = 0; odd < 3; odd++)
        assert_int_equal(test_ranks(3, one_aborts, &odd, LONG_MS, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_that_fails_on_one_rank),
        cmocka_unit_test(test_abort_ends_an_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
