/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the files of the ucx transport.
 *
 *   transport_ucx.c   the table: opening, choosing a path, queueing, closing
 *   ucx_turn.c        one operation at a time, in the order of issue, over all streams
 *   ucx_worker.c      UCX context, worker and endpoints
 *   ucx_memory.c      segments that several processes map
 *   ucx_board.c       path `direct`: the shared board on which ranks post operations and progress
 *   ucx_direct.c      path `direct`: moving data with loads and stores
 *   ucx_message.c     path `message`: requests, headers, giving up
 *   ucx_transfer.c    path `message`: moving chunks
 *   ucx_collect.c     path `message`: the collectives as transfers
 *
 * UCX objects are touched by one thread at a time: by the caller's in open, allocate, free and
 * close, and on path `message` by the thread whose operation has the turn. The callers of allocate
 * and free touch UCX on path `direct` only, where operations do not.
 */
#ifndef TESSERA_COMM_UCX_INTERNAL_H
#define TESSERA_COMM_UCX_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <ucp/api/ucp.h>

#include "comm_internal.h"

typedef struct tessi_ucx tessi_ucx_t;
typedef struct tessi_turns tessi_turns_t;
typedef struct tessi_direct tessi_direct_t;
typedef struct tessi_message tessi_message_t;

/* Where a buffer lies for the peers. */
typedef struct tessi_place {
    int32_t segment; /* index into the segments; -1: private memory */
    int32_t unused;
    int64_t offset; /* from the segment's start */
} tessi_spot_t;

/* One operation on its way through a stream. */
typedef struct tessi_ucx_op {
    tessi_turns_t *turns;
    tess_stream_t *stream;
    int64_t ticket;
    tessi_op_t op;
    tessi_spot_t send, recv; /* path direct */
} tessi_ucx_op_t;

/* Runs one operation, on the thread of its stream. */
typedef tess_status_t (*tessi_ucx_run_t)(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued);

/* TESS_UCX_PATH; equal on all ranks. */
typedef enum tessi_ucx_choice {
    TESSI_UCX_AUTO = 0,
    TESSI_UCX_DIRECT = 1,
    TESSI_UCX_MESSAGE = 2
} tessi_ucx_choice_t;

/* What a rank brings to an exchange of this transport has room in one card. */
#define TESSI_CARD_BYTES 4096

struct tessi_ucx {
    tess_comm_t *comm;
    tessi_turns_t *turns;
    tessi_ucx_choice_t choice;
    tessi_ucx_run_t run; /* by the path that was agreed upon */
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h *endpoints; /* (size); NULL for this rank, and once closed */
    ucs_status_t *lost;  /* (size) UCS_OK, or why UCX gave up a peer */
    void **closing;      /* (size) requests of endpoints that are being closed */
    int all_may_share;   /* no rank's UCX_TLS leaves shared memory out */
    char *cards;         /* (size + 1, TESSI_CARD_BYTES): all ranks', and this rank's own */
    tessi_direct_t *direct;
    tessi_message_t *message;
};

/* --- transport_ucx.c -------------------------------------------------------------------------- */

tess_status_t tessi_ucx_error(ucs_status_t status, const char *format, ...) TESSI_PRINTF(2, 3);

/* The operation failed here: tells the other ranks, keeps the sentence for tess_comm_status, and
 * returns status with "all_gather 18 (count 4096, bf16): …" in tess_last_error(). When the
 * communicator has failed already, that failure is returned instead, with the operation named. */
tess_status_t tessi_ucx_fail(tessi_ucx_t *ucx, const tessi_op_record_t *record,
                             tess_status_t status, const char *format, ...) TESSI_PRINTF(4, 5);

/* The communicator has failed elsewhere while this operation ran or waited. */
tess_status_t tessi_ucx_interrupted(tessi_ucx_t *ucx, const tessi_op_record_t *record);

static inline int tessi_ucx_has_failed(const tessi_ucx_t *ucx)
{
    return atomic_load_explicit(&ucx->comm->watch.status, memory_order_acquire) != TESS_OK;
}

/* Compares what a peer issued with this rank's operation of the same sequence. */
tess_status_t tessi_ucx_compare(tessi_ucx_t *ucx, const tessi_op_record_t *mine, int peer,
                                const tessi_op_record_t *theirs);

/* Lists ranks in a sentence as far as there is room. */
typedef struct tessi_rank_list {
    char text[360];
    int count;
} tessi_rank_list_t;
void tessi_rank_list_add(tessi_rank_list_t *list, const tessi_ucx_t *ucx, int rank,
                         const char *remark);

/* A share of n equal ones, in elements: the last may be shorter. */
typedef struct tessi_share {
    int64_t start, count;
} tessi_share_t;
/* alignment is in elements. */
tessi_share_t tessi_share_of(int64_t count, int n, int rank, int64_t alignment);

/* --- ucx_turn.c ------------------------------------------------------------------------------- */

tess_status_t tessi_turns_create(tessi_ucx_t *ucx, tessi_turns_t **turns);

/* Queues the operation as the next one; turns and ticket are filled in here. */
tess_status_t tessi_turns_push(tessi_turns_t *turns, tessi_ucx_op_t *queued, tess_stream_t *stream);

/* 1 while operations are queued or running. */
int tessi_turns_are_busy(tessi_turns_t *turns);

/* Runs function unless an operation is running now; keeps operations from starting meanwhile. */
void tessi_turns_when_idle(tessi_turns_t *turns, void (*function)(tessi_ucx_t *ucx),
                           tessi_ucx_t *ucx);

/* From now on queued operations end without touching the communicator; waits for the one that runs
 * (which must have been told to stop). What is still queued keeps the turns until it has gone. */
void tessi_turns_close(tessi_turns_t *turns);

/* --- ucx_worker.c ----------------------------------------------------------------------------- */

/* Collective. Context, worker, and an endpoint to every peer. */
tess_status_t tessi_ucx_connect(tessi_ucx_t *ucx);
void tessi_ucx_disconnect(tessi_ucx_t *ucx);

/* 1 when UCX_TLS leaves transports over shared memory in. */
int tessi_ucx_may_share(void);

/* Closes all endpoints at once, whether or not peers answer; requests in flight end. */
void tessi_ucx_cut(tessi_ucx_t *ucx);

/* --- ucx_memory.c ----------------------------------------------------------------------------- */

/* "/dev/shm has … of … bytes free, …" for messages. */
const char *tessi_shm_state(void);

typedef struct tessi_segment_peer {
    ucp_rkey_h key; /* NULL: not mapped */
    char *base;
} tessi_segment_peer_t;

/* Memory of the same size on every rank, mapped by all of them. */
typedef struct tessi_segment {
    ucp_mem_h handle; /* NULL: this rank has freed its part */
    char *base;       /* of this rank's part */
    int64_t bytes;
    tessi_segment_peer_t peers[]; /* (size) */
} tessi_segment_t;

/* Collective: makes this rank's part and learns of the others'. `occupied` is or-ed over all ranks
 * where it is not NULL. A failure on one rank is a failure on all. */
tess_status_t tessi_segment_offer(tessi_ucx_t *ucx, const char *what, int64_t bytes,
                                  unsigned char *occupied, int occupied_bytes,
                                  tessi_segment_t **segment);
/* Collective, next: maps the others' parts. After a failure the caller destroys the segment. */
tess_status_t tessi_segment_join(tessi_ucx_t *ucx, const char *what, tessi_segment_t *segment);
void tessi_segment_destroy(tessi_ucx_t *ucx, tessi_segment_t *segment);
void tessi_segment_free_own(tessi_ucx_t *ucx, tessi_segment_t *segment);
void tessi_segment_drop_peer(tessi_segment_t *segment, int rank);

/* --- ucx_board.c ------------------------------------------------------------------------------ */

#define TESSI_SEGMENTS_MAX 1024

/* What a rank posts of an operation. */
typedef struct tessi_posting {
    tessi_op_record_t record;
    tessi_spot_t send, recv;
    _Atomic int64_t sequence; /* of the operation; written last */
} tessi_posting_t;

/* Lies at the start of a rank's board segment; only that rank writes it. Each field that peers poll
 * has cache lines of its own. */
typedef struct tessi_board {
    _Alignas(128) uint64_t proof; /* see ucx_memory.c */
    struct {
        _Alignas(128) tessi_posting_t posting;
    } slots[2];                             /* by parity of the sequence */
    _Alignas(128) _Atomic int64_t supplied; /* step up to which this rank has data for its peers */
    _Alignas(128) _Atomic int64_t taken;    /* step up to which it has read its peers' data */
    _Alignas(128) _Atomic unsigned char live[TESSI_SEGMENTS_MAX]; /* its part is in use */
} tessi_board_t;

#define TESSI_STAGE_OFFSET 8192
_Static_assert(sizeof(tessi_board_t) <= TESSI_STAGE_OFFSET, "the stage begins behind the board");
/* Staging memory of a rank: two halves, one filled while the other is read. */
#define TESSI_STAGE_HALF_BYTES ((int64_t)256 << 10)

struct tessi_direct {
    tessi_segment_t *own;   /* the segment of the boards and stages */
    tessi_board_t **boards; /* (size) */
    char **stages;          /* (size) */
    pthread_mutex_t lock;   /* guards segments */
    tessi_segment_t *segments[TESSI_SEGMENTS_MAX];
    int segment_end; /* behind the last that may be in use */
    int64_t cache_bytes;

    /* Of the operation that runs. */
    char **send_at, **recv_at; /* (size) peers' buffers here; NULL where they are private */
    const void **sources;      /* (size) */
    int all_send, all_recv;    /* every rank's send, recv is in a segment */
    int64_t deadline_ns;
};

/* Collective. */
tess_status_t tessi_direct_open(tessi_ucx_t *ucx);
void tessi_direct_close(tessi_ucx_t *ucx);
tess_status_t tessi_direct_allocate(tessi_ucx_t *ucx, int64_t bytes, void **pointer);
void tessi_direct_free(tessi_ucx_t *ucx, void *pointer);
tessi_spot_t tessi_direct_place(tessi_ucx_t *ucx, const void *pointer, int64_t bytes);

/* Posts the operation, waits for all peers to post theirs, compares, and finds their buffers. */
tess_status_t tessi_board_meet(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued);

/* Steps count from 1 within an operation. */
void tessi_board_supply(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int64_t step);
void tessi_board_take(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int64_t step);
tess_status_t tessi_board_wait_supplied(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int peer,
                                        int64_t step);
tess_status_t tessi_board_wait_all_supplied(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued,
                                            int64_t step);
tess_status_t tessi_board_wait_all_taken(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued,
                                         int64_t step);

/* --- ucx_direct.c ----------------------------------------------------------------------------- */

tess_status_t tessi_direct_run(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued);

/* --- ucx_message.c, ucx_transfer.c, ucx_collect.c --------------------------------------------- */

tess_status_t tessi_message_run(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued);

tess_status_t tessi_message_open(tessi_ucx_t *ucx);
void tessi_message_close(tessi_ucx_t *ucx);

/* What one rank and one peer move in a transfer. */
typedef struct tessi_traffic {
    const char *send; /* (send_bytes) */
    char *recv;       /* (recv_bytes); NULL where chunks are staged and summed */
    int64_t send_bytes, recv_bytes;
} tessi_traffic_t;

/* How staged chunks are summed, in rank order: every peer sends as many bytes. */
typedef struct tessi_sum_job {
    tess_dtype_t dtype;
    float scale;
    const char *mine; /* (count) this rank's own elements */
    char *result;     /* (count) may be mine */
    int64_t count;
} tessi_sum_job_t;

/* (size) to be filled before a transfer; zeroed by it afterwards. */
tessi_traffic_t *tessi_message_traffic(tessi_ucx_t *ucx);

/* Tells all peers the operation and compares it with theirs. phase is 0 but for opening. */
tess_status_t tessi_message_meet(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int phase);
/* `phase` counts the transfers of one operation from 0. job may be NULL. */
tess_status_t tessi_message_transfer(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int phase,
                                     const tessi_sum_job_t *job);
/* Hands to the network what UCX still holds, so that nobody waits for a rank that has nothing more
 * to do. */
tess_status_t tessi_message_flush(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued);
/* After a failure: ends all requests, so that nothing touches the caller's memory any more. */
void tessi_message_drop(tessi_ucx_t *ucx);

#endif
