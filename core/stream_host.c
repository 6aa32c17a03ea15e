/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of the host back end: one worker thread each, fed through a ring of fixed entries.
 *
 * Invariant: entries complete strictly in order; `completed` is published after an entry's effects
 * and after `failed_ticket`, so whoever sees completed >= t sees all that entries 1 … t did, and
 * whether one of them failed. After the first failure user work is skipped and bookkeeping still
 * runs, so that nothing that waits for this stream hangs. Queueing never allocates.
 *
 * Priorities have no meaning here: the host's scheduler treats all workers alike.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "host_backend.h"

#define RING_ENTRIES 1024u
/* Polls of an idle worker, and of a caller that waits, before they sleep: some 3 us, what waking a
 * sleeper costs. A longer spin would steal time from the stream that it waits for wherever streams
 * outnumber cores. */
#define SPIN_POLLS 200

typedef struct entry {
    tess_stream_function_t function;
    int always; /* run also after a failure */
    alignas(16) unsigned char argument[TESSI_STREAM_ARGUMENT_BYTES];
} entry_t;

struct tessi_host_stream {
    tess_stream_t base;
    entry_t *ring; /* (RING_ENTRIES); NULL when eager */
    int eager;     /* entries run at once in the thread that queues them */

    _Atomic int references; /* the owner, the worker, and each mark */
    _Atomic uint64_t tail;  /* entries queued so far */
    _Atomic uint64_t completed;
    _Atomic uint64_t failed_ticket; /* first entry that ended with the stream failed; 0: none */
    _Atomic int waiters;            /* threads that sleep, or are about to, on `progress` */

    pthread_mutex_t lock;
    pthread_cond_t work;     /* the worker sleeps here */
    pthread_cond_t progress; /* everyone who waits for `completed` or `ended` */
    int sleeping;            /* the rest is guarded by lock */
    int stopping;
    int ended;
    pthread_t thread;
};

static tessi_host_stream_t *of(tess_stream_t *stream)
{
    return (tessi_host_stream_t *)stream;
}

static uint64_t completed_of(tessi_host_stream_t *stream)
{
    return atomic_load_explicit(&stream->completed, memory_order_acquire);
}

static int has_failed(tessi_host_stream_t *stream)
{
    return atomic_load_explicit(&stream->base.fault_status, memory_order_acquire) != TESS_OK;
}

static void release(tessi_host_stream_t *stream)
{
    if (atomic_fetch_sub_explicit(&stream->references, 1, memory_order_acq_rel) != 1) return;
    pthread_cond_destroy(&stream->progress);
    pthread_cond_destroy(&stream->work);
    pthread_mutex_destroy(&stream->lock);
    tessi_free(stream->ring);
    tessi_free(stream);
}

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000),
                             .tv_nsec = (long)(ns % 1000000000)};
}

/* --- running entries -------------------------------------------------------------------------- */

static void run_entry(tessi_host_stream_t *stream, entry_t *entry, uint64_t ticket)
{
    if (entry->always || !has_failed(stream)) {
        uint64_t failures = tessi_failure_count();
        tess_status_t status = entry->function(entry->argument);
        if (status < 0)
            tessi_stream_fail(&stream->base, status,
                              tessi_failure_count() != failures ? tess_last_error()
                                                                : "a queued function failed");
    }
    if (has_failed(stream) &&
        atomic_load_explicit(&stream->failed_ticket, memory_order_relaxed) == 0)
        atomic_store_explicit(&stream->failed_ticket, ticket, memory_order_relaxed);
}

/* Sequentially consistent, as is the order "waiters, then completed" of those who wait: either
 * this sees the waiter, or the waiter sees the new count. */
static void publish(tessi_host_stream_t *stream, uint64_t ticket)
{
    atomic_store(&stream->completed, ticket);
    if (atomic_load(&stream->waiters) == 0) return;
    pthread_mutex_lock(&stream->lock);
    pthread_cond_broadcast(&stream->progress);
    pthread_mutex_unlock(&stream->lock);
}

/* Waits until an entry after `done` is queued; 0 when there is none and the stream is stopping. */
static int next_entry(tessi_host_stream_t *stream, uint64_t done)
{
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    for (int i = 0; i < SPIN_POLLS; i++) {
        if (atomic_load_explicit(&stream->tail, memory_order_acquire) != done) return 1;
        tessi_backoff_pause(&backoff);
    }
    pthread_mutex_lock(&stream->lock);
    stream->sleeping = 1;
    while (atomic_load(&stream->tail) == done && !stream->stopping)
        pthread_cond_wait(&stream->work, &stream->lock);
    stream->sleeping = 0;
    int found = atomic_load(&stream->tail) != done;
    pthread_mutex_unlock(&stream->lock);
    return found;
}

static void *work_in_order(void *argument)
{
    tessi_host_stream_t *stream = argument;
    for (uint64_t done = 0; next_entry(stream, done);) {
        entry_t *entry = &stream->ring[done % RING_ENTRIES];
        run_entry(stream, entry, ++done);
        publish(stream, done);
    }
    pthread_mutex_lock(&stream->lock);
    stream->ended = 1;
    pthread_cond_broadcast(&stream->progress);
    pthread_mutex_unlock(&stream->lock);
    release(stream);
    return NULL;
}

/* --- queueing --------------------------------------------------------------------------------- */

static int on_worker(tessi_host_stream_t *stream)
{
    return !stream->eager && pthread_equal(pthread_self(), stream->thread);
}

/* With the lock held: waits until the ring has room for one more entry. */
static tess_status_t wait_for_room(tessi_host_stream_t *stream)
{
    uint64_t tail = atomic_load(&stream->tail);
    if (tail - completed_of(stream) < RING_ENTRIES) return TESS_OK;
    if (on_worker(stream))
        return tessi_fail(
            TESS_ERR_STATE,
            "work on a stream queued more on the same stream than its %u entries hold",
            RING_ENTRIES);
    int timeout_ms = tessi_timeout_or_default(-1);
    struct timespec deadline = timespec_of(tessi_deadline_ns(timeout_ms));
    tess_status_t status = TESS_OK;
    atomic_fetch_add(&stream->waiters, 1);
    while (tail - atomic_load(&stream->completed) >= RING_ENTRIES) {
        if (pthread_cond_timedwait(&stream->progress, &stream->lock, &deadline) != ETIMEDOUT)
            continue;
        status =
            tessi_fail(TESS_ERR_TIMEOUT,
                       "a stream's queue of %u entries stayed full for %d ms (TESS_TIMEOUT_MS)",
                       RING_ENTRIES, timeout_ms);
        break;
    }
    atomic_fetch_sub(&stream->waiters, 1);
    return status;
}

static void fill_entry(entry_t *entry, tess_stream_function_t function, const void *argument,
                       size_t argument_bytes, int always)
{
    entry->function = function;
    entry->always = always;
    if (argument_bytes > 0) memcpy(entry->argument, argument, argument_bytes);
}

static tess_status_t push_eagerly(tessi_host_stream_t *stream, tess_stream_function_t function,
                                  const void *argument, size_t argument_bytes, int always)
{
    entry_t entry;
    fill_entry(&entry, function, argument, argument_bytes, always);
    uint64_t ticket = atomic_fetch_add(&stream->tail, 1) + 1;
    run_entry(stream, &entry, ticket);
    /* Work that queued more work on its own stream was overtaken by it. */
    if (atomic_load(&stream->completed) < ticket) publish(stream, ticket);
    return TESS_OK;
}

static tess_status_t push(tess_stream_t *base, tess_stream_function_t function,
                          const void *argument, size_t argument_bytes, int always)
{
    tessi_host_stream_t *stream = of(base);
    if (base->device->kind != TESS_DEVICE_HOST)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "a stream of %s cannot run host functions",
                          base->device->name);
    if (argument_bytes > TESSI_STREAM_ARGUMENT_BYTES)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "a stream entry holds %d bytes of argument, not %zu",
                          TESSI_STREAM_ARGUMENT_BYTES, argument_bytes);
    if (stream->eager) return push_eagerly(stream, function, argument, argument_bytes, always);

    pthread_mutex_lock(&stream->lock);
    tess_status_t status = wait_for_room(stream);
    if (status == TESS_OK) {
        uint64_t tail = atomic_load(&stream->tail);
        fill_entry(&stream->ring[tail % RING_ENTRIES], function, argument, argument_bytes, always);
        atomic_store_explicit(&stream->tail, tail + 1, memory_order_release);
        if (stream->sleeping) pthread_cond_signal(&stream->work);
    }
    pthread_mutex_unlock(&stream->lock);
    return status;
}

tess_status_t tessi_stream_push(tess_stream_t *stream, tess_stream_function_t function,
                                const void *argument, size_t argument_bytes)
{
    return push(stream, function, argument, argument_bytes, 0);
}

tess_status_t tessi_stream_push_always(tess_stream_t *stream, tess_stream_function_t function,
                                       const void *argument, size_t argument_bytes)
{
    return push(stream, function, argument, argument_bytes, 1);
}

/* --- waiting ---------------------------------------------------------------------------------- */

/* With the lock held: sleeps until `ticket` is completed or the deadline passed. */
static int sleep_until(tessi_host_stream_t *stream, uint64_t ticket, int timeout_ms, int renew)
{
    struct timespec deadline = timespec_of(tessi_deadline_ns(timeout_ms));
    uint64_t seen = atomic_load(&stream->completed);
    while (atomic_load(&stream->completed) < ticket) {
        if (pthread_cond_timedwait(&stream->progress, &stream->lock, &deadline) != ETIMEDOUT)
            continue;
        uint64_t now = atomic_load(&stream->completed);
        if (!renew || now == seen) return now >= ticket;
        seen = now;
        deadline = timespec_of(tessi_deadline_ns(timeout_ms));
    }
    return 1;
}

/* 1 when `ticket` was completed in time. */
static int wait_completed(tessi_host_stream_t *stream, uint64_t ticket, int timeout_ms, int renew)
{
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    for (int i = 0; i < SPIN_POLLS; i++) {
        if (completed_of(stream) >= ticket) return 1;
        tessi_backoff_pause(&backoff);
    }
    pthread_mutex_lock(&stream->lock);
    atomic_fetch_add(&stream->waiters, 1);
    int reached = sleep_until(stream, ticket, timeout_ms, renew);
    atomic_fetch_sub(&stream->waiters, 1);
    pthread_mutex_unlock(&stream->lock);
    return reached;
}

tess_status_t tessi_host_stream_synchronize(tess_stream_t *base, int timeout_ms)
{
    tessi_host_stream_t *stream = of(base);
    if (on_worker(stream))
        return tessi_fail(TESS_ERR_STATE, "work on a stream cannot wait for the same stream");
    uint64_t ticket = atomic_load(&stream->tail);
    if (wait_completed(stream, ticket, timeout_ms, 0)) return TESS_OK;
    return tessi_fail(TESS_ERR_TIMEOUT,
                      "a host stream was not done after %d ms: %" PRIu64 " entries are left",
                      timeout_ms, ticket - completed_of(stream));
}

tess_status_t tessi_host_stream_query(tess_stream_t *base)
{
    tessi_host_stream_t *stream = of(base);
    return completed_of(stream) >= atomic_load(&stream->tail) ? TESS_OK : TESS_NOT_READY;
}

tessi_host_mark_t tessi_host_mark_take(tess_stream_t *base)
{
    tessi_host_stream_t *stream = of(base);
    tessi_host_mark_t mark = {
        .stream = stream, .ticket = atomic_load(&stream->tail), .failed = has_failed(stream)};
    return tessi_host_mark_copy(&mark);
}

tessi_host_mark_t tessi_host_mark_copy(const tessi_host_mark_t *mark)
{
    if (mark->stream) atomic_fetch_add_explicit(&mark->stream->references, 1, memory_order_relaxed);
    return *mark;
}

void tessi_host_mark_release(tessi_host_mark_t *mark)
{
    if (mark->stream) release(mark->stream);
    mark->stream = NULL;
}

tess_status_t tessi_host_mark_query(const tessi_host_mark_t *mark)
{
    if (!mark->stream) return TESS_OK;
    if (completed_of(mark->stream) < mark->ticket) return TESS_NOT_READY;
    uint64_t failed = atomic_load_explicit(&mark->stream->failed_ticket, memory_order_relaxed);
    if (mark->failed || (failed != 0 && failed <= mark->ticket))
        return tessi_stream_fault(&mark->stream->base);
    return TESS_OK;
}

tess_status_t tessi_host_mark_wait(const tessi_host_mark_t *mark, int timeout_ms, int renew)
{
    if (mark->stream && !wait_completed(mark->stream, mark->ticket, timeout_ms, renew))
        return tessi_fail(TESS_ERR_TIMEOUT, "an event was not reached after %d ms%s", timeout_ms,
                          renew ? " in which its stream completed nothing" : "");
    return tessi_host_mark_query(mark);
}

/* --- a stream's life -------------------------------------------------------------------------- */

static tess_status_t read_mode(int *eager)
{
    const char *mode = tessi_option(TESSI_OPTION_HOST_STREAMS);
    *eager = strcmp(mode, "eager") == 0;
    if (*eager || strcmp(mode, "threads") == 0) return TESS_OK;
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s is \"%s\", but must be threads or eager",
                      tessi_option_variable(TESSI_OPTION_HOST_STREAMS), mode);
}

/* Signals are for the program's own threads: the worker blocks them all. */
static tess_status_t start_worker(tessi_host_stream_t *stream)
{
    stream->ring = tessi_calloc(RING_ENTRIES, sizeof *stream->ring);
    if (!stream->ring) return TESS_ERR_OUT_OF_MEMORY;

    sigset_t all, previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    atomic_store(&stream->references, 2);
    int error = EAGAIN;
    if (!tessi_fault("thread"))
        error = pthread_create(&stream->thread, NULL, work_in_order, stream);
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (error) {
        atomic_store(&stream->references, 1);
        return tessi_fail_errno(error, "cannot start the worker thread of a stream");
    }
    pthread_setname_np(stream->thread, "tess-stream");
    return TESS_OK;
}

static void init_locks(tessi_host_stream_t *stream)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->work, &monotonic);
    pthread_cond_init(&stream->progress, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

tess_status_t tessi_host_stream_create(tess_device_t *device, tess_stream_priority_t priority,
                                       tess_stream_t **result)
{
    (void)device;
    (void)priority;
    int eager;
    tess_status_t status = read_mode(&eager);
    if (status < 0) return status;
    tessi_host_stream_t *stream = tessi_calloc(1, sizeof *stream);
    if (!stream) return TESS_ERR_OUT_OF_MEMORY;
    init_locks(stream);
    stream->eager = eager;
    atomic_init(&stream->references, 1);
    if (!eager) TESS_TRY(start_worker(stream), err_release);
    *result = &stream->base;
    return TESS_OK;

err_release:
    release(stream);
    return status;
}

/* Asks the worker to end behind what is queued; 1 when it did within the deadline. */
static int stop_worker(tessi_host_stream_t *stream, int timeout_ms)
{
    struct timespec deadline = timespec_of(tessi_deadline_ns(timeout_ms));
    pthread_mutex_lock(&stream->lock);
    stream->stopping = 1;
    pthread_cond_signal(&stream->work);
    while (!stream->ended && !on_worker(stream))
        if (pthread_cond_timedwait(&stream->progress, &stream->lock, &deadline) == ETIMEDOUT) break;
    int ended = stream->ended;
    pthread_mutex_unlock(&stream->lock);
    return ended;
}

/* A worker that does not end keeps its reference and frees the stream whenever it comes back; what
 * was queued behind the work that holds it up is skipped. */
static void abandon_worker(tessi_host_stream_t *stream, int timeout_ms)
{
    tessi_stream_fail(&stream->base, TESS_ERR_ABORTED,
                      "the stream was destroyed while its work was still running");
    pthread_detach(stream->thread);
    tessi_log(TESSI_LOG_ERROR,
              "a host stream was destroyed, but its work did not end within %d ms "
              "(TESS_TIMEOUT_MS); what was queued behind it will not run",
              timeout_ms);
}

void tessi_host_stream_destroy(tess_stream_t *base)
{
    tessi_host_stream_t *stream = of(base);
    if (!stream->eager) {
        int timeout_ms = tessi_timeout_or_default(-1);
        if (stop_worker(stream, timeout_ms)) pthread_join(stream->thread, NULL);
        else abandon_worker(stream, timeout_ms);
    }
    release(stream);
}
