/* SPDX-License-Identifier: Apache-2.0 */
/* Public calls of a store: what they are given is checked here, before any other file sees it.
 *
 * Invariant: a store that tess_store_open gave has its file, its space, its committer (when
 * crash-safe) and its engine; they are taken in this order and given back in reverse.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "store_internal.h"

#define DEPTH_DEFAULT 32
#define BLOCK_DEFAULT (INT64_C(1) << 20)

/* --- opening ---------------------------------------------------------------------------------- */

static tess_status_t check_config(const char *path, const tess_store_config_t *config)
{
    const tess_status_t invalid = TESS_ERR_INVALID_ARGUMENT;
    if (!path || !*path) return tessi_fail(invalid, "tess_store_open: path is empty");
    if (config->tile_bytes <= 0)
        return tessi_fail(invalid, "tess_store_open: tile_bytes is %" PRId64 ", not positive",
                          config->tile_bytes);
    if (config->tile_count <= 0)
        return tessi_fail(invalid, "tess_store_open: tile_count is %" PRId64 ", not positive",
                          config->tile_count);
    if (config->mode != TESS_STORE_CREATE && config->mode != TESS_STORE_OPEN)
        return tessi_fail(invalid, "tess_store_open: there is no mode %d", (int)config->mode);
    if (config->crash_safe != 0 && config->crash_safe != 1)
        return tessi_fail(invalid, "tess_store_open: crash_safe is %d, not 0 or 1",
                          config->crash_safe);
    if (config->direct < -1 || config->direct > 1)
        return tessi_fail(invalid, "tess_store_open: direct is %d, not -1, 0 or 1", config->direct);
    if (config->depth < 0 || config->depth > TESSI_STORE_DEPTH_MAX)
        return tessi_fail(invalid, "tess_store_open: depth is %d, not 0 to %d", config->depth,
                          TESSI_STORE_DEPTH_MAX);
    if (config->block_bytes < 0 || config->block_bytes > TESSI_STORE_BLOCK_MAX)
        return tessi_fail(invalid, "tess_store_open: block_bytes is %" PRId64 ", not 0 to %" PRId64,
                          config->block_bytes, TESSI_STORE_BLOCK_MAX);
    if (config->buffers_bytes < 0 || (config->buffers_bytes > 0 && !config->buffers))
        return tessi_fail(invalid,
                          "tess_store_open: buffers_bytes is %" PRId64 ", and buffers is %s",
                          config->buffers_bytes, config->buffers ? "given" : "NULL");
    const char *name = config->engine ? config->engine : "auto";
    if (strcmp(name, "auto") != 0 && strcmp(name, "io_uring") != 0 && strcmp(name, "threads") != 0)
        return tessi_fail(invalid,
                          "there is no engine \"%s\"; there are auto, io_uring and threads", name);
    if (config->timeout_ms < 0)
        return tessi_fail(invalid, "tess_store_open: timeout_ms is %d, negative",
                          config->timeout_ms);
    return TESS_OK;
}

static void apply_config(const tess_store_config_t *config, tess_store_t *store)
{
    store->depth = config->depth > 0 ? config->depth : DEPTH_DEFAULT;
    store->block_bytes = config->block_bytes > 0 ? config->block_bytes : BLOCK_DEFAULT;
    store->timeout_ms = tessi_timeout_or_default(config->timeout_ms > 0 ? config->timeout_ms : -1);
    store->buffers = config->buffers_bytes > 0 ? config->buffers : NULL;
    store->buffers_bytes = config->buffers_bytes;
}

static tess_status_t open_content(tess_store_t *store, const tess_store_config_t *config)
{
    tess_status_t status;
    if (config->mode == TESS_STORE_OPEN) {
        TESS_TRY(tessi_store_header_read(store, config), err);
        return tessi_store_file_probe(store, config->direct);
    }
    TESS_TRY(tessi_store_layout_plan(config, store->device_alignment, &store->layout), err);
    TESS_TRY(tessi_store_file_allocate(store), err);
    TESS_TRY(tessi_store_file_probe(store, config->direct), err);
    /* The header comes last: without it there is no store. */
    TESS_TRY(tessi_store_file_settle(store), err);
    TESS_TRY(tessi_store_header_write(store), err);
    return tessi_store_file_settle(store);

err:
    return status;
}

/* reason is "" unless auto did without io_uring. */
static void describe(tess_store_t *store, const char *reason)
{
    char block[32];
    int64_t bytes = store->block_bytes;
    if (bytes % (1 << 20) == 0) snprintf(block, sizeof block, "%" PRId64 " MiB", bytes >> 20);
    else snprintf(block, sizeof block, "%" PRId64 " KiB", bytes >> 10);
    snprintf(store->description, sizeof store->description, "%s%s, %s, %s, depth %d, %s blocks%s",
             store->engine->name, reason, store->direct ? "O_DIRECT" : "page cache",
             store->engine_text, store->depth, block,
             store->layout.crash_safe ? ", crash-safe" : "");
}

static tess_status_t open_engine(tess_store_t *store, const char *name)
{
    int is_auto = !name || strcmp(name, "auto") == 0;
    char reason[64] = "";
    store->engine = &tessi_store_uring;
    tess_status_t status = TESS_ERR_UNSUPPORTED;
    if (is_auto || strcmp(name, "io_uring") == 0) status = store->engine->open(store);
    if (status == TESS_ERR_UNSUPPORTED && (is_auto || strcmp(name, "threads") == 0)) {
        if (is_auto) {
            snprintf(reason, sizeof reason, " (io_uring is not to be had)");
            tessi_log(TESSI_LOG_INFO, "%s", tess_last_error());
        }
        store->engine = &tessi_store_threads;
        status = store->engine->open(store);
    }
    if (status < 0) return status;
    describe(store, reason);
    tessi_log(TESSI_LOG_INFO, "store %s: %s", store->path, store->description);
    return TESS_OK;
}

static void init_lock(tess_store_t *store)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&store->lock, NULL);
    pthread_cond_init(&store->progress, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

static void stop_committer(tess_store_t *store)
{
    pthread_mutex_lock(&store->lock);
    store->stopping = 1;
    pthread_mutex_unlock(&store->lock);
    if (store->layout.crash_safe) tessi_committer_close(store);
}

static void free_store(tess_store_t *store)
{
    tessi_store_queue_destroy(store);
    pthread_cond_destroy(&store->progress);
    pthread_mutex_destroy(&store->lock);
    tessi_free(store->path);
    tessi_free(store);
}

tess_status_t tess_store_open(const char *path, const tess_store_config_t *config,
                              tess_store_t **store)
{
    if (!config || !store)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_store_open: %s is NULL",
                          config ? "store" : "config");
    tess_status_t status = check_config(path, config);
    if (status < 0) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "store_open", config->tile_bytes, -1);
    tess_store_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    init_lock(made);
    apply_config(config, made);
    size_t length = strlen(path) + 1;
    made->path = tessi_calloc(length, 1);
    status = TESS_ERR_OUT_OF_MEMORY;
    if (!made->path) goto err_free;
    memcpy(made->path, path, length);
    TESS_TRY(tessi_store_queue_create(made), err_free);
    TESS_TRY(tessi_store_file_open(made, config), err_close_file);
    TESS_TRY(open_content(made, config), err_close_file);
    int64_t alignment = made->layout.alignment;
    made->block_bytes = (made->block_bytes + alignment - 1) / alignment * alignment;
    if (config->crash_safe)
        TESS_TRY(tessi_committer_open(made, config->mode == TESS_STORE_OPEN), err_close_file);
    TESS_TRY(open_engine(made, config->engine), err_stop_committer);
    *store = made;
    return TESS_OK;

err_stop_committer:
    stop_committer(made);
err_close_file:
    tessi_store_file_close(made, config->mode == TESS_STORE_CREATE);
err_free:
    free_store(made);
    return status;
}

void tess_store_close(tess_store_t *store)
{
    if (!store) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "store_close", -1, -1);
    if (!tessi_store_drain(store, tessi_deadline_ns(store->timeout_ms))) {
        /* Its threads still use it, and the kernel the caller's buffers. */
        tessi_log(TESSI_LOG_ERROR,
                  "store %s was closed, but its reads and writes did not end within %d ms; it "
                  "stays open, and its buffers stay in use",
                  store->path, store->timeout_ms);
        return;
    }
    pthread_mutex_lock(&store->lock);
    store->stopping = 1;
    pthread_mutex_unlock(&store->lock);
    store->engine->close(store);
    stop_committer(store);
    tessi_store_file_close(store, 0);
    free_store(store);
}

/* --- what a store is -------------------------------------------------------------------------- */

int64_t tess_store_tile_bytes(const tess_store_t *store)
{
    return store->layout.tile_bytes;
}

int64_t tess_store_tile_count(const tess_store_t *store)
{
    return store->layout.tile_count;
}

int64_t tess_store_alignment(const tess_store_t *store)
{
    return store->layout.alignment;
}

const char *tess_store_description(const tess_store_t *store)
{
    return store->description;
}

/* --- tiles ------------------------------------------------------------------------------------ */

static tess_status_t check_tile(const tess_store_t *store, const char *call, int64_t tile,
                                const void *buffer, const tess_store_ticket_t *ticket)
{
    if (!store || !buffer || !ticket)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: %s is NULL", call,
                          !store    ? "store"
                          : !buffer ? "buffer"
                                    : "ticket");
    if (tile < 0 || tile >= store->layout.tile_count)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: store %s has no tile %" PRId64 ", only 0 to %" PRId64, call,
                          store->path, tile, store->layout.tile_count - 1);
    if ((uintptr_t)buffer % (uintptr_t)store->layout.alignment != 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: the buffer %p is not aligned to %" PRId64 " bytes", call, buffer,
                          store->layout.alignment);
    return TESS_OK;
}

tess_status_t tess_store_read(tess_store_t *store, int64_t tile, void *buffer,
                              tess_store_ticket_t *ticket)
{
    tess_status_t status = check_tile(store, "tess_store_read", tile, buffer, ticket);
    if (status < 0) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "store_read", store->layout.tile_bytes, tile);
    return tessi_store_submit(store, 0, tile, buffer, ticket);
}

tess_status_t tess_store_write(tess_store_t *store, int64_t tile, const void *buffer,
                               tess_store_ticket_t *ticket)
{
    tess_status_t status = check_tile(store, "tess_store_write", tile, buffer, ticket);
    if (status < 0) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "store_write", store->layout.tile_bytes, tile);
    return tessi_store_submit(store, 1, tile, (void *)buffer, ticket);
}

tess_status_t tess_store_wait(tess_store_t *store, tess_store_ticket_t ticket)
{
    if (!store) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_store_wait: store is NULL");
    if (ticket == 0) return TESS_OK;
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "store_wait", store->layout.tile_bytes, -1);
    return tessi_store_await(store, ticket, tessi_deadline_ns(store->timeout_ms));
}

tess_status_t tess_store_poll(tess_store_t *store, tess_store_ticket_t ticket)
{
    if (!store) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_store_poll: store is NULL");
    if (ticket == 0) return TESS_OK;
    return tessi_store_await(store, ticket, 0);
}

tess_status_t tess_store_sync(tess_store_t *store)
{
    if (!store) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_store_sync: store is NULL");
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "store_sync", -1, -1);
    int error = tessi_fault("io") ? EIO : fdatasync(store->data_fd) == 0 ? 0 : errno;
    pthread_mutex_lock(&store->lock);
    /* What a failed fdatasync has dropped, a later one does not report: the failure stays. */
    if (store->sync_error) error = store->sync_error;
    store->sync_error = error;
    pthread_mutex_unlock(&store->lock);
    if (error) return tessi_fail_errno(error, "store %s: cannot make it durable", store->path);
    return TESS_OK;
}
