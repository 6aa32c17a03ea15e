/* SPDX-License-Identifier: Apache-2.0 */
/* Reads and writes the numbers of command lines and tables. Nothing is rounded silently: text that
 * is not wholly a number in range is an error that repeats it.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_options.h"
#include "core/internal.h"

/* Powers of 1024 behind a number; -1 for anything else. "KiB" and "KB" read as "K" does. */
static int power_of(const char *suffix)
{
    static const char letters[] = "KMGT";
    if (*suffix == '\0' || strcasecmp(suffix, "B") == 0) return 0;
    const char *letter = strchr(letters, toupper((unsigned char)*suffix));
    if (!letter) return -1;
    const char *rest = suffix + 1;
    if (*rest != '\0' && strcasecmp(rest, "iB") != 0 && strcasecmp(rest, "B") != 0) return -1;
    return (int)(letter - letters) + 1;
}

tess_status_t bench_read_bytes(const char *text, int64_t *bytes)
{
    char *end;
    double number = strtod(text, &end);
    int power = power_of(end);
    if (end == text || power < 0 || !isfinite(number) || isspace((unsigned char)*text))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "\"%s\" is not a size; write bytes, or a number followed by K, M, G or T",
                          text);
    double exact = ldexp(number, 10 * power);
    if (exact < 1 || exact > 0x1p60 || exact != floor(exact))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "the size \"%s\" is not a whole number of bytes between 1 and 2^60",
                          text);
    *bytes = (int64_t)exact;
    return TESS_OK;
}

tess_status_t bench_read_integer(const char *text, int64_t low, int64_t high, int64_t *value)
{
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno || isspace((unsigned char)*text) || number < low ||
        number > high)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "\"%s\" is not a whole number from %" PRId64 " to %" PRId64, text, low,
                          high);
    *value = number;
    return TESS_OK;
}

tess_status_t bench_read_real(const char *text, double low, double high, double *value)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end != '\0' || isspace((unsigned char)*text) ||
        !(number >= low && number <= high))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "\"%s\" is not a number from %g to %g", text,
                          low, high);
    *value = number;
    return TESS_OK;
}

tess_status_t bench_read_gemm(const char *text, bench_gemm_t *gemm)
{
    char copy[80];
    int64_t sides[3];
    if (snprintf(copy, sizeof copy, "%s", text) < (int)sizeof copy) {
        char *rest = copy;
        int side = 0;
        while (rest && side < 3) {
            const char *field = strsep(&rest, ",");
            if (bench_read_integer(field, 1, 1 << 20, &sides[side])) break;
            side++;
        }
        if (side == 3 && !rest) {
            *gemm = (bench_gemm_t){sides[0], sides[1], sides[2]};
            return TESS_OK;
        }
    }
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "\"%s\" is not a matrix product; write M,N,K, each from 1 to 1048576", text);
}

/* One whole number, written as digits or like 1e8. */
static tess_status_t add_number(const char *text, double low, double high, bench_list_t *list)
{
    double number = 0;
    tess_status_t status = bench_read_real(text, low, high, &number);
    if (status < 0) return status;
    if (number != floor(number))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "\"%s\" is not a whole number", text);
    for (int i = 0; i < list->count; i++)
        if (list->values[i] == (int64_t)number)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "\"%s\" is named twice", text);
    if (list->count == BENCH_LIST_MAX)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "at most %d numbers fit in one list",
                          BENCH_LIST_MAX);
    list->values[list->count++] = (int64_t)number;
    return TESS_OK;
}

tess_status_t bench_read_list(const char *text, double low, double high, bench_list_t *list)
{
    char copy[BENCH_LIST_MAX * 24];
    bench_list_t read = {.count = 0};
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "the list is too long");
    for (char *rest = copy; rest;) {
        tess_status_t status = add_number(strsep(&rest, ","), low, high, &read);
        if (status < 0) return status;
    }
    *list = read;
    return TESS_OK;
}

const char *bench_bytes_text(int64_t bytes, char *text, int64_t text_bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double number = (double)bytes;
    int unit = 0;
    while (number >= 1024 && unit < 4) {
        number /= 1024;
        unit++;
    }
    int digits = number == floor(number) ? 0 : 1;
    snprintf(text, (size_t)text_bytes, "%.*f %s", digits, number, units[unit]);
    return text;
}
