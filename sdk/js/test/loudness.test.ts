/** Who speaks, from series of levels. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Detector } from "../src/loudness.js";

/** A detector that is given the levels of each 100 ms. */
class Series {
  readonly detector = new Detector<string>();
  readonly heard: string[] = []; // every change of the speakers
  #now = 0;

  /** Let members be as loud for so many ms. */
  for(time: number, levels: Record<string, number>): this {
    for (let passed = 0; passed < time; passed += 100) {
      this.detector.update(new Map(Object.entries(levels)), (this.#now += 100));
      const speakers = this.detector.speakers.join();
      if (speakers !== (this.heard.at(-1) ?? "")) this.heard.push(speakers);
    }
    return this;
  }
}

test("speech is noticed after about 350 ms, goes on through its pauses, and ends after a second", () => {
  const series = new Series().for(500, { bob: 0 }).for(300, { bob: 0.1 });
  assert.deepEqual(series.heard, []);
  series.for(200, { bob: 0.1 });
  assert.deepEqual(series.heard, ["bob"]);

  series.for(900, { bob: 0 }).for(100, { bob: 0.1 }).for(900, { bob: 0 });
  assert.deepEqual(series.heard, ["bob"]);
  series.for(200, { bob: 0 });
  assert.deepEqual(series.heard, ["bob", ""]);
});

test("speech with gaps between its words is noticed too", () => {
  const series = new Series();
  for (let word = 0; word < 5; word += 1) series.for(300, { bob: 0.1 }).for(100, { bob: 0 });
  assert.deepEqual(series.heard, ["bob"]);
});

test("a cough switches nothing, however loud, and neither does a hum", () => {
  const series = new Series().for(2000, { bob: 0.05, carol: 0 });
  series.for(300, { bob: 0.05, carol: 1 }).for(2000, { bob: 0.05, carol: 0.015 });
  assert.deepEqual(series.heard, ["bob"]);
});

test("the loudest comes first, and one that is a little louder does not pass", () => {
  const series = new Series().for(3000, { bob: 0.1, carol: 0 }).for(5000, { bob: 0.1, carol: 0.13 });
  assert.deepEqual(series.heard, ["bob", "bob,carol"]);
  series.for(5000, { bob: 0.1, carol: 0.4 });
  assert.deepEqual(series.heard, ["bob", "bob,carol", "carol,bob"]);
});

test("who is gone neither speaks nor has a level", () => {
  const series = new Series().for(1000, { bob: 0.1, carol: 0.1 }).for(100, { carol: 0.1 });
  assert.deepEqual(series.detector.speakers, ["carol"]);
  assert.deepEqual([...series.detector.levels.keys()], ["carol"]);
});

test("a level rises fast and falls slowly", () => {
  const { detector } = new Series().for(100, { bob: 0 }).for(100, { bob: 1 });
  assert.ok(detector.levels.get("bob")! > 0.8);
  detector.update(new Map([["bob", 0]]), 300);
  assert.ok(detector.levels.get("bob")! > 0.5);
});
