/* SPDX-License-Identifier: Apache-2.0 */
/* What a crash-safe store is after a crash: processes killed in the middle of writing, power lost
 * between any two writes (played back from what reached the file), records torn by hand.
 *
 * The power test stands in for pwrite and fdatasync, through which engine threads does everything
 * without O_DIRECT, and keeps an image of what a device has for certain. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/internal.h"
#include "store_rig.h"

#define TILES 8
#define TILE_BYTES 200000
#define BLOCK_BYTES 65536
#define SECTOR_BYTES 512

/* Shared with the process that writes: the versions that it began to write, and those of which
 * tess_store_wait has returned. */
typedef struct progress {
    _Atomic int64_t begun[TILES], done[TILES];
} progress_t;

typedef struct writer {
    tess_store_config_t config;
    char path[128];
    progress_t *progress;
    _Atomic int stop;
} writer_t;

/* All tiles at once, version after version. */
static int write_rounds(void *argument)
{
    writer_t *writer = argument;
    progress_t *progress = writer->progress;
    tess_store_t *store;
    tess_store_ticket_t tickets[TILES];
    char *buffers = rig_buffers(TILE_BYTES, TILES);
    RANK_OK(tess_store_open(writer->path, &writer->config, &store));
    while (!atomic_load(&writer->stop)) {
        for (int t = 0; t < TILES; t++) {
            void *buffer = rig_buffer(buffers, TILE_BYTES, t);
            rig_fill(buffer, TILE_BYTES, t, ++progress->begun[t]);
            RANK_OK(tess_store_write(store, t, buffer, &tickets[t]));
        }
        for (int t = 0; t < TILES; t++) {
            RANK_OK(tess_store_wait(store, tickets[t]));
            atomic_store(&progress->done[t], atomic_load(&progress->begun[t]));
        }
    }
    tess_store_close(store);
    free(buffers);
    return 0;
}

/* Every tile is one version, whole, and not older than what was promised. Returns how many were
 * newer. */
static int check_tiles(const char *path, const tess_store_config_t *config, const int64_t *done,
                       const int64_t *begun, int64_t *found)
{
    char *buffer = rig_buffers(TILE_BYTES, 1);
    tess_store_t *store;
    int newer = 0;
    TEST_OK(tess_store_open(path, config, &store));
    for (int t = 0; t < TILES; t++) {
        TEST_OK(rig_read(store, t, buffer));
        found[t] = rig_version(buffer, TILE_BYTES, t);
        if (found[t] < done[t] || found[t] > begun[t])
            fail_msg("tile %d holds version %lld, expected %lld to %lld (-1: a mix)", t,
                     (long long)found[t], (long long)done[t], (long long)begun[t]);
        assert_true(rig_holds(buffer, TILE_BYTES, t, found[t]));
        newer += found[t] > done[t];
    }
    tess_store_close(store);
    free(buffer);
    return newer;
}

/* --- killed ------------------------------------------------------------------------------------
 */

static pid_t start_writer(writer_t *writer)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) _exit(write_rounds(writer));
    return pid;
}

static void killed_while_writing(void **unused)
{
    (void)unused;
    enum { ROUNDS = 48 };
    const rig_way_t *ways;
    int way_count = rig_ways(&ways), newer = 0;
    uint64_t seed = 1;
    int64_t begun[TILES], done[TILES], found[TILES];
    progress_t *progress =
        mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(progress != MAP_FAILED);
    writer_t writer = {.progress = progress};
    snprintf(writer.path, sizeof writer.path, "%s", rig_path("killed"));
    for (int round = 0; round < ROUNDS; round++) {
        writer.config = rig_config(&ways[round % way_count], TILE_BYTES, TILES, 1);
        writer.config.block_bytes = BLOCK_BYTES;
        if (round == 0) {
            tess_store_t *store;
            TEST_OK(tess_store_open(writer.path, &writer.config, &store));
            tess_store_close(store);
        }
        writer.config.mode = TESS_STORE_OPEN;
        pid_t pid = start_writer(&writer);
        int64_t first = atomic_load(&progress->begun[0]);
        while (atomic_load(&progress->begun[0]) == first) usleep(200);
        usleep((useconds_t)(test_random(&seed) % 60000));
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        if (!WIFSIGNALED(status)) fail_msg("the writer ended by itself, with %d", status);
        for (int t = 0; t < TILES; t++) {
            begun[t] = atomic_load(&progress->begun[t]);
            done[t] = atomic_load(&progress->done[t]);
        }
        newer += check_tiles(writer.path, &writer.config, done, begun, found);
        for (int t = 0; t < TILES; t++) { /* a version is never written twice */
            atomic_store(&progress->begun[t], begun[t]);
            atomic_store(&progress->done[t], found[t]);
        }
    }
    printf("%d rounds, %lld versions of tile 0; %d tiles were newer than promised\n", ROUNDS,
           (long long)begun[0], newer);
    munmap(progress, sizeof *progress);
}

/* --- power lost --------------------------------------------------------------------------------
 */

typedef struct pending {
    int64_t offset, bytes;
    char *data;
} pending_t;

#define PENDING_MAX 4096
static struct {
    pthread_mutex_t lock;
    ino_t file; /* 0: nothing is recorded */
    char *image;
    int64_t image_bytes;
    pending_t pending[PENDING_MAX];
    int count;
    int syncs;
} device = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int is_recorded(int fd)
{
    struct stat file;
    return device.file != 0 && fstat(fd, &file) == 0 && file.st_ino == device.file;
}

static void apply(char *image, const pending_t *write, int64_t from, int64_t bytes)
{
    memcpy(image + write->offset + from, write->data + from, (size_t)bytes);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
    if (is_recorded(fd)) {
        pthread_mutex_lock(&device.lock);
        pending_t *write = &device.pending[device.count++];
        if (device.count > PENDING_MAX || offset + (int64_t)bytes > device.image_bytes) abort();
        *write = (pending_t){offset, (int64_t)bytes, malloc(bytes)};
        if (!write->data) abort();
        memcpy(write->data, data, bytes);
        pthread_mutex_unlock(&device.lock);
    }
    return syscall(SYS_pwrite64, fd, data, bytes, offset);
}

/* What was written before this call is on the device when it returns; writes that come in meanwhile
 * may be or not. */
int fdatasync(int fd)
{
    int recorded = is_recorded(fd);
    pthread_mutex_lock(&device.lock);
    int certain = recorded ? device.count : 0;
    pthread_mutex_unlock(&device.lock);
    if (recorded) usleep(500);
    pthread_mutex_lock(&device.lock);
    for (int n = 0; n < certain; n++) {
        apply(device.image, &device.pending[n], 0, device.pending[n].bytes);
        free(device.pending[n].data);
    }
    if (certain > 0)
        memmove(device.pending, device.pending + certain,
                (size_t)(device.count - certain) * sizeof *device.pending);
    device.count -= certain;
    device.syncs += recorded;
    pthread_mutex_unlock(&device.lock);
    return 0;
}

/* Writes the image with any sectors of what is pending to `path`, and takes the versions promised
 * at that moment: those done before it, those begun after. */
static void lose_power(const char *path, const progress_t *progress, int64_t *done, int64_t *begun,
                       uint64_t *seed)
{
    char *after = malloc((size_t)device.image_bytes);
    assert_non_null(after);
    pthread_mutex_lock(&device.lock);
    for (int t = 0; t < TILES; t++) done[t] = atomic_load(&progress->done[t]);
    memcpy(after, device.image, (size_t)device.image_bytes);
    uint64_t kind = test_random(seed) % 4; /* none, all, or any of the sectors */
    for (int n = 0; n < device.count; n++) {
        const pending_t *write = &device.pending[n];
        for (int64_t at = 0; at < write->bytes; at += SECTOR_BYTES) {
            int64_t left = write->bytes - at;
            if (kind == 0 || (kind > 1 && test_random(seed) % 2)) continue;
            apply(after, write, at, left < SECTOR_BYTES ? left : SECTOR_BYTES);
        }
    }
    pthread_mutex_unlock(&device.lock);
    for (int t = 0; t < TILES; t++) begun[t] = atomic_load(&progress->begun[t]);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, after, (size_t)device.image_bytes), device.image_bytes);
    close(fd);
    free(after);
}

static void *write_in_thread(void *argument)
{
    return (void *)(intptr_t)write_rounds(argument);
}

static void power_lost_while_writing(void **unused)
{
    (void)unused;
    enum { LOSSES = 120 };
    static const rig_way_t way = {"threads", 0};
    static progress_t progress;
    char after[128];
    struct stat file;
    writer_t writer = {.progress = &progress};
    snprintf(writer.path, sizeof writer.path, "%s", rig_path("powered"));
    snprintf(after, sizeof after, "%s", rig_path("after"));
    writer.config = rig_config(&way, TILE_BYTES, TILES, 1);
    writer.config.block_bytes = BLOCK_BYTES;
    tess_store_t *store;
    TEST_OK(tess_store_open(writer.path, &writer.config, &store));
    tess_store_close(store);
    writer.config.mode = TESS_STORE_OPEN;

    assert_int_equal(stat(writer.path, &file), 0);
    device.image_bytes = file.st_size;
    device.image = calloc(1, (size_t)file.st_size);
    int fd = open(writer.path, O_RDONLY);
    assert_int_equal(read(fd, device.image, (size_t)file.st_size), file.st_size);
    close(fd);
    device.file = file.st_ino;

    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, write_in_thread, &writer), 0);
    uint64_t seed = 5;
    int64_t done[TILES], begun[TILES], found[TILES];
    int newer = 0;
    for (int loss = 0; loss < LOSSES; loss++) {
        usleep((useconds_t)(test_random(&seed) % 4000));
        lose_power(after, &progress, done, begun, &seed);
        newer += check_tiles(after, &writer.config, done, begun, found);
    }
    void *result;
    atomic_store(&writer.stop, 1);
    pthread_join(thread, &result);
    assert_null(result);
    device.file = 0;
    int64_t versions = atomic_load(&progress.done[0]);
    printf("%d losses over %lld versions; %d syncs for %lld writes; %d tiles were newer\n", LOSSES,
           (long long)versions, device.syncs, (long long)versions * TILES, newer);
    /* Writes in flight together share their two syncs. */
    assert_true(device.syncs < versions * TILES);
    free(device.image);
}

/* --- torn -------------------------------------------------------------------------------------
 */

#define RECORD_OFFSET(tile, place) (4096 * (1 + 2 * (tile) + (place)))

static void edit(const char *path, int64_t offset, const char *bytes, size_t count)
{
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, count, offset), count);
    close(fd);
}

static void copy_block(const char *from, int64_t from_offset, const char *to, int64_t to_offset)
{
    char block[4096];
    int fd = open(from, O_RDONLY);
    assert_int_equal(pread(fd, block, sizeof block, from_offset), sizeof block);
    close(fd);
    edit(to, to_offset, block, sizeof block);
}

/* Versions 1 to 3 of tile 2; then record 3, which lies in place 1, is spoilt. */
static void write_three(const char *path, tess_store_config_t *config)
{
    tess_store_t *store;
    void *buffer = rig_buffers(TILE_BYTES, 1);
    config->mode = TESS_STORE_CREATE;
    TEST_OK(tess_store_open(path, config, &store));
    for (int version = 1; version <= 3; version++) {
        rig_fill(buffer, TILE_BYTES, 2, version);
        TEST_OK(rig_write(store, 2, buffer));
    }
    tess_store_close(store);
    config->mode = TESS_STORE_OPEN;
    free(buffer);
}

static void expect_version(const char *path, const tess_store_config_t *config, int64_t tile,
                           int64_t version)
{
    tess_store_t *store;
    void *buffer = rig_buffers(TILE_BYTES, 1);
    TEST_OK(tess_store_open(path, config, &store));
    TEST_OK(rig_read(store, tile, buffer));
    assert_true(rig_holds(buffer, TILE_BYTES, tile, version));
    tess_store_close(store);
    free(buffer);
}

static void torn_records_are_found(void **unused)
{
    (void)unused;
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    char path[128], other[128];
    snprintf(path, sizeof path, "%s", rig_path("torn"));
    snprintf(other, sizeof other, "%s", rig_path("other"));
    for (int w = 0; w < way_count; w++) {
        tess_store_config_t config = rig_config(&ways[w], TILE_BYTES, TILES, 1);
        tess_store_t *store;
        void *buffer = rig_buffers(TILE_BYTES, 1);
        write_three(other, &config);
        write_three(path, &config);
        expect_version(path, &config, 2, 3);

        /* Each byte of the record counts. */
        for (int at = 0; at < 40; at += 3) {
            char kept[4096], changed;
            int fd = open(path, O_RDONLY);
            assert_int_equal(pread(fd, kept, sizeof kept, RECORD_OFFSET(2, 1)), sizeof kept);
            close(fd);
            changed = (char)(kept[at] ^ 0x10);
            edit(path, RECORD_OFFSET(2, 1) + at, &changed, 1);
            expect_version(path, &config, 2, 2);
            edit(path, RECORD_OFFSET(2, 1), kept, sizeof kept);
        }
        expect_version(path, &config, 2, 3);

        /* A record of another store, and one of another tile. */
        copy_block(other, RECORD_OFFSET(2, 1), path, RECORD_OFFSET(2, 1));
        expect_version(path, &config, 2, 2);
        copy_block(path, RECORD_OFFSET(2, 0), path, RECORD_OFFSET(4, 0));
        TEST_STATUS(tess_store_open(path, &config, &store), TESS_ERR_SYSTEM);
        assert_non_null(strstr(tess_last_error(), "no record of tile 4 (offset 36864) is valid"));
        edit(path, RECORD_OFFSET(4, 0), (const char[4096]){0}, 4096);

        /* The store goes on from there. */
        TEST_OK(tess_store_open(path, &config, &store));
        rig_fill(buffer, TILE_BYTES, 2, 4);
        TEST_OK(rig_write(store, 2, buffer));
        tess_store_close(store);
        expect_version(path, &config, 2, 4);

        /* The first write of a tile torn: it reads as never written. Both: nothing is left. */
        edit(path, RECORD_OFFSET(3, 1), "torn", 4);
        expect_version(path, &config, 3, 0);
        edit(path, RECORD_OFFSET(2, 0), "torn", 4);
        edit(path, RECORD_OFFSET(2, 1), "torn", 4);
        TEST_STATUS(tess_store_open(path, &config, &store), TESS_ERR_SYSTEM);
        assert_non_null(strstr(tess_last_error(), "no record of tile 2"));
        free(buffer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_while_writing),
        cmocka_unit_test(power_lost_while_writing),
        cmocka_unit_test(torn_records_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
