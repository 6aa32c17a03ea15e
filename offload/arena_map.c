/* SPDX-License-Identifier: Apache-2.0 */
/* Takes an arena's memory from the system: maps, prefers a node, touches, locks.
 *
 * Invariant: no page is touched before the memory for all of them was seen to be free, and the node
 * and the page size are chosen before the first touch, which is what they act on. The mapping is
 * fenced by a page without access on either side: it cannot be overrun unnoticed, and the system
 * never joins it with another, so that its figures are its own.
 */
#include "arena_map.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/internal.h"
#include "numa.h"

#define HUGE_PAGE_BYTES ((int64_t)2 << 20)

/* A thread for less than this costs more than it helps; more threads than this do not zero pages
 * faster, because the memory of one node is busy then. */
#define TOUCH_BYTES_MIN ((int64_t)64 << 20)
#define TOUCH_THREADS_MAX 16

static int64_t page_bytes(void)
{
    return sysconf(_SC_PAGESIZE);
}

/* --- address space ------------------------------------------------------------------------------
 */

static tess_status_t fail_map(const tess_device_t *device, int64_t bytes, int error)
{
    return tessi_fail(TESS_ERR_OUT_OF_MEMORY,
                      "cannot map %" PRId64 " bytes for an arena on %s: %s (see `ulimit -v` and "
                      "/proc/sys/vm/overcommit_memory)",
                      bytes, tess_device_name(device), strerror(error));
}

/* Reserves room to align in, and gives back what is left over: only address space is ever spare. */
static tess_status_t map_pages(const tess_device_t *device, int64_t bytes, char **base)
{
    int64_t page = page_bytes(), reserved_bytes = bytes + HUGE_PAGE_BYTES + 2 * page;
    char *reserved = MAP_FAILED;
    if (tessi_fault("map")) errno = ENOMEM;
    else
        reserved = mmap(NULL, (size_t)reserved_bytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) return fail_map(device, bytes, errno);

    int64_t skip =
        page + HUGE_PAGE_BYTES - 1 -
        (int64_t)((uintptr_t)(reserved + page + HUGE_PAGE_BYTES - 1) % (uintptr_t)HUGE_PAGE_BYTES);
    char *start = reserved + skip, *end = start + bytes;
    int64_t head_bytes = skip - page, tail_bytes = reserved_bytes - skip - bytes - page;
    if (head_bytes > 0) munmap(reserved, (size_t)head_bytes);
    if (tail_bytes > 0) munmap(end + page, (size_t)tail_bytes);
    if (mprotect(start, (size_t)bytes, PROT_READ | PROT_WRITE) != 0) {
        int error = errno;
        munmap(start - page, (size_t)(bytes + 2 * page));
        return fail_map(device, bytes, error);
    }
    *base = start;
    return TESS_OK;
}

static void unmap_pages(const tessi_arena_map_t *map)
{
    int64_t page = page_bytes();
    munmap(map->base - page, (size_t)(map->bytes + 2 * page));
}

/* --- placement ----------------------------------------------------------------------------------
 */

static tess_status_t choose_node(const tess_device_t *device, const tess_arena_config_t *config,
                                 int *node)
{
    if (config->numa_node != TESS_ARENA_NUMA_AUTO) {
        if (tessi_numa_has_node(config->numa_node) == 0)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "tess_arena_create: there is no NUMA node %d here (see "
                              "/sys/devices/system/node/online)",
                              config->numa_node);
        *node = config->numa_node;
        return TESS_OK;
    }
    tess_device_properties_t properties;
    tess_status_t status = tess_device_properties(device, &properties);
    if (status < 0) return status;
    *node = properties.numa_node;
    return TESS_OK;
}

static void place(const tess_arena_config_t *config, const tessi_arena_map_t *map)
{
    /* Advice only: kernels without huge pages refuse it, and nothing is lost. */
    if (config->huge_pages && map->bytes >= HUGE_PAGE_BYTES)
        (void)madvise(map->base, (size_t)map->bytes, MADV_HUGEPAGE);
    if (map->node < 0) return;
    int error = tessi_numa_prefer(map->base, map->bytes, map->node);
    if (error == 0) return;
    int was_asked_for = config->numa_node != TESS_ARENA_NUMA_AUTO;
    tessi_log(
        was_asked_for ? TESSI_LOG_ERROR : TESSI_LOG_INFO,
        "arena: cannot prefer NUMA node %d (mbind: %s); its memory lies where the threads run "
        "that touch it first",
        map->node, strerror(error));
}

/* --- first touch --------------------------------------------------------------------------------
 */

typedef struct touch_share {
    char *start;
    int64_t bytes, page_bytes;
    int node;
    pthread_t thread;
} touch_share_t;

static void *touch(void *argument)
{
    const touch_share_t *share = argument;
    tessi_numa_bind_thread(share->node);
    for (int64_t at = 0; at < share->bytes; at += share->page_bytes)
        *(volatile char *)(share->start + at) = 0;
    return NULL;
}

static int touch_thread_count(const tess_arena_config_t *config, const tessi_arena_map_t *map)
{
    if (config->threads > 0) return config->threads;
    int64_t worth = map->bytes / TOUCH_BYTES_MIN, cpus = tessi_numa_cpu_count(map->node);
    if (worth > cpus) worth = cpus;
    if (worth > TOUCH_THREADS_MAX) worth = TOUCH_THREADS_MAX;
    return worth > 1 ? (int)worth : 1;
}

/* In threads of its own even where there is one, because they are bound to the node. */
static tess_status_t touch_all(const tess_arena_config_t *config, const tessi_arena_map_t *map)
{
    int count = touch_thread_count(config, map), started = 0, error = 0;
    touch_share_t *shares = tessi_calloc((size_t)count, sizeof *shares);
    if (!shares) return TESS_ERR_OUT_OF_MEMORY;
    int64_t huge_pages = (map->bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES;
    sigset_t all, previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous); /* signals are the caller's business */
    for (; started < count && !error; started += !error) {
        touch_share_t *share = &shares[started];
        int64_t first = huge_pages * started / count * HUGE_PAGE_BYTES;
        int64_t end = huge_pages * (started + 1) / count * HUGE_PAGE_BYTES;
        if (end > map->bytes) end = map->bytes;
        share->start = map->base + first;
        share->bytes = end - first;
        share->page_bytes = page_bytes();
        share->node = map->node;
        error = tessi_fault("thread") ? EAGAIN : pthread_create(&share->thread, NULL, touch, share);
    }
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    for (int i = 0; i < started; i++) pthread_join(shares[i].thread, NULL);
    tessi_free(shares);
    if (!error) return TESS_OK;
    return tessi_fail_errno(error, "cannot start thread %d of %d that touch an arena's memory",
                            started + 1, count);
}

/* --- locking and looking back -------------------------------------------------------------------
 */

static tess_status_t lock_pages(tess_device_t *device, const tess_arena_config_t *config,
                                tessi_arena_map_t *map)
{
    tess_status_t status = tess_memory_register(device, map->base, map->bytes);
    if (status == TESS_OK) map->locked_bytes = map->bytes;
    if (status != TESS_ERR_OUT_OF_MEMORY || !config->allow_pageable) return status;
    tessi_log(TESSI_LOG_ERROR, "arena: %" PRId64 " bytes on %s stay pageable, which is slower: %s",
              map->bytes, tess_device_name(device), tess_last_error());
    return TESS_OK;
}

/* Bytes of the mapping that lie in huge pages; -1 where the system does not tell. */
static int64_t read_huge_bytes(const tessi_arena_map_t *map)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    if (!file) return -1;
    uintptr_t base = (uintptr_t)map->base, start, end;
    int64_t huge_bytes = -1, kib;
    char line[512];
    int inside = 0;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2) {
            if (start >= base + (uintptr_t)map->bytes) break;
            inside = start >= base;
        } else if (inside && sscanf(line, "AnonHugePages: %" SCNd64, &kib) == 1) {
            huge_bytes = (huge_bytes < 0 ? 0 : huge_bytes) + kib * 1024;
        }
    }
    fclose(file);
    return huge_bytes;
}

/* --- the whole ----------------------------------------------------------------------------------
 */

tess_status_t tessi_arena_map_open(tess_device_t *device, const tess_arena_config_t *config,
                                   tessi_arena_map_t *map)
{
    char what[96];
    int64_t start_ns = tessi_now_ns();
    tessi_arena_map_t made = {.bytes = config->bytes};
    tess_status_t status = choose_node(device, config, &made.node);
    if (status < 0) return status;
    snprintf(what, sizeof what, "take %" PRId64 " bytes of host memory for an arena on %s",
             made.bytes, tess_device_name(device));
    status = tessi_memory_check(made.bytes, what);
    if (status < 0) return status;
    status = map_pages(device, made.bytes, &made.base);
    if (status < 0) return status;
    place(config, &made);
    TESS_TRY(touch_all(config, &made), err_unmap);
    TESS_TRY(lock_pages(device, config, &made), err_unmap);
    made.huge_bytes = read_huge_bytes(&made);
    tessi_log(TESSI_LOG_INFO,
              "arena: %" PRId64 " bytes on %s, NUMA node %d, %" PRId64 " locked, %" PRId64
              " in huge pages, ready after %.1f ms",
              made.bytes, tess_device_name(device), made.node, made.locked_bytes, made.huge_bytes,
              (double)(tessi_now_ns() - start_ns) / 1e6);
    *map = made;
    return TESS_OK;

err_unmap:
    unmap_pages(&made);
    return status;
}

void tessi_arena_map_close(tess_device_t *device, const tessi_arena_map_t *map)
{
    if (map->locked_bytes > 0) tess_memory_unregister(device, map->base, map->bytes);
    unmap_pages(map);
}
