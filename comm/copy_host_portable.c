/* SPDX-License-Identifier: Apache-2.0 */
/* Where the compiler knows no non-temporal stores, memcpy is the copy. */
#include <string.h>

#include "comm_internal.h"

void tessi_copy_past_cache(void *destination, const void *source, size_t bytes)
{
    memcpy(destination, source, bytes);
}
