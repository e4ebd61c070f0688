/**
 * Messages and the bytes they travel as: docs/protocol.md in code, without sockets or clocks.
 *
 * `connection.ts` sends and receives what is made and read here. Payloads are plain JSON in all three framings; what
 * comes from the service is checked against the field table below, so that nothing else in the SDK meets garbage.
 */

import { InvalidRequestError, MalformedMessageError, TooLargeError } from "./errors.js";

/** How messages are framed (docs/protocol.md, "Frames"): v1 carries 64 KiB, v2 4 GiB, json is text for people. */
export type Framing = "v1" | "v2" | "json";

/** The WebSocket subprotocol that asks for a framing. */
export const SUBPROTOCOLS: Readonly<Record<Framing, string>> = {
  v1: "signal-manager.v1",
  v2: "signal-manager.v2",
  json: "signal-manager.json",
};

const TYPE_BYTES = {
  CONNECT: 0x01,
  CONNECT_ACK: 0x02,
  DISCONNECT: 0x03,
  HEARTBEAT: 0x04,
  HEARTBEAT_ACK: 0x05,
  GOAWAY: 0x06,
  SIGNAL_OFFER: 0x10,
  SIGNAL_ANSWER: 0x11,
  SIGNAL_ICE_CANDIDATE: 0x12,
  SIGNAL_MESSAGE: 0x13,
  SIGNAL_ACK: 0x14,
  REGISTER: 0x20,
  REGISTER_ACK: 0x21,
  UNREGISTER: 0x22,
  UNREGISTER_ACK: 0x23,
  WEBRTC_ROOM_CREATE: 0x30,
  WEBRTC_ROOM_CREATE_ACK: 0x31,
  WEBRTC_ROOM_JOIN: 0x32,
  WEBRTC_ROOM_JOIN_ACK: 0x33,
  WEBRTC_ROOM_LEAVE: 0x34,
  WEBRTC_ROOM_LEAVE_ACK: 0x35,
  ROOM_EVENT: 0x36,
  ROOM_STATE: 0x38,
  ROOM_STATE_ACK: 0x39,
  TRACKS_NEW: 0x40,
  TRACKS_NEW_ACK: 0x41,
  RENEGOTIATE: 0x42,
  RENEGOTIATE_ACK: 0x43,
  TRACKS_CLOSE: 0x44,
  TRACKS_CLOSE_ACK: 0x45,
  TRACKS_UPDATE: 0x46,
  TRACKS_UPDATE_ACK: 0x47,
  DATACHANNELS_NEW: 0x48,
  DATACHANNELS_NEW_ACK: 0x49,
  ICE_SERVERS: 0x4a,
  ICE_SERVERS_ACK: 0x4b,
  ERROR: 0xff,
} as const;

/** The name of a message type (docs/protocol.md, "Message types"). */
export type MessageType = keyof typeof TYPE_BYTES;

/** The types that relay application data from one client to another. */
export type SignalType = "SIGNAL_OFFER" | "SIGNAL_ANSWER" | "SIGNAL_ICE_CANDIDATE" | "SIGNAL_MESSAGE";

/** A JSON object. */
export type JsonObject = Record<string, unknown>;

/** What kind of media a track carries. */
export type TrackKind = "audio" | "video";

/** A track that its publisher sends: the m-section of the publisher's offer, and the name others pull it by. */
export interface PublishedTrack {
  mid: string;
  track_name: string;
  kind?: TrackKind | undefined;
}

/** Which layer of a simulcast track a subscriber wants. */
export interface Simulcast {
  preferred_rid: string;
  priority_ordering?: "none" | "asciibetical" | undefined;
  rid_not_available?: "none" | "asciibetical" | undefined;
}

/** One track of TRACKS_NEW: to publish with a `mid`, or to pull from a client or a media session. */
export interface TrackRequest {
  mid?: string | undefined;
  track_name: string;
  kind?: TrackKind | undefined;
  client_id?: string | undefined;
  session_id?: string | undefined;
  simulcast?: Simulcast | undefined;
}

/** One pulled track of TRACKS_UPDATE: another simulcast layer, or another source. */
export interface TrackUpdate {
  mid: string;
  track_name?: string | undefined;
  client_id?: string | undefined;
  session_id?: string | undefined;
  simulcast?: Simulcast | undefined;
}

/** What became of one track: its `mid` in the requester's own media session, or an error. */
export interface TrackResult {
  mid?: string | undefined;
  track_name?: string | undefined;
  kind?: TrackKind | undefined;
  client_id?: string | undefined;
  session_id?: string | undefined;
  error_code?: number | undefined;
  error_message?: string | undefined;
}

/** One data channel to publish ("local") or to subscribe to ("remote"). */
export interface DataChannelRequest {
  location: "local" | "remote";
  data_channel_name: string;
  client_id?: string | undefined;
  session_id?: string | undefined;
  ordered?: boolean | undefined;
  max_retransmits?: number | undefined;
  /** In ms. */
  max_packet_life_time?: number | undefined;
  wait_for_ack?: boolean | undefined;
  can_reply?: boolean | undefined;
}

/** What became of one data channel: the `id` to open it with (`negotiated: true`), or an error. */
export interface DataChannelResult {
  data_channel_name: string;
  id?: number | undefined;
  location?: "local" | "remote" | undefined;
  client_id?: string | undefined;
  session_id?: string | undefined;
  error_code?: number | undefined;
  error_message?: string | undefined;
}

/** One entry of RTCPeerConnection's `iceServers`. */
export interface IceServer {
  urls: string[];
  username?: string | undefined;
  credential?: string | undefined;
}

/** A member of a room as the others see it; `session_id` is that of its media. */
export interface Member {
  client_id: string;
  role: string;
  session_id?: string | undefined;
  metadata?: JsonObject | undefined;
  tracks?: PublishedTrack[] | undefined;
}

/** SIGNAL_*: from a client with a target, from the service with the true sender. */
export interface Signal {
  target_client_id?: string | undefined;
  sender_client_id?: string | undefined;
  /** Any JSON value, or bytes. */
  signal_data: unknown;
  room_id?: string | undefined;
  ack?: boolean | undefined;
}

/** What every request after CONNECT may say again, and need not. */
export interface Request {
  version?: string | undefined;
  client_id?: string | undefined;
  auth_token?: string | undefined;
}

/** What WEBRTC_ROOM_CREATE and WEBRTC_ROOM_JOIN share; `role` is "sender" or "receiver". */
export interface RoomEntry extends Request {
  role: string;
  offer_sdp?: string | undefined;
  tracks?: PublishedTrack[] | undefined;
  metadata?: JsonObject | undefined;
}

/** The original service's summary of a membership. */
export interface ConnectionInfo {
  room_id: string;
  role: string;
  app_id: string;
  session_id: string;
  status: string;
  metadata: JsonObject;
}

/** A new member's welcome: an answer for a sender, an offer for a receiver when there is something to pull. */
export interface RoomAck {
  version: string;
  status: number;
  message: string;
  room_id: string;
  session_id: string;
  app_id: string;
  stun_url: string;
  ice_servers: IceServer[];
  connection_info: ConnectionInfo;
  answer_sdp?: string | undefined;
  offer_sdp?: string | undefined;
  requires_renegotiation?: boolean | undefined;
  participants: Member[];
  tracks: TrackResult[];
  sequence: number;
}

/** One change of a room; `participant` is the member it is about, as it is after the change. */
export interface RoomEvent {
  room_id: string;
  sequence: number;
  event: string;
  participant?: Member | undefined;
  tracks?: PublishedTrack[] | undefined;
  reason?: string | undefined;
}

/** A room as it was at `sequence`; `created_at` is in ms since 1970. */
export interface RoomState {
  room_id: string;
  sequence: number;
  participants: Member[];
  metadata: JsonObject;
  max_participants: number;
  created_at?: number | undefined;
}

/** The fields of every message type (docs/protocol.md, "Messages"). */
export interface Fields {
  CONNECT: {
    client_id: string;
    auth_token: string;
    version?: string | undefined;
    capabilities?: string[] | undefined;
    metadata?: JsonObject | undefined;
    instance_id?: string | undefined;
    resumable?: boolean | undefined;
    resume?: { session_id: string; resume_token: string; received: number } | undefined;
  };
  CONNECT_ACK: {
    status: string;
    session_id: string;
    server_version?: string | undefined;
    /** In seconds, as the next one. */
    heartbeat_interval?: number | undefined;
    heartbeat_timeout?: number | undefined;
    capabilities?: string[] | undefined;
    resume_token?: string | undefined;
    resume_window?: number | undefined;
    resumed?: boolean | undefined;
    received?: number | undefined;
  };
  DISCONNECT: { client_id?: string | undefined; reason?: string | undefined };
  HEARTBEAT: { timestamp?: number | undefined; received?: number | undefined };
  HEARTBEAT_ACK: { timestamp: number; server_time?: number | undefined };
  GOAWAY: { reason: string; reconnect_after: number };
  SIGNAL_OFFER: Signal;
  SIGNAL_ANSWER: Signal;
  SIGNAL_ICE_CANDIDATE: Signal;
  SIGNAL_MESSAGE: Signal;
  SIGNAL_ACK: { status: "delivered" | "queued" | "offline"; target_client_id?: string | undefined };
  REGISTER: Request & {
    room_id?: string | undefined;
    capabilities?: string[] | undefined;
    metadata?: JsonObject | undefined;
  };
  REGISTER_ACK: { version: string; status: number; message: string; client_id: string; session_id: string };
  UNREGISTER: Request;
  UNREGISTER_ACK: { version: string; status: number; message: string; client_id: string };
  WEBRTC_ROOM_CREATE: RoomEntry & { room_id?: string | undefined; max_participants?: number | undefined };
  WEBRTC_ROOM_CREATE_ACK: RoomAck;
  WEBRTC_ROOM_JOIN: RoomEntry & { room_id: string };
  WEBRTC_ROOM_JOIN_ACK: RoomAck;
  WEBRTC_ROOM_LEAVE: Request & { room_id: string; reason?: string | undefined };
  WEBRTC_ROOM_LEAVE_ACK: { version: string; status: number; message: string; room_id: string; client_id: string };
  ROOM_EVENT: RoomEvent;
  ROOM_STATE: Request & { room_id: string };
  ROOM_STATE_ACK: RoomState;
  TRACKS_NEW: Request & { room_id: string; offer_sdp?: string | undefined; tracks: TrackRequest[] };
  TRACKS_NEW_ACK: {
    tracks: TrackResult[];
    answer_sdp?: string | undefined;
    offer_sdp?: string | undefined;
    requires_renegotiation?: boolean | undefined;
  };
  RENEGOTIATE: Request & { room_id: string; answer_sdp: string };
  RENEGOTIATE_ACK: { status: number };
  TRACKS_CLOSE: Request & { room_id: string; tracks: { mid: string }[]; offer_sdp?: string | undefined };
  TRACKS_CLOSE_ACK: { tracks: TrackResult[]; answer_sdp?: string | undefined };
  TRACKS_UPDATE: Request & { room_id: string; tracks: TrackUpdate[] };
  TRACKS_UPDATE_ACK: { tracks: TrackResult[] };
  DATACHANNELS_NEW: Request & { room_id: string; data_channels: DataChannelRequest[]; offer_sdp?: string | undefined };
  DATACHANNELS_NEW_ACK: {
    data_channels: DataChannelResult[];
    answer_sdp?: string | undefined;
    offer_sdp?: string | undefined;
    requires_renegotiation?: boolean | undefined;
  };
  ICE_SERVERS: Request;
  ICE_SERVERS_ACK: { ice_servers: IceServer[]; expires_at?: number | undefined };
  ERROR: {
    error_code: number;
    error_message: string;
    details?: JsonObject | undefined;
    retryable?: boolean | undefined;
  };
}

/** One message: `fields` holds what its type has, absent ones left out. */
export type Message = { [T in MessageType]: { type: T; id: string; fields: Fields[T] } }[MessageType];

/** What names of clients, rooms and tracks are made of. */
export const NAME_RULE = "1-128 letters, digits and . _ ~ @ + = -, not '.', '..' or '__…__'";

const NAME = /^(?!\.{1,2}$|__.*__$)[A-Za-z0-9._~@+=-]{1,128}$/;

/** Tell whether a client, room or track may have this name. */
export function isValidName(name: unknown): name is string {
  return typeof name === "string" && NAME.test(name);
}

// The field table. A rule returns the value to keep, or throws what was expected.

interface Rule {
  isOptional: boolean;
  read(value: unknown, where: string): unknown;
}

type RulesOf<Shape> = { [F in keyof Shape]-?: Rule };

function rule(expected: string, accepts: (value: unknown) => boolean): Rule {
  return {
    isOptional: false,
    read(value, where) {
      if (!accepts(value)) throw new MalformedMessageError(`${where} must be ${expected}`);
      return value;
    },
  };
}

function maybe(required: Rule): Rule {
  return { ...required, isOptional: true };
}

function listOf(item: Rule): Rule {
  return {
    isOptional: false,
    read(value, where) {
      if (!Array.isArray(value)) throw new MalformedMessageError(`${where} must be a list`);
      return value.map((each, index) => item.read(each, `${where}[${index}]`));
    },
  };
}

function part<Shape>(rules: RulesOf<Shape>): Rule {
  return { isOptional: false, read: (value, where) => readFields(rules, value, where) };
}

/** Read the fields that `rules` names, in their order; others are ignored, and null is an absent field. */
function readFields(rules: Record<string, Rule>, source: unknown, where = ""): JsonObject {
  if (!isObject(source)) throw new MalformedMessageError(`${where || "the payload"} must be an object`);
  const fields: JsonObject = {};
  for (const [name, each] of Object.entries(rules)) {
    const path = where ? `${where}.${name}` : name;
    const value = source[name];
    if (value !== undefined && (value !== null || each === anything)) fields[name] = each.read(value, path);
    else if (!each.isOptional) throw new MalformedMessageError(`${path} is missing`);
  }
  return fields;
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function oneOf(...words: string[]): Rule {
  return rule(`one of ${words.join(", ")}`, (value) => words.includes(value as string));
}

const anything = rule("a value", () => true);
const text = rule("a string", (value) => typeof value === "string");
const name = rule(NAME_RULE, isValidName);
const tag = rule("1-64 characters", (value) => typeof value === "string" && value.length >= 1 && value.length <= 64);
const flag = rule("true or false", (value) => typeof value === "boolean");
const amount = rule("a number", (value) => typeof value === "number");
// Integers beyond 2^53 would lose digits in a double: better refused than changed.
const integer = rule("an integer", Number.isSafeInteger);
const count = rule("an integer of 0 or more", (value) => Number.isSafeInteger(value) && (value as number) >= 0);
const object = rule("an object", isObject);
const kind = oneOf("audio", "video");
const location = oneOf("local", "remote");
const order = oneOf("none", "asciibetical");

const simulcast = part<Simulcast>({
  preferred_rid: tag,
  priority_ordering: maybe(order),
  rid_not_available: maybe(order),
});

const publishedTracks = listOf(part<PublishedTrack>({ mid: tag, track_name: name, kind: maybe(kind) }));

const trackResults = listOf(
  part<TrackResult>({
    mid: maybe(text),
    track_name: maybe(text),
    kind: maybe(kind),
    client_id: maybe(text),
    session_id: maybe(text),
    error_code: maybe(integer),
    error_message: maybe(text),
  }),
);

const member = part<Member>({
  client_id: text,
  role: text,
  session_id: maybe(text),
  metadata: maybe(object),
  tracks: maybe(publishedTracks),
});

const iceServers = listOf(
  part<IceServer>({ urls: listOf(text), username: maybe(text), credential: maybe(text) }),
);

const signal: RulesOf<Signal> = {
  target_client_id: maybe(name),
  sender_client_id: maybe(name),
  signal_data: anything,
  room_id: maybe(name),
  ack: maybe(flag),
};

const request: RulesOf<Request> = { version: maybe(text), client_id: maybe(name), auth_token: maybe(text) };

const roomEntry: RulesOf<RoomEntry> = {
  ...request,
  role: text,
  offer_sdp: maybe(text),
  tracks: maybe(publishedTracks),
  metadata: maybe(object),
};

const roomAck: RulesOf<RoomAck> = {
  version: text,
  status: integer,
  message: text,
  room_id: text,
  session_id: text,
  app_id: text,
  stun_url: text,
  ice_servers: iceServers,
  connection_info: part<ConnectionInfo>({
    room_id: text,
    role: text,
    app_id: text,
    session_id: text,
    status: text,
    metadata: object,
  }),
  answer_sdp: maybe(text),
  offer_sdp: maybe(text),
  requires_renegotiation: maybe(flag),
  participants: listOf(member),
  tracks: trackResults,
  sequence: count,
};

const negotiation = {
  answer_sdp: maybe(text),
  offer_sdp: maybe(text),
  requires_renegotiation: maybe(flag),
};

const RULES: { [T in MessageType]: RulesOf<Fields[T]> } = {
  CONNECT: {
    client_id: name,
    auth_token: text,
    version: maybe(text),
    capabilities: maybe(listOf(text)),
    metadata: maybe(object),
    instance_id: maybe(text),
    resumable: maybe(flag),
    resume: maybe(part({ session_id: text, resume_token: text, received: count })),
  },
  CONNECT_ACK: {
    status: text,
    session_id: text,
    server_version: maybe(text),
    heartbeat_interval: maybe(amount),
    heartbeat_timeout: maybe(amount),
    capabilities: maybe(listOf(text)),
    resume_token: maybe(text),
    resume_window: maybe(amount),
    resumed: maybe(flag),
    received: maybe(count),
  },
  DISCONNECT: { client_id: maybe(name), reason: maybe(text) },
  HEARTBEAT: { timestamp: maybe(count), received: maybe(count) },
  HEARTBEAT_ACK: { timestamp: count, server_time: maybe(integer) },
  GOAWAY: { reason: text, reconnect_after: count },
  SIGNAL_OFFER: signal,
  SIGNAL_ANSWER: signal,
  SIGNAL_ICE_CANDIDATE: signal,
  SIGNAL_MESSAGE: signal,
  SIGNAL_ACK: { status: oneOf("delivered", "queued", "offline"), target_client_id: maybe(name) },
  REGISTER: {
    ...request,
    room_id: maybe(name),
    capabilities: maybe(listOf(text)),
    metadata: maybe(object),
  },
  REGISTER_ACK: { version: text, status: integer, message: text, client_id: text, session_id: text },
  UNREGISTER: request,
  UNREGISTER_ACK: { version: text, status: integer, message: text, client_id: text },
  WEBRTC_ROOM_CREATE: { ...roomEntry, room_id: maybe(name), max_participants: maybe(count) },
  WEBRTC_ROOM_CREATE_ACK: roomAck,
  WEBRTC_ROOM_JOIN: { ...roomEntry, room_id: name },
  WEBRTC_ROOM_JOIN_ACK: roomAck,
  WEBRTC_ROOM_LEAVE: { ...request, room_id: name, reason: maybe(text) },
  WEBRTC_ROOM_LEAVE_ACK: { version: text, status: integer, message: text, room_id: text, client_id: text },
  ROOM_EVENT: {
    room_id: text,
    sequence: count,
    event: text,
    participant: maybe(member),
    tracks: maybe(publishedTracks),
    reason: maybe(text),
  },
  ROOM_STATE: { ...request, room_id: name },
  ROOM_STATE_ACK: {
    room_id: text,
    sequence: count,
    participants: listOf(member),
    metadata: object,
    max_participants: count,
    created_at: maybe(count),
  },
  TRACKS_NEW: {
    ...request,
    room_id: name,
    offer_sdp: maybe(text),
    tracks: listOf(
      part<TrackRequest>({
        mid: maybe(tag),
        track_name: name,
        kind: maybe(kind),
        client_id: maybe(name),
        session_id: maybe(name),
        simulcast: maybe(simulcast),
      }),
    ),
  },
  TRACKS_NEW_ACK: { tracks: trackResults, ...negotiation },
  RENEGOTIATE: { ...request, room_id: name, answer_sdp: text },
  RENEGOTIATE_ACK: { status: integer },
  TRACKS_CLOSE: { ...request, room_id: name, tracks: listOf(part({ mid: tag })), offer_sdp: maybe(text) },
  TRACKS_CLOSE_ACK: { tracks: trackResults, answer_sdp: maybe(text) },
  TRACKS_UPDATE: {
    ...request,
    room_id: name,
    tracks: listOf(
      part<TrackUpdate>({
        mid: tag,
        track_name: maybe(name),
        client_id: maybe(name),
        session_id: maybe(name),
        simulcast: maybe(simulcast),
      }),
    ),
  },
  TRACKS_UPDATE_ACK: { tracks: trackResults },
  DATACHANNELS_NEW: {
    ...request,
    room_id: name,
    data_channels: listOf(
      part<DataChannelRequest>({
        location,
        data_channel_name: name,
        client_id: maybe(name),
        session_id: maybe(name),
        ordered: maybe(flag),
        max_retransmits: maybe(count),
        max_packet_life_time: maybe(count),
        wait_for_ack: maybe(flag),
        can_reply: maybe(flag),
      }),
    ),
    offer_sdp: maybe(text),
  },
  DATACHANNELS_NEW_ACK: {
    data_channels: listOf(
      part<DataChannelResult>({
        data_channel_name: text,
        id: maybe(count),
        location: maybe(location),
        client_id: maybe(text),
        session_id: maybe(text),
        error_code: maybe(integer),
        error_message: maybe(text),
      }),
    ),
    ...negotiation,
  },
  ICE_SERVERS: request,
  ICE_SERVERS_ACK: { ice_servers: iceServers, expires_at: maybe(count) },
  ERROR: { error_code: integer, error_message: text, details: maybe(object), retryable: maybe(flag) },
};

// Payloads: plain JSON

const SIGNAL_TYPES: ReadonlySet<MessageType> = new Set<SignalType>([
  "SIGNAL_OFFER",
  "SIGNAL_ANSWER",
  "SIGNAL_ICE_CANDIDATE",
  "SIGNAL_MESSAGE",
]);

/** Tell whether a message relays application data. */
export function isSignal(message: Message): message is Extract<Message, { type: SignalType }> {
  return SIGNAL_TYPES.has(message.type);
}

function writePayload(type: MessageType, fields: unknown): string {
  try {
    const payload = readFields(RULES[type], fields);
    if (SIGNAL_TYPES.has(type)) {
      checkTarget(type, payload);
      const data = payload["signal_data"];
      if (data instanceof Uint8Array) {
        payload["signal_data"] = btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
        payload["signal_encoding"] = "base64";
      }
    }
    return JSON.stringify(payload);
  } catch (error) {
    if (error instanceof MalformedMessageError) throw new InvalidRequestError(error.message);
    throw error;
  }
}

function checkTarget(type: MessageType, payload: JsonObject): void {
  if (type !== "SIGNAL_MESSAGE") {
    if (payload["target_client_id"] === undefined) throw new InvalidRequestError("target_client_id is missing");
  } else if ((payload["target_client_id"] === undefined) === (payload["room_id"] === undefined)) {
    throw new InvalidRequestError("one of target_client_id and room_id is needed");
  }
}

function readPayload(type: MessageType, payload: unknown): JsonObject {
  const fields = readFields(RULES[type], payload);
  if (SIGNAL_TYPES.has(type)) {
    if (fields["sender_client_id"] === undefined) throw new MalformedMessageError("sender_client_id is missing");
    const encoding = (payload as JsonObject)["signal_encoding"] ?? null;
    if (encoding !== null) fields["signal_data"] = readBase64(encoding, fields["signal_data"]);
  }
  return fields;
}

function readBase64(encoding: unknown, data: unknown): Uint8Array {
  if (encoding !== "base64") throw new MalformedMessageError("signal_encoding must be base64");
  try {
    return Uint8Array.from(atob(text.read(data, "signal_data") as string), (letter) => letter.charCodeAt(0));
  } catch {
    throw new MalformedMessageError("signal_data is not base64");
  }
}

// Frames

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
const MAY_BE_EMPTY: ReadonlySet<MessageType> = new Set<MessageType>(["HEARTBEAT", "DISCONNECT"]);

/** Return a fresh UUID v4. `crypto.randomUUID` would need a secure context, which a page on a LAN does not have. */
export function makeId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return formatId(bytes);
}

function formatId(bytes: Uint8Array): string {
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/**
 * Write one message as a client sends it.
 *
 * @param id A UUID, as `makeId` returns it.
 * @returns text for json, else bytes.
 * @throws InvalidRequestError a field is missing or of the wrong type.
 * @throws TooLargeError the payload does not fit the framing.
 * @throws TypeError the data has no JSON form (a cycle, a bigint).
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
 * @throws MalformedMessageError with the `messageId` where that could be read.
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

/** A frame whose id could be read; `open` checks the rest. A payload of null is an empty one. */
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
