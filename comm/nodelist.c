/* SPDX-License-Identifier: Apache-2.0 */
/* Slurm's compressed lists: hosts as node[03-05,7]-ib,other and tasks as 8(x4),2.
 *
 * Only what a rank needs is expanded: the first host, and the tasks of one node.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "core/internal.h"
#include "world_env.h"

static tess_status_t bad_hosts(const char *list)
{
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "SLURM_STEP_NODELIST is '%s', which does not read as a list of hosts", list);
}

static int append(char *host, size_t host_bytes, size_t *length, const char *from, size_t bytes)
{
    if (*length + bytes + 1 > host_bytes) return -1;
    memcpy(host + *length, from, bytes);
    *length += bytes;
    host[*length] = '\0';
    return 0;
}

tess_status_t tessi_nodelist_first(const char *list, char *host, size_t host_bytes)
{
    size_t length = 0;
    const char *at = list;
    if (host_bytes > 0) host[0] = '\0';
    while (*at && *at != ',') {
        if (*at != '[') {
            if (isspace((unsigned char)*at) || *at == ']' ||
                append(host, host_bytes, &length, at, 1) != 0)
                return bad_hosts(list);
            at++;
            continue;
        }
        /* Of [03-05,7] the first number is wanted; a name may hold several such groups. */
        size_t digits = strspn(at + 1, "0123456789");
        const char *end = strchr(at, ']');
        if (digits == 0 || !end || !strchr("-,]", at[1 + digits]) ||
            strspn(at + 1, "0123456789-,") != (size_t)(end - at - 1) ||
            append(host, host_bytes, &length, at + 1, digits) != 0)
            return bad_hosts(list);
        at = end + 1;
    }
    return length > 0 ? TESS_OK : bad_hosts(list);
}

tess_status_t tessi_nodelist_tasks(const char *list, int node, int *tasks)
{
    const char *at = list;
    for (int64_t first = 0; *at;) {
        char *rest;
        long count = strtol(at, &rest, 10), times = 1;
        if (rest == at || count < 1 || count > INT32_MAX) break;
        if (rest[0] == '(' && rest[1] == 'x') {
            at = rest + 2;
            times = strtol(at, &rest, 10);
            if (rest == at || *rest != ')' || times < 1 || times > INT32_MAX) break;
            rest++;
        }
        if (node >= first && node < first + times) {
            *tasks = (int)count;
            return TESS_OK;
        }
        first += times;
        if (*rest != ',') break;
        at = rest + 1;
    }
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "SLURM_STEP_TASKS_PER_NODE is '%s', which gives no number of tasks for node "
                      "%d",
                      list, node);
}
