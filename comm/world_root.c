/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the address where rank 0 listens: from the config, TESS_ROOT, MASTER_ADDR with MASTER_PORT,
 * Slurm's host list, or, where all ranks share one host, from the identity of the job.
 *
 * Invariant: every rank of a job computes the same address and the same cookie, from what all its
 * ranks see alike. MASTER_PORT itself is never used but always the port after it: torchrun's agent
 * and the process group of a program that also uses torch listen on MASTER_PORT.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/internal.h"
#include "world_env.h"

/* Below the ports that Linux gives to outgoing connections (32768 and up). */
#define PORT_FIRST 20000
#define PORT_COUNT 12000
/* Where the first derived port is taken by a stranger, rank 0 takes one of those behind it. */
#define PORT_CANDIDATES 8

/* With an end that no text contains, so that "a","bc" differs from "ab","c". */
static uint64_t hash_text(uint64_t hash, const char *text)
{
    static const unsigned char end = 0xff;
    return tessi_hash(tessi_hash(hash, text, strlen(text)), &end, 1);
}

static uint64_t hash_job(const char *launcher, const char *a, const char *b)
{
    uint64_t hash = hash_text(hash_text(hash_text(TESSI_HASH_START, launcher), a), b);
    return hash ? hash : 1;
}

static void derive_port(tessi_place_t *place, const char *host, uint64_t job)
{
    snprintf(place->host, sizeof place->host, "%s", host);
    place->port = PORT_FIRST + (int)((job ^ (job >> 32)) % PORT_COUNT);
    place->port_count = PORT_CANDIDATES;
    place->cookie = job;
}

static tess_status_t use_address(tessi_place_t *place, const char *name, const char *text)
{
    place->port_count = 1;
    return tessi_address_split(name, text, place->host, &place->port);
}

static tess_status_t use_master(tessi_place_t *place, const char *address)
{
    int port = 0, found;
    tess_status_t status = tessi_environment_int("MASTER_PORT", 1, 65534, &port, &found);
    if (status != TESS_OK) return status;
    if (!found)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "MASTER_ADDR is set but MASTER_PORT is not; set both, or TESS_ROOT to "
                          "host:port of rank 0");
    if (strlen(address) >= sizeof place->host)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "MASTER_ADDR is too long to be a host: '%s'",
                          address);
    snprintf(place->host, sizeof place->host, "%s", address);
    place->port = port + 1;
    place->port_count = 1;
    return TESS_OK;
}

/* What the launcher calls this job; equal on all its ranks and on no other job of this host. 0
 * where it has no name. */
static uint64_t identify_job(tessi_family_t family)
{
    const char *id = NULL, *more = "";
    switch (family) {
    case TESSI_FAMILY_TORCH:
        id = tessi_environment("TORCHELASTIC_RUN_ID");
        more = tessi_environment("TORCHELASTIC_RESTART_COUNT");
        return id ? hash_job("torchrun", id, more ? more : "") : 0;
    case TESSI_FAMILY_SLURM:
        id = tessi_environment("SLURM_JOB_ID");
        more = tessi_environment("SLURM_STEP_ID");
        return id ? hash_job("Slurm", id, more ? more : "") : 0;
    case TESSI_FAMILY_OPEN_MPI:
        id = tessi_environment("PMIX_NAMESPACE");
        if (!id) id = tessi_environment("OMPI_MCA_ess_base_jobid");
        return id ? hash_job("Open MPI", id, "") : 0;
    case TESSI_FAMILY_MPICH:
        id = tessi_environment("PMI_JOBID");
        return id ? hash_job("MPICH", id, "") : 0;
    default:
        return 0;
    }
}

static tess_status_t fail_no_root(const tessi_place_t *place)
{
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "%d ranks were started (%s), but nothing says where rank 0 listens; set "
                      "TESS_ROOT to host:port of rank 0, or MASTER_ADDR and MASTER_PORT, equal on "
                      "all ranks",
                      place->size, place->source);
}

static tess_status_t derive_root(tessi_family_t family, tessi_place_t *place)
{
    char first[TESSI_HOST_BYTES];
    int one_host = place->local_size == place->size;
    uint64_t job = identify_job(family);
    if (family == TESSI_FAMILY_SLURM && job) {
        const char *nodes = tessi_environment("SLURM_STEP_NODELIST");
        if (!nodes) return fail_no_root(place);
        tess_status_t status = tessi_nodelist_first(nodes, first, sizeof first);
        if (status == TESS_OK) derive_port(place, one_host ? "127.0.0.1" : first, job);
        return status;
    }
    if (!one_host || (family != TESSI_FAMILY_OPEN_MPI && family != TESSI_FAMILY_MPICH))
        return fail_no_root(place);
    /* On one host the parent process is common to all ranks, unless a script stands between. */
    char parent[32];
    snprintf(parent, sizeof parent, "parent %d", (int)getppid());
    derive_port(place, "127.0.0.1", job ? job : hash_job(place->source, parent, ""));
    return TESS_OK;
}

/* A name may resolve to a loopback address on the very host that it names (Debian's 127.0.1.1), so
 * only a numeric address is taken at its word. */
static int must_listen_on_any(const tessi_place_t *place)
{
    unsigned char address[sizeof(struct in6_addr)];
    if (inet_pton(AF_INET, place->host, address) == 1) return 0;
    if (inet_pton(AF_INET6, place->host, address) == 1) return 0;
    return place->local_size != place->size;
}

tess_status_t tessi_place_find_root(const tess_world_config_t *config, tessi_family_t family,
                                    tessi_place_t *place)
{
    tess_status_t status;
    const char *own = tessi_option(TESSI_OPTION_ROOT);
    const char *master = tessi_environment("MASTER_ADDR");
    if (config->root) {
        TESS_TRY(use_address(place, "the configuration's root", config->root), failed);
    } else if (*own) {
        int found, fd = -1;
        TESS_TRY(use_address(place, "TESS_ROOT", own), failed);
        TESS_TRY(tessi_environment_int("TESS_ROOT_FD", 0, 1 << 20, &fd, &found), failed);
        if (place->rank == 0) place->root_fd = fd;
    } else if (master) {
        TESS_TRY(use_master(place, master), failed);
        place->cookie = identify_job(family);
    } else {
        TESS_TRY(derive_root(family, place), failed);
    }
    place->listen_any = must_listen_on_any(place);
    return TESS_OK;
failed:
    return status;
}
