/* SPDX-License-Identifier: Apache-2.0 */
/* What timing and check of the streamed Adam share. */
#ifndef TESSERA_BENCH_OFFLOAD_ADAM_H
#define TESSERA_BENCH_OFFLOAD_ADAM_H

#include <tessera/adam.h>

#include "offload_bench.h"

#define ADAM_ARRAYS 3     /* master, moment 1, moment 2: fp32 */
#define ADAM_HALF_BYTES 2 /* of a bf16 gradient or parameter */

typedef struct offload_stepper {
    tess_adam_t *adam;
    tess_step_t *step;
} offload_stepper_t;

typedef struct offload_adam {
    offload_tiles_t tiles; /* (ADAM_ARRAYS, count) */
    int64_t count;
    char *gradient, *parameter; /* (count) bf16, device memory */
    offload_stepper_t here;     /* the session's device */
    tess_device_t *host;
    int threads; /* this rank's share of the CPUs */
    offload_stepper_t cpu;
    tess_stream_t *cpu_stream;
    char *cpu_gradient, *cpu_parameter; /* (count) bf16 */
} offload_adam_t;

/* The elements of a tile whose state lies in `state` (ADAM_ARRAYS). */
tess_adam_range_t offload_adam_range(const offload_adam_t *adam, int64_t tile, void *const *state);

/* An offload_hook_t over an offload_adam_t: begins a step with the first tile. */
tess_status_t offload_adam_step(void *context, const tess_prefetch_tile_t *tile, int64_t visit);

/* Weights that every tile has alike, and moments of zero, in pinned memory. */
tess_status_t offload_adam_reset(offload_adam_t *adam);

/* One streamed step from there, against steps of the same tiles on the device alone: equal to the
 * bit, all of them (offload_adam_check.c). */
tess_status_t offload_adam_check(offload_adam_t *adam, int64_t *wrong);

#endif
