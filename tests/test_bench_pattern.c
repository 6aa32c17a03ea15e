/* SPDX-License-Identifier: Apache-2.0 */
/* The pattern: sums are exact in every type and order, every wrong element is found, and the CUDA
 * twin computes what the host's does.
 */
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "pattern.h"

#define COUNT 1000

typedef union buffer {
    uint8_t bytes[4 * COUNT];
    uint16_t halves[COUNT];
    uint32_t words[COUNT];
    float floats[COUNT];
} buffer_t;

static const tess_dtype_t types[] = {TESS_DTYPE_BYTE, TESS_DTYPE_BF16, TESS_DTYPE_FP16,
                                     TESS_DTYPE_FP32};

static float read_element(tess_dtype_t dtype, const buffer_t *buffer, int i)
{
    if (dtype == TESS_DTYPE_BF16) return tess_bf16_to_float(buffer->halves[i]);
    if (dtype == TESS_DTYPE_FP16) return tess_fp16_to_float(buffer->halves[i]);
    return buffer->floats[i];
}

static void write_element(tess_dtype_t dtype, buffer_t *buffer, int i, float value)
{
    if (dtype == TESS_DTYPE_BF16) buffer->halves[i] = tess_bf16_from_float(value);
    else if (dtype == TESS_DTYPE_FP16) buffer->halves[i] = tess_fp16_from_float(value);
    else buffer->floats[i] = value;
}

/* Adds up all ranks in a type that rounds after every addition, upwards or downwards. */
static void sum_ranks(const pattern_t *pattern, int ranks, int backwards, buffer_t *sum)
{
    static buffer_t one;
    memset(sum, 0, sizeof *sum);
    for (int r = 0; r < ranks; r++) {
        pattern_range_t range = {.rank_first = backwards ? ranks - 1 - r : r,
                                 .rank_count = 1,
                                 .index_first = 77,
                                 .count = COUNT};
        pattern_fill_host(pattern, &range, &one);
        for (int i = 0; i < COUNT; i++)
            write_element(pattern->dtype, sum, i,
                          read_element(pattern->dtype, sum, i) +
                              read_element(pattern->dtype, &one, i));
    }
}

static void sums_are_exact(void **state)
{
    (void)state;
    static const int worlds[] = {1, 2, 3, 4, 5, 8, 17, 100, 256, 257, 1000};
    static buffer_t sum;
    for (int t = 1; t < 4; t++)
        for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++)
            for (int backwards = 0; backwards < 2; backwards++) {
                pattern_t pattern;
                TEST_OK(pattern_for_sum(types[t], 5, worlds[w], TESS_SUM, &pattern));
                assert_true(pattern.difference_max == 0);
                sum_ranks(&pattern, worlds[w], backwards, &sum);
                pattern_range_t range = {
                    .rank_count = worlds[w], .index_first = 77, .count = COUNT};
                int64_t wrong = pattern_check_host(&pattern, &range, &sum);
                if (wrong)
                    fail_msg("%s, %d ranks: %lld of %d sums are not exact",
                             tess_dtype_name(types[t]), worlds[w], (long long)wrong, COUNT);
            }
}

static void averages(void **state)
{
    (void)state;
    static const int worlds[] = {1, 2, 3, 4, 5, 7, 8, 16, 31, 256};
    static buffer_t sum;
    for (int t = 1; t < 4; t++)
        for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++) {
            pattern_t pattern;
            TEST_OK(pattern_for_sum(types[t], 5, worlds[w], TESS_AVERAGE, &pattern));
            sum_ranks(&pattern, worlds[w], 0, &sum);
            for (int i = 0; i < COUNT; i++)
                write_element(types[t], &sum, i,
                              read_element(types[t], &sum, i) * (1.0f / (float)worlds[w]));
            pattern_range_t range = {.rank_count = worlds[w], .index_first = 77, .count = COUNT};
            int64_t wrong = pattern_check_host(&pattern, &range, &sum);
            if (wrong)
                fail_msg("%s, average over %d ranks: %lld of %d are refused",
                         tess_dtype_name(types[t]), worlds[w], (long long)wrong, COUNT);
        }
    pattern_t pattern;
    TEST_STATUS(pattern_for_sum(TESS_DTYPE_FP32, 1, 257, TESS_AVERAGE, &pattern),
                TESS_ERR_UNSUPPORTED);
    TEST_STATUS(pattern_for_sum(TESS_DTYPE_BYTE, 1, 2, TESS_SUM, &pattern), TESS_ERR_UNSUPPORTED);
}

/* Every single element that differs is counted, whatever its place. */
static void wrong_elements_are_found(void **state)
{
    (void)state;
    static buffer_t data;
    for (int t = 0; t < 4; t++) {
        pattern_t pattern = pattern_for_move(types[t], 9);
        pattern_range_t range = {.rank_first = 3, .rank_count = 1, .count = COUNT};
        pattern_fill_host(&pattern, &range, &data);
        assert_int_equal(pattern_check_host(&pattern, &range, &data), 0);
        int64_t bytes = tess_dtype_bytes(types[t]);
        for (int i = 0; i < COUNT; i += 37) {
            data.bytes[i * bytes + bytes - 1] ^= 0x11;
            assert_int_equal(pattern_check_host(&pattern, &range, &data), i / 37 + 1);
        }
        /* Another rank, another place and another seed are other data. */
        pattern_fill_host(&pattern, &range, &data);
        range.rank_first = 4;
        assert_true(pattern_check_host(&pattern, &range, &data) > COUNT * 9 / 10);
        range.rank_first = 3;
        range.index_first = 1;
        assert_true(pattern_check_host(&pattern, &range, &data) > COUNT * 9 / 10);
        range.index_first = 0;
        pattern.seed = 10;
        assert_true(pattern_check_host(&pattern, &range, &data) > COUNT * 9 / 10);
        memset(&data, 0xa5, sizeof data);
        if (types[t] != TESS_DTYPE_BYTE)
            assert_int_equal(pattern_check_host(&pattern, &range, &data), COUNT);
    }
}

/* On the device under test: what it fills is what the host fills, far beyond 2^32 elements too. */
static void twins_agree(void **state)
{
    (void)state;
    static buffer_t from_device, from_host;
    tess_device_t *device;
    tess_stream_t *stream;
    void *memory;
    TEST_OK(tess_device_open(test_device_name(0), &device));
    TEST_OK(tess_stream_create(device, TESS_PRIORITY_NORMAL, &stream));
    TEST_OK(tess_memory_allocate(device, TESS_MEMORY_DEVICE, sizeof from_device, &memory));
    for (int t = 0; t < 4; t++) {
        pattern_t pattern = pattern_for_move(types[t], 21);
        pattern_range_t range = {
            .rank_first = 2, .rank_count = 1, .index_first = INT64_C(5) << 32, .count = COUNT};
        int64_t bytes = COUNT * tess_dtype_bytes(types[t]), wrong = -1;
        TEST_OK(pattern_fill(&pattern, &range, memory, stream));
        TEST_OK(tess_stream_copy(stream, &from_device, memory, bytes));
        TEST_OK(tess_stream_synchronize(stream, -1));
        pattern_fill_host(&pattern, &range, &from_host);
        assert_memory_equal(&from_device, &from_host, (size_t)bytes);
        TEST_OK(pattern_check(&pattern, &range, memory, stream, &wrong));
        assert_int_equal(wrong, 0);
        TEST_OK(tess_stream_fill(stream, memory, 0xa5, 16));
        memset(&from_host, 0xa5, 16);
        TEST_OK(pattern_check(&pattern, &range, memory, stream, &wrong));
        assert_int_equal(wrong, pattern_check_host(&pattern, &range, &from_host));
        assert_true(wrong > 0);
    }
    tess_memory_free(device, TESS_MEMORY_DEVICE, memory);
    tess_stream_destroy(stream);
    tess_device_close(device);
}

int main(void)
{
    test_need_ranks(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_exact),
        cmocka_unit_test(averages),
        cmocka_unit_test(wrong_elements_are_found),
        cmocka_unit_test(twins_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
