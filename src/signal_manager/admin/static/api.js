// Speaks to the management interface: requests with the token, and the stream of what is new.

const TOKEN = "signal-manager admin token";
let asking = null; // the promise of a token, while a person is asked for it

/** What the service refused, in its own words. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Ask with this function for a token when one is needed; it gets whether the last one was wrong. */
export function askWith(ask) {
  askForToken = ask;
}
let askForToken = async () => "";

async function request(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const response = await fetch(`/api/v1${path}`, { cache: "no-store", ...options, headers });
    if (response.status !== 401) return response;
    // One person is asked once, however many requests wait for the answer.
    asking ??= askForToken(token !== null).then((given) => {
      sessionStorage.setItem(TOKEN, given);
      asking = null;
    });
    await asking;
  }
}

async function answerOf(response) {
  const body = await response.json();
  if (!response.ok) throw new Refused(response.status, body.error_message);
  return body;
}

/** Read something; empty values of `query` are left out. */
export async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const search = given.length ? `?${new URLSearchParams(given)}` : "";
  return answerOf(await request(path + search));
}

/** Change something. */
export async function post(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  return answerOf(await request(path, { method: "POST", headers, body: JSON.stringify(body) }));
}

/**
 * Follow what is new until the page is closed; EventSource cannot send a token, so the stream is read by hand.
 * `onState` is told "live" or "lost".
 */
export async function follow(onNews, onState) {
  let pause = 500;
  for (;;) {
    try {
      const response = await request("/events", { headers: { Accept: "text/event-stream" } });
      if (!response.ok) throw new Refused(response.status, "no stream");
      onState("live");
      pause = 500;
      let isFirst = true; // of this connection: it brings the whole past again
      for await (const event of eventsIn(response.body)) {
        onNews(JSON.parse(event), isFirst);
        isFirst = false;
      }
    } catch (error) {
      console.debug("stream lost", error);
    }
    onState("lost");
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 10_000);
  }
}

async function* eventsIn(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) yield event.slice("data: ".length);
  }
}
