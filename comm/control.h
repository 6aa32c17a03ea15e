/* SPDX-License-Identifier: Apache-2.0 */
/* The control plane: one thread a process, one connection from every rank to rank 0.
 *
 * Files: world.c opens and closes; control.c is the thread and this rank's side of the
 * conversation; watch.c holds communicators' mailboxes and operation records; server.c,
 * server_exchange.c and server_records.c are rank 0's side. Rank 0 talks to itself by calls, never
 * through a socket.
 *
 * Locks: `lock` guards everything here that is not marked otherwise. No function called with it
 * held blocks.
 */
#ifndef TESSERA_COMM_CONTROL_H
#define TESSERA_COMM_CONTROL_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "comm_internal.h"
#include "rendezvous.h"
#include "world_internal.h"

#define TESSI_EXCHANGE_MAX_BYTES (1 << 20)
#define TESSI_KEY_BYTES 128
#define TESSI_RECORD_RING 4096
#define TESSI_RECORD_PERIOD_MS 50
#define TESSI_ANSWER_MS 2000
#define TESSI_PAST_FAILURES 32

typedef struct tessi_server tessi_server_t;

/* What became of a rank. */
typedef enum tessi_gone { TESSI_HERE = 0, TESSI_LEFT = 1, TESSI_LOST = 2 } tessi_gone_t;

/* A caller that waits for an answer; lives on its stack. */
typedef struct tessi_request {
    struct tessi_request *next;
    const char *key;      /* of an exchange, or NULL */
    uint64_t number;      /* of a diagnosis */
    tessi_watch_t *watch; /* once this has failed there is nothing to wait for; or NULL */
    int is_done;
    tess_status_t status;
    void *data; /* the answer goes here: (data_bytes) */
    size_t data_bytes;
    char sentence[TESSI_SENTENCE_BYTES];
} tessi_request_t;

/* With or without the lock. */
static inline int tessi_request_is_void(const tessi_request_t *request)
{
    return request->watch && tessi_watch_has_failed(request->watch);
}

/* A counter of tessi_world_count. */
typedef struct tessi_counter {
    struct tessi_counter *next;
    uint64_t hash;
    int64_t count;
} tessi_counter_t;

typedef struct tessi_past_failure {
    uint64_t comm_id;
    int status; /* TESS_OK: unused */
    char detail[TESSI_SENTENCE_BYTES];
} tessi_past_failure_t;

struct tess_world {
    /* Settled at open. */
    int rank, size, local_rank, local_size, timeout_ms;
    char source[48];
    tessi_peer_t *peers; /* (size) */
    int *all_ranks;      /* (size) */
    _Atomic int64_t barriers;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a request is done, a watch has failed, or a rank is gone */
    unsigned char *gone;    /* (size) tessi_gone_t, as far as this rank knows */
    int is_service_over;    /* rank 0 has said that it will not serve any longer */
    int *gone_error;        /* (size) errno of the connection of a rank that is lost */
    int status;             /* TESS_OK, or the first loss */
    char detail[TESSI_SENTENCE_BYTES];
    tessi_request_t *requests;
    uint64_t request_count;
    tessi_watch_t *watches;
    tessi_counter_t *counters;
    tessi_past_failure_t past[TESSI_PAST_FAILURES]; /* of communicators; a ring */
    int past_next;

    /* The thread; size > 1. */
    pthread_t thread;
    struct pollfd *waits; /* (1 + size), the thread only */
    int wake_fd;          /* eventfd */
    int is_running, is_stopping;
    int64_t stop_ns;        /* give up sending what is queued */
    tessi_link_t link;      /* to rank 0; closed on rank 0 */
    tessi_server_t *server; /* on rank 0 */

    /* Operations not yet sent, under their own short lock. */
    pthread_mutex_t record_lock;
    tessi_op_record_t *records; /* (TESSI_RECORD_RING) */
    uint64_t record_head, record_tail;
    _Atomic int is_record_ring_filling; /* send now, not at the end of the period */
    _Atomic int is_recording;
    int64_t record_ns; /* when records were sent last; thread only */
};

/* "rank 2 (pid 71 on node3) has closed its world", or what else became of it. Returns text. */
const char *tessi_gone_text(const tess_world_t *world, int rank, tessi_gone_t how, int error,
                            char *text, size_t bytes);

/* --- control.c ------------------------------------------------------------------------------- */

tess_status_t tessi_control_start(tess_world_t *world);
/* Sends what is queued, for a second at most, and ends the thread. */
void tessi_control_stop(tess_world_t *world);
void tessi_control_wake(tess_world_t *world);

/* With the lock: this rank's message to the server. TESS_ERR_PEER_LOST when rank 0 is gone. */
tess_status_t tessi_control_send(tess_world_t *world, tessi_frame_t *frame);
/* With the lock: a message of the server to this rank. 0, or -1 for nonsense. */
int tessi_control_take(tess_world_t *world, const tessi_header_t *header,
                       const unsigned char *payload);
/* With the lock: waits until the request is done, its watch has failed or the deadline has passed.
 * 1 when done. */
int tessi_control_wait(tess_world_t *world, tessi_request_t *request, int64_t deadline_ns);
/* With the lock: waits for any change, until the deadline at most. */
void tessi_control_pause(tess_world_t *world, int64_t deadline_ns);
void tessi_control_enqueue(tess_world_t *world, tessi_request_t *request);
void tessi_control_dequeue(tess_world_t *world, tessi_request_t *request);

/* --- watch.c (all with the lock, but for the flush) --------------------------------------------
 */

/* Rank `rank` is lost: sets the world's status and the watches that hold it. */
void tessi_watch_rank_lost(tess_world_t *world, int rank, int error);
/* Another rank, or the server, found a failure of this communicator. */
void tessi_watch_take_failure(tess_world_t *world, uint64_t comm_id, tess_status_t status,
                              const char *detail);
/* Sends the records that are waiting. */
void tessi_records_flush(tess_world_t *world);

/* --- server.c (all with the lock) ------------------------------------------------------------- */

tess_status_t tessi_server_create(tess_world_t *world, tessi_server_t **server);
void tessi_server_destroy(tessi_server_t *server);
/* One message of a rank. 0, or -1 for nonsense. */
int tessi_server_take(tessi_server_t *server, int rank, const tessi_header_t *header,
                      const unsigned char *payload);
/* The connection's events after a poll. */
void tessi_server_serve(tessi_server_t *server, int rank, short events);
/* What is due by time: diagnoses, connections that broke while sending. */
void tessi_server_tick(tessi_server_t *server);
/* Rank 0 leaves: whoever needs it is told. */
void tessi_server_leave(tessi_server_t *server);
/* Tells those still here that rank 0 ends the service. */
void tessi_server_say_goodbye(tessi_server_t *server);
tessi_link_t *tessi_server_links(tessi_server_t *server);
tessi_gone_t tessi_server_rank_gone(const tessi_server_t *server, int rank);

/* --- messages --------------------------------------------------------------------------------- */

typedef struct tessi_message_post { /* then int32_t ranks[count], then the data */
    char key[TESSI_KEY_BYTES];
    int64_t bytes;
    int32_t count;
    int32_t unused;
} tessi_message_post_t;

#define TESSI_GAVE_UP_FAILED (-1)
typedef struct tessi_message_give_up {
    char key[TESSI_KEY_BYTES];
    int32_t timeout_ms; /* or TESSI_GAVE_UP_FAILED: its communicator has failed */
    int32_t unused;
} tessi_message_give_up_t;

typedef struct tessi_message_exchanged { /* then the data, or a sentence */
    char key[TESSI_KEY_BYTES];
    int32_t status;
    int32_t unused;
} tessi_message_exchanged_t;

typedef struct tessi_message_watch { /* then int32_t ranks[count] */
    uint64_t comm_id;
    char name[64];
    int32_t count;
    int32_t unused;
} tessi_message_watch_t;

typedef struct tessi_message_failed {
    uint64_t comm_id;
    int32_t status;
    int32_t unused;
    char detail[TESSI_SENTENCE_BYTES];
} tessi_message_failed_t;

typedef struct tessi_message_diagnose {
    uint64_t number;
    uint64_t comm_id;
    int64_t sequence;
} tessi_message_diagnose_t;

typedef struct tessi_message_diagnosis {
    uint64_t number;
    char sentence[TESSI_SENTENCE_BYTES];
} tessi_message_diagnosis_t;

typedef struct tessi_message_lost {
    int32_t rank;
    int32_t error;
} tessi_message_lost_t;

typedef struct tessi_message_left {
    int32_t rank;
} tessi_message_left_t;

#endif
