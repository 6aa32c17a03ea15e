/* SPDX-License-Identifier: Apache-2.0 */
/* The file tier as its header promises it: tiles of any size through every engine, tickets, what is
 * refused and in which words, files beyond 4 GiB. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/internal.h"
#include "store_rig.h"

#define MIB (1 << 20)

static const int64_t sizes[] = {1, 4095, 4096, MIB + 512, 3460301};
#define SIZE_COUNT ((int)(sizeof sizes / sizeof *sizes))

/* --- what goes in comes out --------------------------------------------------------------------
 */

static void write_and_read(const rig_way_t *way, int64_t tile_bytes, int crash_safe)
{
    enum { TILES = 5 };
    tess_store_config_t config = rig_config(way, tile_bytes, TILES, crash_safe);
    char *buffers = rig_buffers(tile_bytes, TILES);
    tess_store_ticket_t tickets[TILES];
    tess_store_t *store = rig_open(&config);
    assert_int_equal(tess_store_tile_bytes(store), tile_bytes);
    assert_int_equal(tess_store_tile_count(store), TILES);
    assert_int_equal(tess_store_alignment(store), 4096);
    for (int round = 0; round < 3; round++) {
        for (int t = 0; t < TILES - 1; t++) { /* the last is never written */
            void *buffer = rig_buffer(buffers, tile_bytes, t);
            rig_fill(buffer, tile_bytes, t, round + 1);
            TEST_OK(tess_store_write(store, t, buffer, &tickets[t]));
        }
        for (int t = TILES - 1; t-- > 0;) TEST_OK(tess_store_wait(store, tickets[t]));
    }
    TEST_OK(tess_store_sync(store));
    for (int reopened = 0; reopened < 2; reopened++) {
        for (int t = 0; t < TILES; t++) {
            memset(rig_buffer(buffers, tile_bytes, t), 0x5a, (size_t)tile_bytes);
            TEST_OK(tess_store_read(store, t, rig_buffer(buffers, tile_bytes, t), &tickets[t]));
        }
        for (int t = 0; t < TILES; t++) {
            TEST_OK(tess_store_wait(store, tickets[t]));
            assert_true(rig_holds(rig_buffer(buffers, tile_bytes, t), tile_bytes, t,
                                  t < TILES - 1 ? 3 : 0));
        }
        tess_store_close(store);
        config.mode = TESS_STORE_OPEN;
        store = rig_open(&config);
    }
    tess_store_close(store);
    free(buffers);
}

static void tiles_come_back(void **unused)
{
    (void)unused;
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    for (int w = 0; w < way_count; w++)
        for (int s = 0; s < SIZE_COUNT; s++)
            for (int crash_safe = 0; crash_safe < 2; crash_safe++)
                write_and_read(&ways[w], sizes[s], crash_safe);
}

/* What one engine wrote another reads, with O_DIRECT or without. */
static void engines_read_one_another(void **unused)
{
    (void)unused;
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    int64_t bytes = MIB + 512;
    void *buffer = rig_buffers(bytes, 1);
    for (int writer = 0; writer < way_count; writer++)
        for (int reader = 0; reader < way_count; reader++) {
            tess_store_config_t config = rig_config(&ways[writer], bytes, 3, 1);
            tess_store_t *store = rig_open(&config);
            rig_fill(buffer, bytes, 2, writer + 1);
            TEST_OK(rig_write(store, 2, buffer));
            tess_store_close(store);
            config = rig_config(&ways[reader], bytes, 3, 1);
            config.mode = TESS_STORE_OPEN;
            store = rig_open(&config);
            TEST_OK(rig_read(store, 2, buffer));
            assert_true(rig_holds(buffer, bytes, 2, writer + 1));
            tess_store_close(store);
        }
    free(buffer);
}

/* Bytes of a tile's neighbours, and of the rounding behind it, are nobody's to touch. */
static void nothing_else_is_touched(void **unused)
{
    (void)unused;
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    for (int w = 0; w < way_count; w++) {
        int64_t bytes = 5000, stride = 8192;
        tess_store_config_t config = rig_config(&ways[w], bytes, 2, 0);
        char *buffers = rig_buffers(bytes, 3);
        tess_store_t *store = rig_open(&config);
        TEST_OK(rig_read(store, 0, buffers + stride));
        for (int64_t n = 0; n < stride; n++) {
            assert_int_equal((unsigned char)buffers[n], 0xa5);
            assert_int_equal((unsigned char)buffers[2 * stride + n], 0xa5);
        }
        tess_store_close(store);
        free(buffers);
    }
}

/* --- far offsets ------------------------------------------------------------------------------ */

static void offsets_beyond_4_gib(void **unused)
{
    (void)unused;
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    int64_t bytes = 3 * MIB + 1, count = 3000; /* 8.8 GiB; of it a few tiles are touched */
    static const int64_t touched[] = {0, 1364, 1365, 2047, 2999};
    void *buffer = rig_buffers(bytes, 1);
    for (int w = 0; w < way_count; w++) {
        tess_store_config_t config = rig_config(&ways[w], bytes, count, 0);
        tess_store_t *store;
        if (tess_store_open(rig_path("far"), &config, &store) != TESS_OK) {
            printf("left out: %s\n", tess_last_error());
            break;
        }
        for (size_t n = 0; n < sizeof touched / sizeof *touched; n++) {
            rig_fill(buffer, bytes, touched[n], 7);
            TEST_OK(rig_write(store, touched[n], buffer));
        }
        for (size_t n = 0; n < sizeof touched / sizeof *touched; n++) {
            TEST_OK(rig_read(store, touched[n], buffer));
            assert_true(rig_holds(buffer, bytes, touched[n], 7));
        }
        TEST_OK(rig_read(store, 1366, buffer));
        assert_true(rig_holds(buffer, bytes, 1366, 0));
        tess_store_close(store);
        unlink(rig_path("far"));
    }
    free(buffer);
}

/* One registered buffer of io_uring ends at 1 GiB; a tile may lie across that. */
static void buffers_beyond_1_gib(void **unused)
{
    (void)unused;
    const rig_way_t way = {"io_uring", -1};
    int64_t bytes = 3 * MIB, buffers_bytes = (INT64_C(1) << 30) + 8 * MIB;
    char *buffers = mmap(NULL, (size_t)buffers_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(buffers != MAP_FAILED);
    tess_store_config_t config = rig_config(&way, bytes, 2, 0);
    config.block_bytes = 2 * MIB;
    config.buffers = buffers;
    config.buffers_bytes = buffers_bytes;
    tess_store_t *store;
    tess_status_t status = tess_store_open(rig_path("store"), &config, &store);
    if (status == TESS_ERR_UNSUPPORTED) {
        printf("left out: %s\n", tess_last_error());
    } else {
        TEST_OK(status);
        printf("%s\n", tess_store_description(store));
        char *across = buffers + (INT64_C(1) << 30) - MIB, *behind = across + 4 * MIB;
        rig_fill(across, bytes, 1, 1);
        TEST_OK(rig_write(store, 1, across));
        TEST_OK(rig_read(store, 1, behind));
        assert_true(rig_holds(behind, bytes, 1, 1));
        memset(across, 0, (size_t)bytes);
        TEST_OK(rig_read(store, 1, across));
        assert_true(rig_holds(across, bytes, 1, 1));
        tess_store_close(store);
    }
    munmap(buffers, (size_t)buffers_bytes);
}

/* --- tickets ---------------------------------------------------------------------------------- */

static void tickets_count_once(void **unused)
{
    (void)unused;
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    enum { OUT = 4096 };
    static tess_store_ticket_t tickets[OUT + 1];
    char *buffers = rig_buffers(64, OUT + 1);
    for (int w = 0; w < way_count; w++) {
        tess_store_config_t config = rig_config(&ways[w], 64, 4, 0);
        config.timeout_ms = 100;
        tess_store_t *store = rig_open(&config);
        TEST_OK(tess_store_wait(store, 0));
        TEST_OK(tess_store_poll(store, 0));
        TEST_STATUS(tess_store_wait(store, 12345), TESS_ERR_STATE);
        TEST_STATUS(tess_store_wait(store, -3), TESS_ERR_STATE);
        TEST_STATUS(tess_store_poll(store, INT64_MAX), TESS_ERR_STATE);

        rig_fill(buffers, 64, 1, 1);
        TEST_OK(tess_store_write(store, 1, buffers, &tickets[0]));
        TEST_OK(tess_store_wait(store, tickets[0]));
        TEST_STATUS(tess_store_wait(store, tickets[0]), TESS_ERR_STATE);
        assert_non_null(strstr(tess_last_error(), "is not out"));
        TEST_OK(tess_store_read(store, 1, buffers, &tickets[1])); /* may take the same entry */
        TEST_STATUS(tess_store_poll(store, tickets[0]), TESS_ERR_STATE);
        tess_status_t status;
        while ((status = tess_store_poll(store, tickets[1])) == TESS_NOT_READY) usleep(100);
        TEST_OK(status);
        TEST_STATUS(tess_store_poll(store, tickets[1]), TESS_ERR_STATE);

        /* As many as there can be, then one more: it waits, in vain, and none is lost. */
        for (int n = 0; n < OUT; n++)
            TEST_OK(tess_store_read(store, 1, rig_buffer(buffers, 64, n), &tickets[n]));
        TEST_STATUS(tess_store_read(store, 1, buffers, &tickets[OUT]), TESS_ERR_TIMEOUT);
        assert_non_null(strstr(tess_last_error(), "4096 tickets are out"));
        for (int n = 0; n < OUT; n++) {
            for (int other = n + 1; other < OUT && n % 512 == 0; other++)
                assert_true(tickets[n] != tickets[other]);
            TEST_OK(tess_store_wait(store, tickets[n]));
            assert_true(rig_holds(rig_buffer(buffers, 64, n), 64, 1, 1));
        }
        /* Closing does not need the tickets that nobody waited for. */
        TEST_OK(tess_store_read(store, 1, buffers, &tickets[0]));
        tess_store_close(store);
    }
    free(buffers);
}

static void a_wait_has_a_deadline(void **unused)
{
    (void)unused;
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    void *buffer = rig_buffers(4096, 1);
    for (int w = 0; w < way_count; w++) {
        tess_store_config_t config = rig_config(&ways[w], 4096, 2, 0);
        config.timeout_ms = 50;
        tess_store_t *store = rig_open(&config);
        tess_store_ticket_t ticket;
        rig_fill(buffer, 4096, 1, 1);
        tessi_fault_arm("slow", 1);
        TEST_OK(tess_store_write(store, 1, buffer, &ticket));
        TEST_STATUS(tess_store_poll(store, ticket), TESS_NOT_READY);
        TEST_STATUS(tess_store_wait(store, ticket), TESS_ERR_TIMEOUT);
        assert_non_null(strstr(tess_last_error(), "the write of tile 1 was not done after 50 ms"));
        /* The ticket is still good. */
        tess_status_t status;
        while ((status = tess_store_poll(store, ticket)) == TESS_NOT_READY) usleep(1000);
        TEST_OK(status);
        tessi_fault_arm(NULL, 0);
        tess_store_close(store);
    }
    free(buffer);
}

/* What the device never answers is left to it: the call comes back all the same. */
static int close_too_early(void *argument)
{
    const rig_way_t *way = argument;
    tess_store_config_t config = rig_config(way, 4096, 2, 1);
    tess_store_t *store;
    tess_store_ticket_t ticket;
    config.timeout_ms = 20;
    RANK_OK(tess_store_open(rig_path("store"), &config, &store));
    tessi_fault_arm("slow", 1);
    RANK_OK(tess_store_write(store, 1, rig_buffers(4096, 1), &ticket));
    int64_t before_ns = tessi_now_ns();
    tess_store_close(store); /* prints a line */
    RANK_CHECK(tessi_now_ns() - before_ns < 280000000);
    usleep(400000); /* the write ends, and finds its store where it was */
    return 0;
}

static void closing_has_a_deadline(void **unused)
{
    (void)unused;
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    for (int w = 0; w < way_count; w++) {
        rig_way_t way = ways[w];
        assert_int_equal(rig_child(close_too_early, &way), 0);
    }
}

/* --- what is refused -------------------------------------------------------------------------- */

static void expect_refused(const char *path, const tess_store_config_t *config,
                           tess_status_t status, const char *words)
{
    tess_store_t *store = NULL;
    TEST_STATUS(tess_store_open(path, config, &store), status);
    assert_null(store);
    if (!strstr(tess_last_error(), words))
        fail_msg("\"%s\" does not say \"%s\"", tess_last_error(), words);
}

static void bad_arguments_are_refused(void **unused)
{
    (void)unused;
    const rig_way_t any = {"auto", -1};
    const tess_status_t invalid = TESS_ERR_INVALID_ARGUMENT;
    const tess_store_config_t good = rig_config(&any, 100, 4, 0);
    tess_store_config_t config = good;
    tess_store_t *store;
    TEST_STATUS(tess_store_open("x", NULL, &store), invalid);
    TEST_STATUS(tess_store_open("x", &good, NULL), invalid);
    expect_refused(NULL, &good, invalid, "path is empty");
    expect_refused("", &good, invalid, "path is empty");
#define REFUSED(field, value, words)                                                               \
    do {                                                                                           \
        config = good;                                                                             \
        config.field = (value);                                                                    \
        expect_refused(rig_path("bad"), &config, invalid, words);                                  \
    } while (0)
    REFUSED(tile_bytes, 0, "tile_bytes is 0");
    REFUSED(tile_count, -1, "tile_count is -1");
    REFUSED(mode, (tess_store_mode_t)2, "no mode 2");
    REFUSED(crash_safe, 2, "crash_safe is 2");
    REFUSED(direct, 2, "direct is 2");
    REFUSED(depth, 1025, "depth is 1025");
    REFUSED(block_bytes, INT64_C(1) << 31, "block_bytes is 2147483648");
    REFUSED(buffers_bytes, 4096, "buffers is NULL");
    REFUSED(timeout_ms, -1, "timeout_ms is -1");
    REFUSED(engine, "libaio", "no engine \"libaio\"");
    REFUSED(tile_bytes, INT64_MAX, "do not fit any file");
    REFUSED(tile_count, INT64_MAX / 4, "do not fit any file");
    assert_int_equal(access(rig_path("bad"), F_OK), -1); /* nothing is left behind */
    expect_refused("/nowhere/store", &good, TESS_ERR_SYSTEM, "/nowhere/store");
    expect_refused("/dev/null", &good, invalid, "neither a file nor a block device");
    expect_refused(".", &good, invalid, "neither a file nor a block device");

    tess_store_ticket_t ticket = 77;
    char *buffer = rig_buffers(100, 2);
    store = rig_open(&good);
    TEST_STATUS(tess_store_read(store, -1, buffer, &ticket), invalid);
    TEST_STATUS(tess_store_read(store, 4, buffer, &ticket), invalid);
    assert_non_null(strstr(tess_last_error(), "no tile 4, only 0 to 3"));
    TEST_STATUS(tess_store_write(store, 0, buffer + 512, &ticket), invalid);
    assert_non_null(strstr(tess_last_error(), "not aligned to 4096"));
    TEST_STATUS(tess_store_write(store, 0, NULL, &ticket), invalid);
    TEST_STATUS(tess_store_write(NULL, 0, buffer, &ticket), invalid);
    TEST_STATUS(tess_store_write(store, 0, buffer, NULL), invalid);
    TEST_STATUS(tess_store_wait(NULL, 1), invalid);
    TEST_STATUS(tess_store_poll(NULL, 1), invalid);
    TEST_STATUS(tess_store_sync(NULL), invalid);
    assert_int_equal(ticket, 77);
    tess_store_close(store);
    tess_store_close(NULL);
    free(buffer);
}

static void overwrite(const char *path, int64_t offset, const void *bytes, size_t count)
{
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, count, offset), count);
    close(fd);
}

static void other_files_are_refused(void **unused)
{
    (void)unused;
    const rig_way_t any = {"auto", -1};
    const tess_status_t invalid = TESS_ERR_INVALID_ARGUMENT;
    char path[128];
    snprintf(path, sizeof path, "%s", rig_path("store"));
    tess_store_config_t config = rig_config(&any, 100, 4, 1);
    tess_store_close(rig_open(&config));
    config.mode = TESS_STORE_OPEN;
    tess_store_config_t other = config;
    other.tile_bytes = 101;
    expect_refused(path, &other, invalid, "holds 4 tiles of 100 bytes, crash-safe");
    other = config;
    other.tile_count = 5;
    expect_refused(path, &other, invalid, "asked for were 5 of 100, crash-safe");
    other = config;
    other.crash_safe = 0;
    expect_refused(path, &other, invalid, "100, not crash-safe");
    expect_refused(rig_path("missing"), &config, TESS_ERR_SYSTEM, "cannot open store");

    /* Two at once would mix their writes. */
    tess_store_t *store = rig_open(&config);
    expect_refused(path, &config, TESS_ERR_STATE, "is open already");
    other = config;
    other.mode = TESS_STORE_CREATE;
    expect_refused(path, &other, TESS_ERR_STATE, "is open already");
    tess_store_close(store);
    tess_store_close(rig_open(&config)); /* and it was not harmed */

    uint64_t version = 9, garbage = 0x1234567;
    overwrite(path, 32, &garbage, 8); /* tile_count */
    expect_refused(path, &config, TESS_ERR_SYSTEM, "its header is corrupt");
    overwrite(path, 8, &version, 8);
    expect_refused(path, &config, TESS_ERR_UNSUPPORTED, "has version 9");
    overwrite(path, 0, &garbage, 8);
    expect_refused(path, &config, invalid, "is no store of Tessera");
    assert_int_equal(truncate(path, 0), 0);
    expect_refused(path, &config, invalid, "is no store of Tessera");
    tess_store_close(rig_open(&other)); /* replaced */
    assert_int_equal(truncate(path, 8 * 4096), 0);
    expect_refused(path, &config, TESS_ERR_SYSTEM, "was cut short");
}

static void descriptions_tell(void **unused)
{
    (void)unused;
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    for (int w = 0; w < way_count; w++) {
        tess_store_config_t config = rig_config(&ways[w], 100, 4, 1);
        config.block_bytes = 5000; /* rounded up to what the device writes */
        config.depth = 3;
        void *buffers = config.buffers = rig_buffers(100, 4);
        config.buffers_bytes = 4 * 4096;
        tess_store_t *store = rig_open(&config);
        const char *text = tess_store_description(store);
        int is_ring = strcmp(ways[w].engine, "io_uring") == 0;
        printf("%s\n", text);
        assert_true(strncmp(text, ways[w].engine, strlen(ways[w].engine)) == 0);
        assert_non_null(strstr(text, ways[w].direct ? "O_DIRECT" : "page cache"));
        assert_non_null(strstr(text, is_ring ? "registered buffers" : "3 workers"));
        assert_non_null(strstr(text, "depth 3, 8 KiB blocks, crash-safe"));
        tess_store_close(store);
        free(buffers);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles_come_back),           cmocka_unit_test(engines_read_one_another),
        cmocka_unit_test(nothing_else_is_touched),   cmocka_unit_test(offsets_beyond_4_gib),
        cmocka_unit_test(buffers_beyond_1_gib),      cmocka_unit_test(tickets_count_once),
        cmocka_unit_test(a_wait_has_a_deadline),     cmocka_unit_test(closing_has_a_deadline),
        cmocka_unit_test(bad_arguments_are_refused), cmocka_unit_test(other_files_are_refused),
        cmocka_unit_test(descriptions_tell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
