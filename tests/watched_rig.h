/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of death, silence and disagreement share: worlds, watches, and ranks that end the
 * one that was stopped.
 */
#ifndef TESSERA_TESTS_WATCHED_RIG_H
#define TESSERA_TESTS_WATCHED_RIG_H

#include <stdatomic.h>

#include "comm/comm_internal.h"
#include "harness.h"

#define SECOND_NS INT64_C(1000000000)

extern const int rig_everyone[5]; /* 0 … 4 */

/* Ranks that are done, shared with all of them. */
extern _Atomic int *rig_done;
void rig_share_done(void);

/* The last of the survivors to call it ends the rank that is stopped. */
void rig_finish_and_kill(int survivors, int stopped);

void rig_pause_ms(int ms);

/* In a rank: leave with 1 unless the text holds the part, or names the rank with its pid. */
void rig_expect_in(const char *text, const char *part);
void rig_expect_rank(const char *text, int rank);

/* A world that all ranks have reached. */
tess_world_t *rig_open_world(int timeout_ms);

void rig_add_watch(tess_world_t *world, tessi_watch_t *watch, uint64_t id, const int *ranks,
                   int count);

/* Waits until the watch has failed, at most so long; its status. */
tess_status_t rig_wait_for_failure(tessi_watch_t *watch, int64_t most_ns);

/* An all-gather of some count under that number. */
tessi_op_record_t rig_record_of(uint64_t id, int64_t sequence);

#endif
