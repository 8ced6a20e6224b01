/* Mutations of model files that know the format. */
#ifndef MUTATE_H
#define MUTATE_H

#include "svit_internal.h"

typedef struct dice {
    uint32_t state;
} dice;

/* A number below `sides`, which is at least 1. */
uint32_t roll(dice *d, uint32_t sides);

/* The mutator, and libFuzzer's own one, which it calls. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

/* Whether header, records and data lie in the file one after another, as they are written. */
int is_in_order(const uint8_t *file, size_t bytes);

/* Make fields of a file agree that depend on one another, so that it is likelier to be accepted:
 * sizes, places of buffers, and an arena that ends where the last of them does. */
void mend(uint8_t *file, size_t bytes, dice *d);

#endif
