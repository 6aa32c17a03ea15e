/* SPDX-License-Identifier: Apache-2.0 */
/* Results for programs: one JSON document, with the keys of nccl-tests where it has them.
 *
 * Of the environment only variables that concern communication and threads are written, because an
 * environment often holds secrets.
 */
#include "bench_json.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_file.h"
#include "core/internal.h"

extern char **environ;

static json_t *environment_json(void)
{
    static const char *const prefixes[] = {"TESS_", "NCCL_", "UCX_", "CUDA_", "OPENBLAS_", "OMP_"};
    json_t *object = json_object();
    for (char **entry = environ; *entry; entry++) {
        const char *value = strchr(*entry, '=');
        char name[128];
        size_t length = value ? (size_t)(value - *entry) : 0;
        if (length == 0 || length >= sizeof name) continue;
        memcpy(name, *entry, length);
        name[length] = '\0';
        for (size_t p = 0; p < sizeof prefixes / sizeof *prefixes; p++)
            if (strncmp(*entry, prefixes[p], strlen(prefixes[p])) == 0)
                json_object_set_new(object, name, json_string(value + 1));
    }
    return object;
}

static json_t *arguments_json(const bench_session_t *session)
{
    json_t *array = json_array();
    for (char **argument = session->arguments; *argument; argument++)
        json_array_append_new(array, json_string(*argument));
    return array;
}

static json_t *ranks_json(const bench_session_t *session)
{
    json_t *array = json_array();
    for (int r = 0; r < session->size; r++) {
        const bench_rank_t *rank = &session->ranks[r];
        json_array_append_new(array,
                              json_pack("{s:i, s:s, s:i, s:s, s:s, s:s, s:I, s:i}", "rank", r,
                                        "host", tess_world_host(session->world, r), "pid",
                                        tess_world_pid(session->world, r), "device", rank->device,
                                        "model", rank->model, "bus_id", rank->bus_id,
                                        "memory_bytes", (json_int_t)rank->memory_bytes,
                                        "multiprocessors", (int)rank->multiprocessors));
    }
    return array;
}

static json_t *versions_json(void)
{
    json_t *object = json_object();
    tess_transport_info_t list[8];
    int count = tess_transport_list(list, 8);
    json_object_set_new(object, "tessera", json_string(tess_version()));
    for (int t = 0; t < count && t < 8; t++)
        if (*list[t].version)
            json_object_set_new(object, list[t].name, json_string(list[t].version));
    return object;
}

static json_t *transports_json(const bench_session_t *session)
{
    json_t *array = json_array();
    for (int t = 0; t < session->route_count; t++)
        json_array_append_new(array, json_pack("{s:s, s:s}", "name", session->routes[t].name,
                                               "description", session->routes[t].description));
    return array;
}

json_t *bench_json_document(bench_session_t *session)
{
    return json_pack("{s:i, s:s, s:s, s:o, s:o, s:o, s:s, s:f, s:o, s:o}", "version", 1, "program",
                     session->options->program->name, "start_time", session->start_time, "args",
                     arguments_json(session), "env", environment_json(), "versions",
                     versions_json(), "rank_source", tess_world_source(session->world), "timeout_s",
                     session->timeout_ms / 1e3, "devices", ranks_json(session), "transports",
                     transports_json(session));
}

void bench_json_add_wrong(json_t *document, const bench_session_t *session)
{
    json_object_set_new(document, "out_of_bounds",
                        json_pack("{s:I, s:b}", "count", (json_int_t)session->wrong_elements,
                                  "okay", session->wrong_elements == 0));
}

tess_status_t bench_json_write(json_t *document, const char *name)
{
    char now[32];
    tess_status_t status = TESS_ERR_OUT_OF_MEMORY;
    char *text = NULL;
    if (document && json_object_set_new(document, "end_time",
                                        json_string(bench_time_text(now, sizeof now))) == 0)
        text = json_dumps(document, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(document);
    if (!text) return tessi_fail(status, "there is no memory for the JSON document");
    size_t length = strlen(text);
    char *line = realloc(text, length + 2);
    if (line) {
        line[length] = '\n';
        line[length + 1] = '\0';
        status = bench_file_write(name, line);
        text = line;
    } else {
        status = tessi_fail(status, "there is no memory for the JSON document");
    }
    free(text);
    return status;
}
