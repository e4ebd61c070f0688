/** Random network faults: every message arrives once and in order, or the client is told of the loss. */

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { SignalClient } from "../src/client.js";
import { UnavailableError } from "../src/errors.js";
import { Network } from "./network.js";

const RUNS = 100;
const STEPS = 250;
const EVERYTHING = 1e9;

/** Numbers from 0 up to 1 that are the same for the same seed (mulberry32). */
function chance(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** A client that sends and receives, and the outcome of each message. */
class World {
  readonly network = new Network();
  readonly client: SignalClient;
  readonly random: () => number;
  /** What the client heard: the session that said it, and the how manyth it was of that. */
  readonly heard: [session: string, number: number][] = [];
  /** What the next message had for a number whenever the client was told that its session is lost. */
  readonly losses: number[] = [];
  readonly told = new Map<string, number>(); // messages to the client, by session
  resumed = 0;
  next = 0; // number of the client's next message
  open = 0; // acknowledgements that are waited for
  failures = 0; // of these, with the session
  others: unknown[] = []; // that should not be

  constructor(seed: number) {
    this.random = chance(seed);
    this.client = new SignalClient("ws://model", "alice", "t", {
      WebSocket: this.network.WebSocket,
      retry: { random: () => 0 },
      requestTimeout: EVERYTHING,
    });
    this.client.on("message", ({ data }) => this.heard.push((data as { is: [string, number] }).is));
    this.client.on("reconnected", ({ resumed }) => {
      if (resumed) this.resumed += 1;
      else this.losses.push(this.next);
    });
  }

  below(limit: number): number {
    return Math.floor(this.random() * limit);
  }

  say(): void {
    const ack = this.random() < 0.5;
    const call = this.client.sendMessage("bob", this.next, { ack });
    this.next += 1;
    this.open += 1;
    call
      .catch((error: unknown) => (error instanceof UnavailableError ? (this.failures += 1) : this.others.push(error)))
      .finally(() => (this.open -= 1));
  }

  tell(): void {
    const session = this.network.session;
    if (session === undefined) return;
    const number = this.told.get(session.id) ?? 0;
    const filling = "x".repeat(this.random() < 0.1 ? 10_000 : 0);
    this.network.send(session, { is: [session.id, number], filling });
    this.told.set(session.id, number + 1);
  }

  step(): void {
    const { network } = this;
    const session = network.session;
    // Mostly the newest connection; an old one may still bring something.
    const link = network.links.at(this.random() < 0.9 ? -1 : -1 - this.below(network.links.length))!;
    const kind = this.random();
    if (kind < 0.2) this.say();
    else if (kind < 0.35) this.tell();
    else if (kind < 0.55) network.carryUp(link, this.below(400));
    else if (kind < 0.75) network.carryDown(link, this.below(400));
    else if (kind < 0.8) network.carryDown(link, EVERYTHING);
    else if (kind < 0.85) network.carryUp(link, EVERYTHING);
    else if (kind < 0.89) network.dropAtClient(link);
    else if (kind < 0.93) network.dropAtService(link);
    else if (kind < 0.98 && session !== undefined) network.confirm(session);
    else if (kind < 0.983) network.expire();
    else mock.timers.tick(1000);
  }

  /** Let everything that was begun come to its end. */
  async settle(): Promise<void> {
    for (let round = 0; round < 10; round += 1) {
      const link = this.network.links.at(-1)!;
      if (!link.isOpenAtService) this.network.dropAtClient(link);
      mock.timers.tick(1);
      await turn();
      this.network.carryUp(link, EVERYTHING);
      this.network.carryDown(link, EVERYTHING);
      await turn();
    }
  }
}

/** Let promises go on; `setImmediate` is not mocked. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function check(world: World): void {
  const { network, heard, losses } = world;
  const handled = network.sessions.flatMap((session) => session.handled);
  assert.deepEqual(
    handled,
    [...new Set(handled)].sort((a, b) => a - b),
    "something came twice or out of order",
  );
  for (const session of network.sessions) {
    for (const [index, number] of session.handled.entries()) {
      assert.equal(number, session.handled[0]! + index, "something is missing within a session");
    }
    const numbers = heard.filter(([id]) => id === session.id).map(([, number]) => number);
    assert.deepEqual(numbers, [...numbers.keys()], "the client missed something, or heard it twice");
  }
  const last = network.session!;
  // What was said before the client heard of its last loss may be lost with it; nothing else.
  const sure = losses.at(-1) ?? 0;
  const wanted = Array.from({ length: world.next - sure }, (_, index) => sure + index);
  assert.deepEqual(
    last.handled.filter((number) => number >= sure),
    wanted,
    "something never came, and nobody was told",
  );
  assert.equal(heard.filter(([id]) => id === last.id).length, world.told.get(last.id) ?? 0);
  assert.deepEqual(world.others, []);
  assert.equal(world.open, 0, "a call still waits");
  if (losses.length === 0) assert.equal(world.failures, 0, "a call failed, and the session was kept");
}

test("every message comes exactly once and in order, or the client is told", async () => {
  const seen = { resumed: 0, lost: 0 };
  for (let seed = 1; seed <= RUNS; seed += 1) {
    mock.timers.enable({ apis: ["setTimeout"] });
    const world = new World(seed);
    try {
      const connecting = world.client.connect();
      await turn();
      world.network.carryUp(world.network.links[0]!, EVERYTHING);
      world.network.carryDown(world.network.links[0]!, EVERYTHING);
      await connecting;
      for (let step = 0; step < STEPS; step += 1) {
        world.step();
        mock.timers.tick(1);
        await turn();
      }
      await world.settle();
      check(world);
    } catch (error) {
      throw new Error(`with seed ${seed}: ${(error as Error).stack}`);
    } finally {
      const closing = world.client.close();
      mock.timers.tick(2000); // nobody answers
      await closing;
      mock.timers.reset();
    }
    seen.resumed += world.resumed;
    seen.lost += world.losses.length;
  }

  // Both must have happened, often, or nothing was shown.
  assert.ok(seen.resumed > RUNS && seen.lost > RUNS / 10, JSON.stringify(seen));
});
