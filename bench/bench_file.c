/* SPDX-License-Identifier: Apache-2.0 */
/* Writes result files atomically: aside, fsync, rename, fsync of the folder. A failure leaves the
 * old file as it was and nothing beside it. Devices and pipes are never replaced.
 */
#include "bench_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/internal.h"
#include "plot.h"

_Static_assert(sizeof((bench_file_names_t *)0)->target >= PATH_MAX, "realpath needs PATH_MAX");

static int is_standard_output(const char *name)
{
    return strcmp(name, "-") == 0;
}

static int is_special(const char *name)
{
    struct stat found;
    return stat(name, &found) == 0 && !S_ISREG(found.st_mode) && !S_ISDIR(found.st_mode);
}

tess_status_t bench_file_names(const char *name, bench_file_names_t *names)
{
    struct stat found;
    if (stat(name, &found) == 0 && !S_ISREG(found.st_mode))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "cannot write %s: it is not a regular file",
                          name);
    if (!realpath(name, names->target) &&
        snprintf(names->target, sizeof names->target, "%s", name) >= (int)sizeof names->target)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "the name of the file is too long");
    snprintf(names->aside, sizeof names->aside, "%s.part-%d", names->target, (int)getpid());
    return TESS_OK;
}

/* Creates and removes the file aside; a name that cannot be written is the command line's fault. */
static tess_status_t check_file(const char *flag, const char *name)
{
    if (!name || is_standard_output(name)) return TESS_OK;
    if (is_special(name) && strcmp(flag, "--plot") != 0) return TESS_OK;
    bench_file_names_t names;
    tess_status_t status = bench_file_names(name, &names);
    if (status < 0) return status;
    int fd = open(names.aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    int error = fd < 0 ? errno : 0;
    if (fd >= 0) {
        close(fd);
        unlink(names.aside);
        if (access(names.target, W_OK) != 0 && errno != ENOENT) error = errno;
    }
    if (!error) return TESS_OK;
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: cannot write %s: %s", flag, name,
                      strerrordesc_np(error));
}

tess_status_t bench_files_check(bench_session_t *session)
{
    const bench_options_t *options = session->options;
    tess_status_t status = TESS_OK;
    if (session->rank == 0) {
        status = check_file("--json", options->json);
        if (status == TESS_OK) status = check_file("--csv", options->csv);
        if (status == TESS_OK) status = check_file("--out", options->out);
        if (status == TESS_OK) status = check_file("--plot", options->plot);
        if (status == TESS_OK && options->plot && !plot_available())
            status = tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                                "--plot needs gnuplot, which is not on PATH: apt install "
                                "gnuplot-nox");
    }
    return bench_agree(session, status);
}

static tess_status_t write_all(int fd, const char *text, const char *name)
{
    size_t left = strlen(text);
    while (left > 0) {
        ssize_t written = write(fd, text, left);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return tessi_fail_errno(errno, "cannot write %s", name);
        text += written;
        left -= (size_t)written;
    }
    return TESS_OK;
}

static tess_status_t write_file(const char *path, int flags, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0666);
    if (fd < 0) return tessi_fail_errno(errno, "cannot write %s", path);
    tess_status_t status = write_all(fd, text, path);
    if (close(fd) != 0 && status == TESS_OK)
        status = tessi_fail_errno(errno, "cannot write %s", path);
    return status;
}

static tess_status_t sync_file(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0) return tessi_fail_errno(errno, "cannot open %s", path);
    int error = fsync(fd) != 0 ? errno : 0;
    close(fd);
    if (error == EINVAL || error == ENOTSUP) return TESS_OK; /* this file system has no sync */
    return error ? tessi_fail_errno(error, "cannot sync %s", path) : TESS_OK;
}

tess_status_t bench_file_publish(const bench_file_names_t *names)
{
    tess_status_t status = sync_file(names->aside, O_RDONLY);
    if (status == TESS_OK && rename(names->aside, names->target) != 0)
        status = tessi_fail_errno(errno, "cannot rename %s to %s", names->aside, names->target);
    if (status < 0) {
        unlink(names->aside);
        return status;
    }
    char copy[sizeof names->target];
    memcpy(copy, names->target, sizeof copy);
    return sync_file(dirname(copy), O_RDONLY | O_DIRECTORY);
}

tess_status_t bench_file_write(const char *name, const char *text)
{
    if (is_standard_output(name)) return write_all(STDOUT_FILENO, text, "standard output");
    if (is_special(name)) return write_file(name, 0, text);
    bench_file_names_t names;
    tess_status_t status = bench_file_names(name, &names);
    if (status < 0) return status;
    status = write_file(names.aside, O_CREAT | O_TRUNC, text);
    if (status < 0) {
        unlink(names.aside);
        return status;
    }
    return bench_file_publish(&names);
}

tess_status_t bench_csv_write(const char *name, bench_print_t print, const void *context)
{
    static const char *const refusal = "there is no memory for the CSV file";
    char *text = NULL;
    size_t length = 0;
    FILE *memory = open_memstream(&text, &length);
    if (!memory) return tessi_fail(TESS_ERR_OUT_OF_MEMORY, "%s", refusal);
    print(context, memory);
    tess_status_t status = fclose(memory) == 0 ? bench_file_write(name, text)
                                               : tessi_fail(TESS_ERR_OUT_OF_MEMORY, "%s", refusal);
    free(text);
    return status;
}
