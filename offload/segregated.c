/* SPDX-License-Identifier: Apache-2.0 */
/* Two-level segregated free lists over a range of granules.
 *
 * Invariant: pieces cover the range without gap; two free pieces never touch; a free piece stands
 * in the list of its class and in no other, and a bit is set exactly where a list is not empty. An
 * entry that begins no piece has granules 0, so a stale offset is recognised.
 */
#include "segregated.h"

#include <inttypes.h>

#include "core/internal.h"

#define GRANULE_MAX 4096
#define GRANULES_WANTED ((int64_t)1 << 22) /* larger ranges get larger granules, up to the most */
#define GRANULES_MAX ((int64_t)1 << 31)

#define SECOND_BITS 4
#define SECONDS (1 << SECOND_BITS)
#define FIRSTS (32 - SECOND_BITS + 1)

#define OWN_CLASS_STEPS 16
#define OTHER_CLASS_STEPS (TESSI_SEGREGATED_STEPS_MAX - OWN_CLASS_STEPS - 1)
#define LARGEST_STEPS 64

#define NONE UINT32_MAX
#define IN_USE (UINT32_MAX - 1)

/* Describes the piece that begins at its granule. */
typedef struct piece {
    uint32_t granules; /* 0: no piece begins here */
    uint32_t before;   /* granules of the piece that ends here; 0 at the start of the range */
    uint32_t next;     /* free: the next of its list, or NONE */
    uint32_t previous; /* free: the one before in its list, or NONE; else IN_USE */
} piece_t;

struct tessi_segregated {
    piece_t *pieces; /* (granules) */
    int64_t granule_bytes;
    uint32_t granules;
    uint32_t used, high_water; /* granules */
    uint32_t piece_count;
    int steps_max;
    uint32_t first_map;              /* bit f: second_map[f] is not 0 */
    uint32_t second_map[FIRSTS];     /* bit s: heads[f][s] is not NONE */
    uint32_t heads[FIRSTS][SECONDS]; /* granule of the first free piece of a class, or NONE */
};

/* Sizes below SECONDS have a class each; above, each power of two has SECONDS of them. */
typedef struct class_of_size {
    int first, second;
} class_t;

static class_t class_of(uint32_t granules)
{
    if (granules < SECONDS) return (class_t){0, (int)granules};
    int log2 = 31 - __builtin_clz(granules);
    return (class_t){log2 - SECOND_BITS + 1,
                     (int)(granules >> (log2 - SECOND_BITS)) & (SECONDS - 1)};
}

/* The smallest size of a class, and the largest. */
static uint32_t class_start(class_t class)
{
    if (class.first == 0) return (uint32_t) class.second;
    return (uint32_t)(SECONDS + class.second) << (class.first - 1);
}

static uint32_t class_end(class_t class)
{
    uint32_t sizes = class.first == 0 ? 1 : 1u << (class.first - 1);
    return class_start(class) + (sizes - 1);
}

static int is_free(const tessi_segregated_t *range, uint32_t at)
{
    return range->pieces[at].granules > 0 && range->pieces[at].previous != IN_USE;
}

static void insert(tessi_segregated_t *range, uint32_t at)
{
    class_t class = class_of(range->pieces[at].granules);
    uint32_t *head = &range->heads[class.first][class.second];
    range->pieces[at].next = *head;
    range->pieces[at].previous = NONE;
    if (*head != NONE) range->pieces[*head].previous = at;
    *head = at;
    range->second_map[class.first] |= 1u << class.second;
    range->first_map |= 1u << class.first;
}

static void unlink_piece(tessi_segregated_t *range, uint32_t at)
{
    const piece_t *piece = &range->pieces[at];
    if (piece->next != NONE) range->pieces[piece->next].previous = piece->previous;
    if (piece->previous != NONE) {
        range->pieces[piece->previous].next = piece->next;
        return;
    }
    class_t class = class_of(piece->granules);
    range->heads[class.first][class.second] = piece->next;
    if (piece->next != NONE) return;
    range->second_map[class.first] &= ~(1u << class.second);
    if (!range->second_map[class.first]) range->first_map &= ~(1u << class.first);
}

/* Sets the size of the piece at `at`, which is in no list, and tells the piece behind it. */
static void set_piece(tessi_segregated_t *range, uint32_t at, uint32_t granules)
{
    range->pieces[at].granules = granules;
    if (at + granules < range->granules) range->pieces[at + granules].before = granules;
}

/* The first class from `class` on that has a piece; 0 where there is none. */
static int next_class(const tessi_segregated_t *range, class_t *class)
{
    if (class->second >= SECONDS) *class = (class_t){class->first + 1, 0};
    if (class->first >= FIRSTS) return 0;
    uint32_t seconds = range->second_map[class->first] & (UINT32_MAX << class->second);
    if (!seconds) {
        uint32_t firsts =
            class->first + 1 < FIRSTS ? range->first_map & (UINT32_MAX << (class->first + 1)) : 0;
        if (!firsts) return 0;
        class->first = __builtin_ctz(firsts);
        seconds = range->second_map[class->first];
    }
    class->second = __builtin_ctz(seconds);
    return 1;
}

static uint32_t align_up(uint32_t at, uint32_t alignment)
{
    return (uint32_t)(((uint64_t)at + alignment - 1) & ~((uint64_t)alignment - 1));
}

typedef struct request {
    uint32_t granules, alignment;
    int steps;
} request_t;

/* Looks at up to `steps` pieces of a class for one that holds the request where it begins, or after
 * a gap. */
static uint32_t search_class(const tessi_segregated_t *range, request_t *request, class_t class,
                             int steps)
{
    uint32_t at = range->heads[class.first][class.second];
    for (; at != NONE && steps > 0; at = range->pieces[at].next, steps--) {
        request->steps++;
        uint32_t gap = align_up(at, request->alignment) - at;
        if ((uint64_t)gap + request->granules <= range->pieces[at].granules) return at;
    }
    return NONE;
}

/* The tightest class first, because pieces of the same few sizes come and go; then the smallest
 * class where every piece fits however it is aligned; then what lies between. */
static uint32_t find(const tessi_segregated_t *range, request_t *request)
{
    class_t own = class_of(request->granules);
    uint32_t found = search_class(range, request, own, OWN_CLASS_STEPS);
    if (found != NONE) return found;

    uint64_t surely = (uint64_t)request->granules + request->alignment - 1;
    if (surely <= range->granules) {
        class_t class = class_of((uint32_t)surely);
        if (class_start(class) < surely) class.second++;
        if (next_class(range, &class)) return search_class(range, request, class, 1);
    }
    int steps = OTHER_CLASS_STEPS;
    for (class_t class = {own.first, own.second + 1}; steps > 0 && next_class(range, &class);
         class.second++) {
        int before = request->steps;
        found = search_class(range, request, class, steps);
        if (found != NONE) return found;
        steps -= request->steps - before;
    }
    return NONE;
}

tess_status_t tessi_segregated_create(int64_t bytes, tessi_segregated_t **result)
{
    int64_t granule_bytes = TESSI_SEGREGATED_GRANULE_MIN;
    while (granule_bytes < GRANULE_MAX && bytes / granule_bytes > GRANULES_WANTED)
        granule_bytes *= 2;
    while (bytes / granule_bytes > GRANULES_MAX) granule_bytes *= 2;
    int64_t granules = bytes / granule_bytes;
    if (granules < 1)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%" PRId64 " bytes are too few to be divided into pieces", bytes);

    tess_status_t status = TESS_ERR_OUT_OF_MEMORY;
    tessi_segregated_t *range = tessi_calloc(1, sizeof *range);
    if (!range) return status;
    range->granule_bytes = granule_bytes;
    range->granules = (uint32_t)granules;
    range->pieces = tessi_calloc((size_t)granules, sizeof *range->pieces);
    if (!range->pieces) goto err_free_range;
    for (int first = 0; first < FIRSTS; first++)
        for (int second = 0; second < SECONDS; second++) range->heads[first][second] = NONE;
    set_piece(range, 0, range->granules);
    insert(range, 0);
    *result = range;
    return TESS_OK;

err_free_range:
    tessi_free(range);
    return status;
}

void tessi_segregated_destroy(tessi_segregated_t *range)
{
    if (!range) return;
    tessi_free(range->pieces);
    tessi_free(range);
}

int64_t tessi_segregated_granule_bytes(const tessi_segregated_t *range)
{
    return range->granule_bytes;
}

int64_t tessi_segregated_take(tessi_segregated_t *range, int64_t bytes, int64_t alignment)
{
    if (bytes > (int64_t)range->granules * range->granule_bytes) return -1;
    int64_t granules = (bytes + range->granule_bytes - 1) / range->granule_bytes;
    int64_t alignment_granules = alignment / range->granule_bytes;
    request_t request = {.granules = granules > 0 ? (uint32_t)granules : 1,
                         .alignment = alignment_granules > 0 ? (uint32_t)alignment_granules : 1};
    uint32_t at = find(range, &request);
    if (request.steps > range->steps_max) range->steps_max = request.steps;
    if (at == NONE) return -1;

    unlink_piece(range, at);
    uint32_t gap = align_up(at, request.alignment) - at;
    uint32_t rest = range->pieces[at].granules - gap - request.granules;
    if (gap > 0) {
        set_piece(range, at, gap);
        insert(range, at);
        at += gap;
    }
    set_piece(range, at, request.granules);
    range->pieces[at].previous = IN_USE;
    if (rest > 0) {
        set_piece(range, at + request.granules, rest);
        insert(range, at + request.granules);
    }
    range->used += request.granules;
    if (range->used > range->high_water) range->high_water = range->used;
    range->piece_count++;
    return (int64_t)at * range->granule_bytes;
}

int64_t tessi_segregated_give(tessi_segregated_t *range, int64_t offset)
{
    if (offset < 0 || offset % range->granule_bytes != 0 ||
        offset / range->granule_bytes >= range->granules)
        return -1;
    uint32_t at = (uint32_t)(offset / range->granule_bytes);
    uint32_t granules = range->pieces[at].granules, given = granules;
    if (granules == 0 || range->pieces[at].previous != IN_USE) return -1;

    uint32_t behind = at + granules;
    if (behind < range->granules && is_free(range, behind)) {
        unlink_piece(range, behind);
        granules += range->pieces[behind].granules;
        range->pieces[behind].granules = 0;
    }
    uint32_t before = range->pieces[at].before;
    if (before > 0 && is_free(range, at - before)) {
        unlink_piece(range, at - before);
        range->pieces[at].granules = 0;
        at -= before;
        granules += before;
    }
    set_piece(range, at, granules);
    insert(range, at);
    range->used -= given;
    range->piece_count--;
    return (int64_t)given * range->granule_bytes;
}

/* Exact unless the largest class has more pieces than are looked at. */
static uint32_t largest_free(const tessi_segregated_t *range)
{
    if (!range->first_map) return 0;
    int first = 31 - __builtin_clz(range->first_map);
    class_t class = {first, 31 - __builtin_clz(range->second_map[first])};
    uint32_t largest = 0, at = range->heads[class.first][class.second];
    for (int steps = 0; at != NONE; at = range->pieces[at].next, steps++) {
        if (steps == LARGEST_STEPS) {
            uint32_t free = range->granules - range->used;
            return class_end(class) < free ? class_end(class) : free;
        }
        if (range->pieces[at].granules > largest) largest = range->pieces[at].granules;
    }
    return largest;
}

tessi_segregated_totals_t tessi_segregated_totals(const tessi_segregated_t *range)
{
    return (tessi_segregated_totals_t){
        .capacity_bytes = (int64_t)range->granules * range->granule_bytes,
        .used_bytes = (int64_t)range->used * range->granule_bytes,
        .high_water_bytes = (int64_t)range->high_water * range->granule_bytes,
        .largest_free_bytes = (int64_t)largest_free(range) * range->granule_bytes,
        .piece_count = range->piece_count,
        .steps_max = range->steps_max,
    };
}

int64_t tessi_segregated_next_used(const tessi_segregated_t *range, int64_t offset, int64_t *bytes)
{
    uint32_t at = (uint32_t)(offset / range->granule_bytes);
    for (; at < range->granules; at += range->pieces[at].granules) {
        if (range->pieces[at].previous != IN_USE) continue;
        *bytes = (int64_t)range->pieces[at].granules * range->granule_bytes;
        return (int64_t)at * range->granule_bytes;
    }
    return -1;
}

/* Every list holds free pieces of its class, linked both ways, and the bits tell which are empty.
 * Returns how many pieces there are, or -1. */
static int64_t verify_lists(const tessi_segregated_t *range)
{
    int64_t count = 0;
    for (int first = 0; first < FIRSTS; first++) {
        if ((range->first_map >> first & 1) != (range->second_map[first] != 0)) return -1;
        for (int second = 0; second < SECONDS; second++) {
            uint32_t at = range->heads[first][second], previous = NONE;
            if ((range->second_map[first] >> second & 1) != (at != NONE)) return -1;
            for (; at != NONE; previous = at, at = range->pieces[at].next, count++) {
                class_t class = class_of(range->pieces[at].granules);
                if (!is_free(range, at) || range->pieces[at].previous != previous ||
                    class.first != first || class.second != second || count > range->granules)
                    return -1;
            }
        }
    }
    return count;
}

tess_status_t tessi_segregated_verify(const tessi_segregated_t *range)
{
    int64_t free_count = 0, used_count = 0, used = 0;
    uint32_t before = 0;
    int after_free = 0;
    for (uint32_t at = 0; at < range->granules;) {
        const piece_t *piece = &range->pieces[at];
        if (piece->granules == 0 || piece->granules > range->granules - at ||
            piece->before != before || (after_free && is_free(range, at)))
            return tessi_fail(TESS_ERR_STATE, "segregated: the piece at granule %" PRIu32 " is bad",
                              at);
        after_free = is_free(range, at);
        if (after_free) free_count++;
        else used_count++, used += piece->granules;
        before = piece->granules;
        at += before;
    }
    int64_t listed = verify_lists(range);
    if (used != range->used || used_count != range->piece_count || listed != free_count)
        return tessi_fail(TESS_ERR_STATE,
                          "segregated: %" PRId64 " granules in %" PRId64 " pieces are in use, not "
                          "%" PRIu32 " in %" PRIu32 "; %" PRId64 " are free, and %" PRId64
                          " in lists",
                          used, used_count, range->used, range->piece_count, free_count, listed);
    return TESS_OK;
}
