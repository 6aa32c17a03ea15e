/* SPDX-License-Identifier: Apache-2.0 */
/* Starts local ranks from inside a program, so that one machine needs no launcher.
 *
 * Call it first thing in main, before CUDA, threads or a world exist: the children are forks.
 */
#ifndef TESSERA_LAUNCH_H
#define TESSERA_LAUNCH_H

#include <tessera/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tess_launch_role {
    TESS_LAUNCH_RANK = 0,  /* this process is a rank: go on */
    TESS_LAUNCH_PARENT = 1 /* all ranks have ended: return exit_code from main */
} tess_launch_role_t;

/* Starts `ranks` copies of this process, each with TESS_RANK, TESS_WORLD_SIZE, TESS_LOCAL_RANK,
 * TESS_LOCAL_SIZE and TESS_ROOT set. In a child *role is TESS_LAUNCH_RANK. The parent waits; when a
 * rank fails, the others get a few seconds to report, are ended (SIGTERM, then SIGKILL), and
 * *exit_code is that of the rank that failed first (128 + signal where one ended it). SIGINT or
 * SIGTERM to the parent goes on to the ranks, which get the same few seconds; a second one ends
 * them at once. When the parent itself dies the children are ended by the kernel. Nothing is left
 * behind.
 *
 * ranks == 1 starts nothing and gives TESS_LAUNCH_RANK. TESS_ERR_INVALID_ARGUMENT when a launcher
 * already started this process as one of several ranks. */
TESS_API TESS_MUST_CHECK tess_status_t tess_launch_local(int ranks, tess_launch_role_t *role,
                                                         int *exit_code);

/* 1 when the environment holds rank variables of a launcher with more than one rank (or our own).
 */
TESS_API int tess_launch_detected(void);

/* Number of CUDA devices, counted in a short-lived child so that this process can still fork. */
TESS_API int tess_launch_cuda_devices(void);

#ifdef __cplusplus
}
#endif
#endif
