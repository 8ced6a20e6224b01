/* Kernels for processors without vector units, such as a Cortex-M7: small, in plain C99.
 *
 * A 32-bit register holds a pair of 16-bit values. The DSP extension of Cortex-M4, M7, M33, M55
 * and M85 adds pairs, and bytes to pairs, in one instruction; elsewhere C does the same. Selected
 * for Cortex-M, and by -DSVIT_MCU (see svit_choose.c).
 *
 * Floats are added and multiplied one at a time: vectors of a Cortex-M55 flush subnormal numbers to
 * zero, which no other processor does.
 */
#include <string.h>

#include "svit_internal.h"

#if defined(__ARM_FEATURE_SIMD32)
#include <arm_acle.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline)) /* loops that need all registers */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* -- Pairs of 16-bit values ------------------------------------------------------------------ */

typedef uint32_t pair;

INLINE uint32_t load(const void *from) {
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

INLINE void store(void *to, uint32_t word) { memcpy(to, &word, sizeof word); }

/* A file may lie about how large sums become. */
INLINE int32_t add_wrapping(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); }

INLINE pair even_bytes(uint32_t bytes) { return bytes & 0x00ff00ffu; }
INLINE int32_t low(pair p) { return (int16_t)(p & 0xffff); }
INLINE int32_t high(pair p) { return (int16_t)(p >> 16); }

#if defined(__ARM_FEATURE_SIMD32)
INLINE pair add_pairs(pair a, pair b) { return (pair)__sadd16((int16x2_t)a, (int16x2_t)b); }
INLINE pair subtract_pairs(pair a, pair b) { return (pair)__ssub16((int16x2_t)a, (int16x2_t)b); }

INLINE pair max_pairs(pair a, pair b) {
    (void)__ssub16((int16x2_t)a, (int16x2_t)b);
    return (pair)__sel((uint8x4_t)a, (uint8x4_t)b);
}

/* Add bytes 0 and 2, or 1 and 3, of a word; as signed numbers, or unsigned ones. */
INLINE pair add_even(pair sum, uint32_t bytes) {
    __asm__("sxtab16 %0, %1, %2" : "=r"(sum) : "r"(sum), "r"(bytes));
    return sum;
}

INLINE pair add_odd(pair sum, uint32_t bytes) {
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(sum) : "r"(sum), "r"(bytes));
    return sum;
}

/* Where a row begins; the compiler would need another register. */
INLINE const int8_t *row_at(const int8_t *rows, uint32_t number, size_t stride) {
    const int8_t *row;
    __asm__("mla %0, %1, %2, %3" : "=r"(row) : "r"(number), "r"(stride), "r"(rows));
    return row;
}

INLINE pair odd_bytes(uint32_t bytes) {
    pair odd;
    __asm__("uxtb16 %0, %1, ror #8" : "=r"(odd) : "r"(bytes));
    return odd;
}

/* Add the products of the low halves and of the high ones. */
INLINE int32_t multiply_add(int32_t sum, pair a, pair b) {
    return __smlad((int16x2_t)a, (int16x2_t)b, sum);
}

INLINE pair multiply_low(pair a, pair b) {
    pair product;
    __asm__("smulbb %0, %1, %2" : "=r"(product) : "r"(a), "r"(b));
    return product;
}

INLINE pair multiply_high(pair a, pair b) {
    pair product;
    __asm__("smultt %0, %1, %2" : "=r"(product) : "r"(a), "r"(b));
    return product;
}

INLINE pair first_of(pair even, pair odd) {
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(even) : "r"(even), "r"(odd));
    return even;
}

INLINE pair second_of(pair even, pair odd) {
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(odd) : "r"(odd), "r"(even));
    return odd;
}
#else
INLINE pair add_pairs(pair a, pair b) {
    const pair tops = 0x80008000u;
    return ((a & ~tops) + (b & ~tops)) ^ ((a ^ b) & tops);
}

INLINE pair subtract_pairs(pair a, pair b) {
    const pair tops = 0x80008000u;
    return ((a | tops) - (b & ~tops)) ^ ((a ^ ~b) & tops);
}

INLINE pair max_pairs(pair a, pair b) {
    const uint32_t bottom = low(a) > low(b) ? a : b, top = high(a) > high(b) ? a : b;
    return (top & 0xffff0000u) | (bottom & 0xffff);
}

INLINE pair add_even(pair sum, uint32_t bytes) {
    const pair middle = 0x00800080u;
    return add_pairs(sum, subtract_pairs((bytes & 0x00ff00ffu) ^ middle, middle));
}

INLINE pair add_odd(pair sum, uint32_t bytes) { return add_even(sum, bytes >> 8); }
INLINE pair odd_bytes(uint32_t bytes) { return bytes >> 8 & 0x00ff00ffu; }
INLINE int32_t multiply_add(int32_t sum, pair a, pair b) {
    return (int32_t)((uint32_t)sum + (uint32_t)(low(a) * low(b)) + (uint32_t)(high(a) * high(b)));
}

INLINE pair multiply_low(pair a, pair b) { return (pair)(low(a) * low(b)); }
INLINE pair multiply_high(pair a, pair b) { return (pair)(high(a) * high(b)); }

INLINE const int8_t *row_at(const int8_t *rows, uint32_t number, size_t stride) {
    return rows + number * stride;
}

INLINE pair first_of(pair even, pair odd) { return (even & 0xffff) | odd << 16; }
INLINE pair second_of(pair even, pair odd) { return even >> 16 | (odd & 0xffff0000u); }
#endif

/* -- Active inputs --------------------------------------------------------------------------- */

static void list_byte(uint32_t byte, uint16_t number, list_ends *lists) {
    const uint32_t mask = (1u << lists->set_bits) - 1;
    uint16_t **ends = lists->ends;
    for (int32_t set = 0; set < lists->sets; set++, ends += SVIT_PATTERNS) {
        if (byte & mask) *ends[byte & mask]++ = number;
        byte >>= lists->set_bits;
    }
}

INLINE int32_t list_active_of(const uint8_t *bytes, int32_t n, int32_t first, list_ends *lists,
                              int one_set) {
    int32_t listed = 0;
    for (int32_t i = 0; i < n;) {
        int32_t end = i + 4;
        if (end > n)
            end = n;
        else if (load(bytes + i) == 0)
            i = end;
        for (; i < end; i++) {
            const uint32_t byte = bytes[i];
            if (byte == 0) continue;
            const uint16_t number = (uint16_t)(first + i);
            if (one_set)
                *lists->ends[byte & ((1u << lists->set_bits) - 1)]++ = number;
            else
                list_byte(byte, number, lists);
            listed++;
        }
    }
    return listed;
}

static int32_t list_active(const uint8_t *bytes, int32_t n, int32_t first, list_ends *lists) {
    if (lists->sets == 1) return list_active_of(bytes, n, first, lists, 1);
    return list_active_of(bytes, n, first, lists, 0);
}

/* -- Sums of weight rows --------------------------------------------------------------------- */

#define BLOCK 16 /* columns that are summed at a time */
#define PAIRS (BLOCK / 2)

/* Sums of a list's rows, BLOCK columns of them from `at` on: pairs of columns side by side. Per row
 * and four columns: a load, and two instructions that each widen two bytes and add them. */
static NOINLINE void sum_list(const uint16_t *list, const uint16_t *end, const int8_t *at,
                              size_t stride, pair *sums) {
    pair even0 = 0, even1 = 0, even2 = 0, even3 = 0, odd0 = 0, odd1 = 0, odd2 = 0, odd3 = 0;
    while (list < end) {
        const int8_t *row = row_at(at, *list++, stride);
        uint32_t bytes = load(row);
        even0 = add_even(even0, bytes);
        odd0 = add_odd(odd0, bytes);
        bytes = load(row + 4);
        even1 = add_even(even1, bytes);
        odd1 = add_odd(odd1, bytes);
        bytes = load(row + 8);
        even2 = add_even(even2, bytes);
        odd2 = add_odd(odd2, bytes);
        bytes = load(row + 12);
        even3 = add_even(even3, bytes);
        odd3 = add_odd(odd3, bytes);
    }
    sums[0] = first_of(even0, odd0);
    sums[1] = second_of(even0, odd0);
    sums[2] = first_of(even1, odd1);
    sums[3] = second_of(even1, odd1);
    sums[4] = first_of(even2, odd2);
    sums[5] = second_of(even2, odd2);
    sums[6] = first_of(even3, odd3);
    sums[7] = second_of(even3, odd3);
}

/* What the currents of each bit begin with, in memory. */
static void begin_currents(const row_lists *lists, int16_t *currents, size_t pitch,
                           int32_t count) {
    for (int32_t b = 0; b < lists->bits; b++, currents += pitch) {
        if (lists->before == CURRENTS_CLEARED)
            memset(currents, 0, (size_t)count * sizeof *currents);
        for (int32_t n = 0; n < count && lists->before > 0; n++)
            currents[n] = (int16_t)((uint16_t)currents[n] << lists->before);
    }
}

static void sum_rows(const row_lists *lists, const row_weights *weights, int16_t *currents,
                     size_t pitch) {
    const uint16_t *const record = lists->record;
    begin_currents(lists, currents, pitch, weights->outputs);
    for (int32_t at = 0; at < weights->outputs; at += BLOCK, currents += BLOCK)
        for (uint32_t left = lists->places; left; left &= left - 1) {
            const int place = __builtin_ctz(left);
            pair sums[PAIRS];
            sum_list(record + record[place], record + record[place + 1], weights->rows + at,
                     weights->stride, sums);
            int16_t *to = currents;
            for (uint32_t bits = pattern_of(place); bits; bits >>= 1, to += pitch)
                if (bits & 1)
                    UNROLL for (int32_t j = 0; j < PAIRS; j++)
                        store(to + 2 * j, add_pairs(load(to + 2 * j), sums[j]));
        }
}

static void add_block(const int16_t *block, int32_t bits, int32_t before, int32_t outputs,
                      int32_t *currents, size_t pitch) {
    for (int32_t b = 0; b < bits; b++, block += pitch, currents += pitch)
        for (int32_t n = 0; n < outputs; n++) {
            const uint32_t sum =
                before == CURRENTS_CLEARED ? 0 : (uint32_t)currents[n] << before;
            currents[n] = add_wrapping((int32_t)sum, block[n]);
        }
}

/* -- Sums of rows of nibbles ------------------------------------------------------------------
 *
 * The low nibbles of a row are the first half of the columns, the high ones the second. Rows of
 * one group share a multiplier a column, so that rows of one group are added first, as bytes, which
 * hold the sums of MOST_ROWS rows, and then multiplied. */

#define MOST_ROWS 16
#define NIBBLES 0x0f0f0f0fu
#define BITS 4 /* of a set, at most */

/* Rows of one group, by the bits in which they fire. */
typedef struct nibble_rows {
    const uint8_t *rows[BITS][MOST_ROWS];
    int32_t counts[BITS];
    const uint8_t *multipliers;
    int32_t outputs;
    int16_t *currents;
    size_t pitch;
} nibble_rows;

#define WORDS 3 /* of a row that are summed at a time */

/* Sums of eight columns a word: of the low nibbles of each byte, and of the high ones. */
typedef struct nibble_sums {
    uint32_t lows[WORDS], highs[WORDS];
} nibble_sums;

/* A word without its last four bits is the high nibbles of each byte, and 16 times the low ones of
 * the next. */
INLINE uint32_t highs_of(uint32_t rest, uint32_t lows) { return rest - ((lows & ~0xffu) >> 4); }

static NOINLINE void sum_words(const uint8_t *const *row, int32_t count, int32_t at,
                               nibble_sums *sums) {
    uint32_t low0 = 0, low1 = 0, low2 = 0, rest0 = 0, rest1 = 0, rest2 = 0;
    const uint8_t *const *const end = row + count;
    do {
        const uint8_t *from = *row++ + at;
        uint32_t word = load(from);
        low0 += word & NIBBLES;
        rest0 += word >> 4;
        word = load(from + 4);
        low1 += word & NIBBLES;
        rest1 += word >> 4;
        word = load(from + 8);
        low2 += word & NIBBLES;
        rest2 += word >> 4;
    } while (row < end);
    sums->lows[0] = low0;
    sums->lows[1] = low1;
    sums->lows[2] = low2;
    sums->highs[0] = highs_of(rest0, low0);
    sums->highs[1] = highs_of(rest1, low1);
    sums->highs[2] = highs_of(rest2, low2);
}

/* Add four columns' sums, of which each row counted 8 too much, times their multipliers. */
INLINE void add_four(uint32_t sums, uint32_t factors, pair offset, int16_t *to) {
    const pair even = subtract_pairs(even_bytes(sums), offset), even_factor = even_bytes(factors);
    const pair odd = subtract_pairs(odd_bytes(sums), offset), odd_factor = odd_bytes(factors);
    const pair a = multiply_low(even, even_factor), b = multiply_low(odd, odd_factor);
    const pair c = multiply_high(even, even_factor), d = multiply_high(odd, odd_factor);
    store(to, add_pairs(load(to), first_of(a, b)));
    store(to + 2, add_pairs(load(to + 2), first_of(c, d)));
}

static NOINLINE void add_columns(const uint32_t *sums, const uint8_t *factors, pair offset,
                                 int16_t *to, int32_t columns) {
    for (; columns >= 4; columns -= 4, factors += 4, to += 4)
        add_four(*sums++, load(factors), offset, to);
    if (columns) add_four(*sums, load(factors) & ((1u << (8 * columns)) - 1), offset, to);
}

static void add_bit(nibble_rows *rows, int32_t bit) {
    const int32_t half = (rows->outputs + 1) / 2, count = rows->counts[bit];
    const int32_t offset = 8 * count;
    const uint8_t *factors = rows->multipliers;
    const pair both = (uint32_t)offset * 0x10001u;
    int16_t *to = rows->currents + (size_t)bit * rows->pitch;
    for (int32_t at = 0; at < half; at += 4 * WORDS, factors += 4 * WORDS) {
        nibble_sums sums;
        sum_words(rows->rows[bit], count, at, &sums);
        /* Columns behind the half are those of the second half, or none. */
        const int32_t columns = half - at < 4 * WORDS ? half - at : 4 * WORDS;
        add_columns(sums.lows, factors, both, to + at, columns);
        add_columns(sums.highs, factors + half, both, to + half + at, columns);
    }
    rows->counts[bit] = 0;
}

/* Have rows of a list be added to the sums of a bit. */
static NOINLINE void add_rows(nibble_rows *rows, const row_weights *weights, int32_t bit,
                              const uint16_t *list, const uint16_t *end) {
    int32_t count = rows->counts[bit];
    for (; list < end; list++) {
        if (count == MOST_ROWS) {
            rows->counts[bit] = count;
            add_bit(rows, bit);
            count = 0;
        }
        rows->rows[bit][count++] = (const uint8_t *)row_at(weights->rows, *list, weights->stride);
    }
    rows->counts[bit] = count;
}

/* Number of the first row that is still in a list. */
static uint32_t next_row(const uint16_t *record, uint32_t places, const uint16_t *at) {
    uint32_t next = UINT32_MAX;
    for (; places; places &= places - 1) {
        const int p = __builtin_ctz(places);
        if (at[p] < record[p + 1] && record[at[p]] < next) next = record[at[p]];
    }
    return next;
}

/* Add the rows of a window, group by group. */
static void sum_rows_int4(const row_lists *lists, const row_weights *weights, int16_t *currents,
                          size_t pitch) {
    const uint16_t *const record = lists->record;
    nibble_rows rows;
    memset(rows.counts, 0, sizeof rows.counts);
    rows.outputs = weights->outputs;
    rows.currents = currents;
    rows.pitch = pitch;
    begin_currents(lists, currents, pitch, weights->outputs);
    uint16_t at[SVIT_PATTERNS]; /* where each list goes on */
    memcpy(at, record, sizeof at);
    for (;;) {
        const uint32_t next = next_row(record, lists->places, at);
        if (next == UINT32_MAX) return;
        const uint32_t size = (uint32_t)weights->group_rows;
        const uint32_t group = next / size, first = group * size;
        rows.multipliers = weights->multipliers + (size_t)group * weights->multiplier_stride;
        for (uint32_t left = lists->places; left; left &= left - 1) {
            const int p = __builtin_ctz(left);
            const uint16_t begin = at[p];
            while (at[p] < record[p + 1] && record[at[p]] - first < size) at[p]++;
            for (uint32_t bits = begin < at[p] ? pattern_of(p) : 0; bits; bits &= bits - 1)
                add_rows(&rows, weights, __builtin_ctz(bits), record + begin, record + at[p]);
        }
        for (int32_t bit = 0; bit < lists->bits; bit++)
            if (rows.counts[bit]) add_bit(&rows, bit);
    }
}

/* -- Neurons --------------------------------------------------------------------------------- */

enum { CURRENTS_INT16, CURRENTS_INT32, CURRENTS_FLOAT };

static float current_at(const fire_task *task, int type, const void *currents, size_t at,
                        int32_t n) {
    if (type == CURRENTS_FLOAT) return ((const float *)currents)[at];
    const float sum = type == CURRENTS_INT16 ? (float)((const int16_t *)currents)[at]
                                             : (float)((const int32_t *)currents)[at];
    const float scaled = sum * task->scale[n];
    return scaled + task->bias[n];
}

/* Count that a potential fires: round(clip(level, 0, levels)). */
static int32_t count_of(float level, const neuron_ref *neuron) {
    level = level > 0.0f ? level : 0.0f;
    level = level < (float)neuron->levels ? level : (float)neuron->levels;
    if (neuron->half_up) return (int32_t)(level + 0.5f);
    /* Adding 1.5 * 2^23 leaves no bits for a fraction, so that the sum is rounded half to even. */
    const volatile float shifted = level + 12582912.0f;
    return (int32_t)(shifted - 12582912.0f);
}

/* Neurons of one level collect all steps in the bits of one word. */
static void fire_spikes(const fire_task *task, int type, const void *currents) {
    const neuron_ref neuron = *task->neuron;
    const size_t pitch = task->is_static ? 0 : task->pitch;
    for (int32_t n = 0; n < task->size; n++) {
        float membrane = 0.0f;
        uint32_t bits = 0;
        size_t at = (size_t)n;
        for (int32_t t = 0; t < task->steps; t++, at += pitch) {
            float charge = current_at(task, type, currents, at, n) * neuron.gain;
            if (t > 0) charge = membrane * neuron.decay + charge;
            charge += t > 0 ? neuron.shift : neuron.first_shift;
            const int fired = charge >= neuron.threshold;
            bits |= (uint32_t)fired << t;
            const float rest = neuron.hard_reset ? neuron.v_reset : charge - neuron.threshold;
            membrane = fired ? rest : charge;
        }
        uint8_t *to = task->patterns + n;
        for (int32_t byte = 0; byte < task->bytes; byte++, to += task->patterns_pitch) {
            *to = (uint8_t)bits;
            bits >>= 8;
        }
    }
}

/* Set the bits of a step's count. */
static void add_count(const fire_task *task, int32_t t, int32_t count, uint8_t *to) {
    const int32_t group = t / task->steps_per_byte * task->planes;
    const int32_t bit = t % task->steps_per_byte * task->step_bits;
    for (int32_t level = 0; level < count; level++) {
        const int32_t plane = task->step_bits > 1 ? 0 : level;
        const int32_t place = bit + (task->step_bits > 1 ? level : 0);
        to[(size_t)(group + plane) * task->patterns_pitch] |= (uint8_t)(1u << place);
    }
}

static void fire_counts(const fire_task *task, int type, const void *currents) {
    const neuron_ref *neuron = task->neuron;
    const size_t pitch = task->is_static ? 0 : task->pitch;
    for (int32_t n = 0; n < task->size; n++) {
        uint8_t *to = task->patterns + n;
        for (int32_t byte = 0; byte < task->bytes; byte++)
            to[(size_t)byte * task->patterns_pitch] = 0;
        float membrane = 0.0f;
        for (int32_t t = 0; t < task->steps; t++) {
            const size_t at = (size_t)t * pitch + (size_t)n;
            float charge = current_at(task, type, currents, at, n) * neuron->gain;
            if (t > 0) charge = membrane * neuron->decay + charge;
            charge += t > 0 ? neuron->shift : neuron->first_shift;
            const int32_t count = count_of(charge / neuron->threshold, neuron);
            const float spent = (float)count * neuron->threshold;
            membrane = charge - spent;
            add_count(task, t, count, to);
        }
    }
}

/* The usual neurons: without offsets, reset to zero, their steps in one byte. Integer currents are
 * `scaled`. */
#define DEFINE_FIRE_PLAIN(suffix, type, scaled)                                                \
    static void fire_plain_##suffix(const fire_task *task, const type *currents) {             \
        const float decay = task->neuron->decay, threshold = task->neuron->threshold;          \
        const size_t pitch = task->is_static ? 0 : task->pitch;                                \
        const uint32_t end = 1u << task->steps;                                                \
        for (int32_t n = 0; n < task->size; n++) {                                             \
            const float scale = (scaled) ? task->scale[n] : 1.0f;                              \
            const float bias = (scaled) ? task->bias[n] : 0.0f;                                \
            const type *current = currents + n;                                                \
            float membrane = 0.0f;                                                             \
            uint32_t bits = 0;                                                                 \
            for (uint32_t bit = 1; bit < end; bit <<= 1, current += pitch) {                   \
                const float value = (float)*current;                                           \
                membrane = membrane * decay + ((scaled) ? value * scale + bias : value);       \
                if (membrane >= threshold) {                                                   \
                    bits |= bit;                                                               \
                    membrane = 0.0f;                                                           \
                }                                                                              \
            }                                                                                  \
            task->patterns[n] = (uint8_t)bits;                                                 \
        }                                                                                      \
    }

DEFINE_FIRE_PLAIN(int16, int16_t, 1)
DEFINE_FIRE_PLAIN(int32, int32_t, 1)
DEFINE_FIRE_PLAIN(float, float, 0)

static int is_plain(const fire_task *task) {
    const neuron_ref *neuron = task->neuron;
    return task->bytes == 1 && neuron->gain == 1.0f && neuron->shift == 0.0f &&
           neuron->first_shift == 0.0f && neuron->hard_reset && neuron->v_reset == 0.0f;
}

#define DEFINE_FIRE(suffix, type, TYPE)                               \
    static void fire_##suffix(const fire_task *task, const type *currents) { \
        if (task->neuron->levels > 1)                                 \
            fire_counts(task, TYPE, currents);                        \
        else if (is_plain(task))                                      \
            fire_plain_##suffix(task, currents);                      \
        else                                                          \
            fire_spikes(task, TYPE, currents);                        \
    }

DEFINE_FIRE(int16, int16_t, CURRENTS_INT16)
DEFINE_FIRE(int32, int32_t, CURRENTS_INT32)
DEFINE_FIRE(float, float, CURRENTS_FLOAT)

/* -- Sums and maxima of arrays --------------------------------------------------------------- */

/* Four columns at a time; sums are padded. */
#define DEFINE_SUM_SCALED(name, type)                                                           \
    static void name(const float *x, const int32_t *rows, int32_t count, const type *weights,   \
                     size_t stride, float *sums, int32_t n) {                                   \
        for (int32_t at = 0; at < n; at += 4, weights += 4, sums += 4) {                        \
            float a = sums[0], b = sums[1], c = sums[2], d = sums[3];                           \
            for (int32_t i = 0; i < count; i++) {                                               \
                const type *row = weights + (size_t)rows[i] * stride;                           \
                const float factor = x[i];                                                      \
                a += (float)row[0] * factor;                                                    \
                b += (float)row[1] * factor;                                                    \
                c += (float)row[2] * factor;                                                    \
                d += (float)row[3] * factor;                                                    \
            }                                                                                   \
            sums[0] = a;                                                                        \
            sums[1] = b;                                                                        \
            sums[2] = c;                                                                        \
            sums[3] = d;                                                                        \
        }                                                                                       \
    }

DEFINE_SUM_SCALED(sum_scaled, float)
DEFINE_SUM_SCALED(sum_scaled_int8, int8_t)

/* sums[i] += bit `bit` of bytes[i] */
static void add_bits(uint16_t *sums, const uint8_t *bytes, int32_t bit, int32_t n) {
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const uint32_t ones = load(bytes + i) >> bit & 0x01010101u;
        if (ones == 0) continue;
        const pair even = ones & 0x00ff00ffu, odd = ones >> 8 & 0x00ff00ffu;
        store(sums + i, add_pairs(load(sums + i), first_of(even, odd)));
        store(sums + i + 2, add_pairs(load(sums + i + 2), second_of(even, odd)));
    }
    for (; i < n; i++) sums[i] = (uint16_t)(sums[i] + (bytes[i] >> bit & 1));
}

static void count_bits(const uint8_t *bytes, size_t stride, int32_t places, int32_t bit, int32_t n,
                       uint16_t *sums) {
    for (int32_t p = 0; p < places; p++, bytes += stride) add_bits(sums, bytes, bit, n);
}

/* table[(t * keys + e) * pitch + d] += v[d] in step t, for every e whose k fires then. */
static void add_products(const uint8_t *k, const uint8_t *v, int32_t keys, int32_t values,
                         uint32_t steps, size_t pitch, uint16_t *table) {
    for (int32_t e = 0; e < keys; e++)
        for (uint32_t bits = k[e] & steps; bits; bits &= bits - 1) {
            const int32_t t = __builtin_ctz(bits);
            add_bits(table + (size_t)(t * keys + e) * pitch, v, t, values);
        }
}

/* currents[t * pitch + d] = sum of table[(t * keys + e) * pitch + d] over every e whose q fires. */
static void read_products(const uint8_t *q, const uint16_t *table, int32_t keys, int32_t values,
                          int32_t steps, int is_narrow, size_t pitch, int32_t *currents) {
    (void)is_narrow;
    for (int32_t t = 0; t < steps; t++, currents += pitch) {
        memset(currents, 0, (size_t)values * sizeof *currents);
        for (int32_t e = 0; e < keys; e++, table += pitch)
            for (int32_t d = 0; q[e] >> t & 1 && d < values; d++) currents[d] += table[d];
    }
}

static void max_int16(int16_t *most, const int16_t *row, int32_t n) {
    for (int32_t i = 0; i < n; i += 2) store(most + i, max_pairs(load(most + i), load(row + i)));
}

/* -- Pixels ----------------------------------------------------------------------------------- */

/* Sums of one window, four outputs of them: pairs of values times pairs of weights. */
static NOINLINE void sum_window(const pixel_rows *rows, size_t first, const int16_t *weights,
                                size_t stride, int32_t *sums) {
    int32_t a = 0, b = 0, c = 0, d = 0;
    for (int32_t r = 0; r < rows->count; r++) {
        const int16_t *line = rows->lines[r] + first;
        const int16_t *const end = line + 2 * rows->pairs;
        for (; line < end; line += 2, weights += stride) {
            const pair x = load(line);
            a = multiply_add(a, x, load(weights));
            b = multiply_add(b, x, load(weights + 2));
            c = multiply_add(c, x, load(weights + 4));
            d = multiply_add(d, x, load(weights + 6));
        }
    }
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
}

static void sum_pixels(const pixel_rows *rows, int32_t x, int32_t count, const int16_t *weights,
                       int32_t outputs, int32_t *sums, size_t pitch) {
    size_t first = (size_t)x * rows->step;
    for (int32_t i = 0; i < count; i++, first += rows->step, sums += pitch)
        for (int32_t at = 0; at < outputs; at += 4)
            sum_window(rows, first, weights + 2 * at, 2 * (size_t)outputs, sums + at);
}

const svit_kernels svit_kernels_mcu = {
    "mcu",      list_active,  sum_rows,      sum_rows_int4, add_block,
    fire_int16, fire_int32,   fire_float,    sum_scaled,    sum_scaled_int8,
    count_bits, add_products, read_products, max_int16,     sum_pixels,    NULL,
};
