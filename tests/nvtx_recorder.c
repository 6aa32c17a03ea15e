/* SPDX-License-Identifier: Apache-2.0 */
/* A profiler of the smallest kind: a shared object that NVTX loads through NVTX_INJECTION64_PATH,
 * and that appends what it is told to the file $TESS_NVTX_RECORD, one JSON object a line.
 *
 *   {"event":"push","pid":7,"tid":8,"domain":"tessera","category":1,"color":4288256409,
 *    "name":"stream_copy","registered":true,"schema":"tessera.range","payload":{"bytes":64,…}}
 *
 * event is domain, category, string, schema, push, pop or mark. A payload is decoded only by what
 * its schema says. Invariant: each line is written by one call to a file that is open for
 * appending, so threads and processes can share the file. Both entry points must return 1;
 * anything else switches NVTX off.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtPayload.h>

#define NAME_BYTES 96
#define LINE_BYTES 2048
#define TABLE_ROWS 1024
#define FIELDS_MAX 16
#define FIRST_SCHEMA ((uint64_t)1 << 32)

typedef struct named {
    char name[NAME_BYTES];
} named_t;

typedef struct schema {
    char name[NAME_BYTES];
    size_t field_count;
    struct {
        char name[NAME_BYTES];
        uint64_t type, offset;
    } fields[FIELDS_MAX];
} schema_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the tables and their counts */
static named_t names[TABLE_ROWS];                        /* of domains and of strings */
static schema_t schemas[TABLE_ROWS];
static size_t name_count, schema_count;

typedef struct line {
    char text[LINE_BYTES];
    size_t length;
} line_t;

static void add(line_t *line, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(line_t *line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length =
        vsnprintf(line->text + line->length, sizeof line->text - line->length, format, arguments);
    va_end(arguments);
    line->length += (size_t)length;
    if (line->length >= sizeof line->text) abort(); /* a test would read half a line */
}

static void begin(line_t *line, const char *event)
{
    line->length = 0;
    add(line, "{\"event\":\"%s\",\"pid\":%d,\"tid\":%d", event, (int)getpid(), (int)gettid());
}

static void end(line_t *line)
{
    const char *path = getenv("TESS_NVTX_RECORD");
    add(line, "}\n");
    int fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0 || write(fd, line->text, line->length) != (ssize_t)line->length) abort();
    close(fd);
}

static named_t *keep_name(const char *name)
{
    pthread_mutex_lock(&lock);
    if (name_count == TABLE_ROWS) abort();
    named_t *row = &names[name_count++];
    snprintf(row->name, sizeof row->name, "%s", name);
    pthread_mutex_unlock(&lock);
    return row;
}

static const char *name_behind(const void *handle)
{
    return handle ? ((const named_t *)handle)->name : "";
}

static nvtxDomainHandle_t NVTX_API domain_create(const char *name)
{
    line_t line;
    begin(&line, "domain");
    add(&line, ",\"name\":\"%s\"", name);
    end(&line);
    return (nvtxDomainHandle_t)keep_name(name);
}

static void NVTX_API name_category(nvtxDomainHandle_t domain, uint32_t category, const char *name)
{
    line_t line;
    begin(&line, "category");
    add(&line, ",\"domain\":\"%s\",\"category\":%" PRIu32 ",\"name\":\"%s\"", name_behind(domain),
        category, name);
    end(&line);
}

static nvtxStringHandle_t NVTX_API register_string(nvtxDomainHandle_t domain, const char *string)
{
    line_t line;
    begin(&line, "string");
    add(&line, ",\"domain\":\"%s\",\"name\":\"%s\"", name_behind(domain), string);
    end(&line);
    return (nvtxStringHandle_t)keep_name(string);
}

static uint64_t NVTX_API register_schema(nvtxDomainHandle_t domain,
                                         const nvtxPayloadSchemaAttr_t *attributes)
{
    line_t line;
    pthread_mutex_lock(&lock);
    if (schema_count == TABLE_ROWS || attributes->numEntries > FIELDS_MAX) abort();
    uint64_t id = FIRST_SCHEMA + schema_count;
    schema_t *schema = &schemas[schema_count++];
    snprintf(schema->name, sizeof schema->name, "%s", attributes->name);
    schema->field_count = attributes->numEntries;
    begin(&line, "schema");
    add(&line, ",\"domain\":\"%s\",\"name\":\"%s\",\"static_bytes\":%zu,\"fields\":[",
        name_behind(domain), attributes->name, attributes->payloadStaticSize);
    for (size_t i = 0; i < attributes->numEntries; i++) {
        const nvtxPayloadSchemaEntry_t *entry = &attributes->entries[i];
        snprintf(schema->fields[i].name, sizeof schema->fields[i].name, "%s", entry->name);
        schema->fields[i].type = entry->type;
        schema->fields[i].offset = entry->offset;
        add(&line, "%s\"%s\"", i ? "," : "", entry->name);
    }
    pthread_mutex_unlock(&lock);
    add(&line, "]");
    end(&line);
    return id;
}

static void add_field(line_t *line, uint64_t type, const void *value)
{
    int64_t wide = 0;
    int32_t narrow = 0;
    if (type == NVTX_PAYLOAD_ENTRY_TYPE_INT64) {
        memcpy(&wide, value, sizeof wide);
    } else if (type == NVTX_PAYLOAD_ENTRY_TYPE_INT32) {
        memcpy(&narrow, value, sizeof narrow);
        wide = narrow;
    } else {
        abort(); /* a type that this recorder does not know */
    }
    add(line, "%" PRId64, wide);
}

static void add_payload(line_t *line, const nvtxEventAttributes_t *event)
{
    if (event->payloadType != NVTX_PAYLOAD_TYPE_EXT || event->reserved0 != 1) return;
    const nvtxPayloadData_t *data = (const nvtxPayloadData_t *)(uintptr_t)event->payload.ullValue;
    pthread_mutex_lock(&lock);
    uint64_t index = data->schemaId - FIRST_SCHEMA;
    const schema_t *schema = index < schema_count ? &schemas[index] : NULL;
    pthread_mutex_unlock(&lock);
    if (!schema) return;
    add(line, ",\"schema\":\"%s\",\"payload\":{", schema->name);
    for (size_t i = 0; i < schema->field_count; i++) {
        add(line, "%s\"%s\":", i ? "," : "", schema->fields[i].name);
        if (schema->fields[i].offset >= data->size) abort();
        add_field(line, schema->fields[i].type,
                  (const char *)data->payload + schema->fields[i].offset);
    }
    add(line, "}");
}

static void record_event(const char *kind, nvtxDomainHandle_t domain,
                         const nvtxEventAttributes_t *event)
{
    line_t line;
    int registered = event->messageType == NVTX_MESSAGE_TYPE_REGISTERED;
    begin(&line, kind);
    add(&line, ",\"domain\":\"%s\",\"category\":%" PRIu32 ",\"color\":%" PRIu32,
        name_behind(domain), event->category,
        event->colorType == NVTX_COLOR_ARGB ? event->color : 0);
    add(&line, ",\"name\":\"%s\",\"registered\":%s",
        registered ? name_behind(event->message.registered) : event->message.ascii,
        registered ? "true" : "false");
    add_payload(&line, event);
    end(&line);
}

static int NVTX_API range_push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *event)
{
    record_event("push", domain, event);
    return 0;
}

static int NVTX_API range_pop(nvtxDomainHandle_t domain)
{
    line_t line;
    begin(&line, "pop");
    add(&line, ",\"domain\":\"%s\"", name_behind(domain));
    end(&line);
    return 0;
}

static void NVTX_API mark(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *event)
{
    record_event("mark", domain, event);
}

__attribute__((visibility("default"))) int InitializeInjectionNvtx2(
    NvtxGetExportTableFunc_t get_table);
__attribute__((visibility("default"))) int InitializeInjectionNvtxExtension(
    nvtxExtModuleInfo_t *module);

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table)
{
    const NvtxExportTableCallbacks *callbacks = get_table(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable table;
    unsigned int count = 0;
    if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &count) ||
        count <= NVTX_CBID_CORE2_DomainCreateA)
        abort();
    *table[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)domain_create;
    *table[NVTX_CBID_CORE2_DomainNameCategoryA] = (NvtxFunctionPointer)name_category;
    *table[NVTX_CBID_CORE2_DomainRegisterStringA] = (NvtxFunctionPointer)register_string;
    *table[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)range_push;
    *table[NVTX_CBID_CORE2_DomainRangePop] = (NvtxFunctionPointer)range_pop;
    *table[NVTX_CBID_CORE2_DomainMarkEx] = (NvtxFunctionPointer)mark;
    return 1;
}

int InitializeInjectionNvtxExtension(nvtxExtModuleInfo_t *module)
{
    if (module->moduleId == NVTX_EXT_PAYLOAD_MODULEID && module->segmentsCount > 0)
        module->segments[0].functionSlots[NVTX3EXT_CBID_nvtxPayloadSchemaRegister] =
            (intptr_t)register_schema;
    return 1;
}
