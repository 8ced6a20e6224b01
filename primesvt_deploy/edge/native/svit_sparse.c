/* Convolutions of spikes: only the weight rows of active inputs are added.
 *
 * Inputs are listed by their firing pattern over four timesteps; the kernels add the rows of a list
 * once and spread their sum over the timesteps in which the pattern fires.
 *
 * What a window reads is listed by columns of its pixels, which windows side by side share; a window
 * joins the lists of its columns. They are kept for a tile of positions, so that weight rows that
 * were read for one position are still in the cache for the next: SVIT_COLUMNS outputs are computed
 * of all positions of a tile before the next ones. Where memory is short, nothing is kept, and a
 * window's inputs are listed a few at a time.
 */
#include <string.h>

#include "svit_internal.h"
#include "svit_sink.h"

#define COPIED 8 /* entries that are copied at a time */
#define CHUNK 64 /* inputs that are looked at at a time, at most, where lists are short */
#define MOST_LISTED 640 /* inputs that are listed together, at most, where they are not */
#define NO_COLUMN (-1)
#define TURNS 4 /* of each part of a run */
#define PART_BYTES 32 /* of a list_part, on any machine, at most */

/* A column of pixels is listed in pieces, each of some runs of channels of one pixel. */
typedef struct column_pieces {
    int32_t channels; /* of a run */
    int32_t runs;     /* of a pixel */
    int32_t each;     /* runs of a piece */
    int32_t count;    /* of pieces */
} column_pieces;

typedef struct sparse_layout {
    column_pieces pieces;
    int32_t sets;    /* of bits, of one group */
    int32_t records; /* of a column: one for each group, plane, piece and set */
    int32_t slots;   /* columns whose records are kept */
    int32_t parts;   /* records that a window joins, at most */
    size_t list;     /* entries of a list */
    size_t record;   /* entries of a record, its head included */
    size_t pitch;    /* of currents */
    /* In 64 bits everywhere: a file whose sizes overflow a 32-bit size_t must be refused. */
    uint64_t records_at, columns_at, parts_at, joined_at, block_at, currents_at, sink_at, bytes;
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

static column_pieces pieces_of(const window_ref *w) {
    column_pieces p;
    p.runs = (w->channels + MOST_LISTED - 1) / MOST_LISTED;
    p.channels = (w->channels + p.runs - 1) / p.runs;
    p.each = MOST_LISTED / p.channels;
    if (p.each > w->kernel_height) p.each = w->kernel_height;
    p.count = (w->kernel_height * p.runs + p.each - 1) / p.each;
    return p;
}

/* Parts of the scratch memory that depend on how many records are kept. */
static void lay_out_lists(const op_sparse *op, sparse_layout *l) {
    const window_ref *w = &op->window;
    const uint64_t entry = sizeof(uint16_t);
    size_t inputs = (size_t)op->listed + CHUNK, joined = SVIT_RECORD_HEAD + COPIED;
    l->records = l->sets;
    l->slots = l->parts = 1;
    if (op->tile) {
        l->pieces = pieces_of(w);
        inputs = (size_t)l->pieces.channels * (size_t)l->pieces.each;
        l->records *= op->input.groups * op->input.planes * l->pieces.count;
        const int64_t reach = (int64_t)(w->kernel_width - 1) * w->dilation_x + 1;
        l->slots = (int32_t)((int64_t)(op->tile - 1) * w->stride_x + reach);
        l->parts = w->kernel_width * l->pieces.count;
        const int32_t rows = w->kernel_height * w->kernel_width * w->channels;
        if (l->parts > 1) joined += (size_t)rows;
    }
    l->list = inputs + COPIED;
    l->record = SVIT_RECORD_HEAD + inputs + COPIED;
    l->records_at = aligned(((uint64_t)l->sets << op->set_bits) * l->list * entry);
    const uint64_t records = (uint64_t)l->slots * (uint64_t)l->records;
    l->columns_at = l->records_at + aligned(records * l->record * entry);
    l->parts_at = l->columns_at + aligned((uint64_t)l->slots * sizeof(int32_t));
    l->joined_at = l->parts_at + aligned((uint64_t)l->parts * PART_BYTES);
    l->block_at = l->joined_at + aligned(joined * entry);
}

static sparse_layout layout_of(const op_sparse *op) {
    sparse_layout l;
    memset(&l, 0, sizeof l);
    const int32_t bits = op->input.step_bits * op->input.steps_per_group;
    l.sets = (bits + op->set_bits - 1) / op->set_bits;
    l.pitch = current_pitch(op);
    lay_out_lists(op, &l);
    const uint64_t block = op->block_rows ? (uint64_t)op->set_bits * l.pitch : 0;
    l.currents_at = l.block_at + aligned(block * sizeof(int16_t));
    const uint64_t sums = (uint64_t)(l.sets * op->input.groups * op->set_bits) * l.pitch;
    l.sink_at = l.currents_at +
                aligned(sums * (op->block_rows ? sizeof(int32_t) : sizeof(int16_t)));
    l.bytes = l.sink_at +
              svit_sink_scratch(&op->sink, l.pitch, padded(op->outputs), current_type(op));
    return l;
}

uint64_t svit_sparse_scratch(const op_sparse *op) { return layout_of(op).bytes; }

typedef uint16_t copied_entries __attribute__((vector_size(COPIED * sizeof(uint16_t))));

/* A record of some of a window's inputs, and what is added to their numbers, COPIED times. */
typedef struct list_part {
    const uint16_t *record;
    uint16_t first[COPIED];
} list_part;

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
    uint16_t *joined; /* the record of a window */
    int16_t *block; /* sums of a block of rows, where `currents` have 32 bits */
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

/* to[i] = from[i] + first[i % COPIED], and some beyond. Lists are short: COPIED entries are written
 * without asking how many there are, for which records have room, and which costs less than guessing
 * their lengths wrong. */
static inline void copy_entries(const uint16_t *from, int32_t count, const copied_entries *first,
                                uint16_t *to) {
    for (int32_t i = 0;;) {
        copied_entries taken;
        memcpy(&taken, from + i, sizeof taken);
        taken += *first;
        memcpy(to + i, &taken, sizeof taken);
        i += COPIED;
        if (__builtin_expect(i >= count, 1)) break;
    }
}

/* The lists that were made, as records side by side. */
static void keep_lists(const layer *l, uint16_t *record) {
    const copied_entries as_they_are = {0};
    for (int32_t set = 0; set < l->layout.sets; set++, record += l->layout.record) {
        uint32_t end = SVIT_RECORD_HEAD, places = 0;
        int32_t p = 1;
        for (; p >> l->op->set_bits == 0; p++) {
            const uint32_t bucket = (uint32_t)(set * SVIT_PATTERNS) + pattern_of(p);
            const uint16_t *from = l->buckets.ends[bucket];
            const int32_t count = (int32_t)(l->made.ends[bucket] - from);
            record[p] = (uint16_t)end;
            places |= (uint32_t)(count > 0) << p;
            copy_entries(from, count, &as_they_are, record + end);
            end += (uint32_t)count;
        }
        for (; p <= SVIT_PATTERNS; p++) record[p] = (uint16_t)end;
        record[0] = (uint16_t)places;
    }
}

/* List a piece of a column of a window's pixels, whose bytes begin at `plane`. */
static void list_piece(layer *l, const uint8_t *plane, int32_t top, int32_t column, int32_t piece) {
    const window_ref *g = &l->op->window;
    const column_pieces *p = &l->layout.pieces;
    int32_t end = (piece + 1) * p->each;
    if (end > g->kernel_height * p->runs) end = g->kernel_height * p->runs;
    for (int32_t run = piece * p->each; run < end; run++) {
        const int32_t ky = p->runs == 1 ? run : run / p->runs;
        const int32_t row = top + ky * g->dilation_y;
        if (row < 0 || row >= g->height) continue;
        const int32_t first = (run - ky * p->runs) * p->channels;
        const int32_t left = g->channels - first;
        const size_t pixel = (size_t)row * (size_t)g->width + (size_t)column;
        (void)l->run->kernels->list_active(
            plane + pixel * (size_t)g->channels + first, left < p->channels ? left : p->channels,
            ky * g->kernel_width * g->channels + first, &l->made);
    }
}

/* List a column of a window's pixels, by group and plane, piece and set. */
static void list_column(layer *l, int32_t top, int32_t column, uint16_t *record) {
    const op_sparse *op = l->op;
    const uint8_t *plane = l->run->arena + op->input.offset;
    for (int32_t i = 0; i < op->input.groups * op->input.planes; i++) {
        for (int32_t piece = 0; piece < l->layout.pieces.count; piece++) {
            begin_lists(l);
            list_piece(l, plane, top, column, piece);
            keep_lists(l, record);
            record += (size_t)l->layout.sets * l->layout.record;
        }
        plane += op->input.elements;
    }
}

/* Join records, `moved` entries behind those that parts point to, list by list. */
static void join(const layer *l, int32_t parts, size_t moved) {
    uint16_t *const joined = l->joined;
    uint32_t places = 0, end = SVIT_RECORD_HEAD;
    for (int32_t i = 0; i < parts; i++) places |= l->parts[i].record[moved];
    joined[0] = (uint16_t)places;
    for (; places; places &= places - 1) { /* nobody asks for lists of others */
        const int p = __builtin_ctz(places);
        joined[p] = (uint16_t)end;
        for (int32_t i = 0; i < parts; i++) {
            const uint16_t *record = l->parts[i].record + moved;
            const int32_t count = record[p + 1] - record[p];
            copied_entries first;
            memcpy(&first, l->parts[i].first, sizeof first);
            copy_entries(record + record[p], count, &first, joined + end);
            end += (uint32_t)count;
        }
        joined[p + 1] = (uint16_t)end;
    }
    joined[SVIT_PATTERNS] = (uint16_t)end;
}

/* -- Sums ------------------------------------------------------------------------------------ */

/* Where the sums of a set of bits begin. */
static size_t sums_of(const layer *l, int32_t group, int32_t set) {
    return (size_t)((group * l->layout.sets + set) * l->op->set_bits) * l->layout.pitch;
}

/* Weights of some outputs. */
static row_weights weights_of(const layer *l, int32_t first, int32_t outputs) {
    row_weights part = l->weights;
    part.rows += l->is_int4 ? first / 2 : first;
    if (l->is_int4) part.multipliers += first;
    part.outputs = outputs;
    return part;
}

/* Bits of a set that are used: the last set of a byte may have fewer. */
static int32_t bits_of(const op_sparse *op, int32_t set) {
    const int32_t left = op->input.step_bits * op->input.steps_per_group - op->set_bits * set;
    return left < op->set_bits ? left : op->set_bits;
}

static void sum_rows(const layer *l, const row_lists *lists, const row_weights *weights,
                     int16_t *currents) {
    const svit_kernels *kernels = l->run->kernels;
    (l->is_int4 ? kernels->sum_rows_int4 : kernels->sum_rows)(lists, weights, currents,
                                                              l->layout.pitch);
}

/* Sums of 32 bits of a set of bits, of which the last rows are still summed in 16 bits. */
typedef struct wide_sums {
    const layer *layer;
    const row_weights *weights;
    int32_t *currents;
    int32_t bits;
    int32_t is_begun; /* whether currents hold sums */
    int32_t doubled;  /* how often these are doubled before the next ones are added */
    int32_t rows; /* whose sum l->block holds, a row as often as it counts; 0: it holds nothing */
    int32_t planes; /* of these */
} wide_sums;

/* Add what is summed in 16 bits. */
static void flush(wide_sums *w) {
    const layer *l = w->layer;
    if (!w->rows) return;
    l->run->kernels->add_block(l->block, w->bits, w->is_begun ? w->doubled : CURRENTS_CLEARED,
                               w->weights->outputs, w->currents, l->layout.pitch);
    w->is_begun = 1;
    w->doubled = 0;
    w->rows = 0;
}

/* Of the lists that are left those whose rows can be added in 16 bits; one at least. */
static uint32_t block_of(const row_lists *lists, uint32_t left, int32_t most, int32_t *rows) {
    uint32_t block = 0;
    *rows = 0;
    for (; left; left &= left - 1) {
        const int place = __builtin_ctz(left);
        const int32_t more = lists->record[place + 1] - lists->record[place];
        if (block && more > most - *rows) continue;
        block |= left & -left;
        *rows += more;
    }
    return block;
}

/* Add the rows of lists whose sum 16 bits hold. */
static void add_block_of(wide_sums *w, row_lists *lists, int32_t rows) {
    flush(w);
    lists->before = CURRENTS_CLEARED;
    sum_rows(w->layer, lists, w->weights, w->layer->block);
    w->rows = rows;
    w->planes = 1;
}

/* Add rows block by block, each of which 16 bits hold. */
static void add_blocks(wide_sums *w, row_lists *lists) {
    const int32_t most = w->layer->op->block_rows;
    for (uint32_t left = lists->places; left; left &= ~lists->places) {
        int32_t rows;
        lists->places = block_of(lists, left, most, &rows);
        if (rows <= most) {
            add_block_of(w, lists, rows);
            continue;
        }
        /* One list, which is taken for a shorter one as often as need be. */
        uint16_t *const begin =
            (uint16_t *)(uintptr_t)lists->record + __builtin_ctz(lists->places);
        const uint16_t first = begin[0], end = begin[1];
        for (int32_t at = first; at < end; at += most) {
            begin[0] = (uint16_t)at;
            begin[1] = (uint16_t)(end - at < most ? end : at + most);
            add_block_of(w, lists, begin[1] - at);
        }
        begin[0] = first;
        begin[1] = end;
    }
}

/* Add the rows of a plane, before which what is there is doubled, or kept: planes come from the last
 * to the first, of which each counts twice as much as the one after it, or as much. */
static void add_plane(wide_sums *w, row_lists *lists, int32_t is_doubled) {
    const layer *l = w->layer;
    const int32_t rows = lists->record[SVIT_PATTERNS] - SVIT_RECORD_HEAD;
    const int64_t together = (int64_t)w->rows * (1 + is_doubled) + rows;
    w->doubled += is_doubled;
    if (w->rows && (w->planes < l->op->together || together <= l->op->block_rows)) {
        lists->before = is_doubled;
        sum_rows(l, lists, w->weights, l->block);
        w->rows = (int32_t)together;
        w->planes++;
        return;
    }
    if (w->rows) { /* which are summed, but not doubled yet */
        w->doubled -= is_doubled;
        flush(w);
        w->doubled = is_doubled;
    }
    add_blocks(w, lists);
}

/* Have currents hold all sums. */
static void end_wide(wide_sums *w) {
    flush(w);
    if (w->is_begun && !w->doubled) return;
    const int32_t outputs = w->weights->outputs, doubled = w->doubled;
    for (int32_t bit = 0; bit < w->bits; bit++) {
        int32_t *sums = w->currents + (size_t)bit * w->layer->layout.pitch;
        if (!w->is_begun) {
            memset(sums, 0, (size_t)outputs * sizeof *sums);
            continue;
        }
        for (int32_t n = 0; n < outputs; n++) sums[n] = (int32_t)((uint32_t)sums[n] << doubled);
    }
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

/* The first records of a window's columns, piece by piece; gives how many there are. */
static int32_t find_parts(const layer *l, int32_t x) {
    const window_ref *g = &l->op->window;
    const size_t piece = (size_t)l->layout.sets * l->layout.record;
    int32_t count = 0;
    for (int32_t kx = 0; kx < g->kernel_width; kx++) {
        const int32_t column = x * g->stride_x - g->pad_left + kx * g->dilation_x;
        if (column < 0 || column >= g->width) continue;
        const uint16_t *record = records_of(l, column);
        for (int32_t i = 0; i < l->layout.pieces.count; i++, record += piece, count++) {
            l->parts[count].record = record;
            for (int32_t k = 0; k < COPIED; k++)
                l->parts[count].first[k] = (uint16_t)(kx * g->channels);
        }
    }
    return count;
}

/* Lists of a window: the records `moved` entries behind those that parts point to, joined. */
static row_lists lists_of(const layer *l, int32_t parts, size_t moved) {
    row_lists lists;
    if (parts == 1 && l->layout.parts == 1) {
        lists.record = l->parts[0].record + moved;
    } else {
        join(l, parts, moved);
        lists.record = l->joined;
    }
    lists.places = lists.record[0];
    lists.bits = lists.before = 0;
    return lists;
}

/* Currents of a window, of some outputs. */
static void sum_window(layer *l, int32_t x, const row_weights *weights) {
    const op_sparse *op = l->op;
    const sparse_layout *layout = &l->layout;
    const int32_t parts = find_parts(l, x), planes = op->input.planes;
    const size_t plane_size =
        (size_t)layout->pieces.count * (size_t)layout->sets * layout->record;
    for (int32_t group = 0; group < op->input.groups; group++)
        for (int32_t set = 0; set < layout->sets; set++) {
            const size_t at = sums_of(l, group, set);
            wide_sums wide = {l, weights, (int32_t *)(void *)l->currents + at, bits_of(op, set),
                              0, 0, 0, 0};
            for (int32_t plane = planes - 1; plane >= 0; plane--) {
                const size_t moved = (size_t)(group * planes + plane) * plane_size +
                                     (size_t)set * layout->record;
                row_lists lists = lists_of(l, parts, moved);
                lists.bits = bits_of(op, set);
                const int32_t is_first = plane == planes - 1;
                if (op->block_rows) {
                    add_plane(&wide, &lists, op->input.binary && !is_first);
                    continue;
                }
                lists.before = is_first ? CURRENTS_CLEARED : op->input.binary;
                sum_rows(l, &lists, weights, (int16_t *)(void *)l->currents + at);
            }
            if (op->block_rows) end_wide(&wide);
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

/* Add the rows of a list to the currents of some outputs that begin at `at`. */
static void add_some(const pieces *p, row_lists *lists, const row_weights *weights, size_t at) {
    const layer *l = p->layer;
    lists->places = lists->record[0];
    lists->before = p->before;
    if (l->op->block_rows) {
        const int is_begun = p->before != CURRENTS_CLEARED;
        wide_sums wide = {l, weights, (int32_t *)(void *)l->currents + at, lists->bits,
                          is_begun, is_begun ? p->before : 0, 0, 0};
        add_blocks(&wide, lists);
        end_wide(&wide);
    } else {
        sum_rows(l, lists, weights, (int16_t *)(void *)l->currents + at);
    }
}

/* Add the rows of the inputs in the buckets, and begin the next piece. */
static void add_piece(pieces *p) {
    layer *l = p->layer;
    keep_lists(l, l->records);
    for (int32_t set = 0; set < l->layout.sets; set++) {
        const uint16_t *record = l->records + (size_t)set * l->layout.record;
        row_lists lists = {record, 0, bits_of(l->op, set), 0};
        const size_t at = sums_of(l, p->group, set);
        const int32_t outputs = l->op->outputs;
        for (int32_t first = 0; first < outputs; first += SVIT_COLUMNS) {
            const int32_t left = outputs - first;
            const row_weights weights =
                weights_of(l, first, left < SVIT_COLUMNS ? left : SVIT_COLUMNS);
            add_some(p, &lists, &weights, at + (size_t)first);
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
            p->before = plane == op->input.planes - 1 ? CURRENTS_CLEARED : op->input.binary;
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
    l->joined = (uint16_t *)(void *)(run->scratch + l->layout.joined_at);
    l->block = (int16_t *)(void *)(run->scratch + l->layout.block_at);
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
    const int32_t turns = run->parts > 1 ? TURNS : 1;
    for (int32_t turn = 0; turn < turns; turn++) {
        int32_t begin, end;
        svit_sink_positions(&sink, &op->window, turn, turns, &begin, &end);
        if (op->tile)
            run_tiles(&l, &sink, begin, end);
        else
            run_pieces(&l, &sink, begin, end);
    }
}
