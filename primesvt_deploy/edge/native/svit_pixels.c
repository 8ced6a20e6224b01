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
    const size_t pitch = padded(op->outputs);
    l.bytes = l.sink_at + svit_sink_scratch(&op->sink, pitch, pitch, CURRENT_INT32);
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

/* The image at work: lines that were made so far. */
typedef struct image_lines {
    const run_state *run;
    const op_pixels *op;
    pixel_layout layout;
    int16_t *lines, *zeros;
    int32_t made; /* rows of the image that were made, or passed over */
} image_lines;

static image_lines begin_lines(const run_state *run, const op_pixels *op) {
    image_lines i = {run, op, layout_of(op), (int16_t *)(void *)run->scratch, NULL, 0};
    i.zeros = (int16_t *)(void *)(run->scratch + i.layout.zeros_at);
    memset(i.zeros, 0, (size_t)i.layout.pitch * sizeof *i.zeros);
    return i;
}

/* Find the lines of a row of windows, and make those that are missing. */
static void find_lines(image_lines *i, int32_t y, pixel_rows *rows) {
    const window_ref *w = &i->op->window;
    for (int32_t ky = 0; ky < w->kernel_height; ky++) {
        const int32_t row = y * w->stride_y - w->pad_top + ky;
        if (row < 0 || row >= w->height) {
            rows->lines[ky] = i->zeros;
            continue;
        }
        int16_t *line = i->lines + (size_t)(row % w->kernel_height) * i->layout.pitch;
        if (row >= i->made) {
            make_line(i->run, i->op, &i->layout, row, line);
            i->made = row + 1;
        }
        rows->lines[ky] = line;
    }
}

void svit_run_pixels(const run_state *run, const op_pixels *op) {
    const window_ref *w = &op->window;
    image_lines image = begin_lines(run, op);
    int32_t *sums = (int32_t *)(void *)(run->scratch + image.layout.sums_at);
    const size_t pitch = padded(op->outputs);
    sink sink = svit_sink(run, &op->sink, run->scratch + image.layout.sink_at, op->outputs, pitch,
                          CURRENT_INT32);
    sink.scale = (const float *)(const void *)(run->data + op->scale_offset);
    sink.bias = (const float *)(const void *)(run->data + op->bias_offset);
    const int16_t *weights = (const int16_t *)(const void *)(run->data + op->weights_offset);
    pixel_rows rows;
    rows.count = w->kernel_height;
    rows.pairs = (w->kernel_width * (w->channels + 1) + 1) / 2;
    rows.step = (size_t)w->stride_x * ((size_t)w->channels + 1);
    int32_t begin, end;
    svit_sink_positions(&sink, w, 0, 1, &begin, &end);
    for (int32_t at = begin; at < end;) {
        const int32_t y = at / w->out_width, x = at % w->out_width;
        int32_t count = w->out_width - x < TILE ? w->out_width - x : TILE;
        if (count > end - at) count = end - at;
        if (at == begin || x == 0) find_lines(&image, y, &rows);
        run->kernels->sum_pixels(&rows, x, count, weights, op->outputs, sums, pitch);
        for (int32_t i = 0; i < count; i++)
            svit_sink_position(&sink, y, x + i, sums + (size_t)i * pitch, 0, op->outputs);
        at += count;
    }
}
