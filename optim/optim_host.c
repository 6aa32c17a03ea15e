/* SPDX-License-Identifier: Apache-2.0 */
/* The host's table: each slot queues what adam_host.c, gradient_host.c and step_math.h compute,
 * with a copy of its arguments, so that the caller's may go.
 *
 * Invariant: nothing is computed on the caller's thread, unless streams are eager.
 */
#include <stdio.h>

#include "adam_host.h"
#include "optim_internal.h"

/* --- what is queued --------------------------------------------------------------------------- */

typedef struct decide_argument {
    tess_step_t *step;
    tessi_step_input_t input;
} decide_argument_t;

typedef struct rate_argument {
    tess_step_state_t *state;
    float learning_rate;
} rate_argument_t;

typedef struct store_argument {
    tess_step_state_t *state;
    tess_step_state_t value;
} store_argument_t;

typedef struct measure_argument {
    tessi_gradient_slot_t *slot;
    tess_gradient_piece_t piece;
} measure_argument_t;

typedef struct combine_argument {
    const tess_gradient_t *gradient;
    double *sum;
} combine_argument_t;

typedef struct adam_argument {
    const tess_adam_t *adam;
    const tess_step_state_t *state;
    tessi_adam_work_t work;
} adam_argument_t;

typedef struct transfer_argument {
    const tess_adam_t *adam;
    tess_adam_range_t range;
    tess_adam_values_t values;
} transfer_argument_t;

_Static_assert(sizeof(store_argument_t) <= TESSI_STREAM_ARGUMENT_BYTES, "too large to queue");
_Static_assert(sizeof(adam_argument_t) <= TESSI_STREAM_ARGUMENT_BYTES, "too large to queue");
_Static_assert(sizeof(transfer_argument_t) <= TESSI_STREAM_ARGUMENT_BYTES, "too large to queue");

/* --- on the stream's thread ------------------------------------------------------------------- */

static tess_status_t run_decide(void *argument)
{
    const decide_argument_t *work = argument;
    tessi_step_decide(&work->step->config, &work->input, work->step->state);
    return TESS_OK;
}

static tess_status_t run_rate(void *argument)
{
    const rate_argument_t *work = argument;
    work->state->next_learning_rate = work->learning_rate;
    return TESS_OK;
}

static tess_status_t run_store(void *argument)
{
    const store_argument_t *work = argument;
    *work->state = work->value;
    return TESS_OK;
}

static tess_status_t run_measure(void *argument)
{
    const measure_argument_t *work = argument;
    tessi_gradient_host_measure(work->slot, &work->piece);
    return TESS_OK;
}

static tess_status_t run_combine(void *argument)
{
    const combine_argument_t *work = argument;
    double sum = 0.0;
    for (int64_t s = 0; s < work->gradient->slot_count; s++) sum += work->gradient->slots[s].sum;
    *work->sum = sum;
    return TESS_OK;
}

static tess_status_t run_adam(void *argument)
{
    const adam_argument_t *work = argument;
    tessi_adam_host_step(work->adam, work->state, &work->work);
    return TESS_OK;
}

static tess_status_t run_export(void *argument)
{
    const transfer_argument_t *work = argument;
    tessi_adam_host_export(work->adam, &work->range, &work->values);
    return TESS_OK;
}

static tess_status_t run_import(void *argument)
{
    const transfer_argument_t *work = argument;
    tessi_adam_host_import(work->adam, &work->range, &work->values);
    return TESS_OK;
}

/* --- the table -------------------------------------------------------------------------------- */

/* The team is settled here, so that it is what the caller's thread had asked OpenMP for. */
static tess_status_t host_describe(tess_adam_t *adam)
{
    int threads = tessi_team_size(adam->config.threads);
    adam->config.threads = threads;
    snprintf(adam->description, sizeof adam->description, "host, %s, %d thread%s",
             tessi_adam_host_twin()->name, threads, threads == 1 ? "" : "s");
    return TESS_OK;
}

static tess_status_t host_step_decide(tess_step_t *step, tess_stream_t *stream,
                                      const tessi_step_input_t *input)
{
    decide_argument_t argument = {step, *input};
    return tessi_stream_push(stream, run_decide, &argument, sizeof argument);
}

static tess_status_t host_step_rate(tess_step_t *step, tess_stream_t *stream, float learning_rate)
{
    rate_argument_t argument = {step->state, learning_rate};
    return tessi_stream_push(stream, run_rate, &argument, sizeof argument);
}

static tess_status_t host_step_store(tess_step_t *step, tess_stream_t *stream,
                                     const tess_step_state_t *state)
{
    store_argument_t argument = {step->state, *state};
    return tessi_stream_push(stream, run_store, &argument, sizeof argument);
}

static tess_status_t host_measure(tess_gradient_t *gradient, tess_stream_t *stream, int64_t slot,
                                  const tess_gradient_piece_t *piece)
{
    measure_argument_t argument = {&gradient->slots[slot], *piece};
    return tessi_stream_push(stream, run_measure, &argument, sizeof argument);
}

static tess_status_t host_combine(tess_gradient_t *gradient, tess_stream_t *stream, double *sum)
{
    combine_argument_t argument = {gradient, sum};
    return tessi_stream_push(stream, run_combine, &argument, sizeof argument);
}

static tess_status_t host_adam_step(tess_adam_t *adam, tess_stream_t *stream,
                                    const tess_step_state_t *state, const tessi_adam_work_t *work)
{
    adam_argument_t argument = {adam, state, *work};
    return tessi_stream_push(stream, run_adam, &argument, sizeof argument);
}

static tess_status_t host_adam_export(tess_adam_t *adam, tess_stream_t *stream,
                                      const tess_adam_range_t *range,
                                      const tess_adam_values_t *values)
{
    transfer_argument_t argument = {adam, *range, *values};
    return tessi_stream_push(stream, run_export, &argument, sizeof argument);
}

static tess_status_t host_adam_import(tess_adam_t *adam, tess_stream_t *stream,
                                      const tess_adam_range_t *range,
                                      const tess_adam_values_t *values)
{
    transfer_argument_t argument = {adam, *range, *values};
    return tessi_stream_push(stream, run_import, &argument, sizeof argument);
}

const tessi_optim_ops_t tessi_optim_host = {
    .describe = host_describe,
    .step_decide = host_step_decide,
    .step_rate = host_step_rate,
    .step_store = host_step_store,
    .measure = host_measure,
    .combine = host_combine,
    .tile_elements = TESSI_HOST_TILE,
    .adam_step = host_adam_step,
    .adam_export = host_adam_export,
    .adam_import = host_adam_import,
};
