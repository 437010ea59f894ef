/* Ports of the guest:
 *
 *   7     gives back what comes
 *   9     powers off; 10: a triple fault; 11: halts; 12: restarts
 *   1000  the agent's: each connection is joined with one to port 6000 of the host, where the test
 *         has an agent
 */
#include "connections.h"
#include "vsock.h"

enum { ECHO_PORT = 7, AGENT_PORT = 1000, HOST_AGENT_PORT = 6000, FIRST_OWN_PORT = 50000 };
enum { CONNECTIONS = 32 };
/* What a connection takes before it was passed on, and the most that is sent at once. */
enum { RING = 256 << 10, PIECE = 32 << 10 };
/* How often the keyboard is looked at: that costs more than a turn. */
enum { TURNS_PER_KEY = 256 };

/* Bytes on their way out. The counters only grow: from `done` to `given` the device has them, up to
 * `filled` they wait. */
struct ring {
    uint32_t done, given, filled;
    uint8_t bytes[RING];
};

static struct connection {
    bool is_used, is_open;
    /* The other end is gone: this one ends when all was sent. */
    bool is_closing;
    /* Where what comes goes: to itself, if it is given back. Mutual; none when it is gone. */
    struct connection *peer;
    uint32_t local_port, remote_port;
    /* Flow control (virtio 1.2, 5.10.6.3): what was passed on, what the host knows of that; what
     * was sent to the host, its room, and what it has passed on. */
    uint32_t forwarded, told, sent, allocation, their_forwarded;
    struct ring ring;
} connections[CONNECTIONS];

static struct packet packet_of(struct connection *connection, enum operation operation) {
    connection->told = connection->forwarded;
    return (struct packet){
        .source_port = connection->local_port,
        .destination_port = connection->remote_port,
        .operation = operation,
        .flags = operation == SHUTDOWN ? BOTH_WAYS : 0,
        .allocation = RING,
        .forwarded = connection->forwarded,
    };
}

static void refuse(const struct packet *packet) {
    send((struct packet){
        .source_port = packet->destination_port,
        .destination_port = packet->source_port,
        .operation = RESET,
    });
}

static struct connection *find(const struct packet *packet) {
    for (struct connection *c = connections; c < connections + CONNECTIONS; c++)
        if (c->is_used && c->local_port == packet->destination_port && c->remote_port == packet->source_port)
            return c;
    return NULL;
}

static struct connection *new_connection(uint32_t local_port, uint32_t remote_port) {
    for (struct connection *c = connections; c < connections + CONNECTIONS; c++) {
        /* What the device still has belongs to the former connection. */
        if (c->is_used || c->ring.done != c->ring.given)
            continue;
        c->is_used = true;
        c->is_open = c->is_closing = false;
        c->peer = NULL;
        c->local_port = local_port;
        c->remote_port = remote_port;
        c->forwarded = c->told = c->sent = c->allocation = c->their_forwarded = 0;
        c->ring.done = c->ring.given = c->ring.filled = 0;
        return c;
    }
    return NULL;
}

/* Forgets a connection that the host has ended; its peer ends when all was sent. */
static void forget(struct connection *connection) {
    struct connection *peer = connection->peer;
    connection->is_used = false;
    connection->peer = NULL;
    if (peer && peer != connection) {
        peer->peer = NULL;
        peer->is_closing = true;
    }
}

/* Joins a connection with a new one to the host. It is answered when that one is. */
static bool join(struct connection *connection) {
    static uint32_t own_port = FIRST_OWN_PORT;
    struct connection *peer = new_connection(own_port++, HOST_AGENT_PORT);
    if (!peer)
        return false;
    connection->peer = peer;
    peer->peer = connection;
    send(packet_of(peer, REQUEST));
    return true;
}

static void on_request(const struct packet *packet) {
    uint32_t port = packet->destination_port;
    if (port == POWER_OFF || port == TRIPLE_FAULT || port == HALT || port == RESTART)
        end((enum ending)port);
    struct connection *connection = NULL;
    if (port == ECHO_PORT || port == AGENT_PORT)
        connection = new_connection(port, packet->source_port);
    if (!connection) {
        refuse(packet);
        return;
    }
    connection->allocation = packet->allocation;
    connection->their_forwarded = packet->forwarded;
    if (port == ECHO_PORT) {
        connection->peer = connection;
        connection->is_open = true;
        send(packet_of(connection, RESPONSE));
    } else if (!join(connection)) {
        connection->is_used = false;
        refuse(packet);
    }
}

/* The host has taken the connection to its agent: so has the guest the one that asked for it. */
static void on_response(struct connection *connection) {
    connection->is_open = true;
    struct connection *peer = connection->peer;
    if (peer && !peer->is_open) {
        peer->is_open = true;
        send(packet_of(peer, RESPONSE));
    }
}

/* Copies what came to the ring of the other end. */
static void on_data(struct connection *connection, const uint8_t *data, uint32_t length) {
    if (!connection->peer) {
        connection->forwarded += length;
        return;
    }
    struct ring *ring = &connection->peer->ring;
    if (length > RING - (ring->filled - ring->done)) {
        print("guest: vsock: the host sent more than there is room for\n");
        send(packet_of(connection, RESET));
        forget(connection);
        return;
    }
    uint32_t at = ring->filled % RING, first = length < RING - at ? length : RING - at;
    memcpy(ring->bytes + at, data, first);
    memcpy(ring->bytes, data + first, length - first);
    ring->filled += length;
}

static void on_reset(struct connection *connection) {
    /* A connection that waits for the one to the agent is refused with it. */
    struct connection *peer = connection->peer;
    bool was_refused = peer && !connection->is_open && !peer->is_open;
    forget(connection);
    if (was_refused) {
        send(packet_of(peer, RESET));
        forget(peer);
    }
}

void on_packet(const struct packet *packet, const uint8_t *data) {
    struct connection *connection = find(packet);
    if (!connection) {
        if (packet->operation == REQUEST)
            on_request(packet);
        else if (packet->operation != RESET)
            refuse(packet);
        return;
    }
    connection->allocation = packet->allocation;
    connection->their_forwarded = packet->forwarded;
    switch (packet->operation) {
    case RESPONSE:
        on_response(connection);
        break;
    case DATA:
        on_data(connection, data, packet->length);
        break;
    case SHUTDOWN:
        send(packet_of(connection, RESET));
        forget(connection);
        break;
    case RESET:
        on_reset(connection);
        break;
    case CREDIT_REQUEST:
        send(packet_of(connection, CREDIT_UPDATE));
        break;
    }
}

void on_transport_reset(void) {
    print("guest: vsock: the host has cut all connections\n");
    for (struct connection *c = connections; c < connections + CONNECTIONS; c++) {
        c->is_used = false;
        c->peer = NULL;
    }
}

/* The device is done with bytes of a connection. */
void on_sent(void *owner, uint32_t length) {
    struct connection *connection = owner;
    connection->ring.done += length;
    if (connection->peer)
        connection->peer->forwarded += length;
}

/* Gives the device what waits, as far as the host has room for it. */
static void send_waiting(struct connection *connection) {
    struct ring *ring = &connection->ring;
    while (ring->given != ring->filled) {
        uint32_t at = ring->given % RING, length = ring->filled - ring->given;
        uint32_t room = connection->allocation - (connection->sent - connection->their_forwarded);
        uint32_t limits[] = {RING - at, PIECE, room};
        for (unsigned i = 0; i < sizeof limits / sizeof *limits; i++)
            length = length < limits[i] ? length : limits[i];
        if (!length || !try_send(packet_of(connection, DATA), ring->bytes + at, length, connection))
            return;
        ring->given += length;
        connection->sent += length;
    }
}

static void advance(struct connection *connection) {
    send_waiting(connection);
    if (connection->is_closing && connection->ring.done == connection->ring.filled) {
        /* The host answers with a RESET. */
        send(packet_of(connection, SHUTDOWN));
        connection->is_closing = connection->is_open = false;
    } else if (connection->forwarded - connection->told > RING / 4) {
        send(packet_of(connection, CREDIT_UPDATE));
    }
}

_Noreturn void serve(uintptr_t device) {
    set_up_vsock(device);
    print("guest: ready\n");
    for (unsigned turn = 0;; turn++) {
        receive();
        for (struct connection *c = connections; c < connections + CONNECTIONS; c++)
            if (c->is_used && c->is_open)
                advance(c);
        finish_sending();
        if (turn % TURNS_PER_KEY == 0)
            look_at_keyboard();
    }
}
