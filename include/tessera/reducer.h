/* SPDX-License-Identifier: Apache-2.0 */
/* The reducer: reduce-scatters gradient buckets while the rest of backward still runs.
 *
 * A bucket's gradients are written into a ring buffer (acquire, ready), the reduce-scatter starts
 * as soon as the last tensor of the bucket is ready, and this rank's finished slice is handed on
 * (wait, release). Reduce-scatters start in the configured order on every rank, whatever the order
 * in which tensors become ready. Every producer and consumer stream is ordered by its own event.
 *
 * Threads: one reducer by one thread at a time. Lifetime: destroy before plan and communicator.
 */
#ifndef TESSERA_REDUCER_H
#define TESSERA_REDUCER_H

#include <stdint.h>
#include <tessera/bucket.h>
#include <tessera/comm.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tess_reducer tess_reducer_t;

typedef enum tess_reducer_order {
    TESS_REDUCER_REVERSED = 0, /* last bucket first, as backward finishes them */
    TESS_REDUCER_FORWARD = 1
} tess_reducer_order_t;

typedef struct tess_reducer_config {
    tess_comm_t *comm;              /* its size is the plan's world_size */
    const tess_bucket_plan_t *plan; /* kept, not copied */
    tess_reduction_t reduction;
    tess_reducer_order_t order;
    int buffer_count; /* ring depth, >= 1; 0: 2. bucket_count keeps every gradient resident */
} tess_reducer_config_t;

/* Collective; verifies the plan across ranks and takes buffer_count * largest_count elements from
 * tess_comm_allocate. Nothing is allocated afterwards. */
TESS_API TESS_MUST_CHECK tess_status_t tess_reducer_create(const tess_reducer_config_t *config,
                                                           tess_reducer_t **reducer);

/* Waits for reduce-scatters in flight (deadline of the communicator), then frees. NULL is legal. */
TESS_API void tess_reducer_destroy(tess_reducer_t *reducer);

/* Gives the buffer (padded_count elements) into which work on `stream` writes the gradients of
 * `bucket`, once it is free; alignment gaps and padding are zeroed. Calling it again for a bucket
 * that is being filled gives the same buffer to another producer stream (8 at most). TESS_ERR_STATE
 * when every buffer holds a bucket that was not released, or the bucket was already reduced this
 * round. */
TESS_API TESS_MUST_CHECK tess_status_t tess_reducer_acquire(tess_reducer_t *reducer, int64_t bucket,
                                                            tess_stream_t *stream, void **buffer);

/* The gradient of `tensor` is complete once the work queued on `stream` so far is done. Empty
 * tensors count as ready from the start. The last tensor of a bucket starts its reduce-scatter, in
 * the configured order. TESS_ERR_STATE when called twice in a round or before acquire. */
TESS_API TESS_MUST_CHECK tess_status_t tess_reducer_ready(tess_reducer_t *reducer, int64_t tensor,
                                                          tess_stream_t *stream);

/* Makes `stream` wait for the reduced slice and gives it (slice_count elements, in place in the
 * ring buffer). Several streams may wait for one slice (8 at most); each wait is paired with a
 * release. TESS_NOT_READY when its reduce-scatter has not been started yet. */
TESS_API TESS_MUST_CHECK tess_status_t tess_reducer_wait(tess_reducer_t *reducer, int64_t bucket,
                                                         tess_stream_t *stream, void **slice);

/* The work queued on `stream` so far is the last to use the slice on this wait; after the last
 * release the buffer can be filled again. */
TESS_API TESS_MUST_CHECK tess_status_t tess_reducer_release(tess_reducer_t *reducer, int64_t bucket,
                                                            tess_stream_t *stream);

/* Ends a round: TESS_ERR_STATE names the first tensor that was not ready or bucket not released. */
TESS_API TESS_MUST_CHECK tess_status_t tess_reducer_finish(tess_reducer_t *reducer);

/* Bytes of the ring. */
TESS_API int64_t tess_reducer_bytes(const tess_reducer_t *reducer);

/* The stream on which reduce-scatters run, for timing. Owned by the reducer. */
TESS_API tess_stream_t *tess_reducer_stream(const tess_reducer_t *reducer);

#ifdef __cplusplus
}
#endif
#endif
