/* SPDX-License-Identifier: Apache-2.0 */
/* Collectives by loads and stores in memory that all ranks map.
 *
 * Since every rank knows every rank's posting, all choose the same way without a word more: write
 * into the peers' recv where all are in segments, else read the peers' send, else go through the
 * staging memory of the boards, chunk by chunk, one half being filled while the other is read.
 * Invariants: every element of a sum is computed by one rank, from all sources in rank order, so
 * all ways and all chunk sizes give the same bits; and a rank returns only when no peer will touch
 * its buffers for this operation any more.
 */
#include <string.h>

#include "ucx_internal.h"

/* Copies and sums look up from their work this often to see whether the communicator has failed. */
#define CHUNK_BYTES ((int64_t)256 << 10)
#define LINE_BYTES 64

/* What the moves of one operation share. */
typedef struct move {
    tessi_ucx_t *ucx;
    tessi_direct_t *direct;
    const tessi_ucx_op_t *queued;
    int rank, size;
    int64_t count, element_bytes;
    int past_cache; /* what all ranks write does not fit into the cache anyway */
} move_t;

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static float scale_of(const move_t *move)
{
    return move->queued->op.record.reduction == TESS_AVERAGE ? 1.0f / (float)move->size : 1.0f;
}

static tess_status_t look_up(const move_t *move)
{
    if (!tessi_ucx_has_failed(move->ucx)) return TESS_OK;
    return tessi_ucx_interrupted(move->ucx, &move->queued->op.record);
}

/* Stores that go past the cache pay where it cannot hold what all ranks of the host write: measured
 * on 2 ranks and 32 MiB of cache, at 16 MiB written memcpy was 1.5 times as fast, at 32 MiB as
 * fast, at 64 MiB 1.5 times slower. */
static void choose_stores(move_t *move, int64_t own_bytes)
{
    move->past_cache = own_bytes > move->direct->cache_bytes / move->size * 3 / 4;
}

static void copy_chunk(const move_t *move, void *to, const void *from, int64_t bytes)
{
    if (to == from) return;
    if (move->past_cache) tessi_copy_past_cache(to, from, (size_t)bytes);
    else memcpy(to, from, (size_t)bytes);
}

static tess_status_t copy_all(const move_t *move, char *to, const char *from, int64_t bytes)
{
    tess_status_t status = TESS_OK;
    for (int64_t at = 0; at < bytes && status == TESS_OK; at += CHUNK_BYTES) {
        copy_chunk(move, to + at, from + at, least(CHUNK_BYTES, bytes - at));
        status = look_up(move);
    }
    return status;
}

static void sum_chunk(const move_t *move, void *to, int64_t count)
{
    tessi_sum_host((tess_dtype_t)move->queued->op.record.dtype, to, move->direct->sources,
                   move->size, count, scale_of(move));
}

static char *stage(const move_t *move, int rank, int64_t chunk)
{
    return move->direct->stages[rank] + (chunk & 1) * TESSI_STAGE_HALF_BYTES;
}

static tess_status_t wait_all_supplied(const move_t *move, int64_t step)
{
    return tessi_board_wait_all_supplied(move->ucx, move->queued, step);
}

static tess_status_t wait_all_taken(const move_t *move, int64_t step)
{
    return tessi_board_wait_all_taken(move->ucx, move->queued, step);
}

/* --- all-gather ------------------------------------------------------------------------------- */

static tess_status_t gather_by_writing(const move_t *move, int64_t bytes)
{
    const char *send = move->queued->op.send;
    int64_t slice = move->rank * bytes;
    for (int64_t at = 0; at < bytes; at += CHUNK_BYTES) {
        int64_t chunk_bytes = least(CHUNK_BYTES, bytes - at);
        /* The next rank first, so that not all write to the same one. */
        for (int i = 1; i <= move->size; i++) {
            char *recv = move->direct->recv_at[(move->rank + i) % move->size];
            copy_chunk(move, recv + slice + at, send + at, chunk_bytes);
        }
        tess_status_t status = look_up(move);
        if (status < 0) return status;
    }
    tessi_board_supply(move->ucx, move->queued, 1);
    return wait_all_supplied(move, 1);
}

static tess_status_t gather_by_reading(const move_t *move, int64_t bytes)
{
    char *recv = move->queued->op.recv;
    for (int i = 0; i < move->size; i++) {
        int from = (move->rank + i) % move->size;
        tess_status_t status =
            copy_all(move, recv + from * bytes, move->direct->send_at[from], bytes);
        if (status < 0) return status;
    }
    tessi_board_take(move->ucx, move->queued, 1);
    return wait_all_taken(move, 1);
}

/* Chunk c goes through the half c & 1 of its sender's stage, once all have read chunk c - 2. */
static tess_status_t gather_by_staging(const move_t *move, int64_t bytes)
{
    const char *send = move->queued->op.send;
    char *recv = move->queued->op.recv;
    tess_status_t status = TESS_OK;
    int64_t chunk = 0;
    for (int64_t at = 0; at < bytes; at += TESSI_STAGE_HALF_BYTES, chunk++) {
        int64_t chunk_bytes = least(TESSI_STAGE_HALF_BYTES, bytes - at);
        TESS_TRY(wait_all_taken(move, chunk - 1), done);
        memcpy(stage(move, move->rank, chunk), send + at, (size_t)chunk_bytes);
        tessi_board_supply(move->ucx, move->queued, chunk + 1);
        /* Now, while it is in the cache and the others come up. */
        copy_chunk(move, recv + move->rank * bytes + at, send + at, chunk_bytes);
        for (int i = 1; i < move->size; i++) {
            int from = (move->rank + i) % move->size;
            TESS_TRY(tessi_board_wait_supplied(move->ucx, move->queued, from, chunk + 1), done);
            copy_chunk(move, recv + from * bytes + at, stage(move, from, chunk), chunk_bytes);
        }
        tessi_board_take(move->ucx, move->queued, chunk + 1);
    }
done:
    return status;
}

static tess_status_t all_gather(move_t *move)
{
    int64_t bytes = move->count * move->element_bytes;
    const tessi_op_t *op = &move->queued->op;
    int copies_own = op->send != (char *)op->recv + move->rank * bytes;
    choose_stores(move, bytes * (move->size - 1 + copies_own));
    if (move->direct->all_recv) return gather_by_writing(move, bytes);
    if (move->direct->all_send) return gather_by_reading(move, bytes);
    return gather_by_staging(move, bytes);
}

/* --- reduce-scatter --------------------------------------------------------------------------- */

static tess_status_t scatter_by_reading(const move_t *move)
{
    int64_t slice_bytes = move->count * move->element_bytes;
    int64_t chunk_count = CHUNK_BYTES / move->element_bytes;
    for (int64_t at = 0; at < move->count; at += chunk_count) {
        int64_t offset = move->rank * slice_bytes + at * move->element_bytes;
        for (int r = 0; r < move->size; r++)
            move->direct->sources[r] = move->direct->send_at[r] + offset;
        sum_chunk(move, (char *)move->queued->op.recv + at * move->element_bytes,
                  least(chunk_count, move->count - at));
        tess_status_t status = look_up(move);
        if (status < 0) return status;
    }
    tessi_board_take(move->ucx, move->queued, 1);
    return wait_all_taken(move, 1);
}

/* A stage holds one part for each peer. */
static tess_status_t scatter_by_staging(const move_t *move)
{
    const char *send = move->queued->op.send;
    char *recv = move->queued->op.recv;
    int64_t slice_bytes = move->count * move->element_bytes;
    int64_t part_bytes = TESSI_STAGE_HALF_BYTES / move->size / LINE_BYTES * LINE_BYTES;
    tess_status_t status = TESS_OK;
    int64_t chunk = 0;
    for (int64_t at = 0; at < slice_bytes; at += part_bytes, chunk++) {
        int64_t bytes = least(part_bytes, slice_bytes - at);
        TESS_TRY(wait_all_taken(move, chunk - 1), done);
        for (int i = 1; i < move->size; i++) {
            int to = (move->rank + i) % move->size;
            memcpy(stage(move, move->rank, chunk) + to * part_bytes, send + to * slice_bytes + at,
                   (size_t)bytes);
        }
        tessi_board_supply(move->ucx, move->queued, chunk + 1);
        TESS_TRY(wait_all_supplied(move, chunk + 1), done);
        for (int r = 0; r < move->size; r++)
            move->direct->sources[r] = r == move->rank
                                           ? send + r * slice_bytes + at
                                           : stage(move, r, chunk) + move->rank * part_bytes;
        sum_chunk(move, recv + at, bytes / move->element_bytes);
        tessi_board_take(move->ucx, move->queued, chunk + 1);
    }
done:
    return status;
}

static tess_status_t reduce_scatter(move_t *move)
{
    return move->direct->all_send ? scatter_by_reading(move) : scatter_by_staging(move);
}

/* --- all-reduce ------------------------------------------------------------------------------- */

/* Each rank sums its share and writes it to everybody. Only this rank reads its share of the peers'
 * buffers, so writing it there disturbs no other sum. */
static tess_status_t reduce_by_writing(const move_t *move)
{
    const tessi_op_t *op = &move->queued->op;
    int64_t size_bytes = move->count * move->element_bytes;
    tess_status_t status = TESS_OK;
    char **from = move->direct->send_at;
    if (!move->direct->all_send) {
        from = move->direct->recv_at;
        TESS_TRY(copy_all(move, op->recv, op->send, size_bytes), done);
        tessi_board_supply(move->ucx, move->queued, 1);
        TESS_TRY(wait_all_supplied(move, 1), done);
    }
    tessi_share_t share =
        tessi_share_of(move->count, move->size, move->rank, LINE_BYTES / move->element_bytes);
    int64_t chunk_count = CHUNK_BYTES / move->element_bytes;
    for (int64_t at = 0; at < share.count; at += chunk_count) {
        int64_t count = least(chunk_count, share.count - at);
        int64_t offset = (share.start + at) * move->element_bytes;
        for (int r = 0; r < move->size; r++) move->direct->sources[r] = from[r] + offset;
        sum_chunk(move, (char *)op->recv + offset, count);
        for (int i = 1; i < move->size; i++) {
            char *recv = move->direct->recv_at[(move->rank + i) % move->size];
            copy_chunk(move, recv + offset, (char *)op->recv + offset, count * move->element_bytes);
        }
        TESS_TRY(look_up(move), done);
    }
    tessi_board_supply(move->ucx, move->queued, 2);
    status = wait_all_supplied(move, 2);
done:
    return status;
}

/* A chunk of the whole vector at a time: every rank stages it (unless peers can read send), each
 * sums its share of it into the end of its own stage, and all read the shares from there. Step
 * 2c + 1: inputs of chunk c are there; step 2c + 2: sums of chunk c are there. */
static tess_status_t reduce_by_staging(const move_t *move)
{
    const tessi_op_t *op = &move->queued->op;
    int size = move->size;
    int64_t element_bytes = move->element_bytes, line_count = LINE_BYTES / element_bytes;
    /* Input and one share of it must fit. */
    int64_t chunk_count = TESSI_STAGE_HALF_BYTES / element_bytes / (size + 1) * size;
    chunk_count -= chunk_count % (line_count * size);
    tess_status_t status = TESS_OK;
    int64_t chunk = 0;
    for (int64_t at = 0; at < move->count; at += chunk_count, chunk++) {
        int64_t count = least(chunk_count, move->count - at), offset = at * element_bytes;
        if (!move->direct->all_send)
            memcpy(stage(move, move->rank, chunk), (const char *)op->send + offset,
                   (size_t)(count * element_bytes));
        tessi_board_supply(move->ucx, move->queued, 2 * chunk + 1);
        TESS_TRY(wait_all_supplied(move, 2 * chunk + 1), done);

        tessi_share_t mine = tessi_share_of(count, size, move->rank, line_count);
        for (int r = 0; r < size; r++) {
            const char *input =
                move->direct->all_send ? move->direct->send_at[r] + offset : stage(move, r, chunk);
            move->direct->sources[r] = input + mine.start * element_bytes;
        }
        TESS_TRY(wait_all_taken(move, chunk - 1), done); /* the sums of chunk - 2 */
        int64_t sums_at = chunk_count * element_bytes;
        sum_chunk(move, stage(move, move->rank, chunk) + sums_at, mine.count);
        tessi_board_supply(move->ucx, move->queued, 2 * chunk + 2);
        for (int i = 0; i < size; i++) {
            int from = (move->rank + i) % size;
            tessi_share_t theirs = tessi_share_of(count, size, from, line_count);
            if (from != move->rank)
                TESS_TRY(tessi_board_wait_supplied(move->ucx, move->queued, from, 2 * chunk + 2),
                         done);
            copy_chunk(move, (char *)op->recv + offset + theirs.start * element_bytes,
                       stage(move, from, chunk) + sums_at, theirs.count * element_bytes);
        }
        tessi_board_take(move->ucx, move->queued, chunk + 1);
    }
done:
    return status;
}

static tess_status_t all_reduce(move_t *move)
{
    int64_t bytes = move->count * move->element_bytes;
    choose_stores(move, bytes);
    return move->direct->all_recv ? reduce_by_writing(move) : reduce_by_staging(move);
}

/* --- broadcast -------------------------------------------------------------------------------- */

/* Each rank carries its share from the root to everybody, so that all cores work. */
static tess_status_t broadcast_by_writing(const move_t *move, int root)
{
    int64_t bytes = move->count * move->element_bytes;
    tessi_share_t share = tessi_share_of(bytes, move->size, move->rank, LINE_BYTES);
    for (int64_t at = share.start; at < share.start + share.count; at += CHUNK_BYTES) {
        int64_t chunk_bytes = least(CHUNK_BYTES, share.start + share.count - at);
        for (int i = 0; i < move->size; i++) {
            int to = (move->rank + i) % move->size;
            copy_chunk(move, move->direct->recv_at[to] + at, move->direct->recv_at[root] + at,
                       chunk_bytes);
        }
        tess_status_t status = look_up(move);
        if (status < 0) return status;
    }
    tessi_board_supply(move->ucx, move->queued, 1);
    return wait_all_supplied(move, 1);
}

static tess_status_t broadcast_by_staging(const move_t *move, int root)
{
    int64_t bytes = move->count * move->element_bytes;
    char *recv = move->queued->op.recv;
    tess_status_t status = TESS_OK;
    int64_t chunk = 0;
    for (int64_t at = 0; at < bytes; at += TESSI_STAGE_HALF_BYTES, chunk++) {
        int64_t chunk_bytes = least(TESSI_STAGE_HALF_BYTES, bytes - at);
        if (move->rank == root) {
            TESS_TRY(wait_all_taken(move, chunk - 1), done);
            memcpy(stage(move, root, chunk), recv + at, (size_t)chunk_bytes);
            tessi_board_supply(move->ucx, move->queued, chunk + 1);
        } else {
            TESS_TRY(tessi_board_wait_supplied(move->ucx, move->queued, root, chunk + 1), done);
            copy_chunk(move, recv + at, stage(move, root, chunk), chunk_bytes);
            tessi_board_take(move->ucx, move->queued, chunk + 1);
        }
    }
done:
    return status;
}

static tess_status_t broadcast(move_t *move)
{
    int root = move->queued->op.record.root;
    int64_t bytes = move->count * move->element_bytes;
    choose_stores(move, bytes);
    return move->direct->all_recv ? broadcast_by_writing(move, root)
                                  : broadcast_by_staging(move, root);
}

/* --- the path --------------------------------------------------------------------------------- */

tess_status_t tessi_direct_run(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued)
{
    const tessi_op_record_t *record = &queued->op.record;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "ucx_direct", -1, record->sequence);
    tess_status_t status = tessi_board_meet(ucx, queued);
    if (status < 0 || record->count == 0) return status;
    move_t move = {
        .ucx = ucx,
        .direct = ucx->direct,
        .queued = queued,
        .rank = ucx->comm->rank,
        .size = ucx->comm->size,
        .count = record->count,
        .element_bytes = tess_dtype_bytes((tess_dtype_t)record->dtype),
    };
    switch (record->kind) {
    case TESSI_OP_ALL_GATHER:
        return all_gather(&move);
    case TESSI_OP_REDUCE_SCATTER:
        return reduce_scatter(&move);
    case TESSI_OP_ALL_REDUCE:
        return all_reduce(&move);
    case TESSI_OP_BROADCAST:
        return broadcast(&move);
    default:
        return TESS_OK; /* a barrier is the meeting */
    }
}
