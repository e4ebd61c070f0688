/** Typed events, the one way in which the SDK's objects tell an application what happens. */

import { aFunction, check } from "./arguments.js";
import { oneOf } from "./fields.js";

/** Takes a listener away again; calling it twice does nothing more. */
export type Unsubscribe = () => void;

/** Something with events: `Events` names them, each with the type of the value that its listeners get. */
export class Emitter<Events extends object> {
  readonly #listeners = new Map<keyof Events, Set<(value: never) => unknown>>();
  readonly #names: Readonly<Record<keyof Events, true>>;

  /** @param names the events that there are. */
  constructor(names: Readonly<Record<keyof Events, true>>) {
    this.#names = names;
  }

  /**
   * Call `listener` for every event of one name, in the order in which listeners were added.
   *
   * Listeners are called one after another before anything else happens; nobody waits for what an `async` one returns.
   * What a listener throws is reported as an uncaught error and keeps nobody else from the event.
   *
   * @throws InvalidRequestError there is no event of that name, or the listener is no function.
   */
  on<Name extends keyof Events>(event: Name, listener: (value: Events[Name]) => unknown): Unsubscribe {
    check({ event: oneOf(...Object.keys(this.#names)), listener: aFunction }, { event, listener });
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners);
    // Wrapped, so that a function that is added twice is called twice and taken away once.
    const entry = (value: Events[Name]): unknown => listener(value);
    listeners.add(entry);
    return () => listeners.delete(entry);
  }

  /** Whether `event` has a listener. */
  protected isHeard(event: keyof Events): boolean {
    return (this.#listeners.get(event)?.size ?? 0) > 0;
  }

  /** Call the listeners of `event` that are there now. */
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
