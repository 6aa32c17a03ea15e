/* SPDX-License-Identifier: Apache-2.0 */
/* What communicators need from the world: small exchanges at set-up, and word of failures.
 *
 * All of it travels over the control connections (control.c), never over a transport.
 */
#ifndef TESSERA_COMM_WORLD_INTERNAL_H
#define TESSERA_COMM_WORLD_INTERNAL_H

#include <stdatomic.h>
#include <stdint.h>
#include <tessera/status.h>
#include <tessera/world.h>

/* Ascending world ranks. */
typedef struct tessi_group {
    const int *ranks;
    int count;
} tessi_group_t;

/* All-gather of small blobs: every rank of the group gives `bytes` (0 .. 1 MiB, equal on all) under
 * the same key, and receives group->count * bytes in group order. Blocks, at most timeout_ms. A key
 * is used once per world; put a counter into it. TESS_ERR_TIMEOUT names the ranks that did not
 * come, TESS_ERR_MISMATCH those that gave another size, TESS_ERR_PEER_LOST those that died. */
tess_status_t tessi_world_exchange(tess_world_t *world, tessi_group_t group, const char *key,
                                   const void *mine, int64_t bytes, void *all, int timeout_ms);

/* How often this rank has asked with this hash before: 0, 1, … Ranks that ask alike get the same
 * numbers, so that keys and ids can be made new without talking. TESS_ERR_OUT_OF_MEMORY. */
tess_status_t tessi_world_count(tess_world_t *world, uint64_t hash, int64_t *count);

/* A communicator's mailbox for failures that other threads or ranks find. */
typedef struct tessi_watch {
    uint64_t comm_id;    /* equal on all its ranks */
    const char *name;    /* of the communicator, for messages */
    tessi_group_t group; /* world ranks */
    _Atomic int status;  /* TESS_OK, or the failure; written after detail */
    char detail[512];    /* one sentence */
    struct tessi_watch *next;
} tessi_watch_t;

/* From now on a rank of the group that dies, or a rank that calls tessi_watch_fail for the same
 * comm_id, sets this watch's status. A failure that happened before is reported at once. */
void tessi_watch_add(tess_world_t *world, tessi_watch_t *watch);
void tessi_watch_remove(tess_world_t *world, tessi_watch_t *watch);

/* Sets the watch's status unless it has one, and tells the other ranks of the communicator, which
 * get TESS_ERR_PEER_LOST (or TESS_ERR_MISMATCH when status is that) with the same detail. To the
 * detail of a timeout it adds who of the communicator has closed its world. Any thread. */
void tessi_watch_fail(tess_world_t *world, tessi_watch_t *watch, tess_status_t status,
                      const char *detail);

static inline int tessi_watch_has_failed(const tessi_watch_t *watch)
{
    return atomic_load_explicit(&watch->status, memory_order_acquire) != TESS_OK;
}

/* TESS_OK, or the watch's status with its detail in tess_last_error(). */
tess_status_t tessi_watch_status(tessi_watch_t *watch);

/* tessi_world_exchange among a communicator's ranks. Ends at once, with the watch's status and
 * sentence, where the watch fails before the answer is here; those that wait for this rank then
 * fail too. */
tess_status_t tessi_world_exchange_watched(tess_world_t *world, tessi_watch_t *watch,
                                           const char *key, const void *mine, int64_t bytes,
                                           void *all, int timeout_ms);

/* One operation as a rank issued it. */
typedef struct tessi_op_record {
    uint64_t comm_id;
    int64_t sequence; /* 1, 2, … per communicator */
    int64_t count;
    int32_t kind; /* tessi_op_kind_t */
    int32_t dtype;
    int32_t reduction;
    int32_t root;
    uint64_t
        history; /* hash of this operation and all before it: an old difference is seen later too */
} tessi_op_record_t;

/* For transports that cannot compare operations in band (nccl): queues the record for rank 0, which
 * compares it with what the other ranks issued under the same number; a difference fails the watch
 * on all ranks with TESS_ERR_MISMATCH. Does nothing for a communicator of one rank. Never blocks;
 * sent by the control thread every 50 ms. */
void tessi_world_record(tess_world_t *world, const tessi_watch_t *watch,
                        const tessi_op_record_t *record);

/* Asks rank 0 which ranks of the communicator have not issued operation `sequence`, and writes one
 * sentence: "rank 2 (pid 71 on node3) has not called all_gather 18; its last was all_gather 17".
 * Blocks at most 2 s; when rank 0 does not answer, the sentence says that. */
void tessi_world_diagnose(tess_world_t *world, const tessi_watch_t *watch, int64_t sequence,
                          char *sentence, int64_t sentence_bytes);

/* "rank 2 (pid 71 on node3)". Returns text. */
const char *tessi_world_rank_text(const tess_world_t *world, int rank, char *text, int64_t bytes);

#endif
