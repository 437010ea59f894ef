# A guest for Firecracker of a few instructions, which every KVM can run: it says TEXT on its
# console, and then does as END says. It is entered in 64-bit mode, as Linux is.
    .globl _start
_start:
    lea text(%rip), %rsi
1:  lodsb
    test %al, %al
    jz 2f
    mov $0x3f8, %edx
    outb %al, %dx
    jmp 1b
2:
#if END == 0
# It goes on, and says so now and then.
    mov $20000, %ecx
3:  dec %ecx
    jnz 3b
    mov $'.', %al
    mov $0x3f8, %edx
    outb %al, %dx
    jmp 2b
#elif END == 1
# It resets itself by the keyboard controller, as Linux does with reboot=k.
    mov $0xfe, %al
    outb %al, $0x64
    hlt
#elif END == 2
# It dies of a triple fault.
    lidt nothing(%rip)
    ud2
#elif END == 3
# It goes on at an address without memory, which KVM cannot emulate.
    mov $0x20000000, %eax
    jmp *%rax
#endif
text:
    .asciz TEXT
nothing:
    .quad 0, 0
