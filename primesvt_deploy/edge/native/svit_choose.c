/* The kernels for the processor: chosen at run time on x86, by the compiler elsewhere. */
#include "svit_internal.h"

#if defined(SVIT_ONLY_ROWS)
extern const svit_kernels svit_kernels_mcu;

const svit_kernels *svit_choose_kernels(void) { return &svit_kernels_mcu; }
#elif defined(__x86_64__)
extern const svit_kernels svit_kernels_portable, svit_kernels_avx2, svit_kernels_avx512;

const svit_kernels *svit_choose_kernels(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &svit_kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) return &svit_kernels_avx2;
    return &svit_kernels_portable;
}
#elif defined(__aarch64__)
extern const svit_kernels svit_kernels_neon;

const svit_kernels *svit_choose_kernels(void) { return &svit_kernels_neon; }
#else
extern const svit_kernels svit_kernels_portable;

const svit_kernels *svit_choose_kernels(void) { return &svit_kernels_portable; }
#endif
