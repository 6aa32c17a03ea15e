/* SPDX-License-Identifier: Apache-2.0 */
/* Adam on the host: tiles dealt out to a team of threads, each tile run by the fastest twin that
 * this processor can run.
 *
 * Invariant: a tile's result depends on its elements alone, so neither the number of threads nor
 * the cutting into tiles changes a bit.
 */
#include <stdatomic.h>
#include <unistd.h>

#include "adam_host.h"

/* --- the choice of a twin --------------------------------------------------------------------- */

static _Atomic(const tessi_adam_twin_t *) chosen;

const tessi_adam_twin_t *tessi_adam_host_twin(void)
{
    const tessi_adam_twin_t *twin = atomic_load_explicit(&chosen, memory_order_acquire);
    if (twin) return twin;
    for (int i = 0; tessi_adam_twins[i]; i++)
        if (tessi_adam_twins[i]->usable()) twin = tessi_adam_twins[i];
    /* Threads that come here first at the same time choose alike. */
    atomic_store_explicit(&chosen, twin, memory_order_release);
    return twin;
}

void tessi_adam_host_force(const tessi_adam_twin_t *twin)
{
    atomic_store_explicit(&chosen, twin, memory_order_release);
}

/* --- steps ------------------------------------------------------------------------------------ */

typedef struct step_run {
    const tess_adam_t *adam;
    const tess_step_state_t *state;
    const tessi_adam_work_t *work;
    const tessi_adam_loops_t *loops;
    int past_cache;
} step_run_t;

/* Tile `index` of one range. */
static tessi_adam_slice_t slice_of(const tess_adam_t *adam, const tess_adam_range_t *range,
                                   int64_t index)
{
    int64_t first = index * TESSI_HOST_TILE, rest = range->count - first;
    return (tessi_adam_slice_t){.config = &adam->config,
                                .range = range,
                                .first = first,
                                .count = rest < TESSI_HOST_TILE ? rest : TESSI_HOST_TILE};
}

static void step_tile(void *argument, int64_t index)
{
    const step_run_t *run = argument;
    const tessi_adam_work_t *work = run->work;
    tessi_adam_slice_t slice;
    if (work->ranges) {
        const tessi_adam_tile_t *tile = &work->tiles[index];
        slice = (tessi_adam_slice_t){.config = &run->adam->config,
                                     .range = &work->ranges[tile->range],
                                     .first = tile->first,
                                     .count = tile->count};
    } else {
        slice = slice_of(run->adam, &work->range, index);
    }
    tessi_adam_pass_t pass = {
        .scalars = tessi_adam_scalars(&run->adam->constants, run->state, slice.range->weight_decay,
                                      slice.range->learning_rate_factor),
        .random_key = run->state->random_key,
        .past_cache = run->past_cache,
    };
    run->loops->step(&slice, &pass);
}

/* Of an element with fp32 moments: a pass over more of them than the cache holds leaves nothing in
 * it that a later one could use. */
#define STATE_BYTES 14

/* 32 MiB where the C library does not know. */
static int64_t cache_bytes(void)
{
    long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return bytes > 0 ? bytes : INT64_C(32) << 20;
}

void tessi_adam_host_step(const tess_adam_t *adam, const tess_step_state_t *state,
                          const tessi_adam_work_t *work)
{
    if (state->skip || work->tile_count == 0) return;
    step_run_t run = {.adam = adam,
                      .state = state,
                      .work = work,
                      .loops = tessi_adam_host_twin()->loops,
                      .past_cache = work->element_count > cache_bytes() / STATE_BYTES};
    tessi_team_run(adam->config.threads, work->tile_count, step_tile, &run);
}

/* --- export and import ------------------------------------------------------------------------ */

typedef struct transfer_run {
    const tess_adam_t *adam;
    const tess_adam_range_t *range;
    const tess_adam_values_t *values;
    void (*transfer)(const tessi_adam_slice_t *slice, const tess_adam_values_t *values);
} transfer_run_t;

static void transfer_tile(void *argument, int64_t index)
{
    const transfer_run_t *run = argument;
    tessi_adam_slice_t slice = slice_of(run->adam, run->range, index);
    run->transfer(&slice, run->values);
}

static void transfer(transfer_run_t *run)
{
    int64_t tiles = (run->range->count + TESSI_HOST_TILE - 1) / TESSI_HOST_TILE;
    tessi_team_run(run->adam->config.threads, tiles, transfer_tile, run);
}

void tessi_adam_host_export(const tess_adam_t *adam, const tess_adam_range_t *range,
                            const tess_adam_values_t *values)
{
    transfer_run_t run = {adam, range, values, tessi_adam_host_twin()->loops->export_values};
    transfer(&run);
}

void tessi_adam_host_import(const tess_adam_t *adam, const tess_adam_range_t *range,
                            const tess_adam_values_t *values)
{
    transfer_run_t run = {adam, range, values, tessi_adam_host_twin()->loops->import_values};
    transfer(&run);
}
