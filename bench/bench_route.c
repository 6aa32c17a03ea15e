/* SPDX-License-Identifier: Apache-2.0 */
/* Sends every call of a route to the communicator or to raw NCCL. */
#include "bench_route.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core/internal.h"

static tess_status_t open_raw(tess_world_t *world, bench_route_t *route, int index)
{
    char key[64];
    snprintf(key, sizeof key, "bench raw nccl %d", index);
    snprintf(route->description, sizeof route->description,
             "NCCL %s, its own calls on one communicator", raw_nccl_version());
    tess_status_t status =
        bench_watch_open(world, route->device, "raw NCCL", route->timeout_ms, &route->watch);
    if (status >= 0)
        status = raw_nccl_open(world, route->device, key, route->timeout_ms, &route->raw);
    if (status < 0) bench_watch_close(&route->watch);
    return status;
}

static tess_status_t open_comm(tess_world_t *world, bench_route_t *route, const char *name,
                               int index)
{
    char comm_name[48];
    snprintf(comm_name, sizeof comm_name, "bench %d", index);
    tess_comm_config_t config = {
        .transport = name, .name = comm_name, .timeout_ms = route->timeout_ms};
    tess_status_t status = tess_comm_open(world, route->device, &config, &route->comm);
    if (status < 0) return status;
    snprintf(route->name, sizeof route->name, "%s", tess_comm_transport(route->comm));
    snprintf(route->description, sizeof route->description, "%s",
             tess_comm_description(route->comm));
    return TESS_OK;
}

tess_status_t bench_route_open(tess_world_t *world, tess_device_t *device, const char *name,
                               int index, int timeout_ms, bench_route_t *route)
{
    *route =
        (bench_route_t){.device = device, .size = tess_world_size(world), .timeout_ms = timeout_ms};
    if (!name || strcmp(name, "raw-nccl") != 0) return open_comm(world, route, name, index);
    snprintf(route->name, sizeof route->name, "%s", name);
    return open_raw(world, route, index);
}

void bench_route_abort(bench_route_t *route)
{
    if (route->comm) tess_comm_abort(route->comm);
    raw_nccl_abort(route->raw);
}

void bench_route_close(bench_route_t *route)
{
    tess_comm_close(route->comm);
    raw_nccl_close(route->raw);
    bench_watch_close(&route->watch);
    *route = (bench_route_t){0};
}

tess_status_t bench_route_allocate(bench_route_t *route, bench_memory_t memory, int64_t bytes,
                                   void **pointer)
{
    if (route->comm && memory == BENCH_MEMORY_REGISTERED)
        return tess_comm_allocate(route->comm, bytes, pointer);
    return tess_memory_allocate(route->device, TESS_MEMORY_DEVICE, bytes, pointer);
}

void bench_route_free(bench_route_t *route, bench_memory_t memory, void *pointer)
{
    if (route->comm && memory == BENCH_MEMORY_REGISTERED) tess_comm_free(route->comm, pointer);
    else tess_memory_free(route->device, TESS_MEMORY_DEVICE, pointer);
}

static tess_status_t raw_or_abort(bench_route_t *route, tess_status_t status)
{
    if (status < 0) raw_nccl_abort(route->raw);
    return status;
}

static tess_status_t queue_raw(bench_route_t *route, bench_collective_t collective,
                               const tess_collective_t *arguments, tess_stream_t *stream)
{
    int64_t bytes = arguments->count * tess_dtype_bytes(arguments->dtype) * route->size;
    tess_status_t status = collective == BENCH_ALL_GATHER
                               ? raw_nccl_all_gather(route->raw, arguments, stream)
                               : raw_nccl_reduce_scatter(route->raw, arguments, stream);
    if (status >= 0) status = bench_watch_queued(&route->watch, stream, bytes);
    return raw_or_abort(route, status);
}

tess_status_t bench_route_queue(bench_route_t *route, bench_collective_t collective,
                                const tess_collective_t *arguments, tess_stream_t *stream)
{
    if (route->raw) return queue_raw(route, collective, arguments, stream);
    return collective == BENCH_ALL_GATHER
               ? tess_comm_all_gather(route->comm, arguments, stream)
               : tess_comm_reduce_scatter(route->comm, arguments, stream);
}

tess_status_t bench_route_barrier(bench_route_t *route, tess_stream_t *stream)
{
    return route->raw ? raw_nccl_barrier(route->raw, stream)
                      : tess_comm_barrier(route->comm, stream);
}

tess_status_t bench_route_finish(bench_route_t *route, tess_stream_t *stream, int64_t operations)
{
    if (route->raw) return raw_or_abort(route, bench_watch_wait(&route->watch, stream));
    /* Every operation has its own deadline, which names the rank at fault; this one is behind all
     * of them and only a safety net. */
    int64_t wait_ms = (operations + 2) * (int64_t)route->timeout_ms;
    tess_status_t status =
        tess_stream_synchronize(stream, wait_ms > INT_MAX ? INT_MAX : (int)wait_ms);
    tess_status_t cause = route->comm ? tess_comm_status(route->comm) : TESS_OK;
    if (cause < 0) return cause;
    if (status < 0) /* tess_comm_status succeeded, so the sentence is still the stream's */
        return status;
    return TESS_OK;
}
