/* Mapping a model file. */
#if defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#define _FILE_OFFSET_BITS 64 /* large files are told from small ones on 32 bits, too */

#include "svit_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int unpack(svit_mapping *mapping) {
    const size_t bytes = svit_unpacked_bytes(&mapping->model);
    if (!bytes) return SVIT_OK;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return SVIT_ERROR_MEMORY;
    mapping->unpacked = memory;
    mapping->unpacked_bytes = bytes;
    return svit_unpack(&mapping->model, memory);
}

static int map_open_file(svit_mapping *mapping, int file) {
    struct stat status;
    if (fstat(file, &status) || !S_ISREG(status.st_mode)) return SVIT_ERROR_READ;
    /* Neither can be a model, and mmap takes neither: a header counts bytes in 32 bits. */
    if (status.st_size <= 0 || (uintmax_t)status.st_size > UINT32_MAX) return SVIT_ERROR_MAGIC;
    const size_t bytes = (size_t)status.st_size;
    void *address = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    if (address == MAP_FAILED) return SVIT_ERROR_READ;
    mapping->address = address;
    mapping->bytes = bytes;
    int error = svit_open(&mapping->model, address, bytes);
    if (!error) error = unpack(mapping);
    if (error) svit_unmap(mapping);
    return error;
}

int svit_map(svit_mapping *mapping, const char *path) {
    if (!mapping || !path) return SVIT_ERROR_ARGUMENT;
    *mapping = (svit_mapping){0};
    /* Without O_NONBLOCK a named pipe would be waited for. */
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return SVIT_ERROR_READ;
    const int error = map_open_file(mapping, file);
    close(file);
    return error;
}

void svit_unmap(svit_mapping *mapping) {
    if (!mapping || !mapping->address) return;
    munmap(mapping->address, mapping->bytes);
    if (mapping->unpacked) munmap(mapping->unpacked, mapping->unpacked_bytes);
    *mapping = (svit_mapping){0};
}
#else
typedef int svit_file_unused; /* a file needs a declaration */
#endif
