/** The check for modules that import each other in a circle. */

import assert from "node:assert/strict";
import { test } from "node:test";

interface Check {
  importsOf(text: string): string[];
  circleIn(imports: Map<string, string[]>): string[] | undefined;
}

const SCRIPT = new URL("../../scripts/circles.mjs", import.meta.url).href;
const { importsOf, circleIn } = (await import(SCRIPT)) as Check;

test("imports of values and of types count, in every form", () => {
  const text = `
    import { a, type B } from "./one.js";
    import type { C } from "./two.js";
    import { type D } from "./three.js";
    export { e } from "./four.js";
    export type { F } from "./five.js";
    const f: import("./six.js").F | undefined = undefined;
    import { g } from "node:fs";
  `;

  assert.deepEqual(importsOf(text), ["one.ts", "two.ts", "three.ts", "four.ts", "five.ts", "six.ts"]);
});

test("a circle is named, and two ways to one module are none", () => {
  const diamond = new Map([
    ["a.ts", ["b.ts", "c.ts"]],
    ["b.ts", ["d.ts"]],
    ["c.ts", ["d.ts"]],
    ["d.ts", []],
  ]);
  assert.equal(circleIn(diamond), undefined);

  diamond.set("d.ts", ["b.ts"]);

  assert.deepEqual(circleIn(diamond), ["b.ts", "d.ts", "b.ts"]);
});
