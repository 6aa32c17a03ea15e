/* SPDX-License-Identifier: Apache-2.0 */
/* Random reads and writes, many in flight and from several threads, against a model in memory: the
 * version that each tile must hold. Every read is compared in full. Now and then a transfer comes
 * back short, which nobody may notice. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/internal.h"
#include "store_rig.h"

#define MIB (1 << 20)
#define TILES 24
#define SLOTS 12
#define THREADS_MAX 4

typedef struct slot {
    tess_store_ticket_t ticket;
    int64_t tile, version;
    int write;
} slot_t;

typedef struct player {
    tess_store_t *store;
    pthread_t thread;
    int index, players, operations;
    uint64_t seed;
    char *buffers;     /* (SLOTS) */
    int64_t *versions; /* (TILES), this player touches those with tile % players == index */
    int readers[TILES], writers[TILES];
    slot_t slots[SLOTS];
    int mistakes;
} player_t;

static void expect_ok(player_t *player, tess_status_t status, const char *what)
{
    if (status == TESS_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, tess_status_name(status), tess_last_error());
    player->mistakes++;
}

static void end_slot(player_t *player, int index)
{
    slot_t *slot = &player->slots[index];
    int64_t bytes = tess_store_tile_bytes(player->store);
    if (!slot->ticket) return;
    tess_status_t status = TESS_NOT_READY;
    if (test_random(&player->seed) % 4 == 0) status = tess_store_poll(player->store, slot->ticket);
    if (status == TESS_NOT_READY) status = tess_store_wait(player->store, slot->ticket);
    expect_ok(player, status, slot->write ? "write" : "read");
    if (!slot->write &&
        !rig_holds(rig_buffer(player->buffers, bytes, index), bytes, slot->tile, slot->version))
        player->mistakes++;
    if (slot->write) player->writers[slot->tile] = 0;
    else player->readers[slot->tile]--;
    slot->ticket = 0;
}

static void start_slot(player_t *player, int index)
{
    slot_t *slot = &player->slots[index];
    int64_t bytes = tess_store_tile_bytes(player->store);
    int64_t own = TILES / player->players;
    int64_t tile =
        (int64_t)(test_random(&player->seed) % (uint64_t)own) * player->players + player->index;
    void *buffer = rig_buffer(player->buffers, bytes, index);
    slot->write = test_random(&player->seed) % 2 == 0;
    if (player->writers[tile] || (slot->write && player->readers[tile])) return;
    slot->tile = tile;
    if (slot->write) {
        slot->version = ++player->versions[tile];
        player->writers[tile] = 1;
        rig_fill(buffer, bytes, tile, slot->version);
        expect_ok(player, tess_store_write(player->store, tile, buffer, &slot->ticket), "submit");
    } else {
        slot->version = player->versions[tile];
        player->readers[tile]++;
        memset(buffer, 0x5a, (size_t)bytes);
        expect_ok(player, tess_store_read(player->store, tile, buffer, &slot->ticket), "submit");
    }
}

static void *play(void *argument)
{
    player_t *player = argument;
    for (int n = 0; n < player->operations && player->mistakes == 0; n++) {
        int index = (int)(test_random(&player->seed) % SLOTS);
        end_slot(player, index);
        start_slot(player, index);
        if (test_random(&player->seed) % 16 == 0) tessi_fault_arm("short", 1);
        if (test_random(&player->seed) % 200 == 0)
            expect_ok(player, tess_store_sync(player->store), "sync");
    }
    for (int index = 0; index < SLOTS; index++) end_slot(player, index);
    return NULL;
}

/* One store, opened three times over the same versions. */
static void play_store(const rig_way_t *way, int64_t tile_bytes, int crash_safe, int players,
                       int operations)
{
    static const int64_t blocks[] = {0, 4096, 300000};
    int64_t versions[TILES] = {0};
    uint64_t seed = (uint64_t)tile_bytes * 8 + (uint64_t)(crash_safe * 4 + players);
    tess_store_config_t config = rig_config(way, tile_bytes, TILES, crash_safe);
    char *buffers = rig_buffers(tile_bytes, SLOTS * THREADS_MAX);
    config.buffers = buffers;
    for (int opened = 0; opened < 3; opened++) {
        config.depth = 1 + (int)(test_random(&seed) % 40);
        config.block_bytes = blocks[opened];
        /* Half of the buffers, so that registered and other memory are mixed. */
        config.buffers_bytes =
            (char *)rig_buffer(buffers, tile_bytes, SLOTS * THREADS_MAX / 2) - buffers;
        tess_store_t *store = rig_open(&config);
        player_t all[THREADS_MAX] = {0};
        for (int p = 0; p < players; p++) {
            all[p] = (player_t){.store = store,
                                .index = p,
                                .players = players,
                                .operations = operations / players,
                                .seed = test_random(&seed),
                                .buffers = rig_buffer(buffers, tile_bytes, p * SLOTS),
                                .versions = versions};
            assert_int_equal(pthread_create(&all[p].thread, NULL, play, &all[p]), 0);
        }
        int mistakes = 0;
        for (int p = 0; p < players; p++) {
            pthread_join(all[p].thread, NULL);
            mistakes += all[p].mistakes;
        }
        tessi_fault_arm(NULL, 0);
        if (mistakes)
            fail_msg("%d mistakes: %s, tiles of %lld bytes, %d players, seed %llu", mistakes,
                     tess_store_description(store), (long long)tile_bytes, players,
                     (unsigned long long)seed);
        tess_store_close(store);
        config.mode = TESS_STORE_OPEN;
    }
    free(buffers);
}

static void play_all(int players, int crash_safe)
{
    static const struct {
        int64_t bytes;
        int operations;
    } games[] = {{1, 500}, {4095, 500}, {MIB + 512, 24}, {3460301, 10}};
    const rig_way_t *ways;
    int way_count = rig_ways(&ways);
    for (int w = 0; w < way_count; w++)
        for (size_t g = 0; g < sizeof games / sizeof *games; g++)
            play_store(&ways[w], games[g].bytes, crash_safe, players, games[g].operations);
}

static void one_thread(void **unused)
{
    (void)unused;
    play_all(1, 0);
}

static void one_thread_crash_safe(void **unused)
{
    (void)unused;
    play_all(1, 1);
}

static void several_threads(void **unused)
{
    (void)unused;
    play_all(THREADS_MAX, 0);
}

static void several_threads_crash_safe(void **unused)
{
    (void)unused;
    play_all(THREADS_MAX, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_thread),
        cmocka_unit_test(one_thread_crash_safe),
        cmocka_unit_test(several_threads),
        cmocka_unit_test(several_threads_crash_safe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
