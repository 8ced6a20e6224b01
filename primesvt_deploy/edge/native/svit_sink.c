/* Where the currents of a layer go, position by position: maxima, neurons, real values. */
#include "svit_sink.h"

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

uint64_t svit_sink_scratch(const sink_ref *to, size_t pitch, size_t cell_pitch, int32_t type) {
    uint64_t bytes = values_bytes(to, pitch, type);
    if (to->pooled) {
        const uint64_t cells = (uint64_t)cells_open(&to->pool);
        const size_t size = type == CURRENT_INT16 ? sizeof(int16_t) : sizeof(float);
        bytes += cells * (uint64_t)to->steps * cell_pitch * size;
    }
    return bytes;
}

sink svit_sink(const run_state *run, const sink_ref *to, uint8_t *scratch, int32_t outputs,
               size_t pitch, int32_t type) {
    sink s;
    memset(&s, 0, sizeof s);
    s.run = run;
    s.to = to;
    s.outputs = outputs;
    s.steps = to->steps;
    s.type = type;
    s.pitch = pitch;
    s.cell_pitch = padded(outputs);
    s.values = (float *)(void *)scratch;
    s.pooled = scratch + values_bytes(to, pitch, type);
    s.cells = to->pooled ? cells_open(&to->pool) : 0;
    if (to->pooled) share_of(run, to->pool.out_height, &s.first_row, &s.end_row);
    return s;
}

void svit_sink_positions(const sink *s, const window_ref *window, int32_t turn, int32_t turns,
                         int32_t *begin, int32_t *end) {
    const int32_t width = window->out_width, height = window->out_height;
    if (!s->to->pooled) {
        const int64_t count = (int64_t)height * width, all = (int64_t)s->run->parts * turns;
        const int64_t share = (int64_t)s->run->parts * turn + s->run->part;
        *begin = (int32_t)(count * share / all);
        *end = (int32_t)(count * (share + 1) / all);
        return;
    }
    *begin = *end = 0;
    if (turn > 0) return;
    const window_ref *pool = &s->to->pool;
    int32_t first = s->first_row * pool->stride_y - pool->pad_top;
    int32_t last = (s->end_row - 1) * pool->stride_y - pool->pad_top + pool->kernel_height;
    if (first < 0) first = 0;
    if (last > height || s->end_row == pool->out_height) last = height;
    if (s->first_row == s->end_row) last = first;
    *begin = first * width;
    *end = last * width;
}

/* Currents of some outputs of a position: step t's are at t * pitch. */
typedef struct outputs_of {
    void *currents;
    int32_t type, first, count;
    size_t pitch;
} outputs_of;

/* Integer currents as values, in the scratch memory. */
static outputs_of to_values(const sink *s, const outputs_of *o) {
    const float *scale = s->scale + o->first, *bias = s->bias + o->first;
    const int16_t *narrow = o->currents;
    const int32_t *wide = o->currents;
    float *values = s->values;
    for (int32_t t = 0; t < s->steps; t++) {
        for (int32_t n = 0; n < o->count; n++) {
            const float scaled = (float)(o->type == CURRENT_INT16 ? narrow[n] : wide[n]) * scale[n];
            values[n] = scaled + bias[n];
        }
        narrow += o->pitch;
        wide += o->pitch;
        values += s->pitch;
    }
    const outputs_of converted = {s->values, CURRENT_FLOAT, o->first, o->count, s->pitch};
    return converted;
}

static void fire(const sink *s, const outputs_of *o, size_t at) {
    const spikes_ref *spikes = &s->to->spikes;
    fire_task task =
        svit_fire_task(&s->to->neuron, spikes, s->run->arena + spikes->offset + at);
    if (o->type != CURRENT_FLOAT) {
        task.scale = s->scale + o->first;
        task.bias = s->bias + o->first;
    }
    task.pitch = o->pitch;
    task.size = o->count;
    task.is_static = s->steps == 1;
    if (o->type == CURRENT_INT16)
        s->run->kernels->fire_int16(&task, o->currents);
    else if (o->type == CURRENT_INT32)
        s->run->kernels->fire_int32(&task, o->currents);
    else
        s->run->kernels->fire_float(&task, o->currents);
}

/* Give a position's currents, pooled or not, to their neurons or real values. */
static void emit(const sink *s, const outputs_of *o, int32_t position) {
    const size_t at = (size_t)position * (size_t)s->outputs + (size_t)o->first;
    if (s->to->kind == SINK_NEURON) {
        fire(s, o, at);
        return;
    }
    const outputs_of v = o->type == CURRENT_FLOAT ? *o : to_values(s, o);
    const values_ref *other = &s->to->other;
    const size_t count = (size_t)o->count;
    for (int32_t t = 0; t < s->steps; t++) {
        const float *from = (const float *)v.currents + (size_t)t * v.pitch;
        float *to = floats_at(s->run, s->to->values.offset) +
                    (size_t)t * (size_t)s->to->values.elements + at;
        if (s->to->kind == SINK_VALUES) {
            memcpy(to, from, count * sizeof *to);
            continue;
        }
        const size_t step = other->steps == 1 ? 0 : (size_t)t * (size_t)other->elements;
        const float *added = floats_at(s->run, other->offset) + step + at;
        for (size_t n = 0; n < count; n++) to[n] = added[n] + from[n];
    }
}

/* Maxima of a window of the pool, of some outputs. */
static outputs_of pooled_cell(const sink *s, int32_t py, int32_t px, const outputs_of *o) {
    const size_t cell = (size_t)((py * s->to->pool.out_width + px) % s->cells);
    const size_t at = cell * (size_t)s->steps * s->cell_pitch + (size_t)o->first;
    outputs_of c = *o;
    c.currents = o->type == CURRENT_INT16 ? (void *)((int16_t *)s->pooled + at)
                                          : (void *)((float *)s->pooled + at);
    c.pitch = s->cell_pitch;
    return c;
}

static void take_maxima(const sink *s, const outputs_of *c, const outputs_of *o) {
    for (int32_t t = 0; t < s->steps; t++) {
        const size_t to = (size_t)t * c->pitch, from = (size_t)t * o->pitch;
        if (o->type == CURRENT_INT16) {
            s->run->kernels->max_int16((int16_t *)c->currents + to,
                                       (const int16_t *)o->currents + from, o->count);
            continue;
        }
        float *most = (float *)c->currents + to;
        const float *values = (const float *)o->currents + from;
        for (int32_t n = 0; n < o->count; n++)
            most[n] = values[n] > most[n] ? values[n] : most[n];
    }
}

/* Have the maxima be these currents: of the first position of a window. */
static void begin_maxima(const sink *s, const outputs_of *c, const outputs_of *o) {
    const size_t size = o->type == CURRENT_INT16 ? sizeof(int16_t) : sizeof(float);
    for (int32_t t = 0; t < s->steps; t++)
        memcpy((uint8_t *)c->currents + (size_t)t * c->pitch * size,
               (const uint8_t *)o->currents + (size_t)t * o->pitch * size,
               (size_t)o->count * size);
}

/* First and last window, along one axis, that covers a place. */
static void windows_over(int32_t place, int32_t pad, int32_t kernel, int32_t stride, int32_t count,
                         int32_t *first, int32_t *last) {
    const int32_t from = place + pad - kernel + 1;
    *first = from <= 0 ? 0 : (from + stride - 1) / stride;
    *last = (place + pad) / stride;
    if (*last >= count) *last = count - 1;
}

/* Take a position's currents into the maxima of a window that covers it. */
static void pool_position(const sink *s, int32_t y, int32_t x, int32_t py, int32_t px,
                          const outputs_of *o) {
    const window_ref *pool = &s->to->pool;
    const int32_t top = py * pool->stride_y - pool->pad_top;
    const int32_t left = px * pool->stride_x - pool->pad_left;
    int32_t bottom = top + pool->kernel_height - 1, right = left + pool->kernel_width - 1;
    if (bottom >= pool->height) bottom = pool->height - 1;
    if (right >= pool->width) right = pool->width - 1;
    const outputs_of cell = pooled_cell(s, py, px, o);
    if (y == (top > 0 ? top : 0) && x == (left > 0 ? left : 0))
        begin_maxima(s, &cell, o);
    else
        take_maxima(s, &cell, o);
    if (y == bottom && x == right) emit(s, &cell, py * pool->out_width + px);
}

void svit_sink_position(const sink *s, int32_t y, int32_t x, const void *currents, int32_t first,
                        int32_t count) {
    outputs_of o = {(void *)(uintptr_t)currents, s->type, first, count, s->pitch};
    if (!s->to->pooled) {
        emit(s, &o, y * s->to->width + x);
        return;
    }
    if (s->type == CURRENT_INT32) o = to_values(s, &o);
    const window_ref *pool = &s->to->pool;
    int32_t first_y, last_y, first_x, last_x;
    windows_over(y, pool->pad_top, pool->kernel_height, pool->stride_y, pool->out_height, &first_y,
                 &last_y);
    if (first_y < s->first_row) first_y = s->first_row;
    if (last_y >= s->end_row) last_y = s->end_row - 1;
    windows_over(x, pool->pad_left, pool->kernel_width, pool->stride_x, pool->out_width, &first_x,
                 &last_x);
    for (int32_t py = first_y; py <= last_y; py++)
        for (int32_t px = first_x; px <= last_x; px++) pool_position(s, y, x, py, px, &o);
}
