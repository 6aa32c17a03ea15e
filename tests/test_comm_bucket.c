/* SPDX-License-Identifier: Apache-2.0 */
/* Bucket plans: fuzzed properties, known layouts, the hash, refusals, and agreement across ranks.
 *
 * The properties are written from bucket.h alone, so that they hold for any layout that keeps its
 * promises; the known layouts pin down the one that is used.
 */
#include <string.h>

#include "core/internal.h"
#include "harness.h"

#define FUZZ_CASES 6000
#define FUZZ_TENSORS_MAX 60

static int64_t up(int64_t value, int64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* --- fuzzed properties ----------------------------------------------------------------------- */

typedef struct fuzz_case {
    tess_bucket_plan_config_t config;
    int64_t counts[FUZZ_TENSORS_MAX];
} fuzz_case_t;

static int64_t between(uint64_t *state, int64_t low, int64_t high)
{
    return low + (int64_t)(test_random(state) % (uint64_t)(high - low + 1));
}

static void draw_case(uint64_t *state, fuzz_case_t *drawn)
{
    memset(drawn, 0, sizeof *drawn);
    tess_bucket_plan_config_t *config = &drawn->config;
    config->dtype = (tess_dtype_t)between(state, TESS_DTYPE_BYTE, TESS_DTYPE_FP32);
    config->world_size = (int)between(state, 1, 9);
    int64_t element_bytes = tess_dtype_bytes(config->dtype);
    if (between(state, 0, 1))
        config->tensor_alignment_bytes = element_bytes << between(state, 0, 8);
    if (between(state, 0, 1)) config->slice_alignment_bytes = element_bytes << between(state, 0, 8);
    int64_t slice_bytes = config->slice_alignment_bytes ? config->slice_alignment_bytes : 16;
    int64_t least_bytes = slice_bytes * config->world_size;
    config->bucket_bytes = least_bytes + between(state, 0, 1 << between(state, 0, 14));
    config->tensor_counts = drawn->counts;
    config->tensor_count = between(state, 0, FUZZ_TENSORS_MAX);
    int64_t largest = between(state, 0, 2 * config->bucket_bytes / element_bytes);
    for (int64_t t = 0; t < config->tensor_count; t++)
        drawn->counts[t] = between(state, 0, 4) ? between(state, 0, largest) : 0;
}

/* Elements; everything that the properties speak of. */
typedef struct units {
    int64_t tensor, slice, bucket, capacity;
} units_t;

static units_t units_of(const tess_bucket_plan_config_t *config)
{
    int64_t element_bytes = tess_dtype_bytes(config->dtype);
    units_t units;
    units.tensor =
        (config->tensor_alignment_bytes ? config->tensor_alignment_bytes : 16) / element_bytes;
    units.slice =
        (config->slice_alignment_bytes ? config->slice_alignment_bytes : 16) / element_bytes;
    units.bucket = units.slice * config->world_size;
    units.capacity = config->bucket_bytes / element_bytes / units.bucket * units.bucket;
    return units;
}

/* Tensors of one bucket: in order, aligned, close together, none over another. Returns how many of
 * them have elements. */
static int64_t check_tensors(const tess_bucket_plan_t *plan, int64_t index, const int64_t *counts,
                             units_t units)
{
    tess_bucket_t bucket = tess_bucket_plan_bucket(plan, index);
    int64_t end = 0, full = 0;
    for (int64_t i = 0; i < bucket.tensor_count; i++) {
        tess_bucket_view_t view = tess_bucket_plan_tensor(plan, bucket.first_tensor + i);
        assert_int_equal(view.bucket, index);
        assert_int_equal(view.count, counts[bucket.first_tensor + i]);
        assert_int_equal(view.offset % units.tensor, 0);
        assert_true(view.offset >= 0 && view.offset <= bucket.padded_count);
        if (view.count == 0) continue;
        assert_int_equal(view.offset, up(end, units.tensor));
        end = view.offset + view.count;
        full++;
    }
    assert_int_equal(bucket.used_count, end);
    return full;
}

static void check_plan(const tess_bucket_plan_t *plan, const tess_bucket_plan_config_t *config)
{
    units_t units = units_of(config);
    int64_t next_tensor = 0, shard = 0, largest = 0, previous_used = 0;
    for (int64_t b = 0; b < tess_bucket_plan_bucket_count(plan); b++) {
        tess_bucket_t bucket = tess_bucket_plan_bucket(plan, b);
        assert_int_equal(bucket.first_tensor, next_tensor);
        assert_true(bucket.tensor_count > 0);
        int64_t full = check_tensors(plan, b, config->tensor_counts, units);
        assert_int_equal(bucket.padded_count, up(bucket.used_count, units.bucket));
        if (bucket.padded_count > units.capacity) assert_int_equal(full, 1);
        assert_int_equal(bucket.slice_count * config->world_size, bucket.padded_count);
        assert_int_equal(bucket.slice_count % units.slice, 0);
        assert_int_equal(bucket.slice_offset, shard);
        if (b > 0) {
            /* A bucket is only closed by a tensor that did not fit. */
            int64_t first = config->tensor_counts[bucket.first_tensor];
            assert_true(first > 0);
            assert_true(up(previous_used, units.tensor) + first > units.capacity);
        }
        next_tensor += bucket.tensor_count;
        shard += bucket.slice_count;
        previous_used = bucket.used_count;
        if (bucket.padded_count > largest) largest = bucket.padded_count;
    }
    assert_int_equal(next_tensor, config->tensor_count);
    assert_int_equal(tess_bucket_plan_tensor_count(plan), config->tensor_count);
    assert_int_equal(tess_bucket_plan_shard_count(plan), shard);
    assert_int_equal(tess_bucket_plan_largest_count(plan), largest);
    assert_int_equal(tess_bucket_plan_dtype(plan), config->dtype);
    assert_int_equal(tess_bucket_plan_world_size(plan), config->world_size);
}

static uint64_t hash_of(const tess_bucket_plan_config_t *config)
{
    tess_bucket_plan_t *plan = NULL;
    TEST_OK(tess_bucket_plan_create(config, &plan));
    uint64_t hash = tess_bucket_plan_hash(plan);
    tess_bucket_plan_destroy(plan);
    return hash;
}

static void fuzzed_plans_keep_their_promises(void **unused)
{
    (void)unused;
    uint64_t state = 20240817;
    for (int i = 0; i < FUZZ_CASES; i++) {
        fuzz_case_t drawn;
        draw_case(&state, &drawn);
        tess_bucket_plan_t *plan = NULL;
        TEST_OK(tess_bucket_plan_create(&drawn.config, &plan));
        check_plan(plan, &drawn.config);
        uint64_t hash = tess_bucket_plan_hash(plan);
        tess_bucket_plan_destroy(plan);
        assert_true(hash == hash_of(&drawn.config));
        if (drawn.config.tensor_count == 0) continue;
        int64_t changed = between(&state, 0, drawn.config.tensor_count - 1);
        drawn.counts[changed]++;
        assert_true(hash != hash_of(&drawn.config));
    }
}

/* --- known layouts --------------------------------------------------------------------------- */

static void check_layout(const tess_bucket_plan_config_t *config, int64_t bucket_count,
                         const tess_bucket_t *buckets, const tess_bucket_view_t *views)
{
    tess_bucket_plan_t *plan = NULL;
    TEST_OK(tess_bucket_plan_create(config, &plan));
    assert_int_equal(tess_bucket_plan_bucket_count(plan), bucket_count);
    for (int64_t b = 0; b < bucket_count; b++) {
        tess_bucket_t got = tess_bucket_plan_bucket(plan, b);
        assert_memory_equal(&got, &buckets[b], sizeof got);
    }
    for (int64_t t = 0; t < config->tensor_count; t++) {
        tess_bucket_view_t got = tess_bucket_plan_tensor(plan, t);
        assert_memory_equal(&got, &views[t], sizeof got);
    }
    tess_bucket_plan_destroy(plan);
}

static void known_layouts(void **unused)
{
    (void)unused;
    /* bf16, 2 ranks: 16 elements make one aligned slice a rank, and 100 bytes hold 48 elements. The
     * larger tensor takes a bucket that empty tensors before and behind it share. */
    const int64_t counts[] = {0, 3, 20, 10, 0, 100, 0, 40, 0};
    const tess_bucket_t buckets[] = {
        {0, 5, 42, 48, 24, 0}, {5, 2, 100, 112, 56, 24}, {7, 2, 40, 48, 24, 80}};
    const tess_bucket_view_t views[] = {{0, 0, 0},   {0, 0, 3},  {0, 8, 20},
                                        {0, 32, 10}, {0, 40, 0}, {1, 0, 100},
                                        {1, 96, 0},  {2, 0, 40}, {2, 40, 0}};
    tess_bucket_plan_config_t config = {.tensor_counts = counts,
                                        .tensor_count = 9,
                                        .bucket_bytes = 100,
                                        .dtype = TESS_DTYPE_BF16,
                                        .world_size = 2};
    check_layout(&config, 3, buckets, views);

    /* A bucket may be exactly full, and one that holds only empty tensors has no elements. */
    const int64_t exact[] = {8, 8, 16};
    const tess_bucket_t exact_buckets[] = {{0, 2, 16, 16, 8, 0}, {2, 1, 16, 16, 8, 8}};
    const tess_bucket_view_t exact_views[] = {{0, 0, 8}, {0, 8, 8}, {1, 0, 16}};
    config = (tess_bucket_plan_config_t){exact, 3, 32, TESS_DTYPE_BF16, 2, 0, 0};
    check_layout(&config, 2, exact_buckets, exact_views);
    const int64_t empty[] = {0, 0};
    const tess_bucket_t empty_buckets[] = {{0, 2, 0, 0, 0, 0}};
    const tess_bucket_view_t empty_views[] = {{0, 0, 0}, {0, 0, 0}};
    config = (tess_bucket_plan_config_t){empty, 2, 64, TESS_DTYPE_FP32, 3, 0, 0};
    check_layout(&config, 1, empty_buckets, empty_views);
    config.tensor_count = 0;
    check_layout(&config, 0, NULL, NULL);
}

/* --- the hash -------------------------------------------------------------------------------- */

static void hash_covers_what_decides_the_layout(void **unused)
{
    (void)unused;
    const int64_t counts[] = {5, 0, 1000, 7};
    const tess_bucket_plan_config_t base = {counts, 4, 4096, TESS_DTYPE_FP16, 2, 32, 64};
    uint64_t hash = hash_of(&base);
    /* Equal on every machine and from version to version; a new layout needs a new number here. */
    assert_true(hash == UINT64_C(0x84b545507fe23b83));

    tess_bucket_plan_config_t other = base;
    other.tensor_count = 3;
    assert_true(hash_of(&other) != hash);
    other = base;
    other.bucket_bytes = 8192;
    assert_true(hash_of(&other) != hash);
    other.bucket_bytes = 4096 + 100; /* holds no slice more: the same layout */
    assert_true(hash_of(&other) == hash);
    other = base;
    other.dtype = TESS_DTYPE_BF16;
    assert_true(hash_of(&other) != hash);
    other = base;
    other.world_size = 4;
    assert_true(hash_of(&other) != hash);
    other = base;
    other.tensor_alignment_bytes = 16;
    assert_true(hash_of(&other) != hash);
    other = base;
    other.slice_alignment_bytes = 32;
    assert_true(hash_of(&other) != hash);
    const int64_t swapped[] = {0, 5, 1000, 7};
    other = base;
    other.tensor_counts = swapped;
    assert_true(hash_of(&other) != hash);
}

/* --- refusals -------------------------------------------------------------------------------- */

static void refuse(tess_bucket_plan_config_t config, const char *words)
{
    tess_bucket_plan_t *plan = NULL;
    TEST_STATUS(tess_bucket_plan_create(&config, &plan), TESS_ERR_INVALID_ARGUMENT);
    assert_null(plan);
    if (!strstr(tess_last_error(), words))
        fail_msg("\"%s\" does not say \"%s\"", tess_last_error(), words);
}

static void bad_configs_are_refused(void **unused)
{
    (void)unused;
    const int64_t counts[] = {5, 6}, negative[] = {5, -1}, huge[] = {INT64_MAX / 2, 1};
    const int64_t many[] = {INT64_C(1) << 59, INT64_C(1) << 59, INT64_C(1) << 59, 1};
    const tess_bucket_plan_config_t good = {counts, 2, 4096, TESS_DTYPE_FP32, 2, 0, 0};
    tess_bucket_plan_config_t bad = good;
    bad.tensor_counts = negative;
    refuse(bad, "tensor 1 has -1 elements");
    bad.tensor_counts = NULL;
    refuse(bad, "tensor_counts is NULL");
    bad.tensor_count = -1;
    refuse(bad, "tensor_count is -1");
    bad = good;
    bad.dtype = TESS_DTYPE_COUNT;
    refuse(bad, "no dtype");
    bad = good;
    bad.world_size = 0;
    refuse(bad, "world_size is 0");
    bad = good;
    bad.bucket_bytes = 31;
    refuse(bad, "at least 32");
    bad.bucket_bytes = -1;
    refuse(bad, "at least 32");
    bad = good;
    bad.tensor_alignment_bytes = 24;
    refuse(bad, "power of two");
    bad.tensor_alignment_bytes = 2;
    refuse(bad, "tensor_alignment_bytes is 2");
    bad = good;
    bad.slice_alignment_bytes = -16;
    refuse(bad, "slice_alignment_bytes is -16");
    bad.slice_alignment_bytes = INT64_C(1) << 62;
    refuse(bad, "2^62");
    bad = good;
    bad.tensor_counts = huge;
    refuse(bad, "tensor 0 has");
    bad = good;
    bad.tensor_counts = many;
    bad.tensor_count = 4;
    bad.bucket_bytes = INT64_MAX;
    refuse(bad, "2^62 bytes in all");
    TEST_STATUS(tess_bucket_plan_create(NULL, NULL), TESS_ERR_INVALID_ARGUMENT);
    tess_bucket_plan_destroy(NULL);
}

static void memory_faults_leave_nothing_behind(void **unused)
{
    (void)unused;
    const int64_t counts[] = {5, 6};
    const tess_bucket_plan_config_t config = {counts, 2, 4096, TESS_DTYPE_FP32, 2, 0, 0};
    int failures = 0;
    for (int n = 1;; n++) {
        tess_bucket_plan_t *plan = NULL;
        tessi_fault_arm("alloc", n);
        tess_status_t status = tess_bucket_plan_create(&config, &plan);
        int passes = tessi_fault_arm(NULL, 0);
        tess_bucket_plan_destroy(plan);
        if (passes < n) break;
        assert_int_equal(status, TESS_ERR_OUT_OF_MEMORY);
        assert_null(plan);
        failures++;
    }
    assert_int_equal(failures, 3);
}

/* --- agreement ------------------------------------------------------------------------------- */

typedef struct agree_case {
    int ranks;
    int odd_rank;           /* has another plan; -1: none */
    int plan_world_size;    /* of everyone's plan */
    tess_status_t expected; /* on every rank */
    const char *words;      /* in every rank's sentence */
} agree_case_t;

static int verify_body(int rank, void *argument)
{
    const agree_case_t *agree = argument;
    tess_world_config_t world_config = TESS_WORLD_CONFIG_DEFAULT;
    world_config.timeout_ms = 20000;
    tess_world_t *world = NULL;
    tess_device_t *device = NULL;
    tess_comm_t *comm = NULL;
    RANK_OK(tess_world_open(&world_config, &world));
    RANK_OK(tess_device_open("host", &device));
    RANK_OK(tess_comm_open(world, device, NULL, &comm));

    int64_t counts[] = {100, 3, 50};
    if (rank == agree->odd_rank) counts[1] = 4;
    tess_bucket_plan_config_t config = {counts, 3, 1 << 20, TESS_DTYPE_FP32, agree->plan_world_size,
                                        0,      0};
    tess_bucket_plan_t *plan = NULL;
    RANK_OK(tess_bucket_plan_create(&config, &plan));
    for (int repeat = 0; repeat < 2; repeat++) {
        tess_status_t status = tess_bucket_plan_verify(plan, comm);
        if (status != agree->expected) test_rank_die(__FILE__, __LINE__, "verify", status);
        if (status == TESS_OK) continue;
        if (!strstr(tess_last_error(), agree->words))
            test_rank_die(__FILE__, __LINE__, agree->words, status);
    }
    RANK_CHECK(tess_bucket_plan_verify(NULL, comm) == TESS_ERR_INVALID_ARGUMENT);
    RANK_CHECK(tess_bucket_plan_verify(plan, NULL) == TESS_ERR_INVALID_ARGUMENT);
    tess_bucket_plan_destroy(plan);
    tess_comm_close(comm);
    tess_device_close(device);
    tess_world_close(world);
    return 0;
}

static void plans_are_compared_across_ranks(void **unused)
{
    (void)unused;
    agree_case_t cases[] = {
        {1, -1, 1, TESS_OK, ""},
        {3, -1, 3, TESS_OK, ""},
        {3, 1, 3, TESS_ERR_MISMATCH, ": rank 1 "},
        {3, 0, 3, TESS_ERR_MISMATCH, ": rank 0 "},
        {2, 0, 2, TESS_ERR_MISMATCH, ": rank 1 "}, /* a tie names the higher one */
        {2, -1, 3, TESS_ERR_INVALID_ARGUMENT, "the plan is for 3 ranks, the communicator has 2"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        assert_int_equal(test_ranks(cases[c].ranks, verify_body, &cases[c], 30000, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fuzzed_plans_keep_their_promises),
        cmocka_unit_test(known_layouts),
        cmocka_unit_test(hash_covers_what_decides_the_layout),
        cmocka_unit_test(bad_configs_are_refused),
        cmocka_unit_test(memory_faults_leave_nothing_behind),
        cmocka_unit_test(plans_are_compared_across_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
