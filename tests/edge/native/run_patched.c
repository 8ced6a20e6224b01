/* Opens and runs model files, and many altered ones, as described in a list: `run_patched KERNELS
 * MOST_WORK LIST MUTATIONS`. The list is of 32-bit words:
 *
 *     words of a model, its content, and the number of altered files, each of which is
 *         its bytes, the number of words that differ, and the place and value of each of those
 *
 * MUTATIONS of each model are run, too, as the fuzzer makes them, and the same every time.
 * Prints a line for each altered file: what became of it (0: it ran, 100: it is too large to run,
 * else the svit_error), the digest of what it computed, and whether it computed the same in parts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guarded_run.h"
#include "mutate.h"

#define MOST_BYTES (1 << 15) /* of a mutated file */
#define MOST_STEPS 6         /* from a model to a mutation of it */

static uint32_t *read_words(const char *path, size_t *count) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) exit(3);
    *count = (size_t)ftell(file) / 4;
    rewind(file);
    uint32_t *words = malloc(*count * 4);
    if (!words || fread(words, 4, *count, file) != *count) exit(3);
    fclose(file);
    return words;
}

static void run_file(guarded_run *run, const uint8_t *file, size_t bytes) {
    const int outcome = run_guarded(run, file, bytes);
    printf("%d %016llx %d\n", outcome, (unsigned long long)run->digest,
           run->logits == run->logits_in_parts);
    fflush(stdout);
}

/* Run an altered file; gives where its description ends. */
static const uint32_t *run_altered(guarded_run *run, const uint32_t *model, uint32_t model_words,
                                   const uint32_t *list) {
    uint8_t *altered = malloc((size_t)model_words * 4);
    if (!altered) exit(3);
    memcpy(altered, model, (size_t)model_words * 4);
    const uint32_t bytes = *list++;
    for (uint32_t left = *list++; left > 0; left--, list += 2)
        memcpy(altered + list[0], list + 1, 4);
    run_file(run, altered, bytes);
    free(altered);
    return list;
}

/* What libFuzzer does to data. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most) {
    (void)most;
    for (size_t i = 0; i < size; i += 1 + (data[i] + size) % 61) data[i] = (uint8_t)(data[i] * 5 + 3);
    return size;
}

static void run_mutations(guarded_run *run, const uint32_t *model, size_t bytes, uint32_t number) {
    uint8_t *file = malloc(MOST_BYTES);
    if (!file || bytes > MOST_BYTES) exit(3);
    for (uint32_t i = 0; i < number; i++) {
        size_t size = bytes;
        memcpy(file, model, bytes);
        for (uint32_t step = 0; step <= i % MOST_STEPS; step++)
            size = LLVMFuzzerCustomMutator(file, size, MOST_BYTES, i * MOST_STEPS + step);
        run_file(run, file, size);
    }
    free(file);
}

int main(int count, char **arguments) {
    if (count != 5) return 3;
    size_t words;
    uint32_t *const list = read_words(arguments[3], &words);
    guarded_run run = {kernels_named(arguments[1]), strtod(arguments[2], NULL), 1, 0, 0, 0, 0.0};
    const uint32_t mutations = (uint32_t)strtoul(arguments[4], NULL, 10);
    if (!run.kernels) return 3;
    for (const uint32_t *at = list; at < list + words;) {
        const uint32_t model_words = *at++, *const model = at;
        at += model_words;
        for (uint32_t left = *at++; left > 0; left--)
            at = run_altered(&run, model, model_words, at);
        /* A file may be up to three bytes longer than its header says, and is mended. */
        if (mutations) run_mutations(&run, model, (size_t)model_words * 4, mutations);
    }
    free(list);
    return 0;
}
