/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of squares: near the exact ones, the same in every run, finite exactly when every gradient
 * is, whatever the length, the dtype and the order of the slots.
 *
 * A square of 24 bits by 24 is exact in fp64, so only additions round, each by at most 2^-53 of its
 * result, and no partial sum is larger than the whole. An element takes part in at most as many
 * additions as one accumulator does, plus those of the parts: below 2^20 for the counts here. So
 * the sum is off by at most 2^20 * 2^-53 = 2^-33 of itself, and by far less where the order is
 * good; parts of 65,536 elements or fewer, 2,048 parts and 16 lanes would give 2^-40, which is
 * asked for.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim_rig.h"

#define COUNT_MAX 300000
#define BOUND 0x1p-40

static const int64_t counts[] = {0,     1,     2,     3,      15,     16,    17,    31,
                                 33,    255,   256,   257,    1000,   1023,  1024,  1025,
                                 2047,  2048,  2049,  4097,   8191,   8193,  32769, 65535,
                                 65536, 65537, 65568, 131073, 262145, 300000};
#define COUNTS (int)(sizeof counts / sizeof *counts)

static float values[COUNT_MAX];
static unsigned char encoded[COUNT_MAX * 4];

/* Device memory with the encoded values, moved by `offset` elements. */
typedef struct gradients {
    char *memory;
    tess_gradient_piece_t piece;
} gradients_t;

static gradients_t put(optim_rig_t *rig, tess_dtype_t dtype, int64_t count, int64_t offset)
{
    int64_t bytes = tess_dtype_bytes(dtype);
    rig_encode(dtype, values, count, encoded);
    gradients_t gradients = {rig_memory(rig, (count + offset) * bytes), {NULL, count, dtype}};
    rig_upload(rig, gradients.memory + offset * bytes, encoded, count * bytes);
    gradients.piece.values = gradients.memory + offset * bytes;
    return gradients;
}

static double exact_sum(tess_dtype_t dtype, int64_t count)
{
    long double sum = 0.0L;
    for (int64_t i = 0; i < count; i++) {
        long double value = (long double)rig_decode(dtype, encoded, i);
        sum += value * value;
    }
    return (double)sum;
}

static double measure(optim_rig_t *rig, tess_gradient_t *gradient,
                      const tess_gradient_piece_t *piece)
{
    double sum = -1.0;
    TEST_OK(tess_gradient_measure(gradient, rig->stream, 0, piece));
    TEST_OK(tess_gradient_combine(gradient, rig->stream, rig->sum));
    rig_download(rig, &sum, rig->sum, (int64_t)sizeof sum);
    return sum;
}

static tess_gradient_t *create(optim_rig_t *rig, int64_t slots)
{
    tess_gradient_t *gradient = NULL;
    TEST_OK(tess_gradient_create(rig->device, slots, &gradient));
    return gradient;
}

static void sums_are_near_the_exact_ones(void **state)
{
    optim_rig_t *rig = *state;
    tess_gradient_t *gradient = create(rig, 1);
    rig_random_gradients(values, COUNT_MAX, 1);
    for (int g = 0; g < RIG_GRADIENTS; g++)
        for (int n = 0; n < COUNTS; n++) {
            gradients_t aligned = put(rig, rig_gradients[g], counts[n], 0);
            gradients_t moved = put(rig, rig_gradients[g], counts[n], 1 + n % 9);
            double exact = exact_sum(rig_gradients[g], counts[n]);
            double sum = measure(rig, gradient, &aligned.piece);
            if (!(fabs(sum - exact) <= BOUND * exact))
                fail_msg("%s, %lld elements: the sum is %.17g, expected %.17g",
                         tess_dtype_name(rig_gradients[g]), (long long)counts[n], sum, exact);
            double again = measure(rig, gradient, &aligned.piece);
            double elsewhere = measure(rig, gradient, &moved.piece);
            if (again != sum || elsewhere != sum)
                fail_msg("%s, %lld elements: the sum is %a, again %a, at another alignment %a",
                         tess_dtype_name(rig_gradients[g]), (long long)counts[n], sum, again,
                         elsewhere);
            rig_free(rig, aligned.memory);
            rig_free(rig, moved.memory);
        }
    tess_gradient_destroy(gradient);
}

/* In every dtype: the largest numbers, whose squares fp32 does not hold, and subnormal ones, whose
 * squares it has none for. */
static void squares_have_room(void **state)
{
    static const float sizes[RIG_GRADIENTS][3] = {{0x1.fep127f, 0x1p-133f, 1e-30f},
                                                  {65504.0f, 0x1p-24f, 1e-5f},
                                                  {0x1.fffffep127f, 0x1p-149f, 1e-30f}};
    optim_rig_t *rig = *state;
    tess_gradient_t *gradient = create(rig, 1);
    for (int g = 0; g < RIG_GRADIENTS; g++)
        for (int s = 0; s < 3; s++) {
            for (int i = 0; i < COUNT_MAX; i++) values[i] = i % 2 ? sizes[g][s] : -sizes[g][s];
            gradients_t all = put(rig, rig_gradients[g], COUNT_MAX, 0);
            double sum = measure(rig, gradient, &all.piece);
            double exact = exact_sum(rig_gradients[g], COUNT_MAX);
            if (!(fabs(sum - exact) <= BOUND * exact) || !isfinite(sum) || sum <= 0.0)
                fail_msg("%s, all %g: the sum is %.17g, expected %.17g",
                         tess_dtype_name(rig_gradients[g]), (double)sizes[g][s], sum, exact);
            rig_free(rig, all.memory);
        }
    tess_gradient_destroy(gradient);
}

static void not_finite_is_seen_anywhere(void **state)
{
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    static const int64_t lengths[] = {1, 7, 64, 1025, 70001};
    optim_rig_t *rig = *state;
    tess_gradient_t *gradient = create(rig, 1);
    uint64_t random = 5;
    rig_random_gradients(values, COUNT_MAX, 1);
    for (int g = 0; g < RIG_GRADIENTS; g++)
        for (int n = 0; n < 5; n++)
            for (int p = 0; p < 8; p++) {
                int64_t last = lengths[n] - 1;
                int64_t place = p == 0   ? 0
                                : p == 1 ? last
                                : p == 2 ? last / 2
                                         : (int64_t)(test_random(&random) % (uint64_t)lengths[n]);
                float good = values[place];
                values[place] = bad[p % 3];
                gradients_t all = put(rig, rig_gradients[g], lengths[n], p % 2);
                double sum = measure(rig, gradient, &all.piece);
                if (isfinite(sum))
                    fail_msg("%s, %lld elements: the sum is %g with %g at %lld",
                             tess_dtype_name(rig_gradients[g]), (long long)lengths[n], sum,
                             (double)bad[p % 3], (long long)place);
                values[place] = good;
                rig_free(rig, all.memory);
            }
    tess_gradient_destroy(gradient);
}

/* Slots are filled in any order and on several streams, refilled and emptied; their sums are added
 * by number. */
static void slots_come_in_any_order(void **state)
{
    enum { SLOTS = 37 };
    optim_rig_t *rig = *state;
    tess_gradient_t *forward = create(rig, SLOTS), *shuffled = create(rig, SLOTS);
    tess_stream_t *other = NULL;
    tess_event_t *event = NULL;
    TEST_OK(tess_stream_create(rig->device, TESS_PRIORITY_NORMAL, &other));
    TEST_OK(tess_event_create(rig->device, TESS_EVENT_ORDER, &event));
    gradients_t pieces[SLOTS];
    double sums[2], expected = 0.0, *on_device = rig_memory(rig, sizeof sums);
    rig_random_gradients(values, COUNT_MAX, 9);
    for (int s = 0; s < SLOTS; s++) {
        pieces[s] = put(rig, rig_gradients[s % 3], (s * 7919) % 70000, 0);
        expected += measure(rig, forward, &pieces[s].piece);
    }
    for (int s = 0; s < SLOTS; s++)
        TEST_OK(tess_gradient_measure(forward, rig->stream, s, &pieces[s].piece));
    for (int s = 0; s < SLOTS; s++) {
        int slot = (s * 11 + 5) % SLOTS;
        /* What the slot held before does not matter. */
        TEST_OK(tess_gradient_measure(shuffled, s % 2 ? other : rig->stream, slot,
                                      &pieces[(slot + 9) % SLOTS].piece));
        TEST_OK(tess_gradient_measure(shuffled, s % 2 ? other : rig->stream, slot,
                                      &pieces[slot].piece));
    }
    TEST_OK(tess_event_record(event, other));
    TEST_OK(tess_stream_wait_event(rig->stream, event));
    TEST_OK(tess_gradient_combine(forward, rig->stream, on_device));
    TEST_OK(tess_gradient_combine(shuffled, rig->stream, on_device + 1));
    rig_download(rig, sums, on_device, sizeof sums);
    if (sums[0] != expected || sums[1] != expected)
        fail_msg("sums are %a in order, %a in any order, expected %a", sums[0], sums[1], expected);
    /* An empty piece empties its slot. */
    tess_gradient_piece_t empty = {NULL, 0, TESS_DTYPE_BF16};
    for (int s = 1; s < SLOTS; s++)
        TEST_OK(tess_gradient_measure(shuffled, rig->stream, s, &empty));
    TEST_OK(tess_gradient_measure(shuffled, rig->stream, 0, &pieces[20].piece));
    TEST_OK(tess_gradient_combine(shuffled, rig->stream, on_device));
    rig_download(rig, sums, on_device, (int64_t)sizeof sums[0]);
    TEST_OK(tess_gradient_measure(shuffled, rig->stream, 0, &empty));
    TEST_OK(tess_gradient_combine(shuffled, rig->stream, on_device));
    rig_download(rig, sums + 1, on_device, (int64_t)sizeof sums[0]);
    assert_true(sums[1] == 0.0 && sums[0] > 0.0);
    for (int s = 0; s < SLOTS; s++) rig_free(rig, pieces[s].memory);
    rig_free(rig, on_device);
    tess_event_destroy(event);
    tess_stream_destroy(other);
    tess_gradient_destroy(forward);
    tess_gradient_destroy(shuffled);
}

/* Slots that were never measured count for nothing. */
static void fresh_slots_are_zero(void **state)
{
    optim_rig_t *rig = *state;
    tess_gradient_t *gradient = create(rig, 5);
    double sum = -1.0;
    TEST_OK(tess_gradient_combine(gradient, rig->stream, rig->sum));
    rig_download(rig, &sum, rig->sum, (int64_t)sizeof sum);
    assert_true(sum == 0.0);
    tess_gradient_destroy(gradient);
}

static void expect_refusal(tess_status_t status, const char *name)
{
    if (status != TESS_ERR_INVALID_ARGUMENT || !strstr(tess_last_error(), name))
        fail_msg("%s: got %s and \"%s\"", name, tess_status_name(status), tess_last_error());
}

static void bad_arguments_are_refused(void **state)
{
    optim_rig_t *rig = *state;
    tess_gradient_t *gradient = create(rig, 2), *none = NULL;
    tess_gradient_piece_t good = {rig->sum, 2, TESS_DTYPE_BF16}, bad = good;
    expect_refusal(tess_gradient_create(NULL, 1, &none), "device");
    expect_refusal(tess_gradient_create(rig->device, 0, &none), "slot_count");
    expect_refusal(tess_gradient_create(rig->device, INT64_MAX, &none), "slot_count");
    expect_refusal(tess_gradient_create(rig->device, 1, NULL), "gradient");
    assert_null(none);
    expect_refusal(tess_gradient_measure(NULL, rig->stream, 0, &good), "gradient");
    expect_refusal(tess_gradient_measure(gradient, NULL, 0, &good), "stream");
    expect_refusal(tess_gradient_measure(gradient, rig->stream, 2, &good), "slot");
    expect_refusal(tess_gradient_measure(gradient, rig->stream, -1, &good), "slot");
    expect_refusal(tess_gradient_measure(gradient, rig->stream, 0, NULL), "piece");
    bad.values = NULL;
    expect_refusal(tess_gradient_measure(gradient, rig->stream, 0, &bad), "values");
    bad.values = (const char *)good.values + 1;
    expect_refusal(tess_gradient_measure(gradient, rig->stream, 0, &bad), "values");
    bad = good;
    bad.count = -1;
    expect_refusal(tess_gradient_measure(gradient, rig->stream, 0, &bad), "count");
    bad = good;
    bad.dtype = TESS_DTYPE_BYTE;
    expect_refusal(tess_gradient_measure(gradient, rig->stream, 0, &bad), "dtype");
    bad.dtype = (tess_dtype_t)7;
    expect_refusal(tess_gradient_measure(gradient, rig->stream, 0, &bad), "dtype");
    expect_refusal(tess_gradient_combine(NULL, rig->stream, rig->sum), "gradient");
    expect_refusal(tess_gradient_combine(gradient, NULL, rig->sum), "stream");
    expect_refusal(tess_gradient_combine(gradient, rig->stream, NULL), "sum");
    expect_refusal(
        tess_gradient_combine(gradient, rig->stream, (double *)(void *)((char *)rig->sum + 4)),
        "sum");
    tess_gradient_destroy(gradient);
    tess_gradient_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_near_the_exact_ones), cmocka_unit_test(squares_have_room),
        cmocka_unit_test(not_finite_is_seen_anywhere),  cmocka_unit_test(slots_come_in_any_order),
        cmocka_unit_test(fresh_slots_are_zero),         cmocka_unit_test(bad_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
