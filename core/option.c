/* SPDX-License-Identifier: Apache-2.0 */
/* Environment variables: one table with name, default and help, read at each use.
 *
 * Invariant: a variable that is set but empty counts as not set, and a value that cannot be used
 * is an error that names the variable, what it holds and what is legal.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "internal.h"

typedef struct option_row {
    const char *variable;
    const char *initial;
    const char *help;
} option_row_t;

static const option_row_t rows[TESSI_OPTION_COUNT] = {
#define OPTION_ROW(id, variable, initial, help) [TESSI_OPTION_##id] = {variable, initial, help},
    TESSI_OPTION_MAP(OPTION_ROW)
#undef OPTION_ROW
};

static const option_row_t *row_of(tessi_option_t option)
{
    assert((int)option >= 0 && option < TESSI_OPTION_COUNT);
    return &rows[option];
}

int tessi_option_is_set(tessi_option_t option)
{
    const char *value = getenv(row_of(option)->variable);
    return value && *value;
}

const char *tessi_option(tessi_option_t option)
{
    const char *value = getenv(row_of(option)->variable);
    return value && *value ? value : row_of(option)->initial;
}

const char *tessi_option_variable(tessi_option_t option)
{
    return row_of(option)->variable;
}

const char *tessi_option_help(tessi_option_t option)
{
    return row_of(option)->help;
}

tess_status_t tessi_option_int(tessi_option_t option, int64_t low, int64_t high, int64_t *value)
{
    const char *text = tessi_option(option);
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (!*text)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s is not set (%s)", row_of(option)->variable,
                          row_of(option)->help);
    if (end == text || *end || errno || number < low || number > high)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s is \"%s\", but must be a whole number from %" PRId64 " to %" PRId64,
                          row_of(option)->variable, text, low, high);
    *value = number;
    return TESS_OK;
}

int tessi_timeout_or_default(int timeout_ms)
{
    static atomic_flag told = ATOMIC_FLAG_INIT;
    int64_t value = 0;
    if (timeout_ms >= 0) return timeout_ms;
    if (tessi_option_int(TESSI_OPTION_TIMEOUT_MS, 0, INT_MAX, &value) == TESS_OK) return (int)value;

    value = strtoll(row_of(TESSI_OPTION_TIMEOUT_MS)->initial, NULL, 10);
    if (!atomic_flag_test_and_set(&told))
        tessi_log(TESSI_LOG_ERROR, "%s; waits use %" PRId64 " ms", tess_last_error(), value);
    return (int)value;
}
