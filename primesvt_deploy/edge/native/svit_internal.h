/* What the engine's files share: the file format, the operators, and the table of kernels. */
#ifndef SVIT_INTERNAL_H
#define SVIT_INTERNAL_H

#include "svit.h"
#include "svit_products.h"

/* -- The file ------------------------------------------------------------------------------
 *
 * header | records of operators, one after another | early stages | data (weights, names)
 *
 * The header has the operators of the last stage. Early stages are `svit_early` records, in the
 * order in which they run, then their operators, likewise. All stages share data and arena.
 *
 * Every field is 32 bits wide and little-endian. Offsets of data count from the start of the data,
 * offsets of buffers and of operators' scratch memory from the start of the arena.
 */

#define SVIT_MAX_STEPS 32   /* timesteps */
#define SVIT_MAX_TAPS 2048  /* pixels of a kernel */
#define SVIT_MAX_RANK 6     /* axes of a strided operand */
#define SVIT_PATTERNS 16 /* firing patterns of up to four bits */
#define SVIT_SETS 8      /* sets of bits in a byte */
#define SVIT_LANE_PAD 32    /* what rows of currents are padded to, in values */
#define SVIT_COLUMNS 192    /* outputs whose weight rows are added at a time */
#define SVIT_SLACK 256      /* bytes behind the data that kernels may read */
#define SVIT_PIXEL_ROWS 32  /* rows of a kernel on pixels */
#define SVIT_MAX_EARLY 31   /* stages before the last one */

#if defined(SVIT_MCU) || (defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M')
#define SVIT_ONLY_ROWS /* no products of counts and weights */
#endif

typedef struct svit_header {
    uint8_t magic[8];
    uint32_t version;
    uint32_t file_bytes;
    uint8_t sha256[32]; /* of the file with these 32 bytes zero */
    uint32_t operators, operators_offset, operators_bytes;
    uint32_t data_offset, data_bytes;
    uint32_t arena_bytes; /* the last SVIT_SLACK of them hold the number of the last run's stage */
    uint32_t scratch_bytes; /* of the operator that needs most, and SVIT_SLACK */
    int32_t timesteps, frames, channels, height, width, classes;
    int32_t takes_pixels;  /* 1: pixels or values; SVIT_PIXELS_ALONE; 0: values alone */
    int32_t input_offset;  /* buffer [frames or 1, height, width, channels], float, of values */
    int32_t logits_offset; /* buffer [classes], float */
    int32_t mean_offset;   /* data: mean and standard deviation by channel, float; -1: none */
    uint32_t early, early_offset; /* stages before the last one */
} svit_header;

/* A stage that runs before the last one. */
typedef struct svit_early {
    uint32_t operators, operators_offset, operators_bytes;
    int32_t timesteps, input_offset, logits_offset; /* as in the header */
    float margin; /* from which on its logits are final */
} svit_early;

/* Spikes: `[groups, planes, positions * channels]` bytes. A bit of a byte is one spike:
 * in group g, bit b belongs to timestep g * steps_per_group + b / step_bits. A count is the sum
 * over the bits of a step and over planes; those of plane p count 2^p where `binary` is 1. */
typedef struct spikes_ref {
    int32_t offset, steps, groups, planes, binary, step_bits, steps_per_group, elements;
} spikes_ref;

/* Real values: `[timesteps, elements]` floats; `steps` is 1 where they do not change over time. */
typedef struct values_ref {
    int32_t offset, steps, elements;
} values_ref;

/* Constants of a neuron (see primesvt_deploy/lowering/lif.py). */
typedef struct neuron_ref {
    float decay, gain, first_shift, shift, threshold, v_reset;
    int32_t hard_reset, levels, half_up;
} neuron_ref;

typedef struct window_ref {
    int32_t channels, height, width; /* of the input */
    int32_t kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left;
    int32_t dilation_y, dilation_x;
    int32_t out_height, out_width;
} window_ref;

enum { SINK_NEURON = 1, SINK_VALUES = 2, SINK_ADD = 3 };

/* Where a layer's currents go, position by position: pooled or not, then into a neuron, or into
 * real values, or added to real values. */
typedef struct sink_ref {
    int32_t kind;
    int32_t steps;  /* of the currents; 1 where they do not change over time */
    int32_t width;  /* of the layer's output, before maxima are taken */
    int32_t pooled; /* whether maxima are taken first */
    window_ref pool;
    neuron_ref neuron;
    spikes_ref spikes; /* of SINK_NEURON */
    values_ref values; /* of SINK_VALUES and SINK_ADD */
    values_ref other;  /* added by SINK_ADD */
} sink_ref;

typedef struct op_head {
    int32_t kind;
    int32_t words; /* of the record, this head included */
    int32_t name_offset;    /* in data */
    int32_t scratch_offset; /* in the arena */
    int32_t observed;    /* channels of the output that an observer gets; 0: it gets none */
} op_head;

enum {
    OP_SPARSE = 1,
    OP_DENSE,
    OP_NEURON,
    OP_SPIKE_POOL,
    OP_VALUE_POOL,
    OP_SPIKE_ADD,
    OP_ELEMENTWISE,
    OP_SPIKE_AND,
    OP_REDUCE,
    OP_MATMUL,
    OP_ATTENTION,
    OP_COPY,
    OP_PIXELS,
    OP_KINDS
};

enum { WEIGHTS_INT8 = 1, WEIGHTS_INT4 = 2, WEIGHTS_FLOAT = 3 };

/* A convolution, or a linear layer as one of a single pixel, of spikes with integer weights.
 * Weights are rows, one for each pixel of the kernel and input channel, of `outputs` values. Those
 * of 4 bits are nibbles: of each SVIT_COLUMNS columns of a row the low ones are the first half. */
typedef struct op_sparse {
    op_head head;
    spikes_ref input;
    window_ref window;
    int32_t outputs;
    int32_t weights, weights_offset, multipliers_offset, group_rows;
    int32_t scale_offset, bias_offset; /* data: float [outputs] */
    int32_t block_rows; /* rows whose sum fits 16 bits; 0: all sums do */
    int32_t together; /* planes whose sum fits 16 bits, at least 1 */
    int32_t set_bits; /* inputs are listed by their pattern in so many bits: 1, 2 or 4 */
    int32_t tile;     /* positions whose lists are kept at a time; 0: no lists are kept */
    int32_t listed;   /* then: active inputs that are listed at a time, and 64 more */
    int32_t gathered; /* positions whose products may be summed at a time instead; 0: none */
    sink_ref sink;
} op_sparse;

/* A convolution of real values or spikes, in float; groups of channels may be separate. */
typedef struct op_dense {
    op_head head;
    int32_t input_is_spikes;
    spikes_ref spikes;
    float unit; /* of a spike */
    values_ref values;
    window_ref window;
    int32_t outputs, groups;
    int32_t weights, weights_offset, scale_offset, bias_offset;
    sink_ref sink;
} op_dense;

typedef struct op_neuron {
    op_head head;
    values_ref input;
    neuron_ref neuron;
    spikes_ref output;
} op_neuron;

typedef struct op_spike_pool {
    op_head head;
    spikes_ref input;
    window_ref window;
    spikes_ref output;
} op_spike_pool;

typedef struct op_value_pool {
    op_head head;
    values_ref input;
    window_ref window;
    values_ref output;
} op_value_pool;

typedef struct op_spike_add {
    op_head head;
    spikes_ref a, b, output; /* binary where it has several planes; it may be `a` itself */
} op_spike_add;

/* An operand with axes: element (i, j, ...) is at base + i * strides[0] + j * strides[1] + ... */
enum { OPERAND_VALUES = 1, OPERAND_SPIKES, OPERAND_DATA, OPERAND_SCALAR };

typedef struct operand_ref {
    int32_t kind;
    int32_t base;
    int32_t strides[SVIT_MAX_RANK];
    values_ref values;
    spikes_ref spikes;
    float unit; /* of a spike; or the scalar */
} operand_ref;

enum { ELEMENTWISE_ADD = 1, ELEMENTWISE_SUB, ELEMENTWISE_MUL, ELEMENTWISE_DIV, ELEMENTWISE_MAX };

/* Axis 0 is time throughout: strides[0] of spikes is not used. */
typedef struct op_elementwise {
    op_head head;
    int32_t function, rank, sizes[SVIT_MAX_RANK];
    operand_ref a, b, output;
} op_elementwise;

typedef struct op_spike_and {
    op_head head;
    int32_t rank, sizes[SVIT_MAX_RANK]; /* without time */
    int32_t base_a, base_b, base_output;
    int32_t strides_a[SVIT_MAX_RANK], strides_b[SVIT_MAX_RANK], strides_output[SVIT_MAX_RANK];
    spikes_ref a, b, output;
} op_spike_and;

enum { REDUCE_SUM = 1, REDUCE_MEAN, REDUCE_MAX };

typedef struct op_reduce {
    op_head head;
    int32_t function, rank, kept; /* the last `rank - kept` axes are reduced */
    int32_t sizes[SVIT_MAX_RANK];
    operand_ref input, output;
} op_reduce;

/* output[b.., m, n] = sum over k of a[b.., m, k] * b[b.., k, n]; sizes are b.., m, n, k. */
typedef struct op_matmul {
    op_head head;
    int32_t rank, sizes[SVIT_MAX_RANK];
    operand_ref a, b, output;
} op_matmul;

/* spikes of unit * (v k^T) q, head by head; q, k, v of one position are heads * size bytes. */
/* Products of every `chunk` steps are added up, and each of these steps reads the sum. Where there
 * are windows, windows * windows of them, `positions` are those of one: every windows-th of every
 * windows-th row, `columns` in a row. */
typedef struct op_attention {
    op_head head;
    spikes_ref q, k, v;
    int32_t positions, heads, key_size, value_size;
    int32_t chunk, windows, columns;
    float unit;
    neuron_ref neuron;
    spikes_ref output;
} op_attention;

typedef struct op_copy {
    op_head head;
    int32_t rank, sizes[SVIT_MAX_RANK];
    operand_ref input, output;
} op_copy;

/* A convolution of the caller's pixels, of a model that takes nothing else. Rows of the kernel are
 * pairs of weight rows, `[kernel_height, pairs, outputs, 2]`, of kernel_width * (channels + 1)
 * weights, and a zero where these are odd: the last channel is 1 in the image, 0 around it. Windows
 * are not dilated. */
typedef struct op_pixels {
    op_head head;
    window_ref window;
    int32_t outputs;
    int32_t weights_offset; /* data: int16 */
    int32_t centre_offset;  /* data: uint8 [channels], subtracted from pixels */
    int32_t scale_offset, bias_offset; /* data: float [outputs] */
    sink_ref sink;
} op_pixels;

/* -- Kernels --------------------------------------------------------------------------------- */

/* A record of active inputs by their firing pattern in a set of bits. The list at place p has those
 * of pattern_of(p): entries record[p] to record[p + 1] are their numbers, in order; bit p of
 * record[0] says whether there are any. */
#define SVIT_RECORD_HEAD (SVIT_PATTERNS + 1)

/* Gray's code: patterns side by side differ in one bit. */
static inline uint32_t pattern_of(int place) { return (uint32_t)place ^ (uint32_t)place >> 1; }

/* What becomes of currents before sums are added: a number of times they are doubled, or this. */
#define CURRENTS_KEPT 0
#define CURRENTS_CLEARED (-1)

/* The active inputs of a window, whose numbers are those of their weight rows. */
typedef struct row_lists {
    const uint16_t *record;
    uint32_t places; /* of lists whose rows are added, a bit for each */
    int32_t bits;   /* that are used: the last set of a byte may have fewer */
    int32_t before; /* what becomes of currents first */
} row_lists;

/* Lists that are being made: ends[s * SVIT_PATTERNS + p] is the end of set s's pattern p. */
typedef struct list_ends {
    uint16_t *ends[SVIT_SETS * SVIT_PATTERNS];
    int32_t sets, set_bits;
} list_ends;

/* Weights of SVIT_COLUMNS outputs at most. */
typedef struct row_weights {
    const int8_t *rows;
    const uint8_t *multipliers; /* int4 */
    size_t stride;              /* bytes of a row */
    size_t multiplier_stride;   /* of the multipliers of a group of rows */
    int32_t group_rows;         /* int4: rows that share a multiplier */
    int32_t outputs;
} row_weights;

/* Rows of the image under a row of windows; the window at x begins at lines[..] + x * step. */
typedef struct pixel_rows {
    const int16_t *lines[SVIT_PIXEL_ROWS];
    int32_t count, pairs; /* rows, and pairs of values of a window in each */
    size_t step;
} pixel_rows;

#define SVIT_FIRE_BYTES 16 /* groups * planes of a layer's spikes, at most */

/* Neurons of one position: `size` of them, whose step t is at currents[t * pitch]. */
typedef struct fire_task {
    const neuron_ref *neuron;
    const float *scale, *bias; /* of integer currents; readable up to a multiple of 16 */
    size_t pitch;
    int32_t size, steps, is_static;
    int32_t planes, step_bits, steps_per_byte, bytes; /* how spikes are stored */
    uint8_t *patterns;
    size_t patterns_pitch; /* from byte to byte of a neuron */
} fire_task;

typedef struct svit_kernels {
    const char *name;
    /* Append the active ones of `n` inputs, numbered from `first` on, to the lists of their
     * patterns, and give their number. Lists of pattern 0 need room for one entry. */
    int32_t (*list_active)(const uint8_t *bytes, int32_t n, int32_t first, list_ends *lists);
    /* currents[bit * pitch + n] += sums of int8 rows, in 16 bits. */
    void (*sum_rows)(const row_lists *lists, const row_weights *weights, int16_t *currents,
                     size_t pitch);
    void (*sum_rows_int4)(const row_lists *lists, const row_weights *weights, int16_t *currents,
                          size_t pitch);
    /* Add the sums of a block of rows, 16 bits of each of `bits` steps, to currents of which
     * `before` says what becomes of them first; both are padded. */
    void (*add_block)(const int16_t *block, int32_t bits, int32_t before, int32_t outputs,
                      int32_t *currents, size_t pitch);
    /* Fire neurons on integer currents, current * scale + bias, or on float ones as they are. */
    void (*fire_int16)(const fire_task *task, const int16_t *currents);
    void (*fire_int32)(const fire_task *task, const int32_t *currents);
    void (*fire_float)(const fire_task *task, const float *currents);
    /* sums[k] += x[i] * weights[rows[i] * stride + k], for each i in order; sums are padded. */
    void (*sum_scaled)(const float *x, const int32_t *rows, int32_t count, const float *weights,
                       size_t stride, float *sums, int32_t n);
    void (*sum_scaled_int8)(const float *x, const int32_t *rows, int32_t count,
                            const int8_t *weights, size_t stride, float *sums, int32_t n);
    /* sums[i] += bit `bit` of bytes[p * stride + i], for each of the places p */
    void (*count_bits)(const uint8_t *bytes, size_t stride, int32_t places, int32_t bit, int32_t n,
                       uint16_t *sums);
    /* Attention: sums of v where k fires, by step and key; and sums of these where q fires. Rows
     * of `pitch` are padded; `steps` of add_products has a bit for each step; no sum of narrow
     * ones exceeds 15 bits. */
    void (*add_products)(const uint8_t *k, const uint8_t *v, int32_t keys, int32_t values,
                         uint32_t steps, size_t pitch, uint16_t *table);
    void (*read_products)(const uint8_t *q, const uint16_t *table, int32_t keys, int32_t values,
                          int32_t steps, int is_narrow, size_t pitch, int32_t *currents);
    /* most[i] = max(most[i], row[i]); both are padded. */
    void (*max_int16)(int16_t *most, const int16_t *row, int32_t n);
    /* sums[i * pitch + n] of `count` windows from x on; values are at most 255 in size. */
    void (*sum_pixels)(const pixel_rows *rows, int32_t x, int32_t count, const int16_t *weights,
                       int32_t outputs, int32_t *sums, size_t pitch);
    const svit_products *(*products)(void); /* or null */
} svit_kernels;

const svit_kernels *svit_choose_kernels(void);

/* -- What the files of the engine call in one another ------------------------------------------ */

/* One run of a model. */
typedef struct run_state {
    const svit_kernels *kernels;
    const uint8_t *data; /* of the file */
    uint8_t *arena;
    uint8_t *scratch;
    int32_t part, parts; /* which part of each operator's output this is; 0 of 1: all of it */
    const uint8_t *pixels; /* of the caller, in a model that takes pixels alone */
    const int8_t *unpacked; /* the operator's rows of 4-bit weights as bytes, or null */
} run_state;

/* The range of `count` places that belongs to a part of a run. */
static inline void share_of(const run_state *run, int32_t count, int32_t *first, int32_t *end) {
    *first = (int32_t)((int64_t)count * run->part / run->parts);
    *end = (int32_t)((int64_t)count * (run->part + 1) / run->parts);
}

static inline float *floats_at(const run_state *run, int32_t offset) {
    return (float *)(void *)(run->arena + offset);
}

static inline size_t padded(int32_t n) {
    return ((size_t)n + SVIT_LANE_PAD - 1) / SVIT_LANE_PAD * SVIT_LANE_PAD;
}

/* Run any operator. Those that are shared are split among the parts of a run; any other is run by
 * the first part alone. */
void svit_run_operator(const run_state *run, const op_head *op);
int svit_is_shared(const op_head *op);
void svit_run_sparse(const run_state *run, const op_sparse *op);
void svit_run_products(const run_state *run, const op_sparse *op);
void svit_run_dense(const run_state *run, const op_dense *op);
void svit_run_neuron(const run_state *run, const op_neuron *op);
void svit_run_attention(const run_state *run, const op_attention *op);
void svit_run_spike_pool(const run_state *run, const op_spike_pool *op);
void svit_run_value_pool(const run_state *run, const op_value_pool *op);
void svit_run_spike_add(const run_state *run, const op_spike_add *op);
void svit_run_spike_and(const run_state *run, const op_spike_and *op);
void svit_run_elementwise(const run_state *run, const op_elementwise *op);
void svit_run_reduce(const run_state *run, const op_reduce *op);
void svit_run_matmul(const run_state *run, const op_matmul *op);
void svit_run_copy(const run_state *run, const op_copy *op);
void svit_run_pixels(const run_state *run, const op_pixels *op);

/* Whether all products of a layer take less time than the rows of its active inputs do. */
int svit_takes_products(const run_state *run, const op_sparse *op);

/* Neurons of a layer that are stored at `patterns`, as a task without its currents. */
fire_task svit_fire_task(const neuron_ref *neuron, const spikes_ref *spikes, uint8_t *patterns);

/* The largest count that a spike tensor has room for. */
int32_t svit_largest_count(const spikes_ref *spikes);

/* Count of a spike tensor at a step, for an element of it. */
int32_t svit_count(const spikes_ref *spikes, const uint8_t *bytes, int32_t step, int32_t element);

/* Bytes of an operator's 4-bit weights once they are unpacked; 0: it has none. */
uint64_t svit_unpacked_size(const op_head *op);

/* Bytes of the record of an operator; 0 where there is no such kind. */
size_t svit_record_bytes(int32_t kind);

/* Bytes of scratch memory of an operator; 0 where it needs none. */
uint64_t svit_scratch_bytes(const op_head *op);
uint64_t svit_sparse_scratch(const op_sparse *op);
uint64_t svit_products_scratch(const op_sparse *op);
uint64_t svit_dense_scratch(const op_dense *op);
uint64_t svit_attention_scratch(const op_attention *op);
uint64_t svit_pixels_scratch(const op_pixels *op);

/* Where the rows of an operator of any stage are unpacked, behind one another for the operators of
 * the last stage, with which others share them; null: nowhere. */
const int8_t *svit_unpacked_rows(const svit_header *header, const op_head *op,
                                 const int8_t *unpacked);

/* Any stage of a model; of the last one with a margin of 0. */
svit_early svit_stage_at(const svit_header *header, uint32_t stage);

/* SVIT_OK, or SVIT_ERROR_INVALID where an offset, size or index is out of bounds. */
int svit_check(const svit_header *header);

void svit_sha256(const uint8_t *data, size_t bytes, size_t hole, uint8_t digest[32]);

#endif
