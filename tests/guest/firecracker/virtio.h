/* Virtio devices by MMIO (virtio 1.2, 4.2) and their split queues (2.7). */
#pragma once

#include "machine.h"

enum device_id { NET = 1, BLOCK = 2, VSOCK = 19 };

enum { QUEUE_LENGTH = 64 };

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};
enum descriptor_flags { HAS_NEXT = 1, FOR_DEVICE_TO_WRITE = 2 };

struct used_element {
    uint32_t head, length;
};

struct queue {
    struct descriptor descriptors[QUEUE_LENGTH];
    struct {
        uint16_t flags, next, ring[QUEUE_LENGTH];
    } available;
    struct {
        uint16_t flags;
        volatile uint16_t next;
        struct used_element ring[QUEUE_LENGTH];
    } __attribute__((aligned(4))) used;
    /* The device, which of its queues this is, and how much of `used` was taken. */
    uintptr_t device;
    uint16_t index, taken;
} __attribute__((aligned(16)));

bool is_device(uintptr_t device);
enum device_id device_id(uintptr_t device);
uint64_t features(uintptr_t device);
bool has_feature(uintptr_t device, unsigned bit);
uint8_t config_byte(uintptr_t device, unsigned at);
uint32_t config_word(uintptr_t device, unsigned at);

/* Sets up a device: begins, adds its queues in order, and has it work. Of its features, none is
 * taken but that it follows version 1. */
void begin_set_up(uintptr_t device);
void add_queue(uintptr_t device, struct queue *queue, uint16_t index);
void finish_set_up(uintptr_t device);
void reset_device(uintptr_t device);

/* Gives the device the chain of descriptors that starts at `head`. */
void offer(struct queue *queue, uint16_t head);
void notify(struct queue *queue);
/* Whether the device is done with another chain, and with which. */
bool take_used(struct queue *queue, struct used_element *element);
