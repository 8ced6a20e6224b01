/* Attention on spikes, without a softmax: unit * (v k^T) q, head by head, into neurons. */
#include <string.h>

#include "svit_internal.h"

uint64_t svit_attention_scratch(const op_attention *op) {
    const uint64_t steps = (uint64_t)op->output.steps;
    const uint64_t table = (uint64_t)op->key_size * padded(op->value_size) * sizeof(uint16_t);
    const uint64_t currents = padded(op->value_size) * sizeof(int32_t);
    const uint64_t constants = 2 * padded(op->value_size) * sizeof(float);
    return steps * (table + currents) + constants + SVIT_SLACK;
}

/* Position p of a window among those of all windows. */
static size_t place_of(const op_attention *op, int32_t window, int32_t p) {
    const int32_t side = op->windows;
    const int32_t row = p / op->columns * side + window / side;
    const int32_t column = p % op->columns * side + window % side;
    return (size_t)row * (size_t)(op->columns * side) + (size_t)column;
}

/* Add the tables of the steps of each chunk up, and give each of these steps the sum. */
static void share_tables(uint16_t *table, size_t size, int32_t steps, int32_t chunk) {
    for (int32_t first = 0; first < steps; first += chunk) {
        uint16_t *sum = table + (size_t)first * size;
        for (int32_t t = 1; t < chunk; t++)
            for (size_t i = 0; i < size; i++)
                sum[i] = (uint16_t)(sum[i] + sum[(size_t)t * size + i]);
        for (int32_t t = 1; t < chunk; t++) memcpy(sum + (size_t)t * size, sum, size * sizeof *sum);
    }
}

void svit_run_attention(const run_state *run, const op_attention *op) {
    const size_t pitch = padded(op->value_size);
    const int32_t steps = op->output.steps;
    const size_t table_size = (size_t)(steps * op->key_size) * pitch;
    uint16_t *table = (uint16_t *)(void *)run->scratch;
    int32_t *currents = (int32_t *)(void *)(table + table_size);
    float *scale = (float *)(void *)(currents + (size_t)steps * pitch);
    float *bias = scale + pitch;
    for (size_t n = 0; n < pitch; n++) {
        scale[n] = op->unit;
        bias[n] = 0.0f;
    }
    /* Other bits of a byte stand for no step: tables have no place for them. */
    const uint32_t fires = (1u << steps) - 1;
    const int is_narrow = (int64_t)op->key_size * op->positions * op->chunk <= INT16_MAX;
    const svit_kernels *kernels = run->kernels;
    const size_t keys = (size_t)op->heads * (size_t)op->key_size;
    const size_t values = (size_t)op->heads * (size_t)op->value_size;
    const int32_t windows = op->windows * op->windows;
    int32_t first, end;
    share_of(run, op->heads * windows, &first, &end);
    for (int32_t at = first; at < end; at++) {
        const int32_t head = at / windows, window = at % windows;
        const uint8_t *q = run->arena + op->q.offset + (size_t)(head * op->key_size);
        const uint8_t *k = run->arena + op->k.offset + (size_t)(head * op->key_size);
        const uint8_t *v = run->arena + op->v.offset + (size_t)(head * op->value_size);
        memset(table, 0, table_size * sizeof *table);
        for (int32_t p = 0; p < op->positions; p++) {
            const size_t place = place_of(op, window, p);
            kernels->add_products(k + place * keys, v + place * values, op->key_size,
                                  op->value_size, fires, pitch, table);
        }
        if (op->chunk > 1)
            share_tables(table, (size_t)op->key_size * pitch, steps, op->chunk);
        for (int32_t p = 0; p < op->positions; p++) {
            const size_t place = place_of(op, window, p);
            kernels->read_products(q + place * keys, table, op->key_size, op->value_size, steps,
                                   is_narrow, pitch, currents);
            fire_task task = svit_fire_task(
                &op->neuron, &op->output,
                run->arena + op->output.offset + place * values +
                    (size_t)(head * op->value_size));
            task.scale = scale;
            task.bias = bias;
            task.pitch = pitch;
            task.size = op->value_size;
            kernels->fire_int32(&task, currents);
        }
    }
}
