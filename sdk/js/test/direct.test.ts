/** `DirectCalls` on real WebSockets, a relay and fake peer connections. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { WebSocket } from "ws";

import { SignalClient } from "../src/client.js";
import { DirectCalls, type CallEvents, type DirectCall } from "../src/direct.js";
import { ForbiddenError, InvalidRequestError, NotFoundError, UnavailableError } from "../src/errors.js";
import type { MessageType, Signal } from "../src/messages.js";
import { FakePeer, makeStream } from "./peer.js";
import { Inbox, TestService, open, soon, type Received, type ServiceConnection } from "./service.js";

let service: TestService;
let clients: SignalClient[];
let connections: Map<string, ServiceConnection>;
let relayed: Inbox<Received & { sender: string }>;
let lost: Set<MessageType>; // types that the relay swallows

beforeEach(async () => {
  service = await TestService.start();
  clients = [];
  connections = new Map();
  relayed = new Inbox();
  lost = new Set();
  FakePeer.all = [];
  mock.method(Math, "random", () => 0);
  service.onMessage = relay;
  service.door = (connection, request) => {
    connections.set(connection.clientId, connection);
    open(connection, request);
  };
});

afterEach(async () => {
  await service.stop();
  await Promise.all(clients.map((client) => client.close()));
  mock.restoreAll();
});

function relay(connection: ServiceConnection, message: Received): void {
  const { type, id, fields } = message;
  if (type === "ICE_SERVERS") return connection.refuse(message, 400, "not here");
  if (!type.startsWith("SIGNAL_")) return;
  relayed.put({ ...message, sender: connection.clientId });
  if (lost.has(type)) return;
  const { target_client_id, signal_data, ack } = fields as never as Signal;
  const target = connections.get(target_client_id!);
  if (target === undefined) return connection.refuse(message, 404, "no such client");
  const delivered = { target_client_id, sender_client_id: connection.clientId, signal_data };
  target.send(type as "SIGNAL_OFFER", delivered, id);
  if (ack) connection.send("SIGNAL_ACK", { status: "delivered" }, id);
}

async function makeCalls(name: string, options = {}): Promise<DirectCalls> {
  const client = new SignalClient(service.url, name, "t", { WebSocket });
  clients.push(client);
  await client.connect();
  return new DirectCalls(client, { RTCPeerConnection: FakePeer as never, ...options });
}

function incoming(calls: DirectCalls): Promise<DirectCall> {
  return soon(new Promise((resolve) => calls.on("incoming", ({ call }) => resolve(call))), "a call");
}

function next<Name extends keyof CallEvents>(call: DirectCall, name: Name): Promise<CallEvents[Name]> {
  return soon(new Promise<CallEvents[Name]>((resolve) => call.on(name, resolve)), `the event ${name}`);
}

/** Let the page's events come from here, until what is returned is called. */
function putPage(page: EventTarget): () => void {
  const place = globalThis as { addEventListener?: unknown };
  const before = place.addEventListener;
  place.addEventListener = page.addEventListener.bind(page);
  return () => (place.addEventListener = before);
}

async function connected(): Promise<{
  alice: DirectCall;
  bob: DirectCall;
  alicesCalls: DirectCalls;
  bobsCalls: DirectCalls;
}> {
  const alicesCalls = await makeCalls("alice");
  const bobsCalls = await makeCalls("bob");
  const ringing = incoming(bobsCalls);
  const alice = alicesCalls.dial("bob", makeStream("audio"));
  const bob = await ringing;
  const heard = Promise.all([next(alice, "track"), next(bob, "track")]);
  bob.answer(makeStream("audio"));
  await heard;
  await relayed.next("the answer", ({ type }) => type === "SIGNAL_ANSWER");
  return { alice, bob, alicesCalls, bobsCalls };
}

test("a call is dialled, answered, and carries tracks both ways", async () => {
  const { alice, bob, alicesCalls } = await connected();

  assert.equal(alice.id, bob.id);
  assert.equal(alicesCalls.active.get("bob"), alice);
  assert.deepEqual(
    FakePeer.all.map(({ signalingState }) => signalingState),
    ["stable", "stable"],
  );
  assert.ok(FakePeer.all.every(({ candidates }) => candidates.length > 0));
});

test("a caller without a stream asks for sound and picture", async () => {
  const alicesCalls = await makeCalls("alice");
  const bobsCalls = await makeCalls("bob");
  const ringing = incoming(bobsCalls);
  const alice = alicesCalls.dial("bob");
  const heard = next(alice, "track");

  (await ringing).answer(makeStream("video"));

  assert.equal((await heard).track.kind, "video");
});

test("a stream that is added later reaches the other side, and taking it away does not stop the call", async () => {
  const { alice, bob } = await connected();
  const heard = next(alice, "track");
  const screen = makeStream("video");

  bob.publish(screen);
  const { track } = await heard;
  bob.unpublish(screen);
  await relayed.next("the offer without it", ({ type, sender }) => type === "SIGNAL_OFFER" && sender === "bob");

  assert.ok(track);
  assert.equal(bob.isRinging, false);
});

test("offers that cross are settled: both sides end up stable in one call", async () => {
  const { alice, bob } = await connected();
  const heard = Promise.all([next(alice, "track"), next(bob, "track")]);

  alice.publish(makeStream("video"));
  bob.publish(makeStream("video"));
  await heard;

  await relayed.next("the last answer", ({ type }) => type === "SIGNAL_ANSWER");
  assert.ok(FakePeer.all.every(({ transceivers }) => transceivers.some(({ kind }) => kind === "video")));
});

test("two who dial each other at the same time end up in one call", async () => {
  const alicesCalls = await makeCalls("alice");
  const bobsCalls = await makeCalls("bob");

  let rings = 0;
  for (const calls of [alicesCalls, bobsCalls]) calls.on("incoming", () => (rings += 1));

  const alice = alicesCalls.dial("bob", makeStream("audio"));
  const bob = bobsCalls.dial("alice", makeStream("audio"));
  await Promise.all([next(alice, "track"), next(bob, "track")]);

  assert.equal(alice.id, bob.id);
  assert.equal(FakePeer.all.length, 2);
  assert.deepEqual([...alicesCalls.active.values(), ...bobsCalls.active.values()], [alice, bob]);
  assert.equal(rings, 0);
});

test("an answer that takes longer than its offer is waited for comes twice, and once does no harm", async () => {
  const alicesCalls = await makeCalls("alice");
  const bobsCalls = await makeCalls("bob");
  const held: (() => void)[] = [];
  let offers = 0;
  service.onMessage = (connection, message) => {
    if (message.type === "SIGNAL_ANSWER" && offers < 2) {
      held.push(() => relay(connection, message));
      return;
    }
    if (message.type === "SIGNAL_OFFER" && connection.clientId === "bob") offers += 1;
    relay(connection, message);
    if (offers === 2) for (const release of held.splice(0)) release();
  };
  const faults: Error[] = [];

  const alice = alicesCalls.dial("bob", makeStream("audio"));
  const bob = bobsCalls.dial("alice", makeStream("audio"));
  for (const call of [alice, bob]) call.on("error", ({ error }) => faults.push(error));
  await next(bob, "track");
  for (const which of ["first", "second"])
    await relayed.next(`the ${which} answer`, ({ type }) => type === "SIGNAL_ANSWER");
  alice.publish(makeStream("video"));
  await next(bob, "track");

  assert.deepEqual(faults, []);
  assert.equal(alice.id, bob.id);
});

test("hanging up ends the call on both sides", async () => {
  const { alice, bob, bobsCalls } = await connected();
  const over = next(bob, "closed");
  const messages: unknown[] = [];
  clients[1]!.on("message", ({ data }) => messages.push(data));

  alice.close();
  alice.close();

  assert.match((await over).reason, /the other side/);
  assert.equal(bobsCalls.active.size, 0);
  assert.ok(FakePeer.all.every(({ signalingState }) => signalingState === "closed"));
  assert.throws(() => alice.publish(makeStream("audio")), InvalidRequestError);
  assert.equal(messages.length, 1);
});

test("a call that is refused while it rings ends for the caller", async () => {
  const alicesCalls = await makeCalls("alice");
  const bobsCalls = await makeCalls("bob");
  const ringing = incoming(bobsCalls);
  const alice = alicesCalls.dial("bob", makeStream("audio"));
  const over = next(alice, "closed");

  (await ringing).close();

  await over;
  assert.equal(FakePeer.all.length, 1);
});

test("a late signal of a call that is over does not ring again", async () => {
  const { alice, bob, bobsCalls } = await connected();
  let rings = 0;
  bobsCalls.on("incoming", () => (rings += 1));
  const { id } = alice;
  alice.close();
  await next(bob, "closed");

  await clients[0]!.sendOffer("bob", { type: "offer", sdp: "[]", call_id: id }, { ack: true });
  await clients[0]!.sendOffer("bob", { type: "offer", sdp: "[]", call_id: "another" }, { ack: true });
  await relayed.next("both", ({ fields }) => (fields["signal_data"] as { call_id: string }).call_id === "another");
  await clients[1]!.sendMessage("alice", 1, { ack: true });

  assert.equal(rings, 1);
});

test("calling a client that is not there, or oneself", async () => {
  const calls = await makeCalls("alice");

  const call = calls.dial("nobody", makeStream("audio"));

  assert.throws(() => calls.dial("alice"), InvalidRequestError);
  assert.ok((await next(call, "closed")).error instanceof NotFoundError);
  assert.equal(calls.active.size, 0);
});

test("a call that the token does not allow ends with the service's word", async () => {
  const calls = await makeCalls("alice");
  service.onMessage = (connection, message) =>
    message.type === "ICE_SERVERS" ? relay(connection, message) : connection.refuse(message, 403, "not to bob");

  const { error } = await next(calls.dial("bob", makeStream("audio")), "closed");

  assert.ok(error instanceof ForbiddenError);
});

test("a call that nobody answers ends after a minute, on both sides", async () => {
  mock.timers.enable({ apis: ["setTimeout"] }); // before anything sets a timer that it would not clear
  const alicesCalls = await makeCalls("alice");
  const bobsCalls = await makeCalls("bob");
  const ringing = incoming(bobsCalls);
  const alice = alicesCalls.dial("bob", makeStream("audio"));
  await new Promise<void>((resolve) => bobsCalls.on("incoming", () => resolve()));
  const over = new Promise<string>((resolve) => alice.on("closed", ({ reason }) => resolve(reason)));

  mock.timers.tick(60_000);
  mock.timers.reset();

  assert.equal(await soon(over, "the end"), "nobody answered");
  assert.equal((await ringing).isRinging, false);
});

test("garbage from the other side is an error event, and the call goes on", async () => {
  const { alice, bob } = await connected();
  const errors: Error[] = [];
  alice.on("error", ({ error }) => errors.push(error));
  const enough = new Promise<void>((resolve) => alice.on("error", () => errors.length === 4 && resolve()));

  await clients[1]!.sendAnswer("alice", "words");
  await clients[1]!.sendOffer("alice", { type: "offer", sdp: 7 });
  await clients[1]!.sendAnswer("alice", { type: "answer", sdp: "[]" });
  await clients[1]!.sendIceCandidate("alice", null);
  await soon(enough, "four errors");
  const heard = next(bob, "track");
  alice.publish(makeStream("video"));

  await heard;
});

test("candidates of an unknown call are dropped", async () => {
  const alicesCalls = await makeCalls("alice");
  await makeCalls("bob");

  await clients[1]!.sendIceCandidate("alice", { candidate: "c" }, { ack: true });
  await clients[1]!.sendMessage("alice", { direct_call_ended: "x".repeat(1000) }, { ack: true });

  assert.equal(alicesCalls.active.size, 0);
});

test("a connection that fails is restarted twice, with new credentials, and then the call is over", async () => {
  const { alice } = await connected();
  const over = next(alice, "closed");
  const states: string[] = [];
  alice.on("state", ({ state }) => states.push(state));
  const peer = FakePeer.all[0]!;
  let asked = 0;
  service.onMessage = (connection, message) => {
    if (message.type !== "ICE_SERVERS") return relay(connection, message);
    asked += 1;
    const server = { urls: ["turn:t.example"], username: `u${asked}`, credential: "c" };
    connection.send("ICE_SERVERS_ACK", { ice_servers: [server] }, message.id);
  };

  for (const [restarts, state] of [
    [1, "failed"],
    [1, "connected"],
    [2, "failed"],
    [3, "failed"],
  ] as const) {
    peer.become(state);
    while (peer.restarts < restarts) await new Promise((resolve) => setTimeout(resolve, 5));
    assert.equal(peer.configuration.iceServers?.[0]?.username, `u${restarts}`);
  }
  peer.become("failed");

  assert.ok((await over).error instanceof UnavailableError);
  assert.equal(peer.restarts, 3);
  assert.deepEqual(states, ["failed", "connected", "failed", "failed", "failed"]);
});

test("an offer that was lost with the connection is sent again", async () => {
  const { alice, bob } = await connected();
  lost.add("SIGNAL_OFFER");
  alice.publish(makeStream("video"));
  await relayed.next("the lost offer", ({ type, sender }) => type === "SIGNAL_OFFER" && sender === "alice");
  lost.clear();
  const heard = next(bob, "track");

  connections.get("alice")!.socket.terminate();

  assert.equal((await heard).track.kind, "video");
});

test("at most sixteen calls ring at the same time", async () => {
  const bobsCalls = await makeCalls("bob");
  let rings = 0;
  bobsCalls.on("incoming", () => (rings += 1));
  const bob = connections.get("bob")!;

  for (let n = 0; n < 20; n += 1) {
    bob.send("SIGNAL_OFFER", {
      target_client_id: "bob",
      sender_client_id: `caller-${n}`,
      signal_data: { type: "offer", sdp: "[]" },
    });
  }
  bob.send("SIGNAL_MESSAGE", { target_client_id: "bob", sender_client_id: "alice", signal_data: "after these" });
  await soon(new Promise((resolve) => clients[0]!.on("message", resolve)), "the last message");

  assert.equal(rings, 16);
  bobsCalls.close();
  assert.equal(bobsCalls.active.size, 0);
});

test("muting a call switches what is sent", async () => {
  const { alice } = await connected();
  const sent = FakePeer.all[0]!.getSenders()[0]!.track!;

  alice.mute("video");
  assert.equal(sent.enabled, true);
  alice.mute();
  assert.equal(sent.enabled, false);
  alice.unmute("audio");
  assert.equal(sent.enabled, true);
});

test("closing the client ends its calls", async () => {
  const { alice } = await connected();
  const over = next(alice, "closed");
  const connection = connections.get("alice")!;
  void connection.next("DISCONNECT").then(() => connection.socket.close(1000));

  await clients[0]!.close();

  assert.match((await over).reason, /client is closed/);
});

test("ICE servers that are passed are used, and the service is not asked", async () => {
  const calls = await makeCalls("alice", { iceServers: [{ urls: ["stun:mine.example"] }] });
  await makeCalls("bob");

  calls.dial("bob", makeStream("audio"));

  assert.deepEqual((await relayed.next("the offer")).sender, "alice");
  assert.deepEqual(FakePeer.all[0]!.configuration.iceServers, [{ urls: ["stun:mine.example"] }]);
});

test("without an RTCPeerConnection a call ends with what is missing", async () => {
  const calls = await makeCalls("alice", { RTCPeerConnection: undefined });
  await makeCalls("bob");

  const { error } = await next(calls.dial("bob"), "closed");

  assert.match(String(error), /no global RTCPeerConnection/);
});

test("a service that cannot name ICE servers just now ends the call", async () => {
  const calls = await makeCalls("alice");
  service.onMessage = (connection, message) => connection.refuse(message, 503, "draining");

  const { error } = await next(calls.dial("bob"), "closed");

  assert.ok(error instanceof UnavailableError);
});

test("a target that the service calls offline ends the call", async () => {
  const calls = await makeCalls("alice");
  service.onMessage = (connection, message) => {
    if (message.type === "SIGNAL_OFFER") connection.send("SIGNAL_ACK", { status: "offline" }, message.id);
    else relay(connection, message);
  };

  const { error } = await next(calls.dial("bob"), "closed");

  assert.ok(error instanceof NotFoundError);
});

test("a call rings once, is answered once, and is over once", async () => {
  const { alice, bob, bobsCalls } = await connected();
  let ends = 0;
  bob.on("closed", () => (ends += 1));

  assert.throws(() => bob.answer(), InvalidRequestError);
  bobsCalls.close();
  bob.close();
  await next(alice, "closed");

  assert.equal(ends, 1);
  assert.throws(() => bob.mute(), InvalidRequestError);
});

test("an offer that the browser cannot make ends the call on both sides", async () => {
  const { alice, bob } = await connected();
  const over = next(bob, "closed");
  mock.method(FakePeer.all[0]!, "setLocalDescription", () => Promise.reject(new Error("no codec")));

  alice.publish(makeStream("video"));

  await over;
  assert.equal(alice.isRinging, false);
});

test("an unanswered call keeps its caller's candidates, within bounds", async () => {
  const bobsCalls = await makeCalls("bob");
  const bob = connections.get("bob")!;
  const ringing = incoming(bobsCalls);
  const from = { target_client_id: "bob", sender_client_id: "carol" };

  bob.send("SIGNAL_OFFER", { ...from, signal_data: { type: "offer", sdp: "[]" } });
  for (let n = 0; n < 300; n += 1) bob.send("SIGNAL_ICE_CANDIDATE", { ...from, signal_data: { candidate: `c${n}` } });
  bob.send("SIGNAL_MESSAGE", { ...from, signal_data: "after these" });
  await soon(new Promise((resolve) => clients[0]!.on("message", resolve)), "the last message");
  (await ringing).answer();
  await relayed.next("the answer", ({ type }) => type === "SIGNAL_ANSWER");
  await new Promise(setImmediate);

  assert.equal(FakePeer.all[0]!.candidates.length, 255);
});

test("a peer that reloads ends the old call at once with its next dial, and its late signals count no more", async () => {
  const { bob, bobsCalls } = await connected();
  const goneInstance = bob.peerInstance;
  const ended = next(bob, "closed");
  const ringing = incoming(bobsCalls);

  const reloaded = await makeCalls("alice");
  const again = reloaded.dial("bob", makeStream("audio"));

  assert.equal((await ended).reason, "the other side began anew");
  const anew = await ringing;
  const heard = next(again, "track");
  anew.answer(makeStream("audio"));
  await heard;
  let happened = 0;
  bobsCalls.on("incoming", () => (happened += 1));
  for (const event of ["closed", "error"] as const) anew.on(event, () => (happened += 1));
  const lateSignal = { type: "offer", sdp: "no SDP", call_id: "late", instance_id: goneInstance };
  await clients[0]!.sendOffer("bob", lateSignal);
  await clients[0]!.sendAnswer("bob", lateSignal);
  const isThrough = soon(new Promise((resolve) => clients[1]!.on("message", resolve)), "the last message");
  await clients[0]!.sendMessage("bob", "after these");
  await isThrough;
  await new Promise(setImmediate);

  assert.ok(goneInstance);
  assert.equal(happened, 0);
  assert.equal(bobsCalls.active.get("alice"), anew);
});

test("a caller that reloads while it rings rings anew, and its old call is over", async () => {
  const alicesCalls = await makeCalls("alice");
  const bobsCalls = await makeCalls("bob");
  const first = incoming(bobsCalls);
  alicesCalls.dial("bob", makeStream("audio"));
  const over = next(await first, "closed");
  const second = incoming(bobsCalls);

  const reloaded = await makeCalls("alice");
  const dialled = reloaded.dial("bob", makeStream("audio"));

  assert.equal((await over).reason, "the other side began anew");
  const heard = next(dialled, "track");
  (await second).answer(makeStream("audio"));
  await heard;
  assert.deepEqual([...bobsCalls.active.values()], [await second]);
});

test("dialling again replaces a call that nobody answers, and no other", async () => {
  const alicesCalls = await makeCalls("alice");
  const bobsCalls = await makeCalls("bob");
  const first = incoming(bobsCalls);
  const unanswered = alicesCalls.dial("bob", makeStream("audio"));
  const over = Promise.all([next(unanswered, "closed"), next(await first, "closed")]);
  const second = incoming(bobsCalls);

  const dialled = alicesCalls.dial("bob", makeStream("audio"));

  await over;
  const heard = next(dialled, "track");
  (await second).answer(makeStream("audio"));
  await heard;
  assert.throws(() => alicesCalls.dial("bob"), InvalidRequestError);
});

test("dialling again replaces a call in which nothing comes any more, before the browser says so", async () => {
  const { alice, alicesCalls, bobsCalls } = await connected();
  const [peer] = FakePeer.all;
  peer!.become("connected");
  const now = performance.timeOrigin + performance.now();
  for (const heardAt of [[], [now], [now - 60_000, now]]) {
    peer!.heardAt = heardAt; // nothing to tell it from, or something that came just now
    assert.throws(() => alicesCalls.dial("bob"), InvalidRequestError);
  }
  const over = next(alice, "closed");
  const ringing = incoming(bobsCalls);
  peer!.heardAt = [now - 60_000, now - 2000];

  const dialled = alicesCalls.dial("bob", makeStream("audio"));

  assert.equal((await over).reason, "closed");
  const heard = next(dialled, "track");
  (await ringing).answer(makeStream("audio"));
  await heard;
  assert.deepEqual([...alicesCalls.active.values()], [dialled]);
});

test("calling a client that is calling here answers its call", async () => {
  const alicesCalls = await makeCalls("alice");
  const bobsCalls = await makeCalls("bob");
  const ringing = incoming(bobsCalls);
  const alice = alicesCalls.dial("bob", makeStream("audio"));
  await ringing;
  const heard = Promise.all([next(alice, "track"), next(await ringing, "track")]);

  const bob = bobsCalls.dial("alice", makeStream("audio"));

  await heard;
  assert.equal(bob, await ringing);
  assert.equal(FakePeer.all.length, 2);
});

test("a page that goes says good-bye to all it talks to", async () => {
  const page = new EventTarget();
  const restore = putPage(page);
  const alicesCalls = await makeCalls("alice");
  restore();
  const bobsCalls = await makeCalls("bob");
  const ringing = incoming(bobsCalls);
  alicesCalls.dial("bob", makeStream("audio"));
  const over = next(await ringing, "closed");

  page.dispatchEvent(new Event("pagehide"));

  assert.equal(alicesCalls.active.size, 0); // at once, since nothing of a page runs later
  assert.equal((await over).reason, "the other side ended it");
  assert.equal(bobsCalls.active.size, 0);
});

test("an offer that crossed another one is not said again once its call is over", async () => {
  const bobsCalls = await makeCalls("bob");
  await makeCalls("alice");
  lost.add("SIGNAL_OFFER");
  const bob = bobsCalls.dial("alice", makeStream("audio"));
  await relayed.next("bob's offer", ({ type }) => type === "SIGNAL_OFFER");
  const made = mock.method(globalThis, "setTimeout");
  const cleared = mock.method(globalThis, "clearTimeout");
  const repetitions = (): unknown[] =>
    made.mock.calls.filter(({ arguments: [, ms] }) => ms === 1000).map(({ result }) => result);
  connections.get("bob")!.send("SIGNAL_OFFER", {
    target_client_id: "bob",
    sender_client_id: "alice",
    signal_data: { type: "offer", sdp: "[]", call_id: "another" },
  });
  for (let turn = 0; turn < 500 && repetitions().length === 0; turn += 1)
    await new Promise((resolve) => setTimeout(resolve, 2));

  bob.close();

  assert.equal(repetitions().length, 1);
  assert.ok(cleared.mock.calls.some(({ arguments: [timer] }) => timer === repetitions()[0]));
});

test("the side that reloaded dials into the other's unanswered call, and they meet", async () => {
  const bobsCalls = await makeCalls("bob");
  lost.add("SIGNAL_OFFER"); // it went to the page that is gone
  connections.set("alice", connections.get("bob")!);
  const bob = bobsCalls.dial("alice", makeStream("audio"));
  await relayed.next("bob's offer", ({ type }) => type === "SIGNAL_OFFER");
  lost.clear();

  const alicesCalls = await makeCalls("alice");
  const heard = Promise.all([next(bob, "track")]);
  alicesCalls.dial("bob", makeStream("audio"));

  await heard;
});
