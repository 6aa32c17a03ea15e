/* SPDX-License-Identifier: Apache-2.0 */
/* Where this process stands among the ranks, as configuration and environment tell. */
#ifndef TESSERA_COMM_WORLD_ENV_H
#define TESSERA_COMM_WORLD_ENV_H

#include <stddef.h>
#include <stdint.h>
#include <tessera/world.h>

#include "wire.h"

typedef struct tessi_place {
    int rank, size;
    int local_rank, local_size; /* -1: nobody said */
    char source[48];

    /* Of rank 0; not filled in where size is 1. */
    char host[TESSI_HOST_BYTES];
    int port;
    int port_count;  /* candidates from port on; more than 1 where the port was derived */
    int listen_any;  /* rank 0 listens on all its addresses, not only on that of host */
    int root_fd;     /* a listening socket that rank 0 inherited, or -1 */
    uint64_t cookie; /* of the job, so that another job's ranks are refused; 0: none known */
} tessi_place_t;

/* Fills place. Contradictions are TESS_ERR_INVALID_ARGUMENT with one sentence. */
TESS_MUST_CHECK tess_status_t tessi_place_find(const tess_world_config_t *config,
                                               tessi_place_t *place);

/* Who started this process, as far as the environment tells. */
typedef enum tessi_family {
    TESSI_FAMILY_TESSERA = 0, /* TESS_RANK … */
    TESSI_FAMILY_TORCH,       /* RANK …: torchrun, DeepSpeed and what imitates them */
    TESSI_FAMILY_OPEN_MPI,
    TESSI_FAMILY_MPICH,
    TESSI_FAMILY_SLURM,
    TESSI_FAMILY_COUNT,
    TESSI_FAMILY_NONE = -1
} tessi_family_t;

/* Largest size that any variable of the environment claims; 0: no launcher's variables are set. */
TESS_MUST_CHECK tess_status_t tessi_environment_size(int *size);

/* world_root.c: fills host, port, cookie … of a place whose ranks are known. */
TESS_MUST_CHECK tess_status_t tessi_place_find_root(const tess_world_config_t *config,
                                                    tessi_family_t family, tessi_place_t *place);

/* One number from the environment, within [low, high]; *found says whether it is set. */
TESS_MUST_CHECK tess_status_t tessi_environment_int(const char *variable, int low, int high,
                                                    int *value, int *found);
/* The variable's text; NULL where it is unset or empty. */
const char *tessi_environment(const char *variable);

/* First host of a compressed Slurm list such as node[03-05,7],other: "node03". */
TESS_MUST_CHECK tess_status_t tessi_nodelist_first(const char *list, char *host, size_t host_bytes);

/* The node-th number of a Slurm list such as 8(x4),2: tasks on that node. */
TESS_MUST_CHECK tess_status_t tessi_nodelist_tasks(const char *list, int node, int *tasks);

#endif
