/* SPDX-License-Identifier: Apache-2.0 */
/* Page-locked host memory, taken once and handed out in pieces.
 *
 * The arena maps exactly what it was asked for (rounded up to pages, never to a power of two), on
 * the device's NUMA node, in huge pages where the system gives them, touches it with several
 * threads and locks it for the device. After that, allocating and freeing are O(1) and never reach
 * the system; neighbours that are free are joined at once. Pieces are whole granules: 64 bytes in
 * arenas of up to 256 MiB, doubling with the arena to 4 KiB above 8 GiB.
 *
 * Threads: one arena may be used from several threads. Lifetime: the device must outlive it; copies
 * that use its memory must be done before a piece is freed.
 */
#ifndef TESSERA_ARENA_H
#define TESSERA_ARENA_H

#include <stdint.h>
#include <tessera/device.h>
#include <tessera/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tess_arena tess_arena_t;

#define TESS_ARENA_NUMA_AUTO (-1)

typedef struct tess_arena_config {
    int64_t bytes;      /* capacity, > 0 */
    int numa_node;      /* TESS_ARENA_NUMA_AUTO: the device's, or anywhere where that is unknown */
    int huge_pages;     /* 1: ask for huge pages (advice; the system may refuse) */
    int allow_pageable; /* 1: where memory cannot be locked take it unlocked, and say so in a line
                           on stderr; 0: TESS_ERR_OUT_OF_MEMORY */
    int threads;        /* that touch the memory first; 0: as many as help */
} tess_arena_config_t;

#define TESS_ARENA_CONFIG_DEFAULT                                                                  \
    {                                                                                              \
        0, TESS_ARENA_NUMA_AUTO, 1, 0, 0                                                           \
    }

/* TESS_ERR_OUT_OF_MEMORY says how much was asked for, which limit refused it (RLIMIT_MEMLOCK as
 * `ulimit -l`, the cgroup, or free memory) and how much is missing; more than is free is refused
 * before it is touched, also with allow_pageable. Blocks until all is locked. The caller destroys
 * it. */
TESS_API TESS_MUST_CHECK tess_status_t tess_arena_create(tess_device_t *device,
                                                         const tess_arena_config_t *config,
                                                         tess_arena_t **arena);

/* Gives everything back. Pieces that were not freed are reported on stderr: their number, their
 * bytes, and the first of them. NULL is legal. */
TESS_API void tess_arena_destroy(tess_arena_t *arena);

/* A piece of bytes >= 0 (zero takes the smallest piece), aligned to a power of two from 1 to 2 MiB;
 * its contents are undefined. O(1). TESS_ERR_OUT_OF_MEMORY names what is free, and the largest free
 * piece. */
TESS_API TESS_MUST_CHECK tess_status_t tess_arena_allocate(tess_arena_t *arena, int64_t bytes,
                                                           int64_t alignment, void **pointer);

/* O(1). NULL is legal; any other pointer must come from tess_arena_allocate of this arena. One that
 * is no piece of it, or was freed before, is reported on stderr and changes nothing. */
TESS_API void tess_arena_free(tess_arena_t *arena, void *pointer);

typedef struct tess_arena_statistics {
    int64_t capacity_bytes;     /* usable: the bytes asked for, rounded up to pages */
    int64_t used_bytes;         /* of pieces handed out, rounding and alignment included */
    int64_t high_water_bytes;   /* the most that used_bytes ever was */
    int64_t largest_free_bytes; /* of one free piece; from above where there are very many */
    int64_t piece_count;        /* handed out */
    int64_t locked_bytes;       /* 0: pageable */
    int64_t huge_bytes;         /* of the mapping in huge pages, as the system tells; -1: unknown */
    int numa_node;              /* preferred; -1: none */
} tess_arena_statistics_t;

TESS_API void tess_arena_statistics(const tess_arena_t *arena, tess_arena_statistics_t *statistics);

#ifdef __cplusplus
}
#endif
#endif
