/* SPDX-License-Identifier: Apache-2.0 */
/* NUMA nodes without libnuma: lists in /sys, and the mbind system call.
 *
 * Invariant: nothing here makes a program fail. Where the system does not tell, or forbids, memory
 * lands where the kernel puts it. A thread never gets processors that its process was denied.
 */
#include "numa.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* More processors, or nodes, than any kernel is built for. */
#define BITS_MAX 16384
#define BITS_A_WORD (8 * (int)sizeof(unsigned long))

typedef struct bit_list {
    unsigned long words[BITS_MAX / (8 * sizeof(unsigned long))];
} bit_list_t;

static void add_bits(bit_list_t *list, int first, int last)
{
    for (int i = first; i <= last && i < BITS_MAX; i++)
        list->words[i / BITS_A_WORD] |= 1ul << (i % BITS_A_WORD);
}

/* Reads "0-3,8,10-11". 0 where the file is not there, or lists nothing. */
static int read_bits(const char *path, bit_list_t *list)
{
    memset(list, 0, sizeof *list);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    int first, count = 0;
    while (fscanf(file, "%d", &first) == 1 && first >= 0) {
        int last = first, separator = fgetc(file);
        if (separator == '-') {
            if (fscanf(file, "%d", &last) != 1) break;
            separator = fgetc(file);
        }
        add_bits(list, first, last);
        count++;
        if (separator != ',') break;
    }
    fclose(file);
    return count;
}

/* The processors that this thread may use, of `node` alone where it is known. 0 where none is left.
 */
static int allowed_cpus(int node, bit_list_t *cpus)
{
    memset(cpus, 0, sizeof *cpus);
    if (sched_getaffinity(0, sizeof *cpus, (cpu_set_t *)cpus) != 0) return 0;
    bit_list_t of_node;
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", node);
    int restrict_them = node >= 0 && read_bits(path, &of_node) > 0, count = 0;
    for (size_t i = 0; i < sizeof cpus->words / sizeof *cpus->words; i++) {
        if (restrict_them) cpus->words[i] &= of_node.words[i];
        count += __builtin_popcountl(cpus->words[i]);
    }
    return count;
}

int tessi_numa_has_node(int node)
{
    bit_list_t nodes;
    if (read_bits("/sys/devices/system/node/online", &nodes) == 0) return -1;
    if (node < 0 || node >= BITS_MAX) return 0;
    return (int)(nodes.words[node / BITS_A_WORD] >> (node % BITS_A_WORD) & 1);
}

int tessi_numa_prefer(void *start, int64_t bytes, int node)
{
    /* The kernel reads one bit less than it is told, and refuses masks of more than a page. */
    bit_list_t nodes = {{0}};
    if (node < 0 || node >= BITS_MAX - 1) return EINVAL;
    add_bits(&nodes, node, node);
    long failed = syscall(SYS_mbind, start, (unsigned long)bytes, MPOL_PREFERRED, nodes.words,
                          (unsigned long)node + 2, 0u);
    return failed ? errno : 0;
}

int tessi_numa_cpu_count(int node)
{
    bit_list_t cpus;
    int count = allowed_cpus(node, &cpus);
    if (count == 0) count = allowed_cpus(-1, &cpus);
    return count > 0 ? count : 1;
}

void tessi_numa_bind_thread(int node)
{
    bit_list_t cpus;
    if (node < 0 || allowed_cpus(node, &cpus) == 0) return;
    /* A refusal costs distance to memory, nothing else. */
    (void)sched_setaffinity(0, sizeof cpus, (const cpu_set_t *)&cpus);
}
