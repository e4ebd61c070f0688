/** When a client or a room tries again. */

import { aFunction, check, numberUpTo, time } from "./arguments.js";
import { maybe, type RulesOf } from "./fields.js";

/** The delays and the number of attempts. Times are in ms. */
export interface RetryOptions {
  /** The most attempts after a lost connection before the client ends; default: until `close`. 0 is never. */
  attempts?: number;
  /** The upper end of the first delay; default 500. */
  baseDelay?: number;
  /** The upper end of every delay; default 10,000, because a person waits in front of a browser. */
  maxDelay?: number;
  /** Returns a number from 0 up to 1; default `Math.random`. */
  random?: () => number;
}

const RULES: RulesOf<RetryOptions> = {
  attempts: maybe(numberUpTo(Infinity, 0)),
  baseDelay: maybe(time),
  maxDelay: maybe(time),
  random: maybe(aFunction),
};

/** Complete the options with defaults. @throws InvalidRequestError a delay is wrong. */
export function completeRetry(
  options: RetryOptions = {},
  standard: { attempts: number; maxDelay: number },
): Required<RetryOptions> {
  const given = check(RULES, options, "retry");
  const retry = { baseDelay: 500, random: Math.random, ...standard, ...given };
  check({ baseDelay: numberUpTo(retry.maxDelay, Number.MIN_VALUE) }, { baseDelay: retry.baseDelay }, "retry");
  return retry;
}
