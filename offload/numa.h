/* SPDX-License-Identifier: Apache-2.0 */
/* NUMA nodes by system calls and /sys alone: which there are, memory that prefers one, threads that
 * stay on one.
 */
#ifndef TESSERA_OFFLOAD_NUMA_H
#define TESSERA_OFFLOAD_NUMA_H

#include <stdint.h>
#include <tessera/status.h>

/* 1: the system shows that node; 0: it shows others but not that one; -1: it shows none. */
int tessi_numa_has_node(int node);

/* New pages of the range come from `node` as long as it has any, and from others then. 0, or errno:
 * containers often forbid the call. */
int tessi_numa_prefer(void *start, int64_t bytes, int node);

/* How many processors this thread may use; of `node` alone where that leaves any. */
int tessi_numa_cpu_count(int node);

/* Keeps this thread on processors of `node` that it may use already; nothing where there are none.
 */
void tessi_numa_bind_thread(int node);

#endif
