/* SPDX-License-Identifier: Apache-2.0 */
/* Streams and events on any device: order within a stream, order across streams, moved marks,
 * deadlines, and errors that travel.
 *
 * A "gate" is queued work that stands still until the test opens it; with it a test decides what
 * is done and what is not, instead of hoping for the timing.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/internal.h"
#include "harness.h"

#define LOG_ENTRIES 4096

typedef struct fixture {
    tess_device_t *device;
    tess_stream_t *a, *b, *c;
    tess_event_t *event;
} fixture_t;

static int set_up(void **state)
{
    fixture_t *f = calloc(1, sizeof *f);
    TEST_OK(tess_device_open(test_device_name(0), &f->device));
    TEST_OK(tess_stream_create(f->device, TESS_PRIORITY_NORMAL, &f->a));
    TEST_OK(tess_stream_create(f->device, TESS_PRIORITY_HIGH, &f->b));
    TEST_OK(tess_stream_create(f->device, TESS_PRIORITY_NORMAL, &f->c));
    TEST_OK(tess_event_create(f->device, TESS_EVENT_ORDER, &f->event));
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_t *f = *state;
    tess_event_destroy(f->event);
    tess_stream_destroy(f->a);
    tess_stream_destroy(f->b);
    tess_stream_destroy(f->c);
    tess_device_close(f->device);
    free(f);
    return 0;
}

static tess_status_t stand_at_gate(void *argument)
{
    _Atomic int *gate = argument;
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    while (!atomic_load(gate)) tessi_backoff_pause(&backoff);
    return TESS_OK;
}

/* Deliberately not atomic: what orders the streams must order these writes too. */
typedef struct order_log {
    int count;
    int values[LOG_ENTRIES];
} order_log_t;

typedef struct note {
    order_log_t *log;
    int value;
} note_t;

static tess_status_t write_note(void *argument)
{
    note_t *note = argument;
    note->log->values[note->log->count++] = note->value;
    return TESS_OK;
}

static tess_status_t fail_as_told(void *argument)
{
    return tessi_fail(TESS_ERR_STATE, "boom %d", *(int *)argument);
}

static void work_runs_in_order(void **state)
{
    fixture_t *f = *state;
    static order_log_t log;
    static note_t notes[LOG_ENTRIES];
    log.count = 0;
    for (int i = 0; i < LOG_ENTRIES; i++) {
        notes[i] = (note_t){&log, i};
        TEST_OK(tess_stream_call(f->a, write_note, &notes[i]));
    }
    TEST_OK(tess_stream_synchronize(f->a, -1));
    assert_int_equal(log.count, LOG_ENTRIES);
    for (int i = 0; i < LOG_ENTRIES; i++) assert_int_equal(log.values[i], i);
    TEST_OK(tess_stream_query(f->a));
}

static void copies_and_fills_run_in_order(void **state)
{
    fixture_t *f = *state;
    const int64_t bytes = 1 << 20;
    unsigned char *back = malloc((size_t)bytes);
    void *first = NULL, *second = NULL;
    TEST_OK(tess_memory_allocate(f->device, TESS_MEMORY_DEVICE, bytes, &first));
    TEST_OK(tess_memory_allocate(f->device, TESS_MEMORY_DEVICE, bytes, &second));
    for (int i = 0; i < 20; i++) {
        TEST_OK(tess_stream_fill(f->a, first, i, bytes));
        TEST_OK(tess_stream_copy(f->a, second, first, bytes));
        TEST_OK(tess_stream_fill(f->a, first, 255 - i, bytes));
    }
    TEST_OK(tess_stream_copy(f->a, back, second, bytes));
    TEST_OK(tess_stream_synchronize(f->a, -1));
    for (int64_t i = 0; i < bytes; i++) assert_int_equal(back[i], 19);
    tess_memory_free(f->device, TESS_MEMORY_DEVICE, first);
    tess_memory_free(f->device, TESS_MEMORY_DEVICE, second);
    free(back);
}

static void events_order_streams(void **state)
{
    fixture_t *f = *state;
    static order_log_t log;
    static note_t notes[300];
    tess_stream_t *streams[] = {f->a, f->b, f->c};
    log.count = 0;
    for (int i = 0; i < 300; i++) {
        tess_stream_t *stream = streams[i % 3];
        if (i > 0) TEST_OK(tess_stream_wait_event(stream, f->event));
        notes[i] = (note_t){&log, i};
        TEST_OK(tess_stream_call(stream, write_note, &notes[i]));
        TEST_OK(tess_event_record(f->event, stream));
    }
    TEST_OK(tess_event_synchronize(f->event, -1));
    assert_int_equal(log.count, 300);
    for (int i = 0; i < 300; i++) assert_int_equal(log.values[i], i);
    TEST_OK(tess_event_query(f->event));
}

static void unrecorded_event_is_passed(void **state)
{
    fixture_t *f = *state;
    TEST_OK(tess_stream_wait_event(f->a, f->event));
    TEST_OK(tess_event_query(f->event));
    TEST_OK(tess_event_synchronize(f->event, 0));
    TEST_OK(tess_stream_synchronize(f->a, 10000));
}

static void deadlines_are_kept(void **state)
{
    fixture_t *f = *state;
    _Atomic int gate = 0;
    TEST_OK(tess_stream_call(f->a, stand_at_gate, &gate));
    TEST_OK(tess_event_record(f->event, f->a));
    TEST_STATUS(tess_stream_query(f->a), TESS_NOT_READY);
    TEST_STATUS(tess_event_query(f->event), TESS_NOT_READY);
    int64_t before = tessi_now_ns();
    TEST_STATUS(tess_stream_synchronize(f->a, 30), TESS_ERR_TIMEOUT);
    assert_true(tessi_now_ns() - before >= 30000000);
    assert_non_null(strstr(tess_last_error(), "30 ms"));
    TEST_STATUS(tess_event_synchronize(f->event, 30), TESS_ERR_TIMEOUT);
    TEST_STATUS(tess_stream_synchronize(f->a, 0), TESS_ERR_TIMEOUT);
    setenv("TESS_TIMEOUT_MS", "20", 1);
    TEST_STATUS(tess_stream_synchronize(f->a, -1), TESS_ERR_TIMEOUT);
    unsetenv("TESS_TIMEOUT_MS");
    atomic_store(&gate, 1);
    TEST_OK(tess_stream_synchronize(f->a, -1));
    TEST_OK(tess_event_query(f->event));
}

static void waiting_stream_stands_still(void **state)
{
    fixture_t *f = *state;
    _Atomic int gate = 0;
    order_log_t *log = calloc(1, sizeof *log);
    note_t first = {log, 1}, second = {log, 2};
    TEST_OK(tess_stream_call(f->a, stand_at_gate, &gate));
    TEST_OK(tess_stream_call(f->a, write_note, &first));
    TEST_OK(tess_event_record(f->event, f->a));
    TEST_OK(tess_stream_wait_event(f->b, f->event));
    TEST_OK(tess_stream_call(f->b, write_note, &second));
    TEST_STATUS(tess_stream_synchronize(f->b, 30), TESS_ERR_TIMEOUT);
    atomic_store(&gate, 1);
    TEST_OK(tess_stream_synchronize(f->b, -1));
    assert_int_equal(log->count, 2);
    assert_int_equal(log->values[0], 1);
    assert_int_equal(log->values[1], 2);
    free(log);
}

/* The wait keeps the mark that was there when it was queued, whatever happens to the event. */
static void moved_mark_leaves_earlier_waits(void **state)
{
    fixture_t *f = *state;
    _Atomic int gate = 0;
    tess_event_t *doomed = NULL;
    TEST_OK(tess_event_create(f->device, TESS_EVENT_ORDER, &doomed));
    TEST_OK(tess_stream_call(f->a, stand_at_gate, &gate));
    TEST_OK(tess_event_record(f->event, f->a));
    TEST_OK(tess_event_record(doomed, f->a));
    TEST_OK(tess_stream_wait_event(f->b, f->event));
    TEST_OK(tess_event_record(f->event, f->c)); /* c is idle: the new mark is reached */
    TEST_OK(tess_event_synchronize(f->event, -1));
    TEST_STATUS(tess_stream_synchronize(f->b, 30), TESS_ERR_TIMEOUT);

    TEST_OK(tess_stream_wait_event(f->c, doomed));
    tess_event_destroy(doomed);
    TEST_STATUS(tess_stream_synchronize(f->c, 30), TESS_ERR_TIMEOUT);
    atomic_store(&gate, 1);
    TEST_OK(tess_stream_synchronize(f->b, -1));
    TEST_OK(tess_stream_synchronize(f->c, -1));
}

static tess_status_t sleep_20_ms(void *argument)
{
    (void)argument;
    int64_t end_ns = tessi_now_ns() + 20000000;
    while (tessi_now_ns() < end_ns) sched_yield();
    return TESS_OK;
}

static void elapsed_time_is_measured(void **state)
{
    fixture_t *f = *state;
    tess_event_t *start = NULL, *end = NULL;
    _Atomic int gate = 0;
    double elapsed_ms = -1;
    TEST_OK(tess_event_create(f->device, TESS_EVENT_TIMING, &start));
    TEST_OK(tess_event_create(f->device, TESS_EVENT_TIMING, &end));
    for (int round = 0; round < 3; round++) {
        TEST_OK(tess_event_record(start, f->a));
        TEST_OK(tess_stream_call(f->a, sleep_20_ms, NULL));
        TEST_OK(tess_event_record(end, f->a));
        TEST_OK(tess_event_synchronize(end, -1));
        TEST_OK(tess_event_elapsed(start, end, &elapsed_ms));
        /* Clocks of a GPU and of its host differ by a small fraction. */
        if (elapsed_ms < 19.5 || elapsed_ms > 10000) fail_msg("20 ms took %g ms", elapsed_ms);
    }
    TEST_OK(tess_stream_call(f->a, stand_at_gate, &gate));
    TEST_OK(tess_event_record(end, f->a));
    TEST_STATUS(tess_event_elapsed(start, end, &elapsed_ms), TESS_ERR_STATE);
    tess_event_destroy(end); /* while its stamp is still to be written */
    atomic_store(&gate, 1);
    TEST_OK(tess_stream_synchronize(f->a, -1));
    tess_event_destroy(start);
}

static int is_precise(void)
{
    return strcmp(test_device_kind(), "host") == 0;
}

static void first_error_stays_and_travels(void **state)
{
    fixture_t *f = *state;
    static int seven = 7, eight = 8;
    TEST_OK(tess_event_record(f->event, f->a)); /* before the failure: carries none */
    TEST_OK(tess_stream_wait_event(f->c, f->event));
    TEST_OK(tess_stream_call(f->a, fail_as_told, &seven));
    TEST_OK(tess_stream_call(f->a, fail_as_told, &eight));
    for (int i = 0; i < 2; i++) {
        TEST_STATUS(tess_stream_synchronize(f->a, -1), TESS_ERR_STATE);
        assert_string_equal(tess_last_error(), "boom 7");
    }
    TEST_STATUS(tess_stream_query(f->a), TESS_ERR_STATE);
    /* The host knows what came before the failure; on CUDA all that ever waited fails. */
    tess_status_t before = is_precise() ? TESS_OK : TESS_ERR_STATE;
    TEST_STATUS(tess_event_synchronize(f->event, -1), before);
    TEST_STATUS(tess_stream_synchronize(f->c, -1), before);

    TEST_OK(tess_event_record(f->event, f->a)); /* after it */
    TEST_OK(tess_stream_wait_event(f->b, f->event));
    (void)tessi_fail(TESS_ERR_SYSTEM, "something else");
    TEST_STATUS(tess_stream_synchronize(f->b, -1), TESS_ERR_STATE);
    assert_string_equal(tess_last_error(), "boom 7");
    TEST_STATUS(tess_event_synchronize(f->event, -1), TESS_ERR_STATE);
    assert_string_equal(tess_last_error(), "boom 7");
    TEST_STATUS(tess_stream_synchronize(f->c, -1), before);
}

static tess_status_t fail_silently(void *argument)
{
    (void)argument;
    return TESS_ERR_SYSTEM;
}

static tess_status_t inform(void *argument)
{
    (void)argument;
    return TESS_NOT_READY;
}

static void failure_without_a_sentence(void **state)
{
    fixture_t *f = *state;
    TEST_OK(tess_stream_call(f->b, inform, NULL)); /* positive: no failure */
    TEST_OK(tess_stream_synchronize(f->b, -1));
    TEST_OK(tess_stream_call(f->a, fail_silently, NULL));
    (void)tessi_fail(TESS_ERR_STATE, "unrelated");
    TEST_STATUS(tess_stream_synchronize(f->a, -1), TESS_ERR_SYSTEM);
    assert_null(strstr(tess_last_error(), "unrelated"));
}

static void failed_from_outside(void **state)
{
    fixture_t *f = *state;
    static order_log_t log;
    note_t note = {&log, 1};
    log.count = 0;
    TEST_OK(tess_event_record(f->event, f->a));
    tessi_stream_fail(f->a, TESS_ERR_PEER_LOST, "rank 3 left");
    tessi_stream_fail(f->a, TESS_ERR_TIMEOUT, "too late");
    TEST_STATUS(tess_event_synchronize(f->event, -1), is_precise() ? TESS_OK : TESS_ERR_PEER_LOST);
    TEST_OK(tess_stream_call(f->a, write_note, &note));
    TEST_OK(tess_event_record(f->event, f->a));
    TEST_STATUS(tess_stream_synchronize(f->a, -1), TESS_ERR_PEER_LOST);
    assert_string_equal(tess_last_error(), "rank 3 left");
    assert_int_equal(log.count, 0);
    TEST_STATUS(tess_event_synchronize(f->event, -1), TESS_ERR_PEER_LOST);
}

static void destroy_waits_for_queued_work(void **state)
{
    fixture_t *f = *state;
    static order_log_t log;
    static note_t notes[50];
    tess_stream_t *stream = NULL;
    TEST_OK(tess_stream_create(f->device, TESS_PRIORITY_NORMAL, &stream));
    log.count = 0;
    for (int i = 0; i < 50; i++) {
        notes[i] = (note_t){&log, i};
        TEST_OK(tess_stream_call(stream, write_note, &notes[i]));
    }
    TEST_OK(tess_event_record(f->event, stream));
    tess_stream_destroy(stream);
    assert_int_equal(log.count, 50);
    TEST_OK(tess_event_query(f->event)); /* the mark outlives its stream */
    TEST_OK(tess_stream_wait_event(f->a, f->event));
    TEST_OK(tess_stream_synchronize(f->a, -1));
}

#define TEST_WITH_STREAMS(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    test_need_ranks(1);
    const struct CMUnitTest tests[] = {
        TEST_WITH_STREAMS(work_runs_in_order),
        TEST_WITH_STREAMS(copies_and_fills_run_in_order),
        TEST_WITH_STREAMS(events_order_streams),
        TEST_WITH_STREAMS(unrecorded_event_is_passed),
        TEST_WITH_STREAMS(deadlines_are_kept),
        TEST_WITH_STREAMS(waiting_stream_stands_still),
        TEST_WITH_STREAMS(moved_mark_leaves_earlier_waits),
        TEST_WITH_STREAMS(elapsed_time_is_measured),
        TEST_WITH_STREAMS(first_error_stays_and_travels),
        TEST_WITH_STREAMS(failure_without_a_sentence),
        TEST_WITH_STREAMS(failed_from_outside),
        TEST_WITH_STREAMS(destroy_waits_for_queued_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
