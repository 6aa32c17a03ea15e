/* SPDX-License-Identifier: Apache-2.0 */
/* What only NVIDIA's management library knows. It comes with the driver and is loaded where it is
 * there; every answer is "unknown" where it is not.
 */
#ifndef TESSERA_BENCH_INFO_NVML_H
#define TESSERA_BENCH_INFO_NVML_H

#include <stddef.h>

typedef struct info_nvml info_nvml_t;

/* NULL where the library is missing. */
info_nvml_t *info_nvml_open(void);
void info_nvml_close(info_nvml_t *nvml);

/* "580.65.06"; "" where unknown. Returns text. */
const char *info_nvml_driver(const info_nvml_t *nvml, char *text, size_t text_bytes);

/* NVLinks of a device (by its PCI bus id) that are up; -1 where unknown. */
int info_nvml_active_links(const info_nvml_t *nvml, const char *bus_id);

/* 1 when two devices reach one another over NVLink, 0 when not, -1 where unknown. */
int info_nvml_joined(const info_nvml_t *nvml, const char *bus_id_a, const char *bus_id_b);

#endif
