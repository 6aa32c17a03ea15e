/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the store share: requests, transfers, the layout of the file, and the table of
 * an engine.
 *
 * A request is a tile on its way. It is cut into transfers of block_bytes, of which at most `depth`
 * are with the engine; the engine's threads take them (tessi_store_take), run them, and bring them
 * back (tessi_store_complete). In a crash-safe store a request that wrote its tile goes on to the
 * committer. Everything is allocated when the store is opened.
 */
#ifndef TESSERA_OFFLOAD_STORE_INTERNAL_H
#define TESSERA_OFFLOAD_STORE_INTERNAL_H

#include <pthread.h>
#include <stdint.h>
#include <tessera/store.h>

#include "core/internal.h"

#define TESSI_STORE_TICKET_BITS 12
#define TESSI_STORE_TICKETS (1 << TESSI_STORE_TICKET_BITS)
#define TESSI_STORE_DEPTH_MAX 1024
#define TESSI_STORE_BLOCK_MAX (INT64_C(1) << 30)

typedef enum tessi_request_state {
    TESSI_REQUEST_FREE = 0,
    TESSI_REQUEST_ACTIVE = 1,
    TESSI_REQUEST_DONE = 2
} tessi_request_state_t;

typedef struct tessi_store_request {
    struct tessi_store_request *next; /* in the queue, among the commits, or free */
    tessi_request_state_t state;
    int64_t generation; /* upper part of the ticket: counts the uses of this entry */
    int write;
    int awaited; /* a thread sleeps until it is done */
    int queued;  /* part of it was not yet taken */
    int transfers_out;
    int64_t tile;
    char *buffer;
    int64_t offset; /* in the file */
    int64_t bytes;
    int64_t taken_bytes;
    uint64_t sequence; /* crash-safe write: what its record will say */
    int error;         /* errno of the first failure, or 0 */
    int64_t error_offset, error_bytes;
    const char *error_step; /* "write", "make durable", … */
} tessi_store_request_t;

typedef struct tessi_store_transfer {
    struct tessi_store_transfer *next; /* free, or to be run again */
    tessi_store_request_t *request;
    int write;
    char *buffer;
    int64_t offset, bytes; /* what is left of it */
    int64_t try_bytes;     /* of them, for the engine to move now: all but for the fault "short" */
    int retries;           /* since it last moved a byte */
} tessi_store_transfer_t;

/* [header | records | tiles]: one aligned block of header; in a crash-safe store two blocks of
 * records a tile, one for each place; then the places, `places` of them a tile side by side. */
typedef struct tessi_store_layout {
    int64_t tile_bytes, tile_count;
    int64_t alignment;
    int64_t stride_bytes; /* a tile rounded up to the alignment */
    int crash_safe;
    int places; /* 1, or 2 when crash-safe */
    int64_t data_offset;
    int64_t total_bytes;
    uint64_t identity; /* drawn when the store is created: marks the records as its own */
} tessi_store_layout_t;

/* --- engines ----------------------------------------------------------------------------------
 */

typedef struct tessi_store_engine {
    const char *name;
    /* Starts threads that take transfers; sets store->engine_state and store->engine_text. Leaves
     * nothing behind when it fails. */
    tess_status_t (*open)(tess_store_t *store);
    /* The queue is longer. With the lock held; must not block. */
    void (*wake)(tess_store_t *store);
    /* Ends the threads and frees the state. Nothing is in flight, and store->stopping is set. */
    void (*close)(tess_store_t *store);
} tessi_store_engine_t;

extern const tessi_store_engine_t tessi_store_threads;
extern const tessi_store_engine_t tessi_store_uring; /* where it is not built, open says so */

typedef struct tessi_committer {
    pthread_t thread;
    pthread_cond_t work;
    tessi_store_request_t *first, *last; /* written, and waiting for their records */
    uint64_t *sequences; /* (tile_count): of the last committed write; its place is the low bit, and
                            0 is never written */
    void *block;         /* one record in an aligned block */
    int broken;          /* errno: whether a record is on the device is not known */
    int64_t ignored;     /* records that opening found torn or corrupt */
} tessi_committer_t;

struct tess_store {
    char *path;
    int fd;      /* through the page cache: header and records */
    int data_fd; /* the tiles: the same file once more, with O_DIRECT or without; has the lock */
    int direct, is_device, created;
    int64_t device_alignment;
    tessi_store_layout_t layout;
    int depth;
    int64_t block_bytes;
    int timeout_ms;
    void *buffers;
    int64_t buffers_bytes;
    const tessi_store_engine_t *engine;
    void *engine_state;
    char engine_text[160]; /* "registered buffers" */
    char description[320];

    pthread_mutex_t lock; /* guards all that follows, the requests and the committer */
    pthread_cond_t progress;
    int stopping;
    int sync_error;                  /* errno of the first tess_store_sync that failed */
    int active;                      /* requests under way */
    int submitters;                  /* threads that sleep until a request is free */
    int drainers;                    /* threads that sleep until nothing is active */
    tessi_store_request_t *requests; /* (TESSI_STORE_TICKETS) */
    tessi_store_request_t *free_requests, *queue_first, *queue_last;
    tessi_store_transfer_t *transfers; /* (depth) */
    tessi_store_transfer_t *free_transfers;
    tessi_committer_t committer;
};

/* --- queue (store_queue.c) --------------------------------------------------------------------
 */

tess_status_t tessi_store_queue_create(tess_store_t *store);
void tessi_store_queue_destroy(tess_store_t *store);

tess_status_t tessi_store_submit(tess_store_t *store, int write, int64_t tile, void *buffer,
                                 tess_store_ticket_t *ticket);

/* Gives the request's result and frees its ticket. deadline_ns 0 does not block: TESS_NOT_READY. */
tess_status_t tessi_store_await(tess_store_t *store, tess_store_ticket_t ticket,
                                int64_t deadline_ns);

/* 1 once nothing is under way; 0 when the deadline came first. */
int tessi_store_drain(tess_store_t *store, int64_t deadline_ns);

/* The next transfer to run, or NULL. With the lock held. */
tessi_store_transfer_t *tessi_store_take(tess_store_t *store);

/* A transfer came back with the bytes that it moved, or a negative errno. 1: run it again, as it
 * stands now (short, or interrupted); 0: it is over and no longer the engine's. Without the lock.
 */
int tessi_store_complete(tess_store_t *store, tessi_store_transfer_t *transfer, int64_t result);

/* Marks a request as done. With the lock held. */
void tessi_store_finish(tess_store_t *store, tessi_store_request_t *request);

/* Sleeps on `condition` with the store's lock; 0 when the deadline passed. */
int tessi_store_sleep(tess_store_t *store, pthread_cond_t *condition, int64_t deadline_ns);

/* A thread that blocks all signals. Fault point "thread". */
tess_status_t tessi_store_start_thread(tess_store_t *store, const char *name,
                                       void *(*run)(void *store), pthread_t *thread);

/* --- file (store_file.c) ----------------------------------------------------------------------
 */

/* Opens, locks and examines store->path; sets fd, data_fd, direct, is_device, created and
 * device_alignment. What fails leaves what tessi_store_file_close undoes. */
tess_status_t tessi_store_file_open(tess_store_t *store, const tess_store_config_t *config);
/* discard: takes back what a creation that failed has left. */
void tessi_store_file_close(tess_store_t *store, int discard);

/* Makes room for layout.total_bytes, and zeros whatever could be taken for content. */
tess_status_t tessi_store_file_allocate(tess_store_t *store);
/* Tries one block through data_fd; where that is refused goes without O_DIRECT, or fails when
 * `direct` is 1. */
tess_status_t tessi_store_file_probe(tess_store_t *store, int direct);
/* File and folder are on the device. */
tess_status_t tessi_store_file_settle(tess_store_t *store);

/* pread and pwrite of exactly `bytes`: 0, or an errno. Fault point "io". */
int tessi_store_read_all(int fd, void *buffer, int64_t bytes, int64_t offset);
int tessi_store_write_all(int fd, const void *buffer, int64_t bytes, int64_t offset);

/* --- layout (store_layout.c) ------------------------------------------------------------------
 */

/* What a config asks for, on a device of this alignment. */
tess_status_t tessi_store_layout_plan(const tess_store_config_t *config, int64_t alignment,
                                      tessi_store_layout_t *layout);
int64_t tessi_store_place_offset(const tessi_store_layout_t *layout, int64_t tile, int place);
int64_t tessi_store_record_offset(const tessi_store_layout_t *layout, int64_t tile, int place);

tess_status_t tessi_store_header_write(tess_store_t *store);
/* Fills store->layout; TESS_ERR_INVALID_ARGUMENT where the file holds another geometry, or none. */
tess_status_t tessi_store_header_read(tess_store_t *store, const tess_store_config_t *config);

/* --- commits (store_commit.c) -----------------------------------------------------------------
 */

/* Reads the records of a store that is there (load), and starts the committer. */
tess_status_t tessi_committer_open(tess_store_t *store, int load);
/* Ends the thread and frees. Nothing is in flight, and store->stopping is set. */
void tessi_committer_close(tess_store_t *store);

/* The tile is written: its record comes next. With the lock held. */
void tessi_committer_push(tess_store_t *store, tessi_store_request_t *request);

#endif
