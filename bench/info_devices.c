/* SPDX-License-Identifier: Apache-2.0 */
/* Devices that tess_device_open offers here, and transports that tess_comm_open does, with the
 * reason where one is not usable.
 */
#include <stdio.h>
#include <tessera/comm.h>
#include <tessera/device.h>

#include "info.h"

#define TRANSPORTS_MAX 16

static void add_properties(info_report_t *report, const tess_device_properties_t *found)
{
    char total[32], available[32];
    info_text(report, "name", "name", "%s", found->name);
    info_bytes_text(found->memory_total_bytes, total, sizeof total);
    info_bytes_text(found->memory_free_bytes, available, sizeof available);
    info_value(report, "memory_total_bytes", json_integer(found->memory_total_bytes));
    info_number(report, "memory_free_bytes", "memory", found->memory_free_bytes, "%s, %s free",
                total, available);
    if (found->kind == TESS_DEVICE_HOST) {
        info_number(report, "multiprocessors", "processors", found->multiprocessors,
                    "%d usable by this process", found->multiprocessors);
    } else {
        info_number(report, "multiprocessors", "multiprocessors", found->multiprocessors,
                    "%d, compute capability %d.%d", found->multiprocessors, found->compute_major,
                    found->compute_minor);
        info_value(report, "compute_major", json_integer(found->compute_major));
        info_value(report, "compute_minor", json_integer(found->compute_minor));
        info_text(report, "bus_id", "bus id", "%s", found->bus_id);
    }
    if (found->numa_node >= 0)
        info_number(report, "numa_node", "NUMA node", found->numa_node, "%d", found->numa_node);
}

static void add_device(info_report_t *report, const char *name)
{
    char title[48];
    snprintf(title, sizeof title, "device %s", name);
    info_item(report, "devices", title);
    info_value(report, "device", json_string(name));
    tess_device_t *device = NULL;
    tess_device_properties_t found;
    tess_status_t status = tess_device_open(name, &device);
    if (status == TESS_OK) status = tess_device_properties(device, &found);
    if (status == TESS_OK) {
        add_properties(report, &found);
    } else {
        info_text(report, "error", "error", "%s", tess_last_error());
        info_warning(report, "device %s: %s", name, tess_last_error());
    }
    tess_device_close(device);
}

void info_add_devices(info_report_t *report)
{
    add_device(report, "host");
    int count = tess_device_count(TESS_DEVICE_CUDA);
    for (int d = 0; d < count; d++) {
        char name[32];
        snprintf(name, sizeof name, "cuda:%d", d);
        add_device(report, name);
    }
}

void info_add_transports(info_report_t *report)
{
    tess_transport_info_t list[TRANSPORTS_MAX];
    int count = tess_transport_list(list, TRANSPORTS_MAX);
    info_section(report, "transports", "transports");
    for (int t = 0; t < count && t < TRANSPORTS_MAX; t++) {
        info_value(report, list[t].name,
                   json_pack("{s:b, s:s, s:s}", "usable", list[t].usable, "version",
                             list[t].version, "reason", list[t].usable ? "" : list[t].reason));
        char version[64] = "";
        if (*list[t].version) snprintf(version, sizeof version, ", version %s", list[t].version);
        info_note(report, list[t].name, "%s%s%s%s", list[t].usable ? "usable" : "no", version,
                  list[t].usable ? "" : ": ", list[t].usable ? "" : list[t].reason);
    }
}
