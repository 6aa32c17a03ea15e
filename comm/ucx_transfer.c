/* SPDX-License-Identifier: Apache-2.0 */
/* Path `message`: transfers in chunks.
 *
 * A transfer moves a stream of chunks to and from every peer at once. A sender is at most a window
 * ahead of what the receiver has taken in, as the receiver tells it, so neither UCX nor we hold
 * more than a window of chunks per peer. Invariant: a transfer ends only when each peer has told
 * that it has everything.
 */
#include <string.h>

#include "ucx_message.h"

tessi_traffic_t *tessi_message_traffic(tessi_ucx_t *ucx)
{
    return ucx->message->traffic;
}

static int is_through(const tessi_lane_t *lane)
{
    if (lane->sent < lane->send_chunks || lane->taken < lane->send_chunks) return 0;
    if (lane->told < lane->recv_chunks || lane->credit_send) return 0;
    for (int i = 0; i < TESSI_WINDOW; i++)
        if (lane->sends[i]) return 0;
    return 1;
}

static void start_lane(const tessi_message_t *message, tessi_lane_t *lane,
                       const tessi_traffic_t *traffic)
{
    int64_t chunk = message->chunk_bytes;
    lane->send_chunks = (traffic->send_bytes + chunk - 1) / chunk;
    lane->recv_chunks = (traffic->recv_bytes + chunk - 1) / chunk;
    lane->sent = lane->taken = lane->posted = lane->received = lane->consumed = lane->told = 0;
}

/* A transfer as its lanes see it. */
typedef struct transfer {
    tessi_ucx_t *ucx;
    const tessi_ucx_op_t *queued;
    int phase;
    int is_summed;
} transfer_t;

static int64_t chunk_length(const tessi_message_t *message, int64_t bytes, int64_t chunk)
{
    int64_t left = bytes - chunk * message->chunk_bytes;
    return left < message->chunk_bytes ? left : message->chunk_bytes;
}

static char *staged(const tessi_message_t *message, int peer, int64_t chunk)
{
    return message->stage +
           ((int64_t)peer * TESSI_WINDOW + chunk % TESSI_WINDOW) * message->chunk_bytes;
}

static ucs_status_t advance_sends(const transfer_t *transfer, int peer, int *moved)
{
    tessi_message_t *message = transfer->ucx->message;
    const tessi_traffic_t *traffic = &message->traffic[peer];
    tessi_lane_t *lane = &message->lanes[peer];
    ucs_status_t status = UCS_OK;
    int64_t sequence = transfer->queued->op.record.sequence;
    for (int i = 0; i < TESSI_WINDOW; i++) (void)tessi_is_done(&lane->sends[i], &status);
    while (status == UCS_OK && lane->sent < lane->send_chunks &&
           lane->sent - lane->taken < TESSI_WINDOW && !lane->sends[lane->sent % TESSI_WINDOW]) {
        status = tessi_start_send(
            transfer->ucx, peer, traffic->send + lane->sent * message->chunk_bytes,
            chunk_length(message, traffic->send_bytes, lane->sent),
            tessi_tag_of(TESSI_DATA, transfer->phase, transfer->ucx->comm->rank, sequence),
            &lane->sends[lane->sent % TESSI_WINDOW]);
        lane->sent++;
        *moved = 1;
    }
    return status;
}

static ucs_status_t advance_recvs(const transfer_t *transfer, int peer, int *moved)
{
    tessi_message_t *message = transfer->ucx->message;
    const tessi_traffic_t *traffic = &message->traffic[peer];
    tessi_lane_t *lane = &message->lanes[peer];
    ucs_status_t status = UCS_OK;
    int64_t sequence = transfer->queued->op.record.sequence;
    while (lane->received < lane->posted && status == UCS_OK &&
           tessi_is_done(&lane->recvs[lane->received % TESSI_WINDOW], &status)) {
        lane->received++;
        *moved = 1;
    }
    if (!transfer->is_summed) lane->consumed = lane->received;
    while (status == UCS_OK && lane->posted < lane->recv_chunks &&
           lane->posted - lane->consumed < TESSI_WINDOW) {
        char *to = transfer->is_summed ? staged(message, peer, lane->posted)
                                       : traffic->recv + lane->posted * message->chunk_bytes;
        status = tessi_start_recv(transfer->ucx, to,
                                  chunk_length(message, traffic->recv_bytes, lane->posted),
                                  tessi_tag_of(TESSI_DATA, transfer->phase, peer, sequence),
                                  &lane->recvs[lane->posted % TESSI_WINDOW]);
        lane->posted++;
        *moved = 1;
    }
    return status;
}

/* Tells the peer what was taken in, every half window and at the end; hears the same. */
static ucs_status_t advance_credits(const transfer_t *transfer, int peer, int *moved)
{
    tessi_lane_t *lane = &transfer->ucx->message->lanes[peer];
    ucs_status_t status = UCS_OK;
    int64_t sequence = transfer->queued->op.record.sequence;
    int64_t bytes = (int64_t)sizeof lane->credit_in;
    int worth_telling =
        lane->consumed == lane->recv_chunks || lane->consumed - lane->told >= TESSI_WINDOW / 2;
    if (tessi_is_done(&lane->credit_send, &status) && lane->consumed > lane->told &&
        worth_telling) {
        lane->credit_out = lane->told = lane->consumed;
        status = tessi_start_send(
            transfer->ucx, peer, &lane->credit_out, bytes,
            tessi_tag_of(TESSI_CREDIT, transfer->phase, transfer->ucx->comm->rank, sequence),
            &lane->credit_send);
        *moved = 1;
    }
    while (status == UCS_OK && lane->taken < lane->send_chunks) {
        if (lane->is_listening) {
            if (!tessi_is_done(&lane->credit_recv, &status) || status != UCS_OK) break;
            lane->is_listening = 0;
            lane->taken = lane->credit_in;
            *moved = 1;
            continue;
        }
        status = tessi_start_recv(transfer->ucx, &lane->credit_in, bytes,
                                  tessi_tag_of(TESSI_CREDIT, transfer->phase, peer, sequence),
                                  &lane->credit_recv);
        lane->is_listening = 1;
    }
    return status;
}

/* Sums the chunks that have come from everybody. */
static void advance_sums(const transfer_t *transfer, const tessi_sum_job_t *job, int64_t bytes,
                         int64_t *summed, int *moved)
{
    tessi_ucx_t *ucx = transfer->ucx;
    tessi_message_t *message = ucx->message;
    int rank = ucx->comm->rank, size = ucx->comm->size;
    for (;;) {
        int64_t at = *summed * message->chunk_bytes;
        if (at >= bytes) return;
        for (int r = 0; r < size; r++) {
            if (r != rank && message->lanes[r].received <= *summed) return;
            message->sources[r] = r == rank ? job->mine + at : staged(message, r, *summed);
        }
        tessi_sum_host(job->dtype, job->result + at, message->sources, size,
                       chunk_length(message, bytes, *summed) / tess_dtype_bytes(job->dtype),
                       job->scale);
        ++*summed;
        for (int r = 0; r < size; r++) message->lanes[r].consumed = *summed;
        *moved = 1;
    }
}

static tess_status_t advance_all(const transfer_t *transfer, int *moved, int *through)
{
    tessi_ucx_t *ucx = transfer->ucx;
    int rank = ucx->comm->rank, size = ucx->comm->size;
    *through = 1;
    for (int i = 1; i < size; i++) {
        int peer = (rank + i) % size;
        tessi_lane_t *lane = &ucx->message->lanes[peer];
        if (is_through(lane)) continue;
        ucs_status_t status = advance_recvs(transfer, peer, moved);
        if (status == UCS_OK) status = advance_credits(transfer, peer, moved);
        if (status == UCS_OK) status = advance_sends(transfer, peer, moved);
        if (status != UCS_OK) return tessi_fail_lost(ucx, transfer->queued, peer, status);
        *through &= is_through(lane);
    }
    return TESS_OK;
}

tess_status_t tessi_message_transfer(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int phase,
                                     const tessi_sum_job_t *job)
{
    tessi_message_t *message = ucx->message;
    transfer_t transfer = {.ucx = ucx, .queued = queued, .phase = phase, .is_summed = job != NULL};
    int64_t summed = 0, sum_bytes = job ? job->count * tess_dtype_bytes(job->dtype) : 0;
    for (int r = 0; r < ucx->comm->size; r++)
        start_lane(message, &message->lanes[r], &message->traffic[r]);
    tess_status_t status = TESS_OK;
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    for (int through = 0;;) {
        int moved = 0;
        TESS_TRY(advance_all(&transfer, &moved, &through), done);
        if (job) advance_sums(&transfer, job, sum_bytes, &summed, &moved);
        if (through && summed * message->chunk_bytes >= sum_bytes) break;
        TESS_TRY(tessi_work_or_wait(ucx, queued, is_through, moved, &backoff), done);
    }
done:
    memset(message->traffic, 0, (size_t)ucx->comm->size * sizeof *message->traffic);
    return status;
}
