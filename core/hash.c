/* SPDX-License-Identifier: Apache-2.0 */
/* Hashes that ranks compare with one another.
 *
 * Invariant: equal bytes give equal hashes in every build on every machine; recorded plans and
 * agreed keys depend on it.
 */
#include "internal.h"

#define PRIME 0x100000001b3u

uint64_t tessi_hash(uint64_t seed, const void *data, size_t bytes)
{
    const unsigned char *byte = data;
    for (size_t i = 0; i < bytes; i++) seed = (seed ^ byte[i]) * PRIME;
    return seed;
}
