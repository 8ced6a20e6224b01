/* What mend.c, mend_operators.c and mend_parts.c share. */
#ifndef MEND_H
#define MEND_H

#include "mutate.h"

#define MOST_ELEMENTS (1 << 13) /* of a tensor */

/* What is left of a file's data and arena. */
typedef struct room {
    dice *random;
    const svit_header *header;
    int64_t data, buffers;
    int64_t end; /* of the buffers so far */
} room;

static inline int32_t clamp(int32_t value, int32_t least, int32_t most) {
    return value < least ? least : value > most ? most : value;
}

static inline int64_t aligned(int64_t bytes) {
    return (bytes + SVIT_ALIGNMENT - 1) / SVIT_ALIGNMENT * SVIT_ALIGNMENT;
}

void mend_operator(room *r, op_head *op);

/* Have a part of the data lie in it. */
void place_data(room *r, int32_t *offset, int64_t bytes, int32_t alignment);
void mend_values(room *r, values_ref *v);
void mend_spikes(room *r, spikes_ref *s);

/* Have spikes be stored as others are. */
void take_form(spikes_ref *s, const spikes_ref *like);
void mend_neuron(neuron_ref *n, spikes_ref *fired);
void mend_window(const room *r, window_ref *w, int pool);
int32_t inputs_of(const window_ref *w);
int32_t outputs_of(const window_ref *w, int32_t channels);
void mend_sink(room *r, sink_ref *s, const window_ref *w, int32_t outputs, int32_t steps);
void mend_sizes(int32_t *rank, int32_t *sizes, int32_t least);
void mend_strides(int32_t *base, int32_t *strides, const int32_t *sizes, int32_t first,
                  int32_t rank, int64_t elements);
void mend_operand(room *r, operand_ref *x, int32_t *sizes, int32_t rank);

#endif
