/**
 * The meaning of the service's close codes for a client: the table of docs/protocol.md.
 *
 * A code that is not in it comes from a network or a proxy, and the client reconnects.
 */

/** Whether a client reconnects by itself, and the code of the error that a waiting caller gets. */
export interface Ending {
  mayReturn: boolean;
  errorCode: number;
}

const BACK = true;
const FINAL = false;

const ROWS: readonly [code: number, mayReturn: boolean, errorCode: number][] = [
  // made by tools/protocol: close codes
  [1000, FINAL, 503], // the client or the service closed on purpose
  [1002, FINAL, 400], // the client broke the WebSocket protocol
  [1007, FINAL, 400], // a text message was not valid UTF-8
  [1009, FINAL, 413], // a message was larger than `server.max_message_size`
  [1011, BACK, 503], // internal error
  [1012, BACK, 503], // the service restarts or drains
  [4400, FINAL, 400], // too many malformed messages
  [4401, FINAL, 401], // authentication failed
  [4402, BACK, 401], // the token has expired; reconnect with a new one
  [4403, FINAL, 403], // an operator disconnected the client
  [4408, BACK, 408], // no CONNECT in time, no heartbeat in time, or the session continues on another connection
  [4409, FINAL, 409], // a newer session of the same client replaced this one
  [4413, BACK, 503], // the client reads too slowly: its outbound queue is full
  [4429, BACK, 429], // the rate limit was exceeded for too long, or too many authentications failed
  [4503, BACK, 503], // the service is full, or has too many connections from this address
  // end
];

/** By close code. */
export const CLOSE_CODES: ReadonlyMap<number, Ending> = new Map(
  ROWS.map(([code, mayReturn, errorCode]) => [code, { mayReturn, errorCode }]),
);
