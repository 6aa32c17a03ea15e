/* SPDX-License-Identifier: Apache-2.0 */
/* UCX context, worker and endpoints of one communicator.
 *
 * Endpoints have peer error handling, so that they can be closed by force whatever the peer does
 * and requests in flight end; shared memory stays in use because UCX is told that its shared-memory
 * transports handle errors too, which is so here: the control plane finds dead peers.
 * Invariant: nothing that the user set in a UCX_ variable is changed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ucx_internal.h"

/* How long closing endpoints may take until the worker is destroyed with them. */
#define CUT_WAIT_MS 1000
#define SENTENCE_BYTES 300
#define ADDRESS_BYTES (TESSI_CARD_BYTES - SENTENCE_BYTES - 16)

typedef struct address_card {
    int32_t status;
    int32_t choice;
    int32_t may_share;
    uint32_t address_bytes;
    char sentence[SENTENCE_BYTES];
    unsigned char address[ADDRESS_BYTES];
} address_card_t;
_Static_assert(sizeof(address_card_t) <= TESSI_CARD_BYTES, "fits into a card");

/* --- configuration ---------------------------------------------------------------------------- */

int tessi_ucx_may_share(void)
{
    static const char *const shared[] = {"all", "sm", "shm", "mm", "posix", "sysv", "xpmem"};
    const char *list = getenv("UCX_TLS");
    if (!list || list[0] == '^') return 1;
    while (*list) {
        size_t length = strcspn(list, ",");
        const char *word = *list == '\\' ? list + 1 : list;
        size_t word_length = length - (size_t)(word - list);
        for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
            if (strlen(shared[i]) == word_length && strncmp(word, shared[i], word_length) == 0)
                return 1;
        list += length + (list[length] == ',');
    }
    return 0;
}

static int has_neighbour(const tess_comm_t *comm)
{
    const char *own = tess_world_host(comm->world, comm->ranks[comm->rank]);
    for (int r = 0; r < comm->size; r++)
        if (r != comm->rank && strcmp(own, tess_world_host(comm->world, comm->ranks[r])) == 0)
            return 1;
    return 0;
}

/* Each setting applies unless the user chose: UCX_<key> wins. */
static tess_status_t configure(const tess_comm_t *comm, ucp_config_t *config, int without_posix)
{
    int shared = tessi_ucx_may_share();
    const struct {
        const char *key, *value;
        int applies;
    } settings[] = {
        /* Only memory that other processes can map is any use to path direct. */
        {"ALLOC_PRIO", "md:sysv,md:posix", 1},
        {"TLS", "^posix", without_posix},
        /* See the head of this file. */
        {"MM_ERROR_HANDLING", "y", shared},
        /* A worker takes memory for so many fragments from /dev/shm at once: 1 MiB instead of 4. */
        {"MM_RX_BUFS_GROW", "128", shared},
        /* Rendezvous over shared memory leaves requests that not even force ends when a peer stops
         * reading; eager messages are faster there too (8.9 against 6.2 GB/s each way). */
        {"RNDV_THRESH", "inf", shared && has_neighbour(comm)},
        /* The control plane watches peers. */
        {"KEEPALIVE_INTERVAL", "inf", 1},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        char variable[64];
        snprintf(variable, sizeof variable, "UCX_%s", settings[i].key);
        if (!settings[i].applies || getenv(variable)) continue;
        ucs_status_t status = ucp_config_modify(config, settings[i].key, settings[i].value);
        if (status != UCS_OK)
            return tessi_ucx_error(status, "UCX does not take %s=%s", settings[i].key,
                                   settings[i].value);
    }
    return TESS_OK;
}

/* --- context, worker, address ----------------------------------------------------------------- */

static tess_status_t create_context(tessi_ucx_t *ucx, int without_posix)
{
    ucp_config_t *config;
    ucs_status_t result =
        tessi_fault("ucx") ? UCS_ERR_NO_RESOURCE : ucp_config_read(NULL, NULL, &config);
    if (result != UCS_OK) return tessi_ucx_error(result, "cannot read UCX's configuration");
    tess_status_t status;
    TESS_TRY(configure(ucx->comm, config, without_posix), release_config);
    ucp_params_t parameters = {
        .field_mask =
            UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_ESTIMATED_NUM_EPS | UCP_PARAM_FIELD_NAME,
        .features = UCP_FEATURE_TAG | UCP_FEATURE_RMA,
        .estimated_num_eps = (size_t)ucx->comm->size,
        .name = "tessera",
    };
    result =
        tessi_fault("ucx") ? UCS_ERR_NO_RESOURCE : ucp_init(&parameters, config, &ucx->context);
    if (result != UCS_OK) status = tessi_ucx_error(result, "cannot initialise UCX");
release_config:
    ucp_config_release(config);
    return status;
}

static tess_status_t create_worker(tessi_ucx_t *ucx)
{
    ucp_worker_params_t parameters = {
        .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
        .thread_mode = UCS_THREAD_MODE_SERIALIZED,
    };
    ucs_status_t result = tessi_fault("ucx")
                              ? UCS_ERR_NO_RESOURCE
                              : ucp_worker_create(ucx->context, &parameters, &ucx->worker);
    if (result != UCS_OK)
        return tessi_ucx_error(result,
                               "cannot create a UCX worker (%s; in a container, docker run "
                               "--shm-size=… enlarges it)",
                               tessi_shm_state());
    ucp_worker_attr_t attributes = {.field_mask = UCP_WORKER_ATTR_FIELD_THREAD_MODE};
    result = ucp_worker_query(ucx->worker, &attributes);
    if (result == UCS_OK && attributes.thread_mode != UCS_THREAD_MODE_SINGLE) return TESS_OK;
    ucp_worker_destroy(ucx->worker);
    ucx->worker = NULL;
    return tessi_fail(TESS_ERR_UNSUPPORTED,
                      "this UCX was built without support for threads (--enable-mt)");
}

static tess_status_t pack_address(tessi_ucx_t *ucx, address_card_t *card)
{
    ucp_address_t *address;
    size_t bytes;
    ucs_status_t result = tessi_fault("ucx")
                              ? UCS_ERR_NO_RESOURCE
                              : ucp_worker_get_address(ucx->worker, &address, &bytes);
    if (result != UCS_OK) return tessi_ucx_error(result, "cannot get UCX's address");
    tess_status_t status = TESS_OK;
    if (bytes <= sizeof card->address) {
        memcpy(card->address, address, bytes);
        card->address_bytes = (uint32_t)bytes;
    } else {
        status = tessi_fail(TESS_ERR_UNSUPPORTED,
                            "UCX's address takes %zu bytes, more than the %d there is room for; "
                            "choose fewer devices with UCX_NET_DEVICES",
                            bytes, ADDRESS_BYTES);
    }
    ucp_worker_release_address(ucx->worker, address);
    return status;
}

/* Every worker takes memory from /dev/shm for messages; where that is too small, UCX can still do
 * with System V memory and sockets. */
static tess_status_t recreate_without_posix(tessi_ucx_t *ucx)
{
    char why[400];
    snprintf(why, sizeof why, "%s", tess_last_error());
    ucp_cleanup(ucx->context);
    ucx->context = NULL;
    tess_status_t status;
    TESS_TRY(create_context(ucx, 1), done);
    TESS_TRY(create_worker(ucx), err_context);
    tessi_log(TESSI_LOG_ERROR, "%s; going on without POSIX shared memory", why);
    return TESS_OK;

err_context:
    ucp_cleanup(ucx->context);
    ucx->context = NULL;
    status = tessi_fail(status, "%s", why);
done:
    return status;
}

static tess_status_t start_worker(tessi_ucx_t *ucx, address_card_t *card)
{
    tess_status_t status;
    TESS_TRY(create_context(ucx, 0), done);
    status = create_worker(ucx);
    if (status < 0 && !getenv("UCX_TLS")) TESS_TRY(recreate_without_posix(ucx), done);
    else if (status < 0) goto err_context;
    TESS_TRY(pack_address(ucx, card), err_worker);
    return TESS_OK;

err_worker:
    ucp_worker_destroy(ucx->worker);
    ucx->worker = NULL;
err_context:
    ucp_cleanup(ucx->context);
    ucx->context = NULL;
done:
    return status;
}

/* --- endpoints -------------------------------------------------------------------------------- */

/* Runs inside ucp_worker_progress. That a peer went away matters only to an operation that still
 * needs it, which finds the note. */
static void note_lost_peer(void *argument, ucp_ep_h endpoint, ucs_status_t status)
{
    tessi_ucx_t *ucx = argument;
    for (int r = 0; r < ucx->comm->size; r++)
        if (ucx->endpoints[r] == endpoint) ucx->lost[r] = status;
}

static tess_status_t create_endpoints(tessi_ucx_t *ucx, const char *cards)
{
    tess_comm_t *comm = ucx->comm;
    for (int i = 1; i < comm->size; i++) {
        int peer = (comm->rank + i) % comm->size;
        const address_card_t *card = (const void *)(cards + (size_t)peer * TESSI_CARD_BYTES);
        ucp_ep_params_t parameters = {
            .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                          UCP_EP_PARAM_FIELD_ERR_HANDLER,
            .address = (const ucp_address_t *)(const void *)card->address,
            .err_mode = UCP_ERR_HANDLING_MODE_PEER,
            .err_handler = {.cb = note_lost_peer, .arg = ucx},
        };
        ucs_status_t result = tessi_fault("ucx")
                                  ? UCS_ERR_NO_RESOURCE
                                  : ucp_ep_create(ucx->worker, &parameters, &ucx->endpoints[peer]);
        if (result == UCS_OK) continue;
        char who[160];
        ucx->endpoints[peer] = NULL;
        tessi_world_rank_text(comm->world, comm->ranks[peer], who, sizeof who);
        return tessi_ucx_error(result, "UCX finds no way to %s (UCX_TLS is %s)", who,
                               getenv("UCX_TLS") ? getenv("UCX_TLS") : "not set");
    }
    return TESS_OK;
}

void tessi_ucx_cut(tessi_ucx_t *ucx)
{
    ucp_request_param_t force = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                 .flags = UCP_EP_CLOSE_FLAG_FORCE};
    int left = 0, size = ucx->comm->size;
    for (int r = 0; r < size; r++) {
        if (!ucx->endpoints[r]) continue;
        void *request = ucp_ep_close_nbx(ucx->endpoints[r], &force);
        ucx->endpoints[r] = NULL;
        ucx->closing[r] = UCS_PTR_IS_PTR(request) ? request : NULL;
        left += ucx->closing[r] != NULL;
    }
    int64_t deadline_ns = tessi_deadline_ns(CUT_WAIT_MS);
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    while (left > 0 && tessi_now_ns() < deadline_ns) {
        if (ucp_worker_progress(ucx->worker) == 0) tessi_backoff_pause(&backoff);
        for (int r = 0; r < size; r++) {
            if (!ucx->closing[r] || ucp_request_check_status(ucx->closing[r]) == UCS_INPROGRESS)
                continue;
            ucp_request_free(ucx->closing[r]);
            ucx->closing[r] = NULL;
            left--;
        }
    }
}

/* --- connecting ------------------------------------------------------------------------------- */

static tess_status_t check_cards(tessi_ucx_t *ucx, const char *cards, int32_t choice)
{
    const tess_comm_t *comm = ucx->comm;
    ucx->all_may_share = 1;
    for (int r = 0; r < comm->size; r++) {
        const address_card_t *card = (const void *)(cards + (size_t)r * TESSI_CARD_BYTES);
        char who[160];
        tessi_world_rank_text(comm->world, comm->ranks[r], who, sizeof who);
        if (card->status < 0)
            return tessi_fail((tess_status_t)card->status, "%s failed: %s", who, card->sentence);
        if (card->choice != choice)
            return tessi_fail(TESS_ERR_MISMATCH,
                              "communicator %s: %s differs between %s and this rank", comm->name,
                              tessi_option_variable(TESSI_OPTION_UCX_PATH), who);
        ucx->all_may_share &= card->may_share;
    }
    return TESS_OK;
}

tess_status_t tessi_ucx_connect(tessi_ucx_t *ucx)
{
    tess_comm_t *comm = ucx->comm;
    address_card_t *own = (void *)(ucx->cards + (size_t)comm->size * TESSI_CARD_BYTES);
    memset(own, 0, TESSI_CARD_BYTES);
    own->choice = (int32_t)ucx->choice;
    own->may_share = tessi_ucx_may_share();
    own->status = start_worker(ucx, own);
    if (own->status < 0) snprintf(own->sentence, sizeof own->sentence, "%s", tess_last_error());

    tess_status_t status =
        tessi_comm_exchange(comm, "ucx addresses", own, TESSI_CARD_BYTES, ucx->cards);
    if (own->status < 0) return tessi_fail((tess_status_t)own->status, "%s", own->sentence);
    if (status == TESS_OK) status = check_cards(ucx, ucx->cards, own->choice);
    if (status < 0) goto err_disconnect;
    TESS_TRY(tessi_comm_agree(comm, "ucx endpoints", create_endpoints(ucx, ucx->cards)),
             err_disconnect);
    return TESS_OK;

err_disconnect:
    tessi_ucx_disconnect(ucx);
    return status;
}

void tessi_ucx_disconnect(tessi_ucx_t *ucx)
{
    tessi_ucx_cut(ucx);
    ucp_worker_destroy(ucx->worker);
    ucp_cleanup(ucx->context);
}
