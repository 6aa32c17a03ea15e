/* SPDX-License-Identifier: Apache-2.0 */
/* Engine "io_uring": one thread that owns a ring, submits transfers in batches and takes in what
 * completes.
 *
 * One thread, because a request of io_uring belongs to the thread that submitted it and would be
 * cancelled with it; callers only lengthen the queue and, when the thread sleeps in the kernel,
 * wake it through an eventfd that the ring reads.
 *
 * Invariant: the ring is touched by its thread alone, has room for every transfer and the read of
 * the eventfd, and ends only with neither in flight.
 */
#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "store_internal.h"

/* One registered buffer holds at most this much; what lies across two goes unregistered. */
#define PIECE_BITS 30
#define PIECE_BYTES (INT64_C(1) << PIECE_BITS)

/* Flags of Linux 6.1 that liburing 2.2 does not name: completions are taken in when the thread
 * asks, instead of interrupting it. Kernels that do not know them say EINVAL. */
#define SETUP_SINGLE_ISSUER (1u << 12)
#define SETUP_DEFER_TASKRUN (1u << 13)

typedef struct engine {
    pthread_t thread;
    struct io_uring ring;
    int event_fd;
    uint64_t event_count; /* where the ring's read of event_fd goes */
    int event_read;       /* that read is in flight */
    int in_flight;
    tessi_store_transfer_t *again; /* came back short or interrupted */
    int has_buffers;               /* registered */
    int has_file;                  /* registered, with index 0 */
    int sleeping;                  /* in the kernel; guarded by the store's lock, as is `started` */
    int started;                   /* 1: the ring is up, -1: it failed */
    int error;
    const char *step; /* that failed */
} engine_t;

/* --- registering ------------------------------------------------------------------------------ */

static void say_unregistered(tess_store_t *store, int error)
{
    struct rlimit limit;
    char *text = store->engine_text;
    size_t room = sizeof store->engine_text;
    if (error == ENOMEM && getrlimit(RLIMIT_MEMLOCK, &limit) == 0 &&
        limit.rlim_cur != RLIM_INFINITY)
        snprintf(text, room, "unregistered buffers (%lld MiB do not fit ulimit -l of %llu KiB)",
                 (long long)(store->buffers_bytes >> 20), (unsigned long long)limit.rlim_cur >> 10);
    else snprintf(text, room, "unregistered buffers (%s)", strerror(error));
    tessi_log(TESSI_LOG_INFO, "store %s: %s", store->path, text);
}

static int register_pieces(tess_store_t *store, engine_t *engine)
{
    int64_t count = (store->buffers_bytes + PIECE_BYTES - 1) >> PIECE_BITS;
    struct iovec *pieces = tessi_calloc((size_t)count, sizeof *pieces);
    if (!pieces) return ENOMEM;
    for (int64_t n = 0; n < count; n++) {
        int64_t left = store->buffers_bytes - (n << PIECE_BITS);
        pieces[n].iov_base = (char *)store->buffers + (n << PIECE_BITS);
        pieces[n].iov_len = (size_t)(left < PIECE_BYTES ? left : PIECE_BYTES);
    }
    int error = -io_uring_register_buffers(&engine->ring, pieces, (unsigned)count);
    tessi_free(pieces);
    return error;
}

static void register_all(tess_store_t *store, engine_t *engine)
{
    engine->has_file = io_uring_register_files(&engine->ring, &store->data_fd, 1) == 0;
    snprintf(store->engine_text, sizeof store->engine_text, "unregistered buffers");
    if (!store->buffers) return;
    int error = register_pieces(store, engine);
    if (error) {
        say_unregistered(store, error);
        return;
    }
    engine->has_buffers = 1;
    snprintf(store->engine_text, sizeof store->engine_text, "registered buffers");
}

/* The registered buffer that holds all of a transfer, or -1. */
static int buffer_index(const tess_store_t *store, const engine_t *engine,
                        const tessi_store_transfer_t *transfer)
{
    uintptr_t first = (uintptr_t)store->buffers, at = (uintptr_t)transfer->buffer;
    if (!engine->has_buffers || at < first) return -1;
    uint64_t begin = at - first, end = begin + (uint64_t)transfer->bytes;
    if (end > (uint64_t)store->buffers_bytes) return -1;
    return begin >> PIECE_BITS == (end - 1) >> PIECE_BITS ? (int)(begin >> PIECE_BITS) : -1;
}

/* --- the ring's thread ------------------------------------------------------------------------ */

static void prepare_transfer(const tess_store_t *store, engine_t *engine,
                             tessi_store_transfer_t *transfer)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&engine->ring);
    int fd = engine->has_file ? 0 : store->data_fd;
    int index = buffer_index(store, engine, transfer);
    unsigned bytes = (unsigned)transfer->try_bytes;
    uint64_t offset = (uint64_t)transfer->offset;
    if (transfer->write && index >= 0)
        io_uring_prep_write_fixed(entry, fd, transfer->buffer, bytes, offset, index);
    else if (transfer->write) io_uring_prep_write(entry, fd, transfer->buffer, bytes, offset);
    else if (index >= 0)
        io_uring_prep_read_fixed(entry, fd, transfer->buffer, bytes, offset, index);
    else io_uring_prep_read(entry, fd, transfer->buffer, bytes, offset);
    if (engine->has_file) io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data(entry, transfer);
    engine->in_flight++;
}

/* Its data is NULL. */
static void prepare_event(engine_t *engine)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&engine->ring);
    io_uring_prep_read(entry, engine->event_fd, &engine->event_count, sizeof engine->event_count,
                       0);
    io_uring_sqe_set_data(entry, NULL);
    engine->event_read = 1;
}

/* Puts everything that can run into the ring; 0 when the engine is to end and is empty. */
static int prepare(tess_store_t *store, engine_t *engine)
{
    for (; engine->again && io_uring_sq_space_left(&engine->ring) > 1;) {
        tessi_store_transfer_t *transfer = engine->again;
        engine->again = transfer->next;
        prepare_transfer(store, engine, transfer);
    }
    pthread_mutex_lock(&store->lock);
    while (io_uring_sq_space_left(&engine->ring) > 1) {
        tessi_store_transfer_t *transfer = tessi_store_take(store);
        if (!transfer) break;
        prepare_transfer(store, engine, transfer);
    }
    int stopping = store->stopping;
    if (!engine->event_read && !stopping) prepare_event(engine);
    engine->sleeping = 1;
    pthread_mutex_unlock(&store->lock);
    return !stopping || engine->in_flight > 0 || engine->event_read;
}

static void take_in(tess_store_t *store, engine_t *engine)
{
    struct io_uring_cqe *completion;
    while (io_uring_peek_cqe(&engine->ring, &completion) == 0) {
        tessi_store_transfer_t *transfer = io_uring_cqe_get_data(completion);
        int64_t result = completion->res;
        io_uring_cqe_seen(&engine->ring, completion);
        if (!transfer) {
            engine->event_read = 0;
            continue;
        }
        engine->in_flight--;
        if (tessi_store_complete(store, transfer, result)) {
            transfer->next = engine->again;
            engine->again = transfer;
        }
    }
}

/* Enters the kernel; entries that it does not take now stay in the ring for the next time. */
static void submit_and_sleep(const tess_store_t *store, engine_t *engine)
{
    int entered = io_uring_submit_and_wait(&engine->ring, 1);
    if (entered >= 0 || entered == -EINTR) return;
    tessi_log(TESSI_LOG_DEBUG, "store %s: io_uring_enter: %s; trying again", store->path,
              strerror(-entered));
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static int set_up_ring(engine_t *engine, unsigned entries)
{
    int error =
        -io_uring_queue_init(entries, &engine->ring, SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN);
    if (error == EINVAL) error = -io_uring_queue_init(entries, &engine->ring, 0);
    engine->step = "io_uring_setup";
    if (error) return error;
    /* Reads and writes without an iovec came with Linux 5.6, as did this. */
    if (engine->ring.features & IORING_FEAT_RW_CUR_POS) return 0;
    io_uring_queue_exit(&engine->ring);
    engine->step = "the kernel is older than 5.6";
    return ENOSYS;
}

static void *own_ring(void *argument)
{
    tess_store_t *store = argument;
    engine_t *engine = store->engine_state;
    int error = set_up_ring(engine, (unsigned)store->depth + 1);
    if (!error) register_all(store, engine);
    pthread_mutex_lock(&store->lock);
    engine->error = error;
    engine->started = error ? -1 : 1;
    pthread_cond_broadcast(&store->progress);
    pthread_mutex_unlock(&store->lock);
    if (error) return NULL;
    while (prepare(store, engine)) {
        submit_and_sleep(store, engine);
        pthread_mutex_lock(&store->lock);
        engine->sleeping = 0;
        pthread_mutex_unlock(&store->lock);
        take_in(store, engine);
    }
    /* At once: the ring itself goes later, and would keep the memory locked and the file open. */
    if (engine->has_buffers) (void)io_uring_unregister_buffers(&engine->ring);
    if (engine->has_file) (void)io_uring_unregister_files(&engine->ring);
    io_uring_queue_exit(&engine->ring);
    return NULL;
}

/* --- the engine ------------------------------------------------------------------------------- */

static void ring_bell(engine_t *engine)
{
    /* Can only fail at 2^64 - 1 rings that nobody heard. */
    (void)!write(engine->event_fd, &(uint64_t){1}, sizeof(uint64_t));
}

static void wake(tess_store_t *store)
{
    engine_t *engine = store->engine_state;
    if (!engine->sleeping) return;
    engine->sleeping = 0;
    ring_bell(engine);
}

static tess_status_t wait_until_started(tess_store_t *store, engine_t *engine)
{
    pthread_mutex_lock(&store->lock);
    while (!engine->started) pthread_cond_wait(&store->progress, &store->lock);
    int has_failed = engine->started < 0;
    pthread_mutex_unlock(&store->lock);
    if (!has_failed) return TESS_OK;
    tessi_fail_errno(engine->error,
                     "store %s: io_uring is not to be had here (%s); engine \"threads\" does "
                     "without",
                     store->path, engine->step);
    pthread_join(engine->thread, NULL);
    return TESS_ERR_UNSUPPORTED;
}

static tess_status_t start(tess_store_t *store)
{
    engine_t *engine = tessi_calloc(1, sizeof *engine);
    if (!engine) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status;
    store->engine_state = engine;
    engine->event_fd = eventfd(0, EFD_CLOEXEC);
    if (engine->event_fd < 0) {
        status = tessi_fail_errno(errno, "store %s: cannot create an eventfd", store->path);
        goto err_free;
    }
    TESS_TRY(tessi_store_start_thread(store, "tess-uring", own_ring, &engine->thread), err_close);
    TESS_TRY(wait_until_started(store, engine), err_close);
    return TESS_OK;

err_close:
    close(engine->event_fd);
err_free:
    tessi_free(engine);
    return status;
}

static void stop(tess_store_t *store)
{
    engine_t *engine = store->engine_state;
    ring_bell(engine);
    pthread_join(engine->thread, NULL);
    close(engine->event_fd);
    tessi_free(engine);
}

const tessi_store_engine_t tessi_store_uring = {
    .name = "io_uring",
    .open = start,
    .wake = wake,
    .close = stop,
};
