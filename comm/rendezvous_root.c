/* SPDX-License-Identifier: Apache-2.0 */
/* How rank 0 receives the others: it listens, checks each hello, and sends the table when all are
 * there.
 *
 * Invariant: a connection becomes a rank only after a valid hello and its confirmation; until then
 * it is a guest that has GUEST_MS to speak, and whatever it sends disturbs nobody.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/internal.h"
#include "rendezvous.h"

#define GUEST_MS 10000
/* Strangers that may be connected at once, beside the ranks; the oldest makes room. */
#define STRANGERS_MAX 32
#define ADDRESS_BUSY_MS 5000
#define FAREWELL_MS 1000

typedef struct visitor {
    tessi_link_t link;
    int64_t deadline_ns;
    int heard;     /* its hello was read */
    int greeted;   /* its hello was good, and it was welcomed */
    int confirmed; /* it is rank `rank` */
    int rank;
    tessi_peer_t peer;
    char from[64];
} visitor_t;

enum { MISSING = 0, PRESENT = 1, TOLD = 2 };

typedef struct meeting {
    const tessi_place_t *place;
    int timeout_ms;
    tessi_peer_t *peers;
    tessi_link_t *links;
    unsigned char *present; /* (size) MISSING, PRESENT or TOLD of the failure */
    int present_count;
    int listener;
    int visitor_count, visitor_capacity;
    visitor_t *visitors;   /* (visitor_capacity) */
    struct pollfd *waits;  /* (1 + visitor_capacity + size) */
    int announce;          /* who is missing has changed */
    int is_over;           /* the failure is being told */
    tess_status_t failure; /* with the sentence */
    char sentence[TESSI_SENTENCE_BYTES];
    char rejected[TESSI_SENTENCE_BYTES +
                  128];  /* about the last visitor that was turned away, for the timeout */
    visitor_t *speaking; /* whose messages are being read */
} meeting_t;

/* --- talking --------------------------------------------------------------------------------- */

static int send_one(tessi_link_t *link, tessi_message_t type, const void *payload, size_t bytes)
{
    tessi_frame_t *frame = tessi_frame_create(type, bytes);
    if (!frame) return -1;
    memcpy(tessi_frame_payload(frame), payload, bytes);
    int result = tessi_link_send(link, frame);
    tessi_frame_release(frame);
    return result;
}

static void refuse(tessi_link_t *link, tess_status_t status, int is_stranger, const char *sentence)
{
    tessi_refusal_t refusal = {.status = (int32_t)status, .is_stranger = is_stranger};
    snprintf(refusal.sentence, sizeof refusal.sentence, "%.*s", TESSI_SENTENCE_BYTES - 1, sentence);
    /* Whoever cannot be told has gone already. */
    (void)send_one(link, TESSI_MESSAGE_REFUSED, &refusal, sizeof refusal);
}

static const char *missing_text(const meeting_t *meeting, char *text, size_t bytes)
{
    return tessi_ranks_text(meeting->present, meeting->place->size, MISSING, text, bytes);
}

static void announce_missing(meeting_t *meeting)
{
    char text[256];
    missing_text(meeting, text, sizeof text);
    tessi_log(TESSI_LOG_INFO, "waiting for %s", text);
    for (int r = 1; r < meeting->place->size; r++)
        if (meeting->present[r])
            (void)send_one(&meeting->links[r], TESSI_MESSAGE_WAITING, text, sizeof text);
    meeting->announce = 0;
}

/* --- visitors -------------------------------------------------------------------------------- */

static void dismiss(meeting_t *meeting, int index)
{
    tessi_link_close(&meeting->visitors[index].link);
    meeting->visitor_count--;
    memmove(&meeting->visitors[index], &meeting->visitors[index + 1],
            (size_t)(meeting->visitor_count - index) * sizeof(visitor_t));
}

static void reject(meeting_t *meeting, const visitor_t *visitor, const char *why)
{
    snprintf(meeting->rejected, sizeof meeting->rejected, "a connection from %s was refused: %s",
             visitor->from, why);
    tessi_log(TESSI_LOG_INFO, "%s", meeting->rejected);
}

/* The first failure is the one that everybody is told. */
static TESSI_PRINTF(3, 4) void fail_meeting(meeting_t *meeting, tess_status_t status,
                                            const char *format, ...)
{
    if (meeting->failure != TESS_OK) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(meeting->sentence, sizeof meeting->sentence, format, arguments);
    va_end(arguments);
    meeting->failure = status;
}

/* Whether a hello comes from a rank of this job and this version: 1 yes, 0 turned away, -1
 * nonsense.
 */
static int is_ours(meeting_t *meeting, visitor_t *visitor, const tessi_header_t *header,
                   tessi_hello_t *hello)
{
    char sentence[TESSI_SENTENCE_BYTES], who[128];
    if (header->bytes < 12 || hello->magic != TESSI_PROTOCOL_MAGIC) return -1;
    if (hello->version != TESSI_PROTOCOL_VERSION) {
        snprintf(sentence, sizeof sentence,
                 "it speaks version %u of the rendezvous, rank 0 speaks version %d; start all "
                 "ranks from one build",
                 hello->version, TESSI_PROTOCOL_VERSION);
        reject(meeting, visitor, sentence);
        refuse(&visitor->link, TESS_ERR_MISMATCH, 0, meeting->rejected);
        return 0;
    }
    if (header->bytes != sizeof *hello) return -1;
    hello->peer.host[sizeof hello->peer.host - 1] = '\0';
    if (hello->cookie != meeting->place->cookie) {
        snprintf(sentence, sizeof sentence, "%s belongs to another job",
                 tessi_peer_text(&hello->peer, hello->rank, who, sizeof who));
        reject(meeting, visitor, sentence);
        refuse(&visitor->link, TESS_ERR_MISMATCH, 1, "rank 0 of another job answered");
        return 0;
    }
    return 1;
}

/* Checks a hello: 0 welcome, 1 turned away, -1 nonsense. */
static int take_hello(meeting_t *meeting, visitor_t *visitor, const tessi_header_t *header,
                      const unsigned char *payload)
{
    const tessi_place_t *place = meeting->place;
    tessi_hello_t hello;
    char who[128], self[128];
    memset(&hello, 0, sizeof hello);
    memcpy(&hello, payload, header->bytes < sizeof hello ? header->bytes : sizeof hello);
    int ours = is_ours(meeting, visitor, header, &hello);
    if (ours <= 0) return ours < 0 ? -1 : 1;
    tessi_peer_text(&hello.peer, hello.rank, who, sizeof who);
    int is_inside = hello.rank >= 0 && hello.rank < place->size;
    if (is_inside) visitor->rank = hello.rank;
    if (meeting->is_over) {
        refuse(&visitor->link, meeting->failure, 0, meeting->sentence);
        if (is_inside) meeting->present[hello.rank] = TOLD;
        return 1;
    }
    if (hello.size != place->size) {
        fail_meeting(meeting, TESS_ERR_MISMATCH,
                     "ranks disagree on the world: %s says that it has %d ranks, rank 0 says %d",
                     who, hello.size, place->size);
        return 1;
    }
    if (!is_inside) return -1;
    if (hello.rank == 0) {
        fail_meeting(meeting, TESS_ERR_MISMATCH, "two processes claim one rank: %s and %s",
                     tessi_peer_text(&meeting->peers[0], 0, self, sizeof self), who);
        return 1;
    }
    visitor->greeted = 1;
    visitor->peer = hello.peer;
    return send_one(&visitor->link, TESSI_MESSAGE_WELCOME, &meeting->peers[0],
                    sizeof meeting->peers[0]) == 0
               ? 0
               : 1;
}

static int take_from_visitor(void *context, const tessi_header_t *header,
                             const unsigned char *payload)
{
    meeting_t *meeting = context;
    visitor_t *visitor = meeting->speaking;
    if (header->type == TESSI_MESSAGE_HELLO && !visitor->heard) {
        visitor->heard = 1;
        int answer = take_hello(meeting, visitor, header, payload);
        /* Who was turned away goes at once, unless all are about to be told of a failure. */
        if (answer > 0 && (meeting->is_over || meeting->failure == TESS_OK))
            visitor->deadline_ns = 0;
        return answer;
    }
    if (header->type != TESSI_MESSAGE_PRESENT || !visitor->greeted) return -1;
    visitor->confirmed = 1;
    return 1;
}

/* The visitor has confirmed: its connection becomes that of its rank. */
static void seat(meeting_t *meeting, int index)
{
    visitor_t *visitor = &meeting->visitors[index];
    int rank = visitor->rank;
    if (meeting->present[rank]) {
        char first[128], second[128];
        tessi_peer_text(&meeting->peers[rank], rank, first, sizeof first);
        tessi_peer_text(&visitor->peer, rank, second, sizeof second);
        fail_meeting(meeting, TESS_ERR_MISMATCH, "two processes claim one rank: %s and %s", first,
                     second);
        return;
    }
    meeting->peers[rank] = visitor->peer;
    meeting->links[rank] = visitor->link;
    meeting->present[rank] = PRESENT;
    meeting->present_count++;
    meeting->announce = 1;
    tessi_link_open(&visitor->link, -1, 0); /* moved, not closed */
    dismiss(meeting, index);
}

static void serve_visitor(meeting_t *meeting, int index, short events)
{
    visitor_t *visitor = &meeting->visitors[index];
    meeting->speaking = visitor;
    int broken = 0;
    if (events & POLLOUT) broken = tessi_link_flush(&visitor->link);
    if (broken == 0 && (events & ~POLLOUT))
        broken = tessi_link_receive(&visitor->link, take_from_visitor, meeting);
    if (broken != 0 && errno == EPROTO)
        reject(meeting, visitor, "it does not speak Tessera's protocol");
    if (broken == 0 && visitor->confirmed && !meeting->is_over) seat(meeting, index);
    else if (broken != 0 || tessi_now_ns() >= visitor->deadline_ns) dismiss(meeting, index);
}

static void accept_visitors(meeting_t *meeting)
{
    char from[64];
    int fd;
    while ((fd = tessi_socket_accept(meeting->listener, from, sizeof from)) >= 0) {
        if (meeting->visitor_count == meeting->visitor_capacity) dismiss(meeting, 0);
        visitor_t *visitor = &meeting->visitors[meeting->visitor_count++];
        memset(visitor, 0, sizeof *visitor);
        tessi_link_open(&visitor->link, fd, 4096);
        visitor->deadline_ns = tessi_deadline_ns(GUEST_MS);
        memcpy(visitor->from, from, sizeof visitor->from);
    }
    if (errno == EMFILE || errno == ENFILE)
        fail_meeting(meeting, TESS_ERR_SYSTEM,
                     "rank 0 cannot accept %d connections: too many open files; raise the limit "
                     "(ulimit -n)",
                     meeting->place->size - 1);
}

/* --- ranks that are there -------------------------------------------------------------------- */

static int take_from_rank(void *context, const tessi_header_t *header, const unsigned char *payload)
{
    meeting_t *meeting = context;
    char missing[256], sentence[TESSI_SENTENCE_BYTES];
    if (header->type != TESSI_MESSAGE_RESIGN || header->bytes != sizeof sentence) return -1;
    memcpy(sentence, payload, sizeof sentence);
    sentence[sizeof sentence - 1] = '\0';
    fail_meeting(meeting, TESS_ERR_TIMEOUT, "rendezvous ended: %s did not come, and %s",
                 missing_text(meeting, missing, sizeof missing), sentence);
    return 1;
}

static void serve_rank(meeting_t *meeting, int rank, short events)
{
    char who[128];
    int broken = 0;
    if (events & POLLOUT) broken = tessi_link_flush(&meeting->links[rank]);
    if (broken == 0 && (events & ~POLLOUT))
        broken = tessi_link_receive(&meeting->links[rank], take_from_rank, meeting);
    if (broken != 0 && meeting->is_over) tessi_link_close(&meeting->links[rank]);
    else if (broken != 0)
        fail_meeting(meeting, TESS_ERR_PEER_LOST, "%s ended during the rendezvous",
                     tessi_peer_text(&meeting->peers[rank], rank, who, sizeof who));
}

/* --- the meeting ----------------------------------------------------------------------------- */

static struct pollfd wait_for(const tessi_link_t *link)
{
    short events = (short)(POLLIN | (link->queue_count > 0 ? POLLOUT : 0));
    return (struct pollfd){.fd = link->fd, .events = events};
}

/* One round of waiting and serving. */
static tess_status_t meet_once(meeting_t *meeting, int wait_ms)
{
    int size = meeting->place->size, visitors = meeting->visitor_count;
    struct pollfd *ranks = meeting->waits, *guests = ranks + size;
    ranks[0] = (struct pollfd){.fd = meeting->listener, .events = POLLIN};
    for (int r = 1; r < size; r++) ranks[r] = wait_for(&meeting->links[r]);
    for (int v = 0; v < visitors; v++) guests[v] = wait_for(&meeting->visitors[v].link);
    int ready = poll(ranks, (nfds_t)(size + visitors), wait_ms);
    if (ready < 0 && errno != EINTR) return tessi_fail_errno(errno, "rank 0 cannot poll");
    if (ready < 0) return TESS_OK;
    for (int r = 1; r < size; r++)
        if (meeting->links[r].fd >= 0 && ranks[r].revents) serve_rank(meeting, r, ranks[r].revents);
    /* Backwards, since serving may remove the visitor and move those behind it. */
    for (int v = visitors - 1; v >= 0; v--)
        if (guests[v].revents || tessi_now_ns() >= meeting->visitors[v].deadline_ns)
            serve_visitor(meeting, v, guests[v].revents);
    if (ranks[0].revents) accept_visitors(meeting);
    if (meeting->failure != TESS_OK) return tessi_fail(meeting->failure, "%s", meeting->sentence);
    return TESS_OK;
}

static tess_status_t fail_missing(const meeting_t *meeting)
{
    char missing[256];
    missing_text(meeting, missing, sizeof missing);
    return tessi_fail(TESS_ERR_TIMEOUT,
                      "rendezvous timed out after %d ms: %s did not come (%d of %d are here)%s%s",
                      meeting->timeout_ms, missing, meeting->present_count, meeting->place->size,
                      meeting->rejected[0] ? "; " : "", meeting->rejected);
}

static tess_status_t meet(meeting_t *meeting)
{
    int64_t deadline_ns = tessi_deadline_ns(meeting->timeout_ms);
    int64_t announce_ns = tessi_deadline_ns(500);
    while (meeting->present_count < meeting->place->size) {
        int wait_ms = tessi_wait_ms(deadline_ns, 250);
        if (wait_ms == 0) return fail_missing(meeting);
        tess_status_t status = meet_once(meeting, wait_ms);
        if (status != TESS_OK) return status;
        if (meeting->announce && tessi_now_ns() >= announce_ns) {
            announce_missing(meeting);
            announce_ns = tessi_deadline_ns(500);
        }
    }
    return TESS_OK;
}

/* Nobody may knock at the next world of this process, so the listener goes before the table. */
static tess_status_t send_table(meeting_t *meeting)
{
    int size = meeting->place->size;
    size_t bytes = (size_t)size * sizeof(tessi_peer_t);
    close(meeting->listener);
    meeting->listener = -1;
    tessi_frame_t *table = tessi_frame_create(TESSI_MESSAGE_TABLE, bytes);
    if (!table) return TESS_ERR_OUT_OF_MEMORY;
    memcpy(tessi_frame_payload(table), meeting->peers, bytes);
    tess_status_t status = TESS_OK;
    for (int r = 1; r < size && status == TESS_OK; r++) {
        char who[128];
        if (tessi_link_send(&meeting->links[r], table) != 0)
            status = tessi_fail(TESS_ERR_PEER_LOST, "%s ended during the rendezvous",
                                tessi_peer_text(&meeting->peers[r], r, who, sizeof who));
    }
    tessi_frame_release(table);
    return status;
}

/* Tells everyone who is connected why there will be no world, and those who come within a moment:
 * they would otherwise knock at a closed door until their own deadline. */
static void send_failure(meeting_t *meeting, tess_status_t status)
{
    int size = meeting->place->size;
    int64_t deadline_ns = tessi_deadline_ns(FAREWELL_MS);
    meeting->is_over = 1;
    meeting->failure = status;
    snprintf(meeting->sentence, sizeof meeting->sentence, "%s", tess_last_error());
    for (int r = 1; r < size; r++) {
        if (meeting->links[r].fd < 0) continue;
        refuse(&meeting->links[r], status, 0, meeting->sentence);
        meeting->present[r] = TOLD;
    }
    for (int v = 0; v < meeting->visitor_count; v++) {
        visitor_t *visitor = &meeting->visitors[v];
        if (!visitor->heard) continue; /* its hello comes yet */
        refuse(&visitor->link, status, 0, meeting->sentence);
        meeting->present[visitor->rank] = TOLD;
    }
    /* Whoever did not come until the deadline is not waited for again. */
    int is_waiting = status != TESS_ERR_TIMEOUT && meeting->listener >= 0, pending = 1;
    while (pending > 0 && tessi_wait_ms(deadline_ns, 1) > 0) {
        pending = 0;
        for (int r = 1; r < size; r++) {
            pending += meeting->links[r].fd >= 0 && meeting->links[r].queue_count > 0;
            pending += is_waiting && meeting->present[r] != TOLD;
        }
        if (pending > 0) (void)meet_once(meeting, 20);
    }
    for (int r = 1; r < size; r++) tessi_link_close(&meeting->links[r]);
    (void)tessi_fail(status, "%s", meeting->sentence);
}

/* The socket that a launcher made for us, when it is what it should be. */
static int use_inherited(const tessi_place_t *place)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address;
    socklen_t length = sizeof address, listening_bytes = sizeof(int);
    int listening = 0, fd = place->root_fd;
    memset(&address, 0, sizeof address);
    if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &listening_bytes) != 0 ||
        !listening || getsockname(fd, &address.any, &length) != 0)
        return -1;
    int port = ntohs(address.any.sa_family == AF_INET ? address.v4.sin_port : address.v6.sin6_port);
    if (port != place->port || fcntl(fd, F_SETFL, O_NONBLOCK) != 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return -1;
    return fd;
}

static tess_status_t listen_for_ranks(meeting_t *meeting)
{
    const tessi_place_t *place = meeting->place;
    int64_t give_up_ns = tessi_deadline_ns(
        meeting->timeout_ms < ADDRESS_BUSY_MS ? meeting->timeout_ms : ADDRESS_BUSY_MS);
    meeting->listener = use_inherited(place);
    /* A port may be busy for a moment while the world before this one shuts down. */
    for (int n = 0; meeting->listener < 0; n++) {
        tess_status_t status =
            tessi_socket_listen(place->host, place->port + n % place->port_count, place->listen_any,
                                place->size, &meeting->listener);
        if (status == TESS_OK) break;
        if (n % place->port_count != place->port_count - 1) continue;
        if (tessi_wait_ms(give_up_ns, 1) == 0 || errno != EADDRINUSE) return status;
        poll(NULL, 0, 100);
    }
    return TESS_OK;
}

tess_status_t tessi_rendezvous_root(const tessi_place_t *place, int timeout_ms, tessi_peer_t *peers,
                                    tessi_link_t *links)
{
    meeting_t meeting = {.place = place,
                         .timeout_ms = timeout_ms,
                         .peers = peers,
                         .links = links,
                         .present_count = 1,
                         .listener = -1,
                         .visitor_capacity = place->size + STRANGERS_MAX};
    tess_status_t status = TESS_ERR_OUT_OF_MEMORY;
    for (int r = 0; r < place->size; r++) links[r].fd = -1;
    tessi_peer_self(place, &peers[0]);
    size_t visitors = (size_t)meeting.visitor_capacity;
    meeting.present = tessi_calloc((size_t)place->size, 1);
    meeting.visitors = tessi_calloc(visitors, sizeof(visitor_t));
    meeting.waits = tessi_calloc((size_t)place->size + visitors, sizeof(struct pollfd));
    if (!meeting.present || !meeting.visitors || !meeting.waits) goto free_meeting;
    meeting.present[0] = PRESENT;
    TESS_TRY(listen_for_ranks(&meeting), free_meeting);
    status = meet(&meeting);
    if (status == TESS_OK) status = send_table(&meeting);
    if (status != TESS_OK) send_failure(&meeting, status);
    while (meeting.visitor_count > 0) dismiss(&meeting, 0);
    if (meeting.listener >= 0) close(meeting.listener);
free_meeting:
    tessi_free(meeting.waits);
    tessi_free(meeting.visitors);
    tessi_free(meeting.present);
    return status;
}
