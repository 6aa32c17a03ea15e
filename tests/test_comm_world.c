/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks meet: 1 to 5 of them, late ones, missing ones, and those that disagree.
 *
 * Every failure must reach every rank within its timeout and say which rank is the reason.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

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

static tess_world_config_t with_timeout(int timeout_ms)
{
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    config.timeout_ms = timeout_ms;
    return config;
}

/* --- meeting -----------------------------------------------------------------------------------
 */

static int meet(int rank, void *argument)
{
    int size = *(int *)argument;
    tess_world_t *world;
    tess_world_config_t config = with_timeout(20000);
    RANK_OK(tess_world_open(&config, &world));
    RANK_CHECK(tess_world_rank(world) == rank);
    RANK_CHECK(tess_world_size(world) == size);
    RANK_CHECK(tess_world_local_rank(world) == rank);
    RANK_CHECK(tess_world_local_size(world) == size);
    RANK_CHECK(tess_world_timeout_ms(world) == 20000);
    RANK_CHECK(strcmp(tess_world_source(world), "TESS_RANK") == 0);
    for (int r = 0; r < size; r++) {
        RANK_CHECK(tess_world_pid(world, r) == test_rank_pid(r));
        RANK_CHECK(strcmp(tess_world_host(world, r), tess_world_host(world, rank)) == 0);
    }
    RANK_CHECK(tess_world_host(world, size) == NULL && tess_world_host(world, -1) == NULL);
    RANK_CHECK(tess_world_pid(world, size) == -1 && tess_world_pid(world, -1) == -1);
    for (int n = 0; n < 20; n++) RANK_OK(tess_world_barrier(world, -1));
    RANK_OK(tess_world_status(world));
    tess_world_close(world);
    return 0;
}

static void test_meet(void **state)
{
    (void)state;
    for (int size = 1; size <= 5; size++)
        assert_int_equal(test_ranks(size, meet, &size, 30000, NULL), 0);
}

static int meet_twice(int rank, void *argument)
{
    for (int n = 0; n < 3; n++)
        if (meet(rank, argument) != 0) return 1;
    return 0;
}

static void test_worlds_one_after_another(void **state)
{
    (void)state;
    int size = 3;
    assert_int_equal(test_ranks(size, meet_twice, &size, 60000, NULL), 0);
}

static int meet_late(int rank, void *argument)
{
    int late = *(int *)argument;
    if (rank == late) pause_ms(700);
    int size = 3;
    return meet(rank, &size);
}

static void test_late_rank(void **state)
{
    (void)state;
    for (int late = 0; late < 3; late++)
        assert_int_equal(test_ranks(3, meet_late, &late, 30000, NULL), 0);
}

static int derive_local(int rank, void *argument)
{
    (void)argument;
    tess_world_t *world;
    unsetenv("TESS_LOCAL_RANK");
    unsetenv("TESS_LOCAL_SIZE");
    tess_world_config_t config = with_timeout(20000);
    RANK_OK(tess_world_open(&config, &world));
    RANK_CHECK(tess_world_local_rank(world) == rank);
    RANK_CHECK(tess_world_local_size(world) == 3);
    tess_world_close(world);
    return 0;
}

static void test_local_rank_from_host_names(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(3, derive_local, NULL, 30000, NULL), 0);
}

static void test_single_process(void **state)
{
    (void)state;
    tess_world_t *world;
    TEST_OK(tess_world_open(NULL, &world));
    assert_int_equal(tess_world_rank(world), 0);
    assert_int_equal(tess_world_size(world), 1);
    assert_int_equal(tess_world_local_rank(world), 0);
    assert_int_equal(tess_world_local_size(world), 1);
    assert_int_equal(tess_world_pid(world, 0), getpid());
    assert_string_equal(tess_world_source(world), "single process");
    TEST_OK(tess_world_barrier(world, 0));
    TEST_OK(tess_world_status(world));
    tess_world_close(world);
    tess_world_close(NULL);
}

static int meet_over_ipv6(int rank, void *argument)
{
    setenv("TESS_ROOT", argument, 1);
    unsetenv("TESS_ROOT_FD");
    int size = 2;
    return meet(rank, &size);
}

static void test_ipv6_and_names(void **state)
{
    (void)state;
    char root[64];
    /* Ports that depend on this process, outside the range that Linux hands out. */
    snprintf(root, sizeof root, "localhost:%d", 14000 + (int)getpid() % 2000);
    assert_int_equal(test_ranks(2, meet_over_ipv6, root, 30000, NULL), 0);
    if (access("/proc/net/if_inet6", R_OK) != 0) {
        print_message("IPv6 is skipped: this machine has none\n");
        return;
    }
    snprintf(root, sizeof root, "[::1]:%d", 16000 + (int)getpid() % 2000);
    assert_int_equal(test_ranks(2, meet_over_ipv6, root, 30000, NULL), 0);
}

/* --- failing -----------------------------------------------------------------------------------
 */

static int one_is_missing(int rank, void *argument)
{
    int missing = *(int *)argument;
    char text[32];
    tess_world_t *world;
    tess_world_config_t config = with_timeout(900);
    if (rank == missing) return 0;
    RANK_CHECK(tess_world_open(&config, &world) == TESS_ERR_TIMEOUT);
    if (missing == 0) {
        expect_text("rank 0 did not answer at 127.0.0.1 port");
    } else {
        snprintf(text, sizeof text, "rank %d did not come", missing);
        expect_text(text);
    }
    return 0;
}

static void test_missing_rank_is_named(void **state)
{
    (void)state;
    for (int missing = 0; missing < 4; missing++)
        assert_int_equal(test_ranks(4, one_is_missing, &missing, 10000, NULL), 0);
}

/* Who waits long says for what, while it waits. */
static int wait_for_unknown_host(int rank, void *argument)
{
    (void)argument;
    char text[1024] = "";
    int ends[2];
    tess_world_t *world;
    tess_world_config_t config = with_timeout(3600);
    if (rank == 0) return 0;
    /* No name server is asked for a name with a blank. */
    setenv("TESS_ROOT", "no such host:7000", 1);
    RANK_CHECK(pipe(ends) == 0);
    int before = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    tess_status_t status = tess_world_open(&config, &world);
    dup2(before, STDERR_FILENO);
    close(ends[1]);
    RANK_CHECK(status == TESS_ERR_TIMEOUT);
    expect_text("cannot find host 'no such host'");
    RANK_CHECK(read(ends[0], text, sizeof text - 1) > 0);
    RANK_CHECK(strstr(text, "tessera[rank 1]: rank 0 does not answer at no such host port 7000"));
    RANK_CHECK(strstr(text, "cannot find host 'no such host'"));
    RANK_CHECK(strchr(text, '\n') == strrchr(text, '\n'));
    return 0;
}

static void test_unknown_host_is_told(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(2, wait_for_unknown_host, NULL, 15000, NULL), 0);
}

static int two_are_missing(int rank, void *argument)
{
    (void)argument;
    tess_world_t *world;
    /* Rank 0 is patient; rank 1 gives up first, and that ends it for both. */
    tess_world_config_t config = with_timeout(rank == 0 ? 20000 : 1200);
    if (rank >= 2) return 0;
    RANK_CHECK(tess_world_open(&config, &world) == TESS_ERR_TIMEOUT);
    expect_text("ranks 2-3 did not come");
    if (rank == 0) expect_text("rank 1 gave up after its timeout of 1200 ms");
    return 0;
}

static void test_one_gives_up(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(4, two_are_missing, NULL, 10000, NULL), 0);
}

static int other_size(int rank, void *argument)
{
    (void)argument;
    tess_world_t *world;
    tess_world_config_t config = with_timeout(10000);
    if (rank == 2) setenv("TESS_WORLD_SIZE", "4", 1);
    RANK_CHECK(tess_world_open(&config, &world) == TESS_ERR_MISMATCH);
    expect_text("ranks disagree on the world: rank 2 (pid ");
    expect_text("says that it has 4 ranks, rank 0 says 3");
    return 0;
}

static void test_size_mismatch(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(3, other_size, NULL, 8000, NULL), 0);
}

static int same_rank(int rank, void *argument)
{
    (void)argument;
    tess_world_t *world;
    tess_world_config_t config = with_timeout(10000);
    if (rank == 2) setenv("TESS_RANK", "1", 1);
    RANK_CHECK(tess_world_open(&config, &world) == TESS_ERR_MISMATCH);
    expect_text("two processes claim one rank: rank 1 (pid ");
    return 0;
}

static void test_duplicate_rank(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(4, same_rank, NULL, 8000, NULL), 0);
}

static int ends_early(int rank, void *argument)
{
    int victim = *(int *)argument;
    tess_world_t *world;
    tess_world_config_t config = with_timeout(10000);
    if (rank == 3) pause_ms(2000); /* so that nobody gets past the rendezvous */
    if (rank == 3) return 0;
    if (rank == victim) {
        struct itimerval soon = {.it_value = {.tv_usec = 400000}};
        setitimer(ITIMER_REAL, &soon, NULL);
        RANK_CHECK(tess_world_open(&config, &world) != TESS_OK);
        return 1;
    }
    RANK_CHECK(tess_world_open(&config, &world) == TESS_ERR_PEER_LOST);
    expect_text(victim == 0 ? "rank 0 (pid " : "rank 1 (pid ");
    expect_text("ended during the rendezvous");
    return 0;
}

static void test_death_during_rendezvous(void **state)
{
    (void)state;
    int codes[4];
    for (int victim = 0; victim < 2; victim++) {
        assert_int_equal(test_ranks(4, ends_early, &victim, 9000, codes), 1);
        assert_int_equal(codes[victim], 128 + SIGALRM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_process),
        cmocka_unit_test(test_meet),
        cmocka_unit_test(test_worlds_one_after_another),
        cmocka_unit_test(test_late_rank),
        cmocka_unit_test(test_local_rank_from_host_names),
        cmocka_unit_test(test_ipv6_and_names),
        cmocka_unit_test(test_missing_rank_is_named),
        cmocka_unit_test(test_unknown_host_is_told),
        cmocka_unit_test(test_one_gives_up),
        cmocka_unit_test(test_size_mismatch),
        cmocka_unit_test(test_duplicate_rank),
        cmocka_unit_test(test_death_during_rendezvous),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
