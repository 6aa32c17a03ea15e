/* SPDX-License-Identifier: Apache-2.0 */
/* Page-locked host memory handed out in pieces: the public calls over a mapping and an allocator.
 *
 * Invariant: after creation nothing here reaches the system: a piece costs a lock, a bounded number
 * of steps in the allocator's table, and nothing else. The memory itself is never written.
 */
#include <inttypes.h>
#include <pthread.h>
#include <tessera/arena.h>
#include <unistd.h>

#include "arena_map.h"
#include "core/internal.h"
#include "segregated.h"

#define THREADS_MAX 1024

/* Address space that a mapping takes beyond its bytes stays below this. */
#define MAP_SPARE_BYTES ((int64_t)4 << 20)

struct tess_arena {
    tess_device_t *device;
    tessi_arena_map_t map;
    pthread_mutex_t lock; /* guards range */
    tessi_segregated_t *range;
};

static tess_status_t fail_config(const char *field, int64_t value, const char *rule)
{
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "tess_arena_create: %s is %" PRId64 ", but must %s", field, value, rule);
}

static tess_status_t check_config(const tess_arena_config_t *config)
{
    if (config->bytes <= 0) return fail_config("bytes", config->bytes, "be positive");
    if (config->numa_node < TESS_ARENA_NUMA_AUTO)
        return fail_config("numa_node", config->numa_node, "be a node, or TESS_ARENA_NUMA_AUTO");
    if (config->huge_pages != 0 && config->huge_pages != 1)
        return fail_config("huge_pages", config->huge_pages, "be 0 or 1");
    if (config->allow_pageable != 0 && config->allow_pageable != 1)
        return fail_config("allow_pageable", config->allow_pageable, "be 0 or 1");
    if (config->threads < 0 || config->threads > THREADS_MAX)
        return fail_config("threads", config->threads, "be from 0 to 1024");
    return TESS_OK;
}

tess_status_t tess_arena_create(tess_device_t *device, const tess_arena_config_t *config,
                                tess_arena_t **arena)
{
    if (!device || !config || !arena)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_arena_create: %s is NULL",
                          !device  ? "device"
                          : config ? "arena"
                                   : "config");
    tess_status_t status = check_config(config);
    if (status < 0) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "arena_create", config->bytes, -1);
    tess_arena_config_t rounded = *config;
    int64_t page_bytes = sysconf(_SC_PAGESIZE);
    if (config->bytes > INT64_MAX - MAP_SPARE_BYTES)
        return tessi_fail(TESS_ERR_OUT_OF_MEMORY,
                          "tess_arena_create: no machine has %" PRId64 " bytes", config->bytes);
    rounded.bytes = (config->bytes + page_bytes - 1) / page_bytes * page_bytes;

    tess_arena_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    made->device = device;
    pthread_mutex_init(&made->lock, NULL);
    TESS_TRY(tessi_arena_map_open(device, &rounded, &made->map), err_free_arena);
    TESS_TRY(tessi_segregated_create(rounded.bytes, &made->range), err_close_map);
    *arena = made;
    return TESS_OK;

err_close_map:
    tessi_arena_map_close(device, &made->map);
err_free_arena:
    pthread_mutex_destroy(&made->lock);
    tessi_free(made);
    return status;
}

static void report_leaks(const tess_arena_t *arena)
{
    tessi_segregated_totals_t totals = tessi_segregated_totals(arena->range);
    if (totals.piece_count == 0) return;
    int64_t bytes = 0, offset = tessi_segregated_next_used(arena->range, 0, &bytes);
    tessi_log(
        TESSI_LOG_ERROR,
        "arena of %" PRId64 " bytes on %s is destroyed, but %" PRId64 " %s not freed, %" PRId64
        " bytes together; the first has %" PRId64 " bytes at offset %" PRId64,
        arena->map.bytes, tess_device_name(arena->device), totals.piece_count,
        totals.piece_count == 1 ? "piece was" : "pieces were", totals.used_bytes, bytes, offset);
}

void tess_arena_destroy(tess_arena_t *arena)
{
    if (!arena) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "arena_destroy", arena->map.bytes, -1);
    report_leaks(arena);
    tessi_arena_map_close(arena->device, &arena->map);
    tessi_segregated_destroy(arena->range);
    pthread_mutex_destroy(&arena->lock);
    tessi_free(arena);
}

static tess_status_t fail_allocate(const tess_arena_t *arena, int64_t bytes, int64_t alignment,
                                   const tessi_segregated_totals_t *totals)
{
    return tessi_fail(TESS_ERR_OUT_OF_MEMORY,
                      "arena on %s: cannot allocate %" PRId64 " bytes aligned to %" PRId64
                      ": %" PRId64 " of %" PRId64 " bytes are free, at most %" PRId64
                      " of them in one piece (pieces in use: %" PRId64 ")",
                      tess_device_name(arena->device), bytes, alignment,
                      totals->capacity_bytes - totals->used_bytes, totals->capacity_bytes,
                      totals->largest_free_bytes, totals->piece_count);
}

tess_status_t tess_arena_allocate(tess_arena_t *arena, int64_t bytes, int64_t alignment,
                                  void **pointer)
{
    if (!arena || !pointer)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_arena_allocate: %s is NULL",
                          arena ? "pointer" : "arena");
    if (bytes < 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_arena_allocate: bytes is %" PRId64 ", but must not be negative",
                          bytes);
    if (alignment < 1 || alignment > TESSI_SEGREGATED_ALIGNMENT_MAX ||
        (alignment & (alignment - 1)))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_arena_allocate: alignment is %" PRId64
                          ", but must be a power of two from 1 to 2 MiB",
                          alignment);
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "arena_allocate", bytes, -1);
    tessi_segregated_totals_t totals = {0};
    pthread_mutex_lock(&arena->lock);
    int64_t offset = tessi_segregated_take(arena->range, bytes, alignment);
    if (offset < 0) totals = tessi_segregated_totals(arena->range);
    pthread_mutex_unlock(&arena->lock);
    if (offset < 0) return fail_allocate(arena, bytes, alignment, &totals);
    *pointer = arena->map.base + offset;
    return TESS_OK;
}

void tess_arena_free(tess_arena_t *arena, void *pointer)
{
    if (!arena || !pointer) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "arena_free", -1, -1);
    uintptr_t base = (uintptr_t)arena->map.base, at = (uintptr_t)pointer;
    int is_inside = at >= base && at - base < (uintptr_t)arena->map.bytes;
    pthread_mutex_lock(&arena->lock);
    int64_t bytes = is_inside ? tessi_segregated_give(arena->range, (int64_t)(at - base)) : -1;
    pthread_mutex_unlock(&arena->lock);
    if (bytes >= 0) return;
    tessi_log(TESSI_LOG_ERROR, "tess_arena_free: %p is no piece of this arena%s; nothing was freed",
              pointer, is_inside ? ", or was freed before" : "");
}

void tess_arena_statistics(const tess_arena_t *arena, tess_arena_statistics_t *statistics)
{
    /* Looking takes the lock too, which is no change that a caller could see. */
    pthread_mutex_t *lock = (pthread_mutex_t *)&arena->lock;
    pthread_mutex_lock(lock);
    tessi_segregated_totals_t totals = tessi_segregated_totals(arena->range);
    pthread_mutex_unlock(lock);
    *statistics = (tess_arena_statistics_t){.capacity_bytes = totals.capacity_bytes,
                                            .used_bytes = totals.used_bytes,
                                            .high_water_bytes = totals.high_water_bytes,
                                            .largest_free_bytes = totals.largest_free_bytes,
                                            .piece_count = totals.piece_count,
                                            .locked_bytes = arena->map.locked_bytes,
                                            .huge_bytes = arena->map.huge_bytes,
                                            .numa_node = arena->map.node};
}
