/* Kernels for AVX2. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,bmi,bmi2")
#endif
#include <immintrin.h>
#include <stdint.h>
#define WIDEN_BYTES(bytes) ((wide_h)_mm256_cvtepi8_epi16((__m128i)(bytes)))
#define WIDEN_UBYTES(bytes) ((wide_h)_mm256_cvtepu8_epi16((__m128i)(bytes)))
#define WIDEN_SHORTS(shorts) ((vec_i)_mm256_cvtepi16_epi32((__m128i)(shorts)))
/* 0 to 255 as bytes. */
static inline __attribute__((always_inline)) long long narrow_ints(__m256i ints) {
    const __m128i shorts =
        _mm_packs_epi32(_mm256_castsi256_si128(ints), _mm256_extracti128_si256(ints, 1));
    return _mm_cvtsi128_si64(_mm_packus_epi16(shorts, shorts));
}
#define NARROW_INTS(ints) ((vec_b)narrow_ints((__m256i)(ints)))
#define WIDEN_CHARS(chars) ((vec_i)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((int64_t)(chars))))
#define SCAN_BYTES 32
#define SCAN_STEP 1
#define SCAN_MASK(from)                                                                \
    (uint64_t)(uint32_t)~_mm256_movemask_epi8(_mm256_cmpeq_epi8(                       \
        _mm256_loadu_si256((const __m256i *)(const void *)(from)), _mm256_setzero_si256()))
#define ADD_PAIRS(total, a, b) \
    ((total) + (vec_i)_mm256_madd_epi16((__m256i)(a), (__m256i)(b)))
#define MAX_SHORTS(a, b) ((wide_h)_mm256_max_epi16((__m256i)(a), (__m256i)(b)))
#define PREFETCHED 6
#define PREFETCH(row, bytes)                                                     \
    {                                                                            \
        const int8_t *next_ = (row);                                             \
        for (int l_ = 0; l_ < (bytes); l_ += 64) __builtin_prefetch(next_ + l_); \
    }
#define SVIT_BYTES 32
#define SVIT_REGISTERS 16
#define SVIT_KERNELS svit_kernels_avx2
#define SVIT_NAME "avx2"
#define SVIT_PRODUCTS svit_choose_products
#include "svit_kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int svit_avx2_unused; /* a file needs a declaration */
#endif
