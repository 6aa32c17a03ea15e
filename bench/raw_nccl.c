/* SPDX-License-Identifier: Apache-2.0 */
/* NCCL's own calls on one communicator of the whole world.
 *
 * The communicator is a blocking one, as most programs have it. Only its creation and its first
 * collectives, which connect the ranks, can wait for a peer for ever, so they run on a thread which
 * is left behind when the deadline passes; whoever comes second, that thread or the caller, frees
 * what they share.
 */
#include "raw_nccl.h"

#include <cuda_runtime_api.h>
#include <errno.h>
#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "comm/world_internal.h"
#include "core/internal.h"

#define BARRIER_FLOATS 4
#define FIRST_FLOATS 256    /* of each rank, in the first collectives */
#define CLOSE_WAIT_MS 10000 /* for the other ranks */

struct raw_nccl {
    tess_world_t *world;
    tess_device_t *device;
    char key[64];
    ncclComm_t handle;
    void *scratch; /* (BARRIER_FLOATS) floats on the device */
    int aborted;
};

typedef struct opening {
    ncclUniqueId id;
    int rank, size, device_index;
    ncclComm_t handle; /* NULL once the caller has it */
    ncclResult_t result;
    const char *what;
    _Atomic int finished, owners;
} opening_t;

const char *raw_nccl_missing(void)
{
    return NULL;
}

static tess_status_t fail_nccl(ncclResult_t result, ncclComm_t handle, const char *what)
{
    return tessi_fail(TESS_ERR_NCCL, "raw NCCL: %s: %s; %s", what, ncclGetErrorString(result),
                      ncclGetLastError(handle));
}

static void opening_leave(opening_t *opening)
{
    if (atomic_fetch_sub(&opening->owners, 1) > 1) return;
    if (opening->handle) (void)ncclCommAbort(opening->handle);
    tessi_free(opening);
}

/* When nobody waits for this thread any more it stops what it queued, so that no kernel is left
 * spinning on the device. */
static ncclResult_t finish_first(opening_t *opening, cudaStream_t stream)
{
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    for (;;) {
        cudaError_t error = cudaStreamQuery(stream);
        if (error == cudaSuccess) return ncclSuccess;
        if (error != cudaErrorNotReady) return ncclUnhandledCudaError;
        (void)cudaGetLastError();
        if (atomic_load(&opening->owners) == 1) {
            (void)ncclCommAbort(opening->handle);
            opening->handle = NULL;
            return ncclInternalError;
        }
        tessi_backoff_pause(&backoff);
    }
}

static ncclResult_t run_first(opening_t *opening)
{
    float *whole = NULL;
    cudaStream_t stream = NULL;
    ncclComm_t handle = opening->handle;
    size_t bytes = FIRST_FLOATS * sizeof *whole * (size_t)opening->size;
    ncclResult_t result = ncclUnhandledCudaError;
    if (cudaMalloc((void **)&whole, bytes) != cudaSuccess) return result;
    if (cudaMemset(whole, 0, bytes) != cudaSuccess) goto free_whole;
    if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) goto free_whole;
    float *own = whole + (size_t)opening->rank * FIRST_FLOATS;
    result = ncclAllGather(own, whole, FIRST_FLOATS, ncclFloat, handle, stream);
    if (result == ncclSuccess)
        result = ncclReduceScatter(whole, own, FIRST_FLOATS, ncclFloat, ncclSum, handle, stream);
    if (result == ncclSuccess)
        result = ncclAllReduce(whole, whole, BARRIER_FLOATS, ncclFloat, ncclSum, handle, stream);
    if (result == ncclSuccess) result = finish_first(opening, stream);
    (void)cudaStreamDestroy(stream);
free_whole:
    (void)cudaFree(whole);
    return result;
}

static void *open_thread(void *argument)
{
    opening_t *opening = argument;
    opening->what = "ncclCommInitRank";
    opening->result = ncclUnhandledCudaError;
    if (cudaSetDevice(opening->device_index) == cudaSuccess)
        opening->result =
            ncclCommInitRank(&opening->handle, opening->size, opening->id, opening->rank);
    if (opening->result == ncclSuccess) {
        opening->what = "the first collectives";
        opening->result = run_first(opening);
    }
    atomic_store(&opening->finished, 1);
    opening_leave(opening);
    return NULL;
}

static tess_status_t wait_for_opening(tess_world_t *world, opening_t *opening, int timeout_ms)
{
    int64_t deadline_ns = tessi_deadline_ns(timeout_ms);
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    while (!atomic_load(&opening->finished)) {
        tess_status_t status = tess_world_status(world);
        if (status < 0) return status;
        if (tessi_now_ns() >= deadline_ns)
            return tessi_fail(TESS_ERR_TIMEOUT, "raw NCCL did not connect %d ranks within %d ms",
                              opening->size, timeout_ms);
        tessi_backoff_pause(&backoff);
    }
    if (opening->result == ncclSuccess) return TESS_OK;
    tess_status_t status = tess_world_status(world); /* a lost rank explains more */
    return status < 0 ? status : fail_nccl(opening->result, opening->handle, opening->what);
}

static tess_status_t connect_ranks(tess_world_t *world, opening_t *opening, int timeout_ms,
                                   ncclComm_t *handle)
{
    pthread_t thread;
    atomic_init(&opening->owners, 2);
    int error = pthread_create(&thread, NULL, open_thread, opening);
    if (error) {
        atomic_store(&opening->owners, 1);
        return tessi_fail_errno(error, "cannot start the thread that opens NCCL");
    }
    pthread_detach(thread);
    tess_status_t status = wait_for_opening(world, opening, timeout_ms);
    if (status < 0) return status;
    *handle = opening->handle;
    opening->handle = NULL;
    return TESS_OK;
}

/* (size, bytes) into `all`. */
static tess_status_t exchange(tess_world_t *world, const char *key, const void *mine, int64_t bytes,
                              void *all, int timeout_ms)
{
    int size = tess_world_size(world);
    int *ranks = tessi_calloc((size_t)size, sizeof *ranks);
    if (!ranks) return TESS_ERR_OUT_OF_MEMORY;
    for (int r = 0; r < size; r++) ranks[r] = r;
    tessi_group_t group = {.ranks = ranks, .count = size};
    tess_status_t status = tessi_world_exchange(world, group, key, mine, bytes, all, timeout_ms);
    tessi_free(ranks);
    return status;
}

/* Rank 0's id, on all ranks. */
static tess_status_t share_id(tess_world_t *world, const char *key, int timeout_ms,
                              ncclUniqueId *id)
{
    ncclUniqueId mine;
    memset(&mine, 0, sizeof mine);
    ncclResult_t result = tess_world_rank(world) == 0 ? ncclGetUniqueId(&mine) : ncclSuccess;
    if (result != ncclSuccess) return fail_nccl(result, NULL, "ncclGetUniqueId");
    ncclUniqueId *all = tessi_calloc((size_t)tess_world_size(world), sizeof *all);
    if (!all) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = exchange(world, key, &mine, sizeof mine, all, timeout_ms);
    if (status >= 0) *id = all[0];
    tessi_free(all);
    return status;
}

tess_status_t raw_nccl_open(tess_world_t *world, tess_device_t *device, const char *key,
                            int timeout_ms, raw_nccl_t **result)
{
    tess_status_t status;
    tess_device_properties_t properties;
    if (tess_device_kind(device) != TESS_DEVICE_CUDA)
        return tessi_fail(TESS_ERR_UNSUPPORTED, "raw NCCL needs CUDA devices; this is %s",
                          tess_device_name(device));
    TESS_TRY(tess_device_properties(device, &properties), done);
    status = TESS_ERR_OUT_OF_MEMORY;
    raw_nccl_t *raw = tessi_calloc(1, sizeof *raw);
    if (!raw) goto done;
    raw->world = world;
    raw->device = device;
    snprintf(raw->key, sizeof raw->key, "%.50s close", key);
    TESS_TRY(tess_memory_allocate(device, TESS_MEMORY_DEVICE, BARRIER_FLOATS * sizeof(float),
                                  &raw->scratch),
             free_raw);
    status = TESS_ERR_OUT_OF_MEMORY;
    opening_t *opening = tessi_calloc(1, sizeof *opening);
    if (!opening) goto free_scratch;
    atomic_init(&opening->owners, 1);
    opening->rank = tess_world_rank(world);
    opening->size = tess_world_size(world);
    opening->device_index = properties.index;
    TESS_TRY(share_id(world, key, timeout_ms, &opening->id), leave_opening);
    TESS_TRY(connect_ranks(world, opening, timeout_ms, &raw->handle), leave_opening);
    opening_leave(opening);
    *result = raw;
    return TESS_OK;

leave_opening:
    opening_leave(opening);
free_scratch:
    tess_memory_free(device, TESS_MEMORY_DEVICE, raw->scratch);
free_raw:
    tessi_free(raw);
done:
    return status;
}

void raw_nccl_abort(raw_nccl_t *raw)
{
    if (!raw || raw->aborted) return;
    raw->aborted = 1;
    (void)ncclCommAbort(raw->handle);
}

/* A peer's kernel may still acknowledge what it read here after our own operations ended; so all
 * ranks meet first. ncclCommDestroy would wait for them without a deadline. */
void raw_nccl_close(raw_nccl_t *raw)
{
    if (!raw) return;
    char *all = raw->aborted ? NULL : tessi_calloc((size_t)tess_world_size(raw->world), 1);
    if (all && exchange(raw->world, raw->key, "", 1, all, CLOSE_WAIT_MS) < 0)
        tessi_log(TESSI_LOG_INFO, "closing raw NCCL without the others: %s", tess_last_error());
    tessi_free(all);
    raw_nccl_abort(raw);
    tess_memory_free(raw->device, TESS_MEMORY_DEVICE, raw->scratch);
    tessi_free(raw);
}

static ncclDataType_t type_of(tess_dtype_t dtype)
{
    static const ncclDataType_t types[] = {[TESS_DTYPE_BYTE] = ncclUint8,
                                           [TESS_DTYPE_BF16] = ncclBfloat16,
                                           [TESS_DTYPE_FP16] = ncclFloat16,
                                           [TESS_DTYPE_FP32] = ncclFloat32};
    return types[dtype];
}

static tess_status_t done_with(raw_nccl_t *raw, ncclResult_t result, const char *what)
{
    return result == ncclSuccess ? TESS_OK : fail_nccl(result, raw->handle, what);
}

tess_status_t raw_nccl_all_gather(raw_nccl_t *raw, const tess_collective_t *arguments,
                                  tess_stream_t *stream)
{
    return done_with(raw,
                     ncclAllGather(arguments->send, arguments->recv, (size_t)arguments->count,
                                   type_of(arguments->dtype), raw->handle,
                                   tess_stream_native(stream)),
                     "ncclAllGather");
}

tess_status_t raw_nccl_reduce_scatter(raw_nccl_t *raw, const tess_collective_t *arguments,
                                      tess_stream_t *stream)
{
    ncclRedOp_t reduction = arguments->reduction == TESS_AVERAGE ? ncclAvg : ncclSum;
    return done_with(raw,
                     ncclReduceScatter(arguments->send, arguments->recv, (size_t)arguments->count,
                                       type_of(arguments->dtype), reduction, raw->handle,
                                       tess_stream_native(stream)),
                     "ncclReduceScatter");
}

tess_status_t raw_nccl_barrier(raw_nccl_t *raw, tess_stream_t *stream)
{
    return done_with(raw,
                     ncclAllReduce(raw->scratch, raw->scratch, BARRIER_FLOATS, ncclFloat32, ncclSum,
                                   raw->handle, tess_stream_native(stream)),
                     "ncclAllReduce");
}

const char *raw_nccl_version(void)
{
    static char text[32];
    int version = 0;
    if (ncclGetVersion(&version) != ncclSuccess) return "";
    snprintf(text, sizeof text, "%d.%d.%d", version / 10000, version % 10000 / 100, version % 100);
    return text;
}
