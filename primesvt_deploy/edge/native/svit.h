/* svit: runs a spiking vision transformer from a `model.svit` file.
 *
 *     svit_model model;
 *     int error = svit_open(&model, bytes, size);            // checks the whole file once
 *     void *arena = aligned_alloc(SVIT_ALIGNMENT, svit_arena_bytes(&model, 1));
 *     error = svit_run(&model, arena, pixels, logits);       // uint8 [H, W, C], float [classes]
 *
 * A model may have stages, each the same network run for more timesteps: a run begins with the first
 * and goes on to the next one only while the margin of the best class is small (svit_use_stage).
 *
 * No global state and no allocation: a model is read-only and may be shared by threads; each run
 * works in the arena that it is given. Functions return 0 or an `svit_error`, which
 * `svit_error_text` says in one line. The memory of the file must be aligned to SVIT_ALIGNMENT,
 * stay as it is, and outlive the model. Little-endian machines only.
 */
#ifndef SVIT_H
#define SVIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SVIT_ALIGNMENT 64
#define SVIT_FORMAT_VERSION 4
#define SVIT_PIXELS_ALONE 2
#define SVIT_ANYTIME (-1)

typedef enum svit_error {
    SVIT_OK = 0,
    SVIT_ERROR_ARGUMENT,
    SVIT_ERROR_BYTE_ORDER,
    SVIT_ERROR_MAGIC,
    SVIT_ERROR_VERSION,
    SVIT_ERROR_SIZE,
    SVIT_ERROR_HASH,
    SVIT_ERROR_INVALID,
    SVIT_ERROR_INPUT,
    SVIT_ERROR_READ,
    SVIT_ERROR_MEMORY,
    SVIT_ERROR_PIXELS,
    SVIT_ERROR_COUNT
} svit_error;

/* What a model takes and gives. */
typedef struct svit_info {
    int32_t timesteps; /* of the last stage */
    int32_t frames; /* of an event recording; 0: the input is an image */
    int32_t channels, height, width;
    int32_t classes;
    int32_t takes_pixels; /* whether svit_run may be given uint8 pixels; SVIT_PIXELS_ALONE: a
                             sample can be nothing else */
    int32_t stages; /* 1: every run takes all timesteps */
} svit_info;

/* One stage of a model. */
typedef struct svit_stage {
    int32_t timesteps;
    float margin; /* the largest logit less the second, from which on its logits are final; of the
                     last stage 0, and they are final in any case */
} svit_stage;

/* An open model. Its fields are private. */
typedef struct svit_model {
    const uint8_t *file;
    const void *kernels;
    const int8_t *unpacked;
    int32_t stage;
} svit_model;

/* Output of one layer, passed to an observer while the arena still holds it. */
typedef struct svit_layer {
    const char *name;
    int32_t positions, channels, timesteps;
    const uint8_t *spikes; /* of a neuron layer: read them with svit_spike_count; else null */
    const float *values;   /* of any other layer: [timesteps, positions, channels]; else null */
    int32_t planes, step_bits, steps_per_group; /* how spikes are stored */
} svit_layer;

typedef void svit_observer(void *context, const svit_layer *layer);

/* Open a model: check its SHA-256, and every offset, size and index in it. */
int svit_open(svit_model *model, const void *file, size_t bytes);

/* The same without the SHA-256, for a file that is compiled in or was checked before. */
int svit_open_unhashed(svit_model *model, const void *file, size_t bytes);

svit_info svit_describe(const svit_model *model);

/* A stage, numbered from 0. There are svit_describe(model).stages. */
svit_stage svit_describe_stage(const svit_model *model, int32_t stage);

/* Have runs of an open model take one stage alone, or, by SVIT_ANYTIME, stop as soon as the margin
 * suffices, as at first. A copy of a model may take another stage than the model. */
int svit_use_stage(svit_model *model, int32_t stage);

/* Bytes of the arena of a run. */
size_t svit_arena_bytes(const svit_model *model);

/* Weights of 4 bits are read as they are, in little memory, or faster once they are bytes: give memory
 * for these, aligned to SVIT_ALIGNMENT, before the first run, and keep it as long as the model. */
size_t svit_unpacked_bytes(const svit_model *model); /* 0: there are none */
int svit_unpack(svit_model *model, void *memory);

/* Classify uint8 pixels [height, width, channels]; gives float logits [classes]. */
int svit_run(const svit_model *model, void *arena, const uint8_t *pixels, float *logits);

/* Classify preprocessed values [height, width, channels], or [frames, height, width, channels]. */
int svit_run_float(const svit_model *model, void *arena, const float *values, float *logits);

/* Timesteps behind the logits of the last run that worked in an arena and gave no error. */
int32_t svit_timesteps(const svit_model *model, const void *arena);

/* Run with an observer of every layer, of each stage in turn; one of `pixels` and `values` is null. */
int svit_run_observed(const svit_model *model, void *arena, const uint8_t *pixels,
                      const float *values, float *logits, svit_observer *observer, void *context);

/* One sample by several threads. Each calls this with the same arguments but for its `part`, 0 to
 * parts - 1; `barrier` returns once all parts have called it. The logits are there when part 0
 * returns. svit_threads.h does it with POSIX threads. */
typedef void svit_barrier(void *context);
int svit_run_part(const svit_model *model, void *arena, const uint8_t *pixels,
                  const float *values, float *logits, int32_t part, int32_t parts,
                  svit_barrier *barrier, void *context);

/* Bytes of the arena of a run in parts. */
size_t svit_parts_arena_bytes(const svit_model *model, int32_t parts);

/* How often a neuron fired in a timestep; neurons are numbered position * channels + channel. */
int32_t svit_spike_count(const svit_layer *layer, int32_t step, int32_t neuron);

/* What an error means and what to do, in one line. */
const char *svit_error_text(int error);

/* The instruction set that the kernels of a model use, such as "avx2". */
const char *svit_kernels_name(const svit_model *model);

#ifdef __cplusplus
}
#endif
#endif
