/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in where the library is built without CUDA. */
#include <stddef.h>

#include "optim_internal.h"

const tessi_optim_ops_t *const tessi_optim_cuda = NULL;
