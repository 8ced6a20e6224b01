/* Kernels for AVX-512 (F, BW, DQ, VL). */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,bmi,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,bmi,bmi2")
#endif
#include <immintrin.h>
#include <stdint.h>
#define WIDEN_BYTES(bytes) ((wide_h)_mm512_cvtepi8_epi16((__m256i)(bytes)))
#define WIDEN_UBYTES(bytes) ((wide_h)_mm512_cvtepu8_epi16((__m256i)(bytes)))
#define WIDEN_SHORTS(shorts) ((vec_i)_mm512_cvtepi16_epi32((__m256i)(shorts)))
#define NARROW_INTS(ints) ((vec_b)_mm512_cvtepi32_epi8((__m512i)(ints)))
#define WIDEN_CHARS(chars) ((vec_i)_mm512_cvtepi8_epi32((__m128i)(chars)))
#define SCAN_BYTES 64
#define SCAN_STEP 1
#define SCAN_MASK(from)                                        \
    (uint64_t)_mm512_test_epi8_mask(_mm512_loadu_si512(from), _mm512_loadu_si512(from))
#define SCAN_LEAST 1
#define SCAN_LAST(bytes, n, left) scan_some((bytes) + (n) - (left), left)
static inline uint64_t scan_some(const uint8_t *from, int32_t count) {
    const __m512i some = _mm512_maskz_loadu_epi8((UINT64_C(1) << count) - 1, from);
    return (uint64_t)_mm512_test_epi8_mask(some, some);
}
#define ADD_PAIRS(total, a, b) \
    ((total) + (vec_i)_mm512_madd_epi16((__m512i)(a), (__m512i)(b)))
#define MAX_SHORTS(a, b) ((wide_h)_mm512_max_epi16((__m512i)(a), (__m512i)(b)))
#define PREFETCHED 6
#define PREFETCH(row, bytes)                                                     \
    {                                                                            \
        const int8_t *next_ = (row);                                             \
        for (int l_ = 0; l_ < (bytes); l_ += 64) __builtin_prefetch(next_ + l_); \
    }
#define SVIT_BYTES 64
#define SVIT_REGISTERS 32
#define SVIT_KERNELS svit_kernels_avx512
#define SVIT_NAME "avx512"
#define SVIT_PRODUCTS svit_choose_products
#include "svit_kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int svit_avx512_unused; /* a file needs a declaration */
#endif
