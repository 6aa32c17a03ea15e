/* SPDX-License-Identifier: Apache-2.0 */
/* What all modules share privately: failing with a sentence, options, logging, faults, time,
 * waiting.
 *
 * Nothing here is installed. Names start with tessi_.
 */
#ifndef TESSERA_CORE_INTERNAL_H
#define TESSERA_CORE_INTERNAL_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <tessera/device.h>
#include <tessera/status.h>
#include <tessera/trace.h>

/* Private, but used by another module's library. */
#define TESSI_API TESS_API
#define TESSI_PRINTF(format_at, first_at) __attribute__((format(printf, format_at, first_at)))

/* --- errors (status.c) ------------------------------------------------------------------------ */

/* Goes to the cleanup label when a call failed. Needs `tess_status_t status` in scope. Labels are
 * named for what they undo and stand in reverse order. */
#define TESS_TRY(call, label)                                                                      \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status < 0) goto label;                                                                \
    } while (0)

/* Keeps the sentence for tess_last_error() and returns status. No trailing newline or full stop. */
TESSI_API tess_status_t tessi_fail(tess_status_t status, const char *format, ...)
    TESSI_PRINTF(2, 3);

/* The same with errno's text appended: "cannot open /x: No such file or directory". */
TESSI_API tess_status_t tessi_fail_errno(int error_number, const char *format, ...)
    TESSI_PRINTF(2, 3);

/* How often this thread has failed so far: tells whether a call left a sentence of its own. */
TESSI_API uint64_t tessi_failure_count(void);

/* --- logging (log.c) ----------------------------------------------------------------------------
 */

typedef enum tessi_log_level {
    TESSI_LOG_ERROR = 0,
    TESSI_LOG_INFO = 1,
    TESSI_LOG_DEBUG = 2
} tessi_log_level_t;

/* One line on stderr, "tessera[rank 2]: …", when level <= TESS_VERBOSE. */
TESSI_API void tessi_log(tessi_log_level_t level, const char *format, ...) TESSI_PRINTF(2, 3);
TESSI_API void tessi_log_set_rank(int rank);

/* --- options (option.c) -------------------------------------------------------------------------
 */

/* Every environment variable that Tessera itself reads: X(id, variable, default, help). */
#define TESSI_OPTION_MAP(X)                                                                        \
    X(VERBOSE, "TESS_VERBOSE", "0", "0: errors only, 1: choices made at start, 2: everything")     \
    X(TIMEOUT_MS, "TESS_TIMEOUT_MS", "600000", "deadline of every wait, in milliseconds")          \
    X(HOST_STREAMS, "TESS_HOST_STREAMS", "threads",                                                \
      "threads, or eager: run at once, for debugging")                                             \
    X(TRANSPORT, "TESS_TRANSPORT", "auto", "auto, self, ucx or nccl")                              \
    X(RANK, "TESS_RANK", "", "this process's rank")                                                \
    X(WORLD_SIZE, "TESS_WORLD_SIZE", "", "number of ranks")                                        \
    X(LOCAL_RANK, "TESS_LOCAL_RANK", "", "rank among those on this host")                          \
    X(LOCAL_SIZE, "TESS_LOCAL_SIZE", "", "number of ranks on this host")                           \
    X(ROOT, "TESS_ROOT", "", "host:port where rank 0 listens")                                     \
    X(ROOT_FD, "TESS_ROOT_FD", "", "listening socket inherited by rank 0 (set by --ranks)")        \
    X(UCX_PATH, "TESS_UCX_PATH", "auto", "auto, direct (shared memory) or message (tag messages)") \
    X(FAULT, "TESS_FAULT", "", "point:n, fail the n-th pass of a fault point (tests)")

typedef enum tessi_option {
#define TESSI_OPTION_ENUM(id, variable, initial, help) TESSI_OPTION_##id,
    TESSI_OPTION_MAP(TESSI_OPTION_ENUM)
#undef TESSI_OPTION_ENUM
        TESSI_OPTION_COUNT
} tessi_option_t;

/* The variable's value, or its default. Never NULL. Read from the environment at each call. */
TESSI_API const char *tessi_option(tessi_option_t option);
TESSI_API const char *tessi_option_variable(tessi_option_t option);
TESSI_API const char *tessi_option_help(tessi_option_t option);
TESSI_API int tessi_option_is_set(tessi_option_t option);

/* As an integer within [low, high]; otherwise TESS_ERR_INVALID_ARGUMENT naming variable and value.
 */
TESSI_API TESS_MUST_CHECK tess_status_t tessi_option_int(tessi_option_t option, int64_t low,
                                                         int64_t high, int64_t *value);

/* timeout_ms >= 0 as it is, else TESS_TIMEOUT_MS (its default where that is unreadable). */
TESSI_API int tessi_timeout_or_default(int timeout_ms);

/* --- injected faults (fault.c) -------------------------------------------------------------------
 */

/* 1 when this pass of `point` is to fail: TESS_FAULT="point:n", or tessi_fault_arm. Points in use:
 * "alloc" (host heap), "memory" (tess_memory_allocate, tess_memory_register), "map", "thread",
 * "socket", "ucx", "cuda", "nccl", "copy" (prefetcher), "io", "short" and "slow" (transfers of a
 * store), "bench" (a benchmark's result).
 */
TESSI_API int tessi_fault(const char *point);

/* Tests: the n-th pass (1-based) of `point` fails once; NULL disarms. Returns passes seen since the
 * last arm, so that a test can walk n upwards until nothing failed. */
TESSI_API int tessi_fault_arm(const char *point, int n);

/* --- heap (heap.c)
 * -------------------------------------------------------------------------------- */

/* Zeroed memory; NULL with tess_last_error() set when there is none. Fault point "alloc". */
TESSI_API void *tessi_calloc(size_t count, size_t bytes);
/* The same, aligned to a power of two; not necessarily zeroed. */
TESSI_API void *tessi_aligned_alloc(size_t alignment, size_t bytes);
TESSI_API void tessi_free(void *pointer);

/* --- what limits memory (memory_limits.c)
 * ---------------------------------------------------------------------- */

/* Whether `bytes` more fit into memory. Otherwise TESS_ERR_OUT_OF_MEMORY: "cannot <what>: ..." with
 * what is free, how much is missing, and whether the machine or its control group ends there. To be
 * asked before pages are touched, because the kernel answers too much by killing a process. */
TESSI_API TESS_MUST_CHECK tess_status_t tessi_memory_check(int64_t bytes, const char *what);

/* How many bytes of a range have no page in memory yet. */
TESSI_API int64_t tessi_memory_absent(const void *pointer, int64_t bytes);

/* TESS_ERR_OUT_OF_MEMORY: "cannot <what>: <cause>; ..." with the limit of locked memory, and what
 * to do where `bytes` more do not fit under it. */
TESSI_API tess_status_t tessi_fail_lock(int64_t bytes, const char *what, const char *cause);

/* --- hashes (hash.c)
 * ---------------------------------------------------------------------------------------- */

/* FNV-1a, 64 bits: start with TESSI_HASH_START, or with the hash of what comes before. Not for
 * secrets. */
#define TESSI_HASH_START UINT64_C(0xcbf29ce484222325)
TESSI_API uint64_t tessi_hash(uint64_t seed, const void *data, size_t bytes);

/* --- time and waiting (wait.c)
 * ---------------------------------------------------------------------- */

/* Monotonic nanoseconds. */
TESSI_API int64_t tessi_now_ns(void);

/* now + timeout_ms; INT64_MAX where that would overflow. */
TESSI_API int64_t tessi_deadline_ns(int timeout_ms);

/* Polling politely: spins a little, then yields the core, then sleeps 50 us at a time once 2 ms
 * have gone by, so that ranks that outnumber cores do not starve one another. */
typedef struct tessi_backoff {
    int64_t first_ns;
    int polls;
} tessi_backoff_t;
#define TESSI_BACKOFF_START                                                                        \
    {                                                                                              \
        0, 0                                                                                       \
    }
TESSI_API void tessi_backoff_pause(tessi_backoff_t *backoff);

/* --- streams (device_host.c, device.c)
 * --------------------------------------------------------------- */

/* Host streams only: queues function with a copy of its argument (at most
 * TESSI_STREAM_ARGUMENT_BYTES), without allocating. */
#define TESSI_STREAM_ARGUMENT_BYTES 192
TESSI_API TESS_MUST_CHECK tess_status_t tessi_stream_push(tess_stream_t *stream,
                                                          tess_stream_function_t function,
                                                          const void *argument,
                                                          size_t argument_bytes);

/* The same, but run also after the stream has failed: for work that others wait for. */
TESSI_API TESS_MUST_CHECK tess_status_t tessi_stream_push_always(tess_stream_t *stream,
                                                                 tess_stream_function_t function,
                                                                 const void *argument,
                                                                 size_t argument_bytes);

/* TESS_OK, or the stream's error with its sentence in tess_last_error(); any thread. */
TESSI_API tess_status_t tessi_stream_fault(const tess_stream_t *stream);

/* Makes `status` the stream's error unless it has one; any thread. */
TESSI_API void tessi_stream_fail(tess_stream_t *stream, tess_status_t status, const char *detail);

/* The CUDA ordinal of a device; 0 on the host. */
TESSI_API int tessi_device_index(const tess_device_t *device);

/* Where a pointer lives as far as CUDA knows: 1 device memory, 0 anything else or no CUDA here. */
TESSI_API int tessi_pointer_is_device(const void *pointer);

/* --- the current CUDA device (cuda_base.c) ---------------------------------------------------- */

/* Makes `index` the thread's current device; gives what tessi_cuda_leave goes back to. A device
 * without a context is not gone back to, because that would create one. Without CUDA: nothing. */
TESSI_API int tessi_cuda_enter(int index);
TESSI_API void tessi_cuda_leave(const int *previous);

/* From here to the end of the block CUDA calls act on device `index`. */
#define TESSI_ON_DEVICE(index)                                                                     \
    __attribute__((cleanup(tessi_cuda_leave), unused)) const int tessi_previous =                  \
        tessi_cuda_enter(index)

/* --- trace ranges
 * ------------------------------------------------------------------------------------ */

static inline void tessi_trace_scope_end(const int *unused)
{
    (void)unused;
    tess_trace_pop();
}

/* A range from here to the end of the enclosing block, every return included. */
#define TESSI_TRACE_SCOPE(category, range_name, range_bytes, range_index)                          \
    static tess_trace_site_t tessi_site = TESS_TRACE_SITE(category, range_name);                   \
    tess_trace_push(&tessi_site, (tess_trace_payload_t){(range_bytes), (range_index)});            \
    __attribute__((cleanup(tessi_trace_scope_end), unused)) const int tessi_scope = 0

#endif
