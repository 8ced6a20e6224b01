/* Kernels for AVX2. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif
#include <immintrin.h>
#define WIDEN_BYTES(bytes) ((wide_h)_mm256_cvtepi8_epi16((__m128i)(bytes)))
#define WIDEN_UBYTES(bytes) ((wide_h)_mm256_cvtepu8_epi16((__m128i)(bytes)))
#define WIDEN_SHORTS(shorts) ((vec_i)_mm256_cvtepi16_epi32((__m128i)(shorts)))
#define NARROW_INTS(ints) CONVERT(vec_b, ints)
#define SVIT_BYTES 32
#define SVIT_BLOCK 3
#define SVIT_KERNELS svit_kernels_avx2
#define SVIT_NAME "avx2"
#include "svit_kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int svit_avx2_unused; /* a file needs a declaration */
#endif
