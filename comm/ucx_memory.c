/* SPDX-License-Identifier: Apache-2.0 */
/* Segments: memory that UCX allocates as System V or POSIX shared memory and every rank of the
 * communicator maps, so that a peer's buffer is an ordinary pointer.
 *
 * Invariants: memory is committed before anybody uses it, so a /dev/shm that is too small is an
 * error here and never a SIGBUS later; a mapping is used only after its owner's proof was read
 * through it, so a handle that another container understands differently is found out. UCX removes
 * the names of segments at once, hence nothing is left behind by a process that is killed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "ucx_internal.h"

#define SENTENCE_BYTES 512
#define KEY_BYTES 1024
#define OCCUPIED_BYTES (TESSI_SEGMENTS_MAX / 8)
#define PAGE_BYTES 4096
/* MADV_POPULATE_WRITE of Linux 5.14, which C libraries older than the kernel do not know. */
#define ADVICE_POPULATE_WRITE 23

typedef struct segment_card {
    int32_t status;
    uint32_t key_bytes;
    int64_t bytes;
    uint64_t address;
    uint64_t proof;
    int64_t shmid;
    char sentence[SENTENCE_BYTES];
    unsigned char occupied[OCCUPIED_BYTES];
    unsigned char key[KEY_BYTES];
} segment_card_t;
_Static_assert(sizeof(segment_card_t) <= TESSI_CARD_BYTES, "fits into a card");

/* --- what shared memory there is -------------------------------------------------------------- */

static const char *shm_directory(void)
{
    const char *directory = getenv("UCX_POSIX_DIR");
    return directory && *directory ? directory : "/dev/shm";
}

static int64_t read_number(const char *path)
{
    char text[32] = "";
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    int found = fgets(text, sizeof text, file) != NULL;
    fclose(file);
    if (!found) return -1;
    uint64_t value = strtoull(text, NULL, 10);
    return value > INT64_MAX ? INT64_MAX : (int64_t)value;
}

const char *tessi_shm_state(void)
{
    static _Thread_local char text[256];
    struct statvfs state;
    const char *directory = shm_directory();
    int64_t system_v = read_number("/proc/sys/kernel/shmmax");
    if (statvfs(directory, &state) == 0)
        snprintf(text, sizeof text,
                 "%s has %" PRIu64 " of %" PRIu64
                 " bytes free, a System V segment may have %" PRId64 " bytes",
                 directory, (uint64_t)state.f_bavail * state.f_frsize,
                 (uint64_t)state.f_blocks * state.f_frsize, system_v);
    else snprintf(text, sizeof text, "%s cannot be examined", directory);
    return text;
}

static tess_status_t fail_no_room(int64_t bytes, const char *why)
{
    return tessi_fail(TESS_ERR_OUT_OF_MEMORY,
                      "no room for %" PRId64 " bytes of shared memory (%s): %s; enlarge it with "
                      "mount -o remount,size=… %s, or for a container with docker run --shm-size=…",
                      bytes, why, tessi_shm_state(), shm_directory());
}

/* What the kernel says about memory that UCX gave. */
typedef struct mapping {
    int is_shared; /* with other processes */
    int64_t shmid; /* System V's number of it; -1: not System V */
} mapping_t;

static mapping_t find_mapping(const void *address)
{
    mapping_t found = {.is_shared = 0, .shmid = -1};
    FILE *maps = fopen("/proc/self/maps", "r");
    /* Without /proc UCX's word must do. */
    if (!maps) return (mapping_t){.is_shared = 1, .shmid = -1};
    char line[512];
    while (fgets(line, sizeof line, maps)) {
        uint64_t start, end, inode;
        char flags[8], path[64] = "";
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*s %*s %" SCNu64 " %63s", &start, &end,
                   flags, &inode, path) < 4)
            continue;
        if ((uintptr_t)address < start || (uintptr_t)address >= end) continue;
        found.is_shared = flags[3] == 's';
        if (strncmp(path, "/SYSV", 5) == 0) found.shmid = (int64_t)inode;
        break;
    }
    fclose(maps);
    return found;
}

/* Touches every page without the signal that a full file system would send. */
static tess_status_t commit(void *base, int64_t bytes)
{
    if (madvise(base, (size_t)bytes, ADVICE_POPULATE_WRITE) == 0) return TESS_OK;
    /* Before Linux 5.14: POSIX segments were written by UCX when it made them; System V segments
     * come from a file system without a limit. */
    if (errno == EINVAL) return TESS_OK;
    return fail_no_room(bytes, strerror(errno));
}

/* --- this rank's part ------------------------------------------------------------------------- */

static tess_status_t map_own(tessi_ucx_t *ucx, tessi_segment_t *segment, segment_card_t *card)
{
    ucp_mem_map_params_t parameters = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS,
        .length = (size_t)segment->bytes,
        .flags = UCP_MEM_MAP_ALLOCATE,
    };
    if (!tessi_ucx_may_share())
        return tessi_fail(TESS_ERR_UNSUPPORTED, "UCX_TLS is %s, which leaves out shared memory",
                          getenv("UCX_TLS"));
    ucs_status_t result = tessi_fault("ucx")
                              ? UCS_ERR_NO_MEMORY
                              : ucp_mem_map(ucx->context, &parameters, &segment->handle);
    if (result != UCS_OK) return fail_no_room(segment->bytes, ucs_status_string(result));
    tess_status_t status = TESS_OK;
    ucp_mem_attr_t attributes = {.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS};
    result = tessi_fault("ucx") ? UCS_ERR_NO_RESOURCE : ucp_mem_query(segment->handle, &attributes);
    if (result != UCS_OK) {
        status = tessi_ucx_error(result, "cannot ask UCX for a segment's address");
        goto err_unmap;
    }
    mapping_t mapping = find_mapping(attributes.address);
    if (mapping.is_shared) status = commit(attributes.address, segment->bytes);
    else status = fail_no_room(segment->bytes, "UCX gave private memory instead");
    if (status < 0) goto err_unmap;
    segment->base = attributes.address;
    card->shmid = mapping.shmid;
    return TESS_OK;

err_unmap:
    (void)ucp_mem_unmap(ucx->context, segment->handle);
    segment->handle = NULL;
    return status;
}

static tess_status_t pack_key(tessi_ucx_t *ucx, const tessi_segment_t *segment,
                              segment_card_t *card)
{
    void *key;
    size_t bytes;
    ucs_status_t result = tessi_fault("ucx")
                              ? UCS_ERR_NO_RESOURCE
                              : ucp_rkey_pack(ucx->context, segment->handle, &key, &bytes);
    if (result != UCS_OK) return tessi_ucx_error(result, "UCX gives no key for shared memory");
    tess_status_t status = TESS_OK;
    if (bytes <= sizeof card->key) memcpy(card->key, key, bytes);
    else
        status = tessi_fail(TESS_ERR_UNSUPPORTED, "UCX's memory key takes %zu bytes, more than %d",
                            bytes, KEY_BYTES);
    card->key_bytes = (uint32_t)bytes;
    ucp_rkey_buffer_release(key);
    return status;
}

static tess_status_t make_own(tessi_ucx_t *ucx, int64_t bytes, segment_card_t *card,
                              tessi_segment_t **made)
{
    size_t peers_bytes = (size_t)ucx->comm->size * sizeof(tessi_segment_peer_t);
    tess_status_t status = TESS_ERR_OUT_OF_MEMORY;
    tessi_segment_t *segment = tessi_calloc(1, sizeof *segment + peers_bytes);
    if (!segment) return status;
    int64_t pages = bytes > 0 ? (bytes - 1) / PAGE_BYTES + 1 : 1;
    segment->bytes = pages * PAGE_BYTES;
    TESS_TRY(map_own(ucx, segment, card), err_free);
    TESS_TRY(pack_key(ucx, segment, card), err_own);
    card->address = (uintptr_t)segment->base;
    card->proof = (uint64_t)tessi_now_ns() ^ (uint64_t)getpid() << 40 ^ (uintptr_t)segment->base;
    memcpy(segment->base, &card->proof, sizeof card->proof);
    *made = segment;
    return TESS_OK;

err_own:
    tessi_segment_free_own(ucx, segment);
err_free:
    tessi_free(segment);
    return status;
}

void tessi_segment_free_own(tessi_ucx_t *ucx, tessi_segment_t *segment)
{
    if (segment->handle) (void)ucp_mem_unmap(ucx->context, segment->handle);
    segment->handle = NULL;
    segment->base = NULL;
}

/* --- the peers' parts ------------------------------------------------------------------------- */

/* UCX before 1.19 frees a key that it could not unpack as if it could, so it must not be asked for
 * memory that has gone with its owner. Attached here, it stays until UCX has attached it too. */
static tess_status_t pin(const segment_card_t *card, const char *who, void **pinned)
{
    *pinned = NULL;
    if (card->shmid < 0) return TESS_OK;
    void *base = shmat((int)card->shmid, NULL, SHM_RDONLY);
    if (base == MAP_FAILED)
        return tessi_fail(TESS_ERR_UNSUPPORTED,
                          "the memory of %s cannot be attached (%s): it has gone, or is in another "
                          "container or IPC namespace",
                          who, strerror(errno));
    *pinned = base;
    return TESS_OK;
}

static tess_status_t take_key(tessi_ucx_t *ucx, tessi_segment_peer_t *part, int peer,
                              const segment_card_t *card, const char *who)
{
    void *pinned;
    tess_status_t status = pin(card, who, &pinned);
    if (status < 0) return status;
    ucs_status_t result = tessi_fault("ucx")
                              ? UCS_ERR_NO_RESOURCE
                              : ucp_ep_rkey_unpack(ucx->endpoints[peer], card->key, &part->key);
    if (pinned) shmdt(pinned);
    if (result == UCS_OK) return TESS_OK;
    part->key = NULL;
    return tessi_ucx_error(result, "cannot take the memory key of %s", who);
}

static tess_status_t map_peer(tessi_ucx_t *ucx, tessi_segment_t *segment, int peer,
                              const segment_card_t *card)
{
    char who[160];
    const tess_comm_t *comm = ucx->comm;
    tessi_world_rank_text(comm->world, comm->ranks[peer], who, sizeof who);
    tessi_segment_peer_t *part = &segment->peers[peer];
    tess_status_t status = take_key(ucx, part, peer, card, who);
    if (status < 0) return status;
    void *base = NULL;
    ucs_status_t result = ucp_rkey_ptr(part->key, card->address, &base);
    uint64_t proof = 0;
    if (result == UCS_OK) memcpy(&proof, base, sizeof proof);
    if (result != UCS_OK)
        status = tessi_ucx_error(result, "the memory of %s cannot be mapped (UCX_TLS is %s)", who,
                                 getenv("UCX_TLS") ? getenv("UCX_TLS") : "not set");
    else if (proof != card->proof)
        status = tessi_fail(TESS_ERR_UNSUPPORTED,
                            "mapping the memory of %s gave other memory: it is in another "
                            "container or IPC namespace",
                            who);
    if (status == TESS_OK) part->base = base;
    else tessi_segment_drop_peer(segment, peer);
    return status;
}

void tessi_segment_drop_peer(tessi_segment_t *segment, int rank)
{
    if (segment->peers[rank].key) ucp_rkey_destroy(segment->peers[rank].key);
    segment->peers[rank].key = NULL;
    segment->peers[rank].base = NULL;
}

void tessi_segment_destroy(tessi_ucx_t *ucx, tessi_segment_t *segment)
{
    for (int r = 0; r < ucx->comm->size; r++) tessi_segment_drop_peer(segment, r);
    tessi_segment_free_own(ucx, segment);
    tessi_free(segment);
}

/* --- together --------------------------------------------------------------------------------- */

static const segment_card_t *card_of(const tessi_ucx_t *ucx, int rank)
{
    return (const void *)(ucx->cards + (size_t)rank * TESSI_CARD_BYTES);
}

static tess_status_t check_cards(const tessi_ucx_t *ucx, const char *what, int64_t bytes)
{
    const tess_comm_t *comm = ucx->comm;
    for (int r = 0; r < comm->size; r++) {
        const segment_card_t *card = card_of(ucx, r);
        char who[160];
        tessi_world_rank_text(comm->world, comm->ranks[r], who, sizeof who);
        if (card->status < 0)
            return tessi_fail((tess_status_t)card->status, "communicator %s, %s: %s failed: %s",
                              comm->name, what, who, card->sentence);
        if (card->bytes != bytes)
            return tessi_fail(TESS_ERR_MISMATCH,
                              "communicator %s, %s: %s asked for %" PRId64 " bytes, this rank for "
                              "%" PRId64,
                              comm->name, what, who, card->bytes, bytes);
    }
    return TESS_OK;
}

static tess_status_t map_peers(tessi_ucx_t *ucx, tessi_segment_t *segment)
{
    for (int r = 0; r < ucx->comm->size; r++) {
        if (r == ucx->comm->rank) continue;
        tess_status_t status = tessi_comm_failure(ucx->comm);
        if (status == TESS_OK) status = map_peer(ucx, segment, r, card_of(ucx, r));
        if (status < 0) return status;
    }
    return TESS_OK;
}

tess_status_t tessi_segment_offer(tessi_ucx_t *ucx, const char *what, int64_t bytes,
                                  unsigned char *occupied, int occupied_bytes,
                                  tessi_segment_t **segment)
{
    tess_comm_t *comm = ucx->comm;
    segment_card_t *own = (void *)(ucx->cards + (size_t)comm->size * TESSI_CARD_BYTES);
    tessi_segment_t *made = NULL;
    memset(own, 0, sizeof *own);
    own->bytes = bytes;
    if (occupied) memcpy(own->occupied, occupied, (size_t)occupied_bytes);
    own->status = make_own(ucx, bytes, own, &made);
    if (own->status < 0) snprintf(own->sentence, sizeof own->sentence, "%s", tess_last_error());

    tess_status_t status =
        tessi_comm_exchange(comm, what, own, (int64_t)TESSI_CARD_BYTES, ucx->cards);
    if (own->status < 0 || !made)
        return tessi_fail((tess_status_t)own->status, "%s", own->sentence);
    if (status == TESS_OK) status = check_cards(ucx, what, bytes);
    if (status < 0) {
        tessi_segment_destroy(ucx, made);
        return status;
    }
    for (int r = 0; occupied && r < comm->size; r++)
        for (int i = 0; i < occupied_bytes; i++) occupied[i] |= card_of(ucx, r)->occupied[i];
    *segment = made;
    return TESS_OK;
}

tess_status_t tessi_segment_join(tessi_ucx_t *ucx, const char *what, tessi_segment_t *segment)
{
    return tessi_comm_agree(ucx->comm, what, map_peers(ucx, segment));
}
