/**
 * Fetches a client's token, and computes when to renew it before it expires.
 *
 * `client.ts` fetches one before every connection, and sends the renewed ones (docs/protocol.md, "Tokens").
 */

import { AuthenticationError, SignalManagerError, UnavailableError } from "./errors.js";

/** A token, or a function that fetches one. */
export type Token = string | (() => string | Promise<string>);

// A token is renewed after the first part of its remaining life, less a random part of up to the second. The jitter keeps
// clients that connected together from renewing together. The rest of the life is left for more attempts.
const RENEWED_AFTER = 0.8;
const JITTER = 0.1;

// In ms: the pause between two renewals at least, even if a token's life is short or a clock is wrong; and the longest
// timer.
const SHORTEST_PAUSE = 5000;
const LONGEST_PAUSE = 86_400_000;
const LONGEST_BACKOFF = 60_000;

// `details.reason` of an error that a new token can solve.
const EXPIRED = "token_expired";

/** Tell whether a new token can solve this error. */
export function isExpiry(error: SignalManagerError): boolean {
  return error instanceof AuthenticationError && error.details?.["reason"] === EXPIRED;
}

/** Return the error that ends a client whose token is a string, with advice for its application. */
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
    if (typeof fetched !== "string") throw new Error(`expected a string, got ${typeof fetched}`);
    return fetched;
  } catch (error) {
    throw new UnavailableError(`the function that fetches the token failed: ${String(error)}`);
  } finally {
    clearTimeout(timer);
  }
}

/** Return the ms until the renewal of a token that lives for `left` ms. */
export function renewalDelay(left: number, random: () => number): number {
  const part = RENEWED_AFTER - JITTER * random();
  return Math.min(Math.max(part * left, SHORTEST_PAUSE), LONGEST_PAUSE);
}

/** Return the ms until the next attempt of a renewal after this many failures in a row. */
export function retryDelay(failures: number, random: () => number): number {
  return SHORTEST_PAUSE + random() * Math.min(LONGEST_BACKOFF, SHORTEST_PAUSE * 2 ** failures);
}
