/* SPDX-License-Identifier: Apache-2.0 */
/* The twins behind the host's table: one source of loops (adam_host_loops.h,
 * gradient_host_loops.h), built for several processors.
 *
 * Invariant: which twin runs changes the speed and never a bit of a result.
 */
#ifndef TESSERA_OPTIM_ADAM_HOST_H
#define TESSERA_OPTIM_ADAM_HOST_H

#include <tessera/adam.h>
#include <tessera/gradient.h>

#include "optim_internal.h"

/* Elements [first, first + count) of a range, which one thread works on; first is a multiple of
 * TESS_ADAM_BLOCK. */
typedef struct tessi_adam_slice {
    const tess_adam_config_t *config;
    const tess_adam_range_t *range;
    int64_t first, count;
} tessi_adam_slice_t;

/* What one step has besides. */
typedef struct tessi_adam_pass {
    tessi_adam_scalars_t scalars; /* of the slice's range */
    uint64_t random_key;
    int past_cache; /* what the step touches does not fit into the cache anyway */
} tessi_adam_pass_t;

typedef struct tessi_adam_loops {
    void (*step)(const tessi_adam_slice_t *slice, const tessi_adam_pass_t *pass);
    void (*export_values)(const tessi_adam_slice_t *slice, const tess_adam_values_t *values);
    void (*import_values)(const tessi_adam_slice_t *slice, const tess_adam_values_t *values);
    /* Squares added by 16 accumulators in turn, which are then added in order. */
    double (*sum_squares)(const tess_gradient_piece_t *piece);
} tessi_adam_loops_t;

typedef struct tessi_adam_twin {
    const char *name;    /* "base", "avx2", "avx512" */
    int (*usable)(void); /* on this processor */
    const tessi_adam_loops_t *loops;
} tessi_adam_twin_t;

/* Slowest first; NULL at the end. adam_host_x86.c or adam_host_portable.c. */
extern const tessi_adam_twin_t *const tessi_adam_twins[];

/* adam_host_base.c, adam_host_avx2.c, adam_host_avx512.c */
extern const tessi_adam_loops_t tessi_adam_loops_base;
extern const tessi_adam_loops_t tessi_adam_loops_avx2;
extern const tessi_adam_loops_t tessi_adam_loops_avx512;

/* The twin in use: the fastest that this processor can run, or the one that a test forced. NULL
 * ends the forcing. No step may be running. (adam_host.c) */
const tessi_adam_twin_t *tessi_adam_host_twin(void);
void tessi_adam_host_force(const tessi_adam_twin_t *twin);

/* adam_host.c: slots of the host's table, run on the stream's thread. */
void tessi_adam_host_step(const tess_adam_t *adam, const tess_step_state_t *state,
                          const tessi_adam_work_t *work);
void tessi_adam_host_export(const tess_adam_t *adam, const tess_adam_range_t *range,
                            const tess_adam_values_t *values);
void tessi_adam_host_import(const tess_adam_t *adam, const tess_adam_range_t *range,
                            const tess_adam_values_t *values);

/* gradient_host.c: likewise. */
void tessi_gradient_host_measure(tessi_gradient_slot_t *slot, const tess_gradient_piece_t *piece);

/* team_openmp.c, or team_none.c, where the calling thread does all. */

/* wanted where that is above 0, else as many threads as a team has by itself. */
int tessi_team_size(int wanted);

/* Calls function(argument, i) for each i in [0, count), in `size` runs of neighbouring i, which
 * depend on size and count alone, so that a thread meets the same memory again in every step. */
void tessi_team_run(int size, int64_t count, void (*function)(void *argument, int64_t index),
                    void *argument);

#define TESSI_HOST_TILE 16384 /* elements of a tile: enough to start a loop for */

#endif
