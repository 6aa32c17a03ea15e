/* SPDX-License-Identifier: Apache-2.0 */
/* Path `message`: the collectives as one or two transfers between all pairs of ranks.
 *
 * Invariant: every element of a sum is computed by one rank from all sources in rank order, hence
 * the same bits as on path `direct`; and every operation, also an empty one, begins with a meeting,
 * so ranks that differ are found before anything moves.
 */
#include <string.h>

#include "ucx_internal.h"

/* Shorter broadcasts go from the root to everybody; longer ones in shares, which all pass on. */
#define BROADCAST_SHARE_BYTES ((int64_t)64 << 10)
#define LINE_BYTES 64

typedef struct collect {
    tessi_ucx_t *ucx;
    const tessi_ucx_op_t *queued;
    int rank, size;
    int64_t count, element_bytes;
} collect_t;

static tess_status_t transfer(const collect_t *collect, int phase, const tessi_sum_job_t *job)
{
    return tessi_message_transfer(collect->ucx, collect->queued, phase, job);
}

static void copy_own(void *to, const void *from, int64_t bytes)
{
    if (to != from && bytes > 0) memcpy(to, from, (size_t)bytes);
}

static tess_status_t all_gather(const collect_t *collect)
{
    tessi_traffic_t *traffic = tessi_message_traffic(collect->ucx);
    const char *send = collect->queued->op.send;
    char *recv = collect->queued->op.recv;
    int64_t bytes = collect->count * collect->element_bytes;
    for (int r = 0; r < collect->size; r++) {
        if (r == collect->rank) continue;
        traffic[r] = (tessi_traffic_t){
            .send = send, .recv = recv + r * bytes, .send_bytes = bytes, .recv_bytes = bytes};
    }
    copy_own(recv + collect->rank * bytes, send, bytes);
    return transfer(collect, 0, NULL);
}

static tessi_sum_job_t job_of(const collect_t *collect, const void *mine, void *result,
                              int64_t count)
{
    const tessi_op_record_t *record = &collect->queued->op.record;
    return (tessi_sum_job_t){
        .dtype = (tess_dtype_t)record->dtype,
        .scale = record->reduction == TESS_AVERAGE ? 1.0f / (float)collect->size : 1.0f,
        .mine = mine,
        .result = result,
        .count = count,
    };
}

static tess_status_t reduce_scatter(const collect_t *collect)
{
    tessi_traffic_t *traffic = tessi_message_traffic(collect->ucx);
    const char *send = collect->queued->op.send;
    int64_t bytes = collect->count * collect->element_bytes;
    for (int r = 0; r < collect->size; r++) {
        if (r == collect->rank) continue;
        traffic[r] =
            (tessi_traffic_t){.send = send + r * bytes, .send_bytes = bytes, .recv_bytes = bytes};
    }
    tessi_sum_job_t job =
        job_of(collect, send + collect->rank * bytes, collect->queued->op.recv, collect->count);
    return transfer(collect, 0, &job);
}

static tessi_share_t share_bytes(const collect_t *collect, int rank)
{
    tessi_share_t share =
        tessi_share_of(collect->count, collect->size, rank, LINE_BYTES / collect->element_bytes);
    share.start *= collect->element_bytes;
    share.count *= collect->element_bytes;
    return share;
}

/* Every rank passes its share of buffer to all others (but `except`) and gets theirs. */
static tess_status_t gather_shares(const collect_t *collect, int phase, char *buffer, int except)
{
    tessi_traffic_t *traffic = tessi_message_traffic(collect->ucx);
    tessi_share_t mine = share_bytes(collect, collect->rank);
    for (int r = 0; r < collect->size; r++) {
        if (r == collect->rank) continue;
        tessi_share_t theirs = share_bytes(collect, r);
        traffic[r] = (tessi_traffic_t){
            .send = buffer + mine.start,
            .send_bytes = r == except ? 0 : mine.count,
            .recv = buffer + theirs.start,
            .recv_bytes = collect->rank == except ? 0 : theirs.count,
        };
    }
    return transfer(collect, phase, NULL);
}

static tess_status_t all_reduce(const collect_t *collect)
{
    tessi_traffic_t *traffic = tessi_message_traffic(collect->ucx);
    const char *send = collect->queued->op.send;
    char *recv = collect->queued->op.recv;
    tessi_share_t mine = share_bytes(collect, collect->rank);
    for (int r = 0; r < collect->size; r++) {
        if (r == collect->rank) continue;
        tessi_share_t theirs = share_bytes(collect, r);
        traffic[r] = (tessi_traffic_t){
            .send = send + theirs.start, .send_bytes = theirs.count, .recv_bytes = mine.count};
    }
    tessi_sum_job_t job =
        job_of(collect, send + mine.start, recv + mine.start, mine.count / collect->element_bytes);
    tess_status_t status = transfer(collect, 0, &job);
    return status < 0 ? status : gather_shares(collect, 1, recv, -1);
}

static tess_status_t broadcast(const collect_t *collect)
{
    tessi_traffic_t *traffic = tessi_message_traffic(collect->ucx);
    int root = collect->queued->op.record.root;
    char *recv = collect->queued->op.recv;
    int64_t bytes = collect->count * collect->element_bytes;
    int in_shares = collect->size > 2 && bytes >= BROADCAST_SHARE_BYTES;
    for (int r = 0; r < collect->size; r++) {
        tessi_share_t share = {0, bytes};
        int receiver = collect->rank == root ? r : collect->rank;
        if (in_shares) share = share_bytes(collect, receiver);
        if (r == collect->rank) continue;
        if (collect->rank == root)
            traffic[r] = (tessi_traffic_t){.send = recv + share.start, .send_bytes = share.count};
        else if (r == root)
            traffic[r] = (tessi_traffic_t){.recv = recv + share.start, .recv_bytes = share.count};
    }
    tess_status_t status = transfer(collect, 0, NULL);
    if (status < 0 || !in_shares) return status;
    return gather_shares(collect, 1, recv, root);
}

static tess_status_t move_data(const collect_t *collect, int kind)
{
    switch (kind) {
    case TESSI_OP_ALL_GATHER:
        return all_gather(collect);
    case TESSI_OP_REDUCE_SCATTER:
        return reduce_scatter(collect);
    case TESSI_OP_ALL_REDUCE:
        return all_reduce(collect);
    case TESSI_OP_BROADCAST:
        return broadcast(collect);
    default:
        return TESS_OK; /* a barrier is the meeting */
    }
}

tess_status_t tessi_message_run(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued)
{
    const tessi_op_record_t *record = &queued->op.record;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "ucx_message", -1, record->sequence);
    collect_t collect = {
        .ucx = ucx,
        .queued = queued,
        .rank = ucx->comm->rank,
        .size = ucx->comm->size,
        .count = record->count,
        .element_bytes = tess_dtype_bytes((tess_dtype_t)record->dtype),
    };
    tess_status_t status = tessi_message_meet(ucx, queued, 0);
    if (status == TESS_OK && record->count > 0) status = move_data(&collect, record->kind);
    if (status == TESS_OK) status = tessi_message_flush(ucx, queued);
    if (status < 0) {
        char sentence[640];
        strncpy(sentence, tess_last_error(), sizeof sentence - 1);
        sentence[sizeof sentence - 1] = 0;
        tessi_message_drop(ucx);
        return tessi_fail(status, "%s", sentence);
    }
    return TESS_OK;
}
