/* SPDX-License-Identifier: Apache-2.0 */
/* Starts local ranks as forks of this process, and watches over them.
 *
 * Invariant: whenever the parent leaves tess_launch_local, or dies, no rank is left: it has waited
 * for each of them, or the kernel kills them (PR_SET_PDEATHSIG).
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <tessera/launch.h>
#include <time.h>
#include <unistd.h>

#include "core/internal.h"
#include "world_env.h"

#define RANKS_MAX 1024
/* After a rank failed or a signal came: to report, then to end on SIGTERM. */
#define REPORT_MS 3000
#define TERM_MS 2000
#define DEVICE_COUNT_MS 60000
/* For a child to end that has counted, or was killed. */
#define REAP_MS 5000

typedef struct job {
    int ranks;
    pid_t *pids; /* (ranks) 0: ended, and waited for */
    int running;
    int exit_code; /* of the rank that failed first; 0: none */
    int signals;   /* SIGINT and SIGTERM that this process got */
    enum { RUNNING, REPORTING, TERMINATING, KILLING } state;
    int64_t next_ns; /* when the state moves on */
    sigset_t caught, before;
    struct sigaction child_before;
} job_t;

/* --- the ranks ---------------------------------------------------------------------------------
 */

static tess_status_t listen_on_loopback(int backlog, int *fd, char *root, size_t root_bytes)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = -1;
    if (tessi_fault("socket")) errno = EMFILE;
    else listener = socket(AF_INET, SOCK_STREAM, 0); /* inherited by rank 0 */
    if (listener < 0) return tessi_fail_errno(errno, "cannot make a socket for the ranks");
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, backlog) ||
        getsockname(listener, (struct sockaddr *)&address, &length)) {
        int error = errno;
        close(listener);
        return tessi_fail_errno(error, "cannot listen on loopback for the ranks");
    }
    snprintf(root, root_bytes, "127.0.0.1:%d", ntohs(address.sin_port));
    *fd = listener;
    return TESS_OK;
}

static void set_number(tessi_option_t option, int value)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(tessi_option_variable(option), text, 1);
}

/* In the child: dies with its parent, and knows its place. */
static void become_rank(const job_t *job, int rank, pid_t parent, const char *root, int listener)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(128 + SIGKILL); /* it died before prctl could see that */
    sigaction(SIGCHLD, &job->child_before, NULL);
    sigprocmask(SIG_SETMASK, &job->before, NULL);
    set_number(TESSI_OPTION_RANK, rank);
    set_number(TESSI_OPTION_WORLD_SIZE, job->ranks);
    set_number(TESSI_OPTION_LOCAL_RANK, rank);
    set_number(TESSI_OPTION_LOCAL_SIZE, job->ranks);
    setenv(tessi_option_variable(TESSI_OPTION_ROOT), root, 1);
    if (rank == 0) set_number(TESSI_OPTION_ROOT_FD, listener);
    else close(listener);
}

static void signal_ranks(const job_t *job, int number)
{
    for (int r = 0; r < job->ranks; r++)
        if (job->pids[r] > 0) kill(job->pids[r], number);
}

/* --- the parent --------------------------------------------------------------------------------
 */

static void move_to(job_t *job, int state, int after_ms)
{
    job->state = state;
    job->next_ns = tessi_deadline_ns(after_ms);
}

static void note_end(job_t *job, int rank, int wait_status)
{
    int is_signal = WIFSIGNALED(wait_status);
    int code = is_signal ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
    job->pids[rank] = 0;
    job->running--;
    if (code == 0 || job->exit_code != 0) return;
    job->exit_code = code;
    if (job->state != RUNNING || job->signals > 0) return;
    const char *rest = job->running > 0 ? "; stopping the others" : "";
    if (is_signal)
        fprintf(stderr, "tessera: rank %d was killed by signal %d%s\n", rank, WTERMSIG(wait_status),
                rest);
    else fprintf(stderr, "tessera: rank %d exited with code %d%s\n", rank, code, rest);
    move_to(job, REPORTING, REPORT_MS);
}

static void collect(job_t *job)
{
    for (int r = 0; r < job->ranks; r++) {
        int wait_status;
        if (job->pids[r] <= 0) continue;
        pid_t ended = waitpid(job->pids[r], &wait_status, WNOHANG);
        if (ended == job->pids[r]) note_end(job, r, wait_status);
    }
}

/* SIGINT or SIGTERM to this process: the ranks get it too and have as long as after a failure to
 * end by themselves, but a second one means now. */
static void take_signal(job_t *job, const siginfo_t *info)
{
    job->signals++;
    if (job->signals > 1) {
        signal_ranks(job, SIGTERM);
        signal_ranks(job, SIGCONT);
        move_to(job, TERMINATING, TERM_MS);
        return;
    }
    fprintf(stderr, "tessera: signal %d: stopping %d ranks\n", info->si_signo, job->running);
    /* What a terminal sends goes to its whole process group, the ranks included. */
    if (info->si_code != SI_KERNEL) signal_ranks(job, info->si_signo);
    if (job->state == RUNNING) move_to(job, REPORTING, REPORT_MS);
}

/* Moves a job that is being stopped one step on, when it is time. */
static void press_on(job_t *job)
{
    if (job->state == RUNNING || tessi_now_ns() < job->next_ns) return;
    if (job->state == REPORTING) {
        signal_ranks(job, SIGTERM);
        signal_ranks(job, SIGCONT); /* a stopped process cannot end */
        move_to(job, TERMINATING, TERM_MS);
    } else {
        signal_ranks(job, SIGKILL);
        move_to(job, KILLING, TERM_MS);
    }
}

static void watch_over(job_t *job)
{
    for (;;) {
        collect(job);
        if (job->running == 0) return;
        int wait_ms = job->state == RUNNING ? 1000 : tessi_wait_ms(job->next_ns, 1000);
        struct timespec wait = {.tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000L};
        siginfo_t info;
        int number = sigtimedwait(&job->caught, &info, &wait);
        if (number > 0 && number != SIGCHLD) take_signal(job, &info);
        press_on(job);
    }
}

static void catch_signals(job_t *job)
{
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigemptyset(&job->caught);
    sigaddset(&job->caught, SIGCHLD);
    sigaddset(&job->caught, SIGINT);
    sigaddset(&job->caught, SIGTERM);
    sigaddset(&job->caught, SIGHUP);
    sigaction(SIGCHLD, &plain, &job->child_before); /* ignored, it would take exit codes away */
    sigprocmask(SIG_BLOCK, &job->caught, &job->before);
}

static void release_signals(const job_t *job)
{
    sigaction(SIGCHLD, &job->child_before, NULL);
    sigprocmask(SIG_SETMASK, &job->before, NULL);
}

/* Forks all ranks. In a child *role is TESS_LAUNCH_RANK on return. */
static tess_status_t start_ranks(job_t *job, const char *root, int listener,
                                 tess_launch_role_t *role)
{
    pid_t parent = getpid();
    *role = TESS_LAUNCH_PARENT;
    fflush(NULL); /* or every rank would print what is buffered again */
    for (int r = 0; r < job->ranks; r++) {
        pid_t pid = tessi_fault("thread") ? -1 : fork();
        if (pid < 0) {
            tess_status_t status =
                tessi_fail_errno(errno, "cannot start rank %d of %d", r, job->ranks);
            signal_ranks(job, SIGKILL);
            move_to(job, KILLING, TERM_MS);
            watch_over(job);
            return status;
        }
        if (pid == 0) {
            become_rank(job, r, parent, root, listener);
            *role = TESS_LAUNCH_RANK;
            return TESS_OK;
        }
        job->pids[r] = pid;
        job->running++;
    }
    return TESS_OK;
}

static tess_status_t check_request(int ranks)
{
    int size;
    if (ranks < 1 || ranks > RANKS_MAX)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "cannot start %d local ranks; 1 to %d can be",
                          ranks, RANKS_MAX);
    tess_status_t status = tessi_environment_size(&size);
    if (status == TESS_OK && size > 1)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%d local ranks were asked for, but a launcher has started this process "
                          "as one of %d already; use one or the other",
                          ranks, size);
    return status;
}

tess_status_t tess_launch_local(int ranks, tess_launch_role_t *role, int *exit_code)
{
    job_t job = {.ranks = ranks};
    char root[64];
    int listener = -1;
    tess_status_t status;
    TESS_TRY(check_request(ranks), failed);
    if (ranks == 1) {
        *role = TESS_LAUNCH_RANK;
        return TESS_OK;
    }
    job.pids = tessi_calloc((size_t)ranks, sizeof *job.pids);
    if (!job.pids) return TESS_ERR_OUT_OF_MEMORY;
    TESS_TRY(listen_on_loopback(ranks, &listener, root, sizeof root), free_pids);
    catch_signals(&job);
    status = start_ranks(&job, root, listener, role);
    if (status == TESS_OK && *role == TESS_LAUNCH_RANK) goto free_pids;
    close(listener);
    if (status == TESS_OK) {
        watch_over(&job);
        *exit_code = job.exit_code;
    }
    release_signals(&job);
free_pids:
    tessi_free(job.pids);
failed:
    return status;
}

/* --- questions ---------------------------------------------------------------------------------
 */

int tess_launch_detected(void)
{
    int size = 0;
    /* Variables that contradict one another are a launcher's too; opening the world explains. */
    return tessi_environment_size(&size) != TESS_OK || size > 1 ||
           tessi_option_is_set(TESSI_OPTION_RANK);
}

/* 1 when the child was waited for within the time. */
static int reap(pid_t pid, int within_ms)
{
    int64_t deadline_ns = tessi_deadline_ns(within_ms);
    for (;;) {
        pid_t ended = waitpid(pid, NULL, WNOHANG);
        if (ended == pid || (ended < 0 && errno != EINTR)) return 1;
        if (tessi_now_ns() >= deadline_ns) return 0;
        poll(NULL, 0, 1);
    }
}

/* Within a driver that hangs not even SIGKILL ends a process, so it is not waited for any longer;
 * the kernel ends it when it can. */
static void end_child(pid_t pid, int has_answered)
{
    if (has_answered && reap(pid, REAP_MS)) return;
    kill(pid, SIGKILL);
    if (!reap(pid, REAP_MS))
        tessi_log(TESSI_LOG_ERROR,
                  "the process that counts CUDA devices (pid %d) does not end, not even when "
                  "killed; it is left behind",
                  (int)pid);
}

/* A child counts, so that CUDA does not start in this process. */
static int count_in_child(void)
{
    int ends[2], count = 0;
    if (pipe2(ends, O_CLOEXEC) != 0) return 0;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        count = tess_device_count(TESS_DEVICE_CUDA);
        ssize_t written = write(ends[1], &count, sizeof count);
        _exit(written == (ssize_t)sizeof count ? 0 : 1);
    }
    close(ends[1]);
    if (pid > 0) {
        int64_t deadline_ns = tessi_deadline_ns(DEVICE_COUNT_MS);
        struct pollfd wait = {.fd = ends[0], .events = POLLIN};
        int ready;
        do ready = poll(&wait, 1, tessi_wait_ms(deadline_ns, DEVICE_COUNT_MS));
        while (ready < 0 && errno == EINTR);
        if (ready <= 0)
            tessi_log(TESSI_LOG_ERROR, "counting CUDA devices took longer than %d s; using none",
                      DEVICE_COUNT_MS / 1000);
        if (ready <= 0 || read(ends[0], &count, sizeof count) != (ssize_t)sizeof count) count = 0;
        end_child(pid, ready > 0);
    }
    close(ends[0]);
    return count > 0 ? count : 0;
}

int tess_launch_cuda_devices(void)
{
    int count = count_in_child();
    if (count > 0) return count;
    /* Where CUDA runs in this process already, it does not in a fork of it; and then there is
     * nothing left to protect here. */
    void *driver = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY);
    if (!driver) return 0;
    dlclose(driver);
    count = tess_device_count(TESS_DEVICE_CUDA);
    return count > 0 ? count : 0;
}
