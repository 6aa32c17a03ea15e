/* SPDX-License-Identifier: Apache-2.0 */
/* Tiles in motion: reads ahead, acquire, release, write-backs, and what orders them.
 *
 * Invariant: whoever writes a slot next comes behind all that used it. What a lane has yet to wait
 * for is the slot's guard: `released` of a tile that was only read, `home` of one that is written
 * back. A lane that reads waits for it on `in` before it fills the slot again; in a lane that only
 * writes, the stream that acquires waits. And whoever reads a tile comes behind its write-back: on
 * the memory's lane by the guard of the slot that the tile was in, on the stores' lane by tickets.
 */
#include <inttypes.h>

#include "prefetch_internal.h"

void tessi_slot_queue_push(const tess_prefetch_t *prefetch, tessi_slot_queue_t *queue, int slot)
{
    queue->slots[(queue->first + queue->count++) % prefetch->slot_count] = slot;
}

int tessi_slot_queue_pop(const tess_prefetch_t *prefetch, tessi_slot_queue_t *queue)
{
    int slot = queue->slots[queue->first];
    queue->first = (queue->first + 1) % prefetch->slot_count;
    queue->count--;
    return slot;
}

/* Bytes of a tile in all arrays that have the access. */
static int64_t bytes_with(const tess_prefetch_t *prefetch, int64_t tile,
                          tess_prefetch_access_t access)
{
    int64_t bytes = 0;
    for (int a = 0; a < prefetch->array_count; a++)
        if (prefetch->arrays[a].home.access & access)
            bytes += tessi_prefetch_bytes(&prefetch->arrays[a], tile);
    return bytes;
}

/* Queues the copies of a lane's arrays between slot and home, or between slot and staging. */
static tess_status_t copy_arrays(const tess_prefetch_t *prefetch, tessi_lane_kind_t kind, int index,
                                 int64_t tile, tess_prefetch_access_t access)
{
    const tessi_lane_t *lane = &prefetch->lanes[kind];
    for (int a = 0; a < prefetch->array_count; a++) {
        const tessi_prefetch_array_t *array = &prefetch->arrays[a];
        if (array->lane != kind || !(array->home.access & access)) continue;
        char *near = prefetch->slots[index].memory + array->offset, *far;
        if (kind == TESSI_LANE_STORE)
            far = prefetch->staging.slots[index].memory + array->staging_offset;
        else far = (char *)array->home.host + tile * array->home.tile_bytes;
        int64_t bytes = tessi_prefetch_bytes(array, tile);
        if (tessi_fault("copy"))
            return tessi_fail(TESS_ERR_SYSTEM,
                              "prefetch: cannot copy tile %" PRId64 " of array %d: injected fault",
                              tile, a);
        tess_status_t status = access == TESS_PREFETCH_READ
                                   ? tess_stream_copy(lane->in, near, far, bytes)
                                   : tess_stream_copy(lane->out, far, near, bytes);
        if (status < 0) return status;
    }
    return TESS_OK;
}

/* --- reads ------------------------------------------------------------------------------------ */

/* Makes `in` come behind the write-backs of the tile that it has not waited for yet. */
static tess_status_t wait_for_tile(tess_prefetch_t *prefetch, tessi_lane_kind_t kind, int64_t tile)
{
    for (int s = 0; s < prefetch->slot_count; s++) {
        tessi_slot_lane_t *slot = &prefetch->slots[s].lanes[kind];
        if (prefetch->slots[s].tile != tile || slot->guard != slot->home) continue;
        tess_status_t status = tess_stream_wait_event(prefetch->lanes[kind].in, slot->guard);
        if (status < 0) return status;
        slot->guard = NULL;
    }
    return TESS_OK;
}

static tess_status_t fill_lane(tess_prefetch_t *prefetch, tessi_lane_kind_t kind, int index,
                               int64_t tile)
{
    tessi_lane_t *lane = &prefetch->lanes[kind];
    tessi_slot_lane_t *slot = &prefetch->slots[index].lanes[kind];
    tess_status_t status;
    if (kind == TESSI_LANE_STORE) TESS_TRY(tessi_staging_queue_read(prefetch, index, tile), err);
    else TESS_TRY(wait_for_tile(prefetch, kind, tile), err);
    if (slot->guard) TESS_TRY(tess_stream_wait_event(lane->in, slot->guard), err);
    slot->guard = NULL;
    TESS_TRY(copy_arrays(prefetch, kind, index, tile, TESS_PREFETCH_READ), err);
    slot->unwritten = 1;
    TESS_TRY(tess_event_record(slot->filled, lane->in), err);
    return TESS_OK;

err:
    return status;
}

static tess_status_t fill(tess_prefetch_t *prefetch, int index, int64_t tile)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "prefetch",
                      bytes_with(prefetch, tile, TESS_PREFETCH_READ), tile);
    for (int kind = 0; kind < TESSI_LANE_COUNT; kind++) {
        if (!prefetch->lanes[kind].reads) continue;
        tess_status_t status = fill_lane(prefetch, (tessi_lane_kind_t)kind, index, tile);
        if (status < 0) return status;
    }
    prefetch->slots[index].tile = tile;
    prefetch->slots[index].state = TESSI_SLOT_READY;
    return TESS_OK;
}

/* The slot in which the tile is read ahead or out, or -1. */
static int slot_of(const tess_prefetch_t *prefetch, int64_t tile)
{
    for (int s = 0; s < prefetch->slot_count; s++)
        if (prefetch->slots[s].tile == tile && prefetch->slots[s].state != TESSI_SLOT_FREE)
            return s;
    return -1;
}

tess_status_t tessi_prefetch_advance(tess_prefetch_t *prefetch)
{
    while (prefetch->free.count > 0) {
        int64_t tile = tessi_schedule_next(&prefetch->schedule);
        if (tile < 0) break;
        /* What is at home now is not what the caller will leave there. */
        if (prefetch->writes && slot_of(prefetch, tile) >= 0) break;
        int slot = tessi_slot_queue_pop(prefetch, &prefetch->free);
        tess_status_t status = fill(prefetch, slot, tile);
        if (status < 0) return tessi_prefetch_remember(prefetch, status);
        tessi_slot_queue_push(prefetch, &prefetch->ready, slot);
        tessi_schedule_advance(&prefetch->schedule);
    }
    return TESS_OK;
}

/* --- the caller's side ------------------------------------------------------------------------ */

static tess_status_t check_caller(tess_prefetch_t *prefetch, const tess_stream_t *stream,
                                  const void *tile, const char *function)
{
    if (!prefetch || !stream || !tile)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: %s is NULL", function,
                          !prefetch ? "prefetch"
                          : !stream ? "stream"
                                    : "tile");
    const tess_device_t *device = tess_stream_device(stream);
    if (device != prefetch->device &&
        (tess_device_kind(device) != tess_device_kind(prefetch->device) ||
         tessi_device_index(device) != tessi_device_index(prefetch->device)))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: the stream is of device %s, but the prefetcher of %s", function,
                          tess_device_name(device), tess_device_name(prefetch->device));
    return tessi_prefetch_check(prefetch);
}

static tess_status_t fail_acquire(const tess_prefetch_t *prefetch)
{
    int64_t tile = tessi_schedule_next(&prefetch->schedule);
    if (tile < 0)
        return tessi_fail(TESS_ERR_STATE,
                          "tess_prefetch_acquire: the schedule is at its end (%d tiles are out)",
                          prefetch->out_count);
    if (prefetch->out_count == prefetch->slot_count)
        return tessi_fail(TESS_ERR_STATE,
                          "tess_prefetch_acquire: all %d slots are out; release one, or raise "
                          "slot_count",
                          prefetch->slot_count);
    return tessi_fail(TESS_ERR_STATE,
                      "tess_prefetch_acquire: tile %" PRId64
                      " comes next, but is out already and will be written; release it first",
                      tile);
}

/* Makes the stream come behind what fills the slot, or behind what emptied it. */
static tess_status_t join(tess_prefetch_t *prefetch, tessi_slot_t *slot, tess_stream_t *stream)
{
    tess_status_t status = TESS_OK;
    for (int kind = 0; kind < TESSI_LANE_COUNT && status >= 0; kind++) {
        tessi_slot_lane_t *lane = &slot->lanes[kind];
        if (prefetch->lanes[kind].reads) {
            status = tess_stream_wait_event(stream, lane->filled);
        } else if (lane->guard) {
            status = tess_stream_wait_event(stream, lane->guard);
            lane->guard = NULL;
        }
    }
    return status;
}

tess_status_t tess_prefetch_acquire(tess_prefetch_t *prefetch, tess_stream_t *stream,
                                    tess_prefetch_tile_t *tile)
{
    tess_status_t status = check_caller(prefetch, stream, tile, "tess_prefetch_acquire");
    if (status < 0) return status;
    if (prefetch->ready.count == 0) return fail_acquire(prefetch);
    int index = prefetch->ready.slots[prefetch->ready.first];
    tessi_slot_t *slot = &prefetch->slots[index];
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "prefetch_acquire", prefetch->stride_bytes, slot->tile);
    status = join(prefetch, slot, stream);
    if (status < 0) return tessi_prefetch_remember(prefetch, status);

    (void)tessi_slot_queue_pop(prefetch, &prefetch->ready);
    slot->state = TESSI_SLOT_OUT;
    prefetch->out_count++;
    *tile = (tess_prefetch_tile_t){.tile = slot->tile, .slot = index};
    for (int a = 0; a < prefetch->array_count; a++) {
        tile->data[a] = slot->memory + prefetch->arrays[a].offset;
        tile->bytes[a] = tessi_prefetch_bytes(&prefetch->arrays[a], slot->tile);
    }
    return TESS_OK;
}

/* --- write-backs ------------------------------------------------------------------------------ */

static tess_status_t empty_lane(tess_prefetch_t *prefetch, tessi_lane_kind_t kind, int index)
{
    tessi_lane_t *lane = &prefetch->lanes[kind];
    tessi_slot_t *slot = &prefetch->slots[index];
    tessi_slot_lane_t *mine = &slot->lanes[kind];
    tess_status_t status;
    TESS_TRY(tess_stream_wait_event(lane->out, slot->released), err);
    /* A lane that reads has settled them before it read into the staging. */
    if (kind == TESSI_LANE_STORE && !lane->reads)
        TESS_TRY(tessi_staging_queue_settle(prefetch, index), err);
    TESS_TRY(copy_arrays(prefetch, kind, index, slot->tile, TESS_PREFETCH_WRITE), err);
    if (kind == TESSI_LANE_STORE)
        TESS_TRY(tessi_staging_queue_write(prefetch, index, slot->tile), err);
    TESS_TRY(tess_event_record(mine->home, lane->out), err);
    mine->guard = lane->latest_home = mine->home;
    mine->unwritten = 0;
    return TESS_OK;

err:
    return status;
}

static tess_status_t empty(tess_prefetch_t *prefetch, int index)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "write_back",
                      bytes_with(prefetch, prefetch->slots[index].tile, TESS_PREFETCH_WRITE),
                      prefetch->slots[index].tile);
    for (int kind = 0; kind < TESSI_LANE_COUNT; kind++) {
        if (!prefetch->lanes[kind].writes) continue;
        tess_status_t status = empty_lane(prefetch, (tessi_lane_kind_t)kind, index);
        if (status < 0) return status;
    }
    return TESS_OK;
}

static tess_status_t check_release(const tess_prefetch_t *prefetch,
                                   const tess_prefetch_tile_t *tile)
{
    if (tile->slot >= 0 && tile->slot < prefetch->slot_count &&
        prefetch->slots[tile->slot].state == TESSI_SLOT_OUT &&
        prefetch->slots[tile->slot].tile == tile->tile)
        return TESS_OK;
    return tessi_fail(TESS_ERR_STATE,
                      "tess_prefetch_release: tile %" PRId64 " is not out in slot %d", tile->tile,
                      tile->slot);
}

tess_status_t tess_prefetch_release(tess_prefetch_t *prefetch, tess_stream_t *stream,
                                    const tess_prefetch_tile_t *tile)
{
    tess_status_t status = check_caller(prefetch, stream, tile, "tess_prefetch_release");
    if (status >= 0) status = check_release(prefetch, tile);
    if (status < 0) return status;

    int index = tile->slot;
    tessi_slot_t *slot = &prefetch->slots[index];
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "prefetch_release", prefetch->stride_bytes, slot->tile);
    TESS_TRY(tess_event_record(slot->released, stream), err_remember);
    for (int kind = 0; kind < TESSI_LANE_COUNT; kind++)
        if (prefetch->lanes[kind].array_count > 0) slot->lanes[kind].guard = slot->released;
    if (prefetch->writes) TESS_TRY(empty(prefetch, index), err_remember);
    slot->state = TESSI_SLOT_FREE;
    prefetch->out_count--;
    tessi_slot_queue_push(prefetch, &prefetch->free, index);
    return tessi_prefetch_advance(prefetch);

err_remember:
    return tessi_prefetch_remember(prefetch, status);
}

tess_status_t tess_prefetch_wait_home(tess_prefetch_t *prefetch, tess_stream_t *stream)
{
    tess_status_t status = check_caller(prefetch, stream, prefetch, "tess_prefetch_wait_home");
    if (status < 0) return status;
    for (int kind = 0; kind < TESSI_LANE_COUNT; kind++) {
        tess_event_t *latest = prefetch->lanes[kind].latest_home;
        if (!latest) continue;
        status = tess_stream_wait_event(stream, latest);
        if (status < 0) return tessi_prefetch_remember(prefetch, status);
    }
    return TESS_OK;
}

tess_status_t tess_prefetch_cancel(tess_prefetch_t *prefetch)
{
    if (!prefetch)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_prefetch_cancel: prefetch is NULL");
    prefetch->schedule.count = 0;
    while (prefetch->ready.count > 0) {
        int slot = tessi_slot_queue_pop(prefetch, &prefetch->ready);
        prefetch->slots[slot].state = TESSI_SLOT_FREE;
        tessi_slot_queue_push(prefetch, &prefetch->free, slot);
    }
    return tessi_prefetch_check(prefetch);
}
