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

/** The session that a CONNECT asks to resume, and how many of its messages the client has received. */
export interface Resume {
  /** The session to resume. */
  session_id: string;
  /** The `resume_token` of its CONNECT_ACK; empty to name a session that cannot be resumed. */
  resume_token: string;
  /** How many messages of the session the client has received. */
  received: number;
}

/** A track that a publisher sends. */
export interface PublishedTrack {
  /** The mid of the m-section in the publisher's offer. */
  mid: string;
  /** The name by which subscribers pull it. */
  track_name: string;
  /** Either "audio" or "video". */
  kind?: TrackKind | undefined;
  /** True when the publisher sends silence or black on purpose. */
  muted?: boolean | undefined;
}

/** The layer of a simulcast track that a subscriber wants (docs/protocol.md, "Rooms"). */
export interface Simulcast {
  /** The rid of the layer to receive. */
  preferred_rid: string;
  priority_ordering?: "asciibetical" | "none" | undefined;
  rid_not_available?: "asciibetical" | "none" | undefined;
}

/** One track of TRACKS_NEW, either to publish or to pull. */
export interface TrackRequest {
  /** To publish: the m-section in the offer. To pull: a transceiver to reuse. */
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
  /** The mid of a track that the client publishes. */
  mid: string;
  muted: boolean;
}

/** One track of TRACKS_CLOSE. */
export interface TrackMid {
  mid: string;
}

/** One pulled track of TRACKS_UPDATE, with another simulcast layer or another source. */
export interface TrackUpdate {
  mid: string;
  /** The track to receive instead, with `client_id` or `session_id`. */
  track_name?: string | undefined;
  client_id?: string | undefined;
  session_id?: string | undefined;
  simulcast?: Simulcast | undefined;
}

/** The result for one track: its `mid`, or an error. */
export interface TrackResult {
  /** The mid in the media session of the client that asked. */
  mid?: string | undefined;
  track_name?: string | undefined;
  /** Either "audio" or "video". */
  kind?: TrackKind | undefined;
  /** The publisher of a pulled track. */
  client_id?: string | undefined;
  /** The publisher's media session. */
  session_id?: string | undefined;
  /** Present when the track failed. */
  error_code?: number | undefined;
  error_message?: string | undefined;
}

/** One data channel to publish or to subscribe to. */
export interface DataChannelRequest {
  /** Either "local" to publish or "remote" to subscribe. */
  location: "local" | "remote";
  data_channel_name: string;
  /** With "remote": the publisher. */
  client_id?: string | undefined;
  /** With "remote": the publisher's media session. */
  session_id?: string | undefined;
  ordered?: boolean | undefined;
  max_retransmits?: number | undefined;
  /** Milliseconds; never with `max_retransmits`. */
  max_packet_life_time?: number | undefined;
  /** Only with "remote". */
  wait_for_ack?: boolean | undefined;
  /** Only with "remote". */
  can_reply?: boolean | undefined;
}

/** The result for one data channel: its `id`, or an error. */
export interface DataChannelResult {
  data_channel_name: string;
  /** Open the channel with `negotiated: true` and this id. */
  id?: number | undefined;
  /** The location that the client asked for: "local" or "remote". */
  location?: string | undefined;
  client_id?: string | undefined;
  session_id?: string | undefined;
  /** Present when the data channel failed. */
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

/** A member of a room as the other members see it. */
export interface Member {
  client_id: string;
  role: string;
  /** The id of its media session. */
  session_id?: string | undefined;
  metadata?: JsonObject | undefined;
  /** The tracks that subscribers can pull. */
  tracks?: PublishedTrack[] | undefined;
  /** True when the member is silent for a while or has lost its connection, and the service expects it back. */
  away?: boolean | undefined;
}

/** One client's message to another. The service adds `sender_client_id` and relays the rest unchanged. */
export interface Signal {
  /** Required from a client, except in a SIGNAL_MESSAGE to a room. */
  target_client_id?: string | undefined;
  /** Always present from the service; ignored from a client. */
  sender_client_id?: string | undefined;
  /** Any JSON value, null included, or bytes. */
  signal_data: unknown;
  /** Asks the service to answer with SIGNAL_ACK. */
  ack?: boolean | undefined;
}

/** The fields that every request about rooms may carry. */
export interface Request {
  version?: string | undefined;
  /** When present, equal to the connection's client id. */
  client_id?: string | undefined;
  /** When present, a valid token of the same client. */
  auth_token?: string | undefined;
}

/** The fields that WEBRTC_ROOM_CREATE and WEBRTC_ROOM_JOIN share. */
export interface RoomEntry extends Request {
  /** Either "sender" or "receiver". */
  role: string;
  /** Required from a sender when the service has a media backend. */
  offer_sdp?: string | undefined;
  /** The tracks of the offer. */
  tracks?: PublishedTrack[] | undefined;
  /** Shown to the other members. */
  metadata?: JsonObject | undefined;
}

/** The service accepts a new member. */
export interface RoomAck {
  version: string;
  /** Always 200. */
  status: number;
  message: string;
  room_id: string;
  /** The new member's media session; empty without a media backend. */
  session_id: string;
  /** Empty when there is none. */
  app_id: string;
  /** Empty when there is none. */
  stun_url: string;
  ice_servers: IceServer[];
  connection_info: ConnectionInfo;
  /** The SFU's answer to the sender's offer. */
  answer_sdp?: string | undefined;
  /** The SFU's offer to a receiver. */
  offer_sdp?: string | undefined;
  /** True when the client must answer `offer_sdp` with RENEGOTIATE. */
  requires_renegotiation?: boolean | undefined;
  /** All members, the new one included. */
  participants: Member[];
  /** The tracks that the sender publishes, or those that the receiver pulls. */
  tracks: TrackResult[];
  /** The room's sequence number after this join. */
  sequence: number;
}

/** The fields of every message type (docs/protocol.md, "Messages"). */
export interface Fields {
  /** A client's first message. */
  CONNECT: {
    client_id: string;
    auth_token: string;
    /** The protocol version of the client. */
    version?: string | undefined;
    capabilities?: string[] | undefined;
    metadata?: JsonObject | undefined;
    /** Identifies one running client; the same on all its connections. */
    instance_id?: string | undefined;
    /** Asks for a session that outlives its connection. */
    resumable?: boolean | undefined;
    /** The session to resume. */
    resume?: Resume | undefined;
  };
  /** The service accepts a CONNECT. Intervals, time-outs and the resume window are in seconds. */
  CONNECT_ACK: {
    /** Always "success". */
    status: string;
    session_id: string;
    server_version?: string | undefined;
    /** Seconds of silence after which the service sends a ping. */
    heartbeat_interval?: number | undefined;
    /** Seconds of silence after which the service closes the connection. */
    heartbeat_timeout?: number | undefined;
    capabilities?: string[] | undefined;
    /** Proves that a later connection belongs to this session. */
    resume_token?: string | undefined;
    /** Seconds for which the session outlives a lost connection. */
    resume_window?: number | undefined;
    /** True when the service has resumed the session that `resume` names. */
    resumed?: boolean | undefined;
    /** How many messages of the session the service has received. */
    received?: number | undefined;
    /** Milliseconds since 1970; absent when the token does not expire. */
    token_expires_at?: number | undefined;
    /** What happens to the session when its token expires: "continue" or "close". */
    token_expiry?: string | undefined;
  };
  /** The client closes the connection on purpose. The payload may be empty. */
  DISCONNECT: {
    client_id?: string | undefined;
    reason?: string | undefined;
  };
  /** A sign of life from either side. An empty payload means timestamp 0. */
  HEARTBEAT: {
    /** Any number; the HEARTBEAT_ACK repeats it. */
    timestamp?: number | undefined;
    /** How many messages of the session the sender has received. */
    received?: number | undefined;
  };
  /** The answer to a HEARTBEAT. It confirms the messages that the service has received. */
  HEARTBEAT_ACK: {
    /** The timestamp of the HEARTBEAT. */
    timestamp: number;
    /** Milliseconds since 1970; from the service only. */
    server_time?: number | undefined;
    /** How many messages of the session the service has received. */
    received?: number | undefined;
  };
  /** The service is about to close the connection; the client reconnects after `reconnect_after`. */
  GOAWAY: {
    reason: string;
    /** Milliseconds that the client waits before it reconnects. */
    reconnect_after: number;
  };
  /** Replace the token of a connection without reconnecting. */
  TOKEN_RENEW: {
    /** A new token for the same client. */
    auth_token: string;
  };
  /** The service accepts the new token. */
  TOKEN_RENEW_ACK: {
    /** Always 200. */
    status: number;
    /** Milliseconds since 1970; absent when the token does not expire. */
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
    /** Present instead of `target_client_id`, never with it. */
    room_id?: string | undefined;
  };
  /** The fate of a signal that asked for `ack`. */
  SIGNAL_ACK: {
    /** One of "delivered", "queued" or "offline". */
    status: string;
    target_client_id?: string | undefined;
  };
  /** Store the client's capabilities and metadata. */
  REGISTER: {
    version?: string | undefined;
    /** When present, equal to the connection's client id. */
    client_id?: string | undefined;
    /** When present, a valid token of the same client. */
    auth_token?: string | undefined;
    room_id?: string | undefined;
    capabilities?: string[] | undefined;
    metadata?: JsonObject | undefined;
  };
  /** The answer to REGISTER. */
  REGISTER_ACK: {
    version: string;
    /** Always 200. */
    status: number;
    message: string;
    client_id: string;
    session_id: string;
  };
  /** Remove what REGISTER stored. */
  UNREGISTER: {
    version?: string | undefined;
    /** When present, equal to the connection's client id. */
    client_id?: string | undefined;
    /** When present, a valid token of the same client. */
    auth_token?: string | undefined;
  };
  /** The answer to UNREGISTER. */
  UNREGISTER_ACK: {
    version: string;
    /** Always 200. */
    status: number;
    message: string;
    client_id: string;
  };
  /** Create a room and become its first member. */
  WEBRTC_ROOM_CREATE: RoomEntry & {
    /** When absent, the service chooses an id. */
    room_id?: string | undefined;
    max_participants?: number | undefined;
  };
  /** The answer to WEBRTC_ROOM_CREATE. */
  WEBRTC_ROOM_CREATE_ACK: RoomAck;
  /** Become a member of a room that exists, or of a room that this request creates. */
  WEBRTC_ROOM_JOIN: RoomEntry & {
    room_id: string;
    /** Creates the room when it does not exist or is closed. */
    create_if_missing?: boolean | undefined;
    /** The limit of a room that this request creates. */
    max_participants?: number | undefined;
  };
  /** The answer to WEBRTC_ROOM_JOIN. */
  WEBRTC_ROOM_JOIN_ACK: RoomAck & {
    /** True when this request created the room; absent otherwise. */
    created?: boolean | undefined;
  };
  /** Leave a room. */
  WEBRTC_ROOM_LEAVE: Request & {
    room_id: string;
    /** Shown to the other members. */
    reason?: string | undefined;
  };
  /** The answer to WEBRTC_ROOM_LEAVE. */
  WEBRTC_ROOM_LEAVE_ACK: {
    version: string;
    /** Always 200. */
    status: number;
    message: string;
    room_id: string;
    client_id: string;
  };
  /** One change of a room. The service sends it to all members in the order of `sequence`. */
  ROOM_EVENT: {
    room_id: string;
    /** The room's sequence number after the change. */
    sequence: number;
    /** One of the room events. */
    event: RoomChange;
    /** The member that the event is about, as it is after the change. */
    participant?: Member | undefined;
    /** The tracks that the event is about. */
    tracks?: PublishedTrack[] | undefined;
    reason?: string | undefined;
    /** The room's metadata, in a metadata_changed without `participant`. */
    metadata?: JsonObject | undefined;
  };
  /** Ask for the complete state of a room that the client is in. */
  ROOM_STATE: Request & {
    room_id: string;
  };
  /** The state of a room at `sequence`. */
  ROOM_STATE_ACK: {
    room_id: string;
    sequence: number;
    participants: Member[];
    /** The room's metadata. */
    metadata: JsonObject;
    max_participants: number;
    /** Milliseconds since 1970. */
    created_at?: number | undefined;
  };
  /** Replace the metadata of the client in this room, or that of the room. */
  METADATA_UPDATE: Request & {
    room_id: string;
    /** At most 16,384 bytes as JSON. */
    metadata: JsonObject;
    /** What to replace: the client's metadata or the room's. */
    scope?: "participant" | "room" | undefined;
  };
  /** The answer to METADATA_UPDATE. */
  METADATA_UPDATE_ACK: {
    /** The room's sequence number after the change. */
    sequence: number;
  };
  /** Publish tracks with an offer, or pull tracks without one. An offer with no tracks lets the SFU name them. */
  TRACKS_NEW: Request & {
    room_id: string;
    tracks: TrackRequest[];
    /** Present to publish, absent to pull. */
    offer_sdp?: string | undefined;
  };
  /** The SFU's answer to the client's offer, or an offer of its own. */
  TRACKS_NEW_ACK: {
    tracks: TrackResult[];
    /** The SFU's answer to the client's offer. */
    answer_sdp?: string | undefined;
    /** The SFU's offer. */
    offer_sdp?: string | undefined;
    /** True when the client must answer `offer_sdp` with RENEGOTIATE. */
    requires_renegotiation?: boolean | undefined;
  };
  /** Answer the SFU's last offer with `answer_sdp`, or start a new media session with `tracks`. */
  RENEGOTIATE: Request & {
    room_id: string;
    /** The client's answer to the SFU's last offer. */
    answer_sdp?: string | undefined;
    /** The offer of a new peer connection; required when `tracks` has items. */
    offer_sdp?: string | undefined;
    /** Present instead of `answer_sdp` to start a new media session with these tracks; may be empty. */
    tracks?: PublishedTrack[] | undefined;
  };
  /** The SFU has accepted the answer, or the new media session has started. */
  RENEGOTIATE_ACK: {
    /** Always 200. */
    status: number;
    /** The new media session. */
    session_id?: string | undefined;
    /** The SFU's answer to `offer_sdp`. */
    answer_sdp?: string | undefined;
    /** The tracks of the new media session. */
    tracks?: TrackResult[] | undefined;
  };
  /** Close tracks that the client publishes or pulls, at once or by negotiation. */
  TRACKS_CLOSE: Request & {
    room_id: string;
    tracks: TrackMid[];
    /** Present to close by negotiation, absent to close at once. */
    offer_sdp?: string | undefined;
    /** Shown to the other members: "ended" for a track that ended by itself; "closed" when absent. */
    reason?: string | undefined;
  };
  /** The result for each track. */
  TRACKS_CLOSE_ACK: {
    tracks: TrackResult[];
    /** The SFU's answer to the client's offer. */
    answer_sdp?: string | undefined;
  };
  /** Switch pulled tracks to another simulcast layer or source without negotiation. */
  TRACKS_UPDATE: Request & {
    room_id: string;
    /** Each has `simulcast` or a new source. */
    tracks: TrackUpdate[];
  };
  /** The result for each track. */
  TRACKS_UPDATE_ACK: {
    tracks: TrackResult[];
  };
  /** Open data channels, or negotiate their transport with an offer of the client or of the SFU. */
  DATACHANNELS_NEW: Request & {
    room_id: string;
    /** Empty to negotiate the transport for data channels. */
    data_channels: DataChannelRequest[];
    /** Only with an empty `data_channels`. */
    offer_sdp?: string | undefined;
  };
  /** The result for each data channel, or the SFU's part of the negotiation of their transport. */
  DATACHANNELS_NEW_ACK: {
    data_channels: DataChannelResult[];
    /** The SFU's answer to the client's offer. */
    answer_sdp?: string | undefined;
    /** The SFU's offer. */
    offer_sdp?: string | undefined;
    /** True when the client must answer `offer_sdp` with RENEGOTIATE. */
    requires_renegotiation?: boolean | undefined;
  };
  /** Ask for STUN and TURN servers. The payload may be empty. */
  ICE_SERVERS: Request;
  /** STUN and TURN servers in the form that RTCPeerConnection takes. */
  ICE_SERVERS_ACK: {
    ice_servers: IceServer[];
    /** Milliseconds since 1970; the client asks again before then. Absent when nothing expires. */
    expires_at?: number | undefined;
  };
  /** Mark published tracks as muted or unmuted. */
  TRACKS_MUTE: Request & {
    room_id: string;
    tracks: TrackMute[];
  };
  /** The result for each track. */
  TRACKS_MUTE_ACK: {
    tracks: TrackResult[];
  };
  /** The service or the SFU refuses a message or a request (docs/protocol.md, "Errors and close codes"). */
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
