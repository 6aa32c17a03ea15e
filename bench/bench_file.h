/* SPDX-License-Identifier: Apache-2.0 */
/* Files of results: written aside, synced and renamed, so that a reader sees all of one or nothing.
 */
#ifndef TESSERA_BENCH_FILE_H
#define TESSERA_BENCH_FILE_H

#include <tessera/status.h>

#include "bench_session.h"

/* All files that the options name can be written, and gnuplot is there where a plot is asked for;
 * otherwise TESS_ERR_INVALID_ARGUMENT, before anything is measured. Collective; rank 0 looks. */
tess_status_t bench_files_check(bench_session_t *session);

/* Writes text to `name`, or to standard output for "-". What exists and is no regular file, such as
 * /dev/null or a pipe, is written as it stands. */
tess_status_t bench_file_write(const char *name, const char *text);

/* The same with what print(context, file) prints. */
typedef void (*bench_print_t)(const void *context, FILE *file);
tess_status_t bench_csv_write(const char *name, bench_print_t print, const void *context);

/* The regular file behind `name`, links followed, and the name that is written first beside it.
 * TESS_ERR_INVALID_ARGUMENT where something else has that name. */
typedef struct bench_file_names {
    char target[4096], aside[4128];
} bench_file_names_t;
tess_status_t bench_file_names(const char *name, bench_file_names_t *names);

/* Syncs the file written aside and gives it its name; removes it where that fails. */
tess_status_t bench_file_publish(const bench_file_names_t *names);

#endif
