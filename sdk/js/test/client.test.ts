/** `SignalClient` against real WebSockets on loopback. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { afterEach, beforeEach, test } from "node:test";

import { WebSocket } from "ws";

import { SignalClient, type ClientEvents, type ClientOptions } from "../src/client.js";
import { CLOSE_CODES } from "../src/closing.js";
import {
  AuthenticationError,
  ConflictError,
  ForbiddenError,
  InvalidRequestError,
  MalformedMessageError,
  NotFoundError,
  SignalManagerError,
  TooLateError,
  UnavailableError,
} from "../src/errors.js";
import type { Framing } from "../src/frames.js";
import { TestService, open, soon, type ServiceConnection } from "./service.js";

const { close_codes: closeCodes } = JSON.parse(
  readFileSync(new URL("../../../../docs/vectors.json", import.meta.url), "utf8"),
) as { close_codes: { code: number; returns: string; error_code: number }[] };

let service: TestService;
let clients: SignalClient[];

beforeEach(async () => {
  service = await TestService.start();
  clients = [];
});

afterEach(async () => {
  await service.stop();
  await Promise.all(clients.map((client) => client.close()));
});

function makeClient(options: ClientOptions = {}): SignalClient {
  const client = new SignalClient(service.url, "alice", "t-1", { WebSocket, retry: { random: () => 0 }, ...options });
  clients.push(client);
  return client;
}

async function connect(options: ClientOptions = {}): Promise<[SignalClient, ServiceConnection]> {
  const client = makeClient(options);
  await client.connect();
  return [client, await service.connection()];
}

function nextEvent<Name extends keyof ClientEvents>(client: SignalClient, name: Name): Promise<ClientEvents[Name]> {
  const event = new Promise<ClientEvents[Name]>((resolve) => {
    const off = client.on(name, (value) => {
      off();
      resolve(value);
    });
  });
  return soon(event, `the event ${name}`);
}

for (const framing of ["v1", "v2", "json"] as Framing[]) {
  test(`a ${framing} client connects, signals and hears`, async () => {
    const [client, connection] = await connect({ framing });
    const heard = nextEvent(client, "answer");

    await client.sendOffer("bob", { type: "offer", sdp: "v=0\r\n" });
    const offer = await connection.next("SIGNAL_OFFER");
    connection.send("SIGNAL_ANSWER", { target_client_id: "alice", sender_client_id: "bob", signal_data: [1, "zwei"] });

    assert.deepEqual(offer.fields, { target_client_id: "bob", signal_data: { type: "offer", sdp: "v=0\r\n" } });
    assert.deepEqual(await heard, { sender: "bob", data: [1, "zwei"], roomId: undefined });
  });
}

test("CONNECT carries name, token, version and an instance that outlives a reconnect", async () => {
  const [client, first] = await connect();
  const back = nextEvent(client, "reconnected");
  const before = (await first.next("CONNECT")).fields;
  first.socket.terminate();
  await back;

  const after = (await (await service.connection()).next("CONNECT")).fields;

  assert.deepEqual(
    { ...before, instance_id: "" },
    { client_id: "alice", auth_token: "t-1", version: "1.0.0", instance_id: "", resumable: true },
  );
  assert.equal(before["instance_id"], after["instance_id"]);
});

test("a wrong token rejects connect with AuthenticationError and is not tried again", async () => {
  service.door = (connection, request) => {
    connection.refuse(request, 401, "authentication failed");
    connection.socket.close(4401);
  };
  const client = makeClient();

  await assert.rejects(client.connect(), AuthenticationError);

  assert.equal(service.visits, 1);
  await assert.rejects(client.sendMessage("bob", 1), AuthenticationError);
});

test("a client that was replaced by a newer device is told so and stays away", async () => {
  const [client, connection] = await connect();
  const closed = nextEvent(client, "closed");
  service.door = (late, request) => {
    late.refuse(request, 409, "replaced: another device of this client has come since");
    late.socket.close(4409);
  };

  connection.socket.terminate();

  const { error } = await closed;
  assert.ok(error instanceof ConflictError);
  assert.match(error.message, /another device/);
  assert.equal(service.visits, 2);
});

test("a close without ERROR rejects connect with what its code stands for", async () => {
  service.door = (connection) => connection.socket.close(4409, "replaced");

  await assert.rejects(
    makeClient().connect(),
    (error) => error instanceof ConflictError && error.message === "replaced",
  );
});

test("nobody listening rejects connect with UnavailableError", async () => {
  const client = new SignalClient("ws://127.0.0.1:1", "alice", "t", { WebSocket });

  await assert.rejects(client.connect(), UnavailableError);
});

test("a server that never answers ends the attempt in time", async () => {
  const silent = createServer();
  silent.listen(0, "127.0.0.1");
  await once(silent, "listening");
  const { port } = silent.address() as AddressInfo;
  const client = new SignalClient(`ws://127.0.0.1:${port}`, "alice", "t", { WebSocket, connectTimeout: 20 });

  await assert.rejects(
    client.connect(),
    (error) => error instanceof UnavailableError && /within 20 ms/.test(error.message),
  );
  silent.close();
});

test("a service that ignores CONNECT ends the attempt in time", async () => {
  service.door = () => undefined;

  await assert.rejects(makeClient({ connectTimeout: 20 }).connect(), UnavailableError);
});

test("connect can be given up", async () => {
  service.door = () => undefined;
  const client = makeClient();
  const controller = new AbortController();

  const connecting = client.connect({ signal: controller.signal });
  controller.abort(new Error("changed my mind"));

  await assert.rejects(connecting, /changed my mind/);
  await assert.rejects(client.connect(), InvalidRequestError);
});

test("a client is used once, and says so before it is", async () => {
  const client = makeClient();
  await assert.rejects(client.sendMessage("bob", 1), /call connect/);
  await client.connect();

  await assert.rejects(client.connect(), InvalidRequestError);
});

for (const [what, make] of Object.entries({
  "a URL of another scheme": () => new SignalClient("http://host", "alice", "t", { WebSocket }),
  "a name with a slash": () => new SignalClient("ws://host", "a/b", "t", { WebSocket }),
  "an unknown framing": () => new SignalClient("ws://host", "alice", "t", { WebSocket, framing: "v3" as "v2" }),
})) {
  test(`${what} is refused at once`, () => {
    assert.throws(make, InvalidRequestError);
  });
}

test("an acknowledged signal resolves to the service's word", async () => {
  const [client, connection] = await connect();

  const status = client.sendMessage("bob", "hi", { ack: true });
  const message = await connection.next("SIGNAL_MESSAGE");
  connection.send("SIGNAL_ACK", { status: "queued", target_client_id: "bob" }, message.id);

  assert.equal(message.fields["ack"], true);
  assert.equal(await status, "queued");
});

test("a signal with the id of a request, as one to oneself has, is no reply", async () => {
  const [client, connection] = await connect();
  const heard = nextEvent(client, "message");

  const status = client.sendMessage("alice", "note", { ack: true });
  const to = { target_client_id: "alice", sender_client_id: "alice" };
  const { id } = await connection.next("SIGNAL_MESSAGE");
  connection.send("SIGNAL_MESSAGE", { ...to, signal_data: "note" }, id);
  connection.send("SIGNAL_ACK", { status: "delivered" }, id);

  assert.equal(await status, "delivered");
  assert.equal((await heard).data, "note");
});

test("a refused signal rejects when acknowledged, and is an error event that names its target when not", async () => {
  const [client, connection] = await connect();
  const heard = nextEvent(client, "error");

  const acknowledged = client.sendMessage("bob", "hi", { ack: true });
  connection.refuse(await connection.next("SIGNAL_MESSAGE"), 404, "no such client: bob");
  assert.equal(await client.sendMessage("carol", "hi"), "sent");
  connection.refuse(await connection.next("SIGNAL_MESSAGE"), 404, "no such client: carol");

  await assert.rejects(acknowledged, (error) => error instanceof NotFoundError && error.name === "NotFoundError");
  const { error, target } = await heard;
  assert.ok(error instanceof NotFoundError);
  assert.equal(target, "carol");
});

test("a message to a room names the room, and one from a room too", async () => {
  const [client, connection] = await connect();
  const heard = nextEvent(client, "message");

  await client.sendMessage({ roomId: "demo" }, "hi");
  connection.send("SIGNAL_MESSAGE", { sender_client_id: "bob", room_id: "demo", signal_data: "ho" });

  assert.deepEqual((await connection.next("SIGNAL_MESSAGE")).fields, { signal_data: "hi", room_id: "demo" });
  assert.deepEqual(await heard, { sender: "bob", data: "ho", roomId: "demo" });
});

test("what cannot be sent rejects at once and is never sent", async () => {
  const [client, connection] = await connect({ framing: "v1" });

  await assert.rejects(client.sendOffer("a/b", "x"), InvalidRequestError);
  await assert.rejects(client.sendOffer("bob", undefined), InvalidRequestError);
  await assert.rejects(client.sendOffer("bob", "x".repeat(70_000)), { code: 413 });
  await client.sendMessage("bob", "the first that arrives");

  assert.equal(
    (await connection.inbox.next("anything", (message) => message.type !== "CONNECT")).type,
    "SIGNAL_MESSAGE",
  );
});

test("register, unregister and heartbeat are answered by id, in any order", async () => {
  const [client, connection] = await connect();

  const calls = [
    client.register({ capabilities: ["webrtc"], metadata: { name: "A" } }),
    client.unregister(),
    client.heartbeat(),
  ] as const;
  const register = await connection.next("REGISTER");
  const unregister = await connection.next("UNREGISTER");
  const heartbeat = await connection.next("HEARTBEAT");
  connection.send("HEARTBEAT_ACK", { timestamp: heartbeat.fields["timestamp"] as number }, heartbeat.id);
  connection.send("UNREGISTER_ACK", { version: "1.0.0", status: 200, message: "", client_id: "alice" }, unregister.id);
  connection.send(
    "REGISTER_ACK",
    { version: "1.0.0", status: 200, message: "", client_id: "alice", session_id: "s" },
    register.id,
  );

  await calls[0];
  await calls[1];
  assert.ok((await calls[2]) >= 0);
  assert.deepEqual(register.fields, { capabilities: ["webrtc"], metadata: { name: "A" } });
});

test("a request without a reply is TooLateError, and its late reply harms nobody", async () => {
  const [client, connection] = await connect();

  await assert.rejects(client.register({}, { timeout: 10 }), TooLateError);
  const request = await connection.next("REGISTER");
  connection.send(
    "REGISTER_ACK",
    { version: "1.0.0", status: 200, message: "", client_id: "alice", session_id: "s" },
    request.id,
  );

  assert.equal(await client.sendMessage("bob", 1), "sent");
});

test("a request can be given up with any reason", async () => {
  const [client] = await connect();
  const controller = new AbortController();

  const call = client.register({}, { signal: controller.signal });
  controller.abort("no longer needed");

  await assert.rejects(call, (reason) => reason === "no longer needed");
  await assert.rejects(client.register({}, { signal: controller.signal }), (reason) => reason === "no longer needed");
});

test("a reply of the wrong type or shape rejects its request and nothing else", async () => {
  const [client, connection] = await connect();

  const wrongType = client.register();
  connection.send("SIGNAL_ACK", { status: "delivered" }, (await connection.next("REGISTER")).id);
  const wrongShape = client.unregister();
  const bytes = Buffer.from("ab230000000000000000000000000000000002000000027b7d", "hex");
  Buffer.from((await connection.next("UNREGISTER")).id.replaceAll("-", ""), "hex").copy(bytes, 2);
  connection.socket.send(bytes);

  await assert.rejects(wrongType, MalformedMessageError);
  await assert.rejects(wrongShape, (error) => error instanceof MalformedMessageError && /missing/.test(error.message));
  assert.ok(client.isConnected);
});

test("garbage that answers nothing is an error event", async () => {
  const [client, connection] = await connect();
  const heard = nextEvent(client, "error");

  connection.socket.send(Buffer.from("garbage"));

  assert.ok((await heard).error instanceof MalformedMessageError);
  assert.ok(client.isConnected);
});

test("a lost connection is made again, and what was sent meanwhile arrives in order", async () => {
  const [client, first] = await connect();
  const sent: Promise<unknown>[] = [];
  const lost = nextEvent(client, "disconnected");
  const back = nextEvent(client, "reconnected");
  client.on("disconnected", () => sent.push(client.sendMessage("bob", 1), client.sendMessage("bob", 2)));
  client.on("reconnected", () => sent.push(client.sendMessage("bob", 3)));

  first.socket.terminate();
  const { code, willReconnect, delay } = await lost;
  const { sessionId } = await back;
  const second = await service.connection();
  const data = [];
  for (let n = 0; n < 3; n += 1) data.push((await second.next("SIGNAL_MESSAGE")).fields["signal_data"]);

  assert.deepEqual([code, willReconnect, delay], [1006, true, 0]);
  assert.equal(client.sessionId, sessionId);
  assert.deepEqual(data, [1, 2, 3]);
  await Promise.all(sent);
});

test("a request that was sent when the connection is lost rejects with UnavailableError", async () => {
  const [client, first] = await connect();

  const call = client.register();
  await first.next("REGISTER");
  first.socket.terminate();

  await assert.rejects(call, UnavailableError);
});

test("what waits for a connection that does not come rejects within its own time", async () => {
  const [client, first] = await connect({ retry: { baseDelay: 60_000, maxDelay: 60_000, random: () => 1 } });
  const lost = nextEvent(client, "disconnected");
  first.socket.terminate();
  await lost;

  await assert.rejects(
    client.sendMessage("bob", 1, { timeout: 5 }),
    (error) => error instanceof UnavailableError && /nothing was sent/.test(error.message),
  );
});

test("a client that may try three times gives up after three", async () => {
  const [client, first] = await connect({ retry: { attempts: 3, random: () => 0 } });
  const heard: boolean[] = [];
  service.door = (connection) => connection.socket.close(4503, "full");
  client.on("disconnected", ({ willReconnect }) => heard.push(willReconnect));
  const ended = new Promise<void>((resolve) =>
    client.on("disconnected", ({ willReconnect }) => willReconnect || resolve()),
  );

  first.socket.terminate();
  await soon(ended, "giving up");

  assert.deepEqual(heard, [true, false]);
  assert.equal(service.visits, 1 + 3);
  await assert.rejects(
    client.sendMessage("bob", 1),
    (error) => error instanceof UnavailableError && error.message === "full",
  );
});

test("the table of close codes is that of the service", () => {
  const ours = [...CLOSE_CODES].map(([code, { mayReturn, errorCode }]) => ({ code, mayReturn, errorCode }));

  assert.deepEqual(
    ours,
    closeCodes.map(({ code, returns, error_code }) => ({ code, mayReturn: returns !== "no", errorCode: error_code })),
  );
});

for (const { code, error_code } of closeCodes.filter(({ returns }) => returns === "no")) {
  test(`close code ${code} ends the client`, async () => {
    const [client, connection] = await connect();
    const lost = nextEvent(client, "disconnected");

    connection.socket.close(code, "why");

    assert.deepEqual(await lost, { code, reason: "why", willReconnect: false });
    await assert.rejects(
      client.sendMessage("bob", 1),
      (error) => error instanceof SignalManagerError && error.message === "why" && error.code === error_code,
    );
    assert.equal(service.visits, 1);
  });
}

for (const { code, error_code } of closeCodes.filter(({ returns }) => returns === "no")) {
  for (const saysWhy of [true, false]) {
    test(`close code ${code} on the way back, ${saysWhy ? "after" : "without"} an ERROR, is that of the last event`, async () => {
      const [client, connection] = await connect();
      const events: ClientEvents["disconnected"][] = [];
      client.on("disconnected", (event) => events.push(event));
      const closed = nextEvent(client, "closed");
      service.door = (next, request) => {
        if (saysWhy) next.refuse(request, error_code, "why");
        next.socket.close(code, "refused");
      };

      connection.socket.terminate();

      const { error } = await closed;
      const reason = saysWhy ? "why" : "refused";
      assert.deepEqual(
        events.map(({ code, willReconnect }) => [code, willReconnect]),
        [
          [1006, true],
          [code, false],
        ],
      );
      assert.equal(events[1]!.reason, reason);
      assert.deepEqual([error.code, error.message], [error_code, reason]);
    });
  }
}

const returning = closeCodes.filter(({ returns }) => returns !== "no");
for (const code of [1001, 4999, ...returning.map(({ code }) => code)]) {
  test(`close code ${code} brings the client back`, async () => {
    const [client, connection] = await connect();
    const back = nextEvent(client, "reconnected");

    connection.socket.close(code);

    await back;
    assert.ok(client.isConnected);
  });
}

test("after GOAWAY the client comes back when it was told to, once", async () => {
  const [client, first] = await connect({ retry: { random: () => 0 } });
  const warned = nextEvent(client, "going-away");
  const lost = nextEvent(client, "disconnected");
  const back = nextEvent(client, "reconnected");

  first.send("GOAWAY", { reason: "draining", reconnect_after: 12 });
  assert.deepEqual(await warned, { reason: "draining", delay: 12 });
  first.socket.close(1012);
  assert.equal((await lost).delay, 12);
  await back;
  const lostAgain = nextEvent(client, "disconnected");
  (await service.connection()).socket.terminate();

  assert.equal((await lostAgain).delay, 0);
});

test("GOAWAY cannot send a client away for hours", async () => {
  const [client, connection] = await connect();
  const warned = nextEvent(client, "going-away");

  connection.send("GOAWAY", { reason: "draining", reconnect_after: 86_400_000 });

  assert.equal((await warned).delay, 60_000);
});

test("a token that is refused on the way back ends the client", async () => {
  const [client, connection] = await connect();
  service.door = (next, request) => {
    next.refuse(request, 401, "expired");
    next.socket.close(4401);
  };
  const ended = new Promise<void>((resolve) =>
    client.on("disconnected", ({ willReconnect }) => willReconnect || resolve()),
  );

  connection.socket.terminate();
  await soon(ended, "the end");

  await assert.rejects(client.sendMessage("bob", 1), AuthenticationError);
});

test("close says good-bye, waits for the service, and rejects what still waits", async () => {
  const [client, connection] = await connect();
  const waiting = client.register();
  let reports = 0;
  client.on("disconnected", () => (reports += 1));

  const closing = Promise.all([client.close("page closed"), client.close()]);
  const goodbye = await connection.next("DISCONNECT");
  connection.socket.close(1000);
  await closing;

  assert.deepEqual(goodbye.fields, { reason: "page closed" });
  await assert.rejects(waiting, UnavailableError);
  await assert.rejects(client.sendMessage("bob", 1), /the client is closed/);
  assert.equal(reports, 0);
});

test("closing while waiting to reconnect stops the attempts", async () => {
  const [client, connection] = await connect({ retry: { random: () => 1, baseDelay: 60_000, maxDelay: 60_000 } });
  const lost = nextEvent(client, "disconnected");
  connection.socket.terminate();
  await lost;

  await client.close();

  assert.equal(service.visits, 1);
});

test("a client that was never connected closes too", async () => {
  await makeClient().close();
});

test("a service that speaks v1 only is told from one that speaks v2", async () => {
  class WithoutSubprotocol extends WebSocket {
    constructor(url: string) {
      super(url);
    }
  }

  await assert.rejects(
    makeClient({ WebSocket: WithoutSubprotocol }).connect(),
    (error) => error instanceof MalformedMessageError && /it chose none/.test(error.message),
  );
});

test("a WebSocket that cannot be made rejects connect", async () => {
  class Impossible extends WebSocket {
    constructor() {
      super("nonsense");
    }
  }

  await assert.rejects(makeClient({ WebSocket: Impossible }).connect(), InvalidRequestError);
});

test("at most 1024 calls wait at the same time", async () => {
  const [client] = await connect();
  const waiting = Array.from({ length: 1024 }, () => client.register());
  const settled = Promise.allSettled(waiting);

  await assert.rejects(client.register(), { code: 429 });

  await service.stop().then(() => client.close());
  await settled;
  service = await TestService.start();
});

test("a refusal is not tried again as if it were a network fault, even where the service does not close", async () => {
  service.door = (connection, request) => connection.refuse(request, 403, "not from here");
  const client = makeClient();

  await assert.rejects(client.connect(), ForbiddenError);
  service.door = open;
});

for (const [what, call] of [
  ["a name that cannot be", (client) => client.sendMessage("a b", 1)],
  ["a room's name that cannot be", (client) => client.sendMessage({ roomId: "a b" }, 1)],
  ["no target", (client) => client.sendMessage(undefined as never, 1)],
  ["a time that is none", (client) => client.sendMessage("bob", 1, { timeout: NaN })],
  ["a time beyond every timer", (client) => client.heartbeat({ timeout: Infinity })],
  ["metadata that is no object", (client) => client.register({ metadata: 5 as never })],
  ["data without a JSON form", (client) => client.sendOffer("bob", 1n)],
  ["an event that there is not", async (client) => client.on("offfer" as "offer", () => undefined)],
  ["a listener that is none", async (client) => client.on("offer", null as never)],
  ["a room that cannot be", (client) => client.join("a b")],
  ["a role that there is not", (client) => client.join("r", { role: "spy" as "sender" })],
  ["a sender of nothing", (client) => client.join("r", { role: "sender" })],
  ["a room's delays that cannot be", (client) => client.join("r", { retry: { baseDelay: 0 } })],
] as [string, (client: SignalClient) => Promise<unknown>][]) {
  test(`a wrong argument is an InvalidRequestError: ${what}`, async () => {
    const [client] = await connect();

    await assert.rejects(call(client), InvalidRequestError);
  });
}

test("times and delays that cannot be are refused when the client is made", () => {
  for (const options of [
    { connectTimeout: -1 },
    { requestTimeout: Number.NaN },
    { retry: { attempts: -1 } },
    { retry: { baseDelay: 2, maxDelay: 1 } },
  ]) {
    assert.throws(() => makeClient(options), InvalidRequestError);
  }
});
