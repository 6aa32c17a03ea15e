/* SPDX-License-Identifier: Apache-2.0 */
/* From a number of parameters to the tensors of a decoder, in execution order, and from a range of
 * sizes to the rows of the sweep.
 *
 * A layer is norm, qkv (3h x h), output (h x h), norm, up (4h x h), down (h x 4h), with h about 128
 * times the number of layers, as published models have it. Matrices are listed in blocks of rows:
 * a bucket never holds part of a tensor, so whole matrices would make all buckets smaller than the
 * largest of them alike.
 */
#include <math.h>

#include "core/internal.h"
#include "tune.h"

#define LAYER_PARAMS_PER_SQUARE 12 /* 3 + 1 + 4 + 4 matrices of h x h */
#define WIDTH_PER_LAYER 128
/* About how many tensors; more would measure the host's loop over them. A reducer is told of each
 * single one, which costs about a microsecond on CUDA. */
#define TENSORS_GATHERED_MAX 4096
#define TENSORS_REDUCED_MAX 1024
#define SAMPLE_BUCKETS_MIN 4

static void choose_shape(tune_model_t *model)
{
    double params = (double)model->params;
    double layers = cbrt(params / (LAYER_PARAMS_PER_SQUARE * WIDTH_PER_LAYER * WIDTH_PER_LAYER));
    model->layer_count = layers < 1 ? 1 : (int64_t)llround(layers);
    double hidden = sqrt(params / (double)(LAYER_PARAMS_PER_SQUARE * model->layer_count));
    model->hidden = hidden < 64 ? 64 : (int64_t)llround(hidden / 64) * 64;
}

/* Appends one matrix (or vector, rows == 1) in blocks, up to the end of the sample. With no room
 * for the list it is only counted. */
static void list_matrix(tune_model_t *model, int64_t rows, int64_t columns, int64_t block_max,
                        int64_t *end)
{
    int64_t block = block_max > columns ? block_max / columns * columns : block_max;
    for (int64_t left = rows * columns; left > 0 && *end < model->sample_params; left -= block) {
        int64_t count = left < block ? left : block;
        if (count > model->sample_params - *end) count = model->sample_params - *end;
        *end += count;
        if (model->tensor_counts) {
            model->tensor_counts[model->tensor_count] = count;
            model->tensor_ends[model->tensor_count] = *end;
        }
        model->tensor_count++;
    }
}

static void list_tensors(tune_model_t *model, int64_t block_max)
{
    int64_t h = model->hidden, end = 0;
    model->tensor_count = 0;
    while (end < model->sample_params) {
        list_matrix(model, 1, h, block_max, &end);
        list_matrix(model, 3 * h, h, block_max, &end);
        list_matrix(model, h, h, block_max, &end);
        list_matrix(model, 1, h, block_max, &end);
        list_matrix(model, 4 * h, h, block_max, &end);
        list_matrix(model, h, 4 * h, block_max, &end);
    }
}

tess_status_t tune_model_create(const bench_options_t *options, int64_t sample_bytes_max,
                                tune_model_t *model)
{
    int64_t element_bytes = tess_dtype_bytes(options->dtype);
    int64_t params =
        options->params > 0 ? (int64_t)options->params : options->model_bytes / element_bytes;
    *model = (tune_model_t){.params = params};
    if (params * element_bytes < options->bytes_min)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "the model has %lld bytes, less than one bucket of %lld (-b)",
                          (long long)(params * element_bytes), (long long)options->bytes_min);
    choose_shape(model);
    int64_t sample_max = sample_bytes_max / element_bytes;
    model->sample_params = params < sample_max ? params : sample_max;
    if (model->sample_params < 1) model->sample_params = 1;
    model->scale = (double)params / (double)model->sample_params;

    int64_t block_max = options->bytes_min / 2 / element_bytes;
    int64_t tensors_max =
        options->collectives == BENCH_ALL_GATHER ? TENSORS_GATHERED_MAX : TENSORS_REDUCED_MAX;
    if (block_max < model->sample_params / tensors_max)
        block_max = model->sample_params / tensors_max;
    if (block_max < 1) block_max = 1;
    list_tensors(model, block_max);
    int64_t *counts = tessi_calloc((size_t)model->tensor_count, sizeof *counts);
    model->tensor_ends = tessi_calloc((size_t)model->tensor_count, sizeof *model->tensor_ends);
    model->tensor_counts = counts;
    if (!counts || !model->tensor_ends) return TESS_ERR_OUT_OF_MEMORY;
    list_tensors(model, block_max);
    return TESS_OK;
}

void tune_model_destroy(tune_model_t *model)
{
    tessi_free(model->tensor_counts);
    tessi_free(model->tensor_ends);
    *model = (tune_model_t){0};
}

/* The scaled time of a sample with too few buckets would count filling and draining the pipeline
 * several times over. */
static int64_t largest_bucket(const tune_t *tune)
{
    const bench_options_t *options = tune->session->options;
    int64_t sample_bytes = tune->model.sample_params * tess_dtype_bytes(options->dtype);
    if (tune->model.scale > 1) sample_bytes /= SAMPLE_BUCKETS_MIN;
    return options->bytes_max < sample_bytes ? options->bytes_max : sample_bytes;
}

tess_status_t tune_list_rows(tune_t *tune)
{
    const bench_options_t *options = tune->session->options;
    int64_t largest = largest_bucket(tune);
    double bytes = (double)options->bytes_min;
    do {
        if (tune->row_count == TUNE_ROWS_MAX)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                              "-b, -e and -f ask for more than %d bucket sizes", TUNE_ROWS_MAX);
        tune->rows[tune->row_count++].bucket_bytes = (int64_t)bytes;
        bytes = ceil(bytes * options->step_factor);
    } while (bytes <= (double)largest);
    return TESS_OK;
}
