/* SPDX-License-Identifier: Apache-2.0 */
/* Rank 0's side of communicators: compares the operations that their ranks issued, spreads
 * failures, and says who is behind.
 *
 * Invariant: a communicator is known from the first rank that watches it to the last that stops;
 * the window holds, for each of the last TESSI_WINDOW sequence numbers, what was issued first.
 */
#include <stdio.h>
#include <string.h>

#include "server.h"

static tessi_comm_entry_t *find(const tessi_server_t *server, uint64_t id)
{
    tessi_comm_entry_t *c = server->comms;
    while (c && c->id != id) c = c->next;
    return c;
}

static int index_of(const tessi_comm_entry_t *c, int rank)
{
    for (int n = 0; n < c->count; n++)
        if (c->ranks[n] == rank) return n;
    return -1;
}

static void destroy(tessi_comm_entry_t *c)
{
    tessi_free(c->ranks);
    tessi_free(c->is_watched);
    tessi_free(c->last);
    tessi_free(c->window);
    tessi_free(c);
}

static void forget(tessi_server_t *server, tessi_comm_entry_t *c)
{
    tessi_comm_entry_t **at = &server->comms;
    while (*at != c) at = &(*at)->next;
    *at = c->next;
    destroy(c);
}

void tessi_comms_destroy_all(tessi_server_t *server)
{
    while (server->comms) forget(server, server->comms);
}

static void forget_if_unwatched(tessi_server_t *server, tessi_comm_entry_t *c)
{
    for (int n = 0; n < c->count; n++)
        if (c->is_watched[n] && server->gone[c->ranks[n]] == TESSI_HERE) return;
    forget(server, c);
}

void tessi_comms_rank_gone(tessi_server_t *server, int rank)
{
    tessi_comm_entry_t *next;
    for (tessi_comm_entry_t *c = server->comms; c; c = next) {
        next = c->next;
        if (index_of(c, rank) >= 0) forget_if_unwatched(server, c);
    }
}

static tessi_comm_entry_t *create(tessi_server_t *server, const tessi_message_watch_t *message,
                                  const unsigned char *ranks)
{
    size_t count = (size_t)message->count;
    tessi_comm_entry_t *c = tessi_calloc(1, sizeof *c);
    if (!c) return NULL;
    c->id = message->comm_id;
    snprintf(c->name, sizeof c->name, "%.*s", (int)sizeof message->name - 1, message->name);
    c->count = message->count;
    c->ranks = tessi_calloc(count, sizeof *c->ranks);
    c->is_watched = tessi_calloc(count, 1);
    c->last = tessi_calloc(count, sizeof *c->last);
    if (!c->ranks || !c->is_watched || !c->last) {
        destroy(c);
        return NULL;
    }
    memcpy(c->ranks, ranks, count * sizeof *c->ranks);
    c->next = server->comms;
    server->comms = c;
    return c;
}

/* --- failures --------------------------------------------------------------------------------- */

/* To every rank of the communicator but `except`; to all where the communicator is not known. */
static void spread(tessi_server_t *server, const tessi_comm_entry_t *c, int except,
                   const tessi_message_failed_t *message)
{
    tessi_frame_t *frame = tessi_frame_create(TESSI_MESSAGE_FAILED, sizeof *message);
    if (!frame) return;
    memcpy(tessi_frame_payload(frame), message, sizeof *message);
    int count = c ? c->count : server->size;
    for (int n = 0; n < count; n++) {
        int rank = c ? c->ranks[n] : n;
        if (rank != except) tessi_server_send(server, rank, frame);
    }
    tessi_frame_release(frame);
}

int tessi_comms_take_failed(tessi_server_t *server, int rank, const unsigned char *payload,
                            size_t bytes)
{
    tessi_message_failed_t message;
    if (bytes != sizeof message) return -1;
    memcpy(&message, payload, sizeof message);
    message.detail[sizeof message.detail - 1] = '\0';
    tessi_comm_entry_t *c = find(server, message.comm_id);
    if (c) c->is_failed = 1;
    spread(server, c, rank, &message);
    return 0;
}

int tessi_comms_take_watch(tessi_server_t *server, int rank, const unsigned char *payload,
                           size_t bytes, int is_added)
{
    tessi_message_watch_t message;
    if (bytes < sizeof message) return -1;
    memcpy(&message, payload, sizeof message);
    message.name[sizeof message.name - 1] = '\0';
    const unsigned char *ranks = payload + sizeof message;
    if (message.count < 1 || message.count > server->size ||
        bytes != sizeof message + (size_t)message.count * sizeof(int32_t))
        return -1;
    for (int n = 0; n < message.count; n++) {
        int32_t member;
        memcpy(&member, ranks + (size_t)n * sizeof member, sizeof member);
        if (member < 0 || member >= server->size) return -1;
    }
    tessi_comm_entry_t *c = find(server, message.comm_id);
    if (!c && is_added) c = create(server, &message, ranks);
    if (!c) return 0; /* no memory: this communicator goes without comparison */
    int index = index_of(c, rank);
    if (index < 0) return 0;
    c->is_watched[index] = (unsigned char)is_added;
    if (!is_added) forget_if_unwatched(server, c);
    return 0;
}

/* --- records ---------------------------------------------------------------------------------- */

static int is_same_operation(const tessi_op_record_t *a, const tessi_op_record_t *b)
{
    return a->kind == b->kind && a->count == b->count && a->dtype == b->dtype &&
           a->reduction == b->reduction && a->root == b->root;
}

static void compare(tessi_server_t *server, tessi_comm_entry_t *c, int rank,
                    const tessi_op_record_t *record)
{
    tessi_window_slot_t *slot = &c->window[(uint64_t)record->sequence % TESSI_WINDOW];
    if (slot->record.sequence > record->sequence) return; /* too far behind to be compared */
    if (slot->record.sequence < record->sequence) {
        slot->record = *record;
        slot->rank = rank;
        return;
    }
    int is_same = is_same_operation(&slot->record, record);
    if (c->is_failed || (is_same && slot->record.history == record->history)) return;
    char first[128], first_op[96], second[128], second_op[96];
    tessi_message_failed_t message = {.comm_id = c->id, .status = TESS_ERR_MISMATCH};
    snprintf(message.detail, sizeof message.detail,
             "ranks disagree in communicator '%s': %s called %s, %s called %s%s", c->name,
             tessi_world_rank_text(server->world, slot->rank, first, sizeof first),
             tessi_op_text(&slot->record, first_op, sizeof first_op),
             tessi_world_rank_text(server->world, rank, second, sizeof second),
             tessi_op_text(record, second_op, sizeof second_op),
             is_same ? ", but they differ in an operation before it" : "");
    c->is_failed = 1;
    spread(server, c, -1, &message);
}

int tessi_comms_take_records(tessi_server_t *server, int rank, const unsigned char *payload,
                             size_t bytes)
{
    tessi_op_record_t record;
    if (bytes % sizeof record != 0) return -1;
    for (size_t at = 0; at < bytes; at += sizeof record) {
        memcpy(&record, payload + at, sizeof record);
        tessi_comm_entry_t *c = find(server, record.comm_id);
        int index = c ? index_of(c, rank) : -1;
        if (index < 0 || record.sequence < 1) continue;
        c->last[index] = record;
        if (!c->window) c->window = tessi_calloc(TESSI_WINDOW, sizeof *c->window);
        if (c->window) compare(server, c, rank, &record);
    }
    return 0;
}

/* --- diagnoses -------------------------------------------------------------------------------- */

static void op_name(const tessi_comm_entry_t *c, int64_t sequence, char *text, size_t bytes)
{
    const char *name = "operation";
    if (c->window) {
        const tessi_op_record_t *r = &c->window[(uint64_t)sequence % TESSI_WINDOW].record;
        if (r->sequence == sequence) name = tessi_op_name(r->kind);
    }
    snprintf(text, bytes, "%s %lld", name, (long long)sequence);
}

/* What keeps member `index` from operation `sequence`; 0 when nothing is known to. */
static int explain(const tessi_server_t *server, const tessi_comm_entry_t *c, int index,
                   const tessi_diagnose_t *d, char *text, size_t bytes)
{
    int rank = c->ranks[index];
    const tessi_op_record_t *last = &c->last[index];
    char who[128], wanted[64], done[64] = "";
    if (server->gone[rank] != TESSI_HERE) {
        tessi_server_gone_text(server, rank, text, bytes);
        return 1;
    }
    int is_silent = rank != 0 && rank != d->asker && server->pong_ns[rank] < d->asked_ns;
    int is_behind = last->sequence < d->question.sequence;
    tessi_world_rank_text(server->world, rank, who, sizeof who);
    op_name(c, d->question.sequence, wanted, sizeof wanted);
    if (last->sequence > 0)
        snprintf(done, sizeof done, "its last was %s %lld", tessi_op_name(last->kind),
                 (long long)last->sequence);
    if (is_behind)
        snprintf(text, bytes, "%s has not called %s; %s%s", who, wanted,
                 done[0] ? done : "it has called nothing yet",
                 is_silent ? ", and it does not answer (stopped, or its host is unreachable)" : "");
    else if (is_silent)
        snprintf(text, bytes,
                 "%s has called %s, but does not answer (stopped, or its host is unreachable)", who,
                 wanted);
    return is_behind || is_silent;
}

static void answer(tessi_server_t *server, tessi_diagnose_t *d)
{
    tessi_message_diagnosis_t message = {.number = d->question.number};
    tessi_comm_entry_t *c = find(server, d->question.comm_id);
    size_t length = 0, room = sizeof message.sentence;
    int asker = d->asker;
    for (int n = 0; c && n < c->count; n++) {
        char text[320];
        if (!explain(server, c, n, d, text, sizeof text)) continue;
        if (length + strlen(text) + 8 > room) {
            snprintf(message.sentence + length, room - length, "; …");
            break;
        }
        length += (size_t)snprintf(message.sentence + length, room - length, "%s%s",
                                   length > 0 ? "; " : "", text);
    }
    if (length == 0 && c) {
        char wanted[64];
        op_name(c, d->question.sequence, wanted, sizeof wanted);
        snprintf(message.sentence, room, "every rank of '%s' has called %s and answers", c->name,
                 wanted);
    } else if (!c) {
        snprintf(message.sentence, room, "rank 0 knows no such communicator");
    }
    d->asker = -1;
    tessi_frame_t *frame = tessi_frame_create(TESSI_MESSAGE_DIAGNOSIS, sizeof message);
    if (!frame) return;
    memcpy(tessi_frame_payload(frame), &message, sizeof message);
    tessi_server_send(server, asker, frame);
    tessi_frame_release(frame);
}

int tessi_comms_take_diagnose(tessi_server_t *server, int rank, const unsigned char *payload,
                              size_t bytes)
{
    tessi_diagnose_t now = {.asker = rank, .asked_ns = tessi_now_ns()};
    if (bytes != sizeof now.question) return -1;
    memcpy(&now.question, payload, sizeof now.question);
    tessi_comm_entry_t *c = find(server, now.question.comm_id);
    tessi_diagnose_t *free_slot = NULL;
    for (int n = 0; n < TESSI_DIAGNOSES_MAX; n++)
        if (server->diagnoses[n].asker < 0) free_slot = &server->diagnoses[n];
    tessi_frame_t *ping = c && free_slot ? tessi_frame_create(TESSI_MESSAGE_PING, 0) : NULL;
    if (!ping) {
        now.asked_ns = 0; /* nobody was asked, so nobody is said to be silent */
        answer(server, &now);
        return 0;
    }
    tessi_records_flush(server->world);
    for (int n = 0; n < c->count; n++)
        if (c->ranks[n] != 0 && c->ranks[n] != rank) tessi_server_send(server, c->ranks[n], ping);
    tessi_frame_release(ping);
    *free_slot = now;
    return 0;
}

static int has_everyone_answered(const tessi_server_t *server, const tessi_diagnose_t *d)
{
    const tessi_comm_entry_t *c = find(server, d->question.comm_id);
    for (int n = 0; c && n < c->count; n++) {
        int rank = c->ranks[n];
        if (rank != 0 && rank != d->asker && server->gone[rank] == TESSI_HERE &&
            server->pong_ns[rank] < d->asked_ns)
            return 0;
    }
    return 1;
}

void tessi_comms_tick(tessi_server_t *server)
{
    for (int n = 0; n < TESSI_DIAGNOSES_MAX; n++) {
        tessi_diagnose_t *d = &server->diagnoses[n];
        if (d->asker < 0) continue;
        int is_due = tessi_now_ns() - d->asked_ns >= TESSI_PING_MS * INT64_C(1000000);
        if (is_due || has_everyone_answered(server, d)) answer(server, d);
    }
}
