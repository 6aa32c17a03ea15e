/* SPDX-License-Identifier: Apache-2.0 */
/* Trace ranges of a library that was built without NVTX: nothing is recorded. */
#include <tessera/trace.h>

void tess_trace_push(tess_trace_site_t *site, tess_trace_payload_t payload)
{
    (void)site;
    (void)payload;
}

void tess_trace_pop(void)
{
}

void tess_trace_mark(tess_trace_site_t *site, tess_trace_payload_t payload)
{
    (void)site;
    (void)payload;
}

void tess_trace_set_rank(int rank)
{
    (void)rank;
}
