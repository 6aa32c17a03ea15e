/* SPDX-License-Identifier: Apache-2.0 */
/* Copies and page touching on threads. Each thread copies one slice, so that the C library sees
 * sizes as large as they are.
 */
#include <string.h>

#include "adam_bench.h"

#define LINE_BYTES 64
#define TOUCH_BYTES (INT64_C(2) << 20)

/* Where slice `index` starts: whole cache lines, but for the end of the last. */
static int64_t slice_start(const adam_copy_t *copy, int64_t index)
{
    if (index == copy->threads) return copy->bytes;
    return copy->bytes / LINE_BYTES * index / copy->threads * LINE_BYTES;
}

static void memcpy_slice(void *argument, int64_t index)
{
    const adam_copy_t *copy = argument;
    int64_t from = slice_start(copy, index), to = slice_start(copy, index + 1);
    memcpy(copy->destination + from, copy->source + from, (size_t)(to - from));
}

static void streaming_slice(void *argument, int64_t index)
{
    const adam_copy_t *copy = argument;
    int64_t from = slice_start(copy, index), to = slice_start(copy, index + 1);
    adam_stream_slice(copy->destination + from, copy->source + from, to - from);
}

tess_status_t adam_copy_memcpy(void *argument)
{
    const adam_copy_t *copy = argument;
    adam_threads_run(copy->threads, copy->threads, memcpy_slice, argument);
    return TESS_OK;
}

tess_status_t adam_copy_streaming(void *argument)
{
    const adam_copy_t *copy = argument;
    adam_threads_run(copy->threads, copy->threads, streaming_slice, argument);
    return TESS_OK;
}

/* --- pages ----------------------------------------------------------------------------------- */

typedef struct pages {
    char *memory;
    int64_t bytes;
} pages_t;

static void touch_piece(void *argument, int64_t index)
{
    const pages_t *pages = argument;
    int64_t from = index * TOUCH_BYTES, left = pages->bytes - from;
    memset(pages->memory + from, 1, (size_t)(left < TOUCH_BYTES ? left : TOUCH_BYTES));
}

void adam_touch(char *memory, int64_t bytes, int threads)
{
    pages_t pages = {memory, bytes};
    adam_threads_run(threads, (bytes + TOUCH_BYTES - 1) / TOUCH_BYTES, touch_piece, &pages);
}
