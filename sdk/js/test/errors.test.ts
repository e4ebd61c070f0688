/** The error classes are those of docs/vectors.json, which the service's tests read too. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as errors from "../src/errors.js";

interface ErrorCode {
  name: string;
  code: number;
  retryable: boolean;
}

const { error_codes: errorCodes } = JSON.parse(
  readFileSync(new URL("../../../../docs/vectors.json", import.meta.url), "utf8"),
) as { error_codes: ErrorCode[] };

test("every error of the wire has its class, code and retry", () => {
  const classes = Object.values(errors).filter(
    (each): each is typeof errors.SignalManagerError =>
      each === errors.SignalManagerError || Object.prototype.isPrototypeOf.call(errors.SignalManagerError, each),
  );
  const ours = classes.map(({ kind, code, retryable }) => ({ name: kind, code, retryable }));

  const order = (a: ErrorCode, b: ErrorCode) => a.name.localeCompare(b.name);
  assert.deepEqual(ours.sort(order), errorCodes.sort(order));
});

test("an ERROR becomes the class of its code", () => {
  for (const { name, code, retryable } of errorCodes) {
    if (name === "MalformedMessageError") continue; // on the wire it has the code of a wrong request
    const error = errors.errorFromWire("refused", { code });
    assert.deepEqual([error.name, error.code, error.retryable], [name, code, retryable]);
  }
});
