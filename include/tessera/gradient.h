/* SPDX-License-Identifier: Apache-2.0 */
/* Gradient statistics: the sum of squares of all gradients of this rank, in one pass, without the
 * host.
 *
 * Squares are exact and added in fp64, so the sum is finite exactly when every gradient is, in
 * every dtype, and it is both the square of the norm and the overflow check. The order of additions
 * depends on the number of elements alone: the same bits from run to run, on every GPU, for every
 * number of CPU threads and instruction set. (CPU and GPU may differ in the last bits of the sum.)
 *
 * Gradients come in pieces, one a slot: each bucket is measured as soon as it is reduced, beside
 * the rest of backward, on any stream that the caller orders before tess_gradient_combine.
 *
 * Threads: different slots may be measured from different threads.
 */
#ifndef TESSERA_GRADIENT_H
#define TESSERA_GRADIENT_H

#include <stdint.h>
#include <tessera/device.h>
#include <tessera/dtype.h>
#include <tessera/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tess_gradient tess_gradient_t;

/* Memory for `slot_count` >= 1 pieces, all zero: 16 KiB of device memory a slot on CUDA. The caller
 * destroys it. */
TESS_API TESS_MUST_CHECK tess_status_t tess_gradient_create(tess_device_t *device,
                                                            int64_t slot_count,
                                                            tess_gradient_t **gradient);
TESS_API void tess_gradient_destroy(tess_gradient_t *gradient);

/* A piece of the gradients in device memory: values (count) of bf16, fp16 or fp32, aligned to their
 * dtype. */
typedef struct tess_gradient_piece {
    const void *values;
    int64_t count;
    tess_dtype_t dtype;
} tess_gradient_piece_t;

/* Queues one pass over a piece; replaces what `slot` held. count 0 makes the slot zero. */
TESS_API TESS_MUST_CHECK tess_status_t tess_gradient_measure(tess_gradient_t *gradient,
                                                             tess_stream_t *stream, int64_t slot,
                                                             const tess_gradient_piece_t *piece);

/* Queues *sum = the slots' sums, added in slot order; device memory. Infinite or NaN when a
 * gradient is. What tess_step_begin takes, alone or gathered over all ranks. */
TESS_API TESS_MUST_CHECK tess_status_t tess_gradient_combine(tess_gradient_t *gradient,
                                                             tess_stream_t *stream, double *sum);

#ifdef __cplusplus
}
#endif
#endif
