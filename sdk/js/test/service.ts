/** A signaling service for tests: real WebSockets on loopback, and answers that the test decides. */

import { once } from "node:events";
import type { AddressInfo } from "node:net";

import { WebSocketServer, type RawData, type WebSocket } from "ws";

import { encode, type Framing } from "../src/frames.js";
import { makeId } from "../src/ids.js";
import { TYPE_BYTES, type Fields, type MessageType } from "../src/messages.js";

const TIME_LIMIT = 5000;
const TYPE_OFFSET = 1;

/** A message as a test reads it: without checks, since only the service's own code reads what clients send. */
export interface Received {
  type: MessageType;
  id: string;
  fields: Record<string, unknown>;
}

/** Reject when `promise` takes longer than any healthy test does. */
export async function soon<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${TIME_LIMIT} ms for ${what}`)), TIME_LIMIT);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A queue whose reader waits. */
export class Inbox<T> {
  readonly #items: T[] = [];
  #wake: (() => void) | null = null;

  put(item: T): void {
    this.#items.push(item);
    this.#wake?.();
  }

  /** The next item for which `wanted` holds; those before it are dropped. */
  async next(what: string, wanted: (item: T) => boolean = () => true): Promise<T> {
    return soon(this.#find(wanted), what);
  }

  async #find(wanted: (item: T) => boolean): Promise<T> {
    for (;;) {
      const item = this.#items.shift();
      if (item === undefined) await new Promise<void>((resolve) => (this.#wake = resolve));
      else if (wanted(item)) return item;
    }
  }
}

const BYTE_NAMES = new Map(Object.entries(TYPE_BYTES).map(([type, byte]) => [byte as number, type as MessageType]));

/** Read one message of a client. */
export function read(framing: Framing, data: Buffer): Received {
  if (framing === "json") {
    const { type, id, payload } = JSON.parse(data.toString());
    return { type, id, fields: payload };
  }
  const id = data
    .subarray(2, 18)
    .toString("hex")
    .replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
  const fields = JSON.parse(data.subarray(framing === "v1" ? 21 : 23).toString());
  return { type: BYTE_NAMES.get(data[TYPE_OFFSET]!)!, id, fields };
}

/** One client's connection, seen from the service. */
export class ServiceConnection {
  readonly inbox = new Inbox<Received>();
  readonly socket: WebSocket;
  readonly framing: Framing;
  clientId = "";

  constructor(socket: WebSocket, framing: Framing) {
    this.socket = socket;
    this.framing = framing;
  }

  next(type: MessageType): Promise<Received> {
    return this.inbox.next(type, (message) => message.type === type);
  }

  send<T extends MessageType>(type: T, fields: Fields[T], id = makeId()): void {
    this.socket.send(encode(this.framing, type, id, fields));
  }

  refuse(request: Received, code: number, message: string): void {
    this.send("ERROR", { error_code: code, error_message: message }, request.id);
  }
}

/** What the service does with a CONNECT. */
export type Door = (connection: ServiceConnection, request: Received) => void;

/** Let everybody in. */
export const open: Door = (connection, request) =>
  connection.send("CONNECT_ACK", { status: "success", session_id: makeId() }, request.id);

/** A listening service. */
export class TestService {
  door: Door = open;
  /** Hears every message after CONNECT. */
  onMessage: (connection: ServiceConnection, message: Received) => void = () => undefined;
  onClose: (connection: ServiceConnection) => void = () => undefined;
  /** How often a client came, accepted or not. */
  visits = 0;
  readonly #server: WebSocketServer;
  readonly #connections = new Inbox<ServiceConnection>();

  private constructor(server: WebSocketServer) {
    this.#server = server;
    server.on("connection", (socket) => this.#serve(socket));
  }

  static async start(): Promise<TestService> {
    const server = new WebSocketServer({
      host: "127.0.0.1",
      port: 0,
      handleProtocols: (offered) => [...offered][0] ?? false,
    });
    await once(server, "listening");
    return new TestService(server);
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** The next connection that has sent its CONNECT. */
  connection(): Promise<ServiceConnection> {
    return this.#connections.next("a connection");
  }

  async stop(): Promise<void> {
    for (const socket of this.#server.clients) socket.terminate();
    this.#server.close();
    await once(this.#server, "close");
  }

  #serve(socket: WebSocket): void {
    this.visits += 1;
    const framing = socket.protocol.replace("signal-manager.", "") as Framing;
    const connection = new ServiceConnection(socket, framing);
    socket.on("close", () => this.onClose(connection));
    socket.on("message", (data: RawData) => {
      const message = read(framing, data as Buffer);
      connection.inbox.put(message);
      if (message.type !== "CONNECT") return this.onMessage(connection, message);
      connection.clientId = message.fields["client_id"] as string;
      this.door(connection, message);
      this.#connections.put(connection);
    });
  }
}
