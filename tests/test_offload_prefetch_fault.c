/* SPDX-License-Identifier: Apache-2.0 */
/* The prefetcher when something fails: every step of its set-up, every copy, every transfer of a
 * store, and the caller's own work. A failure stays, and no tile is lost or mixed.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/internal.h"
#include "offload_prefetch_rig.h"

#define TILES 6
#define TILE_BYTES 640
#define WALK_MAX 2000

/* Tile t of array a after `version` write-backs, all bytes alike: a mix of two is seen. */
static unsigned char value_of(int a, int64_t tile, int version)
{
    return (unsigned char)(1 + a * 100 + tile * 8 + version);
}

typedef struct fault_case {
    rig_t rig;
    int released[TILES]; /* how often each tile was written, as far as calls said TESS_OK */
} fault_case_t;

static void write_stores(fault_case_t *run)
{
    rig_t *rig = &run->rig;
    unsigned char *buffer = NULL;
    assert_int_equal(posix_memalign((void **)&buffer, 4096, 4096), 0);
    for (int a = 0; a < rig->array_count; a++)
        for (int64_t t = 0; t < TILES && rig->arrays[a].store; t++) {
            tess_store_ticket_t ticket;
            memset(buffer, value_of(a, t, 0), 4096);
            TEST_OK(tess_store_write(rig->arrays[a].store, t, buffer, &ticket));
            TEST_OK(tess_store_wait(rig->arrays[a].store, ticket));
        }
    free(buffer);
}

static void begin(fault_case_t *run, int memory_arrays, int store_arrays)
{
    rig_t *rig = &run->rig;
    rig->tile_count = TILES;
    for (int a = 0; a < memory_arrays + store_arrays; a++) {
        rig_array(rig, a >= memory_arrays, TILE_BYTES, TILE_BYTES, TESS_PREFETCH_READ_WRITE);
        for (int64_t t = 0; t < TILES; t++)
            memset(rig->models[a] + t * TILE_BYTES, value_of(a, t, 0), TILE_BYTES);
        if (!rig->arrays[a].store)
            memcpy(rig->arrays[a].host, rig->models[a], (size_t)rig->arrays[a].bytes);
    }
    memset(run->released, 0, sizeof run->released);
    write_stores(run);
}

static void end(fault_case_t *run)
{
    rig_t *rig = &run->rig;
    for (int a = 0; a < rig->array_count; a++) {
        if (!rig->arrays[a].store) continue;
        tess_store_close(rig->arrays[a].store);
        (void)unlink(rig->paths[a]);
    }
    rig->array_count = 0;
}

/* Two passes over all tiles, each tile filled with its next value. Returns the first failure. */
static tess_status_t use(fault_case_t *run)
{
    rig_t *rig = &run->rig;
    tess_prefetch_tile_t tile;
    tess_status_t status;
    TESS_TRY(tess_prefetch_schedule(rig->prefetch, 0, 1, TILES), out);
    TESS_TRY(tess_prefetch_schedule(rig->prefetch, TILES - 1, -1, TILES), out);
    for (int n = 0; n < 2 * TILES; n++) {
        tess_stream_t *stream = rig->streams[n % 2];
        TESS_TRY(tess_prefetch_acquire(rig->prefetch, stream, &tile), out);
        int version = run->released[tile.tile] + 1;
        for (int a = 0; a < rig->array_count; a++)
            TESS_TRY(tess_stream_fill(stream, tile.data[a], value_of(a, tile.tile, version),
                                      tile.bytes[a]),
                     out);
        run->released[tile.tile] = version;
        TESS_TRY(tess_prefetch_release(rig->prefetch, stream, &tile), out);
    }
    status = tess_prefetch_synchronize(rig->prefetch, -1);
out:
    return status;
}

static void check_tile(fault_case_t *run, int a, int64_t t, const unsigned char *bytes)
{
    int last = run->released[t], found = -1;
    for (int version = 0; version <= last; version++)
        if (bytes[0] == value_of(a, t, version)) found = version;
    if (found < 0)
        fail_msg("tile %lld of array %d holds %d, which is none of its values", (long long)t, a,
                 bytes[0]);
    for (int i = 1; i < TILE_BYTES; i++)
        if (bytes[i] != bytes[0])
            fail_msg("tile %lld of array %d is a mix: byte %d is %d, the first is %d", (long long)t,
                     a, i, bytes[i], bytes[0]);
}

/* Each tile holds one value that it had, and all of it. */
static void check_homes(fault_case_t *run)
{
    rig_t *rig = &run->rig;
    unsigned char *buffer = NULL;
    assert_int_equal(posix_memalign((void **)&buffer, 4096, 4096), 0);
    for (int a = 0; a < rig->array_count; a++) {
        const tess_prefetch_array_t *array = &rig->arrays[a];
        for (int64_t t = 0; t < TILES; t++) {
            if (!array->store) {
                check_tile(run, a, t, (unsigned char *)array->host + t * TILE_BYTES);
                continue;
            }
            tess_store_ticket_t ticket;
            TEST_OK(tess_store_read(array->store, t, buffer, &ticket));
            TEST_OK(tess_store_wait(array->store, ticket));
            check_tile(run, a, t, buffer);
        }
    }
    free(buffer);
}

/* A store that does not know what is on the device must be opened again. */
static void reopen_stores(fault_case_t *run)
{
    rig_t *rig = &run->rig;
    for (int a = 0; a < rig->array_count; a++) {
        tess_store_t *store = rig->arrays[a].store;
        if (!store) continue;
        tess_store_config_t config = TESS_STORE_CONFIG_DEFAULT;
        config.mode = TESS_STORE_OPEN;
        config.tile_bytes = tess_store_tile_bytes(store);
        config.tile_count = tess_store_tile_count(store);
        config.crash_safe = 1;
        tess_store_close(store);
        TEST_OK(tess_store_open(rig->paths[a], &config, &rig->arrays[a].store));
    }
}

/* The caller's streams have failed with the prefetcher's, and are of no more use. */
static void renew_streams(rig_t *rig)
{
    for (int s = 0; s < RIG_STREAMS; s++) {
        tess_stream_destroy(rig->streams[s]);
        TEST_OK(tess_stream_create(rig->device, TESS_PRIORITY_NORMAL, &rig->streams[s]));
    }
}

static void check_that_it_stays(rig_t *rig, tess_status_t status)
{
    tess_prefetch_tile_t tile = {.slot = 0};
    TEST_STATUS(tess_prefetch_acquire(rig->prefetch, rig->streams[0], &tile), status);
    TEST_STATUS(tess_prefetch_release(rig->prefetch, rig->streams[0], &tile), status);
    TEST_STATUS(tess_prefetch_schedule(rig->prefetch, 0, 1, 1), status);
    TEST_STATUS(tess_prefetch_wait_home(rig->prefetch, rig->streams[0]), status);
    TEST_STATUS(tess_prefetch_synchronize(rig->prefetch, -1), status);
    TEST_STATUS(tess_prefetch_cancel(rig->prefetch), status);
}

static tess_status_t create(rig_t *rig, int slot_count)
{
    tess_prefetch_config_t config = TESS_PREFETCH_CONFIG_DEFAULT;
    config.arrays = rig->arrays;
    config.array_count = rig->array_count;
    config.slot_count = rig->slot_count = slot_count;
    return tess_prefetch_create(rig->device, &config, &rig->prefetch);
}

/* --- set-up ----------------------------------------------------------------------------------- */

static void every_step_of_create_may_fail(void **state)
{
    (void)state;
    static const char *const points[] = {"alloc", "memory", "thread", "cuda"};
    fault_case_t run;
    rig_open(&run.rig, 1);
    begin(&run, 1, 1);
    for (size_t p = 0; p < sizeof points / sizeof *points; p++) {
        int failures = 0;
        for (int n = 1; n < WALK_MAX; n++) {
            run.rig.prefetch = NULL;
            (void)tessi_fault_arm(points[p], n);
            tess_status_t status = create(&run.rig, 3);
            int passes = tessi_fault_arm(NULL, 0);
            if (status < 0) assert_null(run.rig.prefetch);
            else tess_prefetch_destroy(run.rig.prefetch);
            if (passes < n) break; /* nothing was left to fail */
            assert_true(status < 0);
            failures++;
        }
        print_message("%s: %d places\n", points[p], failures);
        if (strcmp(points[p], "cuda") != 0 && strcmp(test_device_kind(), "host") == 0)
            assert_true(failures > 0);
    }
    end(&run);
    rig_close(&run.rig);
}

/* --- in the middle ---------------------------------------------------------------------------- */

/* Walks n upwards until nothing fails; at every n the failure stays and all tiles are whole. */
static int walk(const char *point, int memory_arrays, int store_arrays, int step)
{
    fault_case_t run;
    int failures = 0;
    rig_open(&run.rig, 2);
    for (int n = 1; n < WALK_MAX; n += step) {
        begin(&run, memory_arrays, store_arrays);
        TEST_OK(create(&run.rig, 3));
        (void)tessi_fault_arm(point, n);
        tess_status_t status = use(&run);
        int passes = tessi_fault_arm(NULL, 0);
        if (passes >= n) {
            assert_true(status < 0);
            check_that_it_stays(&run.rig, status);
            failures++;
        } else {
            TEST_OK(status);
        }
        tess_prefetch_destroy(run.rig.prefetch);
        renew_streams(&run.rig);
        reopen_stores(&run);
        check_homes(&run);
        end(&run);
        if (passes < n) break;
    }
    rig_close(&run.rig);
    return failures;
}

static void every_copy_may_fail(void **state)
{
    (void)state;
    /* Two passes over TILES tiles, in and out, of as many arrays. */
    assert_int_equal(walk("copy", 2, 0, 1), 2 * TILES * 2 * 2);
    assert_int_equal(walk("copy", 1, 1, 1), 2 * TILES * 2 * 2);
}

/* Functions that are queued on CUDA streams. */
static void every_queued_function_may_fail(void **state)
{
    (void)state;
    if (strcmp(test_device_kind(), "cuda") != 0) skip();
    assert_true(walk("cuda", 0, 1, 1) >= 2 * TILES * 2);
}

static void every_transfer_of_a_store_may_fail(void **state)
{
    (void)state;
    assert_true(walk("io", 0, 1, 1) >= 2 * TILES * 2);
    if (strcmp(test_device_kind(), "host") == 0) /* see prefetch.h for CUDA */
        assert_true(walk("io", 1, 1, 3) >= 2 * TILES * 2 / 3);
}

static void transfers_may_be_short(void **state)
{
    (void)state;
    fault_case_t run;
    rig_open(&run.rig, 3);
    for (int n = 1; n < 6; n++) {
        begin(&run, 0, 1);
        TEST_OK(create(&run.rig, 2));
        (void)tessi_fault_arm("short", n);
        TEST_OK(use(&run));
        (void)tessi_fault_arm(NULL, 0);
        tess_prefetch_destroy(run.rig.prefetch);
        check_homes(&run);
        end(&run);
    }
    rig_close(&run.rig);
}

/* A transfer that takes long holds nothing up for ever, and changes no data. */
static void transfers_may_be_slow(void **state)
{
    (void)state;
    fault_case_t run;
    rig_open(&run.rig, 4);
    for (int n = 1; n < 14; n += 4) {
        begin(&run, 1, 1);
        TEST_OK(create(&run.rig, 3));
        (void)tessi_fault_arm("slow", n);
        TEST_OK(use(&run));
        (void)tessi_fault_arm(NULL, 0);
        tess_prefetch_destroy(run.rig.prefetch);
        for (int t = 0; t < TILES; t++) assert_int_equal(run.released[t], 2);
        check_homes(&run);
        end(&run);
    }
    rig_close(&run.rig);
}

/* --- the caller's work ------------------------------------------------------------------------ */

static tess_status_t fail_work(void *argument)
{
    (void)argument;
    return tessi_fail(TESS_ERR_STATE, "the caller's work failed");
}

static void failed_work_reaches_the_prefetcher(void **state)
{
    (void)state;
    fault_case_t run;
    tess_prefetch_tile_t tile;
    rig_open(&run.rig, 5);
    begin(&run, 1, 0);
    rig_t *rig = &run.rig;
    TEST_OK(create(rig, 2));
    TEST_OK(tess_prefetch_schedule(rig->prefetch, 0, 1, TILES));
    TEST_OK(tess_prefetch_acquire(rig->prefetch, rig->streams[0], &tile));
    TEST_OK(tess_stream_call(rig->streams[0], fail_work, NULL));
    run.released[0] = 1;
    tess_status_t status = tess_prefetch_release(rig->prefetch, rig->streams[0], &tile);
    if (status == TESS_OK) status = tess_prefetch_synchronize(rig->prefetch, -1);
    assert_int_equal(status, TESS_ERR_STATE);
    assert_non_null(strstr(tess_last_error(), "the caller's work failed"));
    check_that_it_stays(rig, TESS_ERR_STATE);
    tess_prefetch_destroy(rig->prefetch);
    renew_streams(rig);
    check_homes(&run);
    end(&run);
    rig_close(rig);
}

static tess_status_t hold(void *argument)
{
    while (!__atomic_load_n((int *)argument, __ATOMIC_ACQUIRE)) usleep(100);
    return TESS_OK;
}

/* A deadline that passes is no failure of the prefetcher: it may be waited for again. */
static void a_missed_deadline_is_not_the_end(void **state)
{
    (void)state;
    fault_case_t run;
    tess_prefetch_tile_t tile;
    int go = 0;
    rig_open(&run.rig, 6);
    begin(&run, 1, 1);
    rig_t *rig = &run.rig;
    TEST_OK(create(rig, 2));
    TEST_OK(tess_prefetch_schedule(rig->prefetch, 0, 1, TILES));
    TEST_OK(tess_prefetch_acquire(rig->prefetch, rig->streams[0], &tile));
    TEST_OK(tess_stream_synchronize(rig->streams[0], -1)); /* CUDA runs functions on one thread */
    TEST_OK(tess_stream_call(rig->streams[0], hold, &go));
    TEST_OK(tess_prefetch_release(rig->prefetch, rig->streams[0], &tile));
    TEST_STATUS(tess_prefetch_synchronize(rig->prefetch, 20), TESS_ERR_TIMEOUT);
    __atomic_store_n(&go, 1, __ATOMIC_RELEASE);
    TEST_OK(tess_prefetch_synchronize(rig->prefetch, -1));
    tess_prefetch_destroy(rig->prefetch);
    check_homes(&run);
    end(&run);
    rig_close(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_step_of_create_may_fail),
        cmocka_unit_test(every_copy_may_fail),
        cmocka_unit_test(every_queued_function_may_fail),
        cmocka_unit_test(every_transfer_of_a_store_may_fail),
        cmocka_unit_test(transfers_may_be_short),
        cmocka_unit_test(transfers_may_be_slow),
        cmocka_unit_test(failed_work_reaches_the_prefetcher),
        cmocka_unit_test(a_missed_deadline_is_not_the_end),
    };
    test_need_ranks(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
