/* SPDX-License-Identifier: Apache-2.0 */
/* Memory, for one number at a time: beside adam_math.h's own definitions all that the loops need on
 * any processor. Twin of the second halves of adam_lanes_avx2.h and adam_lanes_avx512.h. */
#ifndef TESSERA_OPTIM_ADAM_LANES_ONE_H
#define TESSERA_OPTIM_ADAM_LANES_ONE_H

#include "adam_math.h"

#define TESSI_LANES 1
#define TESSI_LINE_VECTORS 1 /* nothing goes past the cache */

TESSI_MATH tessi_word_t tessi_lane_indices(void)
{
    return 0u;
}
TESSI_MATH tessi_number_t tessi_load(const float *from)
{
    return *from;
}
TESSI_MATH void tessi_store(float *to, tessi_number_t value)
{
    *to = value;
}
TESSI_MATH tessi_half_t tessi_load_halves(const uint16_t *from)
{
    return *from;
}
TESSI_MATH tessi_word_t tessi_load_upper(const uint16_t *from)
{
    return (tessi_word_t)*from << 16;
}
TESSI_MATH tessi_code_t tessi_load_codes(const uint8_t *from)
{
    return *from;
}
TESSI_MATH void tessi_store_lower(uint16_t *to, tessi_word_t words)
{
    *to = (uint16_t)words;
}
TESSI_MATH void tessi_store_upper(uint16_t *to, tessi_word_t words)
{
    *to = (uint16_t)(words >> 16);
}
TESSI_MATH void tessi_store_upper_codes(uint8_t *to, tessi_word_t words)
{
    *to = (uint8_t)(words >> 24);
}
TESSI_MATH void tessi_stream_upper(uint16_t *to, tessi_word_t words)
{
    tessi_store_upper(to, words);
}
TESSI_MATH void tessi_stream_end(void)
{
}

#endif
