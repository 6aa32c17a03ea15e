/* SPDX-License-Identifier: Apache-2.0 */
/* The gatherer: gathered parameters bit for bit over dtypes, bucket sizes, ring depths, ranks and
 * overlap; who waits for whom; misuse.
 *
 * Each rank checks every element of every tensor against the value that its owner must have sent.
 */
#include <stdio.h>
#include <string.h>

#include "bucket_rig.h"

#define SLICE_BYTES 16

/* How much may overlap: nothing is waited for, every call is waited for, or streams run at once. */
typedef enum sweep_mode { MODE_FREE, MODE_SYNCHRONISED, MODE_EAGER, MODE_COUNT } sweep_mode_t;

typedef struct gather_case {
    bucket_rig_t *rig;
    tess_bucket_plan_t *plan;
    tess_gatherer_t *gatherer;
    tess_dtype_t dtype;
    int64_t element_bytes;
    sweep_mode_t mode;
    int depth;
    tess_stream_t *writer;      /* changes the shard */
    tess_stream_t *consumer[2]; /* read even and odd tensors */
    void *shard;                /* (shard_count) device */
    void *image[2];             /* (shard_count) pinned: the shard before and after its change */
    void *result[2];            /* (padded counts of all buckets) pinned: what was gathered */
} gather_case_t;

static void settle(const gather_case_t *run)
{
    if (run->mode != MODE_SYNCHRONISED) return;
    RANK_OK(tess_stream_synchronize(tess_gatherer_stream(run->gatherer), -1));
    for (int c = 0; c < 2; c++) RANK_OK(tess_stream_synchronize(run->consumer[c], -1));
}

/* What this rank's slices hold: the tensors' values, and a pattern in gaps and padding. */
static void fill_image(const gather_case_t *run, uint64_t seed, void *image)
{
    memset(image, 0xab, (size_t)(tess_bucket_plan_shard_count(run->plan) * run->element_bytes));
    for (int64_t t = 0; t < RIG_TENSORS; t++) {
        tess_bucket_view_t view = tess_bucket_plan_tensor(run->plan, t);
        tess_bucket_t bucket = tess_bucket_plan_bucket(run->plan, view.bucket);
        int64_t first = run->rig->rank * bucket.slice_count;
        for (int64_t i = 0; i < view.count; i++) {
            int64_t at = view.offset + i - first;
            if (at < 0 || at >= bucket.slice_count) continue;
            float value = rig_value(run->rig, seed, 0, t, i);
            rig_store(run->dtype, image, bucket.slice_offset + at, rig_encode(run->dtype, value));
        }
    }
}

/* Bucket b's place in the results: the shard of all ranks laid end to end. */
static char *result_of(const gather_case_t *run, int pass, int64_t bucket)
{
    int64_t offset = tess_bucket_plan_bucket(run->plan, bucket).slice_offset * run->rig->size;
    return (char *)run->result[pass] + offset * run->element_bytes;
}

static void check_result(const gather_case_t *run, uint64_t seed, int pass)
{
    for (int64_t t = 0; t < RIG_TENSORS; t++) {
        tess_bucket_view_t view = tess_bucket_plan_tensor(run->plan, t);
        const char *result = result_of(run, pass, view.bucket);
        for (int64_t i = 0; i < view.count; i++) {
            uint32_t expected = rig_encode(run->dtype, rig_value(run->rig, seed, 0, t, i));
            uint32_t got = rig_load(run->dtype, result, view.offset + i);
            if (got == expected) continue;
            fprintf(stderr, "tensor %lld element %lld pass %d depth %d mode %d: %08x, not %08x\n",
                    (long long)t, (long long)i, pass, run->depth, run->mode, got, expected);
            RANK_CHECK(got == expected);
        }
    }
}

/* Acquires on both consumers and copies the even tensors on one, the odd ones on the other. */
static void consume(const gather_case_t *run, int pass, int64_t index)
{
    tess_bucket_t bucket = tess_bucket_plan_bucket(run->plan, index);
    void *buffer[2];
    for (int c = 0; c < 2; c++) {
        RANK_OK(tess_gatherer_acquire(run->gatherer, index, run->consumer[c], &buffer[c]));
        settle(run);
    }
    RANK_CHECK(buffer[0] == buffer[1]);
    for (int64_t t = bucket.first_tensor; t < bucket.first_tensor + bucket.tensor_count; t++) {
        int64_t offset = tess_bucket_plan_tensor(run->plan, t).offset * run->element_bytes;
        int64_t bytes = rig_tensors[t] * run->element_bytes;
        if (bytes == 0) continue;
        RANK_OK(tess_stream_copy(run->consumer[t % 2], result_of(run, pass, index) + offset,
                                 (char *)buffer[0] + offset, bytes));
    }
    for (int c = 0; c < 2; c++) {
        RANK_OK(tess_gatherer_release(run->gatherer, index, run->consumer[c]));
        settle(run);
    }
}

/* One pass over all buckets, reading `depth - 1` ahead; the second one backwards. */
static void run_pass(const gather_case_t *run, int pass)
{
    int64_t count = tess_bucket_plan_bucket_count(run->plan);
    int64_t bytes = tess_bucket_plan_shard_count(run->plan) * run->element_bytes;
    for (int c = 0; c < 2; c++) rig_order(run->rig, run->consumer[c], run->writer);
    RANK_OK(tess_stream_copy(run->writer, run->shard, run->image[pass], bytes));
    RANK_OK(tess_gatherer_invalidate(run->gatherer));
    for (int c = 0; c < 2; c++) rig_order(run->rig, run->writer, run->consumer[c]);
    for (int64_t i = 0; i < count; i++) {
        for (int64_t ahead = i; ahead < count && ahead < i + run->depth; ahead++) {
            if (run->depth == 1 && i % 3 == 0) break; /* acquire gathers by itself */
            int64_t next = pass ? count - 1 - ahead : ahead;
            tess_status_t status = tess_gatherer_prefetch(run->gatherer, next, NULL, run->writer);
            if (status == TESS_NOT_READY) break;
            RANK_OK(status);
            settle(run);
        }
        consume(run, pass, pass ? count - 1 - i : i);
    }
}

static void run_case(bucket_rig_t *rig, tess_dtype_t dtype, int64_t bucket_bytes, int depth,
                     sweep_mode_t mode, uint64_t seed)
{
    gather_case_t run = {.rig = rig, .dtype = dtype, .mode = mode, .depth = depth};
    run.element_bytes = tess_dtype_bytes(dtype);
    run.plan = rig_plan(dtype, bucket_bytes, rig->size);
    int64_t shard_bytes = tess_bucket_plan_shard_count(run.plan) * run.element_bytes;
    run.writer = rig_stream(rig);
    run.shard = rig_memory(rig, TESS_MEMORY_DEVICE, shard_bytes);
    for (int i = 0; i < 2; i++) {
        run.consumer[i] = rig_stream(rig);
        run.image[i] = rig_memory(rig, TESS_MEMORY_PINNED, shard_bytes);
        run.result[i] = rig_memory(rig, TESS_MEMORY_PINNED, shard_bytes * rig->size);
        fill_image(&run, seed + (uint64_t)i, run.image[i]);
    }
    tess_gatherer_config_t config = {rig->comm, run.plan, run.shard, depth};
    RANK_OK(tess_gatherer_create(&config, &run.gatherer));
    RANK_CHECK(tess_gatherer_bytes(run.gatherer) >=
               depth * tess_bucket_plan_largest_count(run.plan) * run.element_bytes);

    for (int pass = 0; pass < 2; pass++) run_pass(&run, pass);
    for (int c = 0; c < 2; c++) RANK_OK(tess_stream_synchronize(run.consumer[c], -1));
    RANK_OK(tess_comm_status(rig->comm));
    for (int pass = 0; pass < 2; pass++) check_result(&run, seed + (uint64_t)pass, pass);

    tess_gatherer_destroy(run.gatherer);
    for (int i = 0; i < 2; i++) {
        tess_stream_destroy(run.consumer[i]);
        tess_memory_free(rig->device, TESS_MEMORY_PINNED, run.image[i]);
        tess_memory_free(rig->device, TESS_MEMORY_PINNED, run.result[i]);
    }
    tess_stream_destroy(run.writer);
    tess_memory_free(rig->device, TESS_MEMORY_DEVICE, run.shard);
    tess_bucket_plan_destroy(run.plan);
}

static int sweep_body(int rank, void *unused)
{
    (void)unused;
    const int depths[] = {1, 2, 3, RIG_TENSORS};
    bucket_rig_t rig;
    rig_open(&rig, rank);
    for (sweep_mode_t mode = MODE_FREE; mode < MODE_COUNT; mode++) {
        const int64_t sizes[] = {SLICE_BYTES * rig.size, 1000 + SLICE_BYTES * rig.size, 9000,
                                 1 << 20};
        uint64_t seed = 1;
        rig_open_device(&rig, mode == MODE_EAGER ? "eager" : "threads");
        for (tess_dtype_t dtype = TESS_DTYPE_BF16; dtype <= TESS_DTYPE_FP32; dtype++)
            for (int size = 0; size < 4; size++)
                for (int depth = 0; depth < 4; depth++)
                    run_case(&rig, dtype, sizes[size], depths[depth], mode, seed += 2);
        rig_close_device(&rig);
    }
    rig_close(&rig);
    return 0;
}

static void gathered_bits_do_not_depend_on_buckets_or_overlap(void **unused)
{
    (void)unused;
    for (int ranks = 1; ranks <= rig_ranks(5); ranks++)
        assert_int_equal(test_ranks(ranks, sweep_body, NULL, 120000, NULL), 0);
}

/* --- what a buffer waits for ----------------------------------------------------------------- */

/* Four tensors of one bucket each, so that bucket b holds b + 1 in all places, on every rank. */
#define EACH_COUNT 4096
#define EACH_BUCKETS 4
typedef struct each {
    bucket_rig_t rig;
    tess_bucket_plan_t *plan;
    tess_gatherer_t *gatherer;
    int64_t slice_count;
    float *shard;  /* device */
    float *image;  /* (EACH_BUCKETS * slice_count) pinned */
    float *result; /* (EACH_BUCKETS * EACH_COUNT) pinned */
    tess_stream_t *a, *b;
} each_t;

static void each_open(each_t *each, int rank, int depth)
{
    static const int64_t counts[EACH_BUCKETS] = {EACH_COUNT, EACH_COUNT, EACH_COUNT, EACH_COUNT};
    memset(each, 0, sizeof *each);
    bucket_rig_t *rig = &each->rig;
    rig_open(rig, rank);
    rig_open_device(rig, "threads");
    tess_bucket_plan_config_t config = {
        counts, EACH_BUCKETS, EACH_COUNT * 4, TESS_DTYPE_FP32, rig->size, 0, 0};
    RANK_OK(tess_bucket_plan_create(&config, &each->plan));
    RANK_CHECK(tess_bucket_plan_bucket_count(each->plan) == EACH_BUCKETS);
    each->slice_count = tess_bucket_plan_bucket(each->plan, 0).slice_count;
    int64_t shard_bytes = EACH_BUCKETS * each->slice_count * 4;
    each->shard = rig_memory(rig, TESS_MEMORY_DEVICE, shard_bytes);
    each->image = rig_memory(rig, TESS_MEMORY_PINNED, shard_bytes);
    each->result = rig_memory(rig, TESS_MEMORY_PINNED, EACH_BUCKETS * EACH_COUNT * 4);
    for (int64_t i = 0; i < EACH_BUCKETS * each->slice_count; i++)
        each->image[i] = (float)(i / each->slice_count + 1);
    each->a = rig_stream(rig);
    each->b = rig_stream(rig);
    tess_gatherer_config_t gatherer_config = {rig->comm, each->plan, each->shard, depth};
    RANK_OK(tess_gatherer_create(&gatherer_config, &each->gatherer));
}

static void each_write_shard(each_t *each, tess_stream_t *stream)
{
    RANK_OK(
        tess_stream_copy(stream, each->shard, each->image, EACH_BUCKETS * each->slice_count * 4));
}

static void each_close(each_t *each)
{
    bucket_rig_t *rig = &each->rig;
    tess_gatherer_destroy(each->gatherer);
    tess_stream_destroy(each->a);
    tess_stream_destroy(each->b);
    tess_memory_free(rig->device, TESS_MEMORY_PINNED, each->result);
    tess_memory_free(rig->device, TESS_MEMORY_PINNED, each->image);
    tess_memory_free(rig->device, TESS_MEMORY_DEVICE, each->shard);
    tess_bucket_plan_destroy(each->plan);
    rig_close_device(rig);
    rig_close(rig);
}

/* Copies half of the bucket to `part` of the results. */
static void each_read_half(each_t *each, const void *buffer, int half, int part,
                           tess_stream_t *stream)
{
    int64_t offset = half * (EACH_COUNT / 2);
    RANK_OK(tess_stream_copy(stream, each->result + part * EACH_COUNT + offset,
                             (const float *)buffer + offset, EACH_COUNT / 2 * 4));
}

static void each_check(const each_t *each, int part, float expected)
{
    for (int64_t i = 0; i < EACH_COUNT; i++) {
        if (each->result[part * EACH_COUNT + i] == expected) continue;
        fprintf(stderr, "part %d element %lld is %g, not %g\n", part, (long long)i,
                (double)each->result[part * EACH_COUNT + i], (double)expected);
        RANK_CHECK(each->result[part * EACH_COUNT + i] == expected);
    }
}

/* The shard is written late, on two streams in turn; both consumers are late, by different times;
 * every gather goes into the one buffer. A wait left out anywhere shows as another bucket's value.
 */
static int slow_streams_body(int rank, void *unused)
{
    (void)unused;
    each_t each;
    each_open(&each, rank, 1);
    tess_stream_t *writer = rig_stream(&each.rig);
    rig_delay(writer, 40);
    each_write_shard(&each, writer);
    RANK_OK(tess_gatherer_prefetch(each.gatherer, 0, NULL, writer));
    rig_order(&each.rig, writer, each.a);
    for (int b = 0; b < EACH_BUCKETS; b++) {
        void *buffer = NULL;
        RANK_OK(tess_gatherer_acquire(each.gatherer, b, each.a, &buffer));
        RANK_OK(tess_gatherer_acquire(each.gatherer, b, each.b, &buffer));
        rig_delay(each.a, b % 2 ? 30 : 5);
        rig_delay(each.b, b % 2 ? 5 : 30);
        each_read_half(&each, buffer, 0, b, each.a);
        each_read_half(&each, buffer, 1, b, each.b);
        RANK_OK(tess_gatherer_release(each.gatherer, b, each.a));
        RANK_OK(tess_gatherer_release(each.gatherer, b, each.b));
    }
    RANK_OK(tess_stream_synchronize(each.a, -1));
    RANK_OK(tess_stream_synchronize(each.b, -1));
    for (int b = 0; b < EACH_BUCKETS; b++) each_check(&each, b, (float)(b + 1));
    tess_stream_destroy(writer);
    each_close(&each);
    return 0;
}

static void nothing_overtakes_slow_streams(void **unused)
{
    (void)unused;
    assert_int_equal(test_ranks(1, slow_streams_body, NULL, 60000, NULL), 0);
    assert_int_equal(test_ranks(rig_ranks(2), slow_streams_body, NULL, 60000, NULL), 0);
}

/* A consumer that never gets on with bucket 0 must not keep bucket 1 from arriving. */
static int independent_body(int rank, void *unused)
{
    (void)unused;
    each_t each;
    each_open(&each, rank, 2);
    each_write_shard(&each, each.a);
    rig_order(&each.rig, each.a, each.b);
    rig_gate_t gate = {0};
    void *buffer = NULL;
    RANK_OK(tess_gatherer_acquire(each.gatherer, 0, each.a, &buffer));
    rig_hold(each.a, &gate);
    each_read_half(&each, buffer, 0, 0, each.a);
    each_read_half(&each, buffer, 1, 0, each.a);
    RANK_OK(tess_gatherer_release(each.gatherer, 0, each.a));
    RANK_OK(tess_gatherer_acquire(each.gatherer, 1, each.b, &buffer));
    each_read_half(&each, buffer, 0, 1, each.b);
    each_read_half(&each, buffer, 1, 1, each.b);
    RANK_OK(tess_gatherer_release(each.gatherer, 1, each.b));
    RANK_OK(tess_stream_synchronize(each.b, 15000));
    RANK_CHECK(tess_stream_query(each.a) == TESS_NOT_READY);
    each_check(&each, 1, 2.0f);

    /* Bucket 2 takes the buffer released longest ago, and has to wait for that consumer. */
    RANK_OK(tess_gatherer_prefetch(each.gatherer, 2, NULL, NULL));
    rig_sleep(50);
    RANK_CHECK(tess_stream_query(tess_gatherer_stream(each.gatherer)) == TESS_NOT_READY);
    atomic_store(&gate.open, 1);
    RANK_OK(tess_gatherer_acquire(each.gatherer, 2, each.b, &buffer));
    each_read_half(&each, buffer, 0, 2, each.b);
    each_read_half(&each, buffer, 1, 2, each.b);
    RANK_OK(tess_gatherer_release(each.gatherer, 2, each.b));
    RANK_OK(tess_stream_synchronize(each.a, 15000));
    RANK_OK(tess_stream_synchronize(each.b, 15000));
    each_check(&each, 0, 1.0f);
    each_check(&each, 2, 3.0f);
    each_close(&each);
    return 0;
}

static void buffers_do_not_wait_for_one_another(void **unused)
{
    (void)unused;
    assert_int_equal(test_ranks(1, independent_body, NULL, 60000, NULL), 0);
    assert_int_equal(test_ranks(rig_ranks(2), independent_body, NULL, 60000, NULL), 0);
}

/* --- the ring -------------------------------------------------------------------------------- */

static int ring_body(int rank, void *unused)
{
    (void)unused;
    each_t each;
    each_open(&each, rank, 2);
    tess_gatherer_t *gatherer = each.gatherer;
    void *first = NULL, *second = NULL, *again = NULL;
    each_write_shard(&each, each.a);

    /* Prefetch twice is prefetch once; a third bucket finds no room. */
    RANK_OK(tess_gatherer_prefetch(gatherer, 0, NULL, each.a));
    RANK_OK(tess_gatherer_prefetch(gatherer, 0, NULL, each.a));
    RANK_OK(tess_gatherer_prefetch(gatherer, 1, NULL, each.a));
    RANK_CHECK(tess_gatherer_prefetch(gatherer, 2, NULL, each.a) == TESS_NOT_READY);
    RANK_OK(tess_gatherer_acquire(gatherer, 0, each.a, &first));
    RANK_CHECK(tess_gatherer_prefetch(gatherer, 2, NULL, each.a) == TESS_NOT_READY);
    RANK_OK(tess_gatherer_acquire(gatherer, 1, each.a, &second));
    RANK_CHECK(first != second);

    /* All held: clear words; nothing to give back twice; nothing to forget. */
    RANK_CHECK(tess_gatherer_acquire(gatherer, 2, each.a, &again) == TESS_ERR_STATE);
    RANK_CHECK(strstr(tess_last_error(), "all 2 buffers are held (by buckets 0, 1)"));
    RANK_CHECK(tess_gatherer_release(gatherer, 2, each.a) == TESS_ERR_STATE);
    RANK_CHECK(tess_gatherer_invalidate(gatherer) == TESS_ERR_STATE);
    RANK_OK(tess_gatherer_release(gatherer, 1, each.a));
    RANK_CHECK(tess_gatherer_release(gatherer, 1, each.a) == TESS_ERR_STATE);
    RANK_OK(tess_gatherer_release(gatherer, 0, each.a));

    /* What was released stays until its buffer is needed; the one released first goes first. */
    RANK_OK(tess_gatherer_acquire(gatherer, 1, each.a, &again));
    RANK_CHECK(again == second);
    RANK_OK(tess_gatherer_release(gatherer, 1, each.a));
    RANK_OK(tess_gatherer_acquire(gatherer, 3, each.a, &again));
    RANK_CHECK(again == first);
    RANK_OK(tess_gatherer_release(gatherer, 3, each.a));

    /* An acquire that finds only prefetched buckets takes the one prefetched last. */
    RANK_OK(tess_gatherer_invalidate(gatherer));
    RANK_OK(tess_gatherer_prefetch(gatherer, 2, NULL, each.a));
    RANK_OK(tess_gatherer_prefetch(gatherer, 3, NULL, each.a));
    RANK_OK(tess_gatherer_acquire(gatherer, 0, each.a, &again));
    RANK_CHECK(tess_gatherer_prefetch(gatherer, 3, NULL, each.a) == TESS_NOT_READY);
    RANK_OK(tess_gatherer_prefetch(gatherer, 2, NULL, each.a));
    RANK_OK(tess_gatherer_release(gatherer, 0, each.a));
    RANK_OK(tess_stream_synchronize(each.a, -1));
    each_close(&each);
    return 0;
}

static void the_ring_is_used_in_order(void **unused)
{
    (void)unused;
    assert_int_equal(test_ranks(1, ring_body, NULL, 60000, NULL), 0);
    assert_int_equal(test_ranks(rig_ranks(2), ring_body, NULL, 60000, NULL), 0);
}

static int misuse_body(int rank, void *unused)
{
    (void)unused;
    each_t each;
    each_open(&each, rank, 1);
    tess_gatherer_t *gatherer = each.gatherer, *other = NULL;
    tess_comm_t *comm = each.rig.comm;
    void *buffer = NULL;
    const tess_status_t invalid = TESS_ERR_INVALID_ARGUMENT;
    RANK_CHECK(tess_gatherer_create(NULL, &other) == invalid);
    tess_gatherer_config_t config = {comm, each.plan, NULL, 1};
    RANK_CHECK(tess_gatherer_create(&config, NULL) == invalid);
    config.plan = NULL;
    RANK_CHECK(tess_gatherer_create(&config, &other) == invalid);
    config.plan = each.plan;
    config.buffer_count = -1;
    RANK_CHECK(tess_gatherer_create(&config, &other) == invalid);
    RANK_CHECK(strstr(tess_last_error(), "buffer_count is -1"));
    RANK_CHECK(other == NULL);
    RANK_CHECK(tess_gatherer_prefetch(NULL, 0, NULL, NULL) == invalid);
    RANK_CHECK(tess_gatherer_prefetch(gatherer, -1, NULL, NULL) == invalid);
    RANK_CHECK(tess_gatherer_prefetch(gatherer, EACH_BUCKETS, NULL, NULL) == invalid);
    RANK_CHECK(tess_gatherer_acquire(gatherer, 0, NULL, &buffer) == invalid);
    RANK_CHECK(tess_gatherer_acquire(gatherer, 0, each.a, NULL) == invalid);
    RANK_CHECK(tess_gatherer_release(gatherer, 0, NULL) == invalid);
    RANK_CHECK(tess_gatherer_release(gatherer, 0, each.a) == TESS_ERR_STATE);

    /* Without a shard every bucket needs its slice. */
    config.buffer_count = 0;
    RANK_OK(tess_gatherer_create(&config, &other));
    RANK_CHECK(tess_gatherer_bytes(other) == 2 * EACH_COUNT * 4);
    RANK_CHECK(tess_gatherer_acquire(other, 0, each.a, &buffer) == invalid);
    RANK_CHECK(strstr(tess_last_error(), "without a shard"));
    each_write_shard(&each, each.a);
    RANK_OK(tess_gatherer_prefetch(other, 0, each.shard, each.a));
    RANK_OK(tess_gatherer_acquire(other, 0, each.a, &buffer));
    each_read_half(&each, buffer, 0, 0, each.a);
    each_read_half(&each, buffer, 1, 0, each.a);
    RANK_OK(tess_gatherer_release(other, 0, each.a));
    RANK_OK(tess_stream_synchronize(each.a, -1));
    each_check(&each, 0, 1.0f);

    /* Eight streams may use one bucket, the ninth is told so. */
    tess_stream_t *streams[9];
    for (int s = 0; s < 9; s++) {
        streams[s] = rig_stream(&each.rig);
        RANK_OK(tess_gatherer_acquire(gatherer, 1, streams[s], &buffer));
    }
    for (int s = 0; s < 8; s++) RANK_OK(tess_gatherer_release(gatherer, 1, streams[s]));
    RANK_CHECK(tess_gatherer_release(gatherer, 1, streams[8]) == TESS_ERR_STATE);
    RANK_CHECK(strstr(tess_last_error(), "more than 8 different streams"));
    RANK_OK(tess_gatherer_release(gatherer, 1, streams[3]));
    RANK_OK(tess_gatherer_prefetch(gatherer, 2, NULL, NULL));
    RANK_OK(tess_gatherer_acquire(gatherer, 2, streams[8], &buffer));
    RANK_OK(tess_gatherer_release(gatherer, 2, streams[8]));
    for (int s = 0; s < 9; s++) tess_stream_destroy(streams[s]);

    tess_gatherer_destroy(other);
    tess_gatherer_destroy(NULL);
    tess_comm_abort(comm);
    RANK_CHECK(tess_gatherer_prefetch(gatherer, 0, NULL, NULL) < 0);
    RANK_CHECK(tess_gatherer_acquire(gatherer, 0, each.a, &buffer) < 0);
    RANK_CHECK(tess_gatherer_release(gatherer, 0, each.a) < 0);
    RANK_CHECK(tess_gatherer_invalidate(gatherer) < 0);
    each_close(&each);
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
        cmocka_unit_test(gathered_bits_do_not_depend_on_buckets_or_overlap),
        cmocka_unit_test(nothing_overtakes_slow_streams),
        cmocka_unit_test(buffers_do_not_wait_for_one_another),
        cmocka_unit_test(the_ring_is_used_in_order),
        cmocka_unit_test(misuse_is_refused),
    };
    rig_ranks(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
