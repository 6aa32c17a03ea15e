/* SPDX-License-Identifier: Apache-2.0 */
/* The streamed step against steps of single tiles that never leave the device. Before it all tiles
 * hold the same, and gradients differ from tile to tile: a tile that comes home to another's place,
 * twice or not at all shows.
 */
#include <string.h>

#include "core/internal.h"
#include "offload_adam.h"
#include "pattern.h"

/* A tile of its own on the device, and where it is compared. */
typedef struct reference {
    char *device; /* (ADAM_ARRAYS, tile_bytes), parameters, and the weights of the start */
    char *host;   /* (ADAM_ARRAYS, tile_bytes), and parameters of both, in the arena */
    void *state[ADAM_ARRAYS];
    char *parameter, *start;
} reference_t;

static tess_status_t open_reference(const offload_adam_t *adam, int compares, reference_t *r)
{
    offload_bench_t *bench = adam->tiles.bench;
    bench_session_t *session = bench->session;
    int64_t tile = adam->tiles.tile_bytes;
    pattern_t pattern = pattern_for_move(TESS_DTYPE_FP32, (uint64_t)session->options->seed);
    pattern_range_t range = {.rank_count = 1, .count = tile / (int64_t)sizeof(float)};
    void *device = NULL, *host = NULL;
    tess_status_t status = tess_memory_allocate(session->device, TESS_MEMORY_DEVICE,
                                                (ADAM_ARRAYS + 2) * tile, &device);
    if (status < 0) return status;
    r->device = device;
    for (int a = 0; a < ADAM_ARRAYS; a++) r->state[a] = r->device + a * tile;
    r->parameter = r->device + ADAM_ARRAYS * tile;
    r->start = r->parameter + tile;
    status = pattern_fill(&pattern, &range, r->start, session->stream);
    if (status < 0 || !compares) return status;
    status = tess_arena_allocate(bench->arena, (ADAM_ARRAYS + 1) * tile, OFFLOAD_ALIGNMENT, &host);
    r->host = host;
    return status;
}

static void close_reference(const offload_adam_t *adam, reference_t *r)
{
    tess_arena_free(adam->tiles.bench->arena, r->host);
    tess_memory_free(adam->tiles.bench->session->device, TESS_MEMORY_DEVICE, r->device);
}

static tess_status_t start_tile(const offload_adam_t *adam, const reference_t *r)
{
    tess_stream_t *stream = adam->tiles.bench->session->stream;
    int64_t bytes = adam->tiles.tile_bytes;
    tess_status_t status = tess_stream_copy(stream, r->state[0], r->start, bytes);
    for (int a = 1; a < ADAM_ARRAYS && status >= 0; a++)
        status = tess_stream_fill(stream, r->state[a], 0, bytes);
    return status;
}

tess_status_t offload_adam_reset(offload_adam_t *adam)
{
    const offload_tiles_t *tiles = &adam->tiles;
    bench_session_t *session = tiles->bench->session;
    reference_t r = {0};
    tess_status_t status = open_reference(adam, 0, &r);
    if (status >= 0) status = start_tile(adam, &r);
    for (int64_t t = 0; t < tiles->tile_count; t++)
        for (int a = 0; a < ADAM_ARRAYS && status >= 0; a++)
            status = tess_stream_copy(session->stream, tiles->home[a] + t * tiles->tile_bytes,
                                      r.state[a], offload_tile_bytes(tiles, t));
    tess_status_t drained = tess_stream_synchronize(session->stream, session->timeout_ms);
    close_reference(adam, &r);
    return status < 0 ? status : drained;
}

static int64_t count_different(const char *a, const char *b, int64_t bytes, int element_bytes)
{
    int64_t different = 0;
    if (memcmp(a, b, (size_t)bytes) == 0) return 0;
    for (int64_t i = 0; i < bytes; i += element_bytes)
        different += memcmp(a + i, b + i, (size_t)element_bytes) != 0;
    return different;
}

/* Steps the tile by itself, and compares state and parameters. */
static tess_status_t check_tile(const offload_adam_t *adam, const reference_t *r, int64_t tile,
                                int64_t *wrong)
{
    const offload_tiles_t *tiles = &adam->tiles;
    bench_session_t *session = tiles->bench->session;
    int64_t bytes = offload_tile_bytes(tiles, tile), halves = bytes / 2;
    char *ours = r->host + ADAM_ARRAYS * tiles->tile_bytes, *alone = ours + tiles->tile_bytes / 2;
    tess_adam_range_t range = offload_adam_range(adam, tile, r->state);
    const void *parameter = range.parameter;
    range.parameter = r->parameter;
    tess_status_t status = start_tile(adam, r);
    if (status >= 0)
        status = tess_adam_step(adam->here.adam, session->stream, tess_step_state(adam->here.step),
                                &range);
    for (int a = 0; a < ADAM_ARRAYS && status >= 0; a++)
        status =
            tess_stream_copy(session->stream, r->host + a * tiles->tile_bytes, r->state[a], bytes);
    if (status >= 0) status = tess_stream_copy(session->stream, ours, parameter, halves);
    if (status >= 0) status = tess_stream_copy(session->stream, alone, r->parameter, halves);
    if (status >= 0) status = tess_stream_synchronize(session->stream, session->timeout_ms);
    if (status < 0) return status;
    for (int a = 0; a < ADAM_ARRAYS; a++)
        *wrong += count_different(tiles->home[a] + tile * tiles->tile_bytes,
                                  r->host + a * tiles->tile_bytes, bytes, (int)sizeof(float));
    *wrong += count_different(ours, alone, halves, ADAM_HALF_BYTES);
    return TESS_OK;
}

tess_status_t offload_adam_check(offload_adam_t *adam, int64_t *wrong)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "check", adam->tiles.array_bytes, -1);
    bench_session_t *session = adam->tiles.bench->session;
    reference_t r = {0};
    *wrong = 0;
    tess_status_t status = offload_adam_reset(adam);
    if (status >= 0) status = offload_queue_tiles(&adam->tiles, offload_adam_step, adam);
    if (status >= 0) status = tess_stream_synchronize(session->stream, session->timeout_ms);
    if (status >= 0) status = tess_prefetch_synchronize(adam->tiles.prefetch, session->timeout_ms);
    if (status >= 0 && tessi_fault("bench")) *adam->tiles.home[0] ^= 1;
    if (status >= 0) status = open_reference(adam, 1, &r);
    for (int64_t t = 0; t < adam->tiles.tile_count && status >= 0; t++)
        status = check_tile(adam, &r, t, wrong);
    bench_session_fail(session, status); /* waits until nothing runs any more */
    close_reference(adam, &r);
    return status;
}
