/* SPDX-License-Identifier: Apache-2.0 */
/* The control thread, and a rank's side of the conversation with rank 0.
 *
 * Invariant: the thread sleeps only in poll, and takes the lock only for work that does not block;
 * a request leaves the list before its caller's stack frame does.
 */
#include "control.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define STOP_MS 1000
#define IDLE_MS 60000

void tessi_control_wake(tess_world_t *world)
{
    uint64_t one = 1;
    ssize_t written;
    do written = write(world->wake_fd, &one, sizeof one);
    while (written < 0 && errno == EINTR);
}

/* --- requests --------------------------------------------------------------------------------- */

void tessi_control_enqueue(tess_world_t *world, tessi_request_t *request)
{
    request->next = world->requests;
    world->requests = request;
}

void tessi_control_dequeue(tess_world_t *world, tessi_request_t *request)
{
    for (tessi_request_t **at = &world->requests; *at; at = &(*at)->next) {
        if (*at != request) continue;
        *at = request->next;
        return;
    }
}

void tessi_control_pause(tess_world_t *world, int64_t deadline_ns)
{
    /* A deadline of "never" still wakes now and then. */
    int64_t until_ns = tessi_deadline_ns(60000);
    if (deadline_ns < until_ns) until_ns = deadline_ns;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    pthread_cond_timedwait(&world->changed, &world->lock, &until);
}

int tessi_control_wait(tess_world_t *world, tessi_request_t *request, int64_t deadline_ns)
{
    while (!request->is_done && !tessi_request_is_void(request) && tessi_now_ns() < deadline_ns)
        tessi_control_pause(world, deadline_ns);
    return request->is_done;
}

static void finish(tess_world_t *world, tessi_request_t *request, tess_status_t status,
                   const char *sentence)
{
    if (request->is_done) return;
    request->status = status;
    snprintf(request->sentence, sizeof request->sentence, "%s", sentence);
    request->is_done = 1;
    pthread_cond_broadcast(&world->changed);
}

/* --- messages --------------------------------------------------------------------------------- */

/* The connection to rank 0 is over; nothing that waits for it will be answered. */
static void lose_root(tess_world_t *world, int error)
{
    char sentence[TESSI_SENTENCE_BYTES];
    tessi_link_close(&world->link);
    if (!world->is_service_over) tessi_watch_rank_lost(world, 0, error);
    tessi_gone_text(world, 0, (tessi_gone_t)world->gone[0], error, sentence, sizeof sentence);
    for (tessi_request_t *r = world->requests; r; r = r->next)
        finish(world, r, TESS_ERR_PEER_LOST, sentence);
}

static tess_status_t fail_no_root(const tess_world_t *world)
{
    char sentence[TESSI_SENTENCE_BYTES];
    return tessi_fail(TESS_ERR_PEER_LOST, "%s",
                      tessi_gone_text(world, 0, (tessi_gone_t)world->gone[0], world->gone_error[0],
                                      sentence, sizeof sentence));
}

tess_status_t tessi_control_send(tess_world_t *world, tessi_frame_t *frame)
{
    if (world->rank == 0) {
        (void)tessi_server_take(world->server, 0, &frame->header, tessi_frame_payload(frame));
        return TESS_OK;
    }
    if (world->link.fd < 0) return fail_no_root(world);
    if (tessi_link_send(&world->link, frame) != 0) {
        int error = errno;
        char who[128];
        tessi_control_wake(world); /* the thread finds the broken connection and tells everybody */
        return tessi_fail(TESS_ERR_PEER_LOST, "cannot send to %s: %s",
                          tessi_world_rank_text(world, 0, who, sizeof who), strerror(error));
    }
    if (world->link.queue_count > 0) tessi_control_wake(world);
    return TESS_OK;
}

static int take_exchanged(tess_world_t *world, const unsigned char *payload, size_t bytes)
{
    tessi_message_exchanged_t head;
    if (bytes < sizeof head) return -1;
    memcpy(&head, payload, sizeof head);
    head.key[sizeof head.key - 1] = '\0';
    const unsigned char *rest = payload + sizeof head;
    size_t rest_bytes = bytes - sizeof head;
    tessi_request_t *r = world->requests;
    while (r && (!r->key || strcmp(r->key, head.key) != 0)) r = r->next;
    if (!r || r->is_done) return 0; /* its caller has given up */
    if (head.status == TESS_OK) {
        if (rest_bytes != r->data_bytes) return -1;
        if (rest_bytes > 0) memcpy(r->data, rest, rest_bytes);
        finish(world, r, TESS_OK, "");
        return 0;
    }
    char sentence[TESSI_SENTENCE_BYTES];
    if (rest_bytes != sizeof sentence) return -1;
    memcpy(sentence, rest, sizeof sentence);
    sentence[sizeof sentence - 1] = '\0';
    finish(world, r, (tess_status_t)head.status, sentence);
    return 0;
}

static int take_diagnosis(tess_world_t *world, const unsigned char *payload, size_t bytes)
{
    tessi_message_diagnosis_t message;
    if (bytes != sizeof message) return -1;
    memcpy(&message, payload, sizeof message);
    message.sentence[sizeof message.sentence - 1] = '\0';
    for (tessi_request_t *r = world->requests; r; r = r->next)
        if (!r->key && r->number == message.number) finish(world, r, TESS_OK, message.sentence);
    return 0;
}

static int take_pong_request(tess_world_t *world)
{
    /* What this rank has issued goes first, so that whoever asked judges by the present. */
    tessi_records_flush(world);
    tessi_frame_t *pong = tessi_frame_create(TESSI_MESSAGE_PONG, 0);
    if (!pong) return 0;
    (void)tessi_control_send(world, pong);
    tessi_frame_release(pong);
    return 0;
}

int tessi_control_take(tess_world_t *world, const tessi_header_t *header,
                       const unsigned char *payload)
{
    tessi_message_failed_t failed;
    tessi_message_lost_t lost;
    tessi_message_left_t left;
    switch (header->type) {
    case TESSI_MESSAGE_EXCHANGED:
        return take_exchanged(world, payload, header->bytes);
    case TESSI_MESSAGE_DIAGNOSIS:
        return take_diagnosis(world, payload, header->bytes);
    case TESSI_MESSAGE_PING:
        return take_pong_request(world);
    case TESSI_MESSAGE_FAILED:
        if (header->bytes != sizeof failed) return -1;
        memcpy(&failed, payload, sizeof failed);
        failed.detail[sizeof failed.detail - 1] = '\0';
        tessi_watch_take_failure(world, failed.comm_id, (tess_status_t)failed.status,
                                 failed.detail);
        return 0;
    case TESSI_MESSAGE_LOST:
        if (header->bytes != sizeof lost) return -1;
        memcpy(&lost, payload, sizeof lost);
        if (lost.rank < 0 || lost.rank >= world->size) return -1;
        tessi_watch_rank_lost(world, lost.rank, lost.error);
        return 0;
    case TESSI_MESSAGE_LEFT:
        if (header->bytes != sizeof left) return -1;
        memcpy(&left, payload, sizeof left);
        if (left.rank < 0 || left.rank >= world->size) return -1;
        world->gone[left.rank] = TESSI_LEFT;
        return 0;
    case TESSI_MESSAGE_GOODBYE:
        world->gone[0] = TESSI_LEFT;
        world->is_service_over = 1;
        return 0;
    default:
        return -1;
    }
}

/* --- the thread --------------------------------------------------------------------------------
 */

static int take_from_root(void *context, const tessi_header_t *header, const unsigned char *payload)
{
    return tessi_control_take(context, header, payload);
}

static void serve_root(tess_world_t *world, short events)
{
    int broken = 0, error = 0;
    if (world->link.fd < 0) return;
    /* Read first: what rank 0 said last explains why it went. */
    if (events & ~POLLOUT) broken = tessi_link_receive(&world->link, take_from_root, world);
    if (broken != 0) error = errno;
    /* Also without an event: a send that failed on another thread shows here. */
    if (broken == 0 && world->link.queue_count > 0) {
        broken = tessi_link_flush(&world->link);
        error = errno;
    }
    if (broken != 0) lose_root(world, error);
}

static struct pollfd wait_for(const tessi_link_t *link)
{
    short events = (short)(POLLIN | (link->queue_count > 0 ? POLLOUT : 0));
    return (struct pollfd){.fd = link->fd, .events = events};
}

/* Fills waits (1 + size at most) and returns how many. */
static int fill_waits(tess_world_t *world, struct pollfd *waits)
{
    waits[0] = (struct pollfd){.fd = world->wake_fd, .events = POLLIN};
    if (world->rank != 0) {
        waits[1] = wait_for(&world->link);
        return 2;
    }
    const tessi_link_t *links = tessi_server_links(world->server);
    for (int r = 1; r < world->size; r++) waits[r] = wait_for(&links[r]);
    return world->size;
}

static int is_all_sent(const tess_world_t *world)
{
    if (world->rank != 0) return world->link.queue_count == 0;
    const tessi_link_t *links = tessi_server_links(world->server);
    for (int r = 1; r < world->size; r++)
        if (links[r].queue_count > 0) return 0;
    return 1;
}

/* With the lock: everything that one wake-up brings. */
static void serve(tess_world_t *world, const struct pollfd *waits, int count)
{
    if (waits[0].revents) {
        uint64_t ignored;
        if (read(world->wake_fd, &ignored, sizeof ignored) < 0) { /* nothing was there: fine */
        }
    }
    if (world->rank != 0) serve_root(world, waits[1].revents);
    else
        for (int r = 1; r < count; r++)
            if (waits[r].revents) tessi_server_serve(world->server, r, waits[r].revents);
    if (atomic_load_explicit(&world->is_recording, memory_order_relaxed) &&
        (atomic_exchange(&world->is_record_ring_filling, 0) ||
         tessi_now_ns() - world->record_ns >= TESSI_RECORD_PERIOD_MS * INT64_C(900000))) {
        world->record_ns = tessi_now_ns();
        tessi_records_flush(world);
    }
    if (world->server) tessi_server_tick(world->server);
}

static int wait_ms_of(const tess_world_t *world)
{
    /* The server has deadlines of its own, and a stopping thread its patience. */
    if (world->is_stopping) return 10;
    if (atomic_load_explicit(&world->is_recording, memory_order_relaxed) || world->server)
        return TESSI_RECORD_PERIOD_MS;
    return IDLE_MS;
}

static void *control_thread(void *argument)
{
    tess_world_t *world = argument;
    struct pollfd *waits = world->waits;
    pthread_mutex_lock(&world->lock);
    while (!world->is_stopping || (!is_all_sent(world) && tessi_now_ns() < world->stop_ns)) {
        int count = fill_waits(world, waits), wait_ms = wait_ms_of(world);
        pthread_mutex_unlock(&world->lock);
        int ready = poll(waits, (nfds_t)count, wait_ms);
        if (ready < 0)
            for (int n = 0; n < count; n++) waits[n].revents = 0;
        pthread_mutex_lock(&world->lock);
        serve(world, waits, count);
    }
    pthread_mutex_unlock(&world->lock);
    return NULL;
}

tess_status_t tessi_control_start(tess_world_t *world)
{
    sigset_t all, before;
    world->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (world->wake_fd < 0) return tessi_fail_errno(errno, "cannot make an eventfd");
    /* Signals belong to the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = tessi_fault("thread") ? EAGAIN
                                      : pthread_create(&world->thread, NULL, control_thread, world);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        close(world->wake_fd);
        world->wake_fd = -1;
        return tessi_fail_errno(error, "cannot start the control thread");
    }
    pthread_setname_np(world->thread, "tess-control");
    world->is_running = 1;
    return TESS_OK;
}

void tessi_control_stop(tess_world_t *world)
{
    if (!world->is_running) return;
    pthread_mutex_lock(&world->lock);
    world->is_stopping = 1;
    world->stop_ns = tessi_deadline_ns(STOP_MS);
    pthread_mutex_unlock(&world->lock);
    tessi_control_wake(world);
    pthread_join(world->thread, NULL);
    world->is_running = 0;
    close(world->wake_fd);
    world->wake_fd = -1;
}
