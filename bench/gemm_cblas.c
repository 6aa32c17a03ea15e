/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products on the host through CBLAS, run by the stream's own thread. */
#include <cblas.h>
#include <stdio.h>

#include "core/internal.h"
#include "gemm.h"

/* OpenBLAS takes its number of threads through calls that other libraries do not have. */
extern void openblas_set_num_threads(int) __attribute__((weak));
extern char *openblas_get_corename(void) __attribute__((weak));

static tess_status_t cblas_open(gemm_t *gemm)
{
    if (!openblas_set_num_threads) {
        snprintf(gemm->library, sizeof gemm->library, "CBLAS");
        return TESS_OK;
    }
    openblas_set_num_threads(gemm->threads);
    snprintf(gemm->library, sizeof gemm->library, "OpenBLAS %s on %d thread%s",
             openblas_get_corename ? openblas_get_corename() : "", gemm->threads,
             gemm->threads > 1 ? "s" : "");
    return TESS_OK;
}

static void cblas_close(gemm_t *gemm)
{
    (void)gemm;
}

static tess_status_t multiply(void *argument)
{
    const gemm_t *gemm = argument;
    int m = (int)gemm->shape.m, n = (int)gemm->shape.n, k = (int)gemm->shape.k;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, 1, gemm->a, k, gemm->b, n, 0,
                gemm->c, n);
    return TESS_OK;
}

static tess_status_t cblas_queue(gemm_t *gemm, tess_stream_t *stream)
{
    return tess_stream_call(stream, multiply, gemm);
}

const gemm_ops_t gemm_ops_host = {
    .dtype = TESS_DTYPE_FP32,
    .open = cblas_open,
    .close = cblas_close,
    .queue = cblas_queue,
};
