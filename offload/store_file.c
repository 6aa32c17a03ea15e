/* SPDX-License-Identifier: Apache-2.0 */
/* The file or block device behind a store: opening, locking, O_DIRECT and its alignment, space.
 *
 * Invariant: nothing that exists is changed before the lock is held, and a block device is opened
 * exclusively, so that neither another store nor a mounted file system is written over.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "store_internal.h"

/* Of tiles and records, at least: what pages and most devices have as their unit of writing. */
#define ALIGNMENT_MIN 4096
#define ALIGNMENT_MAX (INT64_C(1) << 20)

#define LOCK_MS 1000 /* how long an open waits for one that ends */

/* --- whole transfers -------------------------------------------------------------------------- */

static int move_all(int fd, void *buffer, int64_t bytes, int64_t offset, int write)
{
    if (tessi_fault("io")) return EIO;
    for (int64_t done = 0; done < bytes;) {
        char *at = (char *)buffer + done;
        size_t left = (size_t)(bytes - done);
        ssize_t moved =
            write ? pwrite(fd, at, left, offset + done) : pread(fd, at, left, offset + done);
        if (moved < 0 && errno == EINTR) continue;
        if (moved < 0) return errno;
        if (moved == 0) return write ? EIO : ENODATA;
        done += moved;
    }
    return 0;
}

int tessi_store_read_all(int fd, void *buffer, int64_t bytes, int64_t offset)
{
    return move_all(fd, buffer, bytes, offset, 0);
}

int tessi_store_write_all(int fd, const void *buffer, int64_t bytes, int64_t offset)
{
    return move_all(fd, (void *)buffer, bytes, offset, 1);
}

/* --- opening ---------------------------------------------------------------------------------- */

static tess_status_t open_path(tess_store_t *store, tess_store_mode_t mode)
{
    struct stat there;
    int flags = O_RDWR | O_CLOEXEC;
    int exists = stat(store->path, &there) == 0;
    if (exists && S_ISBLK(there.st_mode)) flags |= O_EXCL; /* refused where it is mounted */
    if (exists && !S_ISBLK(there.st_mode) && !S_ISREG(there.st_mode))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s is neither a file nor a block device",
                          store->path);
    if (!exists && mode == TESS_STORE_CREATE) {
        store->fd = open(store->path, flags | O_CREAT | O_EXCL, 0666);
        store->created = store->fd >= 0;
    } else {
        store->fd = open(store->path, flags);
    }
    if (store->fd < 0)
        return tessi_fail_errno(errno, "cannot %s store %s",
                                mode == TESS_STORE_CREATE ? "create" : "open", store->path);
    struct stat found;
    if (fstat(store->fd, &found) != 0)
        return tessi_fail_errno(errno, "cannot examine store %s", store->path);
    store->is_device = S_ISBLK(found.st_mode);
    return TESS_OK;
}

/* A second description of the same file for the tiles, because O_DIRECT belongs to a description.
 */
static tess_status_t open_data(tess_store_t *store)
{
    store->data_fd = open(store->path, O_RDWR | O_CLOEXEC);
    if (store->data_fd < 0) return tessi_fail_errno(errno, "cannot open store %s", store->path);
    struct stat one, other;
    if (fstat(store->fd, &one) != 0 || fstat(store->data_fd, &other) != 0 ||
        one.st_ino != other.st_ino || one.st_dev != other.st_dev)
        return tessi_fail(TESS_ERR_STATE, "store %s was replaced while it was opened", store->path);
    return TESS_OK;
}

/* The lock belongs to the description that the tiles go through: a process that was killed holds it
 * until the last of its writes has ended, which may be a moment later. */
static tess_status_t lock(tess_store_t *store)
{
    int64_t deadline_ns = tessi_deadline_ns(LOCK_MS);
    while (flock(store->data_fd, LOCK_EX | LOCK_NB) != 0) {
        /* Some network file systems know no locks; there the user sees to it. */
        if (errno != EWOULDBLOCK && errno != EINTR) return TESS_OK;
        if (tessi_now_ns() > deadline_ns) {
            store->created = 0; /* whoever has the lock has it now */
            return tessi_fail(TESS_ERR_STATE,
                              "store %s is open already, here or in another process", store->path);
        }
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return TESS_OK;
}

/* The part of the kernel's struct statx that tells the alignment of O_DIRECT, in fields that older
 * headers of the system lack. */
typedef struct direct_facts {
    uint32_t mask;
    uint8_t before[148];
    uint32_t memory_alignment, offset_alignment;
    uint8_t behind[96];
} direct_facts_t;
_Static_assert(sizeof(direct_facts_t) == 256, "the kernel's struct statx has 256 bytes");
#define STATX_WANT_DIRECT 0x2000u

/* A power of two, or ALIGNMENT_MIN where the system does not tell; 0: it says there is no O_DIRECT.
 */
static int64_t find_alignment(int fd, int is_device)
{
    int64_t alignment = ALIGNMENT_MIN;
    int sector_bytes = 0;
    if (is_device && ioctl(fd, BLKSSZGET, &sector_bytes) == 0 && sector_bytes > alignment)
        alignment = sector_bytes;
    direct_facts_t facts = {0};
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_WANT_DIRECT, &facts) == 0 &&
        facts.mask & STATX_WANT_DIRECT) {
        if (facts.offset_alignment == 0) return 0;
        if (facts.offset_alignment > alignment) alignment = facts.offset_alignment;
        if (facts.memory_alignment > alignment) alignment = facts.memory_alignment;
    }
    int is_usable = alignment <= ALIGNMENT_MAX && (alignment & (alignment - 1)) == 0;
    return is_usable ? alignment : 0;
}

static int set_direct(const tess_store_t *store, int on)
{
    int flags = fcntl(store->data_fd, F_GETFL);
    if (flags < 0) return -1;
    return fcntl(store->data_fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT);
}

/* TESS_ERR_UNSUPPORTED with the reason when `direct` is 1. */
static tess_status_t go_without(tess_store_t *store, int direct, const char *reason)
{
    if (store->direct) (void)set_direct(store, 0);
    store->direct = 0;
    if (direct != 1) {
        tessi_log(TESSI_LOG_INFO, "store %s: without O_DIRECT: %s", store->path, reason);
        return TESS_OK;
    }
    return tessi_fail(TESS_ERR_UNSUPPORTED,
                      "store %s: O_DIRECT was asked for and refused (%s); use a local file system "
                      "or direct -1",
                      store->path, reason);
}

tess_status_t tessi_store_file_open(tess_store_t *store, const tess_store_config_t *config)
{
    tess_status_t status;
    store->fd = store->data_fd = -1;
    TESS_TRY(open_path(store, config->mode), err);
    TESS_TRY(open_data(store), err);
    TESS_TRY(lock(store), err);
    int64_t alignment = find_alignment(store->data_fd, store->is_device);
    store->device_alignment = alignment > 0 ? alignment : ALIGNMENT_MIN;
    if (config->direct == 0) return TESS_OK;
    if (alignment == 0) return go_without(store, config->direct, "the file system has none here");
    if (set_direct(store, 1) != 0) return go_without(store, config->direct, strerror(errno));
    store->direct = 1;
    return TESS_OK;

err:
    return status;
}

void tessi_store_file_close(tess_store_t *store, int discard)
{
    /* While the lock is still held, so that nobody else's file is removed. */
    if (discard && store->created) (void)unlink(store->path);
    /* Closing alone would leave the lock for as long as a ring takes to go. */
    if (store->data_fd >= 0) (void)flock(store->data_fd, LOCK_UN);
    if (store->data_fd >= 0) close(store->data_fd);
    if (store->fd >= 0) close(store->fd);
}

tess_status_t tessi_store_file_probe(tess_store_t *store, int direct)
{
    if (!store->direct) return TESS_OK;
    int64_t alignment = store->layout.alignment;
    if (alignment % store->device_alignment != 0)
        return go_without(store, direct, "its tiles are aligned for another device");
    void *block = tessi_aligned_alloc((size_t)alignment, (size_t)alignment);
    if (!block) return TESS_ERR_OUT_OF_MEMORY;
    int error = tessi_store_read_all(store->data_fd, block, alignment, 0);
    tessi_free(block);
    if (error == EINVAL || error == EOPNOTSUPP) return go_without(store, direct, strerror(error));
    if (error) return tessi_fail_errno(error, "store %s: cannot read its first block", store->path);
    return TESS_OK;
}

/* --- space ------------------------------------------------------------------------------------ */

static tess_status_t fail_space(const tess_store_t *store, int error, int64_t bytes)
{
    struct statvfs space;
    if (error == ENOSPC && fstatvfs(store->fd, &space) == 0)
        return tessi_fail_errno(error,
                                "store %s: cannot allocate %" PRId64 " bytes; %" PRIu64 " are free",
                                store->path, bytes, (uint64_t)space.f_bavail * space.f_frsize);
    return tessi_fail_errno(error, "store %s: cannot allocate %" PRId64 " bytes", store->path,
                            bytes);
}

static tess_status_t allocate_file(tess_store_t *store)
{
    int64_t bytes = store->layout.total_bytes;
    if (ftruncate(store->fd, 0) != 0)
        return tessi_fail_errno(errno, "store %s: cannot empty it", store->path);
    int error;
    do {
        error = fallocate(store->fd, 0, 0, bytes) == 0 ? 0 : errno;
    } while (error == EINTR);
    if (error == 0) return TESS_OK;
    if (error != EOPNOTSUPP && error != ENOSYS) {
        (void)!ftruncate(store->fd, 0); /* what was allocated before the disk was full */
        return fail_space(store, error, bytes);
    }
    if (ftruncate(store->fd, bytes) != 0) return fail_space(store, errno, bytes);
    tessi_log(TESSI_LOG_ERROR,
              "store %s: the file system cannot allocate space in advance (%s): a full disk will "
              "only be noticed when a tile is written",
              store->path, strerror(error));
    return TESS_OK;
}

static tess_status_t clear_device(tess_store_t *store)
{
    const tessi_store_layout_t *layout = &store->layout;
    uint64_t device_bytes = 0;
    if (ioctl(store->fd, BLKGETSIZE64, &device_bytes) != 0)
        return tessi_fail_errno(errno, "store %s: cannot tell the size of the device", store->path);
    if (device_bytes < (uint64_t)layout->total_bytes)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "store %s: the device has %" PRIu64 " bytes, the store needs %" PRId64,
                          store->path, device_bytes, layout->total_bytes);
    /* Records say which tiles were never written; without records zeros do. */
    int64_t bytes = layout->crash_safe ? layout->data_offset : layout->total_bytes;
    if (fallocate(store->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, bytes) != 0)
        return tessi_fail_errno(errno, "store %s: cannot zero %" PRId64 " bytes of the device",
                                store->path, bytes);
    return TESS_OK;
}

tess_status_t tessi_store_file_allocate(tess_store_t *store)
{
    return store->is_device ? clear_device(store) : allocate_file(store);
}

tess_status_t tessi_store_file_settle(tess_store_t *store)
{
    if (tessi_fault("io")) errno = EIO;
    else if (fsync(store->fd) == 0) errno = 0;
    if (errno) return tessi_fail_errno(errno, "store %s: cannot make it durable", store->path);
    if (store->is_device) return TESS_OK;
    size_t length = strlen(store->path) + 1;
    char *copy = tessi_calloc(length, 1);
    if (!copy) return TESS_ERR_OUT_OF_MEMORY;
    memcpy(copy, store->path, length);
    /* A folder that may be written and not read cannot be synced; the file is there all the same.
     */
    int folder = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    tessi_free(copy);
    if (folder < 0) return TESS_OK;
    (void)fsync(folder);
    close(folder);
    return TESS_OK;
}
