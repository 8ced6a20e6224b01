/* Makes what operators consist of agree: buffers, neurons, windows, sinks, operands. */
#include "mend.h"

/* Have a buffer lie in the arena: one that does not ends where it ends. */
static void place(room *r, int32_t *offset, int64_t bytes, int32_t alignment) {
    *offset -= *offset % alignment;
    if (*offset < 0 || *offset + bytes > r->buffers || roll(r->random, 16) == 0)
        *offset = bytes > r->buffers ? 0 : (int32_t)(r->buffers - bytes);
    *offset -= *offset % alignment;
    if (*offset + bytes > r->end && bytes < 1 << 22) r->end = *offset + bytes;
}

void place_data(room *r, int32_t *offset, int64_t bytes, int32_t alignment) {
    if (*offset < 0 || *offset % alignment || *offset + bytes > r->data)
        *offset = bytes > r->data ? 0 : (int32_t)(r->data - bytes);
    *offset -= *offset % alignment;
}

void mend_values(room *r, values_ref *v) {
    v->steps = clamp(v->steps, 1, SVIT_MAX_STEPS);
    v->elements = clamp(v->elements, 1, MOST_ELEMENTS);
    place(r, &v->offset, (int64_t)v->steps * v->elements * 4, 4);
}

void mend_spikes(room *r, spikes_ref *s) {
    s->steps = clamp(s->steps, 1, SVIT_MAX_STEPS);
    s->step_bits = clamp(s->step_bits, 1, 8);
    s->binary = clamp(s->binary, 0, 1);
    s->planes = clamp(s->planes, 1, s->binary ? 8 : 255);
    s->elements = clamp(s->elements, 1, MOST_ELEMENTS);
    if (s->step_bits > 1) s->steps = clamp(s->steps, 1, 8 / s->step_bits);
    s->groups = (s->steps + 7) / 8;
    s->steps_per_group =
        s->groups > 1 ? 8 : clamp(s->steps_per_group, s->steps, 8 / s->step_bits);
    place(r, &s->offset, (int64_t)s->groups * s->planes * s->elements, 1);
}

void take_form(spikes_ref *s, const spikes_ref *like) {
    s->steps = like->steps;
    s->groups = like->groups;
    s->step_bits = like->step_bits;
    s->steps_per_group = like->steps_per_group;
}

void mend_neuron(neuron_ref *n, spikes_ref *fired) {
    n->hard_reset = clamp(n->hard_reset, 0, 1);
    n->half_up = clamp(n->half_up, 0, 1);
    if (!(n->threshold > 0.0f)) n->threshold = 1.0f;
    fired->groups = clamp(fired->groups, 1, 4);
    fired->planes = fired->step_bits > 1 ? 1 : clamp(fired->planes, 1, 16 / fired->groups);
    n->levels = fired->step_bits > 1 ? fired->step_bits : fired->planes;
}

void mend_window(const room *r, window_ref *w, int pool) {
    int32_t *const sides[] = {&w->channels,     &w->height,     &w->width,      &w->kernel_height,
                              &w->kernel_width, &w->stride_y,   &w->stride_x,   &w->dilation_y,
                              &w->dilation_x,   &w->out_height, &w->out_width};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++)
        *sides[i] = clamp(*sides[i], 1, i < 3 ? 256 : 64);
    w->pad_top = clamp(w->pad_top, 0, pool ? w->kernel_height - 1 : 1 << 10);
    w->pad_left = clamp(w->pad_left, 0, pool ? w->kernel_width - 1 : 1 << 10);
    /* Larger kernels, up to SVIT_MAX_TAPS, are the same code and take their time. */
    w->kernel_width = clamp(w->kernel_width, 1, (1 << 8) / w->kernel_height);
    while ((int64_t)w->height * w->width * w->channels > MOST_ELEMENTS) {
        int32_t *const shrunk = sides[roll(r->random, 3)];
        *shrunk = (*shrunk + 1) / 2;
    }
    if (!pool) return;
    w->pad_left = clamp(w->pad_left, 0, w->kernel_width - 1);
    w->dilation_y = w->dilation_x = 1;
    w->out_height = clamp(w->out_height, 1, (w->height - 1 + w->pad_top) / w->stride_y + 1);
    w->out_width = clamp(w->out_width, 1, (w->width - 1 + w->pad_left) / w->stride_x + 1);
}

int32_t inputs_of(const window_ref *w) { return w->height * w->width * w->channels; }

int32_t outputs_of(const window_ref *w, int32_t channels) {
    return clamp(w->out_height * w->out_width, 1, MOST_ELEMENTS) * clamp(channels, 1, 1 << 12);
}

void mend_sink(room *r, sink_ref *s, const window_ref *w, int32_t outputs, int32_t steps) {
    s->kind = clamp(s->kind, SINK_NEURON, SINK_ADD);
    s->pooled = clamp(s->pooled, 0, 1);
    s->steps = steps;
    s->width = w->out_width;
    int32_t elements = outputs_of(w, outputs);
    if (s->pooled) {
        s->pool.channels = outputs;
        s->pool.height = w->out_height;
        s->pool.width = w->out_width;
        const window_ref whole = s->pool;
        mend_window(r, &s->pool, 1);
        s->pool.channels = whole.channels;
        s->pool.height = whole.height;
        s->pool.width = whole.width;
        elements = outputs_of(&s->pool, outputs);
    }
    s->spikes.elements = s->values.elements = s->other.elements = elements;
    if (s->kind == SINK_NEURON) {
        if (steps > 1) s->spikes.steps = steps;
        mend_spikes(r, &s->spikes);
        mend_neuron(&s->neuron, &s->spikes);
        s->spikes.elements = elements;
        mend_spikes(r, &s->spikes);
        return;
    }
    s->values.steps = steps;
    if (s->other.steps != steps) s->other.steps = 1;
    mend_values(r, &s->values);
    mend_values(r, &s->other);
}

void mend_sizes(int32_t *rank, int32_t *sizes, int32_t least) {
    *rank = clamp(*rank, least, SVIT_MAX_RANK);
    int32_t left = MOST_ELEMENTS;
    for (int32_t axis = 0; axis < SVIT_MAX_RANK; axis++) {
        sizes[axis] = clamp(sizes[axis], 1, left);
        left /= sizes[axis];
    }
}

/* Zero strides until all elements are there. */
void mend_strides(int32_t *base, int32_t *strides, const int32_t *sizes, int32_t first,
                         int32_t rank, int64_t elements) {
    int64_t least = 0, most = 0;
    for (int32_t axis = first; axis < rank; axis++) {
        int64_t reach = (int64_t)strides[axis] * (sizes[axis] - 1);
        if (reach > 0 ? most + reach >= elements : least + reach <= -elements)
            reach = strides[axis] = 0;
        if (reach > 0) most += reach;
        else least += reach;
    }
    for (int32_t axis = first; axis < rank && most - least >= elements; axis++)
        if (strides[axis] < 0) {
            least -= (int64_t)strides[axis] * (sizes[axis] - 1);
            strides[axis] = 0;
        }
    if (*base + least < 0 || *base + most >= elements) *base = (int32_t)-least;
}

void mend_operand(room *r, operand_ref *x, int32_t *sizes, int32_t rank) {
    x->kind = clamp(x->kind, OPERAND_VALUES, OPERAND_SCALAR);
    if (x->kind == OPERAND_VALUES) {
        mend_values(r, &x->values);
        mend_strides(&x->base, x->strides, sizes, 0, rank,
                     (int64_t)x->values.steps * x->values.elements);
    } else if (x->kind == OPERAND_SPIKES) {
        mend_spikes(r, &x->spikes);
        sizes[0] = clamp(sizes[0], 1, x->spikes.steps);
        mend_strides(&x->base, x->strides, sizes, 1, rank, x->spikes.elements);
    } else if (x->kind == OPERAND_DATA) {
        x->values.elements = clamp(x->values.elements, 1, (int32_t)(r->data / 4));
        place_data(r, &x->values.offset, (int64_t)x->values.elements * 4, 4);
        mend_strides(&x->base, x->strides, sizes, 0, rank, x->values.elements);
    }
}
