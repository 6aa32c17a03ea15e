/* SPDX-License-Identifier: Apache-2.0 */
/* Rank 0's side of the control plane, shared by its files. Everything is called with the world's
 * lock held. */
#ifndef TESSERA_COMM_SERVER_H
#define TESSERA_COMM_SERVER_H

#include "control.h"

#define TESSI_DIAGNOSES_MAX 64
#define TESSI_WINDOW 4096
/* A rank that does not answer a ping within this time is said not to answer. */
#define TESSI_PING_MS 700

/* One exchange under way, or one that failed and still has members to tell. */
typedef struct tessi_exchange {
    struct tessi_exchange *next;
    char key[TESSI_KEY_BYTES];
    int64_t bytes; /* each */
    int count;
    int32_t *ranks;        /* (count) */
    unsigned char *came;   /* (count) 1 when that rank has posted, 2 when it was told of failure */
    int first;             /* index of the rank that posted first */
    tessi_frame_t *answer; /* being filled */
    int status;            /* TESS_OK, or why it failed */
    char sentence[TESSI_SENTENCE_BYTES];
} tessi_exchange_t;

/* An exchange whose posts named different groups: more of them may come from ranks that the first
 * did not name. A ring of them is kept. */
#define TESSI_DISPUTES_MAX 16
typedef struct tessi_dispute {
    char key[TESSI_KEY_BYTES];
    char sentence[TESSI_SENTENCE_BYTES];
} tessi_dispute_t;

/* What was issued first under one sequence number. */
typedef struct tessi_window_slot {
    tessi_op_record_t record; /* sequence 0: none */
    int rank;
} tessi_window_slot_t;

/* One communicator. */
typedef struct tessi_comm_entry {
    struct tessi_comm_entry *next;
    uint64_t id;
    char name[64];
    int count;
    int32_t *ranks;              /* (count) */
    unsigned char *is_watched;   /* (count) by that rank */
    tessi_op_record_t *last;     /* (count) issued by that rank */
    tessi_window_slot_t *window; /* (TESSI_WINDOW), NULL before the first record */
    int is_failed;
} tessi_comm_entry_t;

typedef struct tessi_diagnose {
    int asker; /* -1: unused */
    int64_t asked_ns;
    tessi_message_diagnose_t question;
} tessi_diagnose_t;

struct tessi_server {
    tess_world_t *world;
    int size;
    tessi_link_t *links;   /* (size) */
    unsigned char *gone;   /* (size) tessi_gone_t; the truth, unlike world->gone */
    int *gone_error;       /* (size) errno of the connection of a rank that is lost */
    unsigned char *broken; /* (size) its connection failed while sending */
    int64_t *pong_ns;      /* (size) when that rank last answered a ping */
    unsigned char *marks;  /* (size) scratch for naming ranks */
    tessi_exchange_t *exchanges;
    tessi_dispute_t disputes[TESSI_DISPUTES_MAX];
    int dispute_next;
    tessi_comm_entry_t *comms;
    tessi_diagnose_t diagnoses[TESSI_DIAGNOSES_MAX];
};

/* Sends to one rank; a rank that is gone is skipped. */
void tessi_server_send(tessi_server_t *server, int rank, tessi_frame_t *frame);

/* "rank 2 (pid 71 on node3) has closed its world". Returns text. */
const char *tessi_server_gone_text(const tessi_server_t *server, int rank, char *text,
                                   size_t bytes);

/* The ranks marked 1 in server->marks: "rank 2 (pid 71 on node3)", or without pids when they are
 * many. Returns text. */
const char *tessi_server_marked_text(const tessi_server_t *server, char *text, size_t bytes);

/* --- server_exchange.c ------------------------------------------------------------------------ */

int tessi_exchange_take_post(tessi_server_t *server, int rank, const unsigned char *payload,
                             size_t bytes);
int tessi_exchange_take_give_up(tessi_server_t *server, int rank, const unsigned char *payload,
                                size_t bytes);
/* The rank left or is lost: exchanges that wait for it fail. */
void tessi_exchange_rank_gone(tessi_server_t *server, int rank);
void tessi_exchange_destroy_all(tessi_server_t *server);

/* --- server_records.c ------------------------------------------------------------------------- */

int tessi_comms_take_watch(tessi_server_t *server, int rank, const unsigned char *payload,
                           size_t bytes, int is_added);
int tessi_comms_take_failed(tessi_server_t *server, int rank, const unsigned char *payload,
                            size_t bytes);
int tessi_comms_take_records(tessi_server_t *server, int rank, const unsigned char *payload,
                             size_t bytes);
int tessi_comms_take_diagnose(tessi_server_t *server, int rank, const unsigned char *payload,
                              size_t bytes);
/* Answers the diagnoses that are due. */
void tessi_comms_tick(tessi_server_t *server);
void tessi_comms_rank_gone(tessi_server_t *server, int rank);
void tessi_comms_destroy_all(tessi_server_t *server);

#endif
