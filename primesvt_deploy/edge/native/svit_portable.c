/* Kernels for machines without one of the vector units that the other files are for. */
#if !defined(__aarch64__)
#define SVIT_BYTES 16
#define SVIT_REGISTERS 16
#define SVIT_KERNELS svit_kernels_portable
#define SVIT_NAME "portable"
#define SVIT_PRODUCTS NULL
#include "svit_kernels.h"
#else
typedef int svit_portable_unused; /* a file needs a declaration */
#endif
