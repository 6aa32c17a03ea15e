/* SPDX-License-Identifier: Apache-2.0 */
/* Dense matrix products on a stream: the compute that communication is measured beside.
 *
 * bf16 with fp32 sums through cuBLAS on CUDA; fp32 on the host, through CBLAS or an own blocked
 * loop where no BLAS was found. The factors are filled once, with values that keep every bit of the
 * multipliers busy: zeros would run faster than real data.
 */
#ifndef TESSERA_BENCH_GEMM_H
#define TESSERA_BENCH_GEMM_H

#include <tessera/device.h>

#include "bench_options.h"

typedef struct gemm gemm_t;
typedef struct gemm_ops gemm_ops_t;

/* `ranks_here` share this machine's CPUs: on the host a rank leaves one of its CPUs to
 * communication. */
tess_status_t gemm_create(tess_device_t *device, bench_gemm_t shape, int ranks_here, gemm_t **gemm);
void gemm_destroy(gemm_t *gemm);

/* Queues one product. Nothing is allocated. */
tess_status_t gemm_queue(gemm_t *gemm, tess_stream_t *stream);

/* Floating point operations of one product. */
double gemm_flops(const gemm_t *gemm);

/* "cuBLAS 13.1, bf16, 8192 x 8192 x 8192". */
const char *gemm_description(const gemm_t *gemm);

/* --- behind it ------------------------------------------------------------------------------- */

struct gemm {
    const gemm_ops_t *ops;
    tess_device_t *device;
    bench_gemm_t shape;
    int threads;      /* host */
    void *a, *b, *c;  /* (m, k), (k, n), (m, n), row by row */
    void *context;    /* the implementation's */
    char library[64]; /* set by open */
    char description[128];
};

struct gemm_ops {
    tess_dtype_t dtype;
    tess_status_t (*open)(gemm_t *gemm);
    void (*close)(gemm_t *gemm);
    tess_status_t (*queue)(gemm_t *gemm, tess_stream_t *stream);
};

/* gemm_cblas.c or gemm_plain.c; gemm_cuda.c or gemm_cuda_none.c. */
extern const gemm_ops_t gemm_ops_host;
extern const gemm_ops_t gemm_ops_cuda;

#endif
