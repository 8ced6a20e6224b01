/* Convolutions of spikes: only the weight rows of active inputs are added.
 *
 * Inputs are listed by their firing pattern over four timesteps; the kernels add the rows of a list
 * once and spread their sum over the timesteps in which the pattern fires.
 *
 * What a window reads is listed by columns of its pixels, one record each, which windows side by
 * side share. Records are kept for a tile of positions, so that weight rows that were read for one
 * position are still in the cache for the next: SVIT_COLUMNS outputs are computed of all positions of
 * a tile before the next ones. Where memory is short, nothing is kept, and a window's inputs are
 * listed a piece at a time.
 */
#include <string.h>

#include "svit_internal.h"
#include "svit_sink.h"

#define COPIED 8 /* entries that are copied at a time */
#define CHUNK 64 /* inputs that are looked at at a time, at most, where lists are short */
#define NO_COLUMN (-1)

typedef struct sparse_layout {
    int32_t sets;    /* of bits, of one group */
    int32_t records; /* of a column: one for each group, plane and set */
    int32_t slots;   /* columns whose records are kept */
    size_t list;     /* entries of a list */
    size_t record;   /* entries of a record, its head included */
    size_t pitch;    /* of currents */
    /* In 64 bits everywhere: a file whose sizes overflow a 32-bit size_t must be refused. */
    uint64_t records_at, columns_at, parts_at, currents_at, sink_at, bytes;
} sparse_layout;

static uint64_t aligned(uint64_t bytes) {
    return (bytes + SVIT_ALIGNMENT - 1) / SVIT_ALIGNMENT * SVIT_ALIGNMENT;
}

/* Rows of nibbles are summed in two halves, the second of which may be written beyond. */
static size_t current_pitch(const op_sparse *op) {
    const int32_t outputs =
        op->tile && op->outputs > SVIT_COLUMNS ? SVIT_COLUMNS : op->outputs;
    return padded(outputs) + (op->weights == WEIGHTS_INT4 ? SVIT_LANE_PAD : 0);
}

static int32_t current_type(const op_sparse *op) {
    return op->block_rows ? CURRENT_INT32 : CURRENT_INT16;
}

static sparse_layout layout_of(const op_sparse *op) {
    const window_ref *w = &op->window;
    sparse_layout l; /* where sums of int32_t are safe, see svit_check.c */
    const int32_t bits = op->input.step_bits * op->input.steps_per_group;
    l.sets = (bits + op->set_bits - 1) / op->set_bits;
    l.records = op->tile ? l.sets * op->input.groups * op->input.planes : l.sets;
    const int64_t reach = (int64_t)(w->kernel_width - 1) * w->dilation_x + 1;
    l.slots = op->tile ? (int32_t)((int64_t)(op->tile - 1) * w->stride_x + reach) : 1;
    const size_t inputs = op->tile ? (size_t)w->kernel_height * (size_t)w->channels
                                   : (size_t)op->listed + CHUNK;
    const uint64_t entry = sizeof(uint16_t);
    l.list = inputs + COPIED;
    l.record = SVIT_RECORD_HEAD + inputs + COPIED;
    l.pitch = current_pitch(op);
    l.records_at = aligned(((uint64_t)l.sets << op->set_bits) * l.list * entry);
    const uint64_t records = (uint64_t)l.slots * (uint64_t)l.records;
    l.columns_at = l.records_at + aligned(records * l.record * entry);
    l.parts_at = l.columns_at + aligned((uint64_t)l.slots * sizeof(int32_t));
    l.currents_at =
        l.parts_at + aligned((uint64_t)(op->tile ? w->kernel_width : 1) * SVIT_PART_BYTES);
    const uint64_t sums = (uint64_t)(l.sets * op->input.groups * op->set_bits) * l.pitch;
    l.sink_at = l.currents_at +
                aligned(sums * (op->block_rows ? sizeof(int32_t) : sizeof(int16_t)));
    l.bytes = l.sink_at +
              svit_sink_scratch(&op->sink, l.pitch, padded(op->outputs), current_type(op));
    return l;
}

uint64_t svit_sparse_scratch(const op_sparse *op) { return layout_of(op).bytes; }

/* A layer at work. */
typedef struct layer {
    const run_state *run;
    const op_sparse *op;
    sparse_layout layout;
    row_weights weights; /* of all outputs */
    int is_int4;
    uint16_t *records;
    int32_t *columns; /* by slot the column that is listed there */
    list_part *parts;
    uint8_t *currents;
    list_ends buckets; /* beginnings of the lists that are being made */
    list_ends made;    /* and their ends so far */
} layer;

/* -- Lists ----------------------------------------------------------------------------------- */

static void begin_lists(layer *l) {
    for (int32_t set = 0; set < l->layout.sets; set++)
        memcpy(l->made.ends + set * SVIT_PATTERNS, l->buckets.ends + set * SVIT_PATTERNS,
               sizeof *l->made.ends << l->op->set_bits);
}

/* The lists that were made, as records side by side. Lists are short: COPIED entries are written
 * without asking how many there are, for which records have room, and which costs less than guessing
 * their lengths wrong. */
static void keep_lists(const layer *l, uint16_t *record) {
    for (int32_t set = 0; set < l->layout.sets; set++, record += l->layout.record) {
        uint32_t end = SVIT_RECORD_HEAD, patterns = 0;
        for (int32_t p = 1; p < SVIT_PATTERNS; p++) {
            record[p] = (uint16_t)end;
            if (p >> l->op->set_bits) continue;
            const uint16_t *from = l->buckets.ends[set * SVIT_PATTERNS + p];
            const uint16_t *const behind = l->made.ends[set * SVIT_PATTERNS + p];
            if (from == behind) continue;
            patterns |= 1u << p;
            uint16_t *to = record + end;
            end += (uint32_t)(behind - from);
            do {
                memcpy(to, from, COPIED * sizeof *to);
                to += COPIED;
                from += COPIED;
            } while (from < behind);
        }
        record[0] = (uint16_t)patterns;
        record[SVIT_PATTERNS] = (uint16_t)end;
    }
}

/* List a column of a window's pixels, by group and plane. */
static void list_column(layer *l, int32_t top, int32_t column, uint16_t *record) {
    const op_sparse *op = l->op;
    const window_ref *g = &op->window;
    const uint8_t *plane = l->run->arena + op->input.offset;
    for (int32_t i = 0; i < op->input.groups * op->input.planes; i++) {
        begin_lists(l);
        for (int32_t ky = 0; ky < g->kernel_height; ky++) {
            const int32_t row = top + ky * g->dilation_y;
            if (row < 0 || row >= g->height) continue;
            const size_t pixel = (size_t)row * (size_t)g->width + (size_t)column;
            (void)l->run->kernels->list_active(plane + pixel * (size_t)g->channels, g->channels,
                                               ky * g->kernel_width * g->channels, &l->made);
        }
        keep_lists(l, record);
        record += (size_t)l->layout.sets * l->layout.record;
        plane += op->input.elements;
    }
}

/* -- Sums ------------------------------------------------------------------------------------ */

/* Where the sums of a set of bits begin. */
static size_t sums_of(const layer *l, int32_t group, int32_t set) {
    return (size_t)((group * l->layout.sets + set) * l->op->set_bits) * l->layout.pitch;
}

/* What becomes of a group's sums before those of a plane are added: planes come from the last to the
 * first, of which each counts twice as much as the one after it, or as much. */
static int32_t before_plane(const op_sparse *op, int32_t plane) {
    if (plane == op->input.planes - 1) return CURRENTS_CLEARED;
    return op->input.binary ? CURRENTS_DOUBLED : CURRENTS_KEPT;
}

/* Weights of some outputs. */
static row_weights weights_of(const layer *l, int32_t first, int32_t outputs) {
    row_weights part = l->weights;
    part.rows += l->is_int4 ? first / 2 : first;
    if (l->is_int4) part.multipliers += first;
    part.outputs = outputs;
    return part;
}

/* Add the weight rows of a list to the currents that begin at `at`. */
static void add_rows(const layer *l, row_lists *lists, int32_t set, const row_weights *weights,
                     size_t at) {
    const op_sparse *op = l->op;
    const svit_kernels *kernels = l->run->kernels;
    const size_t pitch = l->layout.pitch;
    int16_t *narrow = (int16_t *)(void *)l->currents + at;
    int32_t *wide = (int32_t *)(void *)l->currents + at;
    const int32_t bits = op->input.step_bits * op->input.steps_per_group - op->set_bits * set;
    lists->set_bits = op->set_bits;
    lists->bits = bits < op->set_bits ? bits : op->set_bits;
    if (op->block_rows && l->is_int4)
        kernels->sum_rows_int4_wide(lists, weights, op->block_rows, wide, pitch);
    else if (op->block_rows)
        kernels->sum_rows_wide(lists, weights, op->block_rows, wide, pitch);
    else if (l->is_int4)
        kernels->sum_rows_int4(lists, weights, narrow, pitch);
    else
        kernels->sum_rows(lists, weights, narrow, pitch);
}

/* Have each step's current be the sum of those of its bits. */
static void merge_bits(const layer *l, int32_t outputs) {
    const int32_t bits = l->op->input.step_bits;
    const size_t pitch = l->layout.pitch;
    int16_t *narrow = (int16_t *)(void *)l->currents;
    int32_t *wide = (int32_t *)(void *)l->currents;
    for (int32_t t = 0; t < l->op->input.steps; t++)
        for (int32_t n = 0; n < outputs; n++) {
            uint32_t sum = 0; /* wraps where a file lies about its sums */
            for (int32_t b = 0; b < bits; b++) {
                const size_t at = (size_t)(t * bits + b) * pitch + (size_t)n;
                const int32_t part = l->op->block_rows ? wide[at] : narrow[at];
                sum += (uint32_t)part;
            }
            if (l->op->block_rows)
                wide[(size_t)t * pitch + (size_t)n] = (int32_t)sum;
            else
                narrow[(size_t)t * pitch + (size_t)n] = (int16_t)sum;
        }
}

/* -- Tiles of positions ------------------------------------------------------------------------ */

static uint16_t *records_of(const layer *l, int32_t column) {
    return l->records +
           (size_t)(column % l->layout.slots) * (size_t)l->layout.records * l->layout.record;
}

/* List the columns that a tile's windows read and that are not listed yet. */
static void list_tile(layer *l, int32_t y, int32_t x, int32_t count) {
    const window_ref *g = &l->op->window;
    const int32_t top = y * g->stride_y - g->pad_top;
    for (int32_t i = 0; i < count; i++)
        for (int32_t kx = 0; kx < g->kernel_width; kx++) {
            const int32_t column = (x + i) * g->stride_x - g->pad_left + kx * g->dilation_x;
            if (column < 0 || column >= g->width) continue;
            int32_t *listed = l->columns + column % l->layout.slots;
            if (*listed == column) continue;
            list_column(l, top, column, records_of(l, column));
            *listed = column;
        }
}

/* The first records of a window's columns; gives how many there are. */
static int32_t find_parts(const layer *l, int32_t x) {
    const window_ref *g = &l->op->window;
    int32_t count = 0;
    for (int32_t kx = 0; kx < g->kernel_width; kx++) {
        const int32_t column = x * g->stride_x - g->pad_left + kx * g->dilation_x;
        if (column < 0 || column >= g->width) continue;
        l->parts[count].record = records_of(l, column);
        l->parts[count].first = (size_t)kx * (size_t)g->channels;
        count++;
    }
    return count;
}

/* Currents of a window, of some outputs. */
static void sum_window(layer *l, int32_t x, const row_weights *weights) {
    const op_sparse *op = l->op;
    row_lists lists;
    lists.parts = l->parts;
    lists.count = find_parts(l, x);
    const int32_t planes = op->input.planes, sets = l->layout.sets;
    int32_t now = 0; /* number of the records that parts point to */
    for (int32_t group = 0; group < op->input.groups; group++)
        for (int32_t plane = planes - 1; plane >= 0; plane--)
            for (int32_t set = 0; set < sets; set++) {
                const int32_t number = (group * planes + plane) * sets + set;
                const ptrdiff_t moved = (ptrdiff_t)(number - now) * (ptrdiff_t)l->layout.record;
                now = number;
                lists.patterns = 0;
                for (int32_t i = 0; i < lists.count; i++) {
                    l->parts[i].record += moved;
                    lists.patterns |= l->parts[i].record[0];
                }
                lists.before = before_plane(op, plane);
                add_rows(l, &lists, set, weights, sums_of(l, group, set));
            }
}

static void run_tile(layer *l, sink *sink, int32_t y, int32_t x, int32_t count) {
    const int32_t outputs = l->op->outputs;
    list_tile(l, y, x, count);
    for (int32_t first = 0; first < outputs; first += SVIT_COLUMNS) {
        const int32_t left = outputs - first, part = left < SVIT_COLUMNS ? left : SVIT_COLUMNS;
        const row_weights weights = weights_of(l, first, part);
        for (int32_t i = 0; i < count; i++) {
            sum_window(l, x + i, &weights);
            if (l->op->input.step_bits > 1) merge_bits(l, part);
            svit_sink_position(sink, y, x + i, l->currents, first, part);
        }
    }
}

static void run_tiles(layer *l, sink *sink, int32_t begin, int32_t end) {
    const int32_t width = l->op->window.out_width;
    for (int32_t at = begin; at < end;) {
        const int32_t y = at / width, x = at % width;
        if (at == begin || x == 0)
            for (int32_t i = 0; i < l->layout.slots; i++) l->columns[i] = NO_COLUMN;
        int32_t count = l->op->tile;
        if (count > width - x) count = width - x;
        if (count > end - at) count = end - at;
        run_tile(l, sink, y, x, count);
        at += count;
    }
}

/* -- Pieces ------------------------------------------------------------------------------------ */

/* A window whose inputs are listed piece by piece. */
typedef struct pieces {
    layer *layer;
    int32_t group;
    int32_t listed; /* inputs in the buckets */
    int32_t before; /* what becomes of currents before the next piece is added */
} pieces;

static void begin_piece(pieces *p) {
    begin_lists(p->layer);
    p->listed = 0;
}

/* Add the rows of the inputs in the buckets, and begin the next piece. */
static void add_piece(pieces *p) {
    layer *l = p->layer;
    keep_lists(l, l->records);
    for (int32_t set = 0; set < l->layout.sets; set++) {
        l->parts[0].record = l->records + (size_t)set * l->layout.record;
        l->parts[0].first = 0;
        row_lists lists;
        lists.parts = l->parts;
        lists.count = 1;
        lists.patterns = l->parts[0].record[0];
        lists.before = p->before;
        const size_t at = sums_of(l, p->group, set);
        const int32_t outputs = l->op->outputs;
        for (int32_t first = 0; first < outputs; first += SVIT_COLUMNS) {
            const int32_t left = outputs - first;
            const row_weights weights =
                weights_of(l, first, left < SVIT_COLUMNS ? left : SVIT_COLUMNS);
            add_rows(l, &lists, set, &weights, at + (size_t)first);
        }
    }
    p->before = CURRENTS_KEPT;
    begin_piece(p);
}

static void list_inputs(pieces *p, const uint8_t *bytes, int32_t n, int32_t first) {
    layer *l = p->layer;
    for (int32_t at = 0; at < n; at += CHUNK) {
        const int32_t count = n - at < CHUNK ? n - at : CHUNK;
        if (p->listed > l->op->listed) add_piece(p);
        p->listed += l->run->kernels->list_active(bytes + at, count, first + at, &l->made);
    }
}

/* List a row of a window: pixels that lie side by side are one run of inputs. */
static void list_row(pieces *p, const uint8_t *plane, int32_t ky, int32_t row, int32_t left) {
    const window_ref *g = &p->layer->op->window;
    const uint8_t *pixels = plane + (size_t)row * (size_t)g->width * (size_t)g->channels;
    const int32_t number = ky * g->kernel_width * g->channels;
    if (g->dilation_x == 1) {
        const int32_t skipped = left < 0 ? -left : 0;
        int32_t end = g->kernel_width;
        if (left + end > g->width) end = g->width - left;
        if (end > skipped)
            list_inputs(p, pixels + (size_t)(left + skipped) * (size_t)g->channels,
                        (end - skipped) * g->channels, number + skipped * g->channels);
        return;
    }
    for (int32_t kx = 0; kx < g->kernel_width; kx++) {
        const int32_t column = left + kx * g->dilation_x;
        if (column >= 0 && column < g->width)
            list_inputs(p, pixels + (size_t)column * (size_t)g->channels, g->channels,
                        number + kx * g->channels);
    }
}

static void sum_pieces(pieces *p, int32_t y, int32_t x) {
    const op_sparse *op = p->layer->op;
    const window_ref *g = &op->window;
    const int32_t top = y * g->stride_y - g->pad_top, left = x * g->stride_x - g->pad_left;
    const uint8_t *bytes = p->layer->run->arena + op->input.offset;
    for (p->group = 0; p->group < op->input.groups; p->group++) {
        for (int32_t plane = op->input.planes - 1; plane >= 0; plane--) {
            const uint8_t *from = bytes + (size_t)plane * (size_t)op->input.elements;
            p->before = before_plane(op, plane);
            for (int32_t ky = 0; ky < g->kernel_height; ky++) {
                const int32_t row = top + ky * g->dilation_y;
                if (row >= 0 && row < g->height) list_row(p, from, ky, row, left);
            }
            add_piece(p);
        }
        bytes += (size_t)op->input.planes * (size_t)op->input.elements;
    }
}

static void run_pieces(layer *l, sink *sink, int32_t begin, int32_t end) {
    const int32_t width = l->op->window.out_width;
    pieces p = {l, 0, 0, CURRENTS_CLEARED};
    begin_piece(&p);
    for (int32_t at = begin; at < end; at++) {
        sum_pieces(&p, at / width, at % width);
        if (l->op->input.step_bits > 1) merge_bits(l, l->op->outputs);
        svit_sink_position(sink, at / width, at % width, l->currents, 0, l->op->outputs);
    }
}

/* -- A layer ----------------------------------------------------------------------------------- */

static void begin_weights(layer *l) {
    const run_state *run = l->run;
    const op_sparse *op = l->op;
    l->is_int4 = op->weights == WEIGHTS_INT4 && !run->unpacked;
    l->weights.rows =
        run->unpacked ? run->unpacked : (const int8_t *)(run->data + op->weights_offset);
    l->weights.multipliers = run->data + op->multipliers_offset;
    l->weights.stride = (size_t)(l->is_int4 ? (op->outputs + 1) / 2 : op->outputs);
    l->weights.multiplier_stride = (size_t)op->outputs;
    l->weights.group_rows = op->group_rows;
    l->weights.outputs = op->outputs;
}

static void begin_layer(layer *l, const run_state *run, const op_sparse *op) {
    memset(l, 0, sizeof *l);
    l->run = run;
    l->op = op;
    l->layout = layout_of(op);
    begin_weights(l);
    l->records = (uint16_t *)(void *)(run->scratch + l->layout.records_at);
    l->columns = (int32_t *)(void *)(run->scratch + l->layout.columns_at);
    l->parts = (list_part *)(void *)(run->scratch + l->layout.parts_at);
    l->currents = run->scratch + l->layout.currents_at;
    uint16_t *at = (uint16_t *)(void *)run->scratch;
    for (int32_t set = 0; set < l->layout.sets; set++)
        for (int32_t p = 0; p < 1 << op->set_bits; p++, at += l->layout.list)
            l->buckets.ends[set * SVIT_PATTERNS + p] = at;
    l->buckets.sets = l->made.sets = l->layout.sets;
    l->buckets.set_bits = l->made.set_bits = op->set_bits;
}

void svit_run_sparse(const run_state *run, const op_sparse *op) {
    layer l;
    begin_layer(&l, run, op);
    sink sink = svit_sink(run, &op->sink, run->scratch + l.layout.sink_at, op->outputs,
                          l.layout.pitch, current_type(op));
    sink.scale = (const float *)(const void *)(run->data + op->scale_offset);
    sink.bias = (const float *)(const void *)(run->data + op->bias_offset);
    int32_t begin, end;
    svit_sink_positions(&sink, &op->window, &begin, &end);
    if (op->tile)
        run_tiles(&l, &sink, begin, end);
    else
        run_pieces(&l, &sink, begin, end);
}
