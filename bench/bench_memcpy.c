/* SPDX-License-Identifier: Apache-2.0 */
/* Times memcpy on one rank alone and on all ranks at once. Both buffers are touched before. */
#include "bench_memcpy.h"

#include <string.h>

#include "bench_measure.h"
#include "core/internal.h"

#define WINDOW_NS 8000000 /* copies are repeated for this long, or once */
#define CACHE_LEVELS_MAX 8
#define CACHE_BYTES_UNKNOWN (INT64_C(32) << 20)
#define WINDOWS 5 /* of which the median counts */
#define ARENA_MIN_BYTES (INT64_C(64) << 20)
#define ARENA_MAX_BYTES (INT64_C(256) << 20)

/* The largest cache that a core can use, as the ucx transport reckons it too; sysconf may add up
 * those of the whole machine. */
static int64_t last_cache_bytes(void)
{
    int64_t largest = 0;
    for (int i = 0; i < CACHE_LEVELS_MAX; i++) {
        char path[96], text[32] = "";
        int64_t bytes;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        FILE *file = fopen(path, "r");
        if (!file) break;
        if (fscanf(file, "%31s", text) != 1) text[0] = '\0';
        fclose(file);
        if (bench_read_bytes(text, &bytes) == TESS_OK && bytes > largest) largest = bytes;
    }
    return largest > 0 ? largest : CACHE_BYTES_UNKNOWN;
}

tess_status_t bench_copy_open(int64_t bytes, bench_copy_arena_t *arena)
{
    int64_t beyond_cache = 2 * last_cache_bytes(); /* each of two buffers */
    if (beyond_cache < ARENA_MIN_BYTES) beyond_cache = ARENA_MIN_BYTES;
    if (beyond_cache > ARENA_MAX_BYTES) beyond_cache = ARENA_MAX_BYTES;
    arena->bytes = bytes > beyond_cache ? bytes : beyond_cache;
    arena->source = tessi_aligned_alloc(4096, (size_t)arena->bytes);
    arena->destination = tessi_aligned_alloc(4096, (size_t)arena->bytes);
    if (!arena->source || !arena->destination) {
        bench_copy_close(arena);
        return TESS_ERR_OUT_OF_MEMORY;
    }
    memset(arena->source, 1, (size_t)arena->bytes);
    memset(arena->destination, 2, (size_t)arena->bytes);
    return TESS_OK;
}

void bench_copy_close(bench_copy_arena_t *arena)
{
    tessi_free(arena->source);
    tessi_free(arena->destination);
    *arena = (bench_copy_arena_t){0};
}

static double copy_for_a_while(const bench_copy_arena_t *arena, bench_copy_walk_t walk)
{
    int64_t start_ns = tessi_now_ns(), now_ns, copied = 0, offset = 0;
    do {
        memcpy(arena->destination + offset, arena->source + offset, (size_t)walk.bytes);
        copied += walk.bytes;
        offset += walk.stride_bytes;
        if (offset + walk.stride_bytes > walk.walk_bytes) offset = 0;
        now_ns = tessi_now_ns();
    } while (now_ns - start_ns < WINDOW_NS);
    return (double)copied / (double)(now_ns - start_ns);
}

tess_status_t bench_copy_measure(bench_session_t *session, const bench_copy_arena_t *arena,
                                 bench_copy_walk_t walk, bench_copy_t *copy)
{
    double alone[WINDOWS], together[WINDOWS];
    if (session->rank == 0) {
        copy_for_a_while(arena, walk); /* warm-up */
        for (int w = 0; w < WINDOWS; w++) alone[w] = copy_for_a_while(arena, walk);
    }
    tess_status_t status = tess_world_barrier(session->world, session->timeout_ms);
    for (int w = 0; status >= 0 && w < WINDOWS; w++) {
        together[w] = copy_for_a_while(arena, walk);
        if (session->size > 1) status = tess_world_barrier(session->world, session->timeout_ms);
    }
    if (status < 0) return status;
    double mine = bench_median(together, WINDOWS);
    double *all = tessi_calloc((size_t)session->size, sizeof *all);
    if (!all) return TESS_ERR_OUT_OF_MEMORY;
    status = bench_exchange(session, &mine, sizeof mine, all);
    double sum = 0;
    for (int r = 0; r < session->size; r++) sum += all[r];
    tessi_free(all);
    if (status < 0) return status;
    *copy = (bench_copy_t){.bytes = walk.bytes,
                           .alone = session->rank == 0 ? bench_median(alone, WINDOWS) : 0,
                           .all_ranks = sum / session->size};
    return TESS_OK;
}
