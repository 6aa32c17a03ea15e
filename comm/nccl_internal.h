/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the two files of the NCCL transport: connecting (nccl_open.c) and moving data. */
#ifndef TESSERA_COMM_NCCL_INTERNAL_H
#define TESSERA_COMM_NCCL_INTERNAL_H

#include <nccl.h>

#include "comm_internal.h"

/* TESS_ERR_NCCL with NCCL's own text; handle may be NULL. */
tess_status_t tessi_nccl_fail(ncclResult_t result, ncclComm_t handle, const char *what);

/* Collective: connects all ranks within comm->timeout_ms and runs each collective once. The caller
 * owns *handle. */
tess_status_t tessi_nccl_connect(tess_comm_t *comm, ncclComm_t *handle);

#endif
