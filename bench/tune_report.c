/* SPDX-License-Identifier: Apache-2.0 */
/* What a tuning run prints: how the model was made, the table, the plots, and last the
 * recommendation with its fragment of a DeepSpeed file.
 */
#include <string.h>

#include "bench_sweep.h"
#include "plot.h"
#include "tune.h"

static const char *type_of(const tune_t *tune)
{
    return tess_dtype_name(tune->session->options->dtype);
}

static void print_compute(tune_t *tune)
{
    bench_session_t *session = tune->session;
    if (!tune->gemm) {
        bench_print(session, "# compute: none (--tokens 0); communication alone decides\n");
        return;
    }
    int64_t products = tune->model.sample_params / tune->gemm_params * tune->gemm_repeats;
    bench_print(session,
                "# compute: %s; %lld for every %lld parameters, %lld in all, %.3g GFLOP each\n",
                gemm_description(tune->gemm), (long long)tune->gemm_repeats,
                (long long)tune->gemm_params, (long long)products, gemm_flops(tune->gemm) * 1e-9);
}

void tune_report_start(tune_t *tune)
{
    bench_session_t *session = tune->session;
    const tune_model_t *model = &tune->model;
    int64_t element_bytes = tess_dtype_bytes(session->options->dtype);
    char all[32], sample[32];
    bench_print(session,
                "# model: %lld parameters, %s in %s: %lld layers of width %lld, listed as %lld "
                "tensors\n",
                (long long)model->params,
                bench_bytes_text(model->params * element_bytes, all, sizeof all), type_of(tune),
                (long long)model->layer_count, (long long)model->hidden,
                (long long)model->tensor_count);
    if (model->scale > 1)
        bench_print(
            session,
            "# sample: the first %s (%lld parameters) are measured, and all times below are "
            "multiplied by %.4f\n",
            bench_bytes_text(model->sample_params * element_bytes, sample, sizeof sample),
            (long long)model->sample_params, model->scale);
    print_compute(tune);
    bench_print(session,
                "# each bucket size goes through the %s, %lld buffers in the ring; times are those "
                "of the slowest rank\n",
                tune->collective == BENCH_ALL_GATHER ? "gatherer" : "reducer",
                (long long)session->options->depth);
}

/* --- table ----------------------------------------------------------------------------------- */

static void print_heading(tune_t *tune)
{
    bench_session_t *session = tune->session;
    int raw = tune->raw.raw != NULL, out = raw && tune->collective == BENCH_ALL_GATHER;
    bench_print(session, "#\n#   %12s %12s %8s %8s %8s  %9s %9s %7s", "bucket", "bucket", "buckets",
                "largest", "memory", "comm", "comm min", "busbw");
    if (tune->gemm) bench_print(session, "  %9s %9s %9s", "both", "both min", "exposed");
    if (raw) bench_print(session, "  %9s %7s", "raw nccl", "of raw");
    if (out) bench_print(session, " %9s", "raw oop");
    bench_print(session, "\n#   %12s %12s %8s %8s %8s  %9s %9s %7s", "(bytes)", "(elements)", "",
                "(MiB)", "(MiB)", "(ms)", "(ms)", "(GB/s)");
    if (tune->gemm) bench_print(session, "  %9s %9s %9s", "(ms)", "(ms)", "(ms)");
    if (raw) bench_print(session, "  %9s %7s", "(ms)", "");
    if (out) bench_print(session, " %9s", "(ms)");
    bench_print(session, "\n");
}

static void print_row(tune_t *tune, int index)
{
    bench_session_t *session = tune->session;
    const tune_row_t *row = &tune->rows[index];
    const char *mark = index == tune->recommended ? "*" : index == tune->best ? "<" : " ";
    bench_print(session, "  %s %12lld %12lld", mark, (long long)row->bucket_bytes,
                (long long)(row->bucket_bytes / tess_dtype_bytes(session->options->dtype)));
    if (!tune_is_measured(row)) {
        bench_print(session, " %8lld %8.1f  %s\n", (long long)row->bucket_count,
                    (double)row->largest_bytes / 0x1p20,
                    row->too_small   ? "not measured: smaller than a tensor of the list"
                    : row->too_large ? "too little memory"
                                     : "same buckets as above");
        return;
    }
    bench_print(session, " %8lld %8.1f %8.1f  %9.3f %9.3f %7.2f", (long long)row->bucket_count,
                (double)row->largest_bytes / 0x1p20, (double)row->ring_bytes / 0x1p20,
                row->communication.median * 1e3, row->communication.min * 1e3, row->busbw);
    if (tune->gemm)
        bench_print(session, "  %9.3f %9.3f %9.3f", row->both.median * 1e3, row->both.min * 1e3,
                    row->exposed_s * 1e3);
    if (tune->raw.raw)
        bench_print(session, "  %9.3f %7.4f", row->raw.median * 1e3,
                    row->communication.median / row->raw.median);
    if (row->raw_out.count > 0) bench_print(session, " %9.3f", row->raw_out.median * 1e3);
    bench_print(session, "\n");
}

/* The rows have alike many, except where the budget ended a round. */
static int fewest_passes(const tune_t *tune)
{
    int fewest = TUNE_SAMPLES_MAX;
    for (int r = 0; r < tune->row_count; r++) {
        int count = tune->rows[r].communication.count;
        if (tune_is_measured(&tune->rows[r]) && count < fewest) fewest = count;
    }
    return fewest;
}

static void print_course(tune_t *tune)
{
    bench_session_t *session = tune->session;
    bench_print(session, "# %d round%s%s, %.1f s, medians of %d or more passes; ",
                tune->round_count, tune->round_count > 1 ? "s" : "",
                tune->cut_short ? " and a part" : "", tune->seconds_used, fewest_passes(tune));
    if (tune->ended_early)
        bench_print(session, "ended early by --budget %g", session->options->budget_s);
    else if (!tune->stable) bench_print(session, "ended after the largest number of rounds");
    if (tune->stable)
        bench_print(session, "%sthe last round left the recommendation as it was\n",
                    tune->ended_early ? "; " : "");
    else
        bench_print(session, "; %s: raise --budget\n",
                    tune->round_count > 1 ? "the last round changed the recommendation"
                                          : "nothing was repeated");
}

static void print_table(tune_t *tune)
{
    bench_session_t *session = tune->session;
    print_heading(tune);
    for (int r = 0; r < tune->row_count; r++) print_row(tune, r);
    if (tune->gemm)
        bench_print(session, "# compute alone: %.3f ms (min %.3f)\n", tune->computing_s * 1e3,
                    tune->computing_min_s * 1e3);
    bench_print(session,
                "# * recommended: the smallest bucket within 2 %% of the best (<) by %s, by the "
                "medians of all rounds\n",
                tune->gemm ? "both" : "comm");
    print_course(tune);
}

/* --- plots ----------------------------------------------------------------------------------- */

static tess_status_t draw(tune_t *tune)
{
    double sizes[TUNE_ROWS_MAX], comm[TUNE_ROWS_MAX], both[TUNE_ROWS_MAX], alone[TUNE_ROWS_MAX];
    int count = 0;
    for (int r = 0; r < tune->row_count; r++) {
        const tune_row_t *row = &tune->rows[r];
        if (!tune_is_measured(row)) continue;
        sizes[count] = (double)row->bucket_bytes;
        comm[count] = row->communication.median * 1e3;
        both[count] = row->both.median * 1e3;
        alone[count++] = row->computing.median * 1e3;
    }
    char title[128];
    snprintf(title, sizeof title, "%s, %d rank%s, %s", bench_collective_name(tune->collective),
             tune->session->size, tune->session->size > 1 ? "s" : "", tune->route->name);
    plot_t plot = {.title = title,
                   .x_label = "bucket",
                   .y_label = "ms",
                   .sizes = sizes,
                   .point_count = count,
                   .series = {{"communication alone", comm},
                              {"beside compute", both},
                              {"compute alone", alone}},
                   .series_count = tune->gemm ? 3 : 1,
                   .marked_size = (double)tune->rows[tune->recommended].bucket_bytes};
    if (tune->session->options->plot) {
        tess_status_t status = plot_svg(&plot, tune->session->options->plot);
        if (status < 0) return status;
    }
    if (plot_available()) return plot_terminal(&plot, tune->session->table);
    bench_print(tune->session, "# no plot: gnuplot is not on PATH (apt install gnuplot-nox)\n");
    return TESS_OK;
}

/* --- recommendation -------------------------------------------------------------------------- */

static int64_t recommended_elements(const tune_t *tune)
{
    return tune->rows[tune->recommended].bucket_bytes /
           tess_dtype_bytes(tune->session->options->dtype);
}

const char *tune_fragment(const tune_t *tune, char *text, int64_t text_bytes)
{
    int64_t elements = recommended_elements(tune);
    int64_t ahead = tune->session->options->depth - 1;
    if (tune->collective == BENCH_REDUCE_SCATTER)
        snprintf(text, (size_t)text_bytes,
                 "{\"zero_optimization\": {\"reduce_bucket_size\": %lld}}", (long long)elements);
    else
        snprintf(text, (size_t)text_bytes,
                 "{\"zero_optimization\": {\"allgather_bucket_size\": %lld, "
                 "\"stage3_prefetch_bucket_size\": %lld}}",
                 (long long)elements, (long long)(elements * (ahead > 0 ? ahead : 1)));
    return text;
}

static void print_recommendation(tune_t *tune)
{
    bench_session_t *session = tune->session;
    char fragment[256];
    bench_print(session, "#\n# DeepSpeed counts elements (here %s), not bytes:\n", type_of(tune));
    if (tune->collective == BENCH_ALL_GATHER)
        bench_print(session,
                    "#   allgather_bucket_size: gathered at once at stages 1 and 2\n"
                    "#   stage3_prefetch_bucket_size: gathered ahead of use at stage 3, %lld x the "
                    "bucket because of --depth %lld\n"
                    "#   reduce_bucket_size comes from bench_reduce_scatter --tune\n",
                    (long long)(session->options->depth > 1 ? session->options->depth - 1 : 1),
                    (long long)session->options->depth);
    else
        bench_print(session, "#   reduce_bucket_size: gradients reduced at once, at every stage\n"
                             "#   allgather_bucket_size and stage3_prefetch_bucket_size come from "
                             "bench_allgather --tune\n");
    bench_print(session, "%s\n", tune_fragment(tune, fragment, sizeof fragment));
    bench_print(session, "recommended bucket: %lld bytes (%lld elements)\n",
                (long long)tune->rows[tune->recommended].bucket_bytes,
                (long long)recommended_elements(tune));
}

tess_status_t tune_report_end(tune_t *tune)
{
    print_table(tune);
    tess_status_t status = draw(tune);
    if (status < 0) return status;
    print_recommendation(tune);
    return TESS_OK;
}
