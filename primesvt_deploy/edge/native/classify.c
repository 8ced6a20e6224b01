/* classify: the classes of images, by a model file and nothing else.
 *
 *     classify [--time RUNS] model.svit IMAGE...
 *
 * An image is a binary PPM (P6) of the model's size, of a model of one channel a binary PGM (P5), or
 * its pixels alone: bytes, height x width x channels. A model that takes no pixels, such as one of event frames, gets a file of little-endian
 * float32 values: (frames x) height x width x channels. Labels come from `labels.txt` beside the
 * model, one a line. Of a model that may stop early it says after how many timesteps (T) it did. With
 * `--time` the images are run RUNS times more, and it says how long runs took and how much memory. The exit code is 0, or 2 with one line on stderr.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "svit_file.h"

#define FAILED 2
#define TOP 3             /* classes that are printed */
#define MOST_HEADER 4096  /* bytes of a PPM or PGM before its pixels, comments among them */
#define MOST_NUMBER 99999 /* in such a header */
#define MOST_RUNS 1000000 /* that are timed */
#define USAGE "usage: classify [--time RUNS] model.svit IMAGE..."

typedef struct classifier {
    svit_mapping file;
    svit_info info;
    size_t sample_bytes; /* of an image without a header */
    void *arena;
    float *logits;
    char **labels; /* of each class; null: there are none */
    uint8_t *content;
    size_t most_bytes; /* that content holds: of a header and pixels, and one more */
} classifier;

static int fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("error: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return FAILED;
}

static int fail_for_memory(void) {
    return fail("found too little memory for the model, expected more: stop other programs");
}

static double milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

/* -- Labels ---------------------------------------------------------------------------------- */

/* Path of labels.txt beside a file, which the caller frees. */
static char *labels_path(const char *model) {
    const char *slash = strrchr(model, '/');
    const size_t folder = slash ? (size_t)(slash - model) + 1 : 0;
    char *path = malloc(folder + sizeof "labels.txt");
    if (!path) return NULL;
    memcpy(path, model, folder);
    memcpy(path + folder, "labels.txt", sizeof "labels.txt");
    return path;
}

static int read_lines(classifier *c, const char *path, FILE *file) {
    c->labels = calloc((size_t)c->info.classes, sizeof *c->labels);
    if (!c->labels) return fail_for_memory();
    char *line = NULL;
    size_t room = 0;
    long count = 0;
    for (; getline(&line, &room, file) >= 0; count++) {
        line[strcspn(line, "\r\n")] = 0;
        if (count >= c->info.classes) continue;
        c->labels[count] = line;
        line = NULL;
    }
    free(line);
    if (ferror(file)) return fail("%s: cannot be read: correct or remove it", path);
    if (count != c->info.classes)
        return fail("%s: found %ld lines, expected %d, one a class: correct or remove it", path,
                    count, (int)c->info.classes);
    return 0;
}

static int read_labels(classifier *c, const char *model) {
    char *path = labels_path(model);
    if (!path) return fail_for_memory();
    int error = 0;
    FILE *file = fopen(path, "r");
    if (file) {
        error = read_lines(c, path, file);
        fclose(file);
    } else if (errno != ENOENT) {
        error = fail("%s: %s: correct or remove it", path, strerror(errno));
    }
    free(path);
    return error;
}

/* -- The model ------------------------------------------------------------------------------- */

static void close_classifier(classifier *c) {
    for (int32_t i = 0; c->labels && i < c->info.classes; i++) free(c->labels[i]);
    free(c->labels);
    free(c->content);
    free(c->logits);
    free(c->arena);
    svit_unmap(&c->file);
}

static int open_classifier(classifier *c, const char *path) {
    const int error = svit_map(&c->file, path);
    if (error) return fail("%s: %s", path, svit_error_text(error));
    c->info = svit_describe(&c->file.model);
    const svit_info *i = &c->info;
    const size_t frames = (size_t)(i->frames ? i->frames : 1);
    const size_t values = frames * (size_t)i->height * (size_t)i->width * (size_t)i->channels;
    c->sample_bytes = values * (i->takes_pixels ? 1 : sizeof(float));
    c->most_bytes = c->sample_bytes + MOST_HEADER + 1;
    c->content = malloc(c->most_bytes);
    c->logits = calloc((size_t)i->classes, sizeof *c->logits);
    if (!c->content || !c->logits ||
        posix_memalign(&c->arena, SVIT_ALIGNMENT, svit_arena_bytes(&c->file.model))) {
        c->arena = NULL;
        return fail_for_memory();
    }
    return read_labels(c, path);
}

/* -- Images ---------------------------------------------------------------------------------- */

/* Whether a model takes pixels of one channel, and so PGM rather than PPM. */
static int takes_grey(const classifier *c) {
    return c->info.takes_pixels && c->info.channels == 1;
}

/* What an image file is, by how it begins. */
static const char *kind_of(const classifier *c, size_t bytes) {
    const uint8_t *content = c->content;
    if (takes_grey(c) && bytes >= 2 && !memcmp(content, "P5", 2)) return "a damaged PGM";
    static const struct {
        const char *start, *name;
    } kinds[] = {{"\xff\xd8\xff", "a JPEG"}, {"\x89PNG", "a PNG"},  {"GIF8", "a GIF"},
                 {"RIFF", "a WebP"},         {"P3", "a text PPM"}, {"P5", "a gray PGM"},
                 {"P6", "a damaged PPM"},    {"\x93NUMPY", "a .npy file"}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const size_t length = strlen(kinds[i].start);
        if (bytes >= length && !memcmp(content, kinds[i].start, length)) return kinds[i].name;
    }
    return "a file";
}

static int fail_for_size(const classifier *c, const char *path, size_t bytes) {
    const char *kind = kind_of(c, bytes);
    const char *more = bytes == c->most_bytes ? "at least " : "";
    if (c->info.takes_pixels)
        return fail("%s: found %s of %s%zu bytes, expected a binary %s of %dx%d or %zu bytes of "
                    "pixels: convert it, such as with ImageMagick",
                    path, kind, more, bytes, takes_grey(c) ? "PGM (P5)" : "PPM (P6)",
                    (int)c->info.width, (int)c->info.height, c->sample_bytes);
    return fail("%s: found %s of %s%zu bytes, expected %zu: the float32 values of %d frames, %d "
                "rows, %d columns, %d channels, and nothing else",
                path, kind, more, bytes, c->sample_bytes,
                (int)(c->info.frames ? c->info.frames : 1), (int)c->info.height,
                (int)c->info.width, (int)c->info.channels);
}

static int is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* Read the next number of such a header, behind white space and comments; 0 where none is. */
static size_t header_number(const uint8_t *content, size_t bytes, size_t at, long *number) {
    const size_t start = at;
    int in_comment = 0;
    for (; at < bytes && (in_comment || content[at] == '#' || is_space(content[at])); at++) {
        if (content[at] == '#') in_comment = 1;
        if (content[at] == '\n' || content[at] == '\r') in_comment = 0;
    }
    if (at == start) return 0;
    const size_t digits = at;
    *number = 0;
    for (; at < bytes && content[at] >= '0' && content[at] <= '9'; at++) {
        *number = *number * 10 + (content[at] - '0');
        if (*number > MOST_NUMBER) return 0;
    }
    return at > digits ? at : 0;
}

/* Where the pixels of a PPM begin, or, of a grey model, of a PGM; 0: it is none. Its numbers are
 * width, height, largest value. */
static size_t pixels_start(const classifier *c, size_t bytes, long numbers[3]) {
    const uint8_t *content = c->content;
    if (bytes < 2 || content[0] != 'P') return 0;
    if (content[1] != '6' && !(content[1] == '5' && takes_grey(c))) return 0;
    size_t at = 2;
    for (int i = 0; i < 3; i++) {
        at = header_number(content, bytes, at, &numbers[i]);
        if (!at) return 0;
    }
    return at < bytes && is_space(content[at]) ? at + 1 : 0;
}

static int check_header(const classifier *c, const char *path, const long numbers[3],
                        size_t bytes) {
    const int width = c->info.width, height = c->info.height;
    const int is_grey = c->content[1] == '5';
    const char *kind = is_grey ? "PGM" : "PPM", *ending = is_grey ? "pgm" : "ppm";
    if (takes_grey(c) && !is_grey)
        return fail("%s: found a PPM, expected a PGM (P5), as this model takes grey pixels: "
                    "convert it, such as by `magick IN -colorspace Gray OUT.pgm`",
                    path);
    if (!is_grey && (c->info.channels != 3 || !c->info.takes_pixels))
        return fail("%s: found a PPM, expected %zu bytes of %s: this model takes no RGB pixels",
                    path, c->sample_bytes, c->info.takes_pixels ? "pixels" : "float32 values");
    if (numbers[0] != width || numbers[1] != height)
        return fail("%s: found a %s of %ldx%ld, expected %dx%d: resize it, such as by "
                    "`magick IN -resize %dx%d^ -gravity center -extent %dx%d OUT.%s`",
                    path, kind, numbers[0], numbers[1], width, height, width, height, width, height,
                    ending);
    if (numbers[2] != 255)
        return fail("%s: found a %s of values up to %ld, expected 255: convert it to 8 bits", path,
                    kind, numbers[2]);
    if (bytes != c->sample_bytes)
        return fail("%s: found a %s with %s%zu bytes of pixels, expected %zu: write it again", path,
                    kind, bytes > c->sample_bytes ? "at least " : "", bytes, c->sample_bytes);
    return 0;
}

static int check_finite(const char *path, const float *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return fail("%s: found NaN or infinity, expected numbers: mend the recording", path);
    return 0;
}

/* Read an image file; gives where its sample begins in c->content. */
static int read_sample(classifier *c, const char *path, const uint8_t **sample) {
    FILE *file = fopen(path, "rb");
    if (!file) return fail("%s: %s: check the path", path, strerror(errno));
    const size_t bytes = fread(c->content, 1, c->most_bytes, file);
    const int broken = ferror(file) ? errno : 0;
    fclose(file);
    if (broken) return fail("%s: %s: check the path", path, strerror(broken));
    long numbers[3];
    const size_t start = pixels_start(c, bytes, numbers);
    *sample = c->content + start;
    if (start) return check_header(c, path, numbers, bytes - start);
    if (bytes != c->sample_bytes) return fail_for_size(c, path, bytes);
    if (c->info.takes_pixels) return 0;
    return check_finite(path, (const float *)(const void *)*sample, bytes / sizeof(float));
}

/* -- Classes --------------------------------------------------------------------------------- */

static int run(classifier *c, const uint8_t *sample) {
    const svit_model *model = &c->file.model;
    const int error =
        c->info.takes_pixels
            ? svit_run(model, c->arena, sample, c->logits)
            : svit_run_float(model, c->arena, (const float *)(const void *)sample, c->logits);
    return error ? fail("%s", svit_error_text(error)) : 0;
}

/* The best class behind `last` in their order, by logit and then by number. */
static int32_t next_best(const classifier *c, int32_t last) {
    int32_t best = -1;
    for (int32_t i = 0; i < c->info.classes; i++) {
        const int after = last < 0 || c->logits[i] < c->logits[last] ||
                          (i > last && c->logits[i] == c->logits[last]);
        if (after && (best < 0 || c->logits[i] > c->logits[best])) best = i;
    }
    return best;
}

static void print_classes(const classifier *c, const char *path) {
    int32_t class = next_best(c, -1);
    const double most = c->logits[class];
    double sum = 0.0;
    for (int32_t i = 0; i < c->info.classes; i++) sum += exp(c->logits[i] - most);
    printf("%s:", path);
    for (int place = 0; place < TOP && class >= 0; place++) {
        printf("%s %d", place ? "," : "", (int)class);
        if (c->labels) printf(" (%s)", c->labels[class]);
        printf(" %.1f%%", 100.0 * exp(c->logits[class] - most) / sum);
        class = next_best(c, class);
    }
    if (c->info.stages > 1) printf("; T = %d", (int)svit_timesteps(&c->file.model, c->arena));
    putchar('\n');
}

/* -- Measurements ---------------------------------------------------------------------------- */

/* Peak resident memory of the process, bytes. */
static long long peak_memory(void) {
    /* On Linux getrusage counts what the process was before it became this program, too. */
    long long kilobytes = 0;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && !kilobytes && fgets(line, sizeof line, status))
        if (!strncmp(line, "VmHWM:", 6)) kilobytes = atoll(line + 6);
    if (status) fclose(status);
    if (kilobytes) return kilobytes * 1024;
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) ? 0 : usage.ru_maxrss * 1024LL;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Run all images `rounds` times, in turn, and print what the runs took. */
static int measure(classifier *c, char **paths, int count, long rounds, double first_ms) {
    const double megabytes = (double)peak_memory() / 1e6; /* before there are the times below */
    const size_t runs = (size_t)rounds * (size_t)count;
    double *times = malloc(runs * sizeof *times);
    if (!times) return fail_for_memory();
    int error = 0;
    double sum = 0.0, timesteps = 0.0;
    for (size_t i = 0; i < runs && !error; i++) {
        const uint8_t *sample = NULL;
        error = read_sample(c, paths[i % (size_t)count], &sample);
        const double start = milliseconds();
        if (!error) error = run(c, sample);
        times[i] = milliseconds() - start;
        sum += times[i];
        timesteps += svit_timesteps(&c->file.model, c->arena);
    }
    if (!error) {
        qsort(times, runs, sizeof *times, by_size);
        const double median = (times[runs / 2] + times[(runs - 1) / 2]) / 2.0;
        printf("first result %.3f ms after the start; then median %.3f ms, least %.3f ms of %zu "
               "runs (%s kernels); peak resident memory %.2f MB\n",
               first_ms, median, times[0], runs, svit_kernels_name(&c->file.model), megabytes);
        if (c->info.stages > 1)
            printf("mean %.3f ms, %.3f timesteps\n", sum / (double)runs, timesteps / (double)runs);
    }
    free(times);
    return error;
}

/* -- The program ----------------------------------------------------------------------------- */

/* Classify images; then, where `rounds` is not 0, measure. */
static int classify(classifier *c, char **paths, int count, long rounds, double started) {
    double first_ms = 0.0;
    for (int i = 0; i < count; i++) {
        const uint8_t *sample = NULL;
        int error = read_sample(c, paths[i], &sample);
        if (!error) error = run(c, sample);
        if (error) return error;
        if (i == 0) first_ms = milliseconds() - started;
        print_classes(c, paths[i]);
    }
    return rounds ? measure(c, paths, count, rounds, first_ms) : 0;
}

/* Read `--time RUNS`, which may be missing; gives where the model's path is, or 0. */
static int read_rounds(int count, char **arguments, long *rounds) {
    *rounds = 0;
    if (count < 2 || strcmp(arguments[1], "--time") != 0) return 1;
    char *end = NULL;
    errno = 0;
    if (count > 2) *rounds = strtol(arguments[2], &end, 10);
    return !end || end == arguments[2] || *end || errno || *rounds < 1 ? 0 : 3;
}

static int check_arguments(int count, char **arguments, int at, long rounds) {
    if (!at)
        return fail("found --time %s, expected a whole number from 1: " USAGE,
                    count > 2 ? arguments[2] : "alone");
    if (count > at && arguments[at][0] == '-')
        return fail("found %s, expected --time or a model file: " USAGE, arguments[at]);
    if (count < at + 2)
        return fail("found no %s, expected a model file and images: " USAGE,
                    count > at ? "image" : "model file");
    if (rounds > MOST_RUNS / (count - at - 1))
        return fail("found --time %ld, expected at most %d with %d images: pass less", rounds,
                    MOST_RUNS / (count - at - 1), count - at - 1);
    return 0;
}

int main(int count, char **arguments) {
    const double started = milliseconds();
    if (count == 2 && !strcmp(arguments[1], "--help")) return puts(USAGE) == EOF;
    long rounds;
    const int at = read_rounds(count, arguments, &rounds);
    int error = check_arguments(count, arguments, at, rounds);
    if (error) return error;
    classifier c = {0};
    error = open_classifier(&c, arguments[at]);
    if (!error) error = classify(&c, arguments + at + 1, count - at - 1, rounds, started);
    close_classifier(&c);
    if ((fflush(stdout) || ferror(stdout)) && !error)
        error = fail("the output cannot be written: %s", strerror(errno));
    return error;
}
