/* SPDX-License-Identifier: Apache-2.0 */
/* One optimizer step as all its kernels see it: step number, learning rate, loss scale, clip
 * coefficient and the decision to skip, kept in device memory.
 *
 * tess_step_begin decides; tess_adam_step and its kin obey what they read from the device, so the
 * host waits for nothing and a whole step can be captured in a CUDA graph and replayed. A step with
 * gradients that are not finite is skipped on every rank alike, because all ranks begin with the
 * same sums: weights, moments, step number and learning rate stay as they are, the skip is counted,
 * and tess_step_read says so.
 *
 * Threads: one tess_step_t by one thread at a time. Lifetime: queued work must be done before
 * tess_step_destroy; the device must outlive it.
 */
#ifndef TESSERA_STEP_H
#define TESSERA_STEP_H

#include <stdint.h>
#include <tessera/device.h>
#include <tessera/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tess_step tess_step_t;

/* The loss scale and its rules, which are DeepSpeed's (runtime/fp16/loss_scaler.py): on overflow
 * the hysteresis is used up first, then the scale is halved, at most down to `minimum`; overflow at
 * the minimum is an error. With the first clean step after `window` others in a row it is
 * doubled, up to 2^127. */
typedef struct tess_loss_scale_config {
    int dynamic;        /* 0: `initial` for good, 1 where gradients are not scaled */
    float initial;      /* > 0 */
    float minimum;      /* > 0, dynamic only, as all that follow */
    int64_t window;     /* >= 1 */
    int32_t hysteresis; /* >= 1: overflows until the scale is halved */
    int consecutive;    /* a clean step refills the hysteresis; otherwise only growth does */
} tess_loss_scale_config_t;

#define TESS_LOSS_SCALE_NONE                                                                       \
    {                                                                                              \
        0, 1.0f, 1.0f, 1000, 2, 0                                                                  \
    }
/* What DeepSpeed takes for fp16 where the file says nothing. */
#define TESS_LOSS_SCALE_DYNAMIC                                                                    \
    {                                                                                              \
        1, 65536.0f, 1.0f, 1000, 2, 0                                                              \
    }

typedef struct tess_step_config {
    double learning_rate; /* until tess_step_set_learning_rate or a schedule says otherwise */
    double beta1, beta2;  /* Adam's, within [0, 1), for the bias corrections */
    double clip_norm;     /* largest global L2 norm of the un-scaled gradients; 0: no clipping */
    tess_loss_scale_config_t loss_scale;
    uint64_t seed; /* of stochastic rounding; equal on all ranks */
} tess_step_config_t;

#define TESS_STEP_CONFIG_DEFAULT                                                                   \
    {                                                                                              \
        1e-3, 0.9, 0.999, 0.0, TESS_LOSS_SCALE_NONE, 0                                             \
    }

/* What lies in device memory. A checkpoint saves these bytes as they are. */
typedef struct tess_step_state {
    int64_t step;          /* steps applied so far, the one begun last included */
    int64_t skipped;       /* steps skipped so far */
    int64_t last_overflow; /* dynamic scale: step + skipped when it overflowed last; -1: never */
    double beta1_power;    /* beta1^step, beta2^step */
    double beta2_power;
    double gradient_norm;     /* of the step begun last: un-scaled, before clipping */
    uint64_t random_key;      /* of the step begun last */
    float learning_rate;      /* of the step begun last */
    float loss_scale;         /* for the next backward pass */
    float clip_coefficient;   /* min(1, clip_norm / (norm + 1e-6)), 1 without clipping */
    float gradient_factor;    /* clip_coefficient / loss scale: multiplies every gradient */
    float moment1_factor;     /* 1 / (1 - beta1^step) */
    float moment2_factor;     /* 1 / sqrt(1 - beta2^step) */
    int32_t hysteresis_left;  /* overflows until the scale is halved */
    int32_t skip;             /* 1: the step begun last changes nothing */
    int32_t exhausted;        /* 1: an overflow came at the smallest loss scale; every step skips */
    float next_learning_rate; /* of the next step, unless a schedule says otherwise */
} tess_step_state_t;

/* Allocates the state on `device` and fills it from `config`. TESS_ERR_INVALID_ARGUMENT names the
 * field that is out of range. The caller destroys it. */
TESS_API TESS_MUST_CHECK tess_status_t tess_step_create(tess_device_t *device,
                                                        const tess_step_config_t *config,
                                                        tess_step_t **step);
TESS_API void tess_step_destroy(tess_step_t *step);

/* Queues the decision about the next step. `sums` (sum_count) are sums of squared gradients in
 * device memory, as tess_gradient_combine writes them; they are added in order. Give the world's
 * sums gathered rank by rank (8 bytes a rank), or one sum that was reduced in fp64: all ranks then
 * decide alike. A total that is not finite skips the step, and so does one that lets a gradient,
 * clipped, be as large as 2^63, because its square would leave fp32. NULL with sum_count 0:
 * gradients are known to be finite and are not clipped (TESS_ERR_INVALID_ARGUMENT with clip_norm >
 * 0). Clipping as torch.nn.utils.clip_grad_norm_; the un-scaled norm is sqrt(sum) / loss scale. */
TESS_API TESS_MUST_CHECK tess_status_t tess_step_begin(tess_step_t *step, tess_stream_t *stream,
                                                       const double *sums, int64_t sum_count);

/* Queues a new learning rate for the steps begun behind it. */
TESS_API TESS_MUST_CHECK tess_status_t tess_step_set_learning_rate(tess_step_t *step,
                                                                   tess_stream_t *stream,
                                                                   double learning_rate);

/* From the next tess_step_begin on, step t (1, 2, …, skipped ones not counted) takes
 * rates[min(t, count) - 1] from device memory, which the caller keeps: a schedule that does not
 * move on when a step is skipped, and needs no host. NULL with count 0 ends it. */
TESS_API TESS_MUST_CHECK tess_status_t tess_step_set_schedule(tess_step_t *step, const float *rates,
                                                              int64_t count);

/* The state in device memory, for tess_adam_step and for kernels of the caller's; read only. */
TESS_API const tess_step_state_t *tess_step_state(const tess_step_t *step);

/* Copies the state to the host behind what stream holds, and waits for it. Says in one line on
 * stderr how many steps were skipped since the last read, and why. TESS_ERR_STATE, with *state
 * filled, where the loss scale cannot be lowered any further. */
TESS_API TESS_MUST_CHECK tess_status_t tess_step_read(tess_step_t *step, tess_stream_t *stream,
                                                      tess_step_state_t *state);

/* Queues the restoring of a saved state; *state may go when the call returns. */
TESS_API TESS_MUST_CHECK tess_status_t tess_step_write(tess_step_t *step, tess_stream_t *stream,
                                                       const tess_step_state_t *state);

#ifdef __cplusplus
}
#endif
#endif
