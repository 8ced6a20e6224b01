/* Products of bytes on x86: sums of two of them in 16 bits, or of four in 32 bits (VNNI). */
#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "svit_products.h"

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

#define TARGET __attribute__((target("avx2")))
#define NAME sum_avx2
#define VECTOR __m256i
#define REGISTERS 2
#define ALL_TOGETHER 0
#define SPREAD(x) _mm256_set1_epi32(x)
#define MULTIPLY_ADD(total, x, weights) _mm256_add_epi16(total, _mm256_maddubs_epi16(x, weights))
#define WIDEN(total) _mm256_madd_epi16(total, _mm256_set1_epi16(1))
#define ADD_INTS(a, b) _mm256_add_epi32(a, b)
#include "svit_products_kernel.h"

#define TARGET __attribute__((target("avx512f,avx512bw")))
#define NAME sum_avx512
#define VECTOR __m512i
#define REGISTERS 4
#define ALL_TOGETHER 0
#define SPREAD(x) _mm512_set1_epi32(x)
#define MULTIPLY_ADD(total, x, weights) _mm512_add_epi16(total, _mm512_maddubs_epi16(x, weights))
#define WIDEN(total) _mm512_madd_epi16(total, _mm512_set1_epi16(1))
#define ADD_INTS(a, b) _mm512_add_epi32(a, b)
#include "svit_products_kernel.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define NAME sum_vnni
#define VECTOR __m512i
#define REGISTERS 4
#define ALL_TOGETHER 1
#define SPREAD(x) _mm512_set1_epi32(x)
#define MULTIPLY_ADD(total, x, weights) _mm512_dpbusd_epi32(total, x, weights)
#define WIDEN(total) (total)
#define ADD_INTS(a, b) _mm512_add_epi32(a, b)
#include "svit_products_kernel.h"

static const svit_products avx2 = {"avx2", sum_avx2, 36, 60, 20, 15, 630};
static const svit_products avx512 = {"avx512", sum_avx512, 33, 61, 25, 50, 550};
static const svit_products vnni = {"avx512vnni", sum_vnni, 26, 0, 21, 45, 560};

const svit_products *svit_choose_products(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
        return __builtin_cpu_supports("avx512vnni") ? &vnni : &avx512;
    return __builtin_cpu_supports("avx2") ? &avx2 : NULL;
}
#else
typedef int svit_products_x86_unused; /* a file needs a declaration */
#endif
