/* SPDX-License-Identifier: Apache-2.0 */
/* Compares plan and settings over all ranks of a communicator before anything is gathered or
 * reduced with them.
 *
 * Invariant: either every rank gets TESS_OK or every rank gets an error, whatever one of them
 * brings; a rank that failed before it came here is named to the others.
 */
#include <stdio.h>
#include <string.h>

#include "bucket_internal.h"
#include "comm_internal.h"

/* What travels. Zeroed before it is filled, so that records compare byte by byte. */
typedef struct agree_record {
    uint64_t hash;
    int64_t tensor_count, bucket_count, shard_count;
    int64_t settings[TESSI_SETTINGS_MAX];
    int32_t world_size;
    int32_t dtype;
    int32_t local_status;
    char sentence[220]; /* why, where local_status is a failure */
} agree_record_t;

static agree_record_t record_of(const tess_bucket_plan_t *plan, const tessi_agreement_t *mine)
{
    agree_record_t record;
    memset(&record, 0, sizeof record);
    record.hash = tess_bucket_plan_hash(plan);
    record.tensor_count = tess_bucket_plan_tensor_count(plan);
    record.bucket_count = tess_bucket_plan_bucket_count(plan);
    record.shard_count = tess_bucket_plan_shard_count(plan);
    record.world_size = tess_bucket_plan_world_size(plan);
    record.dtype = (int32_t)tess_bucket_plan_dtype(plan);
    for (int s = 0; s < mine->setting_count; s++) record.settings[s] = mine->settings[s].value;
    record.local_status = mine->local_status;
    if (mine->local_status < 0)
        snprintf(record.sentence, sizeof record.sentence, "%s", tess_last_error());
    return record;
}

/* Appends to text; what does not fit is cut. */
static void append(char *text, size_t text_bytes, const char *more)
{
    size_t length = strlen(text);
    snprintf(text + length, text_bytes - length, "%s", more);
}

static void append_rank(const tess_comm_t *comm, int rank, char *text, size_t text_bytes)
{
    char name[160];
    if (text[0]) append(text, text_bytes, ", ");
    append(text, text_bytes,
           tessi_world_rank_text(comm->world, comm->ranks[rank], name, sizeof name));
}

static int same_plan(const agree_record_t *a, const agree_record_t *b)
{
    return a->hash == b->hash && a->tensor_count == b->tensor_count &&
           a->bucket_count == b->bucket_count && a->shard_count == b->shard_count &&
           a->world_size == b->world_size && a->dtype == b->dtype;
}

static int same_setting(const agree_record_t *a, const agree_record_t *b, int setting)
{
    return a->settings[setting] == b->settings[setting];
}

/* Two records agree: setting -1 compares the plan. */
static int same(const agree_record_t *a, const agree_record_t *b, int setting)
{
    return setting < 0 ? same_plan(a, b) : same_setting(a, b, setting);
}

/* The rank whose record most ranks share; the lowest of them, also in a tie. */
static int majority(const agree_record_t *all, int size, int setting)
{
    int best = 0, best_votes = 0;
    for (int r = 0; r < size; r++) {
        int votes = 0;
        for (int other = 0; other < size; other++) votes += same(&all[r], &all[other], setting);
        if (votes > best_votes) {
            best = r;
            best_votes = votes;
        }
    }
    return best;
}

static void describe_plan(const agree_record_t *record, char *text, size_t text_bytes)
{
    snprintf(text, text_bytes,
             "plan %016llx (%lld tensors, %lld buckets, %lld elements a rank, %s, world size %d)",
             (unsigned long long)record->hash, (long long)record->tensor_count,
             (long long)record->bucket_count, (long long)record->shard_count,
             tess_dtype_name((tess_dtype_t)record->dtype), record->world_size);
}

/* Names the ranks that differ from the majority, and what the first of them has. */
static tess_status_t compare(const tess_comm_t *comm, const tessi_agreement_t *mine,
                             const agree_record_t *all, int setting)
{
    int common = majority(all, comm->size, setting), first = -1;
    char ranks[320] = "", has[160], common_has[160];
    for (int r = 0; r < comm->size; r++) {
        if (same(&all[r], &all[common], setting)) continue;
        if (first < 0) first = r;
        append_rank(comm, r, ranks, sizeof ranks);
    }
    if (first < 0) return TESS_OK;
    if (setting < 0) {
        describe_plan(&all[first], has, sizeof has);
        describe_plan(&all[common], common_has, sizeof common_has);
    } else {
        const char *name = mine->settings[setting].name;
        snprintf(has, sizeof has, "%s %lld", name, (long long)all[first].settings[setting]);
        snprintf(common_has, sizeof common_has, "%s %lld", name,
                 (long long)all[common].settings[setting]);
    }
    return tessi_fail(TESS_ERR_MISMATCH, "%s on communicator %s: %s has %s, most ranks have %s",
                      mine->what, comm->name, ranks, has, common_has);
}

static tess_status_t judge(const tess_bucket_plan_t *plan, const tess_comm_t *comm,
                           const tessi_agreement_t *mine, const agree_record_t *all)
{
    char rank[160];
    for (int r = 0; r < comm->size; r++) {
        if (all[r].local_status >= 0) continue;
        return tessi_fail((tess_status_t)all[r].local_status,
                          "%s on communicator %s: %s failed: %.219s", mine->what, comm->name,
                          tessi_world_rank_text(comm->world, comm->ranks[r], rank, sizeof rank),
                          all[r].sentence);
    }
    for (int setting = -1; setting < mine->setting_count; setting++) {
        tess_status_t status = compare(comm, mine, all, setting);
        if (status) return status;
    }
    if (tess_bucket_plan_world_size(plan) != comm->size)
        return tessi_fail(
            TESS_ERR_INVALID_ARGUMENT,
            "%s on communicator %s: the plan is for %d ranks, the communicator has %d", mine->what,
            comm->name, tess_bucket_plan_world_size(plan), comm->size);
    return TESS_OK;
}

tess_status_t tessi_bucket_agree(const tess_bucket_plan_t *plan, tess_comm_t *comm,
                                 const tessi_agreement_t *mine)
{
    /* Small worlds need no heap here, so that a rank that ran out of memory can still say so. */
    agree_record_t few[16];
    size_t size = (size_t)comm->size;
    agree_record_t *all = size <= 16 ? few : tessi_calloc(size, sizeof *all);
    if (!all) return TESS_ERR_OUT_OF_MEMORY;
    agree_record_t record = record_of(plan, mine);
    tess_status_t status =
        tessi_comm_exchange(comm, mine->what, &record, (int64_t)sizeof record, all);
    if (status == TESS_OK && mine->local_status >= 0) status = judge(plan, comm, mine, all);
    if (all != few) tessi_free(all);
    if (mine->local_status < 0) return tessi_fail(mine->local_status, "%s", record.sentence);
    return status;
}
