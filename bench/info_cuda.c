/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA's versions, and which devices reach one another's memory, and over what.
 *
 * Asks the runtime alone, so that it works, and says what is missing, without a driver.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "info.h"
#include "info_nvml.h"

#define BUS_ID_BYTES 32
#define CELL_COLUMNS 8

static void add_version(info_report_t *report, const char *key, const char *label, int version)
{
    if (version == 0) info_note(report, label, "none found");
    else info_text(report, key, label, "%d.%d", version / 1000, version % 1000 / 10);
}

static int add_versions(info_report_t *report, const info_nvml_t *nvml)
{
    int runtime = 0, supported = 0, count = 0;
    char driver[96];
    (void)cudaRuntimeGetVersion(&runtime);
    (void)cudaDriverGetVersion(&supported);
    cudaError_t error = cudaGetDeviceCount(&count);
    info_section(report, "cuda", "CUDA");
    add_version(report, "runtime_version", "runtime", runtime);
    if (*info_nvml_driver(nvml, driver, sizeof driver))
        info_text(report, "driver_version", "driver", "%s", driver);
    add_version(report, "driver_supports", "driver supports", supported);
    if (error != cudaSuccess) {
        count = 0;
        info_text(report, "error", "devices", "none: %s",
                  supported == 0 ? "no NVIDIA driver answers" : cudaGetErrorString(error));
    } else {
        info_number(report, "device_count", "devices", count, "%d", count);
    }
    return count;
}

/* "NVLink", "PCIe" or "no": how `from` reads and writes the memory of `to`. */
static const char *link_text(const info_nvml_t *nvml, int from, int to,
                             char bus_ids[][BUS_ID_BYTES])
{
    int reachable = 0;
    if (from == to) return "-";
    if (cudaDeviceCanAccessPeer(&reachable, from, to) != cudaSuccess) return "?";
    if (!reachable) return "no";
    int joined = info_nvml_joined(nvml, bus_ids[from], bus_ids[to]);
    return joined < 0 ? "yes" : joined ? "NVLink" : "PCIe";
}

static void add_row(info_report_t *report, const info_nvml_t *nvml, int from, int count,
                    char bus_ids[][BUS_ID_BYTES], json_t *matrix)
{
    char name[16], line[1024] = "";
    json_t *row = json_array();
    for (int to = 0; to < count; to++) {
        size_t length = strlen(line);
        const char *text = link_text(nvml, from, to, bus_ids);
        json_array_append_new(row, json_string(text));
        snprintf(line + length, sizeof line - length, "%-*s", CELL_COLUMNS, text);
    }
    json_array_append_new(matrix, row);
    int links = info_nvml_active_links(nvml, bus_ids[from]);
    snprintf(name, sizeof name, "cuda:%d", from);
    if (links >= 0) info_note(report, name, "%s %d NVLinks up", line, links);
    else info_note(report, name, "%s", line);
}

void info_add_cuda(info_report_t *report)
{
    info_nvml_t *nvml = info_nvml_open();
    int count = add_versions(report, nvml);
    char(*bus_ids)[BUS_ID_BYTES] = count > 1 ? calloc((size_t)count, BUS_ID_BYTES) : NULL;
    if (bus_ids) {
        char line[1024] = "";
        json_t *matrix = json_array();
        for (int d = 0; d < count; d++) {
            size_t length = strlen(line);
            (void)cudaDeviceGetPCIBusId(bus_ids[d], BUS_ID_BYTES, d);
            snprintf(line + length, sizeof line - length, "cuda:%-*d", CELL_COLUMNS - 5, d);
        }
        info_section(report, "links", "links (how the row's device reaches the column's memory)");
        info_note(report, "", "%s", line);
        for (int from = 0; from < count; from++)
            add_row(report, nvml, from, count, bus_ids, matrix);
        info_value(report, "matrix", matrix);
    }
    free(bus_ids);
    info_nvml_close(nvml);
}
