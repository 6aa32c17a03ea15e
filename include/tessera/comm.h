/* SPDX-License-Identifier: Apache-2.0 */
/* Communicators: all-gather, reduce-scatter, all-reduce, broadcast and barrier over a set of ranks.
 *
 * Every collective is queued on a stream and returns at once. All ranks of a communicator queue the
 * same collectives in the same order; that order is checked, and a rank that differs is named.
 * Operations of one communicator run one after another even on two streams; open a second
 * communicator to let two kinds of traffic overlap.
 *
 * Sums are taken in rank order in fp32 and rounded once with transports self and ucx: the bits are
 * the same for every bucket size and from run to run. nccl cannot promise that.
 *
 * Threads: one communicator by one thread at a time. Lifetime: streams with queued collectives and
 * memory from tess_comm_allocate must be drained and freed before tess_comm_close.
 */
#ifndef TESSERA_COMM_H
#define TESSERA_COMM_H

#include <stdint.h>
#include <tessera/device.h>
#include <tessera/dtype.h>
#include <tessera/status.h>
#include <tessera/world.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tess_comm tess_comm_t;

typedef struct tess_comm_config {
    const char *transport; /* "auto", "self", "ucx", "nccl"; NULL: TESS_TRANSPORT, default auto */
    const char *name;      /* in messages and traces; NULL: "world". Equal on all ranks */
    const int *ranks;      /* ascending world ranks that take part; NULL: all. Copied */
    int rank_count;        /* length of ranks; ignored where ranks is NULL */
    int timeout_ms; /* deadline of one collective, from the end of the one before it or, on nccl,
                       from when it was queued, whichever is later: longer than any compute that it
                       is queued behind. 0: the world's */
} tess_comm_config_t;

#define TESS_COMM_CONFIG_DEFAULT                                                                   \
    {                                                                                              \
        0, 0, 0, 0, 0                                                                              \
    }

/* Opened by every rank in config->ranks, in the same order relative to their other communicators.
 * auto: self for one rank, nccl on a CUDA device, ucx on the host. TESS_ERR_UNSUPPORTED says why a
 * transport cannot be used here; TESS_ERR_TIMEOUT names the ranks that did not come. */
TESS_API TESS_MUST_CHECK tess_status_t tess_comm_open(tess_world_t *world, tess_device_t *device,
                                                      const tess_comm_config_t *config,
                                                      tess_comm_t **comm);

/* Frees; what is still queued is aborted. NULL is legal. Never hangs, also when a peer is gone:
 * self and ucx do not wait for the other ranks at all, nccl waits for them at most 10 s, because a
 * peer's kernel may still acknowledge into this rank's memory. */
TESS_API void tess_comm_close(tess_comm_t *comm);

TESS_API int tess_comm_rank(const tess_comm_t *comm); /* 0 .. size-1 within the communicator */
TESS_API int tess_comm_size(const tess_comm_t *comm);
TESS_API tess_device_t *tess_comm_device(const tess_comm_t *comm);
TESS_API tess_world_t *tess_comm_world(const tess_comm_t *comm);
TESS_API const char *tess_comm_transport(const tess_comm_t *comm); /* "ucx" */

/* One line about how bytes travel: "ucx 1.13.1, 4 ranks: shared memory, loads and stores". */
TESS_API const char *tess_comm_description(const tess_comm_t *comm);

/* Buffers that the transport reaches fastest: shared memory on ucx within one host, ordinary
 * device memory elsewhere. Collective: all ranks ask for the same number of bytes, in the same
 * order relative to other allocations and collectives of this communicator. 4 KiB aligned.
 * Any other memory of the device works in collectives too, at the cost of a staging copy on ucx. */
TESS_API TESS_MUST_CHECK tess_status_t tess_comm_allocate(tess_comm_t *comm, int64_t bytes,
                                                          void **pointer);

/* Local: frees this rank's part. Peers must have finished the collectives that use it; close
 * frees what is left. NULL is legal. */
TESS_API void tess_comm_free(tess_comm_t *comm, void *pointer);

typedef enum tess_reduction { TESS_SUM = 0, TESS_AVERAGE = 1 } tess_reduction_t;

/* Arguments of every collective. n is the communicator's size. send == recv (all-reduce), or the
 * rank's own slice of the larger buffer (all-gather: recv + rank * count; reduce-scatter:
 * send + rank * count) means in place; other overlap is an error. count may be 0. */
typedef struct tess_collective {
    const void *send;   /* all-gather (count); reduce-scatter (n * count); all-reduce (count) */
    void *recv;         /* all-gather (n * count); reduce-scatter (count); all-reduce (count);
                           broadcast (count): read on root, written elsewhere */
    int64_t count;      /* elements, per rank for all-gather and reduce-scatter */
    tess_dtype_t dtype; /* BYTE cannot be reduced */
    tess_reduction_t reduction; /* reduce-scatter and all-reduce only */
    int root;                   /* broadcast only */
} tess_collective_t;

/* Each returns once queued. Errors at the call: TESS_ERR_INVALID_ARGUMENT (bad argument, nothing
 * queued, no sequence number used), and the communicator's sticky error. What fails later, on a
 * rank that died, stalled or differed, fails the stream and is returned by tess_comm_status. */
TESS_API TESS_MUST_CHECK tess_status_t tess_comm_all_gather(tess_comm_t *comm,
                                                            const tess_collective_t *arguments,
                                                            tess_stream_t *stream);
TESS_API TESS_MUST_CHECK tess_status_t tess_comm_reduce_scatter(tess_comm_t *comm,
                                                                const tess_collective_t *arguments,
                                                                tess_stream_t *stream);
TESS_API TESS_MUST_CHECK tess_status_t tess_comm_all_reduce(tess_comm_t *comm,
                                                            const tess_collective_t *arguments,
                                                            tess_stream_t *stream);
TESS_API TESS_MUST_CHECK tess_status_t tess_comm_broadcast(tess_comm_t *comm,
                                                           const tess_collective_t *arguments,
                                                           tess_stream_t *stream);
TESS_API TESS_MUST_CHECK tess_status_t tess_comm_barrier(tess_comm_t *comm, tess_stream_t *stream);

/* TESS_OK, or the first asynchronous error of this communicator. Sticky: nothing more can be
 * queued; close it. tess_last_error() names rank, operation and sequence number. */
TESS_API TESS_MUST_CHECK tess_status_t tess_comm_status(tess_comm_t *comm);

/* Stops what is queued on this rank; it ends with TESS_ERR_ABORTED. May be called from any thread.
 * The other ranks are told and end with TESS_ERR_PEER_LOST. */
TESS_API void tess_comm_abort(tess_comm_t *comm);

/* Transports that this build and machine offer, for reports. Returns how many there are in all;
 * fills at most capacity. `reason` says what is missing where usable is 0. Static storage. */
typedef struct tess_transport_info {
    const char *name;
    const char *version; /* of the library behind it, "" where there is none */
    int usable;
    const char *reason;
} tess_transport_info_t;
TESS_API int tess_transport_list(tess_transport_info_t *list, int capacity);

#ifdef __cplusplus
}
#endif
#endif
