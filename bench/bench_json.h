/* SPDX-License-Identifier: Apache-2.0 */
/* What all JSON results have in common: machine, versions, arguments, environment, ranks. */
#ifndef TESSERA_BENCH_JSON_H
#define TESSERA_BENCH_JSON_H

#include <jansson.h>

#include "bench_session.h"

/* A new object, or NULL where memory ran out. */
json_t *bench_json_document(bench_session_t *session);

/* Adds how many elements were wrong, over all results. */
void bench_json_add_wrong(json_t *document, const bench_session_t *session);

/* Adds the end time and writes the document to `name`; takes the reference. */
tess_status_t bench_json_write(json_t *document, const char *name);

#endif
