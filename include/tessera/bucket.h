/* SPDX-License-Identifier: Apache-2.0 */
/* Bucket plans: which tensor lies where in which flat bucket.
 *
 * Tensors are laid in the order given (execution order) into buckets of at most bucket_bytes. A
 * bucket is padded so that each rank's slice is a multiple of slice_alignment_bytes; rank r owns
 * elements [r * slice_count, (r + 1) * slice_count). Tensors are views of the bucket, so that
 * gathering and scattering copy nothing in or out, and the optimizer sees one contiguous slice.
 * A plan is a pure function of its config; its hash is compared across ranks before first use.
 *
 *   bucket 0                                      bucket 1
 *   | tensor 0 | t1 | tensor 2      |pad|         | tensor 3                   |pad|
 *   |  slice of rank 0 | slice of rank 1 |        | slice of rank 0 | slice of rank 1 |
 *
 * Threads: a plan is constant after creation and may be read from any thread.
 */
#ifndef TESSERA_BUCKET_H
#define TESSERA_BUCKET_H

#include <stdint.h>
#include <tessera/comm.h>
#include <tessera/dtype.h>
#include <tessera/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tess_bucket_plan tess_bucket_plan_t;

typedef struct tess_bucket_plan_config {
    const int64_t *tensor_counts;   /* elements of each tensor, >= 0. Copied */
    int64_t tensor_count;           /* how many tensors, >= 0 */
    int64_t bucket_bytes;           /* hard cap of a padded bucket, except for a larger tensor */
    tess_dtype_t dtype;             /* of all tensors */
    int world_size;                 /* ranks that share a bucket, >= 1 */
    int64_t tensor_alignment_bytes; /* start of each tensor within its bucket; 0: 16 */
    int64_t slice_alignment_bytes;  /* bytes of each rank's slice are a multiple; 0: 16 */
} tess_bucket_plan_config_t;

/* A bucket. Counts and offsets are elements. */
typedef struct tess_bucket {
    int64_t first_tensor; /* tensors first_tensor .. first_tensor + tensor_count - 1 lie here */
    int64_t tensor_count;
    int64_t used_count;   /* up to the end of the last tensor, alignment gaps included */
    int64_t padded_count; /* world_size * slice_count */
    int64_t slice_count;  /* what one rank owns */
    int64_t slice_offset; /* where this slice starts in a rank's flat shard of all buckets */
} tess_bucket_t;

typedef struct tess_bucket_view {
    int64_t bucket; /* which bucket */
    int64_t offset; /* elements from its start, aligned; inside the bucket also where count is 0 */
    int64_t count;  /* elements */
} tess_bucket_view_t;

/* A tensor larger than bucket_bytes gets a bucket of its own. A bucket never holds part of a
 * tensor. TESS_ERR_INVALID_ARGUMENT for negative counts, a cap smaller than one aligned slice a
 * rank, alignments that are no power of two or smaller than an element, and totals over 2^62. */
TESS_API TESS_MUST_CHECK tess_status_t
tess_bucket_plan_create(const tess_bucket_plan_config_t *config, tess_bucket_plan_t **plan);
TESS_API void tess_bucket_plan_destroy(tess_bucket_plan_t *plan);

TESS_API int64_t tess_bucket_plan_bucket_count(const tess_bucket_plan_t *plan);
TESS_API int64_t tess_bucket_plan_tensor_count(const tess_bucket_plan_t *plan);
TESS_API tess_dtype_t tess_bucket_plan_dtype(const tess_bucket_plan_t *plan);
TESS_API int tess_bucket_plan_world_size(const tess_bucket_plan_t *plan);

/* The index must be in range (asserted). */
TESS_API tess_bucket_t tess_bucket_plan_bucket(const tess_bucket_plan_t *plan, int64_t bucket);
TESS_API tess_bucket_view_t tess_bucket_plan_tensor(const tess_bucket_plan_t *plan, int64_t tensor);

/* Elements of one rank's flat shard: the sum of slice_count over all buckets. */
TESS_API int64_t tess_bucket_plan_shard_count(const tess_bucket_plan_t *plan);

/* Elements of the largest padded bucket: what one ring buffer must hold. */
TESS_API int64_t tess_bucket_plan_largest_count(const tess_bucket_plan_t *plan);

/* 64-bit hash (FNV-1a) of everything that decides the layout. */
TESS_API uint64_t tess_bucket_plan_hash(const tess_bucket_plan_t *plan);

/* Compares the hash over the communicator. Collective; blocks. TESS_ERR_MISMATCH names the ranks
 * that differ from the majority and what they have. */
TESS_API TESS_MUST_CHECK tess_status_t tess_bucket_plan_verify(const tess_bucket_plan_t *plan,
                                                               tess_comm_t *comm);

#ifdef __cplusplus
}
#endif
#endif
