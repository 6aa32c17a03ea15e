/* SPDX-License-Identifier: Apache-2.0 */
/* Reads a record of NVTX events line by line and checks what must hold in any of them. */
#include "nvtx_trace.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEPTH_MAX 64
#define THREADS_MAX 256

struct nvtx_trace {
    json_t *lines; /* array of objects; pushes and marks have gained "inside" */
};

typedef struct open_ranges {
    int64_t pid, tid;
    int depth;
    const char *names[DEPTH_MAX];
} open_ranges_t;

static const char *text_of(const json_t *line, const char *key)
{
    const char *text = json_string_value(json_object_get(line, key));
    return text ? text : "";
}

static int64_t number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value)) fail_msg("the record has no number \"%s\"", key);
    return json_integer_value(value);
}

static int is(const json_t *line, const char *event)
{
    return strcmp(text_of(line, "event"), event) == 0;
}

static json_t *read_lines(const char *path)
{
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    json_t *lines = json_array();
    char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, file) > 0) {
        json_error_t error;
        json_t *object = json_loads(line, 0, &error);
        if (!object) fail_msg("no JSON (%s): %s", error.text, line);
        json_array_append_new(lines, object);
    }
    free(line);
    fclose(file);
    /* A path that cannot be loaded is ignored by NVTX without a word. */
    if (json_array_size(lines) == 0) fail_msg("the recorder wrote nothing: was it loaded?");
    return lines;
}

static open_ranges_t *ranges_of(open_ranges_t *threads, const json_t *line)
{
    int64_t pid = number_of(line, "pid"), tid = number_of(line, "tid");
    for (int i = 0; i < THREADS_MAX; i++) {
        if (threads[i].pid == 0) threads[i] = (open_ranges_t){.pid = pid, .tid = tid};
        if (threads[i].pid == pid && threads[i].tid == tid) return &threads[i];
    }
    fail_msg("more than %d threads", THREADS_MAX);
    return NULL;
}

static void check_nesting(json_t *lines)
{
    open_ranges_t *threads = calloc(THREADS_MAX, sizeof *threads);
    size_t i;
    json_t *line;
    json_array_foreach(lines, i, line)
    {
        if (!is(line, "push") && !is(line, "pop") && !is(line, "mark")) continue;
        open_ranges_t *open = ranges_of(threads, line);
        if (is(line, "pop")) {
            if (open->depth-- == 0) fail_msg("line %zu: a pop without a push", i + 1);
            continue;
        }
        json_object_set_new(line, "inside",
                            json_string(open->depth ? open->names[open->depth - 1] : ""));
        if (is(line, "mark")) continue;
        if (open->depth == DEPTH_MAX) fail_msg("line %zu: too deep", i + 1);
        open->names[open->depth++] = text_of(line, "name");
    }
    for (i = 0; i < THREADS_MAX; i++)
        if (threads[i].depth != 0)
            fail_msg("thread %lld left \"%s\" open", (long long)threads[i].tid,
                     threads[i].names[threads[i].depth - 1]);
    free(threads);
}

static int count_lines(const json_t *lines, const char *event, const char *name)
{
    size_t i;
    json_t *line;
    int count = 0;
    json_array_foreach(lines, i, line)
    {
        count += is(line, event) && (!name || strcmp(text_of(line, "name"), name) == 0);
    }
    return count;
}

static const char *const category_names[] = {"",      "core",  "comm",  "offload",
                                             "optim", "train", "bench", "user"};
#define CATEGORIES ((int)(sizeof category_names / sizeof *category_names))

static void check_set_up(const json_t *lines)
{
    size_t i;
    json_t *line;
    json_array_foreach(lines, i, line)
    {
        if (is(line, "category")) {
            int64_t id = number_of(line, "category");
            assert_in_range(id, 1, CATEGORIES - 1);
            assert_string_equal(text_of(line, "name"), category_names[id]);
        }
        if (is(line, "schema")) {
            char *fields = json_dumps(json_object_get(line, "fields"), JSON_COMPACT);
            assert_string_equal(text_of(line, "name"), "tessera.range");
            assert_string_equal(fields, "[\"bytes\",\"index\",\"rank\"]");
            assert_int_equal(number_of(line, "static_bytes"), 3 * sizeof(int64_t));
            free(fields);
        }
    }
    assert_true(count_lines(lines, "domain", "tessera") >= 1);
    for (int c = 1; c < CATEGORIES; c++)
        assert_int_equal(count_lines(lines, "category", category_names[c]),
                         count_lines(lines, "domain", "tessera"));
}

static void check_events(const json_t *lines)
{
    size_t i;
    json_t *line;
    json_array_foreach(lines, i, line)
    {
        if (!is(line, "push") && !is(line, "mark")) continue;
        if (!json_is_true(json_object_get(line, "registered")) ||
            strcmp(text_of(line, "schema"), "tessera.range") != 0 ||
            number_of(line, "color") >> 24 != 0xff) {
            char *text = json_dumps(line, JSON_COMPACT);
            fail_msg("line %zu lacks a registered name, schema or colour: %s", i + 1, text);
        }
        assert_in_range(number_of(line, "category"), 1, CATEGORIES - 1);
    }
}

/* What other users of NVTX in the process do (NCCL has a domain of its own) is not checked. */
static json_t *keep_own(json_t *lines)
{
    json_t *own = json_array();
    size_t i;
    json_t *line;
    json_array_foreach(lines, i, line)
    {
        const char *domain = text_of(line, is(line, "domain") ? "name" : "domain");
        if (strcmp(domain, "tessera") == 0) json_array_append(own, line);
    }
    json_decref(lines);
    return own;
}

static void run_child(const char *argument, const char *record_path)
{
    char self[512];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = '\0';
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("NVTX_INJECTION64_PATH", TESS_TEST_NVTX_RECORDER, 1);
        setenv("TESS_NVTX_RECORD", record_path, 1);
        execl(self, self, argument, (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* The record is a file in memory that lives as long as this process keeps it open, so that no path
 * of a test leaves anything behind. */
nvtx_trace_t *nvtx_trace_record(const char *child_argument)
{
    char path[64];
    int fd = memfd_create("nvtx-record", MFD_CLOEXEC);
    assert_true(fd >= 0);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getpid(), fd);
    run_child(child_argument, path);
    nvtx_trace_t *trace = calloc(1, sizeof *trace);
    trace->lines = keep_own(read_lines(path));
    close(fd);
    check_set_up(trace->lines);
    check_events(trace->lines);
    check_nesting(trace->lines);
    return trace;
}

void nvtx_trace_free(nvtx_trace_t *trace)
{
    if (!trace) return;
    json_decref(trace->lines);
    free(trace);
}

static int matches(const json_t *line, const nvtx_pattern_t *pattern)
{
    if (!is(line, pattern->event) || strcmp(text_of(line, "name"), pattern->name) != 0) return 0;
    const char *category = category_names[number_of(line, "category")];
    if (pattern->category && strcmp(category, pattern->category) != 0) return 0;
    if (pattern->inside && strcmp(text_of(line, "inside"), pattern->inside) != 0) return 0;
    const json_t *payload = json_object_get(line, "payload");
    const struct {
        const char *key;
        int64_t wanted;
    } fields[] = {{"bytes", pattern->bytes}, {"index", pattern->index}, {"rank", pattern->rank}};
    for (int i = 0; i < 3; i++)
        if (fields[i].wanted != NVTX_ANY && number_of(payload, fields[i].key) != fields[i].wanted)
            return 0;
    return 1;
}

int nvtx_trace_count(const nvtx_trace_t *trace, const nvtx_pattern_t *pattern)
{
    size_t i;
    json_t *line;
    int count = 0;
    json_array_foreach(trace->lines, i, line)
    {
        count += matches(line, pattern);
    }
    return count;
}

int nvtx_trace_registrations(const nvtx_trace_t *trace, const char *name)
{
    return count_lines(trace->lines, "string", name);
}
