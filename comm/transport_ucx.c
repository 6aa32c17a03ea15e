/* SPDX-License-Identifier: Apache-2.0 */
/* The transport over UCX for host memory. Within one host ranks load and store in each other's
 * memory (path `direct`); everywhere else they exchange messages (path `message`).
 *
 * Invariant: all ranks of a communicator take the same path, agreed upon once, at open; and device
 * pointers never come here, because a UCX without CUDA would crash on them.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ucx_internal.h"

#define SENTENCE_BYTES 640

/* --- failing ---------------------------------------------------------------------------------- */

tess_status_t tessi_ucx_error(ucs_status_t status, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    tess_status_t translated = TESS_ERR_UCX;
    if (status == UCS_ERR_NO_MEMORY) translated = TESS_ERR_OUT_OF_MEMORY;
    if (status == UCS_ERR_UNSUPPORTED) translated = TESS_ERR_UNSUPPORTED;
    return tessi_fail(translated, "%s: %s", text, ucs_status_string(status));
}

tess_status_t tessi_ucx_interrupted(tessi_ucx_t *ucx, const tessi_op_record_t *record)
{
    char op[128], detail[512], sentence[SENTENCE_BYTES];
    tess_status_t status = tessi_watch_status(&ucx->comm->watch);
    snprintf(detail, sizeof detail, "%s", tess_last_error());
    tessi_op_text(record, op, sizeof op);
    if (strstr(detail, op)) snprintf(sentence, sizeof sentence, "%s", detail);
    else snprintf(sentence, sizeof sentence, "%s: %s", op, detail);
    tessi_comm_note(ucx->comm, sentence);
    return tessi_fail(status, "%s", sentence);
}

tess_status_t tessi_ucx_fail(tessi_ucx_t *ucx, const tessi_op_record_t *record,
                             tess_status_t status, const char *format, ...)
{
    if (tessi_ucx_has_failed(ucx)) return tessi_ucx_interrupted(ucx, record);
    char op[128], what[480], sentence[SENTENCE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    tessi_op_text(record, op, sizeof op);
    snprintf(sentence, sizeof sentence, "%s: %s", op, what);
    tessi_watch_fail(ucx->comm->world, &ucx->comm->watch, status, sentence);
    return tessi_ucx_interrupted(ucx, record);
}

tess_status_t tessi_ucx_compare(tessi_ucx_t *ucx, const tessi_op_record_t *mine, int peer,
                                const tessi_op_record_t *theirs)
{
    if (memcmp(mine, theirs, sizeof *mine) == 0) return TESS_OK;
    const tess_comm_t *comm = ucx->comm;
    char here[128], there[128], me[160], who[160];
    tessi_world_rank_text(comm->world, comm->ranks[comm->rank], me, sizeof me);
    tessi_world_rank_text(comm->world, comm->ranks[peer], who, sizeof who);
    return tessi_ucx_fail(ucx, mine, TESS_ERR_MISMATCH, "%s called %s where %s called %s", who,
                          tessi_op_text(theirs, there, sizeof there), me,
                          tessi_op_text(mine, here, sizeof here));
}

void tessi_rank_list_add(tessi_rank_list_t *list, const tessi_ucx_t *ucx, int rank,
                         const char *remark)
{
    char who[160];
    size_t length = list->count == 0 ? 0 : strlen(list->text);
    tessi_world_rank_text(ucx->comm->world, ucx->comm->ranks[rank], who, sizeof who);
    snprintf(list->text + length, sizeof list->text - length, "%s%s%s", list->count ? "; " : "",
             who, remark);
    list->count++;
}

tessi_share_t tessi_share_of(int64_t count, int n, int rank, int64_t alignment)
{
    int64_t share = (count + n - 1) / n;
    share = (share + alignment - 1) / alignment * alignment;
    int64_t start = rank * share < count ? rank * share : count;
    int64_t left = count - start;
    return (tessi_share_t){start, left < share ? left : share};
}

/* --- opening ---------------------------------------------------------------------------------- */

static tess_status_t read_choice(tessi_ucx_choice_t *choice)
{
    static const char *const names[] = {"auto", "direct", "message"};
    const char *text = tessi_option(TESSI_OPTION_UCX_PATH);
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *choice = (tessi_ucx_choice_t)i;
        return TESS_OK;
    }
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "%s is \"%s\", but must be auto, direct or message",
                      tessi_option_variable(TESSI_OPTION_UCX_PATH), text);
}

static int on_one_host(const tess_comm_t *comm)
{
    const char *host = tess_world_host(comm->world, comm->ranks[0]);
    for (int r = 1; r < comm->size; r++)
        if (strcmp(host, tess_world_host(comm->world, comm->ranks[r])) != 0) return 0;
    return 1;
}

static void describe(tessi_ucx_t *ucx, const char *how)
{
    tess_comm_t *comm = ucx->comm;
    snprintf(comm->description, sizeof comm->description, "ucx %s, %d rank%s: %s",
             ucp_get_version_string(), comm->size, comm->size == 1 ? "" : "s", how);
}

/* Memory that is too small is worth a word to everybody; the rest is a choice. */
static void print_fallback(const tess_comm_t *comm, tess_status_t status, const char *reason)
{
    if (comm->rank != 0) return;
    tessi_log(status == TESS_ERR_OUT_OF_MEMORY ? TESSI_LOG_ERROR : TESSI_LOG_INFO,
              "communicator %s uses messages instead of shared memory: %s", comm->name, reason);
}

static tess_status_t open_message(tessi_ucx_t *ucx)
{
    tess_status_t status = tessi_message_open(ucx);
    if (status < 0) return status;
    ucx->run = tessi_message_run;
    describe(ucx, "messages");
    return TESS_OK;
}

static tess_status_t open_path(tessi_ucx_t *ucx)
{
    tess_comm_t *comm = ucx->comm;
    tessi_ucx_choice_t choice = ucx->choice;
    if (choice == TESSI_UCX_MESSAGE) return open_message(ucx);
    if (!on_one_host(comm)) {
        if (choice == TESSI_UCX_DIRECT)
            return tessi_fail(TESS_ERR_UNSUPPORTED,
                              "communicator %s: %s is direct, but its ranks are on several hosts",
                              comm->name, tessi_option_variable(TESSI_OPTION_UCX_PATH));
        print_fallback(comm, TESS_OK, "its ranks are on several hosts");
        return open_message(ucx);
    }
    tess_status_t status = tessi_direct_open(ucx);
    if (status == TESS_OK) {
        ucx->run = tessi_direct_run;
        describe(ucx, "shared memory, loads and stores");
        return TESS_OK;
    }
    if (comm->exchange_status != TESS_OK) return status;
    char reason[512];
    snprintf(reason, sizeof reason, "%s", tess_last_error());
    if (choice == TESSI_UCX_DIRECT)
        return tessi_fail(status, "communicator %s: %s is direct, but that is impossible here: %s",
                          comm->name, tessi_option_variable(TESSI_OPTION_UCX_PATH), reason);
    print_fallback(comm, status, reason);
    return open_message(ucx);
}

static void free_ucx(tessi_ucx_t *ucx)
{
    tessi_free(ucx->cards);
    tessi_free(ucx->closing);
    tessi_free(ucx->lost);
    tessi_free(ucx->endpoints);
    tessi_free(ucx);
}

static tess_status_t create_ucx(tess_comm_t *comm, tessi_ucx_t **created)
{
    size_t size = (size_t)comm->size;
    tess_status_t status = TESS_ERR_OUT_OF_MEMORY;
    tessi_ucx_t *ucx = tessi_calloc(1, sizeof *ucx);
    if (!ucx) return status;
    ucx->comm = comm;
    ucx->endpoints = tessi_calloc(size, sizeof *ucx->endpoints);
    ucx->lost = tessi_calloc(size, sizeof *ucx->lost);
    ucx->closing = tessi_calloc(size, sizeof *ucx->closing);
    ucx->cards = tessi_calloc(size + 1, TESSI_CARD_BYTES);
    if (!ucx->endpoints || !ucx->lost || !ucx->closing || !ucx->cards) goto err_free;
    TESS_TRY(read_choice(&ucx->choice), err_free);
    TESS_TRY(tessi_turns_create(ucx, &ucx->turns), err_free);
    *created = ucx;
    return TESS_OK;

err_free:
    free_ucx(ucx);
    return status;
}

static tess_status_t ucx_open(tess_comm_t *comm)
{
    tessi_ucx_t *ucx = NULL;
    tess_status_t status = tessi_comm_agree(comm, "ucx start", create_ucx(comm, &ucx));
    if (status < 0 || !ucx) goto err_free;
    TESS_TRY(tessi_ucx_connect(ucx), err_free);
    TESS_TRY(open_path(ucx), err_disconnect);
    comm->context = ucx;
    return TESS_OK;

err_disconnect:
    tessi_ucx_disconnect(ucx);
err_free:
    if (ucx) {
        tessi_turns_close(ucx->turns);
        free_ucx(ucx);
    }
    return status;
}

static void ucx_close(tess_comm_t *comm)
{
    tessi_ucx_t *ucx = comm->context;
    if (tessi_turns_are_busy(ucx->turns)) {
        char who[160], detail[320];
        tessi_world_rank_text(comm->world, comm->ranks[comm->rank], who, sizeof who);
        snprintf(detail, sizeof detail, "%s closed communicator %s with operations still queued",
                 who, comm->name);
        tessi_watch_fail(comm->world, &comm->watch, TESS_ERR_ABORTED, detail);
    }
    /* After this no operation looks at the communicator any more. */
    tessi_turns_close(ucx->turns);
    if (ucx->direct) tessi_direct_close(ucx);
    if (ucx->message) tessi_message_close(ucx);
    tessi_ucx_disconnect(ucx);
    free_ucx(ucx);
}

/* --- the rest of the table -------------------------------------------------------------------- */

static tess_status_t ucx_submit(tess_comm_t *comm, const tessi_op_t *op, tess_stream_t *stream)
{
    tessi_ucx_t *ucx = comm->context;
    tessi_ucx_op_t queued = {.op = *op, .send.segment = -1, .recv.segment = -1};
    if (ucx->direct && op->record.count > 0) {
        int64_t bytes = op->record.count * tess_dtype_bytes((tess_dtype_t)op->record.dtype);
        int64_t all = bytes * comm->size;
        int kind = op->record.kind;
        int64_t send_bytes = kind == TESSI_OP_REDUCE_SCATTER ? all : bytes;
        int64_t recv_bytes = kind == TESSI_OP_ALL_GATHER ? all : bytes;
        if (op->send) queued.send = tessi_direct_place(ucx, op->send, send_bytes);
        queued.recv = tessi_direct_place(ucx, op->recv, recv_bytes);
    }
    return tessi_turns_push(ucx->turns, &queued, stream);
}

static tess_status_t ucx_allocate(tess_comm_t *comm, int64_t bytes, void **pointer)
{
    tessi_ucx_t *ucx = comm->context;
    if (ucx->direct) return tessi_direct_allocate(ucx, bytes, pointer);
    return tessi_comm_memory_allocate(comm, bytes, pointer);
}

static void ucx_free(tess_comm_t *comm, void *pointer)
{
    tessi_ucx_t *ucx = comm->context;
    if (ucx->direct) tessi_direct_free(ucx, pointer);
    else tessi_comm_memory_free(comm, pointer);
}

static const char *ucx_version(void)
{
    return ucp_get_version_string();
}

static const char *ucx_unusable(tess_device_kind_t kind)
{
    if (kind == TESS_DEVICE_HOST) return NULL;
    return "ucx moves host memory only (device pointers never reach it); on a CUDA device use nccl";
}

const tessi_transport_t tessi_transport_ucx = {
    .name = "ucx",
    .version = ucx_version,
    .unusable = ucx_unusable,
    .open = ucx_open,
    .close = ucx_close,
    .allocate = ucx_allocate,
    .free = ucx_free,
    .submit = ucx_submit,
    .submits_empty = 1,
};
