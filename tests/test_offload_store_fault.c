/* SPDX-License-Identifier: Apache-2.0 */
/* Memory, threads and io that fail at every point where they can, and transfers that come back
 * short: what was promised before is kept, and nothing leaks or hangs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/internal.h"
#include "store_rig.h"

#define TILES 4
#define TILE_BYTES 150000
#define BLOCK_BYTES 65536

/* --- injected --------------------------------------------------------------------------------- */

static tess_store_config_t small_config(const rig_way_t *way, int crash_safe)
{
    tess_store_config_t config = rig_config(way, TILE_BYTES, TILES, crash_safe);
    config.block_bytes = BLOCK_BYTES;
    return config;
}

/* Creates a store, writes version 1 and 2 of every tile, reads, syncs and closes; errors are
 * counted, and their last words kept. written[t]: the last version whose write succeeded; unsure[t]
 * is set where a write was begun after it. */
typedef struct scenario {
    int failures, created;
    char words[512];
    int64_t written[TILES];
    int unsure[TILES];
} scenario_t;

static int went_well(scenario_t *scenario, tess_status_t status)
{
    if (status == TESS_OK) return 1;
    scenario->failures++;
    snprintf(scenario->words, sizeof scenario->words, "%s", tess_last_error());
    return 0;
}

static void write_all(scenario_t *scenario, tess_store_t *store, char *buffers, int64_t version)
{
    tess_store_ticket_t tickets[TILES] = {0};
    for (int t = 0; t < TILES; t++) {
        void *buffer = rig_buffer(buffers, TILE_BYTES, t);
        rig_fill(buffer, TILE_BYTES, t, version);
        if (went_well(scenario, tess_store_write(store, t, buffer, &tickets[t])))
            scenario->unsure[t] = 1;
    }
    for (int t = 0; t < TILES; t++) {
        if (!tickets[t] || !went_well(scenario, tess_store_wait(store, tickets[t]))) continue;
        scenario->written[t] = version;
        scenario->unsure[t] = 0;
    }
}

static void run_scenario(scenario_t *scenario, const tess_store_config_t *config)
{
    tess_store_t *store = NULL;
    char *buffers = rig_buffers(TILE_BYTES, TILES);
    *scenario = (scenario_t){0};
    tess_store_config_t with_buffers = *config;
    with_buffers.buffers = buffers;
    with_buffers.buffers_bytes = (char *)rig_buffer(buffers, TILE_BYTES, TILES) - buffers;
    if (went_well(scenario, tess_store_open(rig_path("store"), &with_buffers, &store))) {
        scenario->created = 1;
        write_all(scenario, store, buffers, 1);
        write_all(scenario, store, buffers, 2);
        for (int t = 0; t < TILES; t++) {
            int is_sure = !scenario->unsure[t] || config->crash_safe;
            if (went_well(scenario, rig_read(store, t, buffers)) && is_sure)
                assert_true(rig_holds(buffers, TILE_BYTES, t, scenario->written[t]));
        }
        (void)went_well(scenario, tess_store_sync(store));
        tess_store_close(store);
    } else {
        assert_null(store);
    }
    free(buffers);
}

/* Opened again without faults: what was written is there, and in a crash-safe store what was not
 * is one of the versions before. */
static void check_scenario(const scenario_t *scenario, const tess_store_config_t *config)
{
    if (!scenario->created) return;
    char *buffer = rig_buffers(TILE_BYTES, 1);
    tess_store_config_t again = *config;
    again.mode = TESS_STORE_OPEN;
    tess_store_t *store = rig_open(&again);
    for (int t = 0; t < TILES; t++) {
        TEST_OK(rig_read(store, t, buffer));
        int64_t version = scenario->written[t];
        if (scenario->unsure[t] && config->crash_safe) {
            version = rig_version(buffer, TILE_BYTES, t);
            if (version < scenario->written[t] || version > 2)
                fail_msg("tile %d holds version %lld after %lld", t, (long long)version,
                         (long long)scenario->written[t]);
        }
        if (!scenario->unsure[t] || config->crash_safe)
            assert_true(rig_holds(buffer, TILE_BYTES, t, version));
        rig_fill(buffer, TILE_BYTES, t, 9);
        TEST_OK(rig_write(store, t, buffer));
    }
    tess_store_close(store);
    free(buffer);
}

/* The n-th pass of the point fails, for every n. must_fail 1: each is an error; 0: some are; -1:
 * none is. */
static void walk(const char *point, int must_fail, const char *words)
{
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    for (int w = 0; w < way_count; w++)
        for (int crash_safe = 0; crash_safe < 2; crash_safe++) {
            tess_store_config_t config = small_config(&ways[w], crash_safe);
            scenario_t scenario;
            int n = 1, failed = 0;
            for (;; n++) {
                tessi_fault_arm(point, n);
                run_scenario(&scenario, &config);
                int passes = tessi_fault_arm(NULL, 0);
                check_scenario(&scenario, &config);
                if (passes < n) break;
                failed += scenario.failures > 0;
                if (must_fail > 0 && scenario.failures == 0)
                    fail_msg("%s %d was not noticed (%s, direct %d)", point, n, ways[w].engine,
                             ways[w].direct);
                if (scenario.failures > 0 && !strstr(scenario.words, words) &&
                    !strstr(scenario.words, "takes no more writes"))
                    fail_msg("%s %d: \"%s\" does not say \"%s\"", point, n, scenario.words, words);
            }
            assert_int_equal(scenario.failures, 0);
            if (n < 2 || (must_fail >= 0 && failed == 0) || (must_fail < 0 && failed > 0))
                fail_msg("%s: %d passes, %d failed", point, n - 1, failed);
        }
}

static void every_io_fails_once(void **unused)
{
    (void)unused;
    walk("io", 1, "Input/output error");
}

/* A registration that finds no memory goes without, so that not every one fails. */
static void every_allocation_fails_once(void **unused)
{
    (void)unused;
    walk("alloc", 0, "cannot allocate");
}

static void every_thread_fails_once(void **unused)
{
    (void)unused;
    walk("thread", 1, "cannot start a thread");
}

static void every_transfer_comes_short_once(void **unused)
{
    (void)unused;
    walk("short", -1, "");
}

/* File, tile, bytes and offset are in the words; after a failed commit nothing more is taken. */
static void errors_name_their_place(void **unused)
{
    (void)unused;
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    char *buffer = rig_buffers(TILE_BYTES, 1), expected[192];
    for (int w = 0; w < way_count; w++) {
        tess_store_config_t config = small_config(&ways[w], 0);
        tess_store_t *store = rig_open(&config);
        tessi_fault_arm("io", 2); /* the second of three blocks, whichever comes back second */
        TEST_STATUS(rig_read(store, 3, buffer), TESS_ERR_SYSTEM);
        snprintf(expected, sizeof expected, "store %s: cannot read tile 3 (", rig_path("store"));
        assert_non_null(strstr(tess_last_error(), expected));
        assert_non_null(strstr(tess_last_error(), " bytes at offset "));
        tessi_fault_arm(NULL, 0);
        TEST_OK(rig_read(store, 3, buffer)); /* the store goes on */
        tess_store_close(store);

        config = small_config(&ways[w], 1);
        store = rig_open(&config);
        rig_fill(buffer, TILE_BYTES, 1, 1);
        tessi_fault_arm("io", 4); /* three blocks, then the fdatasync before the record */
        TEST_STATUS(rig_write(store, 1, buffer), TESS_ERR_SYSTEM);
        assert_non_null(strstr(tess_last_error(), "cannot make durable tile 1"));
        tessi_fault_arm(NULL, 0);
        TEST_STATUS(rig_write(store, 2, buffer), TESS_ERR_ABORTED);
        assert_non_null(strstr(tess_last_error(), "takes no more writes"));
        TEST_OK(rig_read(store, 1, buffer));
        assert_true(rig_holds(buffer, TILE_BYTES, 1, 0));
        tess_store_close(store);
    }
    free(buffer);
}

int main(void)
{
    /* In memory where there is room: thousands of stores are made durable here. */
    if (access("/dev/shm", W_OK) == 0 && chdir("/dev/shm") != 0) perror("/dev/shm");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_io_fails_once),
        cmocka_unit_test(every_allocation_fails_once),
        cmocka_unit_test(every_thread_fails_once),
        cmocka_unit_test(every_transfer_comes_short_once),
        cmocka_unit_test(errors_name_their_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
