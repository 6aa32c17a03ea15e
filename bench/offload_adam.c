/* SPDX-License-Identifier: Apache-2.0 */
/* Mode `adam`: master weights and both moments in pinned memory pass through the device while a
 * fused step updates them; gradients and bf16 parameters stay on the device. Beside it raw copies
 * of the same bytes both ways at once, and the CPU's own step over the same state.
 */
#include <string.h>
#include <tessera/adam.h>

#include "core/internal.h"
#include "offload_adam.h"
#include "pattern.h"

#define WEIGHT_DECAY 0.01f

static int64_t tile_elements(const bench_options_t *options)
{
    return offload_tile_of(options, BENCH_OFFLOAD_ADAM) / (int64_t)sizeof(float);
}

int64_t offload_adam_bytes(const bench_options_t *options)
{
    int64_t most = 0, tile = offload_tile_of(options, BENCH_OFFLOAD_ADAM);
    for (int i = 0; i < options->params_each.count; i++)
        if (options->params_each.values[i] > most) most = options->params_each.values[i];
    /* What is compared lies in the arena too: a tile of each array, and of the parameters twice. So
     * does what raw copies of a single tile write. */
    return ADAM_ARRAYS * most * (int64_t)sizeof(float) + (2 * ADAM_ARRAYS + 1) * tile +
           (ADAM_ARRAYS + 3) * OFFLOAD_ALIGNMENT;
}

/* --- opening --------------------------------------------------------------------------------- */

static tess_status_t allocate(tess_device_t *device, tess_memory_kind_t kind, int64_t bytes,
                              char **memory)
{
    void *pointer = NULL;
    tess_status_t status = tess_memory_allocate(device, kind, bytes, &pointer);
    if (status >= 0) *memory = pointer;
    return status;
}

static tess_status_t open_stepper(tess_device_t *device, int threads, offload_stepper_t *stepper)
{
    tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;
    tess_step_config_t step_config = TESS_STEP_CONFIG_DEFAULT;
    config.threads = threads;
    tess_status_t status = tess_adam_create(device, &config, &stepper->adam);
    if (status >= 0) status = tess_step_create(device, &step_config, &stepper->step);
    return status;
}

static tess_status_t share_of_cpus(offload_adam_t *adam)
{
    tess_device_properties_t properties;
    tess_status_t status = tess_device_properties(adam->host, &properties);
    if (status < 0) return status;
    adam->threads =
        properties.multiprocessors / tess_world_local_size(adam->tiles.bench->session->world);
    if (adam->threads < 1) adam->threads = 1;
    return TESS_OK;
}

/* Gradients and parameters, on the device and for the CPU. */
static tess_status_t open_resident(offload_adam_t *adam)
{
    bench_session_t *session = adam->tiles.bench->session;
    int64_t bytes = adam->count * ADAM_HALF_BYTES;
    pattern_t pattern = pattern_for_move(TESS_DTYPE_BF16, (uint64_t)session->options->seed);
    pattern_range_t range = {.rank_first = session->rank, .rank_count = 1, .count = adam->count};
    tess_status_t status = allocate(session->device, TESS_MEMORY_DEVICE, bytes, &adam->gradient);
    if (status >= 0)
        status = allocate(session->device, TESS_MEMORY_DEVICE, bytes, &adam->parameter);
    if (status >= 0) status = pattern_fill(&pattern, &range, adam->gradient, session->stream);
    if (status >= 0) status = tess_stream_fill(session->stream, adam->parameter, 0, bytes);
    if (status < 0 || !session->options->cpu_adam) return status;
    status = allocate(adam->host, TESS_MEMORY_PAGEABLE, bytes, &adam->cpu_gradient);
    if (status >= 0)
        status = allocate(adam->host, TESS_MEMORY_PAGEABLE, bytes, &adam->cpu_parameter);
    if (status < 0) return status;
    memset(adam->cpu_parameter, 0, (size_t)bytes);
    status = tess_stream_copy(session->stream, adam->cpu_gradient, adam->gradient, bytes);
    return status < 0 ? status : tess_stream_synchronize(session->stream, session->timeout_ms);
}

static tess_status_t open_adam(offload_adam_t *adam)
{
    bench_session_t *session = adam->tiles.bench->session;
    tess_status_t status = offload_tiles_open(&adam->tiles);
    if (status >= 0) status = tess_device_open("host", &adam->host);
    if (status >= 0) status = share_of_cpus(adam);
    if (status >= 0) status = open_stepper(session->device, adam->threads, &adam->here);
    if (status >= 0) status = open_resident(adam);
    if (status >= 0) status = offload_adam_reset(adam);
    if (status < 0 || !session->options->cpu_adam) return status;
    status = tess_stream_create(adam->host, TESS_PRIORITY_NORMAL, &adam->cpu_stream);
    return status < 0 ? status : open_stepper(adam->host, adam->threads, &adam->cpu);
}

static void close_stepper(offload_stepper_t *stepper)
{
    tess_step_destroy(stepper->step);
    tess_adam_destroy(stepper->adam);
}

static void close_adam(offload_adam_t *adam)
{
    tess_device_t *device = adam->tiles.bench->session->device;
    tess_stream_destroy(adam->cpu_stream);
    close_stepper(&adam->cpu);
    offload_tiles_close(&adam->tiles); /* waits for what is queued */
    close_stepper(&adam->here);
    tess_memory_free(device, TESS_MEMORY_DEVICE, adam->parameter);
    tess_memory_free(device, TESS_MEMORY_DEVICE, adam->gradient);
    if (!adam->host) return;
    tess_memory_free(adam->host, TESS_MEMORY_PAGEABLE, adam->cpu_parameter);
    tess_memory_free(adam->host, TESS_MEMORY_PAGEABLE, adam->cpu_gradient);
    tess_device_close(adam->host);
}

/* --- steps ----------------------------------------------------------------------------------- */

tess_adam_range_t offload_adam_range(const offload_adam_t *adam, int64_t tile, void *const *state)
{
    int64_t first = tile * adam->tiles.tile_bytes / (int64_t)sizeof(float);
    return (tess_adam_range_t){.count =
                                   offload_tile_bytes(&adam->tiles, tile) / (int64_t)sizeof(float),
                               .first_index = first,
                               .gradient = adam->gradient + first * ADAM_HALF_BYTES,
                               .parameter = adam->parameter + first * ADAM_HALF_BYTES,
                               .master = state[0],
                               .moment1 = state[1],
                               .moment2 = state[2],
                               .weight_decay = WEIGHT_DECAY,
                               .learning_rate_factor = 1.0f};
}

tess_status_t offload_adam_step(void *context, const tess_prefetch_tile_t *tile, int64_t visit)
{
    offload_adam_t *adam = context;
    tess_stream_t *stream = adam->tiles.bench->session->stream;
    tess_status_t status = TESS_OK;
    if (visit == 0) status = tess_step_begin(adam->here.step, stream, NULL, 0);
    if (status < 0) return status;
    tess_adam_range_t range = offload_adam_range(adam, tile->tile, tile->data);
    return tess_adam_step(adam->here.adam, stream, tess_step_state(adam->here.step), &range);
}

/* The CPU's step over the same arrays, in place. */
static tess_status_t run_cpu(const offload_job_t *job, double *seconds)
{
    offload_adam_t *adam = job->context;
    bench_session_t *session = adam->tiles.bench->session;
    tess_adam_range_t range = {.count = adam->count,
                               .gradient = adam->cpu_gradient,
                               .parameter = adam->cpu_parameter,
                               .master = adam->tiles.home[0],
                               .moment1 = adam->tiles.home[1],
                               .moment2 = adam->tiles.home[2],
                               .weight_decay = WEIGHT_DECAY,
                               .learning_rate_factor = 1.0f};
    tess_status_t status = tess_world_barrier(session->world, session->timeout_ms);
    int64_t start_ns = tessi_now_ns();
    if (status >= 0) status = tess_step_begin(adam->cpu.step, adam->cpu_stream, NULL, 0);
    if (status >= 0)
        status = tess_adam_step(adam->cpu.adam, adam->cpu_stream, tess_step_state(adam->cpu.step),
                                &range);
    if (status >= 0) status = tess_stream_synchronize(adam->cpu_stream, session->timeout_ms);
    *seconds = bench_seconds_since(start_ns);
    return status;
}

/* --- one size -------------------------------------------------------------------------------- */

enum { RAW, STREAMED, CPU };

static tess_status_t measure(offload_adam_t *adam)
{
    offload_bench_t *bench = adam->tiles.bench;
    bench_session_t *session = bench->session;
    offload_tiles_t *tiles = &adam->tiles;
    offload_job_t jobs[] = {
        [RAW] = {"raw copies", offload_run_raw, tiles, NULL, NULL},
        [STREAMED] = {"streamed Adam", offload_run_tiles, tiles, offload_adam_step, adam},
        [CPU] = {"CPU Adam", run_cpu, tiles, NULL, adam},
        {0},
    };
    if (!session->options->cpu_adam) jobs[CPU] = (offload_job_t){0};
    double medians[OFFLOAD_JOBS_MAX] = {0};
    int64_t wrong = -1, params = adam->count;
    tess_status_t status = offload_measure(bench, jobs, medians);
    if (status >= 0) status = bench_sum(session, &params);
    if (status >= 0 && session->options->check) {
        status = bench_agree(session, offload_adam_check(adam, &wrong));
        if (status >= 0) status = bench_sum(session, &wrong);
    }
    if (status < 0) return status;
    offload_row_t row = offload_row_of(tiles, BENCH_OFFLOAD_ADAM, "adam");
    row.params = params;
    row.raw_s = medians[RAW];
    row.s = medians[STREAMED];
    row.cpu_s = medians[CPU];
    row.cpu_threads = session->options->cpu_adam ? adam->threads : 0;
    row.wrong = wrong;
    offload_add_row(bench, &row);
    return TESS_OK;
}

static tess_status_t run_size(offload_bench_t *bench, int64_t count)
{
    const bench_options_t *options = bench->session->options;
    int64_t elements = tile_elements(options);
    offload_adam_t adam = {.count = count,
                           .tiles = {.bench = bench,
                                     .access = TESS_PREFETCH_READ_WRITE,
                                     .array_count = ADAM_ARRAYS,
                                     .array_bytes = count * (int64_t)sizeof(float),
                                     .tile_bytes = elements * (int64_t)sizeof(float),
                                     .visits = (count + elements - 1) / elements,
                                     .slot_count = options->slots}};
    tess_status_t status = bench_agree(bench->session, open_adam(&adam));
    if (status >= 0) status = measure(&adam);
    bench_session_fail(bench->session, status); /* waits until nothing runs any more */
    close_adam(&adam);
    return status;
}

tess_status_t offload_adam_run(offload_bench_t *bench)
{
    const bench_list_t *counts = &bench->session->options->params_each;
    tess_status_t status = TESS_OK;
    offload_report_mode(bench, BENCH_OFFLOAD_ADAM);
    for (int i = 0; i < counts->count && status >= 0; i++)
        status = run_size(bench, counts->values[i]);
    return status;
}
