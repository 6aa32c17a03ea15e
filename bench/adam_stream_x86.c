/* SPDX-License-Identifier: Apache-2.0 */
/* A copy with SSE2's streaming stores, which every x86-64 has: the lines written are not read
 * before, so the traffic is what is counted. It bounds what a pass over memory can reach.
 */
#include <emmintrin.h>

#include "adam_bench.h"

const int adam_stream_available = 1;

void adam_stream_slice(char *destination, const char *source, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64) {
        const __m128i *from = (const __m128i *)(const void *)(source + i);
        __m128i *to = (__m128i *)(void *)(destination + i);
        __m128i a = _mm_load_si128(from), b = _mm_load_si128(from + 1);
        __m128i c = _mm_load_si128(from + 2), d = _mm_load_si128(from + 3);
        _mm_stream_si128(to, a);
        _mm_stream_si128(to + 1, b);
        _mm_stream_si128(to + 2, c);
        _mm_stream_si128(to + 3, d);
    }
    _mm_sfence(); /* the stores of this thread are seen before it reports that it is done */
}
