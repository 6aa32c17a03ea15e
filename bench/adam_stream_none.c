/* SPDX-License-Identifier: Apache-2.0 */
/* Processors without streaming stores that C can ask for: memcpy alone is measured. */
#include <string.h>

#include "adam_bench.h"

const int adam_stream_available = 0;

void adam_stream_slice(char *destination, const char *source, int64_t bytes)
{
    memcpy(destination, source, (size_t)bytes);
}
