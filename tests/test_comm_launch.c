/* SPDX-License-Identifier: Apache-2.0 */
/* Starting local ranks: exit codes, signals, and nothing left behind; and being started by mpirun.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/internal.h"
#include "harness.h"

#define RANKS_MAX 8

/* Seen by all processes of a test. */
typedef struct shared {
    _Atomic int pids[RANKS_MAX];
    _Atomic int ready;
} shared_t;
static shared_t *shared;

typedef int (*body_t)(int rank);

/* What a program under the launcher did. */
typedef struct outcome {
    int code; /* exit code, or 128 + signal */
    int took_ms;
    char text[8192]; /* its stderr and that of its ranks */
} outcome_t;

static void pause_ms(int ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

/* The main of a program that calls tess_launch_local. */
static _Noreturn void program(int ranks, body_t body)
{
    tess_launch_role_t role;
    int exit_code = 99;
    /* cmocka's handlers are not for these processes. */
    signal(SIGSEGV, SIG_DFL);
    signal(SIGABRT, SIG_DFL);
    if (tess_launch_local(ranks, &role, &exit_code) != TESS_OK) {
        fprintf(stderr, "%s\n", tess_last_error());
        exit(98);
    }
    if (role == TESS_LAUNCH_PARENT) exit(exit_code);
    int rank = getenv("TESS_RANK") ? atoi(getenv("TESS_RANK")) : 0;
    atomic_store(&shared->pids[rank], (int)getpid());
    exit(body(rank));
}

/* Armed in the next program that is started. */
static const char *fault_point;
static int fault_pass;

static pid_t start_program(int ranks, body_t body, int *text_fd)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    for (int r = 0; r < RANKS_MAX; r++) atomic_store(&shared->pids[r], 0);
    atomic_store(&shared->ready, 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setpgid(0, 0);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        if (fault_point) tessi_fault_arm(fault_point, fault_pass);
        program(ranks, body);
    }
    close(ends[1]);
    *text_fd = ends[0];
    return pid;
}

static int is_alive(int pid)
{
    char path[64], line[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (!fgets(line, sizeof line, file)) line[0] = '\0';
    fclose(file);
    const char *after_name = strrchr(line, ')');
    return after_name && after_name[2] != 'Z' && after_name[2] != 'X';
}

/* Every rank that ever ran has ended, at the latest a moment from now. */
static void expect_nobody_left(void)
{
    for (int r = 0; r < RANKS_MAX; r++) {
        int pid = atomic_load(&shared->pids[r]);
        for (int n = 0; pid > 0 && is_alive(pid) && n < 300; n++) pause_ms(10);
        if (pid > 0 && is_alive(pid)) fail_msg("rank %d (pid %d) is still there", r, pid);
    }
}

/* Reads its text until everyone who could write has ended, and collects the exit code. */
static void finish_program(pid_t pid, int text_fd, int64_t begin_ns, outcome_t *outcome)
{
    size_t length = 0;
    int wait_status;
    for (;;) {
        struct pollfd wait = {.fd = text_fd, .events = POLLIN};
        if (poll(&wait, 1, 30000) != 1) {
            kill(-pid, SIGKILL);
            fail_msg("the program does not end");
        }
        ssize_t got = read(text_fd, outcome->text + length, sizeof outcome->text - 1 - length);
        if (got <= 0) break;
        length += (size_t)got;
    }
    outcome->text[length] = '\0';
    close(text_fd);
    assert_int_equal(waitpid(pid, &wait_status, 0), pid);
    outcome->took_ms = (int)((tessi_now_ns() - begin_ns) / 1000000);
    outcome->code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
    expect_nobody_left();
}

static outcome_t run_program(int ranks, body_t body)
{
    static outcome_t outcome;
    int text_fd;
    int64_t begin_ns = tessi_now_ns();
    pid_t pid = start_program(ranks, body, &text_fd);
    finish_program(pid, text_fd, begin_ns, &outcome);
    return outcome;
}

static void expect_outcome(const outcome_t *outcome, int code, const char *text)
{
    if (outcome->code != code || !strstr(outcome->text, text))
        fail_msg("code %d, expected %d; text '%s', expected '%s'", outcome->code, code,
                 outcome->text, text);
}

/* --- ending well
 * ---------------------------------------------------------------------------------- */

static int meet(int rank)
{
    tess_world_t *world;
    RANK_OK(tess_world_open(NULL, &world));
    RANK_CHECK(tess_world_rank(world) == rank);
    RANK_CHECK(tess_world_local_rank(world) == rank);
    RANK_OK(tess_world_barrier(world, 20000));
    tess_world_close(world);
    return 0;
}

static void test_all_is_well(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 5; ranks += 2) {
        outcome_t outcome = run_program(ranks, meet);
        expect_outcome(&outcome, 0, "");
        if (strlen(outcome.text) > 0) fail_msg("said '%s'", outcome.text);
        for (int r = 0; r < ranks; r++) assert_true(atomic_load(&shared->pids[r]) > 0);
    }
}

static int has_no_rank(int rank)
{
    return rank == 0 && !getenv("TESS_RANK") && !getenv("TESS_ROOT") ? 0 : 1;
}

static void test_one_rank_starts_nothing(void **state)
{
    (void)state;
    outcome_t outcome = run_program(1, has_no_rank);
    expect_outcome(&outcome, 0, "");
}

/* --- failing
 * ---------------------------------------------------------------------------------------- */

/* Meets, then rank 2 goes its own way while the others wait for it. */
static tess_world_t *meet_and_stay(void)
{
    tess_world_t *world;
    RANK_OK(tess_world_open(NULL, &world));
    RANK_OK(tess_world_barrier(world, 20000));
    return world;
}

static int others_report(tess_world_t *world, int code)
{
    if (tess_world_barrier(world, 20000) != TESS_ERR_PEER_LOST) return 1;
    fprintf(stderr, "report: %s\n", tess_last_error());
    tess_world_close(world);
    return code;
}

static int two_exits_with_7(int rank)
{
    tess_world_t *world = meet_and_stay();
    if (rank == 2) _exit(7);
    /* The one that failed first decides, so these come later. */
    int code = others_report(world, 9);
    pause_ms(500);
    return code;
}

static int two_is_killed(int rank)
{
    tess_world_t *world = meet_and_stay();
    if (rank == 2) kill(getpid(), SIGKILL);
    int code = others_report(world, 9);
    pause_ms(500);
    return code;
}

static void test_first_failure_counts(void **state)
{
    (void)state;
    outcome_t outcome = run_program(3, two_exits_with_7);
    expect_outcome(&outcome, 7, "rank 2 exited with code 7; stopping the others\n");
    expect_outcome(&outcome, 7, "report: ");
    assert_true(outcome.took_ms < 4000);
    outcome = run_program(3, two_is_killed);
    expect_outcome(&outcome, 128 + SIGKILL, "rank 2 was killed by signal 9; stopping the others\n");
    expect_outcome(&outcome, 128 + SIGKILL, "report: ");
}

static int one_fails_others_are_stubborn(int rank)
{
    if (rank == 0) return 5;
    if (rank == 1) signal(SIGTERM, SIG_IGN);
    if (rank == 2) raise(SIGSTOP);
    for (;;) pause_ms(1000);
}

static void test_stubborn_ranks_are_ended(void **state)
{
    (void)state;
    outcome_t outcome = run_program(3, one_fails_others_are_stubborn);
    expect_outcome(&outcome, 5, "rank 0 exited with code 5; stopping the others\n");
    assert_true(outcome.took_ms >= 4500 && outcome.took_ms < 12000);
}

static int last_fails(int rank)
{
    if (rank == 0) pause_ms(300);
    return rank == 0 ? 3 : 0;
}

static void test_last_rank_fails(void **state)
{
    (void)state;
    outcome_t outcome = run_program(2, last_fails);
    expect_outcome(&outcome, 3, "rank 0 exited with code 3\n");
}

/* --- signals to the parent
 * --------------------------------------------------------------------------- */

static volatile sig_atomic_t got_signal;

static void note_signal(int number)
{
    got_signal = number;
}

static int wait_for_signal(int rank)
{
    (void)rank;
    struct sigaction note = {.sa_handler = note_signal};
    sigaction(SIGTERM, &note, NULL);
    sigaction(SIGINT, &note, NULL);
    atomic_fetch_add(&shared->ready, 1);
    for (int n = 0; n < 2000 && !got_signal; n++) pause_ms(10);
    if (!got_signal) return 1;
    fprintf(stderr, "cleaned up\n");
    return 40 + got_signal;
}

static int die_of_signal(int rank)
{
    (void)rank;
    atomic_fetch_add(&shared->ready, 1);
    for (int n = 0; n < 20; n++) pause_ms(1000);
    return 1;
}

static int ignore_signals(int rank)
{
    (void)rank;
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    return die_of_signal(rank);
}

static outcome_t run_and_signal(int ranks, body_t body, int number, int times)
{
    static outcome_t outcome;
    int text_fd;
    int64_t begin_ns = tessi_now_ns();
    pid_t pid = start_program(ranks, body, &text_fd);
    for (int n = 0; n < 1000 && atomic_load(&shared->ready) < ranks; n++) pause_ms(10);
    for (int n = 0; n < times; n++) {
        kill(pid, number);
        pause_ms(200);
    }
    finish_program(pid, text_fd, begin_ns, &outcome);
    return outcome;
}

static void test_signals_are_forwarded(void **state)
{
    (void)state;
    static const int numbers[] = {SIGINT, SIGTERM};
    char text[64];
    for (int n = 0; n < 2; n++) {
        outcome_t outcome = run_and_signal(3, wait_for_signal, numbers[n], 1);
        snprintf(text, sizeof text, "signal %d: stopping 3 ranks\n", numbers[n]);
        expect_outcome(&outcome, 40 + numbers[n], text);
        expect_outcome(&outcome, 40 + numbers[n], "cleaned up\n");
        outcome = run_and_signal(3, die_of_signal, numbers[n], 1);
        expect_outcome(&outcome, 128 + numbers[n], text);
        assert_true(outcome.took_ms < 5000);
    }
}

static void test_second_signal_means_now(void **state)
{
    (void)state;
    outcome_t outcome = run_and_signal(3, ignore_signals, SIGINT, 2);
    expect_outcome(&outcome, 128 + SIGKILL, "signal 2: stopping 3 ranks\n");
    assert_true(outcome.took_ms < 8000);
}

static int zero_is_stopped(int rank)
{
    if (rank != 0) return die_of_signal(rank);
    atomic_fetch_add(&shared->ready, 1);
    raise(SIGSTOP);
    return 1;
}

/* One signal is enough to end the job, also where a rank cannot hear it. */
static void test_signal_ends_stopped_ranks(void **state)
{
    (void)state;
    outcome_t outcome = run_and_signal(2, zero_is_stopped, SIGTERM, 1);
    expect_outcome(&outcome, 128 + SIGTERM, "signal 15: stopping 2 ranks\n");
    assert_true(outcome.took_ms < 10000);
}

/* The kernel ends the ranks when their parent is killed. */
static void test_killed_parent_leaves_nobody(void **state)
{
    (void)state;
    outcome_t outcome = run_and_signal(4, ignore_signals, SIGKILL, 1);
    expect_outcome(&outcome, 128 + SIGKILL, "");
    for (int r = 0; r < 4; r++) assert_true(atomic_load(&shared->pids[r]) > 0);
}

/* --- refusing
 * ------------------------------------------------------------------------------------------ */

static void test_bad_requests(void **state)
{
    (void)state;
    tess_launch_role_t role;
    int exit_code;
    static const int bad[] = {0, -1, 100000};
    for (int n = 0; n < 3; n++)
        TEST_STATUS(tess_launch_local(bad[n], &role, &exit_code), TESS_ERR_INVALID_ARGUMENT);
    setenv("OMPI_COMM_WORLD_RANK", "1", 1);
    setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
    for (int ranks = 1; ranks < 3; ranks++) {
        TEST_STATUS(tess_launch_local(ranks, &role, &exit_code), TESS_ERR_INVALID_ARGUMENT);
        assert_non_null(strstr(tess_last_error(), "as one of 4 already"));
    }
    setenv("OMPI_COMM_WORLD_SIZE", "many", 1);
    TEST_STATUS(tess_launch_local(2, &role, &exit_code), TESS_ERR_INVALID_ARGUMENT);
    unsetenv("OMPI_COMM_WORLD_RANK");
    unsetenv("OMPI_COMM_WORLD_SIZE");
}

static int wait_long(int rank)
{
    (void)rank;
    for (int n = 0; n < 20; n++) pause_ms(1000);
    return 0;
}

/* Every step of starting three ranks fails once; those that run already are ended. */
static void test_faults(void **state)
{
    (void)state;
    static const char *const points[] = {"alloc", "socket", "thread", "thread", "thread"};
    static const int passes[] = {1, 1, 1, 2, 3};
    for (size_t n = 0; n < sizeof points / sizeof points[0]; n++) {
        fault_point = points[n];
        fault_pass = passes[n];
        outcome_t outcome = run_program(3, wait_long);
        fault_point = NULL;
        if (outcome.code != 98 || outcome.took_ms > 5000)
            fail_msg("%s:%d: code %d after %d ms: %s", points[n], passes[n], outcome.code,
                     outcome.took_ms, outcome.text);
    }
}

static void test_counting_devices(void **state)
{
    (void)state;
    int count = tess_launch_cuda_devices();
    assert_true(count >= 0);
    if (access("/dev/nvidiactl", F_OK) != 0) assert_int_equal(count, 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* its child is gone */
    /* Also once CUDA runs in this process, where a fork cannot count. */
    assert_int_equal(tess_device_count(TESS_DEVICE_CUDA), count);
    assert_int_equal(tess_launch_cuda_devices(), count);
}

/* --- under mpirun
 * ---------------------------------------------------------------------------------------- */

static const char *self;

static int rank_under_mpirun(const char *source)
{
    tess_world_t *world;
    char host[64];
    if (tess_world_open(NULL, &world) != TESS_OK) {
        printf("open: %s\n", tess_last_error());
        return 1;
    }
    if (tess_world_barrier(world, 20000) != TESS_OK) return 1;
    snprintf(host, sizeof host, "%s", tess_world_host(world, 0));
    printf("rank %d of %d, local %d of %d, %s\n", tess_world_rank(world), tess_world_size(world),
           tess_world_local_rank(world), tess_world_local_size(world), tess_world_source(world));
    int good = strcmp(tess_world_source(world), source) == 0;
    tess_world_close(world);
    return good ? 0 : 1;
}

static int ranks_under_mpirun(void)
{
    tess_launch_role_t role;
    int exit_code;
    tess_status_t status = tess_launch_local(2, &role, &exit_code);
    printf("%s\n", tess_last_error());
    return status == TESS_ERR_INVALID_ARGUMENT ? 0 : 1;
}

static void run_mpirun(const char *mode, char *text, size_t text_bytes, int *code)
{
    char command[4096];
    snprintf(command, sizeof command,
             "mpirun --allow-run-as-root --oversubscribe -n 3 '%s' %s 2>&1 </dev/null", self, mode);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t length = fread(text, 1, text_bytes - 1, pipe);
    text[length] = '\0';
    int wait_status = pclose(pipe);
    *code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1;
}

static void test_mpirun(void **state)
{
    (void)state;
    char text[8192], line[128];
    int code;
    if (system("command -v mpirun >/dev/null 2>&1") != 0) {
        print_message("skipped: no mpirun here\n");
        skip();
    }
    run_mpirun("--rank", text, sizeof text, &code);
    if (code != 0) fail_msg("mpirun gave %d: %s", code, text);
    for (int r = 0; r < 3; r++) {
        snprintf(line, sizeof line, "rank %d of 3, local %d of 3, Open MPI\n", r, r);
        if (!strstr(text, line)) fail_msg("expected '%s' in '%s'", line, text);
    }
    run_mpirun("--ranks", text, sizeof text, &code);
    if (code != 0 || !strstr(text, "2 local ranks were asked for, but a launcher has started this "
                                   "process as one of 3 already"))
        fail_msg("mpirun gave %d: %s", code, text);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_is_well),
        cmocka_unit_test(test_one_rank_starts_nothing),
        cmocka_unit_test(test_first_failure_counts),
        cmocka_unit_test(test_stubborn_ranks_are_ended),
        cmocka_unit_test(test_last_rank_fails),
        cmocka_unit_test(test_signals_are_forwarded),
        cmocka_unit_test(test_second_signal_means_now),
        cmocka_unit_test(test_signal_ends_stopped_ranks),
        cmocka_unit_test(test_killed_parent_leaves_nobody),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_mpirun),
        cmocka_unit_test(test_counting_devices), /* last: it starts CUDA */
    };
    static char path[4096];
    if (argc > 1 && strcmp(argv[1], "--rank") == 0) return rank_under_mpirun("Open MPI");
    if (argc > 1 && strcmp(argv[1], "--ranks") == 0) return ranks_under_mpirun();
    test_need_ranks(1);
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    self = length > 0 ? path : argv[0];
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
