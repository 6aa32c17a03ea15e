/* SPDX-License-Identifier: Apache-2.0 */
/* What only host streams promise: a bounded queue, skipping after a failure, eager mode, giving up
 * on work that never ends, and a queue that is fast enough to be worth having. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/internal.h"
#include "harness.h"

#define RING_ENTRIES 1024

static tess_device_t *device;

static int open_host(void **state)
{
    (void)state;
    return tess_device_open("host", &device) != TESS_OK;
}

static int close_host(void **state)
{
    (void)state;
    tess_device_close(device);
    return 0;
}

static tess_stream_t *new_stream(void)
{
    tess_stream_t *stream = NULL;
    TEST_OK(tess_stream_create(device, TESS_PRIORITY_NORMAL, &stream));
    return stream;
}

static tess_event_t *new_event(tess_event_mode_t mode)
{
    tess_event_t *event = NULL;
    TEST_OK(tess_event_create(device, mode, &event));
    return event;
}

static tess_status_t stand_at_gate(void *argument)
{
    _Atomic int *gate = argument;
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    while (!atomic_load(gate)) tessi_backoff_pause(&backoff);
    return TESS_OK;
}

static tess_status_t count_up(void *argument)
{
    ++*(int *)argument;
    return TESS_OK;
}

static tess_status_t count_behind(void *argument)
{
    ++**(int **)argument;
    return TESS_OK;
}

static tess_status_t fail_now(void *argument)
{
    (void)argument;
    return tessi_fail(TESS_ERR_STATE, "boom");
}

static void full_queue_has_a_deadline(void **state)
{
    (void)state;
    tess_stream_t *stream = new_stream();
    _Atomic int gate = 0;
    int count = 0;
    TEST_OK(tess_stream_call(stream, stand_at_gate, &gate));
    for (int i = 1; i < RING_ENTRIES; i++) TEST_OK(tess_stream_call(stream, count_up, &count));
    setenv("TESS_TIMEOUT_MS", "30", 1);
    TEST_STATUS(tess_stream_call(stream, count_up, &count), TESS_ERR_TIMEOUT);
    assert_non_null(strstr(tess_last_error(), "stayed full for 30 ms"));
    unsetenv("TESS_TIMEOUT_MS");
    atomic_store(&gate, 1);
    TEST_OK(tess_stream_synchronize(stream, -1));
    assert_int_equal(count, RING_ENTRIES - 1);
    tess_stream_destroy(stream);
}

static void *open_gate_soon(void *argument)
{
    int64_t end_ns = tessi_now_ns() + 20000000;
    tessi_backoff_t backoff = TESSI_BACKOFF_START;
    while (tessi_now_ns() < end_ns) tessi_backoff_pause(&backoff);
    atomic_store((_Atomic int *)argument, 1);
    return NULL;
}

static void full_queue_makes_the_caller_wait(void **state)
{
    (void)state;
    tess_stream_t *stream = new_stream();
    _Atomic int gate = 0;
    int count = 0;
    pthread_t opener;
    TEST_OK(tess_stream_call(stream, stand_at_gate, &gate));
    assert_int_equal(pthread_create(&opener, NULL, open_gate_soon, &gate), 0);
    for (int i = 0; i < 5 * RING_ENTRIES; i++) TEST_OK(tess_stream_call(stream, count_up, &count));
    TEST_OK(tess_stream_synchronize(stream, -1));
    assert_int_equal(count, 5 * RING_ENTRIES);
    pthread_join(opener, NULL);
    tess_stream_destroy(stream);
}

static void work_after_a_failure_is_skipped(void **state)
{
    (void)state;
    tess_stream_t *a = new_stream(), *b = new_stream();
    tess_event_t *event = new_event(TESS_EVENT_ORDER), *timing = new_event(TESS_EVENT_TIMING);
    _Atomic int gate = 0;
    int count = 0, kept = 0;
    double elapsed_ms = -1;
    TEST_OK(tess_event_record(timing, a));
    TEST_OK(tess_stream_call(a, stand_at_gate, &gate));
    TEST_OK(tess_stream_call(a, fail_now, NULL));
    TEST_OK(tess_stream_call(a, count_up, &count));
    int *bookkeeping = &kept;
    TEST_OK(tessi_stream_push_always(a, count_behind, &bookkeeping, sizeof bookkeeping));
    TEST_OK(tess_event_record(event, a)); /* the failure is still to come */
    TEST_OK(tess_stream_wait_event(b, event));
    TEST_OK(tess_stream_call(b, count_up, &count));
    atomic_store(&gate, 1);
    TEST_STATUS(tess_stream_synchronize(b, -1), TESS_ERR_STATE);
    assert_string_equal(tess_last_error(), "boom");
    TEST_STATUS(tess_event_query(event), TESS_ERR_STATE);
    TEST_STATUS(tess_event_synchronize(event, -1), TESS_ERR_STATE);
    assert_int_equal(count, 0);
    assert_int_equal(kept, 1);
    TEST_OK(tess_event_elapsed(timing, timing, &elapsed_ms));
    assert_true(elapsed_ms == 0);
    tess_event_destroy(event);
    tess_event_destroy(timing);
    tess_stream_destroy(a);
    tess_stream_destroy(b);
}

/* A stream that waits for one that stands still gives up by itself. */
static void queued_wait_has_a_deadline(void **state)
{
    (void)state;
    tess_stream_t *a = new_stream(), *b = new_stream();
    tess_event_t *event = new_event(TESS_EVENT_ORDER);
    _Atomic int gate = 0;
    setenv("TESS_TIMEOUT_MS", "40", 1);
    TEST_OK(tess_stream_call(a, stand_at_gate, &gate));
    TEST_OK(tess_event_record(event, a));
    TEST_OK(tess_stream_wait_event(b, event));
    TEST_STATUS(tess_stream_synchronize(b, 10000), TESS_ERR_TIMEOUT);
    assert_non_null(strstr(tess_last_error(), "not reached after 40 ms"));
    unsetenv("TESS_TIMEOUT_MS");
    atomic_store(&gate, 1);
    TEST_OK(tess_stream_synchronize(a, -1));
    tess_event_destroy(event);
    tess_stream_destroy(a);
    tess_stream_destroy(b);
}

static void destroy_gives_up_in_time(void **state)
{
    (void)state;
    tess_stream_t *stream = new_stream();
    tess_event_t *event = new_event(TESS_EVENT_TIMING);
    static _Atomic int gate;
    static int count;
    atomic_store(&gate, 0);
    TEST_OK(tess_stream_call(stream, stand_at_gate, &gate));
    TEST_OK(tess_stream_call(stream, count_up, &count));
    TEST_OK(tess_event_record(event, stream));
    setenv("TESS_TIMEOUT_MS", "30", 1);
    int64_t before_ns = tessi_now_ns();
    tess_stream_destroy(stream);
    assert_true(tessi_now_ns() - before_ns < (int64_t)10 * 1000000000);
    unsetenv("TESS_TIMEOUT_MS");
    TEST_STATUS(tess_event_query(event), TESS_NOT_READY);
    atomic_store(&gate, 1);
    TEST_STATUS(tess_event_synchronize(event, 10000), TESS_ERR_ABORTED);
    assert_int_equal(count, 0);
    tess_event_destroy(event);
}

typedef struct self_use {
    tess_stream_t *stream;
    tess_status_t synchronized, pushed;
    int count;
} self_use_t;

static tess_status_t use_own_stream(void *argument)
{
    self_use_t *use = argument;
    use->synchronized = tess_stream_synchronize(use->stream, -1);
    do use->pushed = tess_stream_call(use->stream, count_up, &use->count);
    while (use->pushed == TESS_OK);
    return TESS_OK;
}

static void work_cannot_wait_for_itself(void **state)
{
    (void)state;
    self_use_t use = {.stream = new_stream()};
    TEST_OK(tess_stream_call(use.stream, use_own_stream, &use));
    TEST_OK(tess_stream_synchronize(use.stream, 60000));
    TEST_OK(tess_stream_synchronize(use.stream, 60000));
    assert_int_equal(use.synchronized, TESS_ERR_STATE);
    assert_int_equal(use.pushed, TESS_ERR_STATE);
    assert_int_equal(use.count, RING_ENTRIES - 1);
    tess_stream_destroy(use.stream);
}

typedef struct big_argument {
    int *seen;
    unsigned char bytes[TESSI_STREAM_ARGUMENT_BYTES - sizeof(int *)];
} big_argument_t;

static tess_status_t check_bytes(void *argument)
{
    big_argument_t *big = argument;
    for (size_t i = 0; i < sizeof big->bytes; i++)
        if (big->bytes[i] != (unsigned char)(i + 1))
            return tessi_fail(TESS_ERR_STATE, "byte %zu is %d", i, big->bytes[i]);
    ++*big->seen;
    return TESS_OK;
}

static void arguments_are_copied(void **state)
{
    (void)state;
    tess_stream_t *stream = new_stream();
    int seen = 0;
    big_argument_t big = {.seen = &seen};
    assert_int_equal(sizeof big, TESSI_STREAM_ARGUMENT_BYTES);
    for (size_t i = 0; i < sizeof big.bytes; i++) big.bytes[i] = (unsigned char)(i + 1);
    TEST_OK(tessi_stream_push(stream, check_bytes, &big, sizeof big));
    memset(big.bytes, 0, sizeof big.bytes);
    TEST_STATUS(tessi_stream_push(stream, check_bytes, &big, sizeof big + 1),
                TESS_ERR_INVALID_ARGUMENT);
    TEST_OK(tess_stream_synchronize(stream, -1));
    assert_int_equal(seen, 1);
    tess_stream_destroy(stream);
}

static tess_status_t note_thread(void *argument)
{
    *(pthread_t *)argument = pthread_self();
    return TESS_OK;
}

static void eager_streams_run_at_once(void **state)
{
    (void)state;
    setenv("TESS_HOST_STREAMS", "eager", 1);
    tess_stream_t *a = new_stream(), *b = new_stream();
    unsetenv("TESS_HOST_STREAMS");
    tess_event_t *event = new_event(TESS_EVENT_TIMING), *end = new_event(TESS_EVENT_TIMING);
    pthread_t thread;
    int count = 0;
    double elapsed_ms = -1;
    TEST_OK(tess_stream_call(a, note_thread, &thread));
    assert_true(pthread_equal(thread, pthread_self()));
    TEST_OK(tess_event_record(event, a));
    TEST_OK(tess_event_query(event));
    TEST_OK(tess_stream_wait_event(b, event));
    TEST_OK(tess_stream_call(b, count_up, &count));
    assert_int_equal(count, 1);
    TEST_OK(tess_event_record(end, b));
    TEST_OK(tess_event_elapsed(event, end, &elapsed_ms));
    assert_true(elapsed_ms >= 0);
    TEST_OK(tess_stream_call(a, fail_now, NULL));
    TEST_OK(tess_stream_call(a, count_up, &count));
    TEST_STATUS(tess_stream_query(a), TESS_ERR_STATE);
    TEST_STATUS(tess_stream_synchronize(a, -1), TESS_ERR_STATE);
    assert_int_equal(count, 1);
    TEST_OK(tess_event_record(event, a));
    TEST_OK(tess_stream_wait_event(b, event));
    TEST_STATUS(tess_stream_synchronize(b, -1), TESS_ERR_STATE);
    tess_event_destroy(event);
    tess_event_destroy(end);
    tess_stream_destroy(a);
    tess_stream_destroy(b);
}

static void eager_and_threaded_streams_meet(void **state)
{
    (void)state;
    setenv("TESS_HOST_STREAMS", "eager", 1);
    tess_stream_t *eager = new_stream();
    setenv("TESS_HOST_STREAMS", "threads", 1);
    tess_stream_t *threaded = new_stream();
    unsetenv("TESS_HOST_STREAMS");
    tess_event_t *event = new_event(TESS_EVENT_ORDER);
    int count = 0;
    for (int i = 0; i < 100; i++) {
        TEST_OK(tess_stream_call(threaded, count_up, &count));
        TEST_OK(tess_event_record(event, threaded));
        TEST_OK(tess_stream_wait_event(eager, event));
        assert_int_equal(count, 2 * i + 1);
        TEST_OK(tess_stream_call(eager, count_up, &count));
        TEST_OK(tess_event_record(event, eager));
        TEST_OK(tess_stream_wait_event(threaded, event));
    }
    tess_event_destroy(event);
    tess_stream_destroy(eager);
    tess_stream_destroy(threaded);
}

static void unknown_mode_is_refused(void **state)
{
    (void)state;
    tess_stream_t *stream = NULL;
    setenv("TESS_HOST_STREAMS", "lazy", 1);
    TEST_STATUS(tess_stream_create(device, TESS_PRIORITY_NORMAL, &stream),
                TESS_ERR_INVALID_ARGUMENT);
    assert_string_equal(tess_last_error(),
                        "TESS_HOST_STREAMS is \"lazy\", but must be threads or eager");
    assert_null(stream);
    unsetenv("TESS_HOST_STREAMS");
}

static tess_status_t read_mask(void *argument)
{
    pthread_sigmask(SIG_SETMASK, NULL, argument);
    return TESS_OK;
}

static void workers_take_no_signals(void **state)
{
    (void)state;
    tess_stream_t *stream = new_stream();
    sigset_t worker, own;
    TEST_OK(tess_stream_call(stream, read_mask, &worker));
    TEST_OK(tess_stream_synchronize(stream, -1));
    pthread_sigmask(SIG_SETMASK, NULL, &own);
    assert_int_equal(sigismember(&worker, SIGINT), 1);
    assert_int_equal(sigismember(&worker, SIGTERM), 1);
    assert_int_equal(sigismember(&own, SIGINT), 0);
    tess_stream_destroy(stream);
}

/* Prints what queueing costs. The bounds catch a worker that oversleeps or a queue that allocates,
 * not a busy machine: they are some thousand times what an idle one needs. */
static void queueing_is_cheap(void **state)
{
    (void)state;
    tess_stream_t *a = new_stream(), *b = new_stream();
    tess_event_t *event = new_event(TESS_EVENT_ORDER);
    int count = 0;
    const int rounds = 2000;
    int64_t start_ns = tessi_now_ns();
    for (int i = 0; i < rounds; i++) TEST_OK(tess_stream_call(a, count_up, &count));
    TEST_OK(tess_stream_synchronize(a, -1));
    int64_t queued_ns = tessi_now_ns();
    for (int i = 0; i < rounds; i++) {
        TEST_OK(tess_stream_call(a, count_up, &count));
        TEST_OK(tess_stream_synchronize(a, -1));
    }
    int64_t round_trip_ns = tessi_now_ns();
    for (int i = 0; i < rounds; i++) {
        TEST_OK(tess_stream_call(i % 2 ? a : b, count_up, &count));
        TEST_OK(tess_event_record(event, i % 2 ? a : b));
        TEST_OK(tess_stream_wait_event(i % 2 ? b : a, event));
    }
    TEST_OK(tess_stream_synchronize(a, -1));
    TEST_OK(tess_stream_synchronize(b, -1));
    int64_t end_ns = tessi_now_ns();
    printf("call %.2f us, call and synchronize %.2f us, hand-over between streams %.2f us\n",
           (double)(queued_ns - start_ns) * 1e-3 / rounds,
           (double)(round_trip_ns - queued_ns) * 1e-3 / rounds,
           (double)(end_ns - round_trip_ns) * 1e-3 / rounds);
    assert_int_equal(count, 3 * rounds);
    assert_true((end_ns - start_ns) / rounds < 20000000);
    tess_event_destroy(event);
    tess_stream_destroy(a);
    tess_stream_destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_queue_has_a_deadline),
        cmocka_unit_test(full_queue_makes_the_caller_wait),
        cmocka_unit_test(work_after_a_failure_is_skipped),
        cmocka_unit_test(queued_wait_has_a_deadline),
        cmocka_unit_test(destroy_gives_up_in_time),
        cmocka_unit_test(work_cannot_wait_for_itself),
        cmocka_unit_test(arguments_are_copied),
        cmocka_unit_test(eager_streams_run_at_once),
        cmocka_unit_test(eager_and_threaded_streams_meet),
        cmocka_unit_test(unknown_mode_is_refused),
        cmocka_unit_test(workers_take_no_signals),
        cmocka_unit_test(queueing_is_cheap),
    };
    return cmocka_run_group_tests(tests, open_host, close_host);
}
