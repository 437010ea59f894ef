/* Where Firecracker enters by PVH (docs/misc/pvh.pandoc of Xen): 32 bits, no paging, the address of
 * the start info in EBX. Goes to 64 bits with the first 4 GiB mapped to themselves, which is where
 * the devices are too. */

.section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18              /* name and value of four bytes each; XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long entry

/* `banger kernel import` asks every kernel for its version. */
.section .rodata.version, "a"
    .globl version
version:
    .asciz "Linux version 6.12.0-test (banger's test guest)\n"
    /* The driver of vsock that banger looks for; this guest has its own. */
    .asciz "vmw_vsock_virtio_transport"

.section .text.entry, "ax"
.code32
    .globl entry
entry:
    cld
    movl $pml4, %edi
    movl $(6 * 4096 / 4), %ecx
    xorl %eax, %eax
    rep stosl
    movl $(pdpt + 3), pml4      /* present, writable */
    movl $(page_directories + 3), %eax
    movl $pdpt, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    movl $0x83, %eax            /* present, writable, a page of 2 MiB */
    movl $page_directories, %edi
    movl $2048, %ecx
2:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b

    movl %cr4, %eax
    orl $(1 << 5), %eax         /* addresses of more than 32 bits */
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      /* EFER */
    rdmsr
    orl $(1 << 8), %eax         /* long mode */
    wrmsr
    movl %cr0, %eax
    orl $(1 << 31), %eax        /* paging */
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $in_long_mode

.code64
in_long_mode:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $stack_top, %esp
    movl %ebx, %edi
    call run

.section .rodata
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9a000000ffff    /* code of 64 bits */
    .quad 0x00cf92000000ffff    /* data */
gdt_pointer:
    .word . - gdt - 1
    .long gdt

.bss
    .balign 4096
pml4:
    .skip 4096
pdpt:
    .skip 4096
page_directories:
    .skip 4 * 4096
stack:
    .skip 32768
stack_top:

.section .note.GNU-stack, "", @progbits
