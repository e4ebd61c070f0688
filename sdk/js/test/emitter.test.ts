/** `Emitter` alone. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Emitter } from "../src/emitter.js";

class Bell extends Emitter<{ ring: number }> {
  constructor() {
    super({ ring: true });
  }

  ring(times: number): void {
    this.emit("ring", times);
  }
}

test("listeners hear in the order in which they were added, until they are taken away", () => {
  const bell = new Bell();
  const heard: string[] = [];
  const off = bell.on("ring", (times) => heard.push(`a${times}`));
  bell.on("ring", (times) => heard.push(`b${times}`));

  bell.ring(1);
  off();
  off();
  bell.ring(2);

  assert.deepEqual(heard, ["a1", "b1", "b2"]);
});

test("a function that is added twice is called twice and taken away once", () => {
  const bell = new Bell();
  let heard = 0;
  const count = (): number => (heard += 1);
  const off = bell.on("ring", count);
  bell.on("ring", count);

  off();
  bell.ring(1);

  assert.equal(heard, 1);
});

test("a listener that throws is reported and keeps nobody from the event", (context) => {
  const bell = new Bell();
  const heard: number[] = [];
  const reports: (() => void)[] = [];
  context.mock.method(globalThis, "queueMicrotask", (report: () => void) => reports.push(report));
  bell.on("ring", () => {
    throw new Error("a listener's fault");
  });
  bell.on("ring", (times) => heard.push(times));

  bell.ring(7);

  assert.deepEqual(heard, [7]);
  assert.throws(() => reports[0]?.(), /a listener's fault/);
});
