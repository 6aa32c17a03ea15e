/* SPDX-License-Identifier: Apache-2.0 */
/* What a person asks of a benchmark on its command line.
 *
 * Invariant: bench_options_parse returns only with options that make sense together; everything
 * else ends the program with one sentence and exit code 2 before anything was started. Values that
 * depend on the device stay at BENCH_UNSET until bench_options_resolve.
 */
#ifndef TESSERA_BENCH_OPTIONS_H
#define TESSERA_BENCH_OPTIONS_H

#include <stdint.h>
#include <tessera/adam.h>
#include <tessera/comm.h>

#define BENCH_UNSET (-1)
#define BENCH_TRANSPORTS_MAX 8
#define BENCH_NAME_BYTES 24
#define BENCH_LIST_MAX 32 /* numbers in one list on the command line */

/* What main returns. */
typedef enum bench_exit {
    BENCH_EXIT_OK = 0,
    BENCH_EXIT_WRONG_DATA = 1,
    BENCH_EXIT_USAGE = 2,
    BENCH_EXIT_FAILED = 3, /* a transport, a device, memory or the operating system */
    BENCH_EXIT_TIMEOUT = 4
} bench_exit_t;

typedef enum bench_collective {
    BENCH_ALL_GATHER = 1,
    BENCH_REDUCE_SCATTER = 2 /* BENCH_ALL_GATHER | BENCH_REDUCE_SCATTER: both */
} bench_collective_t;

/* What a run measures; a flag says in which of them it has a meaning. */
typedef enum bench_mode {
    BENCH_MODE_SWEEP = 1,
    BENCH_MODE_TUNE = 2,
    BENCH_MODE_OVERLAP = 4,
    BENCH_MODE_ADAM = 8,
    BENCH_MODE_OFFLOAD = 16
} bench_mode_t;

/* What bench_offload measures; a set. */
typedef enum bench_offload {
    BENCH_OFFLOAD_COPY = 1,
    BENCH_OFFLOAD_COMPUTE = 2,
    BENCH_OFFLOAD_ADAM = 4,
    BENCH_OFFLOAD_FILE = 8
} bench_offload_t;

typedef enum bench_memory {
    BENCH_MEMORY_REGISTERED = 1, /* tess_comm_allocate */
    BENCH_MEMORY_USER = 2        /* tess_memory_allocate; a set of both is legal */
} bench_memory_t;

typedef enum bench_device {
    BENCH_DEVICE_AUTO,
    BENCH_DEVICE_HOST,
    BENCH_DEVICE_CUDA
} bench_device_t;

/* Numbers in a list on the command line, as they stand there; count 0: not given. */
typedef struct bench_list {
    int64_t values[BENCH_LIST_MAX];
    int count;
} bench_list_t;

/* How bench_adam calls a pair of weights and moments. */
typedef struct bench_layout {
    const char *name;
    tess_adam_weights_t weights;
    tess_adam_moments_t moments;
} bench_layout_t;

/* One dense product C(m, n) = A(m, k) B(k, n). */
typedef struct bench_gemm {
    int64_t m, n, k;
} bench_gemm_t;

/* One program: what it is called and which collective it measures. */
typedef struct bench_program {
    const char *name;
    const char *purpose;            /* first line of --help */
    unsigned modes;                 /* of bench_mode_t */
    bench_collective_t collectives; /* a set, for bench_overlap */
    int no_transport;               /* 1: ranks do not communicate while they are timed */
    int ranks;                      /* without --ranks; 0: all devices, on the host some cores */
} bench_program_t;

typedef struct bench_options {
    const bench_program_t *program;
    bench_mode_t mode;

    /* sizes and repetitions */
    int64_t bytes_min, bytes_max; /* total gathered, or total input of a reduce-scatter */
    int64_t step_bytes;           /* BENCH_UNSET: sizes are multiplied by step_factor */
    double step_factor;
    int64_t iterations; /* bench_adam: BENCH_UNSET, as many as fill a while */
    int64_t warmups, repetitions;
    int64_t check;
    int64_t per_iteration;
    tess_dtype_t dtype;
    int dtype_given;
    tess_reduction_t reduction;
    int64_t timeout_s;
    int64_t seed;
    bench_collective_t collectives;

    /* where */
    bench_device_t device;
    int64_t ranks; /* BENCH_UNSET: all devices, or from the launcher */
    char transports[BENCH_TRANSPORTS_MAX][BENCH_NAME_BYTES];
    int transport_count; /* 0: auto */
    unsigned memories;   /* of bench_memory_t */

    /* results */
    const char *json, *csv;

    /* --tune */
    double params;       /* BENCH_UNSET where not given */
    int64_t model_bytes; /* likewise */
    int64_t tokens;      /* likewise; 0: communication alone */
    bench_gemm_t gemm;   /* m is BENCH_UNSET where not given */
    int64_t depth;
    double budget_s;
    int64_t sample_bytes;
    const char *plot, *out;
    int64_t raw_nccl;

    /* bench_overlap */
    int64_t collective_count;
    int64_t gemm_count; /* bench_offload: BENCH_UNSET, as many as take as long as the tiles */

    /* bench_adam; dtype is that of gradients */
    bench_list_t params_each; /* parameters of each size */
    bench_list_t threads;     /* host */
    unsigned layouts;         /* bit l: bench_layouts[l]; 0: BENCH_LAYOUTS_DEFAULT_TEXT */
    tess_dtype_t parameter;
    int64_t groups, huge_pages;

    /* bench_offload; params_each is that of its Adam */
    unsigned offload;           /* of bench_offload_t; 0: all but files, which --file adds */
    int64_t tiles;              /* of a schedule; BENCH_UNSET: as many as make total_bytes */
    int64_t tile_bytes;         /* beside compute, of Adam and in files; BENCH_UNSET: by mode */
    int64_t total_bytes, slots; /* slots 0: as many as the prefetcher takes */
    int64_t cpu_adam;
    const char *file, *engine; /* file NULL: none */
    int64_t file_bytes, block_bytes, file_depth;
} bench_options_t;

/* Reads the command line, or prints and exits. */
void bench_options_parse(int argc, char **argv, const bench_program_t *program,
                         bench_options_t *options);

/* Fills what depends on the kind of device. */
void bench_options_resolve(bench_options_t *options, tess_device_kind_t kind);

/* --- numbers (bench_number.c) --------------------------------------------------------------- */

/* "16", "64K", "1.5G": K, M, G and T are powers of 1024; the result is a whole number of bytes. */
tess_status_t bench_read_bytes(const char *text, int64_t *bytes);
tess_status_t bench_read_integer(const char *text, int64_t low, int64_t high, int64_t *value);
tess_status_t bench_read_real(const char *text, double low, double high, double *value);
/* "M,N,K", each at least 1. */
tess_status_t bench_read_gemm(const char *text, bench_gemm_t *gemm);

/* "1e8,5e5,7": whole numbers within [low, high], each once. */
tess_status_t bench_read_list(const char *text, double low, double high, bench_list_t *list);

/* "64 MiB", "1.5 KiB". Returns text. */
const char *bench_bytes_text(int64_t bytes, char *text, int64_t text_bytes);

/* --- layouts (bench_layout.c) ---------------------------------------------------------------- */

extern const bench_layout_t bench_layouts[];
extern const int bench_layout_count;
#define BENCH_LAYOUTS_DEFAULT_TEXT "master,remainder,remainder-bf16,bf16-8bit,bf16"

/* "master,bf16" or "all"; a set of bits, one a layout of the table. */
tess_status_t bench_read_layouts(const char *text, unsigned *layouts);

/* --- flags (bench_flags.c) ------------------------------------------------------------------- */

typedef enum bench_flag_kind {
    BENCH_FLAG_BYTES,
    BENCH_FLAG_INTEGER, /* within [low, high] */
    BENCH_FLAG_REAL,    /* within [low, high] */
    BENCH_FLAG_TEXT,
    BENCH_FLAG_SET,    /* takes no argument and stores 1 */
    BENCH_FLAG_OTHER,  /* `read` stores it */
    BENCH_FLAG_REFUSED /* known from nccl-tests, without a meaning here: help says why */
} bench_flag_kind_t;

typedef struct bench_flag {
    int key; /* a letter, or above 255 where there is none */
    const char *name, *argument;
    unsigned modes; /* in which it has a meaning */
    bench_flag_kind_t kind;
    size_t offset; /* of the field in bench_options_t */
    double low, high;
    tess_status_t (*read)(bench_options_t *options, const char *text);
    const char *help;
} bench_flag_t;

extern const bench_flag_t bench_flags[];
extern const int bench_flag_count;

/* Stores one flag's value. */
tess_status_t bench_flag_store(const bench_flag_t *flag, bench_options_t *options,
                               const char *text);

#endif
