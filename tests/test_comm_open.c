/* SPDX-License-Identifier: Apache-2.0 */
/* Opening communicators: which transport is chosen and why one is refused, configs that make no
 * sense, ranks that disagree or do not come, and subsets of ranks; bad arguments of collectives.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm_rig.h"

/* --- one process ------------------------------------------------------------------------------ */

static comm_rig_t alone;

static int open_alone(void **state)
{
    (void)state;
    unsetenv("TESS_RANK");
    unsetenv("TESS_WORLD_SIZE");
    rig_open_world(&alone, 0, 5000);
    return 0;
}

static int close_alone(void **state)
{
    (void)state;
    rig_close(&alone);
    return 0;
}

static void refused(const tess_comm_config_t *config, tess_status_t status, const char *part)
{
    tess_comm_t *comm = NULL;
    TEST_STATUS(tess_comm_open(alone.world, alone.device, config, &comm), status);
    if (!strstr(tess_last_error(), part))
        fail_msg("\"%s\" does not name \"%s\"", tess_last_error(), part);
    assert_null(comm);
}

static void configs_that_make_no_sense(void **state)
{
    (void)state;
    static const int outside[] = {0, 3}, twice[] = {0, 0}, negative[] = {-1};
    refused(&(tess_comm_config_t){.transport = "mpi"}, TESS_ERR_INVALID_ARGUMENT, "mpi");
    refused(&(tess_comm_config_t){.timeout_ms = -5}, TESS_ERR_INVALID_ARGUMENT, "-5");
    refused(&(tess_comm_config_t){.ranks = outside, .rank_count = 2}, TESS_ERR_INVALID_ARGUMENT,
            "ranks[1] is 3");
    refused(&(tess_comm_config_t){.ranks = twice, .rank_count = 2}, TESS_ERR_INVALID_ARGUMENT,
            "ascend");
    refused(&(tess_comm_config_t){.ranks = negative, .rank_count = 1}, TESS_ERR_INVALID_ARGUMENT,
            "-1");
    refused(&(tess_comm_config_t){.ranks = outside, .rank_count = 0}, TESS_ERR_INVALID_ARGUMENT,
            "rank_count is 0");
    refused(
        &(tess_comm_config_t){
            .name = "a name that is far too long for a communicator, because it has 73 letters"},
        TESS_ERR_INVALID_ARGUMENT, "63");
    setenv("TESS_TRANSPORT", "pigeon", 1);
    refused(NULL, TESS_ERR_INVALID_ARGUMENT, "pigeon");
    unsetenv("TESS_TRANSPORT");
    refused(&(tess_comm_config_t){.transport = "nccl"}, TESS_ERR_UNSUPPORTED, "nccl");
    tess_comm_t *comm;
    TEST_STATUS(tess_comm_open(NULL, alone.device, NULL, &comm), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_comm_open(alone.world, NULL, NULL, &comm), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_comm_open(alone.world, alone.device, NULL, NULL), TESS_ERR_INVALID_ARGUMENT);
    tess_comm_close(NULL);
    tess_comm_free(NULL, NULL);
    tess_comm_abort(NULL);
    TEST_STATUS(tess_comm_status(NULL), TESS_ERR_INVALID_ARGUMENT);
}

static void one_rank_takes_self(void **state)
{
    (void)state;
    tess_comm_t *comm;
    TEST_OK(tess_comm_open(alone.world, alone.device, NULL, &comm));
    assert_string_equal(tess_comm_transport(comm), "self");
    assert_int_equal(tess_comm_size(comm), 1);
    assert_int_equal(tess_comm_rank(comm), 0);
    assert_ptr_equal(tess_comm_device(comm), alone.device);
    assert_ptr_equal(tess_comm_world(comm), alone.world);
    void *buffer, *kept;
    TEST_OK(tess_comm_allocate(comm, 0, &buffer));
    assert_int_equal((uintptr_t)buffer % 4096, 0);
    TEST_OK(tess_comm_allocate(comm, 1000, &kept)); /* close frees it */
    tess_comm_free(comm, buffer);
    TEST_STATUS(tess_comm_allocate(comm, -1, &buffer), TESS_ERR_INVALID_ARGUMENT);
    TEST_OK(tess_comm_status(comm));
    tess_comm_abort(comm);
    TEST_STATUS(tess_comm_status(comm), TESS_ERR_ABORTED);
    TEST_STATUS(tess_comm_barrier(comm, alone.stream), TESS_ERR_ABORTED);
    tess_comm_close(comm);
}

static void environment_chooses(void **state)
{
    (void)state;
    tess_comm_t *comm;
    setenv("TESS_TRANSPORT", "ucx", 1);
    tess_status_t status = tess_comm_open(alone.world, alone.device, NULL, &comm);
    unsetenv("TESS_TRANSPORT");
    TEST_OK(status);
    assert_string_equal(tess_comm_transport(comm), "ucx");
    tess_comm_close(comm);
    setenv("TESS_UCX_PATH", "teleport", 1);
    refused(&(tess_comm_config_t){.transport = "ucx"}, TESS_ERR_INVALID_ARGUMENT, "teleport");
    setenv("TESS_UCX_PATH", "direct", 1);
    setenv("UCX_TLS", "tcp,self", 1);
    refused(&(tess_comm_config_t){.transport = "ucx"}, TESS_ERR_UNSUPPORTED, "UCX_TLS");
    unsetenv("TESS_UCX_PATH");
    unsetenv("UCX_TLS");
}

static void transports_are_listed(void **state)
{
    (void)state;
    tess_transport_info_t list[8];
    int count = tess_transport_list(list, 8);
    assert_int_equal(count, 3);
    assert_int_equal(tess_transport_list(NULL, 0), 3);
    for (int i = 0; i < count; i++) {
        assert_non_null(list[i].name);
        assert_non_null(list[i].version);
        assert_true(list[i].usable ? list[i].reason[0] == 0 : list[i].reason[0] != 0);
    }
    assert_string_equal(list[0].name, "self");
    assert_true(list[0].usable);
}

/* --- bad arguments of collectives ------------------------------------------------------------- */

static void refuses(tess_status_t status, const char *part)
{
    if (status != TESS_ERR_INVALID_ARGUMENT) fail_msg("got %s", tess_status_name(status));
    if (!strstr(tess_last_error(), part))
        fail_msg("\"%s\" does not name \"%s\"", tess_last_error(), part);
}

static void bad_arguments(void **state)
{
    (void)state;
    static const tess_comm_config_t config = {.transport = "ucx", .name = "strict"};
    tess_comm_t *comm;
    tess_stream_t *stream = alone.stream, *foreign;
    tess_device_t *other;
    TEST_OK(tess_comm_open(alone.world, alone.device, &config, &comm));
    TEST_OK(tess_device_open("host", &other));
    TEST_OK(tess_stream_create(other, TESS_PRIORITY_NORMAL, &foreign));
    char *data = alone.send;
    tess_collective_t good = {
        .send = data, .recv = data + 4096, .count = 8, .dtype = TESS_DTYPE_FP32};
    tess_collective_t bad = good;
    refuses(tess_comm_all_gather(NULL, &good, stream), "comm is NULL");
    refuses(tess_comm_all_gather(comm, NULL, stream), "arguments is NULL");
    refuses(tess_comm_all_gather(comm, &good, NULL), "stream is NULL");
    /* A stream of a second handle on the same device is as good as one of the first. */
    TEST_OK(tess_comm_all_gather(comm, &good, foreign));
    TEST_OK(tess_stream_synchronize(foreign, 5000));
    bad.send = NULL;
    refuses(tess_comm_all_gather(comm, &bad, stream), "send is NULL");
    bad = good, bad.recv = NULL;
    refuses(tess_comm_broadcast(comm, &bad, stream), "recv is NULL");
    bad = good, bad.count = -1;
    refuses(tess_comm_all_reduce(comm, &bad, stream), "count is -1");
    bad = good, bad.count = INT64_MAX / 2;
    refuses(tess_comm_all_reduce(comm, &bad, stream), "too many");
    bad = good, bad.dtype = (tess_dtype_t)9;
    refuses(tess_comm_all_gather(comm, &bad, stream), "no dtype");
    bad = good, bad.dtype = TESS_DTYPE_BYTE;
    refuses(tess_comm_reduce_scatter(comm, &bad, stream), "cannot be summed");
    bad = good, bad.reduction = (tess_reduction_t)7;
    refuses(tess_comm_all_reduce(comm, &bad, stream), "no reduction");
    bad = good, bad.root = 1;
    refuses(tess_comm_broadcast(comm, &bad, stream), "root is 1");
    bad = good, bad.recv = data + 4;
    refuses(tess_comm_all_reduce(comm, &bad, stream), "overlap");
    refuses(tess_comm_reduce_scatter(comm, &bad, stream), "overlap");
    refuses(tess_comm_barrier(comm, NULL), "stream is NULL");
    /* Nothing was queued and nothing broke. */
    TEST_OK(tess_comm_all_gather(comm, &good, stream));
    bad = (tess_collective_t){.dtype = TESS_DTYPE_FP32};
    TEST_OK(tess_comm_all_reduce(comm, &bad, stream)); /* count 0 needs no buffers */
    TEST_OK(tess_stream_synchronize(stream, -1));
    TEST_OK(tess_comm_status(comm));
    tess_stream_destroy(foreign);
    tess_device_close(other);
    tess_comm_close(comm);
}

/* --- several ranks ---------------------------------------------------------------------------- */

typedef struct difference {
    tess_comm_config_t config[2]; /* of rank 1, of the others */
    tess_status_t status;
    const char *part;
} difference_t;

static int open_differently(int rank, void *argument)
{
    const difference_t *difference = argument;
    comm_rig_t rig;
    rig_open_world(&rig, rank, RIG_OPEN_TIMEOUT_MS);
    tess_comm_t *comm = NULL;
    tess_status_t status =
        tess_comm_open(rig.world, rig.device, &difference->config[rank != 1], &comm);
    RANK_CHECK(status == difference->status);
    rig_check_error_names(difference->part);
    RANK_CHECK(!comm);
    /* The ranks are still in step: the next one opens. */
    RANK_OK(tess_comm_open(rig.world, rig.device, NULL, &rig.comm));
    rig_close(&rig);
    return 0;
}

static void ranks_that_disagree(void **state)
{
    (void)state;
    static difference_t differences[] = {
        {{{.name = "left"}, {.name = "right"}}, TESS_ERR_MISMATCH, "\"left\""},
        {{{.timeout_ms = 1000}, {.timeout_ms = 2000}}, TESS_ERR_MISMATCH, "1000 ms"},
    };
    for (size_t i = 0; i < sizeof differences / sizeof *differences; i++)
        rig_run(3, open_differently, &differences[i], 60000);
}

static int open_with_own_path(int rank, void *argument)
{
    const char *const *paths = argument;
    setenv("TESS_UCX_PATH", paths[rank], 1);
    comm_rig_t rig;
    rig_open_world(&rig, rank, RIG_OPEN_TIMEOUT_MS);
    tess_comm_t *comm = NULL;
    RANK_CHECK(tess_comm_open(rig.world, rig.device, NULL, &comm) < 0);
    rig_check_error_names(paths[2]);
    setenv("TESS_UCX_PATH", "auto", 1);
    RANK_OK(tess_comm_open(rig.world, rig.device, NULL, &rig.comm));
    rig_close(&rig);
    return 0;
}

static void paths_that_disagree(void **state)
{
    (void)state;
    static const char *different[] = {"direct", "message", "TESS_UCX_PATH"};
    static const char *wrong[] = {"auto", "sideways", "sideways"}; /* known to both ranks */
    rig_run(2, open_with_own_path, different, 60000);
    rig_run(2, open_with_own_path, wrong, 60000);
}

static int come_without_rank_two(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open_world(&rig, rank, RIG_OPEN_TIMEOUT_MS);
    tess_comm_config_t config = {.name = "lonely", .timeout_ms = 700};
    if (rank != 2) {
        tess_comm_t *comm = NULL;
        RANK_CHECK(tess_comm_open(rig.world, rig.device, &config, &comm) == TESS_ERR_TIMEOUT);
        rig_check_error_names("rank 2");
    }
    RANK_OK(tess_world_barrier(rig.world, -1));
    rig_close(&rig);
    return 0;
}

static void missing_rank_is_named(void **state)
{
    (void)state;
    rig_run(3, come_without_rank_two, NULL, 60000);
}

static int open_subsets(int rank, void *argument)
{
    (void)argument;
    static const int evens[] = {0, 2, 4}, odds[] = {1, 3}, first[] = {0, 1, 2};
    comm_rig_t rig;
    rig_open_world(&rig, rank, RIG_OPEN_TIMEOUT_MS);
    tess_comm_config_t halves = {.name = "half",
                                 .transport = "ucx",
                                 .ranks = rank % 2 ? odds : evens,
                                 .rank_count = rank % 2 ? 2 : 3};
    tess_comm_config_t three = {
        .name = "three", .transport = "ucx", .ranks = first, .rank_count = 3};
    tess_comm_t *half, *again, *front = NULL;
    RANK_OK(tess_comm_open(rig.world, rig.device, &halves, &half));
    if (rank < 3) RANK_OK(tess_comm_open(rig.world, rig.device, &three, &front));
    RANK_OK(tess_comm_open(rig.world, rig.device, &halves, &again));
    RANK_CHECK(tess_comm_rank(half) == rank / 2);
    float one = (float)(rank + 1), half_sum = 0, front_sum = 0;
    tess_collective_t sum = {.send = &one, .recv = &half_sum, .count = 1, .dtype = TESS_DTYPE_FP32};
    RANK_OK(tess_comm_all_reduce(half, &sum, rig.stream));
    sum.recv = &front_sum;
    if (front) RANK_OK(tess_comm_all_reduce(front, &sum, rig.stream));
    RANK_OK(tess_comm_barrier(again, rig.stream));
    RANK_OK(tess_stream_synchronize(rig.stream, -1));
    RANK_CHECK(half_sum == (rank % 2 ? 2 + 4 : 1 + 3 + 5));
    RANK_CHECK(!front || front_sum == 1 + 2 + 3);
    tess_comm_close(again);
    tess_comm_close(front);
    tess_comm_close(half);
    rig_close(&rig);
    return 0;
}

static void subsets(void **state)
{
    (void)state;
    for (int i = 0; rig_paths[i]; i++) {
        rig_choose_path(rig_paths[i]);
        rig_run(5, open_subsets, NULL, 60000);
    }
    rig_choose_path("auto");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(subsets),
        cmocka_unit_test(ranks_that_disagree),
        cmocka_unit_test(paths_that_disagree),
        cmocka_unit_test(missing_rank_is_named),
        cmocka_unit_test_setup_teardown(configs_that_make_no_sense, open_alone, close_alone),
        cmocka_unit_test_setup_teardown(one_rank_takes_self, open_alone, close_alone),
        cmocka_unit_test_setup_teardown(environment_chooses, open_alone, close_alone),
        cmocka_unit_test_setup_teardown(transports_are_listed, open_alone, close_alone),
        cmocka_unit_test_setup_teardown(bad_arguments, open_alone, close_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
