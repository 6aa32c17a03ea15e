/* SPDX-License-Identifier: Apache-2.0 */
/* The one table of flags: letter, name, where a flag has a meaning, how it is read, and its help.
 *
 * Letters and names are those of nccl-tests where it has the flag. A flag of nccl-tests that cannot
 * mean anything here is in the table too, so that it is refused with the reason.
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "bench_options.h"
#include "core/internal.h"

#define SWEEP BENCH_MODE_SWEEP
#define TUNE BENCH_MODE_TUNE
#define OVERLAP BENCH_MODE_OVERLAP
#define ADAM BENCH_MODE_ADAM
#define OFFLOAD BENCH_MODE_OFFLOAD
#define COMM (SWEEP | TUNE | OVERLAP)
#define ALL (COMM | ADAM | OFFLOAD)

static tess_status_t read_dtype(bench_options_t *options, const char *text)
{
    options->dtype_given = 1;
    return tess_dtype_parse(text, &options->dtype);
}

static tess_status_t read_reduction(bench_options_t *options, const char *text)
{
    options->reduction = strcmp(text, "avg") == 0 ? TESS_AVERAGE : TESS_SUM;
    if (options->reduction == TESS_AVERAGE || strcmp(text, "sum") == 0) return TESS_OK;
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "\"%s\" is not sum or avg", text);
}

static tess_status_t read_device(bench_options_t *options, const char *text)
{
    static const char *const names[] = {"auto", "host", "cuda"};
    for (int d = 0; d < 3; d++) {
        if (strcmp(text, names[d]) != 0) continue;
        options->device = (bench_device_t)d;
        return TESS_OK;
    }
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "\"%s\" is not auto, host or cuda", text);
}

static tess_status_t read_memory(bench_options_t *options, const char *text)
{
    unsigned set = 0;
    if (strcmp(text, "registered") == 0) set = BENCH_MEMORY_REGISTERED;
    if (strcmp(text, "user") == 0) set = BENCH_MEMORY_USER;
    if (strcmp(text, "both") == 0) set = BENCH_MEMORY_REGISTERED | BENCH_MEMORY_USER;
    if (!set)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "\"%s\" is not registered, user or both",
                          text);
    options->memories = set;
    return TESS_OK;
}

static tess_status_t add_transport(bench_options_t *options, const char *name)
{
    static const char *const known[] = {"auto", "self", "ucx", "nccl", "raw-nccl"};
    size_t k = 0;
    while (k < sizeof known / sizeof *known && strcmp(name, known[k]) != 0) k++;
    if (k == sizeof known / sizeof *known)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "there is no transport \"%s\"; choose from auto, self, ucx, nccl, "
                          "raw-nccl",
                          name);
    for (int t = 0; t < options->transport_count; t++)
        if (strcmp(options->transports[t], name) == 0)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "transport \"%s\" is named twice", name);
    if (options->transport_count == BENCH_TRANSPORTS_MAX)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "at most %d transports fit in one run",
                          BENCH_TRANSPORTS_MAX);
    snprintf(options->transports[options->transport_count++], BENCH_NAME_BYTES, "%s", name);
    return TESS_OK;
}

static tess_status_t read_transports(bench_options_t *options, const char *text)
{
    char copy[BENCH_TRANSPORTS_MAX * BENCH_NAME_BYTES];
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "the list of transports is too long");
    options->transport_count = 0;
    for (char *rest = copy; rest;) {
        tess_status_t status = add_transport(options, strsep(&rest, ","));
        if (status < 0) return status;
    }
    return TESS_OK;
}

static tess_status_t read_gemm(bench_options_t *options, const char *text)
{
    return bench_read_gemm(text, &options->gemm);
}

static tess_status_t read_collective(bench_options_t *options, const char *text)
{
    if (strcmp(text, "all_gather") == 0) options->collectives = BENCH_ALL_GATHER;
    else if (strcmp(text, "reduce_scatter") == 0) options->collectives = BENCH_REDUCE_SCATTER;
    else if (strcmp(text, "both") == 0)
        options->collectives = BENCH_ALL_GATHER | BENCH_REDUCE_SCATTER;
    else
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "\"%s\" is not all_gather, reduce_scatter or both", text);
    return TESS_OK;
}

static tess_status_t read_params_each(bench_options_t *options, const char *text)
{
    return bench_read_list(text, 1, 1e12, &options->params_each);
}

static tess_status_t read_threads(bench_options_t *options, const char *text)
{
    return bench_read_list(text, 1, 4096, &options->threads);
}

static tess_status_t read_layouts(bench_options_t *options, const char *text)
{
    return bench_read_layouts(text, &options->layouts);
}

static tess_status_t read_parameter(bench_options_t *options, const char *text)
{
    return tess_dtype_parse(text, &options->parameter);
}

static tess_status_t add_offload(bench_options_t *options, const char *name)
{
    static const char *const names[] = {"copy", "compute", "adam", "file"};
    for (int w = 0; w < 4; w++) {
        if (strcmp(name, names[w]) != 0) continue;
        if (options->offload & 1u << w)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "\"%s\" is named twice", name);
        options->offload |= 1u << w;
        return TESS_OK;
    }
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "\"%s\" is not copy, compute, adam or file", name);
}

static tess_status_t read_offload(bench_options_t *options, const char *text)
{
    char copy[64];
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "the list is too long");
    options->offload = 0;
    for (char *rest = copy; rest;) {
        tess_status_t status = add_offload(options, strsep(&rest, ","));
        if (status < 0) return status;
    }
    return TESS_OK;
}

static tess_status_t read_engine(bench_options_t *options, const char *text)
{
    static const char *const names[] = {"auto", "io_uring", "threads"};
    for (int e = 0; e < 3; e++) {
        if (strcmp(text, names[e]) != 0) continue;
        options->engine = names[e];
        return TESS_OK;
    }
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "\"%s\" is not auto, io_uring or threads", text);
}

static tess_status_t read_tune(bench_options_t *options, const char *text)
{
    (void)text;
    options->mode = BENCH_MODE_TUNE;
    return TESS_OK;
}

static tess_status_t read_graph(bench_options_t *options, const char *text)
{
    (void)options;
    if (strcmp(text, "0") == 0) return TESS_OK;
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "replaying collectives from a CUDA graph is not measured: each collective is "
                      "numbered and watched when it is queued, which a replay passes by");
}

static tess_status_t ignore(bench_options_t *options, const char *text)
{
    (void)options, (void)text;
    return TESS_OK;
}

#define AT(field) .offset = offsetof(bench_options_t, field)
#define BYTES(field) .kind = BENCH_FLAG_BYTES, AT(field)
#define INTEGER(field, from, to)                                                                   \
    .kind = BENCH_FLAG_INTEGER, AT(field), .low = (from), .high = (to), .argument = "N"
#define REAL(field, from, to) .kind = BENCH_FLAG_REAL, AT(field), .low = (from), .high = (to)
#define TEXT(field) .kind = BENCH_FLAG_TEXT, AT(field)
#define OTHER(function) .kind = BENCH_FLAG_OTHER, .read = (function)
#define REFUSED_IN(in, letter, long_name, why)                                                     \
    {                                                                                              \
        (letter), (long_name), "N", (in), BENCH_FLAG_REFUSED, 0, 0, 0, 0, (why)                    \
    }
#define REFUSED(letter, long_name, why) REFUSED_IN(COMM, letter, long_name, why)
#define BY_PARAMS "sizes are numbers of parameters; --params 1e8,1e9 lists them"

/* clang-format off */
const bench_flag_t bench_flags[] = {
    {'b', "minbytes", "SIZE", COMM, BYTES(bytes_min),
     .help = "smallest size; K, M, G are powers of 1024. Total bytes gathered, or put into a "
             "reduce-scatter; with --tune the smallest bucket"},
    {'e', "maxbytes", "SIZE", COMM, BYTES(bytes_max), .help = "largest size"},
    {'i', "stepbytes", "SIZE", SWEEP | OVERLAP, BYTES(step_bytes),
     .help = "add this from size to size"},
    {'f', "stepfactor", "X", COMM | OFFLOAD, REAL(step_factor, 1.01, 1e6),
     .help = "multiply sizes by this (2)"},
    {'n', "iters", .modes = SWEEP, INTEGER(iterations, 1, 100000),
     .help = "operations queued at once in one repetition (20)"},
    {'w', "warmup_iters", .modes = SWEEP | OVERLAP | ADAM | OFFLOAD, INTEGER(warmups, 0, 100000),
     .help = "untimed operations (or passes) before (5; bench_overlap and bench_offload: 1; "
             "bench_adam: 2)"},
    {256, "repeat", .modes = SWEEP | OVERLAP | ADAM | OFFLOAD, INTEGER(repetitions, 1, 1000),
     .help = "repetitions, of which the median is reported (5)"},
    {'c', "check", .modes = SWEEP, INTEGER(check, 0, 1),
     .help = "1: check every element of the results (1)"},
    {'d', "datatype", "TYPE", COMM, OTHER(read_dtype),
     .help = "byte, bf16, fp16 or fp32 (fp32; with --tune and in bench_overlap bf16)"},
    {'o', "op", "OP", COMM, OTHER(read_reduction), .help = "sum or avg, of a reduce-scatter (sum)"},
    {'I', "per-iteration", .modes = SWEEP, .kind = BENCH_FLAG_SET, AT(per_iteration),
     .help = "also time each operation alone: p50, p95, p99"},
    {'T', "timeout", .modes = ALL, INTEGER(timeout_s, 1, 86400),
     .help = "seconds until a rank that does not answer is an error (60)"},
    {'G', "cudagraph", "N", COMM, OTHER(read_graph), .help = "only 0 is accepted"},
    {257, "seed", .modes = SWEEP | ADAM | OFFLOAD, INTEGER(seed, 0, 1e15), .help = "seed of the inputs (1)"},

    {258, "transport", "A,B", COMM, OTHER(read_transports),
     .help = "auto, self, ucx, nccl, raw-nccl (NCCL's own calls); several are compared in one run "
             "(auto)"},
    {259, "device", "KIND", ALL, OTHER(read_device), .help = "auto, host or cuda (auto)"},
    {260, "ranks", .modes = ALL, INTEGER(ranks, 1, 4096),
     .help = "processes to start here (all CUDA devices; on the host one a core, from 2 to 8; "
             "bench_adam and bench_offload: 1)"},
    {261, "memory", "KIND", SWEEP, OTHER(read_memory),
     .help = "registered (with the transport), user or both (registered)"},
    {262, "json", "FILE", ALL, TEXT(json), .help = "write the results as JSON; - is standard output"},
    {263, "csv", "FILE", ALL, TEXT(csv), .help = "write the rows as comma-separated values; - is standard output"},

    {270, "tune", .modes = SWEEP | TUNE, OTHER(read_tune),
     .help = "find the bucket size for this machine, see below"},
    {271, "params", "P", TUNE, REAL(params, 1, 1e15),
     .help = "parameters of the model, such as 8.2e9"},
    {272, "model-bytes", "SIZE", TUNE, BYTES(model_bytes),
     .help = "size of the model, instead of --params (host 256M, CUDA 8G)"},
    {273, "tokens", .modes = TUNE, INTEGER(tokens, 0, 1 << 20),
     .help = "compute beside communication: matrix products of 2 (reduce-scatter: 4) x N "
             "operations a parameter; 0: none (host 8, CUDA 4096)"},
    {274, "gemm", "M,N,K", TUNE | OVERLAP | OFFLOAD, OTHER(read_gemm),
     .help = "with --tune instead of --tokens: one such product for every N*K parameters; "
             "otherwise the product to run (bench_overlap: host 512,512,512; CUDA 8192,8192,8192; "
             "bench_offload: host 128,128,128; CUDA 4096,4096,4096)"},
    {275, "depth", .modes = TUNE, INTEGER(depth, 1, 64),
     .help = "buffers of the ring: one in use, the others on their way (2)"},
    {276, "budget", "SECONDS", TUNE, REAL(budget_s, 0.1, 86400),
     .help = "stop repeating after this time; every size is seen once all the same (60)"},
    {277, "sample-bytes", "SIZE", TUNE, BYTES(sample_bytes),
     .help = "measure at most this much of the model and scale (host 256M, CUDA 8G)"},
    {278, "plot", "FILE.svg", TUNE | OFFLOAD, TEXT(plot), .help = "draw the result with gnuplot"},
    {279, "out", "FILE.json", TUNE, TEXT(out), .help = "keep the result for programs"},
    {280, "raw-nccl", .modes = TUNE, .kind = BENCH_FLAG_SET, AT(raw_nccl),
     .help = "also time NCCL's own calls on flat buffers (CUDA)"},

    {290, "collective", "NAME", OVERLAP, OTHER(read_collective),
     .help = "all_gather, reduce_scatter or both (both)"},
    {291, "collectives", .modes = OVERLAP, INTEGER(collective_count, 1, 1024),
     .help = "collectives beside the products (2)"},
    {292, "gemms", .modes = OVERLAP, INTEGER(gemm_count, 1, 10000),
     .help = "matrix products beside the collectives (4)"},

    {310, "params", "A,B", ADAM, OTHER(read_params_each),
     .help = "parameters to step, one or several numbers (host 1e5,2e7; CUDA 1e5,1e8,1e9)"},
    {311, "layout", "A,B", ADAM, OTHER(read_layouts),
     .help = "master, remainder, master-bf16, remainder-bf16, master-8bit, bf16-8bit, bf16, or all "
             "(" BENCH_LAYOUTS_DEFAULT_TEXT ")"},
    {'d', "datatype", "TYPE", ADAM, OTHER(read_dtype), .help = "of gradients: bf16, fp16 or fp32 (bf16)"},
    {312, "parameter", "TYPE", ADAM, OTHER(read_parameter),
     .help = "of parameters where the layout has a master: bf16, fp16, or fp32, which is the master "
             "itself (bf16)"},
    {313, "threads", "A,B", ADAM, OTHER(read_threads),
     .help = "OpenMP threads, on the host (1, 2, 4 … and all)"},
    {314, "groups", .modes = ADAM, INTEGER(groups, 0, 1000000),
     .help = "also step the parameters in so many ranges by one call; 0: do not (1000)"},
    {315, "huge-pages", .modes = ADAM, INTEGER(huge_pages, 0, 1),
     .help = "1: ask for huge pages, 0: refuse them, on the host (1)"},
    {'n', "iters", .modes = ADAM, INTEGER(iterations, 1, 100000),
     .help = "steps queued at once in one repetition (as many as take 50 ms)"},
    {'c', "check", .modes = ADAM, INTEGER(check, 0, 1),
     .help = "1: recompute some thousand elements of each result (1)"},

    {320, "what", "A,B", OFFLOAD, OTHER(read_offload),
     .help = "copy, compute, adam, file (copy,compute,adam; and file where --file names one)"},
    {'b', "minbytes", "SIZE", OFFLOAD, BYTES(bytes_min),
     .help = "smallest tile that is copied; K, M, G are powers of 1024 (64K)"},
    {'e', "maxbytes", "SIZE", OFFLOAD, BYTES(bytes_max), .help = "largest tile (host 16M, CUDA 1G)"},
    {321, "tiles", .modes = OFFLOAD, INTEGER(tiles, 1, 1e9),
     .help = "tiles of a schedule, all different (as many as make --total-bytes)"},
    {322, "total-bytes", "SIZE", OFFLOAD, BYTES(total_bytes),
     .help = "bytes that a schedule moves, about; at most 10000 tiles, at least 32 (host 64M, CUDA "
             "2G)"},
    {323, "slots", .modes = OFFLOAD, INTEGER(slots, 2, 1024),
     .help = "tiles on the device at once (the prefetcher's own choice)"},
    {324, "tile", "SIZE", OFFLOAD, BYTES(tile_bytes),
     .help = "tile beside compute, in a file, and of each of Adam's arrays (host 256K, file 1M; CUDA "
             "16M, Adam 4M)"},
    {325, "gemms", .modes = OFFLOAD, INTEGER(gemm_count, 1, 1000000),
     .help = "matrix products beside one pass over the tiles (as many as take as long as it)"},
    {326, "params", "A,B", OFFLOAD, OTHER(read_params_each),
     .help = "parameters of each rank to step, one or several numbers (host 1e6, CUDA 1e8)"},
    {327, "cpu-adam", .modes = OFFLOAD, INTEGER(cpu_adam, 0, 1),
     .help = "1: also step the same state on the CPU, with all cores (1)"},
    {328, "file", "PATH", OFFLOAD, TEXT(file),
     .help = "measure tiles in this file, which must not exist and is removed at the end, or on "
             "this block device, which is overwritten; several ranks append .0, .1 …"},
    {329, "file-bytes", "SIZE", OFFLOAD, BYTES(file_bytes),
     .help = "size of the file of each rank (host 256M, CUDA 4G)"},
    {330, "block", "SIZE", OFFLOAD, BYTES(block_bytes), .help = "of one transfer to the file (1M)"},
    {331, "depth", .modes = OFFLOAD, INTEGER(file_depth, 1, 1024),
     .help = "transfers in flight to the file (32)"},
    {332, "engine", "NAME", OFFLOAD, OTHER(read_engine), .help = "auto, io_uring or threads (auto)"},
    {'c', "check", .modes = OFFLOAD, INTEGER(check, 0, 1),
     .help = "1: check every byte that was moved, in a pass of its own (1)"},

    /* The deepspeed launcher appends it; the rank comes from its variables. */
    {300, "local_rank", "N", ALL, OTHER(ignore)},

    REFUSED('t', "nthreads", "every rank is a process of its own; --ranks says how many"),
    REFUSED('g', "ngpus", "every rank drives one GPU; --ranks says how many"),
    REFUSED('m', "agg_iters", "operations are not grouped; -n says how many are queued at once"),
    REFUSED('N', "run_cycles", "--repeat repeats and reports the median"),
    REFUSED('p', "parallel_init", "every rank is a process of its own and starts by itself"),
    REFUSED('z', "blocking", "operations are always queued and waited for at the end"),
    REFUSED('a', "average", "times are always those of the slowest rank"),
    REFUSED('r', "root", "neither all-gather nor reduce-scatter has a root"),
    REFUSED('R', "local_register", "--memory says how buffers are allocated"),
    REFUSED('u', "unalign", "slices are always multiples of 16 bytes"),
    REFUSED('x', "cta_policy", "set NCCL's own variables instead"),
    REFUSED('J', "output_file", "--json FILE writes the results"),
    REFUSED('C', "report_cputime", "only the time of the whole operation is reported"),
    REFUSED_IN(ADAM, 'b', "minbytes", BY_PARAMS),
    REFUSED_IN(ADAM, 'e', "maxbytes", BY_PARAMS),
    REFUSED_IN(ADAM, 'f', "stepfactor", BY_PARAMS),
    REFUSED_IN(ADAM, 't', "nthreads", "--threads lists numbers of OpenMP threads"),
    REFUSED_IN(ADAM, 'g', "ngpus", "every rank drives one GPU; --ranks says how many"),
    REFUSED_IN(OFFLOAD, 'g', "ngpus", "every rank drives one GPU; --ranks says how many"),
    REFUSED_IN(OFFLOAD, 'n', "iters", "a pass is one schedule; --tiles says how long it is"),
    REFUSED_IN(OFFLOAD, 'd', "datatype", "tiles are bytes"),
};
/* clang-format on */
const int bench_flag_count = (int)(sizeof bench_flags / sizeof *bench_flags);

tess_status_t bench_flag_store(const bench_flag_t *flag, bench_options_t *options, const char *text)
{
    void *field = (char *)options + flag->offset;
    switch (flag->kind) {
    case BENCH_FLAG_BYTES:
        return bench_read_bytes(text, field);
    case BENCH_FLAG_INTEGER:
        return bench_read_integer(text, (int64_t)flag->low, (int64_t)flag->high, field);
    case BENCH_FLAG_REAL:
        return bench_read_real(text, flag->low, flag->high, field);
    case BENCH_FLAG_TEXT:
        if (*text == '\0')
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "the name of the file is empty");
        *(const char **)field = text;
        return TESS_OK;
    case BENCH_FLAG_SET:
        *(int64_t *)field = 1;
        return TESS_OK;
    case BENCH_FLAG_OTHER:
        return flag->read(options, text);
    case BENCH_FLAG_REFUSED:
        break;
    }
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "it has no meaning here: %s", flag->help);
}
