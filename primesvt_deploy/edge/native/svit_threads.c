/* One sample by several POSIX threads. */
#if defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 200809L

#include "svit_threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#define SPINS 2000 /* looks at a barrier before the processor is given away */

typedef struct task {
    const svit_model *model;
    void *arena;
    const uint8_t *pixels;
    const float *values;
    float *logits;
} task;

typedef struct worker {
    svit_team *team;
    pthread_t thread;
    int32_t part;
} worker;

struct svit_team {
    int32_t threads;
    int32_t arrived;   /* parts that wait at the barrier */
    uint32_t passed;   /* barriers so far */
    pthread_mutex_t lock;
    pthread_cond_t wakes;
    uint32_t runs; /* begun so far; under the lock */
    int ends;      /* under the lock */
    task task;
    worker *workers; /* threads - 1 */
};

/* Operators take microseconds, so that a part waits awake, unless others need the processor. */
static void wait_for_all(void *context) {
    svit_team *team = context;
    const uint32_t passed = __atomic_load_n(&team->passed, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) == team->threads) {
        __atomic_store_n(&team->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&team->passed, passed + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int spins = 0; __atomic_load_n(&team->passed, __ATOMIC_ACQUIRE) == passed; spins++)
        if (spins > SPINS) sched_yield();
}

/* Returns once all parts are done with the model and the arena, which the caller may free then. */
static int run_part(svit_team *team, int32_t part) {
    const task *t = &team->task;
    const int error = svit_run_part(t->model, t->arena, t->pixels, t->values, t->logits, part,
                                    team->threads, wait_for_all, team);
    wait_for_all(team);
    return error;
}

static void *work(void *context) {
    worker *self = context;
    svit_team *team = self->team;
    for (uint32_t done = 0;; done++) {
        pthread_mutex_lock(&team->lock);
        while (team->runs == done && !team->ends) pthread_cond_wait(&team->wakes, &team->lock);
        const int ends = team->ends;
        pthread_mutex_unlock(&team->lock);
        if (ends) return NULL;
        run_part(team, self->part);
    }
}

static void end_workers(svit_team *team, int32_t count) {
    pthread_mutex_lock(&team->lock);
    team->ends = 1;
    pthread_cond_broadcast(&team->wakes);
    pthread_mutex_unlock(&team->lock);
    for (int32_t i = 0; i < count; i++) pthread_join(team->workers[i].thread, NULL);
}

static void release(svit_team *team) {
    pthread_cond_destroy(&team->wakes);
    pthread_mutex_destroy(&team->lock);
    free(team->workers);
    free(team);
}

svit_team *svit_team_create(int32_t threads) {
    if (threads < 1) return NULL;
    svit_team *team = calloc(1, sizeof *team);
    if (!team) return NULL;
    team->threads = threads;
    team->workers = calloc((size_t)threads, sizeof *team->workers);
    if (!team->workers) {
        free(team);
        return NULL;
    }
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->wakes, NULL);
    for (int32_t i = 0; i < threads - 1; i++) {
        worker *w = &team->workers[i];
        w->team = team;
        w->part = i + 1;
        if (pthread_create(&w->thread, NULL, work, w)) {
            end_workers(team, i);
            release(team);
            return NULL;
        }
    }
    return team;
}

void svit_team_destroy(svit_team *team) {
    if (!team) return;
    end_workers(team, team->threads - 1);
    release(team);
}

int svit_team_run(svit_team *team, const svit_model *model, void *arena, const uint8_t *pixels,
                  const float *values, float *logits) {
    if (!team) return SVIT_ERROR_ARGUMENT;
    if (team->threads == 1)
        return pixels ? svit_run(model, arena, pixels, logits)
                      : svit_run_float(model, arena, values, logits);
    /* All parts refuse the same arguments, each without waiting for the others. */
    pthread_mutex_lock(&team->lock);
    const task given = {model, arena, pixels, values, logits};
    team->task = given;
    team->runs++;
    pthread_cond_broadcast(&team->wakes);
    pthread_mutex_unlock(&team->lock);
    const int error = run_part(team, 0);
    return error;
}
#else
typedef int svit_threads_unused; /* a file needs a declaration */
#endif
