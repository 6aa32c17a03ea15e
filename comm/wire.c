/* SPDX-License-Identifier: Apache-2.0 */
/* Framed messages over a non-blocking TCP connection.
 *
 * Invariant: a link's queue holds one reference on each frame in it, and only the first of them may
 * be partly sent; a payload that is arriving never exceeds payload_max_bytes.
 */
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/internal.h"

/* A payload buffer up to this size is kept for the next message. */
#define PAYLOAD_KEPT_BYTES (64u * 1024u)
/* One link may not keep its owner busy for longer than this many messages at a time. */
#define MESSAGES_AT_ONCE 64

tessi_frame_t *tessi_frame_create(tessi_message_t type, size_t payload_bytes)
{
    tessi_frame_t *frame = tessi_calloc(1, sizeof *frame + payload_bytes);
    if (!frame) return NULL;
    frame->references = 1;
    frame->header.bytes = (uint32_t)payload_bytes;
    frame->header.type = (uint16_t)type;
    frame->header.mark = TESSI_WIRE_MARK;
    return frame;
}

void tessi_frame_release(tessi_frame_t *frame)
{
    if (frame && --frame->references == 0) tessi_free(frame);
}

void tessi_link_open(tessi_link_t *link, int fd, uint32_t payload_max_bytes)
{
    memset(link, 0, sizeof *link);
    link->fd = fd;
    link->payload_max_bytes = payload_max_bytes;
}

static void drop_first(tessi_link_t *link)
{
    tessi_frame_release(link->queue[link->queue_first]);
    link->queue_first = (link->queue_first + 1) % TESSI_LINK_FRAMES;
    link->queue_count--;
    link->sent_bytes = 0;
}

void tessi_link_close(tessi_link_t *link)
{
    while (link->queue_count > 0) drop_first(link);
    tessi_free(link->payload);
    link->payload = NULL;
    link->payload_capacity_bytes = 0;
    link->header_got_bytes = 0;
    if (link->fd >= 0) close(link->fd);
    link->fd = -1;
}

int tessi_link_send(tessi_link_t *link, tessi_frame_t *frame)
{
    if (link->fd < 0) {
        errno = ENOTCONN;
        return -1;
    }
    if (link->queue_count == TESSI_LINK_FRAMES) {
        errno = ENOBUFS;
        return -1;
    }
    frame->references++;
    link->queue[(link->queue_first + link->queue_count) % TESSI_LINK_FRAMES] = frame;
    link->queue_count++;
    return tessi_link_flush(link);
}

int tessi_link_flush(tessi_link_t *link)
{
    while (link->queue_count > 0) {
        tessi_frame_t *frame = link->queue[link->queue_first];
        /* Header and payload lie behind one another, so that one call sends both. */
        const unsigned char *bytes = (const unsigned char *)&frame->header;
        size_t total = sizeof frame->header + frame->header.bytes;
        if (tessi_fault("socket")) {
            errno = ECONNRESET;
            return -1;
        }
        ssize_t sent = send(link->fd, bytes + link->sent_bytes, total - link->sent_bytes,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
        link->sent_bytes += (size_t)sent;
        if (link->sent_bytes == total) drop_first(link);
    }
    return 0;
}

/* Reads at most `bytes` into `to`: the number read, 0 when nothing is there yet, -1 with errno. */
static ssize_t receive_some(tessi_link_t *link, void *to, size_t bytes)
{
    if (tessi_fault("socket")) {
        errno = ECONNRESET;
        return -1;
    }
    for (;;) {
        ssize_t got = recv(link->fd, to, bytes, MSG_DONTWAIT);
        if (got > 0) return got;
        if (got == 0) {
            errno = 0;
            return -1;
        }
        if (errno == EINTR) continue;
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
    }
}

/* Checks the header that has just arrived and makes room for its payload. */
static int begin_payload(tessi_link_t *link)
{
    link->payload_got_bytes = 0;
    if (link->header.mark != TESSI_WIRE_MARK || link->header.bytes > link->payload_max_bytes) {
        errno = EPROTO;
        return -1;
    }
    if (link->header.bytes <= link->payload_capacity_bytes) return 0;
    tessi_free(link->payload);
    link->payload_capacity_bytes = 0;
    link->payload = tessi_calloc(1, link->header.bytes);
    if (!link->payload) {
        errno = ENOMEM;
        return -1;
    }
    link->payload_capacity_bytes = link->header.bytes;
    return 0;
}

/* 1 when a message is complete, 0 when more must arrive first, -1 with errno. */
static int receive_message(tessi_link_t *link)
{
    while (link->header_got_bytes < sizeof link->header) {
        ssize_t got = receive_some(link, (unsigned char *)&link->header + link->header_got_bytes,
                                   sizeof link->header - link->header_got_bytes);
        if (got <= 0) return (int)got;
        link->header_got_bytes += (uint32_t)got;
        if (link->header_got_bytes == sizeof link->header && begin_payload(link) != 0) return -1;
    }
    while (link->payload_got_bytes < link->header.bytes) {
        ssize_t got = receive_some(link, link->payload + link->payload_got_bytes,
                                   link->header.bytes - link->payload_got_bytes);
        if (got <= 0) return (int)got;
        link->payload_got_bytes += (uint32_t)got;
    }
    return 1;
}

int tessi_link_receive(tessi_link_t *link, tessi_link_handler_t handler, void *context)
{
    static const unsigned char nothing[1];
    for (int n = 0; n < MESSAGES_AT_ONCE && link->fd >= 0; n++) {
        int complete = receive_message(link);
        if (complete <= 0) return complete;
        link->header_got_bytes = 0;
        int answer = handler(context, &link->header, link->payload ? link->payload : nothing);
        if (answer < 0) {
            errno = EPROTO;
            return -1;
        }
        if (link->payload_capacity_bytes > PAYLOAD_KEPT_BYTES) {
            tessi_free(link->payload);
            link->payload = NULL;
            link->payload_capacity_bytes = 0;
        }
        if (answer > 0) break;
    }
    return 0;
}
