/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products on the host without a BLAS: a loop over blocks that stay in the cache, run by the
 * stream's own thread. Several times slower than a BLAS, but compute all the same.
 */
#include <stdio.h>
#include <string.h>

#include "core/internal.h"
#include "gemm.h"

#define BLOCK 128

static tess_status_t plain_open(gemm_t *gemm)
{
    gemm->threads = 1;
    snprintf(gemm->library, sizeof gemm->library, "blocked loop on 1 thread (no BLAS)");
    return TESS_OK;
}

static void plain_close(gemm_t *gemm)
{
    (void)gemm;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* c[m][j] += a[m][k] * b[k][j] over one block of k and j; the inner loop is a vector's. */
static void multiply_block(const gemm_t *gemm, int64_t k_first, int64_t n_first)
{
    const float *a = gemm->a, *b = gemm->b;
    float *c = gemm->c;
    int64_t n = gemm->shape.n, k = gemm->shape.k;
    int64_t k_end = smaller(k_first + BLOCK, k), n_end = smaller(n_first + BLOCK, n);
    for (int64_t i = 0; i < gemm->shape.m; i++)
        for (int64_t p = k_first; p < k_end; p++) {
            float factor = a[i * k + p];
            for (int64_t j = n_first; j < n_end; j++) c[i * n + j] += factor * b[p * n + j];
        }
}

static tess_status_t multiply(void *argument)
{
    const gemm_t *gemm = argument;
    memset(gemm->c, 0, sizeof(float) * (size_t)(gemm->shape.m * gemm->shape.n));
    for (int64_t p = 0; p < gemm->shape.k; p += BLOCK)
        for (int64_t j = 0; j < gemm->shape.n; j += BLOCK) multiply_block(gemm, p, j);
    return TESS_OK;
}

static tess_status_t plain_queue(gemm_t *gemm, tess_stream_t *stream)
{
    return tess_stream_call(stream, multiply, gemm);
}

const gemm_ops_t gemm_ops_host = {
    .dtype = TESS_DTYPE_FP32,
    .open = plain_open,
    .close = plain_close,
    .queue = plain_queue,
};
