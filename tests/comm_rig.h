/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of communicators share: a rank's world, device, stream and communicator, and
 * checks of sentences. Used inside ranks, hence RANK_CHECK and not cmocka's asserts.
 */
#ifndef TESSERA_TESTS_COMM_RIG_H
#define TESSERA_TESTS_COMM_RIG_H

#include "harness.h"

typedef struct comm_rig {
    tess_world_t *world;
    tess_device_t *device;
    tess_stream_t *stream;
    tess_comm_t *comm;
    int rank, size;
    void *send, *recv; /* (RIG_BYTES) device memory */
} comm_rig_t;

#define RIG_BYTES ((int64_t)1 << 20)
/* Generous: the machine may be busy with other tests. */
#define RIG_OPEN_TIMEOUT_MS 30000

/* World, device and stream; no communicator yet. */
void rig_open_world(comm_rig_t *rig, int rank, int world_timeout_ms);

/* All of it, with a communicator of all ranks named "rig". timeout_ms is that of its operations. */
void rig_open(comm_rig_t *rig, int rank, int timeout_ms);
void rig_close(comm_rig_t *rig);

/* An all-gather of `count` bf16 elements per rank between send and recv. */
tess_status_t rig_all_gather(comm_rig_t *rig, int64_t count);

/* The rank dies with a message unless tess_last_error() holds `part`. */
void rig_check_error_names(const char *part);

/* Path or transports for the ranks of the next test_ranks: "direct", "message" or "tcp". */
void rig_choose_path(const char *path);

/* The ways that host bytes can travel; NULL at the end. */
extern const char *const rig_paths[];

/* Forks ranks, and fails the test unless all of them end with 0. */
void rig_run(int ranks, test_rank_body_t body, void *argument, int timeout_ms);

#endif
