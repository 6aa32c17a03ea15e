/* SPDX-License-Identifier: Apache-2.0 */
/* Path `message`: requests, what an operation says to each peer first, and giving up.
 *
 * Invariant: no request outlives the operation that made it, also when it fails, so UCX never
 * touches a caller's buffer later.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ucx_message.h"

#define CHUNK_NEAR_BYTES ((int64_t)64 << 10)
#define CHUNK_FAR_BYTES ((int64_t)256 << 10)
#define CHUNK_LEAST_BYTES ((int64_t)8 << 10)
#define STAGE_MAX_BYTES ((int64_t)16 << 20)
/* When a connection breaks, the control plane mostly knows why a moment later. */
#define EXPLAIN_WAIT_MS 200
#define DROP_WAIT_MS 1000

/* --- opening ---------------------------------------------------------------------------------- */

/* The same on all ranks: which of them are neighbours, and whether by shared memory, is seen alike.
 */
static int64_t choose_chunk(const tessi_ucx_t *ucx)
{
    const tess_comm_t *comm = ucx->comm;
    const char *own = tess_world_host(comm->world, comm->ranks[comm->rank]);
    int near = ucx->all_may_share;
    for (int r = 0; r < comm->size; r++)
        near &= strcmp(own, tess_world_host(comm->world, comm->ranks[r])) == 0;
    int64_t chunk_bytes = near ? CHUNK_NEAR_BYTES : CHUNK_FAR_BYTES;
    while (chunk_bytes * TESSI_WINDOW * comm->size > STAGE_MAX_BYTES &&
           chunk_bytes > CHUNK_LEAST_BYTES)
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

static tess_status_t create_message(const tessi_ucx_t *ucx, tessi_message_t **created)
{
    size_t size = (size_t)ucx->comm->size;
    tessi_message_t *message = tessi_calloc(1, sizeof *message);
    if (!message) return TESS_ERR_OUT_OF_MEMORY;
    message->chunk_bytes = choose_chunk(ucx);
    message->lanes = tessi_calloc(size, sizeof *message->lanes);
    message->traffic = tessi_calloc(size, sizeof *message->traffic);
    message->sources = tessi_calloc(size, sizeof *message->sources);
    message->stage = tessi_aligned_alloc(4096, size * TESSI_WINDOW * (size_t)message->chunk_bytes);
    if (message->lanes && message->traffic && message->sources && message->stage) {
        *created = message;
        return TESS_OK;
    }
    free_message(message);
    return TESS_ERR_OUT_OF_MEMORY;
}

/* --- requests --------------------------------------------------------------------------------- */

ucp_tag_t tessi_tag_of(tessi_what_t what, int phase, int sender, int64_t sequence)
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

ucs_status_t tessi_start_send(tessi_ucx_t *ucx, int peer, const void *data, int64_t bytes,
                              ucp_tag_t tag, void **request)
{
    ucp_request_param_t plain = {0};
    if (!ucx->endpoints[peer] || tessi_fault("ucx")) return UCS_ERR_NOT_CONNECTED;
    return keep(ucp_tag_send_nbx(ucx->endpoints[peer], data, (size_t)bytes, tag, &plain), request);
}

ucs_status_t tessi_start_recv(tessi_ucx_t *ucx, void *data, int64_t bytes, ucp_tag_t tag,
                              void **request)
{
    ucp_request_param_t plain = {0};
    if (tessi_fault("ucx")) return UCS_ERR_NO_RESOURCE;
    return keep(ucp_tag_recv_nbx(ucx->worker, data, (size_t)bytes, tag, ~(ucp_tag_t)0, &plain),
                request);
}

/* 1 when the request is done (or there is none), 0 while it is under way; *status keeps errors. */
int tessi_is_done(void **request, ucs_status_t *status)
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

tess_status_t tessi_fail_lost(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int peer,
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

static int drop_lane(tessi_lane_t *lane)
{
    ucs_status_t ignored = UCS_OK;
    int done =
        tessi_is_done(&lane->header_send, &ignored) & tessi_is_done(&lane->header_recv, &ignored) &
        tessi_is_done(&lane->credit_send, &ignored) & tessi_is_done(&lane->credit_recv, &ignored);
    for (int i = 0; i < TESSI_WINDOW; i++)
        done &= tessi_is_done(&lane->sends[i], &ignored) & tessi_is_done(&lane->recvs[i], &ignored);
    return done;
}

/* Messages that nobody will ask for any more, because this rank or a peer gave up. One that broke
 * off in the middle never ends; it goes with the worker. */
static void drop_unasked(tessi_ucx_t *ucx)
{
    tessi_message_t *message = ucx->message;
    size_t room = (size_t)(message->chunk_bytes * TESSI_WINDOW * ucx->comm->size);
    ucp_tag_message_h unasked;
    ucp_tag_recv_info_t info;
    while ((unasked = ucp_tag_probe_nb(ucx->worker, 0, 0, 1, &info)) != NULL) {
        ucp_request_param_t plain = {0};
        ucs_status_t ignored = UCS_OK;
        void *request = NULL;
        if (keep(ucp_tag_msg_recv_nbx(ucx->worker, message->stage, room, unasked, &plain),
                 &request) != UCS_OK)
            continue;
        (void)tessi_is_done(&request, &ignored);
    }
}

/* UCX works on only as long as it must: a peer's late word about connecting would make it answer,
 * and UCX 1.13 ends the process when an answer is still pending as its worker goes. */
void tessi_message_drop(tessi_ucx_t *ucx)
{
    tessi_message_t *message = ucx->message;
    int size = ucx->comm->size;
    for (int r = 0; r < size; r++) {
        tessi_lane_t *lane = &message->lanes[r];
        cancel(ucx, lane->header_recv);
        cancel(ucx, lane->credit_recv);
        for (int i = 0; i < TESSI_WINDOW; i++) cancel(ucx, lane->recvs[i]);
    }
    tessi_ucx_cut(ucx);
    int64_t deadline_ns = tessi_deadline_ns(DROP_WAIT_MS);
    for (;;) {
        ucs_status_t ignored = UCS_OK;
        int left = !tessi_is_done(&message->flush, &ignored);
        for (int r = 0; r < size; r++) left |= !drop_lane(&message->lanes[r]);
        if (!left || tessi_now_ns() >= deadline_ns) break;
        (void)ucp_worker_progress(ucx->worker);
    }
    drop_unasked(ucx);
}

/* --- waiting ---------------------------------------------------------------------------------- */

static const char *lane_remark(const tessi_lane_t *lane, char *text, size_t bytes)
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

static tess_status_t fail_late(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued,
                               tessi_lane_test_t is_idle)
{
    tessi_rank_list_t late = {.count = 0};
    for (int r = 0; r < ucx->comm->size; r++) {
        char remark[240];
        const tessi_lane_t *lane = &ucx->message->lanes[r];
        if (r == ucx->comm->rank || is_idle(lane)) continue;
        tessi_rank_list_add(&late, ucx, r, lane_remark(lane, remark, sizeof remark));
    }
    return tessi_ucx_fail(ucx, &queued->op.record, TESS_ERR_TIMEOUT, "after %d ms %s",
                          ucx->comm->timeout_ms, late.count > 0 ? late.text : "nothing moved");
}

/* Between two rounds of polling: lets UCX work, and looks for reasons to give up. */
tess_status_t tessi_work_or_wait(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued,
                                 tessi_lane_test_t is_idle, int moved, tessi_backoff_t *backoff)
{
    if (ucp_worker_progress(ucx->worker) > 0 || moved) {
        *backoff = (tessi_backoff_t)TESSI_BACKOFF_START;
        return tessi_ucx_has_failed(ucx) ? tessi_ucx_interrupted(ucx, &queued->op.record) : TESS_OK;
    }
    if (tessi_ucx_has_failed(ucx)) return tessi_ucx_interrupted(ucx, &queued->op.record);
    for (int r = 0; r < ucx->comm->size; r++)
        if (ucx->lost[r] != UCS_OK && !is_idle(&ucx->message->lanes[r]))
            return tessi_fail_lost(ucx, queued, r, ucx->lost[r]);
    if (backoff->first_ns != 0 && tessi_now_ns() >= ucx->message->deadline_ns)
        return fail_late(ucx, queued, is_idle);
    tessi_backoff_pause(backoff);
    return TESS_OK;
}

/* --- the meeting ------------------------------------------------------------------------------ */

static int has_met(const tessi_lane_t *lane)
{
    return lane->has_header && !lane->header_send;
}

static tess_status_t start_meeting(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int phase,
                                   int peer)
{
    tessi_message_t *message = ucx->message;
    tessi_lane_t *lane = &message->lanes[peer];
    int64_t sequence = queued->op.record.sequence, bytes = (int64_t)sizeof message->header;
    lane->has_header = 0;
    ucs_status_t status =
        tessi_start_recv(ucx, &lane->header_in, bytes,
                         tessi_tag_of(TESSI_HEADER, phase, peer, sequence), &lane->header_recv);
    if (status == UCS_OK)
        status = tessi_start_send(ucx, peer, &message->header, bytes,
                                  tessi_tag_of(TESSI_HEADER, phase, ucx->comm->rank, sequence),
                                  &lane->header_send);
    return status == UCS_OK ? TESS_OK : tessi_fail_lost(ucx, queued, peer, status);
}

/* Takes in what has come of the peer's header. */
static tess_status_t advance_meeting(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int peer)
{
    tessi_lane_t *lane = &ucx->message->lanes[peer];
    ucs_status_t failure = UCS_OK;
    (void)tessi_is_done(&lane->header_send, &failure);
    int came = tessi_is_done(&lane->header_recv, &failure);
    if (failure != UCS_OK) return tessi_fail_lost(ucx, queued, peer, failure);
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
            TESS_TRY(tessi_work_or_wait(ucx, queued, has_met, met != before, &backoff), done);
    }
done:
    return status;
}

/* --- the end of an operation ------------------------------------------------------------------ */

static int never_idle(const tessi_lane_t *lane)
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
    while (status == TESS_OK && !tessi_is_done(&request, &ignored))
        status = tessi_work_or_wait(ucx, queued, never_idle, 0, &backoff);
    ucx->message->flush = request;
    return status;
}

/* --- the life of the path --------------------------------------------------------------------- */

/* One chunk to and from everybody: long enough for the protocol that operations will use, which has
 * to be agreed upon with each peer on first use. */
static tess_status_t try_chunk(tessi_ucx_t *ucx, const tessi_ucx_op_t *hello)
{
    tessi_message_t *message = ucx->message;
    int rank = ucx->comm->rank;
    int64_t room = TESSI_WINDOW * message->chunk_bytes;
    memset(message->stage + rank * room, 0, (size_t)message->chunk_bytes);
    for (int r = 0; r < ucx->comm->size; r++) {
        if (r == rank) continue;
        message->traffic[r] = (tessi_traffic_t){.send = message->stage + rank * room,
                                                .recv = message->stage + r * room,
                                                .send_bytes = message->chunk_bytes,
                                                .recv_bytes = message->chunk_bytes};
    }
    return tessi_message_transfer(ucx, hello, 0, NULL);
}

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
    TESS_TRY(try_chunk(ucx, &hello), done);
    TESS_TRY(tessi_message_flush(ucx, &hello), done);
    TESS_TRY(tessi_message_meet(ucx, &hello, 1), done);
done:
    return status;
}

tess_status_t tessi_message_open(tessi_ucx_t *ucx)
{
    tessi_message_t *message = NULL;
    tess_status_t status =
        tessi_comm_agree(ucx->comm, "ucx messages", create_message(ucx, &message));
    if (status < 0 || !message) goto err_free;
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
