/* Convolutions of spikes whose inputs fire so often that all products take less time than adding the
 * weight rows of active inputs, plane by plane: counts of a residual stream, mostly.
 *
 * Counts of a tile of positions are gathered from their planes, window by window and step by step;
 * weights are packed a few rows at a time, so that one instruction multiplies four inputs.
 */
#include "svit_products.h"

#include <string.h>

#include "svit_internal.h"
#include "svit_sink.h"

#if !defined(SVIT_ONLY_ROWS)

#define PACKED_INPUTS 128 /* whose weights are packed at a time */
#define TURNS 4 /* of each part of a run */

typedef struct products_layout {
    int32_t inputs;  /* of a window, filled up to whole quads */
    int32_t windows; /* of a tile: one for each position and step */
    uint64_t packed_at, sums_at, sink_at, bytes;
} products_layout;

static uint64_t aligned(uint64_t bytes) {
    return (bytes + SVIT_ALIGNMENT - 1) / SVIT_ALIGNMENT * SVIT_ALIGNMENT;
}

static int32_t rounded(int32_t n, int32_t to) { return (n + to - 1) / to * to; }

static int32_t rows_of(const window_ref *w) {
    return w->kernel_height * w->kernel_width * w->channels;
}

static products_layout layout_of(const op_sparse *op) {
    products_layout l;
    l.inputs = rounded(rows_of(&op->window), 4 * PRODUCT_QUADS);
    l.windows = rounded(op->gathered * op->input.steps, PRODUCT_WINDOWS);
    l.packed_at = aligned((uint64_t)l.windows * (uint64_t)l.inputs);
    const int32_t packed = l.inputs < PACKED_INPUTS ? l.inputs : PACKED_INPUTS;
    l.sums_at = l.packed_at + (uint64_t)packed * PRODUCT_COLUMNS;
    l.sink_at = l.sums_at + (uint64_t)l.windows * PRODUCT_COLUMNS * sizeof(int32_t);
    l.bytes = l.sink_at + svit_sink_scratch(&op->sink, PRODUCT_COLUMNS, padded(op->outputs),
                                            CURRENT_INT32);
    return l;
}

uint64_t svit_products_scratch(const op_sparse *op) {
    return op->gathered ? layout_of(op).bytes : 0;
}

/* -- Counts ------------------------------------------------------------------------------------ */

/* Gather the counts of `n` inputs that lie side by side, step by step a window further. */
static void gather(const spikes_ref *from, const uint8_t *bytes, int32_t n, uint8_t *counts,
                   size_t pitch) {
    for (int32_t t = 0; t < from->steps; t++, counts += pitch) {
        const int32_t group = t / from->steps_per_group;
        const int32_t shift = t % from->steps_per_group * from->step_bits;
        int is_first = 1;
        for (int32_t plane = 0; plane < from->planes; plane++) {
            const uint8_t *const fired =
                bytes + (size_t)(group * from->planes + plane) * (size_t)from->elements;
            const uint8_t each = (uint8_t)(from->binary ? 1u << plane : 1u);
            for (int32_t bit = 0; bit < from->step_bits; bit++) {
                const uint8_t mask = (uint8_t)(1u << (shift + bit));
                for (int32_t i = 0; i < n; i++) {
                    const uint8_t before = is_first ? 0 : counts[i];
                    counts[i] = (uint8_t)(before + (fired[i] & mask ? each : 0));
                }
                is_first = 0;
            }
        }
    }
}

/* Gather the counts of a window, of all steps. */
static void gather_window(const run_state *run, const op_sparse *op, int32_t position,
                          uint8_t *counts, size_t pitch) {
    const window_ref *w = &op->window;
    const uint8_t *bytes = run->arena + op->input.offset;
    const int32_t top = position / w->out_width * w->stride_y - w->pad_top;
    const int32_t left = position % w->out_width * w->stride_x - w->pad_left;
    for (int32_t ky = 0; ky < w->kernel_height; ky++)
        for (int32_t kx = 0; kx < w->kernel_width; kx++, counts += w->channels) {
            const int32_t row = top + ky * w->dilation_y, column = left + kx * w->dilation_x;
            if (row >= 0 && row < w->height && column >= 0 && column < w->width) {
                const size_t pixel = (size_t)row * (size_t)w->width + (size_t)column;
                gather(&op->input, bytes + pixel * (size_t)w->channels, w->channels, counts, pitch);
                continue;
            }
            for (int32_t t = 0; t < op->input.steps; t++)
                memset(counts + (size_t)t * pitch, 0, (size_t)w->channels);
        }
}

/* -- Weights ----------------------------------------------------------------------------------- */

/* Pack four weight rows, of which the last one stands for those that do not exist. */
static void pack_quad(const int8_t *rows[4], int8_t *packed) {
    for (int32_t n = 0; n < PRODUCT_COLUMNS; n++)
        for (int32_t j = 0; j < 4; j++) packed[4 * n + j] = rows[j][n];
}

/* Pack the rows from `first` to `end`, columns from `from` on. */
static void pack(const int8_t *from, size_t stride, int32_t rows, int32_t first, int32_t end,
                 int8_t *packed) {
    for (int32_t row = first; row < end; row += 4, packed += 4 * PRODUCT_COLUMNS) {
        const int8_t *four[4];
        for (int32_t j = 0; j < 4; j++) /* counts of inputs that do not exist are zero */
            four[j] = from + (size_t)(row + j < rows ? row + j : rows - 1) * stride;
        pack_quad(four, packed);
    }
}

/* -- A layer ----------------------------------------------------------------------------------- */

typedef struct layer {
    const run_state *run;
    const op_sparse *op;
    const svit_products *kernel;
    products_layout layout;
    const int8_t *rows;
    int32_t together;
    uint8_t *counts;
    int8_t *packed;
    int32_t *sums;
} layer;

/* Quads whose sums of two products fit 16 bits together. */
static int32_t together_of(const op_sparse *op) {
    return INT16_MAX / (2 * -INT8_MIN * svit_largest_count(&op->input));
}

static const svit_products *products_of(const run_state *run) {
    return run->kernels->products ? run->kernels->products() : NULL;
}

static layer begin_layer(const run_state *run, const op_sparse *op) {
    layer l = {run, op, products_of(run), layout_of(op), NULL, 0, run->scratch, NULL, NULL};
    l.rows = run->unpacked ? run->unpacked : (const int8_t *)(run->data + op->weights_offset);
    l.together = together_of(op);
    l.packed = (int8_t *)(run->scratch + l.layout.packed_at);
    l.sums = (int32_t *)(void *)(run->scratch + l.layout.sums_at);
    /* Windows and inputs that fill up whole numbers of them. */
    memset(l.counts, 0, (size_t)l.layout.windows * (size_t)l.layout.inputs);
    return l;
}

/* Sums of windows whose counts are gathered, of outputs from `first` on. */
static void sum_products(const layer *l, int32_t windows, int32_t first) {
    const int32_t inputs = l->layout.inputs;
    product_task task = {l->counts, (size_t)inputs, rounded(windows, PRODUCT_WINDOWS), 0,
                         l->packed, l->together, l->sums};
    memset(l->sums, 0, (size_t)task.windows * PRODUCT_COLUMNS * sizeof *l->sums);
    for (int32_t at = 0; at < inputs; at += PACKED_INPUTS, task.counts += PACKED_INPUTS) {
        const int32_t end = at + PACKED_INPUTS < inputs ? at + PACKED_INPUTS : inputs;
        pack(l->rows + first, (size_t)l->op->outputs, rows_of(&l->op->window), at, end, l->packed);
        task.quads = (end - at) / 4;
        l->kernel->sum(&task);
    }
}

static void run_tile(const layer *l, const sink *sink, int32_t begin, int32_t count) {
    const op_sparse *op = l->op;
    const int32_t steps = op->input.steps, width = op->window.out_width;
    const size_t pitch = (size_t)l->layout.inputs;
    for (int32_t i = 0; i < count; i++)
        gather_window(l->run, op, begin + i, l->counts + (size_t)(i * steps) * pitch, pitch);
    for (int32_t first = 0; first < op->outputs; first += PRODUCT_COLUMNS) {
        const int32_t left = op->outputs - first;
        sum_products(l, count * steps, first);
        for (int32_t i = 0; i < count; i++)
            svit_sink_position(sink, (begin + i) / width, (begin + i) % width,
                               l->sums + (size_t)(i * steps) * PRODUCT_COLUMNS, first,
                               left < PRODUCT_COLUMNS ? left : PRODUCT_COLUMNS);
    }
}

#define SAMPLED 64 /* bytes of so many times four that are looked at */
#define SAMPLED_ONCE 127

/* Nibbles of the input's bytes that are not zero: a weight row is added for each. They are counted
 * in a quarter of the bytes. */
static int64_t active_nibbles(const run_state *run, const op_sparse *op) {
    const spikes_ref *s = &op->input;
    const uint8_t *bytes = run->arena + s->offset;
    const int64_t size = (int64_t)s->groups * s->planes * s->elements;
    int64_t active = 0, at = 0;
    while (at + SAMPLED <= size) {
        uint8_t counts[SAMPLED] = {0};
        for (int i = 0; i < SAMPLED_ONCE && at + SAMPLED <= size; i++, at += 4 * SAMPLED)
            for (int k = 0; k < SAMPLED; k++)
                counts[k] = (uint8_t)(counts[k] + (bytes[at + k] & 15 ? 1 : 0) +
                                      (bytes[at + k] > 15 ? 1 : 0));
        for (int k = 0; k < SAMPLED; k++) active += counts[k];
    }
    return 4 * active;
}

int svit_takes_products(const run_state *run, const op_sparse *op) {
    const svit_products *kernel = products_of(run);
    if (!kernel || !op->gathered || (op->weights == WEIGHTS_INT4 && !run->unpacked)) return 0;
#if defined(SVIT_TAKES_PRODUCTS) /* for tests: 1 or 0 */
    return SVIT_TAKES_PRODUCTS;
#endif
    const window_ref *w = &op->window;
    const int64_t taps = (int64_t)w->kernel_height * w->kernel_width;
    const int64_t blocks = (op->outputs + PRODUCT_COLUMNS - 1) / PRODUCT_COLUMNS;
    const int64_t windows = (int64_t)w->out_height * w->out_width * op->input.steps;
    const int64_t each = kernel->product_cost + kernel->widen_cost / together_of(op);
    const int64_t products = windows * rows_of(w) * (blocks * each + kernel->gather_cost);
    const int64_t rows = active_nibbles(run, op) * taps / ((int64_t)w->stride_y * w->stride_x);
    const int64_t most = (int64_t)w->out_height * w->out_width * op->input.groups *
                         op->input.planes * (SVIT_PATTERNS - 1);
    const int64_t lists = rows < most ? rows : most;
    return products < rows * (blocks * 100 + kernel->row_cost) + lists * kernel->list_cost;
}

void svit_run_products(const run_state *run, const op_sparse *op) {
    const layer l = begin_layer(run, op);
    if (!l.kernel) return; /* nobody calls this then */
    sink sink = svit_sink(run, &op->sink, run->scratch + l.layout.sink_at, op->outputs,
                          PRODUCT_COLUMNS, CURRENT_INT32);
    sink.scale = (const float *)(const void *)(run->data + op->scale_offset);
    sink.bias = (const float *)(const void *)(run->data + op->bias_offset);
    const int32_t turns = run->parts > 1 ? TURNS : 1;
    for (int32_t turn = 0; turn < turns; turn++) {
        int32_t begin, end;
        svit_sink_positions(&sink, &op->window, turn, turns, &begin, &end);
        for (int32_t at = begin; at < end; at += op->gathered)
            run_tile(&l, &sink, at, end - at < op->gathered ? end - at : op->gathered);
    }
}
#else /* microcontrollers have neither the instructions nor the memory */
uint64_t svit_products_scratch(const op_sparse *op) {
    (void)op;
    return 0;
}

int svit_takes_products(const run_state *run, const op_sparse *op) {
    (void)run;
    (void)op;
    return 0;
}

void svit_run_products(const run_state *run, const op_sparse *op) {
    (void)run;
    (void)op;
}
#endif
