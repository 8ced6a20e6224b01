/* The convolution that sees the image: pixels, less a whole number a channel, times integers.
 *
 * A line is a row of the image that is ready to be multiplied, with zeros around it, so that what
 * a window reads of a row lies side by side. Pixels have a channel more, which is 1 in the image: its
 * weights are what a pixel adds whatever its value. Lines are kept for as many rows as a window has.
 */
#include <string.h>

#include "svit_internal.h"
#include "svit_sink.h"

#define TILE 4 /* positions that are summed at a time */

typedef struct pixel_layout {
    int32_t columns;   /* of a line, padding included */
    uint64_t pitch;    /* of lines, in values: pairs of them are read, one of which may be beyond */
    uint64_t zeros_at; /* in the scratch memory: the line of rows beyond the image */
    uint64_t sums_at, sink_at, bytes;
} pixel_layout;

static pixel_layout layout_of(const op_pixels *op) {
    const window_ref *w = &op->window;
    pixel_layout l;
    l.columns = (w->out_width - 1) * w->stride_x + w->kernel_width;
    l.pitch = padded(l.columns * (w->channels + 1) + 1);
    l.zeros_at = (uint64_t)w->kernel_height * l.pitch * sizeof(int16_t);
    l.sums_at = l.zeros_at + l.pitch * sizeof(int16_t);
    l.sink_at = l.sums_at + TILE * (uint64_t)padded(op->outputs) * sizeof(int32_t);
    l.bytes = l.sink_at + svit_sink_scratch(&op->sink, padded(op->outputs), CURRENT_INT32);
    return l;
}

uint64_t svit_pixels_scratch(const op_pixels *op) { return layout_of(op).bytes; }

/* Make the line of a row of the image: by pixel its channels, and 1. */
static void make_line(const run_state *run, const op_pixels *op, const pixel_layout *l, int32_t row,
                      int16_t *line) {
    const window_ref *w = &op->window;
    const int32_t channels = w->channels;
    const int32_t left = w->pad_left < l->columns ? w->pad_left : l->columns;
    const int32_t count = w->width < l->columns - left ? w->width : l->columns - left;
    const uint8_t *pixels = run->pixels + (size_t)row * (size_t)w->width * (size_t)channels;
    const uint8_t *centre = run->data + op->centre_offset;
    memset(line, 0, (size_t)l->pitch * sizeof *line);
    line += (size_t)left * (size_t)(channels + 1);
    for (int32_t x = 0; x < count; x++) {
        for (int32_t c = 0; c < channels; c++) *line++ = (int16_t)(*pixels++ - centre[c]);
        *line++ = 1;
    }
}

void svit_run_pixels(const run_state *run, const op_pixels *op) {
    const window_ref *w = &op->window;
    const pixel_layout l = layout_of(op);
    int16_t *lines = (int16_t *)(void *)run->scratch;
    int16_t *zeros = (int16_t *)(void *)(run->scratch + l.zeros_at);
    int32_t *sums = (int32_t *)(void *)(run->scratch + l.sums_at);
    const size_t pitch = padded(op->outputs);
    sink sink = svit_sink(run, &op->sink, run->scratch + l.sink_at, op->outputs, pitch,
                          CURRENT_INT32, w->out_height);
    sink.scale = (const float *)(const void *)(run->data + op->scale_offset);
    sink.bias = (const float *)(const void *)(run->data + op->bias_offset);
    const int16_t *weights = (const int16_t *)(const void *)(run->data + op->weights_offset);
    pixel_rows rows;
    rows.count = w->kernel_height;
    rows.pairs = (w->kernel_width * (w->channels + 1) + 1) / 2;
    rows.step = (size_t)w->stride_x * ((size_t)w->channels + 1);
    memset(zeros, 0, (size_t)l.pitch * sizeof *zeros);
    int32_t made = 0; /* rows of the image that were made so far, or passed over */
    int32_t first, end;
    svit_sink_rows(&sink, w->out_height, &first, &end);
    for (int32_t y = first; y < end; y++) {
        const int32_t top = y * w->stride_y - w->pad_top;
        for (int32_t ky = 0; ky < w->kernel_height; ky++) {
            const int32_t row = top + ky;
            const int is_inside = row >= 0 && row < w->height;
            int16_t *line = lines + (size_t)(is_inside ? row % w->kernel_height : 0) * l.pitch;
            if (is_inside && row >= made) {
                make_line(run, op, &l, row, line);
                made = row + 1;
            }
            rows.lines[ky] = is_inside ? line : zeros;
        }
        for (int32_t x = 0; x < w->out_width; x += TILE) {
            const int32_t count = w->out_width - x < TILE ? w->out_width - x : TILE;
            run->kernels->sum_pixels(&rows, x, count, weights, op->outputs, sums, pitch);
            for (int32_t i = 0; i < count; i++)
                svit_sink_position(&sink, y, x + i, sums + (size_t)i * pitch);
        }
    }
}
