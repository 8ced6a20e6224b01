/* Runs one model in several threads at once, each with an arena of its own, and then one sample by
 * a team of threads: `share_model MODEL`. Ends with 1 where the logits are not those of one run. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "svit_threads.h"

#define THREADS 4
#define TEAM 3
#define RUNS 3

static svit_model model;
static float *values, *expected;
static size_t logit_bytes;

static void *memory(size_t bytes) {
    void *at = NULL;
    if (posix_memalign(&at, SVIT_ALIGNMENT, bytes)) exit(3);
    memset(at, 255, bytes);
    return at;
}

static void *read_model(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) exit(3);
    *bytes = (size_t)ftell(file);
    rewind(file);
    void *content = memory(*bytes);
    if (fread(content, 1, *bytes, file) != *bytes) exit(3);
    fclose(file);
    return content;
}

/* Gives null where all logits are right. */
static void *run_alone(void *context) {
    void *arena = memory(svit_arena_bytes(&model));
    float *logits = memory(logit_bytes);
    for (int i = 0; i < RUNS; i++)
        if (svit_run_float(&model, arena, values, logits) ||
            memcmp(logits, expected, logit_bytes) != 0)
            context = &model;
    free(logits);
    free(arena);
    return context;
}

static int run_together(void) {
    svit_team *team = svit_team_create(TEAM);
    if (!team) exit(3);
    void *arena = memory(svit_parts_arena_bytes(&model, TEAM));
    float *logits = memory(logit_bytes);
    int wrong = 0;
    for (int i = 0; i < RUNS; i++)
        wrong |= svit_team_run(team, &model, arena, NULL, values, logits) ||
                 memcmp(logits, expected, logit_bytes) != 0;
    svit_team_destroy(team);
    free(logits);
    free(arena);
    return wrong;
}

int main(int count, char **arguments) {
    if (count != 2) return 3;
    size_t bytes;
    void *file = read_model(arguments[1], &bytes);
    if (svit_open(&model, file, bytes)) return 3;
    const svit_info info = svit_describe(&model);
    const size_t size = (size_t)(info.frames ? info.frames : 1) * (size_t)info.channels *
                        (size_t)info.height * (size_t)info.width;
    values = memory(size * sizeof *values);
    for (size_t i = 0; i < size; i++) values[i] = (float)(i * 37 % 101) / 50.0f - 1.0f;
    logit_bytes = (size_t)info.classes * sizeof *expected;
    expected = memory(logit_bytes);
    void *arena = memory(svit_arena_bytes(&model));
    if (svit_run_float(&model, arena, values, expected)) return 3;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, run_alone, NULL)) return 3;
    int wrong = 0;
    for (int i = 0; i < THREADS; i++) {
        void *found;
        pthread_join(threads[i], &found);
        wrong |= found != NULL;
    }
    wrong |= run_together();
    free(arena);
    free(expected);
    free(values);
    free(file);
    return wrong;
}
