/* SPDX-License-Identifier: Apache-2.0 */
/* A step's public functions: they check, trace, and hand on to the back end, which decides on the
 * device.
 *
 * Invariant: the host knows of a step's outcome only what tess_step_read copied, and what is saved
 * in step->config never changes.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "optim_internal.h"

static tess_status_t refuse(const char *field, double value, const char *rule)
{
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "tess_step_create: config.%s is %g, but must be %s", field, value, rule);
}

static int is_beta(double beta)
{
    return beta >= 0.0 && beta < 1.0;
}

static int is_flag(int value)
{
    return value == 0 || value == 1;
}

/* A normal number whose inverse is finite. */
static int is_scale(float scale)
{
    return scale >= 0x1p-126f && scale <= 0x1p127f;
}

static tess_status_t check_loss_scale(const tess_loss_scale_config_t *rules)
{
    if (!is_flag(rules->dynamic)) return refuse("loss_scale.dynamic", rules->dynamic, "0 or 1");
    if (!is_scale(rules->initial))
        return refuse("loss_scale.initial", (double)rules->initial, "from 2^-126 to 2^127");
    if (!rules->dynamic) return TESS_OK;
    if (!is_scale(rules->minimum) || rules->minimum > rules->initial)
        return refuse("loss_scale.minimum", (double)rules->minimum,
                      "at least 2^-126 and at most loss_scale.initial");
    if (rules->window < 1) return refuse("loss_scale.window", (double)rules->window, "at least 1");
    if (rules->hysteresis < 1)
        return refuse("loss_scale.hysteresis", rules->hysteresis, "at least 1");
    if (!is_flag(rules->consecutive))
        return refuse("loss_scale.consecutive", rules->consecutive, "0 or 1");
    return TESS_OK;
}

static int is_rate(double rate)
{
    return rate >= 0.0 && isfinite((float)rate);
}

static tess_status_t check_config(const tess_step_config_t *config)
{
    if (!is_rate(config->learning_rate))
        return refuse("learning_rate", config->learning_rate, "0 or above, and finite");
    if (!is_beta(config->beta1)) return refuse("beta1", config->beta1, "within [0, 1)");
    if (!is_beta(config->beta2)) return refuse("beta2", config->beta2, "within [0, 1)");
    if (!(config->clip_norm >= 0.0) || !isfinite(config->clip_norm))
        return refuse("clip_norm", config->clip_norm, "0 or above, and finite");
    return check_loss_scale(&config->loss_scale);
}

static tess_step_state_t first_state(const tess_step_config_t *config)
{
    return (tess_step_state_t){
        .last_overflow = -1,
        .beta1_power = 1.0,
        .beta2_power = 1.0,
        .learning_rate = (float)config->learning_rate,
        .next_learning_rate = (float)config->learning_rate,
        .loss_scale = config->loss_scale.initial,
        .clip_coefficient = 1.0f,
        .gradient_factor = (float)(1.0 / (double)config->loss_scale.initial),
        .moment1_factor = 1.0f,
        .moment2_factor = 1.0f,
        .hysteresis_left = config->loss_scale.dynamic ? config->loss_scale.hysteresis : 0,
    };
}

static tess_status_t store_first_state(tess_step_t *step)
{
    tess_status_t status;
    tess_stream_t *stream = NULL;
    tess_step_state_t state = first_state(&step->config);
    TESS_TRY(tess_stream_create(step->device, TESS_PRIORITY_NORMAL, &stream), err);
    TESS_TRY(step->ops->step_store(step, stream, &state), err_destroy);
    TESS_TRY(tess_stream_synchronize(stream, -1), err_destroy);

err_destroy:
    tess_stream_destroy(stream);
err:
    return status;
}

tess_status_t tess_step_create(tess_device_t *device, const tess_step_config_t *config,
                               tess_step_t **step)
{
    if (!device || !config || !step)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_step_create: %s is NULL",
                          !device   ? "device"
                          : !config ? "config"
                                    : "step");
    tess_status_t status = check_config(config);
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "step_create", -1, -1);
    tess_step_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    made->device = device;
    made->config = *config;
    void *memory = NULL;
    TESS_TRY(tessi_optim_ops(device, &made->ops), err_destroy);
    TESS_TRY(tess_memory_allocate(device, TESS_MEMORY_DEVICE, sizeof *made->state, &memory),
             err_destroy);
    made->state = memory;
    TESS_TRY(tess_memory_allocate(device, TESS_MEMORY_PINNED, sizeof *made->copy, &memory),
             err_destroy);
    made->copy = memory;
    TESS_TRY(store_first_state(made), err_destroy);
    *step = made;
    return TESS_OK;

err_destroy:
    tess_step_destroy(made);
    return status;
}

void tess_step_destroy(tess_step_t *step)
{
    if (!step) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "step_destroy", -1, -1);
    tess_memory_free(step->device, TESS_MEMORY_PINNED, step->copy);
    tess_memory_free(step->device, TESS_MEMORY_DEVICE, step->state);
    tessi_free(step);
}

static tess_status_t check_call(const tess_step_t *step, const tess_stream_t *stream,
                                const char *function)
{
    if (!step) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: step is NULL", function);
    return tessi_optim_check_stream(step->device, stream, function);
}

tess_status_t tess_step_begin(tess_step_t *step, tess_stream_t *stream, const double *sums,
                              int64_t sum_count)
{
    tess_status_t status = check_call(step, stream, "tess_step_begin");
    if (status) return status;
    if (sum_count < 0 || (sums == NULL) != (sum_count == 0))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_step_begin: sums is %s, but sum_count is %" PRId64,
                          sums ? "not NULL" : "NULL", sum_count);
    if ((uintptr_t)sums % sizeof *sums != 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_step_begin: sums is %p, which is not aligned to 8 bytes",
                          (const void *)sums);
    if (!sums && step->config.clip_norm > 0.0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_step_begin: sums is NULL, but config.clip_norm is %g, and clipping "
                          "needs the gradients' norm",
                          step->config.clip_norm);
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "step_begin", -1, -1);
    tessi_step_input_t input = {
        .sums = sums, .sum_count = sum_count, .rates = step->rates, .rate_count = step->rate_count};
    return step->ops->step_decide(step, stream, &input);
}

tess_status_t tess_step_set_learning_rate(tess_step_t *step, tess_stream_t *stream,
                                          double learning_rate)
{
    tess_status_t status = check_call(step, stream, "tess_step_set_learning_rate");
    if (status) return status;
    if (!is_rate(learning_rate))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_step_set_learning_rate: learning_rate is %g, but must be 0 or "
                          "above, and finite",
                          learning_rate);
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "step_rate", -1, -1);
    return step->ops->step_rate(step, stream, (float)learning_rate);
}

tess_status_t tess_step_set_schedule(tess_step_t *step, const float *rates, int64_t count)
{
    if (!step) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_step_set_schedule: step is NULL");
    if (count < 0 || (rates == NULL) != (count == 0))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_step_set_schedule: rates is %s, but count is %" PRId64,
                          rates ? "not NULL" : "NULL", count);
    if ((uintptr_t)rates % sizeof *rates != 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_step_set_schedule: rates is %p, which is not aligned to 4 bytes",
                          (const void *)rates);
    step->rates = rates;
    step->rate_count = count;
    return TESS_OK;
}

const tess_step_state_t *tess_step_state(const tess_step_t *step)
{
    return step->state;
}

/* One line for all that was skipped since the last one. */
static void report_skipped(tess_step_t *step, const tess_step_state_t *state)
{
    int64_t skipped = state->skipped - step->skipped_reported;
    step->skipped_reported = state->skipped;
    if (skipped <= 0) return;
    const char *why = state->exhausted ? "the loss scale had reached its minimum"
                                       : "gradients were not finite, or too large for fp32";
    tessi_log(TESSI_LOG_ERROR,
              "%" PRId64 " optimizer step%s skipped since the last report, because %s; %" PRId64
              " applied so far; the loss scale is %g now",
              skipped, skipped == 1 ? " was" : "s were", why, state->step,
              (double)state->loss_scale);
}

tess_status_t tess_step_read(tess_step_t *step, tess_stream_t *stream, tess_step_state_t *state)
{
    tess_status_t status = check_call(step, stream, "tess_step_read");
    if (status) return status;
    if (!state) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_step_read: state is NULL");
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "step_read", -1, -1);
    status = tess_stream_copy(stream, step->copy, step->state, sizeof *step->copy);
    if (status) return status;
    status = tess_stream_synchronize(stream, -1);
    if (status) return status;
    *state = *step->copy;
    report_skipped(step, state);
    if (!state->exhausted) return TESS_OK;
    return tessi_fail(
        TESS_ERR_STATE,
        "tess_step_read: gradients were not finite at the smallest loss scale, %g: no step is "
        "applied any more; restore an earlier state with tess_step_write",
        (double)state->loss_scale);
}

/* What only a damaged file can hold. */
static tess_status_t check_state(const tess_step_t *step, const tess_step_state_t *state)
{
    const char *field = NULL;
    if (state->step < 0 || state->skipped < 0) field = "step or skipped";
    if (!is_scale(state->loss_scale)) field = "loss_scale";
    if (state->hysteresis_left < 0 || (step->config.loss_scale.dynamic && !state->hysteresis_left))
        field = "hysteresis_left";
    if (!is_flag(state->skip) || !is_flag(state->exhausted)) field = "skip or exhausted";
    if (!(state->beta1_power >= 0.0 && state->beta1_power <= 1.0)) field = "beta1_power";
    if (!(state->beta2_power >= 0.0 && state->beta2_power <= 1.0)) field = "beta2_power";
    if (!is_rate((double)state->learning_rate) || !is_rate((double)state->next_learning_rate))
        field = "learning_rate or next_learning_rate";
    if (!field) return TESS_OK;
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "tess_step_write: state.%s is out of range: this is no saved state", field);
}

tess_status_t tess_step_write(tess_step_t *step, tess_stream_t *stream,
                              const tess_step_state_t *state)
{
    tess_status_t status = check_call(step, stream, "tess_step_write");
    if (status) return status;
    if (!state) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_step_write: state is NULL");
    status = check_state(step, state);
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "step_write", -1, -1);
    status = step->ops->step_store(step, stream, state);
    if (status) return status;
    step->skipped_reported = state->skipped; /* those were told before the state was saved */
    return TESS_OK;
}
