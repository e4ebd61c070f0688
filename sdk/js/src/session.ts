/**
 * A session: what of a client outlives its connections, so that the next one can go on exactly where the last one ended.
 *
 * `connection.ts` tells it what went over the wire and asks what is missing; nothing here sends or waits
 * (docs/protocol.md, "Resume").
 */

import type { Fields } from "./messages.js";

// In bytes. The service confirms long before; without its word the session is given up rather than the page's memory.
const MAX_KEPT = 4 * 1024 * 1024;

// What is received before it is confirmed, in bytes and with so many more for each message: well below what the
// service keeps by default, so that it never keeps too much for a client that keeps up.
const CONFIRM_WEIGHT = 96 * 1024;
const MESSAGE_OVERHEAD = 64;

/** An encoded message. */
export type Encoded = string | Uint8Array<ArrayBuffer>;

/** One session after another; each begins with a CONNECT_ACK that continues none. */
export class Session {
  readonly #isWanted: boolean;
  #id = "";
  #token: string | undefined; // undefined: the service does not offer to continue this one
  #received = 0;
  #due = 0; // the weight of what was received since that was confirmed
  #sent = 0;
  #confirmed = 0; // of what was sent
  #kept: Encoded[] = []; // the last ones that were sent, normally all that are not confirmed
  #keptBytes = 0;

  /** @param isWanted whether to continue sessions at all. */
  constructor(isWanted: boolean) {
    this.#isWanted = isWanted;
  }

  /**
   * What CONNECT asks for. It names the last session also where that cannot go on, without its token: so a newer device
   * keeps the client.
   */
  get wish(): Pick<Fields["CONNECT"], "resumable" | "resume"> {
    const wish = this.#isWanted ? { resumable: true } : {};
    if (this.#id === "") return wish;
    const [resume_token, received] = this.mayContinue ? [this.#token!, this.#received] : ["", 0];
    return { ...wish, resume: { session_id: this.#id, resume_token, received } };
  }

  /** Whether everything that the service may lack is here. */
  get mayContinue(): boolean {
    return this.#token !== undefined && this.#kept.length === this.#sent - this.#confirmed;
  }

  /** What the service has not confirmed, oldest first. */
  get unconfirmed(): readonly Encoded[] {
    return this.#kept;
  }

  /**
   * Take up the service's answer to `wish`.
   *
   * @returns whether the session goes on; null when the service goes on with what cannot be, which only a new session
   *   gets over.
   */
  accept(ack: Fields["CONNECT_ACK"]): boolean | null {
    if (ack.resumed) {
      const received = ack.received ?? 0;
      if (this.mayContinue && ack.session_id === this.#id && received >= this.#confirmed) this.confirm(received);
      else this.#token = undefined;
      if (!this.mayContinue) return null;
      this.#token = ack.resume_token ?? this.#token;
      return true;
    }
    this.#id = ack.session_id;
    this.#token = this.#isWanted ? ack.resume_token : undefined;
    this.#received = this.#sent = this.#confirmed = 0;
    this.#forget();
    return false;
  }

  /** Count a message that was received, and tell whether it is time for a heartbeat with `report`. */
  count(bytes: number): boolean {
    this.#received += 1;
    this.#due += bytes + MESSAGE_OVERHEAD;
    return this.#token !== undefined && this.#due >= CONFIRM_WEIGHT;
  }

  /** What a heartbeat says to the service. */
  report(): Pick<Fields["HEARTBEAT"], "received"> {
    this.#due = 0;
    return this.#token === undefined ? {} : { received: this.#received };
  }

  /** Keep a message that was sent until it is confirmed. */
  keep(data: Encoded): void {
    if (this.#token === undefined) return;
    this.#sent += 1;
    this.#kept.push(data);
    this.#keptBytes += data.length;
    if (this.#keptBytes > MAX_KEPT) this.#forget();
  }

  /** Let go of what the service has. */
  confirm(received: number): void {
    if (this.#token === undefined || received <= this.#confirmed) return;
    // The service cannot have received more than was sent, so its count is not of this session.
    if (received > this.#sent) this.#token = undefined;
    this.#confirmed = received;
    const missing = Math.max(0, this.#sent - received);
    for (const data of this.#kept.splice(0, this.#kept.length - missing)) this.#keptBytes -= data.length;
  }

  #forget(): void {
    this.#kept = [];
    this.#keptBytes = 0;
  }
}
