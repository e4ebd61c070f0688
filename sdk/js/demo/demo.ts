/**
 * The demo page: join a room, see and hear everyone in it, leave.
 *
 * Here is the page itself; `call.ts` is a call, `sources.ts` what is sent, `tiles.ts` and `statistics.ts` what is seen.
 * The address may name the room (`?room=`), the generated picture (`?pattern=1`) and a video codec (`?codec=H264`).
 */

import { SignalManagerError, UnavailableError } from "../src/index.js";
import { NAME_RULE, isValidName } from "../src/fields.js";
import { Call } from "./call.js";
import { CameraError, openSource, type Source, type SourceKind } from "./sources.js";
import { Tiles, byId } from "./tiles.js";

const DEFAULT_ROOM = "lobby";

// How long a line of news stays, in ms.
const NEWS_TIME = 4000;

const lobby = byId("lobby", HTMLElement);
const form = byId("join", HTMLFormElement);
const nameField = byId("name", HTMLInputElement);
const roomField = byId("room", HTMLInputElement);
const joinButton = byId("join-button", HTMLButtonElement);
const callView = byId("call", HTMLElement);
const title = byId("title", HTMLElement);
const stateLine = byId("state", HTMLElement);
const alone = byId("alone", HTMLElement);
const shareButton = byId("share", HTMLButtonElement);
const muteButtons = {
  audio: { button: byId("mute-audio", HTMLButtonElement), off: "Mute", on: "Unmute" },
  video: { button: byId("mute-video", HTMLButtonElement), off: "Stop video", on: "Start video" },
} as const;
const alertBox = byId("alert", HTMLElement);
const alertText = byId("alert-text", HTMLElement);
const alertAction = byId("alert-action", HTMLButtonElement);
const newsLine = byId("news", HTMLElement);

const tiles = new Tiles(byId("tiles", HTMLElement));
const address = new URLSearchParams(location.search);
let call: Call | null = null;
let newsTimer: ReturnType<typeof setTimeout> | undefined;

// What the page shows

function tell(text: string): void {
  newsLine.textContent = text;
  clearTimeout(newsTimer);
  newsTimer = setTimeout(() => (newsLine.textContent = ""), NEWS_TIME);
}

function warn(text: string, { offersPattern = false } = {}): void {
  alertText.textContent = text;
  alertAction.hidden = !offersPattern;
  alertBox.hidden = text === "";
}

function showState(state: "connected" | "reconnecting"): void {
  stateLine.dataset["state"] = state;
  stateLine.textContent = state === "connected" ? "Connected" : "Reconnecting…";
}

function showMuted(kind: "audio" | "video", isMuted: boolean): void {
  const { button, on, off } = muteButtons[kind];
  button.setAttribute("aria-pressed", String(isMuted));
  button.textContent = isMuted ? on : off;
}

function showCall(roomId: string, source: Source): void {
  lobby.hidden = true;
  callView.hidden = false;
  title.textContent = roomId;
  document.title = `${roomId} – signal-manager demo`;
  for (const kind of ["audio", "video"] as const) {
    showMuted(kind, false);
    muteButtons[kind].button.hidden = source.stream === null;
  }
  title.focus();
}

function showLobby(): void {
  callView.hidden = true;
  lobby.hidden = false;
  document.title = "signal-manager demo";
  joinButton.focus();
}

// Joining and leaving

/** Check the form's fields; the first that is wrong gets the focus. */
function readForm(): { name: string; roomId: string } | null {
  const name = nameField.value.trim();
  const roomId = roomField.value.trim();
  const mistakes: [HTMLInputElement, string][] = [];
  if (name === "") mistakes.push([nameField, "Enter a name that the others see."]);
  if (!isValidName(roomId)) mistakes.push([roomField, `The room's name needs ${NAME_RULE}.`]);
  for (const field of [nameField, roomField]) {
    field.setAttribute("aria-invalid", String(mistakes.some(([wrong]) => wrong === field)));
  }
  const [first] = mistakes;
  if (first === undefined) return { name, roomId };
  warn(first[1]);
  first[0].focus();
  return null;
}

function chosenSource(): SourceKind {
  return new FormData(form).get("source") as SourceKind;
}

async function join(): Promise<void> {
  warn("");
  const entry = readForm();
  if (entry === null || call !== null) return;
  joinButton.disabled = true;
  joinButton.textContent = "Joining…";
  let source: Source | null = null;
  try {
    source = await openSource(chosenSource(), entry.name);
    const service = await knock(entry.name);
    const settings = { ...service, ...entry, source, codec: address.get("codec") };
    call = await Call.join(settings, tiles, {
      onNews: tell,
      onProblem: warn,
      onState: showState,
      onCompany: (others) => (alone.hidden = others > 0),
      onEnded: (reason) => {
        call = null;
        showLobby();
        warn(`The call has ended: ${reason}.`);
      },
    });
    address.set("room", entry.roomId);
    history.replaceState(null, "", `?${address}`);
    showCall(entry.roomId, source);
  } catch (error) {
    source?.stop();
    warn(explain(error), { offersPattern: error instanceof CameraError });
  } finally {
    joinButton.disabled = false;
    joinButton.textContent = "Join";
  }
}

async function leave(): Promise<void> {
  const ending = call;
  call = null;
  showLobby();
  warn("");
  await ending?.leave();
}

/** Learn where the service is, and get a client id and a token for it. */
async function knock(name: string): Promise<{ url: string; clientId: string; token: string }> {
  const { url } = (await fetchJson("/demo/config.json")) as { url: string };
  const body = JSON.stringify({ name });
  const headers = { "Content-Type": "application/json" };
  const granted = (await fetchJson("/demo/token", { method: "POST", headers, body })) as Record<string, string>;
  return { url, clientId: granted["client_id"] ?? "", token: granted["token"] ?? "" };
}

async function fetchJson(path: string, options?: RequestInit): Promise<unknown> {
  let response: Response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new UnavailableError("no answer");
  }
  const answer = (await response.json().catch(() => ({}))) as { error_message?: string };
  if (response.ok) return answer;
  throw new SignalManagerError(answer.error_message ?? `status ${response.status}`, { code: response.status });
}

function explain(error: unknown): string {
  if (error instanceof CameraError) return error.message;
  if (error instanceof UnavailableError) return `The service cannot be reached (${error.message}). Does it run?`;
  if (error instanceof SignalManagerError) return `The service refused: ${error.message}.`;
  return `This went wrong in the browser: ${(error as Error).message}`;
}

async function share(): Promise<void> {
  const link = new URL(location.href);
  link.search = new URLSearchParams({ room: address.get("room") ?? DEFAULT_ROOM }).toString();
  try {
    await navigator.clipboard.writeText(link.href);
    tell("Link copied");
  } catch {
    warn(`Send this address: ${link.href}`);
  }
}

// Start

roomField.value = address.get("room") ?? DEFAULT_ROOM;
if (address.get("pattern") === "1") choosePattern();
nameField.focus();

function choosePattern(): void {
  (form.elements.namedItem("source") as RadioNodeList).value = "pattern" satisfies SourceKind;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  void join();
});
alertAction.addEventListener("click", () => {
  choosePattern();
  void join();
});
for (const kind of ["audio", "video"] as const) {
  const { button } = muteButtons[kind];
  button.addEventListener("click", () => {
    const isMuted = button.getAttribute("aria-pressed") !== "true";
    call?.setMuted(kind, isMuted);
    showMuted(kind, isMuted);
  });
}
shareButton.addEventListener("click", () => void share());
byId("leave", HTMLButtonElement).addEventListener("click", () => void leave());
addEventListener("pagehide", () => call?.drop());
