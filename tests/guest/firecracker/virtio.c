#include "virtio.h"

/* Registers: virtio 1.2, 4.2.2. */
enum {
    MAGIC = 0x00,
    DEVICE_ID = 0x08,
    DEVICE_FEATURES = 0x10,
    DEVICE_FEATURES_SELECT = 0x14,
    DRIVER_FEATURES = 0x20,
    DRIVER_FEATURES_SELECT = 0x24,
    QUEUE_SELECT = 0x30,
    QUEUE_SIZE = 0x38,
    QUEUE_READY = 0x44,
    QUEUE_NOTIFY = 0x50,
    STATUS = 0x70,
    QUEUE_DESCRIPTORS = 0x80,
    QUEUE_AVAILABLE = 0x90,
    QUEUE_USED = 0xa0,
    CONFIG = 0x100,
};
enum { MAGIC_VALUE = 0x74726976 };
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };
/* VIRTIO_F_VERSION_1, in the upper word of the features. */
enum { VERSION_1 = 1 };
/* The device need not interrupt: everything is polled. */
enum { NO_INTERRUPT = 1 };

static uint32_t read_register(uintptr_t device, unsigned at) {
    return *(volatile uint32_t *)(device + at);
}

static void write_register(uintptr_t device, unsigned at, uint32_t value) {
    *(volatile uint32_t *)(device + at) = value;
}

static void write_address(uintptr_t device, unsigned at, const volatile void *address) {
    write_register(device, at, (uint32_t)(uintptr_t)address);
    write_register(device, at + 4, 0);
}

bool is_device(uintptr_t device) {
    return read_register(device, MAGIC) == MAGIC_VALUE;
}

enum device_id device_id(uintptr_t device) {
    return (enum device_id)read_register(device, DEVICE_ID);
}

uint64_t features(uintptr_t device) {
    write_register(device, DEVICE_FEATURES_SELECT, 0);
    uint64_t low = read_register(device, DEVICE_FEATURES);
    write_register(device, DEVICE_FEATURES_SELECT, 1);
    return low | (uint64_t)read_register(device, DEVICE_FEATURES) << 32;
}

bool has_feature(uintptr_t device, unsigned bit) {
    return features(device) >> bit & 1;
}

uint8_t config_byte(uintptr_t device, unsigned at) {
    return *(volatile uint8_t *)(device + CONFIG + at);
}

uint32_t config_word(uintptr_t device, unsigned at) {
    return read_register(device, CONFIG + at);
}

void begin_set_up(uintptr_t device) {
    reset_device(device);
    write_register(device, STATUS, ACKNOWLEDGE);
    write_register(device, STATUS, ACKNOWLEDGE | DRIVER);
    write_register(device, DRIVER_FEATURES_SELECT, 0);
    write_register(device, DRIVER_FEATURES, 0);
    write_register(device, DRIVER_FEATURES_SELECT, 1);
    write_register(device, DRIVER_FEATURES, VERSION_1);
    write_register(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

void add_queue(uintptr_t device, struct queue *queue, uint16_t index) {
    memset(queue, 0, sizeof *queue);
    queue->device = device;
    queue->index = index;
    queue->available.flags = NO_INTERRUPT;
    write_register(device, QUEUE_SELECT, index);
    write_register(device, QUEUE_SIZE, QUEUE_LENGTH);
    write_address(device, QUEUE_DESCRIPTORS, queue->descriptors);
    write_address(device, QUEUE_AVAILABLE, &queue->available);
    write_address(device, QUEUE_USED, &queue->used);
    write_register(device, QUEUE_READY, 1);
}

void finish_set_up(uintptr_t device) {
    write_register(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

void reset_device(uintptr_t device) {
    write_register(device, STATUS, 0);
}

void offer(struct queue *queue, uint16_t head) {
    uint16_t next = queue->available.next;
    queue->available.ring[next % QUEUE_LENGTH] = head;
    memory_barrier();
    *(volatile uint16_t *)&queue->available.next = next + 1;
    memory_barrier();
}

void notify(struct queue *queue) {
    write_register(queue->device, QUEUE_NOTIFY, queue->index);
}

bool take_used(struct queue *queue, struct used_element *element) {
    if (queue->taken == queue->used.next)
        return false;
    memory_barrier();
    *element = queue->used.ring[queue->taken % QUEUE_LENGTH];
    queue->taken++;
    return true;
}
