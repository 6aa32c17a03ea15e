/* SPDX-License-Identifier: Apache-2.0 */
/* How a rank other than 0 joins: connect, say hello, be welcomed, confirm, wait for the table.
 *
 * Invariant: until this rank has confirmed (PRESENT) it may turn away and try again without a
 * trace; after that, rank 0 counts on it, and losing the connection fails the rendezvous of both.
 */
#include "rendezvous.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/internal.h"

/* How long a derived port is given to answer before the next candidate is tried. */
#define ANSWER_MS 2000
#define RETRY_MS 50
#define RETRY_MAX_MS 500
/* After this time people are told what is in the way. */
#define QUIET_MS 3000
/* A name may appear late, when its host starts with the job; later than this it is a mistake. */
#define NAME_MS 15000

static uint64_t machine_identity(const char *host)
{
    char boot[64] = "";
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, boot, sizeof boot - 1) < 0) boot[0] = '\0';
        close(fd);
    }
    return tessi_hash(tessi_hash(TESSI_HASH_START, host, strlen(host)), boot, strlen(boot));
}

void tessi_peer_self(const tessi_place_t *place, tessi_peer_t *peer)
{
    memset(peer, 0, sizeof *peer);
    char host[256] = "";
    if (gethostname(host, sizeof host - 1) != 0 || !host[0]) snprintf(host, sizeof host, "unknown");
    peer->machine = machine_identity(host);
    size_t length = strnlen(host, sizeof peer->host - 1);
    memcpy(peer->host, host, length);
    peer->pid = (int32_t)getpid();
    peer->local_rank = place->local_rank;
    peer->local_size = place->local_size;
}

const char *tessi_peer_text(const tessi_peer_t *peer, int rank, char *text, size_t bytes)
{
    snprintf(text, bytes, "rank %d (pid %d on %s)", rank, (int)peer->pid, peer->host);
    return text;
}

const char *tessi_ranks_text(const unsigned char *marked, int size, unsigned char mark, char *text,
                             size_t bytes)
{
    size_t length = 0;
    int total = 0;
    text[0] = '\0';
    for (int r = 0; r < size; r++) total += marked[r] == mark;
    for (int r = 0; r < size; r++) {
        if (marked[r] != mark) continue;
        int last = r;
        while (last + 1 < size && marked[last + 1] == mark) last++;
        int is_last = 1;
        for (int n = last + 1; n < size; n++) is_last &= marked[n] != mark;
        const char *before = length == 0 ? (total == 1 ? "rank " : "ranks ")
                             : is_last   ? " and "
                                         : ", ";
        char item[64];
        if (last > r) snprintf(item, sizeof item, "%s%d-%d", before, r, last);
        else snprintf(item, sizeof item, "%s%d", before, r);
        if (length + strlen(item) + 8 > bytes) {
            snprintf(text + length, bytes - length, ", …");
            break;
        }
        length += (size_t)snprintf(text + length, bytes - length, "%s", item);
        r = last;
    }
    return text;
}

/* One attempt to join, and what is known about those before it. */
typedef struct guest {
    const tessi_place_t *place;
    tessi_peer_t *peers;
    tessi_link_t *link;
    enum { KNOCKING, WELCOMED, SEATED, REFUSED } state;
    int is_stranger;                     /* with REFUSED: by another job's rank 0 */
    tess_status_t status;                /* with REFUSED */
    char sentence[TESSI_SENTENCE_BYTES]; /* why this attempt failed */
    char obstacle[TESSI_SENTENCE_BYTES]; /* why the last one failed that knew why */
    int is_unknown;                      /* the last attempt found no such host */
    char root[128];                      /* rank 0 as a text, once it has spoken */
    char waiting[256];                   /* for whom rank 0 waits, as it said last */
} guest_t;

static void copy_text(char *to, size_t to_bytes, const unsigned char *from, size_t from_bytes)
{
    size_t length = strnlen((const char *)from, from_bytes < to_bytes ? from_bytes : to_bytes - 1);
    if (length >= to_bytes) length = to_bytes - 1;
    memcpy(to, from, length);
    to[length] = '\0';
}

static int send_message(tessi_link_t *link, tessi_message_t type, const void *payload, size_t bytes)
{
    tessi_frame_t *frame = tessi_frame_create(type, bytes);
    if (!frame) {
        errno = ENOMEM;
        return -1;
    }
    if (bytes > 0) memcpy(tessi_frame_payload(frame), payload, bytes);
    int result = tessi_link_send(link, frame);
    tessi_frame_release(frame);
    return result;
}

static int take_message(void *context, const tessi_header_t *header, const unsigned char *payload)
{
    guest_t *guest = context;
    tessi_refusal_t refusal;
    switch (header->type) {
    case TESSI_MESSAGE_WELCOME:
        if (guest->state != KNOCKING || header->bytes != sizeof(tessi_peer_t)) return -1;
        memcpy(&guest->peers[0], payload, sizeof(tessi_peer_t));
        guest->peers[0].host[sizeof guest->peers[0].host - 1] = '\0';
        tessi_peer_text(&guest->peers[0], 0, guest->root, sizeof guest->root);
        if (send_message(guest->link, TESSI_MESSAGE_PRESENT, NULL, 0) != 0) return -1;
        guest->state = WELCOMED;
        return 0;
    case TESSI_MESSAGE_REFUSED:
        if (header->bytes != sizeof refusal) return -1;
        memcpy(&refusal, payload, sizeof refusal);
        guest->state = REFUSED;
        guest->is_stranger = refusal.is_stranger;
        guest->status = refusal.status < 0 ? (tess_status_t)refusal.status : TESS_ERR_MISMATCH;
        copy_text(guest->sentence, sizeof guest->sentence, (unsigned char *)refusal.sentence,
                  sizeof refusal.sentence);
        tessi_link_close(guest->link);
        return 0;
    case TESSI_MESSAGE_WAITING:
        if (guest->state != WELCOMED) return -1;
        copy_text(guest->waiting, sizeof guest->waiting, payload, header->bytes);
        return 0;
    case TESSI_MESSAGE_TABLE:
        if (guest->state != WELCOMED ||
            header->bytes != (size_t)guest->place->size * sizeof(tessi_peer_t))
            return -1;
        memcpy(guest->peers, payload, header->bytes);
        for (int r = 0; r < guest->place->size; r++)
            guest->peers[r].host[sizeof guest->peers[r].host - 1] = '\0';
        guest->state = SEATED;
        return 1; /* what follows is for the control thread */
    default:
        return -1;
    }
}

/* Talks over one connection until seated, refused, broken, or the time is over. */
static void visit(guest_t *guest, int64_t deadline_ns)
{
    const tessi_place_t *place = guest->place;
    tessi_hello_t hello = {.magic = TESSI_PROTOCOL_MAGIC,
                           .version = TESSI_PROTOCOL_VERSION,
                           .rank = place->rank,
                           .size = place->size,
                           .cookie = place->cookie};
    tessi_peer_self(place, &hello.peer);
    int64_t answer_ns = place->port_count > 1 ? tessi_deadline_ns(ANSWER_MS) : deadline_ns;
    int broken = send_message(guest->link, TESSI_MESSAGE_HELLO, &hello, sizeof hello);
    while (broken == 0 && (guest->state == KNOCKING || guest->state == WELCOMED)) {
        int64_t until_ns =
            guest->state == KNOCKING && answer_ns < deadline_ns ? answer_ns : deadline_ns;
        int wait_ms = tessi_wait_ms(until_ns, 1000);
        if (wait_ms == 0) return;
        short events = (short)(POLLIN | (guest->link->queue_count > 0 ? POLLOUT : 0));
        struct pollfd wait = {.fd = guest->link->fd, .events = events};
        if (poll(&wait, 1, wait_ms) < 0 && errno != EINTR) {
            broken = -1;
            break;
        }
        if (wait.revents & POLLOUT) broken = tessi_link_flush(guest->link);
        if (broken == 0 && (wait.revents & ~POLLOUT))
            broken = tessi_link_receive(guest->link, take_message, guest);
    }
    if (broken != 0) {
        const char *reason = errno == 0        ? "closed the connection"
                             : errno == EPROTO ? "answered with something that is no Tessera rank 0"
                                               : strerror(errno);
        snprintf(guest->sentence, sizeof guest->sentence, "%s", reason);
    }
}

/* After PRESENT there is no second try: rank 0 has failed with us. */
static tess_status_t fail_after_welcome(guest_t *guest, int timeout_ms, int timed_out)
{
    int rank = guest->place->rank;
    if (!timed_out)
        return tessi_fail(TESS_ERR_PEER_LOST, "%s ended during the rendezvous (%s)", guest->root,
                          guest->sentence);
    char sentence[TESSI_SENTENCE_BYTES] = "";
    snprintf(sentence, sizeof sentence, "rank %d gave up after its timeout of %d ms", rank,
             timeout_ms);
    (void)send_message(guest->link, TESSI_MESSAGE_RESIGN, sentence, sizeof sentence);
    if (guest->waiting[0])
        return tessi_fail(TESS_ERR_TIMEOUT,
                          "rendezvous timed out after %d ms: %s did not come to %s", timeout_ms,
                          guest->waiting, guest->root);
    return tessi_fail(TESS_ERR_TIMEOUT, "rendezvous timed out after %d ms: %s does not answer",
                      timeout_ms, guest->root);
}

static tess_status_t fail_outside(const guest_t *guest, int timeout_ms)
{
    const tessi_place_t *place = guest->place;
    const char *hint = "";
    if (place->port_count > 1)
        hint = "; this address was derived from the launcher's variables, set TESS_ROOT to "
               "host:port of rank 0 where that is wrong";
    return tessi_fail(TESS_ERR_TIMEOUT,
                      "rank 0 did not answer at %s port %d within %d ms%s%s%s (this is rank %d of "
                      "%d)%s",
                      place->host, place->port, timeout_ms, guest->obstacle[0] ? " (" : "",
                      guest->obstacle, guest->obstacle[0] ? ")" : "", place->rank, place->size,
                      hint);
}

/* One connection and what came of it: TESS_OK seated, TESS_NOT_READY try again, or the failure. */
static tess_status_t attempt(guest_t *guest, int port, int timeout_ms, int64_t deadline_ns)
{
    int fd;
    tess_status_t status = tessi_socket_connect(guest->place->host, port, deadline_ns, &fd);
    guest->is_unknown = status == TESS_ERR_NOT_FOUND;
    if (status != TESS_OK) {
        snprintf(guest->obstacle, sizeof guest->obstacle, "%s", tess_last_error());
        return TESS_NOT_READY;
    }
    uint32_t most = (uint32_t)((size_t)guest->place->size * sizeof(tessi_peer_t));
    if (most < sizeof(tessi_refusal_t)) most = sizeof(tessi_refusal_t);
    guest->state = KNOCKING;
    guest->sentence[0] = '\0';
    tessi_link_open(guest->link, fd, most);
    visit(guest, deadline_ns);
    if (guest->state == SEATED) return TESS_OK;
    if (guest->state == REFUSED && !guest->is_stranger)
        status = tessi_fail(guest->status, "%s", guest->sentence);
    else if (guest->state == WELCOMED)
        status = fail_after_welcome(guest, timeout_ms, !guest->sentence[0]);
    else status = TESS_NOT_READY;
    if (guest->sentence[0]) memcpy(guest->obstacle, guest->sentence, sizeof guest->obstacle);
    tessi_link_close(guest->link);
    return status;
}

/* A job that waits for minutes is to say for what. */
static void tell_obstacle(const guest_t *guest, int timeout_ms)
{
    const tessi_place_t *place = guest->place;
    tessi_log(TESSI_LOG_ERROR,
              "rank 0 does not answer at %s port %d yet: %s; trying on for at most %d ms in all",
              place->host, place->port, guest->obstacle, timeout_ms);
}

static tess_status_t fail_unknown(const guest_t *guest)
{
    return tessi_fail(
        TESS_ERR_NOT_FOUND,
        "%s, and %d s of waiting did not help; rank 0 is expected there (this is rank "
        "%d of %d)",
        guest->obstacle, NAME_MS / 1000, guest->place->rank, guest->place->size);
}

static tess_status_t join(const tessi_place_t *place, int timeout_ms, tessi_peer_t *peers,
                          tessi_link_t *link)
{
    guest_t guest = {.place = place, .peers = peers, .link = link};
    int64_t deadline_ns = tessi_deadline_ns(timeout_ms), name_ns = tessi_deadline_ns(NAME_MS);
    int64_t quiet_ns = tessi_deadline_ns(QUIET_MS);
    int pause_ms = RETRY_MS, is_told = 0;
    for (int n = 0;; n++) {
        int port = place->port + n % place->port_count;
        tess_status_t status = attempt(&guest, port, timeout_ms, deadline_ns);
        if (status != TESS_NOT_READY) return status;
        if (n % place->port_count != place->port_count - 1) continue;
        if (tessi_wait_ms(deadline_ns, 1) == 0) return fail_outside(&guest, timeout_ms);
        if (guest.is_unknown && tessi_now_ns() >= name_ns) return fail_unknown(&guest);
        if (!is_told && guest.obstacle[0] && tessi_now_ns() >= quiet_ns) {
            tell_obstacle(&guest, timeout_ms);
            is_told = 1;
        }
        poll(NULL, 0, tessi_wait_ms(deadline_ns, pause_ms));
        if (pause_ms < RETRY_MAX_MS) pause_ms += RETRY_MS;
    }
}

tess_status_t tessi_rendezvous(const tessi_place_t *place, int timeout_ms, tessi_peer_t *peers,
                               tessi_link_t *links)
{
    if (place->rank == 0) return tessi_rendezvous_root(place, timeout_ms, peers, links);
    links[0].fd = -1;
    return join(place, timeout_ms, peers, &links[0]);
}
