/* Opens and runs a model file that may be anything, within bounds of memory and time. */
#ifndef GUARDED_RUN_H
#define GUARDED_RUN_H

#include "svit_internal.h"

#define MOST_ARENA (4 << 20) /* bytes; a model that needs more is opened and not run */
#define MOST_WORK 4e6        /* steps of innermost loops, as work_of counts them */

/* Besides the codes of svit_error. */
enum { GUARDED_RAN = 0, GUARDED_SKIPPED = 100 };

typedef struct guarded_run {
    const svit_kernels *kernels; /* null: those that the engine chooses */
    double most_work;            /* such as MOST_WORK */
    uint32_t seed;               /* of the input, and of what memory holds before the run */
    /* Set by a run. */
    uint64_t digest;                   /* of all that an observer gets, and of the logits */
    uint64_t logits, logits_in_parts;  /* of logits alone: run whole, and each operator in parts */
    double work;
} guarded_run;

/* Steps of the innermost loops that an operator takes, at most, about. */
double work_of(const op_head *op);

/* Open a copy of the file that ends where its memory ends, and run it in an arena that does, too;
 * then operator by operator, in three parts whose scratch memory is apart from the arena; and each
 * operator on random bytes. Gives GUARDED_RAN, GUARDED_SKIPPED (valid, but too large to run here), or
 * the svit_error that it was refused with. Ends the process where an operator writes outside its
 * output. */
int run_guarded(guarded_run *run, const uint8_t *file, size_t bytes);

/* Kernels by name; null: this processor has none of that name. */
const svit_kernels *kernels_named(const char *name);

#endif
