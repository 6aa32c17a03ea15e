/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of a store: cut into transfers for the engine, put together again, waited for.
 *
 * Invariant: a request is active from its submission until every transfer that was taken for it has
 * come back, and its buffer is not touched afterwards. Results are checked in one place,
 * tessi_store_complete, whichever engine runs. Nothing is allocated after the store is open.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "store_internal.h"

/* A transfer that never moves a byte must not keep its engine busy for ever. */
#define RETRIES_MAX 1000

#define SLOW_NS 300000000 /* of the fault point "slow" */

static tess_store_ticket_t ticket_of(const tess_store_t *store,
                                     const tessi_store_request_t *request)
{
    return request->generation << TESSI_STORE_TICKET_BITS | (request - store->requests);
}

/* NULL unless the ticket is out. With the lock held. */
static tessi_store_request_t *request_of(const tess_store_t *store, tess_store_ticket_t ticket)
{
    if (ticket <= 0) return NULL;
    tessi_store_request_t *request = &store->requests[ticket & (TESSI_STORE_TICKETS - 1)];
    int is_out = request->state != TESSI_REQUEST_FREE && ticket_of(store, request) == ticket;
    return is_out ? request : NULL;
}

int tessi_store_sleep(tess_store_t *store, pthread_cond_t *condition, int64_t deadline_ns)
{
    struct timespec until = {.tv_sec = (time_t)(deadline_ns / 1000000000),
                             .tv_nsec = (long)(deadline_ns % 1000000000)};
    return pthread_cond_timedwait(condition, &store->lock, &until) != ETIMEDOUT;
}

/* --- submitting ------------------------------------------------------------------------------- */

/* With the lock held. */
static tess_status_t take_request(tess_store_t *store, tessi_store_request_t **request)
{
    int64_t deadline_ns = tessi_deadline_ns(store->timeout_ms);
    store->submitters++;
    int in_time = 1;
    while (!store->free_requests && in_time)
        in_time = tessi_store_sleep(store, &store->progress, deadline_ns);
    store->submitters--;
    *request = store->free_requests;
    if (!*request)
        return tessi_fail(TESS_ERR_TIMEOUT,
                          "store %s: %d tickets are out, and none was waited for in %d ms",
                          store->path, TESSI_STORE_TICKETS, store->timeout_ms);
    store->free_requests = (*request)->next;
    return TESS_OK;
}

static void append(tess_store_t *store, tessi_store_request_t *request)
{
    request->next = NULL;
    if (store->queue_last) store->queue_last->next = request;
    else store->queue_first = request;
    store->queue_last = request;
    request->queued = 1;
    store->engine->wake(store);
}

/* What a tile that was never written holds. Without the lock. */
static void read_zeros(tess_store_t *store, tessi_store_request_t *request)
{
    memset(request->buffer, 0, (size_t)store->layout.tile_bytes);
    pthread_mutex_lock(&store->lock);
    tessi_store_finish(store, request);
    pthread_mutex_unlock(&store->lock);
}

tess_status_t tessi_store_submit(tess_store_t *store, int write, int64_t tile, void *buffer,
                                 tess_store_ticket_t *ticket)
{
    const tessi_store_layout_t *layout = &store->layout;
    tess_status_t status;
    tessi_store_request_t *request = NULL;
    pthread_mutex_lock(&store->lock);
    if (write && store->committer.broken) {
        TESS_TRY(tessi_fail(TESS_ERR_ABORTED,
                            "store %s takes no more writes: an earlier one may be durable or not "
                            "(error %d); open it again",
                            store->path, store->committer.broken),
                 err_unlock);
    }
    TESS_TRY(take_request(store, &request), err_unlock);
    uint64_t sequence = layout->crash_safe ? store->committer.sequences[tile] : 0;
    int is_blank = layout->crash_safe && !write && sequence == 0;
    if (layout->crash_safe && write) sequence++;
    *request = (tessi_store_request_t){
        .state = TESSI_REQUEST_ACTIVE,
        .generation = request->generation,
        .write = write,
        .tile = tile,
        .buffer = buffer,
        .offset = tessi_store_place_offset(layout, tile, (int)(sequence & 1)),
        .bytes = store->direct ? layout->stride_bytes : layout->tile_bytes,
        .sequence = sequence,
    };
    store->active++;
    *ticket = ticket_of(store, request);
    if (!is_blank) append(store, request);
    pthread_mutex_unlock(&store->lock);
    if (is_blank) read_zeros(store, request);
    return TESS_OK;

err_unlock:
    pthread_mutex_unlock(&store->lock);
    return status;
}

/* --- transfers -------------------------------------------------------------------------------- */

/* The first request leaves the queue: it was taken whole, or has failed. */
static void leave_queue(tess_store_t *store)
{
    tessi_store_request_t *request = store->queue_first;
    store->queue_first = request->next;
    if (!store->queue_first) store->queue_last = NULL;
    request->next = NULL;
    request->queued = 0;
}

/* The fault "short" asks for half, where that is a whole block. */
static void aim(const tess_store_t *store, tessi_store_transfer_t *transfer)
{
    int64_t half_bytes = transfer->bytes / 2;
    if (store->direct) half_bytes -= half_bytes % store->layout.alignment;
    int is_short = half_bytes > 0 && tessi_fault("short");
    transfer->try_bytes = is_short ? half_bytes : transfer->bytes;
}

tessi_store_transfer_t *tessi_store_take(tess_store_t *store)
{
    tessi_store_request_t *request = store->queue_first;
    tessi_store_transfer_t *transfer = store->free_transfers;
    if (!request || !transfer) return NULL;
    store->free_transfers = transfer->next;
    int64_t left_bytes = request->bytes - request->taken_bytes;
    *transfer = (tessi_store_transfer_t){
        .request = request,
        .write = request->write,
        .buffer = request->buffer + request->taken_bytes,
        .offset = request->offset + request->taken_bytes,
        .bytes = left_bytes < store->block_bytes ? left_bytes : store->block_bytes,
    };
    aim(store, transfer);
    request->taken_bytes += transfer->bytes;
    request->transfers_out++;
    if (request->taken_bytes == request->bytes) leave_queue(store);
    return transfer;
}

/* Takes in what moved. 0, or the errno that ends the transfer; *again when it goes on. */
static int advance(const tess_store_t *store, tessi_store_transfer_t *transfer, int64_t result,
                   int *again)
{
    *again = 0;
    if (result == transfer->bytes) return 0;
    if (result == -EAGAIN || result == -EINTR) {
        *again = ++transfer->retries < RETRIES_MAX;
        return *again ? 0 : (int)-result;
    }
    if (result < 0) return (int)-result;
    /* O_DIRECT goes on from where a block ends; a part of one is moved again. */
    int64_t moved_bytes = store->direct ? result - result % store->layout.alignment : result;
    if (moved_bytes == 0) return transfer->write ? EIO : ENODATA;
    transfer->buffer += moved_bytes;
    transfer->offset += moved_bytes;
    transfer->bytes -= moved_bytes;
    transfer->retries = 0;
    aim(store, transfer);
    *again = 1;
    return 0;
}

/* The fault "io" fails, "slow" takes 0.3 s. */
static int64_t inject(int64_t result)
{
    if (tessi_fault("slow")) nanosleep(&(struct timespec){.tv_nsec = SLOW_NS}, NULL);
    return tessi_fault("io") ? -EIO : result;
}

void tessi_store_finish(tess_store_t *store, tessi_store_request_t *request)
{
    request->state = TESSI_REQUEST_DONE;
    store->active--;
    if (request->awaited || (store->drainers > 0 && store->active == 0))
        pthread_cond_broadcast(&store->progress);
}

int tessi_store_complete(tess_store_t *store, tessi_store_transfer_t *transfer, int64_t result)
{
    int again;
    int error = advance(store, transfer, inject(result), &again);
    if (again) return 1;
    tessi_store_request_t *request = transfer->request;
    pthread_mutex_lock(&store->lock);
    if (error && !request->error) {
        request->error = error;
        request->error_offset = transfer->offset;
        request->error_bytes = transfer->bytes;
        request->error_step = request->write ? "write" : "read";
        /* A request in part taken is the first of the queue; the rest of it is not worth a try. */
        if (request->queued) leave_queue(store);
    }
    transfer->next = store->free_transfers;
    store->free_transfers = transfer;
    request->transfers_out--;
    if (request->transfers_out == 0 && !request->queued) {
        if (request->write && store->layout.crash_safe && !request->error)
            tessi_committer_push(store, request);
        else tessi_store_finish(store, request);
    }
    pthread_mutex_unlock(&store->lock);
    return 0;
}

/* --- waiting ---------------------------------------------------------------------------------- */

static tess_status_t stale(const tess_store_t *store, tess_store_ticket_t ticket)
{
    return tessi_fail(TESS_ERR_STATE,
                      "store %s: ticket %" PRId64 " is not out: it was waited for already, or "
                      "belongs to another store",
                      store->path, ticket);
}

static tess_status_t result_of(const tess_store_t *store, const tessi_store_request_t *request)
{
    if (!request->error) return TESS_OK;
    return tessi_fail_errno(request->error,
                            "store %s: cannot %s tile %" PRId64 " (%" PRId64
                            " bytes at offset %" PRId64 ")",
                            store->path, request->error_step, request->tile, request->error_bytes,
                            request->error_offset);
}

static void free_request(tess_store_t *store, tessi_store_request_t *request)
{
    request->state = TESSI_REQUEST_FREE;
    request->generation++;
    request->next = store->free_requests;
    store->free_requests = request;
    if (store->submitters > 0) pthread_cond_broadcast(&store->progress);
}

/* With the lock held. */
static tess_status_t await(tess_store_t *store, tess_store_ticket_t ticket, int64_t deadline_ns)
{
    for (int in_time = deadline_ns != 0;;) {
        tessi_store_request_t *request = request_of(store, ticket);
        if (!request) return stale(store, ticket);
        if (request->state == TESSI_REQUEST_DONE) {
            tess_status_t status = result_of(store, request);
            free_request(store, request);
            return status;
        }
        if (deadline_ns == 0) return TESS_NOT_READY;
        if (!in_time)
            return tessi_fail(TESS_ERR_TIMEOUT,
                              "store %s: the %s of tile %" PRId64 " was not done after %d ms; "
                              "its buffer is still in use, and its ticket out",
                              store->path, request->write ? "write" : "read", request->tile,
                              store->timeout_ms);
        request->awaited = 1;
        in_time = tessi_store_sleep(store, &store->progress, deadline_ns);
    }
}

tess_status_t tessi_store_await(tess_store_t *store, tess_store_ticket_t ticket,
                                int64_t deadline_ns)
{
    pthread_mutex_lock(&store->lock);
    tess_status_t status = await(store, ticket, deadline_ns);
    pthread_mutex_unlock(&store->lock);
    return status;
}

int tessi_store_drain(tess_store_t *store, int64_t deadline_ns)
{
    pthread_mutex_lock(&store->lock);
    store->drainers++;
    int in_time = 1;
    while (store->active > 0 && in_time)
        in_time = tessi_store_sleep(store, &store->progress, deadline_ns);
    store->drainers--;
    int is_idle = store->active == 0;
    pthread_mutex_unlock(&store->lock);
    return is_idle;
}

/* --- life ------------------------------------------------------------------------------------- */

tess_status_t tessi_store_start_thread(tess_store_t *store, const char *name,
                                       void *(*run)(void *store), pthread_t *thread)
{
    sigset_t all, previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    int error = tessi_fault("thread") ? EAGAIN : pthread_create(thread, NULL, run, store);
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (error) return tessi_fail_errno(error, "store %s: cannot start a thread", store->path);
    pthread_setname_np(*thread, name);
    return TESS_OK;
}

tess_status_t tessi_store_queue_create(tess_store_t *store)
{
    store->requests = tessi_calloc(TESSI_STORE_TICKETS, sizeof *store->requests);
    if (!store->requests) return TESS_ERR_OUT_OF_MEMORY;
    store->transfers = tessi_calloc((size_t)store->depth, sizeof *store->transfers);
    if (!store->transfers) return TESS_ERR_OUT_OF_MEMORY;
    for (int n = TESSI_STORE_TICKETS; n-- > 0;) {
        store->requests[n].generation = 1;
        store->requests[n].next = store->free_requests;
        store->free_requests = &store->requests[n];
    }
    for (int n = store->depth; n-- > 0;) {
        store->transfers[n].next = store->free_transfers;
        store->free_transfers = &store->transfers[n];
    }
    return TESS_OK;
}

void tessi_store_queue_destroy(tess_store_t *store)
{
    tessi_free(store->transfers);
    tessi_free(store->requests);
}
