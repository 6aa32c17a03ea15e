/* SPDX-License-Identifier: Apache-2.0 */
/* tessera-info as a person and as a program call it: both forms, what it must never show, and bad
 * flags.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "harness.h"

#define OUTPUT_BYTES (1 << 18)

static char output[OUTPUT_BYTES];

/* Runs the program with these arguments, its output and errors in `output`; returns its exit code.
 */
static int info(const char *arguments)
{
    char command[1024];
    snprintf(command, sizeof command, "\"%s\" %s 2>&1", INFO_PROGRAM, arguments);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t length = fread(output, 1, sizeof output - 1, pipe);
    output[length] = '\0';
    int status = pclose(pipe);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void says(const char *words)
{
    if (!strstr(output, words)) fail_msg("\"%s\" is not in:\n%s", words, output);
}

static json_t *report(void)
{
    json_error_t error;
    assert_int_equal(info("--json"), 0);
    json_t *root = json_loads(output, 0, &error);
    if (!root) fail_msg("line %d: %s in:\n%s", error.line, error.text, output);
    return root;
}

static void text_names_what_a_report_needs(void **unused)
{
    (void)unused;
    const char *const words[] = {TESS_VERSION, "compiler",    "CUDA",   "UCX",
                                 "processors", "/dev/shm",    "self",   "locked memory limit",
                                 "started by", "device host", "kernel", "memory"};
    assert_int_equal(info(""), 0);
    for (size_t w = 0; w < sizeof words / sizeof words[0]; w++) says(words[w]);
    for (char *line = strtok(output, "\n"); line; line = strtok(NULL, "\n"))
        assert_null(strchr(line, '\t'));
}

static void json_holds_the_same(void **unused)
{
    (void)unused;
    json_t *root = report(), *devices = json_object_get(root, "devices");
    const char *version =
        json_string_value(json_object_get(json_object_get(root, "tessera"), "version"));
    assert_string_equal(version, TESS_VERSION);
    json_t *transports = json_object_get(root, "transports");
    json_t *self = json_object_get(transports, "self");
    assert_true(json_is_true(json_object_get(self, "usable")));
    assert_non_null(json_object_get(transports, "ucx"));
    assert_non_null(json_object_get(transports, "nccl"));
    assert_true(json_array_size(devices) >= 1);
    json_t *host = json_array_get(devices, 0);
    assert_string_equal(json_string_value(json_object_get(host, "device")), "host");
    assert_true(json_integer_value(json_object_get(host, "memory_total_bytes")) > 0);
    assert_true(json_is_array(json_object_get(root, "warnings")));
    json_t *machine = json_object_get(root, "machine");
    assert_true(json_integer_value(json_object_get(machine, "processors_usable")) > 0);
    assert_non_null(json_object_get(machine, "locked_memory_limit_bytes"));
    json_decref(root);
}

static void environment_is_shown_by_name_only(void **unused)
{
    (void)unused;
    setenv("NCCL_DEBUG", "WARN", 1);
    setenv("TESS_VERBOSE", "1", 1);
    setenv("TESS_TRANPORT", "ucx", 1);
    setenv("MY_SECRET_TOKEN", "do-not-show", 1);
    setenv("UCX_TLS", "odd \xff byte", 1);
    json_t *root = report(), *environment = json_object_get(root, "environment");
    assert_string_equal(json_string_value(json_object_get(environment, "NCCL_DEBUG")), "WARN");
    assert_string_equal(json_string_value(json_object_get(environment, "TESS_VERBOSE")), "1");
    assert_string_equal(json_string_value(json_object_get(environment, "UCX_TLS")), "odd ? byte");
    assert_null(json_object_get(environment, "PATH"));
    says("TESS_TRANPORT is set, but Tessera reads no such variable");
    assert_null(strstr(output, "do-not-show"));
    json_decref(root);
    assert_int_equal(info(""), 0);
    assert_null(strstr(output, "do-not-show"));
    unsetenv("NCCL_DEBUG");
    unsetenv("TESS_VERBOSE");
    unsetenv("TESS_TRANPORT");
    unsetenv("UCX_TLS");
}

static void launchers_are_recognised(void **unused)
{
    (void)unused;
    setenv("OMPI_COMM_WORLD_RANK", "1", 1);
    setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
    setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1", 1);
    setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2", 1);
    setenv("TESS_ROOT", "127.0.0.1:29999", 1);
    assert_int_equal(info(""), 0);
    says("Open MPI");
    says("1 of 2");
    says("OMPI_COMM_WORLD_RANK");
    /* What contradicts is told and is no reason to show nothing. */
    setenv("OMPI_COMM_WORLD_RANK", "7", 1);
    assert_int_equal(info(""), 0);
    says("warnings");
    unsetenv("OMPI_COMM_WORLD_RANK");
    unsetenv("OMPI_COMM_WORLD_SIZE");
    unsetenv("OMPI_COMM_WORLD_LOCAL_RANK");
    unsetenv("OMPI_COMM_WORLD_LOCAL_SIZE");
    unsetenv("TESS_ROOT");
}

static void flags(void **unused)
{
    (void)unused;
    assert_int_equal(info("--no-such-flag"), 2);
    says("unrecognized option");
    assert_int_equal(info("stray"), 2);
    says("unexpected argument \"stray\"");
    assert_int_equal(info("--json=x"), 2);
    assert_int_equal(info("--help"), 0);
    says("--json");
    assert_int_equal(info("--version"), 0);
    says("tessera-info " TESS_VERSION);
    assert_int_equal(info("--options"), 0);
    says("TESS_TIMEOUT_MS");
    says("default: 600000");
    assert_int_equal(info(">/dev/full"), 1);
    assert_int_equal(info("--json >/dev/full"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_names_what_a_report_needs),
        cmocka_unit_test(json_holds_the_same),
        cmocka_unit_test(environment_is_shown_by_name_only),
        cmocka_unit_test(launchers_are_recognised),
        cmocka_unit_test(flags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
