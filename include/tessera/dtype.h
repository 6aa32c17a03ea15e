/* SPDX-License-Identifier: Apache-2.0 */
/* Element types that travel between ranks. BYTE is opaque: it can be moved but not summed. */
#ifndef TESSERA_DTYPE_H
#define TESSERA_DTYPE_H

#include <stdint.h>
#include <tessera/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tess_dtype {
    TESS_DTYPE_BYTE = 0,
    TESS_DTYPE_BF16 = 1,
    TESS_DTYPE_FP16 = 2,
    TESS_DTYPE_FP32 = 3,
    TESS_DTYPE_COUNT
} tess_dtype_t;

/* Bytes of one element: 1, 2, 2, 4. 0 for a value that is no dtype. */
TESS_API int64_t tess_dtype_bytes(tess_dtype_t dtype);

/* "byte", "bf16", "fp16", "fp32"; "unknown" for a value that is no dtype. */
TESS_API const char *tess_dtype_name(tess_dtype_t dtype);

/* Reads a name as printed by tess_dtype_name, or the aliases bfloat16, half, float16, float,
 * float32, uint8. TESS_ERR_INVALID_ARGUMENT names the legal ones. */
TESS_API TESS_MUST_CHECK tess_status_t tess_dtype_parse(const char *name, tess_dtype_t *dtype);

/* Conversions of one element, round to nearest even, NaN kept quiet. */
TESS_API uint16_t tess_bf16_from_float(float value);
TESS_API float tess_bf16_to_float(uint16_t bits);
TESS_API uint16_t tess_fp16_from_float(float value);
TESS_API float tess_fp16_to_float(uint16_t bits);

#ifdef __cplusplus
}
#endif
#endif
