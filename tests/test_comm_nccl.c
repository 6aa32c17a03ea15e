/* SPDX-License-Identifier: Apache-2.0 */
/* What only NCCL on GPUs can show: ranks that die, stop, differ or leave while kernels wait for
 * them, and that the GPU is usable afterwards. Runs on two GPUs. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/internal.h"
#include "harness.h"

enum { RANKS = 2, COUNT = 1 << 20, SHORT_TIMEOUT_MS = 4000, DYING = RANKS - 1 };

typedef struct rank_state {
    tess_world_t *world;
    tess_device_t *device;
    tess_comm_t *comm;
    tess_stream_t *stream;
    uint16_t *buffer; /* (RANKS * COUNT) bf16 */
} rank_state_t;

static rank_state_t open_rank(int rank)
{
    rank_state_t state = {0};
    tess_world_config_t world_config = TESS_WORLD_CONFIG_DEFAULT;
    tess_comm_config_t config = TESS_COMM_CONFIG_DEFAULT;
    config.transport = "nccl";
    config.timeout_ms = SHORT_TIMEOUT_MS;
    world_config.timeout_ms = 30000;
    RANK_OK(tess_world_open(&world_config, &state.world));
    RANK_OK(tess_device_open(test_device_name(rank), &state.device));
    RANK_OK(tess_comm_open(state.world, state.device, &config, &state.comm));
    RANK_OK(tess_stream_create(state.device, TESS_PRIORITY_NORMAL, &state.stream));
    void *buffer;
    RANK_OK(tess_comm_allocate(state.comm, (int64_t)RANKS * COUNT * 2, &buffer));
    state.buffer = buffer;
    RANK_OK(tess_stream_fill(state.stream, buffer, 0, (int64_t)RANKS * COUNT * 2));
    return state;
}

static void close_rank(rank_state_t *state)
{
    tess_comm_close(state->comm);
    tess_stream_destroy(state->stream);
    tess_device_close(state->device);
    tess_world_close(state->world);
}

static tess_status_t gather_once(rank_state_t *state, int64_t count)
{
    tess_collective_t gather = {.send = state->buffer + tess_comm_rank(state->comm) * count,
                                .recv = state->buffer,
                                .count = count,
                                .dtype = TESS_DTYPE_BF16};
    tess_status_t status = tess_comm_all_gather(state->comm, &gather, state->stream);
    if (status != TESS_OK) return status;
    status = tess_stream_synchronize(state->stream, 3 * SHORT_TIMEOUT_MS);
    return status != TESS_OK ? status : tess_comm_status(state->comm);
}

/* Gathers until it fails; gives the failure. */
static tess_status_t gather_until_failure(rank_state_t *state)
{
    int64_t until_ns = tessi_now_ns() + 4 * (int64_t)SHORT_TIMEOUT_MS * 1000000;
    while (tessi_now_ns() < until_ns) {
        tess_status_t status = gather_once(state, COUNT);
        if (status != TESS_OK) return status;
    }
    return TESS_OK;
}

/* A device that can still allocate, fill and copy was not lost with the communicator. */
static void check_device_usable(rank_state_t *state)
{
    enum { BYTES = 1 << 22 };
    void *device_memory, *host_memory;
    tess_stream_t *stream;
    RANK_OK(tess_stream_create(state->device, TESS_PRIORITY_NORMAL, &stream));
    RANK_OK(tess_memory_allocate(state->device, TESS_MEMORY_DEVICE, BYTES, &device_memory));
    RANK_OK(tess_memory_allocate(state->device, TESS_MEMORY_PINNED, BYTES, &host_memory));
    RANK_OK(tess_stream_fill(stream, device_memory, 0x5a, BYTES));
    RANK_OK(tess_stream_copy(stream, host_memory, device_memory, BYTES));
    RANK_OK(tess_stream_synchronize(stream, 10000));
    for (int i = 0; i < BYTES; i++) RANK_CHECK(((unsigned char *)host_memory)[i] == 0x5a);
    tess_memory_free(state->device, TESS_MEMORY_DEVICE, device_memory);
    tess_memory_free(state->device, TESS_MEMORY_PINNED, host_memory);
    tess_stream_destroy(stream);
}

static void check_failure(rank_state_t *state, tess_status_t got, tess_status_t expected,
                          const char *word)
{
    char sentence[1024];
    snprintf(sentence, sizeof sentence, "%s", tess_last_error());
    printf("[rank %d] %s: %s\n", tess_comm_rank(state->comm), tess_status_name(got), sentence);
    RANK_CHECK(got == expected);
    RANK_CHECK(strstr(sentence, word) != NULL);
    int64_t start_ns = tessi_now_ns();
    tess_comm_close(state->comm);
    RANK_CHECK(tessi_now_ns() - start_ns < 15000000000);
    state->comm = NULL;
    check_device_usable(state);
}

static int killed_body(int rank, void *argument)
{
    (void)argument;
    rank_state_t state = open_rank(rank);
    for (int i = 0; i < 20; i++) RANK_OK(gather_once(&state, COUNT));
    if (rank == DYING) raise(SIGKILL);
    check_failure(&state, gather_until_failure(&state), TESS_ERR_PEER_LOST, "rank 1");
    close_rank(&state);
    return 0;
}

static void killed_rank_is_named(void **state)
{
    (void)state;
    int codes[RANKS];
    assert_int_equal(test_ranks(RANKS, killed_body, NULL, 60000, codes), 1);
    assert_int_equal(codes[DYING], 128 + SIGKILL);
}

/* A stream that only waits for the gather's event must not take a gather that was cut short for a
 * finished one. */
static int waiting_body(int rank, void *argument)
{
    (void)argument;
    rank_state_t state = open_rank(rank);
    tess_stream_t *compute;
    tess_event_t *filled;
    RANK_OK(tess_stream_create(state.device, TESS_PRIORITY_NORMAL, &compute));
    RANK_OK(tess_event_create(state.device, TESS_EVENT_ORDER, &filled));
    RANK_OK(gather_once(&state, COUNT));
    if (rank == DYING) raise(SIGKILL);
    tess_collective_t gather = {
        .send = state.buffer, .recv = state.buffer, .count = COUNT, .dtype = TESS_DTYPE_BF16};
    tess_status_t queued = tess_comm_all_gather(state.comm, &gather, state.stream);
    if (queued == TESS_OK) {
        RANK_OK(tess_event_record(filled, state.stream));
        RANK_OK(tess_stream_wait_event(compute, filled));
        RANK_CHECK(tess_stream_synchronize(compute, 3 * SHORT_TIMEOUT_MS) == TESS_ERR_PEER_LOST);
        RANK_CHECK(tess_event_synchronize(filled, 1000) == TESS_ERR_PEER_LOST);
    } else {
        RANK_CHECK(queued == TESS_ERR_PEER_LOST); /* the news was faster than this rank */
    }
    tess_comm_close(state.comm);
    state.comm = NULL;
    tess_event_destroy(filled);
    tess_stream_destroy(compute);
    check_device_usable(&state);
    close_rank(&state);
    return 0;
}

static void failure_travels_along_events(void **state)
{
    (void)state;
    int codes[RANKS];
    assert_int_equal(test_ranks(RANKS, waiting_body, NULL, 60000, codes), 1);
    assert_int_equal(codes[DYING], 128 + SIGKILL);
}

static int stopped_body(int rank, void *argument)
{
    (void)argument;
    rank_state_t state = open_rank(rank);
    for (int i = 0; i < 20; i++) RANK_OK(gather_once(&state, COUNT));
    if (rank == DYING) raise(SIGSTOP);
    int64_t start_ns = tessi_now_ns();
    tess_status_t status = gather_until_failure(&state);
    RANK_CHECK(tessi_now_ns() - start_ns < 2000000LL * SHORT_TIMEOUT_MS);
    check_failure(&state, status, TESS_ERR_TIMEOUT, "rank 1");
    kill(test_rank_pid(DYING), SIGKILL);
    close_rank(&state);
    return 0;
}

static void stopped_rank_is_named(void **state)
{
    (void)state;
    int codes[RANKS];
    assert_int_equal(test_ranks(RANKS, stopped_body, NULL, 60000, codes), 1);
    assert_int_equal(codes[DYING], 128 + SIGKILL);
}

/* The last rank gathers one element less. NCCL itself would wait or mix up data. */
static int differing_body(int rank, void *argument)
{
    (void)argument;
    rank_state_t state = open_rank(rank);
    for (int i = 0; i < 20; i++) RANK_OK(gather_once(&state, COUNT));
    (void)gather_once(&state, rank == DYING ? COUNT - 8 : COUNT);
    tess_status_t status = gather_until_failure(&state);
    check_failure(&state, status, TESS_ERR_MISMATCH, "all_gather 21");
    close_rank(&state);
    return 0;
}

static void differing_count_is_named(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(RANKS, differing_body, NULL, 60000, NULL), 0);
}

static int absent_body(int rank, void *argument)
{
    (void)argument;
    tess_world_t *world;
    tess_device_t *device;
    tess_comm_t *comm = NULL;
    tess_world_config_t world_config = TESS_WORLD_CONFIG_DEFAULT;
    tess_comm_config_t config = TESS_COMM_CONFIG_DEFAULT;
    config.transport = "nccl";
    config.timeout_ms = 2000;
    world_config.timeout_ms = 15000;
    RANK_OK(tess_world_open(&world_config, &world));
    RANK_OK(tess_device_open(test_device_name(rank), &device));
    if (rank != DYING) {
        RANK_CHECK(tess_comm_open(world, device, &config, &comm) == TESS_ERR_TIMEOUT);
        printf("[rank %d] %s\n", rank, tess_last_error());
        RANK_CHECK(strstr(tess_last_error(), "rank 1") != NULL);
        RANK_CHECK(comm == NULL);
    }
    RANK_OK(tess_world_barrier(world, -1));
    tess_device_close(device);
    tess_world_close(world);
    return 0;
}

static void absent_rank_is_named_at_open(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(RANKS, absent_body, NULL, 60000, NULL), 0);
}

/* Rank 0 queues a gather that nobody joins, and closes. */
static int lonely_body(int rank, void *argument)
{
    (void)argument;
    rank_state_t state = open_rank(rank);
    RANK_OK(gather_once(&state, COUNT));
    if (rank == 0) {
        tess_collective_t gather = {
            .send = state.buffer, .recv = state.buffer, .count = COUNT, .dtype = TESS_DTYPE_BF16};
        RANK_OK(tess_comm_all_gather(state.comm, &gather, state.stream));
        int64_t start_ns = tessi_now_ns();
        tess_comm_close(state.comm);
        RANK_CHECK(tessi_now_ns() - start_ns < 12000000000);
        state.comm = NULL;
        RANK_CHECK(tess_stream_synchronize(state.stream, 5000) == TESS_ERR_ABORTED);
    } else {
        tess_status_t status = TESS_OK;
        for (int i = 0; i < 3000 && status == TESS_OK; i++) {
            status = tess_comm_status(state.comm);
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
        RANK_CHECK(status == TESS_ERR_PEER_LOST);
        tess_comm_close(state.comm);
        state.comm = NULL;
    }
    check_device_usable(&state);
    close_rank(&state);
    return 0;
}

static void close_aborts_what_is_queued(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(RANKS, lonely_body, NULL, 60000, NULL), 0);
}

static int many_body(int rank, void *argument)
{
    (void)argument;
    rank_state_t state = open_rank(rank);
    tess_collective_t gather = {.send = state.buffer + rank * 64,
                                .recv = state.buffer,
                                .count = 64,
                                .dtype = TESS_DTYPE_BF16};
    for (int i = 0; i < 5000; i++) RANK_OK(tess_comm_all_gather(state.comm, &gather, state.stream));
    RANK_OK(tess_comm_barrier(state.comm, state.stream));
    RANK_OK(tess_stream_synchronize(state.stream, 20000));
    RANK_OK(tess_comm_status(state.comm));
    close_rank(&state);
    return 0;
}

static void more_in_flight_than_slots(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(RANKS, many_body, NULL, 60000, NULL), 0);
}

int main(void)
{
    test_need_ranks(RANKS);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_in_flight_than_slots),
        cmocka_unit_test(killed_rank_is_named),
        cmocka_unit_test(failure_travels_along_events),
        cmocka_unit_test(stopped_rank_is_named),
        cmocka_unit_test(differing_count_is_named),
        cmocka_unit_test(absent_rank_is_named_at_open),
        cmocka_unit_test(close_aborts_what_is_queued),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
