/* Time one layer of the native engine on spikes of a density; prints milliseconds a run.
 *
 *     native_density CHANNELS SIZE KERNEL OUTPUTS TIMESTEPS DENSITY RUNS [same]
 *
 * Spikes are drawn for each input and timestep, or with `same` for each input alone, and then fire
 * in all timesteps. Neurons fire behind the layer, as in a network.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "svit_internal.h"

static uint32_t state = 1;

static uint32_t drawn(void) {
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static double milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static op_sparse layer_of(int channels, int size, int kernel, int outputs, int steps) {
    op_sparse op;
    memset(&op, 0, sizeof op);
    const int elements = channels * size * size;
    op.input = (spikes_ref){.steps = steps, .groups = 1, .planes = 1, .step_bits = 1,
                            .steps_per_group = 8, .elements = elements};
    op.window = (window_ref){.channels = channels, .height = size, .width = size,
                             .kernel_height = kernel, .kernel_width = kernel,
                             .stride_y = 1, .stride_x = 1, .pad_top = kernel / 2,
                             .pad_left = kernel / 2, .dilation_y = 1, .dilation_x = 1,
                             .out_height = size, .out_width = size};
    op.outputs = outputs;
    op.weights = WEIGHTS_INT8;
    op.set_bits = 4;
    op.joins = kernel > 1;
    op.listed = kernel > 1 ? 0 : (channels < 512 ? (channels > 64 ? channels : 64) : 512);
    op.largest = 1;
    op.sink.kind = SINK_NEURON;
    op.sink.steps = steps;
    op.sink.width = size;
    op.sink.neuron = (neuron_ref){.decay = 0.5f, .gain = 0.5f, .threshold = 1.0f, .hard_reset = 1,
                                  .levels = 1};
    op.sink.spikes = (spikes_ref){.offset = elements, .steps = steps, .groups = 1, .planes = 1,
                                  .step_bits = 1, .steps_per_group = 8,
                                  .elements = outputs * size * size};
    return op;
}

static void *memory_of(size_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, SVIT_ALIGNMENT, bytes + 4096)) exit(1);
    memset(memory, 0, bytes + 4096);
    return memory;
}

static void draw_spikes(uint8_t *bytes, int count, int steps, double density, int same) {
    const uint32_t below = (uint32_t)(density * 16777216.0);
    for (int i = 0; i < count; i++) {
        unsigned pattern = 0;
        for (int t = 0; t < steps; t++) pattern |= (unsigned)(drawn() < below) << t;
        bytes[i] = (uint8_t)(same ? (pattern & 1 ? (1u << steps) - 1 : 0) : pattern);
    }
}

int main(int count, char **arguments) {
    if (count < 8) return 1;
    const int channels = atoi(arguments[1]), size = atoi(arguments[2]);
    const int kernel = atoi(arguments[3]), outputs = atoi(arguments[4]);
    const int steps = atoi(arguments[5]), runs = atoi(arguments[7]);
    op_sparse op = layer_of(channels, size, kernel, outputs, steps);
    const int rows = channels * kernel * kernel, places = size * size;
    uint8_t *data = memory_of((size_t)rows * (size_t)outputs + 8 * (size_t)outputs);
    float *scale = (float *)(void *)data;
    for (int n = 0; n < outputs; n++) scale[n] = 1.0f / 512.0f;
    op.bias_offset = 4 * outputs;
    op.weights_offset = 8 * outputs;
    for (int i = 0; i < rows * outputs; i++) /* small: no sum may exceed 16 bits */
        data[op.weights_offset + i] = (uint8_t)(int8_t)((int)(drawn() % 15) - 7);
    uint8_t *arena = memory_of((size_t)(channels + outputs) * (size_t)places);
    draw_spikes(arena, channels * places, steps, atof(arguments[6]), count > 8);
    const run_state run = {.kernels = svit_choose_kernels(), .data = data, .arena = arena,
                           .scratch = memory_of((size_t)svit_sparse_scratch(&op)), .parts = 1};
    double *times = malloc((size_t)runs * sizeof *times);
    svit_run_sparse(&run, &op);
    for (int i = 0; times && i < runs; i++) {
        const double start = milliseconds();
        svit_run_sparse(&run, &op);
        times[i] = milliseconds() - start;
    }
    if (!times) return 1;
    qsort(times, (size_t)runs, sizeof *times, by_size);
    printf("%s %.5f\n", run.kernels->name, times[runs / 2]);
    return 0;
}
