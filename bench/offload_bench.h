/* SPDX-License-Identifier: Apache-2.0 */
/* Tiles between pinned memory (or a file) and a device, through the prefetcher and as raw copies of
 * the same bytes, timed in turn within each repetition.
 *
 * Invariant: no figure without its raw twin from the same repetitions.
 */
#ifndef TESSERA_BENCH_OFFLOAD_BENCH_H
#define TESSERA_BENCH_OFFLOAD_BENCH_H

#include <tessera/arena.h>
#include <tessera/prefetch.h>

#include "bench_measure.h"
#include "gemm.h"

#define OFFLOAD_ROWS_MAX 1024
#define OFFLOAD_ALIGNMENT INT64_C(4096) /* of arrays in the arena */
#define OFFLOAD_UNIT_BYTES INT64_C(64)  /* tiles are multiples */
#define OFFLOAD_SLACK_BYTES (INT64_C(1) << 20)

/* One line of a table: a time through the prefetcher (or the store) and that of its raw twin. What
 * a mode does not have is 0. */
typedef struct offload_row {
    bench_offload_t what;
    const char *kind;           /* "h2d", "d2h", "both"; "read", "read_write", …; "adam" */
    int64_t tile_bytes;         /* of each array */
    int64_t tile_count, visits; /* different tiles, and tiles of the schedule */
    int slot_count;
    int64_t bytes; /* of one pass, all ranks, both ways */
    double s, raw_s;
    int64_t wrong; /* elements over all ranks; -1: not checked */

    /* beside compute: `s` and `raw_s` are without it */
    int64_t products;
    double compute_s, both_s, raw_both_s;
    double stalls_s, first_stall_s; /* of the compute stream; first: until there is a tile at all */

    /* Adam: parameters of all ranks */
    int64_t params;
    double cpu_s;
    int cpu_threads;

    /* file */
    int64_t block_bytes;
    int depth;
    double store_s;
    char description[192]; /* tess_store_description */
} offload_row_t;

typedef struct offload_bench {
    bench_session_t *session;
    tess_arena_t *arena;
    tess_stream_t *in, *out;   /* of raw copies; the session's stream computes */
    tess_event_t *start, *end; /* with time stamps */
    tess_event_t *fork, *joined;
    gemm_t *gemm;        /* of mode compute */
    offload_row_t *rows; /* (OFFLOAD_ROWS_MAX) */
    int row_count;
} offload_bench_t;

/* --- tiles (offload_tiles.c, offload_check.c) ------------------------------------------------ */

/* Tiles of arrays that are alike. Fields up to `store` are set before offload_tiles_open. */
typedef struct offload_tiles {
    offload_bench_t *bench;
    tess_prefetch_access_t access;
    int array_count;
    int64_t array_bytes, tile_bytes; /* the last tile is shorter where it does not fit */
    int64_t visits;                  /* tiles of the schedule: round after round */
    tess_store_t *store;             /* home of the one array; NULL: pinned memory */
    void *staging;                   /* of the store */
    int64_t staging_bytes;
    int64_t slot_count; /* 0: the prefetcher chooses; then what it chose */
    int no_raw;         /* 1: there are no raw copies of these */

    int64_t tile_count;
    char *home[TESS_PREFETCH_ARRAYS_MAX]; /* (array_bytes) in the arena */
    tess_prefetch_t *prefetch;
    char *aside;              /* (array_count, tile_bytes) in the arena, of raw copies; or NULL */
    char *ring_in, *ring_out; /* device memory of raw copies: as many slots */
    char *mirror;             /* (array_bytes) device memory: what is checked */
    char *spare;              /* (tile_bytes) device memory */
} offload_tiles_t;

/* What is computed at a tile's turn; `tile` is NULL beside raw copies. */
typedef tess_status_t (*offload_hook_t)(void *context, const tess_prefetch_tile_t *tile,
                                        int64_t visit);

/* On failure the tiles can still be closed. */
tess_status_t offload_tiles_open(offload_tiles_t *tiles);
void offload_tiles_close(offload_tiles_t *tiles);

/* Bytes of an array that tile t has. */
int64_t offload_tile_bytes(const offload_tiles_t *tiles, int64_t tile);

/* Bytes of one pass of this rank, both ways. */
int64_t offload_pass_bytes(const offload_tiles_t *tiles);

/* Queue one pass over the schedule. The session's stream then holds the end of it: all tiles
 * arrived, and those that are written are home, as far as host memory goes. hook may be NULL. */
tess_status_t offload_queue_tiles(offload_tiles_t *tiles, offload_hook_t hook, void *context);
tess_status_t offload_queue_raw(offload_tiles_t *tiles, offload_hook_t hook, void *context);

/* Moves every tile once with known data and looks at all of it, on both sides. */
tess_status_t offload_check(offload_tiles_t *tiles, int64_t *wrong);

/* --- timing (offload_time.c) ----------------------------------------------------------------- */

/* One thing that is timed; `run` gives its seconds on this rank. */
typedef struct offload_job offload_job_t;
struct offload_job {
    const char *name; /* NULL ends a list */
    tess_status_t (*run)(const offload_job_t *job, double *seconds);
    offload_tiles_t *tiles;
    offload_hook_t hook;
    void *context;
};

#define OFFLOAD_JOBS_MAX 8

/* Jobs between two events of the session's stream. */
tess_status_t offload_run_tiles(const offload_job_t *job, double *seconds);
tess_status_t offload_run_raw(const offload_job_t *job, double *seconds);

/* Around what is queued behind `queue(context)`. */
tess_status_t offload_time(offload_bench_t *bench, tess_status_t (*queue)(void *context),
                           void *context, double *seconds);

/* Collective. All jobs in turn, repetition by repetition; medians of the slowest rank. */
tess_status_t offload_measure(offload_bench_t *bench, const offload_job_t *jobs, double *medians);

/* --- modes (offload_copy.c and so on): each is collective and adds rows ----------------------- */

tess_status_t offload_copy_run(offload_bench_t *bench);
tess_status_t offload_compute_run(offload_bench_t *bench);
tess_status_t offload_adam_run(offload_bench_t *bench);
tess_status_t offload_file_run(offload_bench_t *bench);

/* TESS_ERR_INVALID_ARGUMENT where more sizes are asked for than there is room for rows. */
tess_status_t offload_copy_prepare(const bench_options_t *options);

/* Pinned bytes that a mode takes at once. */
int64_t offload_copy_bytes(const bench_options_t *options);
int64_t offload_compute_bytes(const bench_options_t *options);
int64_t offload_adam_bytes(const bench_options_t *options);
int64_t offload_file_bytes(const bench_options_t *options);

/* The tile of a mode, by --tile or as it is best shown; and how many of them a schedule has. */
int64_t offload_tile_of(const bench_options_t *options, bench_offload_t what);
int64_t offload_visits(const bench_options_t *options, int64_t tile_bytes);

/* Different tiles: all of the schedule, or of large ones a few in turn. */
int64_t offload_different(const bench_options_t *options, int64_t tile_bytes);

/* Bytes of an array of `count` tiles; what no memory holds, where that is no number. */
int64_t offload_array_bytes(int64_t tile_bytes, int64_t count);

/* What one array of a schedule takes of the arena, with what raw copies of few tiles need. */
int64_t offload_pinned_bytes(const bench_options_t *options, int64_t tile_bytes);

/* Adds a row and prints it; counts what is wrong. */
void offload_add_row(offload_bench_t *bench, const offload_row_t *row);

/* A row with what the tiles say of themselves; bytes are those of all ranks. */
offload_row_t offload_row_of(const offload_tiles_t *tiles, bench_offload_t what, const char *kind);

/* --- results (offload_report.c, offload_results.c) ------------------------------------------- */

double offload_gbps(const offload_row_t *row, double seconds);
const char *offload_name(bench_offload_t what); /* "copy" */
void offload_report_start(offload_bench_t *bench);
void offload_report_mode(offload_bench_t *bench, bench_offload_t what);
void offload_report_row(offload_bench_t *bench, const offload_row_t *row);
void offload_report_end(offload_bench_t *bench);
tess_status_t offload_write(offload_bench_t *bench);

#endif
