/* SPDX-License-Identifier: Apache-2.0 */
/* Connects an NCCL communicator under a deadline.
 *
 * Set-up is the one place where a blocking NCCL call can wait for a peer for ever, so it runs on a
 * thread of its own that also makes the first connections. When the deadline passes, or a peer is
 * lost, that thread is left behind and cleans up after itself once NCCL lets it go: nothing is
 * freed under its feet, and nobody waits for it.
 */
#include <cuda_runtime_api.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "nccl_internal.h"

tess_status_t tessi_nccl_fail(ncclResult_t result, ncclComm_t handle, const char *what)
{
    return tessi_fail(TESS_ERR_NCCL, "%s: %s%s%s", what, ncclGetErrorString(result),
                      handle ? "; " : "", handle ? ncclGetLastError(handle) : "");
}

/* Shared by the opening thread and the caller; whoever comes second frees it. */
typedef struct opening {
    ncclUniqueId id;
    int rank, size, device_index;
    char name[64];
    ncclComm_t handle;
    ncclResult_t result;
    const char *what;
    char error_text[256];
    pthread_mutex_t lock;
    int finished, abandoned;
} opening_t;

static void opening_free(opening_t *opening)
{
    pthread_mutex_destroy(&opening->lock);
    tessi_free(opening);
}

static int is_abandoned(opening_t *opening)
{
    pthread_mutex_lock(&opening->lock);
    int abandoned = opening->abandoned;
    pthread_mutex_unlock(&opening->lock);
    return abandoned;
}

/* Waits for the first collectives. When nobody waits for this thread any more it stops them, so
 * that no kernel is left spinning on the device. */
static ncclResult_t finish_first(opening_t *opening, cudaStream_t stream)
{
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    for (;;) {
        cudaError_t error = cudaStreamQuery(stream);
        if (error == cudaSuccess) return ncclSuccess;
        if (error != cudaErrorNotReady) return ncclUnhandledCudaError;
        (void)cudaGetLastError();
        if (is_abandoned(opening)) {
            (void)ncclCommAbort(opening->handle);
            opening->handle = NULL;
            return ncclInternalError;
        }
        tessi_backoff_pause(&backoff);
    }
}

/* NCCL connects on first use, and may then wait for a peer without a deadline; doing it here keeps
 * that wait on this thread. Each kind is run once, small. */
static ncclResult_t connect_all(opening_t *opening)
{
    enum { COUNT = 256 };
    size_t bytes = COUNT * sizeof(float) * (size_t)opening->size;
    float *scratch = NULL;
    cudaStream_t stream = NULL;
    ncclResult_t result = ncclUnhandledCudaError;
    if (cudaMalloc((void **)&scratch, bytes) != cudaSuccess) return result;
    if (cudaMemset(scratch, 0, bytes) != cudaSuccess) goto free_scratch;
    if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) goto free_scratch;

    float *slice = scratch + (size_t)opening->rank * COUNT;
    result = ncclAllGather(slice, scratch, COUNT, ncclFloat, opening->handle, stream);
    if (result == ncclSuccess)
        result =
            ncclReduceScatter(scratch, slice, COUNT, ncclFloat, ncclSum, opening->handle, stream);
    if (result == ncclSuccess)
        result =
            ncclAllReduce(scratch, scratch, COUNT, ncclFloat, ncclSum, opening->handle, stream);
    if (result == ncclSuccess)
        result = ncclBroadcast(scratch, scratch, COUNT, ncclFloat, 0, opening->handle, stream);
    if (result == ncclSuccess) result = finish_first(opening, stream);
    (void)cudaStreamDestroy(stream);
free_scratch:
    (void)cudaFree(scratch);
    return result;
}

static void *open_thread(void *argument)
{
    opening_t *opening = argument;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 1;
    config.commName = opening->name;
    opening->what = "cannot set the CUDA device for NCCL";
    opening->result = ncclUnhandledCudaError;
    if (cudaSetDevice(opening->device_index) == cudaSuccess) {
        opening->what = "ncclCommInitRank";
        opening->result = ncclCommInitRankConfig(&opening->handle, opening->size, opening->id,
                                                 opening->rank, &config);
    }
    if (opening->result == ncclSuccess) {
        opening->what = "NCCL's first collectives";
        opening->result = connect_all(opening);
    }
    if (opening->result != ncclSuccess)
        snprintf(opening->error_text, sizeof opening->error_text, "%s; %s",
                 ncclGetErrorString(opening->result),
                 opening->handle ? ncclGetLastError(opening->handle) : "");

    pthread_mutex_lock(&opening->lock);
    opening->finished = 1;
    int abandoned = opening->abandoned;
    pthread_mutex_unlock(&opening->lock);
    if (abandoned) {
        if (opening->handle) (void)ncclCommAbort(opening->handle);
        opening_free(opening);
    }
    return NULL;
}

/* Waits for the opening thread; past the deadline, or when a peer is lost, leaves it behind. Owns
 * `opening` either way. */
static tess_status_t finish_opening(tess_comm_t *comm, opening_t *opening, ncclComm_t *handle)
{
    int64_t deadline_ns = tessi_deadline_ns(comm->timeout_ms);
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    for (;;) {
        tess_status_t status = tessi_watch_status(&comm->watch);
        if (status == TESS_OK && tessi_now_ns() >= deadline_ns)
            status = tessi_fail(TESS_ERR_TIMEOUT,
                                "communicator %s: NCCL did not connect %d ranks "
                                "within %d ms; a rank is stopped, or set NCCL_DEBUG=INFO to see "
                                "where it waits",
                                comm->name, comm->size, comm->timeout_ms);
        pthread_mutex_lock(&opening->lock);
        int finished = opening->finished;
        if (!finished && status != TESS_OK) opening->abandoned = 1;
        pthread_mutex_unlock(&opening->lock);
        if (!finished && status != TESS_OK) return status;
        if (finished) break;
        tessi_backoff_pause(&backoff);
    }
    tess_status_t status = TESS_OK;
    if (opening->result == ncclSuccess) {
        *handle = opening->handle;
    } else {
        status = tessi_watch_status(&comm->watch); /* a lost peer explains more than NCCL's error */
        if (status == TESS_OK)
            status = tessi_fail(TESS_ERR_NCCL, "communicator %s: %s: %s", comm->name, opening->what,
                                opening->error_text);
        if (opening->handle) (void)ncclCommAbort(opening->handle);
    }
    opening_free(opening);
    return status;
}

tess_status_t tessi_nccl_connect(tess_comm_t *comm, ncclComm_t *handle)
{
    ncclUniqueId mine;
    memset(&mine, 0, sizeof mine);
    if (comm->rank == 0) {
        ncclResult_t result = tessi_fault("nccl") ? ncclInternalError : ncclGetUniqueId(&mine);
        if (result != ncclSuccess) return tessi_nccl_fail(result, NULL, "ncclGetUniqueId");
    }
    ncclUniqueId *ids = tessi_calloc((size_t)comm->size, sizeof *ids);
    if (!ids) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = tessi_comm_exchange(comm, "nccl id", &mine, sizeof mine, ids);
    opening_t *opening = status == TESS_OK ? tessi_calloc(1, sizeof *opening) : NULL;
    if (opening) opening->id = ids[0];
    tessi_free(ids);
    if (status != TESS_OK) return status;
    if (!opening) return TESS_ERR_OUT_OF_MEMORY;

    opening->rank = comm->rank;
    opening->size = comm->size;
    tess_device_properties_t properties;
    status = tess_device_properties(comm->device, &properties);
    if (status == TESS_OK) {
        opening->device_index = properties.index;
        snprintf(opening->name, sizeof opening->name, "%.63s", comm->name);
        pthread_mutex_init(&opening->lock, NULL);
        pthread_t thread;
        int error =
            tessi_fault("thread") ? EAGAIN : pthread_create(&thread, NULL, open_thread, opening);
        if (error == 0) {
            pthread_detach(thread);
            return finish_opening(comm, opening, handle);
        }
        status = tessi_fail_errno(error, "cannot start the thread that opens NCCL");
    }
    tessi_free(opening);
    return status;
}
