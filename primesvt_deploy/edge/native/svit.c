/* Opening a model and running it. */
#include "svit.h"

#include <math.h>
#include <string.h>

#include "svit_internal.h"

static const uint8_t magic[8] = {'S', 'V', 'I', 'T', '\r', '\n', 0x1a, '\n'};

static const svit_header *header_of(const svit_model *model) {
    return (const svit_header *)(const void *)model->file;
}

svit_early svit_stage_at(const svit_header *h, uint32_t stage) {
    const uint8_t *const table = (const uint8_t *)h + h->early_offset;
    if (stage < h->early) return ((const svit_early *)(const void *)table)[stage];
    const svit_early last = {h->operators, h->operators_offset, h->operators_bytes, h->timesteps,
                             h->input_offset, h->logits_offset, 0.0f};
    return last;
}

static int is_little_endian(void) {
    const uint32_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    return first == 1;
}

int svit_open_unhashed(svit_model *model, const void *file, size_t bytes) {
    if (!model || !file || (uintptr_t)file % SVIT_ALIGNMENT) return SVIT_ERROR_ARGUMENT;
    model->file = NULL; /* so that nothing runs what was refused */
    model->unpacked = NULL;
    if (!is_little_endian()) return SVIT_ERROR_BYTE_ORDER;
    const svit_header *header = file;
    if (bytes < sizeof magic || memcmp(file, magic, sizeof magic) != 0) return SVIT_ERROR_MAGIC;
    if (bytes < sizeof *header) return SVIT_ERROR_SIZE;
    if (header->version != SVIT_FORMAT_VERSION) return SVIT_ERROR_VERSION;
    if (header->file_bytes != bytes) return SVIT_ERROR_SIZE;
    const int error = svit_check(header);
    if (error) return error;
    model->file = file;
    model->kernels = svit_choose_kernels();
    model->stage = SVIT_ANYTIME;
    return SVIT_OK;
}

int svit_open(svit_model *model, const void *file, size_t bytes) {
    const int error = svit_open_unhashed(model, file, bytes);
    if (error) return error;
    uint8_t digest[32];
    svit_sha256(file, bytes, offsetof(svit_header, sha256), digest);
    if (memcmp(digest, header_of(model)->sha256, sizeof digest) == 0) return SVIT_OK;
    model->file = NULL;
    return SVIT_ERROR_HASH;
}

svit_info svit_describe(const svit_model *model) {
    const svit_header *h = header_of(model);
    const svit_info info = {h->timesteps, h->frames,  h->channels,     h->height,
                            h->width,     h->classes, h->takes_pixels, (int32_t)h->early + 1};
    return info;
}

svit_stage svit_describe_stage(const svit_model *model, int32_t stage) {
    const svit_early found = svit_stage_at(header_of(model), (uint32_t)stage);
    const svit_stage described = {found.timesteps, found.margin};
    return described;
}

int svit_use_stage(svit_model *model, int32_t stage) {
    if (!model || !model->file || stage < SVIT_ANYTIME ||
        stage > (int32_t)header_of(model)->early)
        return SVIT_ERROR_ARGUMENT;
    model->stage = stage;
    return SVIT_OK;
}

size_t svit_arena_bytes(const svit_model *model) { return header_of(model)->arena_bytes; }

const char *svit_kernels_name(const svit_model *model) {
    return ((const svit_kernels *)model->kernels)->name;
}

int32_t svit_spike_count(const svit_layer *layer, int32_t step, int32_t neuron) {
    const spikes_ref spikes = {0,
                               layer->timesteps,
                               0,
                               layer->planes,
                               0,
                               layer->step_bits,
                               layer->steps_per_group,
                               layer->positions * layer->channels};
    return svit_count(&spikes, layer->spikes, step, neuron);
}

void svit_run_operator(const run_state *run, const op_head *op) {
    const void *any = op;
    switch (op->kind) {
    case OP_SPARSE:
        (svit_takes_products(run, any) ? svit_run_products : svit_run_sparse)(run, any);
        break;
    case OP_DENSE: svit_run_dense(run, any); break;
    case OP_NEURON: svit_run_neuron(run, any); break;
    case OP_SPIKE_POOL: svit_run_spike_pool(run, any); break;
    case OP_VALUE_POOL: svit_run_value_pool(run, any); break;
    case OP_SPIKE_ADD: svit_run_spike_add(run, any); break;
    case OP_ELEMENTWISE: svit_run_elementwise(run, any); break;
    case OP_SPIKE_AND: svit_run_spike_and(run, any); break;
    case OP_REDUCE: svit_run_reduce(run, any); break;
    case OP_MATMUL: svit_run_matmul(run, any); break;
    case OP_ATTENTION: svit_run_attention(run, any); break;
    case OP_PIXELS: svit_run_pixels(run, any); break;
    default: svit_run_copy(run, any); break;
    }
}

/* Describe the spikes or values of an operator that has them; 0 for any other. */
static int describe_output(const run_state *run, const op_head *op, svit_layer *layer) {
    const spikes_ref *spikes = NULL;
    const values_ref *values = NULL;
    if (op->kind == OP_SPARSE || op->kind == OP_DENSE || op->kind == OP_PIXELS) {
        const sink_ref *to = op->kind == OP_SPARSE  ? &((const op_sparse *)(const void *)op)->sink
                             : op->kind == OP_DENSE ? &((const op_dense *)(const void *)op)->sink
                                                    : &((const op_pixels *)(const void *)op)->sink;
        if (to->kind == SINK_NEURON)
            spikes = &to->spikes;
        else
            values = &to->values;
    } else if (op->kind == OP_NEURON) {
        spikes = &((const op_neuron *)(const void *)op)->output;
    } else if (op->kind == OP_ATTENTION) {
        spikes = &((const op_attention *)(const void *)op)->output;
    }
    if (!spikes && !values) return 0;
    memset(layer, 0, sizeof *layer);
    layer->name = (const char *)(run->data + op->name_offset);
    layer->channels = op->observed;
    layer->positions = (spikes ? spikes->elements : values->elements) / op->observed;
    if (spikes) {
        layer->spikes = run->arena + spikes->offset;
        layer->timesteps = spikes->steps;
        layer->planes = spikes->planes;
        layer->step_bits = spikes->step_bits;
        layer->steps_per_group = spikes->steps_per_group;
    } else {
        layer->values = floats_at(run, values->offset);
        layer->timesteps = values->steps;
    }
    return 1;
}

int svit_is_shared(const op_head *op) {
    switch (op->kind) {
    case OP_SPARSE:
    case OP_DENSE:
    case OP_NEURON:
    case OP_SPIKE_POOL:
    case OP_VALUE_POOL:
    case OP_SPIKE_ADD:
    case OP_PIXELS:
    case OP_ATTENTION: return 1;
    default: return 0;
    }
}

static void run_operators(const svit_header *header, const svit_early *stage,
                          const int8_t *unpacked, run_state *run, svit_observer *observer,
                          svit_barrier *barrier, void *context) {
    const uint8_t *at = (const uint8_t *)header + stage->operators_offset;
    /* Other parts have scratch memory of their own, behind the arena of the first one. */
    const size_t before = run->part ? (size_t)(run->part - 1) * header->scratch_bytes : 0;
    uint8_t *const own = run->arena + header->arena_bytes + before;
    for (uint32_t i = 0; i < stage->operators; i++) {
        const op_head *op = (const op_head *)(const void *)at;
        run->scratch = run->part ? own : run->arena + op->scratch_offset;
        run->unpacked = unpacked ? svit_unpacked_rows(header, op, unpacked) : NULL;
        if (run->part == 0 || svit_is_shared(op)) svit_run_operator(run, op);
        if (barrier) barrier(context);
        svit_layer layer;
        if (observer && op->observed > 0 && describe_output(run, op, &layer))
            observer(context, &layer);
        at += (size_t)op->words * 4;
    }
}

/* Check the arguments of a run. */
static int refuse(const svit_model *model, const void *arena, const uint8_t *pixels,
                  const float *values, const float *logits) {
    if (!model || !model->file || !arena || !logits || (uintptr_t)arena % SVIT_ALIGNMENT)
        return SVIT_ERROR_ARGUMENT;
    if (!pixels == !values) return SVIT_ERROR_ARGUMENT;
    const int32_t takes = header_of(model)->takes_pixels;
    if (pixels) return takes ? SVIT_OK : SVIT_ERROR_INPUT;
    return takes == SVIT_PIXELS_ALONE ? SVIT_ERROR_PIXELS : SVIT_OK;
}

/* Put the sample where operators read it. */
static void take_sample(const svit_header *h, const svit_early *stage, void *arena,
                        const uint8_t *pixels, const float *values) {
    if (h->takes_pixels == SVIT_PIXELS_ALONE) return; /* they are read where they are */
    float *input = (float *)(void *)((uint8_t *)arena + stage->input_offset);
    const size_t frames = (size_t)(h->frames ? h->frames : 1);
    const size_t size = frames * (size_t)h->height * (size_t)h->width * (size_t)h->channels;
    if (pixels) {
        const uint8_t *const data = (const uint8_t *)h + h->data_offset;
        const float *mean = (const float *)(const void *)(data + h->mean_offset);
        const float *deviation = mean + h->channels;
        for (size_t i = 0; i < size; i++) {
            const size_t c = i % (size_t)h->channels;
            const float level = (float)pixels[i] / 255.0f;
            const float centred = level - mean[c];
            input[i] = centred / deviation[c];
        }
    } else if (values) {
        memcpy(input, values, size * sizeof *input);
    }
}

static run_state part_of(const svit_model *model, void *arena, const uint8_t *pixels, int32_t part,
                         int32_t parts) {
    const svit_header *h = header_of(model);
    const run_state run = {model->kernels, model->file + h->data_offset, arena, arena, part, parts,
                           pixels, NULL};
    return run;
}

/* The largest logit less the second. Where one is NaN the margin may be any or NaN, which no margin
 * is from on. */
static float margin_of(const float *logits, int32_t classes) {
    float best = logits[0], second = -INFINITY;
    for (int32_t i = 1; i < classes; i++) {
        const float one = logits[i];
        if (one > best) {
            second = best;
            best = one;
        } else if (!(one <= second)) {
            second = one;
        }
    }
    return best - second;
}

/* The first part says in the arena which stage ran last; the others read it behind a barrier. */
static uint32_t *last_stage(const svit_header *h, const void *arena) {
    return (uint32_t *)(void *)((uint8_t *)(uintptr_t)arena + h->arena_bytes - SVIT_SLACK);
}

/* Run the stage that a model takes, or one after another until a margin suffices. */
static void run_stages(const svit_model *model, run_state *run, const float *values, float *logits,
                       svit_observer *observer, svit_barrier *barrier, void *context) {
    const svit_header *h = header_of(model);
    const int is_first = run->part == 0, is_anytime = model->stage == SVIT_ANYTIME;
    uint32_t number = is_anytime ? 0 : (uint32_t)model->stage;
    for (;;) {
        const svit_early stage = svit_stage_at(h, number);
        if (is_first) take_sample(h, &stage, run->arena, run->pixels, values);
        if (barrier) barrier(context);
        run_operators(h, &stage, model->unpacked, run, observer, barrier, context);
        uint32_t *const last = last_stage(h, run->arena);
        const int may_go_on = is_anytime && number < h->early;
        if (is_first) {
            const uint8_t *const found = run->arena + stage.logits_offset;
            memcpy(logits, found, (size_t)h->classes * sizeof *logits);
            const int is_sure = margin_of(logits, h->classes) >= stage.margin;
            *last = number;
            /* The next stage writes its own number here, once all parts have begun it. */
            if (may_go_on && !is_sure) *last = number + 1;
        }
        if (!may_go_on) return;
        if (barrier) barrier(context);
        if (*last == number) return;
        number++;
    }
}

int32_t svit_timesteps(const svit_model *model, const void *arena) {
    const svit_header *h = header_of(model);
    uint32_t last;
    memcpy(&last, last_stage(h, arena), sizeof last);
    return svit_stage_at(h, last).timesteps;
}

int svit_run_observed(const svit_model *model, void *arena, const uint8_t *pixels,
                      const float *values, float *logits, svit_observer *observer, void *context) {
    const int error = refuse(model, arena, pixels, values, logits);
    if (error) return error;
    run_state run = part_of(model, arena, pixels, 0, 1);
    run_stages(model, &run, values, logits, observer, NULL, context);
    return SVIT_OK;
}

size_t svit_parts_arena_bytes(const svit_model *model, int32_t parts) {
    const svit_header *h = header_of(model);
    return (size_t)h->arena_bytes + (size_t)(parts - 1) * h->scratch_bytes;
}

int svit_run_part(const svit_model *model, void *arena, const uint8_t *pixels,
                  const float *values, float *logits, int32_t part, int32_t parts,
                  svit_barrier *barrier, void *context) {
    const int error = refuse(model, arena, pixels, values, logits);
    if (error || part < 0 || part >= parts || !barrier) return error ? error : SVIT_ERROR_ARGUMENT;
    run_state run = part_of(model, arena, pixels, part, parts);
    run_stages(model, &run, values, logits, NULL, barrier, context);
    return SVIT_OK;
}

int svit_run(const svit_model *model, void *arena, const uint8_t *pixels, float *logits) {
    return svit_run_observed(model, arena, pixels, NULL, logits, NULL, NULL);
}

int svit_run_float(const svit_model *model, void *arena, const float *values, float *logits) {
    return svit_run_observed(model, arena, NULL, values, logits, NULL, NULL);
}

const char *svit_error_text(int error) {
    static const char *const texts[SVIT_ERROR_COUNT] = {
        "no error",
        "a null pointer, or memory that is not aligned to SVIT_ALIGNMENT",
        "a big-endian machine: model files are little-endian",
        "not a model.svit file: pass the file of a bundle",
        "a model.svit of another format version: use the engine of the same bundle",
        "a model.svit that is shorter or longer than its header says: copy the bundle again",
        "a model.svit that was altered (its SHA-256 differs): copy the bundle again",
        "a model.svit with an offset, size or index out of bounds: build the bundle again",
        "the model takes float values, not pixels: call svit_run_float",
        "the file cannot be read: check its path",
        "not enough memory for the arena",
        "the model takes pixels alone, not float values: call svit_run",
    };
    if (error < 0 || error >= SVIT_ERROR_COUNT) return "an unknown error";
    return texts[error];
}
