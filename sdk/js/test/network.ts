/**
 * A network that loses connections at any byte, and a service that resumes sessions over it: a small model for tests.
 *
 * Nothing happens by itself: the test carries bytes, drops connections and lets sessions expire, in any order it likes.
 */

import { encode } from "../src/frames.js";
import { makeId } from "../src/ids.js";
import type { Fields, MessageType } from "../src/messages.js";
import { read, type Received } from "./service.js";

/** One direction of a connection: what was written and has not arrived. */
class Pipe {
  #frames: Uint8Array[] = [];
  #carried = 0; // bytes of the first frame

  put(frame: Uint8Array): void {
    this.#frames.push(frame);
  }

  /** Let so many bytes arrive; return the messages that are complete by them. */
  carry(bytes: number): Uint8Array[] {
    const complete: Uint8Array[] = [];
    this.#carried += bytes;
    while (this.#frames[0] !== undefined && this.#carried >= this.#frames[0].length) {
      this.#carried -= this.#frames[0].length;
      complete.push(this.#frames.shift()!);
    }
    if (this.#frames.length === 0) this.#carried = 0;
    return complete;
  }

  clear(): void {
    this.#frames = [];
  }
}

/** A connection, and the WebSocket that the client holds of it. */
export class Link {
  readonly up = new Pipe();
  readonly down = new Pipe();
  /** Each end finds out by itself, and late. */
  isOpenAtClient = true;
  isOpenAtService = true;
  session: ModelSession | null = null;

  binaryType = "";
  bufferedAmount = 0;
  readonly protocol: string;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onerror: (() => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;

  constructor(network: Network, protocol: string) {
    this.protocol = protocol;
    network.links.push(this);
    queueMicrotask(() => this.onopen?.());
  }

  get readyState(): number {
    return this.isOpenAtClient ? 1 : 3;
  }

  send(data: string | Uint8Array): void {
    // A browser throws away what is sent into a connection that is over, and complains in its console.
    if (!this.isOpenAtClient) throw new Error("this connection is over");
    this.up.put(data as Uint8Array);
  }

  close(): void {
    this.isOpenAtClient = false;
  }
}

/** What the service keeps of a client, and what the test wants to know of it. */
export interface ModelSession {
  id: string;
  token: string;
  link: Link | null;
  received: number;
  sent: number;
  confirmed: number;
  kept: Uint8Array[];
  isResumable: boolean;
  /** The `signal_data` of what the client sent, in order. */
  handled: number[];
}

// Few, so that tests reach it.
const MAX_KEPT = 40;

/** The service and everything between it and the client. */
export class Network {
  readonly links: Link[] = [];
  readonly sessions: ModelSession[] = [];
  readonly #alive = new Map<string, ModelSession>();

  /** In place of the global `WebSocket`. */
  get WebSocket(): new (url: string, protocol: string) => Link {
    // eslint-disable-next-line @typescript-eslint/no-this-alias
    const network = this;
    return class extends Link {
      constructor(_url: string, protocol: string) {
        super(network, protocol);
      }
    };
  }

  get session(): ModelSession | undefined {
    return this.sessions.at(-1);
  }

  /** Let bytes of the client arrive, whether or not it still knows the connection. */
  carryUp(link: Link, bytes: number): void {
    for (const frame of link.up.carry(bytes)) {
      if (link.isOpenAtService) this.#hear(link, read("v2", Buffer.from(frame)));
    }
  }

  /** Let bytes of the service arrive. */
  carryDown(link: Link, bytes: number): void {
    for (const frame of link.down.carry(bytes)) {
      // A copy whose buffer is its own, as sockets give it.
      if (link.isOpenAtClient) link.onmessage?.({ data: frame.slice().buffer });
    }
  }

  /** The client finds out that the connection is over; what it has sent may still arrive. */
  dropAtClient(link: Link): void {
    if (!link.isOpenAtClient) return;
    link.isOpenAtClient = false;
    link.onclose?.({ code: 1006, reason: "" });
  }

  /** The service finds out that the connection is over; what it has sent may still arrive. */
  dropAtService(link: Link): void {
    link.isOpenAtService = false;
    link.up.clear();
    if (link.session?.link === link) link.session.link = null;
  }

  /** The resume window of every client that is away is over. */
  expire(): void {
    for (const session of this.#alive.values()) if (session.link === null) this.#alive.delete(session.id);
  }

  /** Send to the client, now or when it is back; to nobody when its session is over. */
  send(session: ModelSession, data: unknown): void {
    if (!this.#alive.has(session.id)) return;
    this.#post(session, "SIGNAL_MESSAGE", { target_client_id: "alice", sender_client_id: "bob", signal_data: data });
  }

  /** Confirm what came in. */
  confirm(session: ModelSession): void {
    this.#write(session.link, "HEARTBEAT", { timestamp: 1, received: session.received });
  }

  #hear(link: Link, { type, id, fields }: Received): void {
    if (type === "CONNECT") return this.#admit(link, id, fields as never);
    const session = link.session;
    if (session?.link !== link) return; // replaced by a newer connection
    if (type === "HEARTBEAT") {
      this.#release(session, fields["received"] as number | undefined);
      return this.#write(link, "HEARTBEAT_ACK", { timestamp: fields["timestamp"] as number }, id);
    }
    if (type === "HEARTBEAT_ACK") return;
    session.received += 1;
    session.handled.push(fields["signal_data"] as number);
    if (fields["ack"]) this.#post(session, "SIGNAL_ACK", { status: "delivered", target_client_id: "bob" }, id);
  }

  #admit(link: Link, id: string, { resume }: Fields["CONNECT"]): void {
    const old = this.#alive.get(resume?.session_id ?? "");
    if (resume !== undefined && old?.isResumable && resume.resume_token === old.token) {
      link.session = old;
      if (old.link !== null) old.link.isOpenAtService = false;
      old.link = link;
      this.#release(old, resume.received);
      const { id: session_id, token: resume_token, received } = old;
      this.#write(link, "CONNECT_ACK", { status: "success", session_id, resume_token, resumed: true, received }, id);
      for (const frame of old.kept) link.down.put(frame);
      return;
    }
    // The newest wins, even when it is late: the network does not keep connections in order.
    for (const { link: other } of this.#alive.values()) if (other !== null) other.isOpenAtService = false;
    this.#alive.clear();
    const session: ModelSession = {
      id: makeId(),
      token: makeId(),
      link,
      received: 0,
      sent: 0,
      confirmed: 0,
      kept: [],
      isResumable: true,
      handled: [],
    };
    link.session = session;
    this.sessions.push(session);
    this.#alive.set(session.id, session);
    const ack = { status: "success", session_id: session.id, resume_token: session.token, heartbeat_interval: 1 };
    this.#write(link, "CONNECT_ACK", ack, id);
  }

  #release(session: ModelSession, received: number | undefined): void {
    if (received === undefined || received <= session.confirmed) return;
    if (received > session.sent) throw new Error(`confirmed ${received} of ${session.sent} messages`);
    session.kept.splice(0, received - session.confirmed);
    session.confirmed = received;
  }

  #post<T extends MessageType>(session: ModelSession, type: T, fields: Fields[T], id = makeId()): void {
    const frame = encode("v2", type, id, fields) as Uint8Array;
    session.sent += 1;
    session.kept.push(frame);
    if (session.kept.length > MAX_KEPT) session.isResumable = false;
    if (session.link !== null) session.link.down.put(frame);
  }

  #write<T extends MessageType>(link: Link | null, type: T, fields: Fields[T], id = makeId()): void {
    link?.down.put(encode("v2", type, id, fields) as Uint8Array);
  }
}
