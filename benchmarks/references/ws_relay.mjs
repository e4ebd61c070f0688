/**
 * A relay on Node's `ws`, as plain as websockets_relay.py beside it, to compare the service with.
 *
 * It speaks v1 frames with plain JSON, takes any token, and relays SIGNAL_OFFER (docs/protocol.md).
 * Usage: node ws_relay.mjs --port 8765
 */

import { randomUUID } from "node:crypto";
import { parseArgs } from "node:util";

import { WebSocketServer } from "ws";

const START = 0xaa;
const HEADER_BYTES = 21;
const LENGTH_OFFSET = 19;
const CONNECT = 0x01;
const CONNECT_ACK = 0x02;
const SIGNAL_OFFER = 0x10;

/** The request's header with another type and length, and the payload as JSON. */
function frame(request, messageType, payload) {
  const body = JSON.stringify(payload);
  const length = Buffer.byteLength(body);
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + length);
  request.copy(bytes, 0, 0, HEADER_BYTES);
  bytes[1] = messageType;
  bytes.writeUInt16BE(length, LENGTH_OFFSET);
  bytes.write(body, HEADER_BYTES);
  return bytes;
}

const { values } = parseArgs({ options: { port: { type: "string" } } });
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(values.port) });
const clients = new Map();

server.on("connection", (socket) => {
  let clientId = null;

  socket.on("message", (data) => {
    if (data.length < HEADER_BYTES || data[0] !== START || data.readUInt16BE(LENGTH_OFFSET) !== data.length - HEADER_BYTES) {
      socket.close(1002);
      return;
    }
    const payload = JSON.parse(data.toString("utf8", HEADER_BYTES));
    switch (data[1]) {
      case CONNECT:
        clientId = payload.client_id;
        clients.set(clientId, socket);
        socket.send(frame(data, CONNECT_ACK, { status: "success", session_id: randomUUID() }));
        break;
      case SIGNAL_OFFER:
        payload.sender_client_id = clientId;
        clients.get(payload.target_client_id)?.send(frame(data, SIGNAL_OFFER, payload));
        break;
    }
  });

  socket.on("error", () => socket.terminate());
  socket.on("close", () => clients.delete(clientId));
});

process.on("SIGTERM", () => process.exit(0));
