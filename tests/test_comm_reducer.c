/* SPDX-License-Identifier: Apache-2.0 */
/* The reducer: reduced gradients bit for bit over dtypes, bucket sizes, ring depths, orders, ranks
 * and overlap, with tensors that become ready in another order on every rank.
 *
 * The expected sum is taken here in rank order in fp32 and rounded once, as comm.h promises; where
 * the transport promises no bits, the values sum exactly in any order.
 */
#include <stdio.h>
#include <string.h>

#include "bucket_rig.h"

#define SLICE_BYTES 16
#define BUCKETS_MAX RIG_TENSORS

typedef enum sweep_mode { MODE_FREE, MODE_SYNCHRONISED, MODE_EAGER, MODE_COUNT } sweep_mode_t;

typedef struct reduce_case {
    bucket_rig_t *rig;
    tess_bucket_plan_t *plan;
    tess_reducer_t *reducer;
    tess_dtype_t dtype;
    int64_t element_bytes;
    tess_reduction_t reduction;
    tess_reducer_order_t order;
    sweep_mode_t mode;
    int depth;
    uint64_t random;
    tess_stream_t *producer[2];
    tess_stream_t *consumer[2];
    void *image[2];  /* (padded counts of all buckets) pinned: this rank's gradients, two rounds */
    void *result[2]; /* (shard_count) pinned: this rank's reduced slices */
} reduce_case_t;

static void settle(const reduce_case_t *run)
{
    if (run->mode != MODE_SYNCHRONISED) return;
    for (int i = 0; i < 2; i++) RANK_OK(tess_stream_synchronize(run->producer[i], -1));
    for (int i = 0; i < 2; i++) RANK_OK(tess_stream_synchronize(run->consumer[i], -1));
}

static char *image_of(const reduce_case_t *run, int round, int64_t bucket)
{
    int64_t offset = tess_bucket_plan_bucket(run->plan, bucket).slice_offset * run->rig->size;
    return (char *)run->image[round] + offset * run->element_bytes;
}

static void fill_image(const reduce_case_t *run, uint64_t seed, int round)
{
    for (int64_t t = 0; t < RIG_TENSORS; t++) {
        tess_bucket_view_t view = tess_bucket_plan_tensor(run->plan, t);
        char *image = image_of(run, round, view.bucket);
        for (int64_t i = 0; i < view.count; i++) {
            float value = rig_value(run->rig, seed, run->rig->rank, t, i);
            rig_store(run->dtype, image, view.offset + i, rig_encode(run->dtype, value));
        }
    }
}

/* What all ranks' gradients give at one place of a tensor. */
static uint32_t expected_bits(const reduce_case_t *run, uint64_t seed, int64_t tensor,
                              int64_t index)
{
    float sum = 0;
    for (int rank = 0; rank < run->rig->size; rank++) {
        float value = rig_value(run->rig, seed, rank, tensor, index);
        value = rig_decode(run->dtype, rig_encode(run->dtype, value));
        sum = rank ? sum + value : value;
    }
    if (run->reduction == TESS_AVERAGE) sum *= 1.0f / (float)run->rig->size;
    return rig_encode(run->dtype, sum);
}

/* Every element of this rank's slices: tensors as expected, gaps and padding zero. */
static void check_result(const reduce_case_t *run, uint64_t seed, int round)
{
    for (int64_t b = 0; b < tess_bucket_plan_bucket_count(run->plan); b++) {
        tess_bucket_t bucket = tess_bucket_plan_bucket(run->plan, b);
        int64_t t = bucket.first_tensor, last = t + bucket.tensor_count - 1;
        for (int64_t i = 0; i < bucket.slice_count; i++) {
            int64_t at = run->rig->rank * bucket.slice_count + i;
            tess_bucket_view_t view = tess_bucket_plan_tensor(run->plan, t);
            while (t < last && (view.count == 0 || at >= view.offset + view.count))
                view = tess_bucket_plan_tensor(run->plan, ++t);
            int inside = at >= view.offset && at < view.offset + view.count;
            uint32_t expected = inside ? expected_bits(run, seed, t, at - view.offset) : 0;
            uint32_t got = rig_load(run->dtype, run->result[round], bucket.slice_offset + i);
            if (got == expected) continue;
            fprintf(stderr, "bucket %lld element %lld round %d depth %d mode %d: %08x, not %08x\n",
                    (long long)b, (long long)at, round, run->depth, run->mode, got, expected);
            RANK_CHECK(got == expected);
        }
    }
}

static void shuffle(uint64_t *random, int64_t *items, int64_t count)
{
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t other = (int64_t)(test_random(random) % (uint64_t)(i + 1));
        int64_t item = items[i];
        items[i] = items[other];
        items[other] = item;
    }
}

/* Acquires the window's buckets on both producers, then writes their tensors in this rank's own
 * order, each on either producer. */
static void produce(reduce_case_t *run, int round, int64_t *window, int64_t window_count)
{
    void *buffer[BUCKETS_MAX][2];
    int64_t tensors[RIG_TENSORS], tensor_count = 0;
    shuffle(&run->random, window, window_count);
    for (int64_t w = 0; w < window_count; w++) {
        tess_bucket_t bucket = tess_bucket_plan_bucket(run->plan, window[w]);
        for (int p = 0; p < 2; p++)
            RANK_OK(tess_reducer_acquire(run->reducer, window[w], run->producer[p],
                                         &buffer[window[w]][p]));
        RANK_CHECK(buffer[window[w]][0] == buffer[window[w]][1]);
        for (int64_t t = 0; t < bucket.tensor_count; t++)
            tensors[tensor_count++] = bucket.first_tensor + t;
        settle(run);
    }
    shuffle(&run->random, tensors, tensor_count);
    for (int64_t i = 0; i < tensor_count; i++) {
        tess_bucket_view_t view = tess_bucket_plan_tensor(run->plan, tensors[i]);
        tess_stream_t *stream = run->producer[test_random(&run->random) % 2];
        int64_t offset = view.offset * run->element_bytes;
        if (view.count > 0)
            RANK_OK(tess_stream_copy(stream, (char *)buffer[view.bucket][0] + offset,
                                     image_of(run, round, view.bucket) + offset,
                                     view.count * run->element_bytes));
        /* An empty tensor counts as ready whether or not anyone says so. */
        if (view.count == 0 && test_random(&run->random) % 2) continue;
        RANK_OK(tess_reducer_ready(run->reducer, tensors[i], stream));
        settle(run);
    }
}

/* Copies the window's slices out, half on each consumer, in this rank's own order. */
static void consume(reduce_case_t *run, int round, int64_t *window, int64_t window_count)
{
    shuffle(&run->random, window, window_count);
    for (int64_t w = 0; w < window_count; w++) {
        tess_bucket_t bucket = tess_bucket_plan_bucket(run->plan, window[w]);
        char *result = (char *)run->result[round] + bucket.slice_offset * run->element_bytes;
        int64_t half = bucket.slice_count / 2 * run->element_bytes;
        int64_t bytes[2] = {half, bucket.slice_count * run->element_bytes - half};
        for (int c = 0; c < 2; c++) {
            void *slice = NULL;
            RANK_OK(tess_reducer_wait(run->reducer, window[w], run->consumer[c], &slice));
            if (bytes[c] > 0)
                RANK_OK(tess_stream_copy(run->consumer[c], result + c * half,
                                         (char *)slice + c * half, bytes[c]));
            settle(run);
        }
        for (int c = 0; c < 2; c++)
            RANK_OK(tess_reducer_release(run->reducer, window[w], run->consumer[c]));
        settle(run);
    }
}

static void run_round(reduce_case_t *run, int round)
{
    int64_t count = tess_bucket_plan_bucket_count(run->plan);
    for (int64_t first = 0; first < count; first += run->depth) {
        int64_t window[BUCKETS_MAX], window_count = 0;
        for (int64_t p = first; p < count && p < first + run->depth; p++)
            window[window_count++] = run->order == TESS_REDUCER_FORWARD ? p : count - 1 - p;
        produce(run, round, window, window_count);
        consume(run, round, window, window_count);
    }
    RANK_OK(tess_reducer_finish(run->reducer));
}

static void run_case(bucket_rig_t *rig, reduce_case_t run, int64_t bucket_bytes, uint64_t seed)
{
    run.rig = rig;
    run.random = seed * 31 + (uint64_t)rig->rank;
    run.element_bytes = tess_dtype_bytes(run.dtype);
    run.plan = rig_plan(run.dtype, bucket_bytes, rig->size);
    /* nccl averages in the wire type; the values only sum exactly where 1/n does. */
    if (rig->exact && (rig->size & (rig->size - 1))) run.reduction = TESS_SUM;
    int64_t shard_bytes = tess_bucket_plan_shard_count(run.plan) * run.element_bytes;
    for (int i = 0; i < 2; i++) {
        run.producer[i] = rig_stream(rig);
        run.consumer[i] = rig_stream(rig);
        run.image[i] = rig_memory(rig, TESS_MEMORY_PINNED, shard_bytes * rig->size);
        run.result[i] = rig_memory(rig, TESS_MEMORY_PINNED, shard_bytes);
        fill_image(&run, seed + (uint64_t)i, i);
    }
    tess_reducer_config_t config = {rig->comm, run.plan, run.reduction, run.order, run.depth};
    RANK_OK(tess_reducer_create(&config, &run.reducer));
    RANK_CHECK(tess_reducer_bytes(run.reducer) >=
               run.depth * tess_bucket_plan_largest_count(run.plan) * run.element_bytes);

    for (int round = 0; round < 2; round++) run_round(&run, round);
    for (int c = 0; c < 2; c++) RANK_OK(tess_stream_synchronize(run.consumer[c], -1));
    RANK_OK(tess_comm_status(rig->comm));
    for (int round = 0; round < 2; round++) check_result(&run, seed + (uint64_t)round, round);

    tess_reducer_destroy(run.reducer);
    for (int i = 0; i < 2; i++) {
        tess_stream_destroy(run.producer[i]);
        tess_stream_destroy(run.consumer[i]);
        tess_memory_free(rig->device, TESS_MEMORY_PINNED, run.image[i]);
        tess_memory_free(rig->device, TESS_MEMORY_PINNED, run.result[i]);
    }
    tess_bucket_plan_destroy(run.plan);
}

static int sweep_body(int rank, void *unused)
{
    (void)unused;
    const int depths[] = {1, 2, 3, BUCKETS_MAX};
    bucket_rig_t rig;
    rig_open(&rig, rank);
    for (sweep_mode_t mode = MODE_FREE; mode < MODE_COUNT; mode++) {
        const int64_t sizes[] = {SLICE_BYTES * rig.size, 1000 + SLICE_BYTES * rig.size, 9000,
                                 1 << 20};
        uint64_t seed = 1;
        rig_open_device(&rig, mode == MODE_EAGER ? "eager" : "threads");
        for (int i = 0; i < 3 * 4 * 4; i++) {
            seed += 2;
            reduce_case_t run = {.dtype = (tess_dtype_t)(TESS_DTYPE_BF16 + i % 3),
                                 .depth = depths[i / 3 % 4],
                                 .mode = mode,
                                 .reduction = seed / 2 % 2 ? TESS_SUM : TESS_AVERAGE,
                                 .order =
                                     seed / 4 % 2 ? TESS_REDUCER_REVERSED : TESS_REDUCER_FORWARD};
            run_case(&rig, run, sizes[i / 12], seed);
        }
        rig_close_device(&rig);
    }
    rig_close(&rig);
    return 0;
}

static void reduced_bits_do_not_depend_on_buckets_or_overlap(void **unused)
{
    (void)unused;
    for (int ranks = 1; ranks <= rig_ranks(5); ranks++)
        assert_int_equal(test_ranks(ranks, sweep_body, NULL, 120000, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reduced_bits_do_not_depend_on_buckets_or_overlap),
    };
    rig_ranks(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
