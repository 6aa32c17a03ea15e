/* SPDX-License-Identifier: Apache-2.0 */
/* Engine "threads": a pool that moves transfers with pread and pwrite, for systems that have no
 * io_uring.
 *
 * Invariant: a worker holds one transfer at a time and the lock only between two of them; there are
 * never more workers than transfers, so a worker that found none may sleep until the queue grows.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "store_internal.h"

#define WORKERS_MAX 16

typedef struct pool {
    pthread_cond_t work;
    int sleeping;
    int count;
    pthread_t workers[WORKERS_MAX];
} pool_t;

static int64_t move(const tess_store_t *store, const tessi_store_transfer_t *transfer)
{
    size_t bytes = (size_t)transfer->try_bytes;
    ssize_t moved = transfer->write
                        ? pwrite(store->data_fd, transfer->buffer, bytes, transfer->offset)
                        : pread(store->data_fd, transfer->buffer, bytes, transfer->offset);
    return moved < 0 ? -errno : moved;
}

static void *work(void *argument)
{
    tess_store_t *store = argument;
    pool_t *pool = store->engine_state;
    pthread_mutex_lock(&store->lock);
    for (;;) {
        tessi_store_transfer_t *transfer = tessi_store_take(store);
        if (!transfer) {
            if (store->stopping) break;
            pool->sleeping++;
            pthread_cond_wait(&pool->work, &store->lock);
            pool->sleeping--;
            continue;
        }
        /* One wake-up a submission, handed on while there is more to do. */
        if (store->queue_first && pool->sleeping > 0) pthread_cond_signal(&pool->work);
        pthread_mutex_unlock(&store->lock);
        while (tessi_store_complete(store, transfer, move(store, transfer))) {
        }
        pthread_mutex_lock(&store->lock);
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}

static void wake(tess_store_t *store)
{
    pool_t *pool = store->engine_state;
    if (pool->sleeping > 0) pthread_cond_signal(&pool->work);
}

static void stop(tess_store_t *store)
{
    pool_t *pool = store->engine_state;
    pthread_mutex_lock(&store->lock);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&store->lock);
    for (int n = 0; n < pool->count; n++) pthread_join(pool->workers[n], NULL);
    pthread_cond_destroy(&pool->work);
    tessi_free(pool);
}

static tess_status_t start(tess_store_t *store)
{
    pool_t *pool = tessi_calloc(1, sizeof *pool);
    if (!pool) return TESS_ERR_OUT_OF_MEMORY;
    pthread_cond_init(&pool->work, NULL);
    store->engine_state = pool;
    int wanted = store->depth < WORKERS_MAX ? store->depth : WORKERS_MAX;
    tess_status_t status;
    while (pool->count < wanted) {
        TESS_TRY(tessi_store_start_thread(store, "tess-store", work, &pool->workers[pool->count]),
                 err_stop);
        pool->count++;
    }
    snprintf(store->engine_text, sizeof store->engine_text, "%d workers", pool->count);
    return TESS_OK;

err_stop:
    pthread_mutex_lock(&store->lock);
    store->stopping = 1;
    pthread_mutex_unlock(&store->lock);
    stop(store);
    return status;
}

const tessi_store_engine_t tessi_store_threads = {
    .name = "threads",
    .open = start,
    .wake = wake,
    .close = stop,
};
