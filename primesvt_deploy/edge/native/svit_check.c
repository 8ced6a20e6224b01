/* Check a model file once: every offset, size and index, so that nothing needs checking later.
 *
 * The file is not trusted. What is accepted here may compute nonsense, and buffers may overlap, but
 * operators read and write within the arena and the file. Three things make that hold:
 *
 *   - the scratch memory of an operator overlaps none of its buffers, so that the lists and indices
 *     it keeps there are its own;
 *   - bytes in buffers are not trusted: operators mask what they use as an index;
 *   - kernels may read up to SVIT_SLACK bytes behind a buffer or a constant, and write none.
 */
#include <stddef.h>

#include "svit_internal.h"

#define MOST_ELEMENTS (1 << 28) /* of a tensor; products with it fit 64 bits */
#define MOST_SIDE (1 << 16)     /* channels, pixels along a side, sizes of an axis */
#define MOST_NAME 4096          /* bytes of a name */
#define MOST_TILE 1024          /* positions whose lists are kept */
#define MOST_WINDOWS 16         /* of attention, along a side */
#define MOST_UNCOUNTED 64       /* inputs that a piece may have beyond those it is told */

typedef struct limits {
    uint64_t buffers; /* bytes of the arena */
    uint64_t data;
    uint64_t scratch_bytes; /* of the operator that needs most */
    uint64_t scratch, scratch_end; /* of the operator: its buffers lie elsewhere */
    const svit_header *pixels;     /* of a model that takes pixels alone; else null */
} limits;

static int within(uint64_t offset, uint64_t bytes, uint64_t end) {
    return offset <= end && bytes <= end - offset;
}

static int in_range(int32_t value, int32_t least, int32_t most) {
    return value >= least && value <= most;
}

/* A part of the data: `count` items of `size` bytes; floats and words are aligned. */
static int data_ok(const limits *l, int32_t offset, uint64_t count, uint64_t size) {
    return offset >= 0 && offset % (int32_t)size == 0 &&
           within((uint64_t)offset, count * size, l->data);
}

/* A part of the arena. */
static int buffer_ok(const limits *l, int32_t offset, uint64_t bytes) {
    if (offset < 0 || !within((uint64_t)offset, bytes, l->buffers)) return 0;
    return (uint64_t)offset + bytes <= l->scratch || (uint64_t)offset >= l->scratch_end;
}

static int values_ok(const limits *l, const values_ref *v) {
    return in_range(v->steps, 1, SVIT_MAX_STEPS) && in_range(v->elements, 1, MOST_ELEMENTS) &&
           v->offset % 4 == 0 &&
           buffer_ok(l, v->offset, (uint64_t)v->steps * (uint64_t)v->elements * 4);
}

static int spikes_ok(const limits *l, const spikes_ref *s) {
    if (!in_range(s->steps, 1, SVIT_MAX_STEPS) || !in_range(s->groups, 1, 4) ||
        !in_range(s->binary, 0, 1) || !in_range(s->planes, 1, s->binary ? 8 : 255) ||
        !in_range(s->step_bits, 1, 8) || !in_range(s->steps_per_group, 1, 8) ||
        !in_range(s->elements, 1, MOST_ELEMENTS))
        return 0;
    const int32_t groups = (s->steps + s->steps_per_group - 1) / s->steps_per_group;
    if (s->step_bits * s->steps_per_group > 8 || s->groups != groups) return 0;
    if (s->groups > 1 && (s->steps_per_group != 8 || s->step_bits != 1)) return 0;
    const uint64_t bytes = (uint64_t)s->groups * (uint64_t)s->planes * (uint64_t)s->elements;
    return buffer_ok(l, s->offset, bytes);
}

static int same_form(const spikes_ref *a, const spikes_ref *b) {
    return a->steps == b->steps && a->groups == b->groups && a->step_bits == b->step_bits &&
           a->steps_per_group == b->steps_per_group;
}

static int neuron_ok(const neuron_ref *n, const spikes_ref *fired) {
    if (!in_range(n->levels, 1, 255) || !in_range(n->hard_reset, 0, 1) ||
        !in_range(n->half_up, 0, 1) || !(n->threshold > 0.0f))
        return 0;
    if (fired->groups * fired->planes > SVIT_FIRE_BYTES || fired->binary) return 0;
    if (fired->step_bits > 1) return n->levels == fired->step_bits && fired->planes == 1;
    return n->levels == fired->planes;
}

/* A window that reads pixels of the input; windows may reach beyond its borders. */
static int window_ok(const window_ref *w) {
    const int32_t sides[] = {w->channels,     w->height,   w->width,      w->kernel_height,
                             w->kernel_width, w->stride_y, w->stride_x,   w->dilation_y,
                             w->dilation_x,   w->out_height, w->out_width};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++)
        if (!in_range(sides[i], 1, MOST_SIDE)) return 0;
    if (!in_range(w->pad_top, 0, MOST_SIDE) || !in_range(w->pad_left, 0, MOST_SIDE)) return 0;
    if ((int64_t)w->kernel_height * w->kernel_width > SVIT_MAX_TAPS) return 0;
    /* Places of a window are computed in 32 bits. */
    const int64_t rows = (int64_t)w->out_height * w->stride_y;
    const int64_t columns = (int64_t)w->out_width * w->stride_x;
    const int64_t tall = (int64_t)w->kernel_height * w->dilation_y;
    const int64_t wide = (int64_t)w->kernel_width * w->dilation_x;
    return rows + tall < MOST_ELEMENTS && columns + wide < MOST_ELEMENTS;
}

static int64_t pixels_in(const window_ref *w) { return (int64_t)w->height * w->width; }

static int64_t pixels_out(const window_ref *w) { return (int64_t)w->out_height * w->out_width; }

/* A pool covers every place of its input once at least, in order, without gaps before its end. */
static int pool_ok(const window_ref *w) {
    if (!window_ok(w) || w->dilation_y != 1 || w->dilation_x != 1) return 0;
    if (w->pad_top >= w->kernel_height || w->pad_left >= w->kernel_width) return 0;
    const int64_t top = (int64_t)(w->out_height - 1) * w->stride_y - w->pad_top;
    const int64_t left = (int64_t)(w->out_width - 1) * w->stride_x - w->pad_left;
    return top < w->height && left < w->width;
}

/* A sink for `outputs` channels at the places of `w`. */
static int sink_ok(const limits *l, const sink_ref *s, int32_t outputs, const window_ref *w) {
    if (!in_range(s->kind, SINK_NEURON, SINK_ADD) || !in_range(s->pooled, 0, 1)) return 0;
    if (!in_range(s->steps, 1, SVIT_MAX_STEPS) || s->width != w->out_width) return 0;
    const window_ref *pool = &s->pool;
    if (s->pooled && (!pool_ok(pool) || pool->channels != outputs ||
                      pool->height != w->out_height || pool->width != w->out_width))
        return 0;
    const int64_t elements = (s->pooled ? pixels_out(pool) : pixels_out(w)) * outputs;
    if (pixels_out(w) * outputs > MOST_ELEMENTS) return 0;
    if (s->kind == SINK_NEURON)
        return spikes_ok(l, &s->spikes) && neuron_ok(&s->neuron, &s->spikes) &&
               s->spikes.elements == elements && (s->steps == 1 || s->steps == s->spikes.steps);
    if (!values_ok(l, &s->values) || s->values.elements != elements || s->values.steps != s->steps)
        return 0;
    return s->kind == SINK_VALUES ||
           (values_ok(l, &s->other) && s->other.elements == elements &&
            (s->other.steps == 1 || s->other.steps == s->steps));
}

static int sparse_ok(const limits *l, const op_sparse *op) {
    const window_ref *w = &op->window;
    if (!spikes_ok(l, &op->input) || !window_ok(w)) return 0;
    if (pixels_in(w) * w->channels != op->input.elements || !in_range(op->outputs, 1, MOST_SIDE))
        return 0;
    /* Rows are numbered in 16 bits, and the entries of a record. */
    const int64_t rows = (int64_t)w->kernel_height * w->kernel_width * w->channels;
    const int64_t listed = op->tile ? rows : (int64_t)op->listed + MOST_UNCOUNTED;
    if (rows > UINT16_MAX || listed > UINT16_MAX - SVIT_RECORD_HEAD) return 0;
    if (!in_range(op->tile, 0, MOST_TILE) || op->listed < 0) return 0;
    if (op->set_bits != 1 && op->set_bits != 2 && op->set_bits != 4) return 0;
    const uint64_t outputs = (uint64_t)op->outputs;
    if (op->weights == WEIGHTS_INT4) {
        if (!in_range(op->group_rows, 1, UINT16_MAX)) return 0;
        const uint64_t groups = ((uint64_t)rows + (uint64_t)op->group_rows - 1) /
                                (uint64_t)op->group_rows;
        if (!data_ok(l, op->weights_offset, (uint64_t)rows * ((outputs + 1) / 2), 1)) return 0;
        if (!data_ok(l, op->multipliers_offset, groups * outputs, 1)) return 0;
    } else if (op->weights != WEIGHTS_INT8 || op->multipliers_offset != 0 ||
               !data_ok(l, op->weights_offset, (uint64_t)rows * outputs, 1)) {
        return 0;
    }
    if (!in_range(op->block_rows, 0, UINT16_MAX) || !in_range(op->together, 1, 255)) return 0;
    if (!in_range(op->gathered, 0, MOST_TILE)) return 0;
    if (op->gathered && svit_largest_count(&op->input) > PRODUCT_LARGEST) return 0;
    return data_ok(l, op->scale_offset, outputs, 4) && data_ok(l, op->bias_offset, outputs, 4) &&
           sink_ok(l, &op->sink, op->outputs, w) &&
           op->sink.steps == op->input.steps;
}

static int dense_ok(const limits *l, const op_dense *op) {
    const window_ref *w = &op->window;
    if (!window_ok(w) || !in_range(op->outputs, 1, MOST_SIDE)) return 0;
    if (!in_range(op->groups, 1, w->channels) || w->channels % op->groups ||
        op->outputs % op->groups)
        return 0;
    const int64_t elements = pixels_in(w) * w->channels;
    int32_t steps;
    if (op->input_is_spikes) {
        if (!spikes_ok(l, &op->spikes) || op->spikes.elements != elements) return 0;
        steps = op->spikes.steps;
    } else {
        if (!values_ok(l, &op->values) || op->values.elements != elements) return 0;
        steps = op->values.steps;
    }
    const uint64_t outputs = (uint64_t)op->outputs;
    const uint64_t weights = (uint64_t)w->kernel_height * (uint64_t)w->kernel_width *
                             (uint64_t)(w->channels / op->groups) * outputs;
    if (op->weights == WEIGHTS_INT8) {
        if (!data_ok(l, op->weights_offset, weights, 1) ||
            !data_ok(l, op->scale_offset, outputs, 4))
            return 0;
    } else if (op->weights != WEIGHTS_FLOAT || op->scale_offset != 0 ||
               !data_ok(l, op->weights_offset, weights, 4)) {
        return 0;
    }
    return data_ok(l, op->bias_offset, outputs, 4) && sink_ok(l, &op->sink, op->outputs, w) &&
           op->sink.steps == steps;
}

static int neuron_op_ok(const limits *l, const op_neuron *op) {
    return values_ok(l, &op->input) && spikes_ok(l, &op->output) &&
           neuron_ok(&op->neuron, &op->output) && op->input.elements == op->output.elements &&
           (op->input.steps == 1 || op->input.steps == op->output.steps);
}

static int pooled_elements_ok(const window_ref *w, int32_t input, int32_t output) {
    return pool_ok(w) && pixels_in(w) * w->channels == input &&
           pixels_out(w) * w->channels == output;
}

static int spike_pool_ok(const limits *l, const op_spike_pool *op) {
    return spikes_ok(l, &op->input) && spikes_ok(l, &op->output) &&
           same_form(&op->input, &op->output) && op->input.planes == op->output.planes &&
           (op->input.planes == 1 || !op->input.binary) &&
           pooled_elements_ok(&op->window, op->input.elements, op->output.elements);
}

static int value_pool_ok(const limits *l, const op_value_pool *op) {
    return values_ok(l, &op->input) && values_ok(l, &op->output) &&
           op->input.steps == op->output.steps &&
           pooled_elements_ok(&op->window, op->input.elements, op->output.elements);
}

/* Counts that can be added bit by bit. */
static int addable(const spikes_ref *s) { return s->planes == 1 || s->binary; }

static int spike_add_ok(const limits *l, const op_spike_add *op) {
    return spikes_ok(l, &op->a) && spikes_ok(l, &op->b) && spikes_ok(l, &op->output) &&
           same_form(&op->a, &op->b) && same_form(&op->a, &op->output) &&
           op->a.elements == op->output.elements && op->b.elements == op->output.elements &&
           addable(&op->a) && addable(&op->b) && addable(&op->output) &&
           op->output.step_bits == 1;
}

static int sizes_ok(int32_t rank, const int32_t *sizes) {
    if (!in_range(rank, 1, SVIT_MAX_RANK)) return 0;
    int64_t product = 1;
    for (int32_t axis = 0; axis < rank; axis++) {
        if (!in_range(sizes[axis], 1, MOST_ELEMENTS)) return 0;
        product *= sizes[axis];
        if (product > MOST_ELEMENTS) return 0;
    }
    return 1;
}

/* Whether base + index * strides, from axis `first` on, stays within 0..elements-1. */
static int strides_ok(int32_t base, const int32_t *strides, const int32_t *sizes, int32_t first,
                      int32_t rank, int64_t elements) {
    int64_t least = base, most = base;
    for (int32_t axis = first; axis < rank; axis++) {
        const int64_t reach = (int64_t)strides[axis] * (sizes[axis] - 1);
        if (reach < 0)
            least += reach;
        else
            most += reach;
        if (least < 0 || most >= elements) return 0;
    }
    return least >= 0 && most < elements;
}

static int operand_ok(const limits *l, const operand_ref *x, const int32_t *sizes, int32_t rank) {
    switch (x->kind) {
    case OPERAND_SCALAR: return 1;
    case OPERAND_VALUES:
        return values_ok(l, &x->values) &&
               strides_ok(x->base, x->strides, sizes, 0, rank,
                          (int64_t)x->values.steps * x->values.elements);
    case OPERAND_DATA:
        return in_range(x->values.elements, 1, MOST_ELEMENTS) &&
               data_ok(l, x->values.offset, (uint64_t)x->values.elements, 4) &&
               strides_ok(x->base, x->strides, sizes, 0, rank, x->values.elements);
    case OPERAND_SPIKES:
        return spikes_ok(l, &x->spikes) && sizes[0] <= x->spikes.steps &&
               strides_ok(x->base, x->strides, sizes, 1, rank, x->spikes.elements);
    default: return 0;
    }
}

static int elementwise_ok(const limits *l, const op_elementwise *op) {
    return in_range(op->function, ELEMENTWISE_ADD, ELEMENTWISE_MAX) &&
           sizes_ok(op->rank, op->sizes) && operand_ok(l, &op->a, op->sizes, op->rank) &&
           operand_ok(l, &op->b, op->sizes, op->rank) && op->output.kind == OPERAND_VALUES &&
           operand_ok(l, &op->output, op->sizes, op->rank);
}

static int spike_and_ok(const limits *l, const op_spike_and *op) {
    return spikes_ok(l, &op->a) && spikes_ok(l, &op->b) && spikes_ok(l, &op->output) &&
           same_form(&op->a, &op->b) && same_form(&op->a, &op->output) && op->a.planes == 1 &&
           op->b.planes == 1 && op->output.planes == 1 && op->a.step_bits == 1 &&
           sizes_ok(op->rank, op->sizes) &&
           strides_ok(op->base_a, op->strides_a, op->sizes, 0, op->rank, op->a.elements) &&
           strides_ok(op->base_b, op->strides_b, op->sizes, 0, op->rank, op->b.elements) &&
           strides_ok(op->base_output, op->strides_output, op->sizes, 0, op->rank,
                      op->output.elements);
}

static int reduce_ok(const limits *l, const op_reduce *op) {
    return in_range(op->function, REDUCE_SUM, REDUCE_MAX) && sizes_ok(op->rank, op->sizes) &&
           in_range(op->kept, 0, op->rank) && operand_ok(l, &op->input, op->sizes, op->rank) &&
           op->output.kind == OPERAND_VALUES &&
           operand_ok(l, &op->output, op->sizes, op->kept);
}

static int matmul_ok(const limits *l, const op_matmul *op) {
    return sizes_ok(op->rank, op->sizes) && op->rank >= 3 &&
           operand_ok(l, &op->a, op->sizes, op->rank) &&
           operand_ok(l, &op->b, op->sizes, op->rank) && op->output.kind == OPERAND_VALUES &&
           operand_ok(l, &op->output, op->sizes, op->rank - 1);
}

static int attention_ok(const limits *l, const op_attention *op) {
    const spikes_ref *const all[] = {&op->q, &op->k, &op->v, &op->output};
    for (size_t i = 0; i < 4; i++)
        if (!spikes_ok(l, all[i]) || !same_form(all[i], &op->output) || all[i]->planes != 1)
            return 0;
    if (op->output.groups != 1 || op->output.step_bits != 1) return 0;
    if (!in_range(op->positions, 1, UINT16_MAX) || !in_range(op->heads, 1, MOST_SIDE) ||
        !in_range(op->key_size, 1, MOST_SIDE) || !in_range(op->value_size, 1, MOST_SIDE))
        return 0;
    const int64_t keys = (int64_t)op->heads * op->key_size;
    const int64_t values = (int64_t)op->heads * op->value_size;
    if (keys > MOST_SIDE || values > MOST_SIDE) return 0;
    /* Sums of a chunk's steps are kept in 16 bits. */
    if (!in_range(op->chunk, 1, op->output.steps) || op->output.steps % op->chunk ||
        (int64_t)op->positions * op->chunk > UINT16_MAX)
        return 0;
    if (!in_range(op->windows, 1, MOST_WINDOWS) || !in_range(op->columns, 1, op->positions) ||
        op->positions % op->columns)
        return 0;
    const int64_t places = (int64_t)op->positions * op->windows * op->windows;
    return keys * places == op->q.elements && keys * places == op->k.elements &&
           values * places == op->v.elements && values * places == op->output.elements &&
           neuron_ok(&op->neuron, &op->output);
}

static int copy_ok(const limits *l, const op_copy *op) {
    if (!sizes_ok(op->rank, op->sizes) || !operand_ok(l, &op->input, op->sizes, op->rank) ||
        !operand_ok(l, &op->output, op->sizes, op->rank))
        return 0;
    if (op->output.kind == OPERAND_VALUES) return 1;
    return op->input.kind == OPERAND_SPIKES && op->output.kind == OPERAND_SPIKES &&
           op->sizes[0] == 1 && same_form(&op->input.spikes, &op->output.spikes) &&
           op->input.spikes.planes == op->output.spikes.planes;
}

static int pixels_op_ok(const limits *l, const op_pixels *op) {
    const window_ref *w = &op->window;
    const svit_header *h = l->pixels;
    if (!h || !window_ok(w) || !in_range(op->outputs, 1, MOST_SIDE)) return 0;
    if (w->channels != h->channels || w->height != h->height || w->width != h->width) return 0;
    if (w->dilation_y != 1 || w->dilation_x != 1 || w->kernel_height > SVIT_PIXEL_ROWS) return 0;
    /* Lines can be measured in 32 bits. */
    const int64_t pairs = ((int64_t)w->kernel_width * (w->channels + 1) + 1) / 2;
    const int64_t columns = (int64_t)(w->out_width - 1) * w->stride_x + w->kernel_width;
    if (w->kernel_height * pairs > INT16_MAX || columns * (w->channels + 1) >= MOST_ELEMENTS)
        return 0;
    const uint64_t outputs = (uint64_t)op->outputs;
    return data_ok(l, op->weights_offset, (uint64_t)(w->kernel_height * pairs) * outputs * 2, 2) &&
           data_ok(l, op->centre_offset, (uint64_t)w->channels, 1) &&
           data_ok(l, op->scale_offset, outputs, 4) && data_ok(l, op->bias_offset, outputs, 4) &&
           sink_ok(l, &op->sink, op->outputs, w) && op->sink.steps == 1;
}

size_t svit_record_bytes(int32_t kind) {
    static const size_t sizes[OP_KINDS] = {
        0,
        sizeof(op_sparse),
        sizeof(op_dense),
        sizeof(op_neuron),
        sizeof(op_spike_pool),
        sizeof(op_value_pool),
        sizeof(op_spike_add),
        sizeof(op_elementwise),
        sizeof(op_spike_and),
        sizeof(op_reduce),
        sizeof(op_matmul),
        sizeof(op_attention),
        sizeof(op_copy),
        sizeof(op_pixels),
    };
    return in_range(kind, OP_SPARSE, OP_KINDS - 1) ? sizes[kind] : 0;
}

static int operator_ok(const limits *l, const op_head *op) {
    const void *any = op;
    const size_t bytes = svit_record_bytes(op->kind);
    if (!bytes || (uint64_t)op->words * 4 != bytes) return 0;
    switch (op->kind) {
    case OP_SPARSE: return sparse_ok(l, any);
    case OP_DENSE: return dense_ok(l, any);
    case OP_NEURON: return neuron_op_ok(l, any);
    case OP_SPIKE_POOL: return spike_pool_ok(l, any);
    case OP_VALUE_POOL: return value_pool_ok(l, any);
    case OP_SPIKE_ADD: return spike_add_ok(l, any);
    case OP_ELEMENTWISE: return elementwise_ok(l, any);
    case OP_SPIKE_AND: return spike_and_ok(l, any);
    case OP_REDUCE: return reduce_ok(l, any);
    case OP_MATMUL: return matmul_ok(l, any);
    case OP_ATTENTION: return attention_ok(l, any);
    case OP_PIXELS: return pixels_op_ok(l, any);
    default: return copy_ok(l, any);
    }
}

uint64_t svit_scratch_bytes(const op_head *op) {
    const void *any = op;
    switch (op->kind) {
    case OP_SPARSE: {
        const uint64_t rows = svit_sparse_scratch(any), products = svit_products_scratch(any);
        return rows > products ? rows : products;
    }
    case OP_DENSE: return svit_dense_scratch(any);
    case OP_ATTENTION: return svit_attention_scratch(any);
    case OP_PIXELS: return svit_pixels_scratch(any);
    default: return 0;
    }
}

static int header_ok(const svit_header *h, limits *l) {
    const uint64_t file = h->file_bytes;
    if (h->data_offset % SVIT_ALIGNMENT || h->operators_offset < sizeof *h ||
        !within(h->data_offset, (uint64_t)h->data_bytes + SVIT_SLACK, file) ||
        h->arena_bytes < SVIT_SLACK || h->arena_bytes > INT32_MAX)
        return 0;
    if (h->scratch_bytes % SVIT_ALIGNMENT || h->scratch_bytes > h->arena_bytes ||
        h->arena_bytes % SVIT_ALIGNMENT)
        return 0;
    if (!in_range(h->frames, 0, SVIT_MAX_STEPS) ||
        !in_range(h->channels, 1, 8192) || !in_range(h->height, 1, 8192) ||
        !in_range(h->width, 1, 8192) || !in_range(h->classes, 1, MOST_SIDE) ||
        !in_range(h->takes_pixels, 0, SVIT_PIXELS_ALONE))
        return 0;
    if (h->early > SVIT_MAX_EARLY || h->early_offset % 4 ||
        !within(h->early_offset, h->early * (uint64_t)sizeof(svit_early), file))
        return 0;
    const int64_t size = (int64_t)h->channels * h->height * h->width;
    if (size > MOST_ELEMENTS) return 0;
    l->buffers = h->arena_bytes - SVIT_SLACK;
    l->data = h->data_bytes;
    l->scratch_bytes = h->scratch_bytes;
    l->scratch = l->scratch_end = 0;
    l->pixels = h->takes_pixels == SVIT_PIXELS_ALONE ? h : NULL;
    if (l->pixels) return !h->frames;
    return !h->takes_pixels ||
           (!h->frames && data_ok(l, h->mean_offset, 2 * (uint64_t)h->channels, 4));
}

/* The scratch memory of an operator that is valid otherwise lies in the arena, apart from all
 * buffers of the operator. */
static int scratch_ok(const limits *l, const op_head *op) {
    const uint64_t bytes = svit_scratch_bytes(op);
    if (bytes + SVIT_SLACK > l->scratch_bytes && bytes) return 0;
    if (op->scratch_offset < 0 || op->scratch_offset % SVIT_ALIGNMENT ||
        !within((uint64_t)op->scratch_offset, bytes, l->buffers))
        return 0;
    limits apart = *l;
    apart.scratch = (uint64_t)op->scratch_offset;
    apart.scratch_end = apart.scratch + bytes;
    return operator_ok(&apart, op);
}

/* A name ends within the data; short ones, so that many operators are checked in little time. */
static int name_ok(const limits *l, const uint8_t *data, int32_t offset) {
    if (offset < 0) return 0;
    for (uint64_t at = (uint64_t)offset; at < l->data && at < (uint64_t)offset + MOST_NAME; at++)
        if (data[at] == 0) return 1;
    return 0;
}

/* Where the sample and the logits of a stage are, and each of its operators. */
static int stage_ok(const limits *l, const svit_header *h, const svit_early *s) {
    const uint8_t *const file = (const uint8_t *)h;
    const int32_t size = h->channels * h->height * h->width;
    const values_ref input = {s->input_offset, h->frames ? h->frames : 1, size};
    const values_ref logits = {s->logits_offset, 1, h->classes};
    if (!values_ok(l, &logits) || (!l->pixels && !values_ok(l, &input))) return 0;
    if (s->operators_offset % 4 || !within(s->operators_offset, s->operators_bytes, h->file_bytes))
        return 0;
    uint64_t left = s->operators_bytes;
    const uint8_t *at = file + s->operators_offset;
    for (uint32_t i = 0; i < s->operators; i++) {
        const op_head *op = (const op_head *)(const void *)at;
        if (left < sizeof *op || op->words < 0 || (uint64_t)op->words * 4 > left) return 0;
        if (!operator_ok(l, op) || !in_range(op->observed, 0, MOST_SIDE) ||
            !name_ok(l, file + h->data_offset, op->name_offset) || !scratch_ok(l, op))
            return 0;
        at += (size_t)op->words * 4;
        left -= (uint64_t)op->words * 4;
    }
    return left == 0;
}

int svit_check(const svit_header *header) {
    limits l;
    if (!header_ok(header, &l)) return SVIT_ERROR_INVALID;
    int32_t timesteps = 0;
    for (uint32_t i = 0; i <= header->early; i++) {
        const svit_early stage = svit_stage_at(header, i);
        if (stage.timesteps <= timesteps || stage.timesteps > SVIT_MAX_STEPS)
            return SVIT_ERROR_INVALID; /* later stages take more */
        if (!stage_ok(&l, header, &stage)) return SVIT_ERROR_INVALID;
        timesteps = stage.timesteps;
    }
    return SVIT_OK;
}
