/* SPDX-License-Identifier: Apache-2.0 */
/* Opens and closes communicators: who takes part, which transport moves the bytes, and the word of
 * all members that they mean the same communicator.
 *
 * Invariant: a collective step either succeeds on every rank or fails on every rank; each rank
 * brings its own outcome to an exchange before anybody goes on, so that no one is left waiting for
 * a rank that gave up.
 */
#include <stdio.h>
#include <string.h>
#include <tessera/launch.h>

#include "comm_internal.h"

#define CARDS_ON_STACK 16
#define RANKS_ON_STACK 64
#define RANK_TEXT_BYTES 160

static const tessi_transport_t *const transports[] = {
    &tessi_transport_self,
    &tessi_transport_ucx,
    &tessi_transport_nccl,
};
#define TRANSPORT_COUNT ((int)(sizeof transports / sizeof *transports))

/* What a rank brings to the opening. Zeroed before it is filled. */
typedef struct card {
    char name[64];
    char transport[16];
    int32_t device_kind;
    int32_t timeout_ms;
    int32_t status; /* of what this rank did before */
    char sentence[300];
} card_t;

static const char *rank_text(const tess_comm_t *comm, int rank, char *text)
{
    return tessi_world_rank_text(comm->world, comm->ranks[rank], text, RANK_TEXT_BYTES);
}

/* --- agreeing --------------------------------------------------------------------------------- */

tess_status_t tessi_comm_exchange(tess_comm_t *comm, const char *what, const void *mine,
                                  int64_t bytes, void *all)
{
    if (comm->exchange_status != TESS_OK)
        return tessi_fail(comm->exchange_status,
                          "communicator %s: %s was not tried, because an earlier step failed",
                          comm->name, what);
    char key[96];
    snprintf(key, sizeof key, "%s %016llx.%lld", what, (unsigned long long)comm->watch.comm_id,
             (long long)comm->exchange_count++);
    comm->exchange_status = tessi_world_exchange_watched(comm->world, &comm->watch, key, mine,
                                                         bytes, all, comm->timeout_ms);
    return comm->exchange_status;
}

static tess_status_t first_failure(const tess_comm_t *comm, const char *what, const card_t *cards)
{
    char who[RANK_TEXT_BYTES];
    for (int r = 0; r < comm->size; r++)
        if (cards[r].status < 0)
            return tessi_fail((tess_status_t)cards[r].status, "communicator %s, %s: %s failed: %s",
                              comm->name, what, rank_text(comm, r, who), cards[r].sentence);
    return TESS_OK;
}

/* Small communicators need no heap here, so that a rank without memory can still say so. */
tess_status_t tessi_comm_agree(tess_comm_t *comm, const char *what, tess_status_t mine)
{
    card_t few[CARDS_ON_STACK] = {0}, card;
    memset(&card, 0, sizeof card);
    card.status = mine;
    if (mine < 0) snprintf(card.sentence, sizeof card.sentence, "%s", tess_last_error());
    if (comm->exchange_status != TESS_OK) return mine < 0 ? mine : comm->exchange_status;

    card_t *cards = few;
    if (comm->size > CARDS_ON_STACK) cards = tessi_calloc((size_t)comm->size, sizeof *cards);
    if (!cards) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = tessi_comm_exchange(comm, what, &card, sizeof card, cards);
    if (mine < 0) status = tessi_fail(mine, "%s", card.sentence);
    else if (status == TESS_OK) status = first_failure(comm, what, cards);
    if (cards != few) tessi_free(cards);
    return status;
}

/* --- choosing --------------------------------------------------------------------------------- */

static const tessi_transport_t *find_transport(const char *name)
{
    for (int i = 0; i < TRANSPORT_COUNT; i++)
        if (strcmp(transports[i]->name, name) == 0) return transports[i];
    return NULL;
}

static tess_status_t choose_transport(const tess_comm_config_t *config, tess_comm_t *comm)
{
    const char *name = config->transport;
    if (!name) name = tessi_option(TESSI_OPTION_TRANSPORT);
    tess_device_kind_t kind = tess_device_kind(comm->device);
    const char *reason = "asked for";
    if (strcmp(name, "auto") == 0) {
        name = kind == TESS_DEVICE_CUDA ? "nccl" : "ucx";
        reason = kind == TESS_DEVICE_CUDA ? "auto: a CUDA device" : "auto: host memory";
        if (comm->size == 1) {
            name = "self";
            reason = "auto: one rank";
        }
    }
    const tessi_transport_t *transport = find_transport(name);
    if (!transport)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "communicator %s: transport \"%s\" is none of auto, self, ucx and nccl",
                          comm->name, name);
    const char *missing = transport->unusable(kind);
    if (missing)
        return tessi_fail(TESS_ERR_UNSUPPORTED, "communicator %s: transport %s on device %s: %s",
                          comm->name, name, tess_device_name(comm->device), missing);
    comm->transport = transport;
    tessi_log(TESSI_LOG_INFO, "communicator %s: transport %s (%s)", comm->name, name, reason);
    return TESS_OK;
}

static tess_status_t check_ranks(tess_world_t *world, const tess_comm_config_t *config)
{
    if (!config->ranks) return TESS_OK;
    int size = tess_world_size(world), own = tess_world_rank(world), found = 0;
    if (config->rank_count < 1)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_comm_open: rank_count is %d",
                          config->rank_count);
    for (int i = 0; i < config->rank_count; i++) {
        int rank = config->ranks[i];
        if (rank < 0 || rank >= size)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "tess_comm_open: ranks[%d] is %d, but the world has ranks 0 to %d", i,
                              rank, size - 1);
        if (i > 0 && rank <= config->ranks[i - 1])
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "tess_comm_open: ranks must ascend, but ranks[%d] is %d after %d", i,
                              rank, config->ranks[i - 1]);
        found |= rank == own;
    }
    if (found) return TESS_OK;
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "tess_comm_open: this rank, %d, is none of the communicator's ranks", own);
}

static tess_status_t check_config(tess_world_t *world, tess_device_t *device,
                                  const tess_comm_config_t *config, tess_comm_t **comm)
{
    if (!world || !device || !comm)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_comm_open: %s is NULL",
                          !world    ? "world"
                          : !device ? "device"
                                    : "comm");
    if (config->timeout_ms < 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_comm_open: timeout_ms is %d",
                          config->timeout_ms);
    if (config->name && strlen(config->name) >= sizeof((tess_comm_t *)0)->name)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_comm_open: the name \"%s\" has more than %zu characters",
                          config->name, sizeof((tess_comm_t *)0)->name - 1);
    return check_ranks(world, config);
}

/* --- opening ---------------------------------------------------------------------------------- */

/* Fills what config and world decide. ranks has room for all. */
static void fill_comm(tess_comm_t *comm, tess_world_t *world, tess_device_t *device,
                      const tess_comm_config_t *config)
{
    comm->world = world;
    comm->device = device;
    snprintf(comm->name, sizeof comm->name, "%s", config->name ? config->name : "world");
    comm->size = config->ranks ? config->rank_count : tess_world_size(world);
    for (int i = 0; i < comm->size; i++) {
        comm->ranks[i] = config->ranks ? config->ranks[i] : i;
        if (comm->ranks[i] == tess_world_rank(world)) comm->rank = i;
    }
    comm->timeout_ms = config->timeout_ms > 0 ? config->timeout_ms : tess_world_timeout_ms(world);
    comm->watch.name = comm->name;
    comm->watch.group = (tessi_group_t){comm->ranks, comm->size};
}

/* Until the members have agreed on more, a communicator is known by its ranks and by how many of
 * the same ranks were opened before. */
static tess_status_t number_comm(tess_comm_t *comm)
{
    int64_t count = 0;
    uint64_t hash =
        tessi_hash(TESSI_HASH_START, comm->ranks, (size_t)comm->size * sizeof *comm->ranks);
    tess_status_t status = tessi_world_count(comm->world, hash, &count);
    comm->watch.comm_id = tessi_hash(hash, &count, sizeof count);
    return status;
}

static tess_status_t compare_cards(const tess_comm_t *comm, const card_t *cards)
{
    const card_t *mine = &cards[comm->rank];
    char who[RANK_TEXT_BYTES], what[400];
    for (int r = 0; r < comm->size; r++) {
        const card_t *theirs = &cards[r];
        rank_text(comm, r, who);
        if (strcmp(theirs->name, mine->name) != 0)
            snprintf(what, sizeof what, "name \"%s\" on %s, \"%s\" here", theirs->name, who,
                     mine->name);
        else if (strcmp(theirs->transport, mine->transport) != 0)
            snprintf(what, sizeof what, "transport %s on %s, %s here", theirs->transport, who,
                     mine->transport);
        else if (theirs->device_kind != mine->device_kind)
            snprintf(what, sizeof what, "a %s device on %s, %s here",
                     theirs->device_kind == TESS_DEVICE_CUDA ? "CUDA" : "host", who,
                     tess_device_name(comm->device));
        else if (theirs->timeout_ms != mine->timeout_ms)
            snprintf(what, sizeof what, "timeout %d ms on %s, %d ms here", theirs->timeout_ms, who,
                     mine->timeout_ms);
        else continue;
        return tessi_fail(TESS_ERR_MISMATCH, "communicator %s: the ranks disagree: %s", comm->name,
                          what);
    }
    return TESS_OK;
}

/* Brings this rank's settings, or its failure so far, to the others. */
static tess_status_t meet(tess_comm_t *comm, tess_status_t mine)
{
    card_t few[CARDS_ON_STACK] = {0}, card;
    memset(&card, 0, sizeof card);
    card.status = mine;
    card.timeout_ms = comm->timeout_ms;
    card.device_kind = (int32_t)tess_device_kind(comm->device);
    snprintf(card.name, sizeof card.name, "%s", comm->name);
    snprintf(card.transport, sizeof card.transport, "%s",
             comm->transport ? comm->transport->name : "");
    if (mine < 0) snprintf(card.sentence, sizeof card.sentence, "%s", tess_last_error());

    card_t *cards = few;
    if (comm->size > CARDS_ON_STACK) cards = tessi_calloc((size_t)comm->size, sizeof *cards);
    if (!cards) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = tessi_comm_exchange(comm, "comm open", &card, sizeof card, cards);
    if (mine < 0) status = tessi_fail(mine, "%s", card.sentence);
    if (status == TESS_OK) status = first_failure(comm, "open", cards);
    if (status == TESS_OK) status = compare_cards(comm, cards);
    if (cards != few) tessi_free(cards);
    return status;
}

/* The others may wait for this rank inside their own opening: they are told at once why. */
static void tell_unopened(tess_comm_t *comm, tess_status_t status)
{
    char who[RANK_TEXT_BYTES], sentence[sizeof comm->watch.detail], detail[sizeof sentence];
    snprintf(sentence, sizeof sentence, "%s", tess_last_error());
    snprintf(detail, sizeof detail, "communicator %s: %s cannot open transport %s: %.300s",
             comm->name, rank_text(comm, comm->rank, who), comm->transport->name, sentence);
    tessi_watch_fail(comm->world, &comm->watch, status, detail);
    (void)tessi_fail(status, "%s", sentence);
}

static tess_status_t open_filled(tess_comm_t *comm, const tess_comm_config_t *config)
{
    tess_status_t status;
    TESS_TRY(number_comm(comm), done);
    TESS_TRY(meet(comm, choose_transport(config, comm)), done);
    comm->watch.comm_id = tessi_hash(comm->watch.comm_id, comm->name, strlen(comm->name));
    tessi_watch_add(comm->world, &comm->watch);
    status = comm->transport->open(comm);
    int is_open = status == TESS_OK;
    if (!is_open) tell_unopened(comm, status);
    TESS_TRY(tessi_comm_agree(comm, "open transport", status), close_transport);
    tessi_log(TESSI_LOG_INFO, "communicator %s: %s", comm->name, comm->description);
    return TESS_OK;

close_transport:
    if (is_open) comm->transport->close(comm);
    tessi_watch_remove(comm->world, &comm->watch);
done:
    return status;
}

/* Without memory for a communicator the others are told, instead of being left to wait. */
static tess_status_t tell_absence(tess_world_t *world, tess_device_t *device,
                                  const tess_comm_config_t *config, tess_status_t status)
{
    int ranks[RANKS_ON_STACK];
    int size = config->ranks ? config->rank_count : tess_world_size(world);
    if (size > RANKS_ON_STACK) return status;
    tess_comm_t absent;
    memset(&absent, 0, sizeof absent);
    absent.ranks = ranks;
    fill_comm(&absent, world, device, config);
    if (number_comm(&absent) < 0) return status;
    (void)tessi_fail(status, "there is no memory for a communicator");
    return meet(&absent, status);
}

tess_status_t tess_comm_open(tess_world_t *world, tess_device_t *device,
                             const tess_comm_config_t *config, tess_comm_t **comm)
{
    static const tess_comm_config_t defaults = TESS_COMM_CONFIG_DEFAULT;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "comm_open", -1, -1);
    if (!config) config = &defaults;
    tess_status_t status = check_config(world, device, config, comm);
    if (status < 0) return status;

    int size = config->ranks ? config->rank_count : tess_world_size(world);
    int *ranks = tessi_calloc((size_t)size, sizeof *ranks);
    tess_comm_t *opening = ranks ? tessi_calloc(1, sizeof *opening) : NULL;
    if (!opening) {
        status = tell_absence(world, device, config, TESS_ERR_OUT_OF_MEMORY);
        goto free_ranks;
    }
    opening->ranks = ranks;
    fill_comm(opening, world, device, config);
    TESS_TRY(open_filled(opening, config), free_opening);
    *comm = opening;
    return TESS_OK;

free_opening:
    tessi_free(opening);
free_ranks:
    tessi_free(ranks);
    return status;
}

void tess_comm_close(tess_comm_t *comm)
{
    if (!comm) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "comm_close", -1, comm->sequence);
    comm->transport->close(comm);
    tessi_comm_memory_free_all(comm);
    tessi_watch_remove(comm->world, &comm->watch);
    tessi_free(comm->ranks);
    tessi_free(comm);
}

/* --- reading ---------------------------------------------------------------------------------- */

int tess_comm_rank(const tess_comm_t *comm)
{
    return comm->rank;
}

int tess_comm_size(const tess_comm_t *comm)
{
    return comm->size;
}

tess_device_t *tess_comm_device(const tess_comm_t *comm)
{
    return comm->device;
}

tess_world_t *tess_comm_world(const tess_comm_t *comm)
{
    return comm->world;
}

const char *tess_comm_transport(const tess_comm_t *comm)
{
    return comm->transport->name;
}

const char *tess_comm_description(const tess_comm_t *comm)
{
    return comm->description;
}

/* Devices of the kind that the transport is for, without initialising CUDA in this process. */
static const char *missing_here(const tessi_transport_t *transport)
{
    const char *on_host = transport->unusable(TESS_DEVICE_HOST);
    if (!on_host) return NULL;
    const char *on_cuda = transport->unusable(TESS_DEVICE_CUDA);
    if (on_cuda) return on_cuda;
    return tess_launch_cuda_devices() > 0 ? NULL : "no CUDA device answers on this machine";
}

int tess_transport_list(tess_transport_info_t *list, int capacity)
{
    for (int i = 0; list && i < TRANSPORT_COUNT && i < capacity; i++) {
        const char *missing = missing_here(transports[i]);
        list[i] = (tess_transport_info_t){
            .name = transports[i]->name,
            .version = transports[i]->version(),
            .usable = !missing,
            .reason = missing ? missing : "",
        };
    }
    return TRANSPORT_COUNT;
}
