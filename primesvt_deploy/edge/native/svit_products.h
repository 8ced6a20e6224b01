/* Products of counts and weights, of all of them: kernels of processors that multiply bytes. */
#ifndef SVIT_PRODUCTS_H
#define SVIT_PRODUCTS_H

#include <stddef.h>
#include <stdint.h>

#define PRODUCT_WINDOWS 8  /* a task has a multiple of them */
#define PRODUCT_COLUMNS 64 /* and so many outputs */
#define PRODUCT_QUADS 4    /* and a multiple of these: four inputs each */
#define PRODUCT_LARGEST 127 /* count: sums of two products fit 16 bits, and a count a signed byte */

/* Counts of windows, and the weights of their inputs. */
typedef struct product_task {
    const uint8_t *counts; /* by window four inputs a quad */
    size_t counts_pitch;   /* bytes from window to window */
    int32_t windows, quads;
    const int8_t *packed; /* by quad and output the weights of four inputs */
    int32_t together;     /* quads whose sums of two products, added, fit 16 bits; one at least */
    int32_t *sums;        /* [windows, PRODUCT_COLUMNS], added to */
} product_task;

typedef struct svit_products {
    const char *name;
    void (*sum)(const product_task *task);
    /* What decides between products and sums of active rows, in hundredths of the time in which 64
     * values of a row are added: an input's products with 64 outputs, for a window; widening their
     * sums; gathering a count; and what an active row takes beside its additions, and a list of
     * them. `benchmarks/native_density.py` measures whether the faster way is chosen. */
    int32_t product_cost, widen_cost, gather_cost, row_cost, list_cost;
} svit_products;

/* Null where the processor has no instruction that makes products worth while. */
const svit_products *svit_choose_products(void);

#endif
