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

    /* Queues one operation on the stream. Arguments are checked, count > 0 except for a barrier. */
    tess_status_t (*submit)(tess_comm_t *comm, const tessi_op_t *op, tess_stream_t *stream);
} tessi_transport_t;

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
};

/* Explicit registration; transport_*_none.c says why where a library is missing. */
extern const tessi_transport_t tessi_transport_self;
extern const tessi_transport_t tessi_transport_ucx;
extern const tessi_transport_t tessi_transport_nccl;

/* Small all-gather among this communicator's ranks over the control plane; `what` names it. */
tess_status_t tessi_comm_exchange(tess_comm_t *comm, const char *what, const void *mine,
                                  int64_t bytes, void *all);

/* sum_host.c: destination[i] = round(scale * (sources[0][i] + sources[1][i] + …)), added in that
 * order in fp32, multiplied by scale once, rounded once. destination may equal one of the sources.
 */
void tessi_sum_host(tess_dtype_t dtype, void *destination, const void *const *sources,
                    int source_count, int64_t count, float scale);

#endif
