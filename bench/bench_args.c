/* SPDX-License-Identifier: Apache-2.0 */
/* Command line to options, through glibc's argp, and the checks across flags.
 *
 * A bad command line ends here with one sentence and exit code 2; nothing was started or opened.
 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tessera/version.h>

#include "bench_options.h"
#include "core/internal.h"

#define FLAGS_MAX 128

static const char after_options[] =
    "\vSizes are total bytes: what an all-gather gathers, what one rank puts into a "
    "reduce-scatter. "
    "Bus bandwidth is size / time * (n - 1) / n with 1 GB = 1e9 bytes; times are those of the "
    "slowest rank. Results go to standard output, progress and errors to standard error.\n\n"
    "--tune sends a model of the given size through the bucketed gatherer (reducer) with every "
    "bucket size, and ends with the smallest that is within 2 % of the best, in bytes, in elements "
    "and as a fragment of a DeepSpeed file.\n\n"
    "Exit codes: 0 all is well, 1 wrong data, 2 bad command line or a file that cannot be written, "
    "3 a transport, device or system error, 4 a deadline passed.";

static const char after_options_overlap[] =
    "\vPrints compute alone, communication alone, both together, the efficiency max(compute, "
    "communication) / both, and the exposed time both - compute; on CUDA with NCCL also for NCCL's "
    "own calls in the same run. Times are those of the slowest rank.\n\n"
    "Exit codes: 0 all is well, 2 bad command line or a file that cannot be written, 3 a "
    "transport, "
    "device or system error, 4 a deadline passed.";

static const char after_options_adam[] =
    "\vTimes one step of Adam over parameters that lie in a row, for each size, layout and number "
    "of threads: `pass` is the one call of tess_adam_step (un-scale, clip, update, cast), `step` "
    "has the gradient statistics and the decision about the step before it. Bandwidths count what "
    "is read and written; 100 % of copy is a copy in the same run, which reads and writes as "
    "many bytes. Times are medians, those of the slowest rank. A list is \"1e5,1e8\": K and M "
    "are not understood, because parameters are no bytes.\n\n"
    "Exit codes: 0 all is well, 1 wrong data, 2 bad command line or a file that cannot be written, "
    "3 a device or system error, 4 a deadline passed.";

static const char after_options_offload[] =
    "\vEvery figure stands beside raw copies (or raw transfers) of the same bytes, timed in turn "
    "with "
    "it. `copy`: tiles from pinned memory through the prefetcher to the device, back, and both "
    "ways "
    "at once. `compute`: the same beside matrix products. `adam`: optimizer state in pinned "
    "memory, "
    "streamed through the device. `file`: tiles in a file, through the store alone and through the "
    "prefetcher. Times are medians, those of the slowest rank; all ranks work at once, each with "
    "tiles of its own, and bandwidths are their sum. --tile is rounded up to whole 64 bytes, for "
    "files to whole 4 KiB.\n\n"
    "Exit codes: 0 all is well, 1 wrong data, 2 bad command line or a file that cannot be written, "
    "3 a device or system error, 4 a deadline passed.";

typedef struct reading {
    bench_options_t *options;
    unsigned char given[FLAGS_MAX]; /* (bench_flag_count) */
} reading_t;

/* A letter may stand for one flag here and for another in the next program. */
static const bench_flag_t *find_flag(const bench_program_t *program, int key, int *index)
{
    for (int f = 0; f < bench_flag_count; f++) {
        if (bench_flags[f].key != key || !(bench_flags[f].modes & program->modes)) continue;
        *index = f;
        return &bench_flags[f];
    }
    return NULL;
}

/* "-b" or "--ranks". Returns text. */
static const char *flag_text(const bench_flag_t *flag, char *text, size_t text_bytes)
{
    if (flag->key < 256) snprintf(text, text_bytes, "-%c (--%s)", flag->key, flag->name);
    else snprintf(text, text_bytes, "--%s", flag->name);
    return text;
}

static error_t read_flag(int key, char *argument, struct argp_state *state)
{
    reading_t *reading = state->input;
    if (key == 'h') argp_state_help(state, stdout, ARGP_HELP_STD_HELP);
    if (key == ARGP_KEY_ARG) {
        argp_failure(state, BENCH_EXIT_USAGE, 0,
                     "\"%s\" is not a flag; all arguments are flags, see --help", argument);
    }
    int index;
    const bench_flag_t *flag = find_flag(reading->options->program, key, &index);
    if (!flag) return ARGP_ERR_UNKNOWN;
    reading->given[index] = 1;
    if (bench_flag_store(flag, reading->options, argument) < 0) {
        char name[64];
        argp_failure(state, BENCH_EXIT_USAGE, 0, "%s: %s", flag_text(flag, name, sizeof name),
                     tess_last_error());
    }
    return 0;
}

static tess_status_t check_modes(const reading_t *reading)
{
    bench_mode_t mode = reading->options->mode;
    for (int f = 0; f < bench_flag_count; f++) {
        const bench_flag_t *flag = &bench_flags[f];
        if (!reading->given[f] || (flag->modes & mode)) continue;
        char name[64];
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          mode == BENCH_MODE_SWEEP ? "%s needs --tune"
                                                   : "%s has no meaning with --tune",
                          flag_text(flag, name, sizeof name));
    }
    return TESS_OK;
}

static int is_given(const reading_t *reading, int key)
{
    int index;
    return find_flag(reading->options->program, key, &index) && reading->given[index];
}

static int names_raw_nccl(const bench_options_t *options)
{
    for (int t = 0; t < options->transport_count; t++)
        if (strcmp(options->transports[t], "raw-nccl") == 0) return 1;
    return 0;
}

static const char *offload_contradiction(const reading_t *reading)
{
    const bench_options_t *options = reading->options;
    unsigned what = options->offload;
    int files = options->file && (!what || what & BENCH_OFFLOAD_FILE);
    if (what & BENCH_OFFLOAD_FILE && !options->file) return "--what file needs --file PATH";
    if (options->file && !files) return "--file is given, but --what leaves files out";
    if (!files && (is_given(reading, 329) || is_given(reading, 330) || is_given(reading, 331) ||
                   is_given(reading, 332)))
        return "--file-bytes, --block, --depth and --engine need --file PATH";
    if (options->block_bytes % 4096 != 0 || options->block_bytes > INT64_C(1) << 30)
        return "--block is a multiple of 4096 bytes, and at most 1G";
    if (options->plot && what && !(what & BENCH_OFFLOAD_COPY))
        return "--plot draws copies over tile sizes, and --what leaves them out";
    if (is_given(reading, 321) && is_given(reading, 322))
        return "the length of a schedule is given by --tiles or by --total-bytes, not by both";
    return NULL;
}

/* The first contradiction between flags, or NULL. */
static const char *contradiction(const reading_t *reading)
{
    const bench_options_t *options = reading->options;
    int sums = (options->collectives & BENCH_REDUCE_SCATTER) != 0;
    if (options->bytes_min != BENCH_UNSET && options->bytes_max != BENCH_UNSET &&
        options->bytes_min > options->bytes_max)
        return "the smallest size (-b) is larger than the largest (-e)";
    if (is_given(reading, 'i') && is_given(reading, 'f'))
        return "sizes grow by a step (-i) or by a factor (-f), not by both";
    if (options->mode == BENCH_MODE_ADAM &&
        (options->dtype == TESS_DTYPE_BYTE || options->parameter == TESS_DTYPE_BYTE))
        return "gradients (-d) and parameters (--parameter) are bf16, fp16 or fp32";
    if (options->device == BENCH_DEVICE_CUDA && options->threads.count > 0)
        return "--threads is for the host, and --device says cuda";
    if (sums && options->dtype == TESS_DTYPE_BYTE)
        return "bytes cannot be summed; choose bf16, fp16 or fp32 (-d)";
    if (!sums && is_given(reading, 'o')) return "an all-gather reduces nothing; leave out -o";
    if (options->json && options->csv && strcmp(options->json, "-") == 0 &&
        strcmp(options->csv, "-") == 0)
        return "--json and --csv cannot both go to standard output";
    if ((options->plot && strcmp(options->plot, "-") == 0) ||
        (options->out && strcmp(options->out, "-") == 0))
        return "--plot and --out need the name of a file; --json - prints the result";
    if (options->device == BENCH_DEVICE_HOST && (names_raw_nccl(options) || options->raw_nccl))
        return "raw NCCL needs CUDA devices, and --device says host";
    if (options->mode != BENCH_MODE_SWEEP &&
        (options->transport_count > 1 || names_raw_nccl(options)))
        return options->mode == BENCH_MODE_TUNE
                   ? "with --tune, --transport takes one of auto, self, ucx, nccl; --raw-nccl puts "
                     "NCCL's own calls beside it"
                   : "--transport takes one of auto, self, ucx, nccl here; on CUDA, NCCL's own "
                     "calls (raw-nccl) are always measured beside it";
    if (options->mode == BENCH_MODE_OFFLOAD) return offload_contradiction(reading);
    if (options->params > 0 && options->model_bytes > 0)
        return "the size of the model is given by --params or by --model-bytes, not by both";
    if (is_given(reading, 273) && is_given(reading, 274))
        return "compute is given by --tokens or by --gemm, not by both";
    return NULL;
}

static void set_defaults(const bench_program_t *program, bench_options_t *options)
{
    *options = (bench_options_t){
        .program = program,
        .mode = program->modes & BENCH_MODE_SWEEP ? BENCH_MODE_SWEEP : (bench_mode_t)program->modes,
        .bytes_min = BENCH_UNSET,
        .bytes_max = BENCH_UNSET,
        .step_bytes = BENCH_UNSET,
        .step_factor = 2,
        .iterations = program->modes & BENCH_MODE_ADAM ? BENCH_UNSET : 20,
        .warmups = BENCH_UNSET,
        .repetitions = 5,
        .check = 1,
        .dtype = TESS_DTYPE_FP32,
        .timeout_s = BENCH_UNSET,
        .seed = 1,
        .collectives = program->collectives,
        .ranks = BENCH_UNSET,
        .memories = BENCH_MEMORY_REGISTERED,
        .params = BENCH_UNSET,
        .model_bytes = BENCH_UNSET,
        .tokens = BENCH_UNSET,
        .gemm.m = BENCH_UNSET,
        .depth = 2,
        .budget_s = 60,
        .sample_bytes = BENCH_UNSET,
        .collective_count = 2,
        .gemm_count = program->modes & BENCH_MODE_OFFLOAD ? BENCH_UNSET : 4,
        .parameter = TESS_DTYPE_BF16,
        .groups = 1000,
        .huge_pages = 1,
        .tiles = BENCH_UNSET,
        .tile_bytes = BENCH_UNSET,
        .total_bytes = BENCH_UNSET,
        .cpu_adam = 1,
        .engine = "auto",
        .file_bytes = BENCH_UNSET,
        .block_bytes = 1 << 20,
        .file_depth = 32,
    };
}

/* In --help: what is measured, where and into which files, tuning, and what one program has alone.
 */
static int group_of(int key)
{
    return key < 258 || key >= 310 ? 1 : key < 270 ? 2 : key < 290 ? 3 : 4;
}

/* argp's own table: the flags of this program, the refused ones hidden. */
static void fill_table(const bench_program_t *program, struct argp_option *table)
{
    int count = 0;
    table[count++] = (struct argp_option){.doc = "What is measured:", .group = 1};
    table[count++] = (struct argp_option){.doc = "Where, and results:", .group = 2};
    if (program->modes & BENCH_MODE_TUNE)
        table[count++] = (struct argp_option){.doc = "Bucket sizes:", .group = 3};
    for (int f = 0; f < bench_flag_count; f++) {
        const bench_flag_t *flag = &bench_flags[f];
        if (!(flag->modes & program->modes)) continue;
        int hidden = flag->kind == BENCH_FLAG_REFUSED || !flag->help;
        table[count++] = (struct argp_option){.name = flag->name,
                                              .key = flag->key,
                                              .arg = flag->argument,
                                              .flags = hidden ? OPTION_HIDDEN : 0,
                                              .doc = flag->help,
                                              .group = group_of(flag->key)};
    }
    table[count++] = (struct argp_option){.key = 'h', .flags = OPTION_HIDDEN, .group = -1};
    table[count] = (struct argp_option){0};
}

void bench_options_parse(int argc, char **argv, const bench_program_t *program,
                         bench_options_t *options)
{
    static char version[64], text[4096];
    struct argp_option table[FLAGS_MAX + 5];
    reading_t reading = {.options = options};
    set_defaults(program, options);
    fill_table(program, table);
    snprintf(version, sizeof version, "%s (Tessera) %s", program->name, tess_version());
    const char *after = program->modes & BENCH_MODE_OVERLAP   ? after_options_overlap
                        : program->modes & BENCH_MODE_ADAM    ? after_options_adam
                        : program->modes & BENCH_MODE_OFFLOAD ? after_options_offload
                                                              : after_options;
    snprintf(text, sizeof text, "%s%s", program->purpose, after);
    argp_program_version = version;
    argp_err_exit_status = BENCH_EXIT_USAGE;
    struct argp parser = {.options = table, .parser = read_flag, .doc = text};
    if (argp_parse(&parser, argc, argv, 0, NULL, &reading)) exit(BENCH_EXIT_USAGE);

    if (options->mode != BENCH_MODE_SWEEP && !options->dtype_given)
        options->dtype = TESS_DTYPE_BF16;
    const char *what = contradiction(&reading);
    if (check_modes(&reading) < 0) what = tess_last_error();
    if (!what) return;
    fprintf(stderr, "%s: %s\n", program->name, what);
    exit(BENCH_EXIT_USAGE);
}

/* Sizes that show the machine on a GPU, and end soon on the host. */
static void resolve_offload(bench_options_t *options, int cuda)
{
    static const int64_t mib = 1 << 20;
    if (options->total_bytes == BENCH_UNSET) options->total_bytes = cuda ? 2048 * mib : 64 * mib;
    if (options->file_bytes == BENCH_UNSET) options->file_bytes = cuda ? 4096 * mib : 256 * mib;
    if (options->params_each.count == 0)
        options->params_each = (bench_list_t){.values = {cuda ? 100000000 : 1000000}, .count = 1};
    if (!options->offload)
        options->offload = BENCH_OFFLOAD_COPY | BENCH_OFFLOAD_COMPUTE | BENCH_OFFLOAD_ADAM |
                           (options->file ? BENCH_OFFLOAD_FILE : 0u);
    if (options->gemm.m == BENCH_UNSET)
        options->gemm = cuda ? (bench_gemm_t){4096, 4096, 4096} : (bench_gemm_t){128, 128, 128};
}

void bench_options_resolve(bench_options_t *options, tess_device_kind_t kind)
{
    static const int64_t mib = 1 << 20;
    int cuda = kind == TESS_DEVICE_CUDA;
    int64_t low = 64 << 10, high = cuda ? 1024 * mib : 64 * mib;
    if (options->mode == BENCH_MODE_TUNE) {
        low = mib;
        high = INT64_MAX; /* clipped to the payload */
    }
    if (options->mode == BENCH_MODE_OFFLOAD) {
        high = cuda ? 1024 * mib : 16 * mib;
        resolve_offload(options, cuda);
    }
    if (options->mode == BENCH_MODE_OVERLAP) low = high = cuda ? 400 * mib : 16 * mib;
    if (options->bytes_min == BENCH_UNSET)
        options->bytes_min = options->bytes_max != BENCH_UNSET && options->bytes_max < low
                                 ? options->bytes_max
                                 : low;
    if (options->bytes_max == BENCH_UNSET)
        options->bytes_max = options->mode == BENCH_MODE_OVERLAP || options->bytes_min > high
                                 ? options->bytes_min
                                 : high;
    if (options->warmups == BENCH_UNSET)
        options->warmups =
            options->mode == BENCH_MODE_OVERLAP || options->mode == BENCH_MODE_OFFLOAD ? 1
            : options->mode == BENCH_MODE_ADAM                                         ? 2
                                                                                       : 5;
    if (options->gemm.m == BENCH_UNSET && options->mode == BENCH_MODE_OVERLAP)
        options->gemm = cuda ? (bench_gemm_t){8192, 8192, 8192} : (bench_gemm_t){512, 512, 512};
    if (options->tokens == BENCH_UNSET)
        options->tokens = options->gemm.m != BENCH_UNSET ? 0 : cuda ? 4096 : 8;
    if (options->model_bytes == BENCH_UNSET && options->params < 0)
        options->model_bytes = cuda ? 8192 * mib : 256 * mib;
    if (options->sample_bytes == BENCH_UNSET) options->sample_bytes = cuda ? 8192 * mib : 256 * mib;
}
