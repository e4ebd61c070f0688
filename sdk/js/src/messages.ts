/**
 * The messages of the protocol: their types and the fields of each, in the words of docs/protocol.md.
 *
 * Made by tools/protocol from src/signal_manager/protocol: do not edit. `rules.ts` says what each field may hold,
 * `payload.ts` reads and writes them, `frames.ts` puts them into bytes.
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

/** What kind of media a track carries. */
export type TrackKind = "audio" | "video";

/** What can happen in a room. */
export type RoomChange = "participant_joined" | "participant_left" | "participant_away" | "participant_back" | "tracks_published" | "tracks_unpublished" | "tracks_muted" | "tracks_unmuted" | "media_replaced" | "metadata_changed" | "room_closed";

/** Why a member left, where its own WEBRTC_ROOM_LEAVE does not say. */
export type LeaveReason = "left" | "connection lost" | "replaced" | "removed" | "restarting" | "service stopped";

/** The session that a CONNECT asks to continue, and how many of its messages the client has received. */
export interface Resume {
  /** The session to go on with. */
  session_id: string;
  /** That of its CONNECT_ACK, or empty to name a lost session. */
  resume_token: string;
  /** Messages of the session that the client has received. */
  received: number;
}

/** A track that its publisher sends: the m-section of the publisher's offer, and the name others pull it by. */
export interface PublishedTrack {
  /** The m-section in the publisher's offer. */
  mid: string;
  /** The name by which others pull it. */
  track_name: string;
  /** What it carries: "audio" or "video". */
  kind?: TrackKind | undefined;
  /** Silent or black by intention. */
  muted?: boolean | undefined;
}

/** Which layer of a simulcast track a subscriber wants (docs/protocol.md, "Rooms"). */
export interface Simulcast {
  /** The layer to receive. */
  preferred_rid: string;
  priority_ordering?: "asciibetical" | "none" | undefined;
  rid_not_available?: "asciibetical" | "none" | undefined;
}

/** One track of TRACKS_NEW: to publish with a `mid`, or to pull from a client or a media session. */
export interface TrackRequest {
  /** To publish: the m-section; to pull: a transceiver to reuse. */
  mid?: string | undefined;
  track_name: string;
  /** Only to publish. */
  kind?: TrackKind | undefined;
  /** To pull: the publisher. */
  client_id?: string | undefined;
  /** To pull: the publisher's media session. */
  session_id?: string | undefined;
  /** Only to pull. */
  simulcast?: Simulcast | undefined;
  /** Only to publish. */
  muted?: boolean | undefined;
}

/** One track of TRACKS_MUTE. */
export interface TrackMute {
  /** Of a track that the client publishes. */
  mid: string;
  muted: boolean;
}

/** One track of TRACKS_CLOSE. */
export interface TrackMid {
  mid: string;
}

/** One pulled track of TRACKS_UPDATE: another simulcast layer, or another source. */
export interface TrackUpdate {
  mid: string;
  /** Another source, with `client_id` or `session_id`. */
  track_name?: string | undefined;
  client_id?: string | undefined;
  session_id?: string | undefined;
  simulcast?: Simulcast | undefined;
}

/** What became of one track: its `mid` in the requester's own media session, or an error. */
export interface TrackResult {
  /** In the client's own media session. */
  mid?: string | undefined;
  track_name?: string | undefined;
  /** What it carries: "audio" or "video". */
  kind?: TrackKind | undefined;
  /** The publisher of a pulled track. */
  client_id?: string | undefined;
  /** The publisher's media session. */
  session_id?: string | undefined;
  /** Present where the track failed. */
  error_code?: number | undefined;
  error_message?: string | undefined;
}

/** One data channel to publish ("local") or to subscribe to ("remote"); `max_packet_life_time` is in ms. */
export interface DataChannelRequest {
  /** Publish with "local", subscribe with "remote". */
  location: "local" | "remote";
  data_channel_name: string;
  /** With "remote": the publisher. */
  client_id?: string | undefined;
  /** With "remote": the publisher's media session. */
  session_id?: string | undefined;
  ordered?: boolean | undefined;
  max_retransmits?: number | undefined;
  /** Milliseconds; not together with `max_retransmits`. */
  max_packet_life_time?: number | undefined;
  /** Only with "remote". */
  wait_for_ack?: boolean | undefined;
  /** Only with "remote". */
  can_reply?: boolean | undefined;
}

/** What became of one data channel: the `id` to open it with (`negotiated: true`), or an error. */
export interface DataChannelResult {
  data_channel_name: string;
  /** Open the channel with `negotiated: true` and this id. */
  id?: number | undefined;
  /** As asked: "local" or "remote". */
  location?: string | undefined;
  client_id?: string | undefined;
  session_id?: string | undefined;
  /** Present where the channel failed. */
  error_code?: number | undefined;
  error_message?: string | undefined;
}

/** One entry of RTCPeerConnection's `iceServers`. */
export interface IceServer {
  urls: string[];
  username?: string | undefined;
  credential?: string | undefined;
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

/** A member of a room as the others see it; `session_id` is that of its media. */
export interface Member {
  client_id: string;
  role: string;
  /** That of its media. */
  session_id?: string | undefined;
  metadata?: JsonObject | undefined;
  /** Those that can be pulled. */
  tracks?: PublishedTrack[] | undefined;
  /** Nothing has come from it for a while; it is expected back. */
  away?: boolean | undefined;
}

/** What two clients tell each other; the service adds `sender_client_id` and passes it on. */
export interface Signal {
  /** Required from a client, except in a SIGNAL_MESSAGE to a room. */
  target_client_id?: string | undefined;
  /** Always there from the service, ignored from a client. */
  sender_client_id?: string | undefined;
  /** Any JSON value, null included, or bytes. */
  signal_data: unknown;
  /** Answer with SIGNAL_ACK. */
  ack?: boolean | undefined;
}

/** What every request about rooms may carry, and what must then be the connection's own. */
export interface Request {
  version?: string | undefined;
  /** The connection's own. */
  client_id?: string | undefined;
  /** A valid one of the same client. */
  auth_token?: string | undefined;
}

/** What WEBRTC_ROOM_CREATE and WEBRTC_ROOM_JOIN share; `role` is "sender" or "receiver". */
export interface RoomEntry extends Request {
  /** Either "sender" or "receiver". */
  role: string;
  /** Required of a sender when the service has a media backend. */
  offer_sdp?: string | undefined;
  /** Those of the offer. */
  tracks?: PublishedTrack[] | undefined;
  /** Shown to the other members. */
  metadata?: JsonObject | undefined;
}

/** A new member's welcome; `status` is 200, and `session_id` is empty without a media backend. */
export interface RoomAck {
  version: string;
  /** Always 200. */
  status: number;
  message: string;
  room_id: string;
  /** This member's media session; empty without a media backend. */
  session_id: string;
  /** Empty where there is none. */
  app_id: string;
  /** Empty where there is none. */
  stun_url: string;
  ice_servers: IceServer[];
  connection_info: ConnectionInfo;
  /** The SFU's answer to the sender's offer. */
  answer_sdp?: string | undefined;
  /** The SFU's offer to a receiver. */
  offer_sdp?: string | undefined;
  /** Answer `offer_sdp` with RENEGOTIATE. */
  requires_renegotiation?: boolean | undefined;
  /** This one included. */
  participants: Member[];
  /** Published by the sender, or pulled. */
  tracks: TrackResult[];
  /** The room's, with this member's coming. */
  sequence: number;
}

/** The fields of every message type (docs/protocol.md, "Messages"). */
export interface Fields {
  /** A client's first message. */
  CONNECT: {
    client_id: string;
    auth_token: string;
    /** Of the protocol. */
    version?: string | undefined;
    capabilities?: string[] | undefined;
    metadata?: JsonObject | undefined;
    /** The same on every connection of one running client. */
    instance_id?: string | undefined;
    /** Ask for a session that outlives its connection. */
    resumable?: boolean | undefined;
    /** The session to go on with. */
    resume?: Resume | undefined;
  };
  /** The service's welcome. Intervals and windows are in seconds. */
  CONNECT_ACK: {
    /** Always "success". */
    status: string;
    session_id: string;
    server_version?: string | undefined;
    /** Seconds. */
    heartbeat_interval?: number | undefined;
    /** Seconds. */
    heartbeat_timeout?: number | undefined;
    capabilities?: string[] | undefined;
    /** Proof that a later connection belongs to this session. */
    resume_token?: string | undefined;
    /** Seconds that the session outlives a connection. */
    resume_window?: number | undefined;
    /** The session of `resume` goes on. */
    resumed?: boolean | undefined;
    /** Messages of the session that the service has received. */
    received?: number | undefined;
    /** Milliseconds since 1970; absent when the token does not end. */
    token_expires_at?: number | undefined;
    /** What happens to the session when its token ends: "continue" or "close". */
    token_expiry?: string | undefined;
  };
  /** A client's good-bye; an empty payload is one too. */
  DISCONNECT: {
    client_id?: string | undefined;
    reason?: string | undefined;
  };
  /** A sign of life from either side; an empty payload counts as timestamp 0. */
  HEARTBEAT: {
    /** Any number; the answer repeats it. */
    timestamp?: number | undefined;
    /** Messages of the session that the sender has received. */
    received?: number | undefined;
  };
  /** The answer to a HEARTBEAT, with its timestamp. `server_time` is in ms since the epoch, `received` confirms. */
  HEARTBEAT_ACK: {
    /** That of the HEARTBEAT. */
    timestamp: number;
    /** Milliseconds since 1970; from the service only. */
    server_time?: number | undefined;
    /** Messages of the session that the service has received. */
    received?: number | undefined;
  };
  /** The service is about to close; come back after `reconnect_after` ms. */
  GOAWAY: {
    reason: string;
    /** Milliseconds to wait before the client comes back. */
    reconnect_after: number;
  };
  /** Go on with another token, on the same connection. */
  TOKEN_RENEW: {
    /** Another token of the same client. */
    auth_token: string;
  };
  /** The new token counts; `status` is 200, `expires_at` is its end in ms since the epoch, absent when it has none. */
  TOKEN_RENEW_ACK: {
    /** Always 200. */
    status: number;
    /** Milliseconds since 1970; absent when the token does not end. */
    expires_at?: number | undefined;
  };
  /** An SDP offer for another client. */
  SIGNAL_OFFER: Signal;
  /** An SDP answer for another client. */
  SIGNAL_ANSWER: Signal;
  /** A trickled ICE candidate for another client. */
  SIGNAL_ICE_CANDIDATE: Signal;
  /** Application data for another client, or for all other members of `room_id`. */
  SIGNAL_MESSAGE: Signal & {
    /** In place of `target_client_id`, never both. */
    room_id?: string | undefined;
  };
  /** What became of a signal that asked for `ack`: "delivered", "queued" or "offline". */
  SIGNAL_ACK: {
    /** Either "delivered", "queued" or "offline". */
    status: string;
    target_client_id?: string | undefined;
  };
  /** Put the client's capabilities and metadata on record. */
  REGISTER: {
    version?: string | undefined;
    /** The connection's own. */
    client_id?: string | undefined;
    /** A valid one of the same client. */
    auth_token?: string | undefined;
    room_id?: string | undefined;
    capabilities?: string[] | undefined;
    metadata?: JsonObject | undefined;
  };
  /** The answer to REGISTER; `status` is 200. */
  REGISTER_ACK: {
    version: string;
    /** Always 200. */
    status: number;
    message: string;
    client_id: string;
    session_id: string;
  };
  /** Take the client's record away again. */
  UNREGISTER: {
    version?: string | undefined;
    /** The connection's own. */
    client_id?: string | undefined;
    /** A valid one of the same client. */
    auth_token?: string | undefined;
  };
  /** The answer to UNREGISTER; `status` is 200. */
  UNREGISTER_ACK: {
    version: string;
    /** Always 200. */
    status: number;
    message: string;
    client_id: string;
  };
  /** Open a room and be its first member. */
  WEBRTC_ROOM_CREATE: RoomEntry & {
    /** The service makes one up when it is absent. */
    room_id?: string | undefined;
    max_participants?: number | undefined;
  };
  /** The answer to WEBRTC_ROOM_CREATE. */
  WEBRTC_ROOM_CREATE_ACK: RoomAck;
  /** Become a member of a room that is there, or of one that this request makes. */
  WEBRTC_ROOM_JOIN: RoomEntry & {
    room_id: string;
    /** Make the room when it is not there or closed. */
    create_if_missing?: boolean | undefined;
    /** Of a room that is made. */
    max_participants?: number | undefined;
  };
  /** The answer to WEBRTC_ROOM_JOIN; `created` is true when the request has made the room, absent otherwise. */
  WEBRTC_ROOM_JOIN_ACK: RoomAck & {
    /** This request has made the room. */
    created?: boolean | undefined;
  };
  /** Leave a room; the others are told the `reason`. */
  WEBRTC_ROOM_LEAVE: Request & {
    room_id: string;
    /** Shown to the others. */
    reason?: string | undefined;
  };
  /** The answer to WEBRTC_ROOM_LEAVE; `status` is 200. */
  WEBRTC_ROOM_LEAVE_ACK: {
    version: string;
    /** Always 200. */
    status: number;
    message: string;
    room_id: string;
    client_id: string;
  };
  /** One change of a room, told to all its members in the order of `sequence`. */
  ROOM_EVENT: {
    room_id: string;
    /** The room's, after the change. */
    sequence: number;
    /** One of the [room events](#rooms). */
    event: RoomChange;
    /** The member that the event is about, as it is after the change. */
    participant?: Member | undefined;
    /** Those that the event is about. */
    tracks?: PublishedTrack[] | undefined;
    reason?: string | undefined;
    /** The room's, in a metadata_changed without `participant`. */
    metadata?: JsonObject | undefined;
  };
  /** Ask for the whole of a room that one is in. */
  ROOM_STATE: Request & {
    room_id: string;
  };
  /** A room as it was at `sequence`; `created_at` is in ms since the epoch. */
  ROOM_STATE_ACK: {
    room_id: string;
    sequence: number;
    participants: Member[];
    /** The room's. */
    metadata: JsonObject;
    max_participants: number;
    /** Milliseconds since 1970. */
    created_at?: number | undefined;
  };
  /** Replace one's own metadata as the other members see it, or the room's. */
  METADATA_UPDATE: Request & {
    room_id: string;
    /** Up to 16,384 bytes as JSON. */
    metadata: JsonObject;
    /** The client's own metadata, or the room's. */
    scope?: "participant" | "room" | undefined;
  };
  /** The room's `sequence` after the change. */
  METADATA_UPDATE_ACK: {
    /** The room's, after the change. */
    sequence: number;
  };
  /** Publish tracks with an offer, or pull tracks without one; with an offer and no tracks the SFU names them. */
  TRACKS_NEW: Request & {
    room_id: string;
    tracks: TrackRequest[];
    /** Present: publish; absent: pull. */
    offer_sdp?: string | undefined;
  };
  /** The answer to one's offer, or the SFU's offer to answer with RENEGOTIATE. */
  TRACKS_NEW_ACK: {
    tracks: TrackResult[];
    /** The SFU's answer to the client's offer. */
    answer_sdp?: string | undefined;
    /** The SFU's offer. */
    offer_sdp?: string | undefined;
    /** Answer `offer_sdp` with RENEGOTIATE. */
    requires_renegotiation?: boolean | undefined;
  };
  /** Answer the SFU's last offer with `answer_sdp`, or begin a new media session with `tracks`. */
  RENEGOTIATE: Request & {
    room_id: string;
    /** The answer to the SFU's last offer. */
    answer_sdp?: string | undefined;
    /** Of a new peer connection, with `tracks` that are not empty. */
    offer_sdp?: string | undefined;
    /** In place of `answer_sdp`: begin a [new media session](#rooms) with these, perhaps none. */
    tracks?: PublishedTrack[] | undefined;
  };
  /** The SFU has accepted the answer, or there is a new media session; `status` is 200. */
  RENEGOTIATE_ACK: {
    /** Always 200. */
    status: number;
    /** The new media session. */
    session_id?: string | undefined;
    /** The SFU's answer to `offer_sdp`. */
    answer_sdp?: string | undefined;
    /** Those of the new media session. */
    tracks?: TrackResult[] | undefined;
  };
  /** Stop tracks that one publishes or pulls: at once, or by negotiation with an offer. */
  TRACKS_CLOSE: Request & {
    room_id: string;
    tracks: TrackMid[];
    /** Present: close by negotiation; absent: close at once. */
    offer_sdp?: string | undefined;
    /** Shown to the others: "ended" for a track that ended by itself; absent: "closed". */
    reason?: string | undefined;
  };
  /** What became of each track, and the answer to the offer if there was one. */
  TRACKS_CLOSE_ACK: {
    tracks: TrackResult[];
    /** The SFU's answer to the client's offer. */
    answer_sdp?: string | undefined;
  };
  /** Switch pulled tracks to another simulcast layer or source, without negotiation. */
  TRACKS_UPDATE: Request & {
    room_id: string;
    /** Each with `simulcast` or a new source. */
    tracks: TrackUpdate[];
  };
  /** What became of each track. */
  TRACKS_UPDATE_ACK: {
    tracks: TrackResult[];
  };
  /** Open data channels; with none, negotiate the transport for them, with one's own offer or the SFU's. */
  DATACHANNELS_NEW: Request & {
    room_id: string;
    /** Empty: negotiate the transport for data channels. */
    data_channels: DataChannelRequest[];
    /** Only with an empty `data_channels`. */
    offer_sdp?: string | undefined;
  };
  /** What became of each data channel, or what completes the negotiation of their transport. */
  DATACHANNELS_NEW_ACK: {
    data_channels: DataChannelResult[];
    /** The SFU's answer to the client's offer. */
    answer_sdp?: string | undefined;
    /** The SFU's offer. */
    offer_sdp?: string | undefined;
    /** Answer `offer_sdp` with RENEGOTIATE. */
    requires_renegotiation?: boolean | undefined;
  };
  /** Ask for STUN and TURN servers; an empty payload does too. */
  ICE_SERVERS: Request;
  /** Servers as RTCPeerConnection wants them; `expires_at` is in ms since the epoch, absent when nothing expires. */
  ICE_SERVERS_ACK: {
    ice_servers: IceServer[];
    /** Milliseconds since 1970: ask again before; absent when nothing in them expires. */
    expires_at?: number | undefined;
  };
  /** Say of tracks that one publishes whether they are silent or black by intention. */
  TRACKS_MUTE: Request & {
    room_id: string;
    tracks: TrackMute[];
  };
  /** What became of each track. */
  TRACKS_MUTE_ACK: {
    tracks: TrackResult[];
  };
  /** A refusal (docs/protocol.md, "Errors and close codes"). */
  ERROR: {
    error_code: number;
    error_message: string;
    details?: JsonObject | undefined;
    retryable?: boolean | undefined;
  };
}

/** One change of a room. */
export type RoomEvent = Fields["ROOM_EVENT"];

/** One message: `fields` holds what its type has, absent ones left out. */
export type Message = { [T in MessageType]: { type: T; id: string; fields: Fields[T] } }[MessageType];

const SIGNAL_TYPES: ReadonlySet<MessageType> = new Set<SignalType>(["SIGNAL_OFFER", "SIGNAL_ANSWER", "SIGNAL_ICE_CANDIDATE", "SIGNAL_MESSAGE"]);

/** Tell whether messages of this type relay application data. */
export function isSignalType(type: MessageType): type is SignalType {
  return SIGNAL_TYPES.has(type);
}

/** Tell whether a message relays application data. */
export function isSignal(message: Message): message is Extract<Message, { type: SignalType }> {
  return isSignalType(message.type);
}
