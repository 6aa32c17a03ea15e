/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanges over the control plane: right bytes in group order, and every way to fail. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/world_internal.h"
#include "core/internal.h"
#include "harness.h"

static void pause_ms(int ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

static void expect_text(const char *part)
{
    if (strstr(tess_last_error(), part)) return;
    fprintf(stderr, "expected '%s' in '%s'\n", part, tess_last_error());
    _exit(1);
}

static tess_world_t *open_world(int timeout_ms)
{
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    tess_world_t *world = NULL;
    config.timeout_ms = timeout_ms;
    RANK_OK(tess_world_open(&config, &world));
    return world;
}

static unsigned char byte_of(int rank, int64_t n)
{
    return (unsigned char)(rank * 37 + n * 11 + 5);
}

static void exchange_once(tess_world_t *world, tessi_group_t group, const char *key, int64_t bytes)
{
    int rank = tess_world_rank(world);
    unsigned char *mine = malloc((size_t)bytes + 1);
    unsigned char *all = malloc((size_t)bytes * (size_t)group.count + 1);
    RANK_CHECK(mine && all);
    all[(size_t)bytes * (size_t)group.count] = 0xa5;
    for (int64_t n = 0; n < bytes; n++) mine[n] = byte_of(rank, n);
    RANK_OK(tessi_world_exchange(world, group, key, mine, bytes, all, 30000));
    for (int m = 0; m < group.count; m++)
        for (int64_t n = 0; n < bytes; n++)
            RANK_CHECK(all[m * bytes + n] == byte_of(group.ranks[m], n));
    RANK_CHECK(all[(size_t)bytes * (size_t)group.count] == 0xa5);
    free(mine);
    free(all);
}

/* Every subset of the world, with sizes from nothing to 1 MiB. */
static int exchange_subsets(int rank, void *argument)
{
    int size = *(int *)argument;
    static const int64_t sizes[] = {0, 1, 7, 4096, 65537, 1 << 20};
    tess_world_t *world = open_world(30000);
    for (int subset = 1; subset < 1 << size; subset++) {
        int ranks[8], count = 0;
        char key[32];
        for (int r = 0; r < size; r++)
            if (subset >> r & 1) ranks[count++] = r;
        if (!(subset >> rank & 1)) continue;
        snprintf(key, sizeof key, "subset %d", subset);
        exchange_once(world, (tessi_group_t){ranks, count}, key, sizes[subset % 6]);
    }
    tess_world_close(world);
    return 0;
}

static void test_subsets(void **state)
{
    (void)state;
    for (int size = 1; size <= 5; size++)
        assert_int_equal(test_ranks(size, exchange_subsets, &size, 60000, NULL), 0);
}

static const int pair[] = {0, 1};
static const int trio[] = {0, 1, 2};

static int differing_sizes(int rank, void *argument)
{
    (void)argument;
    unsigned char mine[16] = {0}, all[64];
    tess_world_t *world = open_world(20000);
    tessi_group_t group = {trio, 3};
    int64_t bytes = rank == 1 ? 12 : 16;
    RANK_CHECK(tessi_world_exchange(world, group, "sizes", mine, bytes, all, 10000) ==
               TESS_ERR_MISMATCH);
    expect_text("exchange 'sizes': rank");
    expect_text("12");
    expect_text("16");
    expect_text("rank 1 (pid ");
    RANK_OK(tess_world_barrier(world, 10000)); /* the world goes on */
    tess_world_close(world);
    return 0;
}

static void test_size_mismatch(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(3, differing_sizes, NULL, 30000, NULL), 0);
}

static int differing_groups(int rank, void *argument)
{
    (void)argument;
    unsigned char mine[4] = {0}, all[64];
    tess_world_t *world = open_world(20000);
    tessi_group_t group = {rank == 0 ? pair : trio, rank == 0 ? 2 : 3};
    RANK_CHECK(tessi_world_exchange(world, group, "groups", mine, 4, all, 10000) ==
               TESS_ERR_MISMATCH);
    expect_text("name different groups");
    RANK_OK(tess_world_barrier(world, 10000));
    tess_world_close(world);
    return 0;
}

static void test_group_mismatch(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(3, differing_groups, NULL, 30000, NULL), 0);
}

static int misuse(int rank, void *argument)
{
    (void)argument;
    unsigned char mine[4] = {0}, all[64];
    static const int descending[] = {1, 0}, outside[] = {0, 7};
    char long_key[200];
    memset(long_key, 'k', sizeof long_key);
    long_key[sizeof long_key - 1] = '\0';
    tess_world_t *world = open_world(20000);
    tessi_group_t group = {pair, 2};
    int alone = 1 - rank;
    RANK_CHECK(tessi_world_exchange(world, (tessi_group_t){descending, 2}, "k", mine, 4, all,
                                    1000) == TESS_ERR_INVALID_ARGUMENT);
    RANK_CHECK(tessi_world_exchange(world, (tessi_group_t){outside, 2}, "k", mine, 4, all, 1000) ==
               TESS_ERR_INVALID_ARGUMENT);
    RANK_CHECK(tessi_world_exchange(world, (tessi_group_t){&alone, 1}, "k", mine, 4, all, 1000) ==
               TESS_ERR_INVALID_ARGUMENT);
    RANK_CHECK(tessi_world_exchange(world, group, "", mine, 4, all, 1000) ==
               TESS_ERR_INVALID_ARGUMENT);
    RANK_CHECK(tessi_world_exchange(world, group, long_key, mine, 4, all, 1000) ==
               TESS_ERR_INVALID_ARGUMENT);
    RANK_CHECK(tessi_world_exchange(world, group, "k", mine, (1 << 20) + 1, all, 1000) ==
               TESS_ERR_INVALID_ARGUMENT);
    RANK_OK(tess_world_barrier(world, 10000));
    tess_world_close(world);
    return 0;
}

static void test_misuse(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(2, misuse, NULL, 30000, NULL), 0);
}

/* One rank stays away from the barrier for longer than the others wait. */
static int one_stays_away(int rank, void *argument)
{
    int away = *(int *)argument;
    char text[64];
    tess_world_t *world = open_world(20000);
    snprintf(text, sizeof text, "rank %d (pid %d on ", away, test_rank_pid(away));
    if (rank == away) pause_ms(2500);
    int64_t begin_ns = tessi_now_ns();
    RANK_CHECK(tess_world_barrier(world, 800) == TESS_ERR_TIMEOUT);
    expect_text(text);
    expect_text("did not come within the 800 ms");
    RANK_CHECK(tessi_now_ns() - begin_ns < 2000000000);
    RANK_OK(tess_world_status(world));
    RANK_OK(tess_world_barrier(world, 10000));
    tess_world_close(world);
    return 0;
}

static void test_timeout_names_the_missing(void **state)
{
    (void)state;
    for (int away = 0; away < 3; away++)
        assert_int_equal(test_ranks(3, one_stays_away, &away, 30000, NULL), 0);
}

static int leave_then_exchange(int rank, void *argument)
{
    int leaver = *(int *)argument;
    char text[64];
    tess_world_t *world = open_world(20000);
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank != leaver) {
        if (rank == 1) pause_ms(300); /* the others wait already, this one comes later */
        int64_t begin_ns = tessi_now_ns();
        RANK_CHECK(tess_world_barrier(world, 10000) == TESS_ERR_PEER_LOST);
        RANK_CHECK(tessi_now_ns() - begin_ns < 3000000000);
        snprintf(text, sizeof text, "rank %d (pid %d on ", leaver, test_rank_pid(leaver));
        expect_text(text);
        expect_text("has closed its world");
        RANK_OK(tess_world_status(world)); /* leaving is no failure */
    }
    tess_world_close(world);
    return 0;
}

static void test_rank_that_left_is_named(void **state)
{
    (void)state;
    for (int leaver = 0; leaver < 4; leaver += 3)
        assert_int_equal(test_ranks(4, leave_then_exchange, &leaver, 20000, NULL), 0);
}

/* Rank 0 leaves first, and must serve the exchanges of the others until they are done. */
static int root_leaves_first(int rank, void *argument)
{
    (void)argument;
    static const int others[] = {1, 2};
    tess_world_t *world = open_world(20000);
    if (rank != 0) {
        for (int n = 0; n < 5; n++) {
            char key[32];
            pause_ms(100);
            snprintf(key, sizeof key, "without 0: %d", n);
            exchange_once(world, (tessi_group_t){others, 2}, key, 100);
        }
    }
    tess_world_close(world);
    return 0;
}

static void test_root_serves_until_all_left(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(3, root_leaves_first, NULL, 20000, NULL), 0);
}

/* Rank 0 closes with a short timeout while rank 1 stays. */
static int root_does_not_wait_forever(int rank, void *argument)
{
    (void)argument;
    tess_world_t *world = open_world(rank == 0 ? 1000 : 20000);
    if (rank == 0) {
        int64_t begin_ns = tessi_now_ns();
        tess_world_close(world);
        int64_t took_ms = (tessi_now_ns() - begin_ns) / 1000000;
        RANK_CHECK(took_ms >= 900 && took_ms < 5000);
        return 0;
    }
    pause_ms(3000);
    RANK_CHECK(tess_world_barrier(world, 1000) == TESS_ERR_PEER_LOST);
    expect_text("rank 0 (pid ");
    expect_text("has closed its world");
    tess_world_close(world);
    return 0;
}

static void test_root_closes_after_its_timeout(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(2, root_does_not_wait_forever, NULL, 20000, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_subsets),
        cmocka_unit_test(test_size_mismatch),
        cmocka_unit_test(test_group_mismatch),
        cmocka_unit_test(test_misuse),
        cmocka_unit_test(test_timeout_names_the_missing),
        cmocka_unit_test(test_rank_that_left_is_named),
        cmocka_unit_test(test_root_serves_until_all_left),
        cmocka_unit_test(test_root_closes_after_its_timeout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
