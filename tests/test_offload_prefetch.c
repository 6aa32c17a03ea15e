/* SPDX-License-Identifier: Apache-2.0 */
/* The prefetcher over arrays in memory: random schedules against a model in plain memory, the
 * bounds that it keeps, and misuse.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/internal.h"
#include "offload_prefetch_rig.h"

#define PREFETCHERS 250
#define SCHEDULES 8 /* of each */

static void random_schedules(rig_t *rig, int prefetchers)
{
    for (int p = 0; p < prefetchers; p++) {
        rig_begin(rig, RIG_MEMORY);
        for (int s = 0; s < SCHEDULES; s++) {
            rig_schedule_random(rig);
            if (rig_pick(rig, 4) == 0) rig_schedule_random(rig);
            if (rig_pick(rig, 3) > 0) rig_run(rig);
            if (rig_pick(rig, 4) == 0) {
                TEST_OK(tess_prefetch_synchronize(rig->prefetch, -1));
                if (rig->out_count == 0) rig_check_homes(rig);
            }
        }
        rig_run(rig);
        rig_end(rig);
    }
}

static void schedules_match_the_model(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, 1);
    random_schedules(&rig, PREFETCHERS);
    rig_close(&rig);
}

static void eager_streams_match_too(void **state)
{
    (void)state;
    rig_t rig;
    setenv("TESS_HOST_STREAMS", "eager", 1);
    rig_open(&rig, 2);
    random_schedules(&rig, 20);
    rig_close(&rig);
    unsetenv("TESS_HOST_STREAMS");
}

/* What is cancelled leaves no trace, what was released is home, what is out is released later. */
static void cancelled_schedules_leave_tiles_whole(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, 3);
    for (int p = 0; p < 150; p++) {
        rig_begin(&rig, RIG_MEMORY);
        for (int s = 0; s < SCHEDULES; s++) {
            rig_schedule_random(&rig);
            for (int64_t steps = rig_pick(&rig, 12); steps > 0; steps--) {
                int stream = (int)rig_pick(&rig, RIG_STREAMS);
                if (rig_pick(&rig, 2)) (void)rig_acquire(&rig, stream);
                else if (rig.out_count > 0)
                    rig_release(&rig, (int)rig_pick(&rig, rig.out_count), stream);
            }
            rig_cancel(&rig);
            if (rig_pick(&rig, 3) == 0 && rig.out_count == 0) {
                TEST_OK(tess_prefetch_synchronize(rig.prefetch, -1));
                rig_check_homes(&rig);
            }
        }
        rig_run(&rig);
        rig_end(&rig);
    }
    rig_close(&rig);
}

/* A stream that waits for homes reads there what was released, with nobody else waiting. */
static void a_stream_may_wait_for_homes(void **state)
{
    (void)state;
    rig_t rig;
    unsigned char *seen;
    tess_stream_t *stream;
    rig_open(&rig, 4);
    TEST_OK(
        tess_memory_allocate(rig.device, TESS_MEMORY_PINNED, RIG_TILE_BYTES_MAX, (void **)&seen));
    TEST_OK(tess_stream_create(rig.device, TESS_PRIORITY_NORMAL, &stream));
    rig.tile_count = 8;
    rig_array(&rig, 0, 640, 640, TESS_PREFETCH_READ_WRITE);
    rig_create(&rig, 3);
    rig_schedule(&rig, 0, 1, 8);
    TEST_OK(tess_prefetch_wait_home(rig.prefetch, stream)); /* of nothing yet */
    for (int t = 0; t < 8; t++) {
        assert_int_equal(rig_acquire(&rig, t % 2), 1);
        rig_release(&rig, 0, t % 2);
        TEST_OK(tess_prefetch_wait_home(rig.prefetch, stream));
        TEST_OK(tess_stream_copy(stream, seen, (char *)rig.arrays[0].host + t * 640, 640));
        TEST_OK(tess_stream_synchronize(stream, -1));
        assert_memory_equal(seen, rig.models[0] + t * 640, 640);
    }
    rig_end(&rig);
    tess_stream_destroy(stream);
    tess_memory_free(rig.device, TESS_MEMORY_PINNED, seen);
    rig_close(&rig);
}

/* Fault points count what passes them, so that nothing passes after tess_prefetch_create. */
static void nothing_is_allocated_after_create(void **state)
{
    (void)state;
    static const char *const points[] = {"alloc", "memory", "thread"};
    rig_t rig;
    rig_open(&rig, 5);
    for (size_t n = 0; n < sizeof points / sizeof *points; n++) {
        rig_begin(&rig, RIG_MEMORY);
        (void)tessi_fault_arm(points[n], INT_MAX);
        for (int s = 0; s < 20; s++) {
            rig_schedule_random(&rig);
            rig_run(&rig);
        }
        rig_schedule(&rig, 0, 1, rig.tile_count);
        rig_cancel(&rig);
        TEST_OK(tess_prefetch_wait_home(rig.prefetch, rig.streams[0]));
        TEST_OK(tess_prefetch_synchronize(rig.prefetch, -1));
        assert_int_equal(tessi_fault_arm(NULL, 0), 0);
        rig_end(&rig);
    }
    rig_close(&rig);
}

static tess_status_t create(rig_t *rig, int slot_count, int64_t slot_bytes)
{
    tess_prefetch_config_t config = TESS_PREFETCH_CONFIG_DEFAULT;
    config.arrays = rig->arrays;
    config.array_count = rig->array_count;
    config.slot_count = slot_count;
    config.slot_bytes = slot_bytes;
    return tess_prefetch_create(rig->device, &config, &rig->prefetch);
}

static void memory_stays_within_its_bound(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, 6);
    rig.tile_count = 10;
    rig_array(&rig, 0, 300, 1, TESS_PREFETCH_READ_WRITE); /* 512 bytes of a slot */
    rig_array(&rig, 0, 256, 256, TESS_PREFETCH_READ);     /* 256 */
    TEST_STATUS(create(&rig, 4, 4 * 768 - 1), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(create(&rig, 0, 767), TESS_ERR_INVALID_ARGUMENT);
    TEST_OK(create(&rig, 4, 4 * 768));
    assert_int_equal(tess_prefetch_device_bytes(rig.prefetch), 4 * 768);
    tess_prefetch_destroy(rig.prefetch);
    for (int64_t slot_bytes = 768; slot_bytes < 12000; slot_bytes += 701) {
        TEST_OK(create(&rig, 0, slot_bytes));
        assert_true(tess_prefetch_device_bytes(rig.prefetch) <= slot_bytes);
        assert_true(tess_prefetch_slot_count(rig.prefetch) >= 1);
        tess_prefetch_destroy(rig.prefetch);
    }
    TEST_OK(create(&rig, 0, 0));
    assert_int_equal(tess_prefetch_slot_count(rig.prefetch), 10); /* a slot a tile is enough */
    rig.slot_count = 10;
    rig_schedule(&rig, 0, 1, 10);
    for (int t = 0; t < 10; t++) {
        assert_int_equal(rig_acquire(&rig, 0), 1);
        rig_release(&rig, 0, 1);
    }
    rig_end(&rig);
    rig_close(&rig);
}

static void runs_are_limited(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, 7);
    rig.tile_count = 4;
    rig_array(&rig, 0, 64, 64, TESS_PREFETCH_READ);
    rig_create(&rig, 1);
    rig_schedule(&rig, 0, 1, 1); /* read ahead: no longer open */
    for (int r = 0; r < 64; r++) rig_schedule(&rig, r % 4, 0, 2);
    TEST_STATUS(tess_prefetch_schedule(rig.prefetch, 0, 1, 1), TESS_ERR_STATE);
    TEST_OK(tess_prefetch_schedule(rig.prefetch, 0, 1, 0)); /* nothing is no run */
    rig_run(&rig);
    rig_end(&rig);
    rig_close(&rig);
}

static void schedules_are_checked(void **state)
{
    (void)state;
    static const int64_t bad[][3] = {{-1, 1, 1},        {4, 1, 1},        {0, 1, 5},
                                     {3, -1, 5},        {0, 1, -1},       {0, INT64_MAX, 3},
                                     {1, INT64_MAX, 2}, {0, 2, INT64_MAX}};
    const int64_t list[] = {0, 3, 4};
    rig_t rig;
    rig_open(&rig, 8);
    rig.tile_count = 4;
    rig_array(&rig, 0, 64, 64, TESS_PREFETCH_READ_WRITE);
    rig_create(&rig, 2);
    for (size_t n = 0; n < sizeof bad / sizeof *bad; n++)
        TEST_STATUS(tess_prefetch_schedule(rig.prefetch, bad[n][0], bad[n][1], bad[n][2]),
                    TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_prefetch_schedule_list(rig.prefetch, list, 3), TESS_ERR_INVALID_ARGUMENT);
    assert_non_null(strstr(tess_last_error(), "tiles[2] is 4"));
    TEST_STATUS(tess_prefetch_schedule_list(rig.prefetch, NULL, 1), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_prefetch_schedule_list(rig.prefetch, list, -1), TESS_ERR_INVALID_ARGUMENT);
    TEST_OK(tess_prefetch_schedule_list(rig.prefetch, NULL, 0));
    TEST_STATUS(tess_prefetch_schedule(NULL, 0, 1, 1), TESS_ERR_INVALID_ARGUMENT);
    assert_int_equal(rig_acquire(&rig, 0), 0); /* nothing of it was taken */
    rig_end(&rig);
    rig_close(&rig);
}

static void acquire_and_release_are_checked(void **state)
{
    (void)state;
    rig_t rig;
    tess_prefetch_tile_t tile, none = {.tile = 1, .slot = 7};
    rig_open(&rig, 9);
    rig.tile_count = 4;
    rig_array(&rig, 0, 64, 64, TESS_PREFETCH_READ_WRITE);
    rig_create(&rig, 2);
    tess_prefetch_t *prefetch = rig.prefetch;
    tess_stream_t *stream = rig.streams[0];
    TEST_STATUS(tess_prefetch_acquire(prefetch, stream, &tile), TESS_ERR_STATE);
    assert_non_null(strstr(tess_last_error(), "at its end"));
    TEST_STATUS(tess_prefetch_release(prefetch, stream, &none), TESS_ERR_STATE);
    TEST_STATUS(tess_prefetch_acquire(NULL, stream, &tile), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_prefetch_acquire(prefetch, NULL, &tile), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_prefetch_acquire(prefetch, stream, NULL), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_prefetch_release(prefetch, stream, NULL), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_prefetch_cancel(NULL), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_prefetch_synchronize(NULL, -1), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_prefetch_wait_home(NULL, stream), TESS_ERR_INVALID_ARGUMENT);

    rig_schedule(&rig, 2, 0, 2); /* the same tile twice: out once, it must be home first */
    rig_schedule(&rig, 3, 1, 1);
    assert_int_equal(rig_acquire(&rig, 0), 1);
    TEST_STATUS(tess_prefetch_acquire(prefetch, stream, &tile), TESS_ERR_STATE);
    assert_non_null(strstr(tess_last_error(), "tile 2 comes next, but is out"));
    none = rig.out[0].tile;
    none.tile = 3;
    TEST_STATUS(tess_prefetch_release(prefetch, stream, &none), TESS_ERR_STATE);
    none = rig.out[0].tile;
    rig_release(&rig, 0, 0);
    TEST_STATUS(tess_prefetch_release(prefetch, stream, &none), TESS_ERR_STATE);
    assert_int_equal(rig_acquire(&rig, 0), 1);
    assert_int_equal(rig_acquire(&rig, 1), 1);
    TEST_STATUS(tess_prefetch_acquire(prefetch, stream, &tile), TESS_ERR_STATE);
    rig_schedule(&rig, 0, 1, 1);
    TEST_STATUS(tess_prefetch_acquire(prefetch, stream, &tile), TESS_ERR_STATE);
    assert_non_null(strstr(tess_last_error(), "all 2 slots are out"));
    rig_run(&rig);
    rig_end(&rig);
    rig_close(&rig);
}

/* Tiles that nobody writes may be out several times. */
static void a_tile_may_be_read_by_several(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, 10);
    rig.tile_count = 2;
    rig_array(&rig, 0, 64, 64, TESS_PREFETCH_READ);
    rig_create(&rig, 3);
    rig_schedule(&rig, 1, 0, 3);
    for (int n = 0; n < 3; n++) assert_int_equal(rig_acquire(&rig, n % 2), 1);
    rig_run(&rig);
    rig_end(&rig);
    rig_close(&rig);
}

static void configs_are_checked(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, 11);
    char *home = (char *)rig.homes;
    const tess_prefetch_array_t bad[] = {
        {NULL, NULL, 64, 64, TESS_PREFETCH_READ},
        {home, NULL, 0, 64, TESS_PREFETCH_READ},
        {home, NULL, 64, 0, TESS_PREFETCH_READ},
        {home, NULL, 64, 64, (tess_prefetch_access_t)0},
        {home, NULL, 64, 64, (tess_prefetch_access_t)4},
        {home, NULL, INT64_MAX, INT64_MAX, TESS_PREFETCH_READ},
    };
    for (size_t n = 0; n < sizeof bad / sizeof *bad; n++) {
        rig.arrays[0] = bad[n];
        rig.array_count = 1;
        TEST_STATUS(create(&rig, 2, 0), TESS_ERR_INVALID_ARGUMENT);
    }
    rig.arrays[0] = (tess_prefetch_array_t){home, NULL, 640, 64, TESS_PREFETCH_READ};
    rig.arrays[1] = (tess_prefetch_array_t){home + 640, NULL, 640, 71, TESS_PREFETCH_READ};
    rig.array_count = 2;
    TEST_OK(create(&rig, 2, 0)); /* 640 bytes in tiles of 71 are ten, too */
    tess_prefetch_destroy(rig.prefetch);
    rig.arrays[1].tile_bytes = 72;
    TEST_STATUS(create(&rig, 2, 0), TESS_ERR_INVALID_ARGUMENT);
    rig.array_count = 1;
    TEST_STATUS(create(&rig, -1, 0), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(create(&rig, 1025, 0), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(create(&rig, 1, -1), TESS_ERR_INVALID_ARGUMENT);
    rig.array_count = 0;
    TEST_STATUS(create(&rig, 1, 0), TESS_ERR_INVALID_ARGUMENT);
    rig.array_count = TESS_PREFETCH_ARRAYS_MAX + 1;
    TEST_STATUS(create(&rig, 1, 0), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_prefetch_create(NULL, NULL, NULL), TESS_ERR_INVALID_ARGUMENT);
    tess_prefetch_destroy(NULL);
    rig_close(&rig);
}

/* Far more tiles than a stream's queue has room for, with nobody waiting. */
static void the_host_may_run_ahead(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, 12);
    rig.tile_count = 12;
    rig_array(&rig, 0, 700, 5, TESS_PREFETCH_READ_WRITE);
    rig_create(&rig, 4);
    for (int pass = 0; pass < 60; pass++) {
        rig_schedule(&rig, pass % 2 ? 11 : 0, pass % 2 ? -1 : 1, 12);
        for (int t = 0; t < 12; t++) {
            assert_int_equal(rig_acquire(&rig, 0), 1);
            rig_release(&rig, 0, 0);
        }
    }
    rig_end(&rig);
    rig_close(&rig);
}

/* Leaving with work under way is legal: released tiles are home, the others as they were. */
static void destroy_waits_for_write_backs(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, 13);
    rig.tile_count = 12;
    rig_array(&rig, 0, 700, 700, TESS_PREFETCH_READ_WRITE);
    rig_create(&rig, 4);
    rig_schedule(&rig, 0, 1, 12);
    for (int t = 0; t < 6; t++) {
        assert_int_equal(rig_acquire(&rig, 0), 1);
        rig_release(&rig, 0, 0);
    }
    tess_prefetch_destroy(rig.prefetch);
    rig_check(&rig);
    rig_check_homes(&rig);
    rig_close(&rig);
}

typedef struct late_reader {
    const unsigned char *data;
    int64_t bytes;
    int done;
} late_reader_t;

static tess_status_t read_late(void *argument)
{
    late_reader_t *reader = argument;
    struct timespec pause = {0, 50 * 1000 * 1000};
    nanosleep(&pause, NULL);
    int sum = 0;
    for (int64_t i = 0; i < reader->bytes; i++) sum += reader->data[i];
    reader->done = sum >= 0;
    return TESS_OK;
}

/* A tile that is only read has no way home that destroy could wait for. The memory that it reads is
 * watched by the address sanitizer. */
static void destroy_waits_for_readers(void **state)
{
    (void)state;
    rig_t rig;
    tess_prefetch_tile_t tile;
    rig_open(&rig, 1);
    rig.tile_count = 1;
    rig_array(&rig, 0, 4096, 4096, TESS_PREFETCH_READ);
    rig_create(&rig, 1);
    if (tess_device_kind(rig.device) == TESS_DEVICE_HOST) {
        TEST_OK(tess_prefetch_schedule(rig.prefetch, 0, 1, 1));
        TEST_OK(tess_prefetch_acquire(rig.prefetch, rig.streams[0], &tile));
        late_reader_t reader = {tile.data[0], tile.bytes[0], 0};
        TEST_OK(tess_stream_call(rig.streams[0], read_late, &reader));
        TEST_OK(tess_prefetch_release(rig.prefetch, rig.streams[0], &tile));
        tess_prefetch_destroy(rig.prefetch);
        rig.prefetch = NULL;
        assert_int_equal(reader.done, 1);
    }
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedules_match_the_model),
        cmocka_unit_test(eager_streams_match_too),
        cmocka_unit_test(cancelled_schedules_leave_tiles_whole),
        cmocka_unit_test(a_stream_may_wait_for_homes),
        cmocka_unit_test(nothing_is_allocated_after_create),
        cmocka_unit_test(memory_stays_within_its_bound),
        cmocka_unit_test(runs_are_limited),
        cmocka_unit_test(schedules_are_checked),
        cmocka_unit_test(acquire_and_release_are_checked),
        cmocka_unit_test(a_tile_may_be_read_by_several),
        cmocka_unit_test(configs_are_checked),
        cmocka_unit_test(the_host_may_run_ahead),
        cmocka_unit_test(destroy_waits_for_write_backs),
        cmocka_unit_test(destroy_waits_for_readers),
    };
    test_need_ranks(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
