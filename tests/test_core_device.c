/* SPDX-License-Identifier: Apache-2.0 */
/* Opening devices, their properties, memory of each kind, and every argument check. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/internal.h"
#include "harness.h"

static tess_device_t *open_device(void)
{
    tess_device_t *device = NULL;
    TEST_OK(tess_device_open(test_device_name(0), &device));
    return device;
}

static int is_cuda(void)
{
    return strcmp(test_device_kind(), "cuda") == 0;
}

static void opens_by_name(void **state)
{
    (void)state;
    tess_device_t *device = open_device();
    assert_string_equal(tess_device_name(device), test_device_name(0));
    assert_int_equal(tess_device_kind(device), is_cuda() ? TESS_DEVICE_CUDA : TESS_DEVICE_HOST);
    tess_device_close(device);
    tess_device_close(NULL);
    assert_int_equal(tess_device_count(TESS_DEVICE_HOST), 1);
    assert_int_equal(tess_device_count((tess_device_kind_t)9), 0);
    if (!is_cuda()) return;
    assert_true(tess_device_count(TESS_DEVICE_CUDA) >= 1);
    TEST_OK(tess_device_open("cuda", &device));
    assert_string_equal(tess_device_name(device), "cuda:0");
    tess_device_close(device);
}

static void unknown_names_are_refused(void **state)
{
    (void)state;
    const char *bad[] = {"",       "gpu",     "Host",    "host:0",       "cuda:",
                         "cuda:x", "cuda:-1", "cuda:1x", "cuda:9999999", "cuda:99999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tess_device_t *device = NULL;
        TEST_STATUS(tess_device_open(bad[i], &device), TESS_ERR_NOT_FOUND);
        assert_null(device);
        if (!strstr(tess_last_error(), "there are: host") || !strstr(tess_last_error(), bad[i]))
            fail_msg("\"%s\" does not name what there is", tess_last_error());
    }
}

static void properties_are_plausible(void **state)
{
    (void)state;
    tess_device_t *device = open_device();
    tess_device_properties_t properties;
    memset(&properties, 0x55, sizeof properties);
    TEST_OK(tess_device_properties(device, &properties));
    assert_int_equal(properties.kind, tess_device_kind(device));
    assert_int_equal(properties.index, 0);
    assert_true(strlen(properties.name) > 0);
    assert_true(properties.memory_total_bytes >= 64 << 20);
    assert_in_range(properties.memory_free_bytes, 1, properties.memory_total_bytes);
    assert_in_range(properties.multiprocessors, 1, 4096);
    if (is_cuda()) {
        assert_true(properties.compute_major >= 7);
        assert_true(properties.runtime_version >= 11000);
        assert_true(strlen(properties.bus_id) >= 12);
    } else {
        assert_int_equal(properties.compute_major, 0);
        assert_int_equal(properties.driver_version, 0);
        assert_string_equal(properties.bus_id, "");
        assert_true(properties.multiprocessors <= (int)sysconf(_SC_NPROCESSORS_CONF));
        assert_null(strchr(properties.name, '\n'));
    }
    tess_device_close(device);
}

/* Writes a pattern through the device and reads it back, so that all of the memory is touched. */
static void check_usable(tess_device_t *device, tess_stream_t *stream, void *memory, int64_t bytes)
{
    unsigned char *pattern = malloc((size_t)bytes + 1), *back = malloc((size_t)bytes + 1);
    for (int64_t i = 0; i < bytes; i++) pattern[i] = (unsigned char)(i * 7 + 3);
    memset(back, 0, (size_t)bytes);
    TEST_OK(tess_stream_copy(stream, memory, pattern, bytes));
    TEST_OK(tess_stream_copy(stream, back, memory, bytes));
    TEST_OK(tess_stream_synchronize(stream, -1));
    assert_memory_equal(back, pattern, (size_t)bytes);
    free(pattern);
    free(back);
    (void)device;
}

static void memory_of_each_kind(void **state)
{
    (void)state;
    const tess_memory_kind_t kinds[] = {TESS_MEMORY_DEVICE, TESS_MEMORY_PINNED,
                                        TESS_MEMORY_PAGEABLE};
    const int64_t sizes[] = {0, 1, 63, 4096, 100000, 5 << 20};
    tess_device_t *device = open_device();
    tess_stream_t *stream = NULL;
    TEST_OK(tess_stream_create(device, TESS_PRIORITY_NORMAL, &stream));
    for (size_t k = 0; k < 3; k++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            void *memory = NULL;
            TEST_OK(tess_memory_allocate(device, kinds[k], sizes[s], &memory));
            assert_non_null(memory);
            assert_int_equal((uintptr_t)memory % 64, 0);
            check_usable(device, stream, memory, sizes[s]);
            tess_memory_free(device, kinds[k], memory);
        }
        tess_memory_free(device, kinds[k], NULL);
    }
    tess_stream_destroy(stream);
    tess_device_close(device);
}

static void impossible_memory_is_refused(void **state)
{
    (void)state;
    tess_device_t *device = open_device();
    const tess_memory_kind_t kinds[] = {TESS_MEMORY_DEVICE, TESS_MEMORY_PINNED,
                                        TESS_MEMORY_PAGEABLE};
    for (size_t k = 0; k < 3; k++) {
        void *memory = &memory;
        /* Page-locking is the driver's business, which such a request might trouble. */
        if (is_cuda() && kinds[k] == TESS_MEMORY_PINNED) continue;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
        /* Sanitizers end the program on such a request instead of refusing it. */
        if (kinds[k] != TESS_MEMORY_PINNED) continue;
#endif
        TEST_STATUS(tess_memory_allocate(device, kinds[k], (int64_t)1 << 60, &memory),
                    TESS_ERR_OUT_OF_MEMORY);
        assert_ptr_equal(memory, &memory);
        assert_non_null(strstr(tess_last_error(), "1152921504606846976"));
        if (!is_cuda()) assert_non_null(strstr(tess_last_error(), "bytes are free"));
    }
    tess_device_close(device);
}

/* Maps `pages` pages of ordinary memory; *bytes says how much that is. */
static void *map_pages(int64_t pages, int64_t *bytes)
{
    *bytes = pages * (int64_t)sysconf(_SC_PAGESIZE);
    void *memory = mmap(NULL, (size_t)*bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* What the system says that this process has locked; 0 where it does not tell. */
static int64_t locked_bytes(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long long kib = 0;
    while (file && fgets(line, sizeof line, file) && sscanf(line, "VmLck: %lld", &kib) != 1)
        continue;
    if (file) fclose(file);
    return kib * 1024;
}

static void memory_is_registered(void **state)
{
    (void)state;
    tess_device_t *device = open_device();
    tess_stream_t *stream = NULL;
    TEST_OK(tess_stream_create(device, TESS_PRIORITY_NORMAL, &stream));
    for (int64_t pages = 1; pages <= 256; pages *= 16) {
        int64_t bytes, before = locked_bytes();
        void *memory = map_pages(pages, &bytes);
        assert_non_null(memory);
        for (int twice = 0; twice < 2; twice++) {
            /* The last page counts whole. */
            TEST_OK(tess_memory_register(device, memory, bytes - 100));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they leave out mlock */
            if (!is_cuda()) assert_int_equal(locked_bytes() - before, bytes);
#endif
            check_usable(device, stream, memory, bytes - 100);
            tess_memory_unregister(device, memory, bytes - 100);
            assert_int_equal(locked_bytes(), before);
        }
        munmap(memory, (size_t)bytes);
    }
    tess_memory_unregister(device, NULL, 1);
    tess_stream_destroy(stream);
    tess_device_close(device);
}

/* Address space is cheap: pages that were never touched, and twice as many as there is room for. */
static void more_than_is_free_is_not_registered(void **state)
{
    (void)state;
    tess_device_t *device = open_device(), *host = NULL;
    tess_device_properties_t properties;
    TEST_OK(tess_device_open("host", &host));
    TEST_OK(tess_device_properties(host, &properties));
    int64_t bytes, page_bytes = sysconf(_SC_PAGESIZE);
    void *memory = map_pages(properties.memory_total_bytes / page_bytes * 2, &bytes);
    if (!memory) skip(); /* this machine does not overcommit */
    TEST_STATUS(tess_memory_register(device, memory, bytes), TESS_ERR_OUT_OF_MEMORY);
    char amount[64];
    snprintf(amount, sizeof amount, "%lld bytes", (long long)bytes);
    if (!strstr(tess_last_error(), amount) || !strstr(tess_last_error(), "bytes are free") ||
        !strstr(tess_last_error(), "bytes too few"))
        fail_msg("\"%s\" does not say what is missing", tess_last_error());
    munmap(memory, (size_t)bytes);
    tess_device_close(host);
    tess_device_close(device);
}

/* A child without privileges and with 64 KiB of lockable memory; cmocka's asserts cannot be used
 * there. 0: as it should be; 77: this machine does not enforce the limit for us. */
static int lock_more_than_allowed(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 77; /* sanitizers replace mlock by nothing */
#endif
    const struct rlimit limit = {64 << 10, 64 << 10};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return 77;
    if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) return 77;
    tess_device_t *device;
    void *memory = NULL;
    RANK_OK(tess_device_open("host", &device));
    RANK_OK(tess_memory_allocate(device, TESS_MEMORY_PINNED, 4096, &memory));
    tess_memory_free(device, TESS_MEMORY_PINNED, memory);
    memory = NULL;
    RANK_CHECK(tess_memory_allocate(device, TESS_MEMORY_PINNED, 1 << 20, &memory) ==
               TESS_ERR_OUT_OF_MEMORY);
    RANK_CHECK(memory == NULL);
    RANK_CHECK(strstr(tess_last_error(), "1048576 bytes"));
    RANK_CHECK(strstr(tess_last_error(), "ulimit -l, in KiB) is 64;"));
    RANK_CHECK(strstr(tess_last_error(), "so 983040 bytes are missing"));
    RANK_CHECK(strstr(tess_last_error(), "ulimit -l unlimited"));
    int64_t bytes, small_bytes;
    void *small = map_pages(1, &small_bytes);
    memory = map_pages(256, &bytes);
    RANK_CHECK(memory && small);
    RANK_OK(tess_memory_register(device, small, small_bytes));
    RANK_CHECK(tess_memory_register(device, memory, bytes) == TESS_ERR_OUT_OF_MEMORY);
    char missing[64];
    snprintf(missing, sizeof missing, "%lld bytes are locked already, so %lld bytes are missing",
             (long long)small_bytes, (long long)(bytes + small_bytes - (64 << 10)));
    RANK_CHECK(strstr(tess_last_error(), "page-lock "));
    RANK_CHECK(strstr(tess_last_error(), missing));
    RANK_CHECK(locked_bytes() == small_bytes);
    tess_memory_unregister(device, small, small_bytes);
    tess_device_close(device);
    return 0;
}

static void lock_limit_is_explained(void **state)
{
    (void)state;
    if (is_cuda()) skip();
    pid_t pid = fork();
    if (pid == 0) _exit(lock_more_than_allowed());
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void faults_are_cleaned_up(void **state)
{
    (void)state;
    tess_device_t *device = open_device();
    void *memory = NULL;
    tessi_fault_arm("memory", 1);
    TEST_STATUS(tess_memory_allocate(device, TESS_MEMORY_DEVICE, 64, &memory),
                TESS_ERR_OUT_OF_MEMORY);
    assert_null(memory);
    tessi_fault_arm("memory", 1);
    int64_t bytes;
    memory = map_pages(1, &bytes);
    TEST_STATUS(tess_memory_register(device, memory, bytes), TESS_ERR_OUT_OF_MEMORY);
    tessi_fault_arm(NULL, 0);
    munmap(memory, (size_t)bytes);
    tess_device_close(device);

    const char *points[] = {"alloc", "thread", "cuda"};
    for (size_t p = 0; p < sizeof points / sizeof *points; p++) {
        for (int n = 1, failed = 1; failed; n++) {
            tess_stream_t *stream = NULL;
            tess_event_t *event = NULL;
            device = NULL;
            tessi_fault_arm(points[p], n);
            failed = tess_device_open(test_device_name(0), &device) < 0 ||
                     tess_stream_create(device, TESS_PRIORITY_HIGH, &stream) < 0 ||
                     tess_event_create(device, TESS_EVENT_TIMING, &event) < 0;
            assert_true(!failed || strlen(tess_last_error()) > 0);
            assert_true(failed == (tessi_fault_arm(NULL, 0) >= n));
            tess_event_destroy(event);
            tess_stream_destroy(stream);
            tess_device_close(device);
        }
    }
}

#define REFUSED(call)                                                                              \
    do {                                                                                           \
        TEST_STATUS(call, TESS_ERR_INVALID_ARGUMENT);                                              \
        assert_true(strlen(tess_last_error()) > 0);                                                \
    } while (0)

static tess_status_t do_nothing(void *argument)
{
    (void)argument;
    return TESS_OK;
}

static void bad_arguments_of_streams(void **state)
{
    (void)state;
    tess_device_t *device = open_device();
    tess_stream_t *stream = NULL;
    void *memory = NULL;
    char *bytes;
    TEST_OK(tess_stream_create(device, TESS_PRIORITY_NORMAL, &stream));
    TEST_OK(tess_memory_allocate(device, TESS_MEMORY_DEVICE, 256, &memory));
    bytes = memory;
    REFUSED(tess_stream_create(NULL, TESS_PRIORITY_NORMAL, &stream));
    REFUSED(tess_stream_create(device, TESS_PRIORITY_NORMAL, NULL));
    REFUSED(tess_stream_create(device, (tess_stream_priority_t)5, &stream));
    REFUSED(tess_stream_wrap(NULL, NULL, &stream));
    REFUSED(tess_stream_wrap(device, NULL, NULL));
    REFUSED(tess_stream_synchronize(NULL, 0));
    REFUSED(tess_stream_query(NULL));
    REFUSED(tess_stream_call(NULL, do_nothing, NULL));
    REFUSED(tess_stream_call(stream, NULL, NULL));
    REFUSED(tess_stream_copy(NULL, bytes, bytes + 128, 128));
    REFUSED(tess_stream_copy(stream, NULL, bytes, 128));
    REFUSED(tess_stream_copy(stream, bytes, NULL, 128));
    REFUSED(tess_stream_copy(stream, bytes, bytes + 128, -1));
    REFUSED(tess_stream_copy(stream, bytes, bytes + 100, 101));
    REFUSED(tess_stream_copy(stream, bytes + 100, bytes, 101));
    REFUSED(tess_stream_copy(stream, bytes, bytes, 1));
    REFUSED(tess_stream_fill(NULL, bytes, 0, 128));
    REFUSED(tess_stream_fill(stream, NULL, 0, 128));
    REFUSED(tess_stream_fill(stream, bytes, 256, 128));
    REFUSED(tess_stream_fill(stream, bytes, -1, 128));
    REFUSED(tess_stream_fill(stream, bytes, 0, -128));
    TEST_OK(tess_stream_copy(stream, bytes, bytes + 128, 128));
    TEST_OK(tess_stream_copy(stream, NULL, NULL, 0));
    TEST_OK(tess_stream_fill(stream, NULL, 0, 0));
    TEST_OK(tess_stream_synchronize(stream, -1));
    if (!is_cuda()) {
        tess_stream_t *wrapped = NULL;
        TEST_STATUS(tess_stream_wrap(device, NULL, &wrapped), TESS_ERR_UNSUPPORTED);
        assert_null(wrapped);
        assert_null(tess_stream_native(stream));
    }
    assert_ptr_equal(tess_stream_device(stream), device);
    tess_stream_destroy(stream);
    tess_stream_destroy(NULL);
    tess_memory_free(device, TESS_MEMORY_DEVICE, memory);
    tess_device_close(device);
}

static void bad_arguments_of_the_rest(void **state)
{
    (void)state;
    tess_device_t *device = open_device();
    tess_stream_t *stream = NULL;
    tess_event_t *event = NULL, *timing = NULL;
    tess_device_properties_t properties;
    void *memory = NULL;
    double elapsed_ms = -1;
    int64_t page_bytes;
    char *page = map_pages(1, &page_bytes);
    TEST_OK(tess_stream_create(device, TESS_PRIORITY_NORMAL, &stream));
    TEST_OK(tess_event_create(device, TESS_EVENT_ORDER, &event));
    TEST_OK(tess_event_create(device, TESS_EVENT_TIMING, &timing));
    REFUSED(tess_device_open(NULL, &device));
    REFUSED(tess_device_open("host", NULL));
    REFUSED(tess_device_properties(NULL, &properties));
    REFUSED(tess_device_properties(device, NULL));
    REFUSED(tess_memory_allocate(NULL, TESS_MEMORY_DEVICE, 1, &memory));
    REFUSED(tess_memory_allocate(device, TESS_MEMORY_DEVICE, 1, NULL));
    REFUSED(tess_memory_allocate(device, TESS_MEMORY_DEVICE, -1, &memory));
    REFUSED(tess_memory_allocate(device, (tess_memory_kind_t)3, 1, &memory));
    REFUSED(tess_memory_register(NULL, page, 1));
    REFUSED(tess_memory_register(device, NULL, 1));
    REFUSED(tess_memory_register(device, page, 0));
    REFUSED(tess_memory_register(device, page, -1));
    REFUSED(tess_memory_register(device, page + 64, 1));
    REFUSED(tess_memory_register(device, (void *)(UINTPTR_MAX / 65536 * 65536), INT64_MAX));
    REFUSED(tess_event_create(NULL, TESS_EVENT_ORDER, &event));
    REFUSED(tess_event_create(device, TESS_EVENT_ORDER, NULL));
    REFUSED(tess_event_create(device, (tess_event_mode_t)2, &event));
    REFUSED(tess_event_record(NULL, stream));
    REFUSED(tess_event_record(event, NULL));
    REFUSED(tess_stream_wait_event(NULL, event));
    REFUSED(tess_stream_wait_event(stream, NULL));
    REFUSED(tess_event_query(NULL));
    REFUSED(tess_event_synchronize(NULL, 0));
    REFUSED(tess_event_elapsed(NULL, timing, &elapsed_ms));
    REFUSED(tess_event_elapsed(timing, NULL, &elapsed_ms));
    REFUSED(tess_event_elapsed(timing, timing, NULL));
    REFUSED(tess_event_elapsed(timing, event, &elapsed_ms));
    REFUSED(tess_event_elapsed(event, timing, &elapsed_ms));
    assert_true(tess_event_elapsed(timing, timing, &elapsed_ms) < 0); /* never recorded */
    assert_true(elapsed_ms == -1);
    munmap(page, (size_t)page_bytes);
    tess_event_destroy(timing);
    tess_event_destroy(event);
    tess_event_destroy(NULL);
    tess_stream_destroy(stream);
    tess_device_close(device);
}

static void host_and_cuda_do_not_mix(void **state)
{
    (void)state;
    if (!is_cuda()) skip();
    tess_device_t *cuda = open_device(), *host = NULL;
    tess_stream_t *host_stream = NULL;
    tess_event_t *event = NULL;
    int local = 0;
    void *memory = NULL;
    TEST_OK(tess_device_open("host", &host));
    TEST_OK(tess_stream_create(host, TESS_PRIORITY_NORMAL, &host_stream));
    TEST_OK(tess_event_create(cuda, TESS_EVENT_ORDER, &event));
    TEST_OK(tess_memory_allocate(cuda, TESS_MEMORY_DEVICE, 64, &memory));
    REFUSED(tess_event_record(event, host_stream));
    REFUSED(tess_stream_wait_event(host_stream, event));
    assert_true(tessi_pointer_is_device(memory));
    assert_false(tessi_pointer_is_device(&local));
    tess_memory_free(cuda, TESS_MEMORY_DEVICE, memory);
    tess_event_destroy(event);
    tess_stream_destroy(host_stream);
    tess_device_close(host);
    tess_device_close(cuda);
}

int main(void)
{
    test_need_ranks(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lock_limit_is_explained), /* forks: before CUDA is initialised */
        cmocka_unit_test(opens_by_name),
        cmocka_unit_test(unknown_names_are_refused),
        cmocka_unit_test(properties_are_plausible),
        cmocka_unit_test(memory_of_each_kind),
        cmocka_unit_test(impossible_memory_is_refused),
        cmocka_unit_test(memory_is_registered),
        cmocka_unit_test(more_than_is_free_is_not_registered),
        cmocka_unit_test(faults_are_cleaned_up),
        cmocka_unit_test(bad_arguments_of_streams),
        cmocka_unit_test(bad_arguments_of_the_rest),
        cmocka_unit_test(host_and_cuda_do_not_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
