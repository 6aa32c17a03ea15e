/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers for transports that reach any memory of the device alike.
 *
 * Devices align to less than the 4 KiB that tess_comm_allocate promises, so a little more is asked
 * for and the original pointer kept. Invariant: every buffer is in comm->memory until it is freed.
 */
#include "comm_internal.h"

#define ALIGNMENT_BYTES 4096

struct tessi_comm_memory {
    void *pointer;  /* what the caller has */
    void *original; /* what the device gave */
    tessi_comm_memory_t *next;
};

tess_status_t tessi_comm_memory_allocate(tess_comm_t *comm, int64_t bytes, void **pointer)
{
    tess_status_t status = TESS_ERR_OUT_OF_MEMORY;
    tessi_comm_memory_t *memory = tessi_calloc(1, sizeof *memory);
    if (!memory) return status;
    TESS_TRY(tess_memory_allocate(comm->device, TESS_MEMORY_DEVICE, bytes + ALIGNMENT_BYTES,
                                  &memory->original),
             free_memory);
    uintptr_t address = (uintptr_t)memory->original;
    uintptr_t gap = -address & (ALIGNMENT_BYTES - 1);
    memory->pointer = (char *)memory->original + gap;
    memory->next = comm->memory;
    comm->memory = memory;
    *pointer = memory->pointer;
    return TESS_OK;

free_memory:
    tessi_free(memory);
    return status;
}

static void free_one(tess_comm_t *comm, tessi_comm_memory_t **link)
{
    tessi_comm_memory_t *memory = *link;
    *link = memory->next;
    tess_memory_free(comm->device, TESS_MEMORY_DEVICE, memory->original);
    tessi_free(memory);
}

void tessi_comm_memory_free(tess_comm_t *comm, void *pointer)
{
    for (tessi_comm_memory_t **link = &comm->memory; *link; link = &(*link)->next) {
        if ((*link)->pointer != pointer) continue;
        free_one(comm, link);
        return;
    }
    tessi_log(TESSI_LOG_ERROR, "tess_comm_free: %p is no buffer of communicator %s", pointer,
              comm->name);
}

void tessi_comm_memory_free_all(tess_comm_t *comm)
{
    while (comm->memory) free_one(comm, &comm->memory);
}
