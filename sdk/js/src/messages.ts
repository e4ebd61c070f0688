/**
 * The messages of the protocol: their types and the fields of each, in the words of docs/protocol.md.
 *
 * `payload.ts` checks, writes and reads the fields; `frames.ts` puts them into bytes.
 */

/** The byte of each message type (docs/protocol.md, "Message types"). */
export const TYPE_BYTES = {
  CONNECT: 0x01,
  CONNECT_ACK: 0x02,
  DISCONNECT: 0x03,
  HEARTBEAT: 0x04,
  HEARTBEAT_ACK: 0x05,
  GOAWAY: 0x06,
  TOKEN_RENEW: 0x07,
  TOKEN_RENEW_ACK: 0x08,
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
  METADATA_UPDATE: 0x3a,
  METADATA_UPDATE_ACK: 0x3b,
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
  TRACKS_MUTE: 0x4c,
  TRACKS_MUTE_ACK: 0x4d,
  ERROR: 0xff,
} as const;

/** The name of a message type. */
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
  muted?: boolean | undefined;
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
  muted?: boolean | undefined;
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
  /** Nothing has come from it for a while, or its connection is lost; default false. */
  away?: boolean | undefined;
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

/** What can happen in a room. */
export type RoomChange =
  | "participant_joined"
  | "participant_left"
  | "participant_away"
  | "participant_back"
  | "tracks_published"
  | "tracks_unpublished"
  | "tracks_muted"
  | "tracks_unmuted"
  | "media_replaced"
  | "metadata_changed"
  | "room_closed";

/** One change of a room; `participant` is the member it is about, as it is after the change. */
export interface RoomEvent {
  room_id: string;
  sequence: number;
  event: RoomChange;
  participant?: Member | undefined;
  tracks?: PublishedTrack[] | undefined;
  reason?: string | undefined;
  /** The room's, where that has changed. */
  metadata?: JsonObject | undefined;
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
    /** In ms since 1970, as `expires_at` below. */
    token_expires_at?: number | undefined;
    token_expiry?: "continue" | "close" | undefined;
  };
  TOKEN_RENEW: { auth_token: string };
  TOKEN_RENEW_ACK: { status: number; expires_at?: number | undefined };
  DISCONNECT: { client_id?: string | undefined; reason?: string | undefined };
  HEARTBEAT: { timestamp?: number | undefined; received?: number | undefined };
  HEARTBEAT_ACK: { timestamp: number; server_time?: number | undefined; received?: number | undefined };
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
  WEBRTC_ROOM_JOIN: RoomEntry & {
    room_id: string;
    create_if_missing?: boolean | undefined;
    max_participants?: number | undefined;
  };
  WEBRTC_ROOM_JOIN_ACK: RoomAck & { created?: boolean | undefined };
  WEBRTC_ROOM_LEAVE: Request & { room_id: string; reason?: string | undefined };
  WEBRTC_ROOM_LEAVE_ACK: { version: string; status: number; message: string; room_id: string; client_id: string };
  ROOM_EVENT: RoomEvent;
  ROOM_STATE: Request & { room_id: string };
  ROOM_STATE_ACK: RoomState;
  METADATA_UPDATE: Request & {
    room_id: string;
    metadata: JsonObject;
    /** Default: "participant", whoever asks. */
    scope?: "participant" | "room" | undefined;
  };
  METADATA_UPDATE_ACK: { sequence: number };
  TRACKS_NEW: Request & { room_id: string; offer_sdp?: string | undefined; tracks: TrackRequest[] };
  TRACKS_NEW_ACK: {
    tracks: TrackResult[];
    answer_sdp?: string | undefined;
    offer_sdp?: string | undefined;
    requires_renegotiation?: boolean | undefined;
  };
  /** `answer_sdp` answers the SFU's offer; `tracks`, with `offer_sdp` if there are any, begin a new media session. */
  RENEGOTIATE: Request & {
    room_id: string;
    answer_sdp?: string | undefined;
    offer_sdp?: string | undefined;
    tracks?: PublishedTrack[] | undefined;
  };
  RENEGOTIATE_ACK: {
    status: number;
    session_id?: string | undefined;
    answer_sdp?: string | undefined;
    tracks?: TrackResult[] | undefined;
  };
  TRACKS_CLOSE: Request & {
    room_id: string;
    tracks: { mid: string }[];
    offer_sdp?: string | undefined;
    /** Told to the others: "closed" unless there is another one. */
    reason?: string | undefined;
  };
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
  TRACKS_MUTE: Request & { room_id: string; tracks: { mid: string; muted: boolean }[] };
  TRACKS_MUTE_ACK: { tracks: TrackResult[] };
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

/** Tell whether a value is a JSON object. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Tell whether two JSON values are the same; the order of keys, which storage may change, says nothing. */
export function isSame(one: unknown, other: unknown): boolean {
  const write = (value: unknown): string =>
    JSON.stringify(value, (_, each: unknown) =>
      isObject(each) ? Object.fromEntries(Object.entries(each).sort()) : each,
    );
  return write(one) === write(other);
}

const SIGNAL_TYPES: ReadonlySet<MessageType> = new Set<SignalType>([
  "SIGNAL_OFFER",
  "SIGNAL_ANSWER",
  "SIGNAL_ICE_CANDIDATE",
  "SIGNAL_MESSAGE",
]);

/** Tell whether messages of this type relay application data. */
export function isSignalType(type: MessageType): type is SignalType {
  return SIGNAL_TYPES.has(type);
}

/** Tell whether a message relays application data. */
export function isSignal(message: Message): message is Extract<Message, { type: SignalType }> {
  return isSignalType(message.type);
}
