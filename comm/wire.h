/* SPDX-License-Identifier: Apache-2.0 */
/* Framed messages over a non-blocking TCP connection, and the sockets below them.
 *
 * A link never blocks its caller: what the socket does not take is queued, within a bound, and what
 * has not arrived is read on later. Links are not locked; their owner does that.
 */
#ifndef TESSERA_COMM_WIRE_H
#define TESSERA_COMM_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <tessera/status.h>

/* First the rendezvous, then what control threads say to each other. */
typedef enum tessi_message {
    TESSI_MESSAGE_HELLO = 1,
    TESSI_MESSAGE_WELCOME,
    TESSI_MESSAGE_PRESENT,
    TESSI_MESSAGE_REFUSED,
    TESSI_MESSAGE_WAITING,
    TESSI_MESSAGE_RESIGN,
    TESSI_MESSAGE_TABLE,

    TESSI_MESSAGE_POST = 32,
    TESSI_MESSAGE_GIVE_UP,
    TESSI_MESSAGE_EXCHANGED,
    TESSI_MESSAGE_WATCH,
    TESSI_MESSAGE_UNWATCH,
    TESSI_MESSAGE_FAILED,
    TESSI_MESSAGE_RECORDS,
    TESSI_MESSAGE_DIAGNOSE,
    TESSI_MESSAGE_DIAGNOSIS,
    TESSI_MESSAGE_LOST,
    TESSI_MESSAGE_LEFT,
    TESSI_MESSAGE_PING,
    TESSI_MESSAGE_PONG,
    TESSI_MESSAGE_GOODBYE
} tessi_message_t;

/* Numbers travel in the sender's byte order; the mark refuses a rank of the other order. */
#define TESSI_WIRE_MARK 0x7e55u
typedef struct tessi_header {
    uint32_t bytes; /* of the payload */
    uint16_t type;
    uint16_t mark;
} tessi_header_t;

/* One message, ready to be sent on any number of links. */
typedef struct tessi_frame {
    int references;
    int unused; /* so that the payload behind the struct is aligned to 8 bytes */
    tessi_header_t header;
} tessi_frame_t;

/* NULL with tess_last_error() set where there is no memory. Payload zeroed; one reference. */
tessi_frame_t *tessi_frame_create(tessi_message_t type, size_t payload_bytes);
void tessi_frame_release(tessi_frame_t *frame);
static inline unsigned char *tessi_frame_payload(tessi_frame_t *frame)
{
    return (unsigned char *)(frame + 1);
}

#define TESSI_LINK_FRAMES 256

typedef struct tessi_link {
    int fd; /* -1: closed */
    uint32_t payload_max_bytes;

    tessi_header_t header; /* of the message that is arriving */
    uint32_t header_got_bytes;
    uint32_t payload_got_bytes;
    uint32_t payload_capacity_bytes;
    unsigned char *payload;

    tessi_frame_t *queue[TESSI_LINK_FRAMES];
    int queue_first, queue_count;
    size_t sent_bytes; /* of the first in the queue */
} tessi_link_t;

/* Takes the socket over. */
void tessi_link_open(tessi_link_t *link, int fd, uint32_t payload_max_bytes);
/* Closes and drops what is queued. A link that is closed already is legal. */
void tessi_link_close(tessi_link_t *link);

/* 0, or -1 with errno when the connection is broken or the queue is full. Takes no reference away
 * from the caller. */
int tessi_link_send(tessi_link_t *link, tessi_frame_t *frame);
int tessi_link_flush(tessi_link_t *link);

/* Hands every complete message to the handler, which returns 0, 1 to leave the messages behind this
 * one for later, or -1 for nonsense. Returns 0, or -1 with errno: 0 for a connection that the other
 * side closed, EPROTO for nonsense. A handler may close the link; that ends the call with 0. */
typedef int (*tessi_link_handler_t)(void *context, const tessi_header_t *header,
                                    const unsigned char *payload);
int tessi_link_receive(tessi_link_t *link, tessi_link_handler_t handler, void *context);

/* --- sockets --------------------------------------------------------------------------------- */

#define TESSI_HOST_BYTES 256

/* "host:port" or "[address]:port". `name` is what the address came from, for the sentence. */
TESS_MUST_CHECK tess_status_t tessi_address_split(const char *name, const char *text,
                                                  char host[TESSI_HOST_BYTES], int *port);

/* A non-blocking listening socket on the host's address where `any_address` is 0, else on all.
 * Leaves errno with the reason of a failure. */
TESS_MUST_CHECK tess_status_t tessi_socket_listen(const char *host, int port, int any_address,
                                                  int backlog, int *fd);

/* Connects to any address of the host until the deadline. TESS_ERR_NOT_FOUND: no such host;
 * TESS_ERR_SYSTEM: refused, unreachable or not to be looked up now, worth another try. */
TESS_MUST_CHECK tess_status_t tessi_socket_connect(const char *host, int port, int64_t deadline_ns,
                                                   int *fd);

/* Next connection, or -1 with errno (EAGAIN: none waits). `from` gets the peer's address. */
int tessi_socket_accept(int listener, char *from, size_t from_bytes);

/* Milliseconds until the deadline, rounded up, at least 0 and at most `most_ms`. */
int tessi_wait_ms(int64_t deadline_ns, int most_ms);

#endif
