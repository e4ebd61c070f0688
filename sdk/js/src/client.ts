/**
 * The client that applications use: connect, signal and listen, and stay connected.
 *
 * `connection.ts` is one WebSocket. This module decides when to open one, holds the calls that wait for it, and reports
 * events to the application.
 */

import { CALL, aFunction, check, shortText, time } from "./arguments.js";
import { ABNORMAL, Connection, mayReconnect, type Closed, type WebSocketConstructor } from "./connection.js";
import { Emitter, type Unsubscribe } from "./emitter.js";
import {
  InvalidRequestError,
  MalformedMessageError,
  RateLimitedError,
  SignalManagerError,
  TooLateError,
  UnavailableError,
  errorFromWire,
  errorFromMessage,
} from "./errors.js";
import { SUBPROTOCOLS, encode, type Framing } from "./frames.js";
import { makeId } from "./ids.js";
import {
  TYPE_BYTES,
  isObject,
  isSignal,
  type Fields,
  type JsonObject,
  type Message,
  type MessageType,
  type RoomEvent,
  type SignalType,
} from "./messages.js";
import { onNetworkChange } from "./network.js";
import { MAX_ITEMS } from "./fields.js";
import type { CallOptions, RequestType } from "./ports.js";
import { Room, type JoinOptions } from "./room.js";
import { completeRetry, type RetryOptions } from "./retry.js";
import { flag, listOf, maybe, name, object, oneOf, rule, type RulesOf } from "./fields.js";
import { Session, type Encoded } from "./session.js";
import { explainExpiry, fetchToken, isExpiry, renewalDelay, retryDelay, type Token } from "./tokens.js";

/** Options of a `SignalClient`. Times are in ms. */
export interface ClientOptions {
  /** Default "v2". */
  framing?: Framing;
  /** The limit for one attempt to connect and authenticate; default 10,000. */
  connectTimeout?: number;
  /** The limit for any other call; default 10,000. */
  requestTimeout?: number;
  retry?: RetryOptions;
  /** Whether a new connection continues the session of the lost one, without lost or repeated messages; default true. */
  resumable?: boolean;
  /** The class to use in place of the global `WebSocket`, which Node has from version 22 on. */
  WebSocket?: WebSocketConstructor;
}

/** How a signal is sent. */
export interface SignalOptions extends CallOptions {
  /** Wait for the service's acknowledgement. Without it, a refusal arrives later as an `error` event. */
  ack?: boolean | undefined;
}

/** The outcome of a signal: "sent" without `ack`, else the status from the service. */
export type SignalStatus = "sent" | "delivered" | "queued" | "offline";

/** A signal from another client; the service vouches for `sender`. */
export interface SignalReceived {
  sender: string;
  /** The data that the sender passed: a JSON value, or a `Uint8Array` if it sent bytes. */
  data: unknown;
  /** The room that a message was sent to; absent if it was for this client alone. */
  roomId?: string | undefined;
}

/** The events of a client, by name. */
export interface ClientEvents {
  /** The service accepted the client for the first time. */
  connected: { sessionId: string };
  /**
   * The connection was lost, or the service ended it; the application's own `close` is not reported. `delay` is the ms
   * until the next attempt. If the client gives up later, the event is repeated with `willReconnect` false.
   */
  disconnected: { code: number; reason: string; willReconnect: boolean; delay?: number };
  /**
   * The service accepted the client again. With `resumed` no message was lost in either direction. Without it the
   * session is new: messages for this client in between are lost, and the last ones that it sent may be lost too.
   */
  reconnected: { sessionId: string; resumed: boolean };
  /** The service is about to close; the client reconnects by itself after `delay` ms. */
  "going-away": { reason: string; delay: number };
  offer: SignalReceived;
  answer: SignalReceived;
  "ice-candidate": SignalReceived;
  message: SignalReceived;
  /** A change of a room that this client is in; `Room` interprets these. */
  "room-event": RoomEvent;
  /** The client has ended, by `close` or because it gave up; the last event. */
  closed: { error: SignalManagerError };
  /** The service refused a message whose result no caller awaits, normally a signal without `ack` for `target`. */
  error: { error: SignalManagerError; target?: string | undefined };
}

const CLIENT_EVENTS: Record<keyof ClientEvents, true> = {
  connected: true,
  disconnected: true,
  reconnected: true,
  "going-away": true,
  offer: true,
  answer: true,
  "ice-candidate": true,
  message: true,
  "room-event": true,
  closed: true,
  error: true,
};

const EVENT_OF_SIGNAL = {
  SIGNAL_OFFER: "offer",
  SIGNAL_ANSWER: "answer",
  SIGNAL_ICE_CANDIDATE: "ice-candidate",
  SIGNAL_MESSAGE: "message",
} as const satisfies Record<SignalType, keyof ClientEvents>;

const PROTOCOL_VERSION = "1.0.0";

// The most calls that may wait for a connection or a reply at the same time.
const MAX_PENDING = 1024;

// The most signals without `ack` whose target is remembered, so that a refusal can name it.
const REMEMBERED_TARGETS = 1024;

// How long a client that is closed while disconnected tries to reconnect in order to end its session, in ms.
const FAREWELL_TIME = 2000;

// The longest delay, in ms, that a going-away service can ask for.
const MAX_GOAWAY_DELAY = 60_000;

const aUrl = rule("a URL such as wss://host/ws", (url) => typeof url === "string" && /^wss?:\/\/[^/]/.test(url));
const aToken = rule("a string or a function", (token) => typeof token === "string" || typeof token === "function");
const aRequest = rule(
  "the name of a request",
  (type) => type !== "CONNECT" && typeof type === "string" && Object.hasOwn(TYPE_BYTES, `${type}_ACK`),
);

const OPTIONS: RulesOf<ClientOptions> = {
  framing: maybe(oneOf(...Object.keys(SUBPROTOCOLS))),
  connectTimeout: maybe(time),
  requestTimeout: maybe(time),
  retry: maybe(object),
  resumable: maybe(flag),
  WebSocket: maybe(aFunction),
};

const RECORD = { capabilities: maybe(listOf(shortText, MAX_ITEMS)), metadata: maybe(object) };

/** A call that waits for a connection or for its reply. */
interface Pending {
  data: Encoded;
  isCounted: boolean; // part of the session, which may carry it to the service over another connection
  reply: MessageType | null; // null: settled when sent
  target: string | undefined;
  isSent: boolean;
  resolve(fields: JsonObject): void;
  reject(reason: unknown): void;
}

/**
 * A client of the signaling service.
 *
 *     const client = new SignalClient("wss://signal.example.org", "alice", token);
 *     client.on("offer", ({ sender, data }) => …);
 *     await client.connect();
 *     await client.sendMessage("bob", { hello: "world" }, { ack: true });
 *
 * The client reconnects after a lost connection, with growing random delays, unless the close code forbids it
 * (docs/protocol.md, "Errors and close codes"). Calls meanwhile wait for the new connection, in order, within their time
 * limits. If the service still has the session, the new connection continues it: both sides repeat the messages that the
 * other did not get, and requests get their replies.
 *
 * Every call that returns a promise rejects with
 * - `UnavailableError` when there was no connection in time, or the session was lost while waiting for a reply;
 * - `TooLateError` when the message was sent and no reply came in time;
 * - `InvalidRequestError` or `TooLargeError` when it cannot be sent at all;
 * - `AuthenticationError`, `ForbiddenError`, `NotFoundError`… when the service refuses;
 * - the error that ended the client, once it has ended.
 *
 * A client object is used once. It holds no timer and no socket after `close`.
 */
export class SignalClient extends Emitter<ClientEvents> {
  readonly clientId: string;
  readonly #settings: ConstructorParameters<typeof Connection>[0];
  readonly #requestTimeout: number;
  readonly #retry: Required<RetryOptions>;
  readonly #pending = new Map<string, Pending>(); // by message id, oldest first
  readonly #targets = new Map<string, string>(); // by message id, oldest first
  #state: "new" | "connecting" | "connected" | "waiting" | "closing" | "ended" = "new";
  #connection: Connection | null = null;
  #successor: Connection | null = null; // opens beside a silent connection, and replaces it once its socket is open
  #unlisten: Unsubscribe[] = []; // end the listening for changes of the network
  #connectedAt = 0;
  #sessionId: string | null = null;
  #failures = 0; // in a row, for the next delay
  #attempts = 0; // since the connection was lost
  #goAwayDelay: number | null = null;
  #retryTimer: ReturnType<typeof setTimeout> | undefined;
  #renewalTimer: ReturnType<typeof setTimeout> | undefined;
  #askedAgain = false; // whether a new token was fetched after the last one had expired
  #error: SignalManagerError = new InvalidRequestError("not connected: call connect() first");
  #opened: { resolve(): void; reject(error: unknown): void } | null = null; // the waiting `connect`
  #closed: (() => void)[] = []; // the waiting calls of `close`
  #farewell: string | undefined;
  #hasReturned = false; // whether it has reconnected in order to end its session

  /**
   * @param url `ws://host:port` or `wss://host:port`, with an optional path.
   * @param clientId the id of this client, by which others address it.
   * @param token the client's credential, sent to the service only. For a token that expires, pass a function that
   *   fetches one. The client calls it before every connection and before the token expires. If it fails, the client
   *   reports an `error` event and calls it again later; the connection stays.
   * @throws InvalidRequestError the URL, the id or an option is wrong.
   */
  constructor(url: string, clientId: string, token: Token, options: ClientOptions = {}) {
    super(CLIENT_EVENTS);
    check({ url: aUrl, clientId: name, token: aToken }, { url, clientId, token });
    const given = check(OPTIONS, options, "options");
    const { framing = "v2", connectTimeout = 10_000, requestTimeout = 10_000, resumable = true, retry } = given;
    const WebSocket = given.WebSocket ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
    if (!WebSocket) throw new InvalidRequestError("there is no global WebSocket: pass the option WebSocket");
    this.clientId = clientId;
    this.#requestTimeout = requestTimeout;
    this.#retry = completeRetry(retry, { attempts: Infinity, maxDelay: 10_000 });
    this.#settings = {
      url,
      framing,
      // The instance lets the service recognise a reconnect of this very client (docs/protocol.md, "Conversation").
      connect: { client_id: clientId, version: PROTOCOL_VERSION, instance_id: makeId() },
      token,
      session: new Session(resumable),
      timeout: connectTimeout,
      WebSocket,
    };
  }

  /** Whether the client is connected and authenticated, as far as it knows. */
  get isConnected(): boolean {
    return this.#state === "connected";
  }

  /** The id of the latest session; null before the first. */
  get sessionId(): string | null {
    return this.#sessionId;
  }

  /**
   * Connect and authenticate. The first connect is tried once and fails fast.
   *
   * @param options.signal aborts connecting, and ends the client.
   */
  async connect(options: { signal?: AbortSignal } = {}): Promise<void> {
    const { signal } = check<CallOptions>(CALL, options, "options");
    if (this.#state !== "new") throw new InvalidRequestError("this client was used before; make a new one");
    signal?.throwIfAborted();
    const giveUp = (): void => {
      this.#opened?.reject(signal?.reason);
      this.#end(new UnavailableError("connecting was given up"));
    };
    signal?.addEventListener("abort", giveUp);
    this.#unlisten = onNetworkChange(() => this.#probe());
    try {
      await new Promise<void>((resolve, reject) => {
        this.#opened = { resolve, reject };
        this.#open();
      });
    } finally {
      signal?.removeEventListener("abort", giveUp);
      this.#opened = null;
    }
  }

  /**
   * Replace the connection by a new one at once, for an application that knows of a new network. If the service still
   * has the session, it continues without loss. The client does the same by itself when a sent message is followed by
   * some seconds of silence. It checks the connection when the page returns or the browser reports a new network.
   *
   * Rejects with `UnavailableError` if no connection is accepted in time; the client keeps trying.
   */
  async reconnect(options: Pick<CallOptions, "timeout"> = {}): Promise<void> {
    const { timeout = this.#requestTimeout } = check<CallOptions>(CALL, options, "options");
    if (this.#retry.attempts === 0) throw new InvalidRequestError("this client never reconnects: retry.attempts is 0");
    const isEarly = this.#state === "connecting" && this.#sessionId === null;
    if (isEarly || this.#state === "new" || this.#state === "closing" || this.#state === "ended")
      throw this.#copyOfError();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let unsubscribe: Unsubscribe[] = [];
    try {
      await new Promise<void>((resolve, reject) => {
        const late = new UnavailableError(`no connection within ${timeout} ms`);
        timer = setTimeout(() => reject(late), timeout);
        unsubscribe = [this.on("reconnected", () => resolve()), this.on("closed", () => reject(this.#copyOfError()))];
        // An attempt that began on the former network may take long to fail.
        if (this.#state === "connecting") this.#connection?.abort("a new connection was asked for");
        if (this.#state === "connected") this.#openBeside();
        else this.#openNow();
      });
    } finally {
      clearTimeout(timer);
      for (const each of unsubscribe) each();
    }
  }

  /**
   * End the session and stop everything that the client started; waiting calls are rejected. A second call does nothing
   * more. The promise rejects for a wrong argument only.
   *
   * @param reason one line for the service's log.
   */
  async close(reason?: string): Promise<void> {
    check({ reason: maybe(shortText) }, { reason });
    this.#farewell = reason;
    if (this.#state === "connected") {
      this.#state = "closing";
      this.#connection?.close(reason);
    } else if (this.#state === "connecting" || this.#state === "waiting") {
      this.#return();
    }
    if (this.#state === "closing") await new Promise<void>((resolve) => this.#closed.push(resolve));
    else this.#end(new UnavailableError("the client is closed"));
  }

  /**
   * Send an SDP offer to another client. Signals arrive in the order of the calls.
   *
   * @param data any JSON value or a `Uint8Array`; browsers send `pc.localDescription`.
   */
  sendOffer(target: string, data: unknown, options?: SignalOptions): Promise<SignalStatus> {
    return this.#signal("SIGNAL_OFFER", { target_client_id: target }, data, options);
  }

  /** Send an SDP answer to another client, in the order of the calls. */
  sendAnswer(target: string, data: unknown, options?: SignalOptions): Promise<SignalStatus> {
    return this.#signal("SIGNAL_ANSWER", { target_client_id: target }, data, options);
  }

  /** Send an ICE candidate to another client, as `RTCIceCandidate.toJSON` returns it. */
  sendIceCandidate(target: string, data: unknown, options?: SignalOptions): Promise<SignalStatus> {
    return this.#signal("SIGNAL_ICE_CANDIDATE", { target_client_id: target }, data, options);
  }

  /**
   * Send application data: any JSON value or a `Uint8Array`.
   *
   * @param target a client, or `{ roomId }` for all other members of a room that this client is in.
   */
  sendMessage(target: string | { roomId: string }, data: unknown, options?: SignalOptions): Promise<SignalStatus> {
    const to = isObject(target) ? { room_id: (target as { roomId: string }).roomId } : { target_client_id: target };
    return this.#signal("SIGNAL_MESSAGE", to, data, options);
  }

  /** Register this client's capabilities and metadata; repeat it after `reconnected` without `resumed`. */
  async register(
    record: { capabilities?: string[]; metadata?: JsonObject } = {},
    options?: CallOptions,
  ): Promise<void> {
    await this.request("REGISTER", check(RECORD, record, "record"), options);
  }

  /** Remove this client's registration. */
  async unregister(options?: CallOptions): Promise<void> {
    await this.request("UNREGISTER", {}, options);
  }

  /** Return the round trip to the service in ms; the client sends its own heartbeats without this. */
  async heartbeat(options?: CallOptions): Promise<number> {
    const started = performance.now();
    await this.request("HEARTBEAT", { timestamp: Date.now() }, options);
    return performance.now() - started;
  }

  /**
   * Join a room, and stay in it across lost connections. Closing the client leaves its rooms.
   *
   * Rejects with `NotFoundError` if there is no such room and `create` is not set, with `ForbiddenError` if the token does
   * not allow it, and with `ConflictError` if this client is in the room already.
   */
  join(roomId: string, options?: JoinOptions): Promise<Room> {
    const joining = Room.join(this, roomId, options);
    this.#connection?.schedule(); // heartbeats are more frequent in a room
    return joining;
  }

  /** Send any request with the protocol's fields and return the fields of its reply (docs/protocol.md, "Messages"). */
  async request<T extends RequestType>(type: T, fields: Fields[T], options?: CallOptions): Promise<Fields[`${T}_ACK`]> {
    check({ type: aRequest, fields: object }, { type, fields });
    return this.#call(type, fields, `${type}_ACK`, undefined, options) as Promise<Fields[`${T}_ACK`]>;
  }

  async #signal(
    type: SignalType,
    to: { target_client_id: string } | { room_id: string },
    data: unknown,
    options: SignalOptions = {},
  ): Promise<SignalStatus> {
    const target = "room_id" in to ? to.room_id : to.target_client_id;
    check({ target: name }, { target });
    const { ack } = check<Pick<SignalOptions, "ack">>({ ack: maybe(flag) }, options, "options");
    const fields = { ...to, signal_data: data, ack };
    const reply = await this.#call(type, fields, ack ? "SIGNAL_ACK" : null, target, options);
    return ack ? ((reply as unknown as Fields["SIGNAL_ACK"]).status as SignalStatus) : "sent";
  }

  /** Send a message as soon as there is a connection, and wait for its reply if it has one. */
  async #call<T extends MessageType>(
    type: T,
    fields: Fields[T],
    reply: MessageType | null,
    target: string | undefined,
    options: CallOptions = {},
  ): Promise<JsonObject> {
    const { timeout = this.#requestTimeout, signal } = check<CallOptions>(CALL, options, "options");
    signal?.throwIfAborted();
    if (this.#state === "new" || this.#state === "closing" || this.#state === "ended") throw this.#copyOfError();
    if (this.#pending.size >= MAX_PENDING)
      throw new RateLimitedError(`${MAX_PENDING} calls wait already, expected fewer`);
    const id = makeId();
    const data = encode(this.#settings.framing, type, id, fields);
    return new Promise<JsonObject>((resolve, reject) => {
      const settle =
        <Result>(settled: (result: Result) => void) =>
        (result: Result): void => {
          clearTimeout(timer);
          signal?.removeEventListener("abort", giveUp);
          this.#pending.delete(id);
          settled(result);
        };
      const pending: Pending = {
        data,
        isCounted: type !== "HEARTBEAT",
        reply,
        target,
        isSent: false,
        resolve: settle(resolve),
        reject: settle(reject),
      };
      const giveUp = (): void => pending.reject(signal?.reason);
      const timer = setTimeout(() => pending.reject(tooLate(pending, timeout)), timeout);
      signal?.addEventListener("abort", giveUp);
      this.#pending.set(id, pending);
      if (this.#state === "connected") this.#send(id, pending);
    });
  }

  #send(id: string, pending: Pending): void {
    try {
      this.#connection?.send(pending.data, pending.isCounted);
    } catch (error) {
      return pending.reject(error);
    }
    pending.isSent = true;
    if (pending.reply !== null) return;
    if (pending.target !== undefined) this.#remember(id, pending.target);
    pending.resolve({});
  }

  #remember(id: string, target: string): void {
    this.#targets.set(id, target);
    const [oldest] = this.#targets.keys();
    if (this.#targets.size > REMEMBERED_TARGETS && oldest !== undefined) this.#targets.delete(oldest);
  }

  #open(): void {
    this.#state = "connecting";
    try {
      this.#connection = this.#dial();
    } catch (error) {
      // A URL that the browser does not accept, or a ws:// one on an https:// page.
      this.#end(new InvalidRequestError(`cannot open a WebSocket: ${(error as Error).message}`));
    }
  }

  /** Reconnect to a session in order to end it, because it would outlive this client and may be in a room. */
  #return(): boolean {
    if (this.#hasReturned || this.#sessionId === null || !this.#settings.session.mayContinue) return false;
    const isDialling = this.#state === "connecting";
    this.#hasReturned = true;
    this.#state = "closing";
    clearTimeout(this.#retryTimer);
    this.#error = new UnavailableError("the client is closed");
    for (const pending of [...this.#pending.values()]) pending.reject(this.#copyOfError());
    this.#retryTimer = setTimeout(() => this.#end(this.#error), FAREWELL_TIME);
    try {
      if (!isDialling) this.#connection = this.#dial();
    } catch {
      this.#end(this.#error);
    }
    return true;
  }

  #openNow(): void {
    if (this.#state !== "waiting") return;
    clearTimeout(this.#retryTimer);
    this.#open();
  }

  /** Open a second connection; it replaces a silent one unless that receives something first. */
  #openBeside(): void {
    if (this.#state === "connected" && this.#retry.attempts > 0) this.#successor ??= this.#dial();
  }

  #dial(): Connection {
    const connection: Connection = new Connection(this.#settings, {
      onOpen: () => connection === this.#successor && this.#connection?.abort("nothing is heard on it any more"),
      onSilent: () => this.#openBeside(),
      onRevived: () => {
        const successor = this.#successor;
        this.#successor = null;
        successor?.abort("not needed");
      },
      isWaiting: () => [...this.#pending.values()].some(({ isSent }) => isSent),
      isInRoom: () => this.isHeard("room-event"),
      onAccepted: (ack, isResumed) => this.#admit(ack, isResumed),
      onMessage: (message) => this.#receive(message),
      onUnreadable: (error) => this.#drop(error),
      onClosed: (closed, error) => this.#forget(connection, closed, error),
    });
    return connection;
  }

  #forget(connection: Connection, closed: Closed, error: SignalManagerError): void {
    if (connection === this.#connection) return this.#lose(closed, error);
    if (connection !== this.#successor) return;
    // If the second connection fails too, the network or the service is gone.
    this.#successor = null;
    this.#connection?.abort("nothing is heard on it any more, and no other can be opened");
  }

  /** Check whether the connection still works, because the network may have changed. */
  #probe(): void {
    if (this.#state === "connected") this.#connection?.probe();
    else this.#openNow();
  }

  #admit({ session_id: sessionId, token_expires_at }: Fields["CONNECT_ACK"], resumed: boolean): void {
    if (this.#state === "closing") return this.#connection?.close(this.#farewell);
    const isFirst = this.#sessionId === null;
    this.#state = "connected";
    this.#sessionId = sessionId;
    this.#connectedAt = performance.now();
    this.#goAwayDelay = null;
    this.#attempts = 0;
    this.#askedAgain = false;
    this.#opened?.resolve();
    if (!resumed) this.#rejectSent("the session was lost");
    // Waiting calls are older than the messages that listeners send now.
    for (const [id, pending] of [...this.#pending]) if (!pending.isSent) this.#send(id, pending);
    void this.#scheduleRenewal(token_expires_at, this.#connection);
    if (isFirst) this.emit("connected", { sessionId });
    else this.emit("reconnected", { sessionId, resumed });
  }

  /** Renew the token each time before it expires, while this connection lasts. */
  async #scheduleRenewal(expiresAt: number | undefined, connection: Connection | null): Promise<void> {
    clearTimeout(this.#renewalTimer);
    if (expiresAt === undefined || typeof this.#settings.token === "string") return;
    // By the service's clock, because this machine's may be wrong.
    const now = await this.request("HEARTBEAT", { timestamp: Date.now() }).then(
      ({ server_time }) => server_time ?? Date.now(),
      () => Date.now(),
    );
    this.#renewLater(renewalDelay(expiresAt - now, this.#retry.random), connection, 0);
  }

  #renewLater(delay: number, connection: Connection | null, failures: number): void {
    if (this.#state !== "connected" || this.#connection !== connection) return;
    clearTimeout(this.#renewalTimer);
    this.#renewalTimer = setTimeout(() => void this.#renew(connection, failures), delay);
  }

  async #renew(connection: Connection | null, failures: number): Promise<void> {
    try {
      const auth_token = await fetchToken(this.#settings.token, this.#requestTimeout);
      if (this.#connection !== connection) return;
      const { expires_at } = await this.request("TOKEN_RENEW", { auth_token });
      await this.#scheduleRenewal(expires_at, connection);
    } catch (error) {
      if (this.#state !== "connected" || this.#connection !== connection) return;
      this.emit("error", { error: error as SignalManagerError });
      this.#renewLater(retryDelay(failures, this.#retry.random), connection, failures + 1);
    }
  }

  #receive(message: Message): void {
    const pending = this.#pending.get(message.id);
    if (isSignal(message)) {
      const { sender_client_id, signal_data, room_id }: Fields["SIGNAL_MESSAGE"] = message.fields;
      this.emit(EVENT_OF_SIGNAL[message.type], { sender: sender_client_id ?? "", data: signal_data, roomId: room_id });
    } else if (message.type === "ROOM_EVENT") {
      this.emit("room-event", message.fields);
    } else if (message.type === "GOAWAY") {
      this.#goAwayDelay = Math.min(message.fields.reconnect_after, MAX_GOAWAY_DELAY);
      this.emit("going-away", { reason: message.fields.reason, delay: this.#goAwayDelay });
    } else if (message.type === "ERROR") {
      this.#refuse(message.id, errorFromMessage(message.fields));
    } else if (pending !== undefined) {
      if (message.type === pending.reply) pending.resolve(message.fields as JsonObject);
      else pending.reject(new MalformedMessageError(`expected ${pending.reply} in reply, got ${message.type}`));
    }
  }

  #refuse(id: string, error: SignalManagerError): void {
    const pending = this.#pending.get(id);
    if (pending !== undefined) return pending.reject(error);
    const target = this.#targets.get(id);
    this.#targets.delete(id);
    this.emit("error", { error, target });
  }

  #drop(error: MalformedMessageError): void {
    const pending = this.#pending.get(error.messageId ?? "");
    if (pending !== undefined) pending.reject(error);
    else this.emit("error", { error });
  }

  #lose(closed: Closed, error: SignalManagerError): void {
    const wasConnected = this.#state === "connected";
    const isFirst = this.#sessionId === null;
    if (this.#state === "closing" || this.#state === "ended") {
      // The connection was lost before DISCONNECT was answered, so it may not have arrived.
      if (this.#state === "closing" && closed.code === ABNORMAL && this.#return()) return;
      return this.#end(new UnavailableError("the client is closed"));
    }
    if (wasConnected && performance.now() - this.#connectedAt > this.#retry.maxDelay) this.#failures = 0;
    clearTimeout(this.#renewalTimer);
    const mayRenew = isExpiry(error) && typeof this.#settings.token !== "string";
    if (mayRenew && !this.#askedAgain && this.#successor === null) {
      this.#askedAgain = true;
      return this.#open();
    }
    const isRefused = error.code < 500 && !error.retryable;
    const isFinal = (isRefused || !mayReconnect(closed)) && !mayRenew;
    if (isExpiry(error) && !mayRenew) error = explainExpiry(error);
    if (isFirst || isFinal || this.#attempts >= this.#retry.attempts) {
      return this.#end(error, isFirst ? null : closed);
    }
    this.#state = "waiting";
    this.#attempts += 1;
    const successor = this.#successor;
    const delay = successor === null ? this.#nextDelay() : 0;
    if (successor === null) {
      this.#retryTimer = setTimeout(() => this.#open(), delay);
    } else {
      this.#state = "connecting";
      this.#connection = successor;
      this.#successor = null;
    }
    this.#rejectSent(`the connection ended: ${error.message}`, this.#settings.session.mayContinue);
    if (wasConnected) this.emit("disconnected", { ...closed, willReconnect: true, delay });
  }

  /** Reject the calls that were sent, or only those outside the session if it is kept. */
  #rejectSent(why: string, isSessionKept = false): void {
    for (const pending of [...this.#pending.values()]) {
      if (!pending.isSent || (isSessionKept && pending.isCounted)) continue;
      pending.reject(new UnavailableError(`no reply before ${why}`));
    }
  }

  #nextDelay(): number {
    const named = this.#goAwayDelay;
    this.#goAwayDelay = null;
    if (named !== null) return named;
    const ceiling = Math.min(this.#retry.maxDelay, this.#retry.baseDelay * 2 ** this.#failures);
    this.#failures += 1;
    return this.#retry.random() * ceiling;
  }

  /** End the client; all present and later calls reject with `error`. */
  #end(error: SignalManagerError, lost: Closed | null = null): void {
    if (this.#state === "ended") return;
    this.#state = "ended";
    this.#error = error;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#renewalTimer);
    for (const unlisten of this.#unlisten.splice(0)) unlisten();
    this.#successor?.abort(error.message);
    this.#connection?.leave(error.message);
    this.#opened?.reject(error);
    for (const pending of [...this.#pending.values()]) pending.reject(this.#copyOfError());
    for (const resolve of this.#closed.splice(0)) resolve();
    if (lost !== null) this.emit("disconnected", { ...lost, willReconnect: false });
    this.emit("closed", { error });
  }

  /** Return a new copy, so that each caller gets its own stack. */
  #copyOfError(): SignalManagerError {
    const { code, details, retryable, message } = this.#error;
    return errorFromWire(message, { code, details, retryable });
  }
}

function tooLate(pending: Pending, timeout: number): SignalManagerError {
  return pending.isSent
    ? new TooLateError(`expected a reply within ${timeout} ms, none came`)
    : new UnavailableError(`no connection within ${timeout} ms; nothing was sent`);
}
