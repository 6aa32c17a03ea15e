/* SPDX-License-Identifier: Apache-2.0 */
/* The device, the process's figures and its stderr, for the tests of the arena. */
#include "arena_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

tess_device_t *rig_device;

int rig_open_device(void **state)
{
    (void)state;
    TEST_OK(tess_device_open(test_device_name(0), &rig_device));
    return 0;
}

int rig_close_device(void **state)
{
    (void)state;
    tess_device_close(rig_device);
    return 0;
}

int rig_is_cuda(void)
{
    return strcmp(test_device_kind(), "cuda") == 0;
}

int rig_may_lock(int64_t bytes)
{
    struct rlimit limit;
    return rig_is_cuda() || geteuid() == 0 || getrlimit(RLIMIT_MEMLOCK, &limit) != 0 ||
           (uint64_t)bytes <= (uint64_t)limit.rlim_cur;
}

tess_arena_config_t rig_config(int64_t bytes)
{
    tess_arena_config_t config = TESS_ARENA_CONFIG_DEFAULT;
    config.bytes = bytes;
    return config;
}

tess_arena_t *rig_create(int64_t bytes)
{
    tess_arena_config_t config = rig_config(bytes);
    tess_arena_t *arena = NULL;
    TEST_OK(tess_arena_create(rig_device, &config, &arena));
    return arena;
}

tess_arena_statistics_t rig_statistics(const tess_arena_t *arena)
{
    tess_arena_statistics_t statistics;
    memset(&statistics, 0x55, sizeof statistics);
    tess_arena_statistics(arena, &statistics);
    return statistics;
}

int64_t rig_status_bytes(const char *key)
{
    FILE *file = fopen("/proc/self/status", "r");
    assert_non_null(file);
    char line[256];
    long long kib = 0;
    size_t length = strlen(key);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, key, length) == 0) kib = atoll(line + length);
    fclose(file);
    return kib * 1024;
}

static int real_stderr = -1;
static FILE *kept;

void rig_keep_stderr(void)
{
    fflush(stderr);
    kept = tmpfile();
    assert_non_null(kept);
    real_stderr = dup(STDERR_FILENO);
    dup2(fileno(kept), STDERR_FILENO);
}

const char *rig_kept_stderr(void)
{
    static char text[4096];
    fflush(stderr);
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    rewind(kept);
    size_t length = fread(text, 1, sizeof text - 1, kept);
    text[length] = '\0';
    fclose(kept);
    return text;
}

void rig_assert_says(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("\"%s\" does not say \"%s\"", text, part);
}
