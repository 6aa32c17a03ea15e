/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of optim share: the objects behind the public handles, and the table of functions
 * that a back end fills.
 *
 * step.c, gradient.c and adam.c check arguments, open trace ranges and then call the table; a back
 * end may rely on that. Every function of the table queues its work and returns.
 */
#ifndef TESSERA_OPTIM_OPTIM_INTERNAL_H
#define TESSERA_OPTIM_OPTIM_INTERNAL_H

#include <tessera/adam.h>
#include <tessera/gradient.h>
#include <tessera/step.h>

#include "adam_math.h"
#include "core/internal.h"
#include "step_math.h"

/* Partial sums of one piece of gradients: as many as blocks of the pass, a function of the number
 * of elements alone. */
#define TESSI_GRADIENT_PARTS_MAX 2048

typedef struct tessi_optim_ops tessi_optim_ops_t;

struct tess_step {
    const tessi_optim_ops_t *ops;
    tess_device_t *device;
    tess_step_config_t config;
    tess_step_state_t *state; /* device memory */
    tess_step_state_t *copy;  /* pinned memory, for tess_step_read */
    const float *rates;       /* device memory, the caller's */
    int64_t rate_count;
    int64_t skipped_reported;
};

/* Device memory of one slot. */
typedef struct tessi_gradient_slot {
    double parts[TESSI_GRADIENT_PARTS_MAX];
    double sum;
    uint32_t blocks_done; /* CUDA: back to 0 at the end of each pass */
    uint32_t reserved;
} tessi_gradient_slot_t;

struct tess_gradient {
    const tessi_optim_ops_t *ops;
    tess_device_t *device;
    int64_t slot_count;
    tessi_gradient_slot_t *slots; /* device memory (slot_count) */
};

struct tess_adam {
    const tessi_optim_ops_t *ops;
    tess_device_t *device;
    tess_adam_config_t config;
    tessi_adam_constants_t constants;
    char description[64];
};

/* A tile of a list: elements [first, first + count) of a range, count <= the back end's tile. */
typedef struct tessi_adam_tile {
    int64_t first;
    int32_t range;
    int32_t count;
} tessi_adam_tile_t;

struct tess_adam_list {
    tess_adam_t *adam;
    tess_device_t *device; /* adam's, so that the list may outlive it */
    int64_t range_count, tile_count;
    int64_t element_count, bytes; /* of all ranges: elements, and traffic for traces */
    tess_adam_range_t *ranges;    /* device memory (range_count) */
    tessi_adam_tile_t *tiles;     /* device memory (tile_count) */
};

/* What one launch works on: a list, or one range by value where ranges is NULL. */
typedef struct tessi_adam_work {
    const tess_adam_range_t *ranges;
    const tessi_adam_tile_t *tiles;
    int64_t tile_count;    /* 0: nothing to do */
    int64_t element_count; /* of all ranges */
    tess_adam_range_t range;
} tessi_adam_work_t;

struct tessi_optim_ops {
    /* Writes "cuda, sm_90", "host, avx512, 16 threads" into adam->description. */
    tess_status_t (*describe)(tess_adam_t *adam);

    tess_status_t (*step_decide)(tess_step_t *step, tess_stream_t *stream,
                                 const tessi_step_input_t *input);
    tess_status_t (*step_rate)(tess_step_t *step, tess_stream_t *stream, float learning_rate);
    tess_status_t (*step_store)(tess_step_t *step, tess_stream_t *stream,
                                const tess_step_state_t *state);

    /* piece->count may be 0. */
    tess_status_t (*measure)(tess_gradient_t *gradient, tess_stream_t *stream, int64_t slot,
                             const tess_gradient_piece_t *piece);
    tess_status_t (*combine)(tess_gradient_t *gradient, tess_stream_t *stream, double *sum);

    int64_t tile_elements; /* of a list; a multiple of TESS_ADAM_BLOCK, below 2^31 */
    tess_status_t (*adam_step)(tess_adam_t *adam, tess_stream_t *stream,
                               const tess_step_state_t *state, const tessi_adam_work_t *work);
    tess_status_t (*adam_export)(tess_adam_t *adam, tess_stream_t *stream,
                                 const tess_adam_range_t *range, const tess_adam_values_t *values);
    tess_status_t (*adam_import)(tess_adam_t *adam, tess_stream_t *stream,
                                 const tess_adam_range_t *range, const tess_adam_values_t *values);
};

/* optim_host.c */
extern const tessi_optim_ops_t tessi_optim_host;

/* optim_cuda.c, or optim_cuda_none.c, where it is NULL. */
extern const tessi_optim_ops_t *const tessi_optim_cuda;

/* The table for a device; TESS_ERR_UNSUPPORTED where this library has none. (optim.c) */
tess_status_t tessi_optim_ops(const tess_device_t *device, const tessi_optim_ops_t **ops);

/* Refuses NULL and streams of another device; `function` opens the sentence. (optim.c) */
tess_status_t tessi_optim_check_stream(const tess_device_t *device, const tess_stream_t *stream,
                                       const char *function);

/* Refuses a range that the layout does not allow; `function` opens the sentence. A gradient is
 * asked for where needs_gradient is set. (adam.c) */
tess_status_t tessi_adam_check_range(const tess_adam_config_t *config,
                                     const tess_adam_range_t *range, int needs_gradient,
                                     const char *function);

#endif
