/* SPDX-License-Identifier: Apache-2.0 */
/* Status codes that every Tessera call returns, and the sentence that explains the last failure.
 *
 * Threads: everything here may be called from any thread; tess_last_error() is kept per thread.
 */
#ifndef TESSERA_STATUS_H
#define TESSERA_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TESS_API __attribute__((visibility("default")))
#define TESS_MUST_CHECK __attribute__((warn_unused_result))
#else
#define TESS_API
#define TESS_MUST_CHECK
#endif

/* X(name, value, message): zero is success, positive informs, negative failed. */
#define TESS_STATUS_MAP(X)                                                                         \
    X(OK, 0, "success")                                                                            \
    X(NOT_READY, 1, "not finished yet")                                                            \
    X(ERR_INVALID_ARGUMENT, -1, "invalid argument")                                                \
    X(ERR_OUT_OF_MEMORY, -2, "out of memory")                                                      \
    X(ERR_UNSUPPORTED, -3, "not supported here")                                                   \
    X(ERR_NOT_FOUND, -4, "not found")                                                              \
    X(ERR_STATE, -5, "call out of order")                                                          \
    X(ERR_TIMEOUT, -6, "deadline passed")                                                          \
    X(ERR_PEER_LOST, -7, "a peer died or left")                                                    \
    X(ERR_MISMATCH, -8, "ranks disagree")                                                          \
    X(ERR_ABORTED, -9, "stopped by an earlier error")                                              \
    X(ERR_SYSTEM, -10, "operating system error")                                                   \
    X(ERR_CUDA, -11, "CUDA error")                                                                 \
    X(ERR_NCCL, -12, "NCCL error")                                                                 \
    X(ERR_UCX, -13, "UCX error")

typedef enum tess_status {
#define TESS_STATUS_ENUM(name, value, message) TESS_##name = (value),
    TESS_STATUS_MAP(TESS_STATUS_ENUM)
#undef TESS_STATUS_ENUM
} tess_status_t;

/* "TESS_ERR_TIMEOUT"; a value that is no status gives "TESS_ERR_UNKNOWN". Never NULL. */
TESS_API const char *tess_status_name(tess_status_t status);

/* "deadline passed". Never NULL. */
TESS_API const char *tess_status_message(tess_status_t status);

/* One sentence about the last failed call on this thread: what was asked, what went wrong, and what
 * to do where that is known. "" when nothing failed yet. Valid until this thread's next failure. */
TESS_API const char *tess_last_error(void);

#ifdef __cplusplus
}
#endif
#endif
