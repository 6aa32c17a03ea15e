/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by ucx_message.c (meetings, requests, failing) and ucx_transfer.c (moving chunks).
 *
 * A tag says what a message is, from whom, for which operation and which transfer of it; between
 * two ranks UCX keeps messages of one tag in order.
 */
#ifndef TESSERA_COMM_UCX_MESSAGE_H
#define TESSERA_COMM_UCX_MESSAGE_H

#include "ucx_internal.h"

/* Chunks that a sender may be ahead of its receiver. */
#define TESSI_WINDOW 8

typedef enum tessi_what { TESSI_HEADER = 1, TESSI_DATA = 2, TESSI_CREDIT = 3 } tessi_what_t;

/* The traffic with one peer. Chunks are counted from the start of the transfer. */
typedef struct tessi_lane {
    int64_t send_chunks, sent;   /* all; handed to UCX */
    int64_t taken;               /* of mine, as the peer tells */
    int64_t recv_chunks, posted; /* all; receives handed to UCX */
    int64_t received, consumed;  /* arrived, in order; copied or summed */
    int64_t told;                /* consumed, as the peer was told */
    int64_t credit_out, credit_in;
    void *sends[TESSI_WINDOW],
        *recvs[TESSI_WINDOW]; /* requests; chunk c has place c % TESSI_WINDOW */
    void *credit_send, *credit_recv;
    int is_listening;                    /* a receive for credits was started */
    tessi_op_record_t header, header_in; /* the peer's latest; the one under way */
    void *header_send, *header_recv;
    int has_header; /* of the operation that runs */
} tessi_lane_t;

struct tessi_message {
    int64_t chunk_bytes;      /* of data; a multiple of 4 KiB */
    tessi_lane_t *lanes;      /* (size) */
    tessi_traffic_t *traffic; /* (size) */
    const void **sources;     /* (size) */
    char *stage;              /* (size, TESSI_WINDOW, chunk_bytes) for chunks to be summed */
    tessi_op_record_t header; /* of the operation that runs, as it is sent */
    void *flush;              /* left under way by an operation that failed */
    int64_t deadline_ns;
};

ucp_tag_t tessi_tag_of(tessi_what_t what, int phase, int sender, int64_t sequence);

/* Start a request; *request stays NULL when it is done at once. */
ucs_status_t tessi_start_send(tessi_ucx_t *ucx, int peer, const void *data, int64_t bytes,
                              ucp_tag_t tag, void **request);
ucs_status_t tessi_start_recv(tessi_ucx_t *ucx, void *data, int64_t bytes, ucp_tag_t tag,
                              void **request);

/* 1 when the request is done (or there is none), 0 while it is under way; *status keeps errors. */
int tessi_is_done(void **request, ucs_status_t *status);

tess_status_t tessi_fail_lost(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued, int peer,
                              ucs_status_t why);

/* Whether nothing is expected of a peer any more. */
typedef int (*tessi_lane_test_t)(const tessi_lane_t *lane);

/* Between two rounds of polling: lets UCX work, and looks for reasons to give up. */
tess_status_t tessi_work_or_wait(tessi_ucx_t *ucx, const tessi_ucx_op_t *queued,
                                 tessi_lane_test_t is_idle, int moved, tessi_backoff_t *backoff);

#endif
