/* SPDX-License-Identifier: Apache-2.0 */
/* Who started this process, and the environment variables that matter to it.
 *
 * Invariant: a variable is shown only when it is in Tessera's own table or matches a name or prefix
 * listed here. The environment as a whole, which may hold secrets, is never printed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/world_env.h"
#include "core/internal.h"
#include "info.h"

/* A name that ends in '*' is a prefix. */
static const char *const shown[] = {
    "NCCL_*",
    "UCX_*",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "NVIDIA_VISIBLE_DEVICES",
    "NVTX_INJECTION64_PATH",
    "OMP_*",
    "OPENBLAS_*",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "LOCAL_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_RESTART_COUNT",
    "OMPI_COMM_WORLD_*",
    "PMI_RANK",
    "PMI_SIZE",
    "PMIX_RANK",
    "MPI_LOCALRANKID",
    "MPI_LOCALNRANKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NTASKS",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_STEP_NODELIST",
};

static int matches(const char *pattern, const char *name)
{
    size_t length = strlen(pattern);
    if (pattern[length - 1] == '*') return strncmp(pattern, name, length - 1) == 0;
    return strcmp(pattern, name) == 0;
}

static int is_own(const char *name)
{
    for (int o = 0; o < TESSI_OPTION_COUNT; o++)
        if (strcmp(tessi_option_variable((tessi_option_t)o), name) == 0) return 1;
    return 0;
}

static int is_shown(const char *name)
{
    for (size_t s = 0; s < sizeof shown / sizeof shown[0]; s++)
        if (matches(shown[s], name)) return 1;
    return is_own(name);
}

void info_add_launcher(info_report_t *report)
{
    static const tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    tessi_place_t place;
    info_section(report, "launcher", "launcher");
    if (tessi_place_find(&config, &place) != TESS_OK) {
        info_text(report, "error", "error", "%s", tess_last_error());
        info_warning(report, "launcher: %s.", tess_last_error());
        return;
    }
    info_text(report, "source", "started by", "%s", place.source);
    info_number(report, "rank", "rank", place.rank, "%d of %d", place.rank, place.size);
    info_value(report, "size", json_integer(place.size));
    if (place.local_rank < 0) return;
    info_number(report, "local_rank", "local rank", place.local_rank, "%d of %d", place.local_rank,
                place.local_size);
    info_value(report, "local_size", json_integer(place.local_size));
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Splits "NAME=value"; 0 for an entry without a name that fits. */
static int split(const char *entry, char *name, size_t name_bytes, const char **value)
{
    const char *equals = strchr(entry, '=');
    if (!equals || (size_t)(equals - entry) >= name_bytes) return 0;
    memcpy(name, entry, (size_t)(equals - entry));
    name[equals - entry] = '\0';
    *value = equals + 1;
    return 1;
}

void info_add_environment(info_report_t *report)
{
    char name[128];
    const char *value;
    size_t count = 0, printed = 0;
    info_section(report, "environment", "environment");
    while (environ[count]) count++;
    char **sorted = calloc(count + 1, sizeof *sorted);
    if (!sorted) {
        report->failed = 1;
        return;
    }
    memcpy(sorted, environ, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, by_name);
    for (size_t e = 0; e < count; e++) {
        if (!split(sorted[e], name, sizeof name, &value)) continue;
        if (strncmp(name, "TESS_", 5) == 0 && strncmp(name, "TESS_TEST_", 10) != 0 && !is_own(name))
            info_warning(report, "%s is set, but Tessera reads no such variable.", name);
        else if (!is_shown(name)) continue;
        info_text(report, name, name, "%s", value);
        printed++;
    }
    free(sorted);
    if (printed == 0) info_note(report, "nothing set", "(--options lists Tessera's variables)");
}

void info_print_options(void)
{
    for (int o = 0; o < TESSI_OPTION_COUNT; o++) {
        tessi_option_t option = (tessi_option_t)o;
        printf("%-18s %s\n", tessi_option_variable(option), tessi_option_help(option));
        printf("%-18s %s: %s\n", "", tessi_option_is_set(option) ? "set" : "default",
               *tessi_option(option) ? tessi_option(option) : "none");
    }
}
