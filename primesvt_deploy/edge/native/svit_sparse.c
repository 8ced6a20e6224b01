/* Convolutions of spikes: only the weight rows of active inputs are added.
 *
 * The active channels of each input pixel are listed by firing pattern (`scan_pixel`); a window
 * joins the lists of its pixels (`join_window`); the kernels add each pattern's rows once and
 * spread the sum over the timesteps in which it fires.
 */
#include <string.h>

#include "svit_internal.h"
#include "svit_sink.h"

#define LIST_SLACK 32 /* entries behind a list that copies may overwrite */

/* Lists of one input pixel: entries of pattern p are entries[starts[p]] to entries[starts[p+1]]. */
typedef struct pixel_lists {
    uint16_t *starts;
    uint16_t *entries;
} pixel_lists;

typedef struct sparse_layout {
    int32_t sets;      /* of four bits, over all groups */
    int32_t sets_each; /* of one group */
    int32_t taps;      /* pixels of the kernel */
    int32_t ring;      /* input rows whose lists are kept; 0: a kernel of one pixel keeps none */
    size_t bucket;     /* entries of a bucket */
    size_t pitch;      /* of currents */
    size_t pixel;      /* bytes of a pixel's lists of one set */
    size_t buckets_at, ring_at, joined_at, joined_bytes, currents_at, merged_at, sink_at, bytes;
} sparse_layout;

static size_t aligned(size_t bytes) {
    return (bytes + SVIT_ALIGNMENT - 1) / SVIT_ALIGNMENT * SVIT_ALIGNMENT;
}

static int is_single_pixel(const window_ref *w) {
    return w->kernel_height == 1 && w->kernel_width == 1;
}

static sparse_layout layout_of(const op_sparse *op) {
    const window_ref *w = &op->window;
    sparse_layout l;
    l.sets_each = (op->input.step_bits * op->input.steps_per_group + 3) / 4;
    l.sets = l.sets_each * op->input.groups;
    l.taps = w->kernel_height * w->kernel_width;
    l.ring = is_single_pixel(w) ? 0 : (w->kernel_height - 1) * w->dilation_y + 1;
    l.bucket = (size_t)op->list_entries + LIST_SLACK;
    l.pitch = padded(op->outputs);
    l.pixel = aligned((SVIT_LIST_CLASSES + 1 + l.bucket) * sizeof(uint16_t));
    l.buckets_at = 0;
    const size_t sets = (size_t)l.sets;
    l.ring_at = aligned(sets * SVIT_LIST_CLASSES * l.bucket * sizeof(uint16_t));
    l.joined_at = l.ring_at + (size_t)l.ring * (size_t)w->width * sets * l.pixel;
    l.joined_bytes =
        l.ring ? aligned(((size_t)l.taps * (size_t)op->list_entries + LIST_SLACK) * 2) : 0;
    l.currents_at = l.joined_at + sets * l.joined_bytes;
    const size_t current = op->block_rows ? sizeof(int32_t) : sizeof(int16_t);
    l.merged_at = l.currents_at + aligned(sets * 4 * l.pitch * current);
    l.sink_at = l.merged_at;
    l.bytes = l.sink_at + svit_sink_scratch(&op->sink, op->outputs, op->block_rows != 0);
    return l;
}

size_t svit_sparse_scratch(const op_sparse *op) { return layout_of(op).bytes; }

/* Sort the active channels of a pixel into buckets by pattern, for one group. */
static void scan_pixel(const op_sparse *op, const sparse_layout *l, const uint8_t *bytes,
                       int32_t pixel, int32_t group, uint16_t *buckets, int32_t *counts) {
    const int32_t channels = op->window.channels;
    memset(counts, 0, (size_t)l->sets_each * SVIT_LIST_CLASSES * sizeof *counts);
    for (int32_t plane = 0; plane < op->input.planes; plane++) {
        const size_t byte_plane = (size_t)(group * op->input.planes + plane);
        const uint8_t *p = bytes + byte_plane * (size_t)op->input.elements +
                           (size_t)pixel * (size_t)channels;
        for (int32_t c = 0; c < channels; c += 8) {
            uint64_t word = 0;
            if (channels - c >= 8)
                memcpy(&word, p + c, 8);
            else
                memcpy(&word, p + c, (size_t)(channels - c));
            while (word) {
                const int32_t lane = __builtin_ctzll(word) >> 3;
                const uint32_t pattern = (uint32_t)(word >> (8 * lane)) & 255;
                word &= ~((uint64_t)255 << (8 * lane));
                const uint32_t low = pattern & 15, high = pattern >> 4;
                /* Pattern 0 has a bucket as well, which nobody reads. */
                buckets[low * l->bucket + (size_t)counts[low]] = (uint16_t)(c + lane);
                counts[low] += low != 0;
                if (high) {
                    uint16_t *second = buckets + SVIT_LIST_CLASSES * l->bucket;
                    int32_t *count = counts + SVIT_LIST_CLASSES + high;
                    second[high * l->bucket + (size_t)*count] = (uint16_t)(c + lane);
                    ++*count;
                }
            }
        }
    }
}

static pixel_lists ring_slot(const op_sparse *op, const sparse_layout *l, uint8_t *scratch,
                             int32_t y, int32_t x, int32_t set) {
    const size_t slot = (size_t)(y % l->ring) * (size_t)op->window.width + (size_t)x;
    uint8_t *at = scratch + l->ring_at + (slot * (size_t)l->sets + (size_t)set) * l->pixel;
    const pixel_lists lists = {(uint16_t *)(void *)at,
                               (uint16_t *)(void *)at + SVIT_LIST_CLASSES + 1};
    return lists;
}

/* Keep the lists of a whole input row. */
static void scan_row(const op_sparse *op, const sparse_layout *l, const uint8_t *bytes,
                     uint8_t *scratch, int32_t y) {
    uint16_t *buckets = (uint16_t *)(void *)(scratch + l->buckets_at);
    int32_t counts[2 * SVIT_LIST_CLASSES];
    for (int32_t x = 0; x < op->window.width; x++)
        for (int32_t group = 0; group < op->input.groups; group++) {
            scan_pixel(op, l, bytes, y * op->window.width + x, group, buckets, counts);
            for (int32_t s = 0; s < l->sets_each; s++) {
                const pixel_lists to =
                    ring_slot(op, l, scratch, y, x, group * l->sets_each + s);
                int32_t start = 0;
                to.starts[0] = to.starts[1] = 0;
                for (int32_t p = 1; p < SVIT_LIST_CLASSES; p++) {
                    const int32_t count = counts[s * SVIT_LIST_CLASSES + p];
                    const uint16_t *from =
                        buckets + (size_t)(s * SVIT_LIST_CLASSES + p) * l->bucket;
                    for (int32_t i = 0; i < count; i += 8)
                        memcpy(to.entries + start + i, from + i, 8 * sizeof *from);
                    start += count;
                    to.starts[p + 1] = (uint16_t)start;
                }
            }
        }
}

/* Join the lists of a window's pixels; an entry becomes the number of its weight row. */
static void join_window(const op_sparse *op, const sparse_layout *l, uint8_t *scratch, int32_t y,
                        int32_t x, row_lists *lists) {
    const window_ref *w = &op->window;
    const uint16_t *starts[SVIT_MAX_TAPS], *entries[SVIT_MAX_TAPS];
    uint16_t bases[SVIT_MAX_TAPS];
    for (int32_t set = 0; set < l->sets; set++) {
        int32_t pixels = 0;
        for (int32_t ky = 0; ky < w->kernel_height; ky++) {
            const int32_t row = y * w->stride_y - w->pad_top + ky * w->dilation_y;
            if (row < 0 || row >= w->height) continue;
            for (int32_t kx = 0; kx < w->kernel_width; kx++) {
                const int32_t column = x * w->stride_x - w->pad_left + kx * w->dilation_x;
                if (column < 0 || column >= w->width) continue;
                const pixel_lists pixel = ring_slot(op, l, scratch, row, column, set);
                if (pixel.starts[SVIT_LIST_CLASSES] == 0) continue;
                starts[pixels] = pixel.starts;
                entries[pixels] = pixel.entries;
                bases[pixels] = (uint16_t)((ky * w->kernel_width + kx) * w->channels);
                pixels++;
            }
        }
        uint16_t *to = (uint16_t *)(void *)(scratch + l->joined_at + (size_t)set * l->joined_bytes);
        for (int32_t p = 1; p < SVIT_LIST_CLASSES; p++) {
            uint16_t *const first = to;
            for (int32_t k = 0; k < pixels; k++) {
                const uint16_t *from = entries[k] + starts[k][p];
                const int32_t count = starts[k][p + 1] - starts[k][p];
                const uint16_t base = bases[k];
                for (int32_t i = 0; i < count; i += 8)
                    for (int32_t j = 0; j < 8; j++) to[i + j] = (uint16_t)(from[i + j] + base);
                to += count;
            }
            lists[set].rows[p] = first;
            lists[set].counts[p] = (int32_t)(to - first);
        }
    }
}

/* Lists of a window of one pixel: the buckets themselves. */
static void list_pixel(const op_sparse *op, const sparse_layout *l, const uint8_t *bytes,
                       uint8_t *scratch, int32_t y, int32_t x, row_lists *lists) {
    const window_ref *w = &op->window;
    const int32_t row = y * w->stride_y - w->pad_top, column = x * w->stride_x - w->pad_left;
    const int inside = row >= 0 && row < w->height && column >= 0 && column < w->width;
    for (int32_t group = 0; group < op->input.groups; group++) {
        uint16_t *buckets = (uint16_t *)(void *)(scratch + l->buckets_at) +
                            (size_t)(group * l->sets_each) * SVIT_LIST_CLASSES * l->bucket;
        int32_t counts[2 * SVIT_LIST_CLASSES] = {0};
        if (inside)
            scan_pixel(op, l, bytes, row * w->width + column, group, buckets, counts);
        for (int32_t s = 0; s < l->sets_each; s++)
            for (int32_t p = 1; p < SVIT_LIST_CLASSES; p++) {
                row_lists *to = &lists[group * l->sets_each + s];
                to->rows[p] = buckets + (size_t)(s * SVIT_LIST_CLASSES + p) * l->bucket;
                to->counts[p] = counts[s * SVIT_LIST_CLASSES + p];
            }
    }
}

/* Bits of each set: the last one of a group may have fewer than four. */
static void set_bits(const op_sparse *op, const sparse_layout *l, row_lists *lists) {
    const int32_t bits = op->input.step_bits * op->input.steps_per_group;
    for (int32_t set = 0; set < l->sets; set++) {
        const int32_t left = bits - set % l->sets_each * 4;
        lists[set].bits = left < 4 ? left : 4;
    }
}

/* Have each step's current be the sum of those of its bits. Step t moves from row t * step_bits
 * (of its group) to row t. */
static void merge_bits(const op_sparse *op, const sparse_layout *l, void *currents) {
    const int32_t bits = op->input.step_bits;
    int32_t step = 0;
    for (int32_t group = 0; group < op->input.groups; group++)
        for (int32_t t = 0; t < op->input.steps_per_group; t++, step++) {
            const size_t from = (size_t)(group * l->sets_each * 4 + t * bits) * l->pitch;
            const size_t to = (size_t)step * l->pitch;
            for (int32_t n = 0; n < op->outputs; n++) {
                int32_t sum = 0;
                for (int32_t b = 0; b < bits; b++) {
                    const size_t at = from + (size_t)b * l->pitch + (size_t)n;
                    sum += op->block_rows ? ((int32_t *)currents)[at] : ((int16_t *)currents)[at];
                }
                if (op->block_rows)
                    ((int32_t *)currents)[to + (size_t)n] = sum;
                else
                    ((int16_t *)currents)[to + (size_t)n] = (int16_t)sum;
            }
        }
}

static void sum_window(const run_state *run, const op_sparse *op, const sparse_layout *l,
                       const row_lists *lists, void *currents) {
    const row_weights weights = {
        (const int8_t *)(run->data + op->weights_offset),
        run->data + op->multipliers_offset,
        op->weights == WEIGHTS_INT4 ? (size_t)(op->outputs + 1) / 2 : (size_t)op->outputs,
        op->group_rows,
        op->outputs,
    };
    for (int32_t set = 0; set < l->sets; set++) {
        const size_t at = (size_t)set * 4 * l->pitch;
        if (op->block_rows && op->weights == WEIGHTS_INT4)
            run->kernels->sum_rows_int4_wide(&lists[set], &weights, op->block_rows,
                                             (int32_t *)currents + at, l->pitch);
        else if (op->block_rows)
            run->kernels->sum_rows_wide(&lists[set], &weights, op->block_rows,
                                        (int32_t *)currents + at, l->pitch);
        else if (op->weights == WEIGHTS_INT4)
            run->kernels->sum_rows_int4(&lists[set], &weights, (int16_t *)currents + at, l->pitch);
        else
            run->kernels->sum_rows(&lists[set], &weights, (int16_t *)currents + at, l->pitch);
    }
    if (op->input.step_bits > 1) merge_bits(op, l, currents);
}

void svit_run_sparse(const run_state *run, const op_sparse *op) {
    const window_ref *w = &op->window;
    const sparse_layout l = layout_of(op);
    const uint8_t *bytes = run->arena + op->input.offset;
    void *currents = run->scratch + l.currents_at;
    row_lists lists[SVIT_MAX_SETS];
    set_bits(op, &l, lists);
    sink sink = svit_sink(run, &op->sink, run->scratch + l.sink_at, op->outputs, l.pitch,
                          op->block_rows ? CURRENT_INT32 : CURRENT_INT16);
    sink.scale = (const float *)(const void *)(run->data + op->scale_offset);
    sink.bias = (const float *)(const void *)(run->data + op->bias_offset);
    int32_t scanned = 0; /* input rows so far */
    for (int32_t y = 0; y < w->out_height; y++) {
        if (l.ring) {
            int32_t last = y * w->stride_y - w->pad_top + (w->kernel_height - 1) * w->dilation_y;
            if (last >= w->height) last = w->height - 1;
            const int32_t first = last - l.ring + 1;
            if (scanned < first) scanned = first;
            for (; scanned <= last; scanned++) scan_row(op, &l, bytes, run->scratch, scanned);
        }
        for (int32_t x = 0; x < w->out_width; x++) {
            if (l.ring)
                join_window(op, &l, run->scratch, y, x, lists);
            else
                list_pixel(op, &l, bytes, run->scratch, y, x, lists);
            sum_window(run, op, &l, lists, currents);
            svit_sink_position(&sink, y, x, currents);
        }
    }
}
