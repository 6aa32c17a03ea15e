/* SPDX-License-Identifier: Apache-2.0 */
/* The collectives' front: checks arguments, numbers operations, traces, hands them to the
 * transport; and the sticky failure of a communicator.
 *
 * Invariant: a call that fails here has queued nothing and used no sequence number, so ranks that
 * all make the same mistake stay in step.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "comm_internal.h"

/* Totals beyond this cannot be addressed. */
#define TOTAL_BYTES_MAX ((int64_t)1 << 62)

/* --- words ------------------------------------------------------------------------------------ */

const char *tessi_op_name(int kind)
{
    switch (kind) {
    case TESSI_OP_OPEN:
        return "open";
    case TESSI_OP_ALL_GATHER:
        return "all_gather";
    case TESSI_OP_REDUCE_SCATTER:
        return "reduce_scatter";
    case TESSI_OP_ALL_REDUCE:
        return "all_reduce";
    case TESSI_OP_BROADCAST:
        return "broadcast";
    case TESSI_OP_BARRIER:
        return "barrier";
    default:
        return "unknown operation";
    }
}

const char *tessi_op_text(const tessi_op_record_t *record, char *text, int64_t bytes)
{
    char more[32] = "";
    int kind = record->kind;
    if (kind == TESSI_OP_REDUCE_SCATTER || kind == TESSI_OP_ALL_REDUCE)
        snprintf(more, sizeof more, ", %s", record->reduction == TESS_AVERAGE ? "average" : "sum");
    if (kind == TESSI_OP_BROADCAST) snprintf(more, sizeof more, ", root %d", record->root);
    if (kind == TESSI_OP_OPEN) snprintf(text, (size_t)bytes, "%s", tessi_op_name(kind));
    else if (kind == TESSI_OP_BARRIER)
        snprintf(text, (size_t)bytes, "%s %" PRId64, tessi_op_name(kind), record->sequence);
    else
        snprintf(text, (size_t)bytes, "%s %" PRId64 " (count %" PRId64 ", %s%s)",
                 tessi_op_name(kind), record->sequence, record->count,
                 tess_dtype_name((tess_dtype_t)record->dtype), more);
    return text;
}

/* --- the sticky failure ----------------------------------------------------------------------- */

void tessi_comm_note(tess_comm_t *comm, const char *sentence)
{
    int none = 0;
    if (!atomic_compare_exchange_strong(&comm->note_state, &none, 1)) return;
    snprintf(comm->note, sizeof comm->note, "%s", sentence);
    atomic_store_explicit(&comm->note_state, 2, memory_order_release);
}

tess_status_t tessi_comm_failure(tess_comm_t *comm)
{
    tess_status_t status = tessi_watch_status(&comm->watch);
    if (status == TESS_OK) return TESS_OK;
    if (atomic_load_explicit(&comm->note_state, memory_order_acquire) == 2)
        return tessi_fail(status, "%s", comm->note);
    return status;
}

tess_status_t tess_comm_status(tess_comm_t *comm)
{
    if (!comm) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_comm_status: comm is NULL");
    tess_status_t status = tessi_watch_status(&comm->watch);
    if (status == TESS_OK) return TESS_OK;
    if (atomic_load_explicit(&comm->note_state, memory_order_acquire) == 2 || comm->last.kind == 0)
        return tessi_comm_failure(comm);
    char op[128], detail[512];
    snprintf(detail, sizeof detail, "%s", tess_last_error());
    return tessi_fail(status, "%s; the last operation queued here was %s", detail,
                      tessi_op_text(&comm->last, op, sizeof op));
}

void tess_comm_abort(tess_comm_t *comm)
{
    if (!comm) return;
    char who[160], detail[320];
    tessi_world_rank_text(comm->world, comm->ranks[comm->rank], who, sizeof who);
    snprintf(detail, sizeof detail, "communicator %s was aborted by %s", comm->name, who);
    tessi_watch_fail(comm->world, &comm->watch, TESS_ERR_ABORTED, detail);
}

/* --- memory ----------------------------------------------------------------------------------- */

tess_status_t tess_comm_allocate(tess_comm_t *comm, int64_t bytes, void **pointer)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "comm_allocate", bytes, -1);
    if (!comm || !pointer)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_comm_allocate: %s is NULL",
                          comm ? "pointer" : "comm");
    if (bytes < 0 || bytes > TOTAL_BYTES_MAX)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_comm_allocate: bytes is %" PRId64,
                          bytes);
    tess_status_t status = tessi_comm_failure(comm);
    if (status < 0) return status;
    return comm->transport->allocate(comm, bytes, pointer);
}

void tess_comm_free(tess_comm_t *comm, void *pointer)
{
    if (comm && pointer) comm->transport->free(comm, pointer);
}

/* --- checking arguments ----------------------------------------------------------------------- */

static const char *label(const tess_comm_t *comm, int kind, char *text, size_t bytes)
{
    snprintf(text, bytes, "%s on communicator %s", tessi_op_name(kind), comm->name);
    return text;
}

static int is_reducing(int kind)
{
    return kind == TESSI_OP_REDUCE_SCATTER || kind == TESSI_OP_ALL_REDUCE;
}

static tess_status_t check_stream(const tess_comm_t *comm, int kind, const tess_stream_t *stream)
{
    char what[96];
    label(comm, kind, what, sizeof what);
    if (!stream) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: stream is NULL", what);
    /* Two handles of one device are the same place. */
    if (strcmp(tess_device_name(tess_stream_device(stream)), tess_device_name(comm->device)) != 0)
        return tessi_fail(
            TESS_ERR_INVALID_ARGUMENT,
            "%s: the stream belongs to another device (%s) than the communicator (%s)", what,
            tess_device_name(tess_stream_device(stream)), tess_device_name(comm->device));
    return TESS_OK;
}

static tess_status_t check_values(const tess_comm_t *comm, int kind,
                                  const tess_collective_t *arguments)
{
    char what[96];
    label(comm, kind, what, sizeof what);
    int64_t element_bytes = tess_dtype_bytes(arguments->dtype);
    if (element_bytes == 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: %d is no dtype", what,
                          (int)arguments->dtype);
    if (arguments->count < 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: count is %" PRId64, what,
                          arguments->count);
    if (arguments->count > TOTAL_BYTES_MAX / element_bytes / comm->size)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: %d ranks times %" PRId64 " elements of %" PRId64
                          " bytes are too many to address",
                          what, comm->size, arguments->count, element_bytes);
    if (is_reducing(kind) && arguments->dtype == TESS_DTYPE_BYTE)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: byte elements cannot be summed", what);
    if (is_reducing(kind) && arguments->reduction != TESS_SUM &&
        arguments->reduction != TESS_AVERAGE)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: %d is no reduction", what,
                          (int)arguments->reduction);
    if (kind == TESSI_OP_BROADCAST && (arguments->root < 0 || arguments->root >= comm->size))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: root is %d, but the communicator has ranks 0 to %d", what,
                          arguments->root, comm->size - 1);
    return TESS_OK;
}

/* The bytes that an operation reads and writes on this rank, and the one place within the larger
 * buffer where the smaller may lie. */
typedef struct spans {
    int64_t send_bytes, recv_bytes;
    int64_t in_place_offset; /* of recv from send; negative: send lies within recv */
} spans_t;

static spans_t spans_of(const tess_comm_t *comm, int kind, const tess_collective_t *arguments)
{
    int64_t bytes = arguments->count * tess_dtype_bytes(arguments->dtype);
    int64_t slice = comm->rank * bytes, all = comm->size * bytes;
    switch (kind) {
    case TESSI_OP_ALL_GATHER:
        return (spans_t){bytes, all, -slice};
    case TESSI_OP_REDUCE_SCATTER:
        return (spans_t){all, bytes, slice};
    case TESSI_OP_ALL_REDUCE:
        return (spans_t){bytes, bytes, 0};
    default:
        return (spans_t){0, bytes, 0};
    }
}

static tess_status_t check_pointers(const tess_comm_t *comm, int kind,
                                    const tess_collective_t *arguments)
{
    if (arguments->count == 0) return TESS_OK;
    char what[96];
    label(comm, kind, what, sizeof what);
    spans_t spans = spans_of(comm, kind, arguments);
    int sends = kind != TESSI_OP_BROADCAST;
    if (!arguments->recv || (sends && !arguments->send))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: %s is NULL", what,
                          arguments->recv ? "send" : "recv");
    if (tess_device_kind(comm->device) == TESS_DEVICE_HOST) {
        int is_send = sends && tessi_pointer_is_device(arguments->send);
        if (is_send || tessi_pointer_is_device(arguments->recv))
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "%s: %s is CUDA device memory, but the communicator is for the host; "
                              "open it on a CUDA device",
                              what, is_send ? "send" : "recv");
    }
    if (!sends) return TESS_OK;
    /* Unsigned: the pointers may belong to unrelated objects. */
    uintptr_t send = (uintptr_t)arguments->send, recv = (uintptr_t)arguments->recv;
    int apart =
        send + (uintptr_t)spans.send_bytes <= recv || recv + (uintptr_t)spans.recv_bytes <= send;
    if (apart || recv == send + (uintptr_t)spans.in_place_offset) return TESS_OK;
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "%s: send and recv overlap, but not as an operation in place: recv is at "
                      "%" PRId64 " bytes from send where %" PRId64 " is legal",
                      what, (int64_t)(recv - send), spans.in_place_offset);
}

/* --- queueing --------------------------------------------------------------------------------- */

/* Bytes that the payload of a trace range shows: what this rank contributes. */
static int64_t sent_bytes(const tess_comm_t *comm, int kind, const tess_collective_t *arguments)
{
    if (!comm || !arguments) return -1;
    int64_t element_bytes = tess_dtype_bytes(arguments->dtype);
    if (arguments->count < 0 || element_bytes == 0 ||
        arguments->count > TOTAL_BYTES_MAX / element_bytes / comm->size)
        return -1;
    if (kind == TESSI_OP_BROADCAST)
        return comm->rank == arguments->root ? arguments->count * element_bytes : 0;
    return spans_of(comm, kind, arguments).send_bytes;
}

static int64_t next_sequence(const tess_comm_t *comm)
{
    return comm ? comm->sequence + 1 : -1;
}

/* Of what must be equal on all ranks, on top of the operations before. */
static uint64_t history_of(uint64_t before, const tessi_op_record_t *record)
{
    const int64_t fields[] = {record->count, record->kind, record->dtype, record->reduction,
                              record->root};
    return tessi_hash(before ^ TESSI_HASH_START, fields, sizeof fields);
}

static tess_status_t queue_op(tess_comm_t *comm, int kind, const tess_collective_t *arguments,
                              tess_stream_t *stream)
{
    if (!comm || !arguments)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: %s is NULL", tessi_op_name(kind),
                          comm ? "arguments" : "comm");
    tess_status_t status;
    TESS_TRY(tessi_comm_failure(comm), done);
    TESS_TRY(check_stream(comm, kind, stream), done);
    TESS_TRY(check_values(comm, kind, arguments), done);
    TESS_TRY(check_pointers(comm, kind, arguments), done);

    tessi_op_t op = {
        .record = {.comm_id = comm->watch.comm_id,
                   .sequence = comm->sequence + 1,
                   .count = arguments->count,
                   .kind = kind,
                   .dtype = (int32_t)arguments->dtype,
                   .reduction = is_reducing(kind) ? (int32_t)arguments->reduction : 0,
                   .root = kind == TESSI_OP_BROADCAST ? arguments->root : 0},
        .send = kind == TESSI_OP_BROADCAST ? NULL : arguments->send,
        .recv = arguments->recv,
    };
    op.record.history = history_of(comm->last.history, &op.record);
    if (op.record.count > 0 || kind == TESSI_OP_BARRIER || comm->transport->submits_empty)
        TESS_TRY(comm->transport->submit(comm, &op, stream), done);
    comm->sequence++;
    comm->last = op.record;
    status = TESS_OK;
done:
    return status;
}

tess_status_t tess_comm_all_gather(tess_comm_t *comm, const tess_collective_t *arguments,
                                   tess_stream_t *stream)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "all_gather",
                      sent_bytes(comm, TESSI_OP_ALL_GATHER, arguments), next_sequence(comm));
    return queue_op(comm, TESSI_OP_ALL_GATHER, arguments, stream);
}

tess_status_t tess_comm_reduce_scatter(tess_comm_t *comm, const tess_collective_t *arguments,
                                       tess_stream_t *stream)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "reduce_scatter",
                      sent_bytes(comm, TESSI_OP_REDUCE_SCATTER, arguments), next_sequence(comm));
    return queue_op(comm, TESSI_OP_REDUCE_SCATTER, arguments, stream);
}

tess_status_t tess_comm_all_reduce(tess_comm_t *comm, const tess_collective_t *arguments,
                                   tess_stream_t *stream)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "all_reduce",
                      sent_bytes(comm, TESSI_OP_ALL_REDUCE, arguments), next_sequence(comm));
    return queue_op(comm, TESSI_OP_ALL_REDUCE, arguments, stream);
}

tess_status_t tess_comm_broadcast(tess_comm_t *comm, const tess_collective_t *arguments,
                                  tess_stream_t *stream)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "broadcast", sent_bytes(comm, TESSI_OP_BROADCAST, arguments),
                      next_sequence(comm));
    return queue_op(comm, TESSI_OP_BROADCAST, arguments, stream);
}

tess_status_t tess_comm_barrier(tess_comm_t *comm, tess_stream_t *stream)
{
    static const tess_collective_t nothing = {0};
    TESSI_TRACE_SCOPE(TESS_TRACE_COMM, "barrier", 0, next_sequence(comm));
    return queue_op(comm, TESSI_OP_BARRIER, &nothing, stream);
}
