/* SPDX-License-Identifier: Apache-2.0 */
/* The decision about one step, for the host and for a kernel of one thread.
 *
 * Invariant: the same inputs give the same state, bit by bit, on host and GPU: IEEE arithmetic
 * without contraction, and powers by one multiplication a step.
 */
#ifndef TESSERA_OPTIM_STEP_MATH_H
#define TESSERA_OPTIM_STEP_MATH_H

#include <math.h>
#include <stdint.h>
#include <tessera/step.h>

#ifdef __CUDACC__
#define TESSI_STEP_MATH static __device__ __forceinline__
#else
#define TESSI_STEP_MATH static inline __attribute__((unused))
#endif

/* The square of a gradient below this fits into fp32, and no gradient is larger than their norm. */
#define TESSI_GRADIENT_LIMIT 0x1p63

typedef struct tessi_step_input {
    const double *sums; /* (sum_count) */
    int64_t sum_count;
    const float *rates; /* (rate_count), or NULL */
    int64_t rate_count;
} tessi_step_input_t;

/* splitmix64, so that neighbouring steps share no pattern. */
TESSI_STEP_MATH uint64_t tessi_step_key(uint64_t seed, int64_t step)
{
    uint64_t x = seed + (uint64_t)step * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

TESSI_STEP_MATH void tessi_step_overflow(const tess_loss_scale_config_t *rules,
                                         tess_step_state_t *state)
{
    if (!rules->dynamic) return;
    state->last_overflow = state->step + state->skipped;
    if (state->hysteresis_left > 1) {
        state->hysteresis_left--;
        return;
    }
    if (state->loss_scale <= rules->minimum) state->exhausted = 1;
    float half = state->loss_scale * 0.5f;
    state->loss_scale = half > rules->minimum ? half : rules->minimum;
}

/* Before state->step counts the clean step. */
TESSI_STEP_MATH void tessi_step_clean(const tess_loss_scale_config_t *rules,
                                      tess_step_state_t *state)
{
    if (!rules->dynamic) return;
    int64_t clean = state->step + state->skipped - state->last_overflow - 1;
    if (rules->consecutive) state->hysteresis_left = rules->hysteresis;
    if (clean <= 0 || clean % rules->window != 0) return;
    state->hysteresis_left = rules->hysteresis;
    if (state->loss_scale < 0x1p127f) state->loss_scale = state->loss_scale * 2.0f;
}

TESSI_STEP_MATH void tessi_step_decide(const tess_step_config_t *config,
                                       const tessi_step_input_t *input, tess_step_state_t *state)
{
    double total = 0.0;
    for (int64_t i = 0; i < input->sum_count; i++) total = total + input->sums[i];
    int finite = total - total == 0.0; /* neither infinite nor NaN */
    double scale = (double)state->loss_scale;
    double norm = finite ? sqrt(total) / scale : total;
    double excess = config->clip_norm > 0.0 ? (norm + 1e-6) / config->clip_norm : 1.0;
    double clip = excess > 1.0 ? 1.0 / excess : 1.0;
    state->gradient_norm = norm;
    state->skip = !(norm * clip < TESSI_GRADIENT_LIMIT) || state->exhausted;
    if (state->skip) {
        if (!state->exhausted) tessi_step_overflow(&config->loss_scale, state);
        state->skipped++;
        return;
    }
    tessi_step_clean(&config->loss_scale, state);
    state->step++;
    state->beta1_power = state->beta1_power * config->beta1;
    state->beta2_power = state->beta2_power * config->beta2;
    state->moment1_factor = (float)(1.0 / (1.0 - state->beta1_power));
    state->moment2_factor = (float)(1.0 / sqrt(1.0 - state->beta2_power));
    state->clip_coefficient = (float)clip;
    state->gradient_factor = (float)(clip / scale);
    state->random_key = tessi_step_key(config->seed, state->step);
    if (input->rates) {
        int64_t last = input->rate_count - 1;
        state->next_learning_rate = input->rates[state->step - 1 < last ? state->step - 1 : last];
    }
    state->learning_rate = state->next_learning_rate;
}

#endif
