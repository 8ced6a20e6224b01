/* How long operators take, so that a model that takes too long is not run. */
#include "guarded_run.h"

static double area(double height, double width) { return height * width; }

static double outputs_of(const window_ref *w) { return area(w->out_height, w->out_width); }

static double taps_of(const window_ref *w) { return area(w->kernel_height, w->kernel_width); }

/* Of a sink, at one position. */
static double sink_work(const sink_ref *s, double outputs) {
    double windows = 1.0; /* of the pool that cover it */
    if (s->pooled)
        windows = area(1.0 + (double)s->pool.kernel_height / s->pool.stride_y,
                       1.0 + (double)s->pool.kernel_width / s->pool.stride_x);
    const double fired = s->kind == SINK_NEURON ? s->spikes.steps * (1.0 + s->neuron.levels) : 1.0;
    return outputs * (s->steps * (1.0 + windows) + fired);
}

static double sparse_work(const op_sparse *op) {
    const window_ref *w = &op->window;
    const double each = (double)w->channels * op->input.groups * op->input.planes;
    const double bits = (double)op->input.groups * op->input.step_bits * op->input.steps_per_group;
    const double position = taps_of(w) * each * (1.0 + op->outputs / 4.0) +
                            (bits + op->input.steps) * op->outputs +
                            sink_work(&op->sink, op->outputs);
    const double lists = taps_of(w) * 16.0 * bits * op->input.planes;
    const double columns = op->outputs + PRODUCT_COLUMNS;
    const double products = taps_of(w) * w->channels * op->input.steps * columns / 8.0;
    return outputs_of(w) * (position + lists + (op->gathered ? products : 0.0)) +
           op->tile * (double)w->stride_x * w->out_height +
           op->gathered * (double)op->input.steps * taps_of(w) * w->channels;
}

static double dense_work(const op_dense *op) {
    const window_ref *w = &op->window;
    const double planes = op->input_is_spikes ? op->spikes.planes : 1.0;
    const double inputs = taps_of(w) * (w->channels + op->groups) * planes;
    const double products = taps_of(w) * w->channels / op->groups * op->outputs;
    return outputs_of(w) *
           (op->sink.steps * (inputs + products * planes) + sink_work(&op->sink, op->outputs));
}

static double pixels_work(const op_pixels *op) {
    const window_ref *w = &op->window;
    const double position = taps_of(w) * w->channels * op->outputs / 2.0 +
                            sink_work(&op->sink, op->outputs);
    const double lines = area(w->out_height, w->kernel_height) * w->width * w->channels;
    return outputs_of(w) * position + lines;
}

static double attention_work(const op_attention *op) {
    const double each = (double)op->key_size * op->value_size * 2.0 + 3.0 * op->value_size;
    const double tables = (double)op->heads * op->key_size * op->value_size;
    const double windows = (double)op->windows * op->windows;
    return op->output.steps * windows * ((double)op->heads * op->positions * each + tables);
}

static double product(const int32_t *sizes, int32_t rank) {
    double all = 1.0;
    for (int32_t axis = 0; axis < rank; axis++) all *= sizes[axis];
    return all;
}

static double planes_of(const operand_ref *x) {
    return x->kind == OPERAND_SPIKES ? 1.0 + x->spikes.planes : 1.0;
}

double work_of(const op_head *op) {
    const void *any = op;
    const op_neuron *neuron = any;
    const op_spike_pool *spike_pool = any;
    const op_value_pool *value_pool = any;
    const op_spike_add *add = any;
    const op_elementwise *elementwise = any;
    const op_spike_and *both = any;
    const op_reduce *reduce = any;
    const op_matmul *matmul = any;
    const op_copy *copy = any;
    switch (op->kind) {
    case OP_SPARSE: return sparse_work(any);
    case OP_DENSE: return dense_work(any);
    case OP_ATTENTION: return attention_work(any);
    case OP_PIXELS: return pixels_work(any);
    case OP_NEURON:
        return (double)neuron->output.elements * neuron->output.steps *
               (1.0 + neuron->neuron.levels);
    case OP_SPIKE_POOL:
        return (double)spike_pool->output.elements * spike_pool->input.planes *
               spike_pool->input.groups * taps_of(&spike_pool->window);
    case OP_VALUE_POOL:
        return (double)value_pool->output.elements * value_pool->input.steps *
               taps_of(&value_pool->window);
    case OP_SPIKE_ADD:
        return (double)add->output.elements * add->output.groups * add->output.planes;
    case OP_ELEMENTWISE:
        return product(elementwise->sizes, elementwise->rank) *
               (planes_of(&elementwise->a) + planes_of(&elementwise->b));
    case OP_SPIKE_AND: return product(both->sizes, both->rank) * both->output.groups;
    case OP_REDUCE: return product(reduce->sizes, reduce->rank) * planes_of(&reduce->input);
    case OP_MATMUL:
        return product(matmul->sizes, matmul->rank) *
               (planes_of(&matmul->a) + planes_of(&matmul->b));
    default:
        return product(copy->sizes, copy->rank) * planes_of(&copy->input) *
               (copy->output.kind == OPERAND_SPIKES ? copy->output.spikes.groups : 1.0);
    }
}
