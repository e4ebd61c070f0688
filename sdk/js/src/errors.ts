/**
 * Every error that the SDK throws, rejects with or reports, and the code it has on the wire.
 *
 *     SignalManagerError            500, or the wire's code when it is none of those below
 *     ├── MalformedMessageError     400  the service sent bytes or fields that the protocol does not allow
 *     ├── InvalidRequestError       400  wrong in this state, or by its arguments
 *     ├── AuthenticationError       401
 *     ├── ForbiddenError            403
 *     ├── NotFoundError             404
 *     ├── TooLateError              408  may retry
 *     ├── ConflictError             409
 *     ├── TooLargeError             413
 *     ├── NotReadyError             425  may retry
 *     ├── RateLimitedError          429  may retry
 *     ├── MediaBackendError         502
 *     └── UnavailableError          503  may retry
 *
 * The codes are those of docs/protocol.md, "Errors and close codes".
 */

import type { Fields } from "./messages.js";

/** The properties of an error beside its message; default: the class's own. */
export interface ErrorFacts {
  code?: number;
  retryable?: boolean | undefined;
  details?: Record<string, unknown> | undefined;
}

/** One failure. `message` says what was expected and what was there, and contains no token and no SDP. */
export class SignalManagerError extends Error {
  /** The class's name, which survives minification. */
  static readonly kind: string = "SignalManagerError";
  static readonly code: number = 500;
  static readonly retryable: boolean = false;

  /** The code on the wire. */
  readonly code: number;
  /** Whether the same call may succeed later. */
  readonly retryable: boolean;
  /** Machine-readable details from the service. */
  readonly details: Record<string, unknown> | undefined;

  constructor(message: string, facts: ErrorFacts = {}) {
    super(message);
    this.name = new.target.kind;
    this.code = facts.code ?? new.target.code;
    this.retryable = facts.retryable ?? new.target.retryable;
    this.details = facts.details;
  }
}

/** The service sent bytes or fields that the protocol does not allow. */
export class MalformedMessageError extends SignalManagerError {
  static override readonly kind = "MalformedMessageError";
  static override readonly code = 400;

  /** The message's id, if it could be read. */
  messageId: string | null = null;
}

// made by tools/protocol: error classes
/** The request is well formed but not allowed in the present state. */
export class InvalidRequestError extends SignalManagerError {
  static override readonly kind = "InvalidRequestError";
  static override readonly code = 400;
}

/** The credentials are missing, wrong or expired. */
export class AuthenticationError extends SignalManagerError {
  static override readonly kind = "AuthenticationError";
  static override readonly code = 401;
}

/** The credentials are valid but do not allow this request. */
export class ForbiddenError extends SignalManagerError {
  static override readonly kind = "ForbiddenError";
  static override readonly code = 403;
}

/** The client or room does not exist. */
export class NotFoundError extends SignalManagerError {
  static override readonly kind = "NotFoundError";
  static override readonly code = 404;
}

/** The time limit has passed. */
export class TooLateError extends SignalManagerError {
  static override readonly kind = "TooLateError";
  static override readonly code = 408;
  static override readonly retryable = true;
}

/** The request contradicts the present state: registered by another, already in the room, or replaced. */
export class ConflictError extends SignalManagerError {
  static override readonly kind = "ConflictError";
  static override readonly code = 409;
}

/** The message is too large; the error's text has its size and the limit. */
export class TooLargeError extends SignalManagerError {
  static override readonly kind = "TooLargeError";
  static override readonly code = 413;
}

/** The media session is not ready for this request yet. */
export class NotReadyError extends SignalManagerError {
  static override readonly kind = "NotReadyError";
  static override readonly code = 425;
  static override readonly retryable = true;
}

/** The client sent too many messages or requests in too short a time. */
export class RateLimitedError extends SignalManagerError {
  static override readonly kind = "RateLimitedError";
  static override readonly code = 429;
  static override readonly retryable = true;
}

/** The SFU refused the request. */
export class MediaBackendError extends SignalManagerError {
  static override readonly kind = "MediaBackendError";
  static override readonly code = 502;
}

/** A part that the service depends on does not answer, or the service is draining. */
export class UnavailableError extends SignalManagerError {
  static override readonly kind = "UnavailableError";
  static override readonly code = 503;
  static override readonly retryable = true;
}

const WIRE_ERRORS = [
  InvalidRequestError,
  AuthenticationError,
  ForbiddenError,
  NotFoundError,
  TooLateError,
  ConflictError,
  TooLargeError,
  NotReadyError,
  RateLimitedError,
  MediaBackendError,
  UnavailableError,
];
// end

/** Return the error that an ERROR message stands for; an unknown code gives the tree's root with that code. */
export function errorFromWire(message: string, facts: ErrorFacts & { code: number }): SignalManagerError {
  const known = WIRE_ERRORS.find((error) => error.code === facts.code) ?? SignalManagerError;
  return new known(message, facts);
}

/** Return the error for the fields of an ERROR message; `retryable` in it overrides the class's own. */
export function errorFromMessage({
  error_code: code,
  error_message,
  details,
  retryable,
}: Fields["ERROR"]): SignalManagerError {
  return errorFromWire(error_message, { code, details, retryable: retryable || undefined });
}
