/* SPDX-License-Identifier: Apache-2.0 */
/* Lays tensors into buckets, once, from sizes alone.
 *
 * Invariant: the plan is a pure function of its config. Every tensor lies in exactly one bucket, in
 * the order given; a bucket holds at most capacity_count elements unless it holds one larger
 * tensor; capacity_count and every padded_count are multiples of world_size aligned slices.
 */
#include <assert.h>
#include <string.h>
#include <tessera/bucket.h>

#include "bucket_internal.h"
#include "core/internal.h"

/* Changes whenever the same config would give another layout. */
#define PLAN_LAYOUT_VERSION 1

#define PLAN_ALIGNMENT_DEFAULT_BYTES 16

/* The sum of all padded buckets, in bytes. Below it no product or sum in a caller overflows. */
#define PLAN_TOTAL_MAX_BYTES ((int64_t)1 << 62)

struct tess_bucket_plan {
    tess_dtype_t dtype;
    int world_size;
    int64_t tensor_count;
    int64_t bucket_count;
    int64_t shard_count;    /* sum of slice_count */
    int64_t largest_count;  /* largest padded_count */
    int64_t capacity_count; /* elements of a bucket that is full */
    int64_t slice_unit;     /* elements: a slice is a multiple of it */
    int64_t tensor_unit;    /* elements: a tensor starts at a multiple of it */
    uint64_t hash;
    tess_bucket_view_t *views; /* (tensor_count) */
    tess_bucket_t *buckets;    /* (tensor_count), of which bucket_count are used */
};

static uint64_t hash_number(uint64_t hash, uint64_t number)
{
    /* The low byte first on every machine. */
    unsigned char bytes[8];
    for (int byte = 0; byte < 8; byte++) bytes[byte] = (unsigned char)(number >> (8 * byte));
    return tessi_hash(hash, bytes, sizeof bytes);
}

static uint64_t hash_plan(const tess_bucket_plan_t *plan)
{
    uint64_t hash = TESSI_HASH_START;
    hash = hash_number(hash, PLAN_LAYOUT_VERSION);
    hash = hash_number(hash, (uint64_t)plan->dtype);
    hash = hash_number(hash, (uint64_t)plan->world_size);
    hash = hash_number(hash, (uint64_t)plan->capacity_count);
    hash = hash_number(hash, (uint64_t)plan->slice_unit);
    hash = hash_number(hash, (uint64_t)plan->tensor_unit);
    hash = hash_number(hash, (uint64_t)plan->tensor_count);
    for (int64_t t = 0; t < plan->tensor_count; t++)
        hash = hash_number(hash, (uint64_t)plan->views[t].count);
    return hash;
}

/* Elements of an alignment given in bytes. */
static tess_status_t read_alignment(const char *field, int64_t alignment_bytes, tess_dtype_t dtype,
                                    int64_t *unit)
{
    int64_t element_bytes = tess_dtype_bytes(dtype);
    int64_t bytes = alignment_bytes ? alignment_bytes : PLAN_ALIGNMENT_DEFAULT_BYTES;
    if (bytes < element_bytes || (bytes & (bytes - 1)) != 0)
        return tessi_fail(
            TESS_ERR_INVALID_ARGUMENT,
            "bucket plan: %s is %lld; it must be a power of two of at least %lld, the "
            "bytes of one %s",
            field, (long long)alignment_bytes, (long long)element_bytes, tess_dtype_name(dtype));
    *unit = bytes / element_bytes;
    return TESS_OK;
}

/* Checks all of the config but the tensors, and fills what they do not decide. */
static tess_status_t read_config(const tess_bucket_plan_config_t *config, tess_bucket_plan_t *plan)
{
    int64_t element_bytes = tess_dtype_bytes(config->dtype);
    if (element_bytes == 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "bucket plan: %d is no dtype",
                          (int)config->dtype);
    if (config->world_size < 1)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "bucket plan: world_size is %d; it must be at least 1",
                          config->world_size);
    if (config->tensor_count < 0 || (config->tensor_count > 0 && !config->tensor_counts))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "bucket plan: tensor_count is %lld%s",
                          (long long)config->tensor_count,
                          config->tensor_count < 0 ? "" : " but tensor_counts is NULL");
    plan->dtype = config->dtype;
    plan->world_size = config->world_size;
    plan->tensor_count = config->tensor_count;
    tess_status_t status;
    status = read_alignment("tensor_alignment_bytes", config->tensor_alignment_bytes, config->dtype,
                            &plan->tensor_unit);
    if (status) return status;
    status = read_alignment("slice_alignment_bytes", config->slice_alignment_bytes, config->dtype,
                            &plan->slice_unit);
    if (status) return status;

    int64_t unit_bytes; /* one aligned slice a rank */
    if (__builtin_mul_overflow(plan->slice_unit * element_bytes, (int64_t)plan->world_size,
                               &unit_bytes) ||
        unit_bytes > PLAN_TOTAL_MAX_BYTES)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "bucket plan: slice_alignment_bytes %lld for %d ranks is over 2^62 bytes",
                          (long long)config->slice_alignment_bytes, config->world_size);
    if (config->bucket_bytes < unit_bytes)
        return tessi_fail(
            TESS_ERR_INVALID_ARGUMENT,
            "bucket plan: bucket_bytes is %lld; with %d ranks and slices of %lld bytes "
            "it must be at least %lld",
            (long long)config->bucket_bytes, config->world_size,
            (long long)(plan->slice_unit * element_bytes), (long long)unit_bytes);
    plan->capacity_count = config->bucket_bytes / unit_bytes * unit_bytes / element_bytes;
    return TESS_OK;
}

/* Ends the bucket that is open: pads it, and gives each rank its slice. */
static tess_status_t close_bucket(tess_bucket_plan_t *plan, tess_bucket_t *bucket)
{
    int64_t unit = plan->slice_unit * plan->world_size;
    int64_t rounded, total_count, total_bytes;
    if (__builtin_add_overflow(bucket->used_count, unit - 1, &rounded)) rounded = INT64_MAX;
    bucket->padded_count = rounded / unit * unit;
    bucket->slice_count = bucket->padded_count / plan->world_size;
    bucket->slice_offset = plan->shard_count;
    if (__builtin_add_overflow(plan->shard_count, bucket->slice_count, &plan->shard_count) ||
        __builtin_mul_overflow(plan->shard_count, (int64_t)plan->world_size, &total_count) ||
        __builtin_mul_overflow(total_count, tess_dtype_bytes(plan->dtype), &total_bytes) ||
        total_bytes > PLAN_TOTAL_MAX_BYTES)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "bucket plan: tensors 0 to %lld take over 2^62 bytes in all",
                          (long long)(bucket->first_tensor + bucket->tensor_count - 1));
    if (bucket->padded_count > plan->largest_count) plan->largest_count = bucket->padded_count;
    return TESS_OK;
}

/* Where a tensor of `count` elements starts in a bucket that is used so far, and where it ends. An
 * empty tensor takes no space: its offset is aligned and inside the bucket all the same. */
static int place(int64_t used_count, int64_t count, int64_t unit, int64_t *offset, int64_t *end)
{
    if (count == 0) {
        *offset = used_count / unit * unit;
        *end = used_count;
        return 1;
    }
    if (__builtin_add_overflow(used_count, unit - 1, offset)) return 0;
    *offset = *offset / unit * unit;
    return !__builtin_add_overflow(*offset, count, end);
}

static tess_status_t lay_tensors(const int64_t *tensor_counts, tess_bucket_plan_t *plan)
{
    tess_bucket_t *bucket = NULL; /* the open one */
    for (int64_t t = 0; t < plan->tensor_count; t++) {
        int64_t count = tensor_counts[t], offset = 0, end = 0;
        if (count < 0)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "bucket plan: tensor %lld has %lld elements", (long long)t,
                              (long long)count);
        if (count > PLAN_TOTAL_MAX_BYTES / tess_dtype_bytes(plan->dtype))
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "bucket plan: tensor %lld has %lld elements, over 2^62 bytes",
                              (long long)t, (long long)count);
        int fits = bucket && place(bucket->used_count, count, plan->tensor_unit, &offset, &end) &&
                   (end <= plan->capacity_count || bucket->used_count == 0 || count == 0);
        if (!fits) {
            if (bucket) {
                tess_status_t status = close_bucket(plan, bucket);
                if (status) return status;
            }
            bucket = &plan->buckets[plan->bucket_count++];
            bucket->first_tensor = t;
            offset = 0;
            end = count;
        }
        bucket->tensor_count++;
        bucket->used_count = end;
        plan->views[t] = (tess_bucket_view_t){plan->bucket_count - 1, offset, count};
    }
    return bucket ? close_bucket(plan, bucket) : TESS_OK;
}

tess_status_t tess_bucket_plan_create(const tess_bucket_plan_config_t *config,
                                      tess_bucket_plan_t **plan)
{
    if (!config || !plan)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_bucket_plan_create: %s is NULL",
                          config ? "plan" : "config");
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "plan_create", -1, -1);
    tess_status_t status;
    tess_bucket_plan_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    TESS_TRY(read_config(config, made), err_destroy);
    size_t room = made->tensor_count > 0 ? (size_t)made->tensor_count : 1;
    made->views = tessi_calloc(room, sizeof *made->views);
    made->buckets = made->views ? tessi_calloc(room, sizeof *made->buckets) : NULL;
    TESS_TRY(made->buckets ? TESS_OK : TESS_ERR_OUT_OF_MEMORY, err_destroy);
    TESS_TRY(lay_tensors(config->tensor_counts, made), err_destroy);
    made->hash = hash_plan(made);
    *plan = made;
    return TESS_OK;

err_destroy:
    tess_bucket_plan_destroy(made);
    return status;
}

void tess_bucket_plan_destroy(tess_bucket_plan_t *plan)
{
    if (!plan) return;
    tessi_free(plan->buckets);
    tessi_free(plan->views);
    tessi_free(plan);
}

int64_t tess_bucket_plan_bucket_count(const tess_bucket_plan_t *plan)
{
    return plan->bucket_count;
}

int64_t tess_bucket_plan_tensor_count(const tess_bucket_plan_t *plan)
{
    return plan->tensor_count;
}

tess_dtype_t tess_bucket_plan_dtype(const tess_bucket_plan_t *plan)
{
    return plan->dtype;
}

int tess_bucket_plan_world_size(const tess_bucket_plan_t *plan)
{
    return plan->world_size;
}

tess_bucket_t tess_bucket_plan_bucket(const tess_bucket_plan_t *plan, int64_t bucket)
{
    assert(bucket >= 0 && bucket < plan->bucket_count);
    return plan->buckets[bucket];
}

tess_bucket_view_t tess_bucket_plan_tensor(const tess_bucket_plan_t *plan, int64_t tensor)
{
    assert(tensor >= 0 && tensor < plan->tensor_count);
    return plan->views[tensor];
}

int64_t tess_bucket_plan_shard_count(const tess_bucket_plan_t *plan)
{
    return plan->shard_count;
}

int64_t tess_bucket_plan_largest_count(const tess_bucket_plan_t *plan)
{
    return plan->largest_count;
}

uint64_t tess_bucket_plan_hash(const tess_bucket_plan_t *plan)
{
    return plan->hash;
}

tess_status_t tess_bucket_plan_verify(const tess_bucket_plan_t *plan, tess_comm_t *comm)
{
    if (!plan || !comm)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_bucket_plan_verify: %s is NULL",
                          plan ? "comm" : "plan");
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "plan_verify", -1, -1);
    tessi_agreement_t mine = {.what = "bucket plan"};
    return tessi_bucket_agree(plan, comm, &mine);
}
