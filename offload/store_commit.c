/* SPDX-License-Identifier: Apache-2.0 */
/* The crash-safe scheme: what makes a write of a tile count.
 *
 * The n-th write of a tile goes to place n mod 2 and counts once record n is on the device, in a
 * block of its own beside the record of write n - 1. A thread does that for all writes that have
 * reached the file since it last did: one fdatasync for their tiles, their records, one fdatasync
 * for the records.
 *
 * Invariant: no record is written before its tile is on the device, and no place is overwritten
 * that the newest record on the device may name. Where a record may or may not be there (its write
 * or fdatasync failed) the store takes no more writes, because the next one could break that.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "store_internal.h"

#define RECORD_MAGIC UINT64_C(0x54494d4d4f435354) /* "TSCOMMIT" read as little-endian bytes */
#define LOAD_BYTES (INT64_C(1) << 20)

typedef struct record {
    uint64_t magic;
    uint64_t identity; /* of the store, so that nothing older is taken for a record */
    int64_t tile;
    uint64_t sequence;
    uint64_t checksum; /* of all that is before it */
} record_t;

static uint64_t checksum_of(const record_t *record)
{
    return tessi_hash(TESSI_HASH_START, record, offsetof(record_t, checksum));
}

/* --- committing ------------------------------------------------------------------------------- */

static int make_durable(int fd)
{
    if (tessi_fault("io")) return EIO;
    int error;
    do {
        error = fdatasync(fd) == 0 ? 0 : errno;
    } while (error == EINTR);
    return error;
}

static int write_record(tess_store_t *store, const tessi_store_request_t *request)
{
    const tessi_store_layout_t *layout = &store->layout;
    record_t *record = store->committer.block; /* the rest of the block stays zero */
    *record = (record_t){
        .magic = RECORD_MAGIC,
        .identity = layout->identity,
        .tile = request->tile,
        .sequence = request->sequence,
    };
    record->checksum = checksum_of(record);
    return tessi_store_write_all(
        store->fd, record, layout->alignment,
        tessi_store_record_offset(layout, request->tile, (int)(request->sequence & 1)));
}

/* Without the lock. 0, or an errno; *broken when records may be there or not. */
static int commit(tess_store_t *store, const tessi_store_request_t *batch, int *broken)
{
    *broken = 0;
    int error = make_durable(store->data_fd);
    if (error) {
        /* What a failed fdatasync has dropped, a later one does not report. */
        *broken = 1;
        return error;
    }
    for (; batch && !error; batch = batch->next) error = write_record(store, batch);
    if (!error) error = make_durable(store->fd);
    *broken = error != 0;
    return error;
}

/* With the lock held. */
static void finish_batch(tess_store_t *store, tessi_store_request_t *batch, int error, int broken)
{
    tessi_committer_t *committer = &store->committer;
    if (broken) committer->broken = error;
    while (batch) {
        tessi_store_request_t *next = batch->next;
        if (error) {
            batch->error = error;
            batch->error_offset = batch->offset;
            batch->error_bytes = batch->bytes;
            batch->error_step = "make durable";
        } else {
            committer->sequences[batch->tile] = batch->sequence;
        }
        tessi_store_finish(store, batch);
        batch = next;
    }
}

static void *commit_batches(void *argument)
{
    tess_store_t *store = argument;
    tessi_committer_t *committer = &store->committer;
    pthread_mutex_lock(&store->lock);
    for (;;) {
        while (!committer->first && !store->stopping)
            pthread_cond_wait(&committer->work, &store->lock);
        tessi_store_request_t *batch = committer->first;
        if (!batch) break;
        committer->first = committer->last = NULL;
        int error = committer->broken, broken = 0;
        pthread_mutex_unlock(&store->lock);
        if (!error) error = commit(store, batch, &broken);
        pthread_mutex_lock(&store->lock);
        finish_batch(store, batch, error, broken);
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}

void tessi_committer_push(tess_store_t *store, tessi_store_request_t *request)
{
    tessi_committer_t *committer = &store->committer;
    request->next = NULL;
    if (committer->last) committer->last->next = request;
    else committer->first = request;
    committer->last = request;
    pthread_cond_signal(&committer->work);
}

/* --- opening ---------------------------------------------------------------------------------- */

static int is_blank(const char *block, int64_t bytes)
{
    for (int64_t n = 0; n < bytes; n++)
        if (block[n]) return 0;
    return 1;
}

/* The sequence that a block of records holds: 0 where it was never written, -1 where it is torn or
 * corrupt. */
static int64_t read_record(const tess_store_t *store, const char *block, int64_t tile, int place)
{
    record_t record;
    memcpy(&record, block, sizeof record);
    if (record.magic == RECORD_MAGIC && record.checksum == checksum_of(&record) &&
        record.identity == store->layout.identity && record.tile == tile && record.sequence > 0 &&
        (record.sequence & 1) == (uint64_t)place)
        return (int64_t)record.sequence;
    return is_blank(block, store->layout.alignment) ? 0 : -1;
}

/* The newer valid record of a tile. One that is torn was being written when the system stopped, so
 * the other one is what the tile was before. */
static tess_status_t choose(tess_store_t *store, const char *blocks, int64_t tile)
{
    tessi_committer_t *committer = &store->committer;
    int64_t even = read_record(store, blocks, tile, 0);
    int64_t odd = read_record(store, blocks + store->layout.alignment, tile, 1);
    int64_t newest = even > odd ? even : odd;
    if (newest < 0 || (even < 0 && odd == 0))
        return tessi_fail(TESS_ERR_SYSTEM,
                          "store %s: no record of tile %" PRId64 " (offset %" PRId64
                          ") is valid: its content is lost",
                          store->path, tile, tessi_store_record_offset(&store->layout, tile, 0));
    committer->sequences[tile] = (uint64_t)newest;
    if (even >= 0 && odd >= 0) return TESS_OK;
    if (committer->ignored++ == 0)
        tessi_log(TESSI_LOG_ERROR,
                  "store %s: a record of tile %" PRId64 " (offset %" PRId64
                  ") is torn or corrupt; the tile is as it was before that write",
                  store->path, tile,
                  tessi_store_record_offset(&store->layout, tile, even < 0 ? 0 : 1));
    return TESS_OK;
}

static tess_status_t load(tess_store_t *store)
{
    const tessi_store_layout_t *layout = &store->layout;
    int64_t pair_bytes = 2 * layout->alignment;
    int64_t pairs = LOAD_BYTES / pair_bytes > 0 ? LOAD_BYTES / pair_bytes : 1;
    /* What a killed process left in the page cache is made durable before it is built upon, and
     * then read from the device itself where O_DIRECT reaches it. */
    int unsettled = make_durable(store->fd);
    if (unsettled)
        return tessi_fail_errno(unsettled, "store %s: cannot make its records durable",
                                store->path);
    char *blocks = tessi_aligned_alloc((size_t)layout->alignment, (size_t)(pairs * pair_bytes));
    if (!blocks) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = TESS_OK;
    for (int64_t first = 0; first < layout->tile_count && status == TESS_OK; first += pairs) {
        int64_t left = layout->tile_count - first, count = left < pairs ? left : pairs;
        int64_t offset = tessi_store_record_offset(layout, first, 0);
        int error = tessi_store_read_all(store->data_fd, blocks, count * pair_bytes, offset);
        if (error)
            status = tessi_fail_errno(
                error, "store %s: cannot read %" PRId64 " bytes of records at offset %" PRId64,
                store->path, count * pair_bytes, offset);
        for (int64_t n = 0; n < count && status == TESS_OK; n++)
            status = choose(store, blocks + n * pair_bytes, first + n);
    }
    tessi_free(blocks);
    if (status == TESS_OK && store->committer.ignored > 1)
        tessi_log(TESSI_LOG_ERROR, "store %s: %" PRId64 " records are torn or corrupt in all",
                  store->path, store->committer.ignored);
    return status;
}

tess_status_t tessi_committer_open(tess_store_t *store, int load_records)
{
    tessi_committer_t *committer = &store->committer;
    size_t alignment = (size_t)store->layout.alignment;
    tess_status_t status = TESS_ERR_OUT_OF_MEMORY;
    committer->sequences =
        tessi_calloc((size_t)store->layout.tile_count, sizeof *committer->sequences);
    if (!committer->sequences) return status;
    committer->block = tessi_aligned_alloc(alignment, alignment);
    if (!committer->block) goto err_free_sequences;
    memset(committer->block, 0, alignment);
    if (load_records) TESS_TRY(load(store), err_free_block);
    pthread_cond_init(&committer->work, NULL);
    TESS_TRY(tessi_store_start_thread(store, "tess-commit", commit_batches, &committer->thread),
             err_destroy_work);
    return TESS_OK;

err_destroy_work:
    pthread_cond_destroy(&committer->work);
err_free_block:
    tessi_free(committer->block);
err_free_sequences:
    tessi_free(committer->sequences);
    return status;
}

void tessi_committer_close(tess_store_t *store)
{
    tessi_committer_t *committer = &store->committer;
    pthread_mutex_lock(&store->lock);
    pthread_cond_signal(&committer->work);
    pthread_mutex_unlock(&store->lock);
    pthread_join(committer->thread, NULL);
    pthread_cond_destroy(&committer->work);
    tessi_free(committer->block);
    tessi_free(committer->sequences);
}
