/**
 * One WebSocket to the service: opened, accepted, kept alive, and ended with a close code.
 *
 * `client.ts` decides when to open one. A connection is used once and never reopened.
 */

import { CLOSE_CODES } from "./closing.js";
import {
  MalformedMessageError,
  RateLimitedError,
  SignalManagerError,
  UnavailableError,
  errorFromWire,
  errorFromMessage,
} from "./errors.js";
import { SUBPROTOCOLS, decode, encode, type Framing } from "./frames.js";
import { makeId } from "./ids.js";
import type { Fields, Message, MessageType } from "./messages.js";
import type { Encoded, Session } from "./session.js";
import { fetchToken, type Token } from "./tokens.js";

/** The part of a WebSocket that the SDK uses: the browser's, Node's, or that of the `ws` package. */
export interface WebSocketLike {
  binaryType: string;
  readonly protocol: string;
  readonly bufferedAmount: number;
  readonly readyState: number;
  /** Called once the WebSocket is open. */
  onopen: ((event: never) => void) | null;
  /** Called with each message. */
  onmessage: ((event: never) => void) | null;
  /** Called before `onclose` when the connection failed. */
  onerror: ((event: never) => void) | null;
  /** Called with the close code and the reason. */
  onclose: ((event: never) => void) | null;
  /** Send one message. */
  send(data: Encoded): void;
  /** Begin the closing handshake. */
  close(code?: number, reason?: string): void;
}

/** Makes a WebSocket, as the global `WebSocket` does. */
export type WebSocketConstructor = new (url: string, protocol: string) => WebSocketLike;

/** How a connection ended: the WebSocket close code (1006 without one) and one line for a person. */
export interface Closed {
  code: number;
  reason: string;
}

/** The settings of one connection. */
export interface ConnectionSettings {
  url: string;
  framing: Framing;
  /** The CONNECT of every connection, but for its token. */
  connect: Omit<Fields["CONNECT"], "auth_token">;
  token: Token;
  /** The session, which this connection continues if the service still has it. */
  session: Session;
  /** The limit in ms from the first packet to CONNECT_ACK. */
  timeout: number;
  WebSocket: WebSocketConstructor;
}

/** The callbacks of a connection; they run inside the socket's events, so they finish before the next message. */
export interface ConnectionListener {
  /** The socket is open, and CONNECT is about to be sent; from then on only this connection continues the session. */
  onOpen(): void;
  /** A heartbeat has had no answer for longer than a reachable service takes. */
  onSilent(): void;
  /** A message has arrived after the silence. */
  onRevived(): void;
  /** Whether calls wait for replies, and whether the client is in a room; both shorten the time to notice a loss. */
  isWaiting(): boolean;
  isInRoom(): boolean;
  /** The service accepted the client, in the former session or a new one; called first and once. */
  onAccepted(ack: Fields["CONNECT_ACK"], isResumed: boolean): void;
  /** A message other than CONNECT_ACK and HEARTBEAT. */
  onMessage(message: Message): void;
  /** A message could not be read; the error has its id if it had one. */
  onUnreadable(error: MalformedMessageError): void;
  /** The connection ended, accepted or not; called last and once. */
  onClosed(closed: Closed, error: SignalManagerError): void;
}

// `WebSocket.OPEN`, which only the constructor has.
const OPEN = 1;

/** RFC 6455, section 7.4.1: there was no close frame. */
export const ABNORMAL = 1006;

// The close codes that this client sends: 1000 ends the session too, 4408 only the connection (docs/protocol.md,
// "Resume").
const LEFT = 1000;
const GIVEN_UP = 4408;

// Seconds, used if the service names no sensible ones.
const DEFAULT_HEARTBEAT_INTERVAL = 30;
const DEFAULT_HEARTBEAT_TIMEOUT = 90;
const HEARTBEAT_LIMITS = [1, 3600] as const;

// In ms. After the first of silence since a message was sent, a HEARTBEAT follows; after the second of silence since
// then, the connection is silent. A slow request beside answered heartbeats is no silence.
const PROBE_AFTER = 2000;
const ANSWER_TIME = 2500;
// The limit in ms if the network seems to have changed; a needless connection costs little then.
const HASTY_ANSWER_TIME = 1000;
// Ms between heartbeats in a room, where a lost network interrupts audio and video.
const ROOM_INTERVAL = 2000;

// In bytes: more than a network carries in seconds, and far less than a page's memory.
const MAX_BUFFERED = 16 * 1024 * 1024;

// How long DISCONNECT, and a refused CONNECT, wait for the service's close, in ms.
const CLOSE_TIMEOUT = 2000;

/** Tell whether a close code invites the client back (docs/protocol.md, "Errors and close codes"). */
export function mayReconnect(closed: Closed): boolean {
  return CLOSE_CODES.get(closed.code)?.mayReturn ?? true;
}

/** One connection; opens at once. */
export class Connection {
  readonly #socket: WebSocketLike;
  readonly #settings: ConnectionSettings;
  readonly #listener: ConnectionListener;
  readonly #connectId = makeId();
  #state: "opening" | "accepted" | "ended" = "opening";
  #refusal: SignalManagerError | null = null; // the service's ERROR in reply to CONNECT
  #timer: ReturnType<typeof setTimeout>; // waits for CONNECT_ACK, then for heartbeats, then for the service's close
  #watch: ReturnType<typeof setTimeout> | undefined; // runs while a sent message is unanswered
  #interval = DEFAULT_HEARTBEAT_INTERVAL * 1000; // between heartbeats, in ms
  #limit = DEFAULT_HEARTBEAT_TIMEOUT * 1000; // of silence, in ms
  #isLeaving = false; // whether DISCONNECT was sent; then only its time limit counts
  #isProbed = false; // whether no message has arrived since the last heartbeat
  #due = 0; // the time by which an answer to it must arrive
  #isSilent = false; // whether the listener was told of the silence
  #silence = 0; // its length in ms; counted in intervals, not by the clock, because machines sleep

  constructor(settings: ConnectionSettings, listener: ConnectionListener) {
    this.#settings = settings;
    this.#listener = listener;
    this.#socket = new settings.WebSocket(settings.url, SUBPROTOCOLS[settings.framing]);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => this.#introduce();
    this.#socket.onmessage = (event: { data: string | ArrayBuffer }) => this.#receive(event.data);
    this.#socket.onerror = () => undefined; // the close event follows and has the details
    this.#socket.onclose = ({ code, reason }: Closed) => this.#end({ code, reason });
    this.#timer = setTimeout(() => this.abort(`no answer within ${settings.timeout} ms`), settings.timeout);
  }

  /**
   * Write an encoded message.
   *
   * @param isCounted whether the message is part of the session; heartbeats are not.
   * @throws RateLimitedError too many bytes already wait for the network.
   */
  send(data: Encoded, isCounted: boolean): void {
    const waiting = this.#socket.bufferedAmount;
    if (waiting > MAX_BUFFERED) throw new RateLimitedError(`${waiting} bytes wait for the network already`);
    this.#put(data);
    if (isCounted) this.#settings.session.keep(data);
    if (this.#watch === undefined) this.#ask();
  }

  /** Send a heartbeat now and expect its answer soon, because the network may have changed. */
  probe(): void {
    this.#beat(HASTY_ANSWER_TIME);
  }

  /** Schedule the next heartbeat, earlier while the client is in a room. */
  schedule(): void {
    if (this.#state !== "accepted" || this.#isLeaving) return;
    clearTimeout(this.#timer);
    const interval = this.#listener.isInRoom() ? Math.min(this.#interval, ROOM_INTERVAL) : this.#interval;
    this.#timer = setTimeout(() => {
      this.#silence += this.#isProbed ? interval : 0;
      if (this.#silence >= this.#limit) this.abort(`nothing received for ${this.#limit / 1000} s`);
      else this.#beat();
    }, interval);
  }

  /** Send DISCONNECT; `onClosed` follows the service's answer, or its time limit. */
  close(reason: string | undefined): void {
    if (this.#state !== "accepted") return this.leave("closed by this client");
    this.#write("DISCONNECT", { reason });
    this.#isLeaving = true;
    this.#stop();
    this.#timer = setTimeout(() => this.leave("the service did not answer DISCONNECT"), CLOSE_TIMEOUT);
  }

  /** End the connection and the session at once; messages not written yet may be lost. */
  leave(reason: string): void {
    this.#end({ code: LEFT, reason }, LEFT);
  }

  /** End the connection; another one may continue the session. */
  abort(reason: string): void {
    this.#end({ code: ABNORMAL, reason });
  }

  #introduce(): void {
    const { framing, token, timeout } = this.#settings;
    const chosen = this.#socket.protocol;
    // The original service knows no subprotocols and speaks v1.
    if (chosen !== SUBPROTOCOLS[framing] && !(chosen === "" && framing === "v1")) {
      this.#refusal = new MalformedMessageError(
        `expected a service that speaks ${SUBPROTOCOLS[framing]}, it chose ${chosen || "none"}`,
      );
      return this.abort(this.#refusal.message);
    }
    if (typeof token === "string") return this.#logIn(token);
    // Fetched only now, so that no token is fetched while the network is down.
    fetchToken(token, timeout).then(
      (fetched) => this.#logIn(fetched),
      (error: SignalManagerError) => {
        this.#refusal = error;
        this.abort(error.message);
      },
    );
  }

  #logIn(token: string): void {
    if (this.#state !== "opening") return;
    const { connect, session } = this.#settings;
    this.#listener.onOpen();
    this.#write("CONNECT", { ...connect, auth_token: token, ...session.wish }, this.#connectId);
  }

  #receive(data: string | ArrayBuffer): void {
    clearTimeout(this.#watch);
    this.#watch = undefined;
    this.#silence = 0;
    this.#isProbed = false;
    if (this.#isSilent) {
      this.#isSilent = false;
      this.#listener.onRevived();
    }
    this.#read(data);
    if (this.#state === "accepted" && this.#watch === undefined && this.#listener.isWaiting()) this.#ask();
  }

  #read(data: string | ArrayBuffer): void {
    let message: Message;
    try {
      message = decode(this.#settings.framing, data);
    } catch (error) {
      if (!(error instanceof MalformedMessageError)) throw error;
      // The service counted the message although it is unreadable, so the client counts it too.
      this.#count(data);
      return this.#listener.onUnreadable(error);
    }
    if (message.type === "HEARTBEAT") {
      this.#settings.session.confirm(message.fields.received ?? 0);
      this.#write("HEARTBEAT_ACK", { timestamp: message.fields.timestamp ?? 0 }, message.id);
    } else if (this.#state === "accepted") {
      if (message.type === "HEARTBEAT_ACK") this.#settings.session.confirm(message.fields.received ?? 0);
      else this.#count(data);
      this.#listener.onMessage(message);
    } else if (message.id === this.#connectId) {
      this.#hearAnswer(message);
    }
  }

  #count(data: string | ArrayBuffer): void {
    const size = typeof data === "string" ? data.length : data.byteLength;
    if (this.#state === "accepted" && this.#settings.session.count(size)) this.#sayAlive();
  }

  #hearAnswer(message: Message): void {
    if (message.type === "ERROR") {
      const { message: why } = (this.#refusal = errorFromMessage(message.fields));
      // The service's close follows, with a code.
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.abort(why), CLOSE_TIMEOUT);
    } else if (message.type === "CONNECT_ACK") {
      const { session } = this.#settings;
      const isResumed = session.accept(message.fields);
      if (isResumed === null) return this.abort("the service lacks more of the session than is here");
      this.#state = "accepted";
      this.#startHeartbeats(message.fields);
      if (isResumed) for (const data of session.unconfirmed) this.#put(data);
      this.#listener.onAccepted(message.fields, isResumed);
    }
  }

  #startHeartbeats(ack: Fields["CONNECT_ACK"]): void {
    this.#interval = sensible(ack.heartbeat_interval, DEFAULT_HEARTBEAT_INTERVAL) * 1000;
    this.#limit = sensible(ack.heartbeat_timeout, DEFAULT_HEARTBEAT_TIMEOUT) * 1000;
    this.schedule();
  }

  /** Wait for a message after the one just sent, then ask for one by a heartbeat. */
  #ask(): void {
    if (this.#isLeaving) return;
    this.#watch = setTimeout(() => this.#beat(), PROBE_AFTER);
  }

  #beat(patience = ANSWER_TIME): void {
    this.schedule();
    const due = performance.now() + patience;
    if (this.#isProbed && due >= this.#due) return;
    if (!this.#isProbed) this.#sayAlive();
    this.#isProbed = true;
    this.#due = due;
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => {
      this.#isSilent = true;
      this.#listener.onSilent();
    }, patience);
  }

  #sayAlive(): void {
    this.#write("HEARTBEAT", { timestamp: Date.now(), ...this.#settings.session.report() });
  }

  #stop(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#watch);
    this.#watch = undefined;
  }

  #write<T extends MessageType>(type: T, fields: Fields[T], id = makeId()): void {
    this.#put(encode(this.#settings.framing, type, id, fields));
  }

  /** Skip a socket that is closing; the session keeps the messages that count, for the next connection. */
  #put(data: Encoded): void {
    if (this.#socket.readyState === OPEN) this.#socket.send(data);
  }

  #end(closed: Closed, farewell = GIVEN_UP): void {
    if (this.#state === "ended") return;
    this.#state = "ended";
    this.#stop();
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close(farewell);
    const error = this.#refusal ?? errorOf(closed);
    this.#listener.onClosed({ ...closed, reason: this.#refusal?.message ?? closed.reason }, error);
  }
}

/** Return the error that a waiting caller gets for this ending. */
function errorOf(closed: Closed): SignalManagerError {
  const message = closed.reason || `the connection ended with code ${closed.code}`;
  const code = CLOSE_CODES.get(closed.code)?.errorCode ?? UnavailableError.code;
  return errorFromWire(message, { code, retryable: mayReconnect(closed) || undefined });
}

/** Return the service's number of seconds if it is sensible, else the default. */
function sensible(named: number | undefined, standard: number): number {
  const [shortest, longest] = HEARTBEAT_LIMITS;
  return named !== undefined && named >= shortest && named <= longest ? named : standard;
}
