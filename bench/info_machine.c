/* SPDX-License-Identifier: Apache-2.0 */
/* Operating system, processors, memory, and the limits that have stopped people before: page-locked
 * memory, /dev/shm and a container's memory.
 *
 * What cannot be read is left out.
 */
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <tessera/device.h>
#include <unistd.h>

#include "info.h"

#define MIB ((int64_t)1 << 20)

/* Below these, bucket rings of ordinary models do not fit. */
#define LOCKED_WARNING_BYTES (64 * MIB)
#define SHM_WARNING_BYTES (512 * MIB)

/* The first line of a file without its newline; 0 where there is none. */
static int read_line(const char *path, char *line, size_t line_bytes)
{
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    int found = fgets(line, (int)line_bytes, file) != NULL;
    fclose(file);
    if (found) line[strcspn(line, "\n")] = '\0';
    return found;
}

static void add_system(info_report_t *report)
{
    struct utsname name;
    char line[256], distribution[200] = "";
    FILE *file = fopen("/etc/os-release", "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "PRETTY_NAME=\"%199[^\"]\"", distribution) == 1) break;
    if (file) fclose(file);
    if (*distribution) info_text(report, "distribution", "system", "%s", distribution);
    if (uname(&name) == 0)
        info_text(report, "kernel", "kernel", "%s %s %s", name.sysname, name.release, name.machine);
}

/* "0-3, 4-7": the processors of each NUMA node. */
static void add_numa(info_report_t *report)
{
    glob_t found;
    char text[512] = "";
    if (glob("/sys/devices/system/node/node[0-9]*/cpulist", 0, NULL, &found) != 0) return;
    for (size_t n = 0; n < found.gl_pathc; n++) {
        char cpus[128];
        size_t length = strlen(text);
        if (!read_line(found.gl_pathv[n], cpus, sizeof cpus)) continue;
        snprintf(text + length, sizeof text - length, "%s%s", length ? "; " : "", cpus);
    }
    info_number(report, "numa_nodes", "NUMA nodes", (int64_t)found.gl_pathc, "%zu (processors %s)",
                found.gl_pathc, text);
    globfree(&found);
}

static void add_processors(info_report_t *report)
{
    tess_device_t *host = NULL;
    tess_device_properties_t properties;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    if (tess_device_open("host", &host) != TESS_OK) return;
    if (tess_device_properties(host, &properties) == TESS_OK) {
        struct sysinfo machine;
        char all[32], ours[32];
        info_text(report, "processor", "processor", "%s", properties.name);
        info_value(report, "processors_online", json_integer(online));
        info_number(report, "processors_usable", "processors", properties.multiprocessors,
                    "%d usable of %ld online", properties.multiprocessors, online);
        add_numa(report);
        int64_t limit = properties.memory_total_bytes;
        int64_t total =
            sysinfo(&machine) == 0 ? (int64_t)machine.totalram * machine.mem_unit : limit;
        info_bytes_text(total, all, sizeof all);
        info_bytes_text(properties.memory_free_bytes, ours, sizeof ours);
        info_number(report, "memory_bytes", "memory", total, "%s, %s available", all, ours);
        info_value(report, "memory_available_bytes", json_integer(properties.memory_free_bytes));
        if (limit < total) info_bytes(report, "memory_limit_bytes", "memory limit", limit);
        else info_note(report, "memory limit", "none below the machine's");
    }
    tess_device_close(host);
}

static void add_locked_limit(info_report_t *report)
{
    struct rlimit limit;
    char text[32];
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return;
    if (limit.rlim_cur == RLIM_INFINITY) {
        info_number(report, "locked_memory_limit_bytes", "locked memory limit", -1, "unlimited");
        return;
    }
    info_bytes_text((int64_t)limit.rlim_cur, text, sizeof text);
    info_number(report, "locked_memory_limit_bytes", "locked memory limit", (int64_t)limit.rlim_cur,
                "%s%s", text, geteuid() == 0 ? " (not for root, where it may lock memory)" : "");
    if (geteuid() != 0 && (int64_t)limit.rlim_cur < LOCKED_WARNING_BYTES)
        info_warning(
            report,
            "Only %s of memory can be locked, so larger pinned buffers are refused. Raise it "
            "with \"ulimit -l unlimited\" (memlock in /etc/security/limits.conf), or "
            "\"docker run --ulimit memlock=-1\".",
            text);
}

static void add_shared_memory(info_report_t *report)
{
    struct statvfs shm;
    char total[32], available[32];
    if (statvfs("/dev/shm", &shm) != 0) {
        info_text(report, "shm_error", "/dev/shm", "%s", strerror(errno));
        info_warning(report,
                     "/dev/shm cannot be used (%s), so ranks on one host cannot share memory.",
                     strerror(errno));
        return;
    }
    int64_t total_bytes = (int64_t)(shm.f_blocks * shm.f_frsize);
    int64_t free_bytes = (int64_t)(shm.f_bavail * shm.f_frsize);
    info_bytes_text(total_bytes, total, sizeof total);
    info_bytes_text(free_bytes, available, sizeof available);
    info_value(report, "shm_bytes", json_integer(total_bytes));
    info_number(report, "shm_free_bytes", "/dev/shm", free_bytes, "%s, %s free", total, available);
    if (free_bytes < SHM_WARNING_BYTES)
        info_warning(
            report,
            "/dev/shm has only %s free; ranks on one host keep their buckets there. Give it "
            "more with \"docker run --shm-size=8g\" (or --ipc=host), or \"mount -o "
            "remount,size=8g /dev/shm\" as root.",
            available);
}

void info_add_machine(info_report_t *report)
{
    info_section(report, "machine", "machine");
    add_system(report);
    add_processors(report);
    add_locked_limit(report);
    add_shared_memory(report);
}
