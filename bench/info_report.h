/* SPDX-License-Identifier: Apache-2.0 */
/* One report in two forms: lines for people as they are found, or one JSON object at the end.
 *
 * Invariant: what a person reads and what a program reads come from the same call, so that the two
 * forms cannot tell different stories.
 */
#ifndef TESSERA_BENCH_INFO_REPORT_H
#define TESSERA_BENCH_INFO_REPORT_H

#include <jansson.h>
#include <stdint.h>

#define INFO_PRINTF(format_at, first_at) __attribute__((format(printf, format_at, first_at)))

typedef struct info_report {
    json_t *root;
    json_t *section;  /* where rows go; owned by root */
    json_t *warnings; /* owned by root */
    int as_text;
    int failed; /* the tree could not be built for want of memory */
} info_report_t;

/* 0, or -1 without memory. */
int info_open(info_report_t *report, int as_text);

/* From now on rows go to the object `key` of the report, or to a new object at the end of its
 * array `key`. */
void info_section(info_report_t *report, const char *key, const char *title);
void info_item(info_report_t *report, const char *key, const char *title);

/* A row: "  label  text" for people, "key": value for programs. */
void info_text(info_report_t *report, const char *key, const char *label, const char *format, ...)
    INFO_PRINTF(4, 5);
void info_number(info_report_t *report, const char *key, const char *label, int64_t number,
                 const char *format, ...) INFO_PRINTF(5, 6);

/* Bytes with a binary unit for people: "7.8 GiB". */
void info_bytes(info_report_t *report, const char *key, const char *label, int64_t bytes);

/* A row for people alone. */
void info_note(info_report_t *report, const char *label, const char *format, ...) INFO_PRINTF(3, 4);

/* Any value under the section's key, for programs alone. Takes the reference. */
void info_value(info_report_t *report, const char *key, json_t *value);

/* What a reader should look at; printed last. */
void info_warning(info_report_t *report, const char *format, ...) INFO_PRINTF(2, 3);

/* Prints what is left and frees. Returns 0, or -1 when not everything could be written. */
int info_close(info_report_t *report);

/* "7.8 GiB". Returns text. */
const char *info_bytes_text(int64_t bytes, char *text, size_t text_bytes);

#endif
