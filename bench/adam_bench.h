/* SPDX-License-Identifier: Apache-2.0 */
/* Adam over parameters that lie in a row: the pass alone, the whole step, and many ranges in one
 * call, beside copies of as many bytes and, on the host, a plain loop.
 *
 * Everything is allocated once, for the largest size and layout; a case lays its arrays out in it.
 */
#ifndef TESSERA_BENCH_ADAM_BENCH_H
#define TESSERA_BENCH_ADAM_BENCH_H

#include <tessera/adam.h>
#include <tessera/gradient.h>
#include <tessera/step.h>

#include "bench_measure.h"

/* What is timed, in this order within a repetition. */
typedef enum adam_kind {
    ADAM_COPY,        /* CUDA: device to device. Host: memcpy in every thread */
    ADAM_STREAM_COPY, /* host: stores that pass by the caches */
    ADAM_PASS,        /* tess_adam_step over one range */
    ADAM_STEP,        /* gradient statistics, decision, pass */
    ADAM_GROUPS,      /* tess_adam_step_list over many ranges */
    ADAM_PLAIN,       /* host: a loop as one writes it */
    ADAM_LAUNCH,      /* tess_adam_step over one element */
    ADAM_KINDS
} adam_kind_t;

typedef struct adam_row {
    const bench_layout_t *layout;
    tess_dtype_t gradient, parameter;
    int64_t count;        /* parameters */
    int threads;          /* 0 on CUDA */
    int64_t groups;       /* ranges of ADAM_GROUPS; 0: not measured */
    int64_t bytes;        /* traffic of the pass */
    int64_t step_bytes;   /* and of the whole step, which reads gradients twice */
    int64_t copy_bytes;   /* copied; the traffic of a copy is twice that */
    double s[ADAM_KINDS]; /* of one call, slowest rank, median; 0: not measured */
    double pass_s_min;    /* fastest repetition */
    int64_t wrong;        /* elements over all ranks; -1: not checked */
    char description[64]; /* tess_adam_description */
} adam_row_t;

/* Memory that copies go through, and state of every layout. */
typedef struct adam_memory {
    char *state;
    int64_t state_bytes;
    char *copies;
    int64_t copy_bytes; /* of each half of copies */
} adam_memory_t;

/* What a step multiplies gradients with before Adam sees them is this and the clip coefficient. */
#define ADAM_LOSS_SCALE 128.0f
#define ADAM_CLIP_NORM 1.0

/* Values of the first ADAM_SAMPLES elements, which repeat from there on. */
#define ADAM_SAMPLES (INT64_C(1) << 20)
typedef struct adam_samples {
    float *host;     /* (3, ADAM_SAMPLES): weights, moment 1, moment 2; later what is checked */
    void *gradient;  /* (ADAM_SAMPLES) of the options' dtype */
    double *squares; /* (ADAM_SAMPLES + 1): sums of the squares of the gradients before */
    float *device;   /* (3, ADAM_SAMPLES) device memory */
} adam_samples_t;

typedef struct adam_bench {
    bench_session_t *session;
    adam_memory_t memory;
    adam_samples_t samples;
    tess_event_t *start, *end;
    double *sum; /* device memory */
    bench_list_t counts, threads;
    adam_row_t *rows;
    int row_count;
} adam_bench_t;

/* What queued host functions read; lives as long as its case. */
typedef struct adam_copy {
    char *destination;
    const char *source;
    int64_t bytes;
    int threads;
} adam_copy_t;

typedef struct adam_plain {
    const uint16_t *gradient; /* (count) bf16, as the parameter */
    uint16_t *parameter;
    float *master, *moment1, *moment2;
    int64_t count;
    int threads;
    float beta1, beta2, epsilon, weight_decay;
    const tess_step_state_t *state;
} adam_plain_t;

typedef struct adam_case {
    adam_bench_t *bench;
    const bench_layout_t *layout;
    tess_adam_config_t config;
    int64_t count, groups;
    tess_adam_sizes_t sizes;
    tess_adam_t *adam;
    tess_step_t *step;
    tess_gradient_t *statistics;
    void *gradient; /* (count) */
    tess_adam_range_t range;
    tess_adam_list_t *list; /* the same elements in `groups` ranges; NULL without */
    adam_copy_t copy;
    adam_plain_t plain;
    int64_t begun; /* steps */
} adam_case_t;

/* The whole benchmark. */
tess_status_t adam_bench_run(bench_session_t *session);

/* --- memory and values (adam_memory.c, adam_samples.c) --------------------------------------- */

/* Bytes that the arrays of a layout take. */
tess_status_t adam_state_bytes(const tess_adam_config_t *config, int64_t count, int64_t *bytes);

/* For state of `state_bytes`, and copies of copy_bytes or as much less as fits. */
tess_status_t adam_memory_open(bench_session_t *session, int64_t state_bytes, int64_t copy_bytes,
                               adam_memory_t *memory);
void adam_memory_close(bench_session_t *session, adam_memory_t *memory);

/* What is free for state and copies of this rank. */
tess_status_t adam_memory_free_bytes(bench_session_t *session, int64_t *bytes);

/* "asked for, the kernel's setting is madvise, 1.5 GiB of this process lie in them". */
const char *adam_huge_pages_text(int asked, char *text, int64_t text_bytes);

tess_status_t adam_samples_open(adam_bench_t *bench);
void adam_samples_close(adam_bench_t *bench);

/* Fills the case's range with values that repeat, and waits. */
tess_status_t adam_case_fill(adam_case_t *c);

/* Elements [first, first + count) of a range; first is a multiple of TESS_ADAM_BLOCK. */
tess_adam_range_t adam_part(const adam_case_t *c, int64_t first, int64_t count);

/* --- one case (adam_case.c, adam_check.c) ---------------------------------------------------- */

/* The config of a layout with what the options say. */
tess_adam_config_t adam_config(const bench_options_t *options, const bench_layout_t *layout,
                               int threads);

/* bench, layout, config and count are set; fills the rest and begins a step. */
tess_status_t adam_case_open(adam_case_t *c);
void adam_case_close(adam_case_t *c);

/* Weight decay of an element when `kind` steps it. */
float adam_case_decay(const adam_case_t *c, adam_kind_t kind, int64_t element);

/* Queues gradient statistics and the decision about the next step. */
tess_status_t adam_case_begin(adam_case_t *c);

/* 1 where the case has this kind. */
int adam_case_has(const adam_case_t *c, adam_kind_t kind);
tess_status_t adam_case_queue(adam_case_t *c, adam_kind_t kind);

/* Takes a step and recomputes some thousand elements of it in fp64; *wrong is of this rank. */
tess_status_t adam_case_check(adam_case_t *c, int64_t *wrong);

/* After the timing: counts steps that were skipped, or not counted, as wrong. */
tess_status_t adam_case_finish(adam_case_t *c, int64_t *wrong);

/* --- on host threads (adam_copy.c, adam_stream_x86.c or _none.c, adam_plain.c) --------------- */

/* Functions for tess_stream_call. Each thread has one slice of the whole. */
tess_status_t adam_copy_memcpy(void *copy);
tess_status_t adam_copy_streaming(void *copy);
tess_status_t adam_plain_step(void *plain);

/* One slice, `bytes` a multiple of 64 and both pointers too. Streaming stores: 0 where there are
 * none. */
extern const int adam_stream_available;
void adam_stream_slice(char *destination, const char *source, int64_t bytes);

/* Writes every page, in pieces of 2 MiB by the threads in turn, so that memory of all NUMA nodes is
 * used alike whatever is laid out in it later. */
void adam_touch(char *memory, int64_t bytes, int threads);

/* --- threads (adam_threads_openmp.c, or _none.c, where the calling thread does all) ---------- */

/* Calls function(argument, i) for each i in [0, count); thread t of `threads` has t, t + threads…
 */
void adam_threads_run(int threads, int64_t count, void (*function)(void *argument, int64_t index),
                      void *argument);

/* How many threads OpenMP gives when `threads` are asked for; 1 without it. */
int adam_threads_given(int threads);

/* For tess_stream_call: what runs on the stream's thread from now on has *threads (int) where it
 * takes OpenMP's own choice, as the gradient statistics do. */
tess_status_t adam_threads_limit(void *threads);

/* --- results (adam_report.c, adam_results.c) ------------------------------------------------- */

/* GB/s of the better copy of the row, read and written counted. */
double adam_copy_gbps(const adam_row_t *row);

void adam_report_start(adam_bench_t *bench);
void adam_report_row(adam_bench_t *bench, const adam_row_t *row);
void adam_report_end(adam_bench_t *bench);
tess_status_t adam_write(adam_bench_t *bench);

#endif
