/* A kernel of products for x86, once for every instruction set: a file that includes this defines
 *
 *     TARGET       attribute of the function
 *     NAME         its name
 *     VECTOR       type of a register
 *     REGISTERS    of outputs at a time
 *     ALL_TOGETHER whether sums are of 32 bits at once
 *     SPREAD(x)    four counts, in every lane
 *     MULTIPLY_ADD(total, x, weights), WIDEN(total), ADD_INTS(a, b)
 */
TARGET static void NAME(const product_task *task) {
    enum { LANES = (int)sizeof(VECTOR) / 4, WINDOWS = 4 };
    const size_t pitch = task->counts_pitch;
    const int32_t together = ALL_TOGETHER ? task->quads : task->together;
    for (int32_t window = 0; window < task->windows; window += WINDOWS)
        for (int32_t n = 0; n < PRODUCT_COLUMNS; n += REGISTERS * LANES) {
            const uint8_t *counts = task->counts + (size_t)window * pitch;
            const int8_t *weights = task->packed + 4 * n;
            int32_t *const sums = task->sums + window * PRODUCT_COLUMNS + n;
            for (int32_t left = task->quads; left > 0; left -= together) {
                const int32_t quads = left < together ? left : together;
                VECTOR total[WINDOWS][REGISTERS];
                memset(total, 0, sizeof total);
                for (int32_t q = 0; q < quads; q++, counts += 4, weights += 4 * PRODUCT_COLUMNS) {
                    VECTOR each[REGISTERS];
                    UNROLL for (int j = 0; j < REGISTERS; j++)
                        memcpy(&each[j], weights + j * 4 * LANES, sizeof each[j]);
                    UNROLL for (int k = 0; k < WINDOWS; k++) {
                        int32_t four;
                        memcpy(&four, counts + (size_t)k * pitch, sizeof four);
                        const VECTOR x = SPREAD(four);
                        UNROLL for (int j = 0; j < REGISTERS; j++)
                            total[k][j] = MULTIPLY_ADD(total[k][j], x, each[j]);
                    }
                }
                UNROLL for (int k = 0; k < WINDOWS; k++)
                    UNROLL for (int j = 0; j < REGISTERS; j++) {
                        int32_t *to = sums + k * PRODUCT_COLUMNS + j * LANES;
                        VECTOR sum;
                        memcpy(&sum, to, sizeof sum);
                        sum = ADD_INTS(sum, WIDEN(total[k][j]));
                        memcpy(to, &sum, sizeof sum);
                    }
            }
        }
}
#undef TARGET
#undef NAME
#undef VECTOR
#undef REGISTERS
#undef ALL_TOGETHER
#undef SPREAD
#undef MULTIPLY_ADD
#undef WIDEN
#undef ADD_INTS
