/* Operators on tensors with axes: arithmetic, reductions, products, copies. Axis 0 is time.
 *
 * They are what a network does besides its layers, on few values, so that they are general rather
 * than fast. Only sums of real streams, element by element, are large (`add_streams`).
 */
#include <string.h>

#include "svit_internal.h"

typedef struct place {
    int32_t index[SVIT_MAX_RANK];
} place;

static int32_t address(const operand_ref *x, const place *p, int32_t rank) {
    int32_t at = x->base;
    for (int32_t axis = x->kind == OPERAND_SPIKES; axis < rank; axis++)
        at += p->index[axis] * x->strides[axis];
    return at;
}

static float value_of(const run_state *run, const operand_ref *x, const place *p, int32_t rank) {
    if (x->kind == OPERAND_SCALAR) return x->unit;
    const int32_t at = address(x, p, rank);
    if (x->kind == OPERAND_VALUES) return floats_at(run, x->values.offset)[at];
    if (x->kind == OPERAND_DATA)
        return ((const float *)(const void *)(run->data + x->values.offset))[at];
    return (float)svit_count(&x->spikes, run->arena + x->spikes.offset, p->index[0], at) * x->unit;
}

/* Move to the next place among the first `rank` axes; 0 after the last one. */
static int next(place *p, const int32_t *sizes, int32_t rank) {
    for (int32_t axis = rank - 1; axis >= 0; axis--) {
        if (++p->index[axis] < sizes[axis]) return 1;
        p->index[axis] = 0;
    }
    return 0;
}

static float combine(int32_t function, float a, float b) {
    switch (function) {
    case ELEMENTWISE_ADD: return a + b;
    case ELEMENTWISE_SUB: return a - b;
    case ELEMENTWISE_MUL: return a * b;
    case ELEMENTWISE_DIV: return a / b;
    case ELEMENTWISE_MAX: return a > b ? a : b;
    default: return a;
    }
}

void svit_run_elementwise(const run_state *run, const op_elementwise *op) {
    place p = {{0}};
    float *to = floats_at(run, op->output.values.offset);
    do {
        const float a = value_of(run, &op->a, &p, op->rank);
        const float b = value_of(run, &op->b, &p, op->rank);
        to[address(&op->output, &p, op->rank)] = combine(op->function, a, b);
    } while (next(&p, op->sizes, op->rank));
}

void svit_run_copy(const run_state *run, const op_copy *op) {
    place p = {{0}};
    if (op->output.kind == OPERAND_VALUES) {
        float *to = floats_at(run, op->output.values.offset);
        do to[address(&op->output, &p, op->rank)] = value_of(run, &op->input, &p, op->rank);
        while (next(&p, op->sizes, op->rank));
        return;
    }
    /* Bytes of spikes: axis 0, which is time, has size 1. */
    const int32_t planes = op->input.spikes.groups * op->input.spikes.planes;
    const uint8_t *from = run->arena + op->input.spikes.offset;
    uint8_t *to = run->arena + op->output.spikes.offset;
    for (int32_t plane = 0; plane < planes; plane++) {
        do to[address(&op->output, &p, op->rank)] = from[address(&op->input, &p, op->rank)];
        while (next(&p, op->sizes, op->rank));
        from += op->input.spikes.elements;
        to += op->output.spikes.elements;
    }
}

/* Products along an axis, where bytes of `b` lie side by side or are one alone. */
static void and_run(const uint8_t *a, const uint8_t *b, int32_t step, uint8_t *to, int32_t n) {
    const uint8_t alone = *b;
    if (step)
        for (int32_t i = 0; i < n; i++) to[i] = a[i] & b[i];
    else
        for (int32_t i = 0; i < n; i++) to[i] = a[i] & alone;
}

void svit_run_spike_and(const run_state *run, const op_spike_and *op) {
    int32_t inner = op->rank - 1; /* the axis along which the output's bytes lie side by side */
    while (inner > 0 && op->strides_output[inner] != 1) inner--;
    const int32_t n = op->sizes[inner];
    const int32_t step_a = op->strides_a[inner], step_b = op->strides_b[inner];
    const int is_side_by_side = op->strides_output[inner] == 1;
    const int is_run = is_side_by_side && step_a == 1 && (step_b & 1) == step_b;
    const int is_other = is_side_by_side && step_b == 1 && step_a == 0;
    int32_t sizes[SVIT_MAX_RANK];
    memcpy(sizes, op->sizes, sizeof sizes);
    if (is_run || is_other) sizes[inner] = 1;
    for (int32_t group = 0; group < op->output.groups; group++) {
        const uint8_t *a =
            run->arena + op->a.offset + (size_t)group * (size_t)op->a.elements;
        const uint8_t *b =
            run->arena + op->b.offset + (size_t)group * (size_t)op->b.elements;
        uint8_t *to =
            run->arena + op->output.offset + (size_t)group * (size_t)op->output.elements;
        place p = {{0}};
        do {
            int32_t at_a = op->base_a, at_b = op->base_b, at = op->base_output;
            for (int32_t axis = 0; axis < op->rank; axis++) {
                at_a += p.index[axis] * op->strides_a[axis];
                at_b += p.index[axis] * op->strides_b[axis];
                at += p.index[axis] * op->strides_output[axis];
            }
            if (is_run)
                and_run(a + at_a, b + at_b, step_b, to + at, n);
            else if (is_other)
                and_run(b + at_b, a + at_a, 0, to + at, n);
            else
                to[at] = a[at_a] & b[at_b];
        } while (next(&p, sizes, op->rank));
    }
}

/* Whether products with a number are exact, so that the order of adding does not matter. */
static int is_power_of_two(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits & 0x7fffff) == 0 && bits >> 23 > 0 && bits >> 23 < 255;
}

/* Whether an operator sums counts over positions: [steps, channels] of [steps, channels, places],
 * channels last. Their unit is a power of two, so that the order of adding does not matter. */
static int sums_positions(const op_reduce *op) {
    const operand_ref *x = &op->input;
    if (x->kind != OPERAND_SPIKES || op->kept != 2 || op->function == REDUCE_MAX) return 0;
    if (!is_power_of_two(x->unit)) return 0;
    int64_t places = 1;
    for (int32_t axis = op->rank - 1; axis >= 2; axis--) {
        if (x->strides[axis] != places * op->sizes[1]) return 0;
        places *= op->sizes[axis];
    }
    return x->base == 0 && x->strides[1] == 1 && places < UINT16_MAX &&
           op->sizes[0] == x->spikes.steps && places * op->sizes[1] == x->spikes.elements;
}

#define COLUMNS 64

static void sum_positions(const run_state *run, const op_reduce *op) {
    const spikes_ref *spikes = &op->input.spikes;
    const int32_t channels = op->sizes[1], places = spikes->elements / channels;
    float *to = floats_at(run, op->output.values.offset);
    const size_t size = (size_t)spikes->elements;
    for (int32_t t = 0; t < op->sizes[0]; t++)
        for (int32_t at = 0; at < channels; at += COLUMNS) {
            const int32_t count = channels - at < COLUMNS ? channels - at : COLUMNS;
            int32_t totals[COLUMNS] = {0};
            const int32_t group = t / spikes->steps_per_group;
            const int32_t bit = t % spikes->steps_per_group * spikes->step_bits;
            for (int32_t plane = 0; plane < spikes->planes; plane++)
                for (int32_t b = 0; b < spikes->step_bits; b++) {
                    uint16_t sums[COLUMNS] = {0};
                    const uint8_t *bytes = run->arena + spikes->offset +
                                           (size_t)(group * spikes->planes + plane) * size + at;
                    run->kernels->count_bits(bytes, (size_t)channels, places, bit + b, count, sums);
                    const int32_t shift = spikes->binary ? plane : 0;
                    for (int32_t c = 0; c < count; c++) totals[c] += sums[c] << shift;
                }
            for (int32_t c = 0; c < count; c++) {
                const float total = (float)totals[c] * op->input.unit;
                const place p = {{t, at + c}};
                to[address(&op->output, &p, 2)] =
                    op->function == REDUCE_MEAN ? total / (float)places : total;
            }
        }
}

/* Whether an operator sums counts over the last axis, whose elements lie side by side. */
static int sums_runs(const op_reduce *op) {
    const operand_ref *x = &op->input;
    return x->kind == OPERAND_SPIKES && op->function == REDUCE_SUM && op->kept >= 1 &&
           op->rank - op->kept == 1 && x->strides[op->kept] == 1 && is_power_of_two(x->unit);
}

/* Bits of `mask` in `n` bytes. */
static uint32_t bits_in(const uint8_t *bytes, int32_t n, uint32_t mask) {
    const uint64_t masks = mask * UINT64_C(0x0101010101010101);
    uint32_t count = 0;
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t word;
        memcpy(&word, bytes + i, sizeof word);
        count += (uint32_t)__builtin_popcountll(word & masks);
    }
    for (; i < n; i++) count += (uint32_t)__builtin_popcount(bytes[i] & mask);
    return count;
}

static void sum_runs(const run_state *run, const op_reduce *op) {
    const spikes_ref *spikes = &op->input.spikes;
    float *to = floats_at(run, op->output.values.offset);
    place p = {{0}};
    do {
        const int32_t t = p.index[0], at = address(&op->input, &p, op->kept);
        const uint32_t one = (1u << spikes->step_bits) - 1;
        const uint32_t mask = one << t % spikes->steps_per_group * spikes->step_bits;
        const int32_t first = t / spikes->steps_per_group * spikes->planes;
        int64_t total = 0;
        for (int32_t plane = 0; plane < spikes->planes; plane++) {
            const size_t skipped = (size_t)(first + plane) * (size_t)spikes->elements;
            const uint8_t *bytes = run->arena + spikes->offset + skipped + at;
            const int64_t fired = bits_in(bytes, op->sizes[op->kept], mask);
            total += fired << (spikes->binary ? plane : 0);
        }
        to[address(&op->output, &p, op->kept)] = (float)total * op->input.unit;
    } while (next(&p, op->sizes, op->kept));
}

void svit_run_reduce(const run_state *run, const op_reduce *op) {
    if (sums_runs(op)) {
        sum_runs(run, op);
        return;
    }
    if (sums_positions(op)) {
        sum_positions(run, op);
        return;
    }
    float *to = floats_at(run, op->output.values.offset);
    int32_t terms = 1;
    for (int32_t axis = op->kept; axis < op->rank; axis++) terms *= op->sizes[axis];
    place p = {{0}};
    for (int32_t more = 1; more;) {
        /* `next` leaves the reduced axes at zero when it moves on among the others. */
        float total = 0.0f;
        int first = 1;
        do {
            const float x = value_of(run, &op->input, &p, op->rank);
            total = first                              ? x
                    : op->function == REDUCE_MAX ? (x > total ? x : total)
                                                       : total + x;
            first = 0;
            int32_t axis = op->rank - 1;
            for (; axis >= op->kept; axis--) {
                if (++p.index[axis] < op->sizes[axis]) break;
                p.index[axis] = 0;
            }
            more = axis >= op->kept;
        } while (more);
        if (op->function == REDUCE_MEAN) total /= (float)terms;
        to[address(&op->output, &p, op->kept)] = total;
        more = next(&p, op->sizes, op->kept);
    }
}

void svit_run_matmul(const run_state *run, const op_matmul *op) {
    const int32_t last = op->rank - 1; /* the axis that is summed over */
    float *to = floats_at(run, op->output.values.offset);
    place p = {{0}};
    do {
        float total = 0.0f;
        for (p.index[last] = 0; p.index[last] < op->sizes[last]; p.index[last]++) {
            const float a = value_of(run, &op->a, &p, op->rank);
            if (a == 0.0f) continue;
            const float product = a * value_of(run, &op->b, &p, op->rank);
            total += product;
        }
        p.index[last] = 0;
        to[address(&op->output, &p, last)] = total;
    } while (next(&p, op->sizes, last));
}
