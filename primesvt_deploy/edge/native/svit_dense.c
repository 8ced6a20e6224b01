/* Convolutions in float: of real values, or of spikes in separate groups of channels. */
#include <string.h>

#include "svit_internal.h"
#include "svit_sink.h"

/* Inputs of a window that are not zero, and the numbers of their weight rows. */
typedef struct window_inputs {
    float *x;
    int32_t *rows;
    int32_t count;
} window_inputs;

static size_t inputs_of(const op_dense *op) {
    const window_ref *w = &op->window;
    return (size_t)(w->kernel_height * w->kernel_width) * (size_t)(w->channels / op->groups);
}

/* Floats of the sums of a position: the last of several groups is written beyond its outputs. */
static size_t sums_of(const op_dense *op) {
    return (size_t)op->sink.steps * padded(op->outputs) + (op->groups > 1 ? SVIT_LANE_PAD : 0);
}

/* Bytes before the sink's scratch memory. */
static size_t own_scratch(const op_dense *op) {
    return sums_of(op) * sizeof(float) +
           (inputs_of(op) * (sizeof(float) + sizeof(int32_t)) + SVIT_ALIGNMENT - 1) /
               SVIT_ALIGNMENT * SVIT_ALIGNMENT;
}

uint64_t svit_dense_scratch(const op_dense *op) {
    const size_t pitch = padded(op->outputs);
    return own_scratch(op) + svit_sink_scratch(&op->sink, pitch, pitch, CURRENT_FLOAT);
}

static float input_at(const run_state *run, const op_dense *op, int32_t t, size_t at) {
    if (op->input_is_spikes) {
        const uint8_t *bytes = run->arena + op->spikes.offset;
        return (float)svit_count(&op->spikes, bytes, t, (int32_t)at) * op->unit;
    }
    const size_t step = op->values.steps == 1 ? 0 : (size_t)t * (size_t)op->values.elements;
    return floats_at(run, op->values.offset)[step + at];
}

/* Gather the inputs of a pixel's channels from `first` to `first + each`: of spikes those that are
 * there. */
static void gather(const run_state *run, const op_dense *op, int32_t t, int32_t tap, int32_t pixel,
                   int32_t first, window_inputs *inputs) {
    const int32_t channels = op->window.channels, each = channels / op->groups;
    const size_t at = (size_t)pixel * (size_t)channels + (size_t)first;
    if (!op->input_is_spikes) {
        const size_t step = op->values.steps == 1 ? 0 : (size_t)t * (size_t)op->values.elements;
        const float *from = floats_at(run, op->values.offset) + step + at;
        float *x = inputs->x + inputs->count;
        int32_t *rows = inputs->rows + inputs->count;
        for (int32_t c = 0; c < each; c++) {
            x[c] = from[c];
            rows[c] = tap * each + c;
        }
        inputs->count += each;
        return;
    }
    for (int32_t c = 0; c < each; c++) {
        const float x = input_at(run, op, t, at + (size_t)c);
        if (x == 0.0f) continue;
        inputs->x[inputs->count] = x;
        inputs->rows[inputs->count] = tap * each + c;
        inputs->count++;
    }
}

/* Call for every pixel of the window at (y, x). */
#define FOR_PIXELS(w, y, x, tap, pixel, body)                                                  \
    for (int32_t ky_ = 0; ky_ < (w)->kernel_height; ky_++) {                                   \
        const int32_t row_ = (y) * (w)->stride_y - (w)->pad_top + ky_ * (w)->dilation_y;       \
        if (row_ < 0 || row_ >= (w)->height) continue;                                         \
        for (int32_t kx_ = 0; kx_ < (w)->kernel_width; kx_++) {                                \
            const int32_t column_ = (x) * (w)->stride_x - (w)->pad_left + kx_ * (w)->dilation_x; \
            if (column_ < 0 || column_ >= (w)->width) continue;                                \
            const int32_t tap = ky_ * (w)->kernel_width + kx_;                                 \
            const int32_t pixel = row_ * (w)->width + column_;                                 \
            body                                                                               \
        }                                                                                      \
    }

/* Sums of a window where groups have several channels, or all channels are one group. */
static void sum_groups(const run_state *run, const op_dense *op, int32_t t, int32_t y, int32_t x,
                       window_inputs *inputs, float *sums) {
    const window_ref *w = &op->window;
    const int32_t each = w->channels / op->groups, outputs = op->outputs / op->groups;
    const uint8_t *weights = run->data + op->weights_offset;
    const size_t stride = (size_t)op->outputs;
    for (int32_t group = 0; group < op->groups; group++) {
        const int32_t first = group * outputs;
        inputs->count = 0;
        FOR_PIXELS(w, y, x, tap, pixel, gather(run, op, t, tap, pixel, group * each, inputs);)
        /* What a group writes behind its outputs the next one overwrites: it begins at zero. */
        for (int32_t n = 0; n < outputs; n++) sums[first + n] = 0.0f;
        if (op->weights == WEIGHTS_INT8)
            run->kernels->sum_scaled_int8(inputs->x, inputs->rows, inputs->count,
                                          (const int8_t *)weights + first, stride, sums + first,
                                          outputs);
        else
            run->kernels->sum_scaled(inputs->x, inputs->rows, inputs->count,
                                     (const float *)(const void *)weights + first, stride,
                                     sums + first, outputs);
    }
}

/* Sums of a window where each channel is a group of its own. */
static void sum_channelwise(const run_state *run, const op_dense *op, int32_t t, int32_t y,
                            int32_t x, float *sums) {
    const window_ref *w = &op->window;
    const int32_t each = op->outputs / op->groups;
    const uint8_t *weights = run->data + op->weights_offset;
    for (int32_t n = 0; n < op->outputs; n++) sums[n] = 0.0f;
    FOR_PIXELS(w, y, x, tap, pixel, {
        const size_t at = (size_t)tap * (size_t)op->outputs;
        const float *real = (const float *)(const void *)weights + at;
        const int8_t *whole = (const int8_t *)weights + at;
        const size_t from = (size_t)pixel * (size_t)w->channels;
        for (int32_t n = 0; n < op->outputs; n++) {
            const float weight = op->weights == WEIGHTS_INT8 ? (float)whole[n] : real[n];
            const float product = weight * input_at(run, op, t, from + (size_t)(n / each));
            sums[n] += product;
        }
    })
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
    float *currents = (float *)(void *)run->scratch, *gathered = currents + sums_of(op);
    window_inputs inputs = {gathered, (int32_t *)(void *)(gathered + inputs_of(op)), 0};
    sink sink = svit_sink(run, &op->sink, run->scratch + own_scratch(op), op->outputs, pitch,
                          CURRENT_FLOAT);
    int32_t begin, end;
    svit_sink_positions(&sink, w, 0, 1, &begin, &end);
    for (int32_t at = begin; at < end; at++) {
        const int32_t y = at / w->out_width, x = at % w->out_width;
        for (int32_t t = 0; t < op->sink.steps; t++) {
            float *sums = currents + (size_t)t * pitch;
            if (w->channels == op->groups)
                sum_channelwise(run, op, t, y, x, sums);
            else
                sum_groups(run, op, t, y, x, &inputs, sums);
            finish(run, op, sums);
        }
        svit_sink_position(&sink, y, x, currents, 0, op->outputs);
    }
}
