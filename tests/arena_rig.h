/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the arena share: the device, creating, what the system says of the process, and
 * what was written to stderr.
 */
#ifndef TESSERA_TESTS_ARENA_RIG_H
#define TESSERA_TESTS_ARENA_RIG_H

#include "harness.h"

#define MIB ((int64_t)1 << 20)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RIG_SANITIZED 1 /* they replace mlock by nothing, and turn crashes into reports */
#else
#define RIG_SANITIZED 0
#endif

/* Group set-up and teardown: open and close the device under test. */
extern tess_device_t *rig_device;
int rig_open_device(void **state);
int rig_close_device(void **state);
int rig_is_cuda(void);

/* Whether this process may lock so much: most systems give a user 8 MiB, and a GPU's driver does
 * not ask. */
int rig_may_lock(int64_t bytes);

tess_arena_config_t rig_config(int64_t bytes);
tess_arena_t *rig_create(int64_t bytes);
tess_arena_statistics_t rig_statistics(const tess_arena_t *arena);

/* A figure of /proc/self/status: "VmLck:", "VmRSS:". */
int64_t rig_status_bytes(const char *key);

/* Keeps what is written to stderr from here on, and gives it back; valid until the next time. */
void rig_keep_stderr(void);
const char *rig_kept_stderr(void);

void rig_assert_says(const char *text, const char *part);

#endif
