/* SPDX-License-Identifier: Apache-2.0 */
/* The benchmark's memory: allocated once, and on the host in huge pages where the kernel gives
 * them, because a pass over many arrays misses the TLB for each of them otherwise.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "adam_bench.h"
#include "core/internal.h"

#define HUGE_PAGE_BYTES (INT64_C(2) << 20)
#define COPY_MIN_BYTES (INT64_C(1) << 20)

tess_status_t adam_memory_free_bytes(bench_session_t *session, int64_t *bytes)
{
    tess_device_properties_t properties;
    tess_status_t status = tess_device_properties(session->device, &properties);
    if (status < 0) return status;
    int sharers = session->kind == TESS_DEVICE_HOST ? tess_world_local_size(session->world) : 1;
    double worst = -(double)properties.memory_free_bytes / sharers;
    status = bench_largest(session, &worst, 1);
    /* Room for the samples, the libraries and the machine itself. */
    *bytes = (int64_t)(-worst * 0.9) - 32 * ADAM_SAMPLES;
    return status;
}

/* Advice about whole huge pages inside; kernels that know none refuse it, and nothing is lost. */
static void advise(char *memory, int64_t bytes, int huge)
{
    int64_t page = sysconf(_SC_PAGESIZE);
    int64_t skipped = (page - (int64_t)((uintptr_t)memory % (uintptr_t)page)) % page;
    int64_t whole = (bytes - skipped) / page * page;
    if (whole > 0)
        (void)madvise(memory + skipped, (size_t)whole, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static tess_status_t allocate(bench_session_t *session, int64_t bytes, char **memory)
{
    tess_device_properties_t properties;
    tess_status_t status = tess_device_properties(session->device, &properties);
    if (status < 0) return status;
    status = tess_memory_allocate(session->device, TESS_MEMORY_DEVICE, bytes, (void **)memory);
    if (status < 0 || session->kind != TESS_DEVICE_HOST) return status;
    advise(*memory, bytes, session->options->huge_pages != 0);
    adam_touch(*memory, bytes, properties.multiprocessors);
    return TESS_OK;
}

tess_status_t adam_memory_open(bench_session_t *session, int64_t state_bytes, int64_t copy_bytes,
                               adam_memory_t *memory)
{
    int64_t free_bytes;
    tess_status_t status = adam_memory_free_bytes(session, &free_bytes);
    if (status < 0) return status;
    while (copy_bytes > COPY_MIN_BYTES && state_bytes + 2 * copy_bytes > free_bytes)
        copy_bytes /= 2;
    copy_bytes = (copy_bytes + 63) / 64 * 64;
    status = allocate(session, state_bytes, &memory->state);
    if (status < 0) return status;
    memory->state_bytes = state_bytes;
    status = allocate(session, 2 * copy_bytes, &memory->copies);
    if (status < 0) return status;
    memory->copy_bytes = copy_bytes;
    return TESS_OK;
}

void adam_memory_close(bench_session_t *session, adam_memory_t *memory)
{
    tess_memory_free(session->device, TESS_MEMORY_DEVICE, memory->copies);
    tess_memory_free(session->device, TESS_MEMORY_DEVICE, memory->state);
    *memory = (adam_memory_t){0};
}

/* --- huge pages ------------------------------------------------------------------------------ */

/* The word in brackets of "always [madvise] never". */
static void kernel_setting(char *word, size_t word_bytes)
{
    char line[128] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    if (file && !fgets(line, sizeof line, file)) line[0] = '\0';
    if (file) fclose(file);
    char *from = strchr(line, '['), *to = from ? strchr(from, ']') : NULL;
    if (to) *to = '\0';
    snprintf(word, word_bytes, "%s", to ? from + 1 : "unknown");
}

static int64_t huge_bytes_used(void)
{
    char line[256];
    long long kib = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "AnonHugePages: %lld kB", &kib) == 1) break;
    if (file) fclose(file);
    return (int64_t)kib * 1024;
}

const char *adam_huge_pages_text(int asked, char *text, int64_t text_bytes)
{
    char setting[32], amount[32];
    kernel_setting(setting, sizeof setting);
    bench_bytes_text(huge_bytes_used(), amount, sizeof amount);
    snprintf(text, (size_t)text_bytes, "%s, the kernel's setting is %s, %s of this process in them",
             asked ? "asked for" : "refused", setting, amount);
    return text;
}
