/* SPDX-License-Identifier: Apache-2.0 */
/* Gradient statistics' public functions: they check, trace, and hand on to the back end.
 *
 * Invariant: every slot always holds a sum, that of its last piece or zero, so that combining needs
 * to know nothing about which pieces came.
 */
#include <inttypes.h>

#include "optim_internal.h"

static tess_status_t clear_slots(tess_gradient_t *gradient)
{
    tess_status_t status;
    tess_stream_t *stream = NULL;
    int64_t bytes = gradient->slot_count * (int64_t)sizeof *gradient->slots;
    TESS_TRY(tess_stream_create(gradient->device, TESS_PRIORITY_NORMAL, &stream), err);
    TESS_TRY(tess_stream_fill(stream, gradient->slots, 0, bytes), err_destroy);
    TESS_TRY(tess_stream_synchronize(stream, -1), err_destroy);

err_destroy:
    tess_stream_destroy(stream);
err:
    return status;
}

tess_status_t tess_gradient_create(tess_device_t *device, int64_t slot_count,
                                   tess_gradient_t **gradient)
{
    if (!device || !gradient)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_gradient_create: %s is NULL",
                          device ? "gradient" : "device");
    const int64_t slot_bytes = sizeof(tessi_gradient_slot_t);
    if (slot_count < 1 || slot_count > INT64_MAX / slot_bytes)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_gradient_create: slot_count is %" PRId64
                          ", but must be at least 1 and leave %" PRId64 " bytes for each",
                          slot_count, slot_bytes);
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "gradient_create", slot_count * slot_bytes, -1);
    tess_status_t status;
    tess_gradient_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    made->device = device;
    made->slot_count = slot_count;
    void *memory = NULL;
    TESS_TRY(tessi_optim_ops(device, &made->ops), err_destroy);
    TESS_TRY(tess_memory_allocate(device, TESS_MEMORY_DEVICE, slot_count * slot_bytes, &memory),
             err_destroy);
    made->slots = memory;
    TESS_TRY(clear_slots(made), err_destroy);
    *gradient = made;
    return TESS_OK;

err_destroy:
    tess_gradient_destroy(made);
    return status;
}

void tess_gradient_destroy(tess_gradient_t *gradient)
{
    if (!gradient) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "gradient_destroy", -1, -1);
    tess_memory_free(gradient->device, TESS_MEMORY_DEVICE, gradient->slots);
    tessi_free(gradient);
}

static tess_status_t check_piece(const tess_gradient_piece_t *piece)
{
    if (!piece)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_gradient_measure: piece is NULL");
    if (piece->dtype != TESS_DTYPE_BF16 && piece->dtype != TESS_DTYPE_FP16 &&
        piece->dtype != TESS_DTYPE_FP32)
        return tessi_fail(
            TESS_ERR_INVALID_ARGUMENT,
            "tess_gradient_measure: piece.dtype is %s, but must be bf16, fp16 or fp32",
            tess_dtype_name(piece->dtype));
    if (piece->count < 0 || piece->count > INT64_MAX / 16)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_gradient_measure: piece.count is %" PRId64
                          ", but must be 0 or above, and fit into memory",
                          piece->count);
    if (piece->count > 0 && !piece->values)
        return tessi_fail(
            TESS_ERR_INVALID_ARGUMENT,
            "tess_gradient_measure: piece.values is NULL, but piece.count is %" PRId64,
            piece->count);
    if ((uintptr_t)piece->values % (uintptr_t)tess_dtype_bytes(piece->dtype) != 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_gradient_measure: piece.values is %p, which is not aligned to %s",
                          piece->values, tess_dtype_name(piece->dtype));
    return TESS_OK;
}

tess_status_t tess_gradient_measure(tess_gradient_t *gradient, tess_stream_t *stream, int64_t slot,
                                    const tess_gradient_piece_t *piece)
{
    if (!gradient)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_gradient_measure: gradient is NULL");
    tess_status_t status =
        tessi_optim_check_stream(gradient->device, stream, "tess_gradient_measure");
    if (status) return status;
    if (slot < 0 || slot >= gradient->slot_count)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_gradient_measure: slot %" PRId64 " is not one of the %" PRId64,
                          slot, gradient->slot_count);
    status = check_piece(piece);
    if (status) return status;
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "gradient_statistics",
                      piece->count * tess_dtype_bytes(piece->dtype), slot);
    return gradient->ops->measure(gradient, stream, slot, piece);
}

tess_status_t tess_gradient_combine(tess_gradient_t *gradient, tess_stream_t *stream, double *sum)
{
    if (!gradient || !sum)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_gradient_combine: %s is NULL",
                          gradient ? "sum" : "gradient");
    tess_status_t status =
        tessi_optim_check_stream(gradient->device, stream, "tess_gradient_combine");
    if (status) return status;
    if ((uintptr_t)sum % sizeof *sum != 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_gradient_combine: sum is %p, which is not aligned to 8 bytes",
                          (void *)sum);
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "gradient_combine", -1, gradient->slot_count);
    return gradient->ops->combine(gradient, stream, sum);
}
