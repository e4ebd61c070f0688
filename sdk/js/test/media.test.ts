/** What a media session does by itself as time passes, with a fake peer connection and time moved by hand. */

import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import { afterEach, beforeEach, mock, test } from "node:test";

import type { SignalClient } from "../src/client.js";
import { MediaSession } from "../src/media.js";
import type { IceServer } from "../src/messages.js";
import { FakePeer, makeStream } from "./peer.js";

const LIFETIME = 100_000;

let asked: number; // for ICE servers
let lost: string[];
let isDown: boolean; // the connection to the service

beforeEach(() => {
  asked = 0;
  lost = [];
  isDown = false;
  FakePeer.all = [];
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
});

afterEach(() => mock.timers.reset());

function turn(username: string): IceServer {
  return { urls: ["turn:t.example"], username, credential: "c" };
}

function open({ expires = LIFETIME }: { expires?: number | undefined } = {}): [MediaSession, FakePeer] {
  const client = {
    async request() {
      asked += 1;
      if (isDown) throw new Error("no connection");
      return { ice_servers: [turn(`u${asked}`)], expires_at: Date.now() + LIFETIME };
    },
  };
  const servers = { ice_servers: [turn("u0")], ...(expires > 0 && { expires_at: Date.now() + expires }) };
  const media = new MediaSession(client as never as SignalClient, "demo", servers, FakePeer as never, {
    isReceiving: () => true,
    onConnected: () => undefined,
    onLost: ({ message }) => lost.push(message),
    onTrack: () => undefined,
  });
  return [media, FakePeer.all[0]!];
}

/** Let time pass, and then run the tasks that are due. */
async function pass(ms: number): Promise<void> {
  mock.timers.tick(ms);
  for (let turns = 0; turns < 3; turns += 1) await setImmediate();
}

/** Take the path that a candidate of this type makes, on which much has come until three seconds ago. */
function connect(peer: FakePeer, candidateType: string): void {
  Object.assign(peer, { packets: 1000, lastPacketAt: Date.now() - 3000 });
  peer.getStats = async function () {
    const stats = await FakePeer.prototype.getStats.call(this);
    Object.assign(stats.get("pair")!, { state: "succeeded", nominated: true, localCandidateId: "local" });
    return stats.set("local", { type: "local-candidate", candidateType });
  };
  peer.become("connected");
}

function usernameOf(peer: FakePeer): string | undefined {
  return peer.configuration.iceServers?.[0]?.username;
}

test("ICE servers are asked for before their credentials end, again and again, for the same peer connection", async () => {
  const [media, peer] = open();

  await pass(89_000);
  assert.deepEqual([asked, usernameOf(peer)], [0, "u0"]);
  await pass(1_000);
  assert.deepEqual([asked, usernameOf(peer)], [1, "u1"]);
  await pass(90_000);
  assert.deepEqual([asked, usernameOf(peer)], [2, "u2"]);

  media.close();
  await pass(2 * LIFETIME);
  assert.deepEqual([asked, FakePeer.all.length], [2, 1]);
});

test("ICE servers of which nobody has said when they end are asked for soon", async () => {
  const [media, peer] = open({ expires: 0 });
  connect(peer, "relay");

  await pass(20_000);
  assert.deepEqual([asked, usernameOf(peer)], [1, "u1"]);
  await pass(10_000);
  assert.deepEqual(lost, []); // these are at their beginning

  media.close();
});

test("a service that cannot be reached is asked again for ICE servers", async () => {
  const [media, peer] = open();
  isDown = true;
  await pass(90_000);
  assert.deepEqual([asked, usernameOf(peer)], [1, "u0"]);
  isDown = false;

  await pass(10_000);

  assert.deepEqual([asked, usernameOf(peer)], [2, "u2"]);
  media.close();
});

test("a relay that is dropped with its credentials is noticed at once", async () => {
  const [media, peer] = open();
  await media.offer([{ name: "video", track: makeStream("video").getTracks()[0]!, said: false } as never]);
  connect(peer, "relay");
  await pass(90_000);
  assert.deepEqual(lost, []);

  await pass(1_000);
  await pass(100);

  assert.deepEqual(lost, ["the path to the SFU is lost"]);
  assert.equal(peer.signalingState, "closed");
});

test("a relay that outlives its credentials is left alone", async () => {
  const [media, peer] = open();
  connect(peer, "relay");
  await pass(90_000);

  for (let second = 0; second < 20; second += 1) {
    peer.lastPacketAt = Date.now();
    await pass(1_000);
    await pass(100);
    peer.received += 1;
    await pass(100);
  }

  assert.deepEqual(lost, []);
  assert.ok(peer.looks > 20);
  media.close();
});

test("a path without a relay is not looked at when credentials end", async () => {
  const [media, peer] = open();
  connect(peer, "host");
  await pass(90_000);
  const before = peer.looks;

  await pass(5_000);
  await pass(100);

  assert.deepEqual([peer.looks - before, lost], [0, []]);
  media.close();
});
