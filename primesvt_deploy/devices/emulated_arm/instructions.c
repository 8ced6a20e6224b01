/* A qemu plugin that counts the guest's instructions.
 *
 * Each translated block adds its length when it is entered. Whenever the guest asks for a priority,
 * which it does to mark a place, the total of all threads so far is appended, a line of decimals,
 * to the file named by PRIMESVT_INSTRUCTIONS. Declared here is the little of qemu's plugin
 * interface that is used: Debian ships no header of it. API is the version of that interface, 1 up
 * to qemu 8.1 and 2 from there on.
 */

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
enum { NO_REGISTERS = 0, GETPRIORITY = 141 /* aarch64 */ };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int,
                                          void *);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id,
                                          void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t,
                                                   uint64_t, uint64_t, uint64_t, uint64_t,
                                                   uint64_t, uint64_t));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

EXPORT int qemu_plugin_version = API;

static uint64_t total;

static void entered(unsigned cpu, void *length) {
    (void)cpu;
    __atomic_fetch_add(&total, (uintptr_t)length, __ATOMIC_RELAXED);
}

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    (void)id;
    void *length = (void *)(uintptr_t)qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_cb(block, entered, NO_REGISTERS, length);
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c,
                   uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    const char *path = number == GETPRIORITY ? getenv("PRIMESVT_INSTRUCTIONS") : NULL;
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%" PRIu64 "\n", __atomic_load_n(&total, __ATOMIC_RELAXED));
        fclose(file);
    }
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
