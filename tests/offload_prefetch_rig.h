/* SPDX-License-Identifier: Apache-2.0 */
/* A prefetcher beside a model of it in plain memory.
 *
 * The caller's work is copies: what a tile holds is copied from its slot into a log, and what it is
 * to hold from the log into its slot, in stream order, which runs alike on the host and on CUDA.
 * The model is changed in the order of the calls. rig_check compares all that was logged.
 */
#ifndef TESSERA_TESTS_OFFLOAD_PREFETCH_RIG_H
#define TESSERA_TESTS_OFFLOAD_PREFETCH_RIG_H

#include "harness.h"

#define RIG_STREAMS 2
#define RIG_SLOTS_MAX 6
#define RIG_TILES_MAX 12
#define RIG_TILE_BYTES_MAX 700
#define RIG_ARRAYS 4
#define RIG_SCHEDULED_MAX 4096

typedef enum rig_places { RIG_MEMORY, RIG_STORES, RIG_MIXED } rig_places_t;

typedef struct rig_seen { /* one entry of the log */
    int64_t tile, bytes;
    int array;
    const unsigned char *got; /* pinned */
    unsigned char *expected;
} rig_seen_t;

typedef struct rig {
    tess_device_t *device;
    tess_stream_t *streams[RIG_STREAMS];
    tess_event_t *handover;
    unsigned char *homes;              /* pinned: all arrays in memory */
    unsigned char *models[RIG_ARRAYS]; /* (bytes) what each array is to hold */
    unsigned char *log, *expected;     /* pinned, and not */
    int64_t log_used;
    rig_seen_t *seen;
    int seen_count;
    const char *engine; /* of stores */
    int crash_safe;
    uint64_t random;

    /* One prefetcher: from rig_begin to rig_end. */
    tess_prefetch_t *prefetch;
    tess_prefetch_array_t arrays[RIG_ARRAYS];
    int array_count, slot_count, writes;
    int64_t tile_count;
    char paths[RIG_ARRAYS][96];
    int64_t lists[RIG_SCHEDULED_MAX]; /* what list schedules point to */
    int64_t lists_used;
    int64_t scheduled[RIG_SCHEDULED_MAX]; /* and not yet acquired, from `next` on */
    int64_t next, scheduled_count;
    struct {
        tess_prefetch_tile_t tile;
        int stream;
    } out[RIG_SLOTS_MAX];
    int out_count;
} rig_t;

void rig_open(rig_t *rig, uint64_t seed);
void rig_close(rig_t *rig);

/* [0, below) */
int64_t rig_pick(rig_t *rig, int64_t below);

/* Random arrays and a prefetcher over them; and its end, with all data at home compared. */
void rig_begin(rig_t *rig, rig_places_t places);
void rig_end(rig_t *rig);

/* The same with a config of the caller's: `arrays` of rig are filled by rig_array. */
void rig_array(rig_t *rig, int in_store, int64_t tile_bytes, int64_t last_bytes,
               tess_prefetch_access_t access);
void rig_create(rig_t *rig, int slot_count);

/* Appends a run, or a list, of tiles. */
void rig_schedule(rig_t *rig, int64_t first, int64_t step, int64_t count);
void rig_schedule_random(rig_t *rig);

/* Acquires the next tile and queues work on it, or expects the refusal that is due: 0. */
int rig_acquire(rig_t *rig, int stream);
/* Releases the n-th of those out, perhaps from the other stream. */
void rig_release(rig_t *rig, int n, int stream);
/* Acquires and releases at random until the schedule is at its end and nothing is out. */
void rig_run(rig_t *rig);
void rig_cancel(rig_t *rig);

/* Waits for all streams and compares what was logged. */
void rig_check(rig_t *rig);
/* Compares what is at home. */
void rig_check_homes(rig_t *rig);

#endif
