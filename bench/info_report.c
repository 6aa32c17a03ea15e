/* SPDX-License-Identifier: Apache-2.0 */
/* See info_report.h. Text is printed at once; the tree is kept in both forms and printed for JSON.
 */
#include "info_report.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LABEL_COLUMNS 22
#define TEXT_BYTES 4096

int info_open(info_report_t *report, int as_text)
{
    memset(report, 0, sizeof *report);
    report->as_text = as_text;
    report->root = json_object();
    report->warnings = json_array();
    if (json_object_set_new(report->root, "warnings", report->warnings) == 0) {
        report->section = report->root;
        return 0;
    }
    json_decref(report->root);
    return -1;
}

static void print_title(const info_report_t *report, const char *title)
{
    static int sections;
    if (!report->as_text || !title) return;
    printf("%s%s\n", sections++ ? "\n" : "", title);
}

void info_section(info_report_t *report, const char *key, const char *title)
{
    json_t *section = json_object_get(report->root, key);
    if (!section) {
        section = json_object();
        if (json_object_set_new(report->root, key, section) != 0) {
            report->failed = 1;
            section = report->root;
        }
    }
    report->section = section;
    print_title(report, title);
}

void info_item(info_report_t *report, const char *key, const char *title)
{
    json_t *list = json_object_get(report->root, key), *item = json_object();
    if (!list) {
        list = json_array();
        if (json_object_set_new(report->root, key, list) != 0) report->failed = 1;
    }
    if (report->failed || json_array_append_new(list, item) != 0) {
        report->failed = 1;
        item = report->root;
    }
    report->section = item;
    print_title(report, title);
}

/* A JSON string; bytes that are no UTF-8, which the environment may hold, become '?'. */
static json_t *string_of(const char *text)
{
    json_t *string = json_string(text);
    if (string) return string;
    char clean[TEXT_BYTES];
    snprintf(clean, sizeof clean, "%s", text);
    for (char *c = clean; *c; c++)
        if ((unsigned char)*c >= 0x80) *c = '?';
    return json_string(clean);
}

void info_value(info_report_t *report, const char *key, json_t *value)
{
    if (json_object_set_new(report->section, key, value) != 0) report->failed = 1;
}

static void print_row(const info_report_t *report, const char *label, const char *text)
{
    if (report->as_text) printf("  %-*s %s\n", LABEL_COLUMNS, label, text);
}

void info_text(info_report_t *report, const char *key, const char *label, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    info_value(report, key, string_of(text));
    print_row(report, label, text);
}

void info_number(info_report_t *report, const char *key, const char *label, int64_t number,
                 const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    info_value(report, key, json_integer(number));
    print_row(report, label, text);
}

const char *info_bytes_text(int64_t bytes, char *text, size_t text_bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    double amount = (double)bytes / 1024;
    int unit = 0;
    while (amount >= 1024 && unit < 4) {
        amount /= 1024;
        unit++;
    }
    if (bytes < 1024) snprintf(text, text_bytes, "%lld bytes", (long long)bytes);
    else snprintf(text, text_bytes, "%.1f %s", amount, units[unit]);
    return text;
}

void info_bytes(info_report_t *report, const char *key, const char *label, int64_t bytes)
{
    char text[32];
    info_number(report, key, label, bytes, "%s", info_bytes_text(bytes, text, sizeof text));
}

void info_note(info_report_t *report, const char *label, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    print_row(report, label, text);
}

void info_warning(info_report_t *report, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (json_array_append_new(report->warnings, string_of(text)) != 0) report->failed = 1;
}

int info_close(info_report_t *report)
{
    size_t index;
    json_t *warning;
    if (report->failed) {
        fprintf(stderr, "tessera-info: out of memory\n");
    } else if (!report->as_text) {
        if (json_dumpf(report->root, stdout, JSON_INDENT(2)) != 0) report->failed = 1;
        putchar('\n');
    } else if (json_array_size(report->warnings) > 0) {
        print_title(report, "warnings");
        json_array_foreach(report->warnings, index, warning)
            printf("  %s\n", json_string_value(warning));
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("tessera-info: cannot write the report");
        report->failed = 1;
    }
    json_decref(report->root);
    return report->failed ? -1 : 0;
}
