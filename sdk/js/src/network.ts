/** The browser's events about its network. */

import type { Unsubscribe } from "./emitter.js";

/**
 * Call back when the network may have changed, or the page was suspended for a while; never outside of browsers.
 *
 * @returns a function that stops the calls.
 */
export function onNetworkChange(callback: () => void): Unsubscribe[] {
  const { document, navigator } = globalThis as {
    document?: Document;
    navigator?: { connection?: EventTarget };
  };
  const look = (): void => void (document?.visibilityState === "hidden" || callback());
  const sources: [EventTarget | undefined, string, () => void][] = [
    [globalThis as unknown as EventTarget, "online", callback],
    [globalThis as unknown as EventTarget, "pageshow", callback],
    [navigator?.connection, "change", callback],
    [document, "visibilitychange", look],
  ];
  return sources.map(([source, event, listener]) => {
    source?.addEventListener?.(event, listener);
    return () => source?.removeEventListener?.(event, listener);
  });
}
