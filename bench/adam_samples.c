/* SPDX-License-Identifier: Apache-2.0 */
/* Values as training has them: weights and gradients distributed like a normal, moments that fit
 * the gradients. Zeros would be faster than life: they take less power and no slow paths.
 */
#include <math.h>

#include "adam_bench.h"
#include "core/internal.h"
#include "optim/adam_math.h"

#define WEIGHT_DEVIATION 0.02f
#define GRADIENT_DEVIATION 1e-3f
#define DEVICE_BYTES (3 * ADAM_SAMPLES * (int64_t)sizeof(float))

/* A sum of four uniform numbers, scaled to variance 1: near enough to a normal. */
static float normal(uint64_t *state)
{
    int32_t sum = 0;
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    uint64_t x = (*state ^ *state >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
    for (int i = 0; i < 4; i++) sum += (int32_t)(x >> 16 * i & 0xffff);
    return ((float)sum / 65536.0f - 2.0f) * 1.7320508f;
}

/* The rounded gradient, as a number again. */
static float store_gradient(adam_samples_t *samples, tess_dtype_t dtype, int64_t i, float value)
{
    if (dtype == TESS_DTYPE_FP32) {
        ((float *)samples->gradient)[i] = value;
        return value;
    }
    uint16_t half = dtype == TESS_DTYPE_BF16 ? tessi_to_bf16(value) : tessi_to_fp16(value);
    ((uint16_t *)samples->gradient)[i] = half;
    return dtype == TESS_DTYPE_BF16 ? tessi_from_bf16(half) : tessi_from_fp16(half);
}

static void draw(adam_bench_t *bench)
{
    const bench_options_t *options = bench->session->options;
    adam_samples_t *samples = &bench->samples;
    uint64_t state =
        (uint64_t)options->seed * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)bench->session->rank;
    float *weights = samples->host, *moment1 = weights + ADAM_SAMPLES;
    float *moment2 = moment1 + ADAM_SAMPLES;
    for (int64_t i = 0; i < ADAM_SAMPLES; i++) {
        float other = normal(&state);
        weights[i] = WEIGHT_DEVIATION * normal(&state);
        moment1[i] = 0.3f * GRADIENT_DEVIATION * normal(&state);
        moment2[i] = GRADIENT_DEVIATION * GRADIENT_DEVIATION * (0.5f + 0.25f * other * other);
        float scaled = ADAM_LOSS_SCALE * GRADIENT_DEVIATION * normal(&state);
        double gradient = (double)store_gradient(samples, options->dtype, i, scaled);
        samples->squares[i + 1] = samples->squares[i] + gradient * gradient;
    }
}

tess_status_t adam_samples_open(adam_bench_t *bench)
{
    bench_session_t *session = bench->session;
    adam_samples_t *samples = &bench->samples;
    size_t count = (size_t)ADAM_SAMPLES;
    samples->host = tessi_calloc(3 * count, sizeof *samples->host);
    samples->gradient = tessi_calloc(count, sizeof(float));
    samples->squares = tessi_calloc(count + 1, sizeof *samples->squares);
    if (!samples->host || !samples->gradient || !samples->squares) return TESS_ERR_OUT_OF_MEMORY;
    draw(bench);
    return tess_memory_allocate(session->device, TESS_MEMORY_DEVICE, DEVICE_BYTES,
                                (void **)&samples->device);
}

void adam_samples_close(adam_bench_t *bench)
{
    adam_samples_t *samples = &bench->samples;
    tess_memory_free(bench->session->device, TESS_MEMORY_DEVICE, samples->device);
    tessi_free(samples->squares);
    tessi_free(samples->gradient);
    tessi_free(samples->host);
    *samples = (adam_samples_t){0};
}

/* --- into a case ----------------------------------------------------------------------------- */

static void *at(void *array, int64_t array_bytes, int64_t count, int64_t first)
{
    return array ? (char *)array + array_bytes / count * first : NULL;
}

tess_adam_range_t adam_part(const adam_case_t *c, int64_t first, int64_t count)
{
    const tess_adam_sizes_t *sizes = &c->sizes;
    tess_adam_range_t part = c->range;
    int64_t block = first / TESS_ADAM_BLOCK;
    part.count = count;
    part.first_index += first;
    part.gradient = (const char *)part.gradient + sizes->gradient_bytes / c->count * first;
    part.parameter = at(part.parameter, sizes->parameter_bytes, c->count, first);
    part.master = at(part.master, sizes->master_bytes, c->count, first);
    part.moment1 = at(part.moment1, sizes->moment1_bytes, c->count, first);
    part.moment2 = at(part.moment2, sizes->moment2_bytes, c->count, first);
    part.scale1 = part.scale1 ? part.scale1 + block : NULL;
    part.scale2 = part.scale2 ? part.scale2 + block : NULL;
    return part;
}

tess_status_t adam_case_fill(adam_case_t *c)
{
    adam_bench_t *bench = c->bench;
    adam_samples_t *samples = &bench->samples;
    tess_stream_t *stream = bench->session->stream;
    const tess_adam_values_t values = {samples->device, samples->device + ADAM_SAMPLES,
                                       samples->device + 2 * ADAM_SAMPLES};
    tess_status_t status = tess_stream_copy(stream, samples->device, samples->host, DEVICE_BYTES);
    for (int64_t first = 0; first < c->count && status >= 0; first += ADAM_SAMPLES) {
        int64_t left = c->count - first, count = left < ADAM_SAMPLES ? left : ADAM_SAMPLES;
        tess_adam_range_t part = adam_part(c, first, count);
        char *gradient = (char *)c->gradient + c->sizes.gradient_bytes / c->count * first;
        status = tess_adam_import(c->adam, stream, &part, &values);
        if (status >= 0)
            status = tess_stream_copy(stream, gradient, samples->gradient,
                                      c->sizes.gradient_bytes / c->count * count);
    }
    return status < 0 ? status : tess_stream_synchronize(stream, bench->session->timeout_ms);
}
