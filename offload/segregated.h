/* SPDX-License-Identifier: Apache-2.0 */
/* Hands out pieces of a range of offsets in a bounded number of steps.
 *
 * Free pieces stand in two-level segregated lists: the first level is the power of two of a piece's
 * size, the second divides it into 16. (The idea is that of Masmano, Ripoll, Crespo and Real,
 * "TLSF: a new dynamic memory allocator for real-time systems", 2004.) Nothing is kept in the range
 * itself, so it may be memory that a device writes.
 *
 * The range is counted in granules. Every granule has an entry in one table that is allocated at
 * creation; the entry of a piece's first granule describes the piece. So there is room for as many
 * pieces as there are granules, and nothing else runs out. The table is zeroed by the system when
 * it is first touched: it costs memory where pieces begin, at most 16 bytes a granule.
 *
 * Threads: the caller locks.
 */
#ifndef TESSERA_OFFLOAD_SEGREGATED_H
#define TESSERA_OFFLOAD_SEGREGATED_H

#include <stdint.h>
#include <tessera/status.h>

#define TESSI_SEGREGATED_GRANULE_MIN 64
#define TESSI_SEGREGATED_ALIGNMENT_MAX ((int64_t)2 << 20)

/* No call looks at more pieces than this to find one. */
#define TESSI_SEGREGATED_STEPS_MAX 81

typedef struct tessi_segregated tessi_segregated_t;

typedef struct tessi_segregated_totals {
    int64_t capacity_bytes; /* whole granules */
    int64_t used_bytes, high_water_bytes;
    int64_t largest_free_bytes; /* exact up to 64 pieces of the largest class, else from above */
    int64_t piece_count;        /* in use */
    int steps_max;              /* the most pieces that one call looked at so far */
} tessi_segregated_totals_t;

/* Offsets from 0 to bytes - 1, in granules of a power of two from 64 bytes (ranges up to 256 MiB)
 * to 4 KiB (above 8 GiB). bytes must hold a granule. */
TESS_MUST_CHECK tess_status_t tessi_segregated_create(int64_t bytes, tessi_segregated_t **result);
void tessi_segregated_destroy(tessi_segregated_t *range);

int64_t tessi_segregated_granule_bytes(const tessi_segregated_t *range);

/* The offset of a piece of at least bytes >= 0, aligned to a power of two up to 2 MiB; -1 where
 * none was found. */
int64_t tessi_segregated_take(tessi_segregated_t *range, int64_t bytes, int64_t alignment);

/* Gives the piece at offset back and joins it with its free neighbours. Returns its bytes; -1, and
 * nothing happens, where no piece that is in use begins there. */
int64_t tessi_segregated_give(tessi_segregated_t *range, int64_t offset);

tessi_segregated_totals_t tessi_segregated_totals(const tessi_segregated_t *range);

/* The first piece in use from `offset` on, with its bytes; -1 where there is none. Looks at every
 * piece on the way. offset must be 0 or the end of a piece. */
int64_t tessi_segregated_next_used(const tessi_segregated_t *range, int64_t offset, int64_t *bytes);

/* Whether table, lists, bitmaps and sums agree; for tests. Looks at everything. */
TESS_MUST_CHECK tess_status_t tessi_segregated_verify(const tessi_segregated_t *range);

#endif
