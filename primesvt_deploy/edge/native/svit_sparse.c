/* Convolutions of spikes: only the weight rows of active inputs are added.
 *
 * A window's active inputs are listed by their firing pattern over four timesteps; the kernels add
 * the rows of a list once and spread their sum over the timesteps in which the pattern fires.
 *
 * Where windows do not overlap, their inputs are listed a piece at a time, so that lists need
 * little memory. Where they do, every pixel's inputs are listed once, and kept for as many rows as
 * a window has; a window joins the lists of its pixels.
 */
#include <string.h>

#include "svit_internal.h"
#include "svit_sink.h"

#define COPIED 8 /* entries that are copied at a time */
#define CHUNK 64 /* inputs that are looked at at a time */

typedef struct sparse_layout {
    int32_t sets_each; /* sets of bits of one group */
    int32_t sets;      /* of all groups */
    int32_t ring;      /* rows of pixels whose lists are kept; 0: windows do not overlap */
    size_t list;       /* entries of a list */
    size_t record;     /* entries of a pixel's record: starts of its lists, then the lists */
    size_t pitch;      /* of currents */
    /* In 64 bits everywhere: a file whose sizes overflow a 32-bit size_t must be refused. */
    uint64_t ring_at, joined_at, currents_at, sink_at, bytes;
} sparse_layout;

static uint64_t aligned(uint64_t bytes) {
    return (bytes + SVIT_ALIGNMENT - 1) / SVIT_ALIGNMENT * SVIT_ALIGNMENT;
}

/* Rows of nibbles are summed in two halves, the second of which may be written beyond. */
static size_t current_pitch(const op_sparse *op) {
    return padded(op->outputs) + (op->weights == WEIGHTS_INT4 ? SVIT_LANE_PAD : 0);
}

static sparse_layout layout_of(const op_sparse *op) {
    const window_ref *w = &op->window;
    sparse_layout l;
    l.sets_each =
        (op->input.step_bits * op->input.steps_per_group + op->set_bits - 1) / op->set_bits;
    l.sets = l.sets_each * op->input.groups;
    l.ring = op->joins ? (w->kernel_height - 1) * w->dilation_y + 1 : 0;
    const size_t channels = (size_t)w->channels * (size_t)op->largest;
    const uint64_t entry = sizeof(uint16_t);
    l.list = (l.ring ? channels : (size_t)op->listed + CHUNK) + COPIED;
    l.record = SVIT_PATTERNS + 1 + channels;
    l.pitch = current_pitch(op);
    l.ring_at = aligned((uint64_t)l.sets_each * SVIT_PATTERNS * l.list * entry);
    const uint64_t pixels = (uint64_t)l.ring * (uint64_t)w->width;
    l.joined_at = l.ring_at + aligned((pixels * (uint64_t)l.sets * l.record + COPIED) * entry);
    const uint64_t taps = (uint64_t)w->kernel_height * (uint64_t)w->kernel_width;
    l.currents_at = l.joined_at + (l.ring ? aligned((taps * channels + COPIED) * entry) : 0);
    const uint64_t current = op->block_rows ? sizeof(int32_t) : sizeof(int16_t);
    l.sink_at = l.currents_at + aligned((uint64_t)(l.sets * op->set_bits) * l.pitch * current);
    l.bytes = l.sink_at + svit_sink_scratch(&op->sink, l.pitch,
                                            op->block_rows ? CURRENT_INT32 : CURRENT_INT16);
    return l;
}

uint64_t svit_sparse_scratch(const op_sparse *op) { return layout_of(op).bytes; }

/* A layer at work: its weights, lists, and the currents of one window. */
typedef struct window_sums {
    const run_state *run;
    const op_sparse *op;
    sparse_layout layout;
    row_weights weights;
    uint8_t *currents;
    list_ends buckets; /* beginnings of the lists that are being made */
    list_ends made;    /* and their ends so far */
    int32_t group;
    int32_t listed; /* inputs in the buckets */
    int32_t summed; /* whether currents of this group hold sums already */
    int32_t kept;   /* rows of pixels that were listed so far */
} window_sums;

static void begin_lists(window_sums *w) {
    const size_t lists = (size_t)w->layout.sets_each * SVIT_PATTERNS;
    memcpy(w->made.ends, w->buckets.ends, lists * sizeof *w->made.ends);
    w->listed = 0;
}

/* Add the rows of lists to the currents of a set of bits. */
static void add_rows(window_sums *w, row_lists *lists, int32_t set) {
    const op_sparse *op = w->op;
    const svit_kernels *kernels = w->run->kernels;
    const size_t pitch = w->layout.pitch;
    const size_t at = (size_t)((w->group * w->layout.sets_each + set) * op->set_bits) * pitch;
    int16_t *narrow = (int16_t *)(void *)w->currents + at;
    int32_t *wide = (int32_t *)(void *)w->currents + at;
    const int32_t bits =
        op->input.step_bits * op->input.steps_per_group - op->set_bits * set;
    lists->set_bits = op->set_bits;
    lists->bits = bits < op->set_bits ? bits : op->set_bits;
    lists->more = w->summed;
    if (op->block_rows && op->weights == WEIGHTS_INT4)
        kernels->sum_rows_int4_wide(lists, &w->weights, op->block_rows, wide, pitch);
    else if (op->block_rows)
        kernels->sum_rows_wide(lists, &w->weights, op->block_rows, wide, pitch);
    else if (op->weights == WEIGHTS_INT4)
        kernels->sum_rows_int4(lists, &w->weights, narrow, pitch);
    else
        kernels->sum_rows(lists, &w->weights, narrow, pitch);
}

/* Add the rows of the inputs in the buckets, and begin new lists. */
static void add_buckets(window_sums *w) {
    for (int32_t set = 0; set < w->layout.sets_each; set++) {
        row_lists lists;
        for (int32_t p = 1; p < 1 << w->op->set_bits; p++) {
            const int32_t list = set * SVIT_PATTERNS + p;
            lists.rows[p] = w->buckets.ends[list];
            lists.counts[p] = (int32_t)(w->made.ends[list] - w->buckets.ends[list]);
        }
        add_rows(w, &lists, set);
    }
    w->summed = 1;
    begin_lists(w);
}

/* Where counts of a number of planes are at least `least`, bit by bit, in `at_least`. */
static void compare_counts(const spikes_ref *spikes, const uint8_t *bytes, int32_t n,
                           int32_t least, uint8_t *at_least) {
    uint32_t more[CHUNK / 4], equal[CHUNK / 4]; /* four inputs a word */
    const int32_t words = (n + 3) / 4;
    for (int32_t i = 0; i < words; i++) {
        more[i] = 0;
        equal[i] = UINT32_MAX;
    }
    for (int32_t plane = spikes->planes - 1; plane >= 0; plane--) {
        const uint8_t *from = bytes + (size_t)plane * (size_t)spikes->elements;
        const uint32_t wanted = (least >> plane & 1) ? UINT32_MAX : 0;
        for (int32_t i = 0; i < words; i++) {
            const size_t at = 4 * (size_t)i;
            uint32_t bits = 0;
            if (i < n / 4)
                memcpy(&bits, from + at, sizeof bits);
            else /* another thread may write behind the last input */
                memcpy(&bits, from + at, (size_t)n - at);
            more[i] |= equal[i] & bits & ~wanted;
            equal[i] &= ~(bits ^ wanted);
        }
    }
    for (int32_t i = 0; i < words; i++) more[i] |= equal[i];
    memcpy(at_least, more, (size_t)words * sizeof *more);
}

/* List the active ones of up to CHUNK inputs; lists that might overflow are added first. */
static int32_t list_once(window_sums *w, const uint8_t *bytes, int32_t n, int32_t first) {
    if (!w->layout.ring && w->listed > w->op->listed) add_buckets(w);
    const int32_t found = w->run->kernels->list_active(bytes, n, first, &w->made);
    w->listed += found;
    return found;
}

/* List up to CHUNK inputs, whose weight rows are numbered from `first` on: an input as often as it
 * counts. */
static void list_chunk(window_sums *w, const uint8_t *bytes, int32_t n, int32_t first) {
    const spikes_ref *spikes = &w->op->input;
    for (int32_t level = 1; level <= w->op->largest; level++) {
        uint8_t at_least[CHUNK];
        const uint8_t *from = bytes + (size_t)(level - 1) * (size_t)spikes->elements;
        if (spikes->binary) {
            compare_counts(spikes, bytes, n, level, at_least);
            from = at_least;
        }
        if (list_once(w, from, n, first) == 0 && spikes->binary) return;
    }
}

static void list_inputs(window_sums *w, const uint8_t *bytes, int32_t n, int32_t first) {
    for (int32_t at = 0; at < n; at += CHUNK) {
        const int32_t count = n - at < CHUNK ? n - at : CHUNK;
        if (w->op->input.planes == 1)
            (void)list_once(w, bytes + at, count, first + at);
        else
            list_chunk(w, bytes + at, count, first + at);
    }
}

/* List a row of a window: pixels that lie side by side are one run of inputs. */
static void list_row(window_sums *w, const uint8_t *plane, int32_t ky, int32_t row, int32_t left) {
    const window_ref *g = &w->op->window;
    const uint8_t *pixels = plane + (size_t)row * (size_t)g->width * (size_t)g->channels;
    const int32_t number = ky * g->kernel_width * g->channels;
    if (g->dilation_x == 1) {
        const int32_t skipped = left < 0 ? -left : 0;
        int32_t end = g->kernel_width;
        if (left + end > g->width) end = g->width - left;
        if (end > skipped)
            list_inputs(w, pixels + (size_t)(left + skipped) * (size_t)g->channels,
                        (end - skipped) * g->channels, number + skipped * g->channels);
        return;
    }
    for (int32_t kx = 0; kx < g->kernel_width; kx++) {
        const int32_t column = left + kx * g->dilation_x;
        if (column >= 0 && column < g->width)
            list_inputs(w, pixels + (size_t)column * (size_t)g->channels, g->channels,
                        number + kx * g->channels);
    }
}

/* Sum a window by listing all its inputs. */
static void sum_listed(window_sums *w, int32_t y, int32_t x) {
    const op_sparse *op = w->op;
    const window_ref *g = &op->window;
    const int32_t top = y * g->stride_y - g->pad_top, left = x * g->stride_x - g->pad_left;
    const uint8_t *plane = w->run->arena + op->input.offset;
    for (w->group = 0; w->group < op->input.groups; w->group++) {
        w->summed = 0;
        for (int32_t ky = 0; ky < g->kernel_height; ky++) {
            const int32_t row = top + ky * g->dilation_y;
            if (row >= 0 && row < g->height) list_row(w, plane, ky, row, left);
        }
        add_buckets(w);
        plane += (size_t)op->input.planes * (size_t)op->input.elements;
    }
}

/* -- Pixels whose lists are kept ----------------------------------------------------------- */

static uint16_t *record_of(const window_sums *w, int32_t row, int32_t column, int32_t set) {
    const sparse_layout *l = &w->layout;
    const size_t pixel = (size_t)(row % l->ring) * (size_t)w->op->window.width + (size_t)column;
    return (uint16_t *)(void *)(w->run->scratch + l->ring_at) +
           (pixel * (size_t)l->sets + (size_t)set) * l->record;
}

/* Keep the lists in the buckets as a pixel's record: the set of its patterns, starts of their
 * lists, then the lists. */
static void keep_lists(const window_sums *w, int32_t set, uint16_t *record) {
    uint16_t *const entries = record + SVIT_PATTERNS + 1;
    int32_t end = 0;
    uint32_t patterns = 0;
    for (int32_t p = 1; p < SVIT_PATTERNS; p++) {
        const uint16_t *from = w->buckets.ends[set * SVIT_PATTERNS + p];
        const int32_t count = (int32_t)(w->made.ends[set * SVIT_PATTERNS + p] - from);
        record[p] = (uint16_t)end;
        patterns |= (uint32_t)(count > 0) << p;
        for (int32_t i = 0; i < count; i++) entries[end + i] = from[i];
        end += count;
    }
    record[0] = (uint16_t)patterns;
    record[SVIT_PATTERNS] = (uint16_t)end;
}

static void keep_row(window_sums *w, int32_t row) {
    const op_sparse *op = w->op;
    const int32_t channels = op->window.channels;
    for (int32_t column = 0; column < op->window.width; column++) {
        const size_t at = ((size_t)row * (size_t)op->window.width + (size_t)column) *
                          (size_t)channels;
        const uint8_t *plane = w->run->arena + op->input.offset + at;
        for (int32_t group = 0; group < op->input.groups; group++) {
            begin_lists(w);
            list_inputs(w, plane, channels, 0);
            plane += (size_t)op->input.planes * (size_t)op->input.elements;
            for (int32_t set = 0; set < w->layout.sets_each; set++)
                keep_lists(w, set, record_of(w, row, column, group * w->layout.sets_each + set));
        }
    }
}

typedef uint16_t copied_entries __attribute__((vector_size(COPIED * sizeof(uint16_t))));

typedef struct window_pixels {
    const uint16_t *records[SVIT_MAX_TAPS];
    copied_entries first[SVIT_MAX_TAPS]; /* number of the pixel's first weight row, COPIED times */
    int32_t count;
    uint32_t patterns; /* that any of them has */
} window_pixels;

/* The pixels of a window, for one set, that have active inputs. */
static void find_pixels(const window_sums *w, int32_t y, int32_t x, int32_t set,
                        window_pixels *pixels) {
    const window_ref *g = &w->op->window;
    pixels->count = 0;
    pixels->patterns = 0;
    for (int32_t ky = 0; ky < g->kernel_height; ky++) {
        const int32_t row = y * g->stride_y - g->pad_top + ky * g->dilation_y;
        if (row < 0 || row >= g->height) continue;
        for (int32_t kx = 0; kx < g->kernel_width; kx++) {
            const int32_t column = x * g->stride_x - g->pad_left + kx * g->dilation_x;
            if (column < 0 || column >= g->width) continue;
            const uint16_t *record = record_of(w, row, column, set);
            if (record[0] == 0) continue;
            pixels->patterns |= record[0];
            pixels->records[pixels->count] = record;
            const int32_t first = (ky * g->kernel_width + kx) * g->channels;
            pixels->first[pixels->count] = (copied_entries){0} + (uint16_t)first;
            pixels->count++;
        }
    }
}

/* to[i] = from[i] + first. The first COPIED are written without asking how many there are: lists
 * are short, and guessing their lengths wrong costs more. */
static inline void copy_entries(const uint16_t *from, int32_t count, copied_entries first,
                                uint16_t *to) {
    int32_t i = 0;
    do {
        copied_entries taken;
        memcpy(&taken, from + i, sizeof taken);
        taken += first;
        memcpy(to + i, &taken, sizeof taken);
        i += COPIED;
    } while (i < count);
}

/* Join the lists of a window's pixels. */
static void join(const window_sums *w, const window_pixels *pixels, row_lists *lists) {
    uint16_t *to = (uint16_t *)(void *)(w->run->scratch + w->layout.joined_at);
    memset(lists->counts, 0, sizeof lists->counts);
    for (uint32_t left = pixels->patterns; left; left &= left - 1) {
        const int32_t p = __builtin_ctz(left);
        uint16_t *const begin = to;
        for (int32_t i = 0; i < pixels->count; i++) {
            const uint16_t *record = pixels->records[i];
            const int32_t start = record[p], count = record[p + 1] - start;
            copy_entries(record + SVIT_PATTERNS + 1 + start, count, pixels->first[i], to);
            to += count;
        }
        lists->rows[p] = begin;
        lists->counts[p] = (int32_t)(to - begin);
    }
}

/* Sum a window by joining the lists of its pixels. */
static __attribute__((noinline)) void sum_joined(window_sums *w, int32_t y, int32_t x) {
    const window_ref *g = &w->op->window;
    int32_t last = y * g->stride_y - g->pad_top + (g->kernel_height - 1) * g->dilation_y;
    if (last >= g->height) last = g->height - 1;
    if (w->kept <= last - w->layout.ring) w->kept = last - w->layout.ring + 1;
    for (; w->kept <= last; w->kept++) keep_row(w, w->kept);
    w->summed = 0;
    for (w->group = 0; w->group < w->op->input.groups; w->group++)
        for (int32_t set = 0; set < w->layout.sets_each; set++) {
            window_pixels pixels;
            row_lists lists;
            find_pixels(w, y, x, w->group * w->layout.sets_each + set, &pixels);
            join(w, &pixels, &lists);
            add_rows(w, &lists, set);
        }
}

/* Have each step's current be the sum of those of its bits. */
static void merge_bits(const window_sums *w) {
    const int32_t bits = w->op->input.step_bits;
    const size_t pitch = w->layout.pitch;
    int16_t *narrow = (int16_t *)(void *)w->currents;
    int32_t *wide = (int32_t *)(void *)w->currents;
    for (int32_t t = 0; t < w->op->input.steps; t++)
        for (int32_t n = 0; n < w->op->outputs; n++) {
            uint32_t sum = 0; /* wraps where a file lies about its sums */
            for (int32_t b = 0; b < bits; b++) {
                const size_t at = (size_t)(t * bits + b) * pitch + (size_t)n;
                const int32_t part = w->op->block_rows ? wide[at] : narrow[at];
                sum += (uint32_t)part;
            }
            if (w->op->block_rows)
                wide[(size_t)t * pitch + (size_t)n] = (int32_t)sum;
            else
                narrow[(size_t)t * pitch + (size_t)n] = (int16_t)sum;
        }
}

static void begin(window_sums *w, const run_state *run, const op_sparse *op) {
    memset(w, 0, sizeof *w);
    w->run = run;
    w->op = op;
    w->layout = layout_of(op);
    w->weights.rows = (const int8_t *)(run->data + op->weights_offset);
    w->weights.multipliers = run->data + op->multipliers_offset;
    w->weights.stride =
        op->weights == WEIGHTS_INT4 ? (size_t)(op->outputs + 1) / 2 : (size_t)op->outputs;
    w->weights.group_rows = op->group_rows;
    w->weights.outputs = op->outputs;
    w->currents = run->scratch + w->layout.currents_at;
    uint16_t *at = (uint16_t *)(void *)run->scratch;
    for (int32_t list = 0; list < w->layout.sets_each * SVIT_PATTERNS; list++)
        w->buckets.ends[list] = at + (size_t)list * w->layout.list;
    w->buckets.sets = w->made.sets = w->layout.sets_each;
    w->buckets.set_bits = w->made.set_bits = op->set_bits;
    begin_lists(w);
}

void svit_run_sparse(const run_state *run, const op_sparse *op) {
    window_sums w;
    begin(&w, run, op);
    sink sink = svit_sink(run, &op->sink, run->scratch + w.layout.sink_at, op->outputs,
                          w.layout.pitch, op->block_rows ? CURRENT_INT32 : CURRENT_INT16,
                          op->window.out_height);
    sink.scale = (const float *)(const void *)(run->data + op->scale_offset);
    sink.bias = (const float *)(const void *)(run->data + op->bias_offset);
    int32_t first, end;
    svit_sink_rows(&sink, op->window.out_height, &first, &end);
    for (int32_t y = first; y < end; y++)
        for (int32_t x = 0; x < op->window.out_width; x++) {
            if (w.layout.ring)
                sum_joined(&w, y, x);
            else
                sum_listed(&w, y, x);
            if (op->input.step_bits > 1) merge_bits(&w);
            svit_sink_position(&sink, y, x, w.currents);
        }
}
