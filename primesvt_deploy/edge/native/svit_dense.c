/* Convolutions in float: of real values, or of spikes in separate groups of channels. */
#include <string.h>

#include "svit_internal.h"
#include "svit_sink.h"

size_t svit_dense_scratch(const op_dense *op) {
    return (size_t)op->sink.steps * padded(op->outputs) * sizeof(float) +
           svit_sink_scratch(&op->sink, op->outputs, 1);
}

/* Add one input channel of a pixel, times its weights, to the outputs of its group. */
static void add_channel(const run_state *run, const op_dense *op, float *sums, int32_t row,
                        int32_t first, int32_t count, float x) {
    const size_t at = (size_t)row * (size_t)op->outputs + (size_t)first;
    const uint8_t *weights = run->data + op->weights_offset;
    if (op->weights == WEIGHTS_INT8)
        run->kernels->add_scaled_int8(sums + first, (const int8_t *)weights + at, x, count);
    else
        run->kernels->add_scaled(sums + first, (const float *)(const void *)weights + at, x, count);
}

/* The same for every channel of a pixel where each has outputs of its own. */
static void add_channelwise(const run_state *run, const op_dense *op, float *sums, int32_t row,
                            const float *x) {
    const int32_t each = op->outputs / op->groups;
    const size_t at = (size_t)row * (size_t)op->outputs;
    const uint8_t *weights = run->data + op->weights_offset;
    const float *real = (const float *)(const void *)weights + at;
    const int8_t *whole = (const int8_t *)weights + at;
    for (int32_t n = 0; n < op->outputs; n++) {
        const float weight = op->weights == WEIGHTS_INT8 ? (float)whole[n] : real[n];
        const float product = weight * x[each == 1 ? n : n / each];
        sums[n] += product;
    }
}

static void add_pixel(const run_state *run, const op_dense *op, float *currents, int32_t tap,
                      int32_t pixel) {
    const int32_t channels = op->window.channels, each = channels / op->groups;
    const int32_t outputs = op->outputs / op->groups;
    const size_t at = (size_t)pixel * (size_t)channels;
    const uint8_t *bytes = run->arena + op->spikes.offset;
    const size_t pitch = padded(op->outputs);
    for (int32_t t = 0; t < op->sink.steps; t++) {
        float *sums = currents + (size_t)t * pitch;
        const size_t step =
            op->values.steps == 1 ? 0 : (size_t)t * (size_t)op->values.elements;
        const float *x = floats_at(run, op->values.offset) + step + at;
        if (!op->input_is_spikes && each == 1) {
            add_channelwise(run, op, sums, tap, x);
            continue;
        }
        for (int32_t c = 0; c < channels; c++) {
            float value;
            if (op->input_is_spikes)
                value = (float)svit_count(&op->spikes, bytes, t, (int32_t)at + c) * op->unit;
            else
                value = x[c];
            if (value == 0.0f) continue;
            add_channel(run, op, sums, tap * each + c % each, c / each * outputs, outputs, value);
        }
    }
}

/* Scale integer weights and add the bias. */
static void finish(const run_state *run, const op_dense *op, float *sums) {
    const float *scale = (const float *)(const void *)(run->data + op->scale_offset);
    const float *bias = (const float *)(const void *)(run->data + op->bias_offset);
    for (int32_t n = 0; n < op->outputs; n++) {
        if (op->weights == WEIGHTS_INT8) sums[n] *= scale[n];
        sums[n] += bias[n];
    }
}

void svit_run_dense(const run_state *run, const op_dense *op) {
    const window_ref *w = &op->window;
    const size_t pitch = padded(op->outputs);
    const size_t size = (size_t)op->sink.steps * pitch;
    float *currents = (float *)(void *)run->scratch;
    sink sink = svit_sink(run, &op->sink, run->scratch + size * sizeof(float), op->outputs, pitch,
                          CURRENT_FLOAT);
    for (int32_t y = 0; y < w->out_height; y++)
        for (int32_t x = 0; x < w->out_width; x++) {
            memset(currents, 0, size * sizeof(float));
            for (int32_t ky = 0; ky < w->kernel_height; ky++) {
                const int32_t row = y * w->stride_y - w->pad_top + ky * w->dilation_y;
                if (row < 0 || row >= w->height) continue;
                for (int32_t kx = 0; kx < w->kernel_width; kx++) {
                    const int32_t column = x * w->stride_x - w->pad_left + kx * w->dilation_x;
                    if (column < 0 || column >= w->width) continue;
                    add_pixel(run, op, currents, ky * w->kernel_width + kx,
                              row * w->width + column);
                }
            }
            for (int32_t t = 0; t < op->sink.steps; t++)
                finish(run, op, currents + (size_t)t * pitch);
            svit_sink_position(&sink, y, x, currents);
        }
}
