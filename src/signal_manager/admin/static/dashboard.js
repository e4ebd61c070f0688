// The dashboard: tiles and plots from the stream of samples, lists of rooms and sessions, and the operator's actions.

import { Refused, askWith, follow, get, post } from "./api.js";
import { openClient, openRoom, refresh as refreshDetails } from "./details.js";
import { Table, button, dangerous, make, once, text } from "./dom.js";
import { ago, bytes, count, duration, latency, percent } from "./format.js";
import { Plot } from "./plot.js";

const KEPT_SAMPLES = 450;
const KEPT_ERRORS = 100;
const PAGE = 50;
const byId = (id) => document.getElementById(id);

// -- tiles and plots -------------------------------------------------------------------------------------------------

const tiles = [
  ["Connections", (sample) => count(sample.connections)],
  ["Clients", (sample) => count(sample.clients)],
  ["Rooms", (sample) => count(sample.rooms)],
  ["Members", (sample) => count(sample.participants)],
  ["Relayed", (sample) => count(sample.relayed), "/s"],
  ["Errors", (sample) => count(sample.errors), "/s"],
  ["Relay p99", (sample) => (sample.relay_p99 === null ? "–" : latency(sample.relay_p99))],
  ["CPU", (sample) => percent(sample.cpu)],
  ["Memory", (sample) => bytes(sample.memory)],
].map(([name, show, unit = ""]) => {
  const value = make("span", { textContent: "–" });
  byId("tiles").append(make("div", {}, make("dt", { textContent: name }), make("dd", {}, value, make("small", { textContent: unit }))));
  return (sample) => (value.textContent = show(sample));
});

const plots = [
  new Plot(
    "Messages per second",
    [
      { name: "received", value: (sample) => sample.received },
      { name: "sent", value: (sample) => sample.sent },
      { name: "relayed", value: (sample) => sample.relayed },
    ],
    count,
    1,
  ),
  new Plot(
    "Time to relay",
    [
      { name: "p50", value: (sample) => sample.relay_p50 },
      { name: "p99", value: (sample) => sample.relay_p99 },
    ],
    latency,
    0.0001,
  ),
  new Plot(
    "Connections",
    [
      { name: "connections", value: (sample) => sample.connections },
      { name: "members", value: (sample) => sample.participants },
      { name: "rooms", value: (sample) => sample.rooms },
    ],
    count,
    4,
  ),
  new Plot("Event loop lag", [{ name: "longest", value: (sample) => sample.lag }], latency, 0.01),
];
byId("plots").append(...plots.map((plot) => plot.element));

let samples = [];
let errors = [];

function takeNews(news, isFirst) {
  samples = [...(isFirst ? [] : samples), ...news.samples].slice(-KEPT_SAMPLES);
  errors = [...(isFirst ? [] : errors), ...news.errors].slice(-KEPT_ERRORS);
  if (samples.length) {
    for (const show of tiles) show(samples.at(-1));
    for (const plot of plots) plot.show(samples);
  }
  if (isFirst || news.errors.length) errorTable.show(errors.toReversed(), false);
  if (!document.hidden) refresh();
}

// -- lists -----------------------------------------------------------------------------------------------------------

const roomTable = new Table(
  byId("rooms"),
  [
    { title: "Room", className: "id", show: once((room) => idButton(room.room_id, openRoom)) },
    { title: "State", className: "id second wide", show: text((room) => (room.is_active ? "active" : `closed: ${room.close_reason ?? ""}`)) },
    { title: "Members", className: "number", show: text((room) => String(room.participants)) },
    { title: "Tracks", className: "number", show: text((room) => String(room.tracks)) },
    { title: "Created", className: "short wide", show: text((room) => ago(room.created_at)) },
    {
      title: "",
      className: "action",
      show: (room, cell) => {
        if (!room.is_active) cell.replaceChildren();
        else if (!cell.firstChild) {
          const close = () => act(`Room ${room.room_id} closed`, post, `/rooms/${encodeURIComponent(room.room_id)}/close`);
          cell.append(dangerous("Close", "Really?", close, { ariaLabel: `Close room ${room.room_id}` }));
        }
      },
    },
  ],
  (room) => room.room_id,
  "No rooms.",
);

const sessionTable = new Table(
  byId("sessions"),
  [
    { title: "Client", className: "id", show: once((session) => idButton(session.client_id, openClient)) },
    { title: "State", className: "short", show: text((session) => (session.is_away ? "away" : "connected")) },
    { title: "Room", className: "id second wide", show: text((session) => session.room_id ?? "") },
    { title: "Address", className: "short wide", show: text((session) => session.address) },
    { title: "For", className: "number", show: text((session) => duration(session.age)) },
    { title: "In / out", className: "number wide", show: text((session) => `${count(session.received)} / ${count(session.sent)}`) },
    {
      title: "",
      className: "action",
      show: once((session) =>
        dangerous(
          "Disconnect",
          "Really?",
          () => act(`${session.client_id} disconnected`, post, `/sessions/${session.session_id}/disconnect`),
          { ariaLabel: `Disconnect ${session.client_id}` },
        ),
      ),
    },
  ],
  (session) => session.session_id,
  "No client is connected.",
);

const errorTable = new Table(
  byId("errors"),
  [
    { title: "Time", className: "short", show: text(([at]) => new Date(at * 1000).toLocaleTimeString("en-GB")) },
    { title: "Code", className: "short", show: text(([, code]) => String(code)) },
    { title: "Client", className: "id second", show: text(([, , , client]) => client ?? "not signed in") },
    { title: "Message to the client", show: text(([, , message]) => message) },
  ],
  ([at, code, message, client]) => `${at} ${code} ${client} ${message}`,
  "No errors.",
);

function idButton(id, open) {
  return button(id, () => open(id, act), { className: "link", title: id });
}

/** A list that grows by pages, and is read again from its beginning at every refresh. */
class List {
  constructor(table, read) {
    this.table = table;
    this.read = read;
    this.wanted = PAGE;
    this.turn = 0;
    table.more.addEventListener("click", () => {
      this.wanted += PAGE;
      this.refresh();
    });
  }

  restart() {
    this.wanted = PAGE;
    this.refresh();
  }

  async refresh() {
    const turn = ++this.turn;
    const items = [];
    let after = null;
    do {
      const page = await this.read(after, Math.min(this.wanted - items.length, 500));
      items.push(...page.items);
      after = page.next;
    } while (after !== null && items.length < this.wanted && turn === this.turn);
    if (turn === this.turn) this.table.show(items, after !== null); // a later turn has newer items
  }
}

const rooms = new List(roomTable, (after, limit) =>
  get("/rooms", { after, limit, contains: byId("rooms-filter").value.trim(), is_active: byId("rooms-closed").checked ? null : true }),
);
const sessions = new List(sessionTable, (after, limit) => get("/sessions", { after, limit, contains: byId("sessions-filter").value.trim() }));
byId("rooms-filter").addEventListener("input", () => guarded(() => rooms.restart()));
byId("rooms-closed").addEventListener("change", () => guarded(() => rooms.restart()));
byId("sessions-filter").addEventListener("input", () => guarded(() => sessions.restart()));

let isRefreshing = false;

async function refresh() {
  if (isRefreshing) return; // so that a slow service has one refresh to answer at a time
  isRefreshing = true;
  await guarded(() => Promise.all([rooms.refresh(), sessions.refresh(), refreshDetails(), showVersion()]));
  isRefreshing = false;
}

async function showVersion() {
  const { version, node_id: node, uptime, phase, has_demo: hasDemo } = await get("/version");
  byId("demo-link").hidden = !hasDemo;
  byId("version").textContent = `${version}, node ${node.slice(0, 8)}, up ${duration(uptime)}`;
  setPhase(phase, phase === "serving" ? "good" : "warn");
}

// -- acting ----------------------------------------------------------------------------------------------------------

/** Perform an action, show a notice of its outcome, and refresh the lists. Return whether it succeeded. */
async function act(done, action, ...details) {
  try {
    await action(...details);
    say(done);
    return true;
  } catch (error) {
    say(error instanceof Refused ? error.message : "The service does not answer.");
    return false;
  } finally {
    await refresh();
  }
}

/** Run a read; only the browser's console shows its error. */
async function guarded(work) {
  try {
    await work();
  } catch (error) {
    console.debug("reading failed", error); // the stream shows that the service is not reachable
  }
}

let noticeTimer = null;

function say(what) {
  const notice = byId("notice");
  // Inside an open dialog, which makes everything outside it inert.
  (document.querySelector("dialog[open]") ?? document.body).append(notice);
  notice.textContent = what;
  notice.hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => (notice.hidden = true), 5000);
}

function setPhase(phase, className) {
  const badge = byId("phase");
  if (badge.textContent !== phase) badge.textContent = phase;
  badge.className = `badge ${className}`;
}

// -- the token, the theme --------------------------------------------------------------------------------------------

askWith(
  (wasWrong) =>
    new Promise((resolve) => {
      const dialog = byId("sign-in");
      const input = byId("token");
      byId("sign-in-error").hidden = !wasWrong;
      const give = () => {
        if (!input.value) return;
        resolve(input.value);
        input.value = "";
        dialog.onclose = null;
        dialog.close();
      };
      byId("sign-in-button").onclick = give;
      input.onkeydown = (event) => event.key === "Enter" && give();
      dialog.onclose = () => dialog.showModal(); // the page shows nothing without a token
      if (!dialog.open) dialog.showModal();
    }),
);

const THEME = "signal-manager theme";
const kept = localStorage.getItem(THEME);
if (kept) document.documentElement.dataset.theme = kept;
byId("theme").addEventListener("click", () => {
  const isDark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
  localStorage.setItem(THEME, document.documentElement.dataset.theme);
});

document.addEventListener("visibilitychange", () => !document.hidden && refresh());
follow(takeNews, (state) => (state === "live" ? refresh() : setPhase("not reachable", "bad")));
