/** The browser SDK of signal-manager. Start with `SignalClient`; the other names are its arguments and results. */

export {
  SignalClient,
  type ClientEvents,
  type ClientOptions,
  type SignalOptions,
  type SignalReceived,
  type SignalStatus,
} from "./client.js";
export type { WebSocketConstructor, WebSocketLike } from "./connection.js";
export { Emitter, type Unsubscribe } from "./emitter.js";
export * from "./errors.js";
export type { Framing } from "./frames.js";
export type { PeerConnectionConstructor } from "./media.js";
export type { MemberEvents, Participant, RemoteTrack, TrackEvent } from "./members.js";
export type {
  ConnectionInfo,
  DataChannelRequest,
  DataChannelResult,
  Fields,
  IceServer,
  JsonObject,
  Member,
  MessageType,
  PublishedTrack,
  Request,
  Resume,
  RoomAck,
  RoomChange,
  RoomEntry,
  Signal,
  Simulcast,
  TrackKind,
  TrackMid,
  TrackMute,
  TrackRequest,
  TrackResult,
  TrackUpdate,
} from "./messages.js";
export { isValidName } from "./fields.js";
export type { CallOptions, RequestType } from "./ports.js";
export type { Publication } from "./publications.js";
export type { RetryOptions } from "./retry.js";
export type { Encoded } from "./session.js";
export { Room, type JoinOptions, type RoomEvents } from "./room.js";
export type { Token } from "./tokens.js";
