/* SPDX-License-Identifier: Apache-2.0 */
/* The transport of a communicator of one rank: a copy where send and recv differ.
 *
 * Invariant: it needs nothing but the stream, so a program on one device runs without any
 * communication library. Sums and averages over one rank are the elements themselves.
 */
#include <stdio.h>

#include "comm_internal.h"

static const char *self_version(void)
{
    return "";
}

static const char *self_unusable(tess_device_kind_t kind)
{
    (void)kind;
    return NULL;
}

static tess_status_t self_open(tess_comm_t *comm)
{
    if (comm->size != 1)
        return tessi_fail(TESS_ERR_UNSUPPORTED,
                          "communicator %s: transport self is for one rank, not for %d", comm->name,
                          comm->size);
    snprintf(comm->description, sizeof comm->description, "self, 1 rank: copies");
    return TESS_OK;
}

/* What is queued holds nothing of the communicator. */
static void self_close(tess_comm_t *comm)
{
    (void)comm;
}

static tess_status_t self_submit(tess_comm_t *comm, const tessi_op_t *op, tess_stream_t *stream)
{
    (void)comm;
    int moves = op->record.kind == TESSI_OP_ALL_GATHER ||
                op->record.kind == TESSI_OP_REDUCE_SCATTER ||
                op->record.kind == TESSI_OP_ALL_REDUCE;
    if (!moves || op->send == op->recv) return TESS_OK;
    int64_t bytes = op->record.count * tess_dtype_bytes((tess_dtype_t)op->record.dtype);
    return tess_stream_copy(stream, op->recv, op->send, bytes);
}

const tessi_transport_t tessi_transport_self = {
    .name = "self",
    .version = self_version,
    .unusable = self_unusable,
    .open = self_open,
    .close = self_close,
    .allocate = tessi_comm_memory_allocate,
    .free = tessi_comm_memory_free,
    .submit = self_submit,
};
