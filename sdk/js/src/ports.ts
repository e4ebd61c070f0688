/**
 * What rooms and their parts use of a client, so that they need not import the client that makes them.
 */

import type { Unsubscribe } from "./emitter.js";
import type { SignalManagerError } from "./errors.js";
import type { Fields, MessageType, RoomEvent } from "./messages.js";

/** The time limit of one call, and a signal that ends it early. */
export interface CallOptions {
  /** The limit in ms; default `requestTimeout`. */
  timeout?: number | undefined;
  /** Aborts the call: it rejects with the signal's reason. A message that was sent already stays sent. */
  signal?: AbortSignal | undefined;
}

/** The requests with a reply of their own, except CONNECT, which the client sends itself. */
export type RequestType = Exclude<
  { [T in MessageType]: `${T}_ACK` extends MessageType ? T : never }[MessageType],
  "CONNECT"
>;

/** Sends requests to the service; `SignalClient` is one. */
export interface Requester {
  /** Send a request and return the fields of its reply. */
  request<T extends RequestType>(type: T, fields: Fields[T], options?: CallOptions): Promise<Fields[`${T}_ACK`]>;
}

/** The events of a client that a room listens to. */
export interface RoomClientEvents {
  /** The service accepted the client again; without `resumed` the session is new, and in no room. */
  reconnected: { sessionId: string; resumed: boolean };
  /** A change of a room that this client is in. */
  "room-event": RoomEvent;
  /** The client has ended. */
  closed: { error: SignalManagerError };
}

/** A room's client; `SignalClient` is one. */
export interface RoomClient extends Requester {
  readonly clientId: string;
  /** Whether the client is connected and authenticated, as far as it knows. */
  readonly isConnected: boolean;
  /** Call `listener` for every event of one name. */
  on<Name extends keyof RoomClientEvents>(
    event: Name,
    listener: (value: RoomClientEvents[Name]) => unknown,
  ): Unsubscribe;
}
