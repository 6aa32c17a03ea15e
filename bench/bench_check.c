/* SPDX-License-Identifier: Apache-2.0 */
/* Checks a collective's result: exact inputs, poisoned results, every element compared.
 *
 * Runs after the timing and apart from it. The fault point "bench_corrupt" spoils one result, so
 * that a test can see that spoiled data is found.
 */
#include "bench_sweep.h"
#include "core/internal.h"
#include "pattern.h"

/* As bf16, fp16 or fp32 this is no integer, so a poisoned element is always found. */
#define POISON 0xa5
#define CORRUPTED_BYTES 16 /* the smallest slice; not all of 16 inputs can be the poison */

typedef struct check {
    pattern_t pattern;
    tess_collective_t arguments;
    int64_t element_bytes;
} check_t;

static tess_status_t choose_pattern(const bench_session_t *session, const bench_case_t *c,
                                    pattern_t *pattern)
{
    uint64_t seed = (uint64_t)session->options->seed * 1000003u + (uint64_t)c->bytes;
    if (c->collective == BENCH_REDUCE_SCATTER)
        return pattern_for_sum(c->dtype, seed, c->size, c->reduction, pattern);
    *pattern = pattern_for_move(c->dtype, seed);
    return TESS_OK;
}

/* An all-gather's input is this rank's slice, a reduce-scatter's is one slice for each rank. */
static tess_status_t prepare(const bench_case_t *c, const check_t *check)
{
    const tess_collective_t *arguments = &check->arguments;
    int sums = c->collective == BENCH_REDUCE_SCATTER;
    pattern_range_t input = {.rank_first = c->rank,
                             .rank_count = 1,
                             .count = sums ? arguments->count * c->size : arguments->count};
    int64_t result_bytes = c->bytes / (sums ? c->size : 1);
    tess_status_t status = tess_stream_fill(c->stream, arguments->recv, POISON, result_bytes);
    if (status < 0) return status;
    return pattern_fill(&check->pattern, &input, (void *)arguments->send, c->stream);
}

static tess_status_t corrupt(const bench_case_t *c, const check_t *check)
{
    if (!tessi_fault("bench_corrupt")) return TESS_OK;
    tess_status_t status =
        tess_stream_fill(c->stream, check->arguments.recv, POISON, CORRUPTED_BYTES);
    if (status < 0) return status;
    return tess_stream_synchronize(c->stream, -1);
}

static tess_status_t count_wrong(const bench_case_t *c, const check_t *check, int64_t *wrong)
{
    int64_t count = check->arguments.count;
    *wrong = 0;
    if (c->collective == BENCH_REDUCE_SCATTER) {
        pattern_range_t sums = {
            .rank_count = c->size, .index_first = c->rank * count, .count = count};
        return pattern_check(&check->pattern, &sums, check->arguments.recv, c->stream, wrong);
    }
    for (int r = 0; r < c->size; r++) {
        pattern_range_t slice = {.rank_first = r, .rank_count = 1, .count = count};
        const char *data = (const char *)check->arguments.recv + r * count * check->element_bytes;
        int64_t wrong_in_slice = 0;
        tess_status_t status =
            pattern_check(&check->pattern, &slice, data, c->stream, &wrong_in_slice);
        if (status < 0) return status;
        *wrong += wrong_in_slice;
    }
    return TESS_OK;
}

tess_status_t bench_case_check(bench_session_t *session, bench_case_t *c, int64_t *wrong)
{
    TESSI_TRACE_SCOPE(TESS_TRACE_BENCH, "check", c->bytes, -1);
    check_t check = {.arguments = bench_case_arguments(c, 0),
                     .element_bytes = tess_dtype_bytes(c->dtype)};
    tess_status_t status = choose_pattern(session, c, &check.pattern);
    if (status == TESS_OK) status = prepare(c, &check);
    if (status == TESS_OK)
        status = bench_route_queue(c->route, c->collective, &check.arguments, c->stream);
    if (status == TESS_OK) status = bench_route_finish(c->route, c->stream, 1);
    if (status == TESS_OK) status = corrupt(c, &check);
    if (status == TESS_OK) status = count_wrong(c, &check, wrong);
    if (status < 0) return status;
    return bench_sum(session, wrong);
}
