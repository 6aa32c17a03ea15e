/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in where there is no liburing; the store then has no such engine either. */
#include "core/internal.h"
#include "raw_file.h"

tess_status_t raw_uring_run(const raw_file_t *file, double *seconds)
{
    (void)file, (void)seconds;
    return tessi_fail(TESS_ERR_UNSUPPORTED, "this program was built without liburing");
}
