/** What an application imports: the built entry points, by the names that package.json gives them. */

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../../", import.meta.url);
const { name, exports: all } = JSON.parse(readFileSync(new URL("package.json", ROOT), "utf8")) as {
  name: string;
  exports: Record<string, { types: string; default: string } | string>;
};
// Not the package's own description, which is a plain file.
const exports = Object.entries(all).filter((each): each is [string, { types: string; default: string }] => {
  return typeof each[1] === "object";
});

async function load(entry: string): Promise<Record<string, unknown>> {
  return (await import(entry.replace(".", name))) as Record<string, unknown>;
}

test("every entry point is built, with types", async () => {
  for (const [entry, { types }] of exports) {
    assert.ok(Object.keys(await load(entry)).length > 0, entry);
    assert.ok(existsSync(fileURLToPath(new URL(types, ROOT))), types);
  }
});

test("entry points beside the core share its classes", async () => {
  const { Emitter, InvalidRequestError } = (await load(".")) as Record<string, new () => object>;
  const { DirectCalls } = (await load("./direct")) as Record<string, { prototype: object }>;
  const { releaseDevice } = (await load("./devices")) as Record<string, (publication: object, reopen: number) => void>;

  assert.ok(DirectCalls!.prototype instanceof Emitter!);
  assert.throws(() => releaseDevice!({}, 5), InvalidRequestError!);
});

test("the core loads none of the other entry points", async () => {
  const core = Object.keys(await load("."));
  for (const [entry] of exports.filter(([each]) => each !== ".")) {
    for (const each of Object.keys(await load(entry))) assert.ok(!core.includes(each), each);
  }
});
