/** Tokens that end: `SignalClient` fetches new ones, renews them on the live connection, and says what it cannot do. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { WebSocket } from "ws";

import { SignalClient, type ClientEvents, type ClientOptions } from "../src/client.js";
import { AuthenticationError, InvalidRequestError, SignalManagerError, UnavailableError } from "../src/errors.js";
import { fetchToken, isExpiry, renewalDelay, retryDelay, type Token } from "../src/tokens.js";
import { TestService, soon, type Received, type ServiceConnection } from "./service.js";
import { makeId } from "../src/ids.js";

let service: TestService;
let client: SignalClient;

beforeEach(async () => {
  service = await TestService.start();
});

afterEach(async () => {
  await service.stop();
  await client.close();
});

function makeClient(token: Token, options: ClientOptions = {}): SignalClient {
  client = new SignalClient(service.url, "alice", token, { WebSocket, retry: { random: () => 0 }, ...options });
  return client;
}

function nextEvent<Name extends keyof ClientEvents>(name: Name): Promise<ClientEvents[Name]> {
  const event = new Promise<ClientEvents[Name]>((resolve) => {
    const off = client.on(name, (value) => {
      off();
      resolve(value);
    });
  });
  return soon(event, `the event ${name}`);
}

/** Let in clients with a valid token; refuse all others because their token has expired. */
function admit(...valid: string[]): void {
  service.door = (connection, request) => {
    if (valid.includes(request.fields["auth_token"] as string)) {
      connection.send("CONNECT_ACK", { status: "success", session_id: makeId() }, request.id);
    } else {
      refuseAsExpired(connection, request);
    }
  };
}

function refuseAsExpired(connection: ServiceConnection, request: Received): void {
  const details = { reason: "token_expired" };
  connection.send("ERROR", { error_code: 401, error_message: "the token has expired, 75 s ago", details }, request.id);
  connection.socket.close(4401);
}

/** A function that returns these tokens, and the last one for ever. */
function supply(...tokens: string[]): () => Promise<string> {
  return async () => (tokens.length > 1 ? tokens.shift()! : tokens[0]!);
}

test("a function is asked before every connection", async () => {
  makeClient(supply("t-1", "t-2"));
  admit("t-1");
  await client.connect();
  const back = nextEvent("reconnected");
  admit("t-2");

  (await service.connection()).socket.terminate();

  await back;
});

test("a function that has an expired token is asked once more, at first and later", async () => {
  makeClient(supply("expired", "t-1", "expired", "t-2"));
  admit("t-1", "t-2");
  await client.connect();
  await service.connection();
  const back = nextEvent("reconnected");

  (await service.connection()).socket.terminate();

  await back;
  assert.equal(service.visits, 4);
});

test("a function that goes on having expired tokens ends no client that was connected", async () => {
  makeClient(supply("t-1", "expired", "expired", "expired", "t-2"));
  admit("t-1", "t-2");
  await client.connect();
  const back = nextEvent("reconnected");

  (await service.connection()).socket.terminate();

  await back;
  assert.equal(service.visits, 5);
});

test("a string that has expired ends the client with what helps", async () => {
  makeClient("t-1");
  admit("t-1");
  await client.connect();
  const closed = nextEvent("closed");
  admit("t-2");

  (await service.connection()).socket.terminate();

  const { error } = await closed;
  assert.ok(error instanceof AuthenticationError);
  assert.match(error.message, /the token has expired, 75 s ago; .* function in place of a token/);
});

test("4402 sends the client for a new token", async () => {
  makeClient(supply("t-1", "t-2"));
  admit("t-1");
  await client.connect();
  const lost = nextEvent("disconnected");
  const back = nextEvent("reconnected");
  admit("t-2");

  (await service.connection()).socket.close(4402, "the token has expired");

  assert.equal((await lost).willReconnect, true);
  await back;
});

test("a function that fails is asked again, and rejects the first connect", async () => {
  let failures = 0;
  makeClient(() => {
    failures += 1;
    if (failures === 2) throw new Error("the backend is away");
    return "t-1";
  });
  await client.connect();
  const back = nextEvent("reconnected");
  (await service.connection()).socket.terminate();
  await back;
  await client.close();

  makeClient(() => Promise.reject(new Error("the backend is away")));
  await assert.rejects(client.connect(), (error: SignalManagerError) => {
    assert.ok(error instanceof UnavailableError);
    return error.message.includes("the backend is away");
  });
});

test("a client that is closed while its token is fetched says nothing more", async () => {
  let deliver: (token: string) => void = () => undefined;
  const fetching = new Promise<void>((asked) => {
    makeClient(() => {
      asked();
      return new Promise<string>((resolve) => (deliver = resolve));
    });
  });
  const connecting = client.connect();
  connecting.catch(() => undefined);
  await soon(fetching, "the function to be asked");

  await client.close();
  deliver("t-1");

  await assert.rejects(connecting, UnavailableError);
});

test("a token is renewed on the live connection, by the service's clock", async (context) => {
  makeClient(supply("t-1", "t-2", "t-3"));
  const serverTime = Date.now() + 3_600_000; // this machine's clock is an hour late
  service.door = (connection, request) =>
    connection.send(
      "CONNECT_ACK",
      { status: "success", session_id: makeId(), token_expires_at: serverTime + 100_000, token_expiry: "close" },
      request.id,
    );
  const delays: number[] = [];
  const later = globalThis.setTimeout;
  context.mock.method(globalThis, "setTimeout", (callback: () => void, ms: number) => {
    if (ms < 50_000) return later(callback, ms);
    delays.push(ms);
    return later(callback, 0);
  });
  service.onMessage = (connection, message) => {
    if (message.type === "HEARTBEAT") {
      connection.send("HEARTBEAT_ACK", { timestamp: 0, server_time: serverTime }, message.id);
    } else if (message.type === "TOKEN_RENEW" && message.fields["auth_token"] === "t-2") {
      connection.send("TOKEN_RENEW_ACK", { status: 200, expires_at: serverTime + 200_000 }, message.id);
    } else if (message.type === "TOKEN_RENEW") {
      connection.send("TOKEN_RENEW_ACK", { status: 200 }, message.id);
    }
  };
  await client.connect();
  const connection = await service.connection();

  const tokens = [await connection.next("TOKEN_RENEW"), await connection.next("TOKEN_RENEW")];

  assert.deepEqual(
    tokens.map(({ fields }) => fields["auth_token"]),
    ["t-2", "t-3"],
  );
  assert.deepEqual(delays, [80_000, 160_000]);
});

test("a renewal that fails is reported and tried again", async (context) => {
  makeClient(supply("t-1", "wrong", "t-2"), { retry: { random: () => 0.5 } });
  const later = globalThis.setTimeout;
  context.mock.method(globalThis, "setTimeout", (callback: () => void, ms: number) =>
    later(callback, ms === 7500 || ms === 75_000 ? 0 : ms),
  );
  service.door = (connection, request) =>
    connection.send(
      "CONNECT_ACK",
      { status: "success", session_id: makeId(), token_expires_at: 100_000, token_expiry: "continue" },
      request.id,
    );
  service.onMessage = (connection, message) => {
    if (message.type === "HEARTBEAT") {
      connection.send("HEARTBEAT_ACK", { timestamp: 0, server_time: 0 }, message.id);
    } else if (message.fields["auth_token"] === "wrong") {
      connection.refuse(message, 401, "the client id or the token is wrong");
    } else if (message.type === "TOKEN_RENEW") {
      connection.send("TOKEN_RENEW_ACK", { status: 200 }, message.id);
    }
  };
  const told = nextEvent("error").catch((error: unknown) => error);
  await client.connect();
  const connection = await service.connection();
  const tokens = [await connection.next("TOKEN_RENEW"), await connection.next("TOKEN_RENEW")];

  assert.deepEqual(
    tokens.map(({ fields }) => fields["auth_token"]),
    ["wrong", "t-2"],
  );
  assert.ok(((await told) as { error: unknown }).error instanceof AuthenticationError);
  assert.ok(client.isConnected);
});

test("a token that is no token is refused at once", () => {
  makeClient("t-1");
  for (const token of [undefined, 5, null]) {
    assert.throws(() => new SignalClient("ws://h", "alice", token as never, { WebSocket }), InvalidRequestError);
  }
});

test("a function that returns no string, or nothing in time, has failed", async () => {
  makeClient("t-1");
  await assert.rejects(
    fetchToken((() => undefined) as never, 1000),
    /UnavailableError: .*expected a string, got undefined|expected a string, got undefined/,
  );
  await assert.rejects(
    fetchToken(() => new Promise(() => undefined), 10),
    /no token within 10 ms/,
  );
});

test("renewals leave room for others, and for trying again", () => {
  makeClient("t-1");
  assert.deepEqual([renewalDelay(100_000, () => 0), Math.round(renewalDelay(100_000, () => 1))], [80_000, 70_000]);
  assert.equal(renewalDelay(-50_000, Math.random), 5000);
  assert.equal(
    renewalDelay(1e15, () => 0),
    86_400_000,
  );
  assert.deepEqual([retryDelay(0, () => 1), retryDelay(9, () => 1)], [10_000, 65_000]);
  assert.ok(!isExpiry(new AuthenticationError("wrong")));
});
