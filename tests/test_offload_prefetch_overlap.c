/* SPDX-License-Identifier: Apache-2.0 */
/* That reads, compute and write-backs really run at once, shown by order and not by time: compute
 * of one tile ends only after something that must happen beside it. Were the two in turns, the
 * program would stand still.
 */
#include <semaphore.h>

#include "offload_prefetch_rig.h"

static tess_status_t post(void *semaphore)
{
    return sem_post(semaphore) == 0 ? TESS_OK : TESS_ERR_SYSTEM;
}

static tess_status_t wait(void *semaphore)
{
    while (sem_wait(semaphore) != 0) continue;
    return TESS_OK;
}

static void begin(rig_t *rig, sem_t *event, int in_store)
{
    assert_int_equal(sem_init(event, 0, 0), 0);
    rig_open(rig, 1);
    rig->tile_count = 12;
    rig_array(rig, in_store, 700, 700, TESS_PREFETCH_READ_WRITE);
    rig_create(rig, 3);
    rig_schedule(rig, 0, 1, 12);
}

static void end(rig_t *rig, sem_t *event)
{
    TEST_OK(tess_prefetch_synchronize(rig->prefetch, -1));
    rig_end(rig);
    rig_close(rig);
    sem_destroy(event);
}

/* Compute of tile t ends when tile t + 1 has arrived. */
static void reads_beside_compute(int in_store)
{
    rig_t rig;
    sem_t arrived;
    begin(&rig, &arrived, in_store);
    assert_int_equal(rig_acquire(&rig, 0), 1);
    for (int t = 0; t + 1 < 12; t++) {
        TEST_OK(tess_stream_call(rig.streams[0], wait, &arrived));
        tess_prefetch_tile_t next;
        TEST_OK(tess_prefetch_acquire(rig.prefetch, rig.streams[1], &next));
        TEST_OK(tess_stream_call(rig.streams[1], post, &arrived));
        rig_release(&rig, 0, 0);
        rig.out[rig.out_count].tile = next;
        rig.out[rig.out_count++].stream = 1;
        rig.out[0].stream = 1;
        rig.next++;
        TEST_OK(tess_event_record(rig.handover, rig.streams[1]));
        TEST_OK(tess_stream_wait_event(rig.streams[0], rig.handover));
        rig.out[0].stream = 0;
    }
    rig_release(&rig, 0, 0);
    end(&rig, &arrived);
}

static void memory_is_read_beside_compute(void **state)
{
    (void)state;
    reads_beside_compute(0);
}

static void files_are_read_beside_compute(void **state)
{
    (void)state;
    reads_beside_compute(1);
}

/* Compute of tile t + 1 ends when tile t is home. */
static void write_backs_run_beside_compute(void **state)
{
    (void)state;
    rig_t rig;
    sem_t home;
    tess_stream_t *watcher;
    begin(&rig, &home, 0);
    TEST_OK(tess_stream_create(rig.device, TESS_PRIORITY_NORMAL, &watcher));
    assert_int_equal(rig_acquire(&rig, 0), 1);
    rig_release(&rig, 0, 0);
    for (int t = 1; t < 12; t++) {
        TEST_OK(tess_prefetch_wait_home(rig.prefetch, watcher));
        TEST_OK(tess_stream_call(watcher, post, &home));
        assert_int_equal(rig_acquire(&rig, 0), 1);
        TEST_OK(tess_stream_call(rig.streams[0], wait, &home));
        rig_release(&rig, 0, 0);
    }
    TEST_OK(tess_stream_synchronize(watcher, -1));
    tess_stream_destroy(watcher);
    end(&rig, &home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_read_beside_compute),
        cmocka_unit_test(files_are_read_beside_compute),
        cmocka_unit_test(write_backs_run_beside_compute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
