/* SPDX-License-Identifier: Apache-2.0 */
/* Every collective, element type, odd count, placement and kind of memory against a serial
 * reference, on 1 to 5 ranks, over every way that bytes can travel.
 *
 * On the host the comparison is bit for bit, with values whose sums must be rounded, infinities and
 * NaNs among them; the results of all ways are therefore equal to one another. NCCL promises no
 * order of additions, so on CUDA the inputs are small integers, whose sums are exact in any order;
 * averages there may differ by the rounding of one multiplication, see near_enough.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm_internal.h"
#include "harness.h"

#define RANKS_MAX 5
#define GUARD_BYTES 64
#define GUARD 0x5a
#define POOL_COUNT 8191

typedef struct scene {
    int ranks;
    const char *transport;
    const char *path;        /* TESS_UCX_PATH */
    const char *tls;         /* UCX_TLS, or NULL */
    const char *description; /* part of tess_comm_description */
    int64_t large_count;
} scene_t;

/* Everything that a rank holds. */
typedef struct bench {
    tess_world_t *world;
    tess_device_t *device;
    tess_stream_t *stream;
    tess_comm_t *comm;
    int rank, size, is_exact;
    int64_t bytes;            /* of each buffer, guard included */
    char *inputs[RANKS_MAX];  /* (bytes) as every rank has them */
    char *expected, *got;     /* (bytes) */
    void *shared[2], *own[2]; /* (bytes) from tess_comm_allocate, tess_memory_allocate */
    float pool[TESS_DTYPE_COUNT][POOL_COUNT];
} bench_t;

typedef struct trial {
    int kind;
    tess_dtype_t dtype;
    tess_reduction_t reduction;
    int root;
    int64_t count;
    int in_place;
    int send_is_shared, recv_is_shared;
} trial_t;

/* --- values ----------------------------------------------------------------------------------- */

static float wide(tess_dtype_t dtype, const void *data, int64_t i)
{
    if (dtype == TESS_DTYPE_FP32) return ((const float *)data)[i];
    uint16_t bits = ((const uint16_t *)data)[i];
    return dtype == TESS_DTYPE_BF16 ? tess_bf16_to_float(bits) : tess_fp16_to_float(bits);
}

static void narrow(tess_dtype_t dtype, void *data, int64_t i, float value)
{
    if (dtype == TESS_DTYPE_FP32) ((float *)data)[i] = value;
    else if (dtype == TESS_DTYPE_BF16) ((uint16_t *)data)[i] = tess_bf16_from_float(value);
    else ((uint16_t *)data)[i] = tess_fp16_from_float(value);
}

/* Sums write one NaN for all: quiet, positive, without payload. */
static void narrow_sum(tess_dtype_t dtype, void *data, int64_t i, float value)
{
    if (!isnan(value)) {
        narrow(dtype, data, i, value);
        return;
    }
    uint32_t single = 0x7fc00000u;
    if (dtype == TESS_DTYPE_FP32) memcpy((char *)data + 4 * i, &single, 4);
    else ((uint16_t *)data)[i] = dtype == TESS_DTYPE_BF16 ? 0x7fc0u : 0x7e00u;
}

static float draw(uint64_t *state, int is_exact)
{
    uint64_t bits = test_random(state);
    if (!is_exact) return (float)(int)(bits % 17) - 8.0f;
    if (bits % 211 == 0) return INFINITY;
    if (bits % 223 == 0) return NAN;
    float fraction = (float)(int32_t)(bits >> 32) / 2147483648.0f;
    return ldexpf(fraction, (int)(bits % 40) - 30);
}

/* Drawing is slow, so elements are drawn once and then dealt out of a pool. */
static void fill_pool(bench_t *bench)
{
    uint64_t state = 42;
    for (int i = 0; i < POOL_COUNT; i++) {
        float value = draw(&state, bench->is_exact);
        for (int dtype = TESS_DTYPE_BF16; dtype < TESS_DTYPE_COUNT; dtype++)
            narrow((tess_dtype_t)dtype, bench->pool[dtype], i, value);
        ((char *)bench->pool[TESS_DTYPE_BYTE])[i] = (char)test_random(&state);
    }
}

static void fill_inputs(bench_t *bench, const trial_t *trial, int64_t elements, uint64_t seed)
{
    int64_t element_bytes = tess_dtype_bytes(trial->dtype);
    const char *pool = (const char *)bench->pool[trial->dtype];
    for (int r = 0; r < bench->size; r++) {
        int64_t from = (int64_t)(seed * 977 + (uint64_t)r * 1733) % POOL_COUNT;
        for (int64_t i = 0; i < elements;) {
            int64_t run = POOL_COUNT - from < elements - i ? POOL_COUNT - from : elements - i;
            memcpy(bench->inputs[r] + i * element_bytes, pool + from * element_bytes,
                   (size_t)(run * element_bytes));
            from = (from + run + 1) % POOL_COUNT;
            i += run;
        }
    }
}

/* --- the reference ---------------------------------------------------------------------------- */

static void reference_sum(bench_t *bench, const trial_t *trial, int64_t first, int64_t count)
{
    float scale = trial->reduction == TESS_AVERAGE ? 1.0f / (float)bench->size : 1.0f;
    for (int64_t i = 0; i < count; i++) {
        float sum = wide(trial->dtype, bench->inputs[0], first + i);
        for (int r = 1; r < bench->size; r++)
            sum += wide(trial->dtype, bench->inputs[r], first + i);
        narrow_sum(trial->dtype, bench->expected, i, sum * scale);
    }
}

/* Fills expected; returns how many elements of recv are defined. */
static int64_t reference(bench_t *bench, const trial_t *trial)
{
    int64_t bytes = trial->count * tess_dtype_bytes(trial->dtype);
    switch (trial->kind) {
    case TESSI_OP_ALL_GATHER:
        for (int r = 0; r < bench->size; r++)
            memcpy(bench->expected + r * bytes, bench->inputs[r], (size_t)bytes);
        return trial->count * bench->size;
    case TESSI_OP_REDUCE_SCATTER:
        reference_sum(bench, trial, bench->rank * trial->count, trial->count);
        return trial->count;
    case TESSI_OP_ALL_REDUCE:
        reference_sum(bench, trial, 0, trial->count);
        return trial->count;
    default:
        memcpy(bench->expected, bench->inputs[trial->root], (size_t)bytes);
        return trial->count;
    }
}

/* An average on CUDA: the exact sum times 1/n, rounded at most twice (the product, the store). Each
 * rounding errs by at most half a unit of the last of 8, 11 or 24 bits: 2^-8 and the like cover
 * both. */
static int near_enough(tess_dtype_t dtype, float got, float expected)
{
    float unit = dtype == TESS_DTYPE_BF16   ? 0x1p-8f
                 : dtype == TESS_DTYPE_FP16 ? 0x1p-11f
                                            : 0x1p-23f;
    return fabsf(got - expected) <= 2 * unit * fabsf(expected);
}

static void check(const bench_t *bench, const trial_t *trial, int64_t elements)
{
    int64_t element_bytes = tess_dtype_bytes(trial->dtype), bytes = elements * element_bytes;
    int is_loose = !bench->is_exact && trial->reduction == TESS_AVERAGE;
    for (int64_t i = 0; i < elements; i++) {
        const char *got = bench->got + i * element_bytes;
        const char *expected = bench->expected + i * element_bytes;
        if (memcmp(got, expected, (size_t)element_bytes) == 0) continue;
        if (is_loose && near_enough(trial->dtype, wide(trial->dtype, bench->got, i),
                                    wide(trial->dtype, bench->expected, i)))
            continue;
        fprintf(stderr,
                "rank %d of %d, %s, %s, %s, count %lld, in place %d, shared send %d recv %d: "
                "element %lld is %02x%02x, expected %02x%02x\n",
                bench->rank, bench->size, tess_comm_description(bench->comm),
                tessi_op_name(trial->kind), tess_dtype_name(trial->dtype), (long long)trial->count,
                trial->in_place, trial->send_is_shared, trial->recv_is_shared, (long long)i,
                got[element_bytes - 1] & 255, got[0] & 255, expected[element_bytes - 1] & 255,
                expected[0] & 255);
        _exit(1);
    }
    for (int64_t i = bytes; i < bytes + GUARD_BYTES; i++) RANK_CHECK(bench->got[i] == GUARD);
}

/* --- one trial -------------------------------------------------------------------------------- */

static tess_status_t call(bench_t *bench, int kind, const tess_collective_t *arguments)
{
    switch (kind) {
    case TESSI_OP_ALL_GATHER:
        return tess_comm_all_gather(bench->comm, arguments, bench->stream);
    case TESSI_OP_REDUCE_SCATTER:
        return tess_comm_reduce_scatter(bench->comm, arguments, bench->stream);
    case TESSI_OP_ALL_REDUCE:
        return tess_comm_all_reduce(bench->comm, arguments, bench->stream);
    default:
        return tess_comm_broadcast(bench->comm, arguments, bench->stream);
    }
}

static void run_trial(bench_t *bench, const trial_t *trial, uint64_t seed)
{
    int64_t bytes = trial->count * tess_dtype_bytes(trial->dtype), all = bytes * bench->size;
    int is_scatter = trial->kind == TESSI_OP_REDUCE_SCATTER;
    int is_gather = trial->kind == TESSI_OP_ALL_GATHER;
    int64_t send_bytes = is_scatter ? all : bytes, recv_bytes = is_gather ? all : bytes;
    fill_inputs(bench, trial, send_bytes / tess_dtype_bytes(trial->dtype), seed);
    int64_t elements = reference(bench, trial);

    char *send = trial->send_is_shared ? bench->shared[0] : bench->own[0];
    char *recv = trial->recv_is_shared ? bench->shared[1] : bench->own[1];
    if (trial->in_place && is_gather) send = recv + bench->rank * bytes;
    if (trial->in_place && is_scatter) recv = send + bench->rank * bytes;
    if (trial->in_place && trial->kind == TESSI_OP_ALL_REDUCE) send = recv;
    int is_root = trial->kind != TESSI_OP_BROADCAST || trial->root == bench->rank;
    char *input_at = trial->kind == TESSI_OP_BROADCAST ? recv : send;

    /* In place the guard would lie in the middle of a buffer. */
    int has_guard = !(trial->in_place && is_scatter);
    RANK_OK(
        tess_stream_fill(bench->stream, recv, GUARD, recv_bytes + (has_guard ? GUARD_BYTES : 0)));
    if (is_root)
        RANK_OK(tess_stream_copy(bench->stream, input_at, bench->inputs[bench->rank], send_bytes));
    tess_collective_t arguments = {.send = send,
                                   .recv = recv,
                                   .count = trial->count,
                                   .dtype = trial->dtype,
                                   .reduction = trial->reduction,
                                   .root = trial->root};
    RANK_OK(call(bench, trial->kind, &arguments));
    memset(bench->got + recv_bytes, GUARD, GUARD_BYTES);
    RANK_OK(tess_stream_copy(bench->stream, bench->got, recv,
                             recv_bytes + (has_guard ? GUARD_BYTES : 0)));
    RANK_OK(tess_stream_synchronize(bench->stream, -1));
    check(bench, trial, elements);
}

/* --- all trials ------------------------------------------------------------------------------- */

/* Where bits are not promised every step must be exact to be compared, and NCCL divides each input,
 * which is exact for a power of two alone. */
static int can_average(const bench_t *bench)
{
    return bench->is_exact || (bench->size & (bench->size - 1)) == 0;
}

static void run_count(bench_t *bench, int64_t count, uint64_t *seed)
{
    int memory_step = count > 5000 ? 3 : 1, dtype_step = count > 5000 ? 2 : 1;
    for (int kind = TESSI_OP_ALL_GATHER; kind <= TESSI_OP_BROADCAST; kind++) {
        int reduces = kind == TESSI_OP_REDUCE_SCATTER || kind == TESSI_OP_ALL_REDUCE;
        for (int dtype = reduces; dtype < TESS_DTYPE_COUNT; dtype += dtype_step)
            for (int memory = 0; memory < 4; memory += memory_step)
                for (int in_place = 0; in_place < 2; in_place++) {
                    trial_t trial = {
                        .kind = kind,
                        .dtype = (tess_dtype_t)dtype,
                        .reduction =
                            reduces && (*seed & 1) && can_average(bench) ? TESS_AVERAGE : TESS_SUM,
                        .root =
                            kind == TESSI_OP_BROADCAST ? (int)(*seed % (uint64_t)bench->size) : 0,
                        .count = count,
                        .in_place = in_place,
                        .send_is_shared = memory & 1,
                        .recv_is_shared = memory >> 1,
                    };
                    run_trial(bench, &trial, (*seed)++);
                }
    }
}

/* Registered on some ranks only: all must still choose the same way. */
static void run_mixed(bench_t *bench, uint64_t *seed)
{
    for (int kind = TESSI_OP_ALL_GATHER; kind <= TESSI_OP_BROADCAST; kind++)
        for (int variant = 0; variant < 3; variant++) {
            trial_t trial = {.kind = kind,
                             .dtype = TESS_DTYPE_BF16,
                             .count = 4099,
                             .send_is_shared = variant == 0 || bench->rank == variant,
                             .recv_is_shared = variant == 1 || bench->rank != variant};
            run_trial(bench, &trial, (*seed)++);
        }
}

static void open_bench(bench_t *bench, int rank, const scene_t *scene)
{
    *bench = (bench_t){.size = scene->ranks};
    bench->is_exact = strcmp(test_device_kind(), "host") == 0;
    bench->bytes = scene->large_count * 4 * scene->ranks + GUARD_BYTES;
    tess_world_config_t world_config = TESS_WORLD_CONFIG_DEFAULT;
    world_config.timeout_ms = 30000;
    RANK_OK(tess_world_open(&world_config, &bench->world));
    RANK_OK(tess_device_open(test_device_name(rank), &bench->device));
    RANK_OK(tess_stream_create(bench->device, TESS_PRIORITY_NORMAL, &bench->stream));
    tess_comm_config_t config = {.transport = scene->transport, .name = "collective"};
    RANK_OK(tess_comm_open(bench->world, bench->device, &config, &bench->comm));
    bench->rank = tess_comm_rank(bench->comm);
    RANK_CHECK(bench->rank == rank && tess_comm_size(bench->comm) == scene->ranks);
    if (!strstr(tess_comm_description(bench->comm), scene->description)) {
        fprintf(stderr, "description is \"%s\", expected \"%s\" in it\n",
                tess_comm_description(bench->comm), scene->description);
        _exit(1);
    }
    for (int i = 0; i < 2; i++) {
        RANK_OK(tess_comm_allocate(bench->comm, bench->bytes, &bench->shared[i]));
        RANK_CHECK((uintptr_t)bench->shared[i] % 4096 == 0);
        RANK_OK(
            tess_memory_allocate(bench->device, TESS_MEMORY_DEVICE, bench->bytes, &bench->own[i]));
    }
    for (int r = 0; r < bench->size; r++)
        RANK_CHECK((bench->inputs[r] = malloc((size_t)bench->bytes)));
    RANK_CHECK((bench->expected = malloc((size_t)bench->bytes)));
    RANK_CHECK((bench->got = malloc((size_t)bench->bytes)));
    fill_pool(bench);
}

static void close_bench(bench_t *bench)
{
    free(bench->got);
    free(bench->expected);
    for (int r = 0; r < bench->size; r++) free(bench->inputs[r]);
    for (int i = 0; i < 2; i++) {
        tess_memory_free(bench->device, TESS_MEMORY_DEVICE, bench->own[i]);
        tess_comm_free(bench->comm, bench->shared[i]);
    }
    tess_stream_destroy(bench->stream);
    tess_comm_close(bench->comm);
    tess_device_close(bench->device);
    tess_world_close(bench->world);
}

static int run_scene(int rank, void *argument)
{
    const scene_t *scene = argument;
    static const int64_t counts[] = {0, 1, 7, 64, 1000, 4099};
    if (scene->path) setenv("TESS_UCX_PATH", scene->path, 1);
    if (scene->tls) {
        setenv("UCX_TLS", scene->tls, 1);
        setenv("UCX_NET_DEVICES", "lo", 1);
    }
    static bench_t bench;
    open_bench(&bench, rank, scene);
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) run_count(&bench, counts[i], &seed);
    run_count(&bench, scene->large_count, &seed);
    run_mixed(&bench, &seed);
    RANK_OK(tess_comm_barrier(bench.comm, bench.stream));
    RANK_OK(tess_stream_synchronize(bench.stream, -1));
    RANK_OK(tess_comm_status(bench.comm));
    close_bench(&bench);
    return 0;
}

static void run(scene_t scene)
{
    int failed = test_ranks(scene.ranks, run_scene, &scene, 120000, NULL);
    if (failed) fail_msg("%d of %d ranks failed", failed, scene.ranks);
}

static int is_cuda(void)
{
    return strcmp(test_device_kind(), "cuda") == 0;
}

/* --- tests ------------------------------------------------------------------------------------ */

static void one_rank_by_itself(void **state)
{
    (void)state;
    run((scene_t){.ranks = 1, .description = "self", .large_count = 100003});
}

static void cuda_ranks(void **state)
{
    (void)state;
    if (!is_cuda()) skip();
    int devices = tess_launch_cuda_devices();
    for (int ranks = 2; ranks <= RANKS_MAX && ranks <= devices; ranks++)
        run((scene_t){.ranks = ranks, .description = "nccl", .large_count = 100003});
}

/* More than one staged chunk of every rank: 3 half stages of 256 KiB in fp32. */
#define DIRECT_LARGE 200003

static void direct(void **state)
{
    (void)state;
    if (is_cuda()) skip();
    for (int ranks = 1; ranks <= RANKS_MAX; ranks++)
        run((scene_t){.ranks = ranks,
                      .transport = "ucx",
                      .path = "direct",
                      .description = "loads and stores",
                      .large_count = ranks <= 3 ? DIRECT_LARGE : 70001});
}

static void message_over_shared_memory(void **state)
{
    (void)state;
    if (is_cuda()) skip();
    for (int ranks = 1; ranks <= RANKS_MAX; ranks++)
        run((scene_t){.ranks = ranks,
                      .transport = "ucx",
                      .path = "message",
                      .description = "messages",
                      .large_count = ranks <= 3 ? DIRECT_LARGE : 40001});
}

/* Here auto must find out by itself that memory cannot be shared. */
static void message_over_tcp(void **state)
{
    (void)state;
    if (is_cuda()) skip();
    static const int ranks[] = {2, 3, 5};
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++)
        run((scene_t){.ranks = ranks[i],
                      .tls = "tcp,self",
                      .description = "messages",
                      .large_count = ranks[i] <= 3 ? 100003 : 40001});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_by_itself),
        cmocka_unit_test(cuda_ranks),
        cmocka_unit_test(direct),
        cmocka_unit_test(message_over_shared_memory),
        cmocka_unit_test(message_over_tcp),
    };
    test_need_ranks(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
