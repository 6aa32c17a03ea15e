/* SPDX-License-Identifier: Apache-2.0 */
/* A plain loop over the blocks of a file: what the store and the prefetcher are measured against.
 * It runs with the engine, block size, depth and memory that they use, and does nothing else.
 */
#ifndef TESSERA_BENCH_RAW_FILE_H
#define TESSERA_BENCH_RAW_FILE_H

#include <stdint.h>
#include <tessera/status.h>

typedef struct raw_file {
    const char *path;
    int direct; /* 1: O_DIRECT */
    int write;
    int64_t offset, bytes; /* of the file, in whole blocks but for the last */
    int64_t block_bytes;
    int depth;
    char *memory; /* (depth, block_bytes) at least */
    int64_t memory_bytes;
} raw_file_t;

/* Goes through the file once; seconds count from the first transfer to the last. */
tess_status_t raw_uring_run(const raw_file_t *file, double *seconds);
tess_status_t raw_threads_run(const raw_file_t *file, double *seconds);

/* Opens it for them. */
tess_status_t raw_file_open(const raw_file_t *file, int *fd);

#endif
