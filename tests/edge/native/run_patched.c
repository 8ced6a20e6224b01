/* Opens and runs model files, and many altered ones, as described in a list: `run_patched KERNELS
 * MOST_WORK LIST`. The list is of 32-bit words:
 *
 *     words of a model, its content, and the number of altered files, each of which is
 *         its bytes, the number of words that differ, and the place and value of each of those
 *
 * Prints a line for each altered file: what became of it (0: it ran, 100: it is too large to run,
 * else the svit_error), the digest of what it computed, and whether it computed the same in parts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guarded_run.h"

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

/* Run an altered file; gives where its description ends. */
static const uint32_t *run_altered(guarded_run *run, const uint32_t *model, uint32_t model_words,
                                   const uint32_t *list) {
    uint8_t *altered = malloc((size_t)model_words * 4);
    if (!altered) exit(3);
    memcpy(altered, model, (size_t)model_words * 4);
    const uint32_t bytes = *list++;
    for (uint32_t left = *list++; left > 0; left--, list += 2)
        memcpy(altered + list[0], list + 1, 4);
    const int outcome = run_guarded(run, altered, bytes);
    printf("%d %016llx %d\n", outcome, (unsigned long long)run->digest,
           run->logits == run->logits_in_parts);
    fflush(stdout);
    free(altered);
    return list;
}

int main(int count, char **arguments) {
    if (count != 4) return 3;
    size_t words;
    uint32_t *const list = read_words(arguments[3], &words);
    guarded_run run = {kernels_named(arguments[1]), strtod(arguments[2], NULL), 1, 0, 0, 0, 0.0};
    if (!run.kernels) return 3;
    for (const uint32_t *at = list; at < list + words;) {
        const uint32_t model_words = *at++, *const model = at;
        at += model_words;
        for (uint32_t left = *at++; left > 0; left--)
            at = run_altered(&run, model, model_words, at);
    }
    free(list);
    return 0;
}
