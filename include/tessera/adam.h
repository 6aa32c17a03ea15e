/* SPDX-License-Identifier: Apache-2.0 */
/* Adam and AdamW in one pass over memory: un-scale, clip, update, cast.
 *
 *   g  = gradient * gradient_factor                      (+ weight_decay * w: Adam with L2)
 *   m  = m + (1 - beta1) * (g - m)
 *   v  = v + (1 - beta2) * (g * g - v)                   (at most 3.19e38, never infinite)
 *   w  = w - (rate * moment1_factor * m / (sqrt(v) * moment2_factor + epsilon)
 *             + rate * weight_decay * w)                 (the last term: AdamW)
 *
 * in fp32 with few roundings (Kingma & Ba 2015, Loshchilov & Hutter 2019); 2^-102 joins v under the
 * root. The formula stands once, in optim/adam_math.h: GPU, AVX-512, AVX2 and plain C give the same
 * bits, for every number of threads, and stochastic rounding draws from a counter, so it does too.
 * What changes from step to step is read from a tess_step_t in device memory.
 *
 * Threads: one tess_adam_t may be used from several threads. Lifetime: queued work must be done
 * before tess_adam_destroy; ranges' memory is the caller's.
 */
#ifndef TESSERA_ADAM_H
#define TESSERA_ADAM_H

#include <stdint.h>
#include <tessera/device.h>
#include <tessera/dtype.h>
#include <tessera/status.h>
#include <tessera/step.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tess_adam tess_adam_t;
typedef struct tess_adam_list tess_adam_list_t;

/* Where the weights live between steps. */
typedef enum tess_adam_weights {
    TESS_ADAM_MASTER = 0,    /* fp32 master; the parameter is a rounded copy, written each step */
    TESS_ADAM_REMAINDER = 1, /* bf16 parameter and the 16 bits that it lacks of the same master; the
                                sign bit of moment2, which is never negative, settles ties. The bits
                                are those of TESS_ADAM_MASTER, always */
    TESS_ADAM_BF16 = 2       /* bf16 parameter alone, rounded stochastically */
} tess_adam_weights_t;

typedef enum tess_adam_moments {
    TESS_ADAM_MOMENTS_FP32 = 0,
    TESS_ADAM_MOMENTS_BF16 = 1, /* rounded stochastically */
    TESS_ADAM_MOMENTS_8BIT = 2 /* blocks of 256 with one fp32 scale each, rounded stochastically; no
                                 moment 2 counts for less than 2^-18 of its block's largest */
} tess_adam_moments_t;

#define TESS_ADAM_BLOCK 256 /* elements that share a scale */

typedef struct tess_adam_config {
    tess_adam_weights_t
        weights; /* REMAINDER and 8BIT do not go together: no bit is left for ties */
    tess_adam_moments_t moments;
    tess_dtype_t gradient; /* bf16, fp16 or fp32 */
    tess_dtype_t
        parameter;       /* MASTER: bf16 or fp16, or fp32: the master is the parameter. Else bf16 */
    double beta1, beta2; /* within [0, 1); the step's config must say the same */
    double epsilon;      /* > 0; below 1e-12 it is no smaller than what 2^-102 under the root does:
                            gradients of 1e-13 and less then count for less than they should */
    int l2;              /* 1: Adam, decay joins the gradient; 0: AdamW, decay is decoupled */
    int threads;         /* host only: OpenMP threads; 0: OpenMP's own choice */
} tess_adam_config_t;

#define TESS_ADAM_CONFIG_DEFAULT                                                                   \
    {                                                                                              \
        TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_FP32, TESS_DTYPE_BF16, TESS_DTYPE_BF16, 0.9, 0.999,    \
            1e-8, 0, 0                                                                             \
    }

/* A run of elements that share weight decay and learning rate, in device memory. Arrays that the
 * layout does not have are NULL. Any alignment to their own dtype works; fastest when element 0 of
 * all arrays is aligned alike (16 bytes for fp32). */
typedef struct tess_adam_range {
    int64_t count;        /* elements, >= 0 */
    int64_t first_index;  /* of element 0 in the whole model: stochastic rounding depends on it, so
                             the same model split otherwise gives the same bits (8BIT: cut at
                             multiples of TESS_ADAM_BLOCK) */
    const void *gradient; /* (count) config.gradient */
    void *parameter;      /* (count) config.parameter; NULL where the master is the parameter */
    void *master;         /* MASTER: (count) fp32. REMAINDER: (count) 16 bits. BF16: NULL */
    void *moment1;        /* (count) fp32, bf16, or 8 bits */
    void *moment2;        /* (count) alike */
    float *scale1;        /* 8BIT: (ceil(count / TESS_ADAM_BLOCK)); else NULL */
    float *scale2;        /* alike */
    float weight_decay;   /* >= 0 */
    float learning_rate_factor; /* times the step's learning rate; 1 as a rule */
} tess_adam_range_t;

/* Bytes of each array of `count` elements; 0 where the layout has none. */
typedef struct tess_adam_sizes {
    int64_t gradient_bytes, parameter_bytes, master_bytes;
    int64_t moment1_bytes, moment2_bytes, scale1_bytes, scale2_bytes;
    int64_t traffic_bytes; /* what one step reads and writes, all told */
} tess_adam_sizes_t;
TESS_API TESS_MUST_CHECK tess_status_t tess_adam_sizes(const tess_adam_config_t *config,
                                                       int64_t count, tess_adam_sizes_t *sizes);

/* TESS_ERR_INVALID_ARGUMENT names the field that is out of range or does not fit the others. */
TESS_API TESS_MUST_CHECK tess_status_t tess_adam_create(tess_device_t *device,
                                                        const tess_adam_config_t *config,
                                                        tess_adam_t **adam);
TESS_API void tess_adam_destroy(tess_adam_t *adam);

/* How the steps run: "cuda, sm_90" or "host, avx512, 16 threads". Owned by adam. */
TESS_API const char *tess_adam_description(const tess_adam_t *adam);

/* Queues one step over one range, which is passed by value: nothing is allocated. `state` is
 * tess_step_state() of a step that was begun on the stream before, or a copy of it on the same
 * device. Changes nothing when state->skip is set. */
TESS_API TESS_MUST_CHECK tess_status_t tess_adam_step(tess_adam_t *adam, tess_stream_t *stream,
                                                      const tess_step_state_t *state,
                                                      const tess_adam_range_t *range);

/* A list of ranges, copied to the device once, so that one launch steps them all: parameter groups,
 * or tensors with a decay of their own. The caller destroys it when queued steps are done. */
TESS_API TESS_MUST_CHECK tess_status_t tess_adam_list_create(tess_adam_t *adam,
                                                             const tess_adam_range_t *ranges,
                                                             int64_t range_count,
                                                             tess_adam_list_t **list);
TESS_API void tess_adam_list_destroy(tess_adam_list_t *list);
TESS_API TESS_MUST_CHECK tess_status_t tess_adam_step_list(tess_adam_t *adam, tess_stream_t *stream,
                                                           const tess_step_state_t *state,
                                                           const tess_adam_list_t *list);

/* The state of a range in plain fp32, each (count) in device memory, whatever the layout: what a
 * checkpoint holds. Those that are NULL are left out. */
typedef struct tess_adam_values {
    float *weights, *moment1, *moment2;
} tess_adam_values_t;

/* Queues values = the range's state. Exact; the range's gradient is not read and may be NULL. */
TESS_API TESS_MUST_CHECK tess_status_t tess_adam_export(tess_adam_t *adam, tess_stream_t *stream,
                                                        const tess_adam_range_t *range,
                                                        const tess_adam_values_t *values);

/* Queues the range's state = values, and its parameter, all rounded to nearest. Exact where the
 * layout has the bits: what tess_adam_export gave comes back bit by bit in the same layout; with
 * 8BIT once more rounded in a block whose largest value had been rounded down past a power of two.
 * A moment that is NULL becomes zero; weights that are NULL are taken from the parameter, which
 * with the moments NULL is how a fresh model starts. The gradient is not read and may be NULL. */
TESS_API TESS_MUST_CHECK tess_status_t tess_adam_import(tess_adam_t *adam, tess_stream_t *stream,
                                                        const tess_adam_range_t *range,
                                                        const tess_adam_values_t *values);

#ifdef __cplusplus
}
#endif
#endif
