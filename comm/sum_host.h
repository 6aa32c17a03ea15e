/* SPDX-License-Identifier: Apache-2.0 */
/* The twins behind tessi_sum_host: one source (sum_host_loops.h), built for several processors. */
#ifndef TESSERA_COMM_SUM_HOST_H
#define TESSERA_COMM_SUM_HOST_H

#include <stdint.h>
#include <tessera/dtype.h>

typedef void (*tessi_sum_function_t)(tess_dtype_t dtype, void *destination,
                                     const void *const *sources, int source_count, int64_t count,
                                     float scale);

typedef struct tessi_sum_twin {
    const char *name;    /* "base", "avx2", "avx512" */
    int (*usable)(void); /* on this processor */
    tessi_sum_function_t sum;
} tessi_sum_twin_t;

/* Slowest first; NULL at the end. sum_host_x86.c or sum_host_portable.c. */
extern const tessi_sum_twin_t *const tessi_sum_twins[];

/* sum_host_base.c, sum_host_avx2.c, sum_host_avx512.c */
void tessi_sum_base(tess_dtype_t dtype, void *destination, const void *const *sources,
                    int source_count, int64_t count, float scale);
void tessi_sum_avx2(tess_dtype_t dtype, void *destination, const void *const *sources,
                    int source_count, int64_t count, float scale);
void tessi_sum_avx512(tess_dtype_t dtype, void *destination, const void *const *sources,
                      int source_count, int64_t count, float scale);

#endif
