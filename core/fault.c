/* SPDX-License-Identifier: Apache-2.0 */
/* Injected faults: the n-th pass of a named point fails, so that tests walk every cleanup path.
 *
 * Invariant: while nothing is armed, passing a point costs one relaxed load and changes nothing.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define POINT_BYTES 32

enum { NOT_READ = 0, DISARMED = 1, ARMED = 2 };

static _Atomic int mode = NOT_READ;
static pthread_mutex_t armed_lock = PTHREAD_MUTEX_INITIALIZER;
static char armed_point[POINT_BYTES]; /* the rest is guarded by armed_lock */
static long armed_n;
static int passes;

/* Reads TESS_FAULT once; with armed_lock held. */
static void read_environment(void)
{
    if (atomic_load_explicit(&mode, memory_order_relaxed) != NOT_READ) return;
    int next_mode = DISARMED;
    const char *text = tessi_option(TESSI_OPTION_FAULT);
    const char *colon = strrchr(text, ':');
    if (*text) {
        char *end = NULL;
        long n = colon ? strtol(colon + 1, &end, 10) : 0;
        if (colon && colon != text && colon - text < POINT_BYTES && n >= 1 && !*end) {
            memcpy(armed_point, text, (size_t)(colon - text));
            armed_n = n;
            next_mode = ARMED;
        } else {
            tessi_log(TESSI_LOG_ERROR,
                      "TESS_FAULT is \"%s\", but must be point:n with n >= 1; no fault is injected",
                      text);
        }
    }
    atomic_store_explicit(&mode, next_mode, memory_order_relaxed);
}

int tessi_fault(const char *point)
{
    if (atomic_load_explicit(&mode, memory_order_relaxed) == DISARMED) return 0;
    pthread_mutex_lock(&armed_lock);
    read_environment();
    int fails = 0;
    if (atomic_load_explicit(&mode, memory_order_relaxed) == ARMED &&
        strcmp(point, armed_point) == 0)
        fails = ++passes == armed_n;
    pthread_mutex_unlock(&armed_lock);
    return fails;
}

int tessi_fault_arm(const char *point, int n)
{
    pthread_mutex_lock(&armed_lock);
    int seen = passes;
    passes = 0;
    memset(armed_point, 0, sizeof armed_point);
    if (point) strncpy(armed_point, point, sizeof armed_point - 1);
    armed_n = n;
    atomic_store_explicit(&mode, point ? ARMED : DISARMED, memory_order_relaxed);
    pthread_mutex_unlock(&armed_lock);
    return seen;
}
