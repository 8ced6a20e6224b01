/* Runs a model on samples, one by one, and writes their logits: the program that `verify --arm`
 * compiles for an emulated processor.
 *
 *     native_guest model.svit values|pixels SAMPLES LOGITS
 *
 * SAMPLES are float32 values or uint8 pixels, (frames x) height x width x channels, one sample
 * behind the other; LOGITS get float32 [samples, classes]. A mark is set behind the first sample and behind the last,
 * between which `instructions.c` counts: start-up and cold caches are left out. The exit code is 0,
 * or 2 with one line on stderr.
 */
#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "svit_file.h"

#define FAILED 2

static int fail(const char *path, const char *reason) {
    fprintf(stderr, "%s: %s\n", path, reason);
    return FAILED;
}

static void mark(void) { (void)getpriority(PRIO_PROCESS, 0); }

/* Run every sample of a file; `sample`, `arena` and `logits` have room for one. */
static int run_all(const svit_model *model, FILE *samples, FILE *output, void *sample,
                   size_t bytes, int pixels, void *arena, float *logits, size_t classes) {
    size_t count = 0;
    for (; fread(sample, 1, bytes, samples) == bytes; count++) {
        if (count == 1) mark();
        const int error = pixels ? svit_run(model, arena, sample, logits)
                                 : svit_run_float(model, arena, sample, logits);
        if (error) return fail("the model", svit_error_text(error));
        if (fwrite(logits, sizeof *logits, classes, output) != classes)
            return fail("the logits", "cannot be written");
    }
    mark();
    return count ? 0 : fail("the samples", "there is none");
}

static int run_files(const svit_model *model, int pixels, const char *samples_path,
                     const char *logits_path) {
    const svit_info info = svit_describe(model);
    const size_t frames = (size_t)(info.frames ? info.frames : 1);
    const size_t values =
        frames * (size_t)info.height * (size_t)info.width * (size_t)info.channels;
    const size_t bytes = values * (pixels ? 1 : sizeof(float));
    void *arena = NULL;
    if (posix_memalign(&arena, SVIT_ALIGNMENT, svit_arena_bytes(model))) arena = NULL;
    void *sample = malloc(bytes);
    float *logits = malloc((size_t)info.classes * sizeof *logits);
    FILE *samples = fopen(samples_path, "rb");
    FILE *output = fopen(logits_path, "wb");
    int error = FAILED;
    if (!arena || !sample || !logits)
        fail("the model", "too little memory");
    else if (!samples || !output)
        fail(samples ? logits_path : samples_path, "cannot be opened");
    else
        error = run_all(model, samples, output, sample, bytes, pixels, arena, logits,
                        (size_t)info.classes);
    if (samples) fclose(samples);
    if (output && fclose(output) && !error) error = fail(logits_path, "cannot be written");
    free(logits);
    free(sample);
    free(arena);
    return error;
}

int main(int count, char **arguments) {
    if (count != 5) return fail("usage", "native_guest model.svit values|pixels SAMPLES LOGITS");
    svit_mapping file;
    const int opened = svit_map(&file, arguments[1]);
    if (opened) return fail(arguments[1], svit_error_text(opened));
    const int pixels = !strcmp(arguments[2], "pixels");
    const int error = run_files(&file.model, pixels, arguments[3], arguments[4]);
    svit_unmap(&file);
    return error;
}
