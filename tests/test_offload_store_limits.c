/* SPDX-License-Identifier: Apache-2.0 */
/* Machines that are not as they should be: disks that are full, limits on files and on locked
 * memory, no io_uring, no O_DIRECT, no file system at all. Each is made in a child process. Parts
 * that need root, or what is not to be had here, are left out by name. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store_rig.h"

#define TILES 4
#define TILE_BYTES 150000
#define SKIPPED 77

static int leave_out(const char *what)
{
    printf("left out: %s: %s\n", what, strerror(errno));
    return SKIPPED;
}

static void expect_child(int (*body)(void *), void *argument)
{
    int code = rig_child(body, argument);
    if (code != 0 && code != SKIPPED) fail_msg("the child ended with %d", code);
}

/* A file system of its own at `folder`, which goes with the process. */
static int mount_here(const char *kind, const char *folder, const char *options)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return -1;
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) return -1;
    return mount(kind, folder, kind, 0, options);
}

/* The store is there, its space is not: punched out of it and taken by another file. */
static void fill_disk(const char *folder, const char *store_path, int64_t bytes)
{
    char path[192], block[65536];
    memset(block, 1, sizeof block);
    int fd = open(store_path, O_RDWR);
    RANK_CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, bytes) == 0);
    RANK_CHECK(fsync(fd) == 0);
    close(fd);
    snprintf(path, sizeof path, "%s/filler", folder);
    fd = open(path, O_WRONLY | O_CREAT, 0666);
    while (write(fd, block, sizeof block) > 0) {
    }
    while (write(fd, block, 512) > 0) {
    }
    RANK_CHECK(errno == ENOSPC);
    close(fd);
}

static void meet_full_disk(const char *folder, const rig_way_t *way)
{
    char path[160], filler[160];
    tess_store_t *store = NULL;
    void *buffer = rig_buffers(TILE_BYTES, 1);
    snprintf(path, sizeof path, "%s/store", folder);
    snprintf(filler, sizeof filler, "%s/filler", folder);
    tess_store_config_t config = rig_config(way, TILE_BYTES, 1000, 0);
    RANK_CHECK(tess_store_open(path, &config, &store) == TESS_ERR_SYSTEM);
    RANK_CHECK(strstr(tess_last_error(), "No space left on device"));
    RANK_CHECK(strstr(tess_last_error(), "are free"));
    RANK_CHECK(access(path, F_OK) != 0);

    config.tile_count = 10;
    RANK_OK(tess_store_open(path, &config, &store));
    tess_store_close(store);
    fill_disk(folder, path, 10 * 151552);
    config.mode = TESS_STORE_OPEN;
    RANK_OK(tess_store_open(path, &config, &store));
    rig_fill(buffer, TILE_BYTES, 9, 1);
    tess_status_t status = rig_write(store, 9, buffer);
    /* Without O_DIRECT a disk may take it and say so later. */
    if (status == TESS_OK) status = tess_store_sync(store);
    RANK_CHECK(status == TESS_ERR_SYSTEM);
    RANK_CHECK(strstr(tess_last_error(), "No space left on device") &&
               strstr(tess_last_error(), path));
    if (way->direct)
        RANK_CHECK(strstr(tess_last_error(), "cannot write tile 9 (") &&
                   strstr(tess_last_error(), " bytes at offset "));
    unlink(filler);
    RANK_CHECK(rig_write(store, 9, buffer) == TESS_OK);
    RANK_OK(rig_read(store, 9, buffer));
    RANK_CHECK(rig_holds(buffer, TILE_BYTES, 9, 1));
    tess_store_close(store);
    unlink(path);
    free(buffer);
}

static int full_tmpfs(void *argument)
{
    char folder[128];
    snprintf(folder, sizeof folder, "%s", rig_path("tmpfs"));
    if (mount_here("tmpfs", folder, "size=4m") != 0) return leave_out("a full tmpfs");
    rig_way_t way = *(const rig_way_t *)argument;
    way.direct = 0;
    meet_full_disk(folder, &way);
    return 0;
}

/* ext4 in a file of 16 MiB, through a loop device. */
static int full_ext4(void *argument)
{
    char folder[128], command[512];
    snprintf(folder, sizeof folder, "%s", rig_path("ext4"));
    if (mount_here("tmpfs", folder, "size=1m") != 0) return leave_out("a full ext4");
    snprintf(command, sizeof command,
             "umount '%s' && truncate -s 16M '%s.img' && mkfs.ext4 -q -O ^has_journal '%s.img' "
             "2>/dev/null && mount -o loop '%s.img' '%s' 2>/dev/null",
             folder, folder, folder, folder, folder);
    if (system(command) != 0) return leave_out("a full ext4 (no loop mount)");
    meet_full_disk(folder, argument);
    snprintf(command, sizeof command, "umount '%s'", folder);
    return system(command) == 0 ? 0 : 1;
}

static void full_disks_are_reported(void **unused)
{
    (void)unused;
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    (void)rig_path("");
    for (int w = 0; w < way_count; w++) {
        rig_way_t way = ways[w];
        expect_child(full_tmpfs, &way);
        expect_child(full_ext4, &way);
    }
}

static int files_have_a_limit(void *unused)
{
    (void)unused;
    const rig_way_t way = {"auto", -1};
    tess_store_config_t config = rig_config(&way, 1 << 20, 100, 0);
    tess_store_t *store;
    signal(SIGXFSZ, SIG_IGN);
    RANK_CHECK(setrlimit(RLIMIT_FSIZE, &(struct rlimit){1 << 20, 1 << 20}) == 0);
    RANK_CHECK(tess_store_open(rig_path("limited"), &config, &store) == TESS_ERR_SYSTEM);
    RANK_CHECK(strstr(tess_last_error(), "cannot allocate 104861696 bytes: File too large"));
    RANK_CHECK(access(rig_path("limited"), F_OK) != 0);
    return 0;
}

static void file_limits_are_reported(void **unused)
{
    (void)unused;
    (void)rig_path("");
    expect_child(files_have_a_limit, NULL);
}

/* ramfs has neither O_DIRECT nor fallocate. */
static int plain_file_system(void *unused)
{
    (void)unused;
    char folder[128], path[160];
    snprintf(folder, sizeof folder, "%s", rig_path("ramfs"));
    if (mount_here("ramfs", folder, NULL) != 0) return leave_out("a file system without O_DIRECT");
    snprintf(path, sizeof path, "%s/store", folder);
    rig_way_t way = {"auto", 1};
    tess_store_config_t config = rig_config(&way, TILE_BYTES, TILES, 1);
    tess_store_t *store = NULL;
    void *buffer = rig_buffers(TILE_BYTES, 1);
    tess_status_t status = tess_store_open(path, &config, &store);
    if (status == TESS_OK) {
        printf("left out: ramfs takes O_DIRECT here\n");
        return SKIPPED;
    }
    RANK_CHECK(status == TESS_ERR_UNSUPPORTED);
    RANK_CHECK(strstr(tess_last_error(), "O_DIRECT was asked for and refused"));
    config.direct = -1;
    RANK_OK(tess_store_open(path, &config, &store));
    RANK_CHECK(strstr(tess_store_description(store), "page cache"));
    rig_fill(buffer, TILE_BYTES, 3, 1);
    RANK_OK(rig_write(store, 3, buffer));
    RANK_OK(rig_read(store, 3, buffer));
    RANK_CHECK(rig_holds(buffer, TILE_BYTES, 3, 1));
    tess_store_close(store);
    free(buffer);
    return 0;
}

static void file_systems_without_direct_io(void **unused)
{
    (void)unused;
    (void)rig_path("");
    expect_child(plain_file_system, NULL);
}

/* --- io_uring refused --------------------------------------------------------------------------
 */

static int refuse_io_uring(int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ((unsigned)error & SECCOMP_RET_DATA)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0;
}

static int sandboxed(void *argument)
{
    int error = *(int *)argument;
    rig_way_t way = {"io_uring", -1};
    tess_store_config_t config = rig_config(&way, TILE_BYTES, TILES, 1);
    tess_store_t *store = NULL;
    void *buffer = rig_buffers(TILE_BYTES, 1);
    if (refuse_io_uring(error)) return leave_out("a sandbox without io_uring");
    RANK_CHECK(tess_store_open(rig_path("store"), &config, &store) == TESS_ERR_UNSUPPORTED);
    printf("%s\n", tess_last_error());
    RANK_CHECK(strstr(tess_last_error(), "io_uring"));
    RANK_CHECK(strstr(tess_last_error(), strerror(error)) ||
               strstr(tess_last_error(), "configured without liburing"));
    config.engine = NULL;
    RANK_OK(tess_store_open(rig_path("store"), &config, &store));
    RANK_CHECK(strstr(tess_store_description(store), "threads (io_uring is not to be had)"));
    rig_fill(buffer, TILE_BYTES, 3, 1);
    RANK_OK(rig_write(store, 3, buffer));
    RANK_OK(rig_read(store, 3, buffer));
    RANK_CHECK(rig_holds(buffer, TILE_BYTES, 3, 1));
    tess_store_close(store);
    free(buffer);
    return 0;
}

static void without_io_uring_there_are_threads(void **unused)
{
    (void)unused;
    int errors[] = {ENOSYS, EPERM};
    (void)rig_path("");
    for (int n = 0; n < 2; n++) expect_child(sandboxed, &errors[n]);
}

/* --- little lockable memory --------------------------------------------------------------------
 */

static int little_memory(void *argument)
{
    const char *folder = argument;
    char path[96];
    rig_way_t way = {"io_uring", -1};
    tess_store_config_t config = rig_config(&way, 1 << 20, 8, 0);
    char *buffers = rig_buffers(1 << 20, 8);
    config.buffers = buffers;
    config.buffers_bytes = 8 << 20;
    snprintf(path, sizeof path, "%s/store", folder);
    if (setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){1 << 20, 1 << 20}) != 0 ||
        (geteuid() == 0 && (setgroups(0, NULL) != 0 || setresgid(65534, 65534, 65534) != 0 ||
                            setresuid(65534, 65534, 65534) != 0)))
        return leave_out("a small RLIMIT_MEMLOCK");
    tess_store_t *store;
    tess_status_t status = tess_store_open(path, &config, &store);
    if (status == TESS_ERR_UNSUPPORTED) {
        printf("left out: a small RLIMIT_MEMLOCK: %s\n", tess_last_error());
        return SKIPPED;
    }
    RANK_CHECK(status == TESS_OK);
    printf("%s\n", tess_store_description(store));
    RANK_CHECK(strstr(tess_store_description(store), "unregistered buffers (8 MiB do not fit "
                                                     "ulimit -l of 1024 KiB)"));
    tess_store_ticket_t tickets[8];
    for (int t = 0; t < 8; t++) {
        rig_fill(rig_buffer(buffers, 1 << 20, t), 1 << 20, t, 5);
        RANK_OK(tess_store_write(store, t, rig_buffer(buffers, 1 << 20, t), &tickets[t]));
    }
    for (int t = 0; t < 8; t++) RANK_OK(tess_store_wait(store, tickets[t]));
    for (int t = 0; t < 8; t++) {
        RANK_OK(rig_read(store, t, buffers));
        RANK_CHECK(rig_holds(buffers, 1 << 20, t, 5));
    }
    tess_store_close(store);
    free(buffers);
    return 0;
}

static void little_lockable_memory_suffices(void **unused)
{
    (void)unused;
    char folder[] = "/tmp/store-nobody-XXXXXX", command[96];
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chmod(folder, 0777), 0);
    int code = rig_child(little_memory, folder);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
    if (code != 0 && code != SKIPPED) fail_msg("the child ended with %d", code);
}

/* --- block devices -----------------------------------------------------------------------------
 */

/* A loop device of 8 MiB full of ones, if one can be had. */
static int use_block_device(const char *device)
{
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    char *buffer = rig_buffers(TILE_BYTES, 1);
    for (int w = 0; w < way_count; w++)
        for (int crash_safe = 0; crash_safe < 2; crash_safe++) {
            tess_store_config_t config = rig_config(&ways[w], TILE_BYTES, 10, crash_safe);
            tess_store_t *store;
            RANK_OK(tess_store_open(device, &config, &store));
            RANK_OK(rig_read(store, 3, buffer)); /* not what was there */
            RANK_CHECK(rig_holds(buffer, TILE_BYTES, 3, 0));
            rig_fill(buffer, TILE_BYTES, 9, 4);
            RANK_OK(rig_write(store, 9, buffer));
            RANK_OK(tess_store_sync(store));
            tess_store_close(store);
            config.mode = TESS_STORE_OPEN;
            RANK_OK(tess_store_open(device, &config, &store));
            RANK_OK(rig_read(store, 9, buffer));
            RANK_CHECK(rig_holds(buffer, TILE_BYTES, 9, 4));
            tess_store_close(store);
            config.mode = TESS_STORE_CREATE;
            config.tile_count = 100;
            RANK_CHECK(tess_store_open(device, &config, &store) == TESS_ERR_INVALID_ARGUMENT);
            RANK_CHECK(strstr(tess_last_error(), "the device has 8388608 bytes"));
        }
    free(buffer);
    return 0;
}

static int block_device_body(void *unused)
{
    (void)unused;
    char image[128], command[256], device[64] = "";
    snprintf(image, sizeof image, "%s", rig_path("disk.img"));
    snprintf(command, sizeof command,
             "head -c 8388608 /dev/zero | tr '\\0' '\\1' >'%s' && losetup -f --show '%s' "
             "2>/dev/null",
             image, image);
    FILE *pipe = popen(command, "r");
    if (!pipe || !fgets(device, sizeof device, pipe)) device[0] = '\0';
    if (pipe) pclose(pipe);
    device[strcspn(device, "\n")] = '\0';
    if (!device[0]) return leave_out("a block device (no losetup)");
    pid_t pid = fork(); /* the device is given back whatever happens */
    if (pid == 0) _exit(use_block_device(device));
    int status;
    waitpid(pid, &status, 0);
    snprintf(command, sizeof command, "losetup -d %s", device);
    return system(command) == 0 && status == 0 ? 0 : 1;
}

static void block_devices_hold_stores(void **unused)
{
    (void)unused;
    (void)rig_path("");
    expect_child(block_device_body, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_disks_are_reported),
        cmocka_unit_test(file_limits_are_reported),
        cmocka_unit_test(file_systems_without_direct_io),
        cmocka_unit_test(without_io_uring_there_are_threads),
        cmocka_unit_test(little_lockable_memory_suffices),
        cmocka_unit_test(block_devices_hold_stores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
