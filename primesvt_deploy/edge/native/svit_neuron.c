/* Neurons on real values, and how spikes are stored. */
#include <string.h>

#include "svit_internal.h"

fire_task svit_fire_task(const neuron_ref *neuron, const spikes_ref *spikes, uint8_t *patterns) {
    fire_task task = {0};
    task.neuron = neuron;
    task.planes = spikes->planes;
    task.step_bits = spikes->step_bits;
    task.steps_per_byte = spikes->steps_per_group;
    task.bytes = spikes->groups * spikes->planes;
    task.steps = spikes->steps;
    task.patterns = patterns;
    task.patterns_pitch = (size_t)spikes->elements;
    return task;
}

void svit_run_neuron(const run_state *run, const op_neuron *op) {
    int32_t first, end;
    share_of(run, op->input.elements, &first, &end);
    fire_task task =
        svit_fire_task(&op->neuron, &op->output, run->arena + op->output.offset + first);
    task.pitch = (size_t)op->input.elements;
    task.size = end - first;
    task.is_static = op->input.steps == 1;
    run->kernels->fire_float(&task, floats_at(run, op->input.offset) + first);
}

static int32_t ones(uint32_t bits) {
    int32_t count = 0;
    for (; bits; bits &= bits - 1) count++;
    return count;
}

int32_t svit_largest_count(const spikes_ref *spikes) {
    return spikes->binary ? (1 << spikes->planes) - 1 : spikes->planes * spikes->step_bits;
}

int32_t svit_count(const spikes_ref *spikes, const uint8_t *bytes, int32_t step, int32_t element) {
    const int32_t group = step / spikes->steps_per_group;
    const int32_t shift = step % spikes->steps_per_group * spikes->step_bits;
    const uint32_t mask = (1u << spikes->step_bits) - 1;
    int32_t count = 0;
    for (int32_t plane = 0; plane < spikes->planes; plane++) {
        const size_t at = (size_t)(group * spikes->planes + plane) * (size_t)spikes->elements;
        const int32_t fired = ones((uint32_t)bytes[at + (size_t)element] >> shift & mask);
        count += spikes->binary ? fired << plane : fired;
    }
    return count;
}

static int32_t max_of(int32_t a, int32_t b) { return a > b ? a : b; }
static int32_t min_of(int32_t a, int32_t b) { return a < b ? a : b; }

#define CHUNK 64

/* Spikes of some channels, at most CHUNK, that fire anywhere in a window at (y, x). */
static void unite(const window_ref *w, const uint8_t *from, int32_t y, int32_t x, int32_t channels,
                  uint8_t *to) {
    const int32_t top = y * w->stride_y - w->pad_top, left = x * w->stride_x - w->pad_left;
    const int32_t bottom = min_of(top + w->kernel_height, w->height);
    const int32_t right = min_of(left + w->kernel_width, w->width);
    uint8_t fired[CHUNK] = {0};
    for (int32_t row = max_of(top, 0); row < bottom; row++)
        for (int32_t column = max_of(left, 0); column < right; column++) {
            const uint8_t *p = from + (size_t)(row * w->width + column) * (size_t)w->channels;
            if (channels == CHUNK) /* which compilers know to do at once */
                for (int32_t c = 0; c < CHUNK; c++) fired[c] |= p[c];
            else
                for (int32_t c = 0; c < channels; c++) fired[c] |= p[c];
        }
    memcpy(to, fired, (size_t)channels);
}

/* Maxima of spikes: of planes in unary the largest count is the union of the bits. */
void svit_run_spike_pool(const run_state *run, const op_spike_pool *op) {
    const window_ref *w = &op->window;
    const int32_t planes = op->input.groups * op->input.planes;
    int32_t first, end;
    share_of(run, w->out_height, &first, &end);
    const size_t skipped = (size_t)first * (size_t)w->out_width * (size_t)w->channels;
    for (int32_t plane = 0; plane < planes; plane++) {
        const uint8_t *from =
            run->arena + op->input.offset + (size_t)plane * (size_t)op->input.elements;
        uint8_t *to = run->arena + op->output.offset +
                      (size_t)plane * (size_t)op->output.elements + skipped;
        for (int32_t y = first; y < end; y++)
            for (int32_t x = 0; x < w->out_width; x++, to += w->channels)
                for (int32_t c = 0; c < w->channels; c += CHUNK)
                    unite(w, from + c, y, x, min_of(w->channels - c, CHUNK), to + c);
    }
}

void svit_run_value_pool(const run_state *run, const op_value_pool *op) {
    const window_ref *w = &op->window;
    int32_t first_row, end_row;
    share_of(run, w->out_height, &first_row, &end_row);
    const size_t skipped = (size_t)first_row * (size_t)w->out_width * (size_t)w->channels;
    for (int32_t t = 0; t < op->output.steps; t++) {
        const float *from =
            floats_at(run, op->input.offset) + (size_t)t * (size_t)op->input.elements;
        float *to = floats_at(run, op->output.offset) + (size_t)t * (size_t)op->output.elements +
                    skipped;
        for (int32_t y = first_row; y < end_row; y++)
            for (int32_t x = 0; x < w->out_width; x++, to += w->channels) {
                const int32_t top = y * w->stride_y - w->pad_top, left = x * w->stride_x - w->pad_left;
                int first = 1;
                for (int32_t row = max_of(top, 0);
                     row < min_of(top + w->kernel_height, w->height); row++)
                    for (int32_t column = max_of(left, 0);
                         column < min_of(left + w->kernel_width, w->width); column++) {
                        const float *p =
                            from + (size_t)(row * w->width + column) * (size_t)w->channels;
                        for (int32_t c = 0; c < w->channels; c++)
                            to[c] = first || p[c] > to[c] ? p[c] : to[c];
                        first = 0;
                    }
            }
    }
}

/* Add `count` counts of two operands, bit by bit: a plane of the sum is what an odd number of both
 * planes and the carry have, and two of the three are carried on. */
static void add_chunk(const spikes_ref *a, const spikes_ref *b, const spikes_ref *sum,
                      const uint8_t *from_a, const uint8_t *from_b, uint8_t *to, size_t count) {
    const size_t size = (size_t)sum->elements;
    uint8_t carry[CHUNK] = {0};
    static const uint8_t zeros[CHUNK] = {0};
    for (int32_t plane = 0; plane < sum->planes; plane++) {
        const uint8_t *x = plane < a->planes ? from_a + (size_t)plane * size : zeros;
        const uint8_t *y = plane < b->planes ? from_b + (size_t)plane * size : zeros;
        uint8_t *total = to + (size_t)plane * size;
        for (size_t i = 0; i < count; i++) {
            const uint8_t first = x[i], second = y[i], carried = carry[i];
            total[i] = first ^ second ^ carried;
            carry[i] = (uint8_t)((first & second) | (carried & (first ^ second)));
        }
    }
}

void svit_run_spike_add(const run_state *run, const op_spike_add *op) {
    const size_t size = (size_t)op->output.elements;
    for (int32_t group = 0; group < op->output.groups; group++) {
        uint8_t *to =
            run->arena + op->output.offset + (size_t)(group * op->output.planes) * size;
        const uint8_t *a = run->arena + op->a.offset + (size_t)(group * op->a.planes) * size;
        const uint8_t *b = run->arena + op->b.offset + (size_t)(group * op->b.planes) * size;
        int32_t first, end;
        share_of(run, op->output.elements / CHUNK + 1, &first, &end);
        for (size_t at = (size_t)first * CHUNK; at < size && at < (size_t)end * CHUNK; at += CHUNK)
            add_chunk(&op->a, &op->b, &op->output, a + at, b + at, to + at,
                      size - at < CHUNK ? size - at : CHUNK);
    }
}
