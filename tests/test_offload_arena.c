/* SPDX-License-Identifier: Apache-2.0 */
/* The pinned arena: what it takes from the system, and what it hands out.
 *
 * The allocator underneath has a test of its own; here pieces are memory, so a piece is filled with
 * its own pattern, and an overlap shows as a pattern of another.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena_rig.h"
#include "core/internal.h"

/* --- what it takes ------------------------------------------------------------------------------
 */

/* The size of the mapping that holds a pointer, by the system's table. */
static int64_t mapping_bytes(const void *pointer)
{
    FILE *file = fopen("/proc/self/maps", "r");
    assert_non_null(file);
    char line[512];
    int64_t bytes = -1;
    unsigned long long start, end, at = (unsigned long long)(uintptr_t)pointer;
    while (bytes < 0 && fgets(line, sizeof line, file))
        if (sscanf(line, "%llx-%llx", &start, &end) == 2 && at >= start && at < end)
            bytes = (int64_t)(end - start);
    fclose(file);
    return bytes;
}

static void takes_exactly_what_was_asked_for(void **state)
{
    (void)state;
    const int64_t page_bytes = sysconf(_SC_PAGESIZE);
    const int64_t sizes[] = {1, page_bytes, 3 * page_bytes + 1, 2 * MIB, 5 * MIB + 4097, 33 * MIB};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t rounded = (sizes[s] + page_bytes - 1) / page_bytes * page_bytes;
        if (!rig_may_lock(rounded)) continue;
        int64_t locked_before = rig_status_bytes("VmLck:");
        tess_arena_t *arena = rig_create(sizes[s]);
        tess_arena_statistics_t before = rig_statistics(arena);
        assert_int_equal(before.capacity_bytes, rounded);
        assert_int_equal(before.used_bytes, 0);
        assert_int_equal(before.high_water_bytes, 0);
        assert_int_equal(before.largest_free_bytes, rounded);
        assert_int_equal(before.piece_count, 0);
        assert_int_equal(before.locked_bytes, rounded);
        assert_true(before.huge_bytes >= -1 && before.huge_bytes <= rounded);
        if (!rig_is_cuda() && !RIG_SANITIZED)
            assert_int_equal(rig_status_bytes("VmLck:") - locked_before, rounded);

        /* All of it is one piece, on the largest boundary, and no more is mapped. */
        void *whole = NULL;
        TEST_OK(tess_arena_allocate(arena, rounded, 2 * MIB, &whole));
        assert_int_equal((uintptr_t)whole % (uintptr_t)(2 * MIB), 0);
        if (!rig_is_cuda()) assert_int_equal(mapping_bytes(whole), rounded);
        memset(whole, 0x5a, (size_t)rounded);
        tess_arena_statistics_t full = rig_statistics(arena);
        assert_int_equal(full.used_bytes, rounded);
        assert_int_equal(full.largest_free_bytes, 0);
        print_message("%lld bytes: %lld in huge pages, NUMA node %d\n", (long long)rounded,
                      (long long)full.huge_bytes, full.numa_node);
        tess_arena_free(arena, whole);
        assert_int_equal(rig_statistics(arena).high_water_bytes, rounded);
        tess_arena_destroy(arena);
        assert_int_equal(rig_status_bytes("VmLck:"), locked_before);
    }
    tess_arena_destroy(NULL);
    tess_arena_free(NULL, NULL);
}

/* Locking would touch the pages too, so these are arenas that cannot be locked. */
static void any_number_of_threads_touches(void **state)
{
    (void)state;
    const int threads[] = {0, 1, 2, 7, 64};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        for (int huge = 0; huge < 2; huge++) {
            tess_arena_config_t config = rig_config(6 * MIB + 4096);
            config.threads = threads[t];
            config.huge_pages = huge;
            config.allow_pageable = 1;
            tess_arena_t *arena = NULL;
            int64_t resident_before = rig_status_bytes("VmRSS:");
            tessi_fault_arm("memory", 1);
            rig_keep_stderr();
            tess_status_t status = tess_arena_create(rig_device, &config, &arena);
            const char *text = rig_kept_stderr();
            tessi_fault_arm(NULL, 0);
            TEST_OK(status);
            rig_assert_says(text, "stay pageable");
            /* The system counts roughly; sanitizers and drivers add, nothing here gives back. */
            int64_t grown = rig_status_bytes("VmRSS:") - resident_before;
            if (!rig_is_cuda() && !RIG_SANITIZED && grown < 5 * MIB)
                fail_msg("%d threads: only %lld bytes became resident", threads[t],
                         (long long)grown);
            tess_arena_destroy(arena);
        }
    }
}

/* Room to align in is given back: one that was not would be up to 2 MiB each time. */
static void address_space_is_given_back(void **state)
{
    (void)state;
    if (rig_is_cuda() || RIG_SANITIZED) skip();
    tess_arena_destroy(rig_create(4096));
    int64_t before = rig_status_bytes("VmSize:");
    for (int i = 0; i < 50; i++) tess_arena_destroy(rig_create(4096));
    int64_t grown = rig_status_bytes("VmSize:") - before;
    if (grown > MIB) fail_msg("%lld bytes of address space are gone", (long long)grown);
}

/* Whether the system's table gives the mapping at `start` a policy that prefers node 0; -1 where it
 * has no such table. */
static int prefers_node_0(const void *start)
{
    FILE *file = fopen("/proc/self/numa_maps", "r");
    if (!file) return -1;
    char line[1024];
    int prefers = 0;
    while (fgets(line, sizeof line, file))
        if (strtoull(line, NULL, 16) == (unsigned long long)(uintptr_t)start)
            prefers = strstr(line, " prefer:0 ") != NULL;
    fclose(file);
    return prefers;
}

static void nodes_are_preferred(void **state)
{
    (void)state;
    if (access("/sys/devices/system/node/node0", F_OK) != 0) skip();
    tess_arena_config_t config = rig_config(4 * MIB);
    tess_arena_t *arena = NULL;
    void *whole = NULL;
    config.numa_node = 0;
    rig_keep_stderr(); /* a container may forbid mbind, which is said and does no harm */
    tess_status_t status = tess_arena_create(rig_device, &config, &arena);
    const char *text = rig_kept_stderr();
    TEST_OK(status);
    TEST_OK(tess_arena_allocate(arena, 4 * MIB, 2 * MIB, &whole));
    if (*text && !strstr(text, "(mbind: Operation not permitted)") &&
        !strstr(text, "(mbind: Function not implemented)"))
        fail_msg("\"%s\" is no reason that a container gives", text);
    if (!*text) assert_int_not_equal(prefers_node_0(whole), 0);
    assert_int_equal(rig_statistics(arena).numa_node, 0);
    tess_arena_free(arena, whole);
    tess_arena_destroy(arena);
    config.numa_node = 4095;
    arena = NULL;
    TEST_STATUS(tess_arena_create(rig_device, &config, &arena), TESS_ERR_INVALID_ARGUMENT);
    rig_assert_says(tess_last_error(), "there is no NUMA node 4095");
    assert_null(arena);
}

/* Reads one byte beyond the arena, which must end the child. */
static int overrun(void)
{
    signal(SIGSEGV, SIG_DFL); /* the test library catches it */
    tess_device_t *host = NULL;
    tess_arena_config_t config = rig_config(3 * 4096);
    tess_arena_t *arena = NULL;
    void *whole = NULL;
    RANK_OK(tess_device_open("host", &host));
    RANK_OK(tess_arena_create(host, &config, &arena));
    RANK_OK(tess_arena_allocate(arena, 1, 1, &whole));
    tess_arena_statistics_t statistics;
    tess_arena_statistics(arena, &statistics);
    const volatile char *end = (const char *)whole + statistics.capacity_bytes;
    return end[-1] + end[0];
}

static void neighbours_are_fenced_off(void **state)
{
    (void)state;
    if (rig_is_cuda() || RIG_SANITIZED) skip();
    pid_t pid = fork();
    if (pid == 0) _exit(overrun());
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSEGV);
}

/* --- what it hands out --------------------------------------------------------------------------
 */

typedef struct patterned {
    unsigned char *memory;
    int64_t bytes;
    unsigned char pattern;
} patterned_t;

static int holds(const patterned_t *piece)
{
    for (int64_t i = 0; i < piece->bytes; i++)
        if (piece->memory[i] != piece->pattern) return 0;
    return 1;
}

typedef struct worker {
    tess_arena_t *arena;
    uint64_t seed;
    int operations;
    int64_t served, refused;
    const char *trouble; /* NULL: none */
    pthread_t thread;
} worker_t;

enum { HELD_MAX = 48 };

static void put(worker_t *worker, patterned_t *piece)
{
    int64_t bytes = (int64_t)(test_random(&worker->seed) %
                              (UINT64_C(1) << (6 + test_random(&worker->seed) % 12)));
    int64_t alignment = (int64_t)1 << test_random(&worker->seed) % 16;
    void *memory = NULL;
    tess_status_t status = tess_arena_allocate(worker->arena, bytes, alignment, &memory);
    if (status == TESS_ERR_OUT_OF_MEMORY) {
        worker->refused++;
        return;
    }
    if (status < 0) worker->trouble = "a good request failed";
    else if ((uintptr_t)memory % (uintptr_t)alignment != 0) worker->trouble = "wrong alignment";
    if (worker->trouble) return;
    *piece = (patterned_t){memory, bytes, (unsigned char)test_random(&worker->seed)};
    memset(memory, piece->pattern, (size_t)bytes);
    worker->served++;
}

static void *work(void *argument)
{
    worker_t *worker = argument;
    patterned_t held[HELD_MAX] = {{NULL, 0, 0}};
    for (int i = 0; i < worker->operations && !worker->trouble; i++) {
        patterned_t *piece = &held[test_random(&worker->seed) % HELD_MAX];
        if (!piece->memory) {
            put(worker, piece);
            continue;
        }
        if (!holds(piece)) worker->trouble = "a piece was written by another";
        tess_arena_free(worker->arena, piece->memory);
        piece->memory = NULL;
    }
    for (int h = 0; h < HELD_MAX; h++) tess_arena_free(worker->arena, held[h].memory);
    return NULL;
}

/* Small enough that some requests are refused. */
static void run_workers(int count, int operations)
{
    tess_arena_t *arena = rig_create(count * MIB / 2 + 12288);
    worker_t workers[4];
    for (int w = 0; w < count; w++) {
        workers[w] = (worker_t){.arena = arena, .seed = 77 + (uint64_t)w, .operations = operations};
        assert_int_equal(pthread_create(&workers[w].thread, NULL, work, &workers[w]), 0);
    }
    for (int w = 0; w < count; w++) pthread_join(workers[w].thread, NULL);
    for (int w = 0; w < count; w++) {
        if (workers[w].trouble) fail_msg("thread %d of %d: %s", w, count, workers[w].trouble);
        assert_true(workers[w].served > operations / 10);
        print_message("thread %d of %d: %lld pieces, %lld refused\n", w, count,
                      (long long)workers[w].served, (long long)workers[w].refused);
    }
    tess_arena_statistics_t after = rig_statistics(arena);
    assert_int_equal(after.used_bytes, 0);
    assert_int_equal(after.piece_count, 0);
    assert_int_equal(after.largest_free_bytes, after.capacity_bytes);
    assert_in_range(after.high_water_bytes, MIB / 4, after.capacity_bytes);
    tess_arena_destroy(arena);
}

static void pieces_do_not_overlap(void **state)
{
    (void)state;
    run_workers(1, 20000);
}

static void threads_share_an_arena(void **state)
{
    (void)state;
    run_workers(4, 10000);
}

static void streams_copy_from_and_to_pieces(void **state)
{
    (void)state;
    enum { BYTES = 3 << 20 };
    tess_arena_t *arena = rig_create(8 * MIB);
    tess_stream_t *stream = NULL;
    void *memory = NULL, *source = NULL, *back = NULL;
    TEST_OK(tess_stream_create(rig_device, TESS_PRIORITY_NORMAL, &stream));
    TEST_OK(tess_memory_allocate(rig_device, TESS_MEMORY_DEVICE, BYTES, &memory));
    TEST_OK(tess_arena_allocate(arena, BYTES, 1, &source));
    TEST_OK(tess_arena_allocate(arena, BYTES, 4096, &back));
    for (int i = 0; i < BYTES; i++)
        ((unsigned char *)source)[i] = (unsigned char)(i * 31 + i / 256);
    memset(back, 0, BYTES);
    TEST_OK(tess_stream_copy(stream, memory, source, BYTES));
    TEST_OK(tess_stream_copy(stream, back, memory, BYTES));
    TEST_OK(tess_stream_synchronize(stream, -1));
    assert_memory_equal(back, source, BYTES);
    assert_false(tessi_pointer_is_device(source));
    tess_arena_free(arena, source);
    tess_arena_free(arena, back);
    tess_memory_free(rig_device, TESS_MEMORY_DEVICE, memory);
    tess_stream_destroy(stream);
    tess_arena_destroy(arena);
}

static void zero_bytes_are_a_piece(void **state)
{
    (void)state;
    tess_arena_t *arena = rig_create(4096);
    void *pieces[64], *more = NULL;
    for (int i = 0; i < 64; i++) {
        TEST_OK(tess_arena_allocate(arena, 0, 1, &pieces[i]));
        for (int j = 0; j < i; j++) assert_ptr_not_equal(pieces[i], pieces[j]);
    }
    TEST_STATUS(tess_arena_allocate(arena, 0, 1, &more), TESS_ERR_OUT_OF_MEMORY);
    assert_null(more);
    assert_int_equal(rig_statistics(arena).used_bytes, 4096);
    assert_int_equal(rig_statistics(arena).piece_count, 64);
    for (int i = 0; i < 64; i++) tess_arena_free(arena, pieces[i]);
    tess_arena_destroy(arena);
}

int main(void)
{
    test_need_ranks(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neighbours_are_fenced_off),
        cmocka_unit_test(takes_exactly_what_was_asked_for),
        cmocka_unit_test(any_number_of_threads_touches),
        cmocka_unit_test(address_space_is_given_back),
        cmocka_unit_test(nodes_are_preferred),
        cmocka_unit_test(pieces_do_not_overlap),
        cmocka_unit_test(threads_share_an_arena),
        cmocka_unit_test(streams_copy_from_and_to_pieces),
        cmocka_unit_test(zero_bytes_are_a_piece),
    };
    return cmocka_run_group_tests(tests, rig_open_device, rig_close_device);
}
