/* SPDX-License-Identifier: Apache-2.0 */
/* What a profiler sees of a benchmark: its own ranges with their sizes, around those of comm. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_rig.h"

/* Pushed ranges of that name in the recorder's lines; `bytes` is what the first of them carries. */
static int count_ranges(const char *file_name, const char *name, int64_t *bytes)
{
    static char line[4096];
    int count = 0;
    FILE *file = fopen(file_name, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        json_t *event = rig_json(line);
        json_t *event_name = json_object_get(event, "name");
        if (strcmp(rig_text(event, "event"), "push") == 0 && json_is_string(event_name) &&
            strcmp(json_string_value(event_name), name) == 0) {
            assert_int_equal((int)rig_number(event, "category"), TESS_TRACE_BENCH);
            if (count++ == 0) *bytes = (int64_t)rig_number(event, "payload/bytes");
        }
        json_decref(event);
    }
    fclose(file);
    return count;
}

static void ranges(void **state)
{
    (void)state;
    char line[512], record[128];
    int64_t bytes = 0;
    snprintf(record, sizeof record, "%s/record", rig_folder_make());
    snprintf(line, sizeof line,
             "NVTX_INJECTION64_PATH=%s TESS_NVTX_RECORD=%s bench_allgather --device host --ranks 1 "
             "-b 64K -e 64K -n 2 -w 1 --repeat 3",
             NVTX_RECORDER, record);
    rig_run_t run = rig_expect(0, line);
    rig_free(&run);
    /* Out of place and in place. */
    assert_int_equal(count_ranges(record, "warm_up", &bytes), 2);
    assert_int_equal(bytes, 65536);
    assert_int_equal(count_ranges(record, "timed", &bytes), 2 * 3);
    assert_int_equal(bytes, 65536);
    assert_int_equal(count_ranges(record, "check", &bytes), 2);
    assert_int_equal(bytes, 65536);
    rig_folder_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ranges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
