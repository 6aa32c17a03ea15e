/* SPDX-License-Identifier: Apache-2.0 */
/* Who am I: every launcher, every contradiction, and the address of rank 0, one row each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/world_env.h"
#include "harness.h"

/* A row's variables, separated by spaces; all others that matter are unset. */
static const char *const known[] = {"TESS_RANK",
                                    "TESS_WORLD_SIZE",
                                    "TESS_LOCAL_RANK",
                                    "TESS_LOCAL_SIZE",
                                    "TESS_ROOT",
                                    "TESS_ROOT_FD",
                                    "RANK",
                                    "WORLD_SIZE",
                                    "LOCAL_RANK",
                                    "LOCAL_WORLD_SIZE",
                                    "LOCAL_SIZE",
                                    "GROUP_RANK",
                                    "GROUP_WORLD_SIZE",
                                    "CROSS_RANK",
                                    "CROSS_SIZE",
                                    "MASTER_ADDR",
                                    "MASTER_PORT",
                                    "TORCHELASTIC_RUN_ID",
                                    "TORCHELASTIC_RESTART_COUNT",
                                    "TORCHELASTIC_USE_AGENT_STORE",
                                    "OMPI_COMM_WORLD_RANK",
                                    "OMPI_COMM_WORLD_SIZE",
                                    "OMPI_COMM_WORLD_LOCAL_RANK",
                                    "OMPI_COMM_WORLD_LOCAL_SIZE",
                                    "PMIX_NAMESPACE",
                                    "OMPI_MCA_ess_base_jobid",
                                    "PMI_RANK",
                                    "PMI_SIZE",
                                    "PMI_JOBID",
                                    "MPI_LOCALRANKID",
                                    "MPI_LOCALNRANKS",
                                    "SLURM_PROCID",
                                    "SLURM_STEP_NUM_TASKS",
                                    "SLURM_NTASKS",
                                    "SLURM_LOCALID",
                                    "SLURM_NODEID",
                                    "SLURM_JOB_ID",
                                    "SLURM_STEP_ID",
                                    "SLURM_STEP_NODELIST",
                                    "SLURM_STEP_TASKS_PER_NODE"};

static void set_environment(const char *variables)
{
    for (size_t n = 0; n < sizeof known / sizeof known[0]; n++) unsetenv(known[n]);
    char copy[1024];
    snprintf(copy, sizeof copy, "%s", variables);
    for (char *save = NULL, *item = strtok_r(copy, " ", &save); item;
         item = strtok_r(NULL, " ", &save)) {
        char *equals = strchr(item, '=');
        assert_non_null(equals);
        *equals = '\0';
        setenv(item, equals + 1, 1);
    }
}

/* Launchers as they present themselves. */
#define TORCHRUN(rank, size, local, locals)                                                        \
    "RANK=" #rank " WORLD_SIZE=" #size " LOCAL_RANK=" #local " LOCAL_WORLD_SIZE=" #locals          \
    " TORCHELASTIC_RUN_ID=none TORCHELASTIC_RESTART_COUNT=0 "                                      \
    "TORCHELASTIC_USE_AGENT_STORE=True MASTER_ADDR=node1 MASTER_PORT=29500 "
#define DEEPSPEED(rank, size, local, locals)                                                       \
    "RANK=" #rank " WORLD_SIZE=" #size " LOCAL_RANK=" #local " LOCAL_SIZE=" #locals                \
    " CROSS_RANK=0 CROSS_SIZE=1 MASTER_ADDR=10.0.0.7 MASTER_PORT=29600 "
#define OPEN_MPI(rank, size, local, locals)                                                        \
    "OMPI_COMM_WORLD_RANK=" #rank " OMPI_COMM_WORLD_SIZE=" #size                                   \
    " OMPI_COMM_WORLD_LOCAL_RANK=" #local " OMPI_COMM_WORLD_LOCAL_SIZE=" #locals                   \
    " PMIX_NAMESPACE=1955463169 "
#define MPICH(rank, size, local, locals)                                                           \
    "PMI_RANK=" #rank " PMI_SIZE=" #size " MPI_LOCALRANKID=" #local " MPI_LOCALNRANKS=" #locals " "
#define SLURM(rank, size, local, node)                                                             \
    "SLURM_PROCID=" #rank " SLURM_STEP_NUM_TASKS=" #size " SLURM_LOCALID=" #local                  \
    " SLURM_NODEID=" #node " SLURM_JOB_ID=4711 SLURM_STEP_ID=3 "
#define NODES "SLURM_STEP_NODELIST=node[03-04] SLURM_STEP_TASKS_PER_NODE=2(x2) "
#define OWN(rank, size) "TESS_RANK=" #rank " TESS_WORLD_SIZE=" #size " "

typedef struct row {
    const char *variables;
    int config_rank, config_size; /* 0, 0 means: not given */
    /* What must come out; size 0: a failure whose sentence holds `text`. */
    int rank, size, local_rank, local_size;
    const char *text; /* source */
    const char *host; /* NULL: not looked at */
    int port;         /* 0: derived */
} row_t;

static const row_t rows[] = {
    /* Nobody. */
    {"", 0, 0, 0, 1, 0, 1, "single process", NULL, 0},
    {"SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_JOB_ID=7", 0, 0, 0, 1, 0, 1, "single process", NULL, 0},
    {"WORLD_SIZE=1", 0, 0, 0, 1, 0, 1, "single process", NULL, 0},
    {"MASTER_ADDR=a MASTER_PORT=1", 0, 0, 0, 1, 0, 1, "single process", NULL, 0},
    /* Our own variables. */
    {OWN(2, 4) "TESS_LOCAL_RANK=1 TESS_LOCAL_SIZE=2 TESS_ROOT=host7:1234", 0, 0, 2, 4, 1, 2,
     "TESS_RANK", "host7", 1234},
    {OWN(2, 4) "TESS_ROOT=[fe80::1]:1234", 0, 0, 2, 4, -1, -1, "TESS_RANK", "fe80::1", 1234},
    {OWN(0, 1), 0, 0, 0, 1, 0, 1, "TESS_RANK", NULL, 0},
    {OWN(3, 4) "MASTER_ADDR=m MASTER_PORT=5", 0, 0, 3, 4, -1, -1, "TESS_RANK", "m", 6},
    /* torchrun and DeepSpeed: the port is the one after MASTER_PORT. */
    {TORCHRUN(3, 8, 1, 2), 0, 0, 3, 8, 1, 2, "torchrun", "node1", 29501},
    {TORCHRUN(3, 8, 1, 2) "TESS_ROOT=node2:77", 0, 0, 3, 8, 1, 2, "torchrun", "node2", 77},
    {TORCHRUN(0, 1, 0, 1), 0, 0, 0, 1, 0, 1, "torchrun", NULL, 0},
    {DEEPSPEED(1, 2, 1, 2), 0, 0, 1, 2, 1, 2, "DeepSpeed", "10.0.0.7", 29601},
    {"RANK=1 WORLD_SIZE=2 MASTER_ADDR=m MASTER_PORT=80", 0, 0, 1, 2, -1, -1, "RANK", "m", 81},
    /* Open MPI and MPICH: one host needs no address. */
    {OPEN_MPI(1, 3, 1, 3), 0, 0, 1, 3, 1, 3, "Open MPI", "127.0.0.1", 0},
    {OPEN_MPI(1, 4, 0, 2) "MASTER_ADDR=m MASTER_PORT=5", 0, 0, 1, 4, 0, 2, "Open MPI", "m", 6},
    {OPEN_MPI(0, 1, 0, 1), 0, 0, 0, 1, 0, 1, "Open MPI", NULL, 0},
    {MPICH(2, 3, 2, 3), 0, 0, 2, 3, 2, 3, "MPICH", "127.0.0.1", 0},
    {MPICH(2, 3, 2, 3) "PMI_JOBID=x", 0, 0, 2, 3, 2, 3, "MPICH", "127.0.0.1", 0},
    /* Slurm. */
    {SLURM(3, 4, 1, 1) NODES, 0, 0, 3, 4, 1, 2, "Slurm", "node03", 0},
    {SLURM(1, 4, 1, 0) "SLURM_STEP_NODELIST=solo SLURM_STEP_TASKS_PER_NODE=4", 0, 0, 1, 4, 1, 4,
     "Slurm", "127.0.0.1", 0},
    {SLURM(3, 4, 1, 1) NODES "MASTER_ADDR=m MASTER_PORT=5", 0, 0, 3, 4, 1, 2, "Slurm", "m", 6},
    /* One inside another, for a good reason. */
    {TORCHRUN(9, 16, 1, 8) SLURM(1, 2, 0, 1), 0, 0, 9, 16, 1, 8, "torchrun", "node1", 29501},
    {TORCHRUN(9, 16, 1, 8) "GROUP_WORLD_SIZE=2 " OPEN_MPI(1, 2, 0, 1), 0, 0, 9, 16, 1, 8,
     "torchrun", "node1", 29501},
    {OPEN_MPI(3, 4, 0, 1) SLURM(2, 3, 0, 1) "TESS_ROOT=r:1", 0, 0, 3, 4, 0, 1, "Open MPI", "r", 1},
    {OWN(1, 4) "TESS_ROOT=r:1 " TORCHRUN(0, 1, 0, 1), 0, 0, 1, 4, -1, -1, "TESS_RANK", "r", 1},
    {OWN(1, 4) "TESS_ROOT=r:1 " TORCHRUN(2, 4, 2, 4), 0, 0, 1, 4, -1, -1, "TESS_RANK", "r", 1},
    {TORCHRUN(2, 4, 2, 4) OPEN_MPI(2, 4, 2, 4), 0, 0, 2, 4, 2, 4, "torchrun", "node1", 29501},
    /* The program's configuration. */
    {"TESS_ROOT=r:1", 2, 4, 2, 4, -1, -1, "flags", "r", 1},
    {OPEN_MPI(1, 4, 1, 4), 1, 4, 1, 4, 1, 4, "flags", "127.0.0.1", 0},
    {OPEN_MPI(1, 4, 1, 4), -1, 4, 1, 4, 1, 4, "Open MPI", "127.0.0.1", 0},
    {"", -1, 1, 0, 1, 0, 1, "flags", NULL, 0},

    /* N silent worlds of one. */
    {TORCHRUN(2, 4, 2, 4), -1, 1, 0, 0, 0, 0,
     "configuration says that the world has 1 rank, but "
     "torchrun says 4 (WORLD_SIZE)",
     NULL, 0},
    {OPEN_MPI(2, 4, 2, 4), 0, 1, 0, 0, 0, 0, "1 rank, but Open MPI says 4", NULL, 0},
    {SLURM(2, 4, 2, 0), -1, 1, 0, 0, 0, 0, "but Slurm says 4 (SLURM_STEP_NUM_TASKS)", NULL, 0},
    {OWN(0, 1) OPEN_MPI(2, 4, 2, 4), 0, 0, 0, 0, 0, 0,
     "TESS_RANK says that the world has 1 rank, "
     "but Open MPI says 4 (OMPI_COMM_WORLD_SIZE)",
     NULL, 0},
    {TORCHRUN(0, 1, 0, 1) SLURM(2, 4, 2, 0), 0, 0, 0, 0, 0, 0, "but Slurm says 4", NULL, 0},
    {TORCHRUN(0, 1, 0, 1) OPEN_MPI(2, 4, 2, 4), 0, 0, 0, 0, 0, 0, "but Open MPI says 4", NULL, 0},
    {TORCHRUN(1, 8, 1, 8) SLURM(2, 4, 0, 2), 0, 0, 0, 0, 0, 0, "but Slurm says 4", NULL, 0},
    /* Launchers that disagree. */
    {TORCHRUN(2, 8, 2, 8) OPEN_MPI(2, 4, 2, 4), 0, 0, 0, 0, 0, 0,
     "torchrun says that the world has 8 ranks, but Open MPI says 4", NULL, 0},
    {TORCHRUN(2, 4, 2, 4) OPEN_MPI(3, 4, 3, 4), 0, 0, 0, 0, 0, 0,
     "torchrun says that this is rank 2 of 4, but Open MPI says rank 3", NULL, 0},
    {OPEN_MPI(0, 2, 0, 2) MPICH(0, 3, 0, 3), 0, 0, 0, 0, 0, 0, "but MPICH says 3 (PMI_SIZE)", NULL,
     0},
    {OWN(1, 2) "TESS_ROOT=r:1 " MPICH(1, 3, 1, 3), 0, 0, 0, 0, 0, 0, "but MPICH says 3", NULL, 0},
    {"TESS_ROOT=r:1 " MPICH(1, 3, 1, 3), 1, 2, 0, 0, 0, 0, "but MPICH says 3", NULL, 0},
    {MPICH(1, 3, 1, 3), -1, 2, 0, 0, 0, 0, "2 ranks, but MPICH says 3", NULL, 0},
    /* Halves. */
    {"RANK=1", 0, 0, 0, 0, 0, 0, "RANK is set but WORLD_SIZE is not", NULL, 0},
    {"WORLD_SIZE=4", 0, 0, 0, 0, 0, 0, "WORLD_SIZE is set but RANK is not", NULL, 0},
    {"TESS_RANK=1", 0, 0, 0, 0, 0, 0, "TESS_RANK is set but TESS_WORLD_SIZE is not", NULL, 0},
    {"TESS_WORLD_SIZE=2", 0, 0, 0, 0, 0, 0, "TESS_WORLD_SIZE is set but TESS_RANK is not", NULL, 0},
    {"OMPI_COMM_WORLD_RANK=1", 0, 0, 0, 0, 0, 0, "OMPI_COMM_WORLD_SIZE is not", NULL, 0},
    {"", 2, -1, 0, 0, 0, 0, "says rank 2, but nothing says how many", NULL, 0},
    {"", -1, 4, 0, 0, 0, 0, "the world has 4 ranks, but nothing says which one", NULL, 0},
    /* Outside. */
    {OWN(4, 4), 0, 0, 0, 0, 0, 0,
     "TESS_RANK is 4 but TESS_WORLD_SIZE is 4; ranks count from 0 to 3", NULL, 0},
    {TORCHRUN(9, 8, 0, 8), 0, 0, 0, 0, 0, 0, "RANK is 9 but WORLD_SIZE is 8", NULL, 0},
    {"", 4, 4, 0, 0, 0, 0, "rank 4 is outside a world of 4", NULL, 0},
    {TORCHRUN(3, 4, 2, 2), 0, 0, 0, 0, 0, 0, "local rank 2 is outside local size 2", NULL, 0},
    {TORCHRUN(3, 4, 2, 8), 0, 0, 0, 0, 0, 0, "local size 8 is larger than the world", NULL, 0},
    /* Garbage. */
    {"RANK=first WORLD_SIZE=4", 0, 0, 0, 0, 0, 0, "RANK is 'first', but must be a number", NULL, 0},
    {"RANK=1 WORLD_SIZE=4x", 0, 0, 0, 0, 0, 0, "WORLD_SIZE is '4x'", NULL, 0},
    {"RANK=-1 WORLD_SIZE=4", 0, 0, 0, 0, 0, 0, "RANK is '-1'", NULL, 0},
    {"RANK=0 WORLD_SIZE=0", 0, 0, 0, 0, 0, 0, "WORLD_SIZE is '0'", NULL, 0},
    {"RANK=0 WORLD_SIZE=99999999999", 0, 0, 0, 0, 0, 0, "WORLD_SIZE is '99999999999'", NULL, 0},
    {"RANK=0x1 WORLD_SIZE=4", 0, 0, 0, 0, 0, 0, "RANK is '0x1'", NULL, 0},
    {OWN(1, 2) "TESS_LOCAL_RANK=no TESS_ROOT=r:1", 0, 0, 0, 0, 0, 0, "TESS_LOCAL_RANK is 'no'",
     NULL, 0},
    {OWN(1, 2) "TESS_ROOT=nowhere", 0, 0, 0, 0, 0, 0,
     "TESS_ROOT is 'nowhere', but must be "
     "host:port",
     NULL, 0},
    {OWN(1, 2) "TESS_ROOT=h:0", 0, 0, 0, 0, 0, 0, "its port must be a number from 1 to 65535", NULL,
     0},
    {OWN(1, 2) "TESS_ROOT=h:70000", 0, 0, 0, 0, 0, 0, "its port must be a number", NULL, 0},
    {OWN(1, 2) "TESS_ROOT=h:1x", 0, 0, 0, 0, 0, 0, "its port must be a number", NULL, 0},
    {OWN(1, 2) "TESS_ROOT=:12", 0, 0, 0, 0, 0, 0, "must be host:port", NULL, 0},
    {OWN(1, 2) "TESS_ROOT=fe80::1", 0, 0, 0, 0, 0, 0, "must be host:port", NULL, 0},
    {OWN(1, 2) "TESS_ROOT=[fe80::1", 0, 0, 0, 0, 0, 0, "must be host:port", NULL, 0},
    {OWN(0, 2) "TESS_ROOT=h:1 TESS_ROOT_FD=x", 0, 0, 0, 0, 0, 0, "TESS_ROOT_FD is 'x'", NULL, 0},
    {TORCHRUN(1, 2, 1, 2) "MASTER_PORT=65535", 0, 0, 0, 0, 0, 0,
     "MASTER_PORT is '65535', but must "
     "be a number from 1 to 65534",
     NULL, 0},
    /* No address. */
    {OWN(1, 2), 0, 0, 0, 0, 0, 0, "nothing says where rank 0 listens; set TESS_ROOT", NULL, 0},
    {"RANK=1 WORLD_SIZE=2 MASTER_ADDR=m", 0, 0, 0, 0, 0, 0, "MASTER_PORT is not", NULL, 0},
    {"RANK=1 WORLD_SIZE=2", 0, 0, 0, 0, 0, 0, "nothing says where rank 0 listens", NULL, 0},
    {OPEN_MPI(1, 4, 0, 2), 0, 0, 0, 0, 0, 0,
     "4 ranks were started (Open MPI), but nothing says "
     "where rank 0 listens",
     NULL, 0},
    {MPICH(1, 4, 0, 2), 0, 0, 0, 0, 0, 0, "nothing says where rank 0 listens", NULL, 0},
    {SLURM(1, 2, 0, 1) "SLURM_STEP_TASKS_PER_NODE=1(x2)", 0, 0, 0, 0, 0, 0, "nothing says where",
     NULL, 0},
    {"", 1, 2, 0, 0, 0, 0, "nothing says where rank 0 listens", NULL, 0},
    {SLURM(3, 4, 1, 1) "SLURM_STEP_NODELIST=node[ SLURM_STEP_TASKS_PER_NODE=2(x2)", 0, 0, 0, 0, 0,
     0, "SLURM_STEP_NODELIST is 'node['", NULL, 0},
    {SLURM(3, 4, 1, 1) "SLURM_STEP_NODELIST=a,b SLURM_STEP_TASKS_PER_NODE=4", 0, 0, 0, 0, 0, 0,
     "SLURM_STEP_TASKS_PER_NODE is '4', which gives no number of tasks for node 1", NULL, 0},
};

static void check_row(size_t n)
{
    const row_t *row = &rows[n];
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    tessi_place_t place;
    set_environment(row->variables);
    if (row->config_rank != 0 || row->config_size != 0) {
        config.rank = row->config_rank;
        config.size = row->config_size;
    }
    tess_status_t status = tessi_place_find(&config, &place);
    if (row->size == 0) {
        if (status != TESS_ERR_INVALID_ARGUMENT || !strstr(tess_last_error(), row->text))
            fail_msg("row %zu (%s): got %s '%s', expected '%s'", n, row->variables,
                     tess_status_name(status), status == TESS_OK ? "" : tess_last_error(),
                     row->text);
        return;
    }
    if (status != TESS_OK) fail_msg("row %zu (%s): %s", n, row->variables, tess_last_error());
    if (place.rank != row->rank || place.size != row->size || place.local_rank != row->local_rank ||
        place.local_size != row->local_size || strcmp(place.source, row->text) != 0)
        fail_msg("row %zu (%s): rank %d/%d of %d/%d, local %d/%d of %d/%d, source '%s'/'%s'", n,
                 row->variables, place.rank, row->rank, place.size, row->size, place.local_rank,
                 row->local_rank, place.local_size, row->local_size, place.source, row->text);
    if (!row->host) return;
    if (strcmp(place.host, row->host) != 0 || (row->port != 0 && place.port != row->port))
        fail_msg("row %zu (%s): root %s:%d, expected %s:%d", n, row->variables, place.host,
                 place.port, row->host, row->port);
    if (row->port == 0 && (place.port_count < 2 || place.cookie == 0 || place.port < 1024 ||
                           place.port + place.port_count > 32768))
        fail_msg("row %zu (%s): derived port %d (%d), cookie %llu", n, row->variables, place.port,
                 place.port_count, (unsigned long long)place.cookie);
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof rows / sizeof rows[0]; n++) check_row(n);
}

static tessi_place_t find(const char *variables)
{
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    tessi_place_t place;
    set_environment(variables);
    TEST_OK(tessi_place_find(&config, &place));
    return place;
}

/* All ranks of a job agree on port and cookie, and another job has others. */
static void test_job_identity(void **state)
{
    (void)state;
    tessi_place_t a = find(OPEN_MPI(0, 2, 0, 2)), b = find(OPEN_MPI(1, 2, 1, 2));
    assert_int_equal(a.port, b.port);
    assert_true(a.cookie == b.cookie);
    b = find("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2 "
             "PMIX_NAMESPACE=1955463170");
    assert_true(a.cookie != b.cookie);
    a = find(SLURM(0, 4, 0, 0) NODES);
    b = find(SLURM(3, 4, 1, 1) NODES);
    assert_int_equal(a.port, b.port);
    assert_true(a.cookie == b.cookie);
    b = find(TORCHRUN(1, 2, 1, 2));
    a = find(TORCHRUN(0, 2, 0, 2));
    assert_true(a.cookie != 0 && a.cookie == b.cookie);
    b = find(TORCHRUN(0, 2, 0, 2) "TORCHELASTIC_RESTART_COUNT=1");
    assert_true(a.cookie != b.cookie);
    /* Across hosts nothing local may enter the cookie. */
    assert_true(find(MPICH(2, 4, 0, 2) "MASTER_ADDR=m MASTER_PORT=5").cookie == 0);
}

static void test_where_rank_0_listens(void **state)
{
    (void)state;
    assert_int_equal(find(OWN(0, 2) "TESS_ROOT=10.1.2.3:5").listen_any, 0);
    assert_int_equal(find(OWN(0, 2) "TESS_ROOT=[::1]:5").listen_any, 0);
    assert_int_equal(find(OWN(0, 2) "TESS_ROOT=node1:5").listen_any, 1);
    assert_int_equal(find(OWN(0, 2) "TESS_ROOT=localhost:5").listen_any, 1);
    assert_int_equal(find(OWN(0, 2) "TESS_LOCAL_SIZE=2 TESS_ROOT=localhost:5").listen_any, 0);
    assert_int_equal(find(OPEN_MPI(0, 2, 0, 2)).listen_any, 0);
    assert_int_equal(find(OWN(0, 2) "TESS_ROOT=h:5 TESS_ROOT_FD=9").root_fd, 9);
    assert_int_equal(find(OWN(1, 2) "TESS_ROOT=h:5 TESS_ROOT_FD=9").root_fd, -1);
}

static void test_bad_config(void **state)
{
    (void)state;
    tess_world_t *world;
    static const tess_world_config_t bad[] = {{-2, -1, -1, -1, NULL, 0},  {-1, 0, -1, -1, NULL, 0},
                                              {-1, -2, -1, -1, NULL, 0},  {0, 1, -2, -1, NULL, 0},
                                              {0, 1, -1, 0, NULL, 0},     {0, 1, -1, -1, NULL, -5},
                                              {0, 1, 1, 1, NULL, 0},      {0, 1, 0, 2, NULL, 0},
                                              {0, 2, 0, 1, "no port", 0}, {0, 2, 2, -1, "h:1", 0}};
    set_environment("");
    for (size_t n = 0; n < sizeof bad / sizeof bad[0]; n++)
        TEST_STATUS(tess_world_open(&bad[n], &world), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_world_open(NULL, NULL), TESS_ERR_INVALID_ARGUMENT);
    setenv("TESS_TIMEOUT_MS", "soon", 1);
    TEST_STATUS(tess_world_open(NULL, &world), TESS_ERR_INVALID_ARGUMENT);
    unsetenv("TESS_TIMEOUT_MS");
}

static void test_detected(void **state)
{
    (void)state;
    static const struct {
        const char *variables;
        int expected;
    } cases[] = {{"", 0},
                 {OWN(0, 1), 1},
                 {OWN(1, 2), 1},
                 {TORCHRUN(0, 1, 0, 1), 0},
                 {TORCHRUN(0, 2, 0, 2), 1},
                 {DEEPSPEED(0, 2, 0, 2), 1},
                 {OPEN_MPI(0, 2, 0, 2), 1},
                 {MPICH(0, 2, 0, 2), 1},
                 {SLURM(0, 2, 0, 0), 1},
                 {"SLURM_PROCID=0 SLURM_NTASKS=4", 0},
                 {"RANK=x WORLD_SIZE=2", 1},
                 {"RANK=1", 1}};
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        set_environment(cases[n].variables);
        if (tess_launch_detected() != cases[n].expected)
            fail_msg("'%s' gave %d", cases[n].variables, !cases[n].expected);
    }
}

static void test_nodelist(void **state)
{
    (void)state;
    static const struct {
        const char *list, *first; /* NULL: not a list */
    } cases[] = {{"node7", "node7"},
                 {"node[03-05,7],other", "node03"},
                 {"node[3],a", "node3"},
                 {"a,b,c", "a"},
                 {"rack[1-2]n[04-06]", "rack1n04"},
                 {"n[001-100,200]-ib.cluster", "n001-ib.cluster"},
                 {"[5-6]x", "5x"},
                 {"10.0.0.[1-4]", "10.0.0.1"},
                 {"", NULL},
                 {",a", NULL},
                 {"node[", NULL},
                 {"node[]", NULL},
                 {"node[a-b]", NULL},
                 {"node]3[", NULL},
                 {"node[3;4]", NULL},
                 {"two words", NULL}};
    char host[64], small[6];
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        tess_status_t status = tessi_nodelist_first(cases[n].list, host, sizeof host);
        if (!cases[n].first) assert_int_equal(status, TESS_ERR_INVALID_ARGUMENT);
        else if (status != TESS_OK) fail_msg("'%s': %s", cases[n].list, tess_last_error());
        else assert_string_equal(host, cases[n].first);
    }
    TEST_STATUS(tessi_nodelist_first("toolong", small, sizeof small), TESS_ERR_INVALID_ARGUMENT);
}

static void test_tasks_per_node(void **state)
{
    (void)state;
    static const struct {
        const char *list;
        int node, tasks; /* 0: an error */
    } cases[] = {{"8", 0, 8},     {"8(x4)", 3, 8},     {"8(x4)", 4, 0}, {"8(x4),2", 4, 2},
                 {"1,2,3", 1, 2}, {"1,2(x2),3", 2, 2}, {"", 0, 0},      {"x", 0, 0},
                 {"8(x)", 0, 0},  {"8(x0)", 0, 0},     {"0", 0, 0},     {"8(x2", 1, 0},
                 {"8,,2", 1, 0},  {"8;2", 1, 0},       {"-3", 0, 0}};
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        int tasks = 0;
        tess_status_t status = tessi_nodelist_tasks(cases[n].list, cases[n].node, &tasks);
        if ((status == TESS_OK) != (cases[n].tasks > 0) || tasks != cases[n].tasks)
            fail_msg("'%s' node %d gave %d (%s)", cases[n].list, cases[n].node, tasks,
                     tess_status_name(status));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_job_identity),
        cmocka_unit_test(test_where_rank_0_listens),
        cmocka_unit_test(test_bad_config),
        cmocka_unit_test(test_detected),
        cmocka_unit_test(test_nodelist),
        cmocka_unit_test(test_tasks_per_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
