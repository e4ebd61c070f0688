/**
 * Rules for the fields of messages and the arguments of applications, and a function that reads an object by them.
 * `rules.ts` and `arguments.ts` combine these rules.
 */

import { MalformedMessageError } from "./errors.js";
import { isObject, type JsonObject } from "./messages.js";

/** The characters of the names of clients, rooms and tracks. */
export const NAME_RULE = "1-128 letters, digits and . _ ~ @ + = -, not '.', '..' or '__…__'";

const NAME = /^(?!\.{1,2}$|__.*__$)[A-Za-z0-9._~@+=-]{1,128}$/;

/** Tell whether a client, room or track may have this name. */
export function isValidName(name: unknown): name is string {
  return typeof name === "string" && NAME.test(name);
}

/** Items in one request about tracks or data channels (docs/protocol.md, "Messages"). */
export const MAX_ITEMS = 64;

// The most characters of a wrong value that an error shows.
const MAX_SHOWN = 80;

/** A rule returns the value to keep, or throws what was expected. */
export interface Rule {
  isOptional: boolean;
  read(value: unknown, where: string): unknown;
}

/** A rule for every field of a type. */
export type RulesOf<Shape> = { [F in keyof Shape]-?: Rule };

/** The rules of an object's fields, in the order in which they are written. */
export type Rules = Readonly<Record<string, Rule>>;

/** Return a rule that keeps an expected value and refuses any other. */
export function rule(expected: string, accepts: (value: unknown) => boolean): Rule {
  return {
    isOptional: false,
    read(value, where) {
      if (accepts(value)) return value;
      const shown = Object(value) === value ? typeof value : String(value).slice(0, MAX_SHOWN);
      throw new MalformedMessageError(`${where} must be ${expected}, got ${shown}`);
    },
  };
}

export function maybe(required: Rule): Rule {
  return { ...required, isOptional: true };
}

export function listOf(item: Rule, limit = Infinity): Rule {
  return {
    isOptional: false,
    read(value, where) {
      if (!Array.isArray(value)) throw new MalformedMessageError(`${where} must be a list, got ${typeof value}`);
      if (value.length > limit)
        throw new MalformedMessageError(`${where} has ${value.length} items, expected at most ${limit}`);
      return value.map((each, index) => item.read(each, `${where}[${index}]`));
    },
  };
}

export function part(rules: Rules): Rule {
  return { isOptional: false, read: (value, where) => readFields(rules, value, where) };
}

/** Read the fields that `rules` names, in their order; others are ignored, and null is an absent field. */
export function readFields(rules: Rules, source: unknown, where = ""): JsonObject {
  if (!isObject(source)) throw new MalformedMessageError(`${where || "the payload"} must be an object`);
  const fields: JsonObject = {};
  for (const [name, each] of Object.entries(rules)) {
    const path = where ? `${where}.${name}` : name;
    const value = source[name];
    if (value !== undefined && (value !== null || each === anything)) fields[name] = each.read(value, path);
    else if (!each.isOptional) throw new MalformedMessageError(`${path} is missing`);
  }
  return fields;
}

export function oneOf(...words: string[]): Rule {
  return rule(`one of ${words.join(", ")}`, (value) => words.includes(value as string));
}

export const anything = rule("a JSON value", (value) => typeof value !== "function" && typeof value !== "symbol");
export const text = rule("a string", (value) => typeof value === "string");
export const name = rule(NAME_RULE, isValidName);
export const tag = rule(
  "1-64 characters",
  (value) => typeof value === "string" && value.length >= 1 && value.length <= 64,
);
export const flag = rule("true or false", (value) => typeof value === "boolean");
export const amount = rule("a number", (value) => typeof value === "number");
// Integers beyond 2^53 would lose digits in a double, so they are refused.
export const integer = rule("an integer", Number.isSafeInteger);
export const count = rule("an integer of 0 or more", (value) => Number.isSafeInteger(value) && (value as number) >= 0);
export const places = rule(
  "1-65535",
  (value) => Number.isInteger(value) && (value as number) >= 1 && (value as number) <= 65535,
);
export const object = rule("an object", isObject);
