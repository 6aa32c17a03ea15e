/* SPDX-License-Identifier: Apache-2.0 */
/* One layout, size and number of threads: its arrays in the benchmark's memory, and the calls that
 * are timed.
 */
#include "adam_bench.h"
#include "core/internal.h"

#define ARRAY_ALIGNMENT 256
#define GROUP_ELEMENTS_MIN 1024 /* shorter ranges measure the list and no more */
#define WEIGHT_DECAY 0.01f

tess_adam_config_t adam_config(const bench_options_t *options, const bench_layout_t *layout,
                               int threads)
{
    tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;
    config.weights = layout->weights;
    config.moments = layout->moments;
    config.gradient = options->dtype;
    if (layout->weights == TESS_ADAM_MASTER) config.parameter = options->parameter;
    config.threads = threads;
    return config;
}

/* --- arrays ---------------------------------------------------------------------------------- */

static int64_t aligned(int64_t bytes)
{
    return (bytes + ARRAY_ALIGNMENT - 1) / ARRAY_ALIGNMENT * ARRAY_ALIGNMENT;
}

tess_status_t adam_state_bytes(const tess_adam_config_t *config, int64_t count, int64_t *bytes)
{
    tess_adam_sizes_t sizes;
    tess_status_t status = tess_adam_sizes(config, count, &sizes);
    if (status < 0) return status;
    *bytes = aligned(sizes.gradient_bytes) + aligned(sizes.parameter_bytes) +
             aligned(sizes.master_bytes) + aligned(sizes.moment1_bytes) +
             aligned(sizes.moment2_bytes) + aligned(sizes.scale1_bytes) +
             aligned(sizes.scale2_bytes);
    return TESS_OK;
}

/* The next array of the arena, NULL where the layout has none. */
static void *carve(char **next, int64_t bytes)
{
    void *array = bytes > 0 ? *next : NULL;
    *next += aligned(bytes);
    return array;
}

static void lay_out(adam_case_t *c)
{
    char *next = c->bench->memory.state;
    const tess_adam_sizes_t *sizes = &c->sizes;
    c->gradient = carve(&next, sizes->gradient_bytes);
    c->range = (tess_adam_range_t){.count = c->count,
                                   .gradient = c->gradient,
                                   .parameter = carve(&next, sizes->parameter_bytes),
                                   .weight_decay = WEIGHT_DECAY,
                                   .learning_rate_factor = 1.0f};
    c->range.master = carve(&next, sizes->master_bytes);
    c->range.moment1 = carve(&next, sizes->moment1_bytes);
    c->range.moment2 = carve(&next, sizes->moment2_bytes);
    c->range.scale1 = carve(&next, sizes->scale1_bytes);
    c->range.scale2 = carve(&next, sizes->scale2_bytes);
}

/* Where a group starts, or the last one ends. */
static int64_t group_first(const adam_case_t *c, int64_t group)
{
    if (group == c->groups) return c->count;
    return c->count / TESS_ADAM_BLOCK * group / c->groups * TESS_ADAM_BLOCK;
}

float adam_case_decay(const adam_case_t *c, adam_kind_t kind, int64_t element)
{
    if (kind != ADAM_GROUPS) return c->range.weight_decay;
    int64_t group = (int64_t)((double)element / (double)c->count * (double)c->groups);
    while (group > 0 && group_first(c, group) > element) group--;
    while (group + 1 < c->groups && group_first(c, group + 1) <= element) group++;
    return group % 2 ? 0.0f : c->range.weight_decay;
}

/* Ranges as tensors of a model: next to one another, every other one without weight decay. Each
 * starts on a whole block, so that together they have the arrays of the one range. */
static tess_status_t create_list(adam_case_t *c)
{
    int64_t groups = c->bench->session->options->groups;
    if (groups == 0 || c->count / groups < GROUP_ELEMENTS_MIN) return TESS_OK;
    tess_adam_range_t *ranges = tessi_calloc((size_t)groups, sizeof *ranges);
    if (!ranges) return TESS_ERR_OUT_OF_MEMORY;
    c->groups = groups;
    for (int64_t g = 0; g < groups; g++) {
        int64_t first = group_first(c, g);
        ranges[g] = adam_part(c, first, group_first(c, g + 1) - first);
        if (g % 2) ranges[g].weight_decay = 0.0f;
    }
    tess_status_t status = tess_adam_list_create(c->adam, ranges, groups, &c->list);
    tessi_free(ranges);
    return status;
}

static void fill_arguments(adam_case_t *c)
{
    const adam_memory_t *memory = &c->bench->memory;
    int64_t bytes = (c->sizes.traffic_bytes / 2 + 63) / 64 * 64;
    int threads = c->config.threads > 0 ? c->config.threads : 1;
    c->copy = (adam_copy_t){.destination = memory->copies + memory->copy_bytes,
                            .source = memory->copies,
                            .bytes = bytes < memory->copy_bytes ? bytes : memory->copy_bytes,
                            .threads = threads};
    c->plain = (adam_plain_t){.gradient = c->range.gradient,
                              .parameter = c->range.parameter,
                              .master = c->range.master,
                              .moment1 = c->range.moment1,
                              .moment2 = c->range.moment2,
                              .count = c->count,
                              .threads = threads,
                              .beta1 = (float)c->config.beta1,
                              .beta2 = (float)c->config.beta2,
                              .epsilon = (float)c->config.epsilon,
                              .weight_decay = WEIGHT_DECAY,
                              .state = tess_step_state(c->step)};
}

tess_status_t adam_case_begin(adam_case_t *c)
{
    tess_stream_t *stream = c->bench->session->stream;
    const tess_gradient_piece_t piece = {c->gradient, c->count, c->config.gradient};
    tess_status_t status = tess_gradient_measure(c->statistics, stream, 0, &piece);
    if (status >= 0) status = tess_gradient_combine(c->statistics, stream, c->bench->sum);
    if (status >= 0) status = tess_step_begin(c->step, stream, c->bench->sum, 1);
    if (status >= 0) c->begun++;
    return status;
}

tess_status_t adam_case_open(adam_case_t *c)
{
    tess_device_t *device = c->bench->session->device;
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    config.learning_rate = 1e-3;
    config.beta1 = c->config.beta1;
    config.beta2 = c->config.beta2;
    config.clip_norm = ADAM_CLIP_NORM;
    config.loss_scale.initial = ADAM_LOSS_SCALE;
    tess_status_t status = tess_adam_sizes(&c->config, c->count, &c->sizes);
    if (status >= 0) status = tess_adam_create(device, &c->config, &c->adam);
    if (status >= 0) status = tess_step_create(device, &config, &c->step);
    if (status >= 0) status = tess_gradient_create(device, 1, &c->statistics);
    if (status < 0) return status;
    lay_out(c);
    fill_arguments(c);
    status = create_list(c);
    if (status >= 0 && c->bench->session->kind == TESS_DEVICE_HOST)
        status = tess_stream_call(c->bench->session->stream, adam_threads_limit, &c->copy.threads);
    if (status >= 0) status = adam_case_fill(c);
    if (status >= 0) status = adam_case_begin(c);
    return status;
}

void adam_case_close(adam_case_t *c)
{
    tess_adam_list_destroy(c->list);
    tess_gradient_destroy(c->statistics);
    tess_step_destroy(c->step);
    tess_adam_destroy(c->adam);
    *c = (adam_case_t){.bench = c->bench};
}

/* --- what is timed --------------------------------------------------------------------------- */

int adam_case_has(const adam_case_t *c, adam_kind_t kind)
{
    int host = c->bench->session->kind == TESS_DEVICE_HOST;
    switch (kind) {
    case ADAM_STREAM_COPY:
        return host && adam_stream_available;
    case ADAM_GROUPS:
        return c->list != NULL;
    case ADAM_PLAIN:
        return host && c->config.weights == TESS_ADAM_MASTER &&
               c->config.moments == TESS_ADAM_MOMENTS_FP32 &&
               c->config.gradient == TESS_DTYPE_BF16 && c->config.parameter == TESS_DTYPE_BF16;
    default:
        return 1;
    }
}

static tess_status_t queue_copy(adam_case_t *c, tess_stream_t *stream)
{
    if (c->bench->session->kind == TESS_DEVICE_HOST)
        return tess_stream_call(stream, adam_copy_memcpy, &c->copy);
    return tess_stream_copy(stream, c->copy.destination, c->copy.source, c->copy.bytes);
}

tess_status_t adam_case_queue(adam_case_t *c, adam_kind_t kind)
{
    tess_stream_t *stream = c->bench->session->stream;
    const tess_step_state_t *state = tess_step_state(c->step);
    switch (kind) {
    case ADAM_COPY:
        return queue_copy(c, stream);
    case ADAM_STREAM_COPY:
        return tess_stream_call(stream, adam_copy_streaming, &c->copy);
    case ADAM_STEP: {
        tess_status_t status = adam_case_begin(c);
        if (status < 0) return status;
    } /* fall through */
    case ADAM_PASS:
        return tess_adam_step(c->adam, stream, state, &c->range);
    case ADAM_GROUPS:
        return tess_adam_step_list(c->adam, stream, state, c->list);
    case ADAM_PLAIN:
        return tess_stream_call(stream, adam_plain_step, &c->plain);
    case ADAM_LAUNCH: {
        tess_adam_range_t one = c->range;
        one.count = 1;
        return tess_adam_step(c->adam, stream, state, &one);
    }
    case ADAM_KINDS:
        break;
    }
    return tessi_fail(TESS_ERR_STATE, "there is no kind %d to time", (int)kind);
}
