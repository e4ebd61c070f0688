// The dialog for one room or one client: members, tracks, metadata, sessions, and the operator's actions.

import { get, post } from "./api.js";
import { button, dangerous, make } from "./dom.js";
import { ago, duration } from "./format.js";

const dialog = document.getElementById("details");
const title = document.getElementById("details-title");
const body = document.getElementById("details-body");
let shown = null; // {path, render} of the open room or client
let drawn = ""; // the data in the dialog now, as JSON

document.getElementById("details-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => {
  shown = null;
  drawn = "";
});
// A click on the backdrop is a click on the dialog itself.
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

export function openRoom(roomId, act) {
  return open(`Room ${roomId}`, `/rooms/${encodeURIComponent(roomId)}`, (room) => renderRoom(room, act));
}

export function openClient(clientId, act) {
  return open(`Client ${clientId}`, `/clients/${encodeURIComponent(clientId)}`, (client) => renderClient(client, act));
}

/** Update the open dialog, unless the operator types in it or is about to confirm an action. */
export async function refresh() {
  if (!shown) return;
  const { path, render } = shown;
  let found = null;
  try {
    found = await get(path);
  } catch (error) {
    if (error.status !== 404) throw error;
  }
  if (shown?.path !== path) return;
  const now = JSON.stringify(found, (key, value) => (["age", "received", "sent"].includes(key) ? undefined : value));
  const isBusy = body.contains(document.activeElement) && document.activeElement.matches("input, .sure");
  if (now === drawn || isBusy) return;
  const focused = [...body.querySelectorAll("button, input")].indexOf(document.activeElement);
  body.replaceChildren(...(found ? render(found) : [make("p", { className: "empty", textContent: "It no longer exists." })]));
  if (focused >= 0) (body.querySelectorAll("button, input")[focused] ?? title).focus();
  drawn = now;
}

async function open(heading, path, render) {
  title.textContent = heading;
  body.replaceChildren(make("p", { className: "empty", textContent: "…" }));
  shown = { path, render };
  drawn = "";
  if (!dialog.open) dialog.showModal();
  title.focus();
  await refresh();
}

function renderRoom(room, act) {
  const path = `/rooms/${encodeURIComponent(room.room_id)}`;
  const members = room.members.map((member) =>
    make(
      "li",
      {},
      make(
        "div",
        { className: "bar" },
        make("h3", {}, button(member.client_id, () => openClient(member.client_id, act), { className: "link" })),
        room.is_active
          ? dangerous("Remove", "Really remove?", () =>
              act(`${member.client_id} removed`, post, `${path}/participants/${encodeURIComponent(member.client_id)}/remove`),
            )
          : null,
      ),
      make("p", { className: "muted", textContent: [member.role, ago(member.joined_at)].filter(Boolean).join(", ") }),
      tracksOf(member.tracks),
      metadataOf(member.metadata),
    ),
  );
  return [
    facts({
      State: room.is_active ? "active" : `closed ${ago(room.closed_at)}: ${room.close_reason}`,
      Created: ago(room.created_at),
      Members: `${room.participants} of ${room.max_participants ?? "any number"}`,
    }),
    members.length ? make("ul", { className: "members" }, ...members) : make("p", { className: "empty", textContent: "The room is empty." }),
    metadataOf(room.metadata),
    ...(room.is_active
      ? [
          actions(
            ...messageTo(`${path}/messages`, "Message to all members", act),
            dangerous("Close room", "Really close it for all members?", () => act(`Room ${room.room_id} closed`, post, `${path}/close`)),
          ),
        ]
      : []),
  ].filter(Boolean);
}

function renderClient(client, act) {
  const path = `/clients/${encodeURIComponent(client.client_id)}`;
  const sessions = client.sessions.map((session) =>
    make(
      "li",
      {},
      make("h3", { textContent: session.address }),
      facts({
        Session: session.session_id,
        Format: `${session.framing}, ${session.encoding}`,
        Connected: `since ${duration(session.age)}`,
        Messages: `${session.received} received, ${session.sent} sent`,
        Room: session.room_id ?? "none",
      }),
    ),
  );
  return [
    facts({
      State: client.is_connected ? "connected" : "not connected here",
      Registered: client.is_registered ? ago(client.registered_at) || "yes" : "no",
      Room: client.room_id ?? client.sessions.find((session) => session.room_id)?.room_id ?? "none",
      ...(client.capabilities.length ? { Capabilities: client.capabilities.join(", ") } : {}),
    }),
    tracksOf(client.tracks),
    metadataOf(client.metadata),
    make("ul", { className: "members" }, ...sessions),
    ...(client.is_connected
      ? [
          actions(
            ...messageTo(`${path}/messages`, "Message to this client", act),
            dangerous("Disconnect", "Really disconnect?", () => act(`${client.client_id} disconnected`, post, `${path}/disconnect`)),
          ),
        ]
      : []),
  ].filter(Boolean);
}

function actions(...elements) {
  return make("div", { className: "actions" }, ...elements);
}

function facts(pairs) {
  const entries = Object.entries(pairs).filter(([, value]) => value);
  return make("dl", { className: "facts" }, ...entries.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
}

function tracksOf(tracks) {
  if (!tracks.length) return null;
  const items = tracks.map((track) => make("li", { textContent: `${track.kind ?? "track"} ${track.track_name}`, title: `mid ${track.mid}` }));
  return make("ul", { className: "tracks", ariaLabel: "Tracks" }, ...items);
}

function metadataOf(metadata) {
  if (!Object.keys(metadata).length) return null;
  return make("details", {}, make("summary", { textContent: "Metadata" }), make("code", { textContent: JSON.stringify(metadata, null, 1) }));
}

function messageTo(path, label, act) {
  const input = make("input", { className: "grow", placeholder: label, ariaLabel: label, maxLength: 4000 });
  const send = button("Send", async () => {
    if (input.value && (await act("Sent", post, path, { data: input.value }))) input.value = "";
  });
  input.addEventListener("keydown", (event) => event.key === "Enter" && send.click());
  return [input, send];
}
