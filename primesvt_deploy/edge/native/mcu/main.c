/* Classify the images that are compiled in, and print their logits, by semihosting.
 *
 * Prints a line `key value` for each of: the arena, logits as hexadecimal bits, what the SysTick
 * timer counted, and the most that the stack held.
 */
#include <string.h>

#include "images.h"
#include "model.h"
#include "svit.h"

#define STACK_PAINT 0xa5a5a5a5u /* as in startup.c */
extern uint32_t bss_end[], stack_top[];

static uint8_t arena[SVIT_MODEL_ARENA_BYTES] __attribute__((aligned(SVIT_ALIGNMENT)));

/* -- Semihosting: the debugger, or qemu, does what the program asks for ----------------------- */

static void ask(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = argument;
    __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void leave(int status);
void leave(int status) {
    const uint32_t reason[2] = {0x20026, (uint32_t)status}; /* the application ended */
    ask(0x20, reason);
    for (;;) continue;
}

static void print(const char *text) { ask(0x04, text); }

static void print_number(const char *key, uint32_t value, uint32_t base) {
    char digits[12];
    char *at = digits + sizeof digits;
    *--at = '\0';
    *--at = '\n';
    do {
        *--at = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    print(key);
    print(" ");
    print(at);
}

/* -- What is measured ------------------------------------------------------------------------- */

#define SYSTICK_CONTROL (*(volatile uint32_t *)0xe000e010u)
#define SYSTICK_RELOAD (*(volatile uint32_t *)0xe000e014u)
#define SYSTICK_VALUE (*(volatile uint32_t *)0xe000e018u)
#define SYSTICK_MOST 0xffffffu

static void start_ticks(void) {
    SYSTICK_RELOAD = SYSTICK_MOST;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 5; /* counts the processor's clock, without interrupts */
}

/* The startup code painted what is free. */
static uint32_t stack_used(void) {
    const uint32_t *word = bss_end;
    while (word < stack_top && *word == STACK_PAINT) word++;
    return (uint32_t)((const char *)stack_top - (const char *)word);
}

int main(void) {
    svit_model model;
    int error = svit_open_unhashed(&model, svit_model_words, SVIT_MODEL_BYTES);
    print_number("arena", SVIT_MODEL_ARENA_BYTES, 10);
    for (int i = 0; i < SVIT_IMAGES && !error; i++) {
        float logits[SVIT_MODEL_CLASSES];
        start_ticks();
        error = svit_run(&model, arena, svit_images[i], logits);
        print_number("ticks", SYSTICK_MOST - SYSTICK_VALUE, 10);
        print_number("timesteps", (uint32_t)svit_timesteps(&model, arena), 10);
        for (int n = 0; n < SVIT_MODEL_CLASSES; n++) {
            uint32_t bits;
            memcpy(&bits, logits + n, sizeof bits);
            print_number("logit", bits, 16);
        }
    }
    print_number("stack", stack_used(), 10);
    if (error) {
        print(svit_error_text(error));
        print("\n");
    }
    return error ? 2 : 0;
}
