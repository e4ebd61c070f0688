/** What a browser tells of its network. */

import type { Unsubscribe } from "./emitter.js";

/**
 * Call back when the network may be another one, or the page was away for a while; outside of browsers never.
 *
 * @returns what ends that.
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
