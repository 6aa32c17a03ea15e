/* SPDX-License-Identifier: Apache-2.0 */
/* The board of path `direct`: every rank has a segment that all others map, with what it is doing
 * at its start and staging memory behind it; and the segments of tess_comm_allocate.
 *
 * A rank posts each operation, waits until all peers have posted theirs, and compares; then ranks
 * follow each other's step counters. A counter holds sequence and step, hence only ever grows, and
 * a peer that has gone on to the next operation has passed every step of this one.
 * Invariants: two slots suffice for postings, since a rank posts operation s + 2 only after all
 * peers have posted s + 1, which they do only when done with s; and what is stored before a counter
 * is raised is seen by whoever saw it raised.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ucx_internal.h"

#define STEP_BITS 28
#define CACHE_BYTES_UNKNOWN ((int64_t)32 << 20)

/* --- opening ---------------------------------------------------------------------------------- */

/* The last cache level as sysfs has it: sysconf reports what the hypervisor makes up. */
static int64_t last_cache_bytes(void)
{
    int64_t largest = 0;
    for (int i = 0; i < 8; i++) {
        char path[96];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        FILE *file = fopen(path, "r");
        if (!file) break;
        long kib = 0;
        char unit = 0;
        if (fscanf(file, "%ld%c", &kib, &unit) == 2) {
            int64_t bytes = (int64_t)kib << (unit == 'M' ? 20 : 10);
            if (bytes > largest) largest = bytes;
        }
        fclose(file);
    }
    return largest > 0 ? largest : CACHE_BYTES_UNKNOWN;
}

static void free_direct(tessi_direct_t *direct)
{
    tessi_free(direct->sources);
    tessi_free(direct->recv_at);
    tessi_free(direct->send_at);
    tessi_free(direct->stages);
    tessi_free(direct->boards);
    tessi_free(direct);
}

static tess_status_t create_direct(int ranks, tessi_direct_t **created)
{
    size_t size = (size_t)ranks;
    tessi_direct_t *direct = tessi_calloc(1, sizeof *direct);
    if (!direct) return TESS_ERR_OUT_OF_MEMORY;
    direct->boards = tessi_calloc(size, sizeof *direct->boards);
    direct->stages = tessi_calloc(size, sizeof *direct->stages);
    direct->send_at = tessi_calloc(size, sizeof *direct->send_at);
    direct->recv_at = tessi_calloc(size, sizeof *direct->recv_at);
    direct->sources = tessi_calloc(size, sizeof *direct->sources);
    if (!direct->boards || !direct->stages || !direct->send_at || !direct->recv_at ||
        !direct->sources) {
        free_direct(direct);
        return TESS_ERR_OUT_OF_MEMORY;
    }
    direct->cache_bytes = last_cache_bytes();
    *created = direct;
    return TESS_OK;
}

tess_status_t tessi_direct_open(tessi_ucx_t *ucx)
{
    tess_comm_t *comm = ucx->comm;
    tessi_direct_t *direct = NULL;
    tess_status_t status = tessi_comm_agree(comm, "ucx board", create_direct(comm->size, &direct));
    if (status < 0 || !direct) goto err_free;
    /* New segments are zeroed by the kernel, so the board needs no other beginning. */
    TESS_TRY(tessi_segment_offer(ucx, "ucx board", TESSI_STAGE_OFFSET + 2 * TESSI_STAGE_HALF_BYTES,
                                 NULL, 0, &direct->own),
             err_free);
    TESS_TRY(tessi_segment_join(ucx, "ucx board", direct->own), err_own);
    for (int r = 0; r < comm->size; r++) {
        char *base = r == comm->rank ? direct->own->base : direct->own->peers[r].base;
        direct->boards[r] = (tessi_board_t *)(void *)base;
        direct->stages[r] = base + TESSI_STAGE_OFFSET;
    }
    pthread_mutex_init(&direct->lock, NULL);
    ucx->direct = direct;
    return TESS_OK;

err_own:
    tessi_segment_destroy(ucx, direct->own);
err_free:
    if (direct) free_direct(direct);
    return status;
}

void tessi_direct_close(tessi_ucx_t *ucx)
{
    tessi_direct_t *direct = ucx->direct;
    for (int s = 0; s < direct->segment_end; s++)
        if (direct->segments[s]) tessi_segment_destroy(ucx, direct->segments[s]);
    tessi_segment_destroy(ucx, direct->own);
    pthread_mutex_destroy(&direct->lock);
    free_direct(direct);
    ucx->direct = NULL;
}

/* --- the caller's segments -------------------------------------------------------------------- */

static int is_live(const tessi_direct_t *direct, int rank, int segment)
{
    return atomic_load_explicit(&direct->boards[rank]->live[segment], memory_order_acquire);
}

/* A rank frees its part alone; the others keep theirs mapped until they come here, which is when
 * they allocate or free, so the memory of a freed segment returns to the system a little later. */
static void reap_segments(tessi_ucx_t *ucx)
{
    tessi_direct_t *direct = ucx->direct;
    pthread_mutex_lock(&direct->lock);
    for (int s = 0; s < direct->segment_end; s++) {
        tessi_segment_t *segment = direct->segments[s];
        if (!segment) continue;
        int in_use = segment->handle != NULL;
        for (int r = 0; r < ucx->comm->size; r++) {
            if (!segment->peers[r].key) continue;
            if (is_live(direct, r, s)) in_use = 1;
            else tessi_segment_drop_peer(segment, r);
        }
        if (in_use) continue;
        tessi_free(segment);
        direct->segments[s] = NULL;
    }
    pthread_mutex_unlock(&direct->lock);
}

static int first_free(const unsigned char *occupied)
{
    for (int s = 0; s < TESSI_SEGMENTS_MAX; s++)
        if (!(occupied[s / 8] & (1u << (s % 8)))) return s;
    return -1;
}

tess_status_t tessi_direct_allocate(tessi_ucx_t *ucx, int64_t bytes, void **pointer)
{
    tessi_direct_t *direct = ucx->direct;
    unsigned char occupied[TESSI_SEGMENTS_MAX / 8] = {0};
    /* Not while an operation runs: after a failure it may still be in a peer's freed memory. */
    tessi_turns_when_idle(ucx->turns, reap_segments, ucx);
    for (int s = 0; s < TESSI_SEGMENTS_MAX; s++)
        if (direct->segments[s]) occupied[s / 8] |= (unsigned char)(1u << (s % 8));
    tessi_segment_t *segment = NULL;
    tess_status_t status =
        tessi_segment_offer(ucx, "comm_allocate", bytes, occupied, (int)sizeof occupied, &segment);
    if (status < 0) return status;
    int slot = first_free(occupied); /* the same on all ranks */
    if (slot < 0) {
        status = tessi_fail(TESS_ERR_OUT_OF_MEMORY,
                            "communicator %s: %d buffers of tess_comm_allocate are in use already",
                            ucx->comm->name, TESSI_SEGMENTS_MAX);
        goto err_segment;
    }
    /* Before the others can know it: they would take a part that is not live for a freed one. */
    _Atomic unsigned char *live = &direct->boards[ucx->comm->rank]->live[slot];
    atomic_store_explicit(live, 1, memory_order_release);
    TESS_TRY(tessi_segment_join(ucx, "comm_allocate", segment), err_live);
    pthread_mutex_lock(&direct->lock);
    direct->segments[slot] = segment;
    if (slot >= direct->segment_end) direct->segment_end = slot + 1;
    pthread_mutex_unlock(&direct->lock);
    *pointer = segment->base;
    return TESS_OK;

err_live:
    atomic_store_explicit(live, 0, memory_order_release);
err_segment:
    tessi_segment_destroy(ucx, segment);
    return status;
}

void tessi_direct_free(tessi_ucx_t *ucx, void *pointer)
{
    tessi_direct_t *direct = ucx->direct;
    for (int s = 0; s < direct->segment_end; s++) {
        tessi_segment_t *segment = direct->segments[s];
        if (!segment || !segment->handle || segment->base != pointer) continue;
        pthread_mutex_lock(&direct->lock);
        tessi_segment_free_own(ucx, segment);
        pthread_mutex_unlock(&direct->lock);
        atomic_store_explicit(&direct->boards[ucx->comm->rank]->live[s], 0, memory_order_release);
        tessi_turns_when_idle(ucx->turns, reap_segments, ucx);
        return;
    }
    tessi_log(TESSI_LOG_ERROR, "tess_comm_free: %p is no buffer of communicator %s", pointer,
              ucx->comm->name);
}

tessi_spot_t tessi_direct_place(tessi_ucx_t *ucx, const void *pointer, int64_t bytes)
{
    tessi_direct_t *direct = ucx->direct;
    for (int s = 0; s < direct->segment_end; s++) {
        const tessi_segment_t *segment = direct->segments[s];
        if (!segment || !segment->handle) continue;
        uintptr_t start = (uintptr_t)segment->base, at = (uintptr_t)pointer;
        if (bytes > segment->bytes || at < start) continue;
        if (at - start > (uintptr_t)(segment->bytes - bytes)) continue;
        return (tessi_spot_t){.segment = s, .offset = (int64_t)(at - start)};
    }
    return (tessi_spot_t){.segment = -1};
}

/* --- waiting ---------------------------------------------------------------------------------- */

static int64_t counter_of(const tessi_ucx_op_t *queued, int64_t step)
{
    return queued->op.record.sequence << STEP_BITS | step;
}

static const char *last_posting(const tessi_board_t *board, char *text, size_t bytes)
{
    const tessi_posting_t *latest = &board->slots[0].posting, *other = &board->slots[1].posting;
    if (atomic_load_explicit(&other->sequence, memory_order_acquire) >
        atomic_load_explicit(&latest->sequence, memory_order_acquire))
        latest = other;
    char op[128];
    if (atomic_load_explicit(&latest->sequence, memory_order_acquire) == 0)
        snprintf(text, bytes, " has not called it; it has called nothing yet");
    else
        snprintf(text, bytes, " has not called it; its last was %s",
                 tessi_op_text(&latest->record, op, sizeof op));
    return text;
}

static int has_posted(const tessi_ucx_t *ucx, int rank, int64_t sequence)
{
    const tessi_board_t *board = ucx->direct->boards[rank];
    return atomic_load_explicit(&board->slots[sequence & 1].posting.sequence,
                                memory_order_acquire) >= sequence;
}

typedef enum awaited { AWAIT_POSTING, AWAIT_SUPPLY, AWAIT_TAKING } awaited_t;

/* Whether rank has come as far as `target`. */
static int has_come(const tessi_ucx_t *ucx, int rank, awaited_t what, int64_t target)
{
    const tessi_board_t *board = ucx->direct->boards[rank];
    if (what == AWAIT_POSTING) return has_posted(ucx, rank, target);
    const _Atomic int64_t *counter = what == AWAIT_SUPPLY ? &board->supplied : &board->taken;
    return atomic_load_explicit(counter, memory_order_acquire) >= target;
}

static tess_status_t fail_late(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, awaited_t what,
                               int64_t target)
{
    tessi_rank_list_t late = {.count = 0};
    for (int r = 0; r < ucx->comm->size; r++) {
        char remark[200];
        if (r == ucx->comm->rank || has_come(ucx, r, what, target)) continue;
        if (what == AWAIT_POSTING) last_posting(ucx->direct->boards[r], remark, sizeof remark);
        else snprintf(remark, sizeof remark, " began it and then stopped");
        tessi_rank_list_add(&late, ucx, r, remark);
    }
    return tessi_ucx_fail(ucx, &queued->op.record, TESS_ERR_TIMEOUT, "after %d ms %s",
                          ucx->comm->timeout_ms,
                          late.count > 0 ? late.text : "this rank was held up");
}

static tess_status_t wait_for(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int rank,
                              awaited_t what, int64_t target)
{
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    while (!has_come(ucx, rank, what, target)) {
        if (tessi_ucx_has_failed(ucx)) return tessi_ucx_interrupted(ucx, &queued->op.record);
        /* Only once it takes long enough for the clock to be worth reading. */
        if (backoff.first_ns != 0 && tessi_now_ns() >= ucx->direct->deadline_ns)
            return fail_late(ucx, queued, what, target);
        tessi_backoff_pause(&backoff);
    }
    return TESS_OK;
}

static tess_status_t wait_for_all(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, awaited_t what,
                                  int64_t target)
{
    int size = ucx->comm->size;
    for (int i = 1; i < size; i++) {
        tess_status_t status = wait_for(ucx, queued, (ucx->comm->rank + i) % size, what, target);
        if (status < 0) return status;
    }
    return TESS_OK;
}

void tessi_board_supply(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int64_t step)
{
    atomic_store_explicit(&ucx->direct->boards[ucx->comm->rank]->supplied, counter_of(queued, step),
                          memory_order_release);
}

void tessi_board_take(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int64_t step)
{
    atomic_store_explicit(&ucx->direct->boards[ucx->comm->rank]->taken, counter_of(queued, step),
                          memory_order_release);
}

tess_status_t tessi_board_wait_supplied(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int peer,
                                        int64_t step)
{
    return wait_for(ucx, queued, peer, AWAIT_SUPPLY, counter_of(queued, step));
}

tess_status_t tessi_board_wait_all_supplied(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued,
                                            int64_t step)
{
    return wait_for_all(ucx, queued, AWAIT_SUPPLY, counter_of(queued, step));
}

tess_status_t tessi_board_wait_all_taken(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued,
                                         int64_t step)
{
    if (step <= 0) return TESS_OK; /* before the first step there is nothing to wait for */
    return wait_for_all(ucx, queued, AWAIT_TAKING, counter_of(queued, step));
}

/* --- meeting ---------------------------------------------------------------------------------- */

static void post(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued)
{
    int64_t sequence = queued->op.record.sequence;
    tessi_posting_t *posting = &ucx->direct->boards[ucx->comm->rank]->slots[sequence & 1].posting;
    posting->record = queued->op.record;
    posting->send = queued->send;
    posting->recv = queued->recv;
    atomic_store_explicit(&posting->sequence, sequence, memory_order_release);
}

static char *locate(const tessi_direct_t *direct, int rank, tessi_spot_t place)
{
    if (place.segment < 0) return NULL;
    const tessi_segment_t *segment = direct->segments[place.segment];
    return segment && segment->peers[rank].base ? segment->peers[rank].base + place.offset : NULL;
}

static void find_buffers(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued)
{
    tessi_direct_t *direct = ucx->direct;
    int rank = ucx->comm->rank;
    direct->all_send = queued->send.segment >= 0;
    direct->all_recv = queued->recv.segment >= 0;
    pthread_mutex_lock(&direct->lock);
    for (int r = 0; r < ucx->comm->size; r++) {
        if (r == rank) continue;
        const tessi_posting_t *posting =
            &direct->boards[r]->slots[queued->op.record.sequence & 1].posting;
        direct->send_at[r] = locate(direct, r, posting->send);
        direct->recv_at[r] = locate(direct, r, posting->recv);
        direct->all_send &= posting->send.segment >= 0;
        direct->all_recv &= posting->recv.segment >= 0;
    }
    pthread_mutex_unlock(&direct->lock);
    direct->send_at[rank] = (char *)queued->op.send;
    direct->recv_at[rank] = queued->op.recv;
}

tess_status_t tessi_board_meet(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued)
{
    tessi_direct_t *direct = ucx->direct;
    const tessi_op_record_t *mine = &queued->op.record;
    direct->deadline_ns = tessi_deadline_ns(ucx->comm->timeout_ms);
    post(ucx, queued);
    tess_status_t status = wait_for_all(ucx, queued, AWAIT_POSTING, mine->sequence);
    for (int r = 0; status == TESS_OK && r < ucx->comm->size; r++) {
        if (r == ucx->comm->rank) continue;
        status = tessi_ucx_compare(ucx, mine, r,
                                   &direct->boards[r]->slots[mine->sequence & 1].posting.record);
    }
    if (status == TESS_OK) find_buffers(ucx, queued);
    return status;
}
