/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of squares on the host: parts dealt out to a team of threads, and added in order.
 *
 * Invariant: parts and the order of additions within them depend on the number of elements alone.
 */
#include "adam_host.h"

#define PART_ELEMENTS_MIN 65536

/* Parts begin at multiples of this, which is 64 bytes at least of every dtype. */
#define PART_STEP 32

typedef struct measure_run {
    tessi_gradient_slot_t *slot;
    const tess_gradient_piece_t *piece;
    const tessi_adam_loops_t *loops;
    int64_t part_elements;
} measure_run_t;

static void measure_part(void *argument, int64_t index)
{
    const measure_run_t *run = argument;
    int64_t first = index * run->part_elements, rest = run->piece->count - first;
    tess_gradient_piece_t part = {
        .values = (const char *)run->piece->values + first * tess_dtype_bytes(run->piece->dtype),
        .count = rest < run->part_elements ? rest : run->part_elements,
        .dtype = run->piece->dtype,
    };
    run->slot->parts[index] = run->loops->sum_squares(&part);
}

void tessi_gradient_host_measure(tessi_gradient_slot_t *slot, const tess_gradient_piece_t *piece)
{
    int64_t share = (piece->count + TESSI_GRADIENT_PARTS_MAX - 1) / TESSI_GRADIENT_PARTS_MAX;
    if (share < PART_ELEMENTS_MIN) share = PART_ELEMENTS_MIN;
    share = (share + PART_STEP - 1) / PART_STEP * PART_STEP;
    int64_t parts = (piece->count + share - 1) / share;
    measure_run_t run = {slot, piece, tessi_adam_host_twin()->loops, share};
    tessi_team_run(tessi_team_size(0), parts, measure_part, &run);
    double sum = 0.0;
    for (int64_t p = 0; p < parts; p++) sum += slot->parts[p];
    slot->sum = sum;
}
