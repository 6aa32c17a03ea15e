/* SPDX-License-Identifier: Apache-2.0 */
/* Reduce-scatters gradient buckets from a ring of buffers while backward still runs.
 *
 * Invariant: buckets are launched in the configured order, each after the last mark of every stream
 * that produced into it; a buffer is filled anew only after its reduce-scatter and after every
 * stream that used its slice. Every byte that is summed was written by a producer or zeroed here.
 */
#include <string.h>
#include <tessera/reducer.h>

#include "bucket_internal.h"
#include "core/internal.h"

typedef enum bucket_phase {
    PHASE_IDLE = 0,     /* not acquired this round */
    PHASE_FILLING = 1,  /* in a buffer; some tensors, or earlier buckets, are not ready */
    PHASE_LAUNCHED = 2, /* its reduce-scatter is queued or done */
    PHASE_RELEASED = 3  /* over for this round */
} bucket_phase_t;

typedef struct reduce_bucket {
    bucket_phase_t phase;
    int64_t waiting_count; /* tensors with elements that are not ready */
} reduce_bucket_t;

struct tess_reducer {
    tessi_ring_t ring;
    reduce_bucket_t *buckets; /* (bucket_count) */
    unsigned char *ready;     /* (tensor_count) marked ready this round */
    tess_reduction_t reduction;
    tess_reducer_order_t order;
    int64_t position;       /* in launch order, of the next bucket to launch */
    int64_t released_count; /* buckets that are over for this round */
    int64_t first_buffer;   /* preferred by position 0, so that rounds go on around the ring */
};

/* --- creation -------------------------------------------------------------------------------- */

static void start_round(tess_reducer_t *reducer)
{
    const tess_bucket_plan_t *plan = reducer->ring.plan;
    int64_t tensor_count = tess_bucket_plan_tensor_count(plan);
    memset(reducer->ready, 0, (size_t)tensor_count);
    memset(reducer->buckets, 0,
           (size_t)tess_bucket_plan_bucket_count(plan) * sizeof *reducer->buckets);
    for (int64_t t = 0; t < tensor_count; t++) {
        tess_bucket_view_t view = tess_bucket_plan_tensor(plan, t);
        if (view.count > 0) reducer->buckets[view.bucket].waiting_count++;
    }
    reducer->position = 0;
    reducer->released_count = 0;
}

static tess_status_t check_config(const tess_reducer_config_t *config)
{
    if (tess_bucket_plan_dtype(config->plan) == TESS_DTYPE_BYTE)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "reducer: the plan's dtype is byte, which cannot be summed");
    if (config->reduction != TESS_SUM && config->reduction != TESS_AVERAGE)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "reducer: %d is no reduction",
                          (int)config->reduction);
    if (config->order != TESS_REDUCER_REVERSED && config->order != TESS_REDUCER_FORWARD)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "reducer: %d is no order", (int)config->order);
    return TESS_OK;
}

static tess_status_t prepare(const tess_reducer_config_t *config, tess_reducer_t *reducer)
{
    tess_status_t status = check_config(config);
    if (status) return status;
    status = tessi_ring_prepare(&reducer->ring, config->comm, config->plan, "reducer",
                                config->buffer_count);
    if (status) return status;
    reducer->reduction = config->reduction;
    reducer->order = config->order;
    size_t bucket_count = (size_t)tess_bucket_plan_bucket_count(config->plan);
    size_t tensor_count = (size_t)tess_bucket_plan_tensor_count(config->plan);
    reducer->buckets = tessi_calloc(bucket_count ? bucket_count : 1, sizeof *reducer->buckets);
    if (!reducer->buckets) return TESS_ERR_OUT_OF_MEMORY;
    reducer->ready = tessi_calloc(tensor_count ? tensor_count : 1, 1);
    if (!reducer->ready) return TESS_ERR_OUT_OF_MEMORY;
    for (int b = 0; b < reducer->ring.buffer_count; b++) {
        status =
            tessi_marks_create(tess_comm_device(config->comm), &reducer->ring.buffers[b].producers);
        if (status) return status;
    }
    start_round(reducer);
    return TESS_OK;
}

tess_status_t tess_reducer_create(const tess_reducer_config_t *config, tess_reducer_t **reducer)
{
    if (!config || !reducer || !config->comm || !config->plan)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_reducer_create: %s is NULL",
                          !config         ? "config"
                          : !reducer      ? "reducer"
                          : !config->comm ? "config.comm"
                                          : "config.plan");
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "reduce_create", -1, -1);
    tess_status_t status = TESS_ERR_OUT_OF_MEMORY;
    tess_reducer_t *made = tessi_calloc(1, sizeof *made);
    if (made) status = prepare(config, made);
    tessi_agreement_t mine = {.what = "reducer",
                              .local_status = status,
                              .setting_count = 3,
                              .settings = {{"buffer_count", made ? made->ring.buffer_count : 0},
                                           {"reduction", (int64_t)config->reduction},
                                           {"order", (int64_t)config->order}}};
    TESS_TRY(tessi_bucket_agree(config->plan, config->comm, &mine), err_destroy);
    TESS_TRY(tessi_ring_allocate(&made->ring), err_destroy);
    *reducer = made;
    return TESS_OK;

err_destroy:
    tess_reducer_destroy(made);
    return status;
}

void tess_reducer_destroy(tess_reducer_t *reducer)
{
    if (!reducer) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "reduce_destroy", -1, -1);
    tessi_ring_close(&reducer->ring);
    tessi_free(reducer->ready);
    tessi_free(reducer->buckets);
    tessi_free(reducer);
}

/* --- filling --------------------------------------------------------------------------------- */

/* Launch position of a bucket, and the bucket at a position: the same map both ways. */
static int64_t turn(const tess_reducer_t *reducer, int64_t bucket_or_position)
{
    if (reducer->order == TESS_REDUCER_FORWARD) return bucket_or_position;
    return tess_bucket_plan_bucket_count(reducer->ring.plan) - 1 - bucket_or_position;
}

/* A free buffer, or NULL. Around the ring in launch order, so that the placement is the same on all
 * ranks and the buffer is the one that was released longest ago; another one where that is taken
 * because buckets are acquired out of order. */
static tessi_ring_buffer_t *pick_buffer(const tess_reducer_t *reducer, int64_t bucket)
{
    const tessi_ring_t *ring = &reducer->ring;
    int64_t preferred = (reducer->first_buffer + turn(reducer, bucket)) % ring->buffer_count;
    for (int64_t step = 0; step < ring->buffer_count; step++) {
        tessi_ring_buffer_t *buffer = &ring->buffers[(preferred + step) % ring->buffer_count];
        if (buffer->bucket < 0) return buffer;
    }
    return NULL;
}

/* Zeroes what lies between tensors and behind the last one, and marks it where there was any. */
static tess_status_t zero_gaps(const tess_reducer_t *reducer, int64_t bucket,
                               tessi_ring_buffer_t *buffer, tess_stream_t *stream)
{
    const tessi_ring_t *ring = &reducer->ring;
    tess_bucket_t layout = tess_bucket_plan_bucket(ring->plan, bucket);
    int64_t end = 0, filled_count = 0; /* elements */
    for (int64_t i = 0; i <= layout.tensor_count; i++) {
        tess_bucket_view_t view = {bucket, layout.padded_count, 0};
        if (i < layout.tensor_count)
            view = tess_bucket_plan_tensor(ring->plan, layout.first_tensor + i);
        if (i < layout.tensor_count && view.count == 0) continue;
        if (view.offset > end) {
            tess_status_t status =
                tess_stream_fill(stream, buffer->memory + end * ring->element_bytes, 0,
                                 (view.offset - end) * ring->element_bytes);
            if (status) return status;
            filled_count += view.offset - end;
        }
        end = view.offset + view.count;
    }
    if (filled_count == 0) return TESS_OK;
    return tessi_marks_record(&buffer->producers, stream, ring->what, bucket);
}

static tess_status_t launch_ready(tess_reducer_t *reducer);

tess_status_t tess_reducer_acquire(tess_reducer_t *reducer, int64_t bucket, tess_stream_t *stream,
                                   void **buffer)
{
    if (!reducer || !buffer)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_reducer_acquire: %s is NULL",
                          reducer ? "buffer" : "reducer");
    tessi_ring_t *ring = &reducer->ring;
    tess_status_t status = tessi_ring_check(ring, bucket, stream, "tess_reducer_acquire");
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "reduce_acquire", tessi_ring_bucket_bytes(ring, bucket),
                      bucket);
    reduce_bucket_t *state = &reducer->buckets[bucket];
    if (state->phase > PHASE_FILLING)
        return tessi_fail(TESS_ERR_STATE, "reducer: bucket %lld was already reduced this round",
                          (long long)bucket);
    tessi_ring_buffer_t *found = state->phase == PHASE_FILLING ? tessi_ring_find(ring, bucket)
                                                               : pick_buffer(reducer, bucket);
    if (!found) {
        char held[96];
        return tessi_fail(TESS_ERR_STATE,
                          "reducer: cannot acquire bucket %lld: all %d buffers hold buckets that "
                          "were not released (%s); the next to launch is bucket %lld",
                          (long long)bucket, ring->buffer_count,
                          tessi_ring_text(ring, held, sizeof held),
                          (long long)turn(reducer, reducer->position));
    }
    TESS_TRY(tess_stream_wait_event(stream, found->finished), err);
    TESS_TRY(tessi_marks_wait(&found->consumers, stream), err);
    if (state->phase == PHASE_IDLE) {
        TESS_TRY(zero_gaps(reducer, bucket, found, stream), err);
        tessi_ring_assign(ring, found, bucket);
        state->phase = PHASE_FILLING;
        TESS_TRY(launch_ready(reducer), err); /* a bucket of empty tensors is complete now */
    }
    *buffer = found->memory;
    return TESS_OK;

err:
    return status;
}

/* --- launching ------------------------------------------------------------------------------- */

static tess_status_t launch(tess_reducer_t *reducer, int64_t bucket)
{
    tessi_ring_t *ring = &reducer->ring;
    tess_bucket_t layout = tess_bucket_plan_bucket(ring->plan, bucket);
    tessi_ring_buffer_t *buffer = tessi_ring_find(ring, bucket);
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "reduce_launch", tessi_ring_bucket_bytes(ring, bucket),
                      bucket);
    tess_status_t status;
    TESS_TRY(tessi_marks_wait(&buffer->producers, ring->stream), err);
    if (layout.slice_count > 0) {
        tess_collective_t arguments = {.send = buffer->memory,
                                       .recv = tessi_ring_slice(ring, buffer),
                                       .count = layout.slice_count,
                                       .dtype = tess_bucket_plan_dtype(ring->plan),
                                       .reduction = reducer->reduction};
        TESS_TRY(tess_comm_reduce_scatter(ring->comm, &arguments, ring->stream), err);
    }
    TESS_TRY(tess_event_record(buffer->finished, ring->stream), err);
    buffer->producers.count = 0;
    buffer->consumers.count = 0;
    reducer->buckets[bucket].phase = PHASE_LAUNCHED;
    return TESS_OK;

err:
    return status;
}

/* Launches every bucket that is complete and whose turn has come. */
static tess_status_t launch_ready(tess_reducer_t *reducer)
{
    int64_t bucket_count = tess_bucket_plan_bucket_count(reducer->ring.plan);
    while (reducer->position < bucket_count) {
        int64_t bucket = turn(reducer, reducer->position);
        const reduce_bucket_t *state = &reducer->buckets[bucket];
        if (state->phase != PHASE_FILLING || state->waiting_count > 0) break;
        tess_status_t status = launch(reducer, bucket);
        if (status) return status;
        reducer->position++;
    }
    return TESS_OK;
}

tess_status_t tess_reducer_ready(tess_reducer_t *reducer, int64_t tensor, tess_stream_t *stream)
{
    if (!reducer)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_reducer_ready: reducer is NULL");
    tessi_ring_t *ring = &reducer->ring;
    int64_t tensor_count = tess_bucket_plan_tensor_count(ring->plan);
    if (tensor < 0 || tensor >= tensor_count)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_reducer_ready: tensor %lld is not one of the plan's %lld",
                          (long long)tensor, (long long)tensor_count);
    tess_bucket_view_t view = tess_bucket_plan_tensor(ring->plan, tensor);
    tess_status_t status = tessi_ring_check(ring, view.bucket, stream, "tess_reducer_ready");
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "reduce_ready", view.count * ring->element_bytes,
                      view.bucket);
    reduce_bucket_t *state = &reducer->buckets[view.bucket];
    if (state->phase == PHASE_IDLE)
        return tessi_fail(TESS_ERR_STATE,
                          "reducer: tensor %lld is ready before its bucket %lld was acquired",
                          (long long)tensor, (long long)view.bucket);
    if (reducer->ready[tensor])
        return tessi_fail(TESS_ERR_STATE, "reducer: tensor %lld was already ready this round",
                          (long long)tensor);
    if (view.count > 0) {
        tessi_ring_buffer_t *buffer = tessi_ring_find(ring, view.bucket);
        status = tessi_marks_record(&buffer->producers, stream, ring->what, view.bucket);
        if (status) return status;
        state->waiting_count--;
    }
    reducer->ready[tensor] = 1;
    return view.count > 0 ? launch_ready(reducer) : TESS_OK;
}

/* --- handing on ------------------------------------------------------------------------------ */

tess_status_t tess_reducer_wait(tess_reducer_t *reducer, int64_t bucket, tess_stream_t *stream,
                                void **slice)
{
    if (!reducer || !slice)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_reducer_wait: %s is NULL",
                          reducer ? "slice" : "reducer");
    tessi_ring_t *ring = &reducer->ring;
    tess_status_t status = tessi_ring_check(ring, bucket, stream, "tess_reducer_wait");
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "reduce_wait", tessi_ring_bucket_bytes(ring, bucket),
                      bucket);
    bucket_phase_t phase = reducer->buckets[bucket].phase;
    if (phase < PHASE_LAUNCHED) return TESS_NOT_READY;
    if (phase == PHASE_RELEASED)
        return tessi_fail(TESS_ERR_STATE, "reducer: bucket %lld was already released this round",
                          (long long)bucket);
    tessi_ring_buffer_t *buffer = tessi_ring_find(ring, bucket);
    status = tess_stream_wait_event(stream, buffer->finished);
    if (status) return status;
    buffer->holder_count++;
    *slice = tessi_ring_slice(ring, buffer);
    return TESS_OK;
}

tess_status_t tess_reducer_release(tess_reducer_t *reducer, int64_t bucket, tess_stream_t *stream)
{
    if (!reducer)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_reducer_release: reducer is NULL");
    tessi_ring_t *ring = &reducer->ring;
    tess_status_t status = tessi_ring_check(ring, bucket, stream, "tess_reducer_release");
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "reduce_release", tessi_ring_bucket_bytes(ring, bucket),
                      bucket);
    tessi_ring_buffer_t *buffer = tessi_ring_find(ring, bucket);
    if (!buffer || buffer->holder_count == 0)
        return tessi_fail(TESS_ERR_STATE,
                          "reducer: bucket %lld was released, but no wait has handed it out",
                          (long long)bucket);
    status = tessi_marks_record(&buffer->consumers, stream, ring->what, bucket);
    if (status) return status;
    if (--buffer->holder_count > 0) return TESS_OK;
    tessi_ring_assign(ring, buffer, -1);
    reducer->buckets[bucket].phase = PHASE_RELEASED;
    reducer->released_count++;
    return TESS_OK;
}

/* The sentence for a round that is not over. */
static tess_status_t fail_unfinished(const tess_reducer_t *reducer)
{
    const tess_bucket_plan_t *plan = reducer->ring.plan;
    for (int64_t t = 0; t < tess_bucket_plan_tensor_count(plan); t++) {
        tess_bucket_view_t view = tess_bucket_plan_tensor(plan, t);
        if (view.count > 0 && !reducer->ready[t])
            return tessi_fail(TESS_ERR_STATE,
                              "reducer: the round is not over: tensor %lld (bucket %lld) was not "
                              "ready",
                              (long long)t, (long long)view.bucket);
    }
    int64_t bucket = 0;
    while (reducer->buckets[bucket].phase == PHASE_RELEASED) bucket++;
    return tessi_fail(TESS_ERR_STATE,
                      "reducer: the round is not over: bucket %lld was not released",
                      (long long)bucket);
}

tess_status_t tess_reducer_finish(tess_reducer_t *reducer)
{
    if (!reducer)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_reducer_finish: reducer is NULL");
    tessi_ring_t *ring = &reducer->ring;
    tess_status_t status = tess_comm_status(ring->comm);
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "reduce_finish", -1, -1);
    int64_t bucket_count = tess_bucket_plan_bucket_count(ring->plan);
    if (reducer->released_count < bucket_count) return fail_unfinished(reducer);
    reducer->first_buffer = (reducer->first_buffer + bucket_count) % ring->buffer_count;
    start_round(reducer);
    return TESS_OK;
}

int64_t tess_reducer_bytes(const tess_reducer_t *reducer)
{
    return reducer->ring.stride_bytes * reducer->ring.buffer_count;
}

tess_stream_t *tess_reducer_stream(const tess_reducer_t *reducer)
{
    return reducer->ring.stream;
}
