/* SPDX-License-Identifier: Apache-2.0 */
/* Rank 0's side of exchanges: collects what the ranks of a group post under one key, and answers
 * all of them at once.
 *
 * Invariant: an exchange either completes for all its members or fails for all of them, also for
 * those that come later; it is forgotten when every member was answered or is gone.
 */
#include <stdio.h>
#include <string.h>

#include "server.h"

enum { WAITED_FOR = 0, CAME = 1, TOLD = 2 };

static tessi_exchange_t *find(const tessi_server_t *server, const char *key)
{
    tessi_exchange_t *e = server->exchanges;
    while (e && strcmp(e->key, key) != 0) e = e->next;
    return e;
}

static void destroy(tessi_exchange_t *e)
{
    tessi_frame_release(e->answer);
    tessi_free(e->ranks);
    tessi_free(e->came);
    tessi_free(e);
}

static void forget(tessi_server_t *server, tessi_exchange_t *e)
{
    tessi_exchange_t **at = &server->exchanges;
    while (*at != e) at = &(*at)->next;
    *at = e->next;
    destroy(e);
}

void tessi_exchange_destroy_all(tessi_server_t *server)
{
    while (server->exchanges) forget(server, server->exchanges);
}

static tessi_exchange_t *create(tessi_server_t *server, const tessi_message_post_t *post,
                                const unsigned char *ranks)
{
    tessi_message_exchanged_t head = {.status = TESS_OK};
    size_t count = (size_t)post->count, bytes = count * (size_t)post->bytes;
    tessi_exchange_t *e = tessi_calloc(1, sizeof *e);
    if (!e) return NULL;
    memcpy(e->key, post->key, sizeof e->key);
    e->bytes = post->bytes;
    e->count = post->count;
    e->ranks = tessi_calloc(count, sizeof *e->ranks);
    e->came = tessi_calloc(count, 1);
    e->answer = tessi_frame_create(TESSI_MESSAGE_EXCHANGED, sizeof head + bytes);
    if (!e->ranks || !e->came || !e->answer) {
        destroy(e);
        return NULL;
    }
    memcpy(e->ranks, ranks, count * sizeof *e->ranks);
    memcpy(head.key, e->key, sizeof head.key);
    memcpy(tessi_frame_payload(e->answer), &head, sizeof head);
    e->next = server->exchanges;
    server->exchanges = e;
    return e;
}

static tessi_frame_t *failure_frame(const char *key, int status, const char *sentence)
{
    tessi_message_exchanged_t head = {.status = status};
    tessi_frame_t *frame =
        tessi_frame_create(TESSI_MESSAGE_EXCHANGED, sizeof head + TESSI_SENTENCE_BYTES);
    if (!frame) return NULL;
    snprintf(head.key, sizeof head.key, "%s", key);
    memcpy(tessi_frame_payload(frame), &head, sizeof head);
    snprintf((char *)tessi_frame_payload(frame) + sizeof head, TESSI_SENTENCE_BYTES, "%s",
             sentence);
    return frame;
}

/* Where there is no memory for the answer, the rank learns by its deadline. */
static void tell_failure(tessi_server_t *server, int rank, const char *key, int status,
                         const char *sentence)
{
    tessi_frame_t *frame = failure_frame(key, status, sentence);
    if (frame) tessi_server_send(server, rank, frame);
    tessi_frame_release(frame);
}

/* Tells those who came, and forgets the exchange once no member is left to be told. */
static void spread_failure(tessi_server_t *server, tessi_exchange_t *e)
{
    int left = 0;
    for (int n = 0; n < e->count; n++) {
        if (e->came[n] == CAME) {
            tell_failure(server, e->ranks[n], e->key, e->status, e->sentence);
            e->came[n] = TOLD;
        }
        left += e->came[n] != TOLD && server->gone[e->ranks[n]] == TESSI_HERE;
    }
    if (left == 0) forget(server, e);
}

/* Marks the members that have not come, and names them. */
static const char *missing_text(tessi_server_t *server, const tessi_exchange_t *e, char *text,
                                size_t bytes)
{
    memset(server->marks, 0, (size_t)server->size);
    for (int n = 0; n < e->count; n++) server->marks[e->ranks[n]] = e->came[n] == WAITED_FOR;
    return tessi_server_marked_text(server, text, bytes);
}

static int index_of(const tessi_exchange_t *e, int rank)
{
    for (int n = 0; n < e->count; n++)
        if (e->ranks[n] == rank) return n;
    return -1;
}

/* 1 when a member that has not come never will; the exchange has then failed. */
static int fail_for_gone(tessi_server_t *server, tessi_exchange_t *e)
{
    for (int n = 0; n < e->count; n++) {
        if (e->came[n] != WAITED_FOR || server->gone[e->ranks[n]] == TESSI_HERE) continue;
        char who[256];
        e->status = TESS_ERR_PEER_LOST;
        snprintf(e->sentence, sizeof e->sentence, "exchange '%s' cannot complete: %s", e->key,
                 tessi_server_gone_text(server, e->ranks[n], who, sizeof who));
        spread_failure(server, e);
        return 1;
    }
    return 0;
}

static void note_dispute(tessi_server_t *server, const tessi_exchange_t *e)
{
    tessi_dispute_t *dispute = &server->disputes[server->dispute_next];
    server->dispute_next = (server->dispute_next + 1) % TESSI_DISPUTES_MAX;
    memcpy(dispute->key, e->key, sizeof dispute->key);
    memcpy(dispute->sentence, e->sentence, sizeof dispute->sentence);
}

/* The sentence about a dispute over this key, or NULL. */
static const char *find_dispute(const tessi_server_t *server, const char *key)
{
    for (int n = 0; n < TESSI_DISPUTES_MAX; n++)
        if (strcmp(server->disputes[n].key, key) == 0) return server->disputes[n].sentence;
    return NULL;
}

/* Whether the post is for the same exchange; if not, the exchange fails with a sentence. */
static int agrees(tessi_server_t *server, tessi_exchange_t *e, int rank,
                  const tessi_message_post_t *post, const unsigned char *ranks)
{
    char first[128], second[128];
    tessi_world_rank_text(server->world, e->first, first, sizeof first);
    tessi_world_rank_text(server->world, rank, second, sizeof second);
    if (post->count != e->count || memcmp(ranks, e->ranks, (size_t)e->count * sizeof *e->ranks)) {
        snprintf(e->sentence, sizeof e->sentence,
                 "exchange '%s': %s and %s name different groups, of %d and %d ranks", e->key,
                 first, second, e->count, post->count);
        note_dispute(server, e);
    } else if (post->bytes != e->bytes)
        snprintf(e->sentence, sizeof e->sentence,
                 "exchange '%s': %s gives %lld bytes, %s gives %lld", e->key, first,
                 (long long)e->bytes, second, (long long)post->bytes);
    else return 1;
    e->status = TESS_ERR_MISMATCH;
    return 0;
}

static void take_post(tessi_server_t *server, int rank, const tessi_message_post_t *post,
                      const unsigned char *ranks, const unsigned char *data)
{
    tessi_exchange_t *e = find(server, post->key);
    const char *dispute = e ? NULL : find_dispute(server, post->key);
    if (dispute) {
        tell_failure(server, rank, post->key, TESS_ERR_MISMATCH, dispute);
        return;
    }
    if (!e) {
        e = create(server, post, ranks);
        if (!e) {
            tell_failure(server, rank, post->key, TESS_ERR_OUT_OF_MEMORY,
                         "rank 0 has no memory for this exchange");
            return;
        }
        e->first = rank;
    }
    int index = index_of(e, rank);
    if (e->status != TESS_OK || !agrees(server, e, rank, post, ranks)) {
        tell_failure(server, rank, e->key, e->status, e->sentence);
        if (index >= 0) e->came[index] = TOLD;
        spread_failure(server, e);
        return;
    }
    memcpy(tessi_frame_payload(e->answer) + sizeof(tessi_message_exchanged_t) +
               (size_t)index * (size_t)e->bytes,
           data, (size_t)e->bytes);
    e->came[index] = CAME;
    for (int n = 0; n < e->count; n++) {
        if (e->came[n] == CAME) continue;
        (void)fail_for_gone(server, e);
        return;
    }
    for (int n = 0; n < e->count; n++) tessi_server_send(server, e->ranks[n], e->answer);
    forget(server, e);
}

int tessi_exchange_take_post(tessi_server_t *server, int rank, const unsigned char *payload,
                             size_t bytes)
{
    tessi_message_post_t post;
    if (bytes < sizeof post) return -1;
    memcpy(&post, payload, sizeof post);
    if (post.count < 1 || post.count > server->size || post.bytes < 0 ||
        post.bytes > TESSI_EXCHANGE_MAX_BYTES || !memchr(post.key, '\0', sizeof post.key))
        return -1;
    const unsigned char *ranks = payload + sizeof post;
    size_t ranks_bytes = (size_t)post.count * sizeof(int32_t);
    if (bytes != sizeof post + ranks_bytes + (size_t)post.bytes) return -1;
    int is_member = 0;
    for (int n = 0, before = -1; n < post.count; n++) {
        int32_t member;
        memcpy(&member, ranks + (size_t)n * sizeof member, sizeof member);
        if (member <= before || member >= server->size) return -1;
        is_member |= member == rank;
        before = member;
    }
    if (!is_member) return -1;
    take_post(server, rank, &post, ranks, ranks + ranks_bytes);
    return 0;
}

int tessi_exchange_take_give_up(tessi_server_t *server, int rank, const unsigned char *payload,
                                size_t bytes)
{
    tessi_message_give_up_t message;
    char who[128], missing[384];
    if (bytes != sizeof message) return -1;
    memcpy(&message, payload, sizeof message);
    if (!memchr(message.key, '\0', sizeof message.key)) return -1;
    tessi_exchange_t *e = find(server, message.key);
    if (!e || index_of(e, rank) < 0) {
        tell_failure(server, rank, message.key, TESS_ERR_TIMEOUT,
                     "rank 0 does not know this exchange any more");
        return 0;
    }
    if (e->status == TESS_OK && message.timeout_ms == TESSI_GAVE_UP_FAILED) {
        e->status = TESS_ERR_PEER_LOST;
        snprintf(e->sentence, sizeof e->sentence,
                 "exchange '%s' was given up by %s, whose communicator has failed", e->key,
                 tessi_world_rank_text(server->world, rank, who, sizeof who));
    } else if (e->status == TESS_OK) {
        e->status = TESS_ERR_TIMEOUT;
        snprintf(e->sentence, sizeof e->sentence,
                 "exchange '%s': %s did not come within the %d ms that %s waited", e->key,
                 missing_text(server, e, missing, sizeof missing), message.timeout_ms,
                 tessi_world_rank_text(server->world, rank, who, sizeof who));
    }
    spread_failure(server, e);
    return 0;
}

void tessi_exchange_rank_gone(tessi_server_t *server, int rank)
{
    tessi_exchange_t *next;
    for (tessi_exchange_t *e = server->exchanges; e; e = next) {
        next = e->next;
        if (index_of(e, rank) < 0) continue;
        if (e->status == TESS_OK) (void)fail_for_gone(server, e);
        else spread_failure(server, e);
    }
}
