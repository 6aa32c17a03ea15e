/* SPDX-License-Identifier: Apache-2.0 */
/* Inputs whose sums are exact: small integers that every rank can compute for every other rank.
 *
 * Element i of rank r is an integer that depends on nothing but (seed, r, i), and is so small that
 * all partial sums over the ranks are exact in bf16, fp16 and fp32, in any order. So a result can
 * be compared bit by bit, whatever the transport. The CUDA and the host twin compute the same.
 */
#ifndef TESSERA_BENCH_PATTERN_H
#define TESSERA_BENCH_PATTERN_H

#include <stdint.h>
#include <tessera/comm.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pattern {
    tess_dtype_t dtype;
    uint64_t seed;
    int32_t value_max;    /* values lie in -value_max … value_max, times unit */
    int32_t unit;         /* all values are multiples, so that an average is an integer too */
    int32_t stride;       /* only every stride-th rank contributes to an element */
    int32_t divisor;      /* sums are divided by this: the number of ranks for an average, else 1 */
    float difference_max; /* 0: results must be equal bit by bit */
} pattern_t;

/* Elements index_first … index_first + count - 1, summed over rank_count ranks from rank_first. */
typedef struct pattern_range {
    int32_t rank_first, rank_count;
    int64_t index_first, count;
} pattern_range_t;

/* For data that is moved and not summed. */
pattern_t pattern_for_move(tess_dtype_t dtype, uint64_t seed);

/* For sums (averages) over `ranks` ranks. TESS_ERR_UNSUPPORTED where no exact input exists: bytes,
 * and averages over more than 256 ranks. */
tess_status_t pattern_for_sum(tess_dtype_t dtype, uint64_t seed, int ranks,
                              tess_reduction_t reduction, pattern_t *pattern);

/* Writes rank range->rank_first's elements to data. Done when it returns. */
tess_status_t pattern_fill(const pattern_t *pattern, const pattern_range_t *range, void *data,
                           tess_stream_t *stream);

/* Counts the elements of data that are not the expected sum. Every element is looked at. */
tess_status_t pattern_check(const pattern_t *pattern, const pattern_range_t *range,
                            const void *data, tess_stream_t *stream, int64_t *wrong);

/* Twins: the host's run at once; the CUDA ones queue on a cudaStream_t of `device_index` and give a
 * cudaError_t. wrong is device memory and is added to. */
void pattern_fill_host(const pattern_t *pattern, const pattern_range_t *range, void *data);
int64_t pattern_check_host(const pattern_t *pattern, const pattern_range_t *range,
                           const void *data);
int pattern_fill_cuda(const pattern_t *pattern, const pattern_range_t *range, void *data,
                      int device_index, void *cuda_stream);
int pattern_check_cuda(const pattern_t *pattern, const pattern_range_t *range, const void *data,
                       int64_t *wrong, int device_index, void *cuda_stream);
const char *pattern_cuda_error(int error);

#ifdef __cplusplus
}
#endif
#endif
