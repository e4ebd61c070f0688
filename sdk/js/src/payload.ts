/**
 * Payloads in plain JSON, read and written by the rules of `rules.ts`.
 *
 * `frames.ts` frames them. This module checks all that the service sends, so that the rest of the SDK can rely on it.
 */

import { InvalidRequestError, MalformedMessageError } from "./errors.js";
import { readFields, text } from "./fields.js";
import { isSignalType, type JsonObject, type MessageType } from "./messages.js";
import { RULES } from "./rules.js";

/** Write the fields of a message that a client sends; an `InvalidRequestError` names a wrong one. */
export function writePayload(type: MessageType, fields: unknown): string {
  try {
    const payload = readFields(RULES[type], fields);
    if (isSignalType(type)) {
      checkTarget(type, payload);
      const data = payload["signal_data"];
      if (data instanceof Uint8Array) {
        payload["signal_data"] = btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
        payload["signal_encoding"] = "base64";
      }
    }
    return JSON.stringify(payload);
  } catch (error) {
    // A field is wrong, or the data has no JSON form, such as a cycle or a bigint.
    throw error instanceof InvalidRequestError ? error : new InvalidRequestError((error as Error).message);
  }
}

function checkTarget(type: MessageType, payload: JsonObject): void {
  if (type !== "SIGNAL_MESSAGE") {
    if (payload["target_client_id"] === undefined) throw new InvalidRequestError("target_client_id is missing");
  } else if ((payload["target_client_id"] === undefined) === (payload["room_id"] === undefined)) {
    throw new InvalidRequestError("one of target_client_id and room_id is needed");
  }
}

/** Read the fields of a message that the service sends; a `MalformedMessageError` names a wrong one. */
export function readPayload(type: MessageType, payload: unknown): JsonObject {
  const fields = readFields(RULES[type], payload);
  if (isSignalType(type)) {
    if (fields["sender_client_id"] === undefined) throw new MalformedMessageError("sender_client_id is missing");
    const encoding = (payload as JsonObject)["signal_encoding"] ?? null;
    if (encoding !== null) fields["signal_data"] = readBase64(encoding, fields["signal_data"]);
  }
  return fields;
}

function readBase64(encoding: unknown, data: unknown): Uint8Array {
  if (encoding !== "base64") throw new MalformedMessageError("signal_encoding must be base64");
  try {
    return Uint8Array.from(atob(text.read(data, "signal_data") as string), (letter) => letter.charCodeAt(0));
  } catch {
    throw new MalformedMessageError("signal_data is not base64");
  }
}
