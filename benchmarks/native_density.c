/* Time one layer of the native engine on spikes of a density, both ways: by the weight rows of
 * active inputs, and by all products. Prints the kernels' names, the medians of at most RUNS runs
 * each, milliseconds, and which way the engine chooses.
 *
 *     native_density CHANNELS SIZE KERNEL OUTPUTS TIMESTEPS DENSITY RUNS LARGEST [same]
 *
 * Spikes are drawn for each input and timestep, or with `same` for each input alone, and then fire
 * in all timesteps. With LARGEST above 1 an input counts the spikes of so many, as on a residual
 * stream. Neurons fire behind the layer, as in a network.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "svit_internal.h"

#define FEWEST 3 /* runs */
#define TILE_WINDOWS 32 /* whose counts are gathered at a time: one for each position and step */
#define MOST_MS 250.0 /* no run begins later, once so many are done */

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

static op_sparse layer_of(int channels, int size, int kernel, int outputs, int steps,
                          int largest) {
    op_sparse op;
    memset(&op, 0, sizeof op);
    const int elements = channels * size * size;
    int planes = 1;
    while (largest >> planes) planes++;
    op.input = (spikes_ref){.steps = steps, .groups = 1, .planes = planes, .binary = planes > 1,
                            .step_bits = 1, .steps_per_group = 8, .elements = elements};
    op.window = (window_ref){.channels = channels, .height = size, .width = size,
                             .kernel_height = kernel, .kernel_width = kernel,
                             .stride_y = 1, .stride_x = 1, .pad_top = kernel / 2,
                             .pad_left = kernel / 2, .dilation_y = 1, .dilation_x = 1,
                             .out_height = size, .out_width = size};
    op.outputs = outputs;
    op.weights = WEIGHTS_INT8;
    op.set_bits = 4;
    op.tile = 4;
    op.sink.kind = SINK_NEURON;
    op.sink.steps = steps;
    op.sink.width = size;
    op.sink.neuron = (neuron_ref){.decay = 0.5f, .gain = 0.5f, .threshold = 1.0f, .hard_reset = 1,
                                  .levels = 1};
    op.sink.spikes = (spikes_ref){.offset = planes * elements, .steps = steps, .groups = 1,
                                  .planes = 1, .step_bits = 1, .steps_per_group = 8,
                                  .elements = outputs * size * size};
    return op;
}

static void *memory_of(size_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, SVIT_ALIGNMENT, bytes + 4096)) exit(1);
    memset(memory, 0, bytes + 4096);
    return memory;
}

/* Draw counts, the sums of `largest` spikes each, into planes of bits. */
static void draw_counts(uint8_t *bytes, const spikes_ref *to, int largest, double density,
                        int same) {
    const uint32_t below = (uint32_t)(density * 16777216.0);
    for (int i = 0; i < to->elements; i++)
        for (int t = 0, sum = 0; t < to->steps; t++) {
            if (!same || t == 0) sum = 0;
            for (int k = 0; k < largest && (!same || t == 0); k++) sum += drawn() < below;
            for (int plane = 0; plane < to->planes; plane++)
                bytes[plane * to->elements + i] |= (uint8_t)((sum >> plane & 1) << t);
        }
}

/* Draw weights, and say what of their sums fits 16 bits, as the exporter decides. */
static void draw_weights(op_sparse *op, int8_t *weights, int rows, int largest) {
    const int outputs = op->outputs;
    long most = 0;
    for (int i = 0; i < rows * outputs; i++)
        weights[i] = (int8_t)((int)(drawn() % 64 + drawn() % 64 + drawn() % 64) - 94);
    for (int n = 0; n < outputs; n++) {
        long sums[2] = {0, 0};
        for (int i = 0; i < rows; i++) {
            const int code = weights[i * outputs + n];
            sums[code < 0] += labs((long)code);
        }
        for (int k = 0; k < 2; k++) most = sums[k] > most ? sums[k] : most;
    }
    if (most * largest > INT16_MAX) op->block_rows = most > INT16_MAX ? INT16_MAX / 94 : rows;
    op->together = 1;
    while (most * ((2L << op->together) - 1) <= INT16_MAX) op->together++;
}

typedef void run_layer(const run_state *run, const op_sparse *op);

static double median_of(run_layer *layer, const run_state *run, const op_sparse *op, int runs) {
    double *times = malloc((size_t)runs * sizeof *times);
    if (!times) exit(1);
    layer(run, op);
    const double begun = milliseconds();
    int done = 0;
    while (done < runs && (done < FEWEST || milliseconds() - begun < MOST_MS)) {
        const double start = milliseconds();
        layer(run, op);
        times[done++] = milliseconds() - start;
    }
    qsort(times, (size_t)done, sizeof *times, by_size);
    const double median = times[done / 2];
    free(times);
    return median;
}

int main(int count, char **arguments) {
    if (count < 9) return 1;
    const int channels = atoi(arguments[1]), size = atoi(arguments[2]);
    const int kernel = atoi(arguments[3]), outputs = atoi(arguments[4]);
    const int steps = atoi(arguments[5]), runs = atoi(arguments[7]);
    const int largest = atoi(arguments[8]);
    op_sparse op = layer_of(channels, size, kernel, outputs, steps, largest);
    const int rows = channels * kernel * kernel, places = size * size;
    uint8_t *data = memory_of((size_t)rows * (size_t)outputs + 8 * (size_t)outputs);
    float *scale = (float *)(void *)data;
    for (int n = 0; n < outputs; n++) scale[n] = 1.0f / 512.0f;
    op.bias_offset = 4 * outputs;
    op.weights_offset = 8 * outputs;
    draw_weights(&op, (int8_t *)data + op.weights_offset, rows, largest);
    uint8_t *arena =
        memory_of((size_t)(channels * op.input.planes + outputs) * (size_t)places);
    draw_counts(arena, &op.input, largest, atof(arguments[6]), count > 9);
    op.gathered = TILE_WINDOWS / steps;
    const uint64_t by_rows = svit_sparse_scratch(&op), by_products = svit_products_scratch(&op);
    const uint64_t most = by_rows > by_products ? by_rows : by_products;
    const run_state run = {.kernels = svit_choose_kernels(), .data = data, .arena = arena,
                           .scratch = memory_of((size_t)most), .parts = 1};
    printf("%s %.5f", run.kernels->name, median_of(svit_run_sparse, &run, &op, runs));
    if (run.kernels->products && run.kernels->products())
        printf(" %s %.5f %d", run.kernels->products()->name, median_of(svit_run_products, &run, &op, runs),
               svit_takes_products(&run, &op));
    printf("\n");
    return 0;
}
