/* SPDX-License-Identifier: Apache-2.0 */
/* Un-scale, AdamW and the cast to bf16 as one writes them down, for the compiler to make the best
 * of at -O3 for the processor's base instruction set. What the fused step is compared with.
 */
#include <math.h>
#include <string.h>

#include "adam_bench.h"

static float widen(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To nearest even; weights here are finite. */
static uint16_t narrow(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static void plain_slice(const adam_plain_t *p, int64_t from, int64_t to)
{
    const uint16_t *restrict gradient = p->gradient;
    uint16_t *restrict parameter = p->parameter;
    float *restrict master = p->master, *restrict moment1 = p->moment1;
    float *restrict moment2 = p->moment2;
    const float beta1 = p->beta1, beta2 = p->beta2, epsilon = p->epsilon;
    const float factor = p->state->gradient_factor, factor2 = p->state->moment2_factor;
    const float rate = p->state->learning_rate * p->state->moment1_factor;
    const float decay = p->state->learning_rate * p->weight_decay;
    for (int64_t i = from; i < to; i++) {
        float g = widen(gradient[i]) * factor;
        float m = beta1 * moment1[i] + (1.0f - beta1) * g;
        float v = beta2 * moment2[i] + (1.0f - beta2) * g * g;
        float w = master[i];
        w -= rate * m / (sqrtf(v) * factor2 + epsilon) + decay * w;
        moment1[i] = m;
        moment2[i] = v;
        master[i] = w;
        parameter[i] = narrow(w);
    }
}

static void plain_share(void *argument, int64_t index)
{
    const adam_plain_t *p = argument;
    plain_slice(p, p->count * index / p->threads, p->count * (index + 1) / p->threads);
}

tess_status_t adam_plain_step(void *argument)
{
    const adam_plain_t *p = argument;
    adam_threads_run(p->threads, p->threads, plain_share, argument);
    return TESS_OK;
}
