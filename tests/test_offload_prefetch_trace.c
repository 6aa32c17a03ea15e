/* SPDX-License-Identifier: Apache-2.0 */
/* What a profiler sees of the prefetcher: a range for each tile that is read, and each that is
 * written home, with its bytes and its number.
 */
#include <string.h>

#include "nvtx_trace.h"
#include "offload_prefetch_rig.h"

/* The program that is recorded: five tiles, of 600 and 100 bytes, the last of 50 and 100. */
static int use_prefetch(void)
{
    rig_t rig;
    rig_open(&rig, 1);
    rig.tile_count = 5;
    rig_array(&rig, 0, 600, 50, TESS_PREFETCH_READ_WRITE);
    rig_array(&rig, 0, 100, 100, TESS_PREFETCH_READ);
    rig_create(&rig, 2);
    rig_schedule(&rig, 0, 1, 5);
    rig_run(&rig);
    rig_end(&rig);
    rig_close(&rig);
    return 0;
}

static void ranges_are_seen(void **state)
{
    (void)state;
    nvtx_trace_t *trace = nvtx_trace_record("record");
    const struct {
        nvtx_pattern_t pattern;
        int count;
    } expected[] = {
        {{"push", "offload", "prefetch", NVTX_ANY, NVTX_ANY, NVTX_ANY, NULL}, 5},
        {{"push", "offload", "prefetch", 700, 3, NVTX_ANY, NULL}, 1},
        {{"push", "offload", "prefetch", 150, 4, NVTX_ANY, NULL}, 1},
        {{"push", "offload", "write_back", NVTX_ANY, NVTX_ANY, NVTX_ANY, "prefetch_release"}, 5},
        {{"push", "offload", "write_back", 600, 0, NVTX_ANY, NULL}, 1},
        {{"push", "offload", "write_back", 50, 4, NVTX_ANY, NULL}, 1},
        {{"push", "offload", "prefetch_acquire", 1024, 2, NVTX_ANY, ""}, 1},
        {{"push", "offload", "prefetch_release", 1024, 2, NVTX_ANY, ""}, 1},
        {{"push", "offload", "prefetch_create", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "offload", "prefetch_synchronize", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "offload", "prefetch_destroy", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
    };
    for (size_t n = 0; n < sizeof expected / sizeof *expected; n++) {
        int count = nvtx_trace_count(trace, &expected[n].pattern);
        if (count != expected[n].count)
            fail_msg("%d ranges '%s' (pattern %d), expected %d", count, expected[n].pattern.name,
                     (int)n, expected[n].count);
    }
    assert_int_equal(nvtx_trace_registrations(trace, "prefetch"), 1);
    nvtx_trace_free(trace);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ranges_are_seen)};
    test_need_ranks(1);
    if (argc > 1 && strcmp(argv[1], "record") == 0) return use_prefetch();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
