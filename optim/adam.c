/* SPDX-License-Identifier: Apache-2.0 */
/* Adam's public functions: they check, trace, and hand on to the back end.
 *
 * Invariant: a back end sees only layouts that exist, and ranges with every array that the layout
 * has and none that it has not.
 */
#include <inttypes.h>
#include <math.h>

#include "optim_internal.h"

/* A range of more elements than this cannot be in memory; sizes stay far from overflow. */
#define COUNT_MAX (INT64_MAX / 64)

/* --- layouts ---------------------------------------------------------------------------------- */

static tess_status_t refuse(const char *function, const char *field, double value, const char *rule)
{
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: config.%s is %g, but must be %s", function,
                      field, value, rule);
}

static int is_float_dtype(tess_dtype_t dtype)
{
    return dtype == TESS_DTYPE_BF16 || dtype == TESS_DTYPE_FP16 || dtype == TESS_DTYPE_FP32;
}

static tess_status_t check_layout(const tess_adam_config_t *config, const char *function)
{
    if ((int)config->weights < TESS_ADAM_MASTER || config->weights > TESS_ADAM_BF16)
        return refuse(function, "weights", (double)config->weights,
                      "TESS_ADAM_MASTER, TESS_ADAM_REMAINDER or TESS_ADAM_BF16");
    if ((int)config->moments < TESS_ADAM_MOMENTS_FP32 || config->moments > TESS_ADAM_MOMENTS_8BIT)
        return refuse(function, "moments", (double)config->moments,
                      "TESS_ADAM_MOMENTS_FP32, _BF16 or _8BIT");
    if (config->weights == TESS_ADAM_REMAINDER && config->moments == TESS_ADAM_MOMENTS_8BIT)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: config.weights TESS_ADAM_REMAINDER and config.moments "
                          "TESS_ADAM_MOMENTS_8BIT do not go together: 8 bits leave none for ties",
                          function);
    if (!is_float_dtype(config->gradient))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: config.gradient is %s, but must be bf16, fp16 or fp32", function,
                          tess_dtype_name(config->gradient));
    if (config->weights == TESS_ADAM_MASTER && !is_float_dtype(config->parameter))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: config.parameter is %s, but must be bf16, fp16 or fp32", function,
                          tess_dtype_name(config->parameter));
    if (config->weights != TESS_ADAM_MASTER && config->parameter != TESS_DTYPE_BF16)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: config.parameter is %s, but must be bf16 without TESS_ADAM_MASTER",
                          function, tess_dtype_name(config->parameter));
    return TESS_OK;
}

static tess_status_t check_config(const tess_adam_config_t *config, const char *function)
{
    tess_status_t status = check_layout(config, function);
    if (status) return status;
    if (!(config->beta1 >= 0.0 && config->beta1 < 1.0))
        return refuse(function, "beta1", config->beta1, "within [0, 1)");
    if (!(config->beta2 >= 0.0 && config->beta2 < 1.0))
        return refuse(function, "beta2", config->beta2, "within [0, 1)");
    if (!((float)config->epsilon > 0.0f) || !isfinite((float)config->epsilon))
        return refuse(function, "epsilon", config->epsilon, "above 0 and finite as fp32");
    if (config->l2 != 0 && config->l2 != 1)
        return refuse(function, "l2", (double)config->l2, "0 or 1");
    if (config->threads < 0)
        return refuse(function, "threads", (double)config->threads, "0 or above");
    return TESS_OK;
}

/* Bytes of one element of each array; scales stand apart. */
typedef struct element_bytes {
    int64_t gradient, parameter, master, moment;
} element_bytes_t;

static element_bytes_t element_bytes_of(const tess_adam_config_t *config)
{
    static const int64_t master[] = {4, 2, 0}, moment[] = {4, 2, 1};
    int is_master = config->weights == TESS_ADAM_MASTER && config->parameter == TESS_DTYPE_FP32;
    return (element_bytes_t){
        .gradient = tess_dtype_bytes(config->gradient),
        .parameter = is_master ? 0 : tess_dtype_bytes(config->parameter),
        .master = master[config->weights],
        .moment = moment[config->moments],
    };
}

static tess_adam_sizes_t sizes_of(const tess_adam_config_t *config, int64_t count)
{
    element_bytes_t element = element_bytes_of(config);
    int64_t blocks = count / TESS_ADAM_BLOCK + (count % TESS_ADAM_BLOCK != 0);
    int has_scales = config->moments == TESS_ADAM_MOMENTS_8BIT;
    tess_adam_sizes_t sizes = {
        .gradient_bytes = count * element.gradient,
        .parameter_bytes = count * element.parameter,
        .master_bytes = count * element.master,
        .moment1_bytes = count * element.moment,
        .moment2_bytes = count * element.moment,
        .scale1_bytes = has_scales ? blocks * (int64_t)sizeof(float) : 0,
        .scale2_bytes = has_scales ? blocks * (int64_t)sizeof(float) : 0,
    };
    int reads_parameter = config->weights != TESS_ADAM_MASTER;
    sizes.traffic_bytes = sizes.gradient_bytes + sizes.parameter_bytes * (1 + reads_parameter) +
                          2 * (sizes.master_bytes + sizes.moment1_bytes + sizes.moment2_bytes +
                               sizes.scale1_bytes + sizes.scale2_bytes);
    return sizes;
}

tess_status_t tess_adam_sizes(const tess_adam_config_t *config, int64_t count,
                              tess_adam_sizes_t *sizes)
{
    if (!config || !sizes)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_adam_sizes: %s is NULL",
                          config ? "sizes" : "config");
    tess_status_t status = check_layout(config, "tess_adam_sizes");
    if (status) return status;
    if (count < 0 || count > COUNT_MAX)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_adam_sizes: count is %" PRId64 ", but must be from 0 to %" PRId64,
                          count, (int64_t)COUNT_MAX);
    *sizes = sizes_of(config, count);
    return TESS_OK;
}

/* --- ranges ----------------------------------------------------------------------------------- */

/* bytes: of one element, which is also the alignment; 0 where the layout has no such array. */
static tess_status_t check_array(const char *function, const char *name, const void *array,
                                 int64_t bytes, int64_t count)
{
    if (bytes == 0 && array)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: range.%s is not NULL, but the layout has no such array", function,
                          name);
    if (bytes > 0 && !array && count > 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: range.%s is NULL, but the layout has such an array", function, name);
    if (bytes > 0 && (uintptr_t)array % (uintptr_t)bytes != 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: range.%s is %p, which is not aligned to its %" PRId64 " bytes",
                          function, name, array, bytes);
    return TESS_OK;
}

static tess_status_t check_arrays(const tess_adam_config_t *config, const tess_adam_range_t *range,
                                  int needs_gradient, const char *function)
{
    element_bytes_t element = element_bytes_of(config);
    int64_t scale = config->moments == TESS_ADAM_MOMENTS_8BIT ? (int64_t)sizeof(float) : 0;
    const struct {
        const char *name;
        const void *array;
        int64_t bytes;
    } arrays[] = {
        {"parameter", range->parameter, element.parameter},
        {"master", range->master, element.master},
        {"moment1", range->moment1, element.moment},
        {"moment2", range->moment2, element.moment},
        {"scale1", range->scale1, scale},
        {"scale2", range->scale2, scale},
        {"gradient", range->gradient, element.gradient},
    };
    size_t array_count = sizeof arrays / sizeof *arrays - (needs_gradient ? 0 : 1);
    for (size_t i = 0; i < array_count; i++) {
        tess_status_t status =
            check_array(function, arrays[i].name, arrays[i].array, arrays[i].bytes, range->count);
        if (status) return status;
    }
    return TESS_OK;
}

static int is_factor(float value)
{
    return value >= 0.0f && isfinite(value);
}

tess_status_t tessi_adam_check_range(const tess_adam_config_t *config,
                                     const tess_adam_range_t *range, int needs_gradient,
                                     const char *function)
{
    if (range->count < 0 || range->count > COUNT_MAX)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: range.count is %" PRId64 ", but must be from 0 to %" PRId64,
                          function, range->count, (int64_t)COUNT_MAX);
    if (range->first_index < 0 || range->first_index > INT64_MAX - range->count)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: range.first_index is %" PRId64 ", but must be 0 or above, and so "
                          "must the last index",
                          function, range->first_index);
    if (!is_factor(range->weight_decay))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: range.weight_decay is %g, but must be 0 or above, and finite",
                          function, (double)range->weight_decay);
    if (!is_factor(range->learning_rate_factor))
        return tessi_fail(
            TESS_ERR_INVALID_ARGUMENT,
            "%s: range.learning_rate_factor is %g, but must be 0 or above, and finite", function,
            (double)range->learning_rate_factor);
    return check_arrays(config, range, needs_gradient, function);
}

/* --- life and steps --------------------------------------------------------------------------- */

tess_status_t tess_adam_create(tess_device_t *device, const tess_adam_config_t *config,
                               tess_adam_t **adam)
{
    if (!device || !config || !adam)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_adam_create: %s is NULL",
                          !device   ? "device"
                          : !config ? "config"
                                    : "adam");
    tess_status_t status = check_config(config, "tess_adam_create");
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "adam_create", -1, -1);
    tess_adam_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    made->device = device;
    made->config = *config;
    made->constants = (tessi_adam_constants_t){
        .beta1_rest = (float)(1.0 - config->beta1),
        .beta2_rest = (float)(1.0 - config->beta2),
        .epsilon = (float)config->epsilon,
        .l2 = config->l2,
    };
    TESS_TRY(tessi_optim_ops(device, &made->ops), err_destroy);
    TESS_TRY(made->ops->describe(made), err_destroy);
    *adam = made;
    return TESS_OK;

err_destroy:
    tess_adam_destroy(made);
    return status;
}

void tess_adam_destroy(tess_adam_t *adam)
{
    if (!adam) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "adam_destroy", -1, -1);
    tessi_free(adam);
}

const char *tess_adam_description(const tess_adam_t *adam)
{
    return adam->description;
}

static tess_status_t check_step(const tess_adam_t *adam, const tess_stream_t *stream,
                                const tess_step_state_t *state, const char *function)
{
    tess_status_t status = tessi_optim_check_stream(adam->device, stream, function);
    if (status) return status;
    if (!state) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: state is NULL", function);
    if ((uintptr_t)state % sizeof(int64_t) != 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: state is %p, which is not aligned to 8 bytes", function,
                          (const void *)state);
    return TESS_OK;
}

tess_status_t tess_adam_step(tess_adam_t *adam, tess_stream_t *stream,
                             const tess_step_state_t *state, const tess_adam_range_t *range)
{
    static const char function[] = "tess_adam_step";
    if (!adam || !range)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: %s is NULL", function,
                          adam ? "range" : "adam");
    tess_status_t status = check_step(adam, stream, state, function);
    if (!status) status = tessi_adam_check_range(&adam->config, range, 1, function);
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "adam", sizes_of(&adam->config, range->count).traffic_bytes,
                      -1);
    int64_t tile = adam->ops->tile_elements;
    tessi_adam_work_t work = {.tile_count = range->count / tile + (range->count % tile != 0),
                              .element_count = range->count,
                              .range = *range};
    return adam->ops->adam_step(adam, stream, state, &work);
}

tess_status_t tess_adam_step_list(tess_adam_t *adam, tess_stream_t *stream,
                                  const tess_step_state_t *state, const tess_adam_list_t *list)
{
    static const char function[] = "tess_adam_step_list";
    if (!adam || !list)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: %s is NULL", function,
                          adam ? "list" : "adam");
    if (list->adam != adam)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: the list was created for another adam",
                          function);
    tess_status_t status = check_step(adam, stream, state, function);
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "adam_list", list->bytes, list->range_count);
    tessi_adam_work_t work = {.ranges = list->ranges,
                              .tiles = list->tiles,
                              .tile_count = list->tile_count,
                              .element_count = list->element_count};
    return adam->ops->adam_step(adam, stream, state, &work);
}

/* --- export and import ------------------------------------------------------------------------ */

static tess_status_t check_values(const tess_adam_values_t *values, const char *function)
{
    const float *arrays[] = {values->weights, values->moment1, values->moment2};
    static const char *const names[] = {"weights", "moment1", "moment2"};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        if ((uintptr_t)arrays[i] % sizeof(float) != 0)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "%s: values.%s is %p, which is not aligned to 4 bytes", function,
                              names[i], (const void *)arrays[i]);
    }
    return TESS_OK;
}

static tess_status_t check_transfer(const tess_adam_t *adam, const tess_stream_t *stream,
                                    const tess_adam_range_t *range,
                                    const tess_adam_values_t *values, const char *function)
{
    if (!adam || !range || !values)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: %s is NULL", function,
                          !adam    ? "adam"
                          : !range ? "range"
                                   : "values");
    tess_status_t status = tessi_optim_check_stream(adam->device, stream, function);
    if (!status) status = tessi_adam_check_range(&adam->config, range, 0, function);
    if (!status) status = check_values(values, function);
    return status;
}

tess_status_t tess_adam_export(tess_adam_t *adam, tess_stream_t *stream,
                               const tess_adam_range_t *range, const tess_adam_values_t *values)
{
    tess_status_t status = check_transfer(adam, stream, range, values, "tess_adam_export");
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "adam_export", range->count * 3 * (int64_t)sizeof(float),
                      -1);
    return adam->ops->adam_export(adam, stream, range, values);
}

tess_status_t tess_adam_import(tess_adam_t *adam, tess_stream_t *stream,
                               const tess_adam_range_t *range, const tess_adam_values_t *values)
{
    tess_status_t status = check_transfer(adam, stream, range, values, "tess_adam_import");
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "adam_import", range->count * 3 * (int64_t)sizeof(float),
                      -1);
    return adam->ops->adam_import(adam, stream, range, values);
}
