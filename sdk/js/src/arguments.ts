/** Checks the arguments that applications pass to the SDK. A wrong one throws an `InvalidRequestError` that names it. */

import { InvalidRequestError } from "./errors.js";
import { maybe, oneOf, readFields, rule, type Rule, type RulesOf } from "./fields.js";

/** In ms; a timer that is set to more fires at once (HTML, "timers"). */
export const MAX_TIME = 2 ** 31 - 1;

// In bytes of UTF-8 (docs/protocol.md, "Bounds").
const MAX_TEXT = 256;

/** A rule for a number. */
export function numberUpTo(largest: number, smallest: number): Rule {
  const isInside = (value: unknown): boolean => typeof value === "number" && value >= smallest && value <= largest;
  return rule(`a number from ${smallest} to ${largest}`, isInside);
}

/** A rule for an object with a certain method. */
export function having(expected: string, method: string): Rule {
  return rule(expected, (value) => typeof (value as Record<string, unknown> | null)?.[method] === "function");
}

/** A number of ms. */
export const time = numberUpTo(MAX_TIME, 0);
export const shortText = rule(
  `a string of up to ${MAX_TEXT} bytes`,
  (value) => typeof value === "string" && new TextEncoder().encode(value).length <= MAX_TEXT,
);
export const aKind = oneOf("audio", "video");
export const aFunction = rule("a function", (value) => typeof value === "function");
export const aSignal = having("an AbortSignal", "throwIfAborted");
export const aStream = having("a MediaStream", "getTracks");

/** Return the arguments, or options, that `rules` name. */
export function check<Shape>(rules: RulesOf<Shape>, values: Shape, where?: string): Shape {
  try {
    return readFields(rules, values, where) as Shape;
  } catch (error) {
    throw new InvalidRequestError((error as Error).message);
  }
}

/** The rules of every call that waits. */
export const CALL = { timeout: maybe(time), signal: maybe(aSignal) };
