/* SPDX-License-Identifier: Apache-2.0 */
/* Host sums: every twin that this processor can run against the conversions of core/dtype.c, bit
 * for bit, over all 65536 values of the short types, odd counts, odd addresses, and 1 to 20
 * sources; and copies past the cache.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm_internal.h"
#include "comm/sum_host.h"
#include "harness.h"

#define SOURCES_MAX 20
#define COUNT_MAX 3000

static float wide(tess_dtype_t dtype, const void *data, int64_t i)
{
    float value;
    if (dtype == TESS_DTYPE_FP32) {
        memcpy(&value, (const char *)data + 4 * i, 4);
        return value;
    }
    uint16_t bits;
    memcpy(&bits, (const char *)data + 2 * i, 2);
    return dtype == TESS_DTYPE_BF16 ? tess_bf16_to_float(bits) : tess_fp16_to_float(bits);
}

/* The bits that a sum stores: rounded as core does, one NaN for all. */
static uint32_t stored(tess_dtype_t dtype, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (dtype == TESS_DTYPE_FP32) return isnan(value) ? 0x7fc00000u : bits;
    if (dtype == TESS_DTYPE_BF16) return isnan(value) ? 0x7fc0u : tess_bf16_from_float(value);
    return isnan(value) ? 0x7e00u : tess_fp16_from_float(value);
}

static uint32_t bits_at(tess_dtype_t dtype, const void *data, int64_t i)
{
    uint32_t bits = 0;
    size_t bytes = (size_t)tess_dtype_bytes(dtype);
    memcpy(&bits, (const char *)data + (size_t)i * bytes, bytes);
    return bits;
}

static void compare(const tessi_sum_twin_t *twin, tess_dtype_t dtype, const void *got,
                    const void *const *sources, int source_count, int64_t count, float scale)
{
    for (int64_t i = 0; i < count; i++) {
        float sum = wide(dtype, sources[0], i);
        for (int s = 1; s < source_count; s++) sum += wide(dtype, sources[s], i);
        uint32_t expected = stored(dtype, sum * scale), bits = bits_at(dtype, got, i);
        if (bits != expected)
            fail_msg("%s, %s, %d sources, scale %g, element %lld of %lld: got %08x, expected %08x "
                     "(%a)",
                     twin->name, tess_dtype_name(dtype), source_count, (double)scale, (long long)i,
                     (long long)count, bits, expected, (double)(sum * scale));
    }
}

/* Random bits: subnormals, infinities and NaNs of all kinds come up. */
static void fill_bits(void *data, int64_t bytes, uint64_t *state)
{
    for (int64_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t bits = test_random(state);
        memcpy((char *)data + i, &bits, 8);
    }
}

static void one_source_keeps_every_value(void **unused)
{
    (void)unused;
    static uint16_t values[65536], got[65536];
    for (int i = 0; i < 65536; i++) values[i] = (uint16_t)i;
    const void *sources[] = {values};
    for (int t = 0; tessi_sum_twins[t]; t++) {
        if (!tessi_sum_twins[t]->usable()) continue;
        for (int dtype = TESS_DTYPE_BF16; dtype <= TESS_DTYPE_FP16; dtype++) {
            tessi_sum_twins[t]->sum((tess_dtype_t)dtype, got, sources, 1, 65536, 1.0f);
            compare(tessi_sum_twins[t], (tess_dtype_t)dtype, got, sources, 1, 65536, 1.0f);
            for (int i = 0; i < 65536; i++)
                if (!isnan(wide((tess_dtype_t)dtype, values, i)))
                    assert_int_equal(got[i], values[i]);
        }
    }
}

/* Two values whose sum lies on, just below and just above the middle between two neighbours. */
static void ties_go_to_even(void **unused)
{
    (void)unused;
    static const struct {
        float a, b;
    } pairs[] = {{1.0f, 0x1p-8f},        {1.0f, 0x1p-9f},         {1.0f, 0x3p-9f},
                 {0x1.02p0f, 0x1p-8f},   {1.0f, 0x1p-11f},        {2.0f, 0x1p-10f},
                 {0x1.004p0f, 0x1p-11f}, {65504.0f, 15.0f},       {65504.0f, 16.0f},
                 {0x1p-24f, 0.0f},       {0x1p-14f, -0x1p-24f},   {0.0f, -0.0f},
                 {-0.0f, -0.0f},         {0x1.fep127f, 0x1p119f}, {3.0e38f, 3.0e38f}};
    for (int t = 0; tessi_sum_twins[t]; t++) {
        if (!tessi_sum_twins[t]->usable()) continue;
        for (int dtype = TESS_DTYPE_BF16; dtype < TESS_DTYPE_COUNT; dtype++)
            for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++) {
                _Alignas(8) unsigned char a[4], b[4], got[4];
                uint32_t bits_a = stored((tess_dtype_t)dtype, pairs[p].a);
                uint32_t bits_b = stored((tess_dtype_t)dtype, pairs[p].b);
                memcpy(a, &bits_a, 4);
                memcpy(b, &bits_b, 4);
                const void *sources[] = {a, b};
                for (int s = 0; s < 2; s++) {
                    float scale = s ? 0.5f : 1.0f;
                    tessi_sum_twins[t]->sum((tess_dtype_t)dtype, got, sources, 2, 1, scale);
                    compare(tessi_sum_twins[t], (tess_dtype_t)dtype, got, sources, 2, 1, scale);
                }
            }
    }
}

static void many_sources_and_counts(void **unused)
{
    (void)unused;
    static const int64_t counts[] = {0, 1, 2, 15, 31, 33, 64, 100, 1023, 1024, 1025, 2999};
    uint64_t state = 7;
    char *rows[SOURCES_MAX], *got = malloc(COUNT_MAX * 4 + 64);
    assert_non_null(got);
    for (int s = 0; s < SOURCES_MAX; s++) assert_non_null(rows[s] = malloc(COUNT_MAX * 4 + 64));
    for (int t = 0; tessi_sum_twins[t]; t++) {
        if (!tessi_sum_twins[t]->usable()) {
            print_message("twin %s: not on this processor\n", tessi_sum_twins[t]->name);
            continue;
        }
        for (int dtype = TESS_DTYPE_BF16; dtype < TESS_DTYPE_COUNT; dtype++)
            for (int n = 1; n <= SOURCES_MAX; n++)
                for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
                    const void *sources[SOURCES_MAX];
                    /* Elements, but no more, are aligned. */
                    size_t shift = (size_t)tess_dtype_bytes((tess_dtype_t)dtype) * (c % 3);
                    for (int s = 0; s < n; s++) {
                        fill_bits(rows[s], COUNT_MAX * 4 + 64, &state);
                        sources[s] = rows[s] + shift * (size_t)(s % 2);
                    }
                    float scale = n % 2 ? 1.0f / (float)n : 1.0f;
                    memset(got, 0x77, COUNT_MAX * 4 + 64);
                    tessi_sum_twins[t]->sum((tess_dtype_t)dtype, got + shift, sources, n, counts[c],
                                            scale);
                    compare(tessi_sum_twins[t], (tess_dtype_t)dtype, got + shift, sources, n,
                            counts[c], scale);
                    int64_t end = counts[c] * tess_dtype_bytes((tess_dtype_t)dtype);
                    for (int64_t i = 0; i < 32; i++)
                        assert_int_equal(got[(int64_t)shift + end + i], 0x77);
                }
    }
    for (int s = 0; s < SOURCES_MAX; s++) free(rows[s]);
    free(got);
}

/* The destination may be any one of the sources. */
static void in_place(void **unused)
{
    (void)unused;
    uint64_t state = 11;
    char rows[9][2048 * 4], copy[2048 * 4];
    for (int t = 0; tessi_sum_twins[t]; t++) {
        if (!tessi_sum_twins[t]->usable()) continue;
        for (int dtype = TESS_DTYPE_BF16; dtype < TESS_DTYPE_COUNT; dtype++)
            for (int n = 1; n <= 9; n++)
                for (int target = 0; target < n; target++) {
                    const void *sources[9], *originals[9];
                    for (int s = 0; s < n; s++) {
                        fill_bits(rows[s], sizeof rows[s], &state);
                        originals[s] = sources[s] = rows[s];
                    }
                    memcpy(copy, rows[target], sizeof copy);
                    originals[target] = copy;
                    tessi_sum_twins[t]->sum((tess_dtype_t)dtype, rows[target], sources, n, 1500,
                                            0.25f);
                    compare(tessi_sum_twins[t], (tess_dtype_t)dtype, rows[target], originals, n,
                            1500, 0.25f);
                }
    }
}

static void copies_past_the_cache(void **unused)
{
    (void)unused;
    char from[5000], to[5000];
    uint64_t state = 3;
    fill_bits(from, sizeof from, &state);
    for (size_t shift = 0; shift < 70; shift += 3)
        for (size_t bytes = 0; bytes < 4000; bytes += 61) {
            memset(to, 0x11, sizeof to);
            tessi_copy_past_cache(to + shift, from + (shift * 7) % 64, bytes);
            assert_memory_equal(to + shift, from + (shift * 7) % 64, bytes);
            for (size_t i = 0; i < shift; i++) assert_int_equal(to[i], 0x11);
            for (size_t i = shift + bytes; i < shift + bytes + 70; i++)
                assert_int_equal(to[i], 0x11);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_source_keeps_every_value), cmocka_unit_test(ties_go_to_even),
        cmocka_unit_test(many_sources_and_counts),      cmocka_unit_test(in_place),
        cmocka_unit_test(copies_past_the_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
