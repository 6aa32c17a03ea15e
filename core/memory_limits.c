/* SPDX-License-Identifier: Apache-2.0 */
/* What stands in the way of more memory, in words: the machine, its control group, and the limit of
 * locked memory.
 *
 * Invariant: a limit is only blamed, and a remedy only given, where the amount asked for does not
 * fit under it by the figures that the system shows.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "host_backend.h"

#define CAPABILITY_IPC_LOCK 14
#define PAGES_AT_ONCE 4096

tess_status_t tessi_memory_check(int64_t bytes, const char *what)
{
    int64_t total_bytes, free_bytes, group_total_bytes, group_free_bytes;
    tessi_machine_memory(&total_bytes, &free_bytes);
    if (total_bytes <= 0 || bytes <= free_bytes) return TESS_OK;
    tessi_machine_group(&group_total_bytes, &group_free_bytes);
    int group_decides =
        group_free_bytes >= 0 && group_free_bytes < bytes && group_total_bytes <= total_bytes;
    return tessi_fail(TESS_ERR_OUT_OF_MEMORY,
                      "cannot %s: %" PRId64 " of %" PRId64 " bytes are free%s, %" PRId64
                      " bytes too few",
                      what, free_bytes, total_bytes,
                      group_decides ? " under the control group's limit (memory.max, or `--memory` "
                                      "of a container)"
                                    : " (MemAvailable in /proc/meminfo)",
                      bytes - free_bytes);
}

int64_t tessi_memory_absent(const void *pointer, int64_t bytes)
{
    unsigned char present[PAGES_AT_ONCE]; /* bit 0 of each: in memory */
    int64_t page_bytes = sysconf(_SC_PAGESIZE), absent_pages = 0;
    int64_t page_count = bytes / page_bytes + (bytes % page_bytes > 0);
    for (int64_t first = 0; first < page_count; first += PAGES_AT_ONCE) {
        int64_t count = page_count - first < PAGES_AT_ONCE ? page_count - first : PAGES_AT_ONCE;
        char *start = (char *)pointer + first * page_bytes;
        /* What is no memory at all needs no room; whoever uses it will be told. */
        if (mincore(start, (size_t)(count * page_bytes), present) != 0) break;
        for (int64_t i = 0; i < count; i++) absent_pages += !(present[i] & 1);
    }
    return absent_pages * page_bytes;
}

/* What the system tells of this process's locked memory. */
typedef struct lock_state {
    int64_t locked_bytes;
    int exempt; /* may lock without limit */
} lock_state_t;

static lock_state_t read_lock_state(void)
{
    lock_state_t state = {0, 0};
    FILE *file = fopen("/proc/self/status", "re");
    char line[256];
    while (file && fgets(line, sizeof line, file)) {
        int64_t locked_kib;
        uint64_t capabilities;
        if (sscanf(line, "VmLck: %" SCNd64, &locked_kib) == 1)
            state.locked_bytes = locked_kib * 1024;
        else if (sscanf(line, "CapEff: %" SCNx64, &capabilities) == 1)
            state.exempt = (int)(capabilities >> CAPABILITY_IPC_LOCK & 1);
    }
    if (file) fclose(file);
    return state;
}

tess_status_t tessi_fail_lock(int64_t bytes, const char *what, const char *cause)
{
    struct rlimit limit;
    char amount[32] = "unlimited", remedy[320] = "";
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        lock_state_t state = read_lock_state();
        uint64_t limit_bytes = limit.rlim_cur;
        uint64_t wanted_bytes = (uint64_t)bytes + (uint64_t)state.locked_bytes;
        snprintf(amount, sizeof amount, "%" PRIu64, limit_bytes / 1024);
        if (!state.exempt && wanted_bytes > limit_bytes)
            snprintf(remedy, sizeof remedy,
                     "; %" PRId64 " bytes are locked already, so %" PRIu64
                     " bytes are missing; raise it with `ulimit -l unlimited`, "
                     "LimitMEMLOCK=infinity in a systemd unit, or `--ulimit memlock=-1` for a "
                     "container",
                     state.locked_bytes, wanted_bytes - limit_bytes);
    }
    int64_t total_bytes, free_bytes;
    tessi_machine_memory(&total_bytes, &free_bytes);
    return tessi_fail(TESS_ERR_OUT_OF_MEMORY,
                      "cannot %s: %s; the limit of locked memory (ulimit -l, in KiB) is %s%s "
                      "(%" PRId64 " of %" PRId64 " bytes are free)",
                      what, cause, amount, remedy, free_bytes, total_bytes);
}
