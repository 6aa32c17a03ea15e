/* SPDX-License-Identifier: Apache-2.0 */
/* Status names, and the sentence that each thread keeps about its last failure.
 *
 * Invariant: the kept sentence is replaced only once the new one is complete, so a message may
 * quote tess_last_error() among its own arguments.
 */
#include <tessera/status.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <tessera/version.h>

#include "internal.h"

#define DETAIL_BYTES 1024

static _Thread_local char last_detail[DETAIL_BYTES];
static _Thread_local uint64_t failure_count;

const char *tess_version(void)
{
    return TESS_VERSION;
}

const char *tess_status_name(tess_status_t status)
{
    switch (status) {
#define STATUS_NAME(name, value, message)                                                          \
    case TESS_##name:                                                                              \
        return "TESS_" #name;
        TESS_STATUS_MAP(STATUS_NAME)
#undef STATUS_NAME
    }
    return "TESS_ERR_UNKNOWN";
}

const char *tess_status_message(tess_status_t status)
{
    switch (status) {
#define STATUS_MESSAGE(name, value, message)                                                       \
    case TESS_##name:                                                                              \
        return message;
        TESS_STATUS_MAP(STATUS_MESSAGE)
#undef STATUS_MESSAGE
    }
    return "unknown status";
}

const char *tess_last_error(void)
{
    return last_detail;
}

uint64_t tessi_failure_count(void)
{
    return failure_count;
}

static void keep_detail(const char *detail)
{
    size_t length = strnlen(detail, DETAIL_BYTES - 1);
    memcpy(last_detail, detail, length);
    last_detail[length] = '\0';
    failure_count++;
}

tess_status_t tessi_fail(tess_status_t status, const char *format, ...)
{
    char detail[DETAIL_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    keep_detail(detail);
    return status;
}

tess_status_t tessi_fail_errno(int error_number, const char *format, ...)
{
    char detail[DETAIL_BYTES], reason[128];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);

    /* The GNU strerror_r, which may return a constant instead of filling the buffer. */
    const char *text = strerror_r(error_number, reason, sizeof reason);
    size_t length = strlen(detail);
    snprintf(detail + length, sizeof detail - length, ": %s", text);
    keep_detail(detail);
    return error_number == ENOMEM ? TESS_ERR_OUT_OF_MEMORY : TESS_ERR_SYSTEM;
}
