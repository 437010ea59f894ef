/* The vsock device: virtio 1.2, 5.10. */
#pragma once

#include "machine.h"

struct packet {
    uint64_t source_cid, destination_cid;
    uint32_t source_port, destination_port, length;
    uint16_t type, operation;
    uint32_t flags, allocation, forwarded;
} __attribute__((packed));

enum operation { REQUEST = 1, RESPONSE, RESET, SHUTDOWN, DATA, CREDIT_UPDATE, CREDIT_REQUEST };
/* Flags of a SHUTDOWN: nothing is received, nothing is sent any more. */
enum { BOTH_WAYS = 3 };
enum { HOST_CID = 2 };

void set_up_vsock(uintptr_t device);

/* Takes what has come: calls `on_packet` for each packet, and `on_transport_reset`
 * when the host has cut all connections, as it does to a guest that comes from a snapshot. */
void receive(void);

/* Gives a packet to the device, if there is room. Its addresses, its type and its length are filled
 * in. The data must stay until `on_sent` was called with `owner`. */
bool try_send(struct packet packet, const uint8_t *data, uint32_t length, void *owner);

/* Gives a packet without data to the device, and waits for room. */
void send(struct packet packet);

/* Calls `on_sent` for data that the device is done with, and tells the device of new packets. */
void finish_sending(void);

/* In connections.c. */
void on_packet(const struct packet *packet, const uint8_t *data);
void on_transport_reset(void);
void on_sent(void *owner, uint32_t length);
