/* SPDX-License-Identifier: Apache-2.0 */
/* Line plots over a logarithmic axis of sizes, drawn by gnuplot. */
#ifndef TESSERA_BENCH_PLOT_H
#define TESSERA_BENCH_PLOT_H

#include <stdint.h>
#include <stdio.h>
#include <tessera/status.h>

#define PLOT_SERIES_MAX 6

typedef struct plot_series {
    const char *title;
    const double *values; /* (point_count) */
} plot_series_t;

typedef struct plot {
    const char *title, *x_label, *y_label;
    const double *sizes; /* (point_count) bytes */
    int point_count;
    plot_series_t series[PLOT_SERIES_MAX];
    int series_count;
    double marked_size; /* a vertical line; 0: none */
} plot_t;

/* 1 when a program gnuplot is on PATH. */
int plot_available(void);

/* In characters, 79 columns wide, on `table` (standard output or error). */
tess_status_t plot_terminal(const plot_t *plot, FILE *table);

/* Writes an SVG file, aside first. */
tess_status_t plot_svg(const plot_t *plot, const char *name);

#endif
