/* SPDX-License-Identifier: Apache-2.0 */
/* The gatherer: all-gathers buckets ahead of their use, through a small ring of buffers.
 *
 * Each ring buffer carries a "filled" event, recorded by the gather, and a "free" event for every
 * stream that used it; the next gather into the buffer waits for all of them. The gathers run on
 * the gatherer's own high-priority stream.
 *
 * Threads: one gatherer by one thread at a time; every rank makes the same prefetch, acquire and
 * release calls in the same order. Lifetime: destroy before the plan and the communicator.
 */
#ifndef TESSERA_GATHERER_H
#define TESSERA_GATHERER_H

#include <stdint.h>
#include <tessera/bucket.h>
#include <tessera/comm.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tess_gatherer tess_gatherer_t;

typedef struct tess_gatherer_config {
    tess_comm_t *comm;              /* its size is the plan's world_size */
    const tess_bucket_plan_t *plan; /* kept, not copied */
    const void *shard;              /* (shard_count) this rank's slices, bucket after bucket; may be
                                       NULL when every prefetch names its slice */
    int buffer_count;               /* ring depth, >= 1: buffers in flight or in use; 0: 2 */
} tess_gatherer_config_t;

/* Collective; verifies the plan across ranks and takes buffer_count * largest_count elements from
 * tess_comm_allocate. Nothing is allocated afterwards. */
TESS_API TESS_MUST_CHECK tess_status_t tess_gatherer_create(const tess_gatherer_config_t *config,
                                                            tess_gatherer_t **gatherer);

/* Waits for gathers in flight (deadline of the communicator), then frees. NULL is legal. */
TESS_API void tess_gatherer_destroy(tess_gatherer_t *gatherer);

/* Starts gathering `bucket` after what is queued on `after` so far (NULL: at once), from this
 * rank's `slice` (slice_count elements; NULL: from config.shard), which must stay unchanged until
 * the gather is done. TESS_OK also when the bucket is already there or on its way; TESS_NOT_READY
 * when every buffer is held, or prefetched and not acquired since. */
TESS_API TESS_MUST_CHECK tess_status_t tess_gatherer_prefetch(tess_gatherer_t *gatherer,
                                                              int64_t bucket, const void *slice,
                                                              tess_stream_t *after);

/* Makes `stream` wait for the bucket and gives its buffer (padded_count elements), starting the
 * gather from config.shard, after what is queued on `stream`, when it was not prefetched. Read-only
 * for the caller. Several streams may hold one bucket (8 different ones while it stays in its
 * buffer); each acquire is paired with a release. TESS_ERR_STATE when every buffer is held. */
TESS_API TESS_MUST_CHECK tess_status_t tess_gatherer_acquire(tess_gatherer_t *gatherer,
                                                             int64_t bucket, tess_stream_t *stream,
                                                             void **buffer);

/* The work queued on `stream` so far is the last to use the bucket on this acquire. A bucket stays
 * in its buffer until the buffer is needed, so acquiring it again soon costs nothing. */
TESS_API TESS_MUST_CHECK tess_status_t tess_gatherer_release(tess_gatherer_t *gatherer,
                                                             int64_t bucket, tess_stream_t *stream);

/* Forgets gathered contents, after the shards were changed. TESS_ERR_STATE when a bucket is held.
 */
TESS_API TESS_MUST_CHECK tess_status_t tess_gatherer_invalidate(tess_gatherer_t *gatherer);

/* Bytes of the ring. */
TESS_API int64_t tess_gatherer_bytes(const tess_gatherer_t *gatherer);

/* The stream on which gathers run, for timing. Owned by the gatherer. */
TESS_API tess_stream_t *tess_gatherer_stream(const tess_gatherer_t *gatherer);

#ifdef __cplusplus
}
#endif
#endif
