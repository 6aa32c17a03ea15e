/* SPDX-License-Identifier: Apache-2.0 */
/* The world: which rank this process is, and how ranks find and watch one another.
 *
 * tess_world_open takes rank and size from the config, else from TESS_* variables, else from
 * torchrun, DeepSpeed, Open MPI, MPICH or Slurm, and meets the other ranks over TCP. A control
 * thread then keeps one connection to rank 0; through it small messages are exchanged at set-up,
 * and the death of any rank is told to all others at once.
 *
 * Threads: a world may be used from any thread. Communicators must be closed before their world.
 */
#ifndef TESSERA_WORLD_H
#define TESSERA_WORLD_H

#include <stdint.h>
#include <tessera/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tess_world tess_world_t;

/* Fields left at their default are filled from the environment. */
typedef struct tess_world_config {
    int rank;         /* -1: from the environment */
    int size;         /* -1: from the environment; 1 where no launcher is seen */
    int local_rank;   /* -1: from the environment, else derived from host names */
    int local_size;   /* -1: likewise */
    const char *root; /* "host:port" where rank 0 listens; NULL: TESS_ROOT, else MASTER_ADDR with
                         the port after MASTER_PORT (which torchrun itself uses), else what Slurm,
                         or Open MPI or MPICH on one host, let all ranks derive alike */
    int timeout_ms; /* 0: TESS_TIMEOUT_MS, default 10 minutes. Also the default of communicators */
} tess_world_config_t;

#define TESS_WORLD_CONFIG_DEFAULT                                                                  \
    {                                                                                              \
        -1, -1, -1, -1, 0, 0                                                                       \
    }

/* Meets all ranks. Errors: TESS_ERR_INVALID_ARGUMENT for contradictions (a launcher says 4 ranks
 * and the config says 1; a rank outside the world), TESS_ERR_TIMEOUT naming the missing ranks,
 * TESS_ERR_MISMATCH when ranks disagree on the size or two claim one rank. */
TESS_API TESS_MUST_CHECK tess_status_t tess_world_open(const tess_world_config_t *config,
                                                       tess_world_t **world);

/* Tells the others that this rank leaves on purpose, and frees. Does not wait for them, except
 * that rank 0 stays until every rank has left or the timeout has passed. NULL is legal. */
TESS_API void tess_world_close(tess_world_t *world);

TESS_API int tess_world_rank(const tess_world_t *world);
TESS_API int tess_world_size(const tess_world_t *world);
TESS_API int tess_world_local_rank(const tess_world_t *world);
TESS_API int tess_world_local_size(const tess_world_t *world);
TESS_API int tess_world_timeout_ms(const tess_world_t *world);

/* Where rank and size came from: "flags", "TESS_RANK", "torchrun", "Open MPI", "single process"… */
TESS_API const char *tess_world_source(const tess_world_t *world);

/* Host name and process id of any rank. NULL and -1 for a rank outside the world. */
TESS_API const char *tess_world_host(const tess_world_t *world, int rank);
TESS_API int tess_world_pid(const tess_world_t *world, int rank);

/* TESS_OK, or TESS_ERR_PEER_LOST with the lost rank named in tess_last_error(). Sticky. */
TESS_API TESS_MUST_CHECK tess_status_t tess_world_status(tess_world_t *world);

/* Blocks until every rank of the world has called it, at most timeout_ms (< 0: the world's). */
TESS_API TESS_MUST_CHECK tess_status_t tess_world_barrier(tess_world_t *world, int timeout_ms);

#ifdef __cplusplus
}
#endif
#endif
