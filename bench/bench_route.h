/* SPDX-License-Identifier: Apache-2.0 */
/* A route: one way in which bytes travel in a benchmark. Either a communicator of Tessera, or NCCL
 * called directly; the benchmarks treat both alike.
 */
#ifndef TESSERA_BENCH_ROUTE_H
#define TESSERA_BENCH_ROUTE_H

#include <tessera/comm.h>

#include "bench_options.h"
#include "bench_watch.h"
#include "raw_nccl.h"

typedef struct bench_route {
    char name[BENCH_NAME_BYTES]; /* "ucx", "raw-nccl" */
    char description[256];
    tess_device_t *device;
    int size;            /* ranks */
    tess_comm_t *comm;   /* NULL for raw NCCL */
    raw_nccl_t *raw;     /* NULL for a communicator */
    bench_watch_t watch; /* over raw NCCL, which has no deadlines of its own */
    int timeout_ms;
} bench_route_t;

/* Collective. `name` as on the command line, NULL where none was given; `index` makes its key
 * unique in this run. */
tess_status_t bench_route_open(tess_world_t *world, tess_device_t *device, const char *name,
                               int index, int timeout_ms, bench_route_t *route);
/* After a failure: nothing may be waited for any more. */
void bench_route_abort(bench_route_t *route);
void bench_route_close(bench_route_t *route);

/* Registered memory is collective and comes from the transport; for raw NCCL both kinds are plain
 * device memory. */
tess_status_t bench_route_allocate(bench_route_t *route, bench_memory_t memory, int64_t bytes,
                                   void **pointer);
void bench_route_free(bench_route_t *route, bench_memory_t memory, void *pointer);

tess_status_t bench_route_queue(bench_route_t *route, bench_collective_t collective,
                                const tess_collective_t *arguments, tess_stream_t *stream);
tess_status_t bench_route_barrier(bench_route_t *route, tess_stream_t *stream);

/* Waits for at most `operations` queued operations. Where the communicator knows why they failed,
 * its sentence replaces the stream's. Raw NCCL is aborted when it has not moved for the timeout, or
 * when a rank is lost; queueing, which may have to wait as well, does the same. */
tess_status_t bench_route_finish(bench_route_t *route, tess_stream_t *stream, int64_t operations);

#endif
