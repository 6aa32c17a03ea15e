/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine has: processor name, processors this process may use, and memory.
 *
 * Invariant: where a control group (a container) allows less memory than the machine has, the lower
 * figure counts, for the total and for what is free. What cannot be read is left out, never
 * guessed.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host_backend.h"

#define PATH_BYTES 1024
#define CPUS_MAX 65536

/* The first number behind `key` at the start of a line; -1 where there is none. key "" reads a file
 * that holds one number; "max" is no number. */
static int64_t read_number(const char *path, const char *key)
{
    FILE *file = fopen(path, "re");
    if (!file) return -1;
    char line[256];
    int64_t value = -1;
    while (value < 0 && fgets(line, sizeof line, file)) {
        size_t length = strlen(key);
        if (strncmp(line, key, length) != 0) continue;
        if (sscanf(line + length, "%*[: \t]%" SCNd64, &value) != 1 &&
            sscanf(line + length, "%" SCNd64, &value) != 1)
            value = -1;
    }
    fclose(file);
    return value;
}

/* One version of control groups keeps its figures in these files. */
typedef struct group_layout {
    const char *root;
    const char *limit, *usage;
    const char *cache_keys[2]; /* of memory.stat: cached files, which give way */
} group_layout_t;

static const group_layout_t group_v1 = {"/sys/fs/cgroup/memory",
                                        "memory.limit_in_bytes",
                                        "memory.usage_in_bytes",
                                        {"total_inactive_file", "total_active_file"}};
static const group_layout_t group_v2 = {
    "/sys/fs/cgroup", "memory.max", "memory.current", {"inactive_file", "active_file"}};

static int64_t read_group(const group_layout_t *layout, const char *group, const char *file,
                          const char *key)
{
    char path[PATH_BYTES];
    int length = snprintf(path, sizeof path, "%s%s/%s", layout->root, group, file);
    return length < (int)sizeof path ? read_number(path, key) : -1;
}

static void lower_to(int64_t *value, int64_t limit)
{
    if (limit >= 0 && (*value < 0 || limit < *value)) *value = limit;
}

/* Applies the limits of a group and of all groups above it; group is shortened meanwhile. */
static void apply_group(const group_layout_t *layout, char *group, int64_t *total, int64_t *free)
{
    for (;;) {
        int64_t limit = read_group(layout, group, layout->limit, "");
        int64_t usage = read_group(layout, group, layout->usage, "");
        lower_to(total, limit);
        if (limit >= 0 && usage >= 0) {
            int64_t held = usage;
            for (int i = 0; i < 2; i++) {
                int64_t cache = read_group(layout, group, "memory.stat", layout->cache_keys[i]);
                if (cache > 0 && cache < held) held -= cache;
            }
            lower_to(free, limit > held ? limit - held : 0);
        }
        char *slash = strrchr(group, '/');
        if (!slash) return;
        *slash = '\0';
    }
}

void tessi_machine_group(int64_t *total, int64_t *free)
{
    *total = *free = -1;
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[PATH_BYTES];
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group++ = '\0';
        if (strcmp(group, "/") == 0) *group = '\0';
        if (strcmp(controllers + 1, "") == 0) apply_group(&group_v2, group, total, free);
        else if (strcmp(controllers + 1, "memory") == 0) apply_group(&group_v1, group, total, free);
    }
    if (file) fclose(file);
}

void tessi_machine_memory(int64_t *total_bytes, int64_t *free_bytes)
{
    int64_t total_kib = read_number("/proc/meminfo", "MemTotal");
    int64_t free_kib = read_number("/proc/meminfo", "MemAvailable");
    int64_t total = total_kib >= 0 ? total_kib * 1024 : -1;
    int64_t free = free_kib >= 0 ? free_kib * 1024 : -1;
    int64_t group_total, group_free;
    tessi_machine_group(&group_total, &group_free);
    lower_to(&total, group_total);
    lower_to(&free, group_free);
    *total_bytes = total >= 0 ? total : 0;
    *free_bytes = free >= 0 ? free : 0;
}

void tessi_machine_cpu_name(char *name, size_t name_bytes)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];
    snprintf(name, name_bytes, "unknown processor");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (!colon || strncmp(line, "model name", 10) != 0) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(name, name_bytes, "%s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    if (file) fclose(file);
}

int tessi_machine_cpu_count(void)
{
    /* The kernel refuses a set that is smaller than its own; grow until it takes it. */
    for (size_t cpus = 1024; cpus <= CPUS_MAX; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (!set) break;
        size_t set_bytes = CPU_ALLOC_SIZE(cpus);
        CPU_ZERO_S(set_bytes, set);
        int failed = sched_getaffinity(0, set_bytes, set), error = errno;
        int count = failed ? 0 : CPU_COUNT_S(set_bytes, set);
        CPU_FREE(set);
        if (count > 0) return count;
        if (error != EINVAL) break;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}
