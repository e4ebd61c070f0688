/** Typed events, by which the SDK's objects tell an application what happens. */

import { aFunction, check } from "./arguments.js";
import { oneOf } from "./fields.js";

/** Removes a listener; a second call does nothing. */
export type Unsubscribe = () => void;

/** An object with events; `Events` maps each name to the type of its value. */
export class Emitter<Events extends object> {
  readonly #listeners = new Map<keyof Events, Set<(value: never) => unknown>>();
  readonly #names: Readonly<Record<keyof Events, true>>;

  /** @param names the names of all events. */
  constructor(names: Readonly<Record<keyof Events, true>>) {
    this.#names = names;
  }

  /**
   * Call `listener` for every event of one name, in the order in which listeners were added.
   *
   * Listeners are called one after another, synchronously; the promise of an `async` one is not awaited. An exception in a
   * listener is reported as an uncaught error, and the other listeners are still called.
   *
   * @throws InvalidRequestError there is no event of that name, or the listener is not a function.
   */
  on<Name extends keyof Events>(event: Name, listener: (value: Events[Name]) => unknown): Unsubscribe {
    check({ event: oneOf(...Object.keys(this.#names)), listener: aFunction }, { event, listener });
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners);
    // Wrapped, so that a function that is added twice is called twice and removed once.
    const entry = (value: Events[Name]): unknown => listener(value);
    listeners.add(entry);
    return () => listeners.delete(entry);
  }

  /** Whether `event` has a listener. */
  protected isHeard(event: keyof Events): boolean {
    return (this.#listeners.get(event)?.size ?? 0) > 0;
  }

  /** Call the present listeners of `event`. */
  protected emit<Name extends keyof Events>(event: Name, value: Events[Name]): void {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) {
      try {
        listener(value as never);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
