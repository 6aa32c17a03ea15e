/* SPDX-License-Identifier: Apache-2.0 */
/* What a profiler sees of core: this program runs itself under a recorder and reads the record.
 *
 * The child needs no GPU; on a CUDA device it takes the same steps there.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/internal.h"
#include "nvtx_trace.h"

#define THREADS 4
#define RANGES 50
#define TIMED_RUNS 50
#define TIMED_RANGES 20000

static tess_trace_site_t outer_site = TESS_TRACE_SITE(TESS_TRACE_USER, "outer");
static tess_trace_site_t inner_site = TESS_TRACE_SITE(TESS_TRACE_BENCH, "inner");
static tess_trace_site_t point_site = TESS_TRACE_SITE(TESS_TRACE_TRAIN, "point");

static tess_status_t do_nothing(void *argument)
{
    (void)argument;
    return TESS_OK;
}

/* Every public entry point of the device interface that does work, once or twice. */
static void use_device(void)
{
    tess_device_t *device;
    tess_device_properties_t properties;
    tess_stream_t *stream;
    tess_event_t *event;
    void *memory = NULL, *pinned = NULL;
    RANK_OK(tess_device_open(test_device_name(0), &device));
    RANK_OK(tess_device_properties(device, &properties));
    RANK_OK(tess_memory_allocate(device, TESS_MEMORY_DEVICE, 4096, &memory));
    RANK_OK(tess_memory_allocate(device, TESS_MEMORY_PINNED, 12288, &pinned));
    RANK_OK(tess_stream_create(device, TESS_PRIORITY_NORMAL, &stream));
    RANK_OK(tess_event_create(device, TESS_EVENT_ORDER, &event));
    RANK_OK(tess_stream_fill(stream, memory, 1, 4000));
    RANK_OK(tess_stream_copy(stream, pinned, memory, 3000));
    RANK_OK(tess_stream_copy(stream, pinned, memory, 3000));
    RANK_OK(tess_stream_call(stream, do_nothing, NULL));
    RANK_OK(tess_event_record(event, stream));
    RANK_OK(tess_stream_wait_event(stream, event));
    RANK_OK(tess_event_synchronize(event, -1));
    RANK_OK(tess_stream_synchronize(stream, -1));
    /* A call that fails closes its range as well. */
    RANK_CHECK(tess_stream_copy(stream, memory, memory, 16) == TESS_ERR_INVALID_ARGUMENT);
    tess_event_destroy(event);
    tess_stream_destroy(stream);
    tess_memory_free(device, TESS_MEMORY_PINNED, pinned);
    tess_memory_free(device, TESS_MEMORY_DEVICE, memory);
    tess_device_close(device);
}

static void *nest_ranges(void *argument)
{
    int64_t thread = (int64_t)(intptr_t)argument;
    for (int64_t i = 0; i < RANGES; i++) {
        tess_trace_push(&outer_site, (tess_trace_payload_t){1000 + thread, i});
        tess_trace_push(&inner_site, (tess_trace_payload_t){-1, -1});
        tess_trace_mark(&point_site, (tess_trace_payload_t){(int64_t)1 << 40, i});
        tess_trace_pop();
        tess_trace_pop();
    }
    return NULL;
}

static int record_core(void)
{
    use_device();
    tess_trace_set_rank(5);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        RANK_CHECK(pthread_create(&threads[i], NULL, nest_ranges, (void *)(intptr_t)i) == 0);
    for (int i = 0; i < THREADS; i++) RANK_CHECK(pthread_join(threads[i], NULL) == 0);
    return 0;
}

static void expect(const nvtx_trace_t *trace, int count, nvtx_pattern_t pattern)
{
    int got = nvtx_trace_count(trace, &pattern);
    if (got != count)
        fail_msg("%s %s of %s with bytes %lld, index %lld, rank %lld inside \"%s\": got %d, "
                 "expected %d",
                 pattern.event, pattern.name, pattern.category, (long long)pattern.bytes,
                 (long long)pattern.index, (long long)pattern.rank,
                 pattern.inside ? pattern.inside : "*", got, count);
}

static void every_entry_point_has_its_range(void **state)
{
    const nvtx_trace_t *trace = *state;
    const struct {
        const char *name;
        int count;
        int64_t bytes;
    } calls[] = {
        {"device_open", 1, -1},       {"device_close", 1, -1},       {"device_properties", 1, -1},
        {"memory_allocate", 1, 4096}, {"memory_allocate", 1, 12288}, {"memory_free", 2, -1},
        {"stream_create", 1, -1},     {"stream_destroy", 1, -1},     {"stream_fill", 1, 4000},
        {"stream_copy", 2, 3000},     {"stream_copy", 1, 16},        {"stream_call", 1, -1},
        {"stream_wait_event", 1, -1}, {"stream_synchronize", 1, -1}, {"event_create", 1, -1},
        {"event_destroy", 1, -1},     {"event_record", 1, -1},       {"event_synchronize", 1, -1},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        expect(trace, calls[i].count,
               (nvtx_pattern_t){"push", "core", calls[i].name, calls[i].bytes, -1, -1, ""});
}

static void ranges_nest_and_carry_payloads(void **state)
{
    const nvtx_trace_t *trace = *state;
    for (int i = 0; i < THREADS; i++)
        expect(trace, RANGES, (nvtx_pattern_t){"push", "user", "outer", 1000 + i, NVTX_ANY, 5, ""});
    expect(trace, THREADS, (nvtx_pattern_t){"push", "user", "outer", NVTX_ANY, RANGES - 1, 5, ""});
    expect(trace, THREADS * RANGES, (nvtx_pattern_t){"push", "bench", "inner", -1, -1, 5, "outer"});
    expect(trace, THREADS,
           (nvtx_pattern_t){"mark", "train", "point", (int64_t)1 << 40, 7, 5, "inner"});
}

static void names_are_registered_once_a_site(void **state)
{
    const nvtx_trace_t *trace = *state;
    assert_int_equal(nvtx_trace_registrations(trace, "outer"), 1);
    assert_int_equal(nvtx_trace_registrations(trace, "inner"), 1);
    assert_int_equal(nvtx_trace_registrations(trace, "point"), 1);
    assert_int_equal(nvtx_trace_registrations(trace, "stream_copy"), 1);
    assert_int_equal(nvtx_trace_registrations(trace, "never used"), 0);
}

/* Nobody listens in this process. The best of several runs, because the machine may be busy; the
 * bound is some hundred times what two calls and loads take, and catches strings, locks or look-ups
 * on this path. */
static void ranges_cost_nothing_unheard(void **state)
{
    (void)state;
    if (getenv("NVTX_INJECTION64_PATH")) skip();
    double best_ns = 1e9;
    for (int run = 0; run < TIMED_RUNS; run++) {
        int64_t start_ns = tessi_now_ns();
        for (int i = 0; i < TIMED_RANGES; i++) {
            tess_trace_push(&outer_site, (tess_trace_payload_t){i, i});
            tess_trace_pop();
        }
        double each_ns = (double)(tessi_now_ns() - start_ns) / TIMED_RANGES;
        if (each_ns < best_ns) best_ns = each_ns;
    }
    printf("push and pop with nobody listening: %.2f ns\n", best_ns);
    assert_null(outer_site.registered);
    assert_true(best_ns < 500);
}

static int record(void **state)
{
    *state = nvtx_trace_record("record");
    return 0;
}

static int forget(void **state)
{
    nvtx_trace_free(*state);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "record") == 0) return record_core();
    test_need_ranks(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_entry_point_has_its_range),
        cmocka_unit_test(ranges_nest_and_carry_payloads),
        cmocka_unit_test(names_are_registered_once_a_site),
        cmocka_unit_test(ranges_cost_nothing_unheard),
    };
    return cmocka_run_group_tests(tests, record, forget);
}
