/* SPDX-License-Identifier: Apache-2.0 */
/* Random copies and fills on random streams, ordered by random events, compared with the same
 * operations done one after another.
 *
 * Two operations that touch one cell, one of them writing, are ordered by an event unless an
 * earlier event already orders them; which streams know of which work is tracked by vector clocks.
 * So the result must be that of the sequential program, and under a thread sanitizer every event
 * must really order memory. Events come from a small pool: they are recorded again, and destroyed,
 * while waits for their earlier marks are still queued.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/internal.h"
#include "harness.h"

#define STREAMS 4
#define EVENTS 5
#define CELLS 12
#define CELL_BYTES 512
#define STEPS 3000
#define ROUNDS 6

typedef struct fuzz {
    uint64_t random;
    tess_device_t *device;
    tess_stream_t *streams[STREAMS];
    tess_event_t *events[EVENTS];
    unsigned char *cells[CELLS]; /* (CELL_BYTES) on the device */
    unsigned char model[CELLS][CELL_BYTES];
    int64_t known[STREAMS][STREAMS]; /* known[s][t]: work of t that s comes after */
    int64_t written[CELLS][STREAMS]; /* last work of each stream that wrote, or read, the cell */
    int64_t read[CELLS][STREAMS];
} fuzz_t;

static int pick(fuzz_t *f, int below)
{
    return (int)(test_random(&f->random) % (uint64_t)below);
}

static void renew_event(fuzz_t *f, int event)
{
    tess_event_destroy(f->events[event]);
    TEST_OK(tess_event_create(f->device, pick(f, 2) ? TESS_EVENT_TIMING : TESS_EVENT_ORDER,
                              &f->events[event]));
}

/* Stream `later` comes after all that `earlier` has queued. */
static void order(fuzz_t *f, int earlier, int later)
{
    int event = pick(f, EVENTS);
    TEST_OK(tess_event_record(f->events[event], f->streams[earlier]));
    TEST_OK(tess_stream_wait_event(f->streams[later], f->events[event]));
    for (int s = 0; s < STREAMS; s++)
        if (f->known[earlier][s] > f->known[later][s]) f->known[later][s] = f->known[earlier][s];
    if (pick(f, 4) == 0) renew_event(f, event);
    if (pick(f, 4) == 0) TEST_OK(tess_event_record(f->events[event], f->streams[later]));
}

static void order_before_use(fuzz_t *f, int cell, int stream, int writes)
{
    for (int other = 0; other < STREAMS; other++) {
        int64_t needed = f->written[cell][other];
        if (writes && f->read[cell][other] > needed) needed = f->read[cell][other];
        if (other != stream && needed > f->known[stream][other]) order(f, other, stream);
    }
}

/* Takes some time, so that what is not ordered would be seen to overtake. */
static tess_status_t dawdle(void *argument)
{
    for (uintptr_t i = 0; i < (uintptr_t)argument; i++) sched_yield();
    return TESS_OK;
}

static void step(fuzz_t *f)
{
    int stream = pick(f, STREAMS), destination = pick(f, CELLS), source = pick(f, CELLS);
    if (pick(f, 8) == 0)
        TEST_OK(tess_stream_call(f->streams[stream], dawdle, (void *)(uintptr_t)pick(f, 30)));
    order_before_use(f, destination, stream, 1);
    if (source != destination) {
        order_before_use(f, source, stream, 0);
        TEST_OK(tess_stream_copy(f->streams[stream], f->cells[destination], f->cells[source],
                                 CELL_BYTES));
        memcpy(f->model[destination], f->model[source], CELL_BYTES);
        f->read[source][stream] = f->known[stream][stream] + 1;
    } else {
        int value = pick(f, 256);
        TEST_OK(tess_stream_fill(f->streams[stream], f->cells[destination], value, CELL_BYTES / 2));
        memset(f->model[destination], value, CELL_BYTES / 2);
    }
    f->written[destination][stream] = ++f->known[stream][stream];
    if (pick(f, 500) == 0) TEST_OK(tess_stream_synchronize(f->streams[stream], -1));
}

static void set_up(fuzz_t *f, uint64_t seed)
{
    memset(f, 0, sizeof *f);
    f->random = seed;
    TEST_OK(tess_device_open(test_device_name(0), &f->device));
    for (int i = 0; i < STREAMS; i++)
        TEST_OK(tess_stream_create(f->device, TESS_PRIORITY_NORMAL, &f->streams[i]));
    for (int i = 0; i < EVENTS; i++) renew_event(f, i);
    for (int i = 0; i < CELLS; i++) {
        void *memory = NULL;
        TEST_OK(tess_memory_allocate(f->device, TESS_MEMORY_DEVICE, CELL_BYTES, &memory));
        f->cells[i] = memory;
        for (int b = 0; b < CELL_BYTES; b++) f->model[i][b] = (unsigned char)pick(f, 256);
        TEST_OK(tess_stream_copy(f->streams[0], memory, f->model[i], CELL_BYTES));
    }
    TEST_OK(tess_stream_synchronize(f->streams[0], -1));
}

static void check_and_tear_down(fuzz_t *f, uint64_t seed)
{
    unsigned char back[CELL_BYTES];
    for (int i = 0; i < STREAMS; i++) TEST_OK(tess_stream_synchronize(f->streams[i], -1));
    for (int i = 0; i < CELLS; i++) {
        TEST_OK(tess_stream_copy(f->streams[1], back, f->cells[i], CELL_BYTES));
        TEST_OK(tess_stream_synchronize(f->streams[1], -1));
        for (int b = 0; b < CELL_BYTES; b++)
            if (back[b] != f->model[i][b])
                fail_msg("seed %llu, cell %d, byte %d: got %d, expected %d",
                         (unsigned long long)seed, i, b, back[b], f->model[i][b]);
        tess_memory_free(f->device, TESS_MEMORY_DEVICE, f->cells[i]);
    }
    for (int i = 0; i < EVENTS; i++) tess_event_destroy(f->events[i]);
    for (int i = 0; i < STREAMS; i++) tess_stream_destroy(f->streams[i]);
    tess_device_close(f->device);
}

static void random_programs_give_sequential_results(void **state)
{
    (void)state;
    static fuzz_t f;
    const char *chosen = getenv("TESS_TEST_SEED");
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint64_t seed = chosen ? strtoull(chosen, NULL, 10) : 1000 + round;
        set_up(&f, seed);
        for (int i = 0; i < STEPS; i++) step(&f);
        check_and_tear_down(&f, seed);
    }
}

int main(void)
{
    test_need_ranks(1);
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_programs_give_sequential_results)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
