/* SPDX-License-Identifier: Apache-2.0 */
/* The version of the headers, and of the library that was linked. */
#ifndef TESSERA_VERSION_H
#define TESSERA_VERSION_H

#include <tessera/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TESS_VERSION_MAJOR 0
#define TESS_VERSION_MINOR 1
#define TESS_VERSION_PATCH 0
#define TESS_VERSION "0.1.0"

/* The version of the linked library, "0.1.0". Static storage. */
TESS_API const char *tess_version(void);

#ifdef __cplusplus
}
#endif
#endif
