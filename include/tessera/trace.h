/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges on the timeline of a profiler: NVTX3 in the domain "tessera".
 *
 * Every range has a registered name of low cardinality, the category of its module, and a payload
 * (bytes, index, rank), so that a profiler can sum by name. Without a profiler a range costs about
 * a nanosecond. Ranges nest per thread.
 *
 * Threads: all calls may be made from any thread. A site is static storage of the caller.
 */
#ifndef TESSERA_TRACE_H
#define TESSERA_TRACE_H

#include <stdint.h>
#include <tessera/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tess_trace_category {
    TESS_TRACE_CORE = 1,
    TESS_TRACE_COMM = 2,
    TESS_TRACE_OFFLOAD = 3,
    TESS_TRACE_OPTIM = 4,
    TESS_TRACE_TRAIN = 5,
    TESS_TRACE_BENCH = 6,
    TESS_TRACE_USER = 7
} tess_trace_category_t;

/* One name on the timeline. Fill with TESS_TRACE_SITE; `registered` belongs to the library. */
typedef struct tess_trace_site {
    tess_trace_category_t category;
    const char *name;
    void *registered;
} tess_trace_site_t;

#define TESS_TRACE_SITE(category, name)                                                            \
    {                                                                                              \
        (category), (name), 0                                                                      \
    }

/* What a range is about; -1 where a field does not apply. The payload schema "tessera.range" gives
 * these fields to the profiler in this order, with the rank behind them. */
typedef struct tess_trace_payload {
    int64_t bytes; /* bytes this rank sends or holds */
    int64_t index; /* bucket, block, tile or sequence number */
} tess_trace_payload_t;

/* Opens a range on this thread; close it with tess_trace_pop on the same thread. */
TESS_API void tess_trace_push(tess_trace_site_t *site, tess_trace_payload_t payload);
TESS_API void tess_trace_pop(void);

/* A single point in time. */
TESS_API void tess_trace_mark(tess_trace_site_t *site, tess_trace_payload_t payload);

/* The rank that payloads carry from now on; set by tess_world_open. */
TESS_API void tess_trace_set_rank(int rank);

#ifdef __cplusplus
}
#endif
#endif
