/** The golden frames of docs/vectors.json, and what the codec refuses to send. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { InvalidRequestError, MalformedMessageError, TooLargeError } from "../src/errors.js";
import { decode, encode, type Framing } from "../src/frames.js";
import { makeId } from "../src/ids.js";
import { isSignal, type Fields, type JsonObject, type MessageType } from "../src/messages.js";

interface Vector {
  name: string;
  framing: Framing;
  sent_by: "client" | "service";
  hex?: string;
  text?: string;
}

interface FrameVector extends Vector {
  canonical: boolean;
  message: { type: MessageType; id: string; payload_type: string; shape: string; fields: JsonObject };
}

interface MalformedVector extends Vector {
  message_id: string | null;
  reason: string;
}

const vectors = JSON.parse(readFileSync(new URL("../../../../docs/vectors.json", import.meta.url), "utf8")) as {
  frames: FrameVector[];
  malformed: MalformedVector[];
};

const ID = "6f1c2a3e-9b4d-4c58-8a77-0d1e2f304152";
const JSON_BYTE = 0x02;

function dataOf(vector: Vector): string | ArrayBuffer {
  return vector.text ?? Uint8Array.from(Buffer.from(vector.hex ?? "", "hex")).buffer;
}

/** Values of the vectors as JavaScript has them. */
function revive(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(revive);
  if (typeof value !== "object" || value === null) return value;
  const { $hex } = value as { $hex?: string };
  if ($hex !== undefined) return Uint8Array.from(Buffer.from($hex, "hex"));
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, revive(each)]));
}

/** Fields without those that have their default value: the vectors leave them out. */
function withoutDefaults(fields: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== false));
}

/** Why this SDK does not have to understand a vector; undefined when it does. */
function skipReason(vector: FrameVector): string | undefined {
  const { payload_type, shape, fields } = vector.message;
  if (payload_type !== "JSON") return `${payload_type} payload: the SDK speaks JSON, so nothing else is sent to it`;
  if (shape !== "plain") return "tagged JSON: the SDK speaks plain JSON, so nothing else is sent to it";
  if (JSON.stringify(fields).includes("$u64")) return "an integer beyond what a double holds";
  return undefined;
}

const tally = new Map<string, number>();

function tallied(reason: string): string {
  tally.set(reason, (tally.get(reason) ?? 0) + 1);
  return reason;
}

for (const vector of vectors.frames) {
  const { type, id, fields } = vector.message;
  const skip = skipReason(vector);
  const isFromClient = vector.sent_by === "client";
  const isSignalOfClient = isFromClient && type.startsWith("SIGNAL_");
  if (skip !== undefined) {
    test(`frame: ${vector.name}`, { skip: tallied(skip) });
    continue;
  }
  // Client messages are encoded; service messages, and those that read the same in both directions, are decoded.
  if (isFromClient && vector.canonical) {
    test(`encodes: ${vector.name}`, () => {
      const encoded = encode(vector.framing, type, id, revive(fields) as never);

      assert.deepEqual(
        typeof encoded === "string" ? encoded : Buffer.from(encoded).toString("hex"),
        vector.text ?? vector.hex,
      );
      tallied("encoded");
    });
  }
  if (!isSignalOfClient) {
    test(`decodes: ${vector.name}`, () => {
      const message = decode(vector.framing, dataOf(vector));

      assert.deepEqual(
        { ...message, fields: withoutDefaults(message.fields as JsonObject) },
        { type, id, fields: revive(fields) },
      );
      tallied("decoded");
    });
  }
}

/** Tell how a malformed vector is tried: by decoding it, or, for a client's signal, by encoding its fields. */
function trial(vector: MalformedVector): "decode" | "encode" | "skip" {
  const data = dataOf(vector);
  if (typeof data === "string") return "decode";
  const bytes = new Uint8Array(data);
  const header = vector.framing === "v1" ? 21 : 23;
  const payload = bytes.subarray(header);
  const isWhole = bytes.length > header && vector.reason !== "unknown payload type";
  if (isWhole && bytes[18] !== JSON_BYTE) return "skip";
  const isSignal = bytes[1]! >= 0x10 && bytes[1]! <= 0x13;
  if (!isSignal || vector.sent_by === "service") return "decode";
  try {
    JSON.parse(Buffer.from(payload).toString());
    return "encode";
  } catch {
    return "decode";
  }
}

const NOT_OURS_TO_CHECK = new Map([
  ["signal_message, nested 65 levels deep", "the service's limit, which its ERROR names"],
  ["tagged signal_message, which has no variant", "tagged"],
  ["tagged with another type's variant", "tagged"],
  ["tagged, a bad name", "tagged"],
]);

for (const vector of vectors.malformed) {
  const how = trial(vector);
  const reason = NOT_OURS_TO_CHECK.get(vector.name);
  if (how === "skip" || reason !== undefined || /base64|signal_encoding/.test(vector.name)) {
    test(`malformed: ${vector.name}`, {
      skip: tallied(`malformed, ${reason ?? (how === "skip" ? "no JSON payload" : "only ever decoded")}`),
    });
  } else if (how === "encode") {
    test(`does not send: ${vector.name}`, () => {
      const type = ({ 0x10: "SIGNAL_OFFER", 0x11: "SIGNAL_ANSWER", 0x13: "SIGNAL_MESSAGE" } as const)[
        new Uint8Array(dataOf(vector) as ArrayBuffer)[1] as 0x10
      ];
      const fields = JSON.parse(
        Buffer.from(vector.hex ?? "", "hex")
          .subarray(21)
          .toString(),
      ) as Fields["SIGNAL_OFFER"];

      assert.throws(() => encode(vector.framing, type, ID, fields), InvalidRequestError);
      tallied("malformed, not sent");
    });
  } else {
    test(`refuses: ${vector.name}`, () => {
      assert.throws(
        () => decode(vector.framing, dataOf(vector)),
        (error) => error instanceof MalformedMessageError && error.messageId === vector.message_id,
      );
      tallied("malformed, refused");
    });
  }
}

test("every vector was used or is listed as skipped", (context) => {
  for (const [reason, count] of tally) context.diagnostic(`${count} × ${reason}`);

  assert.ok((tally.get("encoded") ?? 0) >= 20);
  assert.ok((tally.get("decoded") ?? 0) >= 30);
  assert.ok((tally.get("malformed, refused") ?? 0) >= 60);
});

test("bytes travel in base64 and arrive as bytes", () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);

  const sent = encode("json", "SIGNAL_MESSAGE", ID, { target_client_id: "bob", signal_data: bytes }) as string;
  const message = decode("json", sent.replace('"target_client_id":"bob"', '"sender_client_id":"alice"'));

  assert.ok(isSignal(message));
  assert.deepEqual(message.fields.signal_data, bytes);
});

for (const fields of [
  { signal_data: "%%%", signal_encoding: "base64" },
  { signal_data: 7, signal_encoding: "base64" },
  { signal_data: "x", signal_encoding: "rot13" },
]) {
  test(`refuses signal data ${JSON.stringify(fields)}`, () => {
    const payload = { sender_client_id: "alice", ...fields };

    assert.throws(
      () => decode("json", JSON.stringify({ type: "SIGNAL_MESSAGE", id: ID, payload })),
      (error) => error instanceof MalformedMessageError && /signal_/.test(error.message) && error.messageId === ID,
    );
  });
}

test("a message that does not fit v1 is refused with its size, and fits v2", () => {
  const fields = { target_client_id: "bob", signal_data: "x".repeat(70_000) };

  assert.throws(
    () => encode("v1", "SIGNAL_OFFER", ID, fields),
    (error) => error instanceof TooLargeError && /70\d{3} bytes/.test(error.message),
  );
  assert.equal(encode("v2", "SIGNAL_OFFER", ID, fields).length, 23 + JSON.stringify(fields).length);
});

test("a message of the other WebSocket kind is refused", () => {
  assert.throws(() => decode("v2", "{}"), MalformedMessageError);
  assert.throws(() => decode("json", new ArrayBuffer(23)), MalformedMessageError);
});

test("errors inside a list name the place", () => {
  const payload = { tracks: [{ mid: "0" }, { mid: 1 }] };

  assert.throws(
    () => decode("json", JSON.stringify({ type: "TRACKS_NEW_ACK", id: ID, payload })),
    /tracks\[1\]\.mid must be a string/,
  );
});

test("ids are version 4 UUIDs and differ", () => {
  const ids = Array.from({ length: 100 }, makeId);

  assert.ok(ids.every((id) => /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(id)));
  assert.equal(new Set(ids).size, 100);
});
