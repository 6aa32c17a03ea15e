/* SPDX-License-Identifier: Apache-2.0 */
/* Communicators' mailboxes for failures, and the ring of operations that rank 0 compares.
 *
 * Invariant: a watch's status is written once, after its detail, under the world's lock; a record
 * costs its caller one short lock and no memory, and when nobody fetches them the oldest are lost.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control.h"

/* Records that travel in one message. */
#define RECORDS_AT_ONCE 128
/* While this many messages to rank 0 are unsent, records stay in the ring. */
#define UNSENT_MAX 8

/* --- watches ---------------------------------------------------------------------------------- */

/* With the lock. 1 when the watch had no status yet. */
static int set_status(tessi_watch_t *watch, tess_status_t status, const char *detail)
{
    if (atomic_load_explicit(&watch->status, memory_order_relaxed) != TESS_OK) return 0;
    snprintf(watch->detail, sizeof watch->detail, "%s", detail);
    atomic_store_explicit(&watch->status, (int)status, memory_order_release);
    return 1;
}

static int holds_rank(const tessi_watch_t *watch, int rank)
{
    for (int n = 0; n < watch->group.count; n++)
        if (watch->group.ranks[n] == rank) return 1;
    return 0;
}

const char *tessi_gone_text(const tess_world_t *world, int rank, tessi_gone_t how, int error,
                            char *text, size_t bytes)
{
    char who[128];
    tessi_world_rank_text(world, rank, who, sizeof who);
    if (how == TESSI_LEFT) snprintf(text, bytes, "%s has closed its world", who);
    else if (error == EPROTO) snprintf(text, bytes, "%s sent a message that makes no sense", who);
    else if (error == 0 || error == ECONNRESET || error == EPIPE)
        snprintf(text, bytes, "%s ended without closing its world", who);
    else snprintf(text, bytes, "%s cannot be reached any more (%s)", who, strerror(error));
    return text;
}

void tessi_watch_rank_lost(tess_world_t *world, int rank, int error)
{
    char sentence[TESSI_SENTENCE_BYTES];
    if (world->gone[rank] == TESSI_LOST) return;
    world->gone[rank] = TESSI_LOST;
    world->gone_error[rank] = error;
    tessi_gone_text(world, rank, TESSI_LOST, error, sentence, sizeof sentence);
    if (world->status == TESS_OK) {
        memcpy(world->detail, sentence, sizeof world->detail);
        world->status = TESS_ERR_PEER_LOST;
    }
    for (tessi_watch_t *w = world->watches; w; w = w->next)
        if (holds_rank(w, rank)) (void)set_status(w, TESS_ERR_PEER_LOST, sentence);
    pthread_cond_broadcast(&world->changed);
}

void tessi_watch_take_failure(tess_world_t *world, uint64_t comm_id, tess_status_t status,
                              const char *detail)
{
    tessi_past_failure_t *past = &world->past[world->past_next];
    world->past_next = (world->past_next + 1) % TESSI_PAST_FAILURES;
    past->comm_id = comm_id;
    past->status = (int)status;
    snprintf(past->detail, sizeof past->detail, "%s", detail);
    for (tessi_watch_t *w = world->watches; w; w = w->next)
        if (w->comm_id == comm_id) (void)set_status(w, status, detail);
    pthread_cond_broadcast(&world->changed);
}

/* Tells rank 0 that the communicator exists, or no longer does. Where there is no memory for the
 * message, rank 0 cannot compare or diagnose this communicator; everything else works. */
static void announce(tess_world_t *world, const tessi_watch_t *watch, tessi_message_t type)
{
    tessi_message_watch_t message = {.comm_id = watch->comm_id, .count = watch->group.count};
    size_t ranks_bytes = (size_t)watch->group.count * sizeof(int32_t);
    tessi_frame_t *frame = tessi_frame_create(type, sizeof message + ranks_bytes);
    if (!frame) return;
    snprintf(message.name, sizeof message.name, "%s", watch->name ? watch->name : "");
    memcpy(tessi_frame_payload(frame), &message, sizeof message);
    memcpy(tessi_frame_payload(frame) + sizeof message, watch->group.ranks, ranks_bytes);
    (void)tessi_control_send(world, frame);
    tessi_frame_release(frame);
}

void tessi_watch_add(tess_world_t *world, tessi_watch_t *watch)
{
    pthread_mutex_lock(&world->lock);
    watch->next = world->watches;
    world->watches = watch;
    for (int n = 0; n < TESSI_PAST_FAILURES; n++) {
        const tessi_past_failure_t *past = &world->past[n];
        if (past->status != TESS_OK && past->comm_id == watch->comm_id)
            (void)set_status(watch, (tess_status_t)past->status, past->detail);
    }
    for (int n = 0; n < watch->group.count; n++) {
        int rank = watch->group.ranks[n];
        if (world->gone[rank] != TESSI_LOST) continue;
        char sentence[TESSI_SENTENCE_BYTES];
        tessi_gone_text(world, rank, TESSI_LOST, world->gone_error[rank], sentence,
                        sizeof sentence);
        (void)set_status(watch, TESS_ERR_PEER_LOST, sentence);
    }
    if (world->size > 1) announce(world, watch, TESSI_MESSAGE_WATCH);
    pthread_mutex_unlock(&world->lock);
}

void tessi_watch_remove(tess_world_t *world, tessi_watch_t *watch)
{
    pthread_mutex_lock(&world->lock);
    for (tessi_watch_t **at = &world->watches; *at; at = &(*at)->next) {
        if (*at != watch) continue;
        *at = watch->next;
        watch->next = NULL;
        if (world->size > 1) {
            tessi_records_flush(world);
            announce(world, watch, TESSI_MESSAGE_UNWATCH);
        }
        break;
    }
    pthread_mutex_unlock(&world->lock);
}

/* With the lock: who of the communicator has closed its world is most often why a wait ended by its
 * deadline, unless the detail says so already. */
static void add_who_left(const tess_world_t *world, const tessi_watch_t *watch, char *text,
                         size_t bytes)
{
    char sentence[TESSI_SENTENCE_BYTES];
    for (int n = 0; n < watch->group.count; n++) {
        int rank = watch->group.ranks[n];
        if (rank == world->rank || world->gone[rank] != TESSI_LEFT) continue;
        tessi_gone_text(world, rank, TESSI_LEFT, 0, sentence, sizeof sentence);
        size_t length = strlen(text);
        if (!strstr(text, sentence)) snprintf(text + length, bytes - length, "; %s", sentence);
    }
}

void tessi_watch_fail(tess_world_t *world, tessi_watch_t *watch, tess_status_t status,
                      const char *detail)
{
    char text[sizeof watch->detail];
    snprintf(text, sizeof text, "%s", detail);
    pthread_mutex_lock(&world->lock);
    if (status == TESS_ERR_TIMEOUT) add_who_left(world, watch, text, sizeof text);
    int is_first = set_status(watch, status, text);
    if (is_first) pthread_cond_broadcast(&world->changed);
    if (is_first && world->size > 1) {
        int others = status == TESS_ERR_MISMATCH ? TESS_ERR_MISMATCH : TESS_ERR_PEER_LOST;
        tessi_message_failed_t message = {.comm_id = watch->comm_id, .status = others};
        snprintf(message.detail, sizeof message.detail, "%s", text);
        tessi_frame_t *frame = tessi_frame_create(TESSI_MESSAGE_FAILED, sizeof message);
        /* Without memory or connection the others find out by their own deadline. */
        if (frame) {
            memcpy(tessi_frame_payload(frame), &message, sizeof message);
            (void)tessi_control_send(world, frame);
            tessi_frame_release(frame);
        }
    }
    pthread_mutex_unlock(&world->lock);
}

tess_status_t tessi_watch_status(tessi_watch_t *watch)
{
    int status = atomic_load_explicit(&watch->status, memory_order_acquire);
    if (status == TESS_OK) return TESS_OK;
    return tessi_fail((tess_status_t)status, "%s", watch->detail);
}

/* --- records ---------------------------------------------------------------------------------- */

void tessi_world_record(tess_world_t *world, const tessi_watch_t *watch,
                        const tessi_op_record_t *record)
{
    if (watch->group.count == 1) return; /* there is nothing to compare it with */
    pthread_mutex_lock(&world->record_lock);
    world->records[world->record_head % TESSI_RECORD_RING] = *record;
    world->record_head++;
    int is_filling = world->record_head - world->record_tail == TESSI_RECORD_RING / 4;
    if (world->record_head - world->record_tail > TESSI_RECORD_RING)
        world->record_tail = world->record_head - TESSI_RECORD_RING;
    pthread_mutex_unlock(&world->record_lock);
    int is_first = !atomic_load_explicit(&world->is_recording, memory_order_relaxed) &&
                   !atomic_exchange(&world->is_recording, 1);
    if (is_filling) atomic_store(&world->is_record_ring_filling, 1);
    if (is_first || is_filling) tessi_control_wake(world);
}

/* Takes at most `most` records out of the ring. */
static int fetch_records(tess_world_t *world, tessi_op_record_t *to, int most)
{
    int count = 0;
    pthread_mutex_lock(&world->record_lock);
    while (count < most && world->record_tail != world->record_head)
        to[count++] = world->records[world->record_tail++ % TESSI_RECORD_RING];
    pthread_mutex_unlock(&world->record_lock);
    return count;
}

void tessi_records_flush(tess_world_t *world)
{
    tessi_op_record_t batch[RECORDS_AT_ONCE];
    for (;;) {
        if (world->rank != 0 && (world->link.fd < 0 || world->link.queue_count > UNSENT_MAX))
            return;
        int count = fetch_records(world, batch, RECORDS_AT_ONCE);
        if (count == 0) return;
        size_t bytes = (size_t)count * sizeof batch[0];
        tessi_frame_t *frame = tessi_frame_create(TESSI_MESSAGE_RECORDS, bytes);
        if (!frame) return;
        memcpy(tessi_frame_payload(frame), batch, bytes);
        (void)tessi_control_send(world, frame);
        tessi_frame_release(frame);
    }
}
