/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of an arena: mapped exactly, placed, touched and locked once. */
#ifndef TESSERA_OFFLOAD_ARENA_MAP_H
#define TESSERA_OFFLOAD_ARENA_MAP_H

#include <stdint.h>
#include <tessera/arena.h>

typedef struct tessi_arena_map {
    char *base; /* starts a huge page; a page without access stands before it and one behind */
    int64_t bytes;
    int64_t locked_bytes; /* bytes, or 0: pageable */
    int64_t huge_bytes;   /* -1: unknown */
    int node;             /* -1: none */
} tessi_arena_map_t;

/* config is valid and its bytes are whole pages. */
TESS_MUST_CHECK tess_status_t tessi_arena_map_open(tess_device_t *device,
                                                   const tess_arena_config_t *config,
                                                   tessi_arena_map_t *map);
void tessi_arena_map_close(tess_device_t *device, const tessi_arena_map_t *map);

#endif
