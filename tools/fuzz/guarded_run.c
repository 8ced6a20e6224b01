/* Runs a model file that may be anything. Memory is as long as the engine may use it and no longer,
 * so that AddressSanitizer sees whatever is read or written beyond. */
#define _POSIX_C_SOURCE 200809L

#include "guarded_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARTS 3

extern const svit_kernels svit_kernels_mcu;
#if defined(__aarch64__)
extern const svit_kernels svit_kernels_neon;
#else
extern const svit_kernels svit_kernels_portable;
#endif
#if defined(__x86_64__)
extern const svit_kernels svit_kernels_avx2, svit_kernels_avx512;
#endif

const svit_kernels *kernels_named(const char *name) {
    if (!strcmp(name, "mcu")) return &svit_kernels_mcu;
#if defined(__aarch64__)
    if (!strcmp(name, "neon")) return &svit_kernels_neon;
#else
    if (!strcmp(name, "portable")) return &svit_kernels_portable;
#endif
#if defined(__x86_64__)
    const svit_kernels *best = svit_choose_kernels();
    if (!strcmp(name, "avx2") && best != &svit_kernels_portable) return &svit_kernels_avx2;
    if (!strcmp(name, "avx512") && best == &svit_kernels_avx512) return &svit_kernels_avx512;
#endif
    return NULL;
}

static const op_head *first_of(const svit_header *h, const svit_early *stage) {
    return (const op_head *)(const void *)((const uint8_t *)h + stage->operators_offset);
}

static const op_head *next_of(const op_head *op) {
    return (const op_head *)(const void *)((const uint8_t *)op + (size_t)op->words * 4);
}

/* Values, or pixels, of the input. */
static size_t count_of(const svit_header *h) {
    return (size_t)(h->frames ? h->frames : 1) * (size_t)h->channels * (size_t)h->height *
           (size_t)h->width;
}

/* -- What an operator may write ---------------------------------------------------------------- */

typedef struct range {
    size_t begin, end;
} range;

static range spikes_range(const spikes_ref *s) {
    const size_t begin = (size_t)s->offset;
    const range bytes = {
        begin, begin + (size_t)s->groups * (size_t)s->planes * (size_t)s->elements};
    return bytes;
}

static range values_range(const values_ref *v) {
    const size_t begin = (size_t)v->offset;
    const range bytes = {begin, begin + (size_t)v->steps * (size_t)v->elements * sizeof(float)};
    return bytes;
}

static range operand_range(const operand_ref *x) {
    return x->kind == OPERAND_SPIKES ? spikes_range(&x->spikes) : values_range(&x->values);
}

static range sink_range(const sink_ref *s) {
    return s->kind == SINK_NEURON ? spikes_range(&s->spikes) : values_range(&s->values);
}

static range output_of(const op_head *op) {
    const void *any = op;
    switch (op->kind) {
    case OP_SPARSE: return sink_range(&((const op_sparse *)any)->sink);
    case OP_DENSE: return sink_range(&((const op_dense *)any)->sink);
    case OP_PIXELS: return sink_range(&((const op_pixels *)any)->sink);
    case OP_NEURON: return spikes_range(&((const op_neuron *)any)->output);
    case OP_SPIKE_POOL: return spikes_range(&((const op_spike_pool *)any)->output);
    case OP_VALUE_POOL: return values_range(&((const op_value_pool *)any)->output);
    case OP_SPIKE_ADD: return spikes_range(&((const op_spike_add *)any)->output);
    case OP_SPIKE_AND: return spikes_range(&((const op_spike_and *)any)->output);
    case OP_ATTENTION: return spikes_range(&((const op_attention *)any)->output);
    case OP_ELEMENTWISE: return operand_range(&((const op_elementwise *)any)->output);
    case OP_REDUCE: return operand_range(&((const op_reduce *)any)->output);
    case OP_MATMUL: return operand_range(&((const op_matmul *)any)->output);
    default: return operand_range(&((const op_copy *)any)->output);
    }
}

/* End the process where an arena changed outside a range. */
static void expect_same(const uint8_t *before, const uint8_t *after, size_t bytes, range written,
                        const op_head *op) {
    for (size_t at = 0; at < bytes; at++) {
        if (at == written.begin) at = written.end;
        if (at >= bytes || before[at] == after[at]) continue;
        fprintf(stderr, "an operator of kind %d wrote byte %zu of the arena, expected %zu..%zu\n",
                (int)op->kind, at, written.begin, written.end);
        abort();
    }
}

/* -- Memory and what it holds ------------------------------------------------------------------ */

/* Memory that ends where it was asked to end. */
static void *memory(size_t bytes) {
    void *at = NULL;
    if (posix_memalign(&at, SVIT_ALIGNMENT, bytes ? bytes : 1)) abort();
    return at;
}

static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void *random_bytes(size_t count, uint32_t *random) {
    uint8_t *bytes = memory(count);
    for (size_t i = 0; i < count; i++) bytes[i] = (uint8_t)next_random(random);
    return bytes;
}

/* Live values, and once in a while one that is none. */
static float *random_values(size_t count, uint32_t *random) {
    static const float odd[] = {3e38f, -3e38f, 1e-40f, -0.0f};
    const float infinity = odd[0] * 10.0f;
    float *values = memory(count * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        const uint32_t r = next_random(random);
        values[i] = (float)(r % 4096) / 1024.0f - 1.5f;
        if (*random % 97 == 0) values[i] = odd[r % 4];
        if (*random % 997 == 0) values[i] = r % 2 ? infinity : infinity - infinity;
    }
    return values;
}

static void add_bytes(uint64_t *digest, const void *bytes, size_t count) {
    const uint8_t *at = bytes;
    for (size_t i = 0; i < count; i++) *digest = (*digest ^ at[i]) * UINT64_C(1099511628211);
}

static void add_values(uint64_t *digest, const float *values, size_t count) {
    static const float nan_of_all = 0.0f;
    for (size_t i = 0; i < count; i++) /* processors differ in the bits of what is no number */
        add_bytes(digest, values[i] == values[i] ? &values[i] : &nan_of_all, sizeof *values);
}

static const uint64_t no_bytes = UINT64_C(14695981039346656037);

/* -- Running ----------------------------------------------------------------------------------- */

static void observe(void *context, const svit_layer *layer) {
    guarded_run *run = context;
    const int32_t neurons = layer->positions * layer->channels;
    add_bytes(&run->digest, layer->name, strlen(layer->name));
    if (layer->values)
        add_values(&run->digest, layer->values, (size_t)layer->timesteps * (size_t)neurons);
    for (int32_t t = 0; layer->spikes && t < layer->timesteps; t++)
        for (int32_t n = 0; n < neurons; n++) {
            const int32_t count = svit_spike_count(layer, t, n);
            add_bytes(&run->digest, &count, sizeof count);
        }
}

/* Run a stage of a model, or all that it takes, as a program does; of values, and of pixels,
 * whichever it takes. */
static void run_whole(guarded_run *run, const svit_model *model, const svit_header *h,
                      const float *values, const uint8_t *pixels) {
    uint32_t random = run->seed;
    uint8_t *arena = random_bytes(h->arena_bytes, &random);
    float *logits = memory((size_t)h->classes * sizeof *logits);
    run->logits = no_bytes;
    for (int32_t of_pixels = 0; of_pixels < 2; of_pixels++) {
        if (of_pixels ? !h->takes_pixels : h->takes_pixels == SVIT_PIXELS_ALONE) continue;
        if (svit_run_observed(model, arena, of_pixels ? pixels : NULL, of_pixels ? NULL : values,
                              logits, observe, run))
            abort();
        add_values(&run->digest, logits, (size_t)h->classes);
        if (!of_pixels || h->takes_pixels == SVIT_PIXELS_ALONE)
            add_values(&run->logits, logits, (size_t)h->classes);
    }
    free(logits);
    free(arena);
}

/* Operators that are run one by one. */
typedef struct apart {
    const svit_header *header;
    run_state state;
    uint8_t *before; /* what the arena was before an operator */
    uint8_t *scratch, *scratch_end;
    uint32_t random;
} apart;

static apart begin_apart(const guarded_run *run, const svit_header *h, const uint8_t *pixels) {
    apart a;
    memset(&a, 0, sizeof a);
    a.header = h;
    a.random = run->seed;
    a.state.kernels = run->kernels ? run->kernels : svit_choose_kernels();
    a.state.data = (const uint8_t *)h + h->data_offset;
    a.state.arena = random_bytes(h->arena_bytes, &a.random);
    a.state.pixels = pixels;
    a.before = memory(h->arena_bytes);
    a.scratch = random_bytes(h->scratch_bytes, &a.random);
    a.scratch_end = a.scratch + h->scratch_bytes;
    return a;
}

static void end_apart(apart *a) {
    free(a->scratch);
    free(a->before);
    free(a->state.arena);
}

/* Run an operator, in parts one after the other, in scratch memory that ends where it may end, and
 * see what it changes. */
static void run_operator_apart(apart *a, const op_head *op) {
    const size_t bytes = (size_t)svit_scratch_bytes(op);
    const size_t room = (bytes + SVIT_SLACK + SVIT_ALIGNMENT - 1) / SVIT_ALIGNMENT * SVIT_ALIGNMENT;
    uint8_t slack[SVIT_SLACK];
    a->state.scratch = bytes ? a->scratch_end - room : a->scratch;
    if (bytes) memcpy(slack, a->state.scratch + bytes, sizeof slack);
    memcpy(a->before, a->state.arena, a->header->arena_bytes);
    a->state.parts = svit_is_shared(op) ? PARTS : 1;
    for (a->state.part = 0; a->state.part < a->state.parts; a->state.part++)
        svit_run_operator(&a->state, op);
    expect_same(a->before, a->state.arena, a->header->arena_bytes, output_of(op), op);
    if (bytes && memcmp(slack, a->state.scratch + bytes, sizeof slack) != 0) {
        fprintf(stderr, "an operator of kind %d wrote behind its scratch memory\n", (int)op->kind);
        abort();
    }
}

/* Run operators of a stage one after another, which gives what a whole run gives. */
static void run_in_parts(guarded_run *run, const svit_header *h, const svit_early *stage,
                         const float *values, const uint8_t *pixels) {
    apart a = begin_apart(run, h, pixels);
    if (h->takes_pixels != SVIT_PIXELS_ALONE)
        memcpy(a.state.arena + stage->input_offset, values, count_of(h) * sizeof *values);
    const op_head *op = first_of(h, stage);
    for (uint32_t i = 0; i < stage->operators; i++, op = next_of(op)) run_operator_apart(&a, op);
    run->logits_in_parts = no_bytes;
    add_values(&run->logits_in_parts,
               (const float *)(const void *)(a.state.arena + stage->logits_offset),
               (size_t)h->classes);
    end_apart(&a);
}

/* Run each operator on whatever bytes there may be in its buffers. */
static void run_on_garbage(const guarded_run *run, const svit_header *h, const svit_early *stage,
                           const uint8_t *pixels) {
    apart a = begin_apart(run, h, pixels);
    const op_head *op = first_of(h, stage);
    for (uint32_t i = 0; i < stage->operators; i++, op = next_of(op)) {
        for (uint32_t at = 0; at < h->arena_bytes; at++)
            a.state.arena[at] = (uint8_t)next_random(&a.random);
        run_operator_apart(&a, op);
    }
    end_apart(&a);
}

static int run_open(guarded_run *run, const svit_model *model, const svit_header *h) {
    run->work = 0.0;
    double operators = 0.0;
    for (uint32_t number = 0; number <= h->early; number++) {
        const svit_early stage = svit_stage_at(h, number);
        run->work += (double)h->arena_bytes / 4.0 + (double)count_of(h) / 4.0;
        operators += (double)stage.operators;
        const op_head *op = first_of(h, &stage);
        for (uint32_t i = 0; i < stage.operators; i++, op = next_of(op))
            run->work += work_of(op) + 1.0;
    }
    if (h->arena_bytes > MOST_ARENA || run->work > run->most_work) return GUARDED_SKIPPED;
    uint32_t random = run->seed + 1;
    float *values = random_values(count_of(h), &random);
    uint8_t *pixels = random_bytes(count_of(h), &random);
    run->digest = no_bytes;
    for (int32_t stage = SVIT_ANYTIME; stage <= (int32_t)h->early; stage++) {
        svit_model one = *model;
        if (svit_use_stage(&one, stage)) abort();
        run_whole(run, &one, h, values, pixels);
    }
    /* The last stage last, as before: its logits are compared. */
    for (uint32_t number = 0; number <= h->early; number++) {
        const svit_early stage = svit_stage_at(h, number);
        if (operators * h->arena_bytes >= run->most_work) break;
        run_in_parts(run, h, &stage, values, pixels);
        run_on_garbage(run, h, &stage, pixels);
    }
    free(pixels);
    free(values);
    return GUARDED_RAN;
}

int run_guarded(guarded_run *run, const uint8_t *file, size_t bytes) {
    void *copy = memory(bytes);
    if (bytes) memcpy(copy, file, bytes);
    run->digest = run->logits = run->logits_in_parts = 0;
    run->work = 0.0;
    svit_model model;
    int outcome = svit_open_unhashed(&model, copy, bytes);
    if (outcome == SVIT_OK) {
        if (run->kernels) model.kernels = run->kernels;
        outcome = run_open(run, &model, copy);
    }
    free(copy);
    return outcome;
}
