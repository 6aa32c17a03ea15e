/* SPDX-License-Identifier: Apache-2.0 */
/* Chooses the values of a pattern, and the twin that works on the stream's device.
 *
 * Invariant: |sum over all ranks| <= 256, the largest integer up to which bf16 holds every integer.
 */
#include "pattern.h"

#include "core/internal.h"

#define EXACT_MAX 256

pattern_t pattern_for_move(tess_dtype_t dtype, uint64_t seed)
{
    return (pattern_t){
        .dtype = dtype, .seed = seed, .value_max = 127, .unit = 1, .stride = 1, .divisor = 1};
}

/* Half a unit in the last place, relative. */
static float rounding_of(tess_dtype_t dtype)
{
    if (dtype == TESS_DTYPE_BF16) return 0x1p-8f;
    return dtype == TESS_DTYPE_FP16 ? 0x1p-11f : 0x1p-24f;
}

tess_status_t pattern_for_sum(tess_dtype_t dtype, uint64_t seed, int ranks,
                              tess_reduction_t reduction, pattern_t *pattern)
{
    int average = reduction == TESS_AVERAGE;
    if (dtype == TESS_DTYPE_BYTE)
        return tessi_fail(TESS_ERR_UNSUPPORTED,
                          "bytes cannot be summed; choose bf16, fp16 or fp32");
    if (average && ranks > EXACT_MAX)
        return tessi_fail(TESS_ERR_UNSUPPORTED,
                          "an average over %d ranks has no exact inputs (at most %d); use -c 0",
                          ranks, EXACT_MAX);
    pattern_t result = pattern_for_move(dtype, seed);
    result.unit = average ? ranks : 1;
    result.divisor = average ? ranks : 1;
    int32_t units = EXACT_MAX / result.unit; /* what all contributors together may reach */
    result.value_max = units / ranks;
    if (result.value_max < 1) {
        result.value_max = 1;
        result.stride = (ranks + units - 1) / units;
    }
    /* Where 1/n is no power of two, a transport may multiply every input by a rounded 1/n. Each of
     * the n terms is then off by two roundings, each of the n - 1 additions by one, and no partial
     * sum exceeds n * value_max. */
    if (average && (ranks & (ranks - 1)) != 0)
        result.difference_max =
            rounding_of(dtype) * (float)(ranks + 1) * (float)(ranks * result.value_max);
    *pattern = result;
    return TESS_OK;
}

static tess_status_t fail_cuda(int error, const char *what)
{
    return tessi_fail(TESS_ERR_CUDA, "cannot %s on the device: %s", what,
                      pattern_cuda_error(error));
}

static tess_status_t index_of(tess_stream_t *stream, int *index)
{
    tess_device_properties_t properties;
    tess_status_t status = tess_device_properties(tess_stream_device(stream), &properties);
    if (status == TESS_OK) *index = properties.index;
    return status;
}

tess_status_t pattern_fill(const pattern_t *pattern, const pattern_range_t *range, void *data,
                           tess_stream_t *stream)
{
    tess_status_t status = tess_stream_synchronize(stream, -1);
    if (status < 0) return status;
    if (tess_device_kind(tess_stream_device(stream)) == TESS_DEVICE_HOST) {
        pattern_fill_host(pattern, range, data);
        return TESS_OK;
    }
    int index = 0;
    status = index_of(stream, &index);
    if (status < 0) return status;
    int error = pattern_fill_cuda(pattern, range, data, index, tess_stream_native(stream));
    if (error) return fail_cuda(error, "fill a pattern");
    return tess_stream_synchronize(stream, -1);
}

static tess_status_t check_on_device(const pattern_t *pattern, const pattern_range_t *range,
                                     const void *data, tess_stream_t *stream, int64_t *wrong)
{
    tess_device_t *device = tess_stream_device(stream);
    tess_status_t status;
    void *counter = NULL, *result = NULL;
    int index = 0;
    TESS_TRY(index_of(stream, &index), done);
    TESS_TRY(tess_memory_allocate(device, TESS_MEMORY_DEVICE, sizeof(int64_t), &counter), done);
    TESS_TRY(tess_memory_allocate(device, TESS_MEMORY_PINNED, sizeof(int64_t), &result),
             free_counter);
    TESS_TRY(tess_stream_fill(stream, counter, 0, sizeof(int64_t)), free_result);
    int error =
        pattern_check_cuda(pattern, range, data, counter, index, tess_stream_native(stream));
    if (error) {
        status = fail_cuda(error, "check a pattern");
        goto free_result;
    }
    TESS_TRY(tess_stream_copy(stream, result, counter, sizeof(int64_t)), free_result);
    TESS_TRY(tess_stream_synchronize(stream, -1), free_result);
    *wrong = *(const int64_t *)result;
free_result:
    tess_memory_free(device, TESS_MEMORY_PINNED, result);
free_counter:
    tess_memory_free(device, TESS_MEMORY_DEVICE, counter);
done:
    return status;
}

tess_status_t pattern_check(const pattern_t *pattern, const pattern_range_t *range,
                            const void *data, tess_stream_t *stream, int64_t *wrong)
{
    if (tess_device_kind(tess_stream_device(stream)) == TESS_DEVICE_CUDA)
        return check_on_device(pattern, range, data, stream, wrong);
    tess_status_t status = tess_stream_synchronize(stream, -1);
    if (status < 0) return status;
    *wrong = pattern_check_host(pattern, range, data);
    return TESS_OK;
}
