/* SPDX-License-Identifier: Apache-2.0 */
/* Several neighbouring elements in one access of up to 16 bytes, marked as touched once, so that a
 * pass over gigabytes does not push everything else out of the cache.
 *
 * Elements stay in the 32-bit words that they came in: a bf16 is then one operation away from a
 * float, and two of them go back into a word in one.
 */
#ifndef TESSERA_OPTIM_MEMORY_CUDA_CUH
#define TESSERA_OPTIM_MEMORY_CUDA_CUH

#include <stdint.h>

#define TESSI_DEVICE static __device__ __forceinline__

/* N elements of BYTES bytes each, the first in the lowest bits of the first word. */
template <int BYTES, int N> struct tessi_pack {
    uint32_t words[(BYTES * N + 3) / 4];
};

template <int BYTES> struct tessi_unsigned {
    typedef uint32_t type;
};
template <> struct tessi_unsigned<2> {
    typedef uint16_t type;
};
template <> struct tessi_unsigned<1> {
    typedef uint8_t type;
};

/* Elements [i, i + N) of an array. ALIGNED: their address is a multiple of 16 bytes or of the size
 * of all N, whichever is less. */
template <int BYTES, int N, bool ALIGNED>
TESSI_DEVICE tessi_pack<BYTES, N> tessi_read(const void *array, int64_t i)
{
    typedef typename tessi_unsigned<BYTES>::type element_t;
    const element_t *source = (const element_t *)array + i;
    tessi_pack<BYTES, N> pack;
    if constexpr (ALIGNED && BYTES * N % 16 == 0) {
#pragma unroll
        for (int q = 0; q < BYTES * N / 16; q++) {
            uint4 quad = __ldcs((const uint4 *)source + q);
            pack.words[4 * q] = quad.x;
            pack.words[4 * q + 1] = quad.y;
            pack.words[4 * q + 2] = quad.z;
            pack.words[4 * q + 3] = quad.w;
        }
    } else if constexpr (ALIGNED && BYTES * N == 8) {
        uint2 pair = __ldcs((const uint2 *)source);
        pack.words[0] = pair.x;
        pack.words[1] = pair.y;
    } else {
#pragma unroll
        for (int w = 0; w < (BYTES * N + 3) / 4; w++) pack.words[w] = 0;
#pragma unroll
        for (int n = 0; n < N; n++)
            pack.words[n * BYTES / 4] |= (uint32_t)__ldcs(source + n) << n * BYTES % 4 * 8;
    }
    return pack;
}

/* The same alignment as for reading, or N = 1. */
template <int BYTES, int N>
TESSI_DEVICE void tessi_write(void *array, int64_t i, const tessi_pack<BYTES, N> &pack)
{
    typedef typename tessi_unsigned<BYTES>::type element_t;
    element_t *destination = (element_t *)array + i;
    if constexpr (BYTES * N % 16 == 0) {
#pragma unroll
        for (int q = 0; q < BYTES * N / 16; q++)
            __stcs((uint4 *)destination + q,
                   make_uint4(pack.words[4 * q], pack.words[4 * q + 1], pack.words[4 * q + 2],
                              pack.words[4 * q + 3]));
    } else if constexpr (BYTES * N == 8) {
        __stcs((uint2 *)destination, make_uint2(pack.words[0], pack.words[1]));
    } else {
        static_assert(N == 1, "no access of this width");
        __stcs(destination, (element_t)pack.words[0]);
    }
}

/* Element n as the upper half of a word: a bf16 as a float's bits. */
template <int N> TESSI_DEVICE uint32_t tessi_upper(const tessi_pack<2, N> &pack, int n)
{
    return n % 2 ? pack.words[n / 2] & 0xffff0000u : pack.words[n / 2] << 16;
}

template <int N> TESSI_DEVICE uint16_t tessi_half(const tessi_pack<2, N> &pack, int n)
{
    return (uint16_t)(n % 2 ? pack.words[n / 2] >> 16 : pack.words[n / 2]);
}

/* Element n in bits [19, 27), with the rest of the word still around it. */
template <int N> TESSI_DEVICE uint32_t tessi_at_19(const tessi_pack<1, N> &pack, int n)
{
    int shift = 19 - n % 4 * 8;
    return shift > 0 ? pack.words[n / 4] << shift : pack.words[n / 4] >> -shift;
}

/* The upper halves of N words, or their upper bytes, as elements. */
template <int N> TESSI_DEVICE tessi_pack<2, N> tessi_pack_upper16(const uint32_t *upper)
{
    tessi_pack<2, N> pack;
    if constexpr (N == 1) pack.words[0] = upper[0] >> 16;
    else
#pragma unroll
        for (int w = 0; w < N / 2; w++)
            pack.words[w] = __byte_perm(upper[2 * w], upper[2 * w + 1], 0x7632);
    return pack;
}

template <int N> TESSI_DEVICE tessi_pack<1, N> tessi_pack_upper8(const uint32_t *upper)
{
    tessi_pack<1, N> pack;
    if constexpr (N == 1) pack.words[0] = upper[0] >> 24;
    else
#pragma unroll
        for (int w = 0; w < N / 4; w++)
            pack.words[w] =
                __byte_perm(__byte_perm(upper[4 * w], upper[4 * w + 1], 0x0073),
                            __byte_perm(upper[4 * w + 2], upper[4 * w + 3], 0x0073), 0x5410);
    return pack;
}

#endif
