// Calls the management interface: requests with the token, and the stream of samples and errors.

const TOKEN = "signal-manager admin token";
let asking = null; // resolves once the operator has typed a token; null when the page waits for none

/** The service refused a request; the message is the service's. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Set the function that asks the operator for a token. Its argument is true after a wrong token. */
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
    // All requests that need a token wait for the same answer.
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

/** Send a GET request and return the answer; empty values of `query` are left out. */
export async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const search = given.length ? `?${new URLSearchParams(given)}` : "";
  return answerOf(await request(path + search));
}

/** Send a POST request and return the answer. */
export async function post(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  return answerOf(await request(path, { method: "POST", headers, body: JSON.stringify(body) }));
}

/**
 * Read the stream of samples and errors until the page is closed. The page reads it by `fetch`, because EventSource cannot
 * send a token. `onState` gets "live" or "lost".
 */
export async function follow(onNews, onState) {
  let pause = 500;
  for (;;) {
    try {
      const response = await request("/events", { headers: { Accept: "text/event-stream" } });
      if (!response.ok) throw new Refused(response.status, "no stream");
      onState("live");
      pause = 500;
      let isFirst = true; // the first event of a connection has all kept samples and errors
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
