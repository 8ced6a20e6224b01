/* A libFuzzer mutator that changes words of operators, and operators as a whole. */
#include "mutate.h"

#include <string.h>

#define MOST_OPERATORS 24

uint32_t roll(dice *d, uint32_t sides) {
    d->state = d->state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)(d->state >> 4) * sides) >> 28);
}

int is_in_order(const uint8_t *file, size_t bytes) {
    const svit_header *h = (const svit_header *)(const void *)file;
    if (bytes < sizeof *h + SVIT_SLACK || h->operators_offset != sizeof *h) return 0;
    if (h->data_offset < sizeof *h || h->data_offset % SVIT_ALIGNMENT ||
        h->data_offset + SVIT_SLACK > bytes)
        return 0;
    size_t at = sizeof *h;
    for (uint32_t i = 0; i < h->operators; i++) {
        const op_head *op = (const op_head *)(const void *)(file + at);
        if (at + sizeof *op > h->data_offset) return 0;
        const size_t record = svit_record_bytes(op->kind);
        if (!record || (uint64_t)op->words * 4 != record) return 0;
        at += record;
    }
    return at <= h->data_offset;
}

static op_head *operator_at(uint8_t *file, uint32_t number) {
    uint8_t *at = file + sizeof(svit_header);
    for (; number > 0; number--) at += (size_t)((op_head *)(void *)at)->words * 4;
    return (op_head *)(void *)at;
}

/* A word that is likely to be at the edge of something. */
static int32_t odd_word(dice *d, int32_t was, const int32_t *words, uint32_t count) {
    static const int32_t edges[] = {
        0,   1,   2,   3,   4,    5,     7,     8,     9,       15,      16,        17,
        31,  32,  33,  63,  64,   65,    127,   128,   129,     255,     256,       257,
        511, 512, 513, 1023, 65534, 65535, 65536, 65537, 1 << 28, INT32_MAX, INT32_MIN, -1,
        0x3f800000, 0x7f800000, -0x800000, 0x7fc00000, 0x3f000000, 0x00000100, (1 << 28) + 1};
    switch (roll(d, 8)) {
    case 0: return (int32_t)((uint32_t)was + 1);
    case 1: return (int32_t)((uint32_t)was - 1);
    case 2: return (int32_t)((uint32_t)was << 1);
    case 3: return was / 2;
    case 4: return words[roll(d, count)];
    case 5: return (int32_t)roll(d, 40);
    case 6: return (int32_t)(roll(d, 1 << 16) * (1u + roll(d, 1 << 12)));
    default: return edges[roll(d, sizeof edges / sizeof *edges)];
    }
}

/* Change a word of an operator, or all its words that have that value. */
static void change_word(uint8_t *file, dice *d) {
    svit_header *h = (svit_header *)(void *)file;
    op_head *op = operator_at(file, roll(d, h->operators));
    int32_t *words = (int32_t *)(void *)op;
    const uint32_t count = (uint32_t)op->words, place = 2 + roll(d, count - 2);
    const int32_t was = words[place], now = odd_word(d, was, words, count);
    const int everywhere = roll(d, 3) == 0;
    for (uint32_t i = 2; i < count; i++)
        if (i == place || (everywhere && words[i] == was)) words[i] = now;
}

static void change_header(uint8_t *file, dice *d) {
    const uint32_t first = offsetof(svit_header, arena_bytes) / 4;
    const uint32_t count = sizeof(svit_header) / 4 - first;
    int32_t *words = (int32_t *)(void *)file + first;
    const uint32_t place = roll(d, count);
    words[place] = odd_word(d, words[place], words, count);
}

/* Copy some words of one operator over those at the same place of another. */
static void mix(uint8_t *file, dice *d) {
    svit_header *h = (svit_header *)(void *)file;
    op_head *to = operator_at(file, roll(d, h->operators));
    const op_head *from = operator_at(file, roll(d, h->operators));
    const uint32_t words = (uint32_t)(to->words < from->words ? to->words : from->words);
    const uint32_t first = 2 + roll(d, words - 2);
    memmove((int32_t *)(void *)to + first, (const int32_t *)(const void *)from + first,
            (1 + roll(d, words - first)) * sizeof(int32_t));
}

/* Have scratch memory begin where something else of the operator may be. */
static void move_scratch(uint8_t *file, dice *d) {
    svit_header *h = (svit_header *)(void *)file;
    op_head *op = operator_at(file, roll(d, h->operators));
    const uint32_t word = ((uint32_t *)(void *)op)[2 + roll(d, (uint32_t)op->words - 2)];
    op->scratch_offset = (int32_t)(word / SVIT_ALIGNMENT * SVIT_ALIGNMENT);
}

/* Remove an operator or repeat it; the data moves. Gives the size of the file. */
static size_t move_operators(uint8_t *file, size_t bytes, size_t most, dice *d) {
    static uint8_t copy[1 << 20];
    svit_header *h = (svit_header *)(void *)file;
    const uint32_t number = roll(d, h->operators);
    op_head *op = operator_at(file, number);
    uint8_t *const at = (uint8_t *)op, *const end = at + (size_t)op->words * 4;
    uint8_t *const records_end = (uint8_t *)operator_at(file, h->operators);
    const size_t size = (size_t)(end - at), tail = bytes - h->data_offset;
    const int remove = h->operators > 1 && (h->operators >= MOST_OPERATORS || roll(d, 2));
    const size_t records = (size_t)(records_end - file) + (remove ? 0 - size : size);
    const size_t data_at = (records + SVIT_ALIGNMENT - 1) / SVIT_ALIGNMENT * SVIT_ALIGNMENT;
    if (bytes > sizeof copy || data_at + tail > most) return bytes;
    memcpy(copy, file, bytes);
    const uint8_t *const rest = copy + (remove ? end - file : at - file);
    memcpy(remove ? at : end, rest, (size_t)(copy + (records_end - file) - rest));
    memset(file + records, 0, data_at - records);
    memcpy(file + data_at, copy + h->data_offset, tail);
    h->data_offset = (uint32_t)data_at;
    h->operators += remove ? UINT32_MAX : 1;
    return data_at + tail;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    dice d = {seed * 2654435761u + 12345u};
    svit_header *h = (svit_header *)(void *)data;
    if (!is_in_order(data, size) || h->operators == 0 || roll(&d, 64) == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    for (uint32_t left = 1 + roll(&d, 4); left > 0; left--) switch (roll(&d, 12)) {
        case 0: change_header(data, &d); break;
        case 1: mix(data, &d); break;
        case 2: size = move_operators(data, size, max_size, &d); break;
        case 3: LLVMFuzzerMutate(data + h->data_offset, size - h->data_offset,
                                 size - h->data_offset);
            break;
        default: change_word(data, &d); break;
        }
    if (roll(&d, 8) && is_in_order(data, size)) mend(data, size, &d);
    if (roll(&d, 16) == 0 && is_in_order(data, size)) move_scratch(data, &d);
    return size;
}
