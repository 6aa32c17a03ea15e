/* SPDX-License-Identifier: Apache-2.0 */
/* What a profiler sees of a store: a range for each call, with the bytes and the tile. */
#include <stdlib.h>
#include <string.h>

#include "nvtx_trace.h"
#include "store_rig.h"

#define TILE_BYTES 5000

/* The program that is recorded. */
static int use_store(void)
{
    const rig_way_t any = {"auto", -1};
    tess_store_config_t config = rig_config(&any, TILE_BYTES, 4, 1);
    tess_store_t *store;
    void *buffer = rig_buffers(TILE_BYTES, 1);
    RANK_OK(tess_store_open(rig_path("store"), &config, &store));
    RANK_OK(rig_write(store, 3, buffer));
    RANK_OK(rig_read(store, 3, buffer));
    RANK_OK(rig_read(store, 2, buffer));
    RANK_CHECK(rig_read(store, 4, buffer) < 0); /* what is refused opens no range */
    RANK_OK(tess_store_sync(store));
    tess_store_close(store);
    free(buffer);
    return 0;
}

static void ranges_are_seen(void **unused)
{
    (void)unused;
    nvtx_trace_t *trace = nvtx_trace_record("record");
    const struct {
        nvtx_pattern_t pattern;
        int count;
    } expected[] = {
        {{"push", "offload", "store_write", TILE_BYTES, 3, NVTX_ANY, ""}, 1},
        {{"push", "offload", "store_read", TILE_BYTES, 3, NVTX_ANY, ""}, 1},
        {{"push", "offload", "store_read", TILE_BYTES, NVTX_ANY, NVTX_ANY, ""}, 2},
        {{"push", "offload", "store_wait", TILE_BYTES, NVTX_ANY, NVTX_ANY, ""}, 3},
        {{"push", "offload", "store_open", TILE_BYTES, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "offload", "store_sync", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
        {{"push", "offload", "store_close", NVTX_ANY, NVTX_ANY, NVTX_ANY, ""}, 1},
    };
    for (size_t n = 0; n < sizeof expected / sizeof *expected; n++) {
        int count = nvtx_trace_count(trace, &expected[n].pattern);
        if (count != expected[n].count)
            fail_msg("%d ranges '%s', expected %d", count, expected[n].pattern.name,
                     expected[n].count);
    }
    nvtx_trace_free(trace);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ranges_are_seen)};
    if (argc > 1 && strcmp(argv[1], "record") == 0) return use_store();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
