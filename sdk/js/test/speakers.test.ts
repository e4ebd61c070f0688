/** Levels and speakers of a room, from what browsers report of its tracks. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Emitter, InvalidRequestError, type Room } from "../src/index.js";
import { activeSpeakers, audioLevels, type AudioLevels, type Speaker } from "../src/speakers.js";
import { FakeTrack } from "./peer.js";

/** A receiver or sender with a level by the header extension, by statistics, or without any. */
class Source {
  track = new FakeTrack("audio");
  header: number | undefined;
  report: object | Error = {};
  isSilent = false; // no packet comes
  #timestamp = 5; // by a clock of its own

  getSynchronizationSources(): object[] {
    if (this.header === undefined) return [];
    if (!this.isSilent) this.#timestamp += 20;
    return [
      { timestamp: 1, audioLevel: 1 }, // a former source, whose packets have ended
      { timestamp: this.#timestamp, audioLevel: this.header },
    ];
  }

  async getStats(): Promise<Map<string, object>> {
    if (this.report instanceof Error) throw this.report;
    return new Map([
      ["X", { type: "codec", audioLevel: 1 }],
      ["R", this.report],
    ] as [string, object][]);
  }
}

interface Remote {
  clientId: string;
  away: boolean;
  tracks: Map<string, { kind: string; muted: boolean; track: FakeTrack }>;
}

class FakeRoom extends Emitter<{ closed: object }> {
  state = "joined";
  readonly receivers: Source[] = [];
  readonly publications: { sender: Source | null; track: FakeTrack; muted: boolean }[] = [];
  readonly participants = new Map<string, Remote>();
  readonly peerConnection = { getReceivers: () => this.receivers };

  constructor() {
    super({ closed: true });
  }

  publish(): void {}

  receives(clientId: string): Source {
    const source = new Source();
    this.receivers.push(source);
    const tracks = new Map([["audio", { kind: "audio", muted: false, track: source.track }]]);
    this.participants.set(clientId, { clientId, away: false, tracks });
    return source;
  }

  close(): void {
    this.state = "closed";
    this.emit("closed", {});
  }

  get asRoom(): Room {
    return this as never;
  }
}

let room: FakeRoom;

beforeEach(() => {
  room = new FakeRoom();
});

afterEach(() => {
  room.close();
  mock.restoreAll();
});

/** The levels when they are right, by client id; "" is this client. */
function levelsWhen(isRight: (levels: Record<string, number>) => boolean): Promise<Record<string, number>> {
  return new Promise((resolve) => {
    const stop = audioLevels(room.asRoom, {}, (levels: AudioLevels) => {
      const named = Object.fromEntries([...levels].map(([who, level]) => [who?.clientId ?? "", level]));
      if (!isRight(named)) return;
      stop();
      resolve(named);
    });
  });
}

const isNear = (level: number | undefined, expected: number): boolean => Math.abs((level ?? -1) - expected) < 0.01;

test("levels come from the header extension, else from statistics", async () => {
  room.receives("bob").header = 0.5;
  room.receives("carol").report = { type: "inbound-rtp", audioLevel: 0.25 };
  room.receives("dave").report = new Error("InvalidStateError: closed");

  await levelsWhen(({ bob, carol, dave }) => isNear(bob, 0.5) && isNear(carol, 0.25) && dave === 0);
});

test("a source without packets, a muted track and a member that is away are silent", async () => {
  const bob = room.receives("bob");
  for (const name of ["carol", "dave"]) room.receives(name).header = 0.5;
  bob.header = 0.5;
  await levelsWhen((levels) => ["bob", "carol", "dave"].every((name) => isNear(levels[name], 0.5)));

  const falling = levelsWhen((levels) => ["bob", "carol", "dave"].every((name) => isNear(levels[name], 0)));
  bob.isSilent = true;
  room.participants.get("carol")!.tracks.get("audio")!.muted = true;
  room.participants.get("dave")!.away = true;
  await falling;
});

test("this client's level is its sender's, and 0 while it is muted", async () => {
  const sender = new Source();
  sender.report = { type: "media-source", audioLevel: 0.5 };
  const publication = { sender, track: sender.track, muted: false };
  room.publications.push(publication, { ...publication, track: new FakeTrack("video") });
  await levelsWhen((levels) => isNear(levels[""], 0.5));

  publication.muted = true;
  await levelsWhen((levels) => isNear(levels[""], 0));
});

test("an analyser measures this client where statistics do not, and is closed with the track and the room", async () => {
  let open = 0;
  class FakeContext {
    constructor() {
      open += 1;
    }
    createAnalyser(): object {
      return { fftSize: 4, getFloatTimeDomainData: (samples: Float32Array) => samples.set([0.1, -0.5, 0.2, 0]) };
    }
    createMediaStreamSource(): object {
      return { connect: () => undefined };
    }
    async resume(): Promise<void> {}
    async close(): Promise<void> {
      open -= 1;
    }
  }
  Object.assign(globalThis, { AudioContext: FakeContext, MediaStream: class {} });
  try {
    const sender = new Source();
    room.publications.push({ sender, track: sender.track, muted: false });
    let level: number | undefined;
    audioLevels(room.asRoom, {}, (levels) => (level = levels.get(null)));
    const until = async (isRight: () => boolean): Promise<void> => {
      while (!isRight()) await new Promise((resolve) => setTimeout(resolve, 10));
    };
    await until(() => isNear(level, 0.5));
    assert.equal(open, 1);
    room.publications.pop();
    await until(() => open === 0);
    room.publications.push({ sender: null, track: sender.track, muted: false });
    await until(() => open === 1);
    room.close();
    assert.equal(open, 0);
  } finally {
    Reflect.deleteProperty(globalThis, "AudioContext");
    Reflect.deleteProperty(globalThis, "MediaStream");
  }
});

test("speakers are told when they change, the loudest first, with this client among them", async () => {
  const bob = room.receives("bob");
  bob.header = 0.2;
  const sender = new Source();
  sender.report = { type: "media-source", audioLevel: 0.6 };
  room.publications.push({ sender, track: sender.track, muted: false });

  const heard: Speaker[][] = [];
  await new Promise<void>((resolve) => {
    activeSpeakers(room.asRoom, {}, (speakers) => {
      heard.push(speakers);
      if (speakers.length === 2) bob.isSilent = true;
      if (speakers.length === 1 && heard.some(({ length }) => length === 2)) resolve();
    });
  });

  const both = heard.find(({ length }) => length === 2)!;
  assert.deepEqual(
    both.map(({ participant }) => participant?.clientId),
    [undefined, "bob"],
  );
  assert.ok(both[0]!.level > both[1]!.level);
  assert.deepEqual(
    heard.at(-1)!.map(({ participant }) => participant),
    [null],
  );
});

test("watching ends by its function, by its signal and with the room, and outlives a faulty listener", async () => {
  room.receives("bob").header = 0.5;
  const reports: (() => void)[] = [];
  mock.method(globalThis, "queueMicrotask", (report: () => void) => reports.push(report));
  const fail = (): never => assert.fail("nothing is watched");
  const ending = new AbortController();
  audioLevels(room.asRoom, {}, fail)();
  audioLevels(room.asRoom, { signal: ending.signal }, fail);
  ending.abort();
  activeSpeakers(room.asRoom, { signal: ending.signal }, fail);
  let looks = 0;
  await new Promise<void>((resolve) => {
    audioLevels(room.asRoom, {}, () => {
      looks += 1;
      if (looks === 1) throw new Error("the listener's");
      room.close();
      resolve();
    });
  });
  audioLevels(room.asRoom, {}, fail);
  await new Promise((resolve) => setTimeout(resolve, 250));
  assert.equal(looks, 2);
  assert.throws(reports[0]!, /the listener's/);
});

test("wrong arguments are named", () => {
  assert.throws(() => audioLevels({} as never, {}, () => undefined), InvalidRequestError);
  assert.throws(() => activeSpeakers(room.asRoom, {}, 5 as never), /expected a listener, got number/);
});
