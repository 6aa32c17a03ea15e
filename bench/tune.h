/* SPDX-License-Identifier: Apache-2.0 */
/* Which bucket size? Sends a model through the real gatherer (reducer) with every bucket size of a
 * sweep, alone and beside compute, and names the smallest bucket that is within 2 % of the best.
 *
 * Compute is the same for every bucket size: one matrix product for every N*K parameters, queued
 * behind the bucket in which the last of those parameters lies.
 */
#ifndef TESSERA_BENCH_TUNE_H
#define TESSERA_BENCH_TUNE_H

#include "bench_ring.h"
#include "gemm.h"

#define TUNE_ROUNDS_MAX 50
#define TUNE_VISITS 3 /* passes of each kind while a bucket size has its turn in a round */
#define TUNE_SAMPLES_MAX (TUNE_ROUNDS_MAX * TUNE_VISITS)
#define TUNE_ROWS_MAX 256
#define TUNE_TOLERANCE 1.02

/* Seconds of passes over the sample, slowest rank. */
typedef struct tune_samples {
    double seconds[TUNE_SAMPLES_MAX];
    int count;
    double median, min; /* of the payload: scaled */
} tune_samples_t;

typedef struct tune_row {
    int64_t bucket_bytes;
    int64_t bucket_count, largest_bytes, ring_bytes; /* as the plan made it */
    int too_small;        /* a tensor of the list is larger: not measured */
    int same_as_previous; /* the layout is that of a smaller row: not measured again */
    int too_large;        /* its buffers do not fit */
    tune_samples_t communication, computing, both;
    tune_samples_t raw, raw_out; /* NCCL's own calls; raw_out: gathering out of place */
    double busbw;     /* of communication alone, padding included in what is sent but not counted */
    double exposed_s; /* median of both - compute, from passes that follow one another */
} tune_row_t;

/* The tensors that stand for a model: a decoder's layers, their matrices cut into blocks of rows so
 * that even the smallest bucket of the sweep can be filled. */
typedef struct tune_model {
    int64_t layer_count, hidden;
    int64_t *tensor_counts; /* (tensor_count) elements */
    int64_t *tensor_ends;   /* (tensor_count) elements up to the end of each */
    int64_t tensor_count;
    int64_t params;        /* of the whole model */
    int64_t sample_params; /* of the tensors listed: what is measured */
    double scale;          /* params / sample_params */
} tune_model_t;

typedef struct tune {
    bench_session_t *session;
    bench_route_t *route; /* the transport that is tuned */
    bench_route_t raw;    /* open with --raw-nccl */
    bench_collective_t collective;
    tune_model_t model;

    void *shard; /* this rank's slices, or what raw NCCL scatters into */
    int64_t shard_bytes;
    tess_stream_t *compute, *consumer, *raw_stream;
    gemm_t *gemm;         /* NULL: communication alone */
    int64_t gemm_params;  /* parameters that one round of products stands for */
    int64_t gemm_repeats; /* products for them: 1 forward, 2 backward */
    int64_t queued;       /* groups of products, in this pass */

    tune_row_t rows[TUNE_ROWS_MAX];
    int row_count;
    double computing_s, computing_min_s; /* compute alone, over all rows */
    int round_count;                     /* complete ones */
    int stable;                          /* the last round left the recommendation as it was */
    int late;                            /* the budget is used */
    int ended_early;                     /* by the budget */
    int cut_short;                       /* and that in the middle of a round */
    int recommended;                     /* index of a row; -1 before the first round */
    int best;                            /* row with the smallest time */
    double seconds_used;                 /* of the budget; rank 0's decides */
    int64_t start_ns;
} tune_t;

/* The whole of --tune. */
tess_status_t tune_run(bench_session_t *session);

/* The row's time that counts: beside compute where there is some. */
const tune_samples_t *tune_total(const tune_t *tune, const tune_row_t *row);

/* Neither skipped nor without memory. */
int tune_is_measured(const tune_row_t *row);

/* --- the model (tune_model.c) ---------------------------------------------------------------- */

tess_status_t tune_model_create(const bench_options_t *options, int64_t sample_bytes_max,
                                tune_model_t *model);
void tune_model_destroy(tune_model_t *model);

/* Fills rows[].bucket_bytes, ascending, clipped to the sample. */
tess_status_t tune_list_rows(tune_t *tune);

/* --- one bucket size at a time (tune_stage.c) ------------------------------------------------ */

/* What every row's plan looks like, and which rows are worth measuring. */
tess_status_t tune_describe_rows(tune_t *tune);

/* Collective. row->too_large where memory does not suffice on some rank; the stage is then empty.
 * On failure, and always in the end, bench_ring_close. */
tess_status_t tune_stage_open(tune_t *tune, tune_row_t *row, bench_ring_t *stage);

/* Passes over the sample; seconds on this rank. */
tess_status_t tune_pass_buckets(tune_t *tune, bench_ring_t *stage, int with_compute,
                                double *seconds);
tess_status_t tune_pass_compute(tune_t *tune, double *seconds);
tess_status_t tune_pass_raw(tune_t *tune, bench_ring_t *stage, bench_place_t place,
                            double *seconds);

/* --- results (tune_report.c, tune_json.c) ---------------------------------------------------- */

void tune_report_start(tune_t *tune);
/* Table, plots, recommendation. Rank 0 only. */
tess_status_t tune_report_end(tune_t *tune);
/* Fragment of a DeepSpeed file, one line. Returns text. */
const char *tune_fragment(const tune_t *tune, char *text, int64_t text_bytes);
tess_status_t tune_write(tune_t *tune);

#endif
