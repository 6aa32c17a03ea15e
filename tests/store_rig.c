/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: contents depend on tile and version alone, so that any process can check them. */
#include "store_rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ALIGNMENT 4096

static char folder[64];
static pid_t folder_owner;

static void remove_folder(void)
{
    if (getpid() != folder_owner) return;
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0) fprintf(stderr, "could not remove %s\n", folder);
}

const char *rig_path(const char *name)
{
    static char path[128];
    if (!folder[0]) {
        char here[64] = "store-test-XXXXXX", elsewhere[64] = "/tmp/store-test-XXXXXX";
        const char *made = mkdtemp(here);
        if (!made) made = mkdtemp(elsewhere);
        assert_non_null(made);
        snprintf(folder, sizeof folder, "%s", made);
        folder_owner = getpid();
        atexit(remove_folder);
    }
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

int rig_ways(const rig_way_t **ways)
{
    static rig_way_t found[4];
    static int count;
    static const rig_way_t all[] = {
        {"threads", 0}, {"threads", 1}, {"io_uring", 0}, {"io_uring", 1}};
    for (size_t n = 0; count == 0 && n < sizeof all / sizeof *all; n++) {
        tess_store_t *store;
        tess_store_config_t config = rig_config(&all[n], 1, 1, 0);
        if (tess_store_open(rig_path("way"), &config, &store) == TESS_OK) {
            tess_store_close(store);
            found[n] = all[n];
        } else {
            printf("left out: engine %s with direct %d: %s\n", all[n].engine, all[n].direct,
                   tess_last_error());
        }
    }
    if (count == 0)
        for (int n = 0; n < 4; n++)
            if (found[n].engine) found[count++] = found[n];
    assert_true(count > 0);
    *ways = found;
    return count;
}

tess_store_config_t rig_config(const rig_way_t *way, int64_t tile_bytes, int64_t tile_count,
                               int crash_safe)
{
    tess_store_config_t config = TESS_STORE_CONFIG_DEFAULT;
    config.tile_bytes = tile_bytes;
    config.tile_count = tile_count;
    config.crash_safe = crash_safe;
    config.engine = way->engine;
    config.direct = way->direct;
    config.timeout_ms = 60000;
    return config;
}

tess_store_t *rig_open(const tess_store_config_t *config)
{
    tess_store_t *store = NULL;
    TEST_OK(tess_store_open(rig_path("store"), config, &store));
    return store;
}

static int64_t stride_of(int64_t tile_bytes)
{
    return (tile_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

void *rig_buffers(int64_t tile_bytes, int64_t tiles)
{
    void *buffers = NULL;
    size_t bytes = (size_t)(stride_of(tile_bytes) * tiles);
    if (posix_memalign(&buffers, ALIGNMENT, bytes) != 0) abort();
    memset(buffers, 0xa5, bytes);
    return buffers;
}

void *rig_buffer(void *buffers, int64_t tile_bytes, int64_t index)
{
    return (char *)buffers + stride_of(tile_bytes) * index;
}

/* --- contents --------------------------------------------------------------------------------- */

static uint64_t sum_of(const uint64_t *words, int64_t count)
{
    uint64_t sum = 0;
    for (int64_t n = 0; n < count; n++) sum = (sum ^ words[n]) * UINT64_C(0x9e3779b97f4a7c15);
    return sum;
}

void rig_fill(void *buffer, int64_t tile_bytes, int64_t tile, int64_t version)
{
    if (version == 0) {
        memset(buffer, 0, (size_t)tile_bytes);
        return;
    }
    uint64_t state = (uint64_t)tile * 1000003 + (uint64_t)version, *words = buffer;
    int64_t count = tile_bytes / 8, odd_bytes = tile_bytes % 8;
    for (int64_t n = 0; n < count; n++) words[n] = test_random(&state);
    uint64_t last = test_random(&state);
    memcpy(words + count, &last, (size_t)odd_bytes);
    if (count < 3) return;
    words[0] = (uint64_t)tile;
    words[1] = (uint64_t)version;
    words[count - 1] = sum_of(words, count - 1);
}

int rig_holds(const void *buffer, int64_t tile_bytes, int64_t tile, int64_t version)
{
    void *expected = malloc((size_t)tile_bytes + 8);
    if (!expected) abort();
    rig_fill(expected, tile_bytes, tile, version);
    int same = memcmp(buffer, expected, (size_t)tile_bytes) == 0;
    if (!same) {
        int64_t at = 0;
        while (((const char *)buffer)[at] == ((const char *)expected)[at]) at++;
        fprintf(stderr,
                "tile %lld (%lld bytes): byte %lld is 0x%02x, but 0x%02x in version %lld; the "
                "tile says version %lld\n",
                (long long)tile, (long long)tile_bytes, (long long)at,
                ((const unsigned char *)buffer)[at], ((const unsigned char *)expected)[at],
                (long long)version, (long long)rig_version(buffer, tile_bytes, tile));
    }
    free(expected);
    return same;
}

int64_t rig_version(const void *buffer, int64_t tile_bytes, int64_t tile)
{
    const uint64_t *words = buffer;
    int64_t count = tile_bytes / 8, blank = 1;
    for (int64_t n = 0; n < count && blank; n++) blank = words[n] == 0;
    if (blank) return 0;
    if (count < 3 || words[0] != (uint64_t)tile || words[count - 1] != sum_of(words, count - 1))
        return -1;
    return (int64_t)words[1];
}

tess_status_t rig_write(tess_store_t *store, int64_t tile, const void *buffer)
{
    tess_store_ticket_t ticket;
    tess_status_t status = tess_store_write(store, tile, buffer, &ticket);
    return status < 0 ? status : tess_store_wait(store, ticket);
}

tess_status_t rig_read(tess_store_t *store, int64_t tile, void *buffer)
{
    tess_store_ticket_t ticket;
    tess_status_t status = tess_store_read(store, tile, buffer, &ticket);
    return status < 0 ? status : tess_store_wait(store, ticket);
}

int rig_child(int (*body)(void *argument), void *argument)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        /* cmocka's handlers would jump out of the child and back into the list of tests. */
        static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS};
        for (size_t n = 0; n < sizeof crashes / sizeof *crashes; n++) signal(crashes[n], SIG_DFL);
        int code = body(argument);
        fflush(NULL);
        _exit(code);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
