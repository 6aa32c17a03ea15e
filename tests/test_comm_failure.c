/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks that differ, die, stop, abort or leave: every other rank gets an error that names the rank,
 * the operation and its sequence number, within the deadline, over every path.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm_rig.h"
#include "core/internal.h"

#define RANKS 3
#define ODD_RANK 1 /* the one that misbehaves */
/* Where no deadline is meant to pass, and where one is. */
#define LONG_MS 20000
#define SHORT_MS 1200

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static void on_each_path(test_rank_body_t body, void *argument)
{
    for (int i = 0; rig_paths[i]; i++) {
        rig_choose_path(rig_paths[i]);
        rig_run(RANKS, body, argument, 60000);
    }
}

/* The stream (unless the call itself was refused already), the communicator and later calls all
 * report it. */
static void check_failed(comm_rig_t *rig, tess_status_t queued, tess_status_t status,
                         const char *first, const char *second)
{
    RANK_CHECK(queued == TESS_OK || queued == status);
    if (queued == TESS_OK) {
        RANK_CHECK(tess_stream_synchronize(rig->stream, -1) == status);
        rig_check_error_names(first);
        rig_check_error_names(second);
    }
    RANK_CHECK(tess_comm_status(rig->comm) == status);
    rig_check_error_names(first);
    rig_check_error_names(second);
    RANK_CHECK(rig_all_gather(rig, 8) == status);
}

/* --- ranks that differ ------------------------------------------------------------------------ */

typedef struct difference {
    const char *what;
    int kinds[2]; /* of the odd rank, of the others: g all-gather, s scatter, r reduce, b, e empty
                   */
    tess_collective_t arguments[2];
    const char *parts[2]; /* how the sentence tells them */
} difference_t;

static tess_status_t call(comm_rig_t *rig, int kind, tess_collective_t arguments)
{
    arguments.send = rig->send;
    arguments.recv = rig->recv;
    switch (kind) {
    case 'g':
        return tess_comm_all_gather(rig->comm, &arguments, rig->stream);
    case 's':
        return tess_comm_reduce_scatter(rig->comm, &arguments, rig->stream);
    case 'r':
        return tess_comm_all_reduce(rig->comm, &arguments, rig->stream);
    case 'b':
        return tess_comm_broadcast(rig->comm, &arguments, rig->stream);
    default:
        return tess_comm_barrier(rig->comm, rig->stream);
    }
}

static int differ(int rank, void *argument)
{
    const difference_t *difference = argument;
    int side = rank != ODD_RANK;
    comm_rig_t rig;
    rig_open(&rig, rank, LONG_MS);
    RANK_OK(rig_all_gather(&rig, 100));
    tess_status_t status = call(&rig, difference->kinds[side], difference->arguments[side]);
    check_failed(&rig, status, TESS_ERR_MISMATCH, "rank 1", difference->parts[0]);
    rig_check_error_names(difference->parts[1]);
    rig_close(&rig);
    return 0;
}

static void ranks_that_differ(void **state)
{
    (void)state;
    static difference_t differences[] = {
        {"count",
         {'g', 'g'},
         {{.count = 7, .dtype = 1}, {.count = 8, .dtype = 1}},
         {"all_gather 2 (count 7, bf16)", "all_gather 2 (count 8, bf16)"}},
        {"type",
         {'r', 'r'},
         {{.count = 7, .dtype = 2}, {.count = 7, .dtype = 3}},
         {"count 7, fp16", "count 7, fp32"}},
        {"kind",
         {'r', 's'},
         {{.count = 7, .dtype = 1}, {.count = 7, .dtype = 1}},
         {"all_reduce 2", "reduce_scatter 2"}},
        {"order",
         {'e', 'g'},
         {{.count = 0}, {.count = 7, .dtype = 1}},
         {"barrier 2", "all_gather 2"}},
        {"root",
         {'b', 'b'},
         {{.count = 7, .root = 2}, {.count = 7, .root = 0}},
         {"root 2", "root 0"}},
        {"reduction",
         {'s', 's'},
         {{.count = 7, .dtype = 1, .reduction = TESS_AVERAGE}, {.count = 7, .dtype = 1}},
         {"average", "sum"}},
        {"nothing",
         {'g', 'g'},
         {{.count = 0, .dtype = 1}, {.count = 9, .dtype = 1}},
         {"count 0", "count 9"}},
    };
    for (size_t i = 0; i < sizeof differences / sizeof *differences; i++)
        on_each_path(differ, &differences[i]);
}

/* --- a rank that does not come ---------------------------------------------------------------- */

static int stay_away(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open(&rig, rank, SHORT_MS);
    RANK_OK(rig_all_gather(&rig, 4096));
    RANK_OK(tess_stream_synchronize(rig.stream, -1));
    if (rank == ODD_RANK) {
        int64_t deadline_ns = tessi_deadline_ns(LONG_MS);
        while (tess_comm_status(rig.comm) == TESS_OK && tessi_now_ns() < deadline_ns) sleep_ms(1);
        RANK_CHECK(tess_comm_status(rig.comm) == TESS_ERR_PEER_LOST);
        rig_check_error_names("rank 1");
        rig_check_error_names("barrier 2");
    } else {
        int64_t start_ns = tessi_now_ns();
        RANK_OK(tess_comm_barrier(rig.comm, rig.stream));
        tess_status_t status = tess_stream_synchronize(rig.stream, -1);
        /* The first to notice times out; it tells the other. */
        RANK_CHECK(status == TESS_ERR_TIMEOUT || status == TESS_ERR_PEER_LOST);
        RANK_CHECK(tessi_now_ns() - start_ns < (int64_t)(SHORT_MS + 5000) * 1000000);
        rig_check_error_names("barrier 2");
        rig_check_error_names("rank 1");
        rig_check_error_names("its last was all_gather 1 (count 4096, bf16)");
    }
    rig_close(&rig);
    return 0;
}

static void missing_rank_is_named(void **state)
{
    (void)state;
    on_each_path(stay_away, NULL);
}

/* --- a rank that dies or stops in the middle -------------------------------------------------- */

typedef struct accident {
    int signal;
    int after_ms;
} accident_t;

static void *have_accident(void *argument)
{
    const accident_t *accident = argument;
    sleep_ms(accident->after_ms);
    kill(getpid(), accident->signal);
    return NULL;
}

static int gather_until_accident(int rank, void *argument)
{
    accident_t *accident = argument;
    comm_rig_t rig;
    pthread_t thread;
    rig_open(&rig, rank, SHORT_MS);
    RANK_OK(rig_all_gather(&rig, 60000)); /* so that all have an operation to be named */
    if (rank == ODD_RANK) {
        RANK_OK(tess_stream_synchronize(rig.stream, LONG_MS));
        RANK_CHECK(pthread_create(&thread, NULL, have_accident, accident) == 0);
    }
    tess_status_t status = TESS_OK;
    while (status == TESS_OK) {
        for (int i = 0; i < 8 && status == TESS_OK; i++) status = rig_all_gather(&rig, 60000);
        if (status == TESS_OK) status = tess_stream_synchronize(rig.stream, LONG_MS);
    }
    RANK_CHECK(rank != ODD_RANK); /* it never sees the end */
    RANK_CHECK(status == TESS_ERR_PEER_LOST || status == TESS_ERR_TIMEOUT);
    RANK_CHECK(tess_comm_status(rig.comm) < 0);
    rig_check_error_names("rank 1");
    rig_check_error_names("all_gather ");
    /* Who is stopped would keep the parent waiting. */
    if (accident->signal == SIGSTOP) kill(test_rank_pid(ODD_RANK), SIGKILL);
    rig_close(&rig);
    return 0;
}

static void suffer(int signal_number)
{
    for (int i = 0; rig_paths[i]; i++) {
        rig_choose_path(rig_paths[i]);
        for (int after_ms = 0; after_ms <= 20; after_ms += 20) {
            accident_t accident = {signal_number, after_ms};
            int codes[RANKS];
            (void)test_ranks(RANKS, gather_until_accident, &accident, 30000, codes);
            for (int r = 0; r < RANKS; r++)
                if (codes[r] != (r == ODD_RANK ? 128 + SIGKILL : 0))
                    fail_msg("path %s, signal %d after %d ms: rank %d ended with %d", rig_paths[i],
                             signal_number, after_ms, r, codes[r]);
        }
    }
}

static void killed_rank_is_named(void **state)
{
    (void)state;
    suffer(SIGKILL);
}

static void stopped_rank_is_named(void **state)
{
    (void)state;
    suffer(SIGSTOP);
}

/* --- leaving on purpose ----------------------------------------------------------------------- */

static int abort_one(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open(&rig, rank, LONG_MS);
    RANK_OK(rig_all_gather(&rig, 100));
    RANK_OK(tess_stream_synchronize(rig.stream, -1));
    if (rank == ODD_RANK) {
        sleep_ms(30);
        tess_comm_abort(rig.comm);
        RANK_CHECK(tess_comm_status(rig.comm) == TESS_ERR_ABORTED);
        RANK_CHECK(tess_comm_barrier(rig.comm, rig.stream) == TESS_ERR_ABORTED);
    } else {
        tess_status_t status = tess_comm_barrier(rig.comm, rig.stream);
        check_failed(&rig, status, TESS_ERR_PEER_LOST, "rank 1", "barrier 2");
        rig_check_error_names("aborted");
    }
    rig_close(&rig);
    return 0;
}

static int abort_while_waiting(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open(&rig, rank, LONG_MS);
    if (rank == ODD_RANK) {
        RANK_OK(rig_all_gather(&rig, 100));
        RANK_OK(rig_all_gather(&rig, 100));
        sleep_ms(30);
        tess_comm_abort(rig.comm);
        RANK_CHECK(tess_stream_synchronize(rig.stream, -1) == TESS_ERR_ABORTED);
        rig_check_error_names("all_gather 1");
    } else {
        int64_t deadline_ns = tessi_deadline_ns(LONG_MS);
        while (tess_comm_status(rig.comm) == TESS_OK && tessi_now_ns() < deadline_ns) sleep_ms(1);
        RANK_CHECK(tess_comm_status(rig.comm) == TESS_ERR_PEER_LOST);
        rig_check_error_names("rank 1");
    }
    rig_close(&rig);
    return 0;
}

static void aborting(void **state)
{
    (void)state;
    on_each_path(abort_one, NULL);
    on_each_path(abort_while_waiting, NULL);
}

static tess_status_t doze(void *argument)
{
    (void)argument;
    sleep_ms(200);
    return TESS_OK;
}

static int close_with_work_queued(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open(&rig, rank, LONG_MS);
    RANK_OK(rig_all_gather(&rig, 100));
    RANK_OK(tess_stream_synchronize(rig.stream, -1));
    RANK_OK(tess_world_barrier(rig.world, -1)); /* all are through with the first */
    if (rank == ODD_RANK) {
        /* Some behind work that has not ended, so that they run after the close. */
        RANK_OK(tess_stream_call(rig.stream, doze, NULL));
        for (int i = 0; i < 5; i++) RANK_OK(rig_all_gather(&rig, 100));
        tess_comm_close(rig.comm);
        rig.comm = NULL;
        RANK_CHECK(tess_stream_synchronize(rig.stream, -1) == TESS_ERR_ABORTED);
        rig_check_error_names("closed");
    } else {
        tess_status_t status = rig_all_gather(&rig, 100);
        check_failed(&rig, status, TESS_ERR_PEER_LOST, "rank 1", "all_gather ");
    }
    rig_close(&rig);
    return 0;
}

static int close_in_the_middle(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open(&rig, rank, LONG_MS);
    tess_status_t status = TESS_OK;
    for (int i = 0; i < 50 + rank * 10 && status == TESS_OK; i++)
        status = rig_all_gather(&rig, 60000);
    RANK_CHECK(status == TESS_OK || status == TESS_ERR_PEER_LOST);
    if (rank == ODD_RANK) sleep_ms(3);
    tess_comm_close(rig.comm);
    rig.comm = NULL;
    tess_status_t end = tess_stream_synchronize(rig.stream, -1);
    if (status == TESS_OK) status = end;
    RANK_CHECK(status == TESS_ERR_ABORTED || status == TESS_ERR_PEER_LOST);
    rig_close(&rig);
    return 0;
}

static void closing_with_work_queued(void **state)
{
    (void)state;
    on_each_path(close_with_work_queued, NULL);
    on_each_path(close_in_the_middle, NULL);
}

/* Nobody waits at the end, so the last rank may still be busy while the others are gone. */
static int close_at_once(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open_world(&rig, rank, RIG_OPEN_TIMEOUT_MS);
    tess_comm_config_t config = {.name = "short", .transport = "ucx", .timeout_ms = LONG_MS};
    for (int i = 0; i < 8; i++) {
        RANK_OK(tess_comm_open(rig.world, rig.device, &config, &rig.comm));
        for (int op = 0; op < i; op++) RANK_OK(rig_all_gather(&rig, 50000));
        if (rank == i % RANKS) sleep_ms(5);
        RANK_OK(tess_comm_barrier(rig.comm, rig.stream));
        RANK_OK(tess_stream_synchronize(rig.stream, -1));
        tess_comm_close(rig.comm);
        rig.comm = NULL;
    }
    rig_close(&rig);
    return 0;
}

static void closing_does_not_disturb_others(void **state)
{
    (void)state;
    on_each_path(close_at_once, NULL);
}

/* --- a stream that fails on one rank ---------------------------------------------------------- */

static tess_status_t fail_work(void *argument)
{
    (void)argument;
    return tessi_fail(TESS_ERR_SYSTEM, "the computation went wrong");
}

static int fail_one_stream(int rank, void *argument)
{
    (void)argument;
    comm_rig_t rig;
    rig_open(&rig, rank, LONG_MS);
    if (rank == ODD_RANK) RANK_OK(tess_stream_call(rig.stream, fail_work, NULL));
    tess_status_t status = rig_all_gather(&rig, 100);
    RANK_CHECK(status == TESS_OK || (rank != ODD_RANK && status == TESS_ERR_PEER_LOST));
    if (status == TESS_OK) status = tess_stream_synchronize(rig.stream, -1);
    RANK_CHECK(status == (rank == ODD_RANK ? TESS_ERR_SYSTEM : TESS_ERR_PEER_LOST));
    RANK_CHECK(tess_comm_status(rig.comm) ==
               (rank == ODD_RANK ? TESS_ERR_ABORTED : TESS_ERR_PEER_LOST));
    rig_check_error_names("rank 1");
    rig_check_error_names("all_gather ");
    rig_check_error_names("the computation went wrong");
    rig_close(&rig);
    return 0;
}

static void failed_stream_is_told(void **state)
{
    (void)state;
    on_each_path(fail_one_stream, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_that_differ),
        cmocka_unit_test(missing_rank_is_named),
        cmocka_unit_test(killed_rank_is_named),
        cmocka_unit_test(stopped_rank_is_named),
        cmocka_unit_test(aborting),
        cmocka_unit_test(closing_with_work_queued),
        cmocka_unit_test(failed_stream_is_told),
        cmocka_unit_test(closing_does_not_disturb_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
