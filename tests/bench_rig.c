/* SPDX-License-Identifier: Apache-2.0 */
/* Runs programs and reads what they print. A program that outlives its deadline is killed with all
 * that it started.
 */
#include "bench_rig.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORDS_MAX 64

static char folder[64];

typedef struct stream {
    int fd;
    char *text;
    size_t length;
} stream_t;

static void split(char *line, char **words)
{
    int count = 0;
    for (char *word; (word = strsep(&line, " ")) != NULL;)
        if (*word && count < WORDS_MAX - 1) words[count++] = word;
    words[count] = NULL;
}

_Noreturn static void become(const char *command_line, int out, int err)
{
    static char line[4096], program[512];
    char *words[WORDS_MAX];
    setpgid(0, 0);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    snprintf(line, sizeof line, "%s", command_line);
    split(line, words);
    char **arguments = words;
    for (; *arguments && strchr(*arguments, '=') && **arguments != '-'; arguments++)
        putenv(*arguments);
    snprintf(program, sizeof program, "%s/%s", BENCH_FOLDER, *arguments);
    execv(program, arguments);
    fprintf(stderr, "cannot run %s: %s\n", program, strerror(errno));
    _exit(999 & 0xff);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void take(stream_t *stream)
{
    char buffer[4096];
    ssize_t got = read(stream->fd, buffer, sizeof buffer);
    if (got <= 0) {
        close(stream->fd);
        stream->fd = -1;
        return;
    }
    char *longer = realloc(stream->text, stream->length + (size_t)got + 1);
    if (!longer) abort();
    stream->text = longer;
    memcpy(longer + stream->length, buffer, (size_t)got);
    stream->length += (size_t)got;
    longer[stream->length] = '\0';
}

/* 1 when both streams ended in time. */
static int take_all(stream_t *streams, int64_t deadline_ms)
{
    while (streams[0].fd >= 0 || streams[1].fd >= 0) {
        int64_t left_ms = deadline_ms - now_ms();
        struct pollfd polls[2] = {{streams[0].fd, POLLIN, 0}, {streams[1].fd, POLLIN, 0}};
        if (left_ms <= 0 || poll(polls, 2, (int)left_ms) == 0) return 0;
        for (int s = 0; s < 2; s++)
            if (streams[s].fd >= 0 && polls[s].revents) take(&streams[s]);
    }
    return 1;
}

rig_run_t rig_run(const char *command_line)
{
    int out[2], err[2], wait_status;
    if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) abort();
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) become(command_line, out[1], err[1]);
    close(out[1]);
    close(err[1]);
    stream_t streams[2] = {{out[0], calloc(1, 1), 0}, {err[0], calloc(1, 1), 0}};
    int in_time = take_all(streams, now_ms() + RIG_TIMEOUT_MS);
    if (!in_time) {
        kill(-pid, SIGKILL);
        for (int s = 0; s < 2; s++)
            if (streams[s].fd >= 0) close(streams[s].fd);
    }
    waitpid(pid, &wait_status, 0);
    rig_run_t run = {.out = streams[0].text, .err = streams[1].text};
    run.exit_code = !in_time                 ? 1000
                    : WIFEXITED(wait_status) ? WEXITSTATUS(wait_status)
                                             : 128 + WTERMSIG(wait_status);
    return run;
}

void rig_free(rig_run_t *run)
{
    free(run->out);
    free(run->err);
    *run = (rig_run_t){0};
}

rig_run_t rig_expect(int exit_code, const char *command_line)
{
    rig_run_t run = rig_run(command_line);
    if (run.exit_code != exit_code)
        fail_msg("%s: ended with %d, expected %d\n--- output\n%s--- error\n%s", command_line,
                 run.exit_code, exit_code, run.out, run.err);
    return run;
}

json_t *rig_json(const char *text)
{
    json_error_t error;
    json_t *document = json_loads(text, 0, &error);
    if (!document) fail_msg("line %d: %s\n%s", error.line, error.text, text);
    return document;
}

json_t *rig_json_file(const char *name)
{
    json_error_t error;
    json_t *document = json_load_file(name, 0, &error);
    if (!document) fail_msg("%s line %d: %s", name, error.line, error.text);
    return document;
}

json_t *rig_at(json_t *document, const char *path)
{
    char copy[256];
    snprintf(copy, sizeof copy, "%s", path);
    char *rest = copy;
    json_t *value = document;
    for (char *key; value && (key = strsep(&rest, "/")) != NULL;)
        value = json_is_array(value) ? json_array_get(value, (size_t)atoi(key))
                                     : json_object_get(value, key);
    if (!value) fail_msg("there is no %s in\n%s", path, json_dumps(document, JSON_INDENT(1)));
    return value;
}

double rig_number(json_t *document, const char *path)
{
    json_t *value = rig_at(document, path);
    if (!json_is_number(value)) fail_msg("%s is not a number", path);
    return json_number_value(value);
}

const char *rig_text(json_t *document, const char *path)
{
    json_t *value = rig_at(document, path);
    if (!json_is_string(value)) fail_msg("%s is not a string", path);
    return json_string_value(value);
}

int rig_count(const char *text, const char *needle)
{
    int count = 0;
    for (const char *at = strstr(text, needle); at; at = strstr(at + 1, needle)) count++;
    return count;
}

int rig_has_ucx(void)
{
    tess_transport_info_t list[16];
    int count = tess_transport_list(list, 16);
    for (int t = 0; t < count && t < 16; t++)
        if (strcmp(list[t].name, "ucx") == 0) return list[t].usable;
    return 0;
}

const char *rig_folder_make(void)
{
    snprintf(folder, sizeof folder, "/tmp/tessera-bench-XXXXXX");
    if (!mkdtemp(folder)) fail_msg("mkdtemp: %s", strerror(errno));
    return folder;
}

static int walk_folder(int remove_files)
{
    int count = 0;
    DIR *listing = opendir(folder);
    for (struct dirent *entry; listing && (entry = readdir(listing)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        count++;
        if (remove_files) unlinkat(dirfd(listing), entry->d_name, 0);
    }
    if (listing) closedir(listing);
    return count;
}

int rig_folder_count(void)
{
    return walk_folder(0);
}

void rig_folder_remove(void)
{
    walk_folder(1);
    rmdir(folder);
}
