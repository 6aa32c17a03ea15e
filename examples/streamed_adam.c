/* SPDX-License-Identifier: Apache-2.0 */
/* Optimizer state that does not fit on the device: it lives in pinned host memory, or in a file,
 * and passes tile by tile through the device beside the fused Adam. Gradients and parameters stay
 * on the device, 4 bytes a parameter where the whole state would take 16.
 *
 *   streamed_adam [DEVICE [PARAMS [TILE [FILE]]]]       streamed_adam cuda 1e9 16e6
 *
 * Invariant, and what the program checks at its end: the parameters are those of a step that was
 * never cut into tiles, bit by bit.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tessera/tessera.h>

/* Says what failed and gives up: an example has nobody to hand errors to. */
#define CHECK(call)                                                                                \
    do {                                                                                           \
        if ((call) < 0) {                                                                          \
            fprintf(stderr, "streamed_adam: %s\n", tess_last_error());                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

enum { MASTER, MOMENT1, MOMENT2, ARRAYS };

#define STEPS 5

typedef struct options {
    const char *device, *file; /* NULL: the state is in pinned memory */
    int64_t params, tile;
} options_t;

typedef struct run {
    options_t options;
    tess_device_t *device;
    tess_stream_t *stream;
    tess_arena_t *arena;
    void *hosts[ARRAYS];
    tess_store_t *stores[ARRAYS];
    tess_prefetch_t *prefetch;
    tess_adam_t *adam;
    tess_step_t *step;
    tess_gradient_t *statistics;
    void *memory;        /* device memory of what follows */
    double *sum;         /* (1) */
    uint16_t *gradient;  /* (params) bf16 */
    uint16_t *parameter; /* (params) bf16 */
} run_t;

/* The same numbers for every run: weights and gradients in (-1, 1), from an index. */
static void fill(run_t *run, uint16_t *device, uint32_t seed)
{
    uint16_t *host = malloc((size_t)run->options.params * sizeof *host);
    if (!host) abort();
    for (int64_t i = 0; i < run->options.params; i++) {
        uint32_t hash = ((uint32_t)i + seed) * 0x9e3779b1u;
        host[i] = tess_bf16_from_float((float)(hash >> 8) * 0x1p-23f - 1.0f);
    }
    CHECK(tess_stream_copy(run->stream, device, host, run->options.params * 2));
    CHECK(tess_stream_synchronize(run->stream, -1));
    free(host);
}

/* Where the tiles of master weights and moments live, and the way from there to the device. */
static void open_state(run_t *run)
{
    static const char *const names[ARRAYS] = {"master", "moment1", "moment2"};
    const int64_t bytes = run->options.params * 4, tile_bytes = run->options.tile * 4;
    tess_prefetch_array_t arrays[ARRAYS] = {{0}};
    tess_arena_config_t arena = TESS_ARENA_CONFIG_DEFAULT;
    arena.bytes = ARRAYS * (bytes + 4096);
    if (!run->options.file) CHECK(tess_arena_create(run->device, &arena, &run->arena));
    for (int a = 0; a < ARRAYS; a++) {
        arrays[a] = (tess_prefetch_array_t){
            .bytes = bytes, .tile_bytes = tile_bytes, .access = TESS_PREFETCH_READ_WRITE};
        if (run->options.file) {
            char path[4096];
            tess_store_config_t store = TESS_STORE_CONFIG_DEFAULT;
            store.tile_bytes = tile_bytes;
            store.tile_count = (run->options.params + run->options.tile - 1) / run->options.tile;
            snprintf(path, sizeof path, "%s.%s", run->options.file, names[a]);
            CHECK(tess_store_open(path, &store, &run->stores[a]));
            arrays[a].store = run->stores[a];
        } else CHECK(tess_arena_allocate(run->arena, bytes, 4096, &run->hosts[a]));
        arrays[a].host = run->hosts[a];
    }
    tess_prefetch_config_t config = TESS_PREFETCH_CONFIG_DEFAULT;
    config.arrays = arrays;
    config.array_count = ARRAYS;
    CHECK(tess_prefetch_create(run->device, &config, &run->prefetch));
}

static tess_adam_range_t tile_range(const run_t *run, const tess_prefetch_tile_t *tile)
{
    int64_t first = tile->tile * run->options.tile;
    return (tess_adam_range_t){.count = tile->bytes[MASTER] / 4,
                               .first_index = first,
                               .gradient = run->gradient + first,
                               .parameter = run->parameter + first,
                               .master = tile->data[MASTER],
                               .moment1 = tile->data[MOMENT1],
                               .moment2 = tile->data[MOMENT2],
                               .weight_decay = 0.01f,
                               .learning_rate_factor = 1.0f};
}

/* One pass over all tiles; `fresh` writes the state that a new model starts with. */
static void pass(run_t *run, int fresh)
{
    const int64_t tiles = tess_prefetch_tile_count(run->prefetch);
    const tess_adam_values_t none = {0};
    CHECK(tess_prefetch_schedule(run->prefetch, 0, 1, tiles));
    for (int64_t t = 0; t < tiles; t++) {
        tess_prefetch_tile_t tile;
        CHECK(tess_prefetch_acquire(run->prefetch, run->stream, &tile));
        tess_adam_range_t range = tile_range(run, &tile);
        if (fresh) CHECK(tess_adam_import(run->adam, run->stream, &range, &none));
        else CHECK(tess_adam_step(run->adam, run->stream, tess_step_state(run->step), &range));
        CHECK(tess_prefetch_release(run->prefetch, run->stream, &tile));
    }
}

/* The norm and the finite check of all gradients, and what follows from them, on the device. */
static void begin(run_t *run)
{
    tess_gradient_piece_t piece = {run->gradient, run->options.params, TESS_DTYPE_BF16};
    CHECK(tess_gradient_measure(run->statistics, run->stream, 0, &piece));
    CHECK(tess_gradient_combine(run->statistics, run->stream, run->sum));
    CHECK(tess_step_begin(run->step, run->stream, run->sum, 1));
}

static void open_run(run_t *run)
{
    tess_adam_config_t adam = TESS_ADAM_CONFIG_DEFAULT;
    tess_step_config_t step = TESS_STEP_CONFIG_DEFAULT;
    step.clip_norm = 1.0;
    CHECK(tess_device_open(run->options.device, &run->device));
    CHECK(tess_stream_create(run->device, TESS_PRIORITY_NORMAL, &run->stream));
    CHECK(tess_adam_create(run->device, &adam, &run->adam));
    CHECK(tess_step_create(run->device, &step, &run->step));
    CHECK(tess_gradient_create(run->device, 1, &run->statistics));
    int64_t bytes = (run->options.params * 2 + 15) / 16 * 16;
    CHECK(tess_memory_allocate(run->device, TESS_MEMORY_DEVICE, 2 * bytes + 16, &run->memory));
    run->sum = run->memory;
    run->gradient = (uint16_t *)run->memory + 8;
    run->parameter = run->gradient + bytes / 2;
    open_state(run);
}

/* Parameters after all steps, on the host. */
static uint16_t *train(options_t options)
{
    run_t run = {.options = options};
    open_run(&run);
    fill(&run, run.parameter, 1);
    pass(&run, 1);
    for (uint32_t s = 0; s < STEPS; s++) {
        fill(&run, run.gradient, 1000u * s);
        begin(&run);
        pass(&run, 0);
    }
    uint16_t *parameters = malloc((size_t)options.params * sizeof *parameters);
    if (!parameters) abort();
    CHECK(tess_stream_copy(run.stream, parameters, run.parameter, options.params * 2));
    CHECK(tess_stream_synchronize(run.stream, -1));
    CHECK(tess_prefetch_synchronize(run.prefetch, -1));
    tess_prefetch_destroy(run.prefetch);
    for (int a = 0; a < ARRAYS; a++) {
        tess_store_close(run.stores[a]);
        if (run.arena) tess_arena_free(run.arena, run.hosts[a]);
    }
    tess_arena_destroy(run.arena);
    tess_gradient_destroy(run.statistics);
    tess_step_destroy(run.step);
    tess_adam_destroy(run.adam);
    tess_stream_destroy(run.stream);
    tess_memory_free(run.device, TESS_MEMORY_DEVICE, run.memory);
    tess_device_close(run.device);
    return parameters;
}

int main(int argc, char **argv)
{
    options_t options = {argc > 1 ? argv[1] : "host", argc > 4 ? argv[4] : NULL,
                         argc > 2 ? (int64_t)atof(argv[2]) : 1000000,
                         argc > 3 ? (int64_t)atof(argv[3]) : 100000};
    if (options.params < 1 || options.tile < 1) return fprintf(stderr, "counts begin at 1\n"), 2;
    uint16_t *streamed = train(options);
    uint16_t *expected = train((options_t){options.device, NULL, options.params, options.params});
    int same = memcmp(streamed, expected, (size_t)options.params * sizeof *streamed) == 0;
    printf("%lld parameters, %d steps in tiles of %lld on %s, state in %s: %s\n",
           (long long)options.params, STEPS, (long long)options.tile, options.device,
           options.file ? options.file : "pinned memory",
           same ? "the same bits as in one piece" : "NOT the bits of one piece");
    free(streamed);
    free(expected);
    return same ? 0 : 1;
}
