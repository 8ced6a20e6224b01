/* 4-bit weights as bytes, which are added without unpacking them again and again. */
#include <string.h>

#include "svit_internal.h"

static const svit_header *header_of(const svit_model *model) {
    return (const svit_header *)(const void *)model->file;
}

static size_t rows_of(const op_sparse *op) {
    const window_ref *w = &op->window;
    return (size_t)w->kernel_height * (size_t)w->kernel_width * (size_t)w->channels;
}

uint64_t svit_unpacked_size(const op_head *op) {
    const op_sparse *sparse = (const op_sparse *)(const void *)op;
    if (op->kind != OP_SPARSE || sparse->weights != WEIGHTS_INT4) return 0;
    const uint64_t bytes = (uint64_t)rows_of(sparse) * (uint64_t)sparse->outputs;
    return (bytes + SVIT_ALIGNMENT - 1) / SVIT_ALIGNMENT * SVIT_ALIGNMENT;
}

/* Bytes of all operators' weights. */
static uint64_t total_of(const svit_header *h) {
    const uint8_t *at = (const uint8_t *)h + h->operators_offset;
    uint64_t total = 0;
    for (uint32_t i = 0; i < h->operators; i++) {
        const op_head *op = (const op_head *)(const void *)at;
        total += svit_unpacked_size(op);
        at += (size_t)op->words * 4;
    }
    return total;
}

size_t svit_unpacked_bytes(const svit_model *model) {
    const uint64_t total = total_of(header_of(model));
    if (total > SIZE_MAX - SVIT_SLACK) return 0;
    return total ? (size_t)total + SVIT_SLACK : 0; /* which kernels may read */
}

const int8_t *svit_unpacked_rows(const svit_header *h, const op_head *op,
                                 const int8_t *unpacked) {
    const uint64_t wanted = svit_unpacked_size(op);
    const op_sparse *sparse = (const op_sparse *)(const void *)op;
    const uint8_t *at = (const uint8_t *)h + h->operators_offset;
    for (uint32_t i = 0; wanted && i < h->operators; i++) {
        const op_sparse *one = (const op_sparse *)(const void *)at;
        const uint64_t bytes = svit_unpacked_size(&one->head);
        if (bytes && one->weights_offset == sparse->weights_offset &&
            one->multipliers_offset == sparse->multipliers_offset &&
            one->group_rows == sparse->group_rows && one->outputs == sparse->outputs &&
            rows_of(one) == rows_of(sparse))
            return unpacked;
        unpacked += bytes;
        at += (size_t)one->head.words * 4;
    }
    return NULL;
}

/* Unpack a row of nibbles, multiplied: of each SVIT_COLUMNS columns the low ones come first. */
static void unpack_row(const uint8_t *nibbles, const uint8_t *multipliers, int32_t outputs,
                       int8_t *row) {
    for (int32_t first = 0; first < outputs; first += SVIT_COLUMNS) {
        const int32_t left = outputs - first, count = left < SVIT_COLUMNS ? left : SVIT_COLUMNS;
        const int32_t half = (count + 1) / 2;
        for (int32_t n = 0; n < count; n++) {
            const uint32_t byte = nibbles[first / 2 + (n < half ? n : n - half)];
            const int32_t code = (int32_t)(n < half ? byte & 15 : byte >> 4) - 8;
            row[first + n] = (int8_t)(code * multipliers[first + n]);
        }
    }
}

static void unpack_rows(const op_sparse *op, const uint8_t *data, int8_t *to) {
    const size_t rows = rows_of(op), outputs = (size_t)op->outputs, stride = (outputs + 1) / 2;
    const uint8_t *nibbles = data + op->weights_offset;
    const uint8_t *multipliers = data + op->multipliers_offset;
    for (size_t row = 0; row < rows; row++)
        unpack_row(nibbles + row * stride,
                   multipliers + row / (size_t)op->group_rows * outputs, op->outputs,
                   to + row * outputs);
}

int svit_unpack(svit_model *model, void *memory) {
    if (!model || !model->file || !memory || (uintptr_t)memory % SVIT_ALIGNMENT)
        return SVIT_ERROR_ARGUMENT;
    const svit_header *h = header_of(model);
    if (!svit_unpacked_bytes(model)) return SVIT_OK;
    const uint8_t *at = model->file + h->operators_offset;
    int8_t *to = memory;
    for (uint32_t i = 0; i < h->operators; i++) {
        const op_head *op = (const op_head *)(const void *)at;
        const size_t bytes = (size_t)svit_unpacked_size(op);
        if (bytes) unpack_rows((const op_sparse *)(const void *)op, model->file + h->data_offset, to);
        to += bytes;
        at += (size_t)op->words * 4;
    }
    model->unpacked = memory;
    return SVIT_OK;
}
