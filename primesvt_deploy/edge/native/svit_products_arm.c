/* Products of bytes on ARM: sums of four of them in 32 bits, where the processor has UDOT and SDOT. */
#if defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "svit_products.h"

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define TARGET __attribute__((target("dotprod")))
#else
#define UNROLL _Pragma("GCC unroll 8")
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define REGISTERS 2 /* of outputs at a time */

/* total += dot products of four weights with the four counts of a lane. Not every compiler has the
 * intrinsic function where the rest of a program is for any processor. */
#define ADD_DOTS(total, weights, counts, lane)                                              \
    __asm__("sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(total) : "w"(weights), "w"(counts))

/* Four quads of eight windows are in registers, from which each is taken in turn. */
TARGET static void sum_dots(const product_task *task) {
    const size_t pitch = task->counts_pitch;
    for (int32_t window = 0; window < task->windows; window += PRODUCT_WINDOWS)
        for (int32_t n = 0; n < PRODUCT_COLUMNS; n += 4 * REGISTERS) {
            const uint8_t *counts = task->counts + (size_t)window * pitch;
            const int8_t *weights = task->packed + 4 * n;
            int32_t *const sums = task->sums + window * PRODUCT_COLUMNS + n;
            int32x4_t total[PRODUCT_WINDOWS][REGISTERS];
            UNROLL for (int k = 0; k < PRODUCT_WINDOWS; k++)
                UNROLL for (int j = 0; j < REGISTERS; j++)
                    total[k][j] = vld1q_s32(sums + k * PRODUCT_COLUMNS + 4 * j);
            for (int32_t q = 0; q < task->quads; q += PRODUCT_QUADS, counts += 4 * PRODUCT_QUADS) {
                int8x16_t x[PRODUCT_WINDOWS];
                UNROLL for (int k = 0; k < PRODUCT_WINDOWS; k++)
                    x[k] = vreinterpretq_s8_u8(vld1q_u8(counts + (size_t)k * pitch));
#define ADD_QUAD(lane)                                                                      \
    UNROLL for (int j = 0; j < REGISTERS; j++) {                                            \
        const int8x16_t each = vld1q_s8(weights + 16 * j);                                  \
        UNROLL for (int k = 0; k < PRODUCT_WINDOWS; k++)                                    \
            ADD_DOTS(total[k][j], each, x[k], lane);                                       \
    }                                                                                       \
    weights += 4 * PRODUCT_COLUMNS;
                ADD_QUAD(0)
                ADD_QUAD(1)
                ADD_QUAD(2)
                ADD_QUAD(3)
            }
            UNROLL for (int k = 0; k < PRODUCT_WINDOWS; k++)
                UNROLL for (int j = 0; j < REGISTERS; j++)
                    vst1q_s32(sums + k * PRODUCT_COLUMNS + 4 * j, total[k][j]);
        }
}

/* Not measured on a board: counted from the instructions that a Cortex-A76 issues in a cycle. */
static const svit_products dots = {"dotprod", sum_dots, 55, 0, 25, 45, 560};

const svit_products *svit_choose_products(void) {
#if defined(__ARM_FEATURE_DOTPROD)
    return &dots;
#elif defined(__linux__)
    return getauxval(AT_HWCAP) & (1u << 20) ? &dots : NULL; /* HWCAP_ASIMDDP */
#else
    return NULL;
#endif
}
#else
typedef int svit_products_arm_unused; /* a file needs a declaration */
#endif
