/* SPDX-License-Identifier: Apache-2.0 */
/* What a link is like, and which tiles and slots suit it.
 *
 * Invariant: what is suggested depends on the arguments and on nothing else, so that all ranks that
 * are given one measurement come to the same tiles.
 */
#include <math.h>

#include "prefetch_internal.h"

#define MEASURE_BYTES ((int64_t)64 << 20) /* of one copy */
#define MEASURE_COPIES 4                  /* in a round, each way */
#define MEASURE_ROUNDS 3
#define LATENCY_BYTES 4096
#define LATENCY_ROUNDS 50
#define TILE_ROUNDING ((int64_t)1 << 20)
#define TILE_BYTES_MIN 4096
#define TILE_BYTES_MAX ((int64_t)1 << 30)
#define SLOTS_LEAST 3 /* one tile coming, one in use, one going */
#define SLOTS_MOST 16

/* Sixteen lanes of PCIe 5 as H200s have them. */
const tess_prefetch_link_t tessi_prefetch_typical_link = {
    .in_bytes_per_s = 55e9, .out_bytes_per_s = 55e9, .latency_s = 10e-6};

/* --- choosing --------------------------------------------------------------------------------- */

static double fastest(const tess_prefetch_link_t *link)
{
    return link->in_bytes_per_s > link->out_bytes_per_s ? link->in_bytes_per_s
                                                        : link->out_bytes_per_s;
}

/* A tile goes through three stages of `tile time` each, and every change of stage costs about one
 * latency, in which its slot does nothing: n slots keep the link busy where n tile times are at
 * least three tile times and three latencies. */
int tessi_prefetch_slots_for(const tess_prefetch_link_t *link, int64_t bytes)
{
    double tile_s = (double)bytes / fastest(link);
    double slots = SLOTS_LEAST + ceil(3 * link->latency_s / tile_s);
    return slots < SLOTS_MOST ? (int)slots : SLOTS_MOST;
}

/* A latency is 1 % of a copy that takes 100 of them. */
static int64_t tile_for(const tess_prefetch_link_t *link)
{
    double bytes = 100 * link->latency_s * fastest(link);
    if (!(bytes < (double)TILE_BYTES_MAX)) return TILE_BYTES_MAX;
    int64_t units = (int64_t)ceil(bytes / (double)TILE_ROUNDING);
    return units > 1 ? units * TILE_ROUNDING : TILE_ROUNDING;
}

void tess_prefetch_suggest(const tess_prefetch_link_t *link, int64_t slot_bytes,
                           int64_t *tile_bytes, int *slot_count)
{
    int64_t bytes = tile_for(link);
    int slots = tessi_prefetch_slots_for(link, bytes);
    if (slot_bytes > 0 && slot_bytes / slots < bytes) {
        /* Smaller tiles rather than fewer slots: without a slot for each stage, stages take turns.
         */
        bytes = slot_bytes / slots / TILE_BYTES_MIN * TILE_BYTES_MIN;
        while (bytes == 0 && slots > 1)
            bytes = slot_bytes / --slots / TILE_BYTES_MIN * TILE_BYTES_MIN;
        if (bytes == 0) bytes = slot_bytes;
    }
    *tile_bytes = bytes;
    *slot_count = slots;
}

/* --- measuring -------------------------------------------------------------------------------- */

/* One direction: a stream, the memory that it copies between, and when it began and ended. */
typedef struct way {
    tess_stream_t *stream;
    tess_event_t *start, *end;
    void *pinned, *device;
    int out;
    double best_s; /* of the rounds so far; 0: none */
} way_t;

static tess_status_t open_way(tess_device_t *device, way_t *way)
{
    tess_status_t status;
    TESS_TRY(tess_memory_allocate(device, TESS_MEMORY_PINNED, MEASURE_BYTES, &way->pinned), err);
    TESS_TRY(tess_memory_allocate(device, TESS_MEMORY_DEVICE, MEASURE_BYTES, &way->device), err);
    TESS_TRY(tess_stream_create(device, TESS_PRIORITY_HIGH, &way->stream), err);
    TESS_TRY(tess_event_create(device, TESS_EVENT_TIMING, &way->start), err);
    TESS_TRY(tess_event_create(device, TESS_EVENT_TIMING, &way->end), err);
    TESS_TRY(tess_stream_fill(way->stream, way->device, 0, MEASURE_BYTES), err);
    TESS_TRY(tess_stream_copy(way->stream, way->pinned, way->device, MEASURE_BYTES), err);
    return tess_stream_synchronize(way->stream, -1);

err:
    return status;
}

static void close_way(tess_device_t *device, way_t *way)
{
    tess_stream_destroy(way->stream);
    tess_event_destroy(way->end);
    tess_event_destroy(way->start);
    tess_memory_free(device, TESS_MEMORY_DEVICE, way->device);
    tess_memory_free(device, TESS_MEMORY_PINNED, way->pinned);
}

static tess_status_t copy(const way_t *way, int64_t bytes)
{
    return way->out ? tess_stream_copy(way->stream, way->pinned, way->device, bytes)
                    : tess_stream_copy(way->stream, way->device, way->pinned, bytes);
}

static tess_status_t queue_round(const way_t *way)
{
    tess_status_t status;
    TESS_TRY(tess_event_record(way->start, way->stream), err);
    for (int c = 0; c < MEASURE_COPIES; c++) TESS_TRY(copy(way, MEASURE_BYTES), err);
    TESS_TRY(tess_event_record(way->end, way->stream), err);
    return TESS_OK;

err:
    return status;
}

/* The best of the rounds: what disturbs a copy only ever makes it slower. */
static tess_status_t end_round(way_t *way)
{
    double elapsed_ms = 0;
    tess_status_t status;
    TESS_TRY(tess_stream_synchronize(way->stream, -1), err);
    TESS_TRY(tess_event_elapsed(way->start, way->end, &elapsed_ms), err);
    if (way->best_s == 0 || elapsed_ms * 1e-3 < way->best_s) way->best_s = elapsed_ms * 1e-3;
    return TESS_OK;

err:
    return status;
}

static tess_status_t measure_latency(const way_t *way, double *latency_s)
{
    int64_t best_ns = INT64_MAX;
    for (int n = 0; n < LATENCY_ROUNDS; n++) {
        int64_t start_ns = tessi_now_ns();
        tess_status_t status = copy(way, LATENCY_BYTES);
        if (status >= 0) status = tess_stream_synchronize(way->stream, -1);
        if (status < 0) return status;
        int64_t took_ns = tessi_now_ns() - start_ns;
        if (took_ns < best_ns) best_ns = took_ns;
    }
    *latency_s = (double)best_ns * 1e-9;
    return TESS_OK;
}

static tess_status_t measure(way_t *in, way_t *out, tess_prefetch_link_t *link)
{
    tess_prefetch_link_t found;
    tess_status_t status;
    for (int round = 0; round < MEASURE_ROUNDS; round++) {
        TESS_TRY(queue_round(in), err);
        TESS_TRY(queue_round(out), err);
        TESS_TRY(end_round(in), err);
        TESS_TRY(end_round(out), err);
    }
    TESS_TRY(measure_latency(in, &found.latency_s), err);
    found.in_bytes_per_s = (double)(MEASURE_COPIES * MEASURE_BYTES) / in->best_s;
    found.out_bytes_per_s = (double)(MEASURE_COPIES * MEASURE_BYTES) / out->best_s;
    *link = found;
    return TESS_OK;

err:
    return status;
}

tess_status_t tess_prefetch_measure(tess_device_t *device, tess_prefetch_link_t *link)
{
    if (!device || !link)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_prefetch_measure: %s is NULL",
                          device ? "link" : "device");
    TESSI_TRACE_SCOPE(TESS_TRACE_OFFLOAD, "prefetch_measure", -1, -1);
    way_t in = {.out = 0}, out = {.out = 1};
    tess_status_t status = open_way(device, &in);
    if (status >= 0) status = open_way(device, &out);
    if (status >= 0) status = measure(&in, &out, link);
    close_way(device, &out);
    close_way(device, &in);
    return status;
}
