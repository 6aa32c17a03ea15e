/* SPDX-License-Identifier: Apache-2.0 */
/* Engine "io_uring" where liburing was not there at build time. Invariant: it never opens. */
#include "store_internal.h"

static tess_status_t refuse(tess_store_t *store)
{
    return tessi_fail(TESS_ERR_UNSUPPORTED,
                      "store %s: this build has no io_uring: it was configured without liburing",
                      store->path);
}

const tessi_store_engine_t tessi_store_uring = {
    .name = "io_uring",
    .open = refuse,
};
