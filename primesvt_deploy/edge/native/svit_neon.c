/* Kernels for NEON (AArch64, where every processor has it). */
#if defined(__aarch64__)
#include <arm_neon.h>
#define WIDEN_BYTES(bytes) ((wide_h)vmovl_s8((int8x8_t)(bytes)))
#define WIDEN_UBYTES(bytes) ((wide_h)vmovl_u8((uint8x8_t)(bytes)))
#define WIDEN_SHORTS(shorts) ((vec_i)vmovl_s16((int16x4_t)(shorts)))
#define NARROW_INTS(ints) \
    ((vec_b)vget_lane_u32((uint32x2_t)vmovn_u16(vcombine_u16(vmovn_u32((uint32x4_t)(ints)), \
                                                             vdup_n_u16(0))), 0))
#define WIDEN_CHARS(chars) \
    ((vec_i)vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8((uint64_t)(uint32_t)(chars))))))
#define SCAN_BYTES 16
#define SCAN_STEP 4
#define SCAN_MASK(from)                                                                        \
    (vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(                                            \
         vreinterpretq_u16_u8(vtstq_u8(vld1q_u8(from), vld1q_u8(from))), 4)), 0) &             \
     UINT64_C(0x1111111111111111))
#define ADD_PAIRS(total, a, b) \
    ((total) + (vec_i)vpaddq_s32(                                                            \
                   vmull_s16(vget_low_s16((int16x8_t)(a)), vget_low_s16((int16x8_t)(b))),    \
                   vmull_high_s16((int16x8_t)(a), (int16x8_t)(b))))
#define MAX_SHORTS(a, b) ((wide_h)vmaxq_s16((int16x8_t)(a), (int16x8_t)(b)))
/* Sixteen values a load. Compilers would rather load the whole row before they add it, for which
 * there are not registers enough: they must not move loads past the empty instruction. */
#define ADD_ROW(v, sum, row)                                                              \
    UNROLL for (int j_ = 0; j_ + 1 < (v); j_ += 2) {                                      \
        const int8x16_t values_ = vld1q_s8((row) + j_ * WIDE);                            \
        (sum)[j_] = (wide_h)vaddw_s8((int16x8_t)(sum)[j_], vget_low_s8(values_));         \
        (sum)[j_ + 1] = (wide_h)vaddw_high_s8((int16x8_t)(sum)[j_ + 1], values_);         \
        if (j_ % 8 == 6) __asm__ volatile("" ::: "memory");                               \
    }                                                                                     \
    if ((v) % 2)                                                                          \
        (sum)[(v)-1] = (wide_h)vaddw_s8((int16x8_t)(sum)[(v)-1], vld1_s8((row) + ((v)-1) * WIDE));
#define SVIT_BYTES 16
#define SVIT_REGISTERS 32
#define SVIT_KERNELS svit_kernels_neon
#define SVIT_NAME "neon"
#define SVIT_PRODUCTS svit_choose_products
#include "svit_kernels.h"
#else
typedef int svit_neon_unused; /* a file needs a declaration */
#endif
