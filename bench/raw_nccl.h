/* SPDX-License-Identifier: Apache-2.0 */
/* NCCL called as any program calls it, so that what Tessera adds can be measured in the same run.
 *
 * No sequence numbers, no watchdog, no events: a collective is one NCCL call on the stream's
 * cudaStream_t. Deadlines come from bench_route.c, which watches the stream and aborts.
 */
#ifndef TESSERA_BENCH_RAW_NCCL_H
#define TESSERA_BENCH_RAW_NCCL_H

#include <tessera/comm.h>

typedef struct raw_nccl raw_nccl_t;

/* NULL, or why there is no raw NCCL in this program. Static storage. */
const char *raw_nccl_missing(void);

/* Collective over the whole world, once for each key; ends within timeout_ms. */
tess_status_t raw_nccl_open(tess_world_t *world, tess_device_t *device, const char *key,
                            int timeout_ms, raw_nccl_t **raw);

/* Ends what is still on the device, after a failure. close may and must follow. */
void raw_nccl_abort(raw_nccl_t *raw);
void raw_nccl_close(raw_nccl_t *raw);

tess_status_t raw_nccl_all_gather(raw_nccl_t *raw, const tess_collective_t *arguments,
                                  tess_stream_t *stream);
tess_status_t raw_nccl_reduce_scatter(raw_nccl_t *raw, const tess_collective_t *arguments,
                                      tess_stream_t *stream);
/* An all-reduce of 16 bytes. */
tess_status_t raw_nccl_barrier(raw_nccl_t *raw, tess_stream_t *stream);

/* "2.28.9". Static storage. */
const char *raw_nccl_version(void);

#endif
