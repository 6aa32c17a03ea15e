/* SPDX-License-Identifier: Apache-2.0 */
/* The allocator under the arena against a plain model: no overlap, alignment, exact sums, joining,
 * and a number of steps that does not grow with the number of pieces.
 *
 * The model is one byte a granule, and says of each request whether it can be met at all.
 */
#include <stdlib.h>
#include <string.h>

#include "core/internal.h"
#include "harness.h"
#include "offload/segregated.h"

#define LIVE_MAX 4096

typedef struct live_piece {
    int64_t offset, granules;
} live_piece_t;

typedef struct model {
    tessi_segregated_t *range;
    int64_t granule_bytes, granules;
    unsigned char *taken; /* (granules) */
    live_piece_t live[LIVE_MAX];
    int live_count;
    int64_t used, high_water; /* granules */
    int64_t refusals;
} model_t;

static void open_model(model_t *model, int64_t bytes)
{
    memset(model, 0, sizeof *model);
    TEST_OK(tessi_segregated_create(bytes, &model->range));
    model->granule_bytes = tessi_segregated_granule_bytes(model->range);
    model->granules = bytes / model->granule_bytes;
    model->taken = calloc((size_t)model->granules, 1);
    assert_non_null(model->taken);
}

static void close_model(model_t *model)
{
    tessi_segregated_destroy(model->range);
    free(model->taken);
}

/* What is free in the model. */
typedef struct gaps {
    int64_t count, largest;
    int64_t fits; /* gaps that hold the request aligned as it asks */
} gaps_t;

static gaps_t find_gaps(const model_t *model, int64_t granules, int64_t alignment)
{
    gaps_t gaps = {0, 0, 0};
    for (int64_t at = 0; at < model->granules;) {
        int64_t end = at;
        while (end < model->granules && !model->taken[end]) end++;
        if (end > at) {
            int64_t aligned = (at + alignment - 1) / alignment * alignment;
            gaps.count++;
            gaps.fits += aligned + granules <= end;
            if (end - at > gaps.largest) gaps.largest = end - at;
        }
        at = end + 1;
    }
    return gaps;
}

/* With up to 16 free pieces nothing that fits may be missed. With more of them a request may be
 * refused only if no gap has the request, its alignment, and a sixteenth (the width of a class). */
static void check_refusal(model_t *model, int64_t granules, int64_t alignment)
{
    gaps_t gaps = find_gaps(model, granules, alignment);
    int64_t surely = (granules + alignment) * 17 / 16 + 1;
    model->refusals++;
    if ((gaps.count <= 16 && gaps.fits > 0) || gaps.largest >= surely)
        fail_msg("%lld granules aligned to %lld were refused, but %lld of %lld gaps hold them, the "
                 "largest %lld",
                 (long long)granules, (long long)alignment, (long long)gaps.fits,
                 (long long)gaps.count, (long long)gaps.largest);
}

static void take(model_t *model, int64_t bytes, int64_t alignment)
{
    int64_t granules = bytes > 0 ? (bytes + model->granule_bytes - 1) / model->granule_bytes : 1;
    int64_t step = alignment > model->granule_bytes ? alignment / model->granule_bytes : 1;
    int64_t offset = tessi_segregated_take(model->range, bytes, alignment);
    if (offset < 0) {
        check_refusal(model, granules, step);
        return;
    }
    int64_t first = offset / model->granule_bytes;
    assert_int_equal(offset % model->granule_bytes, 0);
    assert_int_equal(offset % alignment, 0);
    assert_true(first + granules <= model->granules);
    for (int64_t i = first; i < first + granules; i++) {
        if (model->taken[i]) fail_msg("granule %lld was handed out twice", (long long)i);
        model->taken[i] = 1;
    }
    model->live[model->live_count++] = (live_piece_t){offset, granules};
    model->used += granules;
    if (model->used > model->high_water) model->high_water = model->used;
}

static void give(model_t *model, int index)
{
    live_piece_t piece = model->live[index];
    int64_t bytes = tessi_segregated_give(model->range, piece.offset);
    assert_int_equal(bytes, piece.granules * model->granule_bytes);
    memset(model->taken + piece.offset / model->granule_bytes, 0, (size_t)piece.granules);
    model->live[index] = model->live[--model->live_count];
    model->used -= piece.granules;
}

static void check_totals(const model_t *model)
{
    TEST_OK(tessi_segregated_verify(model->range));
    tessi_segregated_totals_t totals = tessi_segregated_totals(model->range);
    assert_int_equal(totals.capacity_bytes, model->granules * model->granule_bytes);
    assert_int_equal(totals.used_bytes, model->used * model->granule_bytes);
    assert_int_equal(totals.high_water_bytes, model->high_water * model->granule_bytes);
    assert_int_equal(totals.piece_count, model->live_count);
    gaps_t gaps = find_gaps(model, 1, 1);
    int64_t largest = totals.largest_free_bytes / model->granule_bytes;
    if (largest < gaps.largest || (gaps.count <= 64 && largest != gaps.largest) ||
        largest > gaps.largest * 17 / 16)
        fail_msg("largest free piece: told %lld, is %lld of %lld gaps", (long long)largest,
                 (long long)gaps.largest, (long long)gaps.count);
}

static int64_t random_bytes(uint64_t *seed, int64_t capacity_bytes)
{
    /* Every magnitude alike, so that small and large pieces meet; now and then the whole. */
    if (test_random(seed) % 500 == 0) return capacity_bytes;
    int bits = (int)(test_random(seed) % 20);
    int64_t bytes = (int64_t)(test_random(seed) & ((UINT64_C(2) << bits) - 1));
    return bytes < capacity_bytes / 4 ? bytes : capacity_bytes / 4;
}

static void fuzz_one(int64_t bytes, uint64_t seed, int operations)
{
    model_t *model = malloc(sizeof *model);
    assert_non_null(model);
    open_model(model, bytes);
    for (int i = 0; i < operations; i++) {
        /* Phases that fill up and phases that empty, so that every load is visited. */
        uint64_t filling = i / 500 % 2 == 0 ? 70 : 35;
        int takes = test_random(&seed) % 100 < filling && model->live_count < LIVE_MAX;
        if (takes) take(model, random_bytes(&seed, bytes), (int64_t)1 << test_random(&seed) % 22);
        else if (model->live_count > 0)
            give(model, (int)(test_random(&seed) % (uint64_t)model->live_count));
        if (i % 97 == 0) check_totals(model);
    }
    while (model->live_count > 0)
        give(model, (int)(test_random(&seed) % (uint64_t)model->live_count));
    check_totals(model);
    tessi_segregated_totals_t totals = tessi_segregated_totals(model->range);
    assert_int_equal(totals.largest_free_bytes, totals.capacity_bytes);
    assert_int_equal(tessi_segregated_take(model->range, totals.capacity_bytes, 2 << 20), 0);
    print_message("%lld bytes: %d operations, %lld refusals, at most %d steps\n", (long long)bytes,
                  operations, (long long)model->refusals, totals.steps_max);
    assert_in_range(totals.steps_max, 1, TESSI_SEGREGATED_STEPS_MAX);
    close_model(model);
    free(model);
}

static void random_pieces_match_the_model(void **state)
{
    (void)state;
    const int64_t sizes[] = {64, 4096, 65536, 1 << 20, (1 << 20) + 4096, (3 << 20) - 64, 9 << 20};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (uint64_t seed = 1; seed <= 2; seed++) fuzz_one(sizes[s], seed * 1000 + s, 6000);
}

/* Fills a range with pieces of `granules`, and frees every second one. */
static int64_t scatter(tessi_segregated_t *range, int64_t granules)
{
    int64_t bytes = granules * TESSI_SEGREGATED_GRANULE_MIN, count = 0;
    while (tessi_segregated_take(range, bytes, 1) == count * bytes) count++;
    for (int64_t i = 0; i < count; i += 2)
        assert_int_equal(tessi_segregated_give(range, i * bytes), bytes);
    return count;
}

/* As many free pieces as there can be, and requests that none of them meets, or nearly none. */
static void steps_do_not_grow_with_pieces(void **state)
{
    (void)state;
    for (int64_t bytes = 1 << 14; bytes <= 64 << 20; bytes *= 16) {
        for (int64_t granules = 1; granules <= 33; granules += 16) {
            tessi_segregated_t *range = NULL;
            TEST_OK(tessi_segregated_create(bytes, &range));
            int64_t count = scatter(range, granules);
            int64_t wanted = granules * TESSI_SEGREGATED_GRANULE_MIN;
            for (int64_t alignment = 1; alignment <= 2 << 20; alignment *= 2) {
                int64_t offset = tessi_segregated_take(range, wanted, alignment);
                if (offset >= 0) assert_int_equal(tessi_segregated_give(range, offset), wanted);
                offset = tessi_segregated_take(range, wanted + 1, alignment);
                assert_true(offset < 0 || offset >= (count - 1) * wanted);
                if (offset >= 0) assert_true(tessi_segregated_give(range, offset) > wanted);
            }
            tessi_segregated_totals_t totals = tessi_segregated_totals(range);
            if (totals.steps_max > TESSI_SEGREGATED_STEPS_MAX)
                fail_msg("%lld pieces: %d steps, more than %d", (long long)count, totals.steps_max,
                         TESSI_SEGREGATED_STEPS_MAX);
            TEST_OK(tessi_segregated_verify(range));
            tessi_segregated_destroy(range);
        }
    }
}

static void granules_grow_with_the_range(void **state)
{
    (void)state;
    const int64_t mib = 1 << 20;
    const struct {
        int64_t bytes, granule_bytes;
    } cases[] = {{64, 64},           {256 * mib, 64},     {256 * mib + 64, 128},
                 {257 * mib, 128},   {1024 * mib, 256},   {8192 * mib, 2048},
                 {8200 * mib, 4096}, {16384 * mib, 4096}, {4096, 64}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        tessi_segregated_t *range = NULL;
        TEST_OK(tessi_segregated_create(cases[c].bytes, &range));
        int64_t granule_bytes = tessi_segregated_granule_bytes(range);
        assert_int_equal(granule_bytes, cases[c].granule_bytes);
        assert_int_equal(tessi_segregated_totals(range).capacity_bytes,
                         cases[c].bytes / granule_bytes * granule_bytes);
        tessi_segregated_destroy(range);
    }
    tessi_segregated_t *range = NULL;
    TEST_STATUS(tessi_segregated_create(63, &range), TESS_ERR_INVALID_ARGUMENT);
    assert_null(range);
    tessi_segregated_destroy(NULL);
}

static void what_is_no_piece_is_left_alone(void **state)
{
    (void)state;
    tessi_segregated_t *range = NULL;
    TEST_OK(tessi_segregated_create(1 << 16, &range));
    int64_t first = tessi_segregated_take(range, 1000, 1);
    int64_t second = tessi_segregated_take(range, 1000, 1);
    const int64_t bad[] = {-64, -1, first + 1, first + 64, second + 1024, 1 << 16, INT64_MAX - 63};
    for (size_t b = 0; b < sizeof bad / sizeof *bad; b++)
        assert_int_equal(tessi_segregated_give(range, bad[b]), -1);
    assert_int_equal(tessi_segregated_give(range, second), 1024);
    assert_int_equal(tessi_segregated_give(range, second), -1); /* now inside a larger free piece */
    assert_int_equal(tessi_segregated_give(range, first), 1024);
    assert_int_equal(tessi_segregated_give(range, first), -1);
    TEST_OK(tessi_segregated_verify(range));
    assert_int_equal(tessi_segregated_take(range, (1 << 16) + 1, 1), -1);
    assert_int_equal(tessi_segregated_take(range, INT64_MAX, 1), -1);
    tessi_segregated_destroy(range);
}

static void pieces_in_use_are_found(void **state)
{
    (void)state;
    tessi_segregated_t *range = NULL;
    int64_t offsets[8], at = 0, bytes = 0;
    TEST_OK(tessi_segregated_create(1 << 16, &range));
    assert_int_equal(tessi_segregated_next_used(range, 0, &bytes), -1);
    for (int i = 0; i < 8; i++) offsets[i] = tessi_segregated_take(range, 100 * (i + 1), 1);
    for (int i = 0; i < 8; i += 2) (void)tessi_segregated_give(range, offsets[i]);
    for (int i = 1; i < 8; i += 2) {
        assert_int_equal(tessi_segregated_next_used(range, at, &bytes), offsets[i]);
        assert_int_equal(bytes, (100 * (i + 1) + 63) / 64 * 64);
        at = offsets[i] + bytes;
    }
    assert_int_equal(tessi_segregated_next_used(range, at, &bytes), -1);
    tessi_segregated_destroy(range);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_pieces_match_the_model),
        cmocka_unit_test(steps_do_not_grow_with_pieces),
        cmocka_unit_test(granules_grow_with_the_range),
        cmocka_unit_test(what_is_no_piece_is_left_alone),
        cmocka_unit_test(pieces_in_use_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
