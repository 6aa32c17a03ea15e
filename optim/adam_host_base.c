/* SPDX-License-Identifier: Apache-2.0 */
/* Adam's loops for any processor; CMake sets the flags. Invariant: same bits as the other
 * twins. */
#include "adam_lanes_one.h"

#include "adam_host_loops.h"
#include "gradient_host_loops.h"

const tessi_adam_loops_t tessi_adam_loops_base = {
    .step = step_slice,
    .export_values = export_slice,
    .import_values = import_slice,
    .sum_squares = sum_squares,
};
