/* SPDX-License-Identifier: Apache-2.0 */
/* Opens and closes a session, and lets its ranks talk.
 *
 * Invariant: every exchange has a key of its own, counted alike on all ranks, so ranks must call
 * bench_exchange and what stands on it in the same order.
 */
#include "bench_session.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/world_internal.h"
#include "core/internal.h"

#define SENTENCE_BYTES 256

const char *bench_time_text(char *text, int64_t text_bytes)
{
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(text, (size_t)text_bytes, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return text;
}

static int uses_standard_output(const char *file)
{
    return file && strcmp(file, "-") == 0;
}

static tess_status_t open_device(bench_session_t *session)
{
    const bench_options_t *options = session->options;
    char name[24] = "host";
    if (options->device == BENCH_DEVICE_CUDA)
        snprintf(name, sizeof name, "cuda:%d", tess_world_local_rank(session->world));
    tess_status_t status = tess_device_open(name, &session->device);
    if (status < 0) return status;
    session->kind = tess_device_kind(session->device);
    return tess_stream_create(session->device, TESS_PRIORITY_NORMAL, &session->stream);
}

static tess_status_t meet_ranks(bench_session_t *session)
{
    tess_device_properties_t properties;
    tess_status_t status = tess_device_properties(session->device, &properties);
    if (status < 0) return status;
    bench_rank_t mine = {.memory_bytes = properties.memory_total_bytes,
                         .multiprocessors = properties.multiprocessors,
                         .kind = (int32_t)properties.kind};
    snprintf(mine.device, sizeof mine.device, "%s", tess_device_name(session->device));
    snprintf(mine.model, sizeof mine.model, "%s", properties.name);
    snprintf(mine.bus_id, sizeof mine.bus_id, "%s", properties.bus_id);
    session->ranks = tessi_calloc((size_t)session->size, sizeof *session->ranks);
    if (!session->ranks) return TESS_ERR_OUT_OF_MEMORY;
    status = bench_exchange(session, &mine, sizeof mine, session->ranks);
    if (status < 0) return status;
    for (int r = 0; r < session->size; r++)
        if (session->ranks[r].kind != mine.kind)
            return tessi_fail(TESS_ERR_MISMATCH,
                              "rank %d uses %s and rank %d uses %s; choose with --device",
                              session->rank, mine.device, r, session->ranks[r].device);
    return TESS_OK;
}

static tess_status_t open_routes(bench_session_t *session)
{
    const bench_options_t *options = session->options;
    if (options->program->no_transport) return TESS_OK;
    int count = options->transport_count ? options->transport_count : 1;
    for (int t = 0; t < count; t++) {
        const char *name = options->transport_count ? options->transports[t] : NULL;
        tess_status_t status =
            bench_route_open(session->world, session->device, name, t, session->timeout_ms,
                             &session->routes[session->route_count]);
        if (status < 0) return status;
        session->route_count++;
    }
    return TESS_OK;
}

tess_status_t bench_session_open(bench_options_t *options, char **arguments,
                                 bench_session_t *session)
{
    *session = (bench_session_t){.options = options, .arguments = arguments};
    bench_time_text(session->start_time, sizeof session->start_time);
    session->timeout_ms = tessi_timeout_or_default(-1);

    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    config.timeout_ms = session->timeout_ms;
    tess_status_t status = tess_world_open(&config, &session->world);
    if (status < 0) return status;
    session->rank = tess_world_rank(session->world);
    session->size = tess_world_size(session->world);
    int taken = uses_standard_output(options->json) || uses_standard_output(options->csv);
    if (session->rank == 0) session->table = taken ? stderr : stdout;

    status = bench_agree(session, open_device(session));
    if (status < 0) return status;
    bench_options_resolve(options, session->kind);
    status = meet_ranks(session);
    if (status < 0) return status;
    return bench_agree(session, open_routes(session));
}

void bench_session_fail(bench_session_t *session, tess_status_t status)
{
    if (status >= 0) return;
    bench_progress_clear(session);
    if (!session->told) {
        char who[32] = "";
        if (session->world) snprintf(who, sizeof who, "rank %d: ", session->rank);
        fprintf(stderr, "%s: %s%s\n", session->options->program->name, who, tess_last_error());
        session->told = 1;
    }
    for (int r = 0; r < session->route_count; r++) bench_route_abort(&session->routes[r]);
    tess_status_t drained =
        session->stream ? tess_stream_synchronize(session->stream, session->timeout_ms) : TESS_OK;
    (void)drained; /* the failure was told; this only waits until nothing runs any more */
}

void bench_session_close(bench_session_t *session)
{
    bench_progress_clear(session);
    tess_stream_destroy(session->stream);
    while (session->route_count > 0) bench_route_close(&session->routes[--session->route_count]);
    tess_device_close(session->device);
    tess_world_close(session->world);
    tessi_free(session->ranks);
    *session = (bench_session_t){.options = session->options, .told = session->told};
}

/* --- among the ranks ------------------------------------------------------------------------- */

tess_status_t bench_exchange(bench_session_t *session, const void *mine, int64_t bytes, void *all)
{
    char key[32];
    snprintf(key, sizeof key, "bench %d", session->exchange_count++);
    int *ranks = tessi_calloc((size_t)session->size, sizeof *ranks);
    if (!ranks) return TESS_ERR_OUT_OF_MEMORY;
    for (int r = 0; r < session->size; r++) ranks[r] = r;
    tessi_group_t group = {.ranks = ranks, .count = session->size};
    tess_status_t status =
        tessi_world_exchange(session->world, group, key, mine, bytes, all, session->timeout_ms);
    tessi_free(ranks);
    return status;
}

tess_status_t bench_agree(bench_session_t *session, tess_status_t status)
{
    char sentence[SENTENCE_BYTES];
    snprintf(sentence, sizeof sentence, "%s", status < 0 ? tess_last_error() : "");
    int32_t mine = status < 0 ? (int32_t)status : 0;
    int32_t *all = tessi_calloc((size_t)session->size, sizeof *all);
    if (!all) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t result = bench_exchange(session, &mine, sizeof mine, all);
    if (status < 0) { /* what this rank has to say is more than that the exchange failed as well */
        result = tessi_fail(status, "%s", sentence);
    } else if (result == TESS_OK) {
        for (int r = 0; r < session->size && result == TESS_OK; r++)
            if (all[r] < 0) {
                session->told = 1;
                result = tessi_fail((tess_status_t)all[r], "rank %d stopped this run: %s", r,
                                    tess_status_message((tess_status_t)all[r]));
            }
    }
    tessi_free(all);
    return result;
}

tess_status_t bench_largest(bench_session_t *session, double *values, int64_t count)
{
    double *all = tessi_calloc((size_t)(count * session->size), sizeof *all);
    if (!all) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = bench_exchange(session, values, count * (int64_t)sizeof *values, all);
    for (int64_t i = 0; status == TESS_OK && i < count * session->size; i++)
        if (all[i] > values[i % count]) values[i % count] = all[i];
    tessi_free(all);
    return status;
}

tess_status_t bench_sum(bench_session_t *session, int64_t *value)
{
    int64_t *all = tessi_calloc((size_t)session->size, sizeof *all);
    if (!all) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = bench_exchange(session, value, sizeof *value, all);
    int64_t sum = 0;
    for (int r = 0; r < session->size; r++) sum += all[r];
    if (status == TESS_OK) *value = sum;
    tessi_free(all);
    return status;
}

tess_status_t bench_from_root(bench_session_t *session, int64_t *value)
{
    int64_t *all = tessi_calloc((size_t)session->size, sizeof *all);
    if (!all) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status = bench_exchange(session, value, sizeof *value, all);
    if (status == TESS_OK) *value = all[0];
    tessi_free(all);
    return status;
}

/* --- printing -------------------------------------------------------------------------------- */

void bench_print(bench_session_t *session, const char *format, ...)
{
    if (!session->table) return;
    bench_progress_clear(session);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(session->table, format, arguments);
    va_end(arguments);
    fflush(session->table);
}

void bench_progress(bench_session_t *session, const char *format, ...)
{
    if (session->rank != 0 || !isatty(STDERR_FILENO)) return;
    char line[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\r\033[K%.78s", line);
    fflush(stderr);
    session->progress_shown = 1;
}

void bench_progress_clear(bench_session_t *session)
{
    if (!session->progress_shown) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    session->progress_shown = 0;
}

void bench_print_header(bench_session_t *session)
{
    const bench_options_t *options = session->options;
    bench_print(session, "# Tessera %s, %s, %s\n", tess_version(), options->program->name,
                session->start_time);
    bench_print(session, "# %d rank%s (%s), deadline %g s\n", session->size,
                session->size > 1 ? "s" : "", tess_world_source(session->world),
                session->timeout_ms / 1e3);
    for (int r = 0; r < session->size; r++) {
        const bench_rank_t *rank = &session->ranks[r];
        bench_print(session, "#   rank %d: pid %d on %s, %s %s%s%s%s\n", r,
                    tess_world_pid(session->world, r), tess_world_host(session->world, r),
                    rank->device, *rank->bus_id ? "[" : "", rank->bus_id, *rank->bus_id ? "] " : "",
                    rank->model);
    }
    for (int t = 0; t < session->route_count; t++)
        bench_print(session, "# transport %s: %s\n", session->routes[t].name,
                    session->routes[t].description);
}
