/** What a page asked for last holds: cuts, cancellations and closings at every turn of joining and leaving a room. */

import assert from "node:assert/strict";
import { setImmediate, setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";

import { WebSocket } from "ws";

import { SignalClient } from "../src/client.js";
import { ConflictError } from "../src/errors.js";
import { makeId } from "../src/ids.js";
import type { Fields } from "../src/messages.js";
import type { Room } from "../src/room.js";
import { FakePeer, makeStream } from "./peer.js";
import { FakeRooms } from "./rooms.js";
import { TestService, soon, type ServiceConnection } from "./service.js";

const TURNS = 16;
const LATER = [0, 4];

/** What a service keeps of a session whose client may come back. */
interface Kept {
  id: string;
  connection: ServiceConnection;
  received: number;
  sent: Parameters<ServiceConnection["send"]>[];
}

/** A service with rooms whose sessions outlive their connections, and end with DISCONNECT alone. */
class Resuming {
  readonly service: TestService;
  readonly rooms: FakeRooms;
  readonly sessions = new Map<string, Kept>();

  constructor(service: TestService) {
    this.service = service;
    this.rooms = new FakeRooms(service);
    const { onMessage: serve, onClose: leaveAll } = service;
    service.onClose = () => undefined;
    service.onMessage = (connection, request) => {
      if (request.type.startsWith("HEARTBEAT")) return;
      this.sessions.get(connection.clientId)!.received += 1;
      if (request.type !== "DISCONNECT") return serve(connection, request);
      this.sessions.delete(connection.clientId);
      leaveAll(connection);
      connection.socket.close(1000);
    };
    service.door = (connection, request) => {
      const send = connection.send.bind(connection) as (...args: Kept["sent"][number]) => void;
      const resume = request.fields["resume"] as Fields["CONNECT"]["resume"];
      const old = this.sessions.get(connection.clientId);
      const kept = resume && old ? old : { id: makeId(), connection, received: 0, sent: [] };
      kept.connection = connection;
      this.sessions.set(connection.clientId, kept);
      for (const { members } of this.rooms.rooms.values()) {
        const member = members.get(connection.clientId);
        if (member !== undefined) member.connection = connection;
      }
      const resumed = kept === old ? { resumed: true, received: kept.received } : {};
      send("CONNECT_ACK", { status: "success", session_id: kept.id, resume_token: "r", ...resumed }, request.id);
      for (const message of kept.sent.slice(resume?.received ?? 0)) send(...message);
      connection.send = (...message: Kept["sent"][number]) => {
        kept.sent.push(message);
        send(...message);
      };
    };
  }

  cut(name: string): void {
    this.sessions.get(name)?.connection.socket.terminate();
  }

  async expectNobody(): Promise<void> {
    const others = (): string[] =>
      [...(this.rooms.rooms.get("demo")?.members.keys() ?? [])].filter((id) => id !== "host");
    for (let tries = 0; others().length > 0; tries += 1) {
      assert.ok(tries < 1000, `${others()} is in the room still`);
      await sleep(2);
    }
  }
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await setImmediate();
}

for (const what of ["joining", "leaving"]) {
  for (const actions of [
    ["cancel"],
    ["close"],
    ["cut", "cancel"],
    ["cut", "close"],
    ["cut", "leave"],
    ["close", "cut"],
  ]) {
    test(`${actions.join(", then ")} while ${what}: nobody is left in the room, and the next one is open`, async () => {
      const world = new Resuming(await TestService.start());
      const { url } = world.service;
      const options = { WebSocket, retry: { random: () => 0 } };
      const host = new SignalClient(url, "host", "t", options);
      await host.connect();
      await host.join("demo", { create: true, autoPull: false, RTCPeerConnection: FakePeer as never });
      let number = 0;
      for (let before = 0; before <= TURNS; before += 1) {
        for (const between of actions.length > 1 ? LATER : [0]) {
          const name = `guest-${number++}`;
          const client = new SignalClient(url, name, "t", options);
          await client.connect();
          const ending = new AbortController();
          let room: Room | undefined;
          let isClosed = false;
          const joining = client
            .join("demo", { stream: makeStream("audio"), signal: ending.signal, RTCPeerConnection: FakePeer as never })
            .then((joined) => (room = joined))
            .catch((error: Error) => assert.ok(!(error instanceof ConflictError), error));
          if (what === "leaving") {
            await joining;
            void room?.leave();
          }
          const act = async (action: string | undefined): Promise<void> => {
            if (action === "cut") world.cut(name);
            else if (action === "cancel") ending.abort(new Error("no longer wanted"));
            else if (action === "leave") await room?.leave();
            else if (action === "close") {
              isClosed = true;
              await client.close();
            }
          };

          await turns(before);
          const first = act(actions[0]);
          await turns(1 + between);
          await act(actions[1]);
          await soon(Promise.all([first, joining]), `the end of ${name}: ${before}, ${between}`);
          await room?.leave();

          if (!isClosed) {
            const next = await client.join(`next-${name}`, { create: true, RTCPeerConnection: FakePeer as never });
            await world.expectNobody();
            await next.leave();
          }
          await client.close();
          await world.expectNobody();
        }
      }
      await host.close();
      await world.service.stop();
    });
  }
}
