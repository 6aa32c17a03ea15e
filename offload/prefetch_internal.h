/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the prefetcher share: slots, the two lanes that fill and empty them, the
 * schedule, and the staging of arrays in stores.
 *
 * A lane is all arrays of one kind of home, with a stream in and a stream out of its own, so that
 * waiting for a file never delays arrays in memory. Arrays of one lane are copied one after
 * another. All fields belong to the thread that calls the prefetcher, except what staging says.
 */
#ifndef TESSERA_OFFLOAD_PREFETCH_INTERNAL_H
#define TESSERA_OFFLOAD_PREFETCH_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <tessera/prefetch.h>

#include "core/internal.h"

#define TESSI_PREFETCH_RUNS_MAX 64
#define TESSI_PREFETCH_SLOTS_MAX 1024
#define TESSI_PREFETCH_ALIGNMENT 256 /* of arrays in a slot */
/* Functions of staging that may be queued before the host waits for the oldest. */
#define TESSI_STAGING_CALLS 512

typedef enum tessi_lane_kind {
    TESSI_LANE_MEMORY = 0,
    TESSI_LANE_STORE = 1,
    TESSI_LANE_COUNT = 2
} tessi_lane_kind_t;

typedef struct tessi_lane {
    tess_stream_t *in, *out;   /* NULL where no array has this kind of home */
    int array_count;           /* 0: the lane is not there */
    int reads, writes;         /* some array of it is brought in, is written home */
    tess_event_t *latest_home; /* of the write-back queued last; NULL: none yet */
} tessi_lane_t;

typedef struct tessi_prefetch_array {
    tess_prefetch_array_t home;
    tessi_lane_kind_t lane;
    int64_t offset;         /* in a slot */
    int64_t staging_offset; /* in a slot's staging */
} tessi_prefetch_array_t;

/* One slot as one lane sees it. */
typedef struct tessi_slot_lane {
    tess_event_t *filled; /* on `in`, behind the copies into the slot */
    tess_event_t *home;   /* on `out`, behind the copies out of it */
    tess_event_t *guard;  /* what the next writer of the slot has yet to wait for: `home`,
                             `released`, or NULL */
    int unwritten;        /* filled, and no write-back queued since */
} tessi_slot_lane_t;

typedef enum tessi_slot_state {
    TESSI_SLOT_FREE = 0,
    TESSI_SLOT_READY = 1, /* its tile is queued to be read; an acquire may take it */
    TESSI_SLOT_OUT = 2
} tessi_slot_state_t;

typedef struct tessi_slot {
    char *memory; /* (stride_bytes) on the device */
    tessi_slot_state_t state;
    int64_t tile;           /* in it now or last; -1: none yet */
    tess_event_t *released; /* on the caller's stream */
    tessi_slot_lane_t lanes[TESSI_LANE_COUNT];
} tessi_slot_t;

/* Slots first come, first served. */
typedef struct tessi_slot_queue {
    int *slots; /* (slot_count), round and round */
    int first, count;
} tessi_slot_queue_t;

/* --- the schedule (prefetch_schedule.c) ------------------------------------------------------- */

typedef struct tessi_run {
    const int64_t *tiles; /* (left) the caller's; NULL: next, next + step, … */
    int64_t next, step, left;
} tessi_run_t;

typedef struct tessi_schedule {
    tessi_run_t runs[TESSI_PREFETCH_RUNS_MAX]; /* round and round */
    int first, count;
} tessi_schedule_t;

/* The tile that comes next, or -1 at the end; and going past it. */
int64_t tessi_schedule_next(const tessi_schedule_t *schedule);
void tessi_schedule_advance(tessi_schedule_t *schedule);

/* --- staging of arrays in stores (prefetch_store.c) ------------------------------------------- */

/* One slot's staging: `lock` of the staging guards all that is not constant. */
typedef struct tessi_staging_slot {
    tess_prefetch_t *prefetch;
    char *memory;
    int64_t read_tile;  /* of reads */
    int64_t write_tile; /* of writes */
    int wanted;         /* read_tile is to be read once writes that are in its way are done */
    tess_store_ticket_t reads[TESS_PREFETCH_ARRAYS_MAX];
    tess_store_ticket_t writes[TESS_PREFETCH_ARRAYS_MAX];
} tessi_staging_slot_t;

typedef enum tessi_staging_step {
    TESSI_STAGING_SETTLE = 0, /* wait for the writes from the slot's staging */
    TESSI_STAGING_WRITE = 1,  /* submit writes */
    TESSI_STAGING_WANT = 2    /* submit reads, now or when their way is free */
} tessi_staging_step_t;

/* The argument of a function on `out` of the stores' lane. They run in the order of the ring. */
typedef struct tessi_staging_call {
    tess_prefetch_t *prefetch;
    tessi_staging_step_t step;
    int slot;
    int64_t tile;
} tessi_staging_call_t;

typedef struct tessi_staging {
    char *memory;    /* base of all slots' buffers, aligned for every store */
    void *allocated; /* NULL: the caller's */
    int64_t stride_bytes;
    tessi_staging_slot_t *slots; /* (slot_count) */
    pthread_mutex_t lock;
    int wanted_count;      /* guarded by lock: slots that are `wanted` */
    tess_status_t failure; /* guarded by lock: the first of a function, and of all after it */
    char failure_detail[512];
    tessi_staging_call_t *calls; /* (TESSI_STAGING_CALLS) */
    int64_t calls_queued;
    _Atomic int64_t calls_done;
} tessi_staging_t;

/* Buffers for the arrays in stores, if there are any. */
tess_status_t tessi_staging_create(tess_prefetch_t *prefetch, const tess_prefetch_config_t *config);

/* Waits for what is submitted, then frees. The lane's streams are idle, or were never made. */
void tessi_staging_destroy(tess_prefetch_t *prefetch);

/* Queues what brings the store arrays of `tile` into the slot's staging; what is queued on `in`
 * from then on finds them there. */
tess_status_t tessi_staging_queue_read(tess_prefetch_t *prefetch, int slot, int64_t tile);

/* Queued on `out` before the copies into staging, and behind them. */
tess_status_t tessi_staging_queue_settle(tess_prefetch_t *prefetch, int slot);
tess_status_t tessi_staging_queue_write(tess_prefetch_t *prefetch, int slot, int64_t tile);

/* Waits until every submitted write is done; the lane's streams are idle. */
tess_status_t tessi_staging_finish(tess_prefetch_t *prefetch, int64_t deadline_ns);

/* --- the prefetcher (prefetch.c) -------------------------------------------------------------- */

struct tess_prefetch {
    tess_device_t *device;
    int array_count, slot_count;
    int writes; /* some array is written home */
    int64_t tile_count;
    int64_t stride_bytes; /* of one slot */
    tessi_prefetch_array_t arrays[TESS_PREFETCH_ARRAYS_MAX];
    tessi_lane_t lanes[TESSI_LANE_COUNT];
    tessi_slot_t *slots; /* (slot_count) */
    char *memory;        /* (slot_count * stride_bytes) on the device */
    tessi_slot_queue_t free, ready;
    int out_count;
    tessi_schedule_t schedule;
    tessi_staging_t staging;
    tess_status_t failure; /* the first one, which every later call returns */
    char failure_detail[512];
};

/* Bytes of the array that a tile has. */
int64_t tessi_prefetch_bytes(const tessi_prefetch_array_t *array, int64_t tile);

/* TESS_OK, or the first failure of a call or of a stream. */
tess_status_t tessi_prefetch_check(tess_prefetch_t *prefetch);

/* Keeps tess_last_error() as the prefetcher's failure, and returns status. */
tess_status_t tessi_prefetch_remember(tess_prefetch_t *prefetch, tess_status_t status);

/* --- copies (prefetch_move.c) ----------------------------------------------------------------- */

/* Reads ahead as far as free slots and the schedule allow. */
tess_status_t tessi_prefetch_advance(tess_prefetch_t *prefetch);

void tessi_slot_queue_push(const tess_prefetch_t *prefetch, tessi_slot_queue_t *queue, int slot);
int tessi_slot_queue_pop(const tess_prefetch_t *prefetch, tessi_slot_queue_t *queue);

/* Slots for tiles of `bytes`, both ways and compute, over a link (prefetch_link.c). */
int tessi_prefetch_slots_for(const tess_prefetch_link_t *link, int64_t bytes);
extern const tess_prefetch_link_t tessi_prefetch_typical_link;

#endif
