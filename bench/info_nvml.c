/* SPDX-License-Identifier: Apache-2.0 */
/* See info_nvml.h. Only five functions of a stable interface are used, so that nvml.h need not be
 * installed to build this.
 */
#include "info_nvml.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* From NVIDIA's documentation of the interface. */
#define NVML_OK 0
#define NVML_P2P_INDEX_NVLINK 2
#define NVML_P2P_OK 0
#define NVML_LINKS_MAX 18

typedef struct nvml_device *nvml_device_t;

struct info_nvml {
    void *library;
    int (*init)(void);
    int (*shutdown)(void);
    int (*driver_version)(char *version, unsigned int bytes);
    int (*by_bus_id)(const char *bus_id, nvml_device_t *device);
    int (*link_state)(nvml_device_t device, unsigned int link, int *is_active);
    int (*p2p_status)(nvml_device_t a, nvml_device_t b, int index, int *status);
};

static int load(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

info_nvml_t *info_nvml_open(void)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    info_nvml_t *nvml = library ? calloc(1, sizeof *nvml) : NULL;
    if (!nvml) goto close_library;
    nvml->library = library;
    if (!load(library, "nvmlInit_v2", &nvml->init) ||
        !load(library, "nvmlShutdown", &nvml->shutdown) ||
        !load(library, "nvmlSystemGetDriverVersion", &nvml->driver_version) ||
        !load(library, "nvmlDeviceGetHandleByPciBusId_v2", &nvml->by_bus_id) ||
        !load(library, "nvmlDeviceGetNvLinkState", &nvml->link_state) ||
        !load(library, "nvmlDeviceGetP2PStatus", &nvml->p2p_status) || nvml->init() != NVML_OK)
        goto free_nvml;
    return nvml;

free_nvml:
    free(nvml);
close_library:
    if (library) dlclose(library);
    return NULL;
}

void info_nvml_close(info_nvml_t *nvml)
{
    if (!nvml) return;
    (void)nvml->shutdown();
    dlclose(nvml->library);
    free(nvml);
}

const char *info_nvml_driver(const info_nvml_t *nvml, char *text, size_t text_bytes)
{
    if (!nvml || nvml->driver_version(text, (unsigned int)text_bytes) != NVML_OK) text[0] = '\0';
    return text;
}

int info_nvml_active_links(const info_nvml_t *nvml, const char *bus_id)
{
    nvml_device_t device = NULL;
    int active = 0, known = 0;
    if (!nvml || nvml->by_bus_id(bus_id, &device) != NVML_OK) return -1;
    for (unsigned int link = 0; link < NVML_LINKS_MAX; link++) {
        int is_active = 0;
        if (nvml->link_state(device, link, &is_active) != NVML_OK) continue;
        known = 1;
        active += is_active != 0;
    }
    return known ? active : -1;
}

int info_nvml_joined(const info_nvml_t *nvml, const char *bus_id_a, const char *bus_id_b)
{
    nvml_device_t a = NULL, b = NULL;
    int status = -1;
    if (!nvml || nvml->by_bus_id(bus_id_a, &a) != NVML_OK ||
        nvml->by_bus_id(bus_id_b, &b) != NVML_OK ||
        nvml->p2p_status(a, b, NVML_P2P_INDEX_NVLINK, &status) != NVML_OK)
        return -1;
    return status == NVML_P2P_OK;
}
