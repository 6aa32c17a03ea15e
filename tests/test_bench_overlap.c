/* SPDX-License-Identifier: Apache-2.0 */
/* bench_overlap: figures that belong together, and every flag of its own. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench_rig.h"

static void check_row(json_t *row)
{
    double compute = rig_number(row, "compute_s"), comm = rig_number(row, "communication_s");
    double both = rig_number(row, "both_s");
    assert_true(compute > 0 && comm > 0 && both > 0);
    double efficiency = fmax(compute, comm) / both, exposed = both - compute;
    /* Printed with 9 digits. */
    assert_true(fabs(rig_number(row, "efficiency") - efficiency) < 1e-6 * efficiency);
    assert_true(fabs(rig_number(row, "exposed_s") - exposed) < 1e-6 * (both + compute));
}

static void figures(void **state)
{
    (void)state;
    char line[256];
    snprintf(line, sizeof line,
             "bench_overlap --device host --ranks %d -b 256K -e 512K --gemm 64,64,64 --gemms 2 "
             "--collectives 3 --repeat 3 -T 30 --json -",
             rig_has_ucx() ? 2 : 1);
    rig_run_t run = rig_expect(0, line);
    json_t *document = rig_json(run.out);
    assert_int_equal((int)json_array_size(rig_at(document, "results")), 4);
    for (size_t r = 0; r < 4; r++) check_row(json_array_get(rig_at(document, "results"), r));
    assert_string_equal(rig_text(document, "results/0/collective"), "all_gather");
    assert_string_equal(rig_text(document, "results/1/collective"), "reduce_scatter");
    assert_true(rig_number(document, "results/2/size") == 512 * 1024);
    assert_int_equal((int)rig_number(document, "config/collectives"), 3);
    assert_non_null(strstr(run.err, "raw NCCL is not measured"));
    json_decref(document);
    rig_free(&run);
}

static void one_collective(void **state)
{
    (void)state;
    rig_run_t run = rig_expect(
        0, "bench_overlap --device host --ranks 1 -b 64K --collective reduce_scatter "
           "--gemm 32,32,32 --gemms 1 --collectives 1 --repeat 1 -d fp32 -o avg --csv -");
    assert_int_equal(rig_count(run.out, "\n"), 2);
    assert_int_equal(rig_count(run.out, "\nreduce_scatter,65536,self reducer,"), 1);
    rig_free(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(figures), cmocka_unit_test(one_collective)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
