/* SPDX-License-Identifier: Apache-2.0 */
/* Whether the prefetcher brings and writes what it should: each tile's content on the device
 * changes places with new content during one pass, then both sides are compared byte by byte with
 * what was put there.
 *
 * The mirror on the device is both the source of what is written and the place for what was read,
 * so that comparing runs at the device's speed.
 */
#include "core/internal.h"
#include "offload_bench.h"
#include "pattern.h"

#define DAMAGE_BYTES 4
#define DAMAGE 0xa5 /* no pattern has these bytes */

static pattern_t pattern_of(const offload_tiles_t *tiles, uint64_t round)
{
    uint64_t seed = (uint64_t)tiles->bench->session->options->seed;
    return pattern_for_move(TESS_DTYPE_FP32, 2 * seed + round);
}

static pattern_range_t range_of(const offload_tiles_t *tiles)
{
    return (pattern_range_t){.rank_first = tiles->bench->session->rank,
                             .rank_count = 1,
                             .count = tiles->array_bytes / (int64_t)sizeof(float)};
}

static tess_status_t fill_mirror(offload_tiles_t *tiles, uint64_t round)
{
    pattern_t pattern = pattern_of(tiles, round);
    pattern_range_t range = range_of(tiles);
    return pattern_fill(&pattern, &range, tiles->mirror, tiles->bench->session->stream);
}

static tess_status_t check_mirror(offload_tiles_t *tiles, uint64_t round, int64_t *wrong)
{
    tess_stream_t *stream = tiles->bench->session->stream;
    pattern_t pattern = pattern_of(tiles, round);
    pattern_range_t range = range_of(tiles);
    int64_t found = 0;
    tess_status_t status = TESS_OK;
    if (tessi_fault("bench"))
        status = tess_stream_fill(stream, tiles->mirror, DAMAGE, DAMAGE_BYTES);
    if (status >= 0) status = pattern_check(&pattern, &range, tiles->mirror, stream, &found);
    if (status >= 0) *wrong += found;
    return status;
}

/* --- home, by other means than the prefetcher ------------------------------------------------ */

static tess_status_t move_in_store(offload_tiles_t *tiles, int64_t tile, int to_home)
{
    bench_session_t *session = tiles->bench->session;
    char *near = tiles->mirror + tile * tiles->tile_bytes;
    tess_store_ticket_t ticket = 0;
    tess_status_t status = TESS_OK;
    if (to_home) {
        status = tess_stream_copy(session->stream, tiles->staging, near, tiles->tile_bytes);
        if (status >= 0) status = tess_stream_synchronize(session->stream, session->timeout_ms);
        if (status >= 0) status = tess_store_write(tiles->store, tile, tiles->staging, &ticket);
        return status < 0 ? status : tess_store_wait(tiles->store, ticket);
    }
    status = tess_store_read(tiles->store, tile, tiles->staging, &ticket);
    if (status >= 0) status = tess_store_wait(tiles->store, ticket);
    if (status >= 0)
        status = tess_stream_copy(session->stream, near, tiles->staging, tiles->tile_bytes);
    return status < 0 ? status : tess_stream_synchronize(session->stream, session->timeout_ms);
}

static tess_status_t move_home(offload_tiles_t *tiles, int to_home)
{
    bench_session_t *session = tiles->bench->session;
    tess_status_t status = TESS_OK;
    for (int64_t t = 0; tiles->store && t < tiles->tile_count && status >= 0; t++)
        status = move_in_store(tiles, t, to_home);
    if (tiles->store || status < 0) return status;
    status =
        to_home
            ? tess_stream_copy(session->stream, tiles->home[0], tiles->mirror, tiles->array_bytes)
            : tess_stream_copy(session->stream, tiles->mirror, tiles->home[0], tiles->array_bytes);
    return status < 0 ? status : tess_stream_synchronize(session->stream, session->timeout_ms);
}

/* --- the pass -------------------------------------------------------------------------------- */

static tess_status_t change_places(void *context, const tess_prefetch_tile_t *tile, int64_t visit)
{
    (void)visit;
    offload_tiles_t *tiles = context;
    tess_stream_t *stream = tiles->bench->session->stream;
    char *mirror = tiles->mirror + tile->tile * tiles->tile_bytes;
    int64_t bytes = tile->bytes[0];
    int reads = (tiles->access & TESS_PREFETCH_READ) != 0;
    tess_status_t status = TESS_OK;
    if (reads) status = tess_stream_copy(stream, tiles->spare, tile->data[0], bytes);
    if (status >= 0 && tiles->access & TESS_PREFETCH_WRITE)
        status = tess_stream_copy(stream, tile->data[0], mirror, bytes);
    if (status >= 0 && reads) status = tess_stream_copy(stream, mirror, tiles->spare, bytes);
    return status;
}

tess_status_t offload_check(offload_tiles_t *tiles, int64_t *wrong)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "check", tiles->array_bytes, tiles->access);
    int timeout_ms = tiles->bench->session->timeout_ms;
    int64_t visits = tiles->visits;
    *wrong = 0;
    tess_status_t status = fill_mirror(tiles, 0);
    if (status >= 0) status = move_home(tiles, 1);
    if (status >= 0) status = fill_mirror(tiles, 1);
    if (status < 0) return status;
    tiles->visits = tiles->tile_count; /* every tile once */
    status = offload_queue_tiles(tiles, change_places, tiles);
    tiles->visits = visits;
    if (status >= 0) status = tess_stream_synchronize(tiles->bench->session->stream, timeout_ms);
    if (status >= 0) status = tess_prefetch_synchronize(tiles->prefetch, timeout_ms);
    if (status >= 0 && tiles->access & TESS_PREFETCH_READ) status = check_mirror(tiles, 0, wrong);
    if (status < 0 || !(tiles->access & TESS_PREFETCH_WRITE)) return status;
    status = move_home(tiles, 0);
    return status < 0 ? status : check_mirror(tiles, 1, wrong);
}
