/* SPDX-License-Identifier: Apache-2.0 */
/* Who waits for whom in the reducer, in which order buckets are launched, and misuse.
 *
 * Buckets hold one value each, so that a wait left out shows as a wrong number.
 */
#include <stdio.h>
#include <string.h>

#include "bucket_rig.h"

#define HALF_COUNT 2048
#define BUCKETS 4
#define TENSORS (2 * BUCKETS)

/* Tensors 2b and 2b + 1 share bucket b. */
typedef struct pairs {
    bucket_rig_t rig;
    tess_bucket_plan_t *plan;
    tess_reducer_t *reducer;
    int64_t slice_count;
    float *image;  /* (BUCKETS * HALF_COUNT) pinned: b + 1 */
    float *result; /* (BUCKETS * slice_count) pinned */
    tess_stream_t *producer[2], *consumer[2];
} pairs_t;

static void pairs_open(pairs_t *pairs, int rank, int depth)
{
    int64_t counts[TENSORS];
    for (int t = 0; t < TENSORS; t++) counts[t] = HALF_COUNT;
    memset(pairs, 0, sizeof *pairs);
    bucket_rig_t *rig = &pairs->rig;
    rig_open(rig, rank);
    rig_open_device(rig, "threads");
    tess_bucket_plan_config_t config = {
        counts, TENSORS, 2 * HALF_COUNT * 4, TESS_DTYPE_FP32, rig->size, 0, 0};
    RANK_OK(tess_bucket_plan_create(&config, &pairs->plan));
    RANK_CHECK(tess_bucket_plan_bucket_count(pairs->plan) == BUCKETS);
    pairs->slice_count = tess_bucket_plan_bucket(pairs->plan, 0).slice_count;
    pairs->image = rig_memory(rig, TESS_MEMORY_PINNED, BUCKETS * HALF_COUNT * 4);
    pairs->result = rig_memory(rig, TESS_MEMORY_PINNED, BUCKETS * pairs->slice_count * 4);
    for (int64_t i = 0; i < BUCKETS * HALF_COUNT; i++)
        pairs->image[i] = (float)(i / HALF_COUNT + 1);
    for (int i = 0; i < 2; i++) {
        pairs->producer[i] = rig_stream(rig);
        pairs->consumer[i] = rig_stream(rig);
    }
    tess_reducer_config_t reducer_config = {rig->comm, pairs->plan, TESS_SUM, TESS_REDUCER_REVERSED,
                                            depth};
    RANK_OK(tess_reducer_create(&reducer_config, &pairs->reducer));
}

static void pairs_close(pairs_t *pairs)
{
    bucket_rig_t *rig = &pairs->rig;
    tess_reducer_destroy(pairs->reducer);
    for (int i = 0; i < 2; i++) {
        tess_stream_destroy(pairs->producer[i]);
        tess_stream_destroy(pairs->consumer[i]);
    }
    tess_memory_free(rig->device, TESS_MEMORY_PINNED, pairs->result);
    tess_memory_free(rig->device, TESS_MEMORY_PINNED, pairs->image);
    tess_bucket_plan_destroy(pairs->plan);
    rig_close_device(rig);
    rig_close(rig);
}

/* Writes tensor 2b + half on a stream and says so. */
static void write_half(pairs_t *pairs, int bucket, int half, tess_stream_t *stream)
{
    void *buffer = NULL;
    RANK_OK(tess_reducer_acquire(pairs->reducer, bucket, stream, &buffer));
    RANK_OK(tess_stream_copy(stream, (float *)buffer + half * HALF_COUNT,
                             pairs->image + bucket * HALF_COUNT, HALF_COUNT * 4));
    RANK_OK(tess_reducer_ready(pairs->reducer, 2 * bucket + half, stream));
}

/* Copies half of the reduced slice out on a stream. */
static void read_half(pairs_t *pairs, int bucket, int half, const void *slice,
                      tess_stream_t *stream)
{
    int64_t offset = half ? pairs->slice_count / 2 : 0;
    int64_t count = half ? pairs->slice_count - offset : pairs->slice_count / 2;
    RANK_OK(tess_stream_copy(stream, pairs->result + bucket * pairs->slice_count + offset,
                             (const float *)slice + offset, count * 4));
}

static void check_bucket(const pairs_t *pairs, int bucket)
{
    float expected = (float)((bucket + 1) * pairs->rig.size);
    for (int64_t i = 0; i < pairs->slice_count; i++) {
        float got = pairs->result[bucket * pairs->slice_count + i];
        if (got == expected) continue;
        fprintf(stderr, "bucket %d element %lld is %g, not %g\n", bucket, (long long)i, (double)got,
                (double)expected);
        RANK_CHECK(got == expected);
    }
}

/* --- waits ----------------------------------------------------------------------------------- */

/* Two late producers, two late consumers, one buffer; the producer that is late changes from bucket
 * to bucket, and each marks a tensor twice over by being handed the buffer again. */
static int slow_streams_body(int rank, void *unused)
{
    (void)unused;
    pairs_t pairs;
    pairs_open(&pairs, rank, 1);
    for (int round = 0; round < 2; round++) {
        for (int b = BUCKETS - 1; b >= 0; b--) {
            void *buffer = NULL, *slice = NULL;
            for (int p = 0; p < 2; p++)
                RANK_OK(tess_reducer_acquire(pairs.reducer, b, pairs.producer[p], &buffer));
            rig_delay(pairs.producer[b % 2], 20);
            write_half(&pairs, b, 0, pairs.producer[0]);
            write_half(&pairs, b, 1, pairs.producer[1]);
            for (int c = 0; c < 2; c++)
                RANK_OK(tess_reducer_wait(pairs.reducer, b, pairs.consumer[c], &slice));
            rig_delay(pairs.consumer[b / 2], 20);
            for (int c = 0; c < 2; c++) read_half(&pairs, b, c, slice, pairs.consumer[c]);
            for (int c = 0; c < 2; c++)
                RANK_OK(tess_reducer_release(pairs.reducer, b, pairs.consumer[c]));
        }
        RANK_OK(tess_reducer_finish(pairs.reducer));
        for (int c = 0; c < 2; c++) RANK_OK(tess_stream_synchronize(pairs.consumer[c], -1));
        for (int b = 0; b < BUCKETS; b++) check_bucket(&pairs, b);
    }
    pairs_close(&pairs);
    return 0;
}

static void nothing_overtakes_slow_streams(void **unused)
{
    (void)unused;
    assert_int_equal(test_ranks(1, slow_streams_body, NULL, 60000, NULL), 0);
    assert_int_equal(test_ranks(rig_ranks(2), slow_streams_body, NULL, 60000, NULL), 0);
}

/* A stream's last mark counts: both tensors come from one stream, the second one late. */
static int last_mark_body(int rank, void *unused)
{
    (void)unused;
    pairs_t pairs;
    pairs_open(&pairs, rank, BUCKETS);
    for (int b = BUCKETS - 1; b >= 0; b--) {
        void *slice = NULL;
        write_half(&pairs, b, 0, pairs.producer[0]);
        rig_delay(pairs.producer[0], 20);
        write_half(&pairs, b, 1, pairs.producer[0]);
        RANK_OK(tess_reducer_wait(pairs.reducer, b, pairs.consumer[0], &slice));
        for (int half = 0; half < 2; half++) read_half(&pairs, b, half, slice, pairs.consumer[0]);
        RANK_OK(tess_reducer_release(pairs.reducer, b, pairs.consumer[0]));
    }
    RANK_OK(tess_reducer_finish(pairs.reducer));
    RANK_OK(tess_stream_synchronize(pairs.consumer[0], -1));
    for (int b = 0; b < BUCKETS; b++) check_bucket(&pairs, b);
    pairs_close(&pairs);
    return 0;
}

static void the_last_mark_of_a_stream_counts(void **unused)
{
    (void)unused;
    assert_int_equal(test_ranks(1, last_mark_body, NULL, 60000, NULL), 0);
    assert_int_equal(test_ranks(rig_ranks(2), last_mark_body, NULL, 60000, NULL), 0);
}

/* A consumer stuck on one slice, and a producer stuck in a later bucket, must not keep the bucket
 * between them from being reduced. */
static int independent_body(int rank, void *unused)
{
    (void)unused;
    pairs_t pairs;
    pairs_open(&pairs, rank, 3);
    rig_gate_t gate = {0};
    void *slice = NULL;
    for (int half = 0; half < 2; half++) write_half(&pairs, 3, half, pairs.producer[0]);
    RANK_OK(tess_reducer_wait(pairs.reducer, 3, pairs.consumer[0], &slice));
    rig_hold(pairs.consumer[0], &gate);
    for (int half = 0; half < 2; half++) read_half(&pairs, 3, half, slice, pairs.consumer[0]);
    RANK_OK(tess_reducer_release(pairs.reducer, 3, pairs.consumer[0]));

    for (int half = 0; half < 2; half++) write_half(&pairs, 2, half, pairs.producer[0]);
    rig_hold(pairs.producer[0], &gate);
    for (int half = 0; half < 2; half++) write_half(&pairs, 1, half, pairs.producer[0]);
    RANK_OK(tess_reducer_wait(pairs.reducer, 2, pairs.consumer[1], &slice));
    for (int half = 0; half < 2; half++) read_half(&pairs, 2, half, slice, pairs.consumer[1]);
    RANK_OK(tess_reducer_release(pairs.reducer, 2, pairs.consumer[1]));
    RANK_OK(tess_stream_synchronize(pairs.consumer[1], 15000));
    check_bucket(&pairs, 2);
    RANK_CHECK(tess_stream_query(pairs.consumer[0]) == TESS_NOT_READY);
    RANK_CHECK(tess_stream_query(tess_reducer_stream(pairs.reducer)) == TESS_NOT_READY);

    atomic_store(&gate.open, 1);
    for (int half = 0; half < 2; half++) write_half(&pairs, 0, half, pairs.producer[1]);
    for (int b = 1; b >= 0; b--) {
        RANK_OK(tess_reducer_wait(pairs.reducer, b, pairs.consumer[1], &slice));
        for (int half = 0; half < 2; half++) read_half(&pairs, b, half, slice, pairs.consumer[1]);
        RANK_OK(tess_reducer_release(pairs.reducer, b, pairs.consumer[1]));
    }
    RANK_OK(tess_reducer_finish(pairs.reducer));
    for (int c = 0; c < 2; c++) RANK_OK(tess_stream_synchronize(pairs.consumer[c], 15000));
    for (int b = 0; b < BUCKETS; b++) check_bucket(&pairs, b);
    pairs_close(&pairs);
    return 0;
}

static void buffers_do_not_wait_for_one_another(void **unused)
{
    (void)unused;
    assert_int_equal(test_ranks(1, independent_body, NULL, 60000, NULL), 0);
    assert_int_equal(test_ranks(rig_ranks(2), independent_body, NULL, 60000, NULL), 0);
}

/* --- order and misuse ------------------------------------------------------------------------ */

static int states_body(int rank, void *unused)
{
    (void)unused;
    pairs_t pairs;
    pairs_open(&pairs, rank, 2);
    tess_reducer_t *reducer = pairs.reducer;
    tess_stream_t *p = pairs.producer[0], *c = pairs.consumer[0];
    void *buffer = NULL, *slice = NULL;

    RANK_CHECK(tess_reducer_ready(reducer, 7, p) == TESS_ERR_STATE);
    RANK_CHECK(strstr(tess_last_error(), "before its bucket 3 was acquired"));
    RANK_CHECK(tess_reducer_finish(reducer) == TESS_ERR_STATE);
    RANK_CHECK(strstr(tess_last_error(), "tensor 0 (bucket 0) was not ready"));
    RANK_CHECK(tess_reducer_wait(reducer, 3, c, &slice) == TESS_NOT_READY);
    RANK_CHECK(tess_reducer_release(reducer, 3, c) == TESS_ERR_STATE);

    /* Bucket 2 is complete first, and still waits for its turn. */
    for (int half = 0; half < 2; half++) write_half(&pairs, 2, half, p);
    RANK_CHECK(tess_reducer_ready(reducer, 4, p) == TESS_ERR_STATE);
    RANK_CHECK(strstr(tess_last_error(), "tensor 4 was already ready"));
    RANK_CHECK(tess_reducer_wait(reducer, 2, c, &slice) == TESS_NOT_READY);
    write_half(&pairs, 3, 0, p);
    RANK_CHECK(tess_reducer_wait(reducer, 3, c, &slice) == TESS_NOT_READY);
    RANK_CHECK(tess_reducer_release(reducer, 3, c) == TESS_ERR_STATE);
    RANK_CHECK(tess_reducer_acquire(reducer, 1, p, &buffer) == TESS_ERR_STATE);
    RANK_CHECK(strstr(tess_last_error(), "all 2 buffers hold buckets that were not released"));
    RANK_CHECK(strstr(tess_last_error(), "the next to launch is bucket 3"));
    write_half(&pairs, 3, 1, p);

    /* Both are launched now; nothing can be done to them twice. */
    RANK_CHECK(tess_reducer_acquire(reducer, 3, p, &buffer) == TESS_ERR_STATE);
    RANK_CHECK(strstr(tess_last_error(), "bucket 3 was already reduced this round"));
    RANK_CHECK(tess_reducer_ready(reducer, 7, p) == TESS_ERR_STATE);
    RANK_CHECK(tess_reducer_release(reducer, 3, c) == TESS_ERR_STATE);
    RANK_CHECK(strstr(tess_last_error(), "no wait has handed it out"));
    for (int b = 3; b >= 2; b--) {
        RANK_OK(tess_reducer_wait(reducer, b, c, &slice));
        for (int half = 0; half < 2; half++) read_half(&pairs, b, half, slice, c);
        RANK_OK(tess_reducer_release(reducer, b, c));
        RANK_CHECK(tess_reducer_release(reducer, b, c) == TESS_ERR_STATE);
        RANK_CHECK(tess_reducer_wait(reducer, b, c, &slice) == TESS_ERR_STATE);
        RANK_CHECK(tess_reducer_acquire(reducer, b, p, &buffer) == TESS_ERR_STATE);
    }
    for (int b = 1; b >= 0; b--)
        for (int half = 0; half < 2; half++) write_half(&pairs, b, half, p);
    RANK_CHECK(tess_reducer_finish(reducer) == TESS_ERR_STATE);
    RANK_CHECK(strstr(tess_last_error(), "bucket 0 was not released"));
    for (int b = 1; b >= 0; b--) {
        RANK_OK(tess_reducer_wait(reducer, b, c, &slice));
        for (int half = 0; half < 2; half++) read_half(&pairs, b, half, slice, c);
        RANK_OK(tess_reducer_release(reducer, b, c));
    }
    RANK_OK(tess_reducer_finish(reducer));
    RANK_OK(tess_stream_synchronize(c, -1));
    for (int b = 0; b < BUCKETS; b++) check_bucket(&pairs, b);
    pairs_close(&pairs);
    return 0;
}

static void calls_out_of_order_are_refused(void **unused)
{
    (void)unused;
    assert_int_equal(test_ranks(1, states_body, NULL, 60000, NULL), 0);
    assert_int_equal(test_ranks(rig_ranks(2), states_body, NULL, 60000, NULL), 0);
}

static tess_bucket_plan_t *plan_of(const int64_t *counts, int64_t count, tess_dtype_t dtype)
{
    tess_bucket_plan_config_t config = {counts, count, 4096, dtype, 1, 0, 0};
    tess_bucket_plan_t *plan = NULL;
    RANK_OK(tess_bucket_plan_create(&config, &plan));
    return plan;
}

/* Plans without elements, or without tensors, go through the same calls. */
static void empty_plans(pairs_t *pairs)
{
    const int64_t empty[] = {0, 0};
    tess_bucket_plan_t *plan = plan_of(empty, 2, TESS_DTYPE_BF16);
    tess_reducer_config_t config = {pairs->rig.comm, plan, TESS_SUM, TESS_REDUCER_REVERSED, 0};
    tess_reducer_t *reducer = NULL;
    void *buffer = NULL, *slice = NULL;
    RANK_OK(tess_reducer_create(&config, &reducer));
    for (int round = 0; round < 2; round++) {
        RANK_CHECK(tess_reducer_finish(reducer) == TESS_ERR_STATE);
        RANK_OK(tess_reducer_acquire(reducer, 0, pairs->producer[0], &buffer));
        RANK_OK(tess_reducer_ready(reducer, 1, pairs->producer[0]));
        RANK_CHECK(tess_reducer_ready(reducer, 1, pairs->producer[0]) == TESS_ERR_STATE);
        RANK_OK(tess_reducer_wait(reducer, 0, pairs->consumer[0], &slice));
        RANK_CHECK(slice != NULL && slice == buffer);
        RANK_OK(tess_reducer_release(reducer, 0, pairs->consumer[0]));
        RANK_OK(tess_reducer_finish(reducer));
    }
    tess_reducer_destroy(reducer);
    tess_bucket_plan_destroy(plan);

    config.plan = plan = plan_of(NULL, 0, TESS_DTYPE_BF16);
    RANK_OK(tess_reducer_create(&config, &reducer));
    RANK_CHECK(tess_reducer_acquire(reducer, 0, pairs->producer[0], &buffer) ==
               TESS_ERR_INVALID_ARGUMENT);
    RANK_OK(tess_reducer_finish(reducer));
    tess_reducer_destroy(reducer);
    tess_bucket_plan_destroy(plan);
}

static int misuse_body(int rank, void *unused)
{
    (void)unused;
    pairs_t pairs;
    pairs_open(&pairs, rank, 0);
    tess_reducer_t *reducer = pairs.reducer, *other = NULL;
    tess_stream_t *p = pairs.producer[0];
    void *buffer = NULL;
    const tess_status_t invalid = TESS_ERR_INVALID_ARGUMENT;
    RANK_CHECK(tess_reducer_bytes(reducer) == 2 * 2 * HALF_COUNT * 4);
    RANK_CHECK(tess_reducer_create(NULL, &other) == invalid);
    tess_reducer_config_t good = {pairs.rig.comm, pairs.plan, TESS_SUM, TESS_REDUCER_FORWARD, 1};
    tess_reducer_config_t bad = good;
    RANK_CHECK(tess_reducer_create(&good, NULL) == invalid);
    bad.comm = NULL;
    RANK_CHECK(tess_reducer_create(&bad, &other) == invalid);
    bad = good;
    bad.buffer_count = -3;
    RANK_CHECK(tess_reducer_create(&bad, &other) == invalid);
    bad = good;
    bad.reduction = (tess_reduction_t)7;
    RANK_CHECK(tess_reducer_create(&bad, &other) == invalid);
    bad = good;
    bad.order = (tess_reducer_order_t)7;
    RANK_CHECK(tess_reducer_create(&bad, &other) == invalid);
    const int64_t one[] = {64};
    tess_bucket_plan_t *bytes = plan_of(one, 1, TESS_DTYPE_BYTE);
    bad = good;
    bad.plan = bytes;
    RANK_CHECK(tess_reducer_create(&bad, &other) == invalid);
    RANK_CHECK(strstr(tess_last_error(), "byte, which cannot be summed"));
    tess_bucket_plan_destroy(bytes);
    RANK_CHECK(other == NULL);
    tess_reducer_destroy(NULL);

    RANK_CHECK(tess_reducer_acquire(NULL, 0, p, &buffer) == invalid);
    RANK_CHECK(tess_reducer_acquire(reducer, 4, p, &buffer) == invalid);
    RANK_CHECK(tess_reducer_acquire(reducer, 0, NULL, &buffer) == invalid);
    RANK_CHECK(tess_reducer_acquire(reducer, 0, p, NULL) == invalid);
    RANK_CHECK(tess_reducer_ready(NULL, 0, p) == invalid);
    RANK_CHECK(tess_reducer_ready(reducer, -1, p) == invalid);
    RANK_CHECK(tess_reducer_ready(reducer, TENSORS, p) == invalid);
    RANK_CHECK(tess_reducer_ready(reducer, 0, NULL) == invalid);
    RANK_CHECK(tess_reducer_wait(reducer, 0, p, NULL) == invalid);
    RANK_CHECK(tess_reducer_release(NULL, 0, p) == invalid);
    RANK_CHECK(tess_reducer_finish(NULL) == invalid);
    empty_plans(&pairs);

    tess_comm_abort(pairs.rig.comm);
    RANK_CHECK(tess_reducer_acquire(reducer, 0, p, &buffer) < 0);
    RANK_CHECK(tess_reducer_ready(reducer, 0, p) < 0);
    RANK_CHECK(tess_reducer_wait(reducer, 0, p, &buffer) < 0);
    RANK_CHECK(tess_reducer_release(reducer, 0, p) < 0);
    RANK_CHECK(tess_reducer_finish(reducer) < 0);
    pairs_close(&pairs);
    return 0;
}

static void misuse_is_refused(void **unused)
{
    (void)unused;
    assert_int_equal(test_ranks(1, misuse_body, NULL, 60000, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_overtakes_slow_streams),
        cmocka_unit_test(the_last_mark_of_a_stream_counts),
        cmocka_unit_test(buffers_do_not_wait_for_one_another),
        cmocka_unit_test(calls_out_of_order_are_refused),
        cmocka_unit_test(misuse_is_refused),
    };
    rig_ranks(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
