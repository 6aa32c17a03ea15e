/* SPDX-License-Identifier: Apache-2.0 */
#include "comm_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const rig_paths[] = {"direct", "message", "tcp", NULL};

void rig_choose_path(const char *path)
{
    unsetenv("UCX_TLS");
    unsetenv("UCX_NET_DEVICES");
    setenv("TESS_UCX_PATH", strcmp(path, "tcp") == 0 ? "message" : path, 1);
    if (strcmp(path, "tcp") != 0) return;
    setenv("UCX_TLS", "tcp,self", 1);
    setenv("UCX_NET_DEVICES", "lo", 1);
}

void rig_open_world(comm_rig_t *rig, int rank, int world_timeout_ms)
{
    memset(rig, 0, sizeof *rig);
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    config.timeout_ms = world_timeout_ms;
    RANK_OK(tess_world_open(&config, &rig->world));
    RANK_OK(tess_device_open(test_device_name(rank), &rig->device));
    RANK_OK(tess_stream_create(rig->device, TESS_PRIORITY_NORMAL, &rig->stream));
    RANK_OK(tess_memory_allocate(rig->device, TESS_MEMORY_DEVICE, RIG_BYTES, &rig->send));
    RANK_OK(tess_memory_allocate(rig->device, TESS_MEMORY_DEVICE, RIG_BYTES, &rig->recv));
    RANK_OK(tess_stream_fill(rig->stream, rig->send, rank, RIG_BYTES));
    RANK_OK(tess_stream_synchronize(rig->stream, -1));
    rig->rank = rank;
    rig->size = tess_world_size(rig->world);
}

void rig_open(comm_rig_t *rig, int rank, int timeout_ms)
{
    rig_open_world(rig, rank, RIG_OPEN_TIMEOUT_MS);
    tess_comm_config_t config = {.name = "rig", .timeout_ms = timeout_ms};
    if (strcmp(test_device_kind(), "host") == 0) config.transport = "ucx";
    RANK_OK(tess_comm_open(rig->world, rig->device, &config, &rig->comm));
}

void rig_close(comm_rig_t *rig)
{
    tess_comm_close(rig->comm);
    tess_stream_destroy(rig->stream);
    tess_memory_free(rig->device, TESS_MEMORY_DEVICE, rig->send);
    tess_memory_free(rig->device, TESS_MEMORY_DEVICE, rig->recv);
    tess_device_close(rig->device);
    tess_world_close(rig->world);
}

tess_status_t rig_all_gather(comm_rig_t *rig, int64_t count)
{
    tess_collective_t arguments = {
        .send = rig->send, .recv = rig->recv, .count = count, .dtype = TESS_DTYPE_BF16};
    return tess_comm_all_gather(rig->comm, &arguments, rig->stream);
}

void rig_check_error_names(const char *part)
{
    if (strstr(tess_last_error(), part)) return;
    fprintf(stderr, "[rank %s] \"%s\" does not name \"%s\"\n", getenv("TESS_RANK"),
            tess_last_error(), part);
    _exit(1);
}

void rig_run(int ranks, test_rank_body_t body, void *argument, int timeout_ms)
{
    int codes[8];
    int failed = test_ranks(ranks, body, argument, timeout_ms, codes);
    for (int r = 0; failed && r < ranks; r++)
        if (codes[r] != 0) print_error("rank %d ended with %d\n", r, codes[r]);
    if (failed) fail_msg("%d of %d ranks failed", failed, ranks);
}
