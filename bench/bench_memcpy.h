/* SPDX-License-Identifier: Apache-2.0 */
/* What memcpy reaches on this machine, measured in the same run as the collectives, so that their
 * bandwidth can be given as a share of it.
 */
#ifndef TESSERA_BENCH_MEMCPY_H
#define TESSERA_BENCH_MEMCPY_H

#include "bench_session.h"

/* GB/s of bytes copied (each counted once, though it is read and written). */
typedef struct bench_copy {
    int64_t bytes;    /* of one copy; 0: not measured */
    double alone;     /* rank 0 while the others wait */
    double all_ranks; /* each rank while all copy: the mean over the ranks */
} bench_copy_t;

/* Two buffers that copies walk through. */
typedef struct bench_copy_arena {
    char *source, *destination;
    int64_t bytes; /* of each */
} bench_copy_arena_t;

/* Of at least `bytes`, and well beyond the last cache. */
tess_status_t bench_copy_open(int64_t bytes, bench_copy_arena_t *arena);
void bench_copy_close(bench_copy_arena_t *arena);

/* How copies move on: by stride_bytes each time, and back to the start before walk_bytes. */
typedef struct bench_copy_walk {
    int64_t bytes, stride_bytes, walk_bytes;
} bench_copy_walk_t;

/* Collective. */
tess_status_t bench_copy_measure(bench_session_t *session, const bench_copy_arena_t *arena,
                                 bench_copy_walk_t walk, bench_copy_t *copy);

#endif
