/**
 * Rooms that a client has left while the service may not know it yet.
 *
 * `room.ts` notes each departure, and the note outlives lost connections. In a resumed session the request to leave is
 * sent before anything new. A new session is in no room, so its request is answered with 404.
 */

import { MAX_TIME } from "./arguments.js";
import { RateLimitedError } from "./errors.js";
import type { Requester } from "./ports.js";

// How long to wait, in ms, before asking again to leave after the rate limit refused it.
const AGAIN = 1000;

const departures = new WeakMap<Requester, Set<Promise<void>>>();

/** Leave a room as soon as the request can be sent; return at once. */
export function noteDeparture(client: Requester, roomId: string, reason: string | undefined): void {
  const open = departures.get(client) ?? new Set();
  departures.set(client, open);
  const told: Promise<void> = say(client, roomId, reason).finally(() => open.delete(told));
  open.add(told);
}

async function say(client: Requester, roomId: string, reason: string | undefined): Promise<void> {
  for (;;) {
    try {
      await client.request("WEBRTC_ROOM_LEAVE", { room_id: roomId, reason }, { timeout: MAX_TIME });
      return;
    } catch (error) {
      // Any other error means that the client is out: it was not in the room, its session was lost, or it has ended.
      if (!(error instanceof RateLimitedError)) return;
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }
}

/** Resolve once the service knows of all departures, after `limit` ms, or when `signal` aborts. */
export async function settleDepartures(client: Requester, limit: number, signal?: AbortSignal): Promise<void> {
  const open = departures.get(client);
  if (!open?.size || signal?.aborted) return;
  await new Promise<void>((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, limit);
    signal?.addEventListener("abort", done);
    void Promise.all(open).then(done);
  });
}
