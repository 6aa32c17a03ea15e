/* SPDX-License-Identifier: Apache-2.0 */
/* Finds rank, size, local rank and local size: from the config, else from TESS_* variables, else
 * from torchrun, DeepSpeed, Open MPI, MPICH or Slurm.
 *
 * Invariant: a process that any of them counts among several ranks never becomes a world of one,
 * and two sources that contradict each other are refused instead of ranked.
 */
#include "world_env.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/internal.h"

typedef struct variables {
    const char *name;
    const char *rank, *size, *local_rank, *local_size;
} variables_t;

static const variables_t families[TESSI_FAMILY_COUNT] = {
    [TESSI_FAMILY_TESSERA] = {"TESS_RANK", "TESS_RANK", "TESS_WORLD_SIZE", "TESS_LOCAL_RANK",
                              "TESS_LOCAL_SIZE"},
    [TESSI_FAMILY_TORCH] = {"RANK", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    [TESSI_FAMILY_OPEN_MPI] = {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                               "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    [TESSI_FAMILY_MPICH] = {"MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    [TESSI_FAMILY_SLURM] = {"Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", NULL},
};

/* What one family's variables say. */
typedef struct claim {
    int found; /* both rank and size are there */
    int half;  /* only one of them is */
    int rank, size;
} claim_t;

const char *tessi_environment(const char *variable)
{
    const char *text = getenv(variable);
    return text && *text ? text : NULL;
}

tess_status_t tessi_environment_int(const char *variable, int low, int high, int *value, int *found)
{
    const char *text = tessi_environment(variable);
    *found = text != NULL;
    if (!text) return TESS_OK;
    char *rest;
    errno = 0;
    long number = strtol(text, &rest, 10);
    if (errno || *rest || rest == text || number < low || number > high)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s is '%s', but must be a number from %d to "
                          "%d",
                          variable, text, low, high);
    *value = (int)number;
    return TESS_OK;
}

static const char *family_name(tessi_family_t family)
{
    if (family != TESSI_FAMILY_TORCH) return families[family].name;
    if (tessi_environment("TORCHELASTIC_RUN_ID")) return "torchrun";
    if (tessi_environment("CROSS_RANK") || tessi_environment("LOCAL_SIZE")) return "DeepSpeed";
    return tessi_environment("LOCAL_WORLD_SIZE") ? "torchrun" : "RANK";
}

static tess_status_t read_claim(tessi_family_t family, claim_t *claim)
{
    const variables_t *v = &families[family];
    int rank_found, size_found;
    tess_status_t status;
    memset(claim, 0, sizeof *claim);
    TESS_TRY(tessi_environment_int(v->rank, 0, INT_MAX - 1, &claim->rank, &rank_found), failed);
    TESS_TRY(tessi_environment_int(v->size, 1, INT_MAX, &claim->size, &size_found), failed);
    claim->found = rank_found && size_found;
    /* Slurm sets some of its variables in every shell of an allocation, and a world of one needs no
     * rank; neither is a launcher that forgot something. */
    if (family == TESSI_FAMILY_SLURM || (size_found && claim->size == 1)) claim->half = 0;
    else claim->half = rank_found != size_found;
    if (claim->found && claim->rank >= claim->size)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s is %d but %s is %d; ranks count from 0 to %d", v->rank, claim->rank,
                          v->size, claim->size, claim->size - 1);
failed:
    return status;
}

static tess_status_t fail_half(tessi_family_t family)
{
    const variables_t *v = &families[family];
    int rank_found = tessi_environment(v->rank) != NULL;
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s is set but %s is not; set both or neither",
                      rank_found ? v->rank : v->size, rank_found ? v->size : v->rank);
}

tess_status_t tessi_environment_size(int *size)
{
    int largest = 0;
    for (int f = 0; f < TESSI_FAMILY_COUNT; f++) {
        claim_t claim;
        tess_status_t status = read_claim((tessi_family_t)f, &claim);
        if (status != TESS_OK) return status;
        if (claim.half) return fail_half((tessi_family_t)f);
        if (claim.found && claim.size > largest) largest = claim.size;
    }
    *size = largest;
    return TESS_OK;
}

/* An outer launcher may start an inner one, once a node: srun or mpirun starts torchrun, or mpirun
 * starts its daemons through srun. Then their sizes differ for a good reason. */
static int is_nested(tessi_family_t inner, int inner_size, int inner_local_size,
                     tessi_family_t outer, int outer_size)
{
    if (outer == TESSI_FAMILY_SLURM) return inner_size > 1 && inner_local_size != inner_size;
    int groups = 0, found = 0;
    if (inner != TESSI_FAMILY_TORCH) return 0;
    return tessi_environment_int("GROUP_WORLD_SIZE", 1, INT_MAX, &groups, &found) == TESS_OK &&
           found && groups == outer_size;
}

/* Compares what was decided with every launcher that says something else. */
static tess_status_t check_claims(const claim_t *claims, tessi_family_t family, int from_config,
                                  const tessi_place_t *place)
{
    for (int f = 0; f < TESSI_FAMILY_COUNT; f++) {
        const claim_t *claim = &claims[f];
        if (!claim->found || (f == (int)family && !from_config)) continue;
        const variables_t *v = &families[f];
        if (claim->size != place->size && claim->size > 1 &&
            (from_config ||
             !is_nested(family, place->size, place->local_size, (tessi_family_t)f, claim->size)))
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "%s says that the world has %d rank%s, but %s says %d (%s); unset "
                              "the variables of the one that did not start this program",
                              from_config ? "the program's configuration" : place->source,
                              place->size, place->size == 1 ? "" : "s",
                              family_name((tessi_family_t)f), claim->size, v->size);
        int is_launcher = family != TESSI_FAMILY_TESSERA && !from_config;
        if (is_launcher && f != TESSI_FAMILY_SLURM && claim->size == place->size &&
            claim->rank != place->rank)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "%s says that this is rank %d of %d, but %s says rank %d; set "
                              "TESS_RANK and TESS_WORLD_SIZE to decide",
                              place->source, place->rank, place->size,
                              family_name((tessi_family_t)f), claim->rank);
    }
    return TESS_OK;
}

/* Local rank and size as the family that gave the rank tells them. */
static tess_status_t read_local(tessi_family_t family, tessi_place_t *place)
{
    const variables_t *v = &families[family];
    int found, rank = -1, size = -1, node = 0;
    tess_status_t status;
    TESS_TRY(tessi_environment_int(v->local_rank, 0, INT_MAX - 1, &rank, &found), failed);
    if (v->local_size) {
        TESS_TRY(tessi_environment_int(v->local_size, 1, INT_MAX, &size, &found), failed);
        if (family == TESSI_FAMILY_TORCH && !found)
            TESS_TRY(tessi_environment_int("LOCAL_SIZE", 1, INT_MAX, &size, &found), failed);
    }
    const char *tasks = tessi_environment("SLURM_STEP_TASKS_PER_NODE");
    if (family == TESSI_FAMILY_SLURM && tasks) {
        TESS_TRY(tessi_environment_int("SLURM_NODEID", 0, INT_MAX, &node, &found), failed);
        if (found) TESS_TRY(tessi_nodelist_tasks(tasks, node, &size), failed);
    }
    if (place->local_rank < 0) place->local_rank = rank;
    if (place->local_size < 0) place->local_size = size;
    return TESS_OK;
failed:
    return status;
}

static tess_status_t check_numbers(const tessi_place_t *place)
{
    if (place->rank < 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "the world has %d ranks, but nothing says which one this process is; set "
                          "the rank in the configuration, or TESS_RANK and TESS_WORLD_SIZE",
                          place->size);
    if (place->rank >= place->size)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "rank %d is outside a world of %d; ranks count from 0 to %d", place->rank,
                          place->size, place->size - 1);
    if (place->local_size > place->size)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "local size %d is larger than the world, which has %d ranks",
                          place->local_size, place->size);
    if (place->local_rank >= place->size ||
        (place->local_size >= 0 && place->local_rank >= place->local_size))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "local rank %d is outside local size %d",
                          place->local_rank,
                          place->local_size >= 0 ? place->local_size : place->size);
    return TESS_OK;
}

static tess_status_t check_config(const tess_world_config_t *config)
{
    if (config->rank < -1 || config->size < -1 || config->size == 0 || config->local_rank < -1 ||
        config->local_size < -1 || config->local_size == 0 || config->timeout_ms < 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "world configuration: rank %d, size %d, local rank %d, local size %d, "
                          "timeout %d ms; -1 means from the environment (timeout: 0), and sizes "
                          "start at 1",
                          config->rank, config->size, config->local_rank, config->local_size,
                          config->timeout_ms);
    return TESS_OK;
}

/* Merges the config's rank and size with those of the family found. */
static tess_status_t decide(const tess_world_config_t *config, const claim_t *claims,
                            tessi_family_t family, tessi_place_t *place)
{
    int config_alone = config->rank >= 0 && config->size >= 0;
    if (family != TESSI_FAMILY_NONE && !config_alone) {
        if (config->size >= 0 && config->size != claims[family].size)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "the program's configuration says that the world has %d rank%s, but "
                              "%s says %d (%s)",
                              config->size, config->size == 1 ? "" : "s", family_name(family),
                              claims[family].size, families[family].size);
        place->rank = config->rank >= 0 ? config->rank : claims[family].rank;
        place->size = claims[family].size;
        snprintf(place->source, sizeof place->source, "%s", family_name(family));
        return TESS_OK;
    }
    if (config->rank >= 0 && config->size < 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "the program's configuration says rank %d, but nothing says how many "
                          "ranks there are; set the size too",
                          config->rank);
    int single = config->size < 0;
    place->size = single ? 1 : config->size;
    place->rank = config->rank >= 0 ? config->rank : place->size == 1 ? 0 : -1;
    snprintf(place->source, sizeof place->source, "%s", single ? "single process" : "flags");
    return TESS_OK;
}

tess_status_t tessi_place_find(const tess_world_config_t *config, tessi_place_t *place)
{
    claim_t claims[TESSI_FAMILY_COUNT];
    tessi_family_t family = TESSI_FAMILY_NONE;
    tess_status_t status;
    memset(place, 0, sizeof *place);
    place->root_fd = -1;
    place->local_rank = config->local_rank;
    place->local_size = config->local_size;
    TESS_TRY(check_config(config), failed);
    for (int f = 0; f < TESSI_FAMILY_COUNT; f++) {
        TESS_TRY(read_claim((tessi_family_t)f, &claims[f]), failed);
        if (claims[f].found && family == TESSI_FAMILY_NONE) family = (tessi_family_t)f;
    }
    int from_config = config->rank >= 0 && config->size >= 0;
    for (int f = 0; f < TESSI_FAMILY_COUNT; f++) {
        int decided = from_config || family == TESSI_FAMILY_TESSERA;
        if (claims[f].half && !decided) return fail_half((tessi_family_t)f);
    }
    TESS_TRY(decide(config, claims, family, place), failed);
    /* A launcher's local numbers belong to its own ranks, not to those that a config made up. */
    int same_size = family != TESSI_FAMILY_NONE && claims[family].size == place->size;
    if (same_size && claims[family].rank == place->rank)
        TESS_TRY(read_local(family, place), failed);
    if (place->size == 1 && place->local_rank < 0) place->local_rank = 0;
    if (place->size == 1 && place->local_size < 0) place->local_size = 1;
    TESS_TRY(check_numbers(place), failed);
    TESS_TRY(check_claims(claims, family, from_config || config->size == 1, place), failed);
    if (place->size > 1)
        TESS_TRY(tessi_place_find_root(config, same_size ? family : TESSI_FAMILY_NONE, place),
                 failed);
    return TESS_OK;
failed:
    return status;
}
