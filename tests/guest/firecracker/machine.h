/* The machine: its ports, its console, its ends, and memory. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *memset(void *to, int byte, size_t length);
void *memcpy(void *to, const void *from, size_t length);

/* Integer instructions only: where KVM emulates the guest, it knows no others. `mfence` is none of
 * those it knows; a locked instruction orders memory as well (Intel SDM 3A, 9.2.5). */
static inline void memory_barrier(void) {
    __asm__ volatile("lock; addl $0, (%%rsp)" ::: "memory");
}

static inline void write_port(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static inline uint8_t read_port(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* The console: the first serial port. */
void print(const char *text);
void print_number(uint64_t number);
void print_hex(uint64_t number);

/* The ends that a guest can come to; of two of them it tells as Linux does. */
enum ending { POWER_OFF = 9, TRIPLE_FAULT = 10, HALT = 11, RESTART = 12 };
_Noreturn void end(enum ending ending);

/* Ends as at Ctrl-Alt-Del, if the keyboard says so. */
void look_at_keyboard(void);
