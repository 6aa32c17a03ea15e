/* SPDX-License-Identifier: Apache-2.0 */
/* The names of Adam's layouts, once for the command line, tables and files. */
#include <stdio.h>
#include <string.h>

#include "bench_options.h"
#include "core/internal.h"

const bench_layout_t bench_layouts[] = {
    {"master", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_FP32},
    {"remainder", TESS_ADAM_REMAINDER, TESS_ADAM_MOMENTS_FP32},
    {"master-bf16", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_BF16},
    {"remainder-bf16", TESS_ADAM_REMAINDER, TESS_ADAM_MOMENTS_BF16},
    {"master-8bit", TESS_ADAM_MASTER, TESS_ADAM_MOMENTS_8BIT},
    {"bf16-8bit", TESS_ADAM_BF16, TESS_ADAM_MOMENTS_8BIT},
    {"bf16", TESS_ADAM_BF16, TESS_ADAM_MOMENTS_BF16},
};
const int bench_layout_count = (int)(sizeof bench_layouts / sizeof *bench_layouts);

/* The bits of one name; 0 where there is no such layout. */
static unsigned layout_bits(const char *name)
{
    if (strcmp(name, "all") == 0) return (1u << bench_layout_count) - 1;
    for (int l = 0; l < bench_layout_count; l++)
        if (strcmp(name, bench_layouts[l].name) == 0) return 1u << l;
    return 0;
}

tess_status_t bench_read_layouts(const char *text, unsigned *layouts)
{
    char copy[256];
    unsigned set = 0;
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "the list of layouts is too long");
    for (char *rest = copy; rest;) {
        const char *name = strsep(&rest, ",");
        unsigned bits = layout_bits(name);
        if (!bits)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "there is no layout \"%s\"; choose from master, remainder, "
                              "master-bf16, remainder-bf16, master-8bit, bf16-8bit, bf16, or all",
                              name);
        if (set & bits)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "layout \"%s\" is named twice", name);
        set |= bits;
    }
    *layouts = set;
    return TESS_OK;
}
