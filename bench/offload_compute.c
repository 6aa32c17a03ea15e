/* SPDX-License-Identifier: Apache-2.0 */
/* Mode `compute`: matrix products beside tiles that are read, and beside tiles that are read and
 * written. Products alone, tiles alone and both are timed in turn, and so are raw copies alone and
 * beside the same products, which says what the hardware allows.
 *
 * Where the compute stream waits is measured in passes of their own, because a pair of time stamps
 * at every tile costs time itself.
 */
#include <math.h>

#include "core/internal.h"
#include "offload_bench.h"

#define CALIBRATION_PRODUCTS 10

static const struct {
    const char *name;
    tess_prefetch_access_t access;
} kinds[] = {
    {"read", TESS_PREFETCH_READ},
    {"read_write", TESS_PREFETCH_READ_WRITE},
};
#define KINDS (int)(sizeof kinds / sizeof *kinds)

typedef struct beside {
    offload_tiles_t tiles;
    int64_t products;               /* in one pass */
    tess_event_t **before, **after; /* (visits) around every wait for a tile */
    double first_stall_s;
} beside_t;

int64_t offload_compute_bytes(const bench_options_t *options)
{
    return offload_pinned_bytes(options, offload_tile_of(options, BENCH_OFFLOAD_COMPUTE));
}

/* --- what is timed --------------------------------------------------------------------------- */

/* The products of one tile: as even a share as whole products allow. */
static tess_status_t compute(void *context, const tess_prefetch_tile_t *tile, int64_t visit)
{
    (void)tile;
    const beside_t *beside = context;
    offload_bench_t *bench = beside->tiles.bench;
    int64_t visits = beside->tiles.visits;
    int64_t from = beside->products * visit / visits, to = beside->products * (visit + 1) / visits;
    tess_status_t status = TESS_OK;
    for (int64_t p = from; p < to && status >= 0; p++)
        status = gemm_queue(bench->gemm, bench->session->stream);
    return status;
}

static tess_status_t queue_products(void *context)
{
    beside_t *beside = context;
    tess_status_t status = TESS_OK;
    for (int64_t v = 0; v < beside->tiles.visits && status >= 0; v++)
        status = compute(beside, NULL, v);
    return status;
}

static tess_status_t run_products(const offload_job_t *job, double *seconds)
{
    return offload_time(job->tiles->bench, queue_products, job->context, seconds);
}

/* One pass as offload_queue_tiles makes it, with a stamp on either side of each acquire. */
static tess_status_t queue_stamped(void *context)
{
    beside_t *beside = context;
    offload_tiles_t *tiles = &beside->tiles;
    tess_stream_t *stream = tiles->bench->session->stream;
    tess_prefetch_tile_t tile;
    tess_status_t status = TESS_OK;
    for (int64_t v = 0; v < tiles->visits && status >= 0; v += tiles->tile_count)
        status = tess_prefetch_schedule(tiles->prefetch, 0, 1, tiles->tile_count);
    for (int64_t v = 0; v < tiles->visits && status >= 0; v++) {
        status = tess_event_record(beside->before[v], stream);
        if (status >= 0) status = tess_prefetch_acquire(tiles->prefetch, stream, &tile);
        if (status >= 0) status = tess_event_record(beside->after[v], stream);
        if (status >= 0) status = compute(beside, &tile, v);
        if (status >= 0) status = tess_prefetch_release(tiles->prefetch, stream, &tile);
    }
    return status < 0 ? status : tess_prefetch_wait_home(tiles->prefetch, stream);
}

/* *seconds is the sum of all waits. */
static tess_status_t run_stalls(const offload_job_t *job, double *seconds)
{
    beside_t *beside = job->context;
    double unused, elapsed_ms, sum_ms = 0;
    tess_status_t status = offload_time(job->tiles->bench, queue_stamped, beside, &unused);
    for (int64_t v = 0; v < beside->tiles.visits && status >= 0; v++) {
        status = tess_event_elapsed(beside->before[v], beside->after[v], &elapsed_ms);
        if (v == 0) beside->first_stall_s = elapsed_ms * 1e-3;
        sum_ms += elapsed_ms;
    }
    *seconds = sum_ms * 1e-3;
    return status;
}

/* --- one kind -------------------------------------------------------------------------------- */

static tess_status_t open_stamps(beside_t *beside)
{
    int64_t visits = beside->tiles.visits;
    tess_device_t *device = beside->tiles.bench->session->device;
    beside->before = tessi_calloc((size_t)visits, sizeof(tess_event_t *));
    beside->after = tessi_calloc((size_t)visits, sizeof(tess_event_t *));
    tess_status_t status = beside->before && beside->after ? TESS_OK : TESS_ERR_OUT_OF_MEMORY;
    for (int64_t v = 0; v < visits && status >= 0; v++) {
        status = tess_event_create(device, TESS_EVENT_TIMING, &beside->before[v]);
        if (status >= 0) status = tess_event_create(device, TESS_EVENT_TIMING, &beside->after[v]);
    }
    return status;
}

static void close_beside(beside_t *beside)
{
    for (int64_t v = 0; v < beside->tiles.visits; v++) {
        if (beside->before) tess_event_destroy(beside->before[v]);
        if (beside->after) tess_event_destroy(beside->after[v]);
    }
    tessi_free(beside->after);
    tessi_free(beside->before);
    offload_tiles_close(&beside->tiles);
}

/* Collective: as many products as take as long as a pass over the tiles, alike on all ranks. */
static tess_status_t choose_products(beside_t *beside)
{
    offload_bench_t *bench = beside->tiles.bench;
    const bench_options_t *options = bench->session->options;
    beside->products = options->gemm_count;
    if (beside->products != BENCH_UNSET) return TESS_OK;
    const offload_job_t pass = {.tiles = &beside->tiles};
    const offload_job_t product = {.tiles = &beside->tiles, .context = beside};
    double tiles_s = 0, products_s = 0;
    beside->products = CALIBRATION_PRODUCTS;
    tess_status_t status = TESS_OK;
    for (int i = 0; i < 2 && status >= 0; i++) { /* the first one warms up */
        status = offload_run_tiles(&pass, &tiles_s);
        if (status >= 0) status = run_products(&product, &products_s);
    }
    status = bench_agree(bench->session, status);
    double found = rint(tiles_s / fmax(products_s, 1e-9) * CALIBRATION_PRODUCTS);
    beside->products = found < 1 ? 1 : (int64_t)fmin(found, 1e6);
    return status < 0 ? status : bench_from_root(bench->session, &beside->products);
}

enum { COMPUTE, RAW, TILES, RAW_BOTH, BOTH, STALLS };

static tess_status_t measure(beside_t *beside, const char *name)
{
    offload_bench_t *bench = beside->tiles.bench;
    bench_session_t *session = bench->session;
    offload_tiles_t *tiles = &beside->tiles;
    const offload_job_t jobs[] = {
        [COMPUTE] = {"products", run_products, tiles, NULL, beside},
        [RAW] = {"raw copies", offload_run_raw, tiles, NULL, NULL},
        [TILES] = {"prefetcher", offload_run_tiles, tiles, NULL, NULL},
        [RAW_BOTH] = {"raw copies and products", offload_run_raw, tiles, compute, beside},
        [BOTH] = {"prefetcher and products", offload_run_tiles, tiles, compute, beside},
        [STALLS] = {"stalls", run_stalls, tiles, NULL, beside},
        {0},
    };
    double medians[OFFLOAD_JOBS_MAX];
    int64_t wrong = -1;
    tess_status_t status = choose_products(beside);
    if (status >= 0) status = offload_measure(bench, jobs, medians);
    if (status >= 0) status = bench_largest(session, &beside->first_stall_s, 1);
    if (status >= 0 && session->options->check) {
        status = bench_agree(session, offload_check(tiles, &wrong));
        if (status >= 0) status = bench_sum(session, &wrong);
    }
    if (status < 0) return status;
    offload_row_t row = offload_row_of(tiles, BENCH_OFFLOAD_COMPUTE, name);
    row.products = beside->products;
    row.compute_s = medians[COMPUTE];
    row.raw_s = medians[RAW];
    row.s = medians[TILES];
    row.raw_both_s = medians[RAW_BOTH];
    row.both_s = medians[BOTH];
    row.stalls_s = medians[STALLS];
    row.first_stall_s = beside->first_stall_s;
    row.wrong = wrong;
    offload_add_row(bench, &row);
    return TESS_OK;
}

static tess_status_t open_beside(beside_t *beside)
{
    tess_status_t status = offload_tiles_open(&beside->tiles);
    return status < 0 ? status : open_stamps(beside);
}

static tess_status_t run_kind(offload_bench_t *bench, int kind)
{
    const bench_options_t *options = bench->session->options;
    int64_t tile_bytes = offload_tile_of(options, BENCH_OFFLOAD_COMPUTE);
    beside_t beside = {.tiles = {.bench = bench,
                                 .access = kinds[kind].access,
                                 .array_count = 1,
                                 .array_bytes = offload_array_bytes(
                                     tile_bytes, offload_different(options, tile_bytes)),
                                 .tile_bytes = tile_bytes,
                                 .visits = offload_visits(options, tile_bytes),
                                 .slot_count = options->slots}};
    tess_status_t status = bench_agree(bench->session, open_beside(&beside));
    if (status >= 0) status = measure(&beside, kinds[kind].name);
    bench_session_fail(bench->session, status); /* waits until nothing runs any more */
    close_beside(&beside);
    return status;
}

tess_status_t offload_compute_run(offload_bench_t *bench)
{
    bench_session_t *session = bench->session;
    tess_status_t status =
        bench_agree(session, gemm_create(session->device, session->options->gemm,
                                         tess_world_local_size(session->world), &bench->gemm));
    if (status >= 0) offload_report_mode(bench, BENCH_OFFLOAD_COMPUTE);
    for (int k = 0; k < KINDS && status >= 0; k++) status = run_kind(bench, k);
    bench_session_fail(session, status);
    gemm_destroy(bench->gemm);
    bench->gemm = NULL;
    return status;
}
