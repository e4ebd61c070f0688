/**
 * Rooms that a client is out of by its own will, until the service knows.
 *
 * `room.ts` notes them; what is noted outlives lost connections: in a session that goes on it is said before anything
 * new, and in a new one, which is in no room, it is answered with 404.
 */

import { MAX_TIME } from "./arguments.js";
import type { SignalClient } from "./client.js";
import { RateLimitedError } from "./errors.js";

// How long to wait, in ms, before leaving is said again where too much was said before.
const AGAIN = 1000;

const departures = new WeakMap<SignalClient, Set<Promise<void>>>();

/** Leave a room as soon as that can be said; this returns at once. */
export function noteDeparture(client: SignalClient, roomId: string, reason: string | undefined): void {
  const open = departures.get(client) ?? new Set();
  departures.set(client, open);
  const told: Promise<void> = say(client, roomId, reason).finally(() => open.delete(told));
  open.add(told);
}

async function say(client: SignalClient, roomId: string, reason: string | undefined): Promise<void> {
  for (;;) {
    try {
      await client.request("WEBRTC_ROOM_LEAVE", { room_id: roomId, reason }, { timeout: MAX_TIME });
      return;
    } catch (error) {
      // Otherwise it was not in the room, its session was lost with all memberships, or the client has ended.
      if (!(error instanceof RateLimitedError)) return;
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }
}

/** Resolve once the service knows of all departures, after `limit` ms, or when the signal says so. */
export async function settleDepartures(client: SignalClient, limit: number, signal?: AbortSignal): Promise<void> {
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
