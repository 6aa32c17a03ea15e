/* SPDX-License-Identifier: Apache-2.0 */
/* Rank 0's side of the control plane: every rank's connection, and who is still here.
 *
 * Invariant: a rank is here, has left (it said goodbye), or is lost (its connection ended without
 * that), and moves only forward; whoever waits for a rank is told in the same breath. Sending never
 * removes a rank at once, but marks it broken, so that no loop over ranks is disturbed.
 */
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

tess_status_t tessi_server_create(tess_world_t *world, tessi_server_t **server)
{
    size_t size = (size_t)world->size;
    tessi_server_t *s = tessi_calloc(1, sizeof *s);
    if (!s) return TESS_ERR_OUT_OF_MEMORY;
    s->world = world;
    s->size = world->size;
    s->links = tessi_calloc(size, sizeof *s->links);
    s->gone = tessi_calloc(size, 1);
    s->gone_error = tessi_calloc(size, sizeof *s->gone_error);
    s->broken = tessi_calloc(size, 1);
    s->pong_ns = tessi_calloc(size, sizeof *s->pong_ns);
    for (int n = 0; n < TESSI_DIAGNOSES_MAX; n++) s->diagnoses[n].asker = -1;
    if (s->links)
        for (int r = 0; r < s->size; r++) s->links[r].fd = -1;
    s->marks = tessi_calloc(size, 1);
    if (!s->links || !s->gone || !s->gone_error || !s->broken || !s->pong_ns || !s->marks) {
        tessi_server_destroy(s);
        return TESS_ERR_OUT_OF_MEMORY;
    }
    *server = s;
    return TESS_OK;
}

void tessi_server_destroy(tessi_server_t *server)
{
    if (!server) return;
    tessi_exchange_destroy_all(server);
    tessi_comms_destroy_all(server);
    if (server->links)
        for (int r = 0; r < server->size; r++) tessi_link_close(&server->links[r]);
    tessi_free(server->links);
    tessi_free(server->gone);
    tessi_free(server->gone_error);
    tessi_free(server->broken);
    tessi_free(server->pong_ns);
    tessi_free(server->marks);
    tessi_free(server);
}

tessi_link_t *tessi_server_links(tessi_server_t *server)
{
    return server->links;
}

tessi_gone_t tessi_server_rank_gone(const tessi_server_t *server, int rank)
{
    return (tessi_gone_t)server->gone[rank];
}

void tessi_server_send(tessi_server_t *server, int rank, tessi_frame_t *frame)
{
    if (rank == 0) {
        (void)tessi_control_take(server->world, &frame->header, tessi_frame_payload(frame));
        return;
    }
    tessi_link_t *link = &server->links[rank];
    if (link->fd < 0 || server->broken[rank]) return;
    if (tessi_link_send(link, frame) != 0) {
        server->broken[rank] = 1;
        server->gone_error[rank] = errno;
    }
    if (server->broken[rank] || link->queue_count > 0) tessi_control_wake(server->world);
}

const char *tessi_server_gone_text(const tessi_server_t *server, int rank, char *text, size_t bytes)
{
    return tessi_gone_text(server->world, rank, (tessi_gone_t)server->gone[rank],
                           server->gone_error[rank], text, bytes);
}

const char *tessi_server_marked_text(const tessi_server_t *server, char *text, size_t bytes)
{
    int total = 0, named = 0;
    for (int r = 0; r < server->size; r++) total += server->marks[r] == 1;
    if (total > 3) return tessi_ranks_text(server->marks, server->size, 1, text, bytes);
    size_t length = 0;
    text[0] = '\0';
    for (int r = 0; r < server->size && length < bytes; r++) {
        if (server->marks[r] != 1) continue;
        char who[128];
        named++;
        length += (size_t)snprintf(text + length, bytes - length, "%s%s",
                                   named == 1       ? ""
                                   : named == total ? " and "
                                                    : ", ",
                                   tessi_world_rank_text(server->world, r, who, sizeof who));
    }
    return text;
}

/* To every other rank that is here. */
static void spread(tessi_server_t *server, tessi_frame_t *frame)
{
    for (int r = 1; frame && r < server->size; r++)
        if (server->gone[r] == TESSI_HERE) tessi_server_send(server, r, frame);
    tessi_frame_release(frame);
}

/* Leaving is no failure: it is told only so that those who wait in vain can say why. */
static void tell_left(tessi_server_t *server, int rank)
{
    tessi_message_left_t message = {.rank = rank};
    server->world->gone[rank] = TESSI_LEFT;
    tessi_frame_t *frame = tessi_frame_create(TESSI_MESSAGE_LEFT, sizeof message);
    if (frame) memcpy(tessi_frame_payload(frame), &message, sizeof message);
    spread(server, frame);
}

static void tell_lost(tessi_server_t *server, int rank, int error)
{
    tessi_message_lost_t message = {.rank = rank, .error = error};
    tessi_watch_rank_lost(server->world, rank, error);
    tessi_frame_t *frame = tessi_frame_create(TESSI_MESSAGE_LOST, sizeof message);
    if (frame) memcpy(tessi_frame_payload(frame), &message, sizeof message);
    spread(server, frame);
}

static void rank_gone(tessi_server_t *server, int rank, tessi_gone_t how, int error)
{
    if (server->gone[rank] != TESSI_HERE) return;
    server->gone[rank] = (unsigned char)how;
    server->gone_error[rank] = error;
    tessi_link_close(&server->links[rank]);
    if (how == TESSI_LOST) tell_lost(server, rank, error);
    else tell_left(server, rank);
    tessi_exchange_rank_gone(server, rank);
    tessi_comms_rank_gone(server, rank);
    pthread_cond_broadcast(&server->world->changed);
}

void tessi_server_leave(tessi_server_t *server)
{
    rank_gone(server, 0, TESSI_LEFT, 0);
}

int tessi_server_take(tessi_server_t *server, int rank, const tessi_header_t *header,
                      const unsigned char *payload)
{
    size_t bytes = header->bytes;
    switch (header->type) {
    case TESSI_MESSAGE_POST:
        return tessi_exchange_take_post(server, rank, payload, bytes);
    case TESSI_MESSAGE_GIVE_UP:
        return tessi_exchange_take_give_up(server, rank, payload, bytes);
    case TESSI_MESSAGE_WATCH:
        return tessi_comms_take_watch(server, rank, payload, bytes, 1);
    case TESSI_MESSAGE_UNWATCH:
        return tessi_comms_take_watch(server, rank, payload, bytes, 0);
    case TESSI_MESSAGE_FAILED:
        return tessi_comms_take_failed(server, rank, payload, bytes);
    case TESSI_MESSAGE_RECORDS:
        return tessi_comms_take_records(server, rank, payload, bytes);
    case TESSI_MESSAGE_DIAGNOSE:
        return tessi_comms_take_diagnose(server, rank, payload, bytes);
    case TESSI_MESSAGE_PONG:
        server->pong_ns[rank] = tessi_now_ns();
        return 0;
    case TESSI_MESSAGE_GOODBYE:
        rank_gone(server, rank, TESSI_LEFT, 0);
        return 0;
    default:
        return -1;
    }
}

typedef struct speaker {
    tessi_server_t *server;
    int rank;
} speaker_t;

static int take_from_rank(void *context, const tessi_header_t *header, const unsigned char *payload)
{
    speaker_t *speaker = context;
    int answer = tessi_server_take(speaker->server, speaker->rank, header, payload);
    /* A goodbye has closed the link, and its buffers with it. */
    return answer == 0 && speaker->server->gone[speaker->rank] != TESSI_HERE ? 1 : answer;
}

void tessi_server_serve(tessi_server_t *server, int rank, short events)
{
    tessi_link_t *link = &server->links[rank];
    speaker_t speaker = {server, rank};
    if (link->fd < 0) return;
    /* Read first: a rank that said goodbye and closed is no loss, even where sending to it fails.
     */
    int broken = 0;
    if (events & ~POLLOUT) broken = tessi_link_receive(link, take_from_rank, &speaker);
    if (link->fd < 0) return;
    if (broken == 0 && (events & POLLOUT)) broken = tessi_link_flush(link);
    if (broken != 0) rank_gone(server, rank, TESSI_LOST, errno);
}

void tessi_server_tick(tessi_server_t *server)
{
    for (int r = 1; r < server->size; r++) {
        if (!server->broken[r]) continue;
        /* Perhaps its goodbye is still to be read. */
        speaker_t speaker = {server, r};
        tessi_link_t *link = &server->links[r];
        if (link->fd >= 0) (void)tessi_link_receive(link, take_from_rank, &speaker);
        server->broken[r] = 0;
        rank_gone(server, r, TESSI_LOST, server->gone_error[r]);
    }
    tessi_comms_tick(server);
}

void tessi_server_say_goodbye(tessi_server_t *server)
{
    spread(server, tessi_frame_create(TESSI_MESSAGE_GOODBYE, 0));
}
