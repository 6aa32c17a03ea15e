/* SPDX-License-Identifier: Apache-2.0 */
/* Turns: operations of one communicator run one at a time, in the order of issue, whatever streams
 * they were queued on; and a communicator can be closed while some are still queued.
 *
 * Invariant: the turns outlive the communicator by as many references as there are queued
 * operations, and an operation looks at the communicator only between enter and leave.
 */
#include "ucx_internal.h"

struct tessi_turns {
    tessi_ucx_t *ucx;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    int references;            /* the communicator, and each queued operation; guarded by lock */
    int running;               /* operations between enter and leave; guarded by lock */
    int is_closed;             /* guarded by lock */
    int64_t issued;            /* the caller's */
    _Atomic int64_t completed; /* ticket of the last operation that ended well */
};

tess_status_t tessi_turns_create(tessi_ucx_t *ucx, tessi_turns_t **turns)
{
    tessi_turns_t *created = tessi_calloc(1, sizeof *created);
    if (!created) return TESS_ERR_OUT_OF_MEMORY;
    created->ucx = ucx;
    created->references = 1;
    pthread_mutex_init(&created->lock, NULL);
    pthread_cond_init(&created->idle, NULL);
    *turns = created;
    return TESS_OK;
}

/* Gives one reference back; the lock is held and is released here. */
static void release_locked(tessi_turns_t *turns)
{
    int left = --turns->references;
    pthread_mutex_unlock(&turns->lock);
    if (left > 0) return;
    pthread_cond_destroy(&turns->idle);
    pthread_mutex_destroy(&turns->lock);
    tessi_free(turns);
}

static int enter(tessi_turns_t *turns)
{
    pthread_mutex_lock(&turns->lock);
    if (turns->is_closed) {
        release_locked(turns);
        return 0;
    }
    turns->running++;
    pthread_mutex_unlock(&turns->lock);
    return 1;
}

static void leave(tessi_turns_t *turns)
{
    pthread_mutex_lock(&turns->lock);
    if (--turns->running == 0) pthread_cond_broadcast(&turns->idle);
    release_locked(turns);
}

/* The operations before this one have their own deadlines; the clock here starts anew whenever one
 * of them ends, and catches one that never starts, because its stream is held up. */
static tess_status_t wait_for_turn(tessi_turns_t *turns, const tessi_ucx_op_t *queued)
{
    tessi_ucx_t *ucx = turns->ucx;
    int timeout_ms = ucx->comm->timeout_ms;
    int64_t seen = -1, deadline_ns = 0;
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    for (;;) {
        int64_t completed = atomic_load_explicit(&turns->completed, memory_order_acquire);
        if (tessi_ucx_has_failed(ucx)) return tessi_ucx_interrupted(ucx, &queued->op.record);
        if (completed == queued->ticket - 1) return TESS_OK;
        if (completed != seen) {
            seen = completed;
            deadline_ns = tessi_deadline_ns(timeout_ms);
        } else if (tessi_now_ns() >= deadline_ns) {
            return tessi_ucx_fail(
                ucx, &queued->op.record, TESS_ERR_TIMEOUT,
                "an operation of the same communicator that was queued before, on "
                "another stream, has not run after %d ms",
                timeout_ms);
        }
        tessi_backoff_pause(&backoff);
    }
}

/* An operation whose stream has failed before cannot do its part, and says so to the others. */
static tess_status_t check_stream(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued)
{
    tess_status_t status = tessi_stream_fault(queued->stream);
    if (status >= 0) return TESS_OK;
    char who[160], detail[320];
    snprintf(detail, sizeof detail, "%s", tess_last_error());
    tessi_world_rank_text(ucx->comm->world, ucx->comm->ranks[ucx->comm->rank], who, sizeof who);
    return tessi_ucx_fail(ucx, &queued->op.record, TESS_ERR_ABORTED,
                          "%s does not take part, because its stream failed before: %s", who,
                          detail);
}

static tess_status_t run_queued(void *argument)
{
    const tessi_ucx_op_t *queued = argument;
    tessi_turns_t *turns = queued->turns;
    if (!enter(turns))
        return tessi_fail(TESS_ERR_ABORTED,
                          "the communicator was closed with this operation still queued");
    tess_status_t status = check_stream(turns->ucx, queued);
    if (status == TESS_OK) status = wait_for_turn(turns, queued);
    if (status == TESS_OK) status = turns->ucx->run(turns->ucx, queued);
    if (status == TESS_OK)
        atomic_store_explicit(&turns->completed, queued->ticket, memory_order_release);
    leave(turns);
    return status;
}

tess_status_t tessi_turns_push(tessi_turns_t *turns, tessi_ucx_op_t *queued, tess_stream_t *stream)
{
    _Static_assert(sizeof *queued <= TESSI_STREAM_ARGUMENT_BYTES, "fits into a stream's entry");
    queued->turns = turns;
    queued->stream = stream;
    queued->ticket = turns->issued + 1;
    pthread_mutex_lock(&turns->lock);
    turns->references++;
    pthread_mutex_unlock(&turns->lock);
    tess_status_t status = tessi_stream_push_always(stream, run_queued, queued, sizeof *queued);
    if (status == TESS_OK) {
        turns->issued++;
        return TESS_OK;
    }
    pthread_mutex_lock(&turns->lock);
    release_locked(turns);
    return status;
}

int tessi_turns_are_busy(tessi_turns_t *turns)
{
    pthread_mutex_lock(&turns->lock);
    int busy = turns->references > 1;
    pthread_mutex_unlock(&turns->lock);
    return busy;
}

void tessi_turns_when_idle(tessi_turns_t *turns, void (*function)(tessi_ucx_t *ucx),
                           tessi_ucx_t *ucx)
{
    pthread_mutex_lock(&turns->lock);
    if (turns->running == 0) function(ucx);
    pthread_mutex_unlock(&turns->lock);
}

void tessi_turns_close(tessi_turns_t *turns)
{
    pthread_mutex_lock(&turns->lock);
    turns->is_closed = 1;
    /* Bounded: what runs polls the communicator's failure, and has its own deadline. */
    while (turns->running > 0) pthread_cond_wait(&turns->idle, &turns->lock);
    release_locked(turns);
}
