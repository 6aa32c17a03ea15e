/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of the file tier share: a folder of their own, the engines that run here, and tiles
 * whose content tells which tile and which version of it they are. */
#ifndef TESSERA_TESTS_STORE_RIG_H
#define TESSERA_TESTS_STORE_RIG_H

#include "harness.h"

/* A path in a folder of this test, on the disk of the build where that can be written; the folder
 * goes when the program ends. */
const char *rig_path(const char *name);

/* One way to reach a file. */
typedef struct rig_way {
    const char *engine;
    int direct;
} rig_way_t;

/* Every way that this machine has, engines and O_DIRECT; those that it lacks are printed once. */
int rig_ways(const rig_way_t **ways);

/* A config for a way, all else at its default. */
tess_store_config_t rig_config(const rig_way_t *way, int64_t tile_bytes, int64_t tile_count,
                               int crash_safe);

/* Opens a store at rig_path("store"), or fails the test. */
tess_store_t *rig_open(const tess_store_config_t *config);

/* Aligned memory for `tiles` buffers, each with its rounding; rig_buffer gives one of them. */
void *rig_buffers(int64_t tile_bytes, int64_t tiles);
void *rig_buffer(void *buffers, int64_t tile_bytes, int64_t index);

/* The content of a version of a tile; version 0 is zeros, what was never written. The last 8 bytes
 * (where there are 24 or more) are a checksum of the others, the first 16 tile and version. */
void rig_fill(void *buffer, int64_t tile_bytes, int64_t tile, int64_t version);
/* 1 when the buffer holds exactly that; otherwise prints what it holds. */
int rig_holds(const void *buffer, int64_t tile_bytes, int64_t tile, int64_t version);
/* The version that a tile of at least 24 bytes says it is, with its checksum right; -1 otherwise.
 */
int64_t rig_version(const void *buffer, int64_t tile_bytes, int64_t tile);

/* Write or read one tile and wait for it. */
tess_status_t rig_write(tess_store_t *store, int64_t tile, const void *buffer);
tess_status_t rig_read(tess_store_t *store, int64_t tile, void *buffer);

/* Runs body in a child process with fresh signal handlers; its exit code, or 128 + signal. */
int rig_child(int (*body)(void *argument), void *argument);

#endif
