/* Makes the fields of an operator agree. */
#include "mend.h"

static void mend_sparse(room *r, op_sparse *op) {
    window_ref *w = &op->window;
    mend_window(r, w, 0);
    op->input.elements = inputs_of(w);
    mend_spikes(r, &op->input);
    op->outputs = clamp(op->outputs, 1, 1 << 10);
    op->set_bits = op->set_bits >= 4 ? 4 : clamp(op->set_bits, 1, 2);
    op->tile = clamp(op->tile, 0, 40);
    op->block_rows = clamp(op->block_rows, 0, UINT16_MAX);
    op->together = clamp(op->together, 1, 255);
    op->listed = clamp(op->listed, 0, UINT16_MAX);
    const int countable = svit_largest_count(&op->input) <= PRODUCT_LARGEST;
    op->gathered = countable ? clamp(op->gathered, 0, 40) : 0;
    const int64_t rows = (int64_t)w->kernel_height * w->kernel_width * w->channels;
    op->weights = clamp(op->weights, WEIGHTS_INT8, WEIGHTS_INT4);
    if (op->weights == WEIGHTS_INT8) op->multipliers_offset = 0;
    while (rows * op->outputs > 2 * r->data && op->outputs > 1) op->outputs /= 2;
    const int packed = op->weights == WEIGHTS_INT4;
    place_data(r, &op->weights_offset, rows * (packed ? (op->outputs + 1) / 2 : op->outputs), 1);
    if (packed) {
        op->group_rows = clamp(op->group_rows, 1, UINT16_MAX);
        place_data(r, &op->multipliers_offset,
                   (rows + op->group_rows - 1) / op->group_rows * op->outputs, 1);
    }
    place_data(r, &op->scale_offset, (int64_t)op->outputs * 4, 4);
    place_data(r, &op->bias_offset, (int64_t)op->outputs * 4, 4);
    mend_sink(r, &op->sink, w, op->outputs, op->input.steps);
}

static void mend_dense(room *r, op_dense *op) {
    window_ref *w = &op->window;
    mend_window(r, w, 0);
    op->groups = clamp(op->groups, 1, w->channels);
    while (w->channels % op->groups) op->groups--;
    op->outputs = clamp(op->outputs, op->groups, 1 << 10);
    op->outputs -= op->outputs % op->groups;
    op->spikes.elements = op->values.elements = inputs_of(w);
    if (op->input_is_spikes) mend_spikes(r, &op->spikes);
    else mend_values(r, &op->values);
    op->weights = op->weights == WEIGHTS_INT8 ? WEIGHTS_INT8 : WEIGHTS_FLOAT;
    const int32_t size = op->weights == WEIGHTS_INT8 ? 1 : 4;
    const int64_t rows = (int64_t)w->kernel_height * w->kernel_width * (w->channels / op->groups);
    place_data(r, &op->weights_offset, rows * op->outputs * size, size);
    if (size == 1) place_data(r, &op->scale_offset, (int64_t)op->outputs * 4, 4);
    else op->scale_offset = 0;
    place_data(r, &op->bias_offset, (int64_t)op->outputs * 4, 4);
    const int32_t steps = op->input_is_spikes ? op->spikes.steps : op->values.steps;
    mend_sink(r, &op->sink, w, op->outputs, steps);
}

static void mend_pixels(room *r, op_pixels *op) {
    window_ref *w = &op->window;
    mend_window(r, w, 0);
    w->dilation_y = w->dilation_x = 1;
    w->kernel_height = clamp(w->kernel_height, 1, SVIT_PIXEL_ROWS);
    w->channels = r->header->channels;
    w->height = r->header->height;
    w->width = r->header->width;
    op->outputs = clamp(op->outputs, 1, 1 << 8);
    const int64_t pairs = ((int64_t)w->kernel_width * (w->channels + 1) + 1) / 2;
    place_data(r, &op->weights_offset, w->kernel_height * pairs * op->outputs * 4, 2);
    place_data(r, &op->centre_offset, w->channels, 1);
    place_data(r, &op->scale_offset, (int64_t)op->outputs * 4, 4);
    place_data(r, &op->bias_offset, (int64_t)op->outputs * 4, 4);
    mend_sink(r, &op->sink, w, op->outputs, 1);
}

static void mend_attention(room *r, op_attention *op) {
    op->heads = clamp(op->heads, 1, 64);
    op->key_size = clamp(op->key_size, 1, 64);
    op->value_size = clamp(op->value_size, 1, 256);
    op->positions = clamp(op->positions, 1, 64);
    op->windows = clamp(op->windows, 1, 2);
    op->columns = clamp(op->columns, 1, op->positions);
    op->positions -= op->positions % op->columns;
    const int32_t places = op->positions * op->windows * op->windows;
    op->output.step_bits = op->output.planes = op->output.groups = 1;
    op->output.steps = clamp(op->output.steps, 1, 8);
    op->chunk = clamp(op->chunk, 1, op->output.steps);
    op->output.steps -= op->output.steps % op->chunk;
    op->output.elements = op->heads * op->value_size * places;
    mend_spikes(r, &op->output);
    mend_neuron(&op->neuron, &op->output);
    spikes_ref *const inputs[] = {&op->q, &op->k, &op->v};
    for (int i = 0; i < 3; i++) {
        take_form(inputs[i], &op->output);
        inputs[i]->planes = 1;
        inputs[i]->elements = op->heads * (i < 2 ? op->key_size : op->value_size) * places;
        mend_spikes(r, inputs[i]);
    }
}

void mend_operator(room *r, op_head *op) {
    void *any = op;
    op->observed = clamp(op->observed, 0, 1 << 16);
    if (op->name_offset < 0 || op->name_offset >= r->data) op->name_offset = 0;
    op_neuron *neuron = any;
    op_spike_pool *spikes = any;
    op_value_pool *values = any;
    op_spike_add *add = any;
    op_spike_and *both = any;
    op_elementwise *elementwise = any;
    op_reduce *reduce = any;
    op_matmul *matmul = any;
    op_copy *copy = any;
    switch (op->kind) {
    case OP_SPARSE: mend_sparse(r, any); break;
    case OP_DENSE: mend_dense(r, any); break;
    case OP_ATTENTION: mend_attention(r, any); break;
    case OP_PIXELS: mend_pixels(r, any); break;
    case OP_NEURON:
        mend_values(r, &neuron->input);
        neuron->output.elements = neuron->input.elements;
        if (neuron->input.steps > 1) neuron->output.steps = neuron->input.steps;
        mend_spikes(r, &neuron->output);
        mend_neuron(&neuron->neuron, &neuron->output);
        mend_spikes(r, &neuron->output);
        break;
    case OP_SPIKE_POOL:
        mend_window(r, &spikes->window, 1);
        spikes->input.elements = inputs_of(&spikes->window);
        spikes->output.elements = outputs_of(&spikes->window, spikes->window.channels);
        mend_spikes(r, &spikes->input);
        take_form(&spikes->output, &spikes->input);
        spikes->output.planes = spikes->input.planes;
        spikes->output.binary = spikes->input.binary;
        mend_spikes(r, &spikes->output);
        break;
    case OP_VALUE_POOL:
        mend_window(r, &values->window, 1);
        values->input.elements = inputs_of(&values->window);
        values->output.elements = outputs_of(&values->window, values->window.channels);
        values->output.steps = values->input.steps;
        mend_values(r, &values->input);
        mend_values(r, &values->output);
        break;
    case OP_SPIKE_ADD:
        add->output.step_bits = 1;
        mend_spikes(r, &add->output);
        add->a.elements = add->b.elements = add->output.elements;
        take_form(&add->a, &add->output);
        take_form(&add->b, &add->output);
        mend_spikes(r, &add->a);
        mend_spikes(r, &add->b);
        break;
    case OP_SPIKE_AND:
        both->output.step_bits = both->output.planes = both->a.planes = both->b.planes = 1;
        mend_spikes(r, &both->output);
        take_form(&both->a, &both->output);
        take_form(&both->b, &both->output);
        mend_spikes(r, &both->a);
        mend_spikes(r, &both->b);
        mend_sizes(&both->rank, both->sizes, 1);
        mend_strides(&both->base_a, both->strides_a, both->sizes, 0, both->rank, both->a.elements);
        mend_strides(&both->base_b, both->strides_b, both->sizes, 0, both->rank, both->b.elements);
        mend_strides(&both->base_output, both->strides_output, both->sizes, 0, both->rank,
                     both->output.elements);
        break;
    case OP_ELEMENTWISE:
        elementwise->function = clamp(elementwise->function, ELEMENTWISE_ADD, ELEMENTWISE_MAX);
        elementwise->output.kind = OPERAND_VALUES;
        mend_sizes(&elementwise->rank, elementwise->sizes, 1);
        mend_operand(r, &elementwise->a, elementwise->sizes, elementwise->rank);
        mend_operand(r, &elementwise->b, elementwise->sizes, elementwise->rank);
        mend_operand(r, &elementwise->output, elementwise->sizes, elementwise->rank);
        break;
    case OP_REDUCE:
        reduce->function = clamp(reduce->function, REDUCE_SUM, REDUCE_MAX);
        reduce->output.kind = OPERAND_VALUES;
        mend_sizes(&reduce->rank, reduce->sizes, 1);
        reduce->kept = clamp(reduce->kept, 0, reduce->rank);
        mend_operand(r, &reduce->input, reduce->sizes, reduce->rank);
        mend_operand(r, &reduce->output, reduce->sizes, reduce->kept);
        break;
    case OP_MATMUL:
        matmul->output.kind = OPERAND_VALUES;
        mend_sizes(&matmul->rank, matmul->sizes, 3);
        mend_operand(r, &matmul->a, matmul->sizes, matmul->rank);
        mend_operand(r, &matmul->b, matmul->sizes, matmul->rank);
        mend_operand(r, &matmul->output, matmul->sizes, matmul->rank - 1);
        break;
    default:
        mend_sizes(&copy->rank, copy->sizes, 1);
        if (copy->output.kind == OPERAND_SPIKES) {
            copy->sizes[0] = 1;
            copy->input.kind = OPERAND_SPIKES;
            mend_spikes(r, &copy->input.spikes);
            take_form(&copy->output.spikes, &copy->input.spikes);
            copy->output.spikes.planes = copy->input.spikes.planes;
            copy->output.spikes.binary = copy->input.spikes.binary;
        } else {
            copy->output.kind = OPERAND_VALUES;
        }
        mend_operand(r, &copy->input, copy->sizes, copy->rank);
        mend_operand(r, &copy->output, copy->sizes, copy->rank);
        break;
    }
}
