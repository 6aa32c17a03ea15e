/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of tessera-info, in the order in which they are printed. */
#ifndef TESSERA_BENCH_INFO_H
#define TESSERA_BENCH_INFO_H

#include "info_report.h"

/* info_machine.c: operating system, processors, memory and the limits on it. */
void info_add_machine(info_report_t *report);

/* info_devices.c: what tess_device_open and tess_comm_open offer. */
void info_add_devices(info_report_t *report);
void info_add_transports(info_report_t *report);

/* info_environment.c: who started this process, and the variables that matter to it. */
void info_add_launcher(info_report_t *report);
void info_add_environment(info_report_t *report);
/* Every variable that Tessera reads, set or not, with default and help. */
void info_print_options(void);

/* info_cuda.c, or info_cuda_none.c where the library is built without CUDA: versions, and the links
 * between the devices where there are several. */
void info_add_cuda(info_report_t *report);

#endif
