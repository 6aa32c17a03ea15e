/* SPDX-License-Identifier: Apache-2.0 */
/* Adam's loops for x86-64 with AVX-512 (F, BW, DQ, VL); CMake sets the flags. Invariant: same bits
 * as the other twins. */
#define TESSI_LANES_HEADER "adam_lanes_avx512.h"
#include "adam_host_loops.h"
#include "gradient_host_loops.h"

const tessi_adam_loops_t tessi_adam_loops_avx512 = {
    .step = step_slice,
    .export_values = export_slice,
    .import_values = import_slice,
    .sum_squares = sum_squares,
};
