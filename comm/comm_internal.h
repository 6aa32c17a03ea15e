/* SPDX-License-Identifier: Apache-2.0 */
/* A communicator, and what a transport provides behind it.
 *
 * comm.c owns argument checks, sequence numbers, trace ranges and the watch; a transport moves
 * bytes.
 */
#ifndef TESSERA_COMM_COMM_INTERNAL_H
#define TESSERA_COMM_COMM_INTERNAL_H

#include <stdint.h>
#include <tessera/comm.h>

#include "core/internal.h"
#include "world_internal.h"

typedef enum tessi_op_kind {
    TESSI_OP_OPEN = 0, /* for messages about setting up */
    TESSI_OP_ALL_GATHER = 1,
    TESSI_OP_REDUCE_SCATTER = 2,
    TESSI_OP_ALL_REDUCE = 3,
    TESSI_OP_BROADCAST = 4,
    TESSI_OP_BARRIER = 5
} tessi_op_kind_t;

/* "all_gather" … for messages and traces. */
const char *tessi_op_name(int kind);

/* "all_gather 18 (count 4096, bf16)". Returns text. */
const char *tessi_op_text(const tessi_op_record_t *record, char *text, int64_t bytes);

typedef struct tessi_op {
    tessi_op_record_t record;
    const void *send;
    void *recv;
} tessi_op_t;

typedef struct tessi_transport {
    const char *name;
    const char *(*version)(void); /* of the library behind it; "" */

    /* NULL when usable with this kind of device, else the reason why not, static storage. */
    const char *(*unusable)(tess_device_kind_t kind);

    /* Collective. Sets comm->context and comm->description. On failure leaves nothing behind. */
    tess_status_t (*open)(tess_comm_t *comm);
    /* Aborts what is queued and frees; never waits for a peer. */
    void (*close)(tess_comm_t *comm);

    /* Collective allocation, and local free. */
    tess_status_t (*allocate)(tess_comm_t *comm, int64_t bytes, void **pointer);
    void (*free)(tess_comm_t *comm, void *pointer);

    /* Queues one operation on the stream. Arguments are checked; count > 0 except for a barrier,
     * and except where submits_empty asks for operations of count 0 too, to compare them across
     * ranks. */
    tess_status_t (*submit)(tess_comm_t *comm, const tessi_op_t *op, tess_stream_t *stream);
    int submits_empty;
} tessi_transport_t;

/* A buffer of tessi_comm_memory_allocate. */
typedef struct tessi_comm_memory tessi_comm_memory_t;

struct tess_comm {
    tess_world_t *world;
    tess_device_t *device;
    const tessi_transport_t *transport;
    void *context; /* the transport's */
    char name[64];
    char description[256];
    int rank, size; /* within the communicator */
    int *ranks;     /* (size) world ranks */
    int timeout_ms;
    int64_t sequence;    /* of the last operation queued */
    tessi_watch_t watch; /* failures end up here, and are sticky */

    tessi_op_record_t last; /* the operation queued last; kind 0: none yet */
    int64_t exchange_count; /* tessi_comm_exchange so far: makes its keys unique */
    tess_status_t
        exchange_status;         /* of the first exchange that failed; no further ones are tried */
    tessi_comm_memory_t *memory; /* not freed yet */
    _Atomic int note_state;      /* 0: no note, 1: being written, 2: readable */
    char note[640];              /* see tessi_comm_note */
};

/* Explicit registration; transport_*_none.c says why where a library is missing. */
extern const tessi_transport_t tessi_transport_self;
extern const tessi_transport_t tessi_transport_ucx;
extern const tessi_transport_t tessi_transport_nccl;

/* Small all-gather among this communicator's ranks over the control plane; `what` names it. Once
 * one failed, all later ones fail at once, since the ranks no longer come to them together. */
tess_status_t tessi_comm_exchange(tess_comm_t *comm, const char *what, const void *mine,
                                  int64_t bytes, void *all);

/* Every rank brings how its part of a collective step went, with tess_last_error() where it failed,
 * and every rank fails when one did: with its own status and sentence, else with those of the first
 * rank that failed, which is named. */
tess_status_t tessi_comm_agree(tess_comm_t *comm, const char *what, tess_status_t mine);

/* Keeps the sentence about the first operation that failed, for tess_comm_status. Any thread. */
void tessi_comm_note(tess_comm_t *comm, const char *sentence);

/* What tess_comm_status returns: TESS_OK, or the sticky failure with operation, rank and sequence
 * number in tess_last_error(). Any thread. */
tess_status_t tessi_comm_failure(tess_comm_t *comm);

/* comm_memory.c: device memory aligned to 4 KiB for transports that need nothing special; freed
 * one by one or all together. Not collective. */
tess_status_t tessi_comm_memory_allocate(tess_comm_t *comm, int64_t bytes, void **pointer);
void tessi_comm_memory_free(tess_comm_t *comm, void *pointer);
void tessi_comm_memory_free_all(tess_comm_t *comm);

/* sum_host.c: destination[i] = round(scale * (sources[0][i] + sources[1][i] + …)), added in that
 * order in fp32, multiplied by scale once, rounded once. destination may equal one of the sources.
 */
void tessi_sum_host(tess_dtype_t dtype, void *destination, const void *const *sources,
                    int source_count, int64_t count, float scale);

/* copy_host_x86.c or copy_host_portable.c: memcpy whose stores go past the cache where the
 * processor has such stores: faster than memcpy for what will not fit there anyway. Visible to
 * others after a release store by this thread, like memcpy's. */
void tessi_copy_past_cache(void *destination, const void *source, size_t bytes);

#endif
