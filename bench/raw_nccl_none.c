/* SPDX-License-Identifier: Apache-2.0 */
/* Stands where raw_nccl.c would in a build without NCCL: says so, and opens nothing. */
#include "raw_nccl.h"

#include "core/internal.h"

const char *raw_nccl_missing(void)
{
    return "this program was built without NCCL";
}

static tess_status_t missing(void)
{
    return tessi_fail(TESS_ERR_UNSUPPORTED, "raw NCCL: %s", raw_nccl_missing());
}

tess_status_t raw_nccl_open(tess_world_t *world, tess_device_t *device, const char *key,
                            int timeout_ms, raw_nccl_t **raw)
{
    (void)world, (void)device, (void)key, (void)timeout_ms, (void)raw;
    return missing();
}

void raw_nccl_abort(raw_nccl_t *raw)
{
    (void)raw;
}

void raw_nccl_close(raw_nccl_t *raw)
{
    (void)raw;
}

tess_status_t raw_nccl_all_gather(raw_nccl_t *raw, const tess_collective_t *arguments,
                                  tess_stream_t *stream)
{
    (void)raw, (void)arguments, (void)stream;
    return missing();
}

tess_status_t raw_nccl_reduce_scatter(raw_nccl_t *raw, const tess_collective_t *arguments,
                                      tess_stream_t *stream)
{
    (void)raw, (void)arguments, (void)stream;
    return missing();
}

tess_status_t raw_nccl_barrier(raw_nccl_t *raw, tess_stream_t *stream)
{
    (void)raw, (void)stream;
    return missing();
}

const char *raw_nccl_version(void)
{
    return "";
}
