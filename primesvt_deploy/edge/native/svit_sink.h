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
    size_t cell_pitch; /* and of a step's maxima */
    const float *scale, *bias; /* of integer currents */
    float *values;             /* scratch: one position in float */
    void *pooled;              /* scratch: cells of maxima */
    int32_t cells;             /* of maxima that are open at a time */
    int32_t first_row, end_row; /* of pooled output that this part of a run makes */
} sink;

/* Of a layer of `outputs` channels, whose currents have a type and pitch. */
sink svit_sink(const run_state *run, const sink_ref *to, uint8_t *scratch, int32_t outputs,
               size_t pitch, int32_t type);

/* Bytes of scratch memory, for currents of a type and pitch, and the pitch of maxima. */
uint64_t svit_sink_scratch(const sink_ref *to, size_t pitch, size_t cell_pitch, int32_t type);

/* The positions y * out_width + x of a layer whose currents this part of a run needs, in its turn of
 * so many: parts take turns, as some places of an image take longer than others. Maxima need all
 * positions in one turn: no others follow it. */
void svit_sink_positions(const sink *s, const window_ref *window, int32_t turn, int32_t turns,
                         int32_t *begin, int32_t *end);

/* Take currents of position (y, x): those of `count` outputs from `first` on, which is a multiple of
 * SVIT_COLUMNS. Of each of these parts, positions come in order. */
void svit_sink_position(const sink *s, int32_t y, int32_t x, const void *currents, int32_t first,
                        int32_t count);

#endif
