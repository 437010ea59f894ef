#include "block.h"
#include "virtio.h"

/* Features and requests: virtio 1.2, 5.2. */
enum { READ_ONLY = 5, FLUSH = 9 };
enum request_type { READ = 0, GET_ID = 8 };
enum { SECTOR = 512, ID_LENGTH = 20 };
/* The superblock of ext4 (Documentation/filesystems/ext4/super.rst): its sector and fields. */
enum { SUPERBLOCK = 2, EXT4_MAGIC = 0x38, EXT4_LABEL = 0x78, LABEL_LENGTH = 16 };

static struct queue queue;

/* Has the device read. Returns whether it could. */
static bool ask(enum request_type type, uint64_t sector, void *to, uint32_t length) {
    static struct {
        uint32_t type, reserved;
        uint64_t sector;
    } request;
    static volatile uint8_t status;
    request.type = type;
    request.sector = sector;
    status = 255;
    queue.descriptors[0] = (struct descriptor){(uintptr_t)&request, sizeof request, HAS_NEXT, 1};
    queue.descriptors[1] = (struct descriptor){(uintptr_t)to, length, HAS_NEXT | FOR_DEVICE_TO_WRITE, 2};
    queue.descriptors[2] = (struct descriptor){(uintptr_t)&status, 1, FOR_DEVICE_TO_WRITE, 0};
    offer(&queue, 0);
    notify(&queue);
    struct used_element element;
    while (!take_used(&queue, &element))
        ;
    return status == 0;
}

static void print_label(uint8_t *superblock) {
    if (superblock[EXT4_MAGIC] != 0x53 || superblock[EXT4_MAGIC + 1] != 0xef)
        return;
    superblock[EXT4_LABEL + LABEL_LENGTH] = 0;
    print(" ext4 label=");
    print((const char *)superblock + EXT4_LABEL);
}

void describe_disk(uintptr_t device) {
    static char id[ID_LENGTH + 1];
    static uint8_t superblock[SECTOR];
    print(has_feature(device, READ_ONLY) ? " read-only" : " writable");
    print(has_feature(device, FLUSH) ? " flush" : "");
    print(" sectors=");
    print_number(config_word(device, 0) | (uint64_t)config_word(device, 4) << 32);
    begin_set_up(device);
    add_queue(device, &queue, 0);
    finish_set_up(device);
    memset(id, 0, sizeof id);
    print(" serial=");
    print(ask(GET_ID, 0, id, ID_LENGTH) ? id : "unknown");
    if (ask(READ, SUPERBLOCK, superblock, SECTOR))
        print_label(superblock);
    else
        print(" unreadable");
    reset_device(device);
}
