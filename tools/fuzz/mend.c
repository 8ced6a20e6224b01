/* Makes fields of a mutated model file agree again. */
#include <string.h>

#include "mutate.h"

#define MOST_BUFFERS (1 << 16) /* bytes of the arena that buffers are moved into */
#define MOST_ELEMENTS (1 << 13)

/* What is left of a file's data and arena. */
typedef struct room {
    dice *random;
    const svit_header *header;
    int64_t data, buffers;
    int64_t end; /* of the buffers so far */
} room;

static int32_t clamp(int32_t value, int32_t least, int32_t most) {
    return value < least ? least : value > most ? most : value;
}

static int64_t aligned(int64_t bytes) {
    return (bytes + SVIT_ALIGNMENT - 1) / SVIT_ALIGNMENT * SVIT_ALIGNMENT;
}

/* Have a buffer lie in the arena: one that does not ends where it ends. */
static void place(room *r, int32_t *offset, int64_t bytes, int32_t alignment) {
    *offset -= *offset % alignment;
    if (*offset < 0 || *offset + bytes > r->buffers || roll(r->random, 16) == 0)
        *offset = bytes > r->buffers ? 0 : (int32_t)(r->buffers - bytes);
    *offset -= *offset % alignment;
    if (*offset + bytes > r->end && bytes < 1 << 22) r->end = *offset + bytes;
}

static void place_data(room *r, int32_t *offset, int64_t bytes, int32_t alignment) {
    if (*offset < 0 || *offset % alignment || *offset + bytes > r->data)
        *offset = bytes > r->data ? 0 : (int32_t)(r->data - bytes);
    *offset -= *offset % alignment;
}

static void mend_values(room *r, values_ref *v) {
    v->steps = clamp(v->steps, 1, SVIT_MAX_STEPS);
    v->elements = clamp(v->elements, 1, MOST_ELEMENTS);
    place(r, &v->offset, (int64_t)v->steps * v->elements * 4, 4);
}

static void mend_spikes(room *r, spikes_ref *s) {
    s->steps = clamp(s->steps, 1, SVIT_MAX_STEPS);
    s->step_bits = clamp(s->step_bits, 1, 8);
    s->binary = clamp(s->binary, 0, 1);
    s->planes = clamp(s->planes, 1, s->binary ? 8 : 255);
    s->elements = clamp(s->elements, 1, MOST_ELEMENTS);
    if (s->step_bits > 1) s->steps = clamp(s->steps, 1, 8 / s->step_bits);
    s->groups = clamp(s->groups, (s->steps + 7) / 8, s->step_bits > 1 ? 1 : 4);
    s->steps_per_group =
        s->groups > 1 ? 8 : clamp(s->steps_per_group, s->steps, 8 / s->step_bits);
    place(r, &s->offset, (int64_t)s->groups * s->planes * s->elements, 1);
}

/* Have spikes be stored as others are. */
static void take_form(spikes_ref *s, const spikes_ref *like) {
    s->steps = like->steps;
    s->groups = like->groups;
    s->step_bits = like->step_bits;
    s->steps_per_group = like->steps_per_group;
}

static void mend_neuron(neuron_ref *n, spikes_ref *fired) {
    n->hard_reset = clamp(n->hard_reset, 0, 1);
    n->half_up = clamp(n->half_up, 0, 1);
    if (!(n->threshold > 0.0f)) n->threshold = 1.0f;
    fired->groups = clamp(fired->groups, 1, 4);
    fired->planes = fired->step_bits > 1 ? 1 : clamp(fired->planes, 1, 16 / fired->groups);
    n->levels = fired->step_bits > 1 ? fired->step_bits : fired->planes;
}

static void mend_window(const room *r, window_ref *w, int pool) {
    int32_t *const sides[] = {&w->channels,     &w->height,     &w->width,      &w->kernel_height,
                              &w->kernel_width, &w->stride_y,   &w->stride_x,   &w->dilation_y,
                              &w->dilation_x,   &w->out_height, &w->out_width};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++)
        *sides[i] = clamp(*sides[i], 1, i < 3 ? 256 : 64);
    w->pad_top = clamp(w->pad_top, 0, pool ? w->kernel_height - 1 : 1 << 10);
    w->pad_left = clamp(w->pad_left, 0, pool ? w->kernel_width - 1 : 1 << 10);
    w->kernel_width = clamp(w->kernel_width, 1, SVIT_MAX_TAPS / w->kernel_height);
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

static int32_t inputs_of(const window_ref *w) { return w->height * w->width * w->channels; }

static int32_t outputs_of(const window_ref *w, int32_t channels) {
    return clamp(w->out_height * w->out_width, 1, MOST_ELEMENTS) * clamp(channels, 1, 1 << 12);
}

static void mend_sink(room *r, sink_ref *s, const window_ref *w, int32_t outputs, int32_t steps) {
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

static void mend_sparse(room *r, op_sparse *op) {
    window_ref *w = &op->window;
    mend_window(r, w, 0);
    op->input.elements = inputs_of(w);
    mend_spikes(r, &op->input);
    op->outputs = clamp(op->outputs, 1, 1 << 10);
    op->set_bits = op->set_bits >= 4 ? 4 : clamp(op->set_bits, 1, 2);
    op->joins = clamp(op->joins, 0, 1);
    op->block_rows = clamp(op->block_rows, 0, INT16_MAX);
    op->largest = op->input.binary ? clamp(op->largest, 1, 255) : op->input.planes;
    op->listed = clamp(op->listed, 0, UINT16_MAX);
    const int64_t rows = (int64_t)w->kernel_height * w->kernel_width * w->channels;
    op->weights = clamp(op->weights, WEIGHTS_INT8, WEIGHTS_INT4);
    if (op->weights == WEIGHTS_INT8) op->multipliers_offset = 0;
    while (rows * op->outputs > 2 * r->data && op->outputs > 1) op->outputs /= 2;
    const int packed = op->weights == WEIGHTS_INT4;
    place_data(r, &op->weights_offset, rows * (packed ? (op->outputs + 1) / 2 : op->outputs), 1);
    if (packed) {
        op->group_rows = clamp(op->group_rows, 1, UINT16_MAX);
        place_data(r, &op->multipliers_offset,
                   (rows + op->group_rows - 1) / op->group_rows * op->outputs, 1);
    }
    place_data(r, &op->scale_offset, (int64_t)op->outputs * 4, 4);
    place_data(r, &op->bias_offset, (int64_t)op->outputs * 4, 4);
    mend_sink(r, &op->sink, w, op->outputs, op->input.steps);
}

static void mend_dense(room *r, op_dense *op) {
    window_ref *w = &op->window;
    mend_window(r, w, 0);
    op->groups = clamp(op->groups, 1, w->channels);
    while (w->channels % op->groups) op->groups--;
    op->outputs = clamp(op->outputs, op->groups, 1 << 10);
    op->outputs -= op->outputs % op->groups;
    op->spikes.elements = op->values.elements = inputs_of(w);
    if (op->input_is_spikes) mend_spikes(r, &op->spikes);
    else mend_values(r, &op->values);
    op->weights = op->weights == WEIGHTS_INT8 ? WEIGHTS_INT8 : WEIGHTS_FLOAT;
    const int32_t size = op->weights == WEIGHTS_INT8 ? 1 : 4;
    const int64_t rows = (int64_t)w->kernel_height * w->kernel_width * (w->channels / op->groups);
    place_data(r, &op->weights_offset, rows * op->outputs * size, size);
    if (size == 1) place_data(r, &op->scale_offset, (int64_t)op->outputs * 4, 4);
    else op->scale_offset = 0;
    place_data(r, &op->bias_offset, (int64_t)op->outputs * 4, 4);
    const int32_t steps = op->input_is_spikes ? op->spikes.steps : op->values.steps;
    mend_sink(r, &op->sink, w, op->outputs, steps);
}

static void mend_pixels(room *r, op_pixels *op) {
    window_ref *w = &op->window;
    mend_window(r, w, 0);
    w->dilation_y = w->dilation_x = 1;
    w->kernel_height = clamp(w->kernel_height, 1, SVIT_PIXEL_ROWS);
    w->channels = r->header->channels;
    w->height = r->header->height;
    w->width = r->header->width;
    op->outputs = clamp(op->outputs, 1, 1 << 8);
    const int64_t pairs = ((int64_t)w->kernel_width * (w->channels + 1) + 1) / 2;
    place_data(r, &op->weights_offset, w->kernel_height * pairs * op->outputs * 4, 2);
    place_data(r, &op->centre_offset, w->channels, 1);
    place_data(r, &op->scale_offset, (int64_t)op->outputs * 4, 4);
    place_data(r, &op->bias_offset, (int64_t)op->outputs * 4, 4);
    mend_sink(r, &op->sink, w, op->outputs, 1);
}

static void mend_attention(room *r, op_attention *op) {
    op->heads = clamp(op->heads, 1, 64);
    op->key_size = clamp(op->key_size, 1, 64);
    op->value_size = clamp(op->value_size, 1, 256);
    op->positions = clamp(op->positions, 1, 64);
    op->output.step_bits = op->output.planes = op->output.groups = 1;
    op->output.steps = clamp(op->output.steps, 1, 8);
    op->output.elements = op->heads * op->value_size * op->positions;
    mend_spikes(r, &op->output);
    mend_neuron(&op->neuron, &op->output);
    spikes_ref *const inputs[] = {&op->q, &op->k, &op->v};
    for (int i = 0; i < 3; i++) {
        take_form(inputs[i], &op->output);
        inputs[i]->planes = 1;
        inputs[i]->elements = op->heads * (i < 2 ? op->key_size : op->value_size) * op->positions;
        mend_spikes(r, inputs[i]);
    }
}

static void mend_sizes(int32_t *rank, int32_t *sizes, int32_t least) {
    *rank = clamp(*rank, least, SVIT_MAX_RANK);
    int32_t left = MOST_ELEMENTS;
    for (int32_t axis = 0; axis < SVIT_MAX_RANK; axis++) {
        sizes[axis] = clamp(sizes[axis], 1, left);
        left /= sizes[axis];
    }
}

/* Zero strides until all elements are there. */
static void mend_strides(int32_t *base, int32_t *strides, const int32_t *sizes, int32_t first,
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

static void mend_operand(room *r, operand_ref *x, int32_t *sizes, int32_t rank) {
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

static void mend_operator(room *r, op_head *op) {
    void *any = op;
    op->observed = clamp(op->observed, 0, 1 << 16);
    if (op->name_offset < 0 || op->name_offset >= r->data) op->name_offset = 0;
    op_neuron *neuron = any;
    op_spike_pool *spikes = any;
    op_value_pool *values = any;
    op_spike_add *add = any;
    op_spike_and *both = any;
    op_elementwise *elementwise = any;
    op_reduce *reduce = any;
    op_matmul *matmul = any;
    op_copy *copy = any;
    switch (op->kind) {
    case OP_SPARSE: mend_sparse(r, any); break;
    case OP_DENSE: mend_dense(r, any); break;
    case OP_ATTENTION: mend_attention(r, any); break;
    case OP_PIXELS: mend_pixels(r, any); break;
    case OP_NEURON:
        mend_values(r, &neuron->input);
        neuron->output.elements = neuron->input.elements;
        if (neuron->input.steps > 1) neuron->output.steps = neuron->input.steps;
        mend_spikes(r, &neuron->output);
        mend_neuron(&neuron->neuron, &neuron->output);
        mend_spikes(r, &neuron->output);
        break;
    case OP_SPIKE_POOL:
        mend_window(r, &spikes->window, 1);
        spikes->input.elements = inputs_of(&spikes->window);
        spikes->output.elements = outputs_of(&spikes->window, spikes->window.channels);
        mend_spikes(r, &spikes->input);
        take_form(&spikes->output, &spikes->input);
        spikes->output.planes = spikes->input.planes;
        spikes->output.binary = spikes->input.binary;
        mend_spikes(r, &spikes->output);
        break;
    case OP_VALUE_POOL:
        mend_window(r, &values->window, 1);
        values->input.elements = inputs_of(&values->window);
        values->output.elements = outputs_of(&values->window, values->window.channels);
        values->output.steps = values->input.steps;
        mend_values(r, &values->input);
        mend_values(r, &values->output);
        break;
    case OP_SPIKE_ADD:
        add->output.step_bits = 1;
        mend_spikes(r, &add->output);
        add->a.elements = add->b.elements = add->output.elements;
        take_form(&add->a, &add->output);
        take_form(&add->b, &add->output);
        mend_spikes(r, &add->a);
        mend_spikes(r, &add->b);
        break;
    case OP_SPIKE_AND:
        both->output.step_bits = both->output.planes = both->a.planes = both->b.planes = 1;
        mend_spikes(r, &both->output);
        take_form(&both->a, &both->output);
        take_form(&both->b, &both->output);
        mend_spikes(r, &both->a);
        mend_spikes(r, &both->b);
        mend_sizes(&both->rank, both->sizes, 1);
        mend_strides(&both->base_a, both->strides_a, both->sizes, 0, both->rank, both->a.elements);
        mend_strides(&both->base_b, both->strides_b, both->sizes, 0, both->rank, both->b.elements);
        mend_strides(&both->base_output, both->strides_output, both->sizes, 0, both->rank,
                     both->output.elements);
        break;
    case OP_ELEMENTWISE:
        elementwise->function = clamp(elementwise->function, ELEMENTWISE_ADD, ELEMENTWISE_MAX);
        elementwise->output.kind = OPERAND_VALUES;
        mend_sizes(&elementwise->rank, elementwise->sizes, 1);
        mend_operand(r, &elementwise->a, elementwise->sizes, elementwise->rank);
        mend_operand(r, &elementwise->b, elementwise->sizes, elementwise->rank);
        mend_operand(r, &elementwise->output, elementwise->sizes, elementwise->rank);
        break;
    case OP_REDUCE:
        reduce->function = clamp(reduce->function, REDUCE_SUM, REDUCE_MAX);
        reduce->output.kind = OPERAND_VALUES;
        mend_sizes(&reduce->rank, reduce->sizes, 1);
        reduce->kept = clamp(reduce->kept, 0, reduce->rank);
        mend_operand(r, &reduce->input, reduce->sizes, reduce->rank);
        mend_operand(r, &reduce->output, reduce->sizes, reduce->kept);
        break;
    case OP_MATMUL:
        matmul->output.kind = OPERAND_VALUES;
        mend_sizes(&matmul->rank, matmul->sizes, 3);
        mend_operand(r, &matmul->a, matmul->sizes, matmul->rank);
        mend_operand(r, &matmul->b, matmul->sizes, matmul->rank);
        mend_operand(r, &matmul->output, matmul->sizes, matmul->rank - 1);
        break;
    default:
        mend_sizes(&copy->rank, copy->sizes, 1);
        if (copy->output.kind == OPERAND_SPIKES) {
            copy->sizes[0] = 1;
            copy->input.kind = OPERAND_SPIKES;
            mend_spikes(r, &copy->input.spikes);
            take_form(&copy->output.spikes, &copy->input.spikes);
            copy->output.spikes.planes = copy->input.spikes.planes;
            copy->output.spikes.binary = copy->input.spikes.binary;
        } else {
            copy->output.kind = OPERAND_VALUES;
        }
        mend_operand(r, &copy->input, copy->sizes, copy->rank);
        mend_operand(r, &copy->output, copy->sizes, copy->rank);
        break;
    }
}

void mend(uint8_t *file, size_t bytes, dice *d) {
    static const uint8_t magic[8] = {'S', 'V', 'I', 'T', '\r', '\n', 0x1a, '\n'};
    svit_header *h = (svit_header *)(void *)file;
    memcpy(h->magic, magic, sizeof magic);
    h->version = SVIT_FORMAT_VERSION;
    h->file_bytes = (uint32_t)bytes;
    h->data_bytes = (uint32_t)(bytes - h->data_offset - SVIT_SLACK);
    const int64_t arena = h->arena_bytes > MOST_BUFFERS ? MOST_BUFFERS : h->arena_bytes;
    room r = {d, h, h->data_bytes, arena < SVIT_SLACK ? SVIT_SLACK : arena - SVIT_SLACK, 0};
    h->frames = clamp(h->frames, 0, h->takes_pixels ? 0 : SVIT_MAX_STEPS);
    h->channels = clamp(h->channels, 1, 64);
    h->height = clamp(h->height, 1, 64);
    h->width = clamp(h->width, 1, 64);
    values_ref input = {h->input_offset, h->frames ? h->frames : 1,
                        h->channels * h->height * h->width};
    values_ref logits = {h->logits_offset, 1, h->classes};
    mend_values(&r, &input);
    mend_values(&r, &logits);
    h->input_offset = input.offset;
    h->logits_offset = logits.offset;
    size_t at = sizeof *h;
    uint64_t left_alone = 0; /* operators, by number */
    for (uint32_t i = 0; i < h->operators; i++) {
        op_head *op = (op_head *)(void *)(file + at);
        if (roll(d, 16) || i >= 64)
            mend_operator(&r, op);
        else
            left_alone |= UINT64_C(1) << i;
        at += (size_t)op->words * 4;
    }
    h->operators_bytes = (uint32_t)(at - sizeof *h);
    /* Scratch memory behind all buffers, which end where the longest of it ends. */
    int64_t longest = 0;
    const int64_t scratch = aligned(r.end);
    int64_t end = r.end;
    at = sizeof *h;
    for (uint32_t i = 0; i < h->operators; i++) {
        op_head *op = (op_head *)(void *)(file + at);
        at += (size_t)op->words * 4;
        if (i < 64 && left_alone >> i & 1) continue; /* its sizes may be none */
        const uint64_t used = svit_scratch_bytes(op);
        if (used > 1 << 22) continue;
        if (roll(d, 16)) op->scratch_offset = (int32_t)scratch;
        if ((int64_t)used > longest) longest = (int64_t)used;
    }
    if (longest && scratch + longest > end) end = scratch + longest;
    if (roll(d, 16) == 0) return;
    h->scratch_bytes = (uint32_t)aligned(longest + SVIT_SLACK);
    h->arena_bytes = (uint32_t)aligned(end + SVIT_SLACK);
}
