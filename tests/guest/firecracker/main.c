/* A guest for real Firecracker, of integer instructions only, so that it runs under a KVM that
 * cannot run a whole kernel. Prints what it is given, and then serves vsock: see connections.c. */

#include "block.h"
#include "connections.h"
#include "machine.h"
#include "virtio.h"

/* What Firecracker says about the start: include/xen/interface/hvm/start_info.h of Linux. */
struct start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, command_line;
};
struct module {
    uint64_t address, length, command_line, reserved;
};

/* How the guest ends at once, if it does not serve. */
#ifndef AT_BOOT
#define AT_BOOT 0
#endif

/* How Firecracker announces a device on the command line: Linux's `virtio_mmio.device`. */
static const char ANNOUNCEMENT[] = "virtio_mmio.device=4K@0x";

/* What follows `prefix`, if the text starts with that. */
static const char *after(const char *text, const char *prefix) {
    for (; *prefix; text++, prefix++)
        if (*text != *prefix)
            return NULL;
    return text;
}

static uint64_t parse_hex(const char *text) {
    uint64_t number = 0;
    for (;; text++) {
        if (*text >= '0' && *text <= '9')
            number = number * 16 + (uint64_t)(*text - '0');
        else if (*text >= 'a' && *text <= 'f')
            number = number * 16 + (uint64_t)(*text - 'a' + 10);
        else
            return number;
    }
}

static void describe_net(uintptr_t device) {
    print(" mac=");
    for (unsigned at = 0; at < 6; at++) {
        uint8_t byte = config_byte(device, at);
        print(at ? ":" : "");
        print(byte < 16 ? "0" : "");
        print_hex(byte);
    }
}

/* One line for each device. Returns the address of the vsock device, or 0. */
static uintptr_t describe_devices(const char *command_line) {
    uintptr_t vsock = 0;
    for (const char *at = command_line; *at; at++) {
        const char *address = after(at, ANNOUNCEMENT);
        if (!address)
            continue;
        uintptr_t device = parse_hex(address);
        print("guest: device ");
        if (!is_device(device)) {
            print("missing\n");
            continue;
        }
        print_number(device_id(device));
        print(" features=");
        print_hex(features(device));
        switch (device_id(device)) {
        case BLOCK:
            describe_disk(device);
            break;
        case NET:
            describe_net(device);
            break;
        case VSOCK:
            vsock = device;
            print(" cid=");
            print_number(config_word(device, 0));
            break;
        }
        print("\n");
    }
    return vsock;
}

_Noreturn void run(const struct start_info *start) {
    const char *command_line = (const char *)start->command_line;
    print("guest: command line: ");
    print(command_line);
    print("\nguest: initrd: ");
    print_number(start->modules ? ((const struct module *)start->module_list)->length : 0);
    print(" bytes\n");
    uintptr_t vsock = describe_devices(command_line);
    if (AT_BOOT)
        end((enum ending)AT_BOOT);
    if (!vsock)
        end(POWER_OFF);
    serve(vsock);
}
