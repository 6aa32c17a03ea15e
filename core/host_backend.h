/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the host back end share: streams as worker threads, marks on them, events, and
 * what the machine has.
 *
 * A stream counts its entries; a mark is a stream and a count. Whoever waits for a mark needs
 * neither the event that gave it nor its later fate, which is why events can be recorded again or
 * destroyed while waits for them are still queued.
 */
#ifndef TESSERA_CORE_HOST_BACKEND_H
#define TESSERA_CORE_HOST_BACKEND_H

#include "device_backend.h"

typedef struct tessi_host_stream tessi_host_stream_t;

/* Reached once the stream has completed `ticket` entries. Holds a reference to the stream, which
 * outlives its destroy as long as marks point to it. */
typedef struct tessi_host_mark {
    tessi_host_stream_t *stream; /* NULL: never recorded, counts as reached */
    uint64_t ticket;
    int failed; /* the stream had failed already when the mark was made */
} tessi_host_mark_t;

/* stream_host.c: slots of the table of functions. */
tess_status_t tessi_host_stream_create(tess_device_t *device, tess_stream_priority_t priority,
                                       tess_stream_t **result);
void tessi_host_stream_destroy(tess_stream_t *base);
tess_status_t tessi_host_stream_synchronize(tess_stream_t *base, int timeout_ms);
tess_status_t tessi_host_stream_query(tess_stream_t *base);

/* The point reached by what is queued on the stream now. Release it in the end. */
tessi_host_mark_t tessi_host_mark_take(tess_stream_t *base);
tessi_host_mark_t tessi_host_mark_copy(const tessi_host_mark_t *mark);
void tessi_host_mark_release(tessi_host_mark_t *mark);

/* TESS_OK, TESS_NOT_READY, or the error that the stream had when it reached the mark. */
tess_status_t tessi_host_mark_query(const tessi_host_mark_t *mark);

/* Waits for the mark. With `renew` the deadline starts anew whenever the stream gets ahead. */
tess_status_t tessi_host_mark_wait(const tessi_host_mark_t *mark, int timeout_ms, int renew);

/* event_host.c: slots of the table of functions. */
tess_status_t tessi_host_event_create(tess_device_t *device, tess_event_mode_t mode,
                                      tess_event_t **result);
void tessi_host_event_destroy(tess_event_t *event);
tess_status_t tessi_host_event_record(tess_event_t *base, tess_stream_t *stream);
tess_status_t tessi_host_event_query(tess_event_t *event);
tess_status_t tessi_host_event_synchronize(tess_event_t *event, int timeout_ms);
tess_status_t tessi_host_event_elapsed(tess_event_t *start, tess_event_t *end, double *elapsed_ms);
tess_status_t tessi_host_stream_wait_event(tess_stream_t *stream, tess_event_t *event);

/* machine_host.c: what this machine has, or what its control group leaves of it. */
void tessi_machine_memory(int64_t *total_bytes, int64_t *free_bytes);
/* What the control group alone allows and leaves; -1 where it has no limit. */
void tessi_machine_group(int64_t *total_bytes, int64_t *free_bytes);
void tessi_machine_cpu_name(char *name, size_t name_bytes);
int tessi_machine_cpu_count(void);

#endif
