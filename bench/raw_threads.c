/* SPDX-License-Identifier: Apache-2.0 */
/* The plain loop with pread and pwrite: one thread for each transfer in flight, blocks taken in
 * order. A gate holds the threads until all of them are there and the clock runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "core/internal.h"
#include "raw_file.h"

typedef struct loop {
    const raw_file_t *file;
    int fd;
    pthread_mutex_t gate;
    _Atomic int64_t next; /* byte of the file, from its offset */
    _Atomic int error;    /* errno of the first failure */
} loop_t;

typedef struct worker {
    loop_t *loop;
    char *memory; /* (block_bytes) */
    pthread_t thread;
} worker_t;

tess_status_t raw_file_open(const raw_file_t *file, int *fd)
{
    *fd = open(file->path, O_RDWR | O_CLOEXEC | (file->direct ? O_DIRECT : 0));
    return *fd < 0 ? tessi_fail_errno(errno, "cannot open %s", file->path) : TESS_OK;
}

static int move(const loop_t *loop, char *memory, int64_t at, int64_t bytes)
{
    while (bytes > 0) {
        off_t offset = loop->file->offset + at;
        ssize_t moved = loop->file->write ? pwrite(loop->fd, memory, (size_t)bytes, offset)
                                          : pread(loop->fd, memory, (size_t)bytes, offset);
        if (moved < 0 && errno == EINTR) continue;
        if (moved <= 0) return moved < 0 ? errno : ENODATA;
        memory += moved;
        at += moved;
        bytes -= moved;
    }
    return 0;
}

static void *work(void *argument)
{
    const worker_t *worker = argument;
    loop_t *loop = worker->loop;
    const raw_file_t *file = loop->file;
    pthread_mutex_lock(&loop->gate);
    pthread_mutex_unlock(&loop->gate);
    while (!atomic_load(&loop->error)) {
        int64_t at = atomic_fetch_add(&loop->next, file->block_bytes);
        if (at >= file->bytes) break;
        int64_t left = file->bytes - at;
        int error =
            move(loop, worker->memory, at, left < file->block_bytes ? left : file->block_bytes);
        if (error) atomic_store(&loop->error, error);
    }
    return NULL;
}

tess_status_t raw_threads_run(const raw_file_t *file, double *seconds)
{
    loop_t loop = {.file = file};
    worker_t *workers = tessi_calloc((size_t)file->depth, sizeof *workers);
    if (!workers) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status;
    TESS_TRY(raw_file_open(file, &loop.fd), free_workers);
    pthread_mutex_init(&loop.gate, NULL);
    pthread_mutex_lock(&loop.gate);
    int started = 0, error = 0;
    for (; started < file->depth && !error; started += !error) {
        worker_t *worker = &workers[started];
        *worker = (worker_t){.loop = &loop, .memory = file->memory + started * file->block_bytes};
        error = pthread_create(&worker->thread, NULL, work, worker);
    }
    if (error) atomic_store(&loop.error, error);
    int64_t start_ns = tessi_now_ns();
    pthread_mutex_unlock(&loop.gate);
    for (int w = 0; w < started; w++) pthread_join(workers[w].thread, NULL);
    *seconds = (double)(tessi_now_ns() - start_ns) * 1e-9;
    pthread_mutex_destroy(&loop.gate);
    close(loop.fd);
    if (loop.error) status = tessi_fail_errno(loop.error, "raw transfers of %s failed", file->path);
free_workers:
    tessi_free(workers);
    return status;
}
