/**
 * A session: the state of a client that outlives its connections, so that the next one continues where the last one
 * ended (docs/protocol.md, "Resume").
 *
 * `connection.ts` reports sent and received messages and asks for the missing ones. This module is pure: no I/O, no timer.
 */

import type { Fields } from "./messages.js";

// In bytes. The service normally confirms long before; beyond this the session is given up, to save the page's memory.
const MAX_KEPT = 4 * 1024 * 1024;

// The bytes to receive before a confirmation, with an addition for each message. Well below the service's default
// buffer, so that it never overflows for a client that keeps up.
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
  #due = 0; // the weight of the messages received since the last confirmation
  #sent = 0;
  #confirmed = 0; // sent messages that the service has confirmed
  #kept: Encoded[] = []; // the last sent messages, normally all unconfirmed ones
  #keptBytes = 0;

  /** @param isWanted whether to continue sessions at all. */
  constructor(isWanted: boolean) {
    this.#isWanted = isWanted;
  }

  /**
   * The fields of CONNECT about the session. They name the last session even if it cannot continue, then without its
   * token, so that a newer device keeps the client id.
   */
  get wish(): Pick<Fields["CONNECT"], "resumable" | "resume"> {
    const wish = this.#isWanted ? { resumable: true } : {};
    if (this.#id === "") return wish;
    const [resume_token, received] = this.mayContinue ? [this.#token!, this.#received] : ["", 0];
    return { ...wish, resume: { session_id: this.#id, resume_token, received } };
  }

  /** Whether all messages that the service may lack are kept. */
  get mayContinue(): boolean {
    return this.#token !== undefined && this.#kept.length === this.#sent - this.#confirmed;
  }

  /** The messages that the service has not confirmed, oldest first. */
  get unconfirmed(): readonly Encoded[] {
    return this.#kept;
  }

  /**
   * Apply the service's answer to `wish`.
   *
   * @returns whether the session continues; null if the service's counts are impossible, so that only a new session
   *   helps.
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

  /** The fields of a heartbeat. */
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

  /** Drop the messages that the service has confirmed. */
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
