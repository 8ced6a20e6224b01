/* The kernels, once for every instruction set: a file that includes this defines
 *
 *     SVIT_BYTES    bytes of a vector register
 *     SVIT_REGISTERS how many vector registers there are
 *     SVIT_KERNELS  name of the table that this defines
 *     SVIT_NAME     what svit_kernels_name says
 *     SVIT_PRODUCTS what chooses kernels of products, or NULL
 *
 * and, where the compiler makes a poor job of them, the conversions WIDEN_* and NARROW_INTS, and
 * ADD_PAIRS.
 * GNU vector extensions (gcc, clang) compile to the instruction set that is selected there.
 */
#include <string.h>

#include "svit_internal.h"

#define LANES (SVIT_BYTES / 4)
#define WIDE (SVIT_BYTES / 2)

typedef float vec_f __attribute__((vector_size(LANES * 4)));
typedef int32_t vec_i __attribute__((vector_size(LANES * 4)));
typedef int16_t vec_h __attribute__((vector_size(LANES * 2)));
typedef uint16_t vec_uh __attribute__((vector_size(LANES * 2)));
typedef uint8_t vec_b __attribute__((vector_size(LANES)));
typedef int16_t wide_h __attribute__((vector_size(WIDE * 2)));
typedef uint16_t wide_uh __attribute__((vector_size(WIDE * 2)));
typedef uint32_t vec_ui __attribute__((vector_size(LANES * 4)));
typedef int8_t wide_b __attribute__((vector_size(WIDE)));
typedef uint8_t wide_ub __attribute__((vector_size(WIDE)));

#define INLINE static inline __attribute__((always_inline))
#define LOAD(type, from) \
    (__extension__({ type loaded_; memcpy(&loaded_, (from), sizeof loaded_); loaded_; }))
#define STORE(to, value) \
    (__extension__({ __typeof__(value) stored_ = (value); memcpy((to), &stored_, sizeof stored_); }))
/* Sums and products of 16 bits that wrap where a file lies about its sums. */
#define ADD(a, b) ((wide_h)((wide_uh)(a) + (wide_uh)(b)))
#define MULTIPLY(a, b) ((wide_h)((wide_uh)(a) * (wide_uh)(b)))
#define CONVERT(type, value) __builtin_convertvector((value), type)

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#ifndef WIDEN_BYTES
#define WIDEN_BYTES(bytes) CONVERT(wide_h, bytes)
#define WIDEN_UBYTES(bytes) CONVERT(wide_h, bytes)
#define WIDEN_SHORTS(shorts) CONVERT(vec_i, shorts)
#define NARROW_INTS(ints) CONVERT(vec_b, ints)
#define WIDEN_CHARS(chars) CONVERT(vec_i, chars)
#endif

/* Have the compiler address what is at a pointer by it, and not by sums of what made it. */
#define KEEP_POINTER(pointer) __asm__("" : "+r"(pointer))

/* A mask of the bytes at `from` that are not zero: one bit for each, SCAN_STEP bits apart. */
#ifndef SCAN_MASK
INLINE uint64_t scan_word(const uint8_t *from) {
    const uint64_t low = UINT64_C(0x7f7f7f7f7f7f7f7f);
    const uint64_t word = LOAD(uint64_t, from);
    return (((word & low) + low) | word) & ~low;
}
#define SCAN_BYTES 8
#define SCAN_STEP 8
#define SCAN_MASK(from) scan_word(from)
#endif

/* -- Active inputs ------------------------------------------------------------------------- */

INLINE void list_byte(const uint8_t *bytes, int32_t i, int32_t first, uint16_t **ends,
                      int32_t sets, int32_t set_bits) {
    const uint32_t byte = bytes[i];
    const uint16_t number = (uint16_t)(first + i);
    if (sets == 1) {
        /* The mask costs nothing, and keeps whatever a buffer may hold within the lists. */
        *ends[byte & ((1u << set_bits) - 1)]++ = number;
        return;
    }
    UNROLL for (int32_t set = 0; set < sets; set++) {
        /* Lists of pattern 0 are written as well, and nobody reads them. */
        const uint32_t pattern = byte >> (set * set_bits) & ((1u << set_bits) - 1);
        uint16_t **end = ends + set * SVIT_PATTERNS + pattern;
        **end = number;
        *end += pattern != 0;
    }
}

/* A mask of the last `left` of n bytes, of which others were scanned. */
#ifndef SCAN_LAST
#define SCAN_LAST(bytes, n, left) \
    (SCAN_MASK((bytes) + (n) - SCAN_BYTES) >> ((SCAN_BYTES - (left)) * SCAN_STEP))
#define SCAN_LEAST SCAN_BYTES
#endif

INLINE int32_t list_active_of(const uint8_t *bytes, int32_t n, int32_t first, uint16_t **ends,
                              int32_t sets, int32_t set_bits) {
    int32_t i = 0, listed = 0;
    for (; i + SCAN_BYTES <= n; i += SCAN_BYTES)
        for (uint64_t mask = SCAN_MASK(bytes + i); mask; mask &= mask - 1, listed++)
            list_byte(bytes, i + __builtin_ctzll(mask) / SCAN_STEP, first, ends, sets, set_bits);
    if (i < n && n >= SCAN_LEAST) {
        for (uint64_t mask = SCAN_LAST(bytes, n, n - i); mask; mask &= mask - 1, listed++)
            list_byte(bytes, i + __builtin_ctzll(mask) / SCAN_STEP, first, ends, sets, set_bits);
        return listed;
    }
    for (; i < n; i++)
        if (bytes[i]) {
            list_byte(bytes, i, first, ends, sets, set_bits);
            listed++;
        }
    return listed;
}

static int32_t list_active(const uint8_t *bytes, int32_t n, int32_t first, list_ends *lists) {
    uint16_t **ends = lists->ends;
    if (lists->sets == 1 && lists->set_bits == 4)
        return list_active_of(bytes, n, first, ends, 1, 4);
    if (lists->set_bits == 4) return list_active_of(bytes, n, first, ends, 2, 4);
    if (lists->set_bits == 2 && lists->sets == 2)
        return list_active_of(bytes, n, first, ends, 2, 2);
    return list_active_of(bytes, n, first, ends, lists->sets, lists->set_bits);
}

/* -- Sums of weight rows ----------------------------------------------------------------- */

/* Rows of the next lists follow those of one in a record. */
#ifndef PREFETCH
#define PREFETCH(row, bytes)
#endif
/* sum[j] += a row's values from `row` on, `v` registers of them. */
#ifndef ADD_ROW
#define ADD_ROW(v, sum, row)                \
    UNROLL for (int j_ = 0; j_ < (v); j_++) \
        (sum)[j_] = ADD((sum)[j_], WIDEN_BYTES(LOAD(wide_b, (row) + j_ * WIDE)));
#endif

/* Add the int8 rows numbered from `list` to `end`, one at least, of columns from `base` on. */
#define SUM_LIST(v, sum, list, end, base, stride)                           \
    const uint16_t *number_ = (list), *const behind_ = (end);               \
    do {                                                                    \
        const int8_t *row_ = (base) + (size_t)*number_ * (stride);          \
        PREFETCH((base) + (size_t)number_[PREFETCHED] * (stride), (v) * WIDE) \
        ADD_ROW(v, sum, row_)                                               \
    } while (++number_ < behind_);

/* Patterns change by few bits from list to list, so that sums are not begun anew with each: one
 * runs on through all lists, is subtracted from the current of a bit that the next pattern has and
 * the last one had not, and is added to that of a bit which the next one has no longer. */
#define EACH_LIST(v, sum, lists, base, stride, CHANGE)                                        \
    wide_h sum[v];                                                                            \
    UNROLL for (int j_ = 0; j_ < (v); j_++) sum[j_] = (wide_h){0};                            \
    uint32_t last_ = 0;                                                                       \
    for (uint32_t left_ = (lists)->places; left_; left_ &= left_ - 1) {                       \
        const int place_ = __builtin_ctz(left_);                                              \
        const uint32_t pattern_ = pattern_of(place_);                                         \
        if (last_) CHANGE(v, sum, last_ & ~pattern_, pattern_ & ~last_)                       \
        const uint16_t *const record_ = (lists)->record;                                      \
        SUM_LIST(v, sum, record_ + record_[place_], record_ + record_[place_ + 1], base, stride) \
        last_ = pattern_;                                                                     \
    }                                                                                         \
    CHANGE(v, sum, last_, 0u)

/* What currents begin with, in memory: `count` columns, or as many as fill registers. */
INLINE void begin_currents(const row_lists *lists, int16_t *currents, size_t pitch,
                           int32_t count) {
    if (lists->before == CURRENTS_KEPT) return;
    for (int32_t k = 0; k < lists->bits; k++, currents += pitch)
        UNROLL for (int32_t n = 0; n < count; n += WIDE) {
            wide_uh sums = {0};
            if (lists->before > 0) sums = LOAD(wide_uh, currents + n) << lists->before;
            STORE(currents + n, sums);
        }
}

#define SUBTRACT(a, b) ((wide_h)((wide_uh)(a) - (wide_uh)(b)))

/* Columns of `v` registers, with the currents in others. */
#define CHANGE_REGISTERS(v, sum, ended, begun)                                                \
    {                                                                                         \
        const uint32_t ended_ = (ended), begun_ = (begun);                                    \
        UNROLL for (int k = 0; k < 4; k++) {                                                  \
            if (ended_ >> k & 1) {                                                            \
                UNROLL for (int j = 0; j < (v); j++) c[k][j] = ADD(c[k][j], (sum)[j]);        \
            }                                                                                 \
            if (begun_ >> k & 1) {                                                            \
                UNROLL for (int j = 0; j < (v); j++) c[k][j] = SUBTRACT(c[k][j], (sum)[j]);   \
            }                                                                                 \
        }                                                                                     \
    }
#define DEFINE_SUM_BLOCK(v)                                                                   \
    static void sum_block_##v(const row_lists *lists, const int8_t *base, size_t stride,      \
                              int16_t *currents, size_t pitch) {                              \
        wide_h c[4][v];                                                                       \
        UNROLL for (int k = 0; k < 4; k++)                                                    \
            UNROLL for (int j = 0; j < (v); j++) {                                            \
                c[k][j] = (wide_h){0};                                                        \
                if (lists->before != CURRENTS_CLEARED && k < lists->bits)                     \
                    c[k][j] = LOAD(wide_h, currents + (size_t)k * pitch + j * WIDE);          \
                if (lists->before > 0) c[k][j] = (wide_h)((wide_uh)c[k][j] << lists->before); \
            }                                                                                 \
        EACH_LIST(v, sum, lists, base, stride, CHANGE_REGISTERS)                              \
        UNROLL for (int k = 0; k < 4; k++) {                                                  \
            if (k < lists->bits) {                                                            \
                UNROLL for (int j = 0; j < (v); j++)                                          \
                    STORE(currents + (size_t)k * pitch + j * WIDE, c[k][j]);                  \
            }                                                                                 \
        }                                                                                     \
    }

/* The same with the currents in memory, for more columns than registers have room for. */
#define CHANGE_MEMORY(v, sum, ended, begun)                                                   \
    {                                                                                         \
        for (uint32_t bits_ = (ended); bits_; bits_ &= bits_ - 1) {                           \
            int16_t *to = currents + (size_t)__builtin_ctz(bits_) * pitch;                    \
            KEEP_POINTER(to);                                                                 \
            UNROLL for (int j = 0; j < (v); j++)                                              \
                STORE(to + j * WIDE, ADD(LOAD(wide_h, to + j * WIDE), (sum)[j]));             \
        }                                                                                     \
        for (uint32_t bits_ = (begun); bits_; bits_ &= bits_ - 1) {                           \
            int16_t *to = currents + (size_t)__builtin_ctz(bits_) * pitch;                    \
            KEEP_POINTER(to);                                                                 \
            UNROLL for (int j = 0; j < (v); j++)                                              \
                STORE(to + j * WIDE, SUBTRACT(LOAD(wide_h, to + j * WIDE), (sum)[j]));        \
        }                                                                                     \
    }
#define DEFINE_SUM_COLUMNS(v)                                                                 \
    static void sum_columns_##v(const row_lists *lists, const int8_t *base, size_t stride,    \
                                int16_t *currents, size_t pitch) {                            \
        begin_currents(lists, currents, pitch, (v) * WIDE);                                      \
        EACH_LIST(v, sum, lists, base, stride, CHANGE_MEMORY)                                 \
    }

typedef void sum_block(const row_lists *lists, const int8_t *base, size_t stride,
                       int16_t *currents, size_t pitch);

/* By registers of columns, where there is one: as many as there are registers for, or as make up
 * SVIT_COLUMNS. */
DEFINE_SUM_BLOCK(1)
DEFINE_SUM_BLOCK(2)
DEFINE_SUM_BLOCK(3)
#if SVIT_REGISTERS > 16
DEFINE_SUM_BLOCK(4)
DEFINE_SUM_BLOCK(6)
#else
DEFINE_SUM_COLUMNS(6)
#define sum_block_4 NULL
#define sum_block_6 sum_columns_6
#endif
#if SVIT_BYTES < 64
DEFINE_SUM_COLUMNS(12)
#endif
#if SVIT_BYTES < 32 && SVIT_REGISTERS > 16
DEFINE_SUM_COLUMNS(24)
#endif
static sum_block *const blocks[] = {
    sum_block_1, sum_block_2, sum_block_3, sum_block_4, NULL, sum_block_6,
#if SVIT_BYTES < 64
    NULL, NULL, NULL, NULL, NULL, sum_columns_12,
#endif
#if SVIT_BYTES < 32 && SVIT_REGISTERS > 16
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, sum_columns_24,
#endif
};
#define LENGTH(array) ((int32_t)(sizeof(array) / sizeof *(array)))

static void sum_rows(const row_lists *lists, const row_weights *weights, int16_t *currents,
                     size_t pitch) {
    const int8_t *base = weights->rows;
    for (int32_t left = weights->outputs; left > 0;) {
        int32_t registers = (left + WIDE - 1) / WIDE;
        if (registers > LENGTH(blocks)) registers = LENGTH(blocks);
        while (!blocks[registers - 1]) registers--;
        blocks[registers - 1](lists, base, weights->stride, currents, pitch);
        base += registers * WIDE;
        currents += registers * WIDE;
        left -= registers * WIDE;
    }
}

static void add_block(const int16_t *block, int32_t bits, int32_t before, int32_t outputs,
                      int32_t *currents, size_t pitch) {
    for (int32_t b = 0; b < bits; b++, block += pitch, currents += pitch)
        for (int32_t n = 0; n < outputs; n += LANES) {
            vec_ui sums = {0};
            if (before != CURRENTS_CLEARED) sums = LOAD(vec_ui, currents + n) << before;
            STORE(currents + n, sums + (vec_ui)WIDEN_SHORTS(LOAD(vec_h, block + n)));
        }
}

/* -- Sums of rows of nibbles ---------------------------------------------------------------
 *
 * The low nibbles of a row are the first half of the columns, the high ones the second. Rows of one
 * group share a multiplier a column. */

/* The rows of a pattern. */
typedef struct nibble_list {
    const row_weights *weights;
    const uint16_t *list, *end;
} nibble_list;

INLINE nibble_list nibbles_of(const row_lists *lists, const row_weights *weights, int place) {
    const uint16_t *record = lists->record;
    const nibble_list n = {weights, record + record[place], record + record[place + 1]};
    return n;
}

/* Add the next rows that share a group, `most` at most, columns from `at` on. */
INLINE void sum_nibbles(nibble_list *n, int32_t most, int32_t at, wide_h *low, wide_h *high) {
    const row_weights *weights = n->weights;
    const size_t each = (size_t)weights->group_rows;
    const size_t group = *n->list / each, start = group * each;
    const uint8_t *rows = (const uint8_t *)weights->rows + at;
    const uint16_t *const begin = n->list;
    const uint16_t *const end = n->end - begin > most ? begin + most : n->end;
    wide_h part_low = {0}, part_high = {0};
    for (; n->list < end && *n->list - start < each; n->list++) {
        const wide_ub bytes = LOAD(wide_ub, rows + *n->list * weights->stride);
        part_low = ADD(part_low, WIDEN_UBYTES((wide_ub)(bytes & 15)));
        part_high = ADD(part_high, WIDEN_UBYTES((wide_ub)(bytes >> 4)));
    }
    const int32_t half = (weights->outputs + 1) / 2;
    const uint16_t offset = (uint16_t)(8 * (n->list - begin));
    const uint8_t *factors = weights->multipliers + group * weights->multiplier_stride + at;
    const wide_h low_factors = WIDEN_UBYTES(LOAD(wide_ub, factors));
    const wide_h high_factors = WIDEN_UBYTES(LOAD(wide_ub, factors + half));
    *low = ADD(*low, MULTIPLY((wide_uh)part_low - offset, low_factors));
    *high = ADD(*high, MULTIPLY((wide_uh)part_high - offset, high_factors));
}

/* Add the low halves of `columns` columns; those behind them are the second half's. */
INLINE void add_lows(int16_t *to, wide_h lows, int32_t columns) {
    const wide_h sums = ADD(LOAD(wide_h, to), lows);
    if (columns >= WIDE)
        STORE(to, sums);
    else
        memcpy(to, &sums, (size_t)columns * sizeof *to);
}

static void sum_rows_int4(const row_lists *lists, const row_weights *weights, int16_t *currents,
                          size_t pitch) {
    const int32_t half = (weights->outputs + 1) / 2;
    begin_currents(lists, currents, pitch, half + (half + WIDE - 1) / WIDE * WIDE);
    for (int32_t at = 0; at < half; at += WIDE)
        for (uint32_t left = lists->places; left; left &= left - 1) {
            const int place = __builtin_ctz(left);
            wide_h low = {0}, high = {0};
            nibble_list n = nibbles_of(lists, weights, place);
            while (n.list < n.end) sum_nibbles(&n, INT16_MAX, at, &low, &high);
            for (uint32_t bits = pattern_of(place); bits; bits &= bits - 1) {
                int16_t *to = currents + (size_t)__builtin_ctz(bits) * pitch + at;
                add_lows(to, low, half - at);
                STORE(to + half, ADD(LOAD(wide_h, to + half), high));
            }
        }
}

/* -- Neurons ------------------------------------------------------------------------------- */

/* Where a condition holds a vector has all bits set. */
INLINE vec_f choose(vec_i condition, vec_f yes, vec_f no) {
    return (vec_f)((condition & (vec_i)yes) | (~condition & (vec_i)no));
}

INLINE vec_f spread(float value) { return (vec_f){0} + value; }

/* Count that a potential fires: round(clip(level, 0, levels)). */
INLINE vec_i count_of(vec_f level, const neuron_ref *neuron) {
    level = choose(level > 0.0f, level, spread(0.0f));
    level = choose(level < (float)neuron->levels, level, spread((float)neuron->levels));
    if (neuron->half_up) return CONVERT(vec_i, level + 0.5f);
    /* Adding 1.5 * 2^23 leaves no bits for a fraction, so that the sum is rounded half to even. */
    const volatile float shifted = 12582912.0f;
    return CONVERT(vec_i, (level + shifted) - shifted);
}

/* Set the bits of a step's counts. */
INLINE void add_count(const fire_task *task, vec_i *patterns, int32_t t, vec_i count) {
    const int32_t group = t / task->steps_per_byte * task->planes;
    const int32_t bit = t % task->steps_per_byte * task->step_bits;
    const int spread_over_bits = task->step_bits > 1;
    for (int32_t level = 0; level < task->neuron->levels; level++) {
        const int32_t plane = spread_over_bits ? 0 : level;
        const int32_t place = bit + (spread_over_bits ? level : 0);
        patterns[group + plane] |= (count > level) & (int32_t)(1u << place);
    }
}

/* Store a byte of LANES neurons, or of those that there are. */
INLINE void store_bytes(const fire_task *task, int32_t byte, int32_t n, vec_i values) {
    const vec_b packed = NARROW_INTS(values);
    uint8_t *to = task->patterns + (size_t)byte * task->patterns_pitch + n;
    if (task->size - n >= LANES)
        STORE(to, packed);
    else
        memcpy(to, &packed, (size_t)(task->size - n));
}

/* What the three kinds of currents have in common; CURRENT gives LANES values of step t.
 *
 * Neurons of one level collect all steps in the bits of one word. */
#define DEFINE_FIRE(suffix, type, CURRENT)                                                      \
    INLINE void fire_spikes_##suffix(const fire_task *task, const type *currents,               \
                                     const int is_plain, const int32_t steps) {                 \
        const neuron_ref neuron = *task->neuron;                                                \
        const size_t pitch = task->is_static ? 0 : task->pitch;                                 \
        for (int32_t n = 0; n < task->size; n += LANES) {                                       \
            SCALE_AND_BIAS_##suffix                                                             \
            vec_f membrane = {0};                                                               \
            vec_i bits = {0};                                                                   \
            for (int32_t t = 0; t < steps; t++) {                                               \
                const size_t step = (size_t)t * pitch;                                          \
                vec_f charge = CURRENT;                                                         \
                if (!is_plain) charge *= neuron.gain;                                           \
                if (t > 0) charge = membrane * neuron.decay + charge;                           \
                if (!is_plain) charge += t > 0 ? neuron.shift : neuron.first_shift;             \
                const vec_i fired = charge >= neuron.threshold;                                 \
                bits |= fired & (int32_t)(1u << t);                                             \
                if (is_plain)                                                                   \
                    membrane = (vec_f)((vec_i)charge & ~fired);                                 \
                else                                                                            \
                    membrane = choose(fired, neuron.hard_reset ? spread(neuron.v_reset)         \
                                                               : charge - neuron.threshold,     \
                                      charge);                                                  \
            }                                                                                   \
            if (steps <= 8)                                                                     \
                store_bytes(task, 0, n, bits);                                                  \
            else                                                                                \
                for (int32_t byte = 0; byte < task->bytes; byte++)                              \
                    store_bytes(task, byte, n, bits >> (8 * byte) & 255);                       \
        }                                                                                       \
    }                                                                                           \
    INLINE void fire_counts_##suffix(const fire_task *task, const type *currents) {             \
        const neuron_ref *neuron = task->neuron;                                                \
        const size_t pitch = task->is_static ? 0 : task->pitch;                                 \
        for (int32_t n = 0; n < task->size; n += LANES) {                                       \
            SCALE_AND_BIAS_##suffix                                                             \
            vec_f membrane = {0};                                                               \
            vec_i patterns[SVIT_FIRE_BYTES] = {{0}};                                            \
            for (int32_t t = 0; t < task->steps; t++) {                                         \
                const size_t step = (size_t)t * pitch;                                          \
                vec_f charge = CURRENT;                                                         \
                charge *= neuron->gain;                                                         \
                if (t > 0) charge = membrane * neuron->decay + charge;                          \
                charge += t > 0 ? neuron->shift : neuron->first_shift;                          \
                const vec_i count = count_of(charge / neuron->threshold, neuron);               \
                membrane = charge - CONVERT(vec_f, count) * neuron->threshold;                  \
                add_count(task, patterns, t, count);                                            \
            }                                                                                   \
            for (int32_t byte = 0; byte < task->bytes; byte++)                                  \
                store_bytes(task, byte, n, patterns[byte]);                                     \
        }                                                                                       \
    }                                                                                           \
    static void fire_##suffix(const fire_task *task, const type *currents) {                    \
        const neuron_ref *neuron = task->neuron;                                                \
        const int no_shift = neuron->shift == 0.0f && neuron->first_shift == 0.0f;              \
        const int resets = neuron->hard_reset && neuron->v_reset == 0.0f;                       \
        const int is_plain = neuron->gain == 1.0f && no_shift && resets;                        \
        if (neuron->levels > 1)                                                                 \
            fire_counts_##suffix(task, currents);                                               \
        else if (is_plain && task->steps == 4)                                                  \
            fire_spikes_##suffix(task, currents, 1, 4);                                         \
        else if (is_plain)                                                                      \
            fire_spikes_##suffix(task, currents, 1, task->steps);                               \
        else                                                                                    \
            fire_spikes_##suffix(task, currents, 0, task->steps);                               \
    }

#define SCALE_AND_BIAS_int16 \
    const vec_f scale = LOAD(vec_f, task->scale + n), bias = LOAD(vec_f, task->bias + n);
#define SCALE_AND_BIAS_int32 SCALE_AND_BIAS_int16
#define SCALE_AND_BIAS_float
#define SCALED(read) ((read) * scale + bias)
#define CURRENT_INT16 SCALED(CONVERT(vec_f, WIDEN_SHORTS(LOAD(vec_h, currents + step + n))))
#define CURRENT_INT32 SCALED(CONVERT(vec_f, LOAD(vec_i, currents + step + n)))
/* Not beyond the last neuron: another thread may write there. */
INLINE vec_f load_floats(const float *from, int32_t left) {
    if (left >= LANES) return LOAD(vec_f, from);
    vec_f loaded = {0};
    memcpy(&loaded, from, (size_t)left * sizeof *from);
    return loaded;
}
#define CURRENT_FLOAT load_floats(currents + step + n, task->size - n)

DEFINE_FIRE(int16, int16_t, CURRENT_INT16)
DEFINE_FIRE(int32, int32_t, CURRENT_INT32)
DEFINE_FIRE(float, float, CURRENT_FLOAT)

/* -- Sums and maxima of arrays --------------------------------------------------------------- */

/* Float rows of a list, one factor each. */
#define DEFINE_SUM_SCALED(v)                                                                  \
    INLINE void sum_scaled_##v(const float *x, const int32_t *rows, int32_t count,            \
                               const float *weights, size_t stride, float *sums) {            \
        vec_f sum[v];                                                                         \
        UNROLL for (int j = 0; j < (v); j++) sum[j] = LOAD(vec_f, sums + j * LANES);          \
        for (int32_t i = 0; i < count; i++) {                                                 \
            const float *row = weights + (size_t)rows[i] * stride;                            \
            UNROLL for (int j = 0; j < (v); j++)                                              \
                sum[j] += LOAD(vec_f, row + j * LANES) * x[i];                                \
        }                                                                                     \
        UNROLL for (int j = 0; j < (v); j++) STORE(sums + j * LANES, sum[j]);                 \
    }

DEFINE_SUM_SCALED(1)
DEFINE_SUM_SCALED(2)
DEFINE_SUM_SCALED(4)
DEFINE_SUM_SCALED(6)

static void sum_scaled(const float *x, const int32_t *rows, int32_t count, const float *weights,
                       size_t stride, float *sums, int32_t n) {
    int32_t at = 0;
    for (; n - at > 4 * LANES; at += 6 * LANES)
        sum_scaled_6(x, rows, count, weights + at, stride, sums + at);
    for (; n - at > 2 * LANES; at += 4 * LANES)
        sum_scaled_4(x, rows, count, weights + at, stride, sums + at);
    for (; n - at > LANES; at += 2 * LANES)
        sum_scaled_2(x, rows, count, weights + at, stride, sums + at);
    for (; n - at > 0; at += LANES)
        sum_scaled_1(x, rows, count, weights + at, stride, sums + at);
}

static void sum_scaled_int8(const float *x, const int32_t *rows, int32_t count,
                            const int8_t *weights, size_t stride, float *sums, int32_t n) {
    typedef int8_t vec_sb __attribute__((vector_size(LANES)));
    for (int32_t at = 0; at < n; at += 2 * LANES) {
        vec_f a = LOAD(vec_f, sums + at), b = LOAD(vec_f, sums + at + LANES);
        for (int32_t i = 0; i < count; i++) {
            const int8_t *row = weights + (size_t)rows[i] * stride + at;
            a += CONVERT(vec_f, WIDEN_CHARS(LOAD(vec_sb, row))) * x[i];
            b += CONVERT(vec_f, WIDEN_CHARS(LOAD(vec_sb, row + LANES))) * x[i];
        }
        STORE(sums + at, a);
        STORE(sums + at + LANES, b);
    }
}

/* Bits are counted in bytes as long as these hold the counts. */
static void count_bits(const uint8_t *bytes, size_t stride, int32_t places, int32_t bit, int32_t n,
                       uint16_t *sums) {
    typedef uint8_t vec_ub __attribute__((vector_size(SVIT_BYTES)));
    const vec_ub wanted = (vec_ub){0} + (uint8_t)(1u << bit);
    for (int32_t at = 0; at < n; at += SVIT_BYTES) {
        const uint8_t *from = bytes + at;
        for (int32_t left = places; left > 0;) {
            const int32_t count = left < UINT8_MAX ? left : UINT8_MAX;
            vec_ub counts = {0};
            for (int32_t p = 0; p < count; p++, from += stride)
                counts -= (vec_ub)((LOAD(vec_ub, from) & wanted) == wanted);
            for (int32_t i = 0; i < SVIT_BYTES && at + i < n; i++)
                sums[at + i] = (uint16_t)(sums[at + i] + counts[i]);
            left -= count;
        }
    }
}

/* table[(t * keys + e) * pitch + d] += v[d] in step t, for every e whose k fires then. */
static void add_products(const uint8_t *k, const uint8_t *v, int32_t keys, int32_t values,
                         uint32_t steps, size_t pitch, uint16_t *table) {
    for (int32_t at = 0; at < values; at += WIDE) {
        uint8_t part[WIDE] = {0};
        memcpy(part, v + at, (size_t)(values - at < WIDE ? values - at : WIDE));
        const wide_ub bytes = LOAD(wide_ub, part);
        wide_h fired[8];
        for (uint32_t t = 0; steps >> t; t++)
            fired[t] = WIDEN_UBYTES((wide_ub)(bytes >> (uint8_t)t & 1));
        for (int32_t e = 0; e < keys; e++)
            for (uint32_t bits = k[e] & steps; bits; bits &= bits - 1) {
                const int32_t t = __builtin_ctz(bits);
                uint16_t *to = table + (size_t)(t * keys + e) * pitch + at;
                /* cppcheck-suppress uninitvar ; t is one of the steps */
                STORE(to, LOAD(wide_h, to) + fired[t]);
            }
    }
}

/* currents[t * pitch + d] = sum of table[(t * keys + e) * pitch + d] over every e whose q fires.
 * Where no sum exceeds 15 bits, four steps are summed at a time. */
static void read_products(const uint8_t *q, const uint16_t *table, int32_t keys, int32_t values,
                          int32_t steps, int is_narrow, size_t pitch, int32_t *currents) {
    const uint32_t fires = (1u << steps) - 1; /* tables have no place for other bits */
    for (int32_t t = 0; t < steps && !is_narrow; t++)
        for (int32_t at = 0; at < values; at += LANES) {
            const uint16_t *from = table + (size_t)(t * keys) * pitch + at;
            vec_i sum = {0};
            for (int32_t e = 0; e < keys; e++, from += pitch)
                if (q[e] >> t & 1) sum += CONVERT(vec_i, LOAD(vec_uh, from));
            STORE(currents + (size_t)t * pitch + at, sum);
        }
    for (int32_t t = 0; t < steps && is_narrow; t += 4)
        for (int32_t at = 0; at < values; at += WIDE) {
            const uint16_t *from = table + (size_t)(t * keys) * pitch + at;
            const size_t step = (size_t)keys * pitch;
            wide_h sums[4] = {{0}};
            for (int32_t e = 0; e < keys; e++, from += pitch) {
                const uint32_t bits = (q[e] & fires) >> t & 15;
                if (bits == 0) continue;
                UNROLL for (int b = 0; b < 4; b++)
                    if (bits >> b & 1) sums[b] += LOAD(wide_h, from + (size_t)b * step);
            }
            for (int32_t b = 0; b < 4 && t + b < steps; b++) {
                int16_t narrow[WIDE];
                STORE(narrow, sums[b]);
                UNROLL for (int j = 0; j < WIDE / LANES; j++)
                    STORE(currents + (size_t)(t + b) * pitch + at + j * LANES,
                          WIDEN_SHORTS(LOAD(vec_h, narrow + j * LANES)));
            }
        }
}

#ifndef MAX_SHORTS
INLINE wide_h max_shorts(wide_h a, wide_h b) {
    const wide_h larger = a > b;
    return (a & larger) | (b & ~larger);
}
#define MAX_SHORTS(a, b) max_shorts(a, b)
#endif

static void max_int16(int16_t *most, const int16_t *row, int32_t n) {
    for (int32_t i = 0; i < n; i += WIDE)
        STORE(most + i, MAX_SHORTS(LOAD(wide_h, most + i), LOAD(wide_h, row + i)));
}

/* -- Pixels ----------------------------------------------------------------------------------- */

/* total[k] += a[2 k] * b[2 k] + a[2 k + 1] * b[2 k + 1], in 32 bits. */
#ifndef ADD_PAIRS
INLINE vec_i add_pairs(vec_i total, wide_h a, wide_h b) {
    typedef uint32_t vec_u __attribute__((vector_size(LANES * 4)));
    const vec_i low_a = (vec_i)((vec_u)a << 16) >> 16, low_b = (vec_i)((vec_u)b << 16) >> 16;
    return total + low_a * low_b + ((vec_i)a >> 16) * ((vec_i)b >> 16);
}
#define ADD_PAIRS(total, a, b) add_pairs(total, a, b)
#endif

/* Sums of `p` windows, `v` registers of outputs. */
#define DEFINE_SUM_PIXELS(p, v)                                                               \
    INLINE void sum_pixels_##p##_##v(const pixel_rows *rows, size_t first,                    \
                                     const int16_t *weights, size_t stride, int32_t *sums,    \
                                     size_t pitch) {                                          \
        vec_i total[p][v];                                                                    \
        UNROLL for (int k = 0; k < (p); k++)                                                  \
            UNROLL for (int j = 0; j < (v); j++) total[k][j] = (vec_i){0};                    \
        for (int32_t r = 0; r < rows->count; r++) {                                           \
            const int16_t *line = rows->lines[r] + first;                                     \
            for (int32_t i = 0; i < rows->pairs; i++, line += 2, weights += stride) {         \
                wide_h w[v];                                                                  \
                UNROLL for (int j = 0; j < (v); j++) w[j] = LOAD(wide_h, weights + j * WIDE); \
                UNROLL for (int k = 0; k < (p); k++) {                                        \
                    const wide_h x =                                                          \
                        (wide_h)((vec_i){0} + LOAD(int32_t, line + (size_t)k * rows->step));  \
                    UNROLL for (int j = 0; j < (v); j++)                                      \
                        total[k][j] = ADD_PAIRS(total[k][j], w[j], x);                        \
                }                                                                             \
            }                                                                                 \
        }                                                                                     \
        UNROLL for (int k = 0; k < (p); k++)                                                  \
            UNROLL for (int j = 0; j < (v); j++)                                              \
                STORE(sums + (size_t)k * pitch + j * LANES, total[k][j]);                     \
    }

DEFINE_SUM_PIXELS(1, 1)
DEFINE_SUM_PIXELS(4, 1)
DEFINE_SUM_PIXELS(4, 2)

static void sum_pixels(const pixel_rows *rows, int32_t x, int32_t count, const int16_t *weights,
                       int32_t outputs, int32_t *sums, size_t pitch) {
    const size_t stride = 2 * (size_t)outputs, first = (size_t)x * rows->step;
    int32_t at = 0;
    for (; count == 4 && outputs - at > LANES; at += 2 * LANES)
        sum_pixels_4_2(rows, first, weights + 2 * at, stride, sums + at, pitch);
    for (; count == 4 && at < outputs; at += LANES)
        sum_pixels_4_1(rows, first, weights + 2 * at, stride, sums + at, pitch);
    for (; at < outputs; at += LANES)
        for (int32_t i = 0; i < count; i++)
            sum_pixels_1_1(rows, first + (size_t)i * rows->step, weights + 2 * at, stride,
                           sums + (size_t)i * pitch + at, pitch);
}

const svit_kernels SVIT_KERNELS = {
    SVIT_NAME,  list_active, sum_rows,   sum_rows_int4, add_block,
    fire_int16, fire_int32,  fire_float, sum_scaled,    sum_scaled_int8,
    count_bits, add_products, read_products, max_int16,
    sum_pixels, SVIT_PRODUCTS,
};
