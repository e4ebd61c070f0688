/**
 * Where a client's token comes from, and when it is renewed before it ends.
 *
 * `client.ts` asks before every connection, and sends what is renewed (docs/protocol.md, "Tokens").
 */

import { AuthenticationError, SignalManagerError, UnavailableError } from "./errors.js";

/** A token, or a function that fetches one. */
export type Token = string | (() => string | Promise<string>);

// The part of a token's remaining life after which it is renewed, at the latest; and by how much of it clients differ,
// so that those who came together do not renew together. What is left is for trying again.
const RENEWED_AFTER = 0.8;
const JITTER = 0.1;

// In ms: between two renewals, however short a token lives or wrong a clock is; and what a timer can wait for.
const SHORTEST_PAUSE = 5000;
const LONGEST_PAUSE = 86_400_000;
const LONGEST_BACKOFF = 60_000;

// `details.reason` of an error of which a new token is the cure.
const EXPIRED = "token_expired";

/** Tell whether a new token is the cure for this error. */
export function isExpiry(error: SignalManagerError): boolean {
  return error instanceof AuthenticationError && error.details?.["reason"] === EXPIRED;
}

/** Return the error that ends a client whose token is a string, with what its application can do about it. */
export function explainExpiry(error: SignalManagerError): SignalManagerError {
  const { code, details, retryable, message } = error;
  const advice = "a client that is given a function in place of a token has it renewed";
  return new AuthenticationError(`${message}; ${advice}`, { code, details, retryable });
}

/** Return a token, or reject with UnavailableError when its function fails or takes longer than `timeout` ms. */
export async function fetchToken(token: Token, timeout: number): Promise<string> {
  if (typeof token === "string") return token;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no token within ${timeout} ms`)), timeout);
  });
  try {
    const fetched: unknown = await Promise.race([token(), late]);
    if (typeof fetched !== "string") throw new Error(`it returned no string, but ${typeof fetched}`);
    return fetched;
  } catch (error) {
    throw new UnavailableError(`the function that fetches the token failed: ${String(error)}`);
  } finally {
    clearTimeout(timer);
  }
}

/** Return after how many ms a token is renewed that lives for `left` ms. */
export function renewalDelay(left: number, random: () => number): number {
  const part = RENEWED_AFTER - JITTER * random();
  return Math.min(Math.max(part * left, SHORTEST_PAUSE), LONGEST_PAUSE);
}

/** Return after how many ms a renewal is tried again that has failed so often in a row. */
export function retryDelay(failures: number, random: () => number): number {
  return SHORTEST_PAUSE + random() * Math.min(LONGEST_BACKOFF, SHORTEST_PAUSE * 2 ** failures);
}
