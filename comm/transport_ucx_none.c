/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for the ucx transport where the library was built without UCX, and says so. */
#include "comm_internal.h"

static const char reason[] = "this Tessera was built without UCX; install libucx-dev (Debian, "
                             "Ubuntu) or ucx-devel and configure again";

static const char *none_version(void)
{
    return "";
}

static const char *none_unusable(tess_device_kind_t kind)
{
    (void)kind;
    return reason;
}

static tess_status_t none_open(tess_comm_t *comm)
{
    return tessi_fail(TESS_ERR_UNSUPPORTED, "communicator %s: %s", comm->name, reason);
}

/* Only an open that succeeds leads to the rest of the table. */
const tessi_transport_t tessi_transport_ucx = {
    .name = "ucx",
    .version = none_version,
    .unusable = none_unusable,
    .open = none_open,
};
