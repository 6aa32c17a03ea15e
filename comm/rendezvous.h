/* SPDX-License-Identifier: Apache-2.0 */
/* How ranks meet: rank 0 listens, the others come, and all learn who is where. */
#ifndef TESSERA_COMM_RENDEZVOUS_H
#define TESSERA_COMM_RENDEZVOUS_H

#include <stdint.h>

#include "world_env.h"

/* What every rank knows of every other. */
typedef struct tessi_peer {
    char host[64];
    uint64_t machine; /* equal on ranks that share host name and kernel */
    int32_t pid;
    int32_t local_rank, local_size; /* as that rank was told; -1: not told */
    int32_t unused;
} tessi_peer_t;

/* This process as a peer. */
void tessi_peer_self(const tessi_place_t *place, tessi_peer_t *peer);

/* Meets all ranks; place->size > 1. Fills peers (size), and links: (size) on rank 0, where
 * links[r] leads to rank r and links[0] stays closed; links[0], to rank 0, on the others. On
 * failure every link is closed, and the other ranks are told why. */
TESS_MUST_CHECK tess_status_t tessi_rendezvous(const tessi_place_t *place, int timeout_ms,
                                               tessi_peer_t *peers, tessi_link_t *links);

/* "rank 2 (pid 71 on node3)". Returns text. */
const char *tessi_peer_text(const tessi_peer_t *peer, int rank, char *text, size_t bytes);

/* "rank 3", "ranks 1, 2 and 5-7": those of `marked` (size) that equal `mark`. Returns text. */
const char *tessi_ranks_text(const unsigned char *marked, int size, unsigned char mark, char *text,
                             size_t bytes);

/* Internal to rendezvous.c and rendezvous_root.c: what is sent. */
#define TESSI_PROTOCOL_VERSION 1
#define TESSI_PROTOCOL_MAGIC 0x4172657373655401u
#define TESSI_SENTENCE_BYTES 512

typedef struct tessi_hello {
    uint64_t magic;
    uint32_t version; /* first of what may change from version to version */
    int32_t rank, size;
    int32_t unused;
    uint64_t cookie;
    tessi_peer_t peer;
} tessi_hello_t;

typedef struct tessi_refusal {
    int32_t status;
    int32_t is_stranger; /* another job's rank 0: try elsewhere */
    char sentence[TESSI_SENTENCE_BYTES];
} tessi_refusal_t;

TESS_MUST_CHECK tess_status_t tessi_rendezvous_root(const tessi_place_t *place, int timeout_ms,
                                                    tessi_peer_t *peers, tessi_link_t *links);

#endif
