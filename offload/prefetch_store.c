/* SPDX-License-Identifier: Apache-2.0 */
/* Arrays in stores: a staging buffer in pinned memory for every slot and array, read and written by
 * functions that run in stream order.
 *
 *     out: …copy slot -> staging, WRITE submits | WANT submits the next reads      (never blocks)
 *     in:                                         ARRIVE waits for them | copy staging -> slot…
 *
 * Invariant: a read is submitted only when the writes from its buffers and the writes of its tile
 * are done. Where they are not done yet, the slot stays `wanted`, and whatever function runs next
 * tries again. So the only functions that wait are ARRIVE, for reads in the order of the schedule,
 * and SETTLE where nothing is read; and they wait for operations of a store that are submitted, or
 * that they submit themselves, never for another function. CUDA may run the functions of all
 * streams on one thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "prefetch_internal.h"

static tessi_lane_t *lane_of(tess_prefetch_t *prefetch)
{
    return &prefetch->lanes[TESSI_LANE_STORE];
}

static int is_staged(const tessi_prefetch_array_t *array, tess_prefetch_access_t access)
{
    return array->lane == TESSI_LANE_STORE && (array->home.access & access);
}

/* --- tickets; all with the lock held ---------------------------------------------------------- */

static tess_status_t fail_tile(tess_status_t status, const char *verb, int64_t tile, int array)
{
    return tessi_fail(status, "prefetch: tile %" PRId64 " of array %d was not %s: %s", tile, array,
                      verb, tess_last_error());
}

/* TESS_NOT_READY while some of the tickets are in flight. */
static tess_status_t poll_tickets(tess_prefetch_t *prefetch, tess_store_ticket_t *tickets,
                                  const char *verb, int64_t tile)
{
    tess_status_t result = TESS_OK;
    for (int a = 0; a < prefetch->array_count; a++) {
        if (!tickets[a]) continue;
        tess_status_t status = tess_store_poll(prefetch->arrays[a].home.store, tickets[a]);
        if (status == TESS_NOT_READY) {
            result = status;
            continue;
        }
        tickets[a] = 0;
        if (status < 0) return fail_tile(status, verb, tile, a);
    }
    return result;
}

static tess_status_t poll_writes(tessi_staging_slot_t *slot)
{
    return poll_tickets(slot->prefetch, slot->writes, "written", slot->write_tile);
}

/* Writes that stand in the way of using the slot's buffers, or the tile. */
static tess_status_t poll_way(tessi_staging_slot_t *slot, int64_t tile)
{
    tess_prefetch_t *prefetch = slot->prefetch;
    for (int s = 0; s < prefetch->slot_count; s++) {
        tessi_staging_slot_t *other = &prefetch->staging.slots[s];
        if (other != slot && other->write_tile != tile) continue;
        tess_status_t status = poll_writes(other);
        if (status != TESS_OK) return status;
    }
    return TESS_OK;
}

static tess_status_t submit_reads(tessi_staging_slot_t *slot)
{
    tess_prefetch_t *prefetch = slot->prefetch;
    for (int a = 0; a < prefetch->array_count; a++) {
        const tessi_prefetch_array_t *array = &prefetch->arrays[a];
        if (!is_staged(array, TESS_PREFETCH_READ)) continue;
        tess_status_t status =
            tess_store_read(array->home.store, slot->read_tile,
                            slot->memory + array->staging_offset, &slot->reads[a]);
        if (status < 0) return fail_tile(status, "read", slot->read_tile, a);
    }
    return TESS_OK;
}

static tess_status_t submit_wanted(tessi_staging_t *staging, int slot_count)
{
    for (int s = 0; s < slot_count && staging->wanted_count > 0; s++) {
        tessi_staging_slot_t *slot = &staging->slots[s];
        if (!slot->wanted) continue;
        tess_status_t status = poll_way(slot, slot->read_tile);
        if (status < 0) return status;
        if (status == TESS_NOT_READY) continue;
        slot->wanted = 0;
        staging->wanted_count--;
        status = submit_reads(slot);
        if (status < 0) return status;
    }
    return TESS_OK;
}

/* --- functions that run on streams ------------------------------------------------------------ */

/* A function may meet the failure of another slot's read or write. So that no function takes for
 * done what then never was, all that run later fail with it. */
static tess_status_t failure_of(const tessi_staging_t *staging)
{
    return staging->failure < 0 ? tessi_fail(staging->failure, "%s", staging->failure_detail)
                                : TESS_OK;
}

static tess_status_t keep_failure(tessi_staging_t *staging, tess_status_t status)
{
    if (status < 0 && staging->failure == TESS_OK) {
        staging->failure = status;
        snprintf(staging->failure_detail, sizeof staging->failure_detail, "%s", tess_last_error());
    }
    return status;
}

/* Releases the lock for a moment; TESS_ERR_TIMEOUT when the deadline has passed. */
static tess_status_t pause_unlocked(tessi_staging_t *staging, tessi_backoff_t *backoff,
                                    int64_t deadline_ns, const char *what, int64_t tile)
{
    if (tessi_now_ns() >= deadline_ns)
        return tessi_fail(TESS_ERR_TIMEOUT, "prefetch: %s of tile %" PRId64 " is not done in time",
                          what, tile);
    pthread_mutex_unlock(&staging->lock);
    tessi_backoff_pause(backoff);
    pthread_mutex_lock(&staging->lock);
    return TESS_OK;
}

/* Waits for the slot's reads. While any slot is wanted it polls, to submit that slot's reads as
 * soon as they can be. */
static tess_status_t poll_reads(tessi_staging_slot_t *slot)
{
    tess_prefetch_t *prefetch = slot->prefetch;
    tessi_staging_t *staging = &prefetch->staging;
    int64_t deadline_ns = tessi_deadline_ns(tessi_timeout_or_default(-1));
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    for (;;) {
        tess_status_t status = failure_of(staging);
        if (status == TESS_OK) status = submit_wanted(staging, prefetch->slot_count);
        if (status < 0 || staging->wanted_count == 0) return status;
        if (!slot->wanted) {
            status = poll_tickets(prefetch, slot->reads, "read", slot->read_tile);
            if (status != TESS_NOT_READY) return status;
        }
        status = pause_unlocked(staging, &backoff, deadline_ns, "the read", slot->read_tile);
        if (status < 0) return status;
    }
}

/* Waits for tickets that nobody else knows of for now; without the lock. One that is not done in
 * time is still out, and stays in the list. */
static tess_status_t wait_tickets(tess_prefetch_t *prefetch, tess_store_ticket_t *tickets,
                                  const char *verb, int64_t tile)
{
    tess_status_t result = TESS_OK;
    for (int a = 0; a < prefetch->array_count; a++) {
        if (!tickets[a]) continue;
        tess_status_t status = tess_store_wait(prefetch->arrays[a].home.store, tickets[a]);
        if (status != TESS_ERR_TIMEOUT) tickets[a] = 0;
        if (status < 0 && result == TESS_OK) result = fail_tile(status, verb, tile, a);
    }
    return result;
}

static tess_status_t take_and_wait(tessi_staging_slot_t *slot, tess_store_ticket_t *from,
                                   const char *verb, int64_t tile)
{
    tess_store_ticket_t tickets[TESS_PREFETCH_ARRAYS_MAX];
    memcpy(tickets, from, sizeof tickets);
    memset(from, 0, sizeof tickets);
    pthread_mutex_unlock(&slot->prefetch->staging.lock);
    tess_status_t status = wait_tickets(slot->prefetch, tickets, verb, tile);
    pthread_mutex_lock(&slot->prefetch->staging.lock);
    memcpy(from, tickets, sizeof tickets);
    return status;
}

/* On `in`: the reads of the slot are done when this returns. */
static tess_status_t arrive(void *argument)
{
    tessi_staging_slot_t *slot = argument;
    tessi_staging_t *staging = &slot->prefetch->staging;
    pthread_mutex_lock(&staging->lock);
    tess_status_t status = poll_reads(slot);
    if (status == TESS_OK) status = take_and_wait(slot, slot->reads, "read", slot->read_tile);
    if (status == TESS_OK) status = submit_wanted(staging, slot->prefetch->slot_count);
    (void)keep_failure(staging, status);
    pthread_mutex_unlock(&staging->lock);
    return status;
}

/* Two writes of one tile must not be in flight at once. Only where nothing is read can that be. */
static tess_status_t clear_way(tessi_staging_slot_t *slot, int64_t tile)
{
    int64_t deadline_ns = tessi_deadline_ns(tessi_timeout_or_default(-1));
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    tess_status_t status;
    while ((status = poll_way(slot, tile)) == TESS_NOT_READY) {
        status = pause_unlocked(&slot->prefetch->staging, &backoff, deadline_ns, "an earlier write",
                                tile);
        if (status < 0) return status;
    }
    return status;
}

static tess_status_t submit_writes(tessi_staging_slot_t *slot, int64_t tile)
{
    tess_prefetch_t *prefetch = slot->prefetch;
    tess_status_t status = clear_way(slot, tile);
    if (status < 0) return status;
    slot->write_tile = tile;
    for (int a = 0; a < prefetch->array_count; a++) {
        const tessi_prefetch_array_t *array = &prefetch->arrays[a];
        if (!is_staged(array, TESS_PREFETCH_WRITE)) continue;
        char *buffer = slot->memory + array->staging_offset;
        int64_t bytes = tessi_prefetch_bytes(array, tile);
        int64_t padding_bytes = tess_store_tile_bytes(array->home.store) - bytes;
        /* What the array does not fill is kept where it was read, and zero elsewhere. */
        if (padding_bytes > 0 && !is_staged(array, TESS_PREFETCH_READ))
            memset(buffer + bytes, 0, (size_t)padding_bytes);
        status = tess_store_write(array->home.store, tile, buffer, &slot->writes[a]);
        if (status < 0) return fail_tile(status, "written", tile, a);
    }
    return TESS_OK;
}

static tess_status_t take_step(tessi_staging_slot_t *slot, const tessi_staging_call_t *call)
{
    if (call->step == TESSI_STAGING_SETTLE)
        return take_and_wait(slot, slot->writes, "written", slot->write_tile);
    if (call->step == TESSI_STAGING_WRITE) return submit_writes(slot, call->tile);
    slot->read_tile = call->tile;
    slot->wanted = 1;
    slot->prefetch->staging.wanted_count++;
    return TESS_OK;
}

/* On `out`: one step of a slot. */
static tess_status_t run_call(void *argument)
{
    const tessi_staging_call_t call = *(const tessi_staging_call_t *)argument;
    tessi_staging_t *staging = &call.prefetch->staging;
    tessi_staging_slot_t *slot = &staging->slots[call.slot];
    atomic_fetch_add_explicit(&staging->calls_done, 1, memory_order_release);
    pthread_mutex_lock(&staging->lock);
    tess_status_t status = failure_of(staging);
    if (status == TESS_OK) status = take_step(slot, &call);
    if (status == TESS_OK) status = submit_wanted(staging, call.prefetch->slot_count);
    (void)keep_failure(staging, status);
    pthread_mutex_unlock(&staging->lock);
    return status;
}

/* --- queueing --------------------------------------------------------------------------------- */

/* Waits for room in the ring of calls: streams that run far behind hold the host back here, as they
 * do in their own queues. */
static tess_status_t wait_for_call(tess_prefetch_t *prefetch)
{
    tessi_staging_t *staging = &prefetch->staging;
    int64_t deadline_ns = 0;
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    while (staging->calls_queued -
               atomic_load_explicit(&staging->calls_done, memory_order_acquire) >=
           TESSI_STAGING_CALLS) {
        tess_status_t status = tessi_stream_fault(lane_of(prefetch)->out); /* skips its functions */
        if (status < 0) return status;
        if (deadline_ns == 0) deadline_ns = tessi_deadline_ns(tessi_timeout_or_default(-1));
        if (tessi_now_ns() >= deadline_ns)
            return tessi_fail(
                TESS_ERR_TIMEOUT,
                "prefetch: %d steps for stores are queued and the oldest does not end",
                TESSI_STAGING_CALLS);
        tessi_backoff_pause(&backoff);
    }
    return TESS_OK;
}

static tess_status_t queue_call(tess_prefetch_t *prefetch, tessi_staging_step_t step, int slot,
                                int64_t tile)
{
    tessi_staging_t *staging = &prefetch->staging;
    tess_status_t status = wait_for_call(prefetch);
    if (status < 0) return status;
    tessi_staging_call_t *call = &staging->calls[staging->calls_queued++ % TESSI_STAGING_CALLS];
    *call = (tessi_staging_call_t){prefetch, step, slot, tile};
    return tess_stream_call(lane_of(prefetch)->out, run_call, call);
}

tess_status_t tessi_staging_queue_read(tess_prefetch_t *prefetch, int slot, int64_t tile)
{
    tessi_lane_t *lane = lane_of(prefetch);
    tessi_slot_lane_t *mine = &prefetch->slots[slot].lanes[TESSI_LANE_STORE];
    tess_status_t status;
    /* What was read last into the staging has then been copied out of it; a write-back comes behind
     * that anyway. */
    if (mine->unwritten) TESS_TRY(tess_stream_wait_event(lane->out, mine->filled), err);
    TESS_TRY(queue_call(prefetch, TESSI_STAGING_WANT, slot, tile), err);
    TESS_TRY(tess_event_record(mine->home, lane->out), err);
    TESS_TRY(tess_stream_wait_event(lane->in, mine->home), err);
    if (lane->writes) mine->guard = NULL; /* the write-back was queued ahead of the reads */
    return tess_stream_call(lane->in, arrive, &prefetch->staging.slots[slot]);

err:
    return status;
}

tess_status_t tessi_staging_queue_settle(tess_prefetch_t *prefetch, int slot)
{
    return queue_call(prefetch, TESSI_STAGING_SETTLE, slot, -1);
}

tess_status_t tessi_staging_queue_write(tess_prefetch_t *prefetch, int slot, int64_t tile)
{
    return queue_call(prefetch, TESSI_STAGING_WRITE, slot, tile);
}

tess_status_t tessi_staging_finish(tess_prefetch_t *prefetch, int64_t deadline_ns)
{
    tessi_staging_t *staging = &prefetch->staging;
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    tess_status_t status = TESS_OK;
    pthread_mutex_lock(&staging->lock);
    for (int s = 0; s < prefetch->slot_count && status >= 0; s++) {
        tessi_staging_slot_t *slot = &staging->slots[s];
        while ((status = poll_writes(slot)) == TESS_NOT_READY) {
            status = pause_unlocked(staging, &backoff, deadline_ns, "the write", slot->write_tile);
            if (status < 0) break;
        }
    }
    pthread_mutex_unlock(&staging->lock);
    return status;
}

/* --- life ------------------------------------------------------------------------------------- */

static int64_t round_up(int64_t bytes, int64_t alignment)
{
    return (bytes + alignment - 1) / alignment * alignment;
}

int64_t tess_prefetch_staging_bytes(int slot_count, int64_t store_tile_bytes, int64_t alignment)
{
    return slot_count * round_up(store_tile_bytes, alignment) + alignment;
}

/* Lays the arrays out in a slot's staging; the largest alignment is enough for all. */
static int64_t lay_out(tess_prefetch_t *prefetch)
{
    int64_t alignment = 1;
    for (int a = 0; a < prefetch->array_count; a++) {
        const tess_store_t *store = prefetch->arrays[a].home.store;
        if (store && tess_store_alignment(store) > alignment)
            alignment = tess_store_alignment(store);
    }
    for (int a = 0; a < prefetch->array_count; a++) {
        tessi_prefetch_array_t *array = &prefetch->arrays[a];
        if (!array->home.store) continue;
        array->staging_offset = prefetch->staging.stride_bytes;
        prefetch->staging.stride_bytes +=
            round_up(tess_store_tile_bytes(array->home.store), alignment);
    }
    return alignment;
}

static tess_status_t take_memory(tess_prefetch_t *prefetch, const tess_prefetch_config_t *config)
{
    tessi_staging_t *staging = &prefetch->staging;
    int64_t alignment = lay_out(prefetch), bytes;
    if (__builtin_mul_overflow(prefetch->slot_count, staging->stride_bytes, &bytes) ||
        __builtin_add_overflow(bytes, alignment, &bytes))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_create: the tiles of stores are too large to be staged");
    void *base = config->staging;
    if (base && config->staging_bytes < bytes)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_create: staging has %" PRId64 " bytes, but %d slots need "
                          "%" PRId64,
                          config->staging_bytes, prefetch->slot_count, bytes);
    if (!base) {
        tess_status_t status =
            tess_memory_allocate(prefetch->device, TESS_MEMORY_PINNED, bytes, &staging->allocated);
        if (status < 0) return status;
        base = staging->allocated;
    }
    int64_t past_bytes = (int64_t)((uintptr_t)base % (uintptr_t)alignment);
    staging->memory = (char *)base + (past_bytes ? alignment - past_bytes : 0);
    return TESS_OK;
}

tess_status_t tessi_staging_create(tess_prefetch_t *prefetch, const tess_prefetch_config_t *config)
{
    tessi_staging_t *staging = &prefetch->staging;
    if (lane_of(prefetch)->array_count == 0) return TESS_OK;
    staging->slots = tessi_calloc((size_t)prefetch->slot_count, sizeof *staging->slots);
    if (!staging->slots) return TESS_ERR_OUT_OF_MEMORY;
    pthread_mutex_init(&staging->lock, NULL);
    staging->calls = tessi_calloc(TESSI_STAGING_CALLS, sizeof *staging->calls);
    if (!staging->calls) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = take_memory(prefetch, config);
    if (status < 0) return status;
    for (int s = 0; s < prefetch->slot_count; s++)
        staging->slots[s] =
            (tessi_staging_slot_t){.prefetch = prefetch,
                                   .memory = staging->memory + s * staging->stride_bytes,
                                   .read_tile = -1,
                                   .write_tile = -1};
    return TESS_OK;
}

/* What nobody asked for any more is waited for. 1 unless the buffers may still be in use. */
static int abandon_tickets(tess_prefetch_t *prefetch)
{
    int is_idle = 1;
    for (int s = 0; s < prefetch->slot_count; s++) {
        tessi_staging_slot_t *slot = &prefetch->staging.slots[s];
        tess_status_t read = wait_tickets(prefetch, slot->reads, "read", slot->read_tile);
        tess_status_t written = wait_tickets(prefetch, slot->writes, "written", slot->write_tile);
        if (written < 0 && prefetch->failure == TESS_OK)
            tessi_log(TESSI_LOG_ERROR, "a prefetcher was destroyed before its last writes: %s",
                      tess_last_error());
        if (read == TESS_ERR_TIMEOUT || written == TESS_ERR_TIMEOUT) is_idle = 0;
    }
    return is_idle;
}

void tessi_staging_destroy(tess_prefetch_t *prefetch)
{
    tessi_staging_t *staging = &prefetch->staging;
    if (!staging->slots) return;
    if (!staging->memory || abandon_tickets(prefetch))
        tess_memory_free(prefetch->device, TESS_MEMORY_PINNED, staging->allocated);
    else
        tessi_log(TESSI_LOG_ERROR, "a prefetcher was destroyed while a store still used its "
                                   "buffers; they are left behind");
    tessi_free(staging->calls);
    tessi_free(staging->slots);
    pthread_mutex_destroy(&staging->lock);
}
