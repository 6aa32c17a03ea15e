/* SPDX-License-Identifier: Apache-2.0 */
/* The pinned arena when something is missing or wrong: what it says, what it does not do, and that
 * nothing is left behind.
 */
#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena_rig.h"
#include "core/internal.h"

/* --- what it says -------------------------------------------------------------------------------
 */

static void refusals_say_what_is_free(void **state)
{
    (void)state;
    tess_arena_t *arena = rig_create(65536);
    void *pieces[16], *more = NULL;
    for (int i = 0; i < 16; i++) TEST_OK(tess_arena_allocate(arena, 4096, 1, &pieces[i]));
    for (int i = 0; i < 16; i += 2) tess_arena_free(arena, pieces[i]);
    TEST_STATUS(tess_arena_allocate(arena, 4097, 64, &more), TESS_ERR_OUT_OF_MEMORY);
    assert_null(more);
    rig_assert_says(tess_last_error(), "cannot allocate 4097 bytes aligned to 64");
    rig_assert_says(tess_last_error(),
                    "32768 of 65536 bytes are free, at most 4096 of them in one");
    rig_assert_says(tess_last_error(), "(pieces in use: 8)");
    for (int i = 1; i < 16; i += 2) tess_arena_free(arena, pieces[i]);
    tess_arena_destroy(arena);
}

static void more_than_there_is_is_refused(void **state)
{
    (void)state;
    for (int pageable = 0; pageable < 2; pageable++) {
        tess_device_t *host = NULL;
        tess_device_properties_t properties;
        tess_arena_t *arena = NULL;
        TEST_OK(tess_device_open("host", &host));
        TEST_OK(tess_device_properties(host, &properties));
        tess_device_close(host);
        tess_arena_config_t config = rig_config(properties.memory_total_bytes * 2);
        config.allow_pageable = pageable;
        TEST_STATUS(tess_arena_create(rig_device, &config, &arena), TESS_ERR_OUT_OF_MEMORY);
        assert_null(arena);
        rig_assert_says(tess_last_error(), "bytes are free");
        rig_assert_says(tess_last_error(), "bytes too few");
        config.bytes = (int64_t)1 << 50;
        TEST_STATUS(tess_arena_create(rig_device, &config, &arena), TESS_ERR_OUT_OF_MEMORY);
        rig_assert_says(tess_last_error(), "take 1125899906842624 bytes");
        rig_assert_says(tess_last_error(), "bytes too few");
        config.bytes = INT64_MAX;
        TEST_STATUS(tess_arena_create(rig_device, &config, &arena), TESS_ERR_OUT_OF_MEMORY);
        rig_assert_says(tess_last_error(), "9223372036854775807 bytes");
    }
}

/* A child without privileges and with 64 KiB of lockable memory. 77: the limit does not hold here.
 */
static int create_beyond_the_lock_limit(void)
{
    const struct rlimit limit = {64 << 10, 64 << 10};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return 77;
    if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) return 77;
    tess_device_t *host = NULL;
    tess_arena_t *arena = NULL;
    RANK_OK(tess_device_open("host", &host));
    tess_arena_config_t config = rig_config(32768);
    RANK_OK(tess_arena_create(host, &config, &arena));
    tess_arena_destroy(arena);
    arena = NULL;
    config.bytes = MIB;
    RANK_CHECK(tess_arena_create(host, &config, &arena) == TESS_ERR_OUT_OF_MEMORY);
    RANK_CHECK(arena == NULL);
    RANK_CHECK(strstr(tess_last_error(), "1048576 bytes"));
    RANK_CHECK(strstr(tess_last_error(), "ulimit -l, in KiB) is 64;"));
    RANK_CHECK(strstr(tess_last_error(), "983040 bytes are missing"));
    RANK_CHECK(strstr(tess_last_error(), "`ulimit -l unlimited`"));
    RANK_CHECK(strstr(tess_last_error(), "`--ulimit memlock=-1`"));

    /* The same unlocked, which the parent sees on stderr. */
    tess_arena_statistics_t statistics;
    void *piece = NULL;
    config.allow_pageable = 1;
    RANK_OK(tess_arena_create(host, &config, &arena));
    tess_arena_statistics(arena, &statistics);
    RANK_CHECK(statistics.locked_bytes == 0 && statistics.capacity_bytes == MIB);
    RANK_OK(tess_arena_allocate(arena, MIB, 1, &piece));
    memset(piece, 1, MIB);
    tess_arena_free(arena, piece);
    tess_arena_destroy(arena);
    tess_device_close(host);
    return 0;
}

static void lock_limit_is_explained(void **state)
{
    (void)state;
    if (rig_is_cuda() || RIG_SANITIZED) skip();
    rig_keep_stderr();
    pid_t pid = fork();
    if (pid == 0) _exit(create_beyond_the_lock_limit());
    int status;
    pid_t waited = waitpid(pid, &status, 0);
    const char *text = rig_kept_stderr();
    assert_int_equal(waited, pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail_msg("status %d: %s", status, text);
    rig_assert_says(text, "1048576 bytes on host stay pageable");
    rig_assert_says(text, "ulimit -l, in KiB) is 64;");
}

static int write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    if (!file) return -1;
    int failed = fputs(text, file) < 0;
    return fclose(file) != 0 || failed ? -1 : 0;
}

/* Shows this process, and no other, a control group that leaves 1 MiB of 64. */
static int pretend_control_group(void)
{
    const char *root = "/sys/fs/cgroup";
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return -1;
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return -1;
    if (mount("none", root, "tmpfs", 0, NULL) != 0 || chdir(root) != 0) return -1;
    return write_file("memory.max", "67108864\n") || write_file("memory.current", "67108864\n") ||
           write_file("memory.stat", "inactive_file 1048576\n") || mkdir("memory", 0700) ||
           write_file("memory/memory.limit_in_bytes", "67108864\n") ||
           write_file("memory/memory.usage_in_bytes", "67108864\n") ||
           write_file("memory/memory.stat", "total_inactive_file 1048576\n");
}

static int create_beyond_the_control_group(void)
{
    if (pretend_control_group() != 0) return 77;
    tess_device_t *host = NULL;
    tess_arena_t *arena = NULL;
    RANK_OK(tess_device_open("host", &host));
    tess_arena_config_t config = rig_config(MIB);
    RANK_OK(tess_arena_create(host, &config, &arena));
    tess_arena_destroy(arena);
    config.bytes = 3 * MIB;
    config.allow_pageable = 1; /* there is no such memory, locked or not */
    RANK_CHECK(tess_arena_create(host, &config, &arena) == TESS_ERR_OUT_OF_MEMORY);
    fprintf(stderr, "%s\n", tess_last_error());
    tess_device_close(host);
    return 0;
}

static void control_group_is_blamed(void **state)
{
    (void)state;
    if (rig_is_cuda()) skip();
    rig_keep_stderr();
    pid_t pid = fork();
    if (pid == 0) _exit(create_beyond_the_control_group());
    int status;
    pid_t waited = waitpid(pid, &status, 0);
    const char *text = rig_kept_stderr();
    assert_int_equal(waited, pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail_msg("status %d: %s", status, text);
    rig_assert_says(text, "cannot take 3145728 bytes of host memory for an arena on host: ");
    rig_assert_says(text, "1048576 of 67108864 bytes are free under the control group's limit");
    rig_assert_says(text, "2097152 bytes too few");
}

static void pageable_only_when_asked_for(void **state)
{
    (void)state;
    tess_arena_config_t config = rig_config(MIB);
    tess_arena_t *arena = NULL;
    tessi_fault_arm("memory", 1);
    TEST_STATUS(tess_arena_create(rig_device, &config, &arena), TESS_ERR_OUT_OF_MEMORY);
    assert_null(arena);
    config.allow_pageable = 1;
    tessi_fault_arm("memory", 1);
    rig_keep_stderr();
    tess_status_t status = tess_arena_create(rig_device, &config, &arena);
    const char *text = rig_kept_stderr();
    tessi_fault_arm(NULL, 0);
    TEST_OK(status);
    rig_assert_says(text, "1048576 bytes on ");
    rig_assert_says(text, "stay pageable");
    assert_int_equal(rig_statistics(arena).locked_bytes, 0);
    tess_arena_destroy(arena);
}

static void leaks_are_reported(void **state)
{
    (void)state;
    for (int leaked = 0; leaked <= 2; leaked++) {
        tess_arena_t *arena = rig_create(65536);
        void *pieces[3];
        for (int i = 0; i < 3; i++) TEST_OK(tess_arena_allocate(arena, 1000, 64, &pieces[i]));
        for (int i = 0; i < 3 - leaked; i++) tess_arena_free(arena, pieces[i]);
        rig_keep_stderr();
        tess_arena_destroy(arena);
        const char *text = rig_kept_stderr();
        if (leaked == 0) assert_string_equal(text, "");
        if (leaked == 1) rig_assert_says(text, "1 piece was not freed, 1024 bytes together");
        if (leaked == 1) rig_assert_says(text, "the first has 1024 bytes at offset 2048");
        if (leaked == 2) rig_assert_says(text, "2 pieces were not freed, 2048 bytes together");
        if (leaked == 2) rig_assert_says(text, "the first has 1024 bytes at offset 1024");
    }
}

static void strange_pointers_are_reported(void **state)
{
    (void)state;
    tess_arena_t *arena = rig_create(65536);
    void *piece = NULL;
    int local = 0;
    TEST_OK(tess_arena_allocate(arena, 1000, 1, &piece));
    void *const strange[] = {&local, (char *)piece + 1, (char *)piece + 64, (char *)piece + 65536};
    for (size_t s = 0; s < sizeof strange / sizeof *strange; s++) {
        rig_keep_stderr();
        tess_arena_free(arena, strange[s]);
        rig_assert_says(rig_kept_stderr(), "is no piece of this arena");
        assert_int_equal(rig_statistics(arena).used_bytes, 1024);
    }
    tess_arena_free(arena, piece);
    rig_keep_stderr();
    tess_arena_free(arena, piece);
    rig_assert_says(rig_kept_stderr(), "or was freed before");
    tess_arena_destroy(arena);
}

/* --- what goes wrong ----------------------------------------------------------------------------
 */

#define REFUSED(call, part)                                                                        \
    do {                                                                                           \
        TEST_STATUS(call, TESS_ERR_INVALID_ARGUMENT);                                              \
        rig_assert_says(tess_last_error(), part);                                                  \
    } while (0)

static void bad_arguments(void **state)
{
    (void)state;
    tess_arena_config_t config = rig_config(4096), bad;
    tess_arena_t *arena = NULL;
    REFUSED(tess_arena_create(NULL, &config, &arena), "device is NULL");
    REFUSED(tess_arena_create(rig_device, NULL, &arena), "config is NULL");
    REFUSED(tess_arena_create(rig_device, &config, NULL), "arena is NULL");
    bad = rig_config(0);
    REFUSED(tess_arena_create(rig_device, &bad, &arena), "bytes is 0");
    bad = rig_config(-1);
    REFUSED(tess_arena_create(rig_device, &bad, &arena), "bytes is -1");
    bad = config, bad.numa_node = -2;
    REFUSED(tess_arena_create(rig_device, &bad, &arena), "numa_node is -2");
    bad = config, bad.huge_pages = 2;
    REFUSED(tess_arena_create(rig_device, &bad, &arena), "huge_pages is 2");
    bad = config, bad.allow_pageable = -1;
    REFUSED(tess_arena_create(rig_device, &bad, &arena), "allow_pageable is -1");
    bad = config, bad.threads = -1;
    REFUSED(tess_arena_create(rig_device, &bad, &arena), "threads is -1");
    bad = config, bad.threads = 1025;
    REFUSED(tess_arena_create(rig_device, &bad, &arena), "threads is 1025");
    assert_null(arena);

    void *piece = NULL;
    arena = rig_create(4096);
    REFUSED(tess_arena_allocate(NULL, 1, 1, &piece), "arena is NULL");
    REFUSED(tess_arena_allocate(arena, 1, 1, NULL), "pointer is NULL");
    REFUSED(tess_arena_allocate(arena, -1, 1, &piece), "bytes is -1");
    const int64_t alignments[] = {0, -1, 3, 48, 4 * MIB, INT64_MIN};
    for (size_t a = 0; a < sizeof alignments / sizeof *alignments; a++)
        REFUSED(tess_arena_allocate(arena, 1, alignments[a], &piece), "alignment is ");
    assert_null(piece);
    TEST_STATUS(tess_arena_allocate(arena, INT64_MAX, 2 * MIB, &piece), TESS_ERR_OUT_OF_MEMORY);
    tess_arena_destroy(arena);
}

static int entries(const char *folder_name)
{
    int count = 0;
    DIR *folder = opendir(folder_name);
    assert_non_null(folder);
    while (readdir(folder)) count++;
    closedir(folder);
    return count;
}

/* A size that nothing else maps, so that what stays behind is recognised. */
#define WALK_BYTES (5 * MIB + 12288)

static int mappings_of(int64_t bytes)
{
    FILE *file = fopen("/proc/self/maps", "r");
    assert_non_null(file);
    char line[512];
    int count = 0;
    unsigned long long start, end;
    while (fgets(line, sizeof line, file))
        count += sscanf(line, "%llx-%llx", &start, &end) == 2 && end - start == (uint64_t)bytes;
    fclose(file);
    return count;
}

/* Returns how many faults were met. */
static int walk(const char *point)
{
    int files = entries("/proc/self/fd");
    int64_t locked = rig_status_bytes("VmLck:");
    for (int n = 1; n < 200; n++) {
        tess_arena_config_t config = rig_config(WALK_BYTES);
        tess_arena_t *arena = NULL;
        config.threads = 3;
        tessi_fault_arm(point, n);
        tess_status_t status = tess_arena_create(rig_device, &config, &arena);
        int passes = tessi_fault_arm(NULL, 0);
        if ((passes >= n) != (status < 0) || (arena == NULL) != (status < 0))
            fail_msg("%s %d: %d passes, but got %s", point, n, passes, tess_status_name(status));
        assert_true(status == TESS_OK || *tess_last_error());
        tess_arena_destroy(arena);
        assert_int_equal(entries("/proc/self/fd"), files);
        assert_int_equal(rig_status_bytes("VmLck:"), locked);
        assert_int_equal(mappings_of(WALK_BYTES), 0);
        if (passes < n) return n - 1;
    }
    fail_msg("%s: faults without end", point);
    return 0;
}

static void every_fault_is_survived(void **state)
{
    (void)state;
    tess_arena_t *arena = rig_create(WALK_BYTES); /* what the process keeps is made now */
    assert_int_equal(mappings_of(WALK_BYTES), 1);
    tess_arena_destroy(arena);
    int allocs = walk("alloc"), memories = walk("memory"), maps = walk("map");
    int threads = walk("thread"), cudas = walk("cuda");
    print_message("failed in turn: %d allocations, %d locks, %d maps, %d threads, %d of CUDA\n",
                  allocs, memories, maps, threads, cudas);
    assert_true(allocs >= 4);
    assert_int_equal(memories, 1);
    assert_int_equal(maps, 1);
    assert_int_equal(threads, 3);
    assert_true(rig_is_cuda() ? cudas >= 1 : cudas == 0);
}

/* Nothing is asked of the system once the arena stands. */
static void pieces_cost_no_allocation(void **state)
{
    (void)state;
    static const char *const points[] = {"alloc", "memory", "map", "thread"};
    tess_arena_t *arena = rig_create(MIB);
    for (size_t p = 0; p < sizeof points / sizeof *points; p++) {
        void *piece = NULL;
        tessi_fault_arm(points[p], 1);
        TEST_OK(tess_arena_allocate(arena, 1000, 4096, &piece));
        tess_arena_free(arena, piece);
        (void)rig_statistics(arena);
        assert_int_equal(tessi_fault_arm(NULL, 0), 0);
    }
    tess_arena_destroy(arena);
}

int main(void)
{
    test_need_ranks(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lock_limit_is_explained),
        cmocka_unit_test(control_group_is_blamed),
        cmocka_unit_test(refusals_say_what_is_free),
        cmocka_unit_test(more_than_there_is_is_refused),
        cmocka_unit_test(pageable_only_when_asked_for),
        cmocka_unit_test(leaks_are_reported),
        cmocka_unit_test(strange_pointers_are_reported),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(every_fault_is_survived),
        cmocka_unit_test(pieces_cost_no_allocation),
    };
    return cmocka_run_group_tests(tests, rig_open_device, rig_close_device);
}
