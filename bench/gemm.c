/* SPDX-License-Identifier: Apache-2.0 */
/* Memory and life of a matrix product; the product itself is the implementation's. */
#include "gemm.h"

#include <sched.h>
#include <stdio.h>

#include "core/internal.h"
#include "pattern.h"

/* CPUs of this rank without the one that moves bytes. */
static int thread_count(int ranks_here)
{
    cpu_set_t cpus;
    int count = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
    int threads = count / (ranks_here > 0 ? ranks_here : 1) - 1;
    return threads < 1 ? 1 : threads;
}

static tess_status_t fill(gemm_t *gemm, tess_stream_t *stream, int64_t count, uint64_t seed,
                          void **matrix)
{
    tess_dtype_t dtype = gemm->ops->dtype;
    tess_status_t status = tess_memory_allocate(gemm->device, TESS_MEMORY_DEVICE,
                                                count * tess_dtype_bytes(dtype), matrix);
    if (status < 0) return status;
    pattern_t pattern = pattern_for_move(dtype, seed);
    pattern_range_t range = {.rank_count = 1, .count = count};
    return pattern_fill(&pattern, &range, *matrix, stream);
}

static tess_status_t fill_all(gemm_t *gemm)
{
    tess_stream_t *stream = NULL;
    bench_gemm_t s = gemm->shape;
    tess_status_t status = tess_stream_create(gemm->device, TESS_PRIORITY_NORMAL, &stream);
    if (status < 0) return status;
    status = fill(gemm, stream, s.m * s.k, 11, &gemm->a);
    if (status >= 0) status = fill(gemm, stream, s.k * s.n, 12, &gemm->b);
    if (status >= 0) status = fill(gemm, stream, s.m * s.n, 13, &gemm->c);
    tess_stream_destroy(stream);
    return status;
}

tess_status_t gemm_create(tess_device_t *device, bench_gemm_t shape, int ranks_here,
                          gemm_t **result)
{
    gemm_t *gemm = tessi_calloc(1, sizeof *gemm);
    if (!gemm) return TESS_ERR_OUT_OF_MEMORY;
    gemm->ops = tess_device_kind(device) == TESS_DEVICE_CUDA ? &gemm_ops_cuda : &gemm_ops_host;
    gemm->device = device;
    gemm->shape = shape;
    gemm->threads = thread_count(ranks_here);
    tess_status_t status = gemm->ops->open(gemm);
    if (status < 0) {
        tessi_free(gemm);
        return status;
    }
    status = fill_all(gemm);
    if (status < 0) {
        gemm_destroy(gemm);
        return status;
    }
    snprintf(gemm->description, sizeof gemm->description, "%s, %s, %lld x %lld x %lld",
             gemm->library, tess_dtype_name(gemm->ops->dtype), (long long)shape.m,
             (long long)shape.n, (long long)shape.k);
    *result = gemm;
    return TESS_OK;
}

void gemm_destroy(gemm_t *gemm)
{
    if (!gemm) return;
    gemm->ops->close(gemm);
    tess_memory_free(gemm->device, TESS_MEMORY_DEVICE, gemm->a);
    tess_memory_free(gemm->device, TESS_MEMORY_DEVICE, gemm->b);
    tess_memory_free(gemm->device, TESS_MEMORY_DEVICE, gemm->c);
    tessi_free(gemm);
}

tess_status_t gemm_queue(gemm_t *gemm, tess_stream_t *stream)
{
    return gemm->ops->queue(gemm, stream);
}

double gemm_flops(const gemm_t *gemm)
{
    return 2.0 * (double)gemm->shape.m * (double)gemm->shape.n * (double)gemm->shape.k;
}

const char *gemm_description(const gemm_t *gemm)
{
    return gemm->description;
}
