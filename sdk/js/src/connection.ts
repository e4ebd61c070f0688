/**
 * One WebSocket to the service: opened, accepted, kept alive, and ended with a close code.
 *
 * `client.ts` opens these one after another and decides when; a connection lives once and never comes back.
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

/** What the SDK uses of a WebSocket: the browser's own, Node's, or that of the `ws` package. */
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

/** What one connection is opened with. */
export interface ConnectionSettings {
  url: string;
  framing: Framing;
  /** The CONNECT of every connection, but for its token. */
  connect: Omit<Fields["CONNECT"], "auth_token">;
  token: Token;
  /** Continued by this connection where the service still has it. */
  session: Session;
  /** In ms, from the first packet to CONNECT_ACK. */
  timeout: number;
  WebSocket: WebSocketConstructor;
}

/** Who hears of a connection; called from inside the socket's events, so that the next message finds all done. */
export interface ConnectionListener {
  /** The socket is open, and CONNECT is about to be sent: from then on the session goes on here and nowhere else. */
  onOpen(): void;
  /** Nothing came after a heartbeat, for longer than a service that is there takes. */
  onSilent(): void;
  /** Something came after all. */
  onRevived(): void;
  /** Whether calls wait for replies, and whether the client is in a room: both are reasons to notice a loss soon. */
  isWaiting(): boolean;
  isInRoom(): boolean;
  /** The service accepted the client, in the session of the connection before or in a new one; comes first and once. */
  onAccepted(ack: Fields["CONNECT_ACK"], isResumed: boolean): void;
  /** A message other than CONNECT_ACK and HEARTBEAT. */
  onMessage(message: Message): void;
  /** A message that could not be read; its id where it had one. */
  onUnreadable(error: MalformedMessageError): void;
  /** The connection ended, accepted or not; comes last and once. */
  onClosed(closed: Closed, error: SignalManagerError): void;
}

// `WebSocket.OPEN`, which is on the constructor alone.
const OPEN = 1;

/** RFC 6455, section 7.4.1: there was no close frame. */
export const ABNORMAL = 1006;

// What the service is told at the end, where it still hears that: 1000 ends the session too, 4408 only the connection
// (docs/protocol.md, "Resume").
const LEFT = 1000;
const GIVEN_UP = 4408;

// In seconds; used where the service names none, or none that makes sense.
const DEFAULT_HEARTBEAT_INTERVAL = 30;
const DEFAULT_HEARTBEAT_TIMEOUT = 90;
const HEARTBEAT_LIMITS = [1, 3600] as const;

// In ms: what was sent has the first for anything to follow, then a HEARTBEAT asks for it and has the second. Only silence
// on the whole connection counts: a slow request beside answered heartbeats is none.
const PROBE_AFTER = 2000;
const ANSWER_TIME = 2500;
// The same where the network is another one by all appearances: a connection too many costs little then.
const HASTY_ANSWER_TIME = 1000;
// In ms, between heartbeats in a room, where a lost network costs sound and picture.
const ROOM_INTERVAL = 2000;

// In bytes; more than a network takes in seconds, and far from what would fill a page's memory.
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
  #refusal: SignalManagerError | null = null; // the service's ERROR to our CONNECT
  #timer: ReturnType<typeof setTimeout>; // for CONNECT_ACK, then for heartbeats, then for the service's close
  #watch: ReturnType<typeof setTimeout> | undefined; // while something that was sent is unanswered
  #interval = DEFAULT_HEARTBEAT_INTERVAL * 1000; // between heartbeats, in ms
  #limit = DEFAULT_HEARTBEAT_TIMEOUT * 1000; // of silence, in ms
  #isLeaving = false; // whether DISCONNECT was sent: then only its time limit counts
  #isProbed = false; // whether nothing has come since the last heartbeat
  #due = 0; // when something has to have come after it
  #isSilent = false; // for so long that the listener was told
  #silence = 0; // since then, in ms; counted in intervals, not by the clock: machines sleep

  constructor(settings: ConnectionSettings, listener: ConnectionListener) {
    this.#settings = settings;
    this.#listener = listener;
    this.#socket = new settings.WebSocket(settings.url, SUBPROTOCOLS[settings.framing]);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => this.#introduce();
    this.#socket.onmessage = (event: { data: string | ArrayBuffer }) => this.#receive(event.data);
    this.#socket.onerror = () => undefined; // the close event follows and says more
    this.#socket.onclose = ({ code, reason }: Closed) => this.#end({ code, reason });
    this.#timer = setTimeout(() => this.abort(`no answer within ${settings.timeout} ms`), settings.timeout);
  }

  /**
   * Write an encoded message.
   *
   * @param isCounted whether it is part of the session; heartbeats are not.
   * @throws RateLimitedError the network does not keep up with what was sent before.
   */
  send(data: Encoded, isCounted: boolean): void {
    const waiting = this.#socket.bufferedAmount;
    if (waiting > MAX_BUFFERED) throw new RateLimitedError(`${waiting} bytes wait for the network already`);
    this.#put(data);
    if (isCounted) this.#settings.session.keep(data);
    if (this.#watch === undefined) this.#ask();
  }

  /** Ask for a sign of life now, and expect it soon: the network may be another one. */
  probe(): void {
    this.#beat(HASTY_ANSWER_TIME);
  }

  /** Send the next heartbeat when it is due by what the client does now. */
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

  /** Say good-bye; `onClosed` follows when the service has answered, or soon without. */
  close(reason: string | undefined): void {
    if (this.#state !== "accepted") return this.leave("closed by this client");
    this.#write("DISCONNECT", { reason });
    this.#isLeaving = true;
    this.#stop();
    this.#timer = setTimeout(() => this.leave("the service did not answer DISCONNECT"), CLOSE_TIMEOUT);
  }

  /** End at once, with the session; what was not written yet may be lost. */
  leave(reason: string): void {
    this.#end({ code: LEFT, reason }, LEFT);
  }

  /** Give the connection up; the session may go on with another one. */
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
    // Asked only now, so that nobody fetches tokens for a network that is away.
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

  /** Wait for anything to follow what was sent, and ask for it then. */
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

  /** A socket whose close event is still to come would only complain; what counts is kept, and sent on the next one. */
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

/** Return the error that this ending is to a caller. */
function errorOf(closed: Closed): SignalManagerError {
  const message = closed.reason || `the connection ended with code ${closed.code}`;
  const code = CLOSE_CODES.get(closed.code)?.errorCode ?? UnavailableError.code;
  return errorFromWire(message, { code, retryable: mayReconnect(closed) || undefined });
}

/** Return what the service named where that is a sensible number of seconds. */
function sensible(named: number | undefined, standard: number): number {
  const [shortest, longest] = HEARTBEAT_LIMITS;
  return named !== undefined && named >= shortest && named <= longest ? named : standard;
}
