/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a benchmark as its users do: a process with a command line, its two outputs and its exit
 * code, under a deadline.
 */
#ifndef TESSERA_TESTS_BENCH_RIG_H
#define TESSERA_TESTS_BENCH_RIG_H

#include <jansson.h>

#include "harness.h"

#define RIG_TIMEOUT_MS 50000

typedef struct rig_run {
    int exit_code; /* 128 + signal; 1000 when the deadline passed and the program was killed */
    char *out, *err;
} rig_run_t;

/* "bench_allgather --ranks 2 …", split at spaces; words before it that contain '=' are set in its
 * environment. The caller frees with rig_free. */
rig_run_t rig_run(const char *command_line);
void rig_free(rig_run_t *run);

/* Fails the test, with all that was printed, unless the program ended with `exit_code`. */
rig_run_t rig_expect(int exit_code, const char *command_line);

/* Parses text; fails the test with it where it is no JSON. */
json_t *rig_json(const char *text);
json_t *rig_json_file(const char *name);

/* Number or string at a path such as "results/0/out_of_place/bus_bw"; fails where there is none. */
double rig_number(json_t *document, const char *path);
const char *rig_text(json_t *document, const char *path);
json_t *rig_at(json_t *document, const char *path);

/* How many times `needle` occurs. */
int rig_count(const char *text, const char *needle);

/* 1 where this build can run several ranks on the host. */
int rig_has_ucx(void);

/* A fresh folder under /tmp, and its removal with the files in it. */
const char *rig_folder_make(void);
void rig_folder_remove(void);
/* How many files lie in it. */
int rig_folder_count(void);

#endif
