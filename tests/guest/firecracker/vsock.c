#include "vsock.h"
#include "virtio.h"

enum { RECEIVE_QUEUE, SEND_QUEUE, EVENT_QUEUE };
enum { RECEIVE_BUFFERS = 32, RECEIVE_LENGTH = 64 << 10 };
enum { EVENT_BUFFERS = 4 };
enum { STREAM = 1 };
/* A packet that is sent has a descriptor for its header, and one for its data. */
enum { SLOTS = QUEUE_LENGTH / 2 };

static struct queue receiving, sending, events;
static uint8_t buffers[RECEIVE_BUFFERS][RECEIVE_LENGTH] __attribute__((aligned(16)));
/* VIRTIO_VSOCK_EVENT_TRANSPORT_RESET is 0, and there is no other. */
static volatile uint32_t event_buffers[EVENT_BUFFERS];
static uint64_t cid;

/* A packet that the device has. They are done with in order. */
static struct slot {
    struct packet packet;
    void *owner;
} slots[SLOTS];
static uint32_t slots_given, slots_done;
static bool has_new_packets;

void set_up_vsock(uintptr_t device) {
    begin_set_up(device);
    cid = config_word(device, 0);
    add_queue(device, &receiving, RECEIVE_QUEUE);
    add_queue(device, &sending, SEND_QUEUE);
    add_queue(device, &events, EVENT_QUEUE);
    finish_set_up(device);
    for (uint16_t i = 0; i < RECEIVE_BUFFERS; i++) {
        receiving.descriptors[i] =
            (struct descriptor){(uintptr_t)buffers[i], RECEIVE_LENGTH, FOR_DEVICE_TO_WRITE, 0};
        offer(&receiving, i);
    }
    for (uint16_t i = 0; i < EVENT_BUFFERS; i++) {
        events.descriptors[i] = (struct descriptor){(uintptr_t)&event_buffers[i], 4, FOR_DEVICE_TO_WRITE, 0};
        offer(&events, i);
    }
    notify(&receiving);
    notify(&events);
}

static void receive_event(void) {
    struct used_element used;
    if (!take_used(&events, &used))
        return;
    offer(&events, (uint16_t)used.head);
    notify(&events);
    cid = config_word(events.device, 0);
    on_transport_reset();
}

void receive(void) {
    struct used_element used;
    bool has_room = false;
    receive_event();
    while (take_used(&receiving, &used)) {
        /* The event of a snapshot is older than packets that came after it: were it handled behind
         * one, a new connection would be taken for one that was cut. */
        receive_event();
        const struct packet *packet = (const struct packet *)buffers[used.head];
        /* A packet that claims to be longer than what came is no packet. */
        if (used.length >= sizeof *packet && used.length - sizeof *packet >= packet->length)
            on_packet(packet, buffers[used.head] + sizeof *packet);
        else
            print("guest: vsock: a packet was cut short\n");
        offer(&receiving, (uint16_t)used.head);
        has_room = true;
    }
    if (has_room)
        notify(&receiving);
}

bool try_send(struct packet packet, const uint8_t *data, uint32_t length, void *owner) {
    if (slots_given - slots_done == SLOTS)
        return false;
    uint16_t slot = (uint16_t)(slots_given++ % SLOTS), head = (uint16_t)(2 * slot);
    packet.source_cid = cid;
    packet.destination_cid = HOST_CID;
    packet.type = STREAM;
    packet.length = length;
    slots[slot] = (struct slot){packet, owner};
    sending.descriptors[head] =
        (struct descriptor){(uintptr_t)&slots[slot].packet, sizeof packet, length ? HAS_NEXT : 0, head + 1};
    sending.descriptors[head + 1] = (struct descriptor){(uintptr_t)data, length, 0, 0};
    offer(&sending, head);
    has_new_packets = true;
    return true;
}

void send(struct packet packet) {
    while (!try_send(packet, NULL, 0, NULL))
        finish_sending();
}

void finish_sending(void) {
    struct used_element used;
    while (take_used(&sending, &used)) {
        const struct slot *slot = &slots[slots_done++ % SLOTS];
        if (slot->owner)
            on_sent(slot->owner, slot->packet.length);
    }
    if (has_new_packets) {
        has_new_packets = false;
        notify(&sending);
    }
}
