/** Time in a connection and between two, moved by hand; the WebSocket is a fake because a real one has its own timers. */

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { SignalClient } from "../src/client.js";
import { encode } from "../src/frames.js";
import { makeId } from "../src/ids.js";
import type { Fields } from "../src/messages.js";

/** A WebSocket to a service that accepts everybody, in the json framing. */
class FakeSocket {
  static all: FakeSocket[] = [];
  static isUp = true;
  static opens = true; // false: a new socket hangs, neither open nor refused
  static ack: Partial<Fields["CONNECT_ACK"]> = {};

  binaryType = "";
  bufferedAmount = 0;
  readyState = 1;
  readonly protocol: string;
  readonly sent: { type: string; id: string; payload: Record<string, unknown> }[] = [];
  isClosed = false;
  farewell = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onerror: (() => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;

  constructor(_url: string, protocol: string) {
    this.protocol = protocol;
    FakeSocket.all.push(this);
    queueMicrotask(() => {
      if (!FakeSocket.isUp) this.onclose?.({ code: 1006, reason: "" });
      else if (FakeSocket.opens) this.onopen?.();
    });
  }

  send(data: string | Uint8Array): void {
    assert.equal(this.readyState, 1, "a browser would complain");
    const message = JSON.parse(data as string);
    this.sent.push(message);
    const ack = { status: "success", session_id: "s", ...FakeSocket.ack };
    if (message.type === "CONNECT") this.hear("CONNECT_ACK", ack, message.id);
  }

  hear<T extends keyof Fields>(type: T, fields: Fields[T], id = makeId()): void {
    this.onmessage?.({ data: encode("json", type, id, fields) });
  }

  close(code: number): void {
    this.isClosed = true;
    this.farewell = code;
  }

  get heartbeats(): number {
    return this.sent.filter(({ type }) => type === "HEARTBEAT").length;
  }
}

beforeEach(() => {
  FakeSocket.all = [];
  FakeSocket.opens = true;
  FakeSocket.isUp = true;
  FakeSocket.ack = {};
});

async function connect(options = {}): Promise<[SignalClient, FakeSocket]> {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
  const client = new SignalClient("ws://host", "alice", "t", {
    WebSocket: FakeSocket as never,
    framing: "json",
    ...options,
  });
  await client.connect();
  return [client, FakeSocket.all[0]!];
}

/** Let time pass, and then run the tasks that are due. */
async function pass(ms: number): Promise<void> {
  mock.timers.tick(ms);
  await Promise.resolve();
}

test("a heartbeat is sent in every interval that the service named", async () => {
  FakeSocket.ack = { heartbeat_interval: 10, heartbeat_timeout: 40 };
  const [, socket] = await connect();

  await pass(9_999);
  assert.equal(socket.heartbeats, 0);
  await pass(1);
  assert.equal(socket.heartbeats, 1);
  socket.hear("HEARTBEAT_ACK", { timestamp: 1 });
  await pass(10_000);
  assert.equal(socket.heartbeats, 2);
});

test("a client that may not come back gives a silent service up after its time-out", async () => {
  FakeSocket.ack = { heartbeat_interval: 10, heartbeat_timeout: 20 };
  const [client, socket] = await connect({ retry: { attempts: 0 } });
  const reasons: string[] = [];
  client.on("disconnected", ({ reason }) => reasons.push(reason));

  await pass(10_000);
  await pass(10_000);
  socket.hear("GOAWAY", { reason: "still here", reconnect_after: 0 });
  await pass(10_000);
  await pass(10_000);
  assert.ok(client.isConnected);
  await pass(10_000);

  assert.deepEqual(reasons, ["nothing received for 20 s"]);
  assert.equal(FakeSocket.all.length, 1);
});

test("a heartbeat that nothing follows makes the client open another connection at once", async () => {
  FakeSocket.ack = RESUMABLE;
  const [client, socket] = await connect({ retry: { random: () => 1 } });
  const events: unknown[] = [];
  client.on("disconnected", ({ willReconnect, delay }) => events.push(["disconnected", willReconnect, delay]));
  client.on("reconnected", ({ resumed }) => events.push(["reconnected", resumed]));
  FakeSocket.ack = { ...RESUMABLE, resumed: true, received: 0 };

  await pass(10_000);
  assert.equal(socket.heartbeats, 1);
  await pass(2_499);
  assert.equal(FakeSocket.all.length, 1);
  await pass(1);

  assert.deepEqual(events, [
    ["disconnected", true, 0],
    ["reconnected", true],
  ]);
  assert.equal(socket.farewell, 4408); // the session goes on
  assert.equal(FakeSocket.all.length, 2);
});

test("what is sent and followed by nothing is asked after, and its call gets its reply on another connection", async () => {
  FakeSocket.ack = RESUMABLE;
  const [client, socket] = await connect();
  FakeSocket.ack = { ...RESUMABLE, resumed: true, received: 0 };
  const asked = client.sendMessage("bob", 1, { ack: true });

  await pass(1_999);
  assert.equal(socket.heartbeats, 0);
  await pass(1);
  assert.equal(socket.heartbeats, 1);
  await pass(2_500);

  const next = FakeSocket.all[1]!;
  const [again] = next.sent.filter(({ type }) => type === "SIGNAL_MESSAGE");
  next.hear("SIGNAL_ACK", { status: "delivered" }, again!.id);
  assert.equal(await asked, "delivered");
});

test("a slow request beside answered heartbeats is no silence", async () => {
  FakeSocket.ack = RESUMABLE;
  const [client, socket] = await connect({ requestTimeout: 60_000 });
  void client.request("ROOM_STATE", { room_id: "r" }).catch(() => undefined);

  for (let seconds = 0; seconds < 20; seconds += 2) {
    await pass(2_000);
    socket.hear("HEARTBEAT_ACK", { timestamp: 1 });
  }

  assert.equal(socket.heartbeats, 10);
  assert.equal(FakeSocket.all.length, 1);
  assert.ok(client.isConnected);
});

test("a connection that shows life before another one is open is kept", async () => {
  FakeSocket.ack = RESUMABLE;
  const [client, socket] = await connect();
  client.on("disconnected", () => assert.fail("it was kept"));
  FakeSocket.opens = false;
  await pass(10_000);
  await pass(2_500);
  assert.equal(FakeSocket.all.length, 2);

  socket.hear("HEARTBEAT_ACK", { timestamp: 1 });
  await pass(7_000);

  assert.equal(FakeSocket.all[1]!.farewell, 4408);
  assert.deepEqual([FakeSocket.all.length, client.isConnected], [2, true]);
});

test("a network that is gone ends the connection when no other can be opened", async () => {
  FakeSocket.ack = RESUMABLE;
  const [client, socket] = await connect({ retry: { random: () => 1, baseDelay: 1000 } });
  const delays: unknown[] = [];
  client.on("disconnected", ({ delay }) => delays.push(delay));
  FakeSocket.isUp = false;

  await pass(10_000);
  await pass(2_500);
  await pass(1);

  assert.deepEqual(delays, [1000]);
  assert.equal(socket.farewell, 4408);
});

test("reconnect replaces a connection at once, and does not wait between attempts", async () => {
  FakeSocket.ack = RESUMABLE;
  const [client, socket] = await connect({ retry: { random: () => 1, baseDelay: 10_000 } });
  FakeSocket.ack = { ...RESUMABLE, resumed: true, received: 0 };
  await client.reconnect();
  assert.equal(FakeSocket.all.length, 2);
  assert.equal(socket.farewell, 4408);

  FakeSocket.all[1]!.onclose?.({ code: 1006, reason: "" });
  await client.reconnect();

  assert.equal(FakeSocket.all.length, 3);
  assert.ok(client.isConnected);
  const closing = client.close();
  await pass(2_000);
  await closing;
  await assert.rejects(client.reconnect(), /closed/);
});

test("a client that may not come back cannot be asked to reconnect", async () => {
  const [client] = await connect({ retry: { attempts: 0 } });

  await assert.rejects(client.reconnect(), /never reconnects/);
  assert.ok(client.isConnected);
});

test("reconnect that takes too long rejects, and the client goes on trying", async () => {
  const [client] = await connect({ retry: { random: () => 1 } });
  FakeSocket.opens = false;
  const late = assert.rejects(client.reconnect({ timeout: 100 }), /within 100 ms/);
  await pass(100);
  await late;
  FakeSocket.opens = true;
  await pass(10_000);
  await pass(500);

  assert.ok(client.isConnected);
});

test("the page's news of a network or of its own return asks for a sign of life, until the client is closed", async () => {
  const page = globalThis as unknown as Record<string, unknown>;
  const target = new EventTarget();
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  const link = new EventTarget();
  Object.defineProperty(globalThis, "navigator", { value: { connection: link }, configurable: true, writable: true });
  page["document"] = document;
  page["addEventListener"] = target.addEventListener.bind(target);
  page["removeEventListener"] = target.removeEventListener.bind(target);
  try {
    const [client, socket] = await connect();
    const sources: [EventTarget, string][] = [
      [target, "online"],
      [target, "pageshow"],
      [link, "change"],
      [document, "visibilitychange"],
    ];
    for (const [index, [source, event]] of sources.entries()) {
      source.dispatchEvent(new Event(event));
      source.dispatchEvent(new Event(event)); // a heartbeat that waits for its answer is enough
      assert.equal(socket.heartbeats, index + 1, event);
      socket.hear("HEARTBEAT_ACK", { timestamp: 1 });
    }
    document.visibilityState = "hidden";
    document.dispatchEvent(new Event("visibilitychange"));
    assert.equal(socket.heartbeats, 4);

    FakeSocket.isUp = false;
    socket.onclose?.({ code: 1006, reason: "" });
    FakeSocket.isUp = true;
    target.dispatchEvent(new Event("online")); // skips the delay between attempts
    assert.equal(FakeSocket.all.length, 2);

    await pass(1);
    const [, second] = FakeSocket.all;
    const closing = client.close();
    second!.onclose?.({ code: 1000, reason: "" });
    await closing;
    for (const [source, event] of sources) source.dispatchEvent(new Event(event));
    assert.equal(second!.heartbeats, 0);
  } finally {
    for (const name of ["document", "navigator", "addEventListener", "removeEventListener"]) delete page[name];
  }
});

test("after news of a network the answer to a heartbeat that is under way is expected sooner, and once", async () => {
  FakeSocket.ack = RESUMABLE;
  const page = globalThis as unknown as { document?: object };
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  page.document = document;
  try {
    const [client, socket] = await connect();
    FakeSocket.ack = { ...RESUMABLE, resumed: true, received: 0 };
    await pass(10_000);
    await pass(1_000);
    document.dispatchEvent(new Event("visibilitychange"));
    await pass(900);
    document.dispatchEvent(new Event("visibilitychange"));
    assert.deepEqual([socket.heartbeats, FakeSocket.all.length], [1, 1]);

    await pass(100);

    assert.equal(FakeSocket.all.length, 2);
    void client.close();
  } finally {
    delete page.document;
  }
});

test("heartbeats are close together in a room, and far apart after it", async () => {
  const [client, socket] = await connect();
  const leave = client.on("room-event", () => undefined); // what a room does
  void client.join("demo").catch(() => undefined);
  socket.hear("SIGNAL_ACK", { status: "delivered" });
  const before = socket.heartbeats;
  for (let second = 0; second < 10; second += 2) {
    await pass(2_000);
    socket.hear("HEARTBEAT_ACK", { timestamp: 1 });
  }
  assert.ok(socket.heartbeats >= before + 5);

  leave();
  void client.close();
});

for (const interval of [0, -1, 1e9, Number.NaN]) {
  test(`a heartbeat interval of ${interval} s is not believed`, async () => {
    FakeSocket.ack = { heartbeat_interval: interval };
    const [, socket] = await connect();

    await pass(29_999);
    assert.equal(socket.heartbeats, 0);
    await pass(1);
    assert.equal(socket.heartbeats, 1);
  });
}

test("the service's own heartbeat is answered with its timestamp", async () => {
  const [, socket] = await connect();

  socket.hear("HEARTBEAT", { timestamp: 42 });

  const { type, payload } = socket.sent.at(-1)!;
  assert.deepEqual([type, payload], ["HEARTBEAT_ACK", { timestamp: 42 }]);
});

test("delays between attempts double up to their ceiling, and a connection that lasted starts them again", async () => {
  const [, socket] = await connect({ retry: { baseDelay: 1000, maxDelay: 3000, random: () => 1 } });
  FakeSocket.isUp = false;
  socket.onclose?.({ code: 1006, reason: "" });

  let attempts = 1;
  for (const delay of [1000, 2000, 3000, 3000]) {
    await pass(delay - 1);
    assert.equal(FakeSocket.all.length, attempts);
    await pass(1);
    assert.equal(FakeSocket.all.length, (attempts += 1));
  }
});

test("a connection that lasted longer than the longest delay starts the delays again", async (context) => {
  const [client, socket] = await connect({ retry: { baseDelay: 1000, maxDelay: 3000, random: () => 1 } });
  const delays: (number | undefined)[] = [];
  client.on("disconnected", ({ delay }) => delays.push(delay));
  const started = performance.now();
  const now = context.mock.method(performance, "now", () => started);

  socket.onclose?.({ code: 1006, reason: "" });
  await pass(1000);
  FakeSocket.all[1]?.onclose?.({ code: 1006, reason: "" });
  await pass(2000);
  now.mock.mockImplementation(() => started + 3001);
  FakeSocket.all[2]?.onclose?.({ code: 1006, reason: "" });

  assert.deepEqual(delays, [1000, 2000, 1000]);
});

test("what the network does not take is refused rather than kept without bound", async () => {
  const [client, socket] = await connect();

  socket.bufferedAmount = 16 * 1024 * 1024 + 1;

  await assert.rejects(client.sendMessage("bob", 1), { code: 429 });
});

test("a service that does not answer DISCONNECT does not hold up close for long", async () => {
  const [client, socket] = await connect();
  const closing = client.close();

  await pass(2000);

  await closing;
  assert.equal(socket.farewell, 1000);
});

/** A service that resumes: the next connection is asked to go on. */
const RESUMABLE = { session_id: "s", resume_token: "r", heartbeat_interval: 10, heartbeat_timeout: 40 };

/** Lose a connection, and make the next one at once. */
async function comeBack(socket: FakeSocket, ack: Partial<Fields["CONNECT_ACK"]>): Promise<FakeSocket> {
  FakeSocket.ack = { ...RESUMABLE, ...ack };
  socket.onclose?.({ code: 1006, reason: "" });
  await pass(1);
  return FakeSocket.all.at(-1)!;
}

function say(socket: FakeSocket, data: unknown): void {
  socket.hear("SIGNAL_MESSAGE", { target_client_id: "alice", sender_client_id: "bob", signal_data: data });
}

const at = (socket: FakeSocket, type: string): Record<string, unknown>[] =>
  socket.sent.filter((message) => message.type === type).map(({ payload }) => payload);

test("a heartbeat confirms what was received, where the service resumes", async () => {
  FakeSocket.ack = RESUMABLE;
  const [, socket] = await connect();
  say(socket, 1);
  socket.hear("HEARTBEAT", { timestamp: 1, received: 0 });
  socket.hear("HEARTBEAT_ACK", { timestamp: 1 });
  socket.onmessage?.({ data: "unreadable, and yet counted" });

  await pass(10_000);

  assert.equal(at(socket, "HEARTBEAT").at(-1)!["received"], 2);
});

test("much that is received is confirmed before the heartbeat is due", async () => {
  FakeSocket.ack = RESUMABLE;
  const [, socket] = await connect();

  for (let n = 0; n < 5; n += 1) say(socket, "x".repeat(49_152));

  assert.deepEqual(
    at(socket, "HEARTBEAT").map(({ received }) => received),
    [2, 4],
  );
});

test("a service that does not resume is told nothing of what was received", async () => {
  const [, socket] = await connect();

  for (let n = 0; n < 5; n += 1) say(socket, "x".repeat(32_768));

  assert.equal(socket.heartbeats, 0);
});

test("a resumed connection says what it has, and sends what the service lacks before anything new", async () => {
  FakeSocket.ack = RESUMABLE;
  const [client, socket] = await connect({ retry: { random: () => 0 } });
  const heard: unknown[] = [];
  client.on("reconnected", (event) => heard.push(event));
  for (const data of [1, 2, 3]) await client.sendMessage("bob", data);
  say(socket, "hi");
  socket.hear("HEARTBEAT_ACK", { timestamp: 1, received: 1 });
  client.on("disconnected", () => void client.sendMessage("bob", 4));

  const next = await comeBack(socket, { resumed: true, received: 2 });

  assert.deepEqual(next.sent[0]!.payload["resume"], { session_id: "s", resume_token: "r", received: 1 });
  assert.deepEqual(
    at(next, "SIGNAL_MESSAGE").map((payload) => payload["signal_data"]),
    [3, 4],
  );
  assert.deepEqual(heard, [{ sessionId: "s", resumed: true }]);
});

test("what is said while a connection closes waits for the next one, and no socket is asked to carry it", async () => {
  FakeSocket.ack = RESUMABLE;
  const [client, socket] = await connect({ retry: { random: () => 0 } });
  socket.readyState = 2;

  void client.sendMessage("bob", 1);
  await pass(10_000); // a heartbeat is due too

  assert.deepEqual(
    socket.sent.map(({ type }) => type),
    ["CONNECT"],
  );
  const next = await comeBack(socket, { resumed: true, received: 0 });
  assert.deepEqual(
    at(next, "SIGNAL_MESSAGE").map((payload) => payload["signal_data"]),
    [1],
  );
});

test("a request gets its reply over the connection that follows, and a measured heartbeat does not", async () => {
  FakeSocket.ack = RESUMABLE;
  const [client, socket] = await connect({ retry: { random: () => 0 } });
  const status = client.sendMessage("bob", 1, { ack: true });
  const { id } = socket.sent.at(-1)!;
  const heartbeat = assert.rejects(client.heartbeat(), { code: 503 });

  const next = await comeBack(socket, { resumed: true, received: 1 });
  next.hear("SIGNAL_ACK", { status: "delivered", target_client_id: "bob" }, id);

  assert.equal(await status, "delivered");
  await heartbeat;
});

test("a lost session fails what waits, is reported, and nothing of it is sent again", async () => {
  FakeSocket.ack = RESUMABLE;
  const [client, socket] = await connect({ retry: { random: () => 0 } });
  const heard: unknown[] = [];
  client.on("reconnected", (event) => heard.push(event));
  const waiting = assert.rejects(client.sendMessage("bob", 1, { ack: true }), /the session was lost/);

  const next = await comeBack(socket, { session_id: "s2", resume_token: "r2" });
  const after = await comeBack(next, { session_id: "s2", resumed: true });

  await waiting;
  assert.deepEqual(at(next, "SIGNAL_MESSAGE"), []);
  assert.deepEqual(heard.at(0), { sessionId: "s2", resumed: false });
  assert.deepEqual(after.sent[0]!.payload["resume"], { session_id: "s2", resume_token: "r2", received: 0 });
});

for (const [what, ack] of Object.entries({
  "messages that were never sent": { resumed: true, received: 3 },
  "less than it has confirmed": { resumed: true, received: 0 },
  "another session": { session_id: "s2", resumed: true, received: 2 },
})) {
  test(`a service that continues with ${what} gets a new session`, async () => {
    FakeSocket.ack = RESUMABLE;
    const [client, socket] = await connect({ retry: { random: () => 0 } });
    const heard: boolean[] = [];
    client.on("reconnected", ({ resumed }) => heard.push(resumed));
    await client.sendMessage("bob", 1);
    await client.sendMessage("bob", 2);
    socket.hear("HEARTBEAT", { timestamp: 1, received: 1 });

    const wrong = await comeBack(socket, ack);
    FakeSocket.ack = { ...RESUMABLE, session_id: "s3" };
    await pass(1);

    const { resume, resumable } = FakeSocket.all.at(-1)!.sent[0]!.payload;
    assert.ok(wrong.isClosed);
    assert.deepEqual([(resume as { resume_token: string }).resume_token, resumable, heard], ["", true, [false]]);
  });
}

test("without `resumable` every connection is a session of its own", async () => {
  FakeSocket.ack = RESUMABLE;
  const [client, socket] = await connect({ retry: { random: () => 0 }, resumable: false });
  const waiting = assert.rejects(client.sendMessage("bob", 1, { ack: true }), /the connection ended/);

  const next = await comeBack(socket, { session_id: "s2" });

  await waiting;
  const { resume, resumable } = next.sent[0]!.payload;
  assert.deepEqual([resume, resumable], [{ session_id: "s", resume_token: "", received: 0 }, undefined]);
});
