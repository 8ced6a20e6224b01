/* Reset of a Cortex-M: the vector table, and what C expects before `main`. */
#include <stdint.h>

extern uint32_t data_begin[], data_end[], data_source[], bss_begin[], bss_end[], stack_top[];

int main(void);
void leave(int status);
void reset(void);

#define STACK_PAINT 0xa5a5a5a5u
#define CPACR (*(volatile uint32_t *)0xe000ed88u) /* access to coprocessors */

void reset(void) {
    CPACR |= 0xfu << 20; /* the floating-point unit, and vectors of a Cortex-M55 */
    __asm volatile("dsb\n isb" ::: "memory");
    for (uint32_t *to = data_begin, *from = data_source; to < data_end; to++, from++) *to = *from;
    for (uint32_t *to = bss_begin; to < bss_end; to++) *to = 0;
    uint32_t *stack;
    __asm volatile("mov %0, sp" : "=r"(stack));
    /* What is not painted any more was used; a loop of its own, as memset has a stack, too. */
    for (volatile uint32_t *to = bss_end; to < stack; to++) *to = STACK_PAINT;
    leave(main());
}

static void fault(void) { leave(3); }

/* The stack pointer, reset, then the exceptions up to the SysTick timer. */
__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)stack_top, (uintptr_t)reset, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,     (uintptr_t)fault, (uintptr_t)fault, (uintptr_t)fault,
};
