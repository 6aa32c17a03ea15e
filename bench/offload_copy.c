/* SPDX-License-Identifier: Apache-2.0 */
/* Mode `copy`: tiles of every size to the device, back, and both ways at once, with nothing
 * computed on them.
 */
#include <math.h>

#include "core/internal.h"
#include "offload_bench.h"

#define SIZES_MAX 300 /* their rows fit OFFLOAD_ROWS_MAX, with those of the other modes */

static const struct {
    const char *name;
    tess_prefetch_access_t access;
} ways[] = {
    {"h2d", TESS_PREFETCH_READ},
    {"d2h", TESS_PREFETCH_WRITE},
    {"both", TESS_PREFETCH_READ_WRITE},
};
#define WAYS (int)(sizeof ways / sizeof *ways)

static int64_t rounded(int64_t bytes)
{
    return (bytes + OFFLOAD_UNIT_BYTES - 1) / OFFLOAD_UNIT_BYTES * OFFLOAD_UNIT_BYTES;
}

static int64_t next_size(const bench_options_t *options, int64_t bytes)
{
    double next = ceil((double)bytes * options->step_factor);
    return next < 0x1p62 ? (int64_t)next : INT64_MAX;
}

tess_status_t offload_copy_prepare(const bench_options_t *options)
{
    int count = 0;
    for (int64_t b = options->bytes_min; b <= options->bytes_max && count <= SIZES_MAX;
         b = next_size(options, b))
        count++;
    if (count <= SIZES_MAX) return TESS_OK;
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "-b, -e and -f ask for more than %d sizes",
                      SIZES_MAX);
}

int64_t offload_copy_bytes(const bench_options_t *options)
{
    int64_t most = 0;
    for (int64_t b = options->bytes_min; b <= options->bytes_max; b = next_size(options, b)) {
        int64_t bytes = offload_pinned_bytes(options, rounded(b));
        if (bytes > most) most = bytes;
    }
    return most;
}

static tess_status_t measure(offload_tiles_t *tiles, const char *name)
{
    offload_bench_t *bench = tiles->bench;
    const offload_job_t jobs[] = {
        {.name = "raw copies", .run = offload_run_raw, .tiles = tiles},
        {.name = "prefetcher", .run = offload_run_tiles, .tiles = tiles},
        {0},
    };
    double medians[OFFLOAD_JOBS_MAX];
    int64_t wrong = -1;
    tess_status_t status = offload_measure(bench, jobs, medians);
    if (status >= 0 && bench->session->options->check) {
        status = bench_agree(bench->session, offload_check(tiles, &wrong));
        if (status >= 0) status = bench_sum(bench->session, &wrong);
    }
    if (status < 0) return status;
    offload_row_t row = offload_row_of(tiles, BENCH_OFFLOAD_COPY, name);
    row.raw_s = medians[0];
    row.s = medians[1];
    row.wrong = wrong;
    offload_add_row(bench, &row);
    return TESS_OK;
}

static tess_status_t run_way(offload_bench_t *bench, int64_t tile_bytes, int way)
{
    const bench_options_t *options = bench->session->options;
    offload_tiles_t tiles = {
        .bench = bench,
        .access = ways[way].access,
        .array_count = 1,
        .array_bytes = offload_array_bytes(tile_bytes, offload_different(options, tile_bytes)),
        .tile_bytes = tile_bytes,
        .visits = offload_visits(options, tile_bytes),
        .slot_count = options->slots};
    tess_status_t status = bench_agree(bench->session, offload_tiles_open(&tiles));
    if (status >= 0) status = measure(&tiles, ways[way].name);
    bench_session_fail(bench->session, status); /* waits until nothing runs any more */
    offload_tiles_close(&tiles);
    return status;
}

tess_status_t offload_copy_run(offload_bench_t *bench)
{
    const bench_options_t *options = bench->session->options;
    tess_status_t status = TESS_OK;
    offload_report_mode(bench, BENCH_OFFLOAD_COPY);
    for (int64_t b = options->bytes_min; b <= options->bytes_max && status >= 0;
         b = next_size(options, b))
        for (int w = 0; w < WAYS && status >= 0; w++) status = run_way(bench, rounded(b), w);
    return status;
}
