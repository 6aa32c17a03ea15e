/* SPDX-License-Identifier: Apache-2.0 */
/* One set of tiles and the two ways in which a schedule of them passes through the device: by the
 * prefetcher, and by raw copies queued back to back on one stream each way.
 *
 * Raw copies go between the same arrays and rings of as many slots. They wait for nothing but their
 * start, so what they write is of no use, and tiles are filled again before they are checked. Both
 * ways at once they read one half of the tiles and write the other, because nothing orders the two.
 */
#include "core/internal.h"
#include "offload_bench.h"

#define VISITS_MAX INT64_C(10000)
#define VISITS_MIN INT64_C(32) /* filling and emptying a pipeline of three tiles stays small */
#define DIFFERENT_MIN INT64_C(8)
#define FILLING 0x3c /* as fp32 0.01, which Adam can go on from */
#define MIB (INT64_C(1) << 20)
#define BYTES_MAX (INT64_C(1) << 60)

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

int64_t offload_different(const bench_options_t *options, int64_t tile_bytes)
{
    if (options->tiles != BENCH_UNSET) return options->tiles;
    int64_t count = (options->total_bytes + tile_bytes - 1) / tile_bytes;
    return larger(count < VISITS_MAX ? count : VISITS_MAX, DIFFERENT_MIN);
}

int64_t offload_visits(const bench_options_t *options, int64_t tile_bytes)
{
    int64_t count = offload_different(options, tile_bytes);
    if (options->tiles != BENCH_UNSET) return count;
    return (larger(count, VISITS_MIN) + count - 1) / count * count;
}

int64_t offload_array_bytes(int64_t tile_bytes, int64_t count)
{
    int64_t bytes;
    int too_much = __builtin_mul_overflow(tile_bytes, count, &bytes);
    return too_much || bytes > BYTES_MAX ? BYTES_MAX : bytes;
}

int64_t offload_pinned_bytes(const bench_options_t *options, int64_t tile_bytes)
{
    int64_t count = offload_different(options, tile_bytes);
    return offload_array_bytes(tile_bytes, count < 3 ? count + 1 : count) + OFFLOAD_ALIGNMENT;
}

int64_t offload_tile_of(const bench_options_t *options, bench_offload_t what)
{
    int64_t unit = what == BENCH_OFFLOAD_FILE ? OFFLOAD_ALIGNMENT : OFFLOAD_UNIT_BYTES;
    int64_t bytes = options->tile_bytes;
    int cuda = options->device == BENCH_DEVICE_CUDA;
    /* Of Adam's tiles three make one, and 1e8 parameters should still be many. */
    if (bytes == BENCH_UNSET)
        bytes = what == BENCH_OFFLOAD_FILE   ? MIB * (cuda ? 16 : 1)
                : what == BENCH_OFFLOAD_ADAM ? cuda ? MIB * 4 : MIB / 4
                : cuda                       ? MIB * 16
                                             : MIB / 4;
    return (bytes + unit - 1) / unit * unit;
}

int64_t offload_tile_bytes(const offload_tiles_t *tiles, int64_t tile)
{
    int64_t left = tiles->array_bytes - tile * tiles->tile_bytes;
    return left < tiles->tile_bytes ? left : tiles->tile_bytes;
}

int64_t offload_pass_bytes(const offload_tiles_t *tiles)
{
    int ways = tiles->access == TESS_PREFETCH_READ_WRITE ? 2 : 1;
    return tiles->array_bytes * tiles->array_count * (tiles->visits / tiles->tile_count) * ways;
}

/* --- opening --------------------------------------------------------------------------------- */

static tess_status_t open_prefetch(offload_tiles_t *tiles)
{
    tess_prefetch_array_t arrays[TESS_PREFETCH_ARRAYS_MAX];
    for (int a = 0; a < tiles->array_count; a++)
        arrays[a] = (tess_prefetch_array_t){.host = tiles->home[a],
                                            .store = tiles->store,
                                            .bytes = tiles->array_bytes,
                                            .tile_bytes = tiles->tile_bytes,
                                            .access = tiles->access};
    tess_prefetch_config_t config = TESS_PREFETCH_CONFIG_DEFAULT;
    config.arrays = arrays;
    config.array_count = tiles->array_count;
    config.slot_count = (int)tiles->slot_count;
    config.staging = tiles->staging;
    config.staging_bytes = tiles->staging_bytes;
    tess_status_t status =
        tess_prefetch_create(tiles->bench->session->device, &config, &tiles->prefetch);
    if (status >= 0) tiles->slot_count = tess_prefetch_slot_count(tiles->prefetch);
    return status;
}

/* Device memory, written once, so that no page is new when the clock runs. */
static tess_status_t allocate(const offload_tiles_t *tiles, int64_t bytes, char **memory)
{
    bench_session_t *session = tiles->bench->session;
    void *pointer = NULL;
    tess_status_t status =
        tess_memory_allocate(session->device, TESS_MEMORY_DEVICE, bytes, &pointer);
    if (status < 0) return status;
    *memory = pointer;
    status = tess_stream_fill(session->stream, pointer, FILLING, bytes);
    return status < 0 ? status : tess_stream_synchronize(session->stream, session->timeout_ms);
}

/* 1 where there are too few tiles for raw copies to read some and write others. */
static int needs_aside(const offload_tiles_t *tiles)
{
    return tiles->access == TESS_PREFETCH_READ_WRITE && tiles->tile_count < 3 && !tiles->no_raw;
}

tess_status_t offload_tiles_open(offload_tiles_t *tiles)
{
    const bench_options_t *options = tiles->bench->session->options;
    tess_status_t status = TESS_OK;
    tiles->tile_count = (tiles->array_bytes + tiles->tile_bytes - 1) / tiles->tile_bytes;
    for (int a = 0; a < tiles->array_count && !tiles->store && status >= 0; a++) {
        void *home = NULL;
        status =
            tess_arena_allocate(tiles->bench->arena, tiles->array_bytes, OFFLOAD_ALIGNMENT, &home);
        tiles->home[a] = home;
    }
    if (status >= 0 && needs_aside(tiles)) {
        void *aside = NULL;
        status = tess_arena_allocate(tiles->bench->arena, tiles->array_count * tiles->tile_bytes,
                                     OFFLOAD_ALIGNMENT, &aside);
        tiles->aside = aside;
    }
    if (status >= 0) status = open_prefetch(tiles);
    int64_t ring = tiles->tile_bytes * tiles->array_count * tiles->slot_count;
    if (status >= 0 && !tiles->no_raw && tiles->access & TESS_PREFETCH_READ)
        status = allocate(tiles, ring, &tiles->ring_in);
    if (status >= 0 && !tiles->no_raw && tiles->access & TESS_PREFETCH_WRITE)
        status = allocate(tiles, ring, &tiles->ring_out);
    if (status >= 0 && options->check && tiles->array_count == 1) {
        status = allocate(tiles, tiles->array_bytes, &tiles->mirror);
        if (status >= 0) status = allocate(tiles, tiles->tile_bytes, &tiles->spare);
    }
    return status;
}

/* After a failure raw copies may still be queued, and what they met was told already. */
static void drain(const offload_bench_t *bench)
{
    tess_status_t in = bench->in ? tess_stream_synchronize(bench->in, -1) : TESS_OK;
    tess_status_t out = bench->out ? tess_stream_synchronize(bench->out, -1) : TESS_OK;
    (void)in, (void)out;
}

void offload_tiles_close(offload_tiles_t *tiles)
{
    tess_device_t *device = tiles->bench->session->device;
    drain(tiles->bench);
    tess_prefetch_destroy(tiles->prefetch);
    tess_memory_free(device, TESS_MEMORY_DEVICE, tiles->spare);
    tess_memory_free(device, TESS_MEMORY_DEVICE, tiles->mirror);
    tess_memory_free(device, TESS_MEMORY_DEVICE, tiles->ring_out);
    tess_memory_free(device, TESS_MEMORY_DEVICE, tiles->ring_in);
    if (tiles->bench->arena) tess_arena_free(tiles->bench->arena, tiles->aside);
    for (int a = 0; a < tiles->array_count && tiles->bench->arena; a++)
        tess_arena_free(tiles->bench->arena, tiles->home[a]);
    *tiles = (offload_tiles_t){.bench = tiles->bench};
}

/* --- passes ---------------------------------------------------------------------------------- */

static tess_status_t schedule(offload_tiles_t *tiles)
{
    tess_status_t status = TESS_OK;
    for (int64_t v = 0; v < tiles->visits && status >= 0; v += tiles->tile_count)
        status = tess_prefetch_schedule(tiles->prefetch, 0, 1, tiles->tile_count);
    return status;
}

tess_status_t offload_queue_tiles(offload_tiles_t *tiles, offload_hook_t hook, void *context)
{
    tess_stream_t *stream = tiles->bench->session->stream;
    tess_prefetch_tile_t tile;
    tess_status_t status = schedule(tiles);
    for (int64_t v = 0; v < tiles->visits && status >= 0; v++) {
        status = tess_prefetch_acquire(tiles->prefetch, stream, &tile);
        if (status >= 0 && hook) status = hook(context, &tile, v);
        if (status >= 0) status = tess_prefetch_release(tiles->prefetch, stream, &tile);
    }
    return status < 0 ? status : tess_prefetch_wait_home(tiles->prefetch, stream);
}

/* Where a raw copy of array `a` reads and writes: of several tiles both ways, in different halves,
 * without the last one, which may be short. */
static char *raw_home(const offload_tiles_t *tiles, int a, int64_t visit, int out)
{
    int64_t half = (tiles->tile_count - 1) / 2;
    if (tiles->access != TESS_PREFETCH_READ_WRITE)
        return tiles->home[a] + visit % tiles->tile_count * tiles->tile_bytes;
    if (half > 0) return tiles->home[a] + (visit % half + (out ? half : 0)) * tiles->tile_bytes;
    return out ? tiles->aside + a * tiles->tile_bytes : tiles->home[a];
}

static tess_status_t copy_raw(offload_tiles_t *tiles, int64_t visit)
{
    offload_bench_t *bench = tiles->bench;
    int64_t slot = visit % tiles->slot_count * tiles->array_count * tiles->tile_bytes;
    int64_t bytes = offload_tile_bytes(tiles, visit % tiles->tile_count);
    tess_status_t status = TESS_OK;
    for (int a = 0; a < tiles->array_count && status >= 0; a++) {
        int64_t at = slot + a * tiles->tile_bytes;
        if (tiles->ring_in)
            status = tess_stream_copy(bench->in, tiles->ring_in + at, raw_home(tiles, a, visit, 0),
                                      bytes);
        if (status >= 0 && tiles->ring_out)
            status = tess_stream_copy(bench->out, raw_home(tiles, a, visit, 1),
                                      tiles->ring_out + at, bytes);
    }
    return status;
}

/* Makes `stream` come behind what `before` holds. */
static tess_status_t follow(tess_event_t *event, tess_stream_t *before, tess_stream_t *stream)
{
    tess_status_t status = tess_event_record(event, before);
    return status < 0 ? status : tess_stream_wait_event(stream, event);
}

tess_status_t offload_queue_raw(offload_tiles_t *tiles, offload_hook_t hook, void *context)
{
    offload_bench_t *bench = tiles->bench;
    tess_stream_t *stream = bench->session->stream;
    tess_status_t status = tess_event_record(bench->fork, stream);
    if (status >= 0) status = tess_stream_wait_event(bench->in, bench->fork);
    if (status >= 0) status = tess_stream_wait_event(bench->out, bench->fork);
    for (int64_t v = 0; v < tiles->visits && status >= 0; v++) {
        status = copy_raw(tiles, v);
        if (status >= 0 && hook) status = hook(context, NULL, v);
    }
    if (status >= 0) status = follow(bench->joined, bench->in, stream);
    if (status >= 0) status = follow(bench->joined, bench->out, stream);
    return status;
}
