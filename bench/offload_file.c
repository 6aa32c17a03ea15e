/* SPDX-License-Identifier: Apache-2.0 */
/* Mode `file`: tiles of one file, written and read by a plain loop, by the store alone, and by the
 * prefetcher through the device; all with one engine, block size, depth and memory, and over the
 * same blocks of the disk.
 *
 * Invariant: a file that was there before is not touched; the one that is made here is removed.
 * A block device is overwritten.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/internal.h"
#include "offload_bench.h"
#include "raw_file.h"

#define STAGING_ALIGNMENT (INT64_C(1) << 20) /* more than any device has */
#define SLOTS_MIN 3
#define SLOTS_MAX 1024

static const struct {
    const char *name;
    tess_prefetch_access_t access;
} kinds[] = {
    {"write", TESS_PREFETCH_WRITE},
    {"read", TESS_PREFETCH_READ},
};
#define KINDS (int)(sizeof kinds / sizeof *kinds)

typedef struct file_case {
    offload_tiles_t tiles;
    char path[4096];
    int made; /* the file is ours */
    tess_store_t *store;
    char *memory; /* registered: staging, and what raw transfers use */
    int64_t memory_bytes;
    raw_file_t raw;
} file_case_t;

/* A transfer is never longer than its tile. */
static int64_t block_of(const bench_options_t *options)
{
    int64_t tile = offload_tile_of(options, BENCH_OFFLOAD_FILE);
    return options->block_bytes < tile ? options->block_bytes : tile;
}

/* So many tiles in flight that `depth` blocks are, while as many are computed on. */
static int64_t slots_of(const bench_options_t *options)
{
    if (options->slots > 0) return options->slots;
    int64_t tile = offload_tile_of(options, BENCH_OFFLOAD_FILE);
    int64_t bytes = offload_array_bytes(block_of(options), 2 * options->file_depth);
    int64_t slots = (bytes + tile - 1) / tile + 1;
    return slots < SLOTS_MIN ? SLOTS_MIN : slots > SLOTS_MAX ? SLOTS_MAX : slots;
}

static int64_t memory_bytes_of(const bench_options_t *options)
{
    int64_t tile = offload_tile_of(options, BENCH_OFFLOAD_FILE), slots = slots_of(options);
    int64_t staging = tess_prefetch_staging_bytes((int)slots, tile, OFFLOAD_ALIGNMENT);
    int64_t raw = offload_array_bytes(block_of(options), options->file_depth);
    return raw > staging ? raw : staging;
}

int64_t offload_file_bytes(const bench_options_t *options)
{
    return memory_bytes_of(options) + STAGING_ALIGNMENT;
}

/* --- what is timed --------------------------------------------------------------------------- */

static tess_status_t run_raw(const offload_job_t *job, double *seconds)
{
    const file_case_t *c = job->context;
    bench_session_t *session = c->tiles.bench->session;
    tess_status_t status = tess_world_barrier(session->world, session->timeout_ms);
    if (status < 0) return status;
    return strncmp(tess_store_description(c->store), "io_uring", 8) == 0
               ? raw_uring_run(&c->raw, seconds)
               : raw_threads_run(&c->raw, seconds);
}

/* All tiles through the store, as many at once as the prefetcher has. */
static tess_status_t move_tiles(const file_case_t *c)
{
    tess_store_ticket_t tickets[SLOTS_MAX] = {0};
    int64_t slots = c->tiles.slot_count, stride = c->tiles.tile_bytes;
    tess_status_t status = TESS_OK, ended;
    for (int64_t t = 0; t < c->tiles.tile_count && status >= 0; t++) {
        tess_store_ticket_t *ticket = &tickets[t % slots];
        char *buffer = c->memory + t % slots * stride;
        status = tess_store_wait(c->store, *ticket);
        *ticket = 0;
        if (status >= 0)
            status = c->raw.write ? tess_store_write(c->store, t, buffer, ticket)
                                  : tess_store_read(c->store, t, buffer, ticket);
    }
    for (int64_t s = 0; s < slots; s++) {
        ended = tess_store_wait(c->store, tickets[s]);
        if (status >= 0) status = ended;
    }
    return status;
}

static tess_status_t run_store(const offload_job_t *job, double *seconds)
{
    const file_case_t *c = job->context;
    bench_session_t *session = c->tiles.bench->session;
    tess_status_t status = tess_world_barrier(session->world, session->timeout_ms);
    int64_t start_ns = tessi_now_ns();
    if (status >= 0) status = move_tiles(c);
    *seconds = bench_seconds_since(start_ns);
    return status;
}

/* Writes are done when the prefetcher says so, and not when the device has queued them. */
static tess_status_t run_prefetch(const offload_job_t *job, double *seconds)
{
    file_case_t *c = job->context;
    bench_session_t *session = c->tiles.bench->session;
    tess_status_t status = tess_world_barrier(session->world, session->timeout_ms);
    int64_t start_ns = tessi_now_ns();
    if (status >= 0) status = offload_queue_tiles(&c->tiles, NULL, NULL);
    if (status >= 0) status = tess_stream_synchronize(session->stream, session->timeout_ms);
    if (status >= 0) status = tess_prefetch_synchronize(c->tiles.prefetch, session->timeout_ms);
    *seconds = bench_seconds_since(start_ns);
    return status;
}

/* --- one kind -------------------------------------------------------------------------------- */

enum { RAW, STORE, PREFETCH };

static tess_status_t measure(file_case_t *c, const char *name)
{
    offload_tiles_t *tiles = &c->tiles;
    bench_session_t *session = tiles->bench->session;
    const offload_job_t jobs[] = {
        [RAW] = {"raw transfers", run_raw, tiles, NULL, c},
        [STORE] = {"store", run_store, tiles, NULL, c},
        [PREFETCH] = {"prefetcher", run_prefetch, tiles, NULL, c},
        {0},
    };
    double medians[OFFLOAD_JOBS_MAX];
    int64_t wrong = -1;
    tess_status_t status = offload_measure(tiles->bench, jobs, medians);
    if (status >= 0 && session->options->check) {
        status = bench_agree(session, offload_check(tiles, &wrong));
        if (status >= 0) status = bench_sum(session, &wrong);
    }
    if (status < 0) return status;
    offload_row_t row = offload_row_of(tiles, BENCH_OFFLOAD_FILE, name);
    row.block_bytes = c->raw.block_bytes;
    row.depth = c->raw.depth;
    row.raw_s = medians[RAW];
    row.store_s = medians[STORE];
    row.s = medians[PREFETCH];
    row.wrong = wrong;
    snprintf(row.description, sizeof row.description, "%s", tess_store_description(c->store));
    offload_add_row(tiles->bench, &row);
    return TESS_OK;
}

static tess_status_t run_kind(file_case_t *c, int kind)
{
    offload_bench_t *bench = c->tiles.bench;
    const bench_options_t *options = bench->session->options;
    int64_t tile = offload_tile_of(options, BENCH_OFFLOAD_FILE);
    int64_t count = tess_store_tile_count(c->store);
    c->tiles = (offload_tiles_t){.bench = bench,
                                 .access = kinds[kind].access,
                                 .array_count = 1,
                                 .array_bytes = offload_array_bytes(tile, count),
                                 .tile_bytes = tile,
                                 .visits = count,
                                 .store = c->store,
                                 .staging = c->memory,
                                 .staging_bytes = c->memory_bytes,
                                 .slot_count = slots_of(options),
                                 .no_raw = 1};
    c->raw.write = kinds[kind].access == TESS_PREFETCH_WRITE;
    tess_status_t status = bench_agree(bench->session, offload_tiles_open(&c->tiles));
    if (status >= 0) status = measure(c, kinds[kind].name);
    bench_session_fail(bench->session, status); /* waits until nothing runs any more */
    offload_tiles_close(&c->tiles);
    return status;
}

/* --- the file -------------------------------------------------------------------------------- */

/* Nothing that is there is replaced, unless it is a device. */
static tess_status_t name_file(file_case_t *c)
{
    const bench_session_t *session = c->tiles.bench->session;
    char suffix[16] = "";
    struct stat found;
    if (session->size > 1) snprintf(suffix, sizeof suffix, ".%d", session->rank);
    if (snprintf(c->path, sizeof c->path, "%s%s", session->options->file, suffix) >=
        (int)sizeof c->path)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "--file: the name of the file is too long");
    if (stat(c->path, &found) != 0) {
        c->made = errno == ENOENT;
        return TESS_OK;
    }
    if (S_ISBLK(found.st_mode)) return TESS_OK;
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "--file: %s is there already; name a file that is not, or a block device",
                      c->path);
}

static tess_status_t open_store(file_case_t *c)
{
    const bench_options_t *options = c->tiles.bench->session->options;
    int64_t tile = offload_tile_of(options, BENCH_OFFLOAD_FILE);
    tess_store_config_t config = TESS_STORE_CONFIG_DEFAULT;
    config.tile_bytes = tile;
    config.tile_count = (options->file_bytes + tile - 1) / tile;
    config.engine = options->engine;
    config.depth = (int)options->file_depth;
    config.block_bytes = options->block_bytes;
    config.buffers = c->memory;
    config.buffers_bytes = c->memory_bytes;
    return tess_store_open(c->path, &config, &c->store);
}

static tess_status_t open_case(file_case_t *c)
{
    offload_bench_t *bench = c->tiles.bench;
    const bench_options_t *options = bench->session->options;
    void *memory = NULL;
    tess_status_t status = name_file(c);
    c->memory_bytes = memory_bytes_of(options);
    if (status >= 0)
        status = tess_arena_allocate(bench->arena, c->memory_bytes, STAGING_ALIGNMENT, &memory);
    c->memory = memory;
    if (status < 0) return status;
    memset(c->memory, 0x5a, (size_t)c->memory_bytes);
    status = open_store(c);
    if (status < 0) return status;
    int64_t alignment = tess_store_alignment(c->store), tile = tess_store_tile_bytes(c->store);
    if (tile % alignment != 0 || block_of(options) % alignment != 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "--tile and --block: multiples of %lld bytes are needed for %s",
                          (long long)alignment, c->path);
    /* The tiles lie behind one aligned block, side by side. */
    c->raw = (raw_file_t){.path = c->path,
                          .direct = strstr(tess_store_description(c->store), ", O_DIRECT,") != NULL,
                          .offset = alignment,
                          .bytes = offload_array_bytes(tile, tess_store_tile_count(c->store)),
                          .block_bytes = block_of(options),
                          .depth = (int)options->file_depth,
                          .memory = c->memory,
                          .memory_bytes = c->memory_bytes};
    return TESS_OK;
}

static void close_case(file_case_t *c)
{
    tess_store_close(c->store);
    if (c->made && c->store) unlink(c->path);
    tess_arena_free(c->tiles.bench->arena, c->memory);
}

tess_status_t offload_file_run(offload_bench_t *bench)
{
    bench_session_t *session = bench->session;
    file_case_t c = {.tiles = {.bench = bench}};
    tess_status_t status = bench_agree(session, open_case(&c));
    if (status >= 0) {
        bench_print(session, "#\n# file %s: %s\n", c.path, tess_store_description(c.store));
        offload_report_mode(bench, BENCH_OFFLOAD_FILE);
    }
    for (int k = 0; k < KINDS && status >= 0; k++) status = run_kind(&c, k);
    bench_session_fail(session, status);
    close_case(&c);
    return status;
}
