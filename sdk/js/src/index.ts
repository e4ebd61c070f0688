/** The browser SDK of signal-manager: `SignalClient` is the way in; the other names are what it takes and gives back. */

export {
  SignalClient,
  type CallOptions,
  type ClientEvents,
  type ClientOptions,
  type RequestType,
  type RetryOptions,
  type SignalOptions,
  type SignalReceived,
  type SignalStatus,
} from "./client.js";
export type { WebSocketConstructor, WebSocketLike } from "./connection.js";
export { Emitter, type Unsubscribe } from "./emitter.js";
export * from "./errors.js";
export { isValidName, type Fields, type Framing, type JsonObject, type TrackKind } from "./frames.js";
