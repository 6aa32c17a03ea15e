/* SPDX-License-Identifier: Apache-2.0 */
/* Trace ranges as NVTX3 ranges in the domain "tessera".
 *
 * Invariant: whether a profiler listens is decided once, at the first range; from then on a push
 * and its pop both reach it or both return after one load. Names are registered once a site, so
 * that profilers can filter by them and a push copies no string.
 *
 * The payload macros of nvToolsExtPayload.h do not compile as C (an unbalanced parenthesis in
 * CUDA 13.0), so the three fields that they would set are set here by hand.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtPayload.h>

#include "internal.h"

enum { NOT_ASKED = 0, NOBODY_LISTENS = 1, LISTENING = 2 };

typedef struct category {
    tess_trace_category_t id;
    const char *name;
    uint32_t argb;
} category_t;

/* Hues that stay apart for most readers, colour-blind ones included. */
static const category_t categories[] = {
    {TESS_TRACE_CORE, "core", 0xff999999},       {TESS_TRACE_COMM, "comm", 0xff0072b2},
    {TESS_TRACE_OFFLOAD, "offload", 0xffe69f00}, {TESS_TRACE_OPTIM, "optim", 0xff009e73},
    {TESS_TRACE_TRAIN, "train", 0xffcc79a7},     {TESS_TRACE_BENCH, "bench", 0xfff0e442},
    {TESS_TRACE_USER, "user", 0xff56b4e9},
};

/* What the schema "tessera.range" describes. */
typedef struct range_payload {
    int64_t bytes;
    int64_t index;
    int64_t rank;
} range_payload_t;

static _Atomic int mode = NOT_ASKED;
static _Atomic int own_rank = -1;
static pthread_mutex_t set_up_lock = PTHREAD_MUTEX_INITIALIZER;
static nvtxDomainHandle_t domain; /* these two are constant once mode is LISTENING */
static uint64_t schema;

static uint64_t register_schema(void)
{
    const nvtxPayloadSchemaEntry_t entries[] = {
        {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT64,
         .name = "bytes",
         .description = "bytes that this rank sends or holds, -1: none",
         .offset = offsetof(range_payload_t, bytes)},
        {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT64,
         .name = "index",
         .description = "bucket, block, tile or sequence number, -1: none",
         .offset = offsetof(range_payload_t, index)},
        {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT64,
         .name = "rank",
         .description = "rank in the world, -1: no world yet",
         .offset = offsetof(range_payload_t, rank)},
    };
    const nvtxPayloadSchemaAttr_t attributes = {
        .fieldMask = NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_NAME | NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_TYPE |
                     NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_ENTRIES |
                     NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_NUM_ENTRIES |
                     NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_STATIC_SIZE,
        .name = "tessera.range",
        .type = NVTX_PAYLOAD_SCHEMA_TYPE_STATIC,
        .entries = entries,
        .numEntries = sizeof entries / sizeof *entries,
        .payloadStaticSize = sizeof(range_payload_t),
    };
    return nvtxPayloadSchemaRegister(domain, &attributes);
}

static int set_up(void)
{
    pthread_mutex_lock(&set_up_lock);
    int now = atomic_load_explicit(&mode, memory_order_relaxed);
    if (now == NOT_ASKED) {
        domain = nvtxDomainCreateA("tessera"); /* NULL when nobody listens */
        now = domain ? LISTENING : NOBODY_LISTENS;
        if (domain) {
            for (size_t i = 0; i < sizeof categories / sizeof *categories; i++)
                nvtxDomainNameCategoryA(domain, (uint32_t)categories[i].id, categories[i].name);
            schema = register_schema();
        }
        atomic_store_explicit(&mode, now, memory_order_release);
    }
    pthread_mutex_unlock(&set_up_lock);
    return now;
}

static int is_listening(void)
{
    int now = atomic_load_explicit(&mode, memory_order_acquire);
    if (__builtin_expect(now == NOBODY_LISTENS, 1)) return 0;
    return (now == NOT_ASKED ? set_up() : now) == LISTENING;
}

static nvtxStringHandle_t name_of(tess_trace_site_t *site)
{
    void *handle = __atomic_load_n(&site->registered, __ATOMIC_ACQUIRE);
    if (handle) return handle;
    pthread_mutex_lock(&set_up_lock);
    handle = __atomic_load_n(&site->registered, __ATOMIC_RELAXED);
    if (!handle) {
        handle = nvtxDomainRegisterStringA(domain, site->name);
        __atomic_store_n(&site->registered, handle, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&set_up_lock);
    return handle;
}

static uint32_t colour_of(tess_trace_category_t category)
{
    for (size_t i = 0; i < sizeof categories / sizeof *categories; i++)
        if (categories[i].id == category) return categories[i].argb;
    return 0xffffffffu;
}

/* What one event needs while it is handed over; the pointers lead from one part to the next. */
typedef struct event {
    range_payload_t values;
    nvtxPayloadData_t data;
    nvtxEventAttributes_t attributes;
} event_t;

static void fill_event(event_t *event, tess_trace_site_t *site, tess_trace_payload_t payload)
{
    memset(event, 0, sizeof *event);
    event->values = (range_payload_t){payload.bytes, payload.index,
                                      atomic_load_explicit(&own_rank, memory_order_relaxed)};
    nvtxEventAttributes_t *attributes = &event->attributes;
    attributes->version = NVTX_VERSION;
    attributes->size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    attributes->category = (uint32_t)site->category;
    attributes->colorType = NVTX_COLOR_ARGB;
    attributes->color = colour_of(site->category);
    attributes->messageType = NVTX_MESSAGE_TYPE_REGISTERED;
    attributes->message.registered = name_of(site);
    if (schema == 0) {
        /* A profiler that knows no schemas still gets the bytes. */
        attributes->payloadType = NVTX_PAYLOAD_TYPE_INT64;
        attributes->payload.llValue = payload.bytes;
        return;
    }
    event->data.schemaId = schema;
    event->data.size = sizeof event->values;
    event->data.payload = &event->values;
    attributes->payloadType = NVTX_PAYLOAD_TYPE_EXT;
    attributes->reserved0 = 1; /* how many nvtxPayloadData_t follow */
    attributes->payload.ullValue = (uint64_t)(uintptr_t)&event->data;
}

void tess_trace_push(tess_trace_site_t *site, tess_trace_payload_t payload)
{
    if (!is_listening()) return;
    event_t event;
    fill_event(&event, site, payload);
    nvtxDomainRangePushEx(domain, &event.attributes);
}

void tess_trace_pop(void)
{
    if (!is_listening()) return;
    nvtxDomainRangePop(domain);
}

void tess_trace_mark(tess_trace_site_t *site, tess_trace_payload_t payload)
{
    if (!is_listening()) return;
    event_t event;
    fill_event(&event, site, payload);
    nvtxDomainMarkEx(domain, &event.attributes);
}

void tess_trace_set_rank(int rank)
{
    atomic_store_explicit(&own_rank, rank, memory_order_relaxed);
}
