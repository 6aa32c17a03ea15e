/* SPDX-License-Identifier: Apache-2.0 */
/* Tiles that live in host memory or in a file pass through a ring of device slots, ahead of use and
 * behind it, while compute runs.
 *
 * The caller gives a schedule of tiles, then takes them in that order: tess_prefetch_acquire makes
 * a stream wait for a tile's arrival, tess_prefetch_release hands it back behind what the stream
 * then holds, to be written home or dropped. Reads run ahead as far as there are free slots, and
 * write-backs behind, each on a stream of the prefetcher's, ordered by events: the host waits for
 * nothing but room in the queues of streams. A tile that comes up again while its write-back is
 * under way is read after it; where tiles are written, one that is read ahead or out is not read
 * again before its release.
 *
 * All memory is taken by tess_prefetch_create; after that nothing is allocated, and nothing waits
 * for a whole device. A failure of a copy or a file stays with the stream that met it, comes to the
 * streams that acquire, and is returned by every later call; each array of a tile is then at home
 * as it was before its write-back or after it (in a crash-safe store; elsewhere a failed write
 * leaves it undefined, and the message names it). One exception: copies that are queued on CUDA
 * cannot be called back, so where one array of a tile could not be read from a store, its arrays in
 * memory may receive what the caller's work made of the rest; the message names that tile too.
 *
 * Threads: one prefetcher by one thread at a time. Lifetime: device, arrays and stores outlive it.
 */
#ifndef TESSERA_PREFETCH_H
#define TESSERA_PREFETCH_H

#include <stdint.h>
#include <tessera/device.h>
#include <tessera/status.h>
#include <tessera/store.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tess_prefetch tess_prefetch_t;

#define TESS_PREFETCH_ARRAYS_MAX 8

typedef enum tess_prefetch_access {
    TESS_PREFETCH_READ = 1,  /* brought in, dropped on release */
    TESS_PREFETCH_WRITE = 2, /* not brought in, written home on release: its slot is undefined */
    TESS_PREFETCH_READ_WRITE = 3 /* both */
} tess_prefetch_access_t;

/* One array of every tile: tile t is bytes [t * tile_bytes, (t + 1) * tile_bytes) of it, the last
 * one shorter where `bytes` is not a multiple. All arrays have the same number of tiles. */
typedef struct tess_prefetch_array {
    void *host;          /* pinned memory (arena, or TESS_MEMORY_PINNED); NULL: in `store` */
    tess_store_t *store; /* tiles of at least tile_bytes; NULL: in `host` */
    int64_t bytes;       /* > 0 */
    int64_t tile_bytes;  /* > 0 */
    tess_prefetch_access_t access;
} tess_prefetch_array_t;

typedef struct tess_prefetch_config {
    const tess_prefetch_array_t *arrays; /* (array_count), copied */
    int array_count;                     /* 1 to TESS_PREFETCH_ARRAYS_MAX */
    int slot_count;     /* tiles on the device at once; 0: tess_prefetch_suggest's choice */
    int64_t slot_bytes; /* most device memory that all slots may take; 0: no bound. Where slot_count
                           does not fit, TESS_ERR_INVALID_ARGUMENT; with slot_count 0, fewer */
    void *staging; /* pinned memory between stores and slots, such as the stores know as `buffers`:
                      tess_prefetch_staging_bytes of it, kept until those stores are closed. NULL:
                      taken by tess_prefetch_create */
    int64_t staging_bytes;
} tess_prefetch_config_t;

#define TESS_PREFETCH_CONFIG_DEFAULT                                                               \
    {                                                                                              \
        0, 0, 0, 0, 0, 0                                                                           \
    }

/* Takes slots on the device (each array 256-byte aligned on CUDA, 64-byte on the host) and, for
 * stores, as much pinned staging. The caller destroys it. */
TESS_API TESS_MUST_CHECK tess_status_t tess_prefetch_create(tess_device_t *device,
                                                            const tess_prefetch_config_t *config,
                                                            tess_prefetch_t **prefetch);

/* Cancels what is scheduled, waits for copies and write-backs under way, and frees. Tiles that are
 * out are not written home. A failure that no call has returned yet is logged. NULL is legal. */
TESS_API void tess_prefetch_destroy(tess_prefetch_t *prefetch);

/* Staging that slots need for one array in a store: what a store can be given as `buffers` before
 * there is a prefetcher. Arrays add up. alignment is the largest tess_store_alignment of them, 4096
 * as a rule. A pure function. */
TESS_API int64_t tess_prefetch_staging_bytes(int slot_count, int64_t store_tile_bytes,
                                             int64_t alignment);

TESS_API int tess_prefetch_slot_count(const tess_prefetch_t *prefetch);
TESS_API int64_t tess_prefetch_device_bytes(const tess_prefetch_t *prefetch);
TESS_API int64_t tess_prefetch_tile_count(const tess_prefetch_t *prefetch);

/* Appends `count` tiles to the schedule: first, first + step, first + 2 * step, … (step may be -1
 * or 0), each within [0, tile_count). Reads start at once where slots are free. The schedule is
 * kept as runs, of which 64 may be open at a time: TESS_ERR_STATE beyond. */
TESS_API TESS_MUST_CHECK tess_status_t tess_prefetch_schedule(tess_prefetch_t *prefetch,
                                                              int64_t first, int64_t step,
                                                              int64_t count);

/* The same for any order; `tiles` (count) is the caller's and stays until all were acquired or
 * cancelled. */
TESS_API TESS_MUST_CHECK tess_status_t tess_prefetch_schedule_list(tess_prefetch_t *prefetch,
                                                                   const int64_t *tiles,
                                                                   int64_t count);

typedef struct tess_prefetch_tile {
    int64_t tile;
    int slot;
    void *data[TESS_PREFETCH_ARRAYS_MAX];    /* device memory, one for each array */
    int64_t bytes[TESS_PREFETCH_ARRAYS_MAX]; /* of this tile */
} tess_prefetch_tile_t;

/* The next tile of the schedule: work queued on stream from now on sees it. Does not block.
 * TESS_ERR_STATE when the schedule is at its end, when every slot is acquired and not released, or
 * when that tile is out already and will be written. */
TESS_API TESS_MUST_CHECK tess_status_t tess_prefetch_acquire(tess_prefetch_t *prefetch,
                                                             tess_stream_t *stream,
                                                             tess_prefetch_tile_t *tile);

/* Hands a tile back behind what stream holds now; several may be out, and come back in any order.
 */
TESS_API TESS_MUST_CHECK tess_status_t tess_prefetch_release(tess_prefetch_t *prefetch,
                                                             tess_stream_t *stream,
                                                             const tess_prefetch_tile_t *tile);

/* Forgets what is scheduled and not acquired; tiles read ahead are dropped, tiles released are
 * written home all the same, tiles out must still be released. A new schedule may follow at once;
 * who changes arrays behind the prefetcher's back calls tess_prefetch_synchronize first. */
TESS_API TESS_MUST_CHECK tess_status_t tess_prefetch_cancel(tess_prefetch_t *prefetch);

/* Work queued on stream from now on starts when every tile released so far is home, as far as host
 * memory and submitted writes go; writes to stores are only done after tess_prefetch_synchronize.
 */
TESS_API TESS_MUST_CHECK tess_status_t tess_prefetch_wait_home(tess_prefetch_t *prefetch,
                                                               tess_stream_t *stream);

/* Blocks until every tile released so far is home, in stores too, and reads queued so far are done;
 * timeout_ms as tess_stream_synchronize. Returns the first failure; after TESS_ERR_TIMEOUT it may
 * be called again. */
TESS_API TESS_MUST_CHECK tess_status_t tess_prefetch_synchronize(tess_prefetch_t *prefetch,
                                                                 int timeout_ms);

/* What a link is like, measured by tess_prefetch_measure on this device with pinned memory. */
typedef struct tess_prefetch_link {
    double in_bytes_per_s, out_bytes_per_s; /* host to device, device to host, both at once: each */
    double latency_s;                       /* of a small copy, queued and waited for */
} tess_prefetch_link_t;

/* Takes a few hundred milliseconds and 128 MiB of pinned memory, given back at the end. */
TESS_API TESS_MUST_CHECK tess_status_t tess_prefetch_measure(tess_device_t *device,
                                                             tess_prefetch_link_t *link);

/* Tile bytes and slots for a link: tiles so large that a copy's latency costs at most 1 % of it,
 * slots enough for reads, compute and write-backs at once, all within slot_bytes (0: no bound). A
 * pure function; tess_prefetch_create uses typical values of PCIe 5 where slot_count is 0. */
TESS_API void tess_prefetch_suggest(const tess_prefetch_link_t *link, int64_t slot_bytes,
                                    int64_t *tile_bytes, int *slot_count);

#ifdef __cplusplus
}
#endif
#endif
