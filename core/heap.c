/* SPDX-License-Identifier: Apache-2.0 */
/* Host heap for the library's own structures, with the fault point "alloc".
 *
 * Invariant: a request that is refused leaves its size in tess_last_error(), and tessi_free takes
 * whatever these functions gave.
 */
#include <assert.h>
#include <stdlib.h>

#include "internal.h"

void *tessi_calloc(size_t count, size_t bytes)
{
    /* calloc(0, …) may give NULL, which callers would take for a failure. */
    void *pointer = NULL;
    if (!tessi_fault("alloc")) pointer = calloc(count ? count : 1, bytes ? bytes : 1);
    if (!pointer)
        (void)tessi_fail(TESS_ERR_OUT_OF_MEMORY, "cannot allocate %zu x %zu bytes of host memory",
                         count, bytes);
    return pointer;
}

void *tessi_aligned_alloc(size_t alignment, size_t bytes)
{
    assert(alignment >= sizeof(void *) && (alignment & (alignment - 1)) == 0);
    void *pointer = NULL;
    if (!tessi_fault("alloc") && posix_memalign(&pointer, alignment, bytes ? bytes : 1) != 0)
        pointer = NULL;
    if (!pointer)
        (void)tessi_fail(TESS_ERR_OUT_OF_MEMORY,
                         "cannot allocate %zu bytes of host memory aligned to %zu", bytes,
                         alignment);
    return pointer;
}

void tessi_free(void *pointer)
{
    free(pointer);
}
