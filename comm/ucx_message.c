/* SPDX-License-Identifier: Apache-2.0 */
/* Path `message`: what an operation says to each peer first, and transfers in chunks.
 *
 * A transfer moves a stream of chunks to and from every peer at once. A sender is at most a window
 * ahead of what the receiver has taken in, as the receiver tells it, so neither UCX nor we hold
 * more than a window of chunks per peer; and a transfer ends only when each peer has told that it
 * has everything. Invariant: no request outlives the operation that made it, also when it fails, so
 * UCX never touches a caller's buffer later.
 *
 * A tag says what a message is, from whom, for which operation and which transfer of it; between
 * two ranks UCX keeps messages of one tag in order.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ucx_internal.h"

#define WINDOW 8
#define CHUNK_NEAR_BYTES ((int64_t)64 << 10)
#define CHUNK_FAR_BYTES ((int64_t)256 << 10)
#define CHUNK_LEAST_BYTES ((int64_t)8 << 10)
#define STAGE_MAX_BYTES ((int64_t)16 << 20)
/* When a connection breaks, the control plane mostly knows why a moment later. */
#define EXPLAIN_WAIT_MS 200
#define DROP_WAIT_MS 1000
#define UNASKED_WAIT_MS 50

typedef enum what { HEADER = 1, DATA = 2, CREDIT = 3 } what_t;

/* The traffic with one peer. Chunks are counted from the start of the transfer. */
typedef struct lane {
    int64_t send_chunks, sent;   /* all; handed to UCX */
    int64_t taken;               /* of mine, as the peer tells */
    int64_t recv_chunks, posted; /* all; receives handed to UCX */
    int64_t received, consumed;  /* arrived, in order; copied or summed */
    int64_t told;                /* consumed, as the peer was told */
    int64_t credit_out, credit_in;
    void *sends[WINDOW], *recvs[WINDOW]; /* requests; chunk c has place c % WINDOW */
    void *credit_send, *credit_recv;
    int is_listening;                    /* a receive for credits was started */
    tessi_op_record_t header, header_in; /* the peer's latest; the one under way */
    void *header_send, *header_recv;
    int has_header; /* of the operation that runs */
} lane_t;

struct tessi_message {
    int64_t chunk_bytes;      /* of data; a multiple of 4 KiB */
    lane_t *lanes;            /* (size) */
    tessi_traffic_t *traffic; /* (size) */
    const void **sources;     /* (size) */
    char *stage;              /* (size, WINDOW, chunk_bytes) for chunks to be summed */
    tessi_op_record_t header; /* of the operation that runs, as it is sent */
    void *flush;              /* left under way by an operation that failed */
    int64_t deadline_ns;
};

/* --- opening ---------------------------------------------------------------------------------- */

static int64_t choose_chunk(const tess_comm_t *comm)
{
    const char *own = tess_world_host(comm->world, comm->ranks[comm->rank]);
    int near = 1;
    for (int r = 0; r < comm->size; r++)
        near &= strcmp(own, tess_world_host(comm->world, comm->ranks[r])) == 0;
    int64_t chunk_bytes = near ? CHUNK_NEAR_BYTES : CHUNK_FAR_BYTES;
    while (chunk_bytes * WINDOW * comm->size > STAGE_MAX_BYTES && chunk_bytes > CHUNK_LEAST_BYTES)
        chunk_bytes /= 2;
    return chunk_bytes;
}

static void free_message(tessi_message_t *message)
{
    tessi_free(message->stage);
    tessi_free(message->sources);
    tessi_free(message->traffic);
    tessi_free(message->lanes);
    tessi_free(message);
}

static tess_status_t create_message(const tess_comm_t *comm, tessi_message_t **created)
{
    size_t size = (size_t)comm->size;
    tessi_message_t *message = tessi_calloc(1, sizeof *message);
    if (!message) return TESS_ERR_OUT_OF_MEMORY;
    message->chunk_bytes = choose_chunk(comm);
    message->lanes = tessi_calloc(size, sizeof *message->lanes);
    message->traffic = tessi_calloc(size, sizeof *message->traffic);
    message->sources = tessi_calloc(size, sizeof *message->sources);
    message->stage = tessi_aligned_alloc(4096, size * WINDOW * (size_t)message->chunk_bytes);
    if (message->lanes && message->traffic && message->sources && message->stage) {
        *created = message;
        return TESS_OK;
    }
    free_message(message);
    return TESS_ERR_OUT_OF_MEMORY;
}

/* The chunk must be the same on all ranks; which of them are near is seen differently from each. */
static tess_status_t agree_chunk(tess_comm_t *comm, char *cards, int64_t *chunk_bytes)
{
    int64_t least_bytes = *chunk_bytes;
    int64_t *all = (int64_t *)(void *)cards;
    tess_status_t status =
        tessi_comm_exchange(comm, "ucx chunk", chunk_bytes, (int64_t)sizeof *chunk_bytes, all);
    for (int r = 0; status == TESS_OK && r < comm->size; r++)
        if (all[r] < least_bytes) least_bytes = all[r];
    *chunk_bytes = least_bytes;
    return status;
}

tessi_traffic_t *tessi_message_traffic(tessi_ucx_t *ucx)
{
    return ucx->message->traffic;
}

/* --- requests --------------------------------------------------------------------------------- */

static ucp_tag_t tag_of(what_t what, int phase, int sender, int64_t sequence)
{
    return (uint64_t)what << 62 | (uint64_t)phase << 60 | (uint64_t)sender << 40 |
           ((uint64_t)sequence & 0xffffffffffu);
}

/* Starts a request; *request stays NULL when it is done at once. */
static ucs_status_t keep(ucs_status_ptr_t started, void **request)
{
    if (UCS_PTR_IS_ERR(started)) return UCS_PTR_STATUS(started);
    *request = UCS_PTR_IS_PTR(started) ? started : NULL;
    return UCS_OK;
}

static ucs_status_t start_send(tessi_ucx_t *ucx, int peer, const void *data, int64_t bytes,
                               ucp_tag_t tag, void **request)
{
    ucp_request_param_t plain = {0};
    if (!ucx->endpoints[peer] || tessi_fault("ucx")) return UCS_ERR_NOT_CONNECTED;
    return keep(ucp_tag_send_nbx(ucx->endpoints[peer], data, (size_t)bytes, tag, &plain), request);
}

static ucs_status_t start_recv(tessi_ucx_t *ucx, void *data, int64_t bytes, ucp_tag_t tag,
                               void **request)
{
    ucp_request_param_t plain = {0};
    if (tessi_fault("ucx")) return UCS_ERR_NO_RESOURCE;
    return keep(ucp_tag_recv_nbx(ucx->worker, data, (size_t)bytes, tag, ~(ucp_tag_t)0, &plain),
                request);
}

/* 1 when the request is done (or there is none), 0 while it is under way; *status keeps errors. */
static int is_done(void **request, ucs_status_t *status)
{
    if (!*request) return 1;
    ucs_status_t state = ucp_request_check_status(*request);
    if (state == UCS_INPROGRESS) return 0;
    if (state != UCS_OK) *status = state;
    ucp_request_free(*request);
    *request = NULL;
    return 1;
}

/* --- failing ---------------------------------------------------------------------------------- */

static tess_status_t fail_lost(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int peer,
                               ucs_status_t why)
{
    char who[160];
    int64_t until_ns = tessi_deadline_ns(EXPLAIN_WAIT_MS);
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    while (!tessi_ucx_has_failed(ucx) && tessi_now_ns() < until_ns) tessi_backoff_pause(&backoff);
    tessi_world_rank_text(ucx->comm->world, ucx->comm->ranks[peer], who, sizeof who);
    return tessi_ucx_fail(ucx, &queued->op.record, TESS_ERR_PEER_LOST,
                          "the connection to %s broke: %s", who, ucs_status_string(why));
}

static void cancel(tessi_ucx_t *ucx, void *request)
{
    if (request) ucp_request_cancel(ucx->worker, request);
}

static int drop_lane(lane_t *lane)
{
    ucs_status_t ignored = UCS_OK;
    int done = is_done(&lane->header_send, &ignored) & is_done(&lane->header_recv, &ignored) &
               is_done(&lane->credit_send, &ignored) & is_done(&lane->credit_recv, &ignored);
    for (int i = 0; i < WINDOW; i++)
        done &= is_done(&lane->sends[i], &ignored) & is_done(&lane->recvs[i], &ignored);
    return done;
}

/* Messages that nobody will ask for any more, because this rank or a peer gave up. One that broke
 * off in the middle never ends; it goes with the worker. */
static void drop_unasked(tessi_ucx_t *ucx)
{
    tessi_message_t *message = ucx->message;
    size_t room = (size_t)(message->chunk_bytes * WINDOW * ucx->comm->size);
    int64_t deadline_ns = tessi_deadline_ns(UNASKED_WAIT_MS);
    ucp_tag_message_h unasked;
    ucp_tag_recv_info_t info;
    while ((unasked = ucp_tag_probe_nb(ucx->worker, 0, 0, 1, &info)) != NULL) {
        ucp_request_param_t plain = {0};
        ucs_status_t ignored = UCS_OK;
        void *request = NULL;
        if (keep(ucp_tag_msg_recv_nbx(ucx->worker, message->stage, room, unasked, &plain),
                 &request) != UCS_OK)
            continue;
        while (!is_done(&request, &ignored) && tessi_now_ns() < deadline_ns)
            (void)ucp_worker_progress(ucx->worker);
    }
}

void tessi_message_drop(tessi_ucx_t *ucx)
{
    tessi_message_t *message = ucx->message;
    int size = ucx->comm->size;
    for (int r = 0; r < size; r++) {
        lane_t *lane = &message->lanes[r];
        cancel(ucx, lane->header_recv);
        cancel(ucx, lane->credit_recv);
        for (int i = 0; i < WINDOW; i++) cancel(ucx, lane->recvs[i]);
    }
    tessi_ucx_cut(ucx);
    int64_t deadline_ns = tessi_deadline_ns(DROP_WAIT_MS);
    for (int left = 1; left && tessi_now_ns() < deadline_ns;) {
        (void)ucp_worker_progress(ucx->worker);
        left = 0;
        ucs_status_t ignored = UCS_OK;
        for (int r = 0; r < size; r++) left |= !drop_lane(&message->lanes[r]);
        left |= !is_done(&message->flush, &ignored);
    }
    drop_unasked(ucx);
}

/* --- waiting ---------------------------------------------------------------------------------- */

static const char *lane_remark(const lane_t *lane, char *text, size_t bytes)
{
    char op[128];
    if (lane->has_header)
        snprintf(text, bytes, " began it and then stopped (%" PRId64 " of %" PRId64 " chunks came)",
                 lane->received, lane->recv_chunks);
    else if (lane->header.sequence == 0)
        snprintf(text, bytes, " has not called it; it has called nothing yet");
    else
        snprintf(text, bytes, " has not called it; its last was %s",
                 tessi_op_text(&lane->header, op, sizeof op));
    return text;
}

typedef int (*lane_test_t)(const lane_t *lane);

static tess_status_t fail_late(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, lane_test_t is_idle)
{
    tessi_rank_list_t late = {.count = 0};
    for (int r = 0; r < ucx->comm->size; r++) {
        char remark[240];
        const lane_t *lane = &ucx->message->lanes[r];
        if (r == ucx->comm->rank || is_idle(lane)) continue;
        tessi_rank_list_add(&late, ucx, r, lane_remark(lane, remark, sizeof remark));
    }
    return tessi_ucx_fail(ucx, &queued->op.record, TESS_ERR_TIMEOUT, "after %d ms %s",
                          ucx->comm->timeout_ms, late.count > 0 ? late.text : "nothing moved");
}

/* Between two rounds of polling: lets UCX work, and looks for reasons to give up. */
static tess_status_t work_or_wait(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued,
                                  lane_test_t is_idle, int moved, tessi_backoff_t *backoff)
{
    if (ucp_worker_progress(ucx->worker) > 0 || moved) {
        *backoff = (tessi_backoff_t)TESSI_BACKOFF_START;
        return tessi_ucx_has_failed(ucx) ? tessi_ucx_interrupted(ucx, &queued->op.record) : TESS_OK;
    }
    if (tessi_ucx_has_failed(ucx)) return tessi_ucx_interrupted(ucx, &queued->op.record);
    for (int r = 0; r < ucx->comm->size; r++)
        if (ucx->lost[r] != UCS_OK && !is_idle(&ucx->message->lanes[r]))
            return fail_lost(ucx, queued, r, ucx->lost[r]);
    if (backoff->first_ns != 0 && tessi_now_ns() >= ucx->message->deadline_ns)
        return fail_late(ucx, queued, is_idle);
    tessi_backoff_pause(backoff);
    return TESS_OK;
}

/* --- the meeting ------------------------------------------------------------------------------ */

static int has_met(const lane_t *lane)
{
    return lane->has_header && !lane->header_send;
}

static tess_status_t start_meeting(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int phase,
                                   int peer)
{
    tessi_message_t *message = ucx->message;
    lane_t *lane = &message->lanes[peer];
    int64_t sequence = queued->op.record.sequence, bytes = (int64_t)sizeof message->header;
    lane->has_header = 0;
    ucs_status_t status = start_recv(ucx, &lane->header_in, bytes,
                                     tag_of(HEADER, phase, peer, sequence), &lane->header_recv);
    if (status == UCS_OK)
        status = start_send(ucx, peer, &message->header, bytes,
                            tag_of(HEADER, phase, ucx->comm->rank, sequence), &lane->header_send);
    return status == UCS_OK ? TESS_OK : fail_lost(ucx, queued, peer, status);
}

/* Takes in what has come of the peer's header. */
static tess_status_t advance_meeting(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int peer)
{
    lane_t *lane = &ucx->message->lanes[peer];
    ucs_status_t failure = UCS_OK;
    (void)is_done(&lane->header_send, &failure);
    int came = is_done(&lane->header_recv, &failure);
    if (failure != UCS_OK) return fail_lost(ucx, queued, peer, failure);
    if (!came || lane->has_header) return TESS_OK;
    lane->header = lane->header_in;
    lane->has_header = 1;
    return tessi_ucx_compare(ucx, &queued->op.record, peer, &lane->header);
}

tess_status_t tessi_message_meet(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int phase)
{
    tessi_message_t *message = ucx->message;
    int rank = ucx->comm->rank, size = ucx->comm->size, met = 0;
    message->deadline_ns = tessi_deadline_ns(ucx->comm->timeout_ms);
    message->header = queued->op.record;
    tess_status_t status = TESS_OK;
    for (int i = 1; i < size; i++)
        TESS_TRY(start_meeting(ucx, queued, phase, (rank + i) % size), done);
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    while (met < size - 1) {
        int before = met;
        met = 0;
        for (int i = 1; i < size; i++) {
            int peer = (rank + i) % size;
            TESS_TRY(advance_meeting(ucx, queued, peer), done);
            met += has_met(&message->lanes[peer]);
        }
        if (met < size - 1)
            TESS_TRY(work_or_wait(ucx, queued, has_met, met != before, &backoff), done);
    }
done:
    return status;
}

/* --- transfers -------------------------------------------------------------------------------- */

static int is_through(const lane_t *lane)
{
    if (lane->sent < lane->send_chunks || lane->taken < lane->send_chunks) return 0;
    if (lane->told < lane->recv_chunks || lane->credit_send) return 0;
    for (int i = 0; i < WINDOW; i++)
        if (lane->sends[i]) return 0;
    return 1;
}

static void start_lane(const tessi_message_t *message, lane_t *lane, const tessi_traffic_t *traffic)
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
    return message->stage + (peer * WINDOW + chunk % WINDOW) * message->chunk_bytes;
}

static ucs_status_t advance_sends(const transfer_t *transfer, int peer, int *moved)
{
    tessi_message_t *message = transfer->ucx->message;
    const tessi_traffic_t *traffic = &message->traffic[peer];
    lane_t *lane = &message->lanes[peer];
    ucs_status_t status = UCS_OK;
    int64_t sequence = transfer->queued->op.record.sequence;
    for (int i = 0; i < WINDOW; i++) (void)is_done(&lane->sends[i], &status);
    while (status == UCS_OK && lane->sent < lane->send_chunks &&
           lane->sent - lane->taken < WINDOW && !lane->sends[lane->sent % WINDOW]) {
        status = start_send(transfer->ucx, peer, traffic->send + lane->sent * message->chunk_bytes,
                            chunk_length(message, traffic->send_bytes, lane->sent),
                            tag_of(DATA, transfer->phase, transfer->ucx->comm->rank, sequence),
                            &lane->sends[lane->sent % WINDOW]);
        lane->sent++;
        *moved = 1;
    }
    return status;
}

static ucs_status_t advance_recvs(const transfer_t *transfer, int peer, int *moved)
{
    tessi_message_t *message = transfer->ucx->message;
    const tessi_traffic_t *traffic = &message->traffic[peer];
    lane_t *lane = &message->lanes[peer];
    ucs_status_t status = UCS_OK;
    int64_t sequence = transfer->queued->op.record.sequence;
    while (lane->received < lane->posted && status == UCS_OK &&
           is_done(&lane->recvs[lane->received % WINDOW], &status)) {
        lane->received++;
        *moved = 1;
    }
    if (!transfer->is_summed) lane->consumed = lane->received;
    while (status == UCS_OK && lane->posted < lane->recv_chunks &&
           lane->posted - lane->consumed < WINDOW) {
        char *to = transfer->is_summed ? staged(message, peer, lane->posted)
                                       : traffic->recv + lane->posted * message->chunk_bytes;
        status = start_recv(
            transfer->ucx, to, chunk_length(message, traffic->recv_bytes, lane->posted),
            tag_of(DATA, transfer->phase, peer, sequence), &lane->recvs[lane->posted % WINDOW]);
        lane->posted++;
        *moved = 1;
    }
    return status;
}

/* Tells the peer what was taken in, every half window and at the end; hears the same. */
static ucs_status_t advance_credits(const transfer_t *transfer, int peer, int *moved)
{
    lane_t *lane = &transfer->ucx->message->lanes[peer];
    ucs_status_t status = UCS_OK;
    int64_t sequence = transfer->queued->op.record.sequence;
    int64_t bytes = (int64_t)sizeof lane->credit_in;
    int worth_telling =
        lane->consumed == lane->recv_chunks || lane->consumed - lane->told >= WINDOW / 2;
    if (is_done(&lane->credit_send, &status) && lane->consumed > lane->told && worth_telling) {
        lane->credit_out = lane->told = lane->consumed;
        status = start_send(transfer->ucx, peer, &lane->credit_out, bytes,
                            tag_of(CREDIT, transfer->phase, transfer->ucx->comm->rank, sequence),
                            &lane->credit_send);
        *moved = 1;
    }
    while (status == UCS_OK && lane->taken < lane->send_chunks) {
        if (lane->is_listening) {
            if (!is_done(&lane->credit_recv, &status) || status != UCS_OK) break;
            lane->is_listening = 0;
            lane->taken = lane->credit_in;
            *moved = 1;
            continue;
        }
        status = start_recv(transfer->ucx, &lane->credit_in, bytes,
                            tag_of(CREDIT, transfer->phase, peer, sequence), &lane->credit_recv);
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
        lane_t *lane = &ucx->message->lanes[peer];
        if (is_through(lane)) continue;
        ucs_status_t status = advance_recvs(transfer, peer, moved);
        if (status == UCS_OK) status = advance_credits(transfer, peer, moved);
        if (status == UCS_OK) status = advance_sends(transfer, peer, moved);
        if (status != UCS_OK) return fail_lost(ucx, transfer->queued, peer, status);
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
        TESS_TRY(work_or_wait(ucx, queued, is_through, moved, &backoff), done);
    }
done:
    memset(message->traffic, 0, (size_t)ucx->comm->size * sizeof *message->traffic);
    return status;
}

/* --- the end of an operation ------------------------------------------------------------------ */

static int never_idle(const lane_t *lane)
{
    (void)lane;
    return 1;
}

tess_status_t tessi_message_flush(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued)
{
    ucp_request_param_t plain = {0};
    void *request = NULL;
    /* Everything has arrived where it should; a peer that has closed already is none of our worry,
     * so the outcome does not matter. */
    if (keep(ucp_worker_flush_nbx(ucx->worker, &plain), &request) != UCS_OK) return TESS_OK;
    ucs_status_t ignored = UCS_OK;
    tess_status_t status = TESS_OK;
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    while (status == TESS_OK && !is_done(&request, &ignored))
        status = work_or_wait(ucx, queued, never_idle, 0, &backoff);
    ucx->message->flush = request;
    return status;
}

/* --- the life of the path --------------------------------------------------------------------- */

/* Connections are made here and not by the first operation: a peer that cannot be reached is found
 * at open, and UCX's TCP, which takes the death of a peer badly while it connects, has connected.
 * UCX connects in several steps that need both sides; hence the second meeting, to which each rank
 * comes when its connections are complete, and until which all help the others. */
static tess_status_t say_hello(tessi_ucx_t *ucx)
{
    tessi_ucx_op_t hello = {
        .op.record = {.comm_id = ucx->comm->watch.comm_id, .kind = TESSI_OP_OPEN}};
    tess_status_t status;
    TESS_TRY(tessi_message_meet(ucx, &hello, 0), done);
    TESS_TRY(tessi_message_flush(ucx, &hello), done);
    TESS_TRY(tessi_message_meet(ucx, &hello, 1), done);
done:
    return status;
}

tess_status_t tessi_message_open(tessi_ucx_t *ucx)
{
    tessi_message_t *message = NULL;
    tess_status_t status = create_message(ucx->comm, &message);
    TESS_TRY(tessi_comm_agree(ucx->comm, "ucx messages", status), err_free);
    TESS_TRY(agree_chunk(ucx->comm, ucx->cards, &message->chunk_bytes), err_free);
    ucx->message = message;
    TESS_TRY(say_hello(ucx), err_drop);
    return TESS_OK;

err_drop:
    tessi_message_drop(ucx);
    ucx->message = NULL;
err_free:
    if (message) free_message(message);
    return status;
}

void tessi_message_close(tessi_ucx_t *ucx)
{
    drop_unasked(ucx);
    free_message(ucx->message);
    ucx->message = NULL;
}
