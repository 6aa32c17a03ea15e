/* SPDX-License-Identifier: Apache-2.0 */
/* Monotonic time, deadlines, and polling that leaves the core to others.
 *
 * Why three steps: a poll that only spins is fastest while every waiter has its own core, but two
 * ranks that spin on one core were measured 8000 times slower than two that yield; and a waiter
 * that yields for longer than a few milliseconds burns a core that compute could use.
 */
#include <limits.h>
#include <sched.h>
#include <time.h>

#include "internal.h"

#define SPIN_POLLS 200
#define YIELD_NS 2000000
#define SLEEP_NS 50000

int64_t tessi_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t tessi_deadline_ns(int timeout_ms)
{
    int64_t now_ns = tessi_now_ns(), wait_ns = (int64_t)timeout_ms * 1000000;
    return now_ns > INT64_MAX - wait_ns ? INT64_MAX : now_ns + wait_ns;
}

static void relax_core(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#else
    __asm__ volatile("" ::: "memory");
#endif
}

void tessi_backoff_pause(tessi_backoff_t *backoff)
{
    if (backoff->polls < SPIN_POLLS) {
        backoff->polls++;
        relax_core();
        return;
    }
    int64_t now_ns = tessi_now_ns();
    if (backoff->first_ns == 0) backoff->first_ns = now_ns;
    if (now_ns - backoff->first_ns < YIELD_NS) sched_yield();
    else nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL);
}
