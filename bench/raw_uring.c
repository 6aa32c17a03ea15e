/* SPDX-License-Identifier: Apache-2.0 */
/* The plain loop with liburing: as many transfers in flight as there are slots of memory, a new one
 * for each that ends. File and memory are registered where the system lets them be, as the store
 * does it.
 */
#include <errno.h>
#include <liburing.h>
#include <unistd.h>

#include "core/internal.h"
#include "raw_file.h"

/* Linux 6.1, and the newest flags that the store asks for too; older kernels say EINVAL. */
#define SETUP_SINGLE_ISSUER (1u << 12)
#define SETUP_DEFER_TASKRUN (1u << 13)

typedef struct slot {
    char *memory; /* what is left of the transfer */
    int64_t offset, bytes;
} slot_t;

typedef struct loop {
    const raw_file_t *file;
    struct io_uring ring;
    int fd;
    int has_file, has_memory; /* registered */
    slot_t *slots;            /* (depth) */
    int64_t next;             /* byte of the file, from its offset */
    int in_flight;
    int error;
} loop_t;

static void prepare(loop_t *loop, int index)
{
    const slot_t *slot = &loop->slots[index];
    struct io_uring_sqe *entry = io_uring_get_sqe(&loop->ring);
    int fd = loop->has_file ? 0 : loop->fd;
    unsigned bytes = (unsigned)slot->bytes;
    uint64_t offset = (uint64_t)slot->offset;
    if (loop->file->write && loop->has_memory)
        io_uring_prep_write_fixed(entry, fd, slot->memory, bytes, offset, 0);
    else if (loop->file->write) io_uring_prep_write(entry, fd, slot->memory, bytes, offset);
    else if (loop->has_memory) io_uring_prep_read_fixed(entry, fd, slot->memory, bytes, offset, 0);
    else io_uring_prep_read(entry, fd, slot->memory, bytes, offset);
    if (loop->has_file) io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(entry, (unsigned)index);
    loop->in_flight++;
}

/* Gives a slot the next block; 0 at the end. */
static int take_block(loop_t *loop, int index)
{
    const raw_file_t *file = loop->file;
    int64_t left = file->bytes - loop->next;
    if (left <= 0 || loop->error) return 0;
    loop->slots[index] = (slot_t){.memory = file->memory + index * file->block_bytes,
                                  .offset = file->offset + loop->next,
                                  .bytes = left < file->block_bytes ? left : file->block_bytes};
    loop->next += loop->slots[index].bytes;
    prepare(loop, index);
    return 1;
}

static void take_in(loop_t *loop, const struct io_uring_cqe *completion)
{
    int index = (int)io_uring_cqe_get_data64(completion);
    slot_t *slot = &loop->slots[index];
    int result = completion->res;
    loop->in_flight--;
    if (result == -EINTR || result == -EAGAIN) result = 0;
    else if (result <= 0) loop->error = result < 0 ? -result : ENODATA;
    if (loop->error) return;
    slot->memory += result;
    slot->offset += result;
    slot->bytes -= result;
    if (slot->bytes > 0) prepare(loop, index);
    else (void)take_block(loop, index);
}

/* Ends with nothing in flight, also when a transfer fails. */
static void run(loop_t *loop)
{
    for (int s = 0; s < loop->file->depth; s++)
        if (!take_block(loop, s)) break;
    while (loop->in_flight > 0) {
        struct io_uring_cqe *completion;
        int entered = io_uring_submit_and_wait(&loop->ring, 1);
        if (entered < 0 && entered != -EINTR && entered != -EAGAIN && entered != -EBUSY) {
            loop->error = -entered;
            break; /* the ring itself is broken */
        }
        while (io_uring_peek_cqe(&loop->ring, &completion) == 0) {
            struct io_uring_cqe taken = *completion;
            io_uring_cqe_seen(&loop->ring, completion);
            take_in(loop, &taken);
        }
    }
}

static tess_status_t open_ring(loop_t *loop)
{
    const raw_file_t *file = loop->file;
    unsigned entries = (unsigned)file->depth;
    int error =
        -io_uring_queue_init(entries, &loop->ring, SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN);
    if (error == EINVAL) error = -io_uring_queue_init(entries, &loop->ring, 0);
    if (error) return tessi_fail_errno(error, "cannot set up io_uring for raw transfers");
    struct iovec memory = {.iov_base = file->memory,
                           .iov_len = (size_t)(file->depth * file->block_bytes)};
    loop->has_file = io_uring_register_files(&loop->ring, &loop->fd, 1) == 0;
    loop->has_memory = io_uring_register_buffers(&loop->ring, &memory, 1) == 0;
    return TESS_OK;
}

tess_status_t raw_uring_run(const raw_file_t *file, double *seconds)
{
    loop_t loop = {.file = file};
    loop.slots = tessi_calloc((size_t)file->depth, sizeof *loop.slots);
    if (!loop.slots) return TESS_ERR_OUT_OF_MEMORY;
    tess_status_t status;
    TESS_TRY(raw_file_open(file, &loop.fd), free_slots);
    TESS_TRY(open_ring(&loop), close_file);
    int64_t start_ns = tessi_now_ns();
    run(&loop);
    *seconds = (double)(tessi_now_ns() - start_ns) * 1e-9;
    io_uring_queue_exit(&loop.ring);
    if (loop.error) status = tessi_fail_errno(loop.error, "raw transfers of %s failed", file->path);
close_file:
    close(loop.fd);
free_slots:
    tessi_free(loop.slots);
    return status;
}
