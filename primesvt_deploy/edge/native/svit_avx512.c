/* Kernels for AVX-512 (F, BW, DQ, VL). */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif
#include <immintrin.h>
#define WIDEN_BYTES(bytes) ((wide_h)_mm512_cvtepi8_epi16((__m256i)(bytes)))
#define WIDEN_UBYTES(bytes) ((wide_h)_mm512_cvtepu8_epi16((__m256i)(bytes)))
#define WIDEN_SHORTS(shorts) ((vec_i)_mm512_cvtepi16_epi32((__m256i)(shorts)))
#define NARROW_INTS(ints) ((vec_b)_mm512_cvtepi32_epi8((__m512i)(ints)))
#define SVIT_BYTES 64
#define SVIT_BLOCK 6
#define SVIT_KERNELS svit_kernels_avx512
#define SVIT_NAME "avx512"
#include "svit_kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int svit_avx512_unused; /* a file needs a declaration */
#endif
