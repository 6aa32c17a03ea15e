/* SPDX-License-Identifier: Apache-2.0 */
/* NCCL with deadlines: every operation is followed by an event, and one watchdog thread a
 * communicator retires events, polls for asynchronous errors and word of lost peers, and aborts.
 *
 * The communicator is a blocking one, because a non-blocking one starts a thread for every
 * operation. Invariant: ncclCommAbort is called at most once, after the failure was written to the
 * watch and to the streams, so that whoever sees a stream end early sees why.
 */
#include <cuda_runtime_api.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "nccl_internal.h"

/* Operations in flight per communicator before a submit waits for the oldest. */
#define FLIGHT_SLOTS 1024
#define BARRIER_BYTES 16
#define BUSY_PERIOD_MS 2
#define IDLE_PERIOD_MS 100
#define CALL_GRACE_MS 2000
#define CLOSE_WAIT_MS 10000

typedef struct flight {
    tessi_op_record_t record;
    tess_stream_t *stream;
    int64_t submitted_ns;
    cudaEvent_t done; /* created once, reused */
} flight_t;

typedef struct nccl_context {
    tess_comm_t *comm;
    int device_index;
    ncclComm_t handle;
    void *barrier_scratch;       /* (BARRIER_BYTES) device memory */
    pthread_mutex_t call_lock;   /* held inside collectives, so that abort finds nobody there */
    int aborted;                 /* guarded by call_lock */
    pthread_mutex_t retire_lock; /* guards retired_ns, and moving tail */
    int64_t retired_ns;          /* when tail last moved */
    pthread_t watchdog;
    pthread_mutex_t sleep_lock; /* guards stop and wake */
    pthread_cond_t wake;
    int stop;
    _Atomic int idle;     /* the watchdog sleeps until woken */
    _Atomic int64_t head; /* flights queued; written by the submitting thread */
    _Atomic int64_t tail; /* flights retired */
    flight_t flights[FLIGHT_SLOTS];
} nccl_context_t;

static tess_status_t fail_runtime(cudaError_t error, const char *what)
{
    (void)cudaGetLastError();
    return tessi_fail(TESS_ERR_CUDA, "%s: %s", what, cudaGetErrorString(error));
}

static const char *nccl_version(void)
{
    static char text[32];
    int version = 0;
    if (!text[0] && ncclGetVersion(&version) == ncclSuccess)
        snprintf(text, sizeof text, "%d.%d.%d", version / 10000, version / 100 % 100,
                 version % 100);
    return text;
}

static const char *nccl_unusable(tess_device_kind_t kind)
{
    return kind == TESS_DEVICE_CUDA ? NULL : "nccl moves CUDA memory only; on the host use ucx";
}

/* --- the watchdog ---------------------------------------------------------------------------- */

/* Retires finished operations in order. An error of an event is the device's. */
static tess_status_t retire_finished(nccl_context_t *context)
{
    cudaError_t error = cudaSuccess;
    pthread_mutex_lock(&context->retire_lock);
    int64_t tail = atomic_load_explicit(&context->tail, memory_order_relaxed);
    int64_t head = atomic_load_explicit(&context->head, memory_order_acquire);
    for (; tail < head; tail++) {
        error = cudaEventQuery(context->flights[tail % FLIGHT_SLOTS].done);
        if (error != cudaSuccess) break;
        context->retired_ns = tessi_now_ns();
        atomic_store_explicit(&context->tail, tail + 1, memory_order_release);
    }
    pthread_mutex_unlock(&context->retire_lock);
    if (error == cudaSuccess) return TESS_OK;
    if (error != cudaErrorNotReady) return fail_runtime(error, "a collective on NCCL failed");
    (void)cudaGetLastError();
    return TESS_OK;
}

/* The failure of every stream that still waits for an operation. A stream whose operations are done
 * may be gone already, and is left alone. */
static void fail_flights(nccl_context_t *context, tess_status_t status, const char *detail)
{
    int64_t head = atomic_load_explicit(&context->head, memory_order_acquire);
    for (int64_t i = atomic_load(&context->tail); i < head; i++) {
        const flight_t *flight = &context->flights[i % FLIGHT_SLOTS];
        if (cudaEventQuery(flight->done) != cudaSuccess)
            tessi_stream_fail(flight->stream, status, detail);
    }
    (void)cudaGetLastError();
}

/* The oldest operation's clock starts when it was queued or when the one before it ended. */
static tess_status_t check_deadline(nccl_context_t *context)
{
    tess_comm_t *comm = context->comm;
    int64_t tail = atomic_load_explicit(&context->tail, memory_order_relaxed);
    if (tail == atomic_load_explicit(&context->head, memory_order_acquire)) return TESS_OK;
    const flight_t *oldest = &context->flights[tail % FLIGHT_SLOTS];
    pthread_mutex_lock(&context->retire_lock);
    int64_t started_ns =
        oldest->submitted_ns > context->retired_ns ? oldest->submitted_ns : context->retired_ns;
    pthread_mutex_unlock(&context->retire_lock);
    if (tessi_now_ns() - started_ns < (int64_t)comm->timeout_ms * 1000000) return TESS_OK;

    char op[128], who[320];
    tessi_op_text(&oldest->record, op, sizeof op);
    tessi_world_diagnose(comm->world, &comm->watch, oldest->record.sequence, who, sizeof who);
    return tessi_fail(TESS_ERR_TIMEOUT, "communicator %s: %s did not end within %d ms; %s",
                      comm->name, op, comm->timeout_ms, who);
}

static tess_status_t check_nccl(nccl_context_t *context)
{
    ncclResult_t state = ncclSuccess;
    ncclResult_t result = ncclCommGetAsyncError(context->handle, &state);
    if (result == ncclSuccess) result = state;
    if (result == ncclSuccess || result == ncclInProgress) return TESS_OK;
    return tessi_nccl_fail(result, context->handle, "NCCL reported an asynchronous error");
}

static int lock_within(pthread_mutex_t *lock, int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000;
    return pthread_mutex_timedlock(lock, &until);
}

/* Tells everyone, then stops NCCL's kernels. The lock keeps the submitting thread out of NCCL; a
 * thread that is stuck inside for longer than the grace is woken by the abort itself. */
static void abort_all(nccl_context_t *context, tess_status_t cause)
{
    tess_comm_t *comm = context->comm;
    char detail[512];
    snprintf(detail, sizeof detail, "%s", tess_last_error());
    tessi_watch_fail(comm->world, &comm->watch, cause, detail);

    int locked = lock_within(&context->call_lock, CALL_GRACE_MS) == 0;
    context->aborted = 1;
    fail_flights(context, cause, detail);
    (void)ncclCommAbort(context->handle);
    if (locked) pthread_mutex_unlock(&context->call_lock);
}

static void sleep_a_while(nccl_context_t *context, int busy)
{
    struct timespec until;
    int period_ms = busy ? BUSY_PERIOD_MS : IDLE_PERIOD_MS;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += period_ms * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&context->sleep_lock);
    if (!context->stop) pthread_cond_timedwait(&context->wake, &context->sleep_lock, &until);
    pthread_mutex_unlock(&context->sleep_lock);
}

static void wake_watchdog(nccl_context_t *context)
{
    pthread_mutex_lock(&context->sleep_lock);
    pthread_cond_signal(&context->wake);
    pthread_mutex_unlock(&context->sleep_lock);
}

static int must_stop(nccl_context_t *context)
{
    pthread_mutex_lock(&context->sleep_lock);
    int stop = context->stop;
    pthread_mutex_unlock(&context->sleep_lock);
    return stop;
}

static void *watch_thread(void *argument)
{
    nccl_context_t *context = argument;
    (void)cudaSetDevice(context->device_index);
    while (!must_stop(context)) {
        tess_status_t status = retire_finished(context);
        if (status == TESS_OK) status = tessi_watch_status(&context->comm->watch);
        if (status == TESS_OK) status = check_nccl(context);
        if (status == TESS_OK) status = check_deadline(context);
        if (status != TESS_OK) {
            abort_all(context, status);
            return NULL;
        }
        atomic_store(&context->idle, 1);
        int busy = atomic_load(&context->head) != atomic_load(&context->tail);
        if (busy) atomic_store(&context->idle, 0);
        sleep_a_while(context, busy);
        atomic_store(&context->idle, 0);
    }
    return NULL;
}

/* --- open and close -------------------------------------------------------------------------- */

static void destroy_events(nccl_context_t *context)
{
    for (int i = 0; i < FLIGHT_SLOTS && context->flights[i].done; i++)
        (void)cudaEventDestroy(context->flights[i].done);
}

static tess_status_t create_events(nccl_context_t *context)
{
    for (int i = 0; i < FLIGHT_SLOTS; i++) {
        cudaError_t error =
            tessi_fault("nccl")
                ? cudaErrorUnknown
                : cudaEventCreateWithFlags(&context->flights[i].done, cudaEventDisableTiming);
        if (error == cudaSuccess) continue;
        context->flights[i].done = NULL;
        return fail_runtime(error, "cannot create the events that watch NCCL");
    }
    return TESS_OK;
}

static tess_status_t start_watchdog(nccl_context_t *context)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&context->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&context->sleep_lock, NULL);
    pthread_mutex_init(&context->call_lock, NULL);
    pthread_mutex_init(&context->retire_lock, NULL);
    int error = tessi_fault("thread")
                    ? EAGAIN
                    : pthread_create(&context->watchdog, NULL, watch_thread, context);
    if (error == 0) return TESS_OK;
    pthread_cond_destroy(&context->wake);
    pthread_mutex_destroy(&context->sleep_lock);
    pthread_mutex_destroy(&context->call_lock);
    pthread_mutex_destroy(&context->retire_lock);
    return tessi_fail_errno(error, "cannot start the thread that watches NCCL");
}

/* What can fail on one rank alone comes first, and the others are told before anyone waits in NCCL.
 * Device memory comes last: freeing it would wait for a first collective that is stuck. */
static tess_status_t nccl_open(tess_comm_t *comm)
{
    tess_status_t status = TESS_ERR_OUT_OF_MEMORY;
    tess_device_properties_t properties = {0};
    nccl_context_t *context = tessi_calloc(1, sizeof *context);
    if (context) status = tess_device_properties(comm->device, &properties);
    TESSI_ON_DEVICE(properties.index);
    if (status == TESS_OK) status = create_events(context);
    TESS_TRY(tessi_comm_agree(comm, "nccl set-up", status), free_context);
    if (!context) return TESS_ERR_OUT_OF_MEMORY; /* already told: the agreement failed with it */

    context->comm = comm;
    context->device_index = properties.index;
    TESS_TRY(tessi_nccl_connect(comm, &context->handle), free_context);
    TESS_TRY(tess_memory_allocate(comm->device, TESS_MEMORY_DEVICE, BARRIER_BYTES,
                                  &context->barrier_scratch),
             abort_handle);
    TESS_TRY(start_watchdog(context), free_scratch);
    comm->context = context;
    snprintf(comm->description, sizeof comm->description, "nccl %s, %d ranks", nccl_version(),
             comm->size);
    return TESS_OK;

free_scratch:
    tess_memory_free(comm->device, TESS_MEMORY_DEVICE, context->barrier_scratch);
abort_handle:
    (void)ncclCommAbort(context->handle);
free_context:
    if (context) destroy_events(context);
    tessi_free(context);
    return status;
}

static int stop_watchdog(nccl_context_t *context)
{
    pthread_mutex_lock(&context->sleep_lock);
    context->stop = 1;
    pthread_cond_signal(&context->wake);
    pthread_mutex_unlock(&context->sleep_lock);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += CLOSE_WAIT_MS / 1000;
    return pthread_timedjoin_np(context->watchdog, NULL, &until);
}

/* A peer's kernel may still write its acknowledgements into this rank's memory after our own
 * operations ended, so a healthy communicator is freed only once every rank has come here; a peer
 * that does not come within a bounded time is not waited for. */
static void meet_before_free(tess_comm_t *comm)
{
    char *answers = tessi_calloc((size_t)comm->size, 1);
    if (!answers) return;
    int timeout_ms = comm->timeout_ms;
    if (timeout_ms > CLOSE_WAIT_MS) comm->timeout_ms = CLOSE_WAIT_MS;
    if (tessi_comm_exchange(comm, "nccl close", "", 1, answers) != TESS_OK)
        tessi_log(TESSI_LOG_INFO, "closing communicator %s without the others: %s", comm->name,
                  tess_last_error());
    comm->timeout_ms = timeout_ms;
    tessi_free(answers);
}

static void nccl_close(tess_comm_t *comm)
{
    nccl_context_t *context = comm->context;
    TESSI_ON_DEVICE(context->device_index);
    if (atomic_load(&comm->watch.status) == TESS_OK && retire_finished(context) == TESS_OK) {
        if (atomic_load(&context->tail) != atomic_load(&context->head))
            tessi_watch_fail(comm->world, &comm->watch, TESS_ERR_ABORTED,
                             "the communicator was closed with operations still queued");
        else meet_before_free(comm);
    }
    if (stop_watchdog(context) != 0) {
        tessi_log(TESSI_LOG_ERROR,
                  "communicator %s: NCCL does not let go of the device; its "
                  "memory is left behind",
                  comm->name);
        comm->memory = NULL; /* freeing device memory would wait for the kernel that is stuck */
        return;
    }
    if (!context->aborted) {
        fail_flights(context, TESS_ERR_ABORTED,
                     "the communicator was closed with operations still queued");
        (void)ncclCommAbort(context->handle);
    }
    destroy_events(context);
    pthread_cond_destroy(&context->wake);
    pthread_mutex_destroy(&context->sleep_lock);
    pthread_mutex_destroy(&context->call_lock);
    pthread_mutex_destroy(&context->retire_lock);
    tess_memory_free(comm->device, TESS_MEMORY_DEVICE, context->barrier_scratch);
    tessi_free(context);
}

/* --- collectives ------------------------------------------------------------------------------ */

static ncclDataType_t nccl_type(int dtype)
{
    switch (dtype) {
    case TESS_DTYPE_BF16:
        return ncclBfloat16;
    case TESS_DTYPE_FP16:
        return ncclFloat16;
    case TESS_DTYPE_FP32:
        return ncclFloat32;
    default:
        return ncclInt8;
    }
}

static ncclResult_t call_nccl(nccl_context_t *context, const tessi_op_t *op, cudaStream_t stream)
{
    ncclDataType_t type = nccl_type(op->record.dtype);
    ncclRedOp_t reduction = op->record.reduction == TESS_AVERAGE ? ncclAvg : ncclSum;
    size_t count = (size_t)op->record.count;
    ncclComm_t handle = context->handle;
    switch (op->record.kind) {
    case TESSI_OP_ALL_GATHER:
        return ncclAllGather(op->send, op->recv, count, type, handle, stream);
    case TESSI_OP_REDUCE_SCATTER:
        return ncclReduceScatter(op->send, op->recv, count, type, reduction, handle, stream);
    case TESSI_OP_ALL_REDUCE:
        return ncclAllReduce(op->send, op->recv, count, type, reduction, handle, stream);
    case TESSI_OP_BROADCAST:
        return ncclBroadcast(op->recv, op->recv, count, type, op->record.root, handle, stream);
    default:
        return ncclAllReduce(context->barrier_scratch, context->barrier_scratch, BARRIER_BYTES,
                             ncclInt8, ncclSum, handle, stream);
    }
}

static tess_status_t wait_for_slot(nccl_context_t *context, int64_t head)
{
    int64_t deadline_ns = tessi_deadline_ns(context->comm->timeout_ms);
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    while (head - atomic_load_explicit(&context->tail, memory_order_acquire) >= FLIGHT_SLOTS) {
        tess_status_t status = tessi_watch_status(&context->comm->watch);
        if (status != TESS_OK) return status;
        if (tessi_now_ns() >= deadline_ns)
            return tessi_fail(TESS_ERR_TIMEOUT,
                              "%d operations are queued on communicator %s and "
                              "the oldest does not end",
                              FLIGHT_SLOTS, context->comm->name);
        tessi_backoff_pause(&backoff);
    }
    return TESS_OK;
}

static tess_status_t queue_locked(nccl_context_t *context, const tessi_op_t *op, flight_t *flight)
{
    if (context->aborted) return TESS_ERR_ABORTED;
    cudaStream_t stream = tess_stream_native(flight->stream);
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cudaError_t error = cudaStreamIsCapturing(stream, &capture);
    if (error != cudaSuccess) return fail_runtime(error, "cannot use the stream for NCCL");
    ncclResult_t result = call_nccl(context, op, stream);
    if (result != ncclSuccess)
        return tessi_nccl_fail(result, context->handle, tessi_op_name(op->record.kind));
    if (capture != cudaStreamCaptureStatusNone)
        return TESS_NOT_READY; /* runs at replay: no flight */
    error = cudaEventRecord(flight->done, stream);
    return error == cudaSuccess ? TESS_OK : fail_runtime(error, "cannot watch an NCCL operation");
}

static tess_status_t nccl_submit(tess_comm_t *comm, const tessi_op_t *op, tess_stream_t *stream)
{
    nccl_context_t *context = comm->context;
    TESSI_ON_DEVICE(context->device_index);
    int64_t head = atomic_load_explicit(&context->head, memory_order_relaxed);
    tess_status_t status = wait_for_slot(context, head);
    if (status != TESS_OK) return status;

    flight_t *flight = &context->flights[head % FLIGHT_SLOTS];
    flight->record = op->record;
    flight->stream = stream;
    flight->submitted_ns = tessi_now_ns();
    tessi_world_record(comm->world, &comm->watch, &op->record);
    pthread_mutex_lock(&context->call_lock);
    status = queue_locked(context, op, flight);
    if (status == TESS_OK) atomic_store(&context->head, head + 1);
    pthread_mutex_unlock(&context->call_lock);

    if (status == TESS_ERR_ABORTED) {
        tess_status_t cause = tessi_watch_status(&comm->watch);
        return cause == TESS_OK ? tessi_fail(status, "communicator %s was stopped", comm->name)
                                : cause;
    }
    if (status < 0) tessi_watch_fail(comm->world, &comm->watch, status, tess_last_error());
    if (atomic_load(&context->idle)) wake_watchdog(context);
    return status < 0 ? status : TESS_OK;
}

const tessi_transport_t tessi_transport_nccl = {
    .name = "nccl",
    .version = nccl_version,
    .unusable = nccl_unusable,
    .open = nccl_open,
    .close = nccl_close,
    .allocate = tessi_comm_memory_allocate,
    .free = tessi_comm_memory_free,
    .submit = nccl_submit,
};
