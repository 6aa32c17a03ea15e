/* SPDX-License-Identifier: Apache-2.0 */
/* Opens and closes the world, and what callers ask of it.
 *
 * Invariant: whatever tess_world_open had built is undone in reverse when a step fails, and a world
 * of one has neither thread nor socket.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "control.h"
#include "world_env.h"

/* --- opening -----------------------------------------------------------------------------------
 */

static tess_status_t timeout_of(const tess_world_config_t *config, int *timeout_ms)
{
    int64_t value = config->timeout_ms;
    tess_status_t status = TESS_OK;
    if (value == 0) status = tessi_option_int(TESSI_OPTION_TIMEOUT_MS, 1, INT32_MAX, &value);
    *timeout_ms = (int)value;
    return status;
}

static tess_status_t init_locks(tess_world_t *world)
{
    pthread_condattr_t monotonic;
    int error = pthread_condattr_init(&monotonic);
    if (error == 0) {
        /* Deadlines must not move when somebody sets the clock. */
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        error = pthread_cond_init(&world->changed, &monotonic);
        pthread_condattr_destroy(&monotonic);
    }
    if (error == 0) error = pthread_mutex_init(&world->lock, NULL);
    if (error == 0) error = pthread_mutex_init(&world->record_lock, NULL);
    return error == 0 ? TESS_OK : tessi_fail_errno(error, "cannot make a lock");
}

static tess_status_t allocate(const tessi_place_t *place, int timeout_ms, tess_world_t **out)
{
    size_t size = (size_t)place->size;
    tess_status_t status = TESS_ERR_OUT_OF_MEMORY;
    tess_world_t *world = tessi_calloc(1, sizeof *world);
    if (!world) return status;
    world->rank = place->rank;
    world->size = place->size;
    world->timeout_ms = timeout_ms;
    world->wake_fd = -1;
    world->link.fd = -1;
    snprintf(world->source, sizeof world->source, "%s", place->source);
    world->peers = tessi_calloc(size, sizeof *world->peers);
    world->all_ranks = tessi_calloc(size, sizeof *world->all_ranks);
    world->gone = tessi_calloc(size, 1);
    world->gone_error = tessi_calloc(size, sizeof *world->gone_error);
    world->waits = tessi_calloc(size + 1, sizeof *world->waits);
    world->records = tessi_calloc(TESSI_RECORD_RING, sizeof *world->records);
    if (!world->peers || !world->all_ranks || !world->gone || !world->gone_error || !world->waits ||
        !world->records)
        goto free_world;
    for (int r = 0; r < world->size; r++) world->all_ranks[r] = r;
    TESS_TRY(init_locks(world), free_world);
    *out = world;
    return TESS_OK;
free_world:
    tessi_free(world->records);
    tessi_free(world->waits);
    tessi_free(world->gone_error);
    tessi_free(world->gone);
    tessi_free(world->all_ranks);
    tessi_free(world->peers);
    tessi_free(world);
    return status;
}

static void release(tess_world_t *world)
{
    pthread_mutex_destroy(&world->record_lock);
    pthread_mutex_destroy(&world->lock);
    pthread_cond_destroy(&world->changed);
    while (world->counters) {
        tessi_counter_t *counter = world->counters;
        world->counters = counter->next;
        tessi_free(counter);
    }
    tessi_link_close(&world->link);
    tessi_server_destroy(world->server);
    tessi_free(world->records);
    tessi_free(world->waits);
    tessi_free(world->gone_error);
    tessi_free(world->gone);
    tessi_free(world->all_ranks);
    tessi_free(world->peers);
    tessi_free(world);
}

/* Local rank and size as they were given, else counted from the table: ranks of one machine, in
 * order. */
static tess_status_t settle_locality(tess_world_t *world, const tessi_place_t *place)
{
    const tessi_peer_t *self = &world->peers[world->rank];
    int before = 0, together = 0;
    for (int r = 0; r < world->size; r++) {
        if (world->peers[r].machine != self->machine) continue;
        together++;
        before += r < world->rank;
    }
    world->local_rank = place->local_rank >= 0 ? place->local_rank : before;
    world->local_size = place->local_size >= 0 ? place->local_size : together;
    if (world->local_rank >= world->local_size)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "local rank %d was given, but only %d ranks run on %s", world->local_rank,
                          world->local_size, self->host);
    /* Containers may share a host name, or hide it; what the launcher says counts. */
    if (world->local_size != together)
        tessi_log(TESSI_LOG_INFO, "local size %d was given; %d ranks seem to run on %s",
                  world->local_size, together, self->host);
    return TESS_OK;
}

/* Meets the other ranks and starts the thread. */
static tess_status_t connect_ranks(tess_world_t *world, const tessi_place_t *place)
{
    tess_status_t status;
    uint64_t most_bytes = (uint64_t)world->size * (TESSI_EXCHANGE_MAX_BYTES + sizeof(int32_t));
    uint32_t frame_max = (uint32_t)(most_bytes < (1u << 30) ? most_bytes : (1u << 30)) + 4096;
    tessi_link_t *links = &world->link;
    if (world->rank == 0) {
        TESS_TRY(tessi_server_create(world, &world->server), failed);
        links = tessi_server_links(world->server);
    }
    TESS_TRY(tessi_rendezvous(place, world->timeout_ms, world->peers, links), failed);
    for (int n = 0; n < (world->rank == 0 ? world->size : 1); n++)
        links[n].payload_max_bytes = frame_max;
    TESS_TRY(settle_locality(world, place), failed);
    TESS_TRY(tessi_control_start(world), failed);
    return TESS_OK;
failed:
    return status;
}

tess_status_t tess_world_open(const tess_world_config_t *config, tess_world_t **out)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "world_open", -1, -1);
    static const tess_world_config_t from_environment = TESS_WORLD_CONFIG_DEFAULT;
    tess_world_t *world = NULL;
    tessi_place_t place;
    tess_status_t status;
    int timeout_ms;
    if (!out) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_world_open: world is NULL");
    if (!config) config = &from_environment;
    TESS_TRY(tessi_place_find(config, &place), failed);
    TESS_TRY(timeout_of(config, &timeout_ms), failed);
    TESS_TRY(allocate(&place, timeout_ms, &world), failed);
    tessi_log_set_rank(world->rank);
    tess_trace_set_rank(world->rank);
    if (world->size == 1) {
        tessi_peer_self(&place, &world->peers[0]);
        world->local_rank = place.local_rank;
        world->local_size = place.local_size;
    } else {
        TESS_TRY(connect_ranks(world, &place), release_world);
    }
    tessi_log(TESSI_LOG_INFO, "rank %d of %d (%s), local rank %d of %d on %s", world->rank,
              world->size, world->source, world->local_rank, world->local_size,
              world->peers[world->rank].host);
    *out = world;
    return TESS_OK;
release_world:
    release(world);
failed:
    return status;
}

/* --- closing -----------------------------------------------------------------------------------
 */

static int is_anyone_here(const tess_world_t *world)
{
    for (int r = 1; r < world->size; r++)
        if (tessi_server_rank_gone(world->server, r) == TESSI_HERE) return 1;
    return 0;
}

/* Rank 0 serves the others until they have left. */
static void close_root(tess_world_t *world)
{
    int64_t deadline_ns = tessi_deadline_ns(world->timeout_ms);
    tessi_server_leave(world->server);
    while (is_anyone_here(world) && tessi_now_ns() < deadline_ns)
        tessi_control_pause(world, deadline_ns);
    tessi_server_say_goodbye(world->server);
}

void tess_world_close(tess_world_t *world)
{
    if (!world) return;
    if (world->size > 1) {
        pthread_mutex_lock(&world->lock);
        if (world->rank == 0) {
            close_root(world);
        } else {
            tessi_frame_t *goodbye = tessi_frame_create(TESSI_MESSAGE_GOODBYE, 0);
            if (goodbye) (void)tessi_control_send(world, goodbye);
            tessi_frame_release(goodbye);
        }
        pthread_mutex_unlock(&world->lock);
        tessi_control_stop(world);
    }
    release(world);
}

/* --- queries -----------------------------------------------------------------------------------
 */

int tess_world_rank(const tess_world_t *world)
{
    return world->rank;
}

int tess_world_size(const tess_world_t *world)
{
    return world->size;
}

int tess_world_local_rank(const tess_world_t *world)
{
    return world->local_rank;
}

int tess_world_local_size(const tess_world_t *world)
{
    return world->local_size;
}

int tess_world_timeout_ms(const tess_world_t *world)
{
    return world->timeout_ms;
}

const char *tess_world_source(const tess_world_t *world)
{
    return world->source;
}

const char *tess_world_host(const tess_world_t *world, int rank)
{
    return rank >= 0 && rank < world->size ? world->peers[rank].host : NULL;
}

int tess_world_pid(const tess_world_t *world, int rank)
{
    return rank >= 0 && rank < world->size ? world->peers[rank].pid : -1;
}

const char *tessi_world_rank_text(const tess_world_t *world, int rank, char *text, int64_t bytes)
{
    if (rank < 0 || rank >= world->size) snprintf(text, (size_t)bytes, "rank %d", rank);
    else tessi_peer_text(&world->peers[rank], rank, text, (size_t)bytes);
    return text;
}

tess_status_t tess_world_status(tess_world_t *world)
{
    tess_status_t status = TESS_OK;
    pthread_mutex_lock(&world->lock);
    if (world->status != TESS_OK)
        status = tessi_fail((tess_status_t)world->status, "%s", world->detail);
    pthread_mutex_unlock(&world->lock);
    return status;
}

tess_status_t tessi_world_count(tess_world_t *world, uint64_t hash, int64_t *count)
{
    pthread_mutex_lock(&world->lock);
    tessi_counter_t *counter = world->counters;
    while (counter && counter->hash != hash) counter = counter->next;
    if (!counter) {
        counter = tessi_calloc(1, sizeof *counter);
        if (counter) {
            counter->hash = hash;
            counter->next = world->counters;
            world->counters = counter;
        }
    }
    if (counter) *count = counter->count++;
    pthread_mutex_unlock(&world->lock);
    return counter ? TESS_OK : TESS_ERR_OUT_OF_MEMORY;
}

/* --- exchange ----------------------------------------------------------------------------------
 */

static tess_status_t check_exchange(const tess_world_t *world, tessi_group_t group, const char *key,
                                    int64_t bytes)
{
    int is_member = 0, is_ascending = group.count > 0 && group.count <= world->size;
    for (int n = 0, before = -1; is_ascending && n < group.count; n++) {
        is_ascending = group.ranks[n] > before && group.ranks[n] < world->size;
        is_member |= group.ranks[n] == world->rank;
        before = group.ranks[n];
    }
    if (!is_ascending || !is_member)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "exchange '%s': the group must hold ascending ranks of the world, this "
                          "rank %d among them",
                          key, world->rank);
    if (!key[0] || strlen(key) >= TESSI_KEY_BYTES)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "exchange '%s': a key has 1 to %d characters",
                          key, TESSI_KEY_BYTES - 1);
    if (bytes < 0 || bytes > TESSI_EXCHANGE_MAX_BYTES || bytes * group.count > (1 << 30))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "exchange '%s': %lld bytes from each of %d ranks; at most 1 MiB from "
                          "each and 1 GiB in all can be exchanged",
                          key, (long long)bytes, group.count);
    return TESS_OK;
}

static tess_status_t send_post(tess_world_t *world, tessi_group_t group, const char *key,
                               const void *mine, int64_t bytes)
{
    tessi_message_post_t head = {.bytes = bytes, .count = group.count};
    size_t ranks_bytes = (size_t)group.count * sizeof(int32_t);
    tessi_frame_t *frame =
        tessi_frame_create(TESSI_MESSAGE_POST, sizeof head + ranks_bytes + (size_t)bytes);
    if (!frame) return TESS_ERR_OUT_OF_MEMORY;
    unsigned char *payload = tessi_frame_payload(frame);
    snprintf(head.key, sizeof head.key, "%s", key);
    memcpy(payload, &head, sizeof head);
    memcpy(payload + sizeof head, group.ranks, ranks_bytes);
    if (bytes > 0) memcpy(payload + sizeof head + ranks_bytes, mine, (size_t)bytes);
    tess_status_t status = tessi_control_send(world, frame);
    tessi_frame_release(frame);
    return status;
}

/* timeout_ms, or TESSI_GAVE_UP_FAILED. */
static tess_status_t send_give_up(tess_world_t *world, const char *key, int timeout_ms)
{
    tessi_message_give_up_t message = {.timeout_ms = timeout_ms};
    tessi_frame_t *frame = tessi_frame_create(TESSI_MESSAGE_GIVE_UP, sizeof message);
    if (!frame) return TESS_ERR_OUT_OF_MEMORY;
    snprintf(message.key, sizeof message.key, "%s", key);
    memcpy(tessi_frame_payload(frame), &message, sizeof message);
    tess_status_t status = tessi_control_send(world, frame);
    tessi_frame_release(frame);
    return status;
}

/* With the lock: this rank waits no longer, since its communicator has failed. The others learn
 * that too, but perhaps this exchange is the first that they hear of it. */
static tess_status_t leave_failed(tess_world_t *world, tessi_request_t *request)
{
    (void)send_give_up(world, request->key, TESSI_GAVE_UP_FAILED);
    return tessi_watch_status(request->watch);
}

/* With the lock: posts, waits, and at the deadline asks rank 0 who is missing. */
static tess_status_t exchange_locked(tess_world_t *world, tessi_group_t group, const char *key,
                                     const void *mine, int64_t bytes, tessi_request_t *request,
                                     int timeout_ms)
{
    char who[128];
    tess_status_t status;
    for (tessi_request_t *r = world->requests; r; r = r->next)
        if (r->key && strcmp(r->key, key) == 0)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "exchange '%s' is already under way in this process", key);
    if (tessi_request_is_void(request)) return tessi_watch_status(request->watch);
    tessi_control_enqueue(world, request);
    TESS_TRY(send_post(world, group, key, mine, bytes), dequeue);
    if (!tessi_control_wait(world, request, tessi_deadline_ns(timeout_ms))) {
        if (tessi_request_is_void(request)) TESS_TRY(leave_failed(world, request), dequeue);
        TESS_TRY(send_give_up(world, key, timeout_ms), dequeue);
        if (!tessi_control_wait(world, request, tessi_deadline_ns(TESSI_ANSWER_MS)))
            status = tessi_fail(TESS_ERR_TIMEOUT,
                                "exchange '%s' timed out after %d ms, and %s does not answer", key,
                                timeout_ms, tessi_world_rank_text(world, 0, who, sizeof who));
    }
    if (request->is_done && request->status == TESS_OK) status = TESS_OK;
    else if (tessi_request_is_void(request)) status = tessi_watch_status(request->watch);
    else if (request->is_done) status = tessi_fail(request->status, "%s", request->sentence);
dequeue:
    tessi_control_dequeue(world, request);
    return status;
}

static tess_status_t exchange(tess_world_t *world, tessi_group_t group, tessi_watch_t *watch,
                              const char *key, const void *mine, int64_t bytes, void *all,
                              int timeout_ms)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "exchange", bytes, -1);
    tess_status_t status = check_exchange(world, group, key, bytes);
    if (status != TESS_OK) return status;
    if (group.count == 1) {
        if (bytes > 0) memcpy(all, mine, (size_t)bytes);
        return TESS_OK;
    }
    if (timeout_ms < 0) timeout_ms = world->timeout_ms;
    tessi_request_t request = {
        .key = key, .watch = watch, .data = all, .data_bytes = (size_t)bytes * (size_t)group.count};
    pthread_mutex_lock(&world->lock);
    status = exchange_locked(world, group, key, mine, bytes, &request, timeout_ms);
    pthread_mutex_unlock(&world->lock);
    return status;
}

tess_status_t tessi_world_exchange(tess_world_t *world, tessi_group_t group, const char *key,
                                   const void *mine, int64_t bytes, void *all, int timeout_ms)
{
    return exchange(world, group, NULL, key, mine, bytes, all, timeout_ms);
}

tess_status_t tessi_world_exchange_watched(tess_world_t *world, tessi_watch_t *watch,
                                           const char *key, const void *mine, int64_t bytes,
                                           void *all, int timeout_ms)
{
    return exchange(world, watch->group, watch, key, mine, bytes, all, timeout_ms);
}

tess_status_t tess_world_barrier(tess_world_t *world, int timeout_ms)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "world_barrier", -1, -1);
    char key[64];
    int64_t number = atomic_fetch_add(&world->barriers, 1) + 1;
    tessi_group_t all = {world->all_ranks, world->size};
    snprintf(key, sizeof key, "world barrier %lld", (long long)number);
    return tessi_world_exchange(world, all, key, NULL, 0, NULL, timeout_ms);
}

/* --- diagnose ----------------------------------------------------------------------------------
 */

static int ask(tess_world_t *world, const tessi_message_diagnose_t *question)
{
    tessi_frame_t *frame = tessi_frame_create(TESSI_MESSAGE_DIAGNOSE, sizeof *question);
    if (!frame) return -1;
    memcpy(tessi_frame_payload(frame), question, sizeof *question);
    tess_status_t status = tessi_control_send(world, frame);
    tessi_frame_release(frame);
    return status == TESS_OK ? 0 : -1;
}

void tessi_world_diagnose(tess_world_t *world, const tessi_watch_t *watch, int64_t sequence,
                          char *sentence, int64_t sentence_bytes)
{
    char who[128];
    if (watch->group.count == 1) {
        snprintf(sentence, (size_t)sentence_bytes, "this rank is the only one of '%s'",
                 watch->name);
        return;
    }
    pthread_mutex_lock(&world->lock);
    tessi_request_t request = {.number = ++world->request_count};
    tessi_message_diagnose_t question = {request.number, watch->comm_id, sequence};
    tessi_control_enqueue(world, &request);
    tessi_records_flush(world);
    int asked = ask(world, &question) == 0;
    if (asked) (void)tessi_control_wait(world, &request, tessi_deadline_ns(TESSI_ANSWER_MS));
    tessi_control_dequeue(world, &request);
    tessi_world_rank_text(world, 0, who, sizeof who);
    if (request.is_done) snprintf(sentence, (size_t)sentence_bytes, "%s", request.sentence);
    else if (asked)
        snprintf(sentence, (size_t)sentence_bytes,
                 "%s does not answer (stopped, or its host is unreachable)", who);
    else
        snprintf(sentence, (size_t)sentence_bytes, "%s cannot be asked: %s", who,
                 tess_last_error());
    pthread_mutex_unlock(&world->lock);
}
