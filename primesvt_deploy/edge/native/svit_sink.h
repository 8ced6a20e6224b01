/* Where the currents of a layer go, position by position. */
#ifndef SVIT_SINK_H
#define SVIT_SINK_H

#include "svit_internal.h"

enum { CURRENT_INT16 = 1, CURRENT_INT32, CURRENT_FLOAT };

typedef struct sink {
    const run_state *run;
    const sink_ref *to;
    int32_t outputs;
    int32_t steps; /* of the currents; 1 where they do not change over time */
    int32_t type;  /* of the currents */
    size_t pitch;  /* of a step's currents */
    const float *scale, *bias; /* of integer currents */
    float *values;             /* scratch: one position in float */
    void *pooled;              /* scratch: cells of maxima */
    int32_t cells;             /* of maxima that are open at a time */
    int32_t first_row, end_row; /* of the output that this part of a run makes */
} sink;

/* `height`: rows of the layer's output, before maxima are taken. */
sink svit_sink(const run_state *run, const sink_ref *to, uint8_t *scratch, int32_t outputs,
               size_t pitch, int32_t type, int32_t height);

/* Bytes of scratch memory, for currents of a type and pitch. */
uint64_t svit_sink_scratch(const sink_ref *to, size_t pitch, int32_t type);

/* The rows of a layer of `height` rows whose currents this part of a run needs. */
void svit_sink_rows(const sink *s, int32_t height, int32_t *first, int32_t *end);

/* Take the currents of position (y, x); rows come in order. */
void svit_sink_position(sink *s, int32_t y, int32_t x, const void *currents);

#endif
