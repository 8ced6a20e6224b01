/* Makes fields of a mutated model file agree again. */
#include <string.h>

#include "mend.h"

#define MOST_BUFFERS (1 << 16) /* bytes of the arena that buffers are moved into */

/* Have early stages be behind the operators, some of them with the operators of the last stage. */
static void mend_early(svit_header *h, size_t records_end, dice *d) {
    const size_t most = (h->data_offset - records_end) / sizeof(svit_early);
    if (h->early > 2) h->early = roll(d, 3);
    if (h->early > most) h->early = (uint32_t)most;
    h->early_offset = (uint32_t)records_end;
    h->timesteps = clamp(h->timesteps, (int32_t)h->early + 1, SVIT_MAX_STEPS);
    svit_early *s = (svit_early *)(void *)((uint8_t *)h + records_end);
    for (uint32_t i = 0; i < h->early; i++, s++) {
        if (roll(d, 2)) {
            const svit_early same = {h->operators, h->operators_offset, h->operators_bytes, 0,
                                     h->input_offset, h->logits_offset, s->margin};
            *s = same;
        }
        if (roll(d, 16)) s->timesteps = (int32_t)i + 1;
    }
}

void mend(uint8_t *file, size_t bytes, dice *d) {
    static const uint8_t magic[8] = {'S', 'V', 'I', 'T', '\r', '\n', 0x1a, '\n'};
    svit_header *h = (svit_header *)(void *)file;
    memcpy(h->magic, magic, sizeof magic);
    h->version = SVIT_FORMAT_VERSION;
    h->file_bytes = (uint32_t)bytes;
    h->data_bytes = (uint32_t)(bytes - h->data_offset - SVIT_SLACK);
    const int64_t arena = h->arena_bytes > MOST_BUFFERS ? MOST_BUFFERS : h->arena_bytes;
    room r = {d, h, h->data_bytes, arena < SVIT_SLACK ? SVIT_SLACK : arena - SVIT_SLACK, 0};
    h->frames = clamp(h->frames, 0, h->takes_pixels ? 0 : SVIT_MAX_STEPS);
    h->channels = clamp(h->channels, 1, 64);
    h->height = clamp(h->height, 1, 64);
    h->width = clamp(h->width, 1, 64);
    values_ref input = {h->input_offset, h->frames ? h->frames : 1,
                        h->channels * h->height * h->width};
    values_ref logits = {h->logits_offset, 1, h->classes};
    mend_values(&r, &input);
    mend_values(&r, &logits);
    h->input_offset = input.offset;
    h->logits_offset = logits.offset;
    size_t at = sizeof *h;
    uint64_t left_alone = 0; /* operators, by number */
    for (uint32_t i = 0; i < h->operators; i++) {
        op_head *op = (op_head *)(void *)(file + at);
        if (roll(d, 16) || i >= 64)
            mend_operator(&r, op);
        else
            left_alone |= UINT64_C(1) << i;
        at += (size_t)op->words * 4;
    }
    h->operators_bytes = (uint32_t)(at - sizeof *h);
    mend_early(h, at, d);
    /* Scratch memory behind all buffers, which end where the longest of it ends. */
    int64_t longest = 0;
    const int64_t scratch = aligned(r.end);
    int64_t end = r.end;
    at = sizeof *h;
    for (uint32_t i = 0; i < h->operators; i++) {
        op_head *op = (op_head *)(void *)(file + at);
        at += (size_t)op->words * 4;
        if (i < 64 && left_alone >> i & 1) continue; /* its sizes may be none */
        const uint64_t used = svit_scratch_bytes(op);
        if (used > 1 << 22) continue;
        if (roll(d, 16)) op->scratch_offset = (int32_t)scratch;
        if ((int64_t)used > longest) longest = (int64_t)used;
    }
    if (longest && scratch + longest > end) end = scratch + longest;
    if (roll(d, 16) == 0) return;
    h->scratch_bytes = (uint32_t)aligned(longest + SVIT_SLACK);
    h->arena_bytes = (uint32_t)aligned(end + SVIT_SLACK);
}
