/* SPDX-License-Identifier: Apache-2.0 */
/* Which back end computes for a device, and what the public functions check alike.
 *
 * Invariant: a back end sees only objects of its own kind of device, and streams of that device.
 */
#include <string.h>

#include "optim_internal.h"

tess_status_t tessi_optim_ops(const tess_device_t *device, const tessi_optim_ops_t **ops)
{
    const tessi_optim_ops_t *found =
        tess_device_kind(device) == TESS_DEVICE_HOST ? &tessi_optim_host : tessi_optim_cuda;
    if (!found)
        return tessi_fail(TESS_ERR_UNSUPPORTED, "this library holds no optimizer for device %s",
                          tess_device_name(device));
    *ops = found;
    return TESS_OK;
}

tess_status_t tessi_optim_check_stream(const tess_device_t *device, const tess_stream_t *stream,
                                       const char *function)
{
    if (!stream) return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: stream is NULL", function);
    const char *own = tess_device_name(device);
    const char *other = tess_device_name(tess_stream_device(stream));
    if (strcmp(own, other) != 0)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s: the stream is of device %s, but must be of %s", function, other,
                          own);
    return TESS_OK;
}
