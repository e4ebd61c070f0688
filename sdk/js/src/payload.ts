/**
 * Payloads in plain JSON: one table says what each field must be, for what is sent and for what is received alike.
 *
 * `frames.ts` frames them. What the service sends is checked here, so that nothing else in the SDK meets garbage.
 */

import { InvalidRequestError, MalformedMessageError } from "./errors.js";
import {
  isObject,
  isSignalType,
  type ConnectionInfo,
  type DataChannelRequest,
  type DataChannelResult,
  type Fields,
  type IceServer,
  type JsonObject,
  type Member,
  type MessageType,
  type PublishedTrack,
  type Request,
  type RoomAck,
  type RoomEntry,
  type Signal,
  type Simulcast,
  type TrackRequest,
  type TrackResult,
  type TrackUpdate,
} from "./messages.js";

/** What names of clients, rooms and tracks are made of. */
export const NAME_RULE = "1-128 letters, digits and . _ ~ @ + = -, not '.', '..' or '__…__'";

const NAME = /^(?!\.{1,2}$|__.*__$)[A-Za-z0-9._~@+=-]{1,128}$/;

/** Tell whether a client, room or track may have this name. */
export function isValidName(name: unknown): name is string {
  return typeof name === "string" && NAME.test(name);
}

/** Items in one request about tracks or data channels (docs/protocol.md, "Messages"). */
export const MAX_ITEMS = 64;

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

function listOf(item: Rule, limit = Infinity): Rule {
  return {
    isOptional: false,
    read(value, where) {
      if (!Array.isArray(value)) throw new MalformedMessageError(`${where} must be a list`);
      if (value.length > limit) throw new MalformedMessageError(`${where} has ${value.length} items, at most ${limit}`);
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
const places = rule(
  "1-65535",
  (value) => Number.isInteger(value) && (value as number) >= 1 && (value as number) <= 65535,
);
const object = rule("an object", isObject);
const kind = oneOf("audio", "video");
const location = oneOf("local", "remote");
// The service may say words that a newer version has added: a client ignores those that it does not know.
const word = text;
const order = oneOf("none", "asciibetical");

const simulcast = part<Simulcast>({
  preferred_rid: tag,
  priority_ordering: maybe(order),
  rid_not_available: maybe(order),
});

const publishedTrack = part<PublishedTrack>({ mid: tag, track_name: name, kind: maybe(kind), muted: maybe(flag) });
const announcedTracks = listOf(
  part<PublishedTrack>({ mid: tag, track_name: name, kind: maybe(word), muted: maybe(flag) }),
);

const trackResults = listOf(
  part<TrackResult>({
    mid: maybe(text),
    track_name: maybe(text),
    kind: maybe(word),
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
  tracks: maybe(announcedTracks),
  away: maybe(flag),
});

const iceServers = listOf(part<IceServer>({ urls: listOf(text), username: maybe(text), credential: maybe(text) }));

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
  tracks: maybe(listOf(publishedTrack, MAX_ITEMS)),
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
    token_expires_at: maybe(count),
    token_expiry: maybe(word),
  },
  TOKEN_RENEW: { auth_token: text },
  TOKEN_RENEW_ACK: { status: integer, expires_at: maybe(count) },
  DISCONNECT: { client_id: maybe(name), reason: maybe(text) },
  HEARTBEAT: { timestamp: maybe(count), received: maybe(count) },
  HEARTBEAT_ACK: { timestamp: count, server_time: maybe(integer), received: maybe(count) },
  GOAWAY: { reason: text, reconnect_after: count },
  SIGNAL_OFFER: signal,
  SIGNAL_ANSWER: signal,
  SIGNAL_ICE_CANDIDATE: signal,
  SIGNAL_MESSAGE: signal,
  SIGNAL_ACK: { status: word, target_client_id: maybe(name) },
  REGISTER: {
    ...request,
    room_id: maybe(name),
    capabilities: maybe(listOf(text)),
    metadata: maybe(object),
  },
  REGISTER_ACK: { version: text, status: integer, message: text, client_id: text, session_id: text },
  UNREGISTER: request,
  UNREGISTER_ACK: { version: text, status: integer, message: text, client_id: text },
  WEBRTC_ROOM_CREATE: { ...roomEntry, room_id: maybe(name), max_participants: maybe(places) },
  WEBRTC_ROOM_CREATE_ACK: roomAck,
  WEBRTC_ROOM_JOIN: {
    ...roomEntry,
    room_id: name,
    create_if_missing: maybe(flag),
    max_participants: maybe(places),
  },
  WEBRTC_ROOM_JOIN_ACK: { ...roomAck, created: maybe(flag) },
  WEBRTC_ROOM_LEAVE: { ...request, room_id: name, reason: maybe(text) },
  WEBRTC_ROOM_LEAVE_ACK: { version: text, status: integer, message: text, room_id: text, client_id: text },
  ROOM_EVENT: {
    room_id: text,
    sequence: count,
    event: word, // one that is not known counts in the sequence
    participant: maybe(member),
    tracks: maybe(announcedTracks),
    reason: maybe(text),
    metadata: maybe(object),
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
  METADATA_UPDATE: { ...request, room_id: name, metadata: object, scope: maybe(oneOf("participant", "room")) },
  METADATA_UPDATE_ACK: { sequence: count },
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
        muted: maybe(flag),
      }),
      MAX_ITEMS,
    ),
  },
  TRACKS_NEW_ACK: { tracks: trackResults, ...negotiation },
  RENEGOTIATE: {
    ...request,
    room_id: name,
    answer_sdp: maybe(text),
    offer_sdp: maybe(text),
    tracks: maybe(listOf(publishedTrack, MAX_ITEMS)),
  },
  RENEGOTIATE_ACK: {
    status: integer,
    session_id: maybe(text),
    answer_sdp: maybe(text),
    tracks: maybe(trackResults),
  },
  TRACKS_CLOSE: {
    ...request,
    room_id: name,
    tracks: listOf(part({ mid: tag }), MAX_ITEMS),
    offer_sdp: maybe(text),
    reason: maybe(text),
  },
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
      MAX_ITEMS,
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
      MAX_ITEMS,
    ),
    offer_sdp: maybe(text),
  },
  DATACHANNELS_NEW_ACK: {
    data_channels: listOf(
      part<DataChannelResult>({
        data_channel_name: text,
        id: maybe(count),
        location: maybe(word),
        client_id: maybe(text),
        session_id: maybe(text),
        error_code: maybe(integer),
        error_message: maybe(text),
      }),
    ),
    ...negotiation,
  },
  TRACKS_MUTE: { ...request, room_id: name, tracks: listOf(part({ mid: tag, muted: flag }), MAX_ITEMS) },
  TRACKS_MUTE_ACK: { tracks: trackResults },
  ICE_SERVERS: request,
  ICE_SERVERS_ACK: { ice_servers: iceServers, expires_at: maybe(count) },
  ERROR: { error_code: integer, error_message: text, details: maybe(object), retryable: maybe(flag) },
};

// Payloads

/** Write the fields of a message that a client sends; `InvalidRequestError` says which one is wrong. */
export function writePayload(type: MessageType, fields: unknown): string {
  try {
    const payload = readFields(RULES[type], fields);
    if (isSignalType(type)) {
      checkTarget(type, payload);
      const data = payload["signal_data"];
      if (data instanceof Uint8Array) {
        payload["signal_data"] = btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
        payload["signal_encoding"] = "base64";
      }
    }
    return JSON.stringify(payload);
  } catch (error) {
    // A field that is wrong, or data without a JSON form: a cycle, a bigint.
    throw error instanceof InvalidRequestError ? error : new InvalidRequestError((error as Error).message);
  }
}

function checkTarget(type: MessageType, payload: JsonObject): void {
  if (type !== "SIGNAL_MESSAGE") {
    if (payload["target_client_id"] === undefined) throw new InvalidRequestError("target_client_id is missing");
  } else if ((payload["target_client_id"] === undefined) === (payload["room_id"] === undefined)) {
    throw new InvalidRequestError("one of target_client_id and room_id is needed");
  }
}

/** Read the fields of a message that the service sends; `MalformedMessageError` says which one is wrong. */
export function readPayload(type: MessageType, payload: unknown): JsonObject {
  const fields = readFields(RULES[type], payload);
  if (isSignalType(type)) {
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
