/* SPDX-License-Identifier: Apache-2.0 */
/* All-gathers buckets into a ring of buffers, ahead of their use.
 *
 * Invariant: a gather starts only after every stream that used its buffer has marked its last use,
 * and a consumer starts only after `finished` of its buffer. Which buffer is taken depends on the
 * calls made so far and on nothing else, so that all ranks gather the same buckets in one order.
 */
#include <string.h>
#include <tessera/gatherer.h>

#include "bucket_internal.h"
#include "core/internal.h"

/* What the gatherer knows of a buffer beyond the ring. */
typedef struct gather_slot {
    int wanted;    /* prefetched, and not acquired since */
    int64_t stamp; /* when it was last prefetched or released: larger is later */
} gather_slot_t;

struct tess_gatherer {
    tessi_ring_t ring;
    gather_slot_t *slots; /* (ring.buffer_count) */
    const char *shard;    /* (shard_count), or NULL */
    tess_event_t *ready;  /* what the next gather's slice waits for; recorded anew each time */
    int64_t clock;
};

static tess_status_t prepare(const tess_gatherer_config_t *config, tess_gatherer_t *gatherer)
{
    tess_status_t status = tessi_ring_prepare(&gatherer->ring, config->comm, config->plan,
                                              "gatherer", config->buffer_count);
    if (status) return status;
    gatherer->shard = config->shard;
    gatherer->slots = tessi_calloc((size_t)gatherer->ring.buffer_count, sizeof(gather_slot_t));
    if (!gatherer->slots) return TESS_ERR_OUT_OF_MEMORY;
    return tess_event_create(tess_comm_device(config->comm), TESS_EVENT_ORDER, &gatherer->ready);
}

tess_status_t tess_gatherer_create(const tess_gatherer_config_t *config, tess_gatherer_t **gatherer)
{
    if (!config || !gatherer || !config->comm || !config->plan)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_gatherer_create: %s is NULL",
                          !config         ? "config"
                          : !gatherer     ? "gatherer"
                          : !config->comm ? "config.comm"
                                          : "config.plan");
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "gather_create", -1, -1);
    tess_status_t status = TESS_ERR_OUT_OF_MEMORY;
    tess_gatherer_t *made = tessi_calloc(1, sizeof *made);
    if (made) status = prepare(config, made);
    tessi_agreement_t mine = {.what = "gatherer",
                              .local_status = status,
                              .setting_count = 1,
                              .settings = {{"buffer_count", made ? made->ring.buffer_count : 0}}};
    TESS_TRY(tessi_bucket_agree(config->plan, config->comm, &mine), err_destroy);
    TESS_TRY(tessi_ring_allocate(&made->ring), err_destroy);
    *gatherer = made;
    return TESS_OK;

err_destroy:
    tess_gatherer_destroy(made);
    return status;
}

void tess_gatherer_destroy(tess_gatherer_t *gatherer)
{
    if (!gatherer) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "gather_destroy", -1, -1);
    tessi_ring_close(&gatherer->ring);
    tess_event_destroy(gatherer->ready);
    tessi_free(gatherer->slots);
    tessi_free(gatherer);
}

static gather_slot_t *slot_of(const tess_gatherer_t *gatherer, const tessi_ring_buffer_t *buffer)
{
    return &gatherer->slots[buffer - gatherer->ring.buffers];
}

/* A buffer that a new bucket may take: an empty one, else the one released longest ago, else (for
 * an acquire, which cannot do without) the one prefetched last, as its turn comes last. */
static tessi_ring_buffer_t *pick_buffer(const tess_gatherer_t *gatherer, int take_wanted)
{
    tessi_ring_buffer_t *released = NULL, *wanted = NULL;
    for (int b = 0; b < gatherer->ring.buffer_count; b++) {
        tessi_ring_buffer_t *buffer = &gatherer->ring.buffers[b];
        const gather_slot_t *slot = &gatherer->slots[b];
        if (buffer->bucket < 0) return buffer;
        if (buffer->holder_count > 0) continue;
        if (slot->wanted) {
            if (!wanted || slot->stamp > slot_of(gatherer, wanted)->stamp) wanted = buffer;
        } else if (!released || slot->stamp < slot_of(gatherer, released)->stamp) {
            released = buffer;
        }
    }
    return released || !take_wanted ? released : wanted;
}

/* Queues the gather of `bucket` into `buffer`. */
static tess_status_t gather(tess_gatherer_t *gatherer, tessi_ring_buffer_t *buffer, int64_t bucket,
                            const void *slice, tess_stream_t *after)
{
    tessi_ring_t *ring = &gatherer->ring;
    tess_bucket_t layout = tess_bucket_plan_bucket(ring->plan, bucket);
    if (!slice && gatherer->shard)
        slice = gatherer->shard + layout.slice_offset * ring->element_bytes;
    if (!slice && layout.slice_count > 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "gatherer: nothing to gather bucket %lld from: no slice was given, and "
                          "the gatherer was created without a shard",
                          (long long)bucket);
    tess_status_t status;
    if (after) {
        TESS_TRY(tess_event_record(gatherer->ready, after), err);
        TESS_TRY(tess_stream_wait_event(ring->stream, gatherer->ready), err);
    }
    TESS_TRY(tessi_marks_wait(&buffer->consumers, ring->stream), err);
    tessi_ring_assign(ring, buffer, -1);
    slot_of(gatherer, buffer)->wanted = 0;
    if (layout.slice_count > 0) {
        tess_collective_t arguments = {.send = slice,
                                       .recv = buffer->memory,
                                       .count = layout.slice_count,
                                       .dtype = tess_bucket_plan_dtype(ring->plan)};
        TESS_TRY(tess_comm_all_gather(ring->comm, &arguments, ring->stream), err);
    }
    TESS_TRY(tess_event_record(buffer->finished, ring->stream), err);
    buffer->consumers.count = 0;
    tessi_ring_assign(ring, buffer, bucket);
    return TESS_OK;

err:
    return status;
}

tess_status_t tess_gatherer_prefetch(tess_gatherer_t *gatherer, int64_t bucket, const void *slice,
                                     tess_stream_t *after)
{
    if (!gatherer)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_gatherer_prefetch: gatherer is NULL");
    tess_status_t status =
        tessi_ring_check(&gatherer->ring, bucket, gatherer->ring.stream, "tess_gatherer_prefetch");
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "gather_prefetch",
                      tessi_ring_bucket_bytes(&gatherer->ring, bucket), bucket);
    tessi_ring_buffer_t *buffer = tessi_ring_find(&gatherer->ring, bucket);
    if (!buffer) {
        buffer = pick_buffer(gatherer, 0);
        if (!buffer) return TESS_NOT_READY;
        status = gather(gatherer, buffer, bucket, slice, after);
        if (status) return status;
    }
    gather_slot_t *slot = slot_of(gatherer, buffer);
    if (!slot->wanted) slot->stamp = ++gatherer->clock;
    slot->wanted = 1;
    return TESS_OK;
}

tess_status_t tess_gatherer_acquire(tess_gatherer_t *gatherer, int64_t bucket,
                                    tess_stream_t *stream, void **buffer)
{
    if (!gatherer || !buffer)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_gatherer_acquire: %s is NULL",
                          gatherer ? "buffer" : "gatherer");
    tessi_ring_t *ring = &gatherer->ring;
    tess_status_t status = tessi_ring_check(ring, bucket, stream, "tess_gatherer_acquire");
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "gather_acquire", tessi_ring_bucket_bytes(ring, bucket),
                      bucket);
    tessi_ring_buffer_t *found = tessi_ring_find(ring, bucket);
    if (!found) {
        found = pick_buffer(gatherer, 1);
        if (!found) {
            char held[96];
            return tessi_fail(TESS_ERR_STATE,
                              "gatherer: cannot acquire bucket %lld: all %d buffers are held (by "
                              "buckets %s); release one or raise buffer_count",
                              (long long)bucket, ring->buffer_count,
                              tessi_ring_text(ring, held, sizeof held));
        }
        /* After `stream`, which waits for the result at once anyway: a shard written on it is then
         * complete. */
        status = gather(gatherer, found, bucket, NULL, stream);
        if (status) return status;
    }
    status = tess_stream_wait_event(stream, found->finished);
    if (status) return status;
    slot_of(gatherer, found)->wanted = 0; /* its turn has come */
    found->holder_count++;
    *buffer = found->memory;
    return TESS_OK;
}

tess_status_t tess_gatherer_release(tess_gatherer_t *gatherer, int64_t bucket,
                                    tess_stream_t *stream)
{
    if (!gatherer)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_gatherer_release: gatherer is NULL");
    tessi_ring_t *ring = &gatherer->ring;
    tess_status_t status = tessi_ring_check(ring, bucket, stream, "tess_gatherer_release");
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "gather_release", tessi_ring_bucket_bytes(ring, bucket),
                      bucket);
    tessi_ring_buffer_t *buffer = tessi_ring_find(ring, bucket);
    if (!buffer || buffer->holder_count == 0)
        return tessi_fail(TESS_ERR_STATE, "gatherer: bucket %lld was released but is not held",
                          (long long)bucket);
    status = tessi_marks_record(&buffer->consumers, stream, ring->what, bucket);
    if (status) return status;
    if (--buffer->holder_count == 0) slot_of(gatherer, buffer)->stamp = ++gatherer->clock;
    return TESS_OK;
}

tess_status_t tess_gatherer_invalidate(tess_gatherer_t *gatherer)
{
    if (!gatherer)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_gatherer_invalidate: gatherer is NULL");
    tessi_ring_t *ring = &gatherer->ring;
    tess_status_t status = tess_comm_status(ring->comm);
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "gather_invalidate", -1, -1);
    for (int b = 0; b < ring->buffer_count; b++) {
        if (ring->buffers[b].holder_count > 0)
            return tessi_fail(TESS_ERR_STATE, "gatherer: cannot invalidate: bucket %lld is held",
                              (long long)ring->buffers[b].bucket);
    }
    /* The marks stay: the next gather into a buffer still waits for those who used it. */
    for (int b = 0; b < ring->buffer_count; b++) {
        tessi_ring_assign(ring, &ring->buffers[b], -1);
        gatherer->slots[b].wanted = 0;
    }
    return TESS_OK;
}

int64_t tess_gatherer_bytes(const tess_gatherer_t *gatherer)
{
    return gatherer->ring.stride_bytes * gatherer->ring.buffer_count;
}

tess_stream_t *tess_gatherer_stream(const tess_gatherer_t *gatherer)
{
    return gatherer->ring.stream;
}
