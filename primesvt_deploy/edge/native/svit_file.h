/* A model file that is mapped into memory, where the system has POSIX's mmap.
 *
 *     svit_mapping mapping;
 *     int error = svit_map(&mapping, "model.svit");
 *     error = svit_run(&mapping.model, arena, pixels, logits);
 *     svit_unmap(&mapping);
 *
 * Pages are read as they are used, and the system may drop them: they count as a file's, not as
 * memory of the process. Replace such a file whole, by a rename: a process that has it mapped ends
 * with SIGBUS where the file is cut short.
 */
#ifndef SVIT_FILE_H
#define SVIT_FILE_H

#include "svit.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An open model and where its file is mapped. */
typedef struct svit_mapping {
    svit_model model;
    void *address; /* null: nothing is mapped */
    size_t bytes;
    void *unpacked; /* memory of svit_unpack; null: there is none */
    size_t unpacked_bytes;
} svit_mapping;

/* Map a file for reading, open it as svit_open does, and unpack weights of 4 bits; nothing stays
 * mapped after an error. */
int svit_map(svit_mapping *mapping, const char *path);

/* Unmap the file, after which its model cannot be used; nothing happens the second time. */
void svit_unmap(svit_mapping *mapping);

#ifdef __cplusplus
}
#endif
#endif
