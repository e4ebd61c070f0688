/** When a client or a room tries again. */

import { InvalidRequestError } from "./errors.js";

/** When and how often a client tries again. Times are in ms. */
export interface RetryOptions {
  /** How often a lost connection is tried again before the client ends; default: until `close`. 0 is never. */
  attempts?: number;
  /** The upper end of the first delay; default 500. */
  baseDelay?: number;
  /** The upper end of every delay; default 10,000: somebody sits in front of a browser and waits. */
  maxDelay?: number;
  /** Returns a number from 0 up to 1; default `Math.random`. */
  random?: () => number;
}

/** In ms; a timer that is set to more fires at once (HTML, "timers"). */
export const MAX_TIME = 2 ** 31 - 1;

/** Fill in what an application left out. @throws InvalidRequestError with delays that cannot be. */
export function completeRetry(
  options: RetryOptions | undefined,
  standard: { attempts: number; maxDelay: number },
): Required<RetryOptions> {
  const retry = { baseDelay: 500, random: Math.random, ...standard, ...options };
  const { attempts, baseDelay, maxDelay } = retry;
  if (!(attempts >= 0)) throw new InvalidRequestError(`attempts is ${attempts}, expected at least 0`);
  if (!(0 < baseDelay && baseDelay <= maxDelay)) {
    throw new InvalidRequestError(`expected 0 < baseDelay <= maxDelay, got ${baseDelay} and ${maxDelay}`);
  }
  return retry;
}
