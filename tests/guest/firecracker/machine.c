#include "machine.h"

enum { SERIAL = 0x3f8, KEYBOARD_DATA = 0x60, KEYBOARD_COMMAND = 0x64 };
/* The keyboard controller's status: there is something to read. */
enum { OUTPUT_FULL = 1 };
/* Its command to pull the line that resets the processor: Firecracker ends the VM for it. */
enum { RESET_PROCESSOR = 0xfe };
/* The key Delete, in scan code set 2. */
enum { DELETE_KEY = 0x71 };

/* The compiler calls these by itself. */
void *memset(void *to, int byte, size_t length) {
    void *result = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(byte) : "memory");
    return result;
}

void *memcpy(void *to, const void *from, size_t length) {
    void *result = to;
    size_t words = length / 8, rest = length % 8;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words)::"memory");
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(rest)::"memory");
    return result;
}

void print(const char *text) {
    for (; *text; text++)
        write_port(SERIAL, (uint8_t)*text);
}

void print_number(uint64_t number) {
    char digits[21];
    size_t at = sizeof digits - 1;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    print(digits + at);
}

void print_hex(uint64_t number) {
    char digits[17];
    size_t at = sizeof digits - 1;
    digits[at] = 0;
    do {
        digits[--at] = "0123456789abcdef"[number % 16];
        number /= 16;
    } while (number);
    print(digits + at);
}

_Noreturn static void halt(void) {
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* An exception that no table has a handler for, nor one for the failure to find it. */
_Noreturn static void fault(void) {
    static const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) no_table = {0, 0};
    __asm__ volatile("lidt %0; ud2" ::"m"(no_table));
    halt();
}

_Noreturn void end(enum ending ending) {
    switch (ending) {
    case POWER_OFF:
        print("guest: off\nreboot: Power down\n");
        write_port(KEYBOARD_COMMAND, RESET_PROCESSOR);
        break;
    case RESTART:
        print("guest: restart\nreboot: Restarting system\n");
        write_port(KEYBOARD_COMMAND, RESET_PROCESSOR);
        break;
    case TRIPLE_FAULT:
        print("guest: triple fault\n");
        fault();
    case HALT:
        print("guest: halt\n");
        break;
    }
    halt();
}

void look_at_keyboard(void) {
    if (!(read_port(KEYBOARD_COMMAND) & OUTPUT_FULL))
        return;
    if (read_port(KEYBOARD_DATA) == DELETE_KEY) {
        print("guest: Ctrl-Alt-Del\n");
        end(POWER_OFF);
    }
}
