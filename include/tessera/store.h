/* SPDX-License-Identifier: Apache-2.0 */
/* Tiles in a file or on a block device, read and written asynchronously past the page cache.
 *
 * A store is tile_count tiles of tile_bytes each. Reads and writes are submitted and later waited
 * for by ticket; many may be in flight. With engine io_uring they go through O_DIRECT and
 * registered buffers, without registration where RLIMIT_MEMLOCK is too small, and through a pool of
 * threads with pread and pwrite where the system has no io_uring; which one runs is in
 * tess_store_description. Every completion is checked: short transfers are continued, ENOSPC, EIO
 * and the like are reported with file and offset.
 *
 * A crash-safe store keeps two places for every tile: a write goes to the one not in use, and only
 * when it is on the device a record of one sector names it, so that after a crash at any time every
 * tile is read as it was before or after its last write, never as a mix. It takes twice the space.
 *
 * Threads: any. Two operations on one tile must not be in flight at once, unless both are reads.
 */
#ifndef TESSERA_STORE_H
#define TESSERA_STORE_H

#include <stdint.h>
#include <tessera/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tess_store tess_store_t;

typedef enum tess_store_mode {
    TESS_STORE_CREATE =
        0,              /* a new file; one that exists is replaced. A block device is overwritten */
    TESS_STORE_OPEN = 1 /* what is there, which must have the same geometry */
} tess_store_mode_t;

typedef struct tess_store_config {
    int64_t tile_bytes; /* > 0; every tile starts at a multiple of the device's alignment */
    int64_t tile_count; /* > 0 */
    tess_store_mode_t mode;
    int crash_safe;      /* see above */
    const char *engine;  /* "auto", "io_uring" or "threads"; NULL: auto */
    int direct;          /* 1: O_DIRECT or an error; 0: through the page cache; -1: where the file
                            system can */
    int depth;           /* operations in flight, 1 to 1024; 0: 32. More are queued */
    int64_t block_bytes; /* of one transfer, a tile being several; 0: 1 MiB */
    void *buffers;       /* memory that reads and writes will use, to be registered once; or NULL.
                            It stays mapped, the same memory, until tess_store_close */
    int64_t buffers_bytes;
    int timeout_ms; /* of a wait; 0: TESS_TIMEOUT_MS */
} tess_store_config_t;

#define TESS_STORE_CONFIG_DEFAULT                                                                  \
    {                                                                                              \
        0, 0, TESS_STORE_CREATE, 0, 0, -1, 0, 0, 0, 0, 0                                           \
    }

/* Space is allocated here, so that a full disk is found before anything is written; a file system
 * that cannot do that is named in a line on stderr. TESS_ERR_STATE: another store has the file
 * open. TESS_ERR_UNSUPPORTED: no io_uring, or no O_DIRECT, where that was asked for. */
TESS_API TESS_MUST_CHECK tess_status_t tess_store_open(const char *path,
                                                       const tess_store_config_t *config,
                                                       tess_store_t **store);

/* Waits for what is in flight, then closes. What was written without tess_store_sync survives the
 * end of the process, and a power failure only in a crash-safe store. NULL is legal. */
TESS_API void tess_store_close(tess_store_t *store);

TESS_API int64_t tess_store_tile_bytes(const tess_store_t *store);
TESS_API int64_t tess_store_tile_count(const tess_store_t *store);

/* Of buffers and of byte counts, so that nothing is copied on the way: 4096 as a rule. Buffers
 * hold tile_bytes rounded up to it. */
TESS_API int64_t tess_store_alignment(const tess_store_t *store);

/* "io_uring, O_DIRECT, registered buffers, depth 32, 1 MiB blocks". Owned by the store. */
TESS_API const char *tess_store_description(const tess_store_t *store);

/* A submitted operation; 0 is none. */
typedef int64_t tess_store_ticket_t;

/* Starts reading tile `tile` into buffer, or writing it from there. The buffer is aligned, belongs
 * to the operation until tess_store_wait returned for its ticket, and every ticket must be waited
 * for once. Blocks only while more than 4096 tickets are out. A tile that was never written reads
 * as zeros. */
TESS_API TESS_MUST_CHECK tess_status_t tess_store_read(tess_store_t *store, int64_t tile,
                                                       void *buffer, tess_store_ticket_t *ticket);
TESS_API TESS_MUST_CHECK tess_status_t tess_store_write(tess_store_t *store, int64_t tile,
                                                        const void *buffer,
                                                        tess_store_ticket_t *ticket);

/* Blocks until the operation is done; a crash-safe write then is on the device. Failures name file,
 * offset and cause: TESS_ERR_SYSTEM, or TESS_ERR_TIMEOUT, after which the ticket is still out and
 * the buffer in use. Ticket 0 is done. */
TESS_API TESS_MUST_CHECK tess_status_t tess_store_wait(tess_store_t *store,
                                                       tess_store_ticket_t ticket);

/* TESS_OK, TESS_NOT_READY, or the failure; does not use the ticket up unless it is TESS_OK or the
 * failure. */
TESS_API TESS_MUST_CHECK tess_status_t tess_store_poll(tess_store_t *store,
                                                       tess_store_ticket_t ticket);

/* Everything that was waited for is on the device when this returns. A failure stays: what was lost
 * then is not found again by a second call. */
TESS_API TESS_MUST_CHECK tess_status_t tess_store_sync(tess_store_t *store);

#ifdef __cplusplus
}
#endif
#endif
