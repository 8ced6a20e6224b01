/* Where the currents of a layer go, position by position: maxima, neurons, real values. */
#include "svit_sink.h"

#include <float.h>
#include <string.h>

/* Windows that are open at a time, at most, numbered row by row: where windows share one row at
 * most, those of a row end there as those of the next begin. */
static int32_t cells_open(const window_ref *pool) {
    const int32_t rows = (pool->kernel_height + pool->stride_y - 1) / pool->stride_y;
    const int32_t columns = (pool->kernel_width + pool->stride_x - 1) / pool->stride_x;
    const int shares_one = pool->kernel_height - pool->stride_y <= 1;
    const int spares = shares_one && rows > 1 && columns < pool->out_width;
    return spares ? pool->out_width + columns : rows * pool->out_width;
}

/* Bytes of one position as values: of integers that do not fire at once. */
static size_t values_bytes(const sink_ref *to, size_t pitch, int32_t type) {
    const int fires = to->kind == SINK_NEURON && (type == CURRENT_INT16 || !to->pooled);
    return type == CURRENT_FLOAT || fires ? 0 : (size_t)to->steps * pitch * sizeof(float);
}

uint64_t svit_sink_scratch(const sink_ref *to, size_t pitch, int32_t type) {
    uint64_t bytes = values_bytes(to, pitch, type);
    if (to->pooled) {
        const uint64_t cells = (uint64_t)cells_open(&to->pool);
        const size_t size = type == CURRENT_INT16 ? sizeof(int16_t) : sizeof(float);
        bytes += cells * (uint64_t)to->steps * pitch * size;
    }
    return bytes;
}

sink svit_sink(const run_state *run, const sink_ref *to, uint8_t *scratch, int32_t outputs,
               size_t pitch, int32_t type, int32_t height) {
    sink s;
    memset(&s, 0, sizeof s);
    s.run = run;
    s.to = to;
    s.outputs = outputs;
    s.steps = to->steps;
    s.type = type;
    s.pitch = pitch;
    s.values = (float *)(void *)scratch;
    s.pooled = scratch + values_bytes(to, pitch, type);
    s.cells = to->pooled ? cells_open(&to->pool) : 0;
    share_of(run, to->pooled ? to->pool.out_height : height, &s.first_row, &s.end_row);
    return s;
}

void svit_sink_rows(const sink *s, int32_t height, int32_t *first, int32_t *end) {
    *first = s->first_row;
    *end = s->end_row;
    if (!s->to->pooled) return;
    const window_ref *pool = &s->to->pool;
    *first = s->first_row * pool->stride_y - pool->pad_top;
    *end = (s->end_row - 1) * pool->stride_y - pool->pad_top + pool->kernel_height;
    if (*first < 0) *first = 0;
    if (*end > height || s->end_row == pool->out_height) *end = height;
    if (s->first_row == s->end_row) *end = *first;
}

/* Integer currents of a position as values. */
static void to_values(const sink *s, int32_t type, const void *currents, float *values) {
    for (int32_t t = 0; t < s->steps; t++) {
        float *to = values + (size_t)t * s->pitch;
        const size_t at = (size_t)t * s->pitch;
        for (int32_t n = 0; n < s->outputs; n++) {
            const float sum = type == CURRENT_INT16
                                  ? (float)((const int16_t *)currents)[at + (size_t)n]
                                  : (float)((const int32_t *)currents)[at + (size_t)n];
            const float scaled = sum * s->scale[n];
            to[n] = scaled + s->bias[n];
        }
    }
}

static void fire(const sink *s, int32_t type, const void *currents, int32_t position) {
    const spikes_ref *spikes = &s->to->spikes;
    fire_task task =
        svit_fire_task(&s->to->neuron, spikes,
                       s->run->arena + spikes->offset + (size_t)position * (size_t)s->outputs);
    task.scale = s->scale;
    task.bias = s->bias;
    task.pitch = s->pitch;
    task.size = s->outputs;
    task.is_static = s->steps == 1;
    if (type == CURRENT_INT16)
        s->run->kernels->fire_int16(&task, currents);
    else if (type == CURRENT_INT32)
        s->run->kernels->fire_int32(&task, currents);
    else
        s->run->kernels->fire_float(&task, currents);
}

/* Give a position's currents, pooled or not, to their neurons or real values. */
static void emit(const sink *s, int32_t type, const void *currents, int32_t position) {
    if (s->to->kind == SINK_NEURON) {
        fire(s, type, currents, position);
        return;
    }
    const float *values = currents;
    if (type != CURRENT_FLOAT) {
        to_values(s, type, currents, s->values);
        values = s->values;
    }
    const size_t at = (size_t)position * (size_t)s->outputs;
    const values_ref *other = &s->to->other;
    for (int32_t t = 0; t < s->steps; t++) {
        const float *from = values + (size_t)t * s->pitch;
        float *to = floats_at(s->run, s->to->values.offset) +
                    (size_t)t * (size_t)s->to->values.elements + at;
        if (s->to->kind == SINK_VALUES) {
            memcpy(to, from, (size_t)s->outputs * sizeof *to);
            continue;
        }
        const size_t step = other->steps == 1 ? 0 : (size_t)t * (size_t)other->elements;
        const float *added = floats_at(s->run, other->offset) + step + at;
        for (int32_t n = 0; n < s->outputs; n++) to[n] = added[n] + from[n];
    }
}

static void *pooled_cell(const sink *s, int32_t py, int32_t px) {
    const size_t cell = (size_t)((py * s->to->pool.out_width + px) % s->cells);
    const size_t at = cell * (size_t)s->steps * s->pitch;
    return s->type == CURRENT_INT16 ? (void *)((int16_t *)s->pooled + at)
                                    : (void *)((float *)s->pooled + at);
}

static void take_maxima(const sink *s, void *cell, const void *currents) {
    for (int32_t t = 0; t < s->steps; t++) {
        const size_t at = (size_t)t * s->pitch;
        if (s->type == CURRENT_INT16) {
            s->run->kernels->max_int16((int16_t *)cell + at, (const int16_t *)currents + at,
                                       s->outputs);
            continue;
        }
        float *most = (float *)cell + at;
        const float *values = (const float *)currents + at;
        for (int32_t n = 0; n < s->outputs; n++)
            most[n] = values[n] > most[n] ? values[n] : most[n];
    }
}

static void clear_cell(const sink *s, void *cell) {
    const size_t size = (size_t)s->steps * s->pitch;
    for (size_t i = 0; i < size; i++) {
        if (s->type == CURRENT_INT16)
            ((int16_t *)cell)[i] = INT16_MIN;
        else
            ((float *)cell)[i] = -FLT_MAX;
    }
}

/* First and last window, along one axis, that covers a place. */
static void windows_over(int32_t place, int32_t pad, int32_t kernel, int32_t stride, int32_t count,
                         int32_t *first, int32_t *last) {
    const int32_t from = place + pad - kernel + 1;
    *first = from <= 0 ? 0 : (from + stride - 1) / stride;
    *last = (place + pad) / stride;
    if (*last >= count) *last = count - 1;
}

void svit_sink_position(sink *s, int32_t y, int32_t x, const void *currents) {
    if (!s->to->pooled) {
        emit(s, s->type, currents, y * s->to->width + x);
        return;
    }
    const window_ref *pool = &s->to->pool;
    const void *taken = currents;
    if (s->type == CURRENT_INT32) {
        to_values(s, CURRENT_INT32, currents, s->values);
        taken = s->values;
    }
    int32_t first_y, last_y, first_x, last_x;
    windows_over(y, pool->pad_top, pool->kernel_height, pool->stride_y, pool->out_height, &first_y,
                 &last_y);
    if (first_y < s->first_row) first_y = s->first_row;
    if (last_y >= s->end_row) last_y = s->end_row - 1;
    windows_over(x, pool->pad_left, pool->kernel_width, pool->stride_x, pool->out_width, &first_x,
                 &last_x);
    for (int32_t py = first_y; py <= last_y; py++)
        for (int32_t px = first_x; px <= last_x; px++) {
            const int32_t top = py * pool->stride_y - pool->pad_top;
            const int32_t left = px * pool->stride_x - pool->pad_left;
            int32_t bottom = top + pool->kernel_height - 1, right = left + pool->kernel_width - 1;
            if (bottom >= pool->height) bottom = pool->height - 1;
            if (right >= pool->width) right = pool->width - 1;
            void *cell = pooled_cell(s, py, px);
            if (y == (top > 0 ? top : 0) && x == (left > 0 ? left : 0)) clear_cell(s, cell);
            take_maxima(s, cell, taken);
            if (y == bottom && x == right)
                emit(s, s->type == CURRENT_INT16 ? CURRENT_INT16 : CURRENT_FLOAT, cell,
                     py * pool->out_width + px);
        }
}
