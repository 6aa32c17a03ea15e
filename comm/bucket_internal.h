/* SPDX-License-Identifier: Apache-2.0 */
/* What the gatherer and the reducer share: agreement of all ranks before first use, the ring of
 * buffers with its events, and sets of streams that a buffer has to wait for.
 *
 * Nothing here allocates after tessi_ring_allocate.
 */
#ifndef TESSERA_COMM_BUCKET_INTERNAL_H
#define TESSERA_COMM_BUCKET_INTERNAL_H

#include <stdint.h>
#include <tessera/bucket.h>
#include <tessera/comm.h>
#include <tessera/device.h>

/* --- agreement (bucket_agree.c) -------------------------------------------------------------- */

/* A number that must be equal on all ranks, and its name for the message. */
typedef struct tessi_setting {
    const char *name;
    int64_t value;
} tessi_setting_t;

#define TESSI_SETTINGS_MAX 4

/* What one rank brings to an agreement. */
typedef struct tessi_agreement {
    const char *what;           /* "gatherer": in messages, equal on all ranks */
    tess_status_t local_status; /* negative: this rank failed already, and the others are told */
    int setting_count;          /* at most TESSI_SETTINGS_MAX */
    tessi_setting_t settings[TESSI_SETTINGS_MAX];
} tessi_agreement_t;

/* Collective over the control plane; blocks. TESS_OK only when every rank of the communicator has
 * the same plan and settings, the plan is for that many ranks, and no rank has failed. A rank that
 * failed gets its own status and sentence back; the others get them too, with the rank's name. */
tess_status_t tessi_bucket_agree(const tess_bucket_plan_t *plan, tess_comm_t *comm,
                                 const tessi_agreement_t *mine);

/* --- marks (bucket_ring.c) ------------------------------------------------------------------- */

/* How many different streams may use one buffer before it is used anew. */
#define TESSI_MARKS_MAX 8

/* A set of streams, each with the event that marks its last use of a buffer. */
typedef struct tessi_marks {
    tess_stream_t *streams[TESSI_MARKS_MAX]; /* (count), different ones */
    tess_event_t *events[TESSI_MARKS_MAX];   /* all created at set-up */
    int count;
} tessi_marks_t;

tess_status_t tessi_marks_create(tess_device_t *device, tessi_marks_t *marks);
void tessi_marks_destroy(tessi_marks_t *marks);

/* Marks what is queued on `stream` so far; an earlier mark of the same stream moves. TESS_ERR_STATE
 * when TESSI_MARKS_MAX other streams are in the set; `what` and `bucket` name the buffer. */
tess_status_t tessi_marks_record(tessi_marks_t *marks, tess_stream_t *stream, const char *what,
                                 int64_t bucket);

/* `stream` goes on after all marks. The set stays as it is. */
tess_status_t tessi_marks_wait(const tessi_marks_t *marks, tess_stream_t *stream);

/* Blocks until all marks are reached, at most until the deadline; 0 when it passed. */
int tessi_marks_drain(const tessi_marks_t *marks, int64_t deadline_ns);

/* --- ring (bucket_ring.c) -------------------------------------------------------------------- */

typedef struct tessi_ring_buffer {
    char *memory;            /* room for the largest padded bucket */
    int64_t bucket;          /* that lies here; -1: none */
    int holder_count;        /* uses that were handed out and not yet given back */
    tess_event_t *finished;  /* the ring's stream is done with its last collective here */
    tessi_marks_t producers; /* what the next collective waits for; the reducer creates them */
    tessi_marks_t consumers; /* last uses of what the last collective brought */
} tessi_ring_buffer_t;

typedef struct tessi_ring {
    tess_comm_t *comm;
    const tess_bucket_plan_t *plan;
    const char *what;             /* "gatherer" or "reducer", for messages */
    tess_stream_t *stream;        /* on which all collectives of the ring run */
    tessi_ring_buffer_t *buffers; /* (buffer_count) */
    int *buffer_of;               /* (bucket_count) index of a bucket's buffer; -1: none */
    char *memory;                 /* (buffer_count * stride_bytes), from tess_comm_allocate */
    int64_t stride_bytes;         /* from one buffer to the next, whole pages */
    int64_t element_bytes;
    int buffer_count;
} tessi_ring_t;

/* Fills a zeroed ring with everything that needs no other rank; buffer_count 0 takes 2. On failure
 * close it all the same. */
tess_status_t tessi_ring_prepare(tessi_ring_t *ring, tess_comm_t *comm,
                                 const tess_bucket_plan_t *plan, const char *what,
                                 int buffer_count);

/* Collective, after tessi_bucket_agree: takes the memory. */
tess_status_t tessi_ring_allocate(tessi_ring_t *ring);

/* Waits for the ring's collectives and for the consumers, at most the communicator's deadline, then
 * frees. Where that fails the memory is left to tess_comm_close. Legal on a zeroed ring. */
void tessi_ring_close(tessi_ring_t *ring);

/* The communicator's sticky error, and bucket and stream checked for every entry point. */
tess_status_t tessi_ring_check(const tessi_ring_t *ring, int64_t bucket,
                               const tess_stream_t *stream, const char *function);

/* The buffer in which `bucket` lies, or NULL. */
tessi_ring_buffer_t *tessi_ring_find(const tessi_ring_t *ring, int64_t bucket);

/* Puts `bucket` (-1: none) into the buffer, and what was there out. */
void tessi_ring_assign(tessi_ring_t *ring, tessi_ring_buffer_t *buffer, int64_t bucket);

/* Where this rank's slice of the bucket starts in its buffer. */
char *tessi_ring_slice(const tessi_ring_t *ring, const tessi_ring_buffer_t *buffer);

/* Bytes of the padded bucket, for traces. */
int64_t tessi_ring_bucket_bytes(const tessi_ring_t *ring, int64_t bucket);

/* "3, 4": the buckets that lie in the ring, for messages. Returns text. */
const char *tessi_ring_text(const tessi_ring_t *ring, char *text, int64_t text_bytes);

#endif
