/* SPDX-License-Identifier: Apache-2.0 */
/* tessera-info: what a person pastes into a bug report.
 *
 * It looks and changes nothing: no rank is started, no address is asked for, and of the environment
 * only variables named in info_environment.c are shown.
 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <tessera/version.h>

#include "info.h"
#include "info_build.h"

typedef struct library_row {
    const char *name;
    int built;
    const char *version;
    const char *where;
} library_row_t;

static const library_row_t libraries[] = {
#define LIBRARY_ROW(name, built, version, where) {name, built, version, where},
    INFO_BUILD_LIBRARY_MAP(LIBRARY_ROW)
#undef LIBRARY_ROW
};

static void add_build(info_report_t *report)
{
    info_section(report, "tessera", "tessera");
    info_text(report, "version", "version", "%s", tess_version());
    info_text(report, "build_type", "build", "%s%s%s", INFO_BUILD_TYPE,
              *INFO_BUILD_SANITIZE ? ", sanitizers " : "", INFO_BUILD_SANITIZE);
    info_text(report, "compiler", "compiler", "%s", INFO_BUILD_COMPILER);
    info_text(report, "target", "target", "%s", INFO_BUILD_SYSTEM);
    json_t *list = json_object();
    for (size_t i = 0; i < sizeof libraries / sizeof libraries[0]; i++) {
        const library_row_t *row = &libraries[i];
        json_object_set_new(list, row->name,
                            json_pack("{s:b, s:s, s:s}", "built", row->built, "version",
                                      row->version, "where", row->where));
        info_note(report, row->name, "%s%s%s%s", row->built ? "" : "no: ", row->version,
                  *row->version ? ", " : "", row->where);
    }
    info_value(report, "libraries", list);
}

typedef struct arguments {
    int as_json;
    int options;
} arguments_t;

static error_t parse(int key, char *value, struct argp_state *state)
{
    arguments_t *arguments = state->input;
    switch (key) {
    case 'j':
        arguments->as_json = 1;
        return 0;
    case 'o':
        arguments->options = 1;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", value);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp_option flags[] = {
        {"json", 'j', 0, 0, "print one JSON object", 0},
        {"options", 'o', 0, 0, "list the environment variables that Tessera reads", 0},
        {0}};
    static const struct argp parser = {
        .options = flags,
        .parser = parse,
        .doc = "Shows versions, devices, transports, limits and environment of this machine, as a "
               "bug report needs them."};
    arguments_t arguments = {0};
    argp_program_version = "tessera-info " TESS_VERSION;
    argp_err_exit_status = 2;
    argp_parse(&parser, argc, argv, 0, NULL, &arguments);
    if (arguments.options) {
        info_print_options();
        return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
    }

    info_report_t report;
    if (info_open(&report, !arguments.as_json) != 0) {
        fprintf(stderr, "tessera-info: out of memory\n");
        return 1;
    }
    add_build(&report);
    info_add_machine(&report);
    info_add_transports(&report); /* asks a child for CUDA devices: before this process opens one */
    info_add_launcher(&report);
    info_add_environment(&report);
    info_add_devices(&report);
    info_add_cuda(&report);
    return info_close(&report) == 0 ? 0 : 1;
}
