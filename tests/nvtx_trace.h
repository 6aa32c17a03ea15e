/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a program under the recorder (nvtx_recorder.c) and reads what it recorded.
 *
 * Link tests that use it with tessera_test_nvtx, which also builds the recorder.
 */
#ifndef TESSERA_TESTS_NVTX_TRACE_H
#define TESSERA_TESTS_NVTX_TRACE_H

#include "harness.h"

typedef struct nvtx_trace nvtx_trace_t;

/* Runs this test's own program as `program child_argument` with the recorder loaded; fails the test
 * unless it exits with 0 and left a record. What is common to all records is checked here: one
 * domain "tessera", named categories, registered names, the payload schema, and ranges that nest on
 * each thread and are all closed. */
nvtx_trace_t *nvtx_trace_record(const char *child_argument);
void nvtx_trace_free(nvtx_trace_t *trace);

/* One range or mark; -2 in a number means "any", which no field holds. */
typedef struct nvtx_pattern {
    const char *event;    /* "push" or "mark" */
    const char *category; /* "core", "comm", … */
    const char *name;
    int64_t bytes, index, rank;
    const char *inside; /* name of the range right around it; NULL: any, "": none */
} nvtx_pattern_t;
#define NVTX_ANY (-2)

/* How many recorded events match. */
int nvtx_trace_count(const nvtx_trace_t *trace, const nvtx_pattern_t *pattern);

/* How many strings were registered under this name. */
int nvtx_trace_registrations(const nvtx_trace_t *trace, const char *name);

#endif
