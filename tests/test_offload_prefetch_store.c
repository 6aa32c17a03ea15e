/* SPDX-License-Identifier: Apache-2.0 */
/* The prefetcher over arrays in stores, alone and beside arrays in memory, with both engines: the
 * same random schedules against the same model.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/internal.h"
#include "offload_prefetch_rig.h"

#define SCHEDULES 6

static void run(rig_t *rig, rig_places_t places, int prefetchers)
{
    for (int p = 0; p < prefetchers; p++) {
        rig->crash_safe = p % 2;
        rig_begin(rig, places);
        for (int s = 0; s < SCHEDULES; s++) {
            rig_schedule_random(rig);
            if (rig_pick(rig, 3) > 0) rig_run(rig);
            if (rig_pick(rig, 4) == 0) rig_cancel(rig);
            if (rig_pick(rig, 4) == 0 && rig->out_count == 0) {
                TEST_OK(tess_prefetch_synchronize(rig->prefetch, -1));
                rig_check_homes(rig);
            }
        }
        rig_run(rig);
        rig_end(rig);
    }
}

static void run_engine(const char *engine, uint64_t seed)
{
    rig_t rig;
    rig_open(&rig, seed);
    rig.engine = engine;
    run(&rig, RIG_STORES, 12);
    run(&rig, RIG_MIXED, 18);
    rig_close(&rig);
}

static void threads_match_the_model(void **state)
{
    (void)state;
    run_engine("threads", 1);
}

static void io_uring_matches_the_model(void **state)
{
    (void)state;
    tess_store_config_t config = TESS_STORE_CONFIG_DEFAULT;
    tess_store_t *store = NULL;
    config.tile_bytes = config.tile_count = 1;
    config.engine = "io_uring";
    tess_status_t status = tess_store_open("test_prefetch_probe.tiles", &config, &store);
    tess_store_close(store);
    (void)unlink("test_prefetch_probe.tiles");
    if (status < 0) {
        print_message("no io_uring here: %s\n", tess_last_error());
        skip();
    }
    run_engine("io_uring", 2);
}

static void eager_streams_match_too(void **state)
{
    (void)state;
    setenv("TESS_HOST_STREAMS", "eager", 1);
    run_engine("threads", 3);
    unsetenv("TESS_HOST_STREAMS");
}

/* Written only: nothing is read into the staging, and what a tile does not fill is zero. */
static void written_tiles_are_padded_with_zeros(void **state)
{
    (void)state;
    rig_t rig;
    tess_store_ticket_t ticket;
    unsigned char *buffer = NULL;
    rig_open(&rig, 4);
    rig.tile_count = 4;
    rig_array(&rig, 1, 600, 100, TESS_PREFETCH_WRITE);
    rig_create(&rig, 2);
    for (int pass = 0; pass < 3; pass++) rig_schedule(&rig, 3, -1, 4);
    rig_run(&rig);
    TEST_OK(tess_prefetch_synchronize(rig.prefetch, -1));
    assert_int_equal(posix_memalign((void **)&buffer, 4096, 4096), 0);
    TEST_OK(tess_store_read(rig.arrays[0].store, 3, buffer, &ticket));
    TEST_OK(tess_store_wait(rig.arrays[0].store, ticket));
    for (int64_t i = 100; i < tess_store_tile_bytes(rig.arrays[0].store); i++)
        assert_int_equal(buffer[i], 0);
    free(buffer);
    rig_end(&rig);
    rig_close(&rig);
}

/* Two writes of one tile from two slots, the first one slow: the second is what stays. */
static void a_slow_write_is_not_overtaken(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, 9);
    rig.engine = "threads";
    rig.crash_safe = 1;
    rig.tile_count = 2;
    rig_array(&rig, 1, 600, 600, TESS_PREFETCH_WRITE);
    rig_create(&rig, 2);
    (void)tessi_fault_arm("slow", 1);
    rig_schedule(&rig, 1, 0, 2);
    rig_run(&rig);
    TEST_OK(tess_prefetch_synchronize(rig.prefetch, -1));
    (void)tessi_fault_arm(NULL, 0);
    rig_end(&rig);
    rig_close(&rig);
}

/* More steps than the ring of calls has room for, and a tile that comes again and again. */
static void the_host_may_run_ahead(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, 5);
    rig.crash_safe = 0;
    rig.tile_count = 3;
    rig_array(&rig, 1, 64, 64, TESS_PREFETCH_READ_WRITE);
    rig_array(&rig, 0, 64, 64, TESS_PREFETCH_READ_WRITE);
    rig_create(&rig, 3);
    for (int pass = 0; pass < 100; pass++) {
        rig_schedule(&rig, pass % 2, pass % 2, 2);
        rig_run(&rig);
    }
    for (int pass = 0; pass < 200; pass++) {
        rig_schedule(&rig, 0, 1, 3);
        for (int t = 0; t < 3; t++) {
            assert_int_equal(rig_acquire(&rig, 0), 1);
            rig_release(&rig, 0, 0);
        }
    }
    rig_end(&rig);
    rig_close(&rig);
}

static void nothing_is_allocated_after_create(void **state)
{
    (void)state;
    static const char *const points[] = {"alloc", "memory", "thread"};
    rig_t rig;
    rig_open(&rig, 6);
    for (size_t n = 0; n < sizeof points / sizeof *points; n++) {
        rig_begin(&rig, RIG_MIXED);
        (void)tessi_fault_arm(points[n], INT_MAX);
        for (int s = 0; s < 5; s++) {
            rig_schedule_random(&rig);
            rig_run(&rig);
        }
        TEST_OK(tess_prefetch_wait_home(rig.prefetch, rig.streams[0]));
        TEST_OK(tess_prefetch_synchronize(rig.prefetch, -1));
        assert_int_equal(tessi_fault_arm(NULL, 0), 0);
        rig_end(&rig);
    }
    rig_close(&rig);
}

/* The caller's staging is used, and what is too small is refused with what is needed. */
static void staging_may_be_the_callers(void **state)
{
    (void)state;
    rig_t rig;
    void *staging;
    rig_open(&rig, 7);
    rig.tile_count = 5;
    rig_array(&rig, 1, 500, 20, TESS_PREFETCH_READ_WRITE);
    const tess_store_t *store = rig.arrays[0].store;
    tess_prefetch_config_t config = TESS_PREFETCH_CONFIG_DEFAULT;
    config.arrays = rig.arrays;
    config.array_count = 1;
    config.slot_count = rig.slot_count = 3;
    config.staging_bytes =
        tess_prefetch_staging_bytes(3, tess_store_tile_bytes(store), tess_store_alignment(store));
    TEST_OK(tess_memory_allocate(rig.device, TESS_MEMORY_PINNED, config.staging_bytes, &staging));
    config.staging = staging;
    (void)tessi_fault_arm("memory", INT_MAX);
    TEST_OK(tess_prefetch_create(rig.device, &config, &rig.prefetch));
    assert_int_equal(tessi_fault_arm(NULL, 0), 1); /* the slots */
    rig_schedule(&rig, 0, 1, 5);
    rig_schedule(&rig, 4, -1, 5);
    rig_run(&rig);
    rig_check(&rig);
    rig_end(&rig);
    tess_memory_free(rig.device, TESS_MEMORY_PINNED, staging);

    rig_array(&rig, 1, 500, 20, TESS_PREFETCH_READ_WRITE);
    config.staging_bytes = 3 * 4096 - 1;
    TEST_STATUS(tess_prefetch_create(rig.device, &config, &rig.prefetch),
                TESS_ERR_INVALID_ARGUMENT);
    assert_non_null(strstr(tess_last_error(), "3 slots need"));
    tess_store_close(rig.arrays[0].store);
    (void)unlink(rig.paths[0]);
    rig_close(&rig);
}

static void stores_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, 8);
    rig.tile_count = 5;
    rig_array(&rig, 1, 500, 20, TESS_PREFETCH_READ);
    tess_prefetch_array_t given = rig.arrays[0];
    tess_prefetch_config_t config = TESS_PREFETCH_CONFIG_DEFAULT;
    config.arrays = rig.arrays;
    config.array_count = 1;
    rig.arrays[0].bytes += 500; /* six tiles */
    TEST_STATUS(tess_prefetch_create(rig.device, &config, &rig.prefetch),
                TESS_ERR_INVALID_ARGUMENT);
    rig.arrays[0] = given;
    rig.arrays[0].tile_bytes = 620;
    TEST_STATUS(tess_prefetch_create(rig.device, &config, &rig.prefetch),
                TESS_ERR_INVALID_ARGUMENT);
    rig.arrays[0] = given;
    rig.arrays[0].host = rig.homes; /* both */
    TEST_STATUS(tess_prefetch_create(rig.device, &config, &rig.prefetch),
                TESS_ERR_INVALID_ARGUMENT);
    tess_store_close(given.store);
    (void)unlink(rig.paths[0]);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_match_the_model),
        cmocka_unit_test(io_uring_matches_the_model),
        cmocka_unit_test(eager_streams_match_too),
        cmocka_unit_test(written_tiles_are_padded_with_zeros),
        cmocka_unit_test(a_slow_write_is_not_overtaken),
        cmocka_unit_test(the_host_may_run_ahead),
        cmocka_unit_test(nothing_is_allocated_after_create),
        cmocka_unit_test(staging_may_be_the_callers),
        cmocka_unit_test(stores_that_do_not_fit_are_refused),
    };
    test_need_ranks(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
