/* SPDX-License-Identifier: Apache-2.0 */
/* What a profiler sees of a world: its ranges, their payloads, and the rank. */
#include <string.h>

#include "comm/world_internal.h"
#include "nvtx_trace.h"

/* The program that is recorded. */
static int use_world(void)
{
    tess_world_t *world;
    int self = 0;
    char mine[24] = "mine", all[24];
    if (tess_world_open(NULL, &world) != TESS_OK) return 1;
    if (tess_world_barrier(world, -1) != TESS_OK) return 1;
    if (tessi_world_exchange(world, (tessi_group_t){&self, 1}, "key", mine, sizeof mine, all,
                             1000) != TESS_OK)
        return 1;
    tess_world_close(world);
    return memcmp(mine, all, sizeof mine) != 0;
}

static void test_ranges(void **state)
{
    (void)state;
    nvtx_trace_t *trace = nvtx_trace_record("record");
    const nvtx_pattern_t patterns[] = {
        {"push", "comm", "world_open", -1, -1, NVTX_ANY, ""},
        {"push", "comm", "world_barrier", -1, -1, 0, ""},
        {"push", "comm", "exchange", 0, -1, 0, "world_barrier"},
        {"push", "comm", "exchange", 24, -1, 0, ""},
    };
    for (size_t n = 0; n < sizeof patterns / sizeof patterns[0]; n++)
        if (nvtx_trace_count(trace, &patterns[n]) != 1)
            fail_msg("%d ranges '%s' of %lld bytes, expected 1",
                     nvtx_trace_count(trace, &patterns[n]), patterns[n].name,
                     (long long)patterns[n].bytes);
    nvtx_trace_free(trace);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranges)};
    if (argc > 1 && strcmp(argv[1], "record") == 0) return use_world();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
