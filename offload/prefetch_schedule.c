/* SPDX-License-Identifier: Apache-2.0 */
/* The prefetcher's schedule: runs of tiles, read ahead of the caller from one end, added to at the
 * other.
 *
 * Invariant: every tile in it was checked when it was scheduled, no run is empty, and a tile leaves
 * the schedule when its read is queued. So nothing here is touched for tiles that are read ahead.
 */
#include <inttypes.h>

#include "prefetch_internal.h"

int64_t tessi_schedule_next(const tessi_schedule_t *schedule)
{
    if (schedule->count == 0) return -1;
    const tessi_run_t *run = &schedule->runs[schedule->first];
    return run->tiles ? *run->tiles : run->next;
}

void tessi_schedule_advance(tessi_schedule_t *schedule)
{
    tessi_run_t *run = &schedule->runs[schedule->first];
    if (--run->left == 0) {
        schedule->first = (schedule->first + 1) % TESSI_PREFETCH_RUNS_MAX;
        schedule->count--;
    } else if (run->tiles) {
        run->tiles++;
    } else {
        run->next += run->step; /* stays in range: the run's end was checked */
    }
}

static int is_tile(const tess_prefetch_t *prefetch, int64_t tile)
{
    return tile >= 0 && tile < prefetch->tile_count;
}

static tess_status_t append(tess_prefetch_t *prefetch, const tessi_run_t *run)
{
    tess_status_t status = tessi_prefetch_check(prefetch);
    if (status < 0 || run->left == 0) return status;
    tessi_schedule_t *schedule = &prefetch->schedule;
    if (schedule->count == TESSI_PREFETCH_RUNS_MAX)
        return tessi_fail(
            TESS_ERR_STATE,
            "prefetch: %d runs of tiles are scheduled already; acquire some first, or "
            "schedule longer runs",
            TESSI_PREFETCH_RUNS_MAX);
    schedule->runs[(schedule->first + schedule->count) % TESSI_PREFETCH_RUNS_MAX] = *run;
    schedule->count++;
    return tessi_prefetch_advance(prefetch);
}

tess_status_t tess_prefetch_schedule(tess_prefetch_t *prefetch, int64_t first, int64_t step,
                                     int64_t count)
{
    if (!prefetch)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_prefetch_schedule: prefetch is NULL");
    int64_t last = first, way = 0;
    int beyond = count < 0;
    if (count > 0)
        beyond = __builtin_mul_overflow(step, count - 1, &way) ||
                 __builtin_add_overflow(first, way, &last) || !is_tile(prefetch, first) ||
                 !is_tile(prefetch, last);
    if (beyond)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_prefetch_schedule: %" PRId64 " tiles from %" PRId64
                          " in steps of %" PRId64 " are not all within [0, %" PRId64 ")",
                          count, first, step, prefetch->tile_count);
    return append(prefetch, &(tessi_run_t){.next = first, .step = step, .left = count});
}

tess_status_t tess_prefetch_schedule_list(tess_prefetch_t *prefetch, const int64_t *tiles,
                                          int64_t count)
{
    if (!prefetch || (!tiles && count > 0))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_prefetch_schedule_list: %s is NULL",
                          prefetch ? "tiles" : "prefetch");
    if (count < 0)
        return tessi_fail(
            TESS_ERR_INVALID_ARGUMENT,
            "tess_prefetch_schedule_list: count is %" PRId64 ", but must not be negative", count);
    for (int64_t n = 0; n < count; n++)
        if (!is_tile(prefetch, tiles[n]))
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "tess_prefetch_schedule_list: tiles[%" PRId64 "] is %" PRId64
                              ", which is not within [0, %" PRId64 ")",
                              n, tiles[n], prefetch->tile_count);
    return append(prefetch, &(tessi_run_t){.tiles = tiles, .left = count});
}
