/* SPDX-License-Identifier: Apache-2.0 */
/* Element types and conversions, compared with arithmetic in double that shares no code with them:
 * a value is rounded by looking up its two neighbours among all 65536 values and taking the nearer
 * one, or at a tie the one with an even last bit. All of it is exact, so no tolerance is needed. */
#include <math.h>
#include <string.h>

#include "harness.h"

#define RANDOM_FLOATS 2000000

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void sizes_and_names(void **state)
{
    (void)state;
    assert_int_equal(tess_dtype_bytes(TESS_DTYPE_BYTE), 1);
    assert_int_equal(tess_dtype_bytes(TESS_DTYPE_BF16), 2);
    assert_int_equal(tess_dtype_bytes(TESS_DTYPE_FP16), 2);
    assert_int_equal(tess_dtype_bytes(TESS_DTYPE_FP32), 4);
    assert_int_equal(tess_dtype_bytes(TESS_DTYPE_COUNT), 0);
    assert_int_equal(tess_dtype_bytes((tess_dtype_t)-1), 0);
    assert_string_equal(tess_dtype_name(TESS_DTYPE_BF16), "bf16");
    assert_string_equal(tess_dtype_name((tess_dtype_t)99), "unknown");
}

static void names_are_read(void **state)
{
    (void)state;
    const struct {
        const char *name;
        tess_dtype_t dtype;
    } cases[] = {
        {"byte", TESS_DTYPE_BYTE},     {"uint8", TESS_DTYPE_BYTE}, {"bf16", TESS_DTYPE_BF16},
        {"bfloat16", TESS_DTYPE_BF16}, {"fp16", TESS_DTYPE_FP16},  {"half", TESS_DTYPE_FP16},
        {"float16", TESS_DTYPE_FP16},  {"fp32", TESS_DTYPE_FP32},  {"float", TESS_DTYPE_FP32},
        {"float32", TESS_DTYPE_FP32},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tess_dtype_t dtype = TESS_DTYPE_COUNT;
        TEST_OK(tess_dtype_parse(cases[i].name, &dtype));
        assert_int_equal(dtype, cases[i].dtype);
    }
    const char *bad[] = {"", "BF16", "bf", "bf16 ", "double", "unknown"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tess_dtype_t dtype = TESS_DTYPE_COUNT;
        TEST_STATUS(tess_dtype_parse(bad[i], &dtype), TESS_ERR_INVALID_ARGUMENT);
        assert_int_equal(dtype, TESS_DTYPE_COUNT);
        assert_non_null(strstr(tess_last_error(), "bf16"));
    }
    TEST_STATUS(tess_dtype_parse(NULL, NULL), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_dtype_parse("bf16", NULL), TESS_ERR_INVALID_ARGUMENT);
}

typedef struct format {
    const char *name;
    int mantissa_bits, exponent_bits;
    uint16_t (*from_float)(float);
    float (*to_float)(uint16_t);
} format_t;

static const format_t bf16 = {"bf16", 7, 8, tess_bf16_from_float, tess_bf16_to_float};
static const format_t fp16 = {"fp16", 10, 5, tess_fp16_from_float, tess_fp16_to_float};

/* What the definition of the format says a bit pattern without sign is worth; infinity's pattern
 * gives the value that the next exponent would have. */
static double value_by_definition(const format_t *format, int magnitude)
{
    int bias = (1 << (format->exponent_bits - 1)) - 1;
    int exponent = magnitude >> format->mantissa_bits;
    int mantissa = magnitude & ((1 << format->mantissa_bits) - 1);
    if (exponent == 0) return ldexp(mantissa, 1 - bias - format->mantissa_bits);
    return ldexp(mantissa + (1 << format->mantissa_bits), exponent - bias - format->mantissa_bits);
}

static int infinity_of(const format_t *format)
{
    return ((1 << format->exponent_bits) - 1) << format->mantissa_bits;
}

static void check_widening(const format_t *format)
{
    int infinity = infinity_of(format);
    for (int i = 0; i < 65536; i++) {
        float got = format->to_float((uint16_t)i);
        int magnitude = i & 0x7fff;
        uint16_t back = format->from_float(got);
        if (magnitude > infinity) {
            if (!isnan(got) || (back & 0x7fff) <= infinity || (back & 0x8000) != (i & 0x8000))
                fail_msg("%s %#x: NaN became %a, and back %#x", format->name, (unsigned)i,
                         (double)got, (unsigned)back);
            continue;
        }
        double want = magnitude == infinity ? INFINITY : value_by_definition(format, magnitude);
        if (i & 0x8000) want = -want;
        if ((double)got != want || !signbit(got) != !signbit(want) || back != i)
            fail_msg("%s %#x: got %a, expected %a; back %#x", format->name, (unsigned)i,
                     (double)got, want, (unsigned)back);
    }
}

static void every_value_widens_and_comes_back(void **state)
{
    (void)state;
    check_widening(&bf16);
    check_widening(&fp16);
}

/* Nearest, ties to even, found by bisection among the values that the definition gives. */
static int rounded_by_definition(const format_t *format, double magnitude)
{
    int low = 0, high = infinity_of(format);
    if (magnitude >= value_by_definition(format, high)) return high;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (value_by_definition(format, middle) <= magnitude) low = middle;
        else high = middle;
    }
    double below = magnitude - value_by_definition(format, low);
    double above = value_by_definition(format, high) - magnitude;
    if (below != above) return below < above ? low : high;
    return low % 2 == 0 ? low : high;
}

static void check_narrowing(const format_t *format, uint32_t bits)
{
    float value = float_of(bits);
    uint16_t got = format->from_float(value);
    int sign = (int)(bits >> 16) & 0x8000;
    if (isnan(value)) {
        int quiet = 1 << (format->mantissa_bits - 1), infinity = infinity_of(format);
        if ((got & 0x7fff) <= infinity || !(got & quiet) || (got & 0x8000) != sign)
            fail_msg("%s of NaN %#x: got %#x", format->name, bits, (unsigned)got);
        return;
    }
    int want = sign | rounded_by_definition(format, fabs((double)value));
    if (got != want)
        fail_msg("%s of %a (%#x): got %#x, expected %#x", format->name, (double)value, bits,
                 (unsigned)got, (unsigned)want);
}

/* Every value of the format, its float neighbours, and every tie between two values with its
 * neighbours: where rounding changes its mind. */
static void check_edges(const format_t *format)
{
    for (int i = 0; i < infinity_of(format); i++) {
        double low = value_by_definition(format, i), high = value_by_definition(format, i + 1);
        const double points[] = {low, (low + high) / 2};
        for (int p = 0; p < 2; p++) {
            uint32_t bits = bits_of((float)points[p]);
            for (int step = -1; step <= 1; step++) {
                if (bits == 0 && step < 0) continue;
                check_narrowing(format, bits + (uint32_t)step);
                check_narrowing(format, (bits + (uint32_t)step) | 0x80000000u);
            }
        }
    }
}

static void narrowing_rounds_to_nearest_even(void **state)
{
    (void)state;
    check_edges(&bf16);
    check_edges(&fp16);
    const uint32_t special[] = {0x7f7fffffu, 0x7f800000u, 0x7f800001u, 0x7fbfffffu, 0x7fc00000u,
                                0x7fffffffu, 0xff800001u, 0xffffffffu, 0x00000001u, 0x007fffffu,
                                0x80000000u, 0x33000000u, 0x33000001u, 0x477fefffu, 0x477ff000u};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
        check_narrowing(&bf16, special[i]);
        check_narrowing(&fp16, special[i]);
    }
}

static void random_floats_narrow_alike(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int i = 0; i < RANDOM_FLOATS; i++) {
        uint64_t random = test_random(&seed);
        check_narrowing(&bf16, (uint32_t)random);
        /* Exponents from 2^-27 to 2^17, so that most do not just overflow or vanish. */
        uint32_t exponent = 100 + (uint32_t)(random >> 32) % 45;
        check_narrowing(&fp16, ((uint32_t)random & 0x807fffffu) | exponent << 23);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_and_names),
        cmocka_unit_test(names_are_read),
        cmocka_unit_test(every_value_widens_and_comes_back),
        cmocka_unit_test(narrowing_rounds_to_nearest_even),
        cmocka_unit_test(random_floats_narrow_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
