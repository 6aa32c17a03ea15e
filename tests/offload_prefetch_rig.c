/* SPDX-License-Identifier: Apache-2.0 */
/* A prefetcher beside a model of it in plain memory. */
#include "offload_prefetch_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOG_BYTES (1 << 20)
#define SEEN_MAX 8192
#define HOME_BYTES (RIG_TILES_MAX * RIG_TILE_BYTES_MAX + 64)

static void *allocate(rig_t *rig, int64_t bytes)
{
    void *pointer;
    TEST_OK(tess_memory_allocate(rig->device, TESS_MEMORY_PINNED, bytes, &pointer));
    return pointer;
}

static void *heap(size_t bytes)
{
    void *pointer = malloc(bytes);
    assert_non_null(pointer);
    return pointer;
}

void rig_open(rig_t *rig, uint64_t seed)
{
    memset(rig, 0, sizeof *rig);
    rig->random = seed;
    rig->engine = "auto";
    rig->crash_safe = 1;
    TEST_OK(tess_device_open(test_device_name(0), &rig->device));
    for (int s = 0; s < RIG_STREAMS; s++)
        TEST_OK(tess_stream_create(rig->device, TESS_PRIORITY_NORMAL, &rig->streams[s]));
    TEST_OK(tess_event_create(rig->device, TESS_EVENT_ORDER, &rig->handover));
    rig->homes = allocate(rig, RIG_ARRAYS * HOME_BYTES);
    rig->log = allocate(rig, LOG_BYTES);
    rig->expected = heap(LOG_BYTES);
    rig->seen = heap(SEEN_MAX * sizeof *rig->seen);
    for (int a = 0; a < RIG_ARRAYS; a++) rig->models[a] = heap(HOME_BYTES);
}

void rig_close(rig_t *rig)
{
    for (int a = 0; a < RIG_ARRAYS; a++) free(rig->models[a]);
    free(rig->seen);
    free(rig->expected);
    for (int s = 0; s < RIG_STREAMS; s++) tess_stream_destroy(rig->streams[s]);
    tess_event_destroy(rig->handover);
    tess_memory_free(rig->device, TESS_MEMORY_PINNED, rig->log);
    tess_memory_free(rig->device, TESS_MEMORY_PINNED, rig->homes);
    tess_device_close(rig->device);
}

int64_t rig_pick(rig_t *rig, int64_t below)
{
    return (int64_t)(test_random(&rig->random) % (uint64_t)below);
}

static void fill_random(rig_t *rig, unsigned char *bytes, int64_t count)
{
    uint64_t word = 0;
    for (int64_t i = 0; i < count; i++) {
        if (i % 8 == 0) word = test_random(&rig->random);
        bytes[i] = (unsigned char)(word >> (8 * (i % 8)));
    }
}

/* --- arrays ----------------------------------------------------------------------------------- */

static int64_t bytes_of(const tess_prefetch_array_t *array, int64_t tile)
{
    int64_t left = array->bytes - tile * array->tile_bytes;
    return left < array->tile_bytes ? left : array->tile_bytes;
}

static unsigned char *model_of(rig_t *rig, int a, int64_t tile)
{
    return rig->models[a] + tile * rig->arrays[a].tile_bytes;
}

/* Tiles go into and out of stores through an aligned buffer. */
static void store_tile(rig_t *rig, int a, int64_t tile, int write)
{
    tess_prefetch_array_t *array = &rig->arrays[a];
    size_t alignment = (size_t)tess_store_alignment(array->store);
    size_t bytes = (size_t)tess_store_tile_bytes(array->store);
    unsigned char *buffer = NULL;
    tess_store_ticket_t ticket = 0;
    assert_int_equal(posix_memalign((void **)&buffer, alignment,
                                    (bytes + alignment - 1) / alignment * alignment),
                     0);
    memset(buffer, 0, bytes);
    if (write) {
        memcpy(buffer, model_of(rig, a, tile), (size_t)bytes_of(array, tile));
        TEST_OK(tess_store_write(array->store, tile, buffer, &ticket));
        TEST_OK(tess_store_wait(array->store, ticket));
    } else {
        TEST_OK(tess_store_read(array->store, tile, buffer, &ticket));
        TEST_OK(tess_store_wait(array->store, ticket));
        if (memcmp(buffer, model_of(rig, a, tile), (size_t)bytes_of(array, tile)) != 0)
            fail_msg("tile %lld of array %d in a store is not what was written last",
                     (long long)tile, a);
    }
    free(buffer);
}

static void open_store(rig_t *rig, int a)
{
    tess_prefetch_array_t *array = &rig->arrays[a];
    tess_store_config_t config = TESS_STORE_CONFIG_DEFAULT;
    config.tile_bytes = array->tile_bytes + rig_pick(rig, 2) * rig_pick(rig, 100);
    config.tile_count = rig->tile_count;
    config.crash_safe = rig->crash_safe;
    config.engine = rig->engine;
    config.depth = 4;
    snprintf(rig->paths[a], sizeof rig->paths[a], "test_prefetch_%d_%d.tiles", (int)getpid(), a);
    TEST_OK(tess_store_open(rig->paths[a], &config, &array->store));
    for (int64_t t = 0; t < rig->tile_count; t++) store_tile(rig, a, t, 1);
}

void rig_array(rig_t *rig, int in_store, int64_t tile_bytes, int64_t last_bytes,
               tess_prefetch_access_t access)
{
    int a = rig->array_count++;
    tess_prefetch_array_t *array = &rig->arrays[a];
    *array = (tess_prefetch_array_t){.tile_bytes = tile_bytes, .access = access};
    array->bytes = (rig->tile_count - 1) * tile_bytes + last_bytes;
    if (access & TESS_PREFETCH_WRITE) rig->writes = 1;
    fill_random(rig, rig->models[a], array->bytes);
    if (in_store) {
        open_store(rig, a);
    } else {
        array->host = rig->homes + a * HOME_BYTES;
        memcpy(array->host, rig->models[a], (size_t)array->bytes);
    }
}

void rig_create(rig_t *rig, int slot_count)
{
    tess_prefetch_config_t config = TESS_PREFETCH_CONFIG_DEFAULT;
    config.arrays = rig->arrays;
    config.array_count = rig->array_count;
    config.slot_count = rig->slot_count = slot_count;
    TEST_OK(tess_prefetch_create(rig->device, &config, &rig->prefetch));
    assert_int_equal(tess_prefetch_slot_count(rig->prefetch), slot_count);
    assert_int_equal(tess_prefetch_tile_count(rig->prefetch), rig->tile_count);
}

void rig_begin(rig_t *rig, rig_places_t places)
{
    rig->tile_count = 1 + rig_pick(rig, RIG_TILES_MAX);
    int count = 1 + (int)rig_pick(rig, RIG_ARRAYS);
    for (int a = 0; a < count; a++) {
        int64_t tile_bytes = 1 + rig_pick(rig, RIG_TILE_BYTES_MAX);
        int in_store = places == RIG_STORES || (places == RIG_MIXED && rig_pick(rig, 2));
        rig_array(rig, in_store, tile_bytes, 1 + rig_pick(rig, tile_bytes),
                  (tess_prefetch_access_t)(1 + rig_pick(rig, 3)));
    }
    rig_create(rig, 1 + (int)rig_pick(rig, RIG_SLOTS_MAX));
}

void rig_end(rig_t *rig)
{
    TEST_OK(tess_prefetch_synchronize(rig->prefetch, -1));
    rig_check(rig);
    rig_check_homes(rig);
    tess_prefetch_destroy(rig->prefetch);
    for (int a = 0; a < rig->array_count; a++) {
        if (!rig->arrays[a].store) continue;
        tess_store_close(rig->arrays[a].store);
        unlink(rig->paths[a]);
    }
    rig->array_count = rig->writes = 0;
    rig->next = rig->scheduled_count = rig->lists_used = 0;
}

/* --- schedules -------------------------------------------------------------------------------- */

static void renew_lists(rig_t *rig)
{
    if (rig->next < rig->scheduled_count) return;
    rig->next = rig->scheduled_count = rig->lists_used = 0;
}

void rig_schedule(rig_t *rig, int64_t first, int64_t step, int64_t count)
{
    renew_lists(rig);
    assert_true(rig->scheduled_count + count <= RIG_SCHEDULED_MAX);
    for (int64_t n = 0; n < count; n++) rig->scheduled[rig->scheduled_count++] = first + n * step;
    TEST_OK(tess_prefetch_schedule(rig->prefetch, first, step, count));
}

void rig_schedule_random(rig_t *rig)
{
    int64_t tiles = rig->tile_count, count = rig_pick(rig, 2 * tiles + 1);
    switch (rig_pick(rig, 5)) {
    case 0:
        rig_schedule(rig, 0, 1, tiles);
        return;
    case 1:
        rig_schedule(rig, tiles - 1, -1, tiles);
        return;
    case 2:
        rig_schedule(rig, rig_pick(rig, tiles), 0, 1 + count);
        return;
    case 3:
        rig_schedule(rig, rig_pick(rig, 2) && tiles > 1 ? 1 : 0, 2, tiles / 2);
        return;
    default:
        break;
    }
    renew_lists(rig);
    assert_true(rig->scheduled_count + count <= RIG_SCHEDULED_MAX);
    int64_t *list = rig->lists + rig->lists_used;
    for (int64_t n = 0; n < count; n++)
        list[n] = rig->scheduled[rig->scheduled_count++] = rig_pick(rig, tiles);
    rig->lists_used += count;
    TEST_OK(tess_prefetch_schedule_list(rig->prefetch, list, count));
}

void rig_cancel(rig_t *rig)
{
    TEST_OK(tess_prefetch_cancel(rig->prefetch));
    rig->next = rig->scheduled_count = rig->lists_used = 0;
}

/* --- the caller's work ------------------------------------------------------------------------ */

static unsigned char *take_log(rig_t *rig, int64_t bytes)
{
    unsigned char *place = rig->log + rig->log_used;
    rig->log_used += bytes;
    assert_true(rig->log_used <= LOG_BYTES);
    return place;
}

static void work_on_array(rig_t *rig, tess_stream_t *stream, const tess_prefetch_tile_t *tile,
                          int a)
{
    const tess_prefetch_array_t *array = &rig->arrays[a];
    int64_t bytes = bytes_of(array, tile->tile);
    unsigned char *slot = tile->data[a], *model = model_of(rig, a, tile->tile);
    assert_int_equal(tile->bytes[a], bytes);
    assert_int_equal((uintptr_t)slot % 64, 0);
    if (array->access & TESS_PREFETCH_READ) {
        rig_seen_t *seen = &rig->seen[rig->seen_count++];
        unsigned char *got = take_log(rig, bytes);
        *seen = (rig_seen_t){tile->tile, bytes, a, got, rig->expected + (got - rig->log)};
        memcpy(seen->expected, model, (size_t)bytes);
        TEST_OK(tess_stream_copy(stream, got, slot, bytes));
    }
    if (!(array->access & TESS_PREFETCH_WRITE)) return;
    int64_t first = 0, count = bytes; /* a tile that was read may be changed in part */
    if (array->access & TESS_PREFETCH_READ) {
        first = rig_pick(rig, bytes);
        count = rig_pick(rig, bytes - first + 1);
    }
    unsigned char *fresh = take_log(rig, count);
    fill_random(rig, fresh, count);
    memcpy(model + first, fresh, (size_t)count);
    TEST_OK(tess_stream_copy(stream, slot + first, fresh, count));
}

static int is_out(const rig_t *rig, int64_t tile)
{
    for (int n = 0; n < rig->out_count; n++)
        if (rig->out[n].tile.tile == tile) return 1;
    return 0;
}

int rig_acquire(rig_t *rig, int stream)
{
    tess_prefetch_tile_t tile;
    int refused = rig->next == rig->scheduled_count || rig->out_count == rig->slot_count;
    if (!refused && rig->writes) refused = is_out(rig, rig->scheduled[rig->next]);
    if (refused) {
        TEST_STATUS(tess_prefetch_acquire(rig->prefetch, rig->streams[stream], &tile),
                    TESS_ERR_STATE);
        return 0;
    }
    if (rig->log_used > LOG_BYTES / 2 || rig->seen_count > SEEN_MAX / 2) rig_check(rig);
    TEST_OK(tess_prefetch_acquire(rig->prefetch, rig->streams[stream], &tile));
    assert_int_equal(tile.tile, rig->scheduled[rig->next]);
    rig->next++;
    for (int a = 0; a < rig->array_count; a++) work_on_array(rig, rig->streams[stream], &tile, a);
    rig->out[rig->out_count].tile = tile;
    rig->out[rig->out_count++].stream = stream;
    return 1;
}

void rig_release(rig_t *rig, int n, int stream)
{
    if (stream != rig->out[n].stream) {
        TEST_OK(tess_event_record(rig->handover, rig->streams[rig->out[n].stream]));
        TEST_OK(tess_stream_wait_event(rig->streams[stream], rig->handover));
    }
    TEST_OK(tess_prefetch_release(rig->prefetch, rig->streams[stream], &rig->out[n].tile));
    rig->out[n] = rig->out[--rig->out_count];
}

void rig_run(rig_t *rig)
{
    while (rig->out_count > 0 || rig->next < rig->scheduled_count) {
        int acquire = rig->next < rig->scheduled_count && rig_pick(rig, 5) < 3;
        if (acquire) (void)rig_acquire(rig, (int)rig_pick(rig, RIG_STREAMS));
        else if (rig->out_count > 0)
            rig_release(rig, (int)rig_pick(rig, rig->out_count), (int)rig_pick(rig, RIG_STREAMS));
    }
}

/* --- checks ----------------------------------------------------------------------------------- */

void rig_check(rig_t *rig)
{
    for (int s = 0; s < RIG_STREAMS; s++) TEST_OK(tess_stream_synchronize(rig->streams[s], -1));
    for (int n = 0; n < rig->seen_count; n++) {
        const rig_seen_t *seen = &rig->seen[n];
        for (int64_t i = 0; i < seen->bytes; i++)
            if (seen->got[i] != seen->expected[i])
                fail_msg("tile %lld of array %d (access %d%s), byte %lld of %lld: %02x, not %02x",
                         (long long)seen->tile, seen->array, (int)rig->arrays[seen->array].access,
                         rig->arrays[seen->array].store ? ", store" : "", (long long)i,
                         (long long)seen->bytes, seen->got[i], seen->expected[i]);
    }
    rig->seen_count = 0;
    rig->log_used = 0;
}

void rig_check_homes(rig_t *rig)
{
    for (int a = 0; a < rig->array_count; a++) {
        const tess_prefetch_array_t *array = &rig->arrays[a];
        for (int64_t t = 0; t < rig->tile_count; t++) {
            if (array->store) {
                store_tile(rig, a, t, 0);
                continue;
            }
            const unsigned char *home = (unsigned char *)array->host + t * array->tile_bytes;
            if (memcmp(home, model_of(rig, a, t), (size_t)bytes_of(array, t)) != 0)
                fail_msg("tile %lld of array %d is at home not what was written last", (long long)t,
                         a);
        }
    }
}
