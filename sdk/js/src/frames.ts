/**
 * Messages as bytes: the three framings of docs/protocol.md, without sockets or clocks.
 *
 * `payload.ts` writes and reads the payloads; `connection.ts` sends and receives the frames.
 */

import { MalformedMessageError, TooLargeError } from "./errors.js";
import { formatId } from "./ids.js";
import { TYPE_BYTES, isObject, type Fields, type JsonObject, type Message, type MessageType } from "./messages.js";
import { readPayload, writePayload } from "./payload.js";

/** How messages are framed (docs/protocol.md, "Frames"): v1 carries 64 KiB, v2 4 GiB, json is text for people. */
export type Framing = "v1" | "v2" | "json";

/** The WebSocket subprotocol that asks for a framing. */
export const SUBPROTOCOLS: Readonly<Record<Framing, string>> = {
  v1: "signal-manager.v1",
  v2: "signal-manager.v2",
  json: "signal-manager.json",
};

const JSON_PAYLOAD = 0x02;
const HEADER = {
  v1: { startByte: 0xaa, size: 21, limit: 0xffff },
  v2: { startByte: 0xab, size: 23, limit: 0xffffffff },
} as const;
const ID_OFFSET = 2;
const PAYLOAD_TYPE_OFFSET = 18;
const LENGTH_OFFSET = 19;
const NIL_ID = "00000000-0000-0000-0000-000000000000";
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

const NAME_OF_BYTE = new Map<number, MessageType>(
  Object.entries(TYPE_BYTES).map(([type, byte]) => [byte, type as MessageType]),
);
const MAY_BE_EMPTY: ReadonlySet<MessageType> = new Set<MessageType>(["HEARTBEAT", "DISCONNECT", "ICE_SERVERS"]);

/**
 * Write one message as a client sends it.
 *
 * @param id A UUID, as `makeId` returns it.
 * @returns text for json, else bytes.
 * @throws InvalidRequestError a field is missing or of the wrong type, or the data has no JSON form (a cycle, a bigint).
 * @throws TooLargeError the payload does not fit the framing.
 */
export function encode<T extends MessageType>(
  framing: Framing,
  type: T,
  id: string,
  fields: Fields[T],
): string | Uint8Array<ArrayBuffer> {
  const json = writePayload(type, fields);
  if (framing === "json") return `{"type":"${type}","id":"${id}","payload":${json}}`;
  const { startByte, size, limit } = HEADER[framing];
  const payload = new TextEncoder().encode(json);
  if (payload.length > limit) {
    throw new TooLargeError(`payload is ${payload.length} bytes, ${framing} carries at most ${limit}`);
  }
  const frame = new Uint8Array(size + payload.length);
  const view = new DataView(frame.buffer);
  frame[0] = startByte;
  frame[1] = TYPE_BYTES[type];
  for (const [index, pair] of id.replaceAll("-", "").match(/../g)!.entries()) {
    frame[ID_OFFSET + index] = Number.parseInt(pair, 16);
  }
  frame[PAYLOAD_TYPE_OFFSET] = JSON_PAYLOAD;
  if (framing === "v1") view.setUint16(LENGTH_OFFSET, payload.length);
  else view.setUint32(LENGTH_OFFSET, payload.length);
  frame.set(payload, size);
  return frame;
}

/**
 * Read one message as the service sends it to a client whose CONNECT was plain JSON.
 *
 * @throws MalformedMessageError the message is not valid; the error has its `messageId` if it could be read.
 */
export function decode(framing: Framing, data: string | ArrayBuffer): Message {
  const isText = typeof data === "string";
  if (isText !== (framing === "json")) {
    throw new MalformedMessageError(`a ${isText ? "text" : "binary"} message on a ${framing} connection`);
  }
  const frame = isText ? openText(data) : openFrame(HEADER[framing as keyof typeof HEADER], new Uint8Array(data));
  try {
    const { type, payload } = frame.open();
    if (payload === null && !MAY_BE_EMPTY.has(type)) throw new MalformedMessageError(`the payload of ${type} is empty`);
    return { type, id: frame.id, fields: readPayload(type, payload ?? {}) } as Message;
  } catch (error) {
    if (error instanceof MalformedMessageError) error.messageId = frame.id;
    throw error;
  }
}

/** A frame whose id could be read; `open` checks the rest. An empty payload is null. */
interface OpenFrame {
  id: string;
  open(): { type: MessageType; payload: unknown };
}

function openText(data: string): OpenFrame {
  const message = parse(data);
  if (!isObject(message)) throw new MalformedMessageError("a message must be an object");
  const id = message["id"] ?? NIL_ID;
  if (typeof id !== "string" || !UUID.test(id)) throw new MalformedMessageError("id must be a UUID");
  return {
    id: id.toLowerCase(),
    open() {
      const type = message["type"];
      if (typeof type !== "string" || !Object.hasOwn(TYPE_BYTES, type)) {
        throw new MalformedMessageError("type must be the name of a message type");
      }
      return { type: type as MessageType, payload: message["payload"] ?? null };
    },
  };
}

function openFrame(header: (typeof HEADER)["v1" | "v2"], frame: Uint8Array): OpenFrame {
  const { startByte, size } = header;
  if (frame.length < PAYLOAD_TYPE_OFFSET) {
    throw new MalformedMessageError(`a header is ${size} bytes, got ${frame.length}`);
  }
  return {
    id: formatId(frame.subarray(ID_OFFSET, PAYLOAD_TYPE_OFFSET)),
    open() {
      if (frame.length < size) throw new MalformedMessageError(`a header is ${size} bytes, got ${frame.length}`);
      if (frame[0] !== startByte) throw new MalformedMessageError(`start byte must be 0x${startByte.toString(16)}`);
      const type = NAME_OF_BYTE.get(frame[1]!);
      if (type === undefined) throw new MalformedMessageError("unknown message type");
      const view = new DataView(frame.buffer);
      const length = size === HEADER.v1.size ? view.getUint16(LENGTH_OFFSET) : view.getUint32(LENGTH_OFFSET);
      if (length !== frame.length - size) {
        throw new MalformedMessageError(`length says ${length} bytes, ${frame.length - size} follow`);
      }
      if (frame[PAYLOAD_TYPE_OFFSET] !== JSON_PAYLOAD) throw new MalformedMessageError("the payload must be JSON");
      return { type, payload: length === 0 ? null : parseObject(frame.subarray(size)) };
    },
  };
}

function parseObject(bytes: Uint8Array): JsonObject {
  let json: string;
  try {
    json = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new MalformedMessageError("the payload is not UTF-8");
  }
  const payload = parse(json);
  if (!isObject(payload)) throw new MalformedMessageError("the payload must be an object");
  return payload;
}

function parse(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    throw new MalformedMessageError("not JSON");
  }
}
