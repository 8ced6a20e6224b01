/* One sample by several POSIX threads. Not for microcontrollers: it allocates. */
#ifndef SVIT_THREADS_H
#define SVIT_THREADS_H

#include "svit.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Threads that wait for runs. One run at a time. */
typedef struct svit_team svit_team;

/* Start `threads` - 1 threads, which work with the one that calls `svit_team_run`; null: the system
 * refuses them. */
svit_team *svit_team_create(int32_t threads);

void svit_team_destroy(svit_team *team);

/* As svit_run or svit_run_float (one of `pixels` and `values` is null), in an arena of
 * `svit_parts_arena_bytes(model, threads)`. The same logits to the last bit. */
int svit_team_run(svit_team *team, const svit_model *model, void *arena, const uint8_t *pixels,
                  const float *values, float *logits);

#ifdef __cplusplus
}
#endif
#endif
