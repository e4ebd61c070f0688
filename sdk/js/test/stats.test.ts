/** Figures of a call, from reports as Chromium, Firefox and Safari make them. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Emitter, InvalidRequestError, type Room } from "../src/index.js";
import { connectionQuality, roomStats, watchStats, type RoomStats } from "../src/stats.js";
import { FakeTrack } from "./peer.js";

type Reports = Record<string, Record<string, unknown>>;

/** A source of reports: each call of `getStats` returns the next ones, and the last ones for ever. */
class Source {
  looks = 0;
  readonly #series: (Reports | Error)[];

  constructor(...series: (Reports | Error)[]) {
    this.#series = series;
  }

  async getStats(): Promise<Map<string, object>> {
    const reports = this.#series[Math.min(this.looks, this.#series.length - 1)] ?? {};
    this.looks += 1;
    if (reports instanceof Error) throw reports;
    return new Map(Object.entries(reports).map(([id, report]) => [id, { id, ...report }]));
  }
}

class FakePeer extends Source {
  connectionState = "connected";
  readonly receivers: (Source & { track: FakeTrack })[] = [];

  getReceivers(): object[] {
    return this.receivers;
  }
}

/** A room with what `stats.ts` reads of it. */
class FakeRoom extends Emitter<{ closed: object }> {
  state = "joined";
  publications: object[] = [];
  participants = new Map<string, object>();
  peerConnection: FakePeer | undefined;

  constructor(peer?: FakePeer) {
    super({ closed: true });
    this.peerConnection = peer;
  }

  publish(): void {}

  sends(name: string, kind: string, source: Source): this {
    this.publications.push({ name, track: new FakeTrack(kind), muted: false, sender: source });
    return this;
  }

  receives(clientId: string, name: string, kind: string, source: Source): this {
    const track = new FakeTrack(kind);
    this.peerConnection!.receivers.push(Object.assign(source, { track }));
    const tracks = new Map([[name, { name, kind, muted: false, track }]]);
    this.participants.set(clientId, { clientId, tracks });
    return this;
  }

  close(): void {
    this.state = "closed";
    this.emit("closed", {});
  }

  get asRoom(): Room {
    return this as never;
  }
}

const QUICK = { interval: 100 };

const codec = { type: "codec", mimeType: "video/VP8" };

test("a publication's figures are of the time between two of Chromium's reports", async () => {
  const at = (timestamp: number, n: number, rid: string, width: number): Record<string, unknown> => ({
    type: "outbound-rtp",
    codecId: "C",
    ...{ timestamp, rid, active: true, frameWidth: width, frameHeight: width / 2, framesPerSecond: 30 },
    ...{ bytesSent: 1000 * n, packetsSent: 10 * n, qualityLimitationReason: "cpu", remoteId: `R${rid}` },
  });
  const told = { type: "remote-inbound-rtp", fractionLost: 0.02, roundTripTime: 0.05, jitter: 0.004 };
  const video = new Source(
    { Of: at(1000, 1, "f", 640), Oh: at(1000, 1, "h", 320), Rf: told, C: codec },
    { Of: at(3000, 3, "f", 640), Oh: at(3000, 2, "h", 320), Rf: told, C: codec },
  );

  const { publications } = await roomStats(new FakeRoom(new FakePeer()).sends("video", "video", video).asRoom, QUICK);

  const layer = { active: true, framesPerSecond: 30 };
  const figures = { loss: 0.02, jitter: 4, roundTripTime: 50, codec: "VP8", limitedBy: "cpu" };
  assert.deepEqual(publications, [
    {
      ...{ name: "video", kind: "video", muted: false, bitrate: 12_000, packets: 30, ...figures },
      ...{ width: 640, height: 320, framesPerSecond: 30 },
      layers: [
        { ...layer, rid: "f", bitrate: 8000, width: 640, height: 320 },
        { ...layer, rid: "h", bitrate: 4000, width: 320, height: 160 },
      ],
    },
  ]);
});

test("a subscription's loss, frozen time and frame rate are computed where the browser only counts", async () => {
  const at = (timestamp: number, counts: object): Reports => ({
    I: { type: "inbound-rtp", timestamp, jitter: 0.01, frameWidth: 640, frameHeight: 360, ...counts },
  });
  const source = new Source(
    at(0, { bytesReceived: 0, packetsReceived: 0, packetsLost: 5, framesDecoded: 0, totalFreezesDuration: 1 }),
    at(2000, {
      bytesReceived: 500,
      packetsReceived: 90,
      packetsLost: 15,
      framesDecoded: 50,
      totalFreezesDuration: 1.5,
    }),
  );

  const room = new FakeRoom(new FakePeer()).receives("bob", "video", "video", source);
  const [figures] = (await roomStats(room.asRoom, QUICK)).subscriptions;

  assert.deepEqual(figures, {
    ...{ clientId: "bob", name: "video", kind: "video", muted: false, bitrate: 2000, packets: 90, loss: 0.1 },
    ...{ jitter: 10, codec: undefined, width: 640, height: 360, framesPerSecond: 25, frozenTime: 500 },
  });
});

test("the connection's pair is found as Chromium, Firefox and Safari mark it", async () => {
  const pair = { type: "candidate-pair", localCandidateId: "L", currentRoundTripTime: 0.1 };
  const local = { type: "local-candidate", candidateType: "relay", protocol: "udp", relayProtocol: "tls" };
  const other = { type: "candidate-pair", state: "failed", currentRoundTripTime: 9 };
  const shapes: Reports[] = [
    { X: other, P: pair, T: { type: "transport", selectedCandidatePairId: "P" }, L: local },
    { X: other, P: { ...pair, selected: true }, L: local },
    { X: other, P: { ...pair, nominated: true, state: "succeeded" }, L: local },
  ];
  for (const shape of shapes) {
    const first = { ...shape, P: { ...shape["P"], timestamp: 0, bytesSent: 0 } };
    const second = { ...shape, P: { ...shape["P"], timestamp: 1000, bytesSent: 1000 } };
    const { connection } = await roomStats(new FakeRoom(new FakePeer(first, second)).asRoom, QUICK);

    assert.deepEqual(connection, {
      ...{ state: "connected", roundTripTime: 100, bitrateUp: 8000, bitrateDown: undefined },
      ...{ availableUp: undefined, protocol: "tls", isRelayed: true },
    });
  }
});

test("figures that a browser does not report are undefined, and never 0 or NaN", async () => {
  const room = new FakeRoom(new FakePeer({}))
    .sends("audio", "audio", new Source({ O: { type: "outbound-rtp", timestamp: 5, bytesSent: NaN } }))
    .receives("bob", "audio", "audio", new Source({ I: { type: "inbound-rtp", timestamp: 5, codecId: "gone" } }));

  const { connection, publications, subscriptions } = await roomStats(room.asRoom, QUICK);

  const { state: _state, ...path } = connection;
  const { name: _name, kind: _kind, muted: _muted, layers: _layers, ...sent } = publications[0]!;
  const { clientId, name, kind, muted, ...received } = subscriptions[0]!;
  assert.deepEqual([clientId, name, kind, muted], ["bob", "audio", "audio", false]);
  const figures = [path, sent, received].flatMap((each) => Object.values(each));
  assert.deepEqual(new Set(figures), new Set([undefined]));
});

test("the loss that an SFU tells is counted where the browser reports no share", async () => {
  const at = (sent: number, lost: number): Reports => ({
    O: { type: "outbound-rtp", packetsSent: sent },
    R: { type: "remote-inbound-rtp", localId: "O", packetsLost: lost },
  });
  const room = new FakeRoom(new FakePeer()).sends("audio", "audio", new Source(at(0, 0), at(50, 5)));

  assert.equal((await roomStats(room.asRoom, QUICK)).publications[0]?.loss, 0.1);
});

test("a new peer connection between the snapshots leaves rates undefined, and no connection is lost", async () => {
  const at = (timestamp: number): Reports => ({ O: { type: "outbound-rtp", timestamp, bytesSent: timestamp } });
  const room = new FakeRoom(new FakePeer()).sends("audio", "audio", new Source(at(1000), at(2000)));
  const figures = roomStats(room.asRoom, QUICK);
  await Promise.resolve();
  room.peerConnection = new FakePeer();
  assert.equal((await figures).publications[0]?.bitrate, undefined);

  room.peerConnection = undefined;
  const stats = await roomStats(room.asRoom, QUICK);
  assert.deepEqual([stats.connection.state, connectionQuality(stats)], ["closed", "lost"]);
});

test("watching does not overlap, outlives closed connections and faulty listeners, and ends with the room", async (context) => {
  const room = new FakeRoom(new FakePeer(new Error("InvalidStateError: closed")));
  let inside = 0;
  const { getStats } = Source.prototype;
  room.peerConnection!.getStats = async function () {
    inside += 1;
    await new Promise((resolve) => setTimeout(resolve, 250)); // longer than the interval
    assert.equal(inside, 1);
    inside -= 1;
    return getStats.call(this);
  };
  const reports: (() => void)[] = [];
  const { mock } = context.mock.method(globalThis, "queueMicrotask", (report: () => void) => reports.push(report));
  const seen: RoomStats[] = [];
  await new Promise<void>((resolve) => {
    watchStats(room.asRoom, QUICK, (stats) => {
      seen.push(stats);
      if (seen.length === 1) throw new Error("the listener's");
      room.close();
      resolve();
    });
  });
  const { looks } = room.peerConnection!;
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.deepEqual([seen.length, room.peerConnection!.looks, mock.callCount()], [2, looks, 1]);
  assert.throws(reports[0]!, /the listener's/);
});

test("watching ends by its function, by its signal, and at once for a closed room", async () => {
  const fail = (): never => assert.fail("nothing is watched");
  const room = new FakeRoom(new FakePeer());
  const ending = new AbortController();
  watchStats(room.asRoom, QUICK, fail)();
  watchStats(room.asRoom, { ...QUICK, signal: ending.signal }, fail);
  ending.abort();
  watchStats(room.asRoom, { ...QUICK, signal: ending.signal }, fail);
  const figures = roomStats(room.asRoom, { signal: ending.signal });
  await assert.rejects(figures, { name: "AbortError" });
  room.close();
  watchStats(room.asRoom, QUICK, fail);
  await new Promise((resolve) => setTimeout(resolve, 150));
});

test("wrong arguments are named", () => {
  const room = new FakeRoom(new FakePeer()).asRoom;
  assert.throws(() => watchStats({} as never, {}, () => undefined), InvalidRequestError);
  assert.throws(() => watchStats(room, { interval: 5 }, () => undefined), /interval is 5, expected 100/);
  assert.throws(() => watchStats(room, {}, 5 as never), /expected a listener, got number/);
});

test("quality follows the written rules, of the whole connection and of one participant", () => {
  const track = { name: "video", kind: "video", muted: false } as never as object;
  const quality = (received: object, sent: object = {}, path: object = {}, clientId?: string): string =>
    connectionQuality(
      {
        duration: 1000,
        connection: { state: "connected", ...path },
        publications: [{ ...track, ...sent }],
        subscriptions: [{ ...track, clientId: "bob", ...received }],
      } as never,
      clientId,
    );

  assert.equal(quality({}), "excellent");
  for (const [figures, expected] of [
    [{ loss: 0.01, jitter: 30, frozenTime: 10 }, "excellent"],
    [{ loss: 0.011 }, "good"],
    [{ loss: 0.051 }, "poor"],
    [{ jitter: 31 }, "good"],
    [{ jitter: 101 }, "poor"],
    [{ frozenTime: 11 }, "good"],
    [{ frozenTime: 101 }, "poor"],
  ] as const) {
    assert.equal(quality(figures), expected, JSON.stringify(figures));
    assert.equal(quality(figures, {}, {}, "bob"), expected, JSON.stringify(figures));
  }
  assert.equal(quality({}, { roundTripTime: 201 }), "good");
  assert.equal(quality({}, {}, { roundTripTime: 401 }), "poor");
  // What this client sends says nothing about another participant.
  assert.equal(quality({ packets: 5 }, { loss: 1 }, { roundTripTime: 401 }, "bob"), "excellent");
  assert.deepEqual([quality({ packets: 0 }), quality({ packets: 0 }, {}, {}, "bob")], ["excellent", "lost"]);
  assert.equal(quality({}, {}, { state: "disconnected" }), "lost");
});
