/** Every public method with wrong values for each argument: an `InvalidRequestError`, and nothing is sent. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { WebSocket } from "ws";

import { SignalClient } from "../src/client.js";
import { releaseDevice, restoreDevice } from "../src/devices.js";
import { DirectCall, DirectCalls } from "../src/direct.js";
import { InvalidRequestError } from "../src/errors.js";
import { TYPE_BYTES } from "../src/messages.js";
import { Publication } from "../src/publications.js";
import { Room } from "../src/room.js";
import { FakePeer, makeStream } from "./peer.js";
import { FakeRooms } from "./rooms.js";
import { TestService } from "./service.js";

const { HEARTBEAT, HEARTBEAT_ACK } = TYPE_BYTES;
const HUGE = "x".repeat(1_000_000);
const WRONG: unknown[] = [null, 5, -1, "", HUGE, [], {}, NaN, 1e300, true, Symbol("s"), Object.create(null), () => 5];

type Call = (value: never) => unknown;

let service: TestService;
let client: SignalClient;
let sent: number;

beforeEach(async () => {
  service = await TestService.start();
  new FakeRooms(service);
  FakePeer.all = [];
  client = new SignalClient(service.url, "alice", "t", { WebSocket });
  await client.connect();
  const connection = await service.connection();
  sent = 0;
  connection.socket.on(
    "message",
    (data: Buffer) => (sent += data[1] === HEARTBEAT || data[1] === HEARTBEAT_ACK ? 0 : 1),
  );
});

afterEach(async () => {
  await client.close();
  await service.stop();
});

/** Expect the error from every wrong value but those that are right here. */
async function refuses(what: string, call: Call, isRight: (value: unknown) => boolean): Promise<void> {
  for (const value of WRONG) {
    if (isRight(value)) continue;
    const name = `${what} with ${Array.isArray(value) ? "[]" : typeof value} ${String(Object(value) === value ? "" : value).slice(0, 9)}`;
    try {
      await call(value as never);
    } catch (error) {
      assert.ok(error instanceof InvalidRequestError, `${name}: ${String(error)}`);
      assert.ok(error.message.length < 600, name);
      continue;
    }
    assert.fail(`${name} is taken`);
  }
}

type Right = (value: unknown) => boolean;
/** Calls with one wrong argument each, by the method's name. */
type Table = Record<string, [what: string, call: Call, isRight?: Right][]>;

const none: Right = () => false;
const object: Right = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const list: Right = (value) => Array.isArray(value);
const text: Right = (value) => value === "";
const anyText: Right = (value) => typeof value === "string";
const flag: Right = (value) => typeof value === "boolean";
const aFunction: Right = (value) => typeof value === "function";
const time: Right = (value) => value === 5;
/** In options null is an absent value. */
const option =
  (isRight: Right): Right =>
  (value) =>
    value === null || isRight(value);
const either =
  (...rights: Right[]): Right =>
  (value) =>
    rights.some((isRight) => isRight(value));
const data: Right = (value) => typeof value !== "function" && typeof value !== "symbol";

/** The options of every call that waits. */
function waiting(call: (options: never) => unknown): [string, Call, Right?][] {
  return [
    ["options", call, object],
    ["timeout", (timeout) => call({ timeout } as never), option(time)],
    ["signal", (signal) => call({ signal } as never), option(none)],
  ];
}

function sending(send: (target: never, data: never, options?: never) => unknown): [string, Call, Right?][] {
  return [
    ["target", (target) => send(target, "x" as never)],
    ["data", (value) => send("bob" as never, value), data],
    ["ack", (ack) => send("bob" as never, "x" as never, { ack } as never), option(flag)],
    ...waiting((options) => send("bob" as never, "x" as never, options)),
  ];
}

/** Every public method of `kind` is in the table but those `without` arguments and those for the SDK's own modules. */
async function walk(kind: { prototype: object }, table: Table, without: string[]): Promise<void> {
  const methods = Object.entries(Object.getOwnPropertyDescriptors(kind.prototype)).filter(([, each]) => each.value);
  const named = Object.keys(table).map((name) => (name === "new" ? "constructor" : name));
  assert.deepEqual([...named, ...without].sort(), methods.map(([name]) => name).sort());
  const before = sent;
  for (const [name, calls] of Object.entries(table)) {
    for (const [what, call, isRight = none] of calls) await refuses(`${name}: ${what}`, call, isRight);
  }
  assert.equal(sent, before);
}

test("SignalClient", async () => {
  const make = (options: object): SignalClient =>
    new SignalClient("ws://host", "alice", "t", { WebSocket, ...options });
  const retry = (options: object): SignalClient => make({ retry: options });
  const on = client.on.bind(client) as (event: never, listener: never) => unknown;
  await refuses("on: event", (event) => on(event, (() => 5) as never), none);
  await refuses("on: listener", (listener) => on("offer" as never, listener), aFunction);
  await walk(
    SignalClient,
    {
      new: [
        ["url", (url) => new SignalClient(url, "alice", "t", { WebSocket })],
        ["clientId", (clientId) => new SignalClient("ws://host", clientId, "t", { WebSocket })],
        ["token", (token) => new SignalClient("ws://host", "alice", token, { WebSocket }), either(anyText, aFunction)],
        ["options", (options) => new SignalClient("ws://host", "alice", "t", options), object],
        ["framing", (framing) => make({ framing }), option(none)],
        ["connectTimeout", (connectTimeout) => make({ connectTimeout }), option(time)],
        ["requestTimeout", (requestTimeout) => make({ requestTimeout }), option(time)],
        ["resumable", (resumable) => make({ resumable }), option(flag)],
        ["WebSocket", (value) => make({ WebSocket: value }), option(aFunction)],
        ["retry", (value) => make({ retry: value }), option(object)],
        ["attempts", (attempts) => retry({ attempts }), option((value) => value === 5 || value === 1e300)],
        ["baseDelay", (baseDelay) => retry({ baseDelay }), option(time)],
        ["maxDelay", (maxDelay) => retry({ baseDelay: 1, maxDelay }), option(time)],
        ["random", (random) => retry({ random }), option(aFunction)],
      ],
      connect: waiting((options) => client.connect(options)).filter(([what]) => what !== "timeout"),
      reconnect: waiting((options) => client.reconnect(options)).filter(([what]) => what !== "signal"),
      close: [["reason", (reason) => client.close(reason), option(text)]],
      sendOffer: sending((...all) => client.sendOffer(...all)),
      sendAnswer: sending((...all) => client.sendAnswer(...all)),
      sendIceCandidate: sending((...all) => client.sendIceCandidate(...all)),
      sendMessage: [
        ...sending((...all) => client.sendMessage(...all)),
        ["roomId", (roomId) => client.sendMessage({ roomId }, "x")],
      ],
      register: [
        ["record", (record) => client.register(record), object],
        ["capabilities", (capabilities) => client.register({ capabilities }), option(list)],
        ["a capability", (capability) => client.register({ capabilities: [capability] }), text],
        ["metadata", (metadata) => client.register({ metadata }), option(object)],
        ...waiting((options) => client.register({}, options)),
      ],
      unregister: waiting((options) => client.unregister(options)),
      heartbeat: waiting((options) => client.heartbeat(options)),
      join: [
        ["roomId", (roomId) => client.join(roomId)],
        ["options", (options) => client.join("r", options), object],
        ["stream", (stream) => client.join("r", { stream }), option(none)],
        ["role", (role) => client.join("r", { role }), option(none)],
        ["metadata", (metadata) => client.join("r", { metadata }), option(object)],
        ["create", (create) => client.join("r", { create }), option(flag)],
        ["maxParticipants", (maxParticipants) => client.join("r", { maxParticipants }), option(time)],
        ["autoPull", (autoPull) => client.join("r", { autoPull }), option(flag)],
        ["retry", (retry) => client.join("r", { retry }), option(object)],
        ["signal", (signal) => client.join("r", { signal }), option(none)],
        ["RTCPeerConnection", (value) => client.join("r", { RTCPeerConnection: value }), option(aFunction)],
      ],
      request: [
        ["type", (type) => client.request(type, {} as never)],
        ["fields", (fields) => client.request("ROOM_STATE", fields), object],
        ...waiting((options) => client.request("ICE_SERVERS", {}, options)),
      ],
    },
    [],
  );
});

test("Room and Publication", async () => {
  const room = await client.join("demo", { create: true, RTCPeerConnection: FakePeer as never });
  const [publication] = await room.publish(makeStream("audio"));
  const stream = makeStream("video");
  await walk(
    Room,
    {
      publish: [
        ["stream", (each) => room.publish(each)],
        ["options", (options) => room.publish(stream, options), object],
        ["name", (name) => room.publish(stream, { name }), option(none)],
        ["muted", (muted) => room.publish(stream, { muted }), option(flag)],
      ],
      unpublish: [["what", (what) => room.unpublish(what)]],
      mute: [["kind", (kind) => room.mute(kind), option(none)]],
      unmute: [["kind", (kind) => room.unmute(kind), option(none)]],
      setMetadata: [
        ["metadata", (metadata) => room.setMetadata(metadata), object],
        ["options", (options) => room.setMetadata({}, options), object],
        ["scope", (scope) => room.setMetadata({}, { scope }), option(none)],
      ],
      pull: [
        ["clientId", (clientId) => room.pull(clientId, "audio")],
        ["name", (name) => room.pull("bob", name)],
      ],
      leave: [["reason", (reason) => room.leave(reason), option(text)]],
    },
    ["constructor", "restartIce"],
  );
  await walk(Publication, { replaceTrack: [["track", (track) => publication!.replaceTrack(track)]] }, [
    "constructor",
    "mute",
    "unmute",
    "setMuted",
    "checkEnd",
  ]);
  await refuses("releaseDevice: publication", (each) => releaseDevice(each), none);
  await refuses("releaseDevice: reopen", (reopen) => releaseDevice(publication!, reopen), option(aFunction));
  await refuses("restoreDevice: publication", (each) => restoreDevice(each), none);
});

test("DirectCalls and DirectCall", async () => {
  const calls = new DirectCalls(client, { RTCPeerConnection: FakePeer as never, iceServers: [] });
  await walk(
    DirectCalls,
    {
      new: [
        ["client", (each) => new DirectCalls(each)],
        ["options", (options) => new DirectCalls(client, options), object],
        ["iceServers", (iceServers) => new DirectCalls(client, { iceServers }), option(list)],
        ["RTCPeerConnection", (value) => new DirectCalls(client, { RTCPeerConnection: value }), option(aFunction)],
      ],
      dial: [
        ["clientId", (clientId) => calls.dial(clientId)],
        ["stream", (stream) => calls.dial("carol", stream), option(none)],
      ],
    },
    ["close"],
  );
  const call = calls.dial("bob");
  await walk(
    DirectCall,
    {
      answer: [["stream", (stream) => call.answer(stream), option(none)]],
      publish: [["stream", (stream) => call.publish(stream)]],
      unpublish: [["stream", (stream) => call.unpublish(stream)]],
      mute: [["kind", (kind) => call.mute(kind), option(none)]],
      unmute: [["kind", (kind) => call.unmute(kind), option(none)]],
    },
    ["constructor", "close", "start", "receive", "end"],
  );
});
