/* SPDX-License-Identifier: Apache-2.0 */
/* Lines on stderr for people: "tessera[rank 2]: …".
 *
 * Invariant: a line is written by one call, so that lines of several ranks and threads that share
 * a terminal do not mix. Standard output is never touched: results belong there.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

#define LINE_BYTES 2048

static _Atomic int own_rank = -1;

void tessi_log_set_rank(int rank)
{
    atomic_store_explicit(&own_rank, rank, memory_order_relaxed);
}

/* 0 for a value that is no level: errors are shown in any case, and saying so here again for each
 * line would bury them. */
static int verbosity(void)
{
    const char *text = tessi_option(TESSI_OPTION_VERBOSE);
    return text[0] >= '0' && text[0] <= '2' && text[1] == '\0' ? text[0] - '0' : 0;
}

static size_t write_prefix(char *line, size_t bytes)
{
    int rank = atomic_load_explicit(&own_rank, memory_order_relaxed);
    int length = rank >= 0 ? snprintf(line, bytes, "tessera[rank %d]: ", rank)
                           : snprintf(line, bytes, "tessera: ");
    return (size_t)length;
}

void tessi_log(tessi_log_level_t level, const char *format, ...)
{
    if ((int)level > verbosity()) return;
    char line[LINE_BYTES];
    size_t length = write_prefix(line, sizeof line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + length, sizeof line - 1 - length, format, arguments);
    va_end(arguments);
    length = strlen(line);
    line[length++] = '\n';
    /* A full or closed stderr must not stop the program, and there is nowhere else to say so. */
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written;
}
