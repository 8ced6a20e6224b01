/* Attention on spikes, without a softmax: unit * (v k^T) q, head by head, into neurons. */
#include <string.h>

#include "svit_internal.h"

size_t svit_attention_scratch(const op_attention *op) {
    const size_t steps = (size_t)op->output.steps;
    const size_t table = (size_t)op->key_size * padded(op->value_size) * sizeof(uint16_t);
    const size_t currents = padded(op->value_size) * sizeof(int32_t);
    const size_t constants = 2 * padded(op->value_size) * sizeof(float);
    return steps * (table + currents) + constants + SVIT_SLACK;
}

/* table[t][e] += v's spikes of a position, for every e whose k fires in step t. */
static void add_position(const run_state *run, const op_attention *op, const uint8_t *k,
                         const uint8_t *v, uint16_t *table) {
    const size_t pitch = padded(op->value_size);
    for (int32_t e = 0; e < op->key_size; e++)
        for (uint32_t bits = k[e]; bits; bits &= bits - 1) {
            const int32_t t = __builtin_ctz(bits);
            uint16_t *sums = table + (size_t)(t * op->key_size + e) * pitch;
            run->kernels->add_bits(sums, v, t, op->value_size);
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
    const size_t keys = (size_t)(op->heads * op->key_size);
    const size_t values = (size_t)(op->heads * op->value_size);
    for (int32_t head = 0; head < op->heads; head++) {
        const uint8_t *q = run->arena + op->q.offset + (size_t)(head * op->key_size);
        const uint8_t *k = run->arena + op->k.offset + (size_t)(head * op->key_size);
        const uint8_t *v = run->arena + op->v.offset + (size_t)(head * op->value_size);
        memset(table, 0, table_size * sizeof *table);
        for (int32_t p = 0; p < op->positions; p++)
            add_position(run, op, k + (size_t)p * keys, v + (size_t)p * values, table);
        for (int32_t p = 0; p < op->positions; p++) {
            memset(currents, 0, (size_t)steps * pitch * sizeof *currents);
            for (int32_t e = 0; e < op->key_size; e++)
                for (uint32_t bits = q[(size_t)p * keys + (size_t)e]; bits; bits &= bits - 1) {
                    const int32_t t = __builtin_ctz(bits);
                    run->kernels->add_words(currents + (size_t)t * pitch,
                                            table + (size_t)(t * op->key_size + e) * pitch,
                                            op->value_size);
                }
            fire_task task = svit_fire_task(
                &op->neuron, &op->output,
                run->arena + op->output.offset + (size_t)p * values +
                    (size_t)(head * op->value_size));
            task.scale = scale;
            task.bias = bias;
            task.pitch = pitch;
            task.size = op->value_size;
            run->kernels->fire_int32(&task, currents);
        }
    }
}
