/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of gatherer and reducer share: one rank's world, device and communicator, a list
 * of awkward tensors, values that depend only on where they stand, and streams that can be held up.
 */
#ifndef TESSERA_TESTS_BUCKET_RIG_H
#define TESSERA_TESTS_BUCKET_RIG_H

#include <stdatomic.h>

#include "harness.h"

typedef struct bucket_rig {
    tess_world_t *world;
    tess_device_t *device;
    tess_comm_t *comm;
    int rank, size;
    int exact; /* the transport promises no bits, so values must sum exactly in any order */
} bucket_rig_t;

/* Leaves the process when something fails, as RANK_OK does. */
void rig_open(bucket_rig_t *rig, int rank);
void rig_open_device(bucket_rig_t *rig, const char *host_streams);
void rig_close_device(bucket_rig_t *rig);
void rig_close(bucket_rig_t *rig);

/* The largest number of ranks for a test: `wanted`, or as many as there are CUDA devices. Skips the
 * program where there are none. */
int rig_ranks(int wanted);

/* Odd sizes, empty tensors in all places, one tensor larger than most buckets. */
#define RIG_TENSORS 15
extern const int64_t rig_tensors[RIG_TENSORS];
tess_bucket_plan_t *rig_plan(tess_dtype_t dtype, int64_t bucket_bytes, int world_size);

/* The element at `index` of a tensor as `rank` has it; sums over ranks depend on their order unless
 * rig->exact. */
float rig_value(const bucket_rig_t *rig, uint64_t seed, int rank, int64_t tensor, int64_t index);

/* One element of any dtype, as bits. */
uint32_t rig_encode(tess_dtype_t dtype, float value);
float rig_decode(tess_dtype_t dtype, uint32_t bits);
uint32_t rig_load(tess_dtype_t dtype, const void *array, int64_t index);
void rig_store(tess_dtype_t dtype, void *array, int64_t index, uint32_t bits);

tess_stream_t *rig_stream(bucket_rig_t *rig);
void *rig_memory(bucket_rig_t *rig, tess_memory_kind_t kind, int64_t bytes);

/* Holds a stream up for so many milliseconds. On CUDA one thread may run such functions of all
 * streams, so none is queued behind a closed gate. */
void rig_delay(tess_stream_t *stream, int delay_ms);

/* Holds a stream up until the gate is opened (or 20 s have passed, which fails the stream). */
typedef struct rig_gate {
    _Atomic int open;
} rig_gate_t;
void rig_hold(tess_stream_t *stream, rig_gate_t *gate);

/* Holds this thread up. */
void rig_sleep(int ms);

/* Makes `later` go on after what is queued on `earlier`. */
void rig_order(bucket_rig_t *rig, tess_stream_t *earlier, tess_stream_t *later);

#endif
