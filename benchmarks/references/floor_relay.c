/*
 * The floor: what a relay costs when it does nothing but relay. One thread, epoll, one read per readiness and one
 * write per target and read; no limits, no metrics, no timeouts, no sessions, no JSON parser, no authentication.
 *
 * It speaks v1 frames with plain JSON, takes any token, and relays SIGNAL_OFFER (docs/protocol.md).
 * Usage: floor_relay --port 8765
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NAME_BYTES = 64, HEADER_BYTES = 21, LENGTH_AT = 19, TYPE_AT = 1, READ_BYTES = 1 << 16, EVENTS = 256, BUCKETS = 1 << 16 };
enum { CONNECT = 0x01, CONNECT_ACK = 0x02, SIGNAL_OFFER = 0x10 };

typedef struct {
    uint8_t *bytes;
    size_t length, capacity;
} Buffer;

typedef struct Client {
    int socket;
    int is_websocket, is_queued, waits_for_room;
    size_t name_length;
    char name[NAME_BYTES];
    Buffer in, out;
    struct Client *next_in_bucket, *next_queued;
} Client;

static Client *buckets[BUCKETS];
static Client *queued; /* clients for which the present read has left something */
static int poller;

static void *checked(void *memory) {
    if (memory == NULL) {
        perror("floor_relay");
        exit(1);
    }
    return memory;
}

static uint8_t *room(Buffer *buffer, size_t more) {
    if (buffer->length + more > buffer->capacity) {
        buffer->capacity = 2 * (buffer->length + more);
        buffer->bytes = checked(realloc(buffer->bytes, buffer->capacity));
    }
    return buffer->bytes + buffer->length;
}

static void append(Buffer *buffer, const void *bytes, size_t length) {
    memcpy(room(buffer, length), bytes, length);
    buffer->length += length;
}

static void drop_front(Buffer *buffer, size_t length) {
    buffer->length -= length;
    memmove(buffer->bytes, buffer->bytes + length, buffer->length);
}

/* -- who is there ---------------------------------------------------------------------------------------------- */

static Client **bucket_of(const char *name, size_t length) {
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < length; i++) hash = (hash ^ (uint8_t)name[i]) * 16777619u;
    return &buckets[hash % BUCKETS];
}

static Client *find(const char *name, size_t length) {
    Client *client = *bucket_of(name, length);
    while (client != NULL && (client->name_length != length || memcmp(client->name, name, length) != 0))
        client = client->next_in_bucket;
    return client;
}

static void enter(Client *client, const char *name, size_t length) {
    memcpy(client->name, name, length);
    client->name_length = length;
    Client **bucket = bucket_of(name, length);
    client->next_in_bucket = *bucket;
    *bucket = client;
}

static void leave(Client *client) {
    for (Client **at = bucket_of(client->name, client->name_length); *at != NULL; at = &(*at)->next_in_bucket) {
        if (*at == client) {
            *at = client->next_in_bucket;
            break;
        }
    }
    close(client->socket);
    free(client->in.bytes);
    free(client->out.bytes);
    free(client);
}

/* -- writing --------------------------------------------------------------------------------------------------- */

static void watch(Client *client, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = client};
    epoll_ctl(poller, EPOLL_CTL_MOD, client->socket, &event);
}

static void flush(Client *client) {
    ssize_t sent = send(client->socket, client->out.bytes, client->out.length, MSG_NOSIGNAL);
    if (sent == (ssize_t)client->out.length) {
        client->out.length = 0;
        if (client->waits_for_room) watch(client, EPOLLIN);
        client->waits_for_room = 0;
        return;
    }
    if (sent > 0) drop_front(&client->out, sent);
    if (sent < 0 && errno != EAGAIN) client->out.length = 0; /* its end is read later */
    else if (!client->waits_for_room) {
        client->waits_for_room = 1;
        watch(client, EPOLLIN | EPOLLOUT);
    }
}

static void queue_frame(Client *client, const uint8_t *header, const char *body, size_t body_length) {
    size_t length = HEADER_BYTES + body_length;
    uint8_t head[4 + HEADER_BYTES] = {0x82};
    size_t head_length = 2;
    if (length < 126) head[1] = length;
    else head[1] = 126, head[2] = length >> 8, head[3] = length, head_length = 4;
    uint8_t *ours = head + head_length;
    memcpy(ours, header, LENGTH_AT);
    ours[LENGTH_AT] = body_length >> 8;
    ours[LENGTH_AT + 1] = body_length;
    append(&client->out, head, head_length + HEADER_BYTES);
    append(&client->out, body, body_length);
    if (!client->is_queued) {
        client->is_queued = 1;
        client->next_queued = queued;
        queued = client;
    }
}

/* -- messages -------------------------------------------------------------------------------------------------- */

static const char *value_of(const char *key, const uint8_t *body, size_t length, size_t *value_length) {
    const char *start = memmem(body, length, key, strlen(key));
    if (start == NULL) return NULL;
    start += strlen(key);
    const char *end = memchr(start, '"', (const char *)body + length - start);
    if (end == NULL || end - start > NAME_BYTES) return NULL;
    *value_length = end - start;
    return start;
}

static void handle(Client *client, uint8_t *message, size_t length) {
    if (length <= HEADER_BYTES) return;
    const uint8_t *body = message + HEADER_BYTES;
    size_t body_length = length - HEADER_BYTES, name_length;
    if (message[TYPE_AT] == CONNECT) {
        const char *name = value_of("\"client_id\":\"", body, body_length, &name_length);
        if (name == NULL || client->name_length > 0) return;
        enter(client, name, name_length);
        static const char accepted[] = "{\"status\":\"success\",\"session_id\":\"-\"}";
        message[TYPE_AT] = CONNECT_ACK;
        queue_frame(client, message, accepted, sizeof accepted - 1);
    } else if (message[TYPE_AT] == SIGNAL_OFFER) {
        const char *name = value_of("\"target_client_id\":\"", body, body_length, &name_length);
        Client *target = name == NULL ? NULL : find(name, name_length);
        if (target == NULL || body_length > 60000) return;
        static char named[1 << 16];
        static const char key[] = "{\"sender_client_id\":\"";
        char *end = mempcpy(mempcpy(named, key, sizeof key - 1), client->name, client->name_length);
        end = mempcpy(mempcpy(end, "\",", 2), body + 1, body_length - 1);
        queue_frame(target, message, named, end - named);
    }
}

static void unmask(uint8_t *bytes, size_t length, const uint8_t mask[4]) {
    uint64_t wide;
    memcpy(&wide, mask, 4);
    memcpy((uint8_t *)&wide + 4, mask, 4);
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
        uint64_t word;
        memcpy(&word, bytes + i, 8);
        word ^= wide;
        memcpy(bytes + i, &word, 8);
    }
    for (; i < length; i++) bytes[i] ^= mask[i & 3];
}

static void read_frames(Client *client) {
    size_t at = 0, length, head;
    while (client->in.length - at >= 8) {
        uint8_t *frame = client->in.bytes + at;
        length = frame[1] & 0x7f, head = 2;
        if (length == 126) length = frame[2] << 8 | frame[3], head = 4;
        else if (length == 127) length = 0; /* no message of the benchmark is as long */
        if (client->in.length - at < head + 4 + length) break;
        unmask(frame + head + 4, length, frame + head);
        if ((frame[0] & 0x0f) == 2) handle(client, frame + head + 4, length);
        at += head + 4 + length;
    }
    if (at > 0) drop_front(&client->in, at);
    while (queued != NULL) {
        Client *target = queued;
        queued = target->next_queued;
        target->is_queued = 0;
        flush(target);
    }
}

/* -- the upgrade (RFC 6455, section 4) --------------------------------------------------------------------------- */

static uint32_t rotated(uint32_t word, int bits) { return word << bits | word >> (32 - bits); }

/* SHA-1 (RFC 3174) of a text shorter than 120 bytes. */
static void sha1(const char *text, size_t length, uint8_t digest[20]) {
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t padded[128] = {0};
    size_t blocks = length + 9 > 64 ? 2 : 1;
    memcpy(padded, text, length);
    padded[length] = 0x80;
    padded[64 * blocks - 2] = length * 8 >> 8;
    padded[64 * blocks - 1] = length * 8;
    for (size_t block = 0; block < blocks; block++) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 16; i++) {
            memcpy(&w[i], padded + 64 * block + 4 * i, 4);
            w[i] = ntohl(w[i]);
        }
        for (int i = 16; i < 80; i++) w[i] = rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        for (int i = 0; i < 80; i++) {
            uint32_t mixed = i < 20   ? ((b & c) | (~b & d)) + 0x5a827999
                             : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                             : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
                                      : (b ^ c ^ d) + 0xca62c1d6;
            uint32_t next = rotated(a, 5) + mixed + e + w[i];
            e = d, d = c, c = rotated(b, 30), b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = h[i / 4] >> (24 - 8 * (i % 4));
}

static void upgrade(Client *client) {
    *room(&client->in, 1) = '\0';
    char *request = (char *)client->in.bytes, *end = strstr(request, "\r\n\r\n");
    char *key = strcasestr(request, "sec-websocket-key: ");
    if (end == NULL || key == NULL) return;
    char text[64];
    int length = snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key + 19);
    uint8_t digest[21] = {0};
    sha1(text, length, digest);
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char accept[29];
    for (int i = 0, at = 0; i < 21; i += 3) {
        uint32_t bits = digest[i] << 16 | digest[i + 1] << 8 | digest[i + 2];
        for (int shift = 18; shift >= 0; shift -= 6) accept[at++] = alphabet[bits >> shift & 63];
    }
    accept[27] = '=', accept[28] = '\0';
    char answer[160];
    length = snprintf(answer, sizeof answer,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    append(&client->out, answer, length);
    flush(client);
    client->is_websocket = 1;
    drop_front(&client->in, end + 4 - request);
}

/* -- sockets ----------------------------------------------------------------------------------------------------- */

static void accept_client(int listening) {
    int socket = accept4(listening, NULL, NULL, SOCK_NONBLOCK), on = 1;
    if (socket < 0) return;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    Client *client = checked(calloc(1, sizeof *client));
    client->socket = socket;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    epoll_ctl(poller, EPOLL_CTL_ADD, socket, &event);
}

static void serve(Client *client, uint32_t events) {
    if (events & EPOLLOUT) flush(client);
    if (!(events & ~EPOLLOUT)) return;
    ssize_t received = recv(client->socket, room(&client->in, READ_BYTES), READ_BYTES - 1, 0);
    if (received < 0 && errno == EAGAIN) return;
    if (received <= 0) {
        leave(client);
        return;
    }
    client->in.length += received;
    if (!client->is_websocket) upgrade(client);
    else read_frames(client);
}

int main(int count, char **arguments) {
    int listening = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons(count > 1 ? atoi(arguments[count - 1]) : 8765);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) != 0 || listen(listening, 4096) != 0) {
        perror("floor_relay");
        return 1;
    }
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listening, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr == NULL) accept_client(listening);
            else serve(events[i].data.ptr, events[i].events);
        }
    }
}
