/* SPDX-License-Identifier: Apache-2.0 */
/* Feeds gnuplot through a pipe. It is an optional tool, so that nothing links a plotting library;
 * all text that reaches it is ours or quoted.
 */
#include "plot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench_file.h"
#include "core/internal.h"

int plot_available(void)
{
    const char *path = getenv("PATH");
    char folders[8192], program[8300];
    if (!path || snprintf(folders, sizeof folders, "%s", path) >= (int)sizeof folders) return 0;
    char *rest = folders;
    for (const char *folder = strsep(&rest, ":"); folder; folder = strsep(&rest, ":")) {
        struct stat found;
        snprintf(program, sizeof program, "%s/gnuplot", *folder ? folder : ".");
        if (access(program, X_OK) == 0 && stat(program, &found) == 0 && S_ISREG(found.st_mode))
            return 1;
    }
    return 0;
}

static void write_axis(FILE *pipe, const plot_t *plot)
{
    double low = plot->sizes[0], high = plot->sizes[plot->point_count - 1];
    fprintf(pipe, "set logscale x 2\nset xrange [%.0f:%.0f]\n", low / 1.2, high * 1.2);
    fputs("set xtics (", pipe);
    int step = plot->point_count > 10 ? 2 : 1;
    for (int i = 0; i < plot->point_count; i += step) {
        char text[32];
        fprintf(pipe, "%s\"%s\" %.0f", i ? ", " : "",
                bench_bytes_text((int64_t)plot->sizes[i], text, sizeof text), plot->sizes[i]);
    }
    fputs(")\nset yrange [0:*]\n", pipe);
    fprintf(pipe, "set title '%s'\nset xlabel '%s'\nset ylabel '%s'\n", plot->title, plot->x_label,
            plot->y_label);
    if (plot->marked_size > 0)
        fprintf(pipe, "set arrow from %.0f, graph 0 to %.0f, graph 1 nohead\n", plot->marked_size,
                plot->marked_size);
}

static void write_plot(FILE *pipe, const plot_t *plot)
{
    write_axis(pipe, plot);
    for (int s = 0; s < plot->series_count; s++)
        fprintf(pipe, "%s'-' using 1:2 with linespoints title '%s'", s ? ", " : "plot ",
                plot->series[s].title);
    fputc('\n', pipe);
    for (int s = 0; s < plot->series_count; s++) {
        for (int i = 0; i < plot->point_count; i++)
            fprintf(pipe, "%.0f %.9g\n", plot->sizes[i], plot->series[s].values[i]);
        fputs("e\n", pipe);
    }
}

/* Gives gnuplot its settings and the plot; what it prints goes where `command` says. */
static tess_status_t run_gnuplot(const char *command, const char *settings, const plot_t *plot)
{
    FILE *pipe = popen(command, "w");
    if (!pipe) return tessi_fail_errno(errno, "cannot start gnuplot");
    fputs(settings, pipe);
    write_plot(pipe, plot);
    int failed = ferror(pipe);
    int ended = pclose(pipe);
    if (failed || ended != 0)
        return tessi_fail(TESS_ERR_SYSTEM, "gnuplot did not draw the plot (it ended with %d)",
                          ended);
    return TESS_OK;
}

tess_status_t plot_terminal(const plot_t *plot, FILE *table)
{
    fflush(table);
    return run_gnuplot(table == stderr ? "gnuplot 1>&2" : "gnuplot",
                       "set term dumb 79 20 noenhanced\nset key below\n", plot);
}

/* gnuplot doubles a quote within single quotes. */
static void quote(const char *text, char *quoted, size_t quoted_bytes)
{
    size_t length = 0;
    for (; *text && length + 3 < quoted_bytes; text++) {
        if (*text == '\'') quoted[length++] = '\'';
        quoted[length++] = *text;
    }
    quoted[length] = '\0';
}

tess_status_t plot_svg(const plot_t *plot, const char *name)
{
    bench_file_names_t names;
    char quoted[2 * sizeof names.aside], settings[3 * sizeof names.aside];
    tess_status_t status = bench_file_names(name, &names);
    if (status < 0) return status;
    quote(names.aside, quoted, sizeof quoted);
    snprintf(
        settings, sizeof settings,
        "set term svg noenhanced size 800,500 background 'white'\nset key bottom right\nset grid\n"
        "set output '%s'\n",
        quoted);
    status = run_gnuplot("gnuplot", settings, plot);
    if (status < 0) {
        unlink(names.aside);
        return status;
    }
    return bench_file_publish(&names);
}
