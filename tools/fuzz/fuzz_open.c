/* libFuzzer target: opens whatever bytes it is given, and runs what is accepted; see README.md. */
#include <stdio.h>
#include <stdlib.h>

#include "guarded_run.h"

static guarded_run fuzzed = {NULL, MOST_WORK, 0, 0, 0, 0, 0.0};
static unsigned long given, skipped, ran;

int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void print_outcomes(void) {
    fprintf(stderr, "of %lu files %lu were refused, %lu too large to run, %lu run\n", given,
            given - skipped - ran, skipped, ran);
}

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    (void)count;
    (void)arguments;
    atexit(print_outcomes);
    const char *name = getenv("SVIT_FUZZ_KERNELS");
    if (!name) return 0;
    fuzzed.kernels = kernels_named(name);
    if (!fuzzed.kernels) {
        fprintf(stderr, "SVIT_FUZZ_KERNELS is %s: this processor has no such kernels\n", name);
        exit(2);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzzed.seed = (uint32_t)size;
    const int outcome = run_guarded(&fuzzed, data, size);
    given++;
    skipped += outcome == GUARDED_SKIPPED;
    ran += outcome == GUARDED_RAN;
    return 0;
}
