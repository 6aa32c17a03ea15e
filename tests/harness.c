/* SPDX-License-Identifier: Apache-2.0 */
/* Runs ranks as forked processes around a listening socket made here, so that no port is guessed.
 */
#include "harness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TEST_RANKS_MAX 64

static int *shared_pids; /* (TEST_RANKS_MAX), in memory shared with the ranks */

_Noreturn void test_rank_die(const char *file, int line, const char *what, tess_status_t status)
{
    fprintf(stderr, "[rank %s] %s:%d: %s: %s: %s\n", getenv("TESS_RANK"), file, line, what,
            tess_status_name(status), tess_last_error());
    _exit(1);
}

const char *test_device_kind(void)
{
    const char *kind = getenv("TESS_TEST_DEVICE");
    return kind && *kind ? kind : "host";
}

const char *test_device_name(int rank)
{
    static char name[32];
    if (strcmp(test_device_kind(), "cuda") != 0) return "host";
    snprintf(name, sizeof name, "cuda:%d", rank);
    return name;
}

_Noreturn void test_skip(const char *reason)
{
    printf("skipped: %s\n", reason);
    exit(77);
}

void test_need_ranks(int ranks)
{
    if (strcmp(test_device_kind(), "cuda") != 0) return;
    if (tess_launch_cuda_devices() < ranks) test_skip("too few CUDA devices here");
}

static int listen_on_loopback(char *root, size_t root_bytes)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int on = 1; /* a second world of the same ranks listens on this port again */
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) || listen(fd, TEST_RANKS_MAX) ||
        getsockname(fd, (struct sockaddr *)&address, &length)) {
        perror("test harness: cannot listen on loopback");
        exit(1);
    }
    snprintf(root, root_bytes, "127.0.0.1:%d", ntohs(address.sin_port));
    return fd;
}

static void set_number(const char *name, int value)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

static pid_t start_rank(int rank, int ranks, const char *root, int root_fd, test_rank_body_t body,
                        void *argument)
{
    pid_t parent = getpid();
    fflush(NULL);
    pid_t pid = fork();
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    /* cmocka's handlers would jump out of a crashed rank and back into the list of tests. */
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS};
    for (size_t n = 0; n < sizeof crashes / sizeof crashes[0]; n++) signal(crashes[n], SIG_DFL);
    shared_pids[rank] = (int)getpid();
    set_number("TESS_RANK", rank);
    set_number("TESS_WORLD_SIZE", ranks);
    set_number("TESS_LOCAL_RANK", rank);
    set_number("TESS_LOCAL_SIZE", ranks);
    setenv("TESS_ROOT", root, 1);
    if (rank == 0) set_number("TESS_ROOT_FD", root_fd);
    else close(root_fd);
    exit(body(rank, argument));
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int exit_code_of(int wait_status)
{
    return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

int test_ranks(int ranks, test_rank_body_t body, void *argument, int timeout_ms, int *codes)
{
    int own_codes[TEST_RANKS_MAX];
    pid_t pids[TEST_RANKS_MAX];
    if (!codes) codes = own_codes;
    if (!shared_pids)
        shared_pids = mmap(NULL, TEST_RANKS_MAX * sizeof(int), PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char root[64];
    int root_fd = listen_on_loopback(root, sizeof root);
    for (int r = 0; r < ranks; r++) {
        pids[r] = start_rank(r, ranks, root, root_fd, body, argument);
        codes[r] = -1;
    }
    close(root_fd);

    int running = ranks, failed = 0;
    for (int64_t deadline_ms = now_ms() + timeout_ms; running > 0;) {
        for (int r = 0; r < ranks; r++) {
            int wait_status;
            if (codes[r] != -1 || waitpid(pids[r], &wait_status, WNOHANG) != pids[r]) continue;
            codes[r] = exit_code_of(wait_status);
            running--;
        }
        if (running > 0 && now_ms() > deadline_ms) {
            for (int r = 0; r < ranks; r++) {
                if (codes[r] != -1) continue;
                kill(pids[r], SIGKILL);
                waitpid(pids[r], NULL, 0);
                codes[r] = 1000;
                running--;
            }
        }
        if (running > 0) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    for (int r = 0; r < ranks; r++) failed += codes[r] != 0;
    return failed;
}

int test_rank_pid(int rank)
{
    return shared_pids[rank];
}

uint64_t test_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
