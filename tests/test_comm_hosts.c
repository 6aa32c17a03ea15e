/* SPDX-License-Identifier: Apache-2.0 */
/* Two hosts made of namespaces: each has its own network, IPC and host name, joined by a virtual
 * cable, and two ranks. Collectives go over messages; pulling the cable gives every rank an error
 * that names ranks of the other side within the deadline.
 *
 * Needs the right to make namespaces and the program ip; skipped by name otherwise.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm_rig.h"
#include "core/internal.h"

#define HOSTS 2
#define RANKS_PER_HOST 2
#define RANKS (HOSTS * RANKS_PER_HOST)
#define NOT_PERMITTED 78
#define LONG_MS 30000
#define SHORT_MS 1500

typedef int (*host_body_t)(int rank);

/* --- hosts ------------------------------------------------------------------------------------ */

static int run_command(const char *format, ...)
{
    char command[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    return system(command);
}

static void set_number(const char *name, int value)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

static int run_rank(int rank, host_body_t body)
{
    set_number("TESS_RANK", rank);
    set_number("TESS_WORLD_SIZE", RANKS);
    unsetenv("TESS_LOCAL_RANK");
    unsetenv("TESS_LOCAL_SIZE");
    setenv("TESS_ROOT", "10.231.7.1:29417", 1);
    return body(rank);
}

static int wait_for(pid_t child)
{
    int status;
    if (waitpid(child, &status, 0) != child) return 1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* One host: says on `ready` when its namespaces are there, and starts its ranks when told on `go`.
 */
static int be_host(int host, host_body_t body, int ready, int go)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char name[16], byte = 0;
    snprintf(name, sizeof name, "host%d", host);
    /* UCX lists network devices through /sys, which must be that of the new network. */
    if (unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS) != 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("sysfs", "/sys", "sysfs", 0, NULL) != 0 || sethostname(name, strlen(name)) != 0)
        byte = NOT_PERMITTED;
    if (write(ready, &byte, 1) != 1 || byte != 0 || read(go, &byte, 1) != 1) return NOT_PERMITTED;
    if (run_command("ip link set lo up && ip addr add 10.231.7.%d/24 dev cable%d && "
                    "ip link set cable%d up",
                    host + 1, host, host) != 0)
        return NOT_PERMITTED;
    /* The cable carries only once the other host has its end up too. */
    if (run_command("for i in $(seq 500); do grep -qs 1 /sys/class/net/cable%d/carrier && exit 0; "
                    "sleep 0.01; done; exit 1",
                    host) != 0)
        return 1;
    pid_t children[RANKS_PER_HOST];
    int failed = 0;
    fflush(NULL);
    for (int i = 0; i < RANKS_PER_HOST; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            exit(run_rank(host * RANKS_PER_HOST + i, body));
        }
    }
    for (int i = 0; i < RANKS_PER_HOST; i++) failed |= wait_for(children[i]) != 0;
    /* The cable goes with the first host, and with it addresses that ranks of the other still use.
     */
    if (write(ready, &byte, 1) != 1) return 1;
    while (read(go, &byte, 1) == 1) continue;
    return failed;
}

static int lay_cable(const pid_t *hosts)
{
    return run_command("ip link add cable0 netns %d type veth peer name cable1 netns %d", hosts[0],
                       hosts[1]);
}

/* 0, NOT_PERMITTED, or 1 when a rank failed. */
static int run_hosts(host_body_t body)
{
    int ready[2], go[2], code = 0;
    pid_t hosts[HOSTS];
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(go), 0);
    fflush(NULL);
    for (int h = 0; h < HOSTS; h++) {
        hosts[h] = fork();
        assert_true(hosts[h] >= 0);
        if (hosts[h] != 0) continue;
        close(ready[0]);
        close(go[1]);
        exit(be_host(h, body, ready[1], go[0]));
    }
    close(ready[1]);
    close(go[0]);
    for (int h = 0; h < HOSTS; h++) {
        char byte = NOT_PERMITTED;
        if (read(ready[0], &byte, 1) != 1 || byte != 0) code = NOT_PERMITTED;
    }
    if (code == 0 && lay_cable(hosts) != 0) code = NOT_PERMITTED;
    if (code == 0) code = write(go[1], "gg", HOSTS) == HOSTS ? 0 : 1;
    for (int h = 0; code == 0 && h < HOSTS; h++) {
        char byte;
        if (read(ready[0], &byte, 1) != 1) break; /* its code tells why */
    }
    close(go[1]);
    close(ready[0]);
    for (int h = 0; h < HOSTS; h++) {
        int host_code = wait_for(hosts[h]);
        if (code == 0) code = host_code;
    }
    return code;
}

static void expect_hosts(host_body_t body)
{
    int code = run_hosts(body);
    if (code == NOT_PERMITTED) {
        print_message("skipped: this process may not make network namespaces, or ip is missing\n");
        skip();
    }
    assert_int_equal(code, 0);
}

/* --- tests ------------------------------------------------------------------------------------ */

static int collect_across(int rank)
{
    static float values[50000], gathered[RANKS * 50000];
    comm_rig_t rig;
    rig_open(&rig, rank, LONG_MS);
    RANK_CHECK(strstr(tess_comm_description(rig.comm), "messages") != NULL);
    RANK_CHECK(strcmp(tess_world_host(rig.world, rank), rank < 2 ? "host0" : "host1") == 0);
    RANK_CHECK(tess_world_local_size(rig.world) == RANKS_PER_HOST);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 50000; i++) values[i] = (float)(rank + round + i % 7);
        tess_collective_t sum = {
            .send = values, .recv = values, .count = 50000, .dtype = TESS_DTYPE_FP32};
        tess_collective_t gather = sum;
        gather.recv = gathered;
        RANK_OK(tess_comm_all_reduce(rig.comm, &sum, rig.stream));
        RANK_OK(tess_comm_all_gather(rig.comm, &gather, rig.stream));
        RANK_OK(tess_stream_synchronize(rig.stream, -1));
        for (int i = 0; i < RANKS * 50000; i++)
            RANK_CHECK(gathered[i] == (float)(6 + RANKS * (round + i % 50000 % 7)));
    }
    rig_close(&rig);
    return 0;
}

static void collectives_across_hosts(void **state)
{
    (void)state;
    rig_choose_path("auto");
    unsetenv("TESS_UCX_PATH");
    expect_hosts(collect_across);
}

/* Half of a communicator within each host maps memory there. */
static int split_by_host(int rank)
{
    comm_rig_t rig;
    rig_open_world(&rig, rank, RIG_OPEN_TIMEOUT_MS);
    int neighbours[2] = {rank / 2 * 2, rank / 2 * 2 + 1};
    tess_comm_config_t config = {.name = "local", .ranks = neighbours, .rank_count = 2};
    RANK_OK(tess_comm_open(rig.world, rig.device, &config, &rig.comm));
    RANK_CHECK(strstr(tess_comm_description(rig.comm), "loads and stores") != NULL);
    RANK_OK(rig_all_gather(&rig, 1000));
    RANK_OK(tess_stream_synchronize(rig.stream, -1));
    RANK_CHECK(((char *)rig.recv)[0] == neighbours[0] && ((char *)rig.recv)[2000] == neighbours[1]);
    rig_close(&rig);
    return 0;
}

static void communicator_within_each_host(void **state)
{
    (void)state;
    unsetenv("TESS_UCX_PATH");
    expect_hosts(split_by_host);
}

static int refuse_direct(int rank)
{
    setenv("TESS_UCX_PATH", "direct", 1);
    comm_rig_t rig;
    rig_open_world(&rig, rank, RIG_OPEN_TIMEOUT_MS);
    tess_comm_t *comm = NULL;
    RANK_CHECK(tess_comm_open(rig.world, rig.device, NULL, &comm) == TESS_ERR_UNSUPPORTED);
    rig_check_error_names("several hosts");
    rig_close(&rig);
    return 0;
}

static void direct_is_refused(void **state)
{
    (void)state;
    expect_hosts(refuse_direct);
}

static int pull_cable(int rank)
{
    comm_rig_t rig;
    rig_open_world(&rig, rank, 10000);
    tess_comm_config_t config = {.name = "cable", .transport = "ucx", .timeout_ms = SHORT_MS};
    RANK_OK(tess_comm_open(rig.world, rig.device, &config, &rig.comm));
    RANK_OK(rig_all_gather(&rig, 60000));
    RANK_OK(tess_stream_synchronize(rig.stream, -1));
    RANK_OK(tess_world_barrier(rig.world, -1));
    if (rank == 0) RANK_CHECK(run_command("ip link set cable0 down") == 0);
    int64_t start_ns = tessi_now_ns();
    tess_status_t status = TESS_OK;
    for (int i = 0; i < 1000 && status == TESS_OK; i++) {
        status = rig_all_gather(&rig, 60000);
        if (status == TESS_OK) status = tess_stream_synchronize(rig.stream, LONG_MS);
    }
    RANK_CHECK(status == TESS_ERR_TIMEOUT || status == TESS_ERR_PEER_LOST);
    RANK_CHECK(tessi_now_ns() - start_ns < (int64_t)(SHORT_MS + 8000) * 1000000);
    RANK_CHECK(tess_comm_status(rig.comm) < 0);
    rig_check_error_names("all_gather ");
    rig_check_error_names("rank ");
    tess_comm_close(rig.comm);
    rig.comm = NULL;
    /* How the world takes it is not the matter here. */
    fflush(NULL);
    _exit(0);
}

static void pulled_cable_is_found(void **state)
{
    (void)state;
    unsetenv("TESS_UCX_PATH");
    expect_hosts(pull_cable);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(collectives_across_hosts),
        cmocka_unit_test(communicator_within_each_host),
        cmocka_unit_test(direct_is_refused),
        cmocka_unit_test(pulled_cable_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
