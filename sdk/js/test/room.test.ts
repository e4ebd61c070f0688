/** `Room` on real WebSockets, a fake SFU and fake peer connections. */

import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import { afterEach, beforeEach, mock, test } from "node:test";

import { WebSocket } from "ws";

import { SignalClient } from "../src/client.js";
import { releaseDevice, restoreDevice } from "../src/devices.js";
import { ConflictError, ForbiddenError, InvalidRequestError, MediaBackendError, NotFoundError } from "../src/errors.js";
import { MAX_ITEMS } from "../src/fields.js";
import { encode } from "../src/frames.js";
import { makeId } from "../src/ids.js";
import type { JoinOptions, Room, RoomEvents } from "../src/room.js";
import { FakePeer, makeStream, type FakeTrack } from "./peer.js";
import { FakeRooms, refuse, type Fault } from "./rooms.js";
import { Inbox, TestService, soon, type Received } from "./service.js";

let service: TestService;
let sfu: FakeRooms;
let clients: SignalClient[];

beforeEach(async () => {
  mock.method(Math, "random", () => 0); // no waiting between attempts
  service = await TestService.start();
  sfu = new FakeRooms(service);
  clients = [];
  FakePeer.all = [];
});

afterEach(async () => {
  await service.stop();
  await Promise.all(clients.map((client) => client.close()));
  mock.restoreAll();
  assert.equal(sfu.overlaps, 0);
});

async function makeClient(name: string): Promise<SignalClient> {
  const client = new SignalClient(service.url, name, "t", { WebSocket });
  clients.push(client);
  await client.connect();
  return client;
}

async function join(name: string, options: JoinOptions = {}): Promise<Room> {
  return (await makeClient(name)).join("demo", { create: true, RTCPeerConnection: FakePeer as never, ...options });
}

/** What happens in a room from now on, as words. */
function listen(room: Room): Inbox<string> {
  const heard = new Inbox<string>();
  room.on("participant-joined", ({ participant }) => heard.put(`+${participant.clientId}`));
  room.on("participant-left", ({ participant }) => heard.put(`-${participant.clientId}`));
  room.on("participant-away", ({ participant: { clientId, away } }) => heard.put(`away ${clientId} ${away}`));
  room.on("participant-back", ({ participant: { clientId, away } }) => heard.put(`back ${clientId} ${away}`));
  room.on("participant-changed", ({ participant }) => heard.put(`~${participant.clientId}`));
  room.on("track", ({ participant, name }) => heard.put(`track ${participant.clientId} ${name}`));
  room.on("track-removed", ({ participant, name }) => heard.put(`removed ${participant.clientId} ${name}`));
  room.on("reconnecting", () => heard.put("reconnecting"));
  room.on("reconnected", () => heard.put("reconnected"));
  room.on("error", ({ clientId, name }) => heard.put(`error ${clientId} ${name}`));
  room.on("closed", ({ reason }) => heard.put(`closed ${reason}`));
  return heard;
}

function hear(heard: Inbox<string>, ...words: string[]): Promise<string[]> {
  return words.reduce<Promise<string[]>>(
    async (before, word) => [...(await before), await heard.next(word, (each) => each === word)],
    Promise.resolve([]),
  );
}

function nextEvent<Name extends keyof RoomEvents>(room: Room, name: Name): Promise<RoomEvents[Name]> {
  return soon(new Promise<RoomEvents[Name]>((resolve) => room.on(name, resolve)), `the event ${name}`);
}

function peerOf(index: number): FakePeer {
  return FakePeer.all[index]!;
}

const silence: Fault = () => undefined;

test("two members hear of each other and receive each other's tracks", async () => {
  const alice = await join("alice", { metadata: { name: "Alice" } });
  const aliceHears = listen(alice);
  const bob = await join("bob", { metadata: { name: "Bob" } });
  const bobHears = listen(bob);

  await alice.publish(makeStream("audio", "video"));
  await bob.publish(makeStream("video"));

  await hear(aliceHears, "+bob", "track bob video");
  await hear(bobHears, "track alice audio", "track alice video");
  const seen = bob.participants.get("alice");
  assert.deepEqual([seen?.clientId, seen?.metadata], ["alice", { name: "Alice" }]);
  assert.equal(seen?.tracks.get("video")?.track?.kind, "video");
  assert.equal(bob.participants.has("bob"), false);
});

test("listeners added after join miss no track of those that were there before", async () => {
  await (await join("alice")).publish(makeStream("audio", "video"));

  const bob = await join("bob");
  const heard = listen(bob);

  await hear(heard, "track alice audio", "track alice video");
  assert.deepEqual([...bob.participants.keys()], ["alice"]);
  assert.equal(sfu.count("TRACKS_NEW"), 1); // alice's own: bob's came with the welcome
});

test("a sender publishes as part of joining, and pulls what is there", async () => {
  await (await join("alice")).publish(makeStream("audio"));

  const bob = await join("bob", { stream: makeStream("video") });
  const heard = listen(bob);

  await hear(heard, "track alice audio");
  const request = await sfu.requests.next(
    "bob's join",
    ({ client, type }) => client === "bob" && type === "WEBRTC_ROOM_JOIN",
  );
  assert.equal(request.fields["role"], "sender");
  assert.deepEqual(request.fields["tracks"], [{ mid: "0", track_name: "video", kind: "video" }]);
  assert.deepEqual(peerOf(1).configuration.iceServers, [{ urls: ["stun:s.example"] }]);
});

test("a sender without a stream, a bad room name and an unknown room are refused", async () => {
  const client = await makeClient("alice");

  await assert.rejects(client.join("demo", { role: "sender" }), InvalidRequestError);
  await assert.rejects(client.join("a/b"), InvalidRequestError);
  await assert.rejects(client.join("demo"), NotFoundError);
  await assert.rejects(client.join("demo", { create: true, stream: makeStream() }), InvalidRequestError);
});

test("without an RTCPeerConnection joining fails clearly, and the membership is given back", async () => {
  const client = await makeClient("alice");

  await assert.rejects(client.join("demo", { create: true }), /no global RTCPeerConnection/);
});

test("a room that is missing is made by the request that joins it", async () => {
  await join("alice", { maxParticipants: 5 });

  const asked = await sfu.requests.next("alice's join", ({ type }) => type === "WEBRTC_ROOM_JOIN");
  assert.equal(asked.fields["create_if_missing"], true);
  assert.equal(asked.fields["max_participants"], 5);
  assert.equal(sfu.count("WEBRTC_ROOM_JOIN"), 1);
  assert.equal(sfu.count("WEBRTC_ROOM_CREATE"), 0);
});

test("with a service that cannot make a room while joining, it is created", async () => {
  sfu.createsIfMissing = false;

  const alice = await join("alice");

  assert.equal(alice.state, "joined");
  assert.equal(sfu.count("WEBRTC_ROOM_CREATE"), 1);
});

test("with such a service, a room that another client creates at the same time is joined", async () => {
  await join("alice");
  sfu.fail("WEBRTC_ROOM_JOIN", refuse(404));

  const bob = await join("bob");

  assert.deepEqual([...bob.participants.keys()], ["alice"]);
});

test("a token that may join but not create is told so", async () => {
  sfu.createsIfMissing = false;
  sfu.fail("WEBRTC_ROOM_CREATE", refuse(403));

  await assert.rejects(join("alice"), ForbiddenError);
});

test("a second membership of the same client is refused and harms the first one nothing", async () => {
  const alice = await join("alice");

  await assert.rejects(clients[0]!.join("demo", { RTCPeerConnection: FakePeer as never }), ConflictError);

  assert.equal(alice.state, "joined");
  assert.equal(sfu.count("WEBRTC_ROOM_LEAVE"), 0);
});

test("joining can be given up, and the service is told", async () => {
  await join("bob");
  const controller = new AbortController();
  sfu.fail("WEBRTC_ROOM_JOIN", () => controller.abort(new Error("changed my mind")));

  await assert.rejects(join("alice", { signal: controller.signal }), /changed my mind/);

  assert.equal(sfu.count("WEBRTC_ROOM_LEAVE"), 1);
});

test("leaving tells the others, ends the peer connection and is the last event", async () => {
  const alice = await join("alice");
  const bob = await join("bob");
  await bob.publish(makeStream("video"));
  const aliceHears = listen(alice);
  const bobHears = listen(bob);
  await hear(aliceHears, "track bob video");

  await bob.leave("bye");
  await bob.leave();

  await hear(aliceHears, "removed bob video", "-bob");
  await hear(bobHears, "closed left");
  assert.equal(bob.state, "closed");
  assert.equal(peerOf(1).signalingState, "closed");
  assert.equal(alice.participants.size, 0);
  await assert.rejects(bob.publish(makeStream("video")), InvalidRequestError);
});

test("negotiations asked for at the same time wait for each other", async () => {
  const alice = await join("alice");
  const bob = await join("bob");
  const heard = listen(bob);
  const aliceHears = listen(alice);
  const streams = [makeStream("audio", "video"), makeStream("video"), makeStream("audio")];

  await Promise.all([
    ...streams.map((stream) => alice.publish(stream)),
    bob.publish(makeStream("audio", "video")),
    bob.publish(makeStream("video"), { name: "screen" }),
  ]);

  await hear(heard, "track alice audio");
  await hear(aliceHears, "track bob screen-video");
  assert.deepEqual(
    sfu.member("demo", "alice").tracks.map(({ track_name }) => track_name),
    ["audio", "video", "video-2", "audio-2"],
  );
});

test("unpublishing closes the tracks by negotiation, and the others drop theirs", async () => {
  const alice = await join("alice");
  const bob = await join("bob");
  const heard = listen(bob);
  const stream = makeStream("audio", "video");
  await alice.publish(stream);
  await hear(heard, "track alice audio", "track alice video");

  await alice.unpublish(stream);

  await hear(heard, "removed alice audio", "removed alice video");
  assert.deepEqual(sfu.member("demo", "alice").tracks, []);
  await sfu.requests.next("bob's closing", ({ client, type }) => client === "bob" && type === "TRACKS_CLOSE");
  assert.equal(bob.participants.get("alice")?.tracks.size, 0);
});

test("a track that the SFU refuses rejects publish, and nothing of its stream stays published", async () => {
  const alice = await join("alice");
  sfu.badTracks.set("video", 502);

  await assert.rejects(alice.publish(makeStream("audio", "video")), MediaBackendError);

  assert.deepEqual(sfu.member("demo", "alice").tracks, []);
  sfu.badTracks.clear();
  await alice.publish(makeStream("audio", "video"));
});

test("a refused publish leaves the connection fit for the next one", async () => {
  const alice = await join("alice");
  sfu.fail("TRACKS_NEW", refuse(403, "may not publish"));

  await assert.rejects(alice.publish(makeStream("video")), ForbiddenError);
  await alice.publish(makeStream("audio"));

  assert.equal(FakePeer.all.length, 1);
  assert.equal(peerOf(0).signalingState, "stable");
});

test("a busy service is asked again", async () => {
  const alice = await join("alice");
  sfu.fail("TRACKS_NEW", refuse(429));
  sfu.fail("TRACKS_NEW", refuse(429));

  await alice.publish(makeStream("video"));

  assert.equal(sfu.count("TRACKS_NEW"), 3);
});

test("unpublishing before it was published rejects publish and leaves nothing behind", async () => {
  const alice = await join("alice");
  const stream = makeStream("video");

  const publishing = alice.publish(stream);
  const unpublishing = alice.unpublish(stream);

  await publishing.catch((error) => assert.ok(error instanceof InvalidRequestError));
  await unpublishing;
  assert.deepEqual(sfu.member("demo", "alice").tracks, []);
});

test("mute and unmute switch what is sent, by kind or all", async () => {
  const alice = await join("alice");
  const stream = makeStream("audio", "video");
  await alice.publish(stream);
  const enabled = (): boolean[] => stream.getTracks().map((track) => track.enabled);

  alice.mute("audio");
  assert.deepEqual(enabled(), [false, true]);
  alice.mute();
  assert.deepEqual(enabled(), [false, false]);
  alice.unmute();
  assert.deepEqual(enabled(), [true, true]);
});

test("without autoPull nothing is received until it is asked for", async () => {
  const alice = await join("alice");
  await alice.publish(makeStream("audio", "video"));
  const bob = await join("bob", { autoPull: false });
  const heard = listen(bob);
  await sfu.requests.next("bob's closing", ({ client, type }) => client === "bob" && type === "TRACKS_CLOSE");

  bob.pull("alice", "video");

  await hear(heard, "track alice video");
  assert.equal(bob.participants.get("alice")?.tracks.get("audio")?.track, null);
  assert.throws(() => bob.pull("alice", "screen"), NotFoundError);
  assert.throws(() => bob.pull("carol", "video"), NotFoundError);
});

test("a track that cannot be pulled is an error event, and the others are received", async () => {
  const alice = await join("alice");
  const bob = await join("bob");
  const heard = listen(bob);
  sfu.badTracks.set("video", 404);

  const publishing = alice.publish(makeStream("audio", "video"));
  sfu.badTracks.delete("video");
  await publishing;
  sfu.badTracks.set("video-2", 404);
  await hear(heard, "track alice audio");
  sfu.announce("demo", {
    event: "tracks_published",
    participant: sfu.describe("demo", "alice"),
    tracks: [{ mid: "9", track_name: "video-2", kind: "video" }],
  });

  await hear(heard, "error alice video-2");
});

test("a track that is not sending yet is asked for again, three times", async () => {
  const alice = await join("alice");
  const bob = await join("bob");
  const heard = listen(bob);
  await alice.publish(makeStream("audio"));
  await hear(heard, "track alice audio");
  const before = sfu.count("TRACKS_NEW");
  sfu.badTracks.set("late", 425);

  sfu.announce("demo", {
    event: "tracks_published",
    participant: sfu.describe("demo", "alice"),
    tracks: [{ mid: "9", track_name: "late", kind: "video" }],
  });

  await hear(heard, "error alice late");
  assert.equal(sfu.count("TRACKS_NEW"), before + 3);
});

test("a pull that the SFU passes over in silence is given up rather than repeated for ever", async () => {
  const alice = await join("alice");
  const bob = await join("bob");
  const heard = listen(bob);
  sfu.fail("TRACKS_NEW", (connection, request) => {
    sfu.fail("TRACKS_NEW", (other, pull) => other.send("TRACKS_NEW_ACK", { tracks: [] }, pull.id));
    const { offer_sdp } = request.fields;
    connection.send("TRACKS_NEW_ACK", { tracks: [{ mid: "0" }], answer_sdp: offer_sdp as string }, request.id);
    const tracks = [{ mid: "0", track_name: "audio", kind: "audio" } as const];
    sfu.announce("demo", { event: "tracks_published", participant: sfu.describe("demo", "alice"), tracks });
  });

  await alice.publish(makeStream("audio"));

  await hear(heard, "error alice audio");
});

test("metadata and members that change are heard of", async () => {
  const alice = await join("alice");
  const heard = listen(alice);
  await join("bob");
  await hear(heard, "+bob");

  sfu.member("demo", "bob").metadata = { hand: "up" };
  sfu.announce("demo", { event: "metadata_changed", participant: sfu.describe("demo", "bob") });

  await hear(heard, "~bob");
  assert.deepEqual(alice.participants.get("bob")?.metadata, { hand: "up" });
});

test("members are away and back, by events and by the whole state", async () => {
  const alice = await join("alice");
  const bob = await join("bob");
  const heard = listen(alice);
  await bob.publish(makeStream("video"));
  await hear(heard, "track bob video");
  const track = alice.participants.get("bob")?.tracks.get("video");

  const participant = { ...sfu.describe("demo", "bob"), away: true };
  sfu.announce("demo", { event: "participant_away", participant });
  await hear(heard, "away bob true");
  assert.equal(alice.participants.get("bob")?.tracks.get("video"), track);

  sfu.announce("demo", { event: "participant_back", participant: sfu.describe("demo", "bob") }, false);
  sfu.announce("demo", { event: "metadata_changed" });
  await hear(heard, "back bob false");
  assert.equal(alice.participants.get("bob")?.tracks.get("video"), track);
});

test("a missing event is made good by reading the whole room", async () => {
  const alice = await join("alice");
  const heard = listen(alice);
  const bob = await join("bob");
  await bob.publish(makeStream("video"));
  await hear(heard, "track bob video");

  const { connection } = sfu.member("demo", "bob");
  const carol = { ...sfu.member("demo", "bob"), tracks: [], connection };
  sfu.rooms.get("demo")!.members.set("carol", carol);
  sfu.announce("demo", { event: "participant_joined", participant: sfu.describe("demo", "carol") }, false);
  sfu.member("demo", "bob").tracks = [];
  sfu.announce("demo", { event: "metadata_changed", participant: sfu.describe("demo", "bob") });

  await hear(heard, "+carol");
  assert.equal(sfu.count("ROOM_STATE") >= 1, true);
  assert.deepEqual([...alice.participants.keys()], ["bob", "carol"]);
  assert.equal(alice.participants.get("bob")?.tracks.size, 0);
  sfu.rooms.get("demo")!.members.delete("carol");
});

test("an event that comes twice or late changes nothing", async () => {
  const alice = await join("alice");
  await join("bob");
  const heard = listen(alice);
  const { connection } = sfu.member("demo", "alice");
  const participant = sfu.describe("demo", "bob");

  connection.send("ROOM_EVENT", { room_id: "demo", sequence: 1, event: "participant_left", participant });
  connection.send("ROOM_EVENT", { room_id: "other", sequence: 9, event: "participant_left", participant });
  sfu.announce("demo", { event: "metadata_changed", participant });

  assert.equal(await heard.next("the first event", (word) => word !== "+bob"), "~bob");
});

test("an event that cannot be read is made good like one that is missing", async () => {
  const alice = await join("alice");
  const heard = listen(alice);
  const { connection } = sfu.member("demo", "alice");
  const room = sfu.rooms.get("demo")!;

  room.sequence += 1;
  const bytes = Buffer.from(
    encode("v2", "ROOM_EVENT", makeId(), { room_id: "demo", sequence: 2, event: "room_closed" }),
  );
  connection.socket.send(Buffer.from(bytes.toString("latin1").replace('"room_closed"', "1234567890123"), "latin1"));
  await join("bob");

  await hear(heard, "+bob");
  assert.equal(sfu.count("ROOM_STATE"), 1);
});

test("an SFU that lost this member's media session makes it join again", async () => {
  const alice = await join("alice");
  await alice.publish(makeStream("video"));
  const heard = listen(alice);

  const participant = sfu.describe("demo", "alice");
  sfu.announce("demo", { event: "tracks_unpublished", participant, tracks: [], reason: "media session lost" });

  await hear(heard, "reconnecting", "reconnected");
});

test("a room that is closed closes here", async () => {
  const alice = await join("alice");
  const heard = listen(alice);

  sfu.announce("demo", { event: "room_closed", reason: "expired" });

  await hear(heard, "closed expired");
  assert.equal(peerOf(0).signalingState, "closed");
});

test("being removed from the room closes it, without another attempt", async () => {
  const alice = await join("alice");
  const heard = listen(alice);

  sfu.announce("demo", { event: "participant_left", participant: sfu.describe("demo", "alice"), reason: "removed" });

  await hear(heard, "closed removed");
  assert.equal(sfu.count("WEBRTC_ROOM_JOIN"), 1);
});

test("when the peer connection fails everything flows again over a new one", async () => {
  const alice = await join("alice");
  const bob = await join("bob", { stream: makeStream("video") });
  await alice.publish(makeStream("audio"));
  const aliceHears = listen(alice);
  const bobHears = listen(bob);
  await hear(bobHears, "track alice audio");

  peerOf(1).become("failed");

  await hear(bobHears, "reconnecting", "reconnected", "removed alice audio", "track alice audio");
  await hear(aliceHears, "removed bob video", "track bob video");
  assert.equal(peerOf(1).signalingState, "closed");
  assert.equal(bob.state, "joined");
});

test("a disconnected peer connection has three seconds to recover", async () => {
  const alice = await join("alice");
  const heard = listen(alice);
  mock.timers.enable({ apis: ["setTimeout"] });

  peerOf(0).become("disconnected");
  mock.timers.tick(2999);
  peerOf(0).become("connected");
  mock.timers.tick(3000);
  assert.equal(alice.state, "joined");
  peerOf(0).become("disconnected");
  mock.timers.tick(3000);
  assert.equal(alice.state, "reconnecting");
  mock.timers.reset();

  await hear(heard, "reconnecting");
});

test("a media session that failed is replaced behind the same membership: others see a pause", async () => {
  const [alice, bob] = [await join("alice"), await join("bob")];
  const heard = listen(bob);
  const own = listen(alice);
  await alice.publish(makeStream("video", "audio"));
  await hear(heard, "track alice video", "track alice audio");
  const before = bob.participants.get("alice")!.tracks.get("video")!.track;

  peerOf(0).become("failed");

  await hear(own, "reconnecting", "reconnected");
  await hear(heard, "removed alice video", "track alice video", "removed alice audio", "track alice audio");
  assert.notEqual(bob.participants.get("alice")!.tracks.get("video")!.track, before);
  assert.equal(sfu.count("WEBRTC_ROOM_LEAVE"), 0);
  assert.equal(sfu.overlaps, 0);
});

test("ICE is restarted when the application says so, and what is received is received again", async () => {
  const [alice, bob] = [await join("alice"), await join("bob")];
  await alice.publish(makeStream("video"));
  const heard = listen(bob);
  await hear(heard, "track alice video");

  bob.restartIce();

  await hear(heard, "reconnecting", "reconnected", "removed alice video", "track alice video");
  assert.equal(bob.state, "joined");
  assert.equal(sfu.count("WEBRTC_ROOM_LEAVE"), 0);
});

test("a replaced media session that publishes less ends the rest for the others", async () => {
  const [alice, bob] = [await join("alice"), await join("bob")];
  await alice.publish(makeStream("video", "audio"));
  const heard = listen(bob);
  await hear(heard, "track alice video", "track alice audio");
  const { tracks } = sfu.member("demo", "alice");

  const participant = { ...sfu.describe("demo", "alice"), session_id: "new", tracks: [] };
  const coming = tracks.filter(({ kind }) => kind === "audio");
  sfu.announce("demo", { event: "media_replaced", participant, tracks: coming });

  await hear(heard, "removed alice video");
  assert.deepEqual([...bob.participants.get("alice")!.tracks.keys()], ["audio"]);
  assert.equal(alice.state, "joined");
});

test("a pull that brings the former media session of a publisher is stale, and done again", async () => {
  const [alice, bob] = [await join("alice"), await join("bob", { autoPull: false })];
  const heard = listen(bob);
  await alice.publish(makeStream("video"));
  sfu.fail("TRACKS_NEW", (connection, request) => {
    const member = sfu.member("demo", "alice");
    const former = member.sessionId;
    member.sessionId = "next";
    const { tracks } = member;
    for (const event of ["media_replaced", "tracks_published"] as const) {
      sfu.announce("demo", { event, participant: sfu.describe("demo", "alice"), tracks });
    }
    member.sessionId = former;
    service.onMessage(connection, request);
    member.sessionId = "next";
  });

  const isThere = (): boolean => bob.participants.get("alice")!.tracks.has("video");
  while (!isThere()) await new Promise((resolve) => setTimeout(resolve, 5));
  bob.pull("alice", "video");

  await hear(heard, "track alice video");
  assert.equal(sfu.count("TRACKS_NEW"), 1 + 2 + 1); // alice's, and bob's, of which the first is counted twice
  assert.equal(sfu.count("TRACKS_CLOSE"), 1);
});

/** Lose the connection of a client that is in the room, and wait until its session goes on. */
async function reconnect(name: string): Promise<void> {
  const client = clients.find(({ clientId }) => clientId === name)!;
  const back = new Promise((resolve) => client.on("reconnected", resolve));
  sfu.member("demo", name).connection.socket.terminate();
  await soon(back, "the next connection");
}

async function until(condition: () => boolean): Promise<void> {
  const waiting = async (): Promise<void> => {
    while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  await soon(waiting(), "the condition");
}

test("after a reconnect a silent path is lost where something is sent or received, and nowhere else", async () => {
  sfu.resumeSessions(service);
  const alice = await join("alice");
  const heard = listen(alice);
  peerOf(0).become("connected");

  await reconnect("alice");
  await setImmediate();
  assert.equal(peerOf(0).looks, 0);

  await alice.publish(makeStream("video"));
  await reconnect("alice");
  await hear(heard, "reconnecting", "reconnected");
  assert.equal(FakePeer.all.length, 2);
  assert.equal(sfu.count("WEBRTC_ROOM_LEAVE"), 0);
});

test("the silence of a path counts from its last packet, and is longer where packets are rare", async () => {
  sfu.resumeSessions(service);
  const alice = await join("alice", { stream: makeStream("video") });
  const heard = listen(alice);
  for (const [index, packets] of [1000, 1].entries()) {
    Object.assign(peerOf(index), { packets, lastPacketAt: Date.now() - 2000 });
    peerOf(index).become("connected");

    await reconnect("alice");

    await hear(heard, "reconnecting", "reconnected");
  }
  assert.equal(peerOf(0).looks, 1);
  assert.ok(peerOf(1).looks > 1);
});

test("media that flows is not restarted when the connection or the network changes", async () => {
  sfu.resumeSessions(service);
  const alice = await join("alice", { stream: makeStream("video") });
  const peer = peerOf(0);
  Object.assign(peer, { packets: 1000, lastPacketAt: Date.now() });
  peer.getStats = async function () {
    this.received += 1;
    return FakePeer.prototype.getStats.call(this);
  };
  peer.become("connected");

  await reconnect("alice");

  await until(() => peer.looks === 2); // the second one has found more than the first
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.deepEqual([peer.looks, alice.state, FakePeer.all.length], [2, "joined", 1]);
});

test("the page's news of another network makes the room look at its path, until it is left", async () => {
  const page = globalThis as unknown as { document?: object };
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  page.document = document;
  try {
    const alice = await join("alice", { stream: makeStream("video") });
    const heard = listen(alice);
    Object.assign(peerOf(0), { packets: 1000, lastPacketAt: Date.now() - 2000 });
    peerOf(0).become("connected");

    document.dispatchEvent(new Event("visibilitychange"));

    await hear(heard, "reconnecting", "reconnected");
    assert.equal(sfu.count("RENEGOTIATE"), 1);
    peerOf(1).become("connected");
    await alice.leave();
    document.dispatchEvent(new Event("visibilitychange"));
    await setImmediate();
    assert.equal(peerOf(1).looks, 0);
  } finally {
    delete page.document;
  }
});

test("a service that cannot replace a media session is left and joined again", async () => {
  const alice = await join("alice");
  const heard = listen(alice);
  sfu.fail("RENEGOTIATE", refuse(400, "answer_sdp is required"));

  peerOf(0).become("failed");

  await hear(heard, "reconnecting", "reconnected");
  assert.equal(sfu.count("WEBRTC_ROOM_LEAVE"), 1);
});

for (const code of [408, 409, 410, 425, 503]) {
  test(`publishing that meets ${code} is done again with a new media session`, async () => {
    const alice = await join("alice");
    const heard = listen(alice);
    sfu.fail("TRACKS_NEW", refuse(code));

    await alice.publish(makeStream("video"));

    await hear(heard, "reconnecting", "reconnected");
    assert.deepEqual(
      sfu.member("demo", "alice").tracks.map(({ track_name }) => track_name),
      ["video"],
    );
    assert.equal(FakePeer.all.length, 2);
  });
}

test("an answer that the service has no use for any more makes a new media session", async () => {
  const alice = await join("alice");
  const bob = await join("bob");
  const heard = listen(bob);
  sfu.fail("RENEGOTIATE", refuse(409, "session replaced"));

  await alice.publish(makeStream("video"));

  await hear(heard, "track alice video", "reconnecting", "reconnected", "track alice video");
});

test("unpublishing that fails makes a new media session without those tracks", async () => {
  const alice = await join("alice");
  const [camera, screen] = [makeStream("video"), makeStream("video")];
  await alice.publish(camera);
  await alice.publish(screen, { name: "screen" });
  const heard = listen(alice);
  sfu.fail("TRACKS_CLOSE", refuse(502));

  await alice.unpublish(camera);
  await hear(heard, "reconnecting", "reconnected");
  await alice.publish(makeStream("audio"));

  assert.deepEqual(
    sfu.member("demo", "alice").tracks.map(({ track_name }) => track_name),
    ["screen-video", "audio"],
  );
});

test("when the connection to the service is lost and made again the call recovers by itself", async () => {
  const alice = await join("alice");
  await alice.publish(makeStream("audio", "video"));
  const bob = await join("bob");
  const aliceHears = listen(alice);
  const bobHears = listen(bob);
  await hear(bobHears, "track alice video");

  sfu.member("demo", "alice").connection.socket.terminate();

  await hear(aliceHears, "reconnecting", "reconnected");
  await hear(bobHears, "-alice", "+alice", "track alice video");
});

test("when the service forgot everything, everybody meets again in the same room", async () => {
  const alice = await join("alice");
  const bob = await join("bob", { create: false });
  await alice.publish(makeStream("audio"));
  await bob.publish(makeStream("video"));
  const aliceHears = listen(alice);
  const bobHears = listen(bob);
  await hear(aliceHears, "track bob video");

  const sockets = [...sfu.rooms.get("demo")!.members.values()].map(({ connection }) => connection.socket);
  sfu.rooms.clear();
  for (const socket of sockets) socket.terminate();

  await hear(aliceHears, "reconnected", "track bob video");
  await hear(bobHears, "reconnected", "track alice audio");
});

test("when the session goes on so does the room, and requests in flight get their replies", async () => {
  sfu.resumeSessions(service);
  const alice = await join("alice");
  const heard = listen(alice);
  const back = new Promise((resolve) => clients[0]!.on("reconnected", resolve));
  let held: Received | undefined;
  sfu.fail("TRACKS_NEW", (connection, request) => {
    held = request;
    connection.socket.terminate();
  });

  const publishing = alice.publish(makeStream("video"));
  await soon(back, "the next connection");
  const { connection } = sfu.member("demo", "alice");
  service.onMessage(connection, held!);
  await publishing;
  await join("bob");

  assert.equal(await heard.next("anything"), "+bob");
  assert.equal(sfu.count("WEBRTC_ROOM_JOIN"), 2); // alice's and bob's
});

for (const change of [
  { event: "room_closed" },
  { event: "participant_left", participant: { client_id: "alice", role: "receiver" } },
] as const) {
  test(`a ${change.event} because of a restart makes the client join again`, async () => {
    const alice = await join("alice", { stream: makeStream("video") });
    const heard = listen(alice);

    sfu.announce("demo", { ...change, reason: "restarting" });
    await hear(heard, "reconnecting", "reconnected");

    assert.equal(alice.state, "joined");
    assert.equal(sfu.member("demo", "alice").tracks.length, 1);
  });
}

test("what is published while the connection is lost is published when it is back", async () => {
  const alice = await join("alice");
  const lost = nextEvent(alice, "reconnecting");
  sfu.member("demo", "alice").connection.socket.terminate();

  const publishing = alice.publish(makeStream("video"));
  await lost;
  await publishing;

  assert.equal(sfu.member("demo", "alice").tracks.length, 1);
});

test("more tracks than one request carries go in several, also when the room is joined again", async () => {
  const stream = makeStream(...Array<string>(MAX_ITEMS + 1).fill("audio"));
  const alice = await join("alice");
  const published = () => sfu.member("demo", "alice").tracks.length;

  await alice.publish(stream);
  const back = nextEvent(alice, "reconnected");
  sfu.member("demo", "alice").connection.socket.terminate();
  await back;
  await until(() => published() === MAX_ITEMS + 1);
  await alice.unpublish(stream);

  assert.equal(published(), 0);
});

test("joining again is tried ten times", async () => {
  const alice = await join("alice");
  sfu.fail("RENEGOTIATE", refuse(503));
  for (let n = 0; n < 20; n += 1) sfu.fail("WEBRTC_ROOM_JOIN", refuse(503));
  const closed = nextEvent(alice, "closed");

  peerOf(0).become("failed");

  assert.match((await closed).reason, /cannot be joined again/);
  assert.equal(sfu.count("WEBRTC_ROOM_JOIN"), 1 + 8);
});

test("joining again that is not allowed any more closes the room", async () => {
  const alice = await join("alice");
  const publishing = alice.publish(makeStream("video"));
  await publishing;
  sfu.fail("RENEGOTIATE", refuse(409));
  sfu.fail("WEBRTC_ROOM_JOIN", refuse(403));
  const closed = nextEvent(alice, "closed");

  peerOf(0).become("failed");

  assert.ok((await closed).error instanceof ForbiddenError);
});

test("a media session that fails again and again does not go on for ever, one that recovers does", async () => {
  const alice = await join("alice");
  const heard = listen(alice);

  for (let n = 0; n < 12; n += 1) {
    await setImmediate(); // nothing is left to do
    FakePeer.all.at(-1)!.become("connected");
    FakePeer.all.at(-1)!.become("failed");
    await hear(heard, "reconnected");
  }
  for (let n = 0; n < 8; n += 1) {
    FakePeer.all.at(-1)!.become("failed");
    await hear(heard, "reconnected");
  }
  FakePeer.all.at(-1)!.become("failed");

  await hear(heard, "closed the room cannot be joined again");
});

test("leaving while joining again ends it", async () => {
  const alice = await join("alice");
  sfu.fail("WEBRTC_ROOM_JOIN", silence);
  peerOf(0).become("failed");
  await sfu.requests.next("the second join", ({ type }) => type === "WEBRTC_ROOM_LEAVE");
  await sfu.requests.next("the second join", ({ type }) => type === "WEBRTC_ROOM_JOIN");

  await alice.leave();

  assert.equal(alice.state, "closed");
  assert.ok(FakePeer.all.every(({ signalingState }) => signalingState === "closed"));
});

test("closing the client closes its rooms", async () => {
  const alice = await join("alice");
  const heard = listen(alice);
  const { connection } = sfu.member("demo", "alice");
  void connection.next("DISCONNECT").then(() => connection.socket.close(1000));

  await clients[0]!.close();

  await hear(heard, "closed the client is closed");
  assert.equal(peerOf(0).signalingState, "closed");
});

test("without a media backend a room is members and messages, and publish says so", async () => {
  sfu.hasMedia = false;
  const alice = await join("alice");
  const heard = listen(alice);

  await join("bob", { stream: makeStream("video") }).catch(() => undefined);

  await hear(heard, "+bob");
  await assert.rejects(alice.publish(makeStream("video")), /no media backend/);
});

test("metadata of a member and of the room reaches the others, and joining again repeats one's own", async () => {
  const alice = await join("alice", { metadata: { name: "Alice" } });
  const bob = await join("bob");
  const seen = new Promise((resolve) =>
    bob.on("participant-changed", ({ participant }) => resolve(participant.metadata)),
  );
  const ofRoom = new Promise((resolve) => bob.on("room-changed", ({ metadata }) => resolve(metadata)));

  await alice.setMetadata({ name: "Al" });
  await alice.setMetadata({ topic: "soup" }, { scope: "room" });

  assert.deepEqual(await soon(seen, "the change"), { name: "Al" });
  assert.deepEqual(await soon(ofRoom, "the room's change"), { topic: "soup" });
  assert.deepEqual(bob.metadata, { topic: "soup" });
  const heard = listen(alice);
  sfu.announce("demo", { event: "room_closed", reason: "restarting" });
  await hear(heard, "reconnecting", "reconnected");
  assert.deepEqual(sfu.member("demo", "alice").metadata, { name: "Al" });
  await alice.leave();
  await assert.rejects(alice.setMetadata({}), InvalidRequestError);
});

test("a later change of one's own metadata outlives the answer to an earlier one", async () => {
  const alice = await join("alice", { metadata: { by: "default", n: 1 } });
  const heard: unknown[] = [];
  alice.on("self-changed", ({ metadata }) => heard.push(metadata));
  sfu.fail("METADATA_UPDATE", (connection, request) => {
    const participant = sfu.describe("demo", "alice");
    for (const by of ["me", "operator"])
      sfu.announce("demo", { event: "metadata_changed", participant: { ...participant, metadata: { by } } });
    connection.send("METADATA_UPDATE_ACK", { sequence: sfu.rooms.get("demo")!.sequence - 1 }, request.id);
  });

  await alice.setMetadata({ by: "me" });
  assert.deepEqual(heard, [{ by: "me" }, { by: "operator" }]);
  assert.deepEqual(alice.ownMetadata, { by: "operator" });

  sfu.member("demo", "alice").metadata = { n: 1, by: "state" };
  sfu.announce("demo", { event: "metadata_changed" }, false);
  const changed = nextEvent(alice, "self-changed");
  sfu.announce("demo", { event: "metadata_changed" });
  assert.deepEqual((await changed).metadata, { n: 1, by: "state" });

  // The order of keys is no change.
  sfu.announce("demo", {
    event: "metadata_changed",
    participant: { ...sfu.describe("demo", "alice"), metadata: { by: "state", n: 1 } },
  });
  await alice.setMetadata({ by: "me again" });
  await soon(
    (async () => {
      while (heard.length < 4) await setImmediate();
    })(),
    "the last change",
  );
  assert.deepEqual(heard.slice(3), [{ by: "me again" }]);
});

test("mute belongs to a publication, reaches the others and those who come later, and survives a new session", async () => {
  const alice = await join("alice");
  const bob = await join("bob");
  const muted = new Promise((resolve) => bob.on("track-muted", ({ name }) => resolve(name)));
  const unmuted = new Promise((resolve) => bob.on("track-unmuted", ({ name }) => resolve(name)));
  const camera = makeStream("video");
  const screen = makeStream("video");
  const [picture] = await alice.publish(camera);
  await alice.publish(screen, { name: "screen" });

  alice.mute("video");

  assert.equal(await soon(muted, "the mute"), "video");
  assert.deepEqual([camera.getTracks()[0]!.enabled, screen.getTracks()[0]!.enabled], [false, true]);
  assert.equal(bob.participants.get("alice")!.tracks.get("video")!.muted, true);
  const carol = await join("carol");
  assert.equal(carol.participants.get("alice")!.tracks.get("video")!.muted, true);

  const replaced = makeStream("video").getTracks()[0]!;
  await picture!.replaceTrack(replaced);
  assert.equal(replaced.enabled, false, "after a switch of devices what is muted stays so");
  assert.equal(peerOf(0).transceivers[0]!.sender.track, replaced as never);
  await assert.rejects(picture!.replaceTrack(makeStream("audio").getTracks()[0]!), InvalidRequestError);
  sfu.announce("demo", { event: "room_closed", reason: "restarting" });
  await soon(new Promise((resolve) => alice.on("reconnected", resolve)), "the new session");
  assert.equal(sfu.member("demo", "alice").tracks.find(({ track_name }) => track_name === "video")!.muted, true);
  assert.equal(
    sfu.member("demo", "alice").tracks.find(({ track_name }) => track_name === "screen-video")!.muted,
    undefined,
  );

  picture!.unmute();
  assert.equal(replaced.enabled, true);
  await soon(unmuted, "the end of the mute");
});

for (const end of ["end", "stop"] as const) {
  test(`a track that ${end === "end" ? "ends by itself" : "is stopped by code"} is unpublished, and the others lose it`, async () => {
    const alice = await join("alice");
    const bob = await join("bob");
    const stream = makeStream("video");
    await alice.publish(stream);
    const told = new Promise((resolve) =>
      alice.on("publication-ended", ({ publication }) => resolve(publication.name)),
    );
    const bobHears = listen(bob);
    const reason = new Promise((resolve) => bob.on("track-removed", (event) => resolve(event.reason)));
    await hear(bobHears, "track alice video");

    (stream.getTracks()[0] as never as FakeTrack)[end]();

    assert.equal(await soon(told, "the end"), "video");
    await hear(bobHears, "removed alice video");
    assert.deepEqual(sfu.member("demo", "alice").tracks, []);
    assert.deepEqual(alice.publications, []);
    assert.equal(await soon(reason, "the reason"), "ended");
  });
}

/** What a page has to open devices and to draw with; `open` is its `getUserMedia`. */
function fakePage(open: (constraints: unknown) => Promise<MediaStream>): { stopped(): boolean } {
  const canvas = {
    getContext: () => ({ fillRect: () => undefined }),
    captureStream: () => makeStream("video"),
  };
  let isClosed = false;
  class FakeAudio {
    createMediaStreamDestination(): { stream: MediaStream } {
      return { stream: makeStream("audio") };
    }
    async close(): Promise<void> {
      isClosed = true;
    }
  }
  const globals = { document: { createElement: () => canvas }, AudioContext: FakeAudio };
  for (const [name, value] of Object.entries(globals)) {
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  }
  Object.defineProperty(globalThis, "navigator", {
    value: { mediaDevices: { getUserMedia: open } },
    configurable: true,
  });
  return { stopped: () => isClosed };
}

test("a released camera is off while muted, opened again at unmute, and stays muted where that is refused", async () => {
  const asked: unknown[] = [];
  let next: (() => Promise<MediaStream>) | undefined;
  fakePage(async (constraints) => {
    asked.push(constraints);
    return next!();
  });
  const alice = await join("alice");
  const stream = makeStream("video");
  const [camera] = await alice.publish(stream);
  const first = camera!.track;
  const ended: unknown[] = [];
  alice.on("publication-ended", (event) => ended.push(event));
  const sender = peerOf(0).transceivers[0]!.sender;

  releaseDevice(camera!);

  assert.equal(first.readyState, "ended");
  await setImmediate();
  assert.notEqual(sender.track, first as never, "something is sent all the same: an SFU forgets silent tracks");
  assert.equal((sender.track as FakeTrack).readyState, "live");

  next = async () => {
    throw new DOMException("no longer allowed", "NotAllowedError");
  };
  await assert.rejects(restoreDevice(camera!), { name: "NotAllowedError" });
  assert.equal(camera!.muted, true);

  // A session that is made anew meanwhile begins with what is sent now, not with the dead track.
  sfu.announce("demo", { event: "room_closed", reason: "restarting" });
  await soon(new Promise((resolve) => alice.on("reconnected", resolve)), "the new session");
  assert.equal(FakePeer.all.at(-1)!.transceivers[0]!.sender.track!.readyState, "live");

  // Muted again while it opens: what comes then is closed at once.
  let give!: (stream: MediaStream) => void;
  next = () => new Promise((resolve) => (give = resolve));
  const late = restoreDevice(camera!);
  releaseDevice(camera!);
  const unwanted = makeStream("video");
  give(unwanted);
  await late;
  assert.deepEqual([camera!.muted, unwanted.getTracks()[0]!.readyState], [true, "ended"]);

  const second = makeStream("video");
  next = async () => second;
  await Promise.all([restoreDevice(camera!), restoreDevice(camera!)]);

  assert.equal(camera!.muted, false);
  assert.deepEqual([camera!.track, camera!.track.enabled], [second.getTracks()[0], true]);
  assert.deepEqual(stream.getTracks(), [camera!.track], "the new track takes the old one's place in the stream");
  assert.equal(FakePeer.all.at(-1)!.transceivers[0]!.sender.track, camera!.track as never);
  assert.deepEqual(asked, Array(3).fill({ video: { width: 640, deviceId: { exact: "video-device" } } }));
  await new Promise((resolve) => setTimeout(resolve, 1100)); // the check for tracks that were stopped has run
  assert.deepEqual(ended, []);
});

test("a microphone can be released with a function of one's own, and leaving lets go of everything", async () => {
  const page = fakePage(async () => assert.fail("nobody asked for a device"));
  const alice = await join("alice");
  const [microphone] = await alice.publish(makeStream("audio"));
  let give!: (track: MediaStreamTrack) => void;

  releaseDevice(microphone!, () => new Promise((resolve) => (give = resolve)));
  const opening = restoreDevice(microphone!);
  await alice.leave();
  const late = makeStream("audio").getTracks()[0]!;
  give(late);
  await opening;

  assert.equal(late.readyState, "ended");
  assert.ok(page.stopped());
});

test("a track that is of no device is not released without a way to open it again", async () => {
  const alice = await join("alice");
  const stream = makeStream("video");
  stream.getTracks()[0]!.getSettings = () => ({ deviceId: "screen:0", displaySurface: "monitor" });
  const [screen] = await alice.publish(stream, { name: "screen" });

  assert.throws(() => releaseDevice(screen!), InvalidRequestError);
  assert.throws(() => releaseDevice(screen!, "camera" as never), InvalidRequestError);

  assert.deepEqual([screen!.muted, screen!.track.readyState], [false, "live"]);
});

test("a track replaced while an offer is being made is what is sent", async () => {
  const alice = await join("alice");
  const makeOffer = FakePeer.prototype.setLocalDescription;
  const replaced: MediaStreamTrack[] = [];
  mock.method(FakePeer.prototype, "setLocalDescription", async function (this: FakePeer, ...rest: []) {
    const [next] = makeStream("video").getTracks();
    const before = makeOffer.apply(this, rest);
    await alice.publications[0]!.replaceTrack(next!);
    replaced.push(next!);
    await before;
  });

  const [camera] = await alice.publish(makeStream("video"));
  const sent = (): unknown => FakePeer.all.at(-1)!.transceivers[0]!.sender.track;
  assert.deepEqual([replaced.length, sent() === replaced[0], camera!.track === replaced[0]], [1, true, true]);

  alice.restartIce();
  await nextEvent(alice, "reconnected");
  assert.deepEqual([replaced.length, sent() === replaced[1], FakePeer.all.length], [2, true, 2]);

  // Also while the answer is on its way.
  const request = (): Promise<unknown> => sfu.requests.next("a session", ({ type }) => type === "RENEGOTIATE");
  await request();
  const asked = request();
  alice.restartIce();
  const [last] = makeStream("video").getTracks();
  await asked;
  await camera!.replaceTrack(last!);
  await nextEvent(alice, "reconnected");
  assert.equal(sent(), last);
});

test("a track that the browser refuses to send leaves the former one", async () => {
  const alice = await join("alice");
  const [camera] = await alice.publish(makeStream("video"));
  const [former] = [camera!.track];
  const { sender } = peerOf(0).transceivers[0]!;
  sender.replaceTrack = () => Promise.reject(new Error("InvalidModificationError"));

  await assert.rejects(camera!.replaceTrack(makeStream("video").getTracks()[0]!), /InvalidModification/);
  camera!.mute();

  assert.deepEqual(
    [camera!.track === former, former!.enabled, sender.track === (former as never)],
    [true, false, true],
  );
});

test("unpublish takes the stream of before and of after a replaced track, and a publication", async () => {
  const alice = await join("alice");
  const before = makeStream("video");
  const after = makeStream("video");
  for (const what of [() => before, () => after, () => alice.publications[0]!]) {
    const [publication] = await alice.publish(before);
    await publication!.replaceTrack(after.getTracks()[0]!);

    await alice.unpublish(what());

    assert.deepEqual([alice.publications, sfu.member("demo", "alice").tracks], [[], []]);
  }
});

test("a second join of a room is refused, and giving it up leaves the first one's membership alone", async () => {
  const client = await makeClient("alice");
  const options = { create: true, RTCPeerConnection: FakePeer as never };
  const joining = client.join("demo", options);

  await assert.rejects(client.join("demo", options), /already, or is joining it/);
  const room = await joining;
  const signal = AbortSignal.timeout(1);
  await assert.rejects(client.join("demo", { ...options, signal }), ConflictError);

  assert.equal(room.state, "joined");
  assert.equal(sfu.count("WEBRTC_ROOM_JOIN"), 1);
  assert.equal(sfu.count("WEBRTC_ROOM_LEAVE"), 0);
  await room.leave();
  assert.equal((await client.join("demo", options)).state, "joined");
});

test("a join that was given up does not stand in the way of the next one", async () => {
  const client = await makeClient("alice");
  const options = { create: true, RTCPeerConnection: FakePeer as never };
  const controller = new AbortController();
  const joining = client.join("demo", { ...options, signal: controller.signal });
  controller.abort();

  const room = client.join("demo", options);
  await assert.rejects(joining, { name: "AbortError" });

  assert.equal((await room).state, "joined");
});

test("arguments of the wrong kind are InvalidRequestErrors, and change nothing", async () => {
  const alice = await join("alice");
  const [publication] = await alice.publish(makeStream("audio"));
  const wrong: unknown[] = [undefined, null, "camera", {}, makeStream("audio").getTracks()[0]];

  for (const each of wrong) {
    await assert.rejects(alice.publish(each as never), InvalidRequestError);
  }
  for (const each of [undefined, null, "camera", {}, makeStream("audio")]) {
    await assert.rejects(publication!.replaceTrack(each as never), InvalidRequestError);
  }
  await assert.rejects(alice.publish(makeStream("audio"), { name: "no/name" }), InvalidRequestError);
  assert.throws(() => alice.mute("sound" as never), InvalidRequestError);
  assert.throws(() => alice.unmute("sound" as never), InvalidRequestError);

  assert.deepEqual(alice.publications, [publication]);
  assert.equal(publication!.muted, false);
});

test("events of a newer service are ignored, count in the sequence, and need no new state of the room", async () => {
  const alice = await join("alice");
  await alice.publish(makeStream("audio"));
  const bob = await join("bob");
  const heard = listen(bob);
  await hear(heard, "track alice audio");
  const newer = { event: "hands_raised" as never, tracks: [{ mid: "9", track_name: "hand" }] };
  const words = { mid: "8", track_name: "words", kind: "subtitles" as never };

  sfu.announce("demo", newer);
  sfu.announce("demo", { ...newer, participant: sfu.describe("demo", "alice") });
  sfu.announce("demo", { ...newer, participant: { client_id: "guest", role: "sender" } });
  sfu.badTracks.set("words", 404);
  const participant = { ...sfu.describe("demo", "alice"), tracks: [...sfu.member("demo", "alice").tracks, words] };
  sfu.announce("demo", { event: "tracks_published", participant, tracks: [words] });
  const changed = nextEvent(bob, "participant-changed");
  await alice.setMetadata({ hand: true });
  await changed;

  assert.deepEqual([...bob.participants.keys()], ["alice"]);
  const tracks = [...bob.participants.get("alice")!.tracks.values()].map(({ name, kind }) => [name, kind]);
  assert.deepEqual(tracks, [
    ["audio", "audio"],
    ["words", undefined],
  ]);
  assert.equal(sfu.count("ROOM_STATE"), 0);
});

test("a refusal with a code of a newer service says itself whether to try again", async () => {
  const client = await makeClient("alice");
  for (const retryable of [false, true]) {
    sfu.fail("WEBRTC_ROOM_JOIN", (connection, request) =>
      connection.send("ERROR", { error_code: 423, error_message: "no", retryable }, request.id),
    );
    await assert.rejects(client.join("demo"), { code: 423, retryable });
  }
});
