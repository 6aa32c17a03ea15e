/* SPDX-License-Identifier: Apache-2.0 */
/* A prefetcher's life: its config is checked, all it will ever need is taken, and at the end waited
 * for and given back.
 *
 * Invariant: nothing is freed while a stream of the prefetcher's, or a store, may still use it;
 * where that cannot be had within the deadline, memory is left behind and a line says so.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>

#include "prefetch_internal.h"

/* Of an array: so that all arrays of a tile, rounded up, can be added up. */
#define BYTES_MAX (INT64_MAX / 2 / TESS_PREFETCH_ARRAYS_MAX)

int64_t tessi_prefetch_bytes(const tessi_prefetch_array_t *array, int64_t tile)
{
    int64_t left_bytes = array->home.bytes - tile * array->home.tile_bytes;
    return left_bytes < array->home.tile_bytes ? left_bytes : array->home.tile_bytes;
}

tess_status_t tessi_prefetch_remember(tess_prefetch_t *prefetch, tess_status_t status)
{
    if (status < 0 && prefetch->failure == TESS_OK) {
        prefetch->failure = status;
        snprintf(prefetch->failure_detail, sizeof prefetch->failure_detail, "%s",
                 tess_last_error());
    }
    return status;
}

tess_status_t tessi_prefetch_check(tess_prefetch_t *prefetch)
{
    if (prefetch->failure < 0) return tessi_fail(prefetch->failure, "%s", prefetch->failure_detail);
    for (int kind = 0; kind < TESSI_LANE_COUNT; kind++) {
        const tessi_lane_t *lane = &prefetch->lanes[kind];
        if (lane->array_count == 0) continue;
        tess_status_t status = tessi_stream_fault(lane->in);
        if (status >= 0) status = tessi_stream_fault(lane->out);
        if (status < 0) return tessi_prefetch_remember(prefetch, status);
    }
    return TESS_OK;
}

/* --- the config ------------------------------------------------------------------------------- */

static int64_t tiles_of(const tess_prefetch_array_t *array)
{
    return (array->bytes - 1) / array->tile_bytes + 1;
}

static tess_status_t check_array(const tess_prefetch_array_t *array, int index, int64_t tile_count)
{
    if (!array->host == !array->store)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_create: arrays[%d] must have either host or store", index);
    if (array->bytes <= 0 || array->tile_bytes <= 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_create: arrays[%d] has %" PRId64 " bytes in tiles of "
                          "%" PRId64 ", but both must be positive",
                          index, array->bytes, array->tile_bytes);
    if (array->bytes > BYTES_MAX || array->tile_bytes > BYTES_MAX)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_create: arrays[%d] has %" PRId64 " bytes in tiles of "
                          "%" PRId64 ", which is more than can be counted",
                          index, array->bytes, array->tile_bytes);
    if (array->access < TESS_PREFETCH_READ || array->access > TESS_PREFETCH_READ_WRITE)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_create: arrays[%d].access is %d, which is no access",
                          index, (int)array->access);
    if (tiles_of(array) != tile_count)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_create: arrays[%d] has %" PRId64
                          " tiles, but arrays[0] has %" PRId64,
                          index, tiles_of(array), tile_count);
    if (!array->store) return TESS_OK;
    int64_t needed_bytes = array->bytes < array->tile_bytes ? array->bytes : array->tile_bytes;
    if (tess_store_tile_bytes(array->store) < needed_bytes ||
        tess_store_tile_count(array->store) < tile_count)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_create: arrays[%d] has %" PRId64 " tiles of %" PRId64
                          " bytes, but its store %" PRId64 " of %" PRId64,
                          index, tile_count, needed_bytes, tess_store_tile_count(array->store),
                          tess_store_tile_bytes(array->store));
    return TESS_OK;
}

static tess_status_t check_config(const tess_prefetch_config_t *config)
{
    if (!config->arrays || config->array_count < 1 ||
        config->array_count > TESS_PREFETCH_ARRAYS_MAX)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_create: %d arrays were given, but there must be 1 to %d",
                          config->arrays ? config->array_count : 0, TESS_PREFETCH_ARRAYS_MAX);
    if (config->slot_count < 0 || config->slot_count > TESSI_PREFETCH_SLOTS_MAX ||
        config->slot_bytes < 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_create: slot_count is %d and slot_bytes %" PRId64
                          ", but they must be 0 to %d, and not negative",
                          config->slot_count, config->slot_bytes, TESSI_PREFETCH_SLOTS_MAX);
    for (int a = 0; a < config->array_count; a++) {
        const tess_prefetch_array_t *first = &config->arrays[0];
        int64_t tile_count = first->bytes > 0 && first->tile_bytes > 0 ? tiles_of(first) : 0;
        tess_status_t status = check_array(&config->arrays[a], a, tile_count);
        if (status < 0) return status;
    }
    return TESS_OK;
}

static void add_array(tess_prefetch_t *prefetch, const tess_prefetch_array_t *given)
{
    tessi_prefetch_array_t *array = &prefetch->arrays[prefetch->array_count++];
    array->home = *given;
    array->lane = given->store ? TESSI_LANE_STORE : TESSI_LANE_MEMORY;
    array->offset = prefetch->stride_bytes;
    int64_t bytes = given->bytes < given->tile_bytes ? given->bytes : given->tile_bytes;
    bytes = (bytes + TESSI_PREFETCH_ALIGNMENT - 1) / TESSI_PREFETCH_ALIGNMENT;
    prefetch->stride_bytes += bytes * TESSI_PREFETCH_ALIGNMENT;
    tessi_lane_t *lane = &prefetch->lanes[array->lane];
    lane->array_count++;
    lane->reads |= (given->access & TESS_PREFETCH_READ) != 0;
    lane->writes |= (given->access & TESS_PREFETCH_WRITE) != 0;
    prefetch->writes |= lane->writes;
}

static tess_status_t choose_slots(tess_prefetch_t *prefetch, const tess_prefetch_config_t *config)
{
    int64_t stride_bytes = prefetch->stride_bytes, slots = config->slot_count, all_bytes;
    int64_t most = config->slot_bytes ? config->slot_bytes / stride_bytes : INT64_MAX;
    if (slots == 0) {
        slots = tessi_prefetch_slots_for(&tessi_prefetch_typical_link, stride_bytes);
        if (slots > prefetch->tile_count) slots = prefetch->tile_count;
        if (slots > most) slots = most;
    }
    if (slots == 0 || slots > most)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_create: %" PRId64 " slots of %" PRId64
                          " bytes do not fit into slot_bytes, which is %" PRId64,
                          slots ? slots : 1, stride_bytes, config->slot_bytes);
    if (__builtin_mul_overflow(slots, stride_bytes, &all_bytes))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_create: %" PRId64 " slots of %" PRId64
                          " bytes are more than can be counted",
                          slots, stride_bytes);
    prefetch->slot_count = (int)slots;
    return TESS_OK;
}

/* --- what it needs ---------------------------------------------------------------------------- */

static tess_status_t create_lane(tess_prefetch_t *prefetch, int kind)
{
    tessi_lane_t *lane = &prefetch->lanes[kind];
    tess_device_t *device = prefetch->device;
    if (lane->array_count == 0) return TESS_OK;
    tess_status_t status = tess_stream_create(device, TESS_PRIORITY_HIGH, &lane->in);
    if (status >= 0) status = tess_stream_create(device, TESS_PRIORITY_HIGH, &lane->out);
    for (int s = 0; s < prefetch->slot_count && status >= 0; s++) {
        tessi_slot_lane_t *slot = &prefetch->slots[s].lanes[kind];
        status = tess_event_create(device, TESS_EVENT_ORDER, &slot->filled);
        if (status >= 0) status = tess_event_create(device, TESS_EVENT_ORDER, &slot->home);
    }
    return status;
}

static tess_status_t create_slots(tess_prefetch_t *prefetch)
{
    size_t count = (size_t)prefetch->slot_count;
    prefetch->slots = tessi_calloc(count, sizeof *prefetch->slots);
    prefetch->free.slots = prefetch->slots ? tessi_calloc(count, sizeof(int)) : NULL;
    prefetch->ready.slots = prefetch->free.slots ? tessi_calloc(count, sizeof(int)) : NULL;
    if (!prefetch->ready.slots) return TESS_ERR_OUT_OF_MEMORY;
    void *memory = NULL;
    tess_status_t status = tess_memory_allocate(prefetch->device, TESS_MEMORY_DEVICE,
                                                tess_prefetch_device_bytes(prefetch), &memory);
    if (status < 0) return status;
    prefetch->memory = memory;
    for (int s = 0; s < prefetch->slot_count && status >= 0; s++) {
        tessi_slot_t *slot = &prefetch->slots[s];
        slot->memory = prefetch->memory + s * prefetch->stride_bytes;
        slot->tile = -1;
        tessi_slot_queue_push(prefetch, &prefetch->free, s);
        status = tess_event_create(prefetch->device, TESS_EVENT_ORDER, &slot->released);
    }
    return status;
}

tess_status_t tess_prefetch_create(tess_device_t *device, const tess_prefetch_config_t *config,
                                   tess_prefetch_t **prefetch)
{
    if (!device || !config || !prefetch)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_prefetch_create: %s is NULL",
                          !device   ? "device"
                          : !config ? "config"
                                    : "prefetch");
    tess_status_t status = check_config(config);
    if (status < 0) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "prefetch_create", -1, -1);
    tess_prefetch_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    made->device = device;
    made->tile_count = tiles_of(&config->arrays[0]);
    for (int a = 0; a < config->array_count; a++) add_array(made, &config->arrays[a]);
    TESS_TRY(choose_slots(made, config), err_free);
    TESS_TRY(create_slots(made), err_destroy);
    TESS_TRY(tessi_staging_create(made, config), err_destroy);
    for (int kind = 0; kind < TESSI_LANE_COUNT; kind++)
        TESS_TRY(create_lane(made, kind), err_destroy);
    *prefetch = made;
    return TESS_OK;

err_destroy:
    tess_prefetch_destroy(made);
    return status;
err_free:
    tessi_free(made);
    return status;
}

/* --- the end ---------------------------------------------------------------------------------- */

/* Milliseconds from now to the deadline. */
static int left_ms(int64_t deadline_ns)
{
    int64_t ms = (deadline_ns - tessi_now_ns()) / 1000000;
    return ms < 0 ? 0 : ms > INT_MAX ? INT_MAX : (int)ms;
}

/* All streams are waited for, also after a failure of one; the first failure is returned, but a
 * missed deadline before it. */
static tess_status_t drain(tess_prefetch_t *prefetch, int64_t deadline_ns)
{
    tess_status_t result = TESS_OK;
    for (int kind = 0; kind < TESSI_LANE_COUNT; kind++) {
        tess_stream_t *streams[] = {prefetch->lanes[kind].in, prefetch->lanes[kind].out};
        for (int s = 0; s < 2; s++) {
            if (!streams[s]) continue;
            tess_status_t status = tess_stream_synchronize(streams[s], left_ms(deadline_ns));
            if (status == TESS_ERR_TIMEOUT) return status;
            if (status < 0 && result == TESS_OK) result = tessi_prefetch_remember(prefetch, status);
        }
    }
    return result;
}

tess_status_t tess_prefetch_synchronize(tess_prefetch_t *prefetch, int timeout_ms)
{
    if (!prefetch)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_prefetch_synchronize: prefetch is NULL");
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "prefetch_synchronize", -1, -1);
    int64_t deadline_ns = tessi_deadline_ns(tessi_timeout_or_default(timeout_ms));
    /* Also after a failure: what still runs must not write into arrays that the caller looks at. */
    tess_status_t status = drain(prefetch, deadline_ns);
    if (status == TESS_ERR_TIMEOUT) return status;
    if (prefetch->lanes[TESSI_LANE_STORE].array_count > 0) {
        tess_status_t finished = tessi_staging_finish(prefetch, deadline_ns);
        if (finished == TESS_ERR_TIMEOUT) return finished;
        (void)tessi_prefetch_remember(prefetch, finished);
        if (status == TESS_OK) status = finished;
    }
    if (prefetch->failure < 0) return tessi_fail(prefetch->failure, "%s", prefetch->failure_detail);
    return status;
}

/* Released slots may still be read by the caller's streams; nothing else waits for those. */
static tess_status_t wait_released(tess_prefetch_t *prefetch, int64_t deadline_ns)
{
    for (int s = 0; prefetch->slots && s < prefetch->slot_count; s++) {
        tess_event_t *released = prefetch->slots[s].released;
        if (released && tess_event_synchronize(released, left_ms(deadline_ns)) == TESS_ERR_TIMEOUT)
            return TESS_ERR_TIMEOUT;
    }
    return TESS_OK;
}

static void destroy_lane(tess_prefetch_t *prefetch, int kind)
{
    for (int s = 0; prefetch->slots && s < prefetch->slot_count; s++) {
        tess_event_destroy(prefetch->slots[s].lanes[kind].filled);
        tess_event_destroy(prefetch->slots[s].lanes[kind].home);
    }
    tess_stream_destroy(prefetch->lanes[kind].in);
    tess_stream_destroy(prefetch->lanes[kind].out);
}

void tess_prefetch_destroy(tess_prefetch_t *prefetch)
{
    if (!prefetch) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "prefetch_destroy", -1, -1);
    int was_told = prefetch->failure < 0;
    int64_t deadline_ns = tessi_deadline_ns(tessi_timeout_or_default(-1));
    tess_status_t status = drain(prefetch, deadline_ns);
    if (status == TESS_ERR_TIMEOUT || wait_released(prefetch, deadline_ns) < 0) {
        tessi_log(TESSI_LOG_ERROR,
                  "a prefetcher was destroyed while its copies still ran (%s); it and its memory "
                  "are left behind",
                  tess_last_error());
        return;
    }
    if (status < 0 && !was_told)
        tessi_log(TESSI_LOG_ERROR, "a prefetcher was destroyed after a failure: %s",
                  tess_last_error());
    tessi_staging_destroy(prefetch);
    for (int kind = 0; kind < TESSI_LANE_COUNT; kind++) destroy_lane(prefetch, kind);
    for (int s = 0; prefetch->slots && s < prefetch->slot_count; s++)
        tess_event_destroy(prefetch->slots[s].released);
    tess_memory_free(prefetch->device, TESS_MEMORY_DEVICE, prefetch->memory);
    tessi_free(prefetch->ready.slots);
    tessi_free(prefetch->free.slots);
    tessi_free(prefetch->slots);
    tessi_free(prefetch);
}

int tess_prefetch_slot_count(const tess_prefetch_t *prefetch)
{
    return prefetch->slot_count;
}

int64_t tess_prefetch_device_bytes(const tess_prefetch_t *prefetch)
{
    return prefetch->slot_count * prefetch->stride_bytes;
}

int64_t tess_prefetch_tile_count(const tess_prefetch_t *prefetch)
{
    return prefetch->tile_count;
}
