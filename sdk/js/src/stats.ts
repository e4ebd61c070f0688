/**
 * Figures of a call: what each track sends or receives, and how good the connection is.
 *
 * Only pages that need it load this entry point, `signal-manager/stats`. It reads the reports of the browser's `getStats`
 * (W3C "Identifiers for WebRTC's Statistics API"). Rates and shares are of the time between two snapshots. A figure that
 * the browser does not report is undefined: Chromium, Firefox and Safari report different ones.
 */

import { InvalidRequestError, type Participant, type Publication, type Room, type TrackKind } from "./index.js";

/** Figures that tracks in both directions have. */
export interface TrackStats {
  /** The track's name in the room. */
  name: string;
  kind: TrackKind;
  muted: boolean;
  /** In bit/s, of RTP payloads. */
  bitrate: number | undefined;
  /** Packets between the two snapshots. */
  packets: number | undefined;
  /** The share of packets that were lost on the way, from 0 to 1. */
  loss: number | undefined;
  /** The variation of the packets' delays, in ms. */
  jitter: number | undefined;
  /** The codec, such as "opus" or "VP8". */
  codec: string | undefined;
  width: number | undefined;
  height: number | undefined;
  framesPerSecond: number | undefined;
}

/** One encoding that a publication sends; there are several with simulcast. */
export interface LayerStats {
  /** The RTP stream id, such as "f", "h" or "q"; undefined without simulcast. */
  rid: string | undefined;
  /** Whether the browser sends it now. */
  active: boolean | undefined;
  bitrate: number | undefined;
  width: number | undefined;
  height: number | undefined;
  framesPerSecond: number | undefined;
}

/** Figures of a track that this client publishes. `loss` and `jitter` are what the SFU reports. */
export interface PublicationStats extends TrackStats {
  /** From here to the SFU and back, in ms, as the SFU's reports tell. */
  roundTripTime: number | undefined;
  /** What keeps the browser from sending a better picture: "none", "cpu", "bandwidth" or "other". */
  limitedBy: string | undefined;
  layers: LayerStats[];
}

/** Figures of a track that this client receives. With simulcast, width and height show which layer arrives. */
export interface SubscriptionStats extends TrackStats {
  /** The publisher. */
  clientId: string;
  /** For how long the picture stood still between the two snapshots, in ms. */
  frozenTime: number | undefined;
}

/** Figures of the connection to the SFU. */
export interface ConnectionStats {
  /** The state of the peer connection; "closed" without one. */
  state: RTCPeerConnectionState;
  /** From here to the SFU and back, in ms, as ICE measures it. */
  roundTripTime: number | undefined;
  /** What is sent and received, in bit/s. */
  bitrateUp: number | undefined;
  bitrateDown: number | undefined;
  /** What the browser believes that it could send, in bit/s. */
  availableUp: number | undefined;
  /** How packets travel: "udp" or "tcp"; through a TURN server also "tls". */
  protocol: string | undefined;
  /** Whether they go through a TURN server. */
  isRelayed: boolean | undefined;
}

/** Figures of a room. */
export interface RoomStats {
  /** When the second snapshot was taken, in ms since 1970. */
  time: number;
  /** The time between the two snapshots, in ms. */
  duration: number;
  connection: ConnectionStats;
  publications: PublicationStats[];
  subscriptions: SubscriptionStats[];
}

/** How good a connection is. */
export type ConnectionQuality = "excellent" | "good" | "poor" | "lost";

/** Options of `watchStats`. */
export interface WatchStatsOptions {
  /** The time between two snapshots, in ms; default 2000. */
  interval?: number | undefined;
  /** Ends watching. */
  signal?: AbortSignal | undefined;
}

// The time between two snapshots, in ms: for one answer, and for a listener.
const ONE_ANSWER = 1000;
const INTERVAL = 2000;
const SHORTEST = 100;
const LONGEST = 3_600_000;

// A connection with a figure beyond these is not excellent, or poor. Loss and frozen time are shares, the others are ms.
const LIMITS = {
  loss: [0.01, 0.05],
  roundTripTime: [200, 400],
  jitter: [30, 100],
  frozen: [0.01, 0.1],
} as const;

type Report = Readonly<Record<string, unknown>>;
type Reports = Map<string, Report>;

interface Snapshot {
  peer: RTCPeerConnection | undefined;
  time: number;
  all: Reports;
  sent: [Publication, Reports][];
  received: [Participant, string, MediaStreamTrack, boolean, Reports][];
}

/**
 * Return the figures of a room, from two snapshots.
 *
 * @param options.interval the time between the two, in ms; default 1000.
 * @throws InvalidRequestError an argument is wrong. Closed connections are no error: their figures are undefined.
 */
export async function roomStats(room: Room, options: WatchStatsOptions = {}): Promise<RoomStats> {
  const { interval, signal } = expectArguments(room, options, ONE_ANSWER);
  signal?.throwIfAborted();
  const before = await takeSnapshot(room);
  await new Promise<void>((resolve, reject) => {
    const abort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, interval);
    signal?.addEventListener("abort", abort, { once: true });
  });
  return compare(before, await takeSnapshot(room));
}

/**
 * Call `listener` with the figures of a room again and again, until the room is closed.
 *
 * The next snapshot waits for the one before. An exception in the listener is reported as an uncaught error, and watching
 * goes on.
 *
 * @returns a function that ends watching, as `options.signal` does.
 * @throws InvalidRequestError an argument is wrong.
 */
export function watchStats(
  room: Room,
  options: WatchStatsOptions,
  listener: (stats: RoomStats) => unknown,
): () => void {
  const { interval, signal } = expectArguments(room, options, INTERVAL);
  if (typeof listener !== "function") throw new InvalidRequestError(`expected a listener, got ${typeof listener}`);
  const ending = new AbortController();
  const stop = (): void => {
    ending.abort();
    unsubscribe();
    signal?.removeEventListener("abort", stop);
  };
  const unsubscribe = room.on("closed", stop);
  signal?.addEventListener("abort", stop);
  if (signal?.aborted || room.state === "closed") stop();
  else void watch(room, interval, ending.signal, listener);
  return stop;
}

async function watch(
  room: Room,
  interval: number,
  ending: AbortSignal,
  listener: (stats: RoomStats) => unknown,
): Promise<void> {
  let before = await takeSnapshot(room);
  while (!ending.aborted) {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, interval);
      ending.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    });
    if (ending.aborted) return;
    const now = await takeSnapshot(room);
    if (ending.aborted) return;
    try {
      listener(compare(before, now));
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
    before = now;
  }
}

/**
 * Judge the connection of this client, or of one participant by its tracks that this client receives.
 *
 * - "lost": there is no connection to the SFU; of a participant: no packet of its tracks has come.
 * - "poor": loss above 5 %, a round trip above 400 ms, jitter above 100 ms, or a picture that stood still for more than a
 *   tenth of the time.
 * - "good": loss above 1 %, a round trip above 200 ms, jitter above 30 ms, or a picture that stood still for more than a
 *   hundredth of the time.
 * - "excellent": none of these. A figure that the browser does not report does not count.
 *
 * The worst track decides. A participant's muted tracks count, because silence and black are sent in their place.
 */
export function connectionQuality(stats: RoomStats, clientId?: string): ConnectionQuality {
  const { connection } = stats;
  if (connection.state !== "connected") return "lost";
  const received = stats.subscriptions.filter((each) => clientId === undefined || each.clientId === clientId);
  const isSilent = received.length > 0 && received.every(({ packets }) => packets === 0);
  if (clientId !== undefined && isSilent) return "lost";
  const sent = clientId === undefined ? stats.publications : [];
  const worst = {
    loss: largest([...sent, ...received].map(({ loss }) => loss)),
    roundTripTime: largest([
      ...(clientId === undefined ? [connection.roundTripTime] : []),
      ...sent.map(({ roundTripTime }) => roundTripTime),
    ]),
    jitter: largest([...sent, ...received].map(({ jitter }) => jitter)),
    frozen: largest(received.map(({ frozenTime }) => frozenTime && frozenTime / stats.duration)),
  };
  const exceeds = (index: 0 | 1): boolean =>
    (Object.keys(LIMITS) as (keyof typeof LIMITS)[]).some((name) => (worst[name] ?? 0) > LIMITS[name][index]);
  return exceeds(1) ? "poor" : exceeds(0) ? "good" : "excellent";
}

function expectArguments(
  room: Room | undefined | null,
  options: WatchStatsOptions,
  usual: number,
): { interval: number; signal: AbortSignal | undefined } {
  if (typeof room?.publish !== "function") throw new InvalidRequestError(`room is ${typeof room}, expected a Room`);
  const { interval = usual, signal } = options;
  if (!(interval >= SHORTEST && interval <= LONGEST)) {
    throw new InvalidRequestError(`interval is ${interval}, expected ${SHORTEST} to ${LONGEST} ms`);
  }
  return { interval, signal };
}

/** Read the reports of a connection and of each track; those that the browser refuses are empty. */
async function takeSnapshot(room: Room): Promise<Snapshot> {
  const peer = room.peerConnection;
  const time = Date.now();
  const receivers = peer?.getReceivers() ?? [];
  const received = [...room.participants.values()].flatMap((participant) =>
    [...participant.tracks.values()].flatMap(({ name, track, muted }) => {
      const receiver = track && receivers.find((each) => each.track === track);
      return receiver ? [{ participant, name, track, muted, receiver }] : [];
    }),
  );
  const sent = room.publications.filter(({ sender }) => sender !== null);
  return {
    peer,
    time,
    all: await read(peer),
    sent: await Promise.all(
      sent.map(async (publication): Promise<Snapshot["sent"][0]> => [publication, await read(publication.sender)]),
    ),
    received: await Promise.all(
      received.map(
        async ({ participant, name, track, muted, receiver }): Promise<Snapshot["received"][0]> => [
          participant,
          name,
          track,
          muted,
          await read(receiver),
        ],
      ),
    ),
  };
}

async function read(source: { getStats(): Promise<RTCStatsReport> } | null | undefined): Promise<Reports> {
  const reports: Reports = new Map();
  try {
    (await source?.getStats())?.forEach((report: { id: string }) => reports.set(report.id, { ...report }));
  } catch {
    // Firefox and Safari reject for a closed connection, which has no figures.
  }
  return reports;
}

function compare(before: Snapshot, now: Snapshot): RoomStats {
  // Ids are those of one peer connection.
  const isSame = before.peer === now.peer;
  const former = (reports: Reports | undefined): Reports => (isSame && reports) || new Map();
  return {
    time: now.time,
    duration: now.time - before.time,
    connection: connectionOf(now, former(before.all)),
    publications: now.sent.map(([publication, reports]) =>
      publicationOf(publication, reports, former(before.sent.find(([each]) => each === publication)?.[1])),
    ),
    subscriptions: now.received.map(([{ clientId }, name, track, muted, reports]) => ({
      clientId,
      name,
      kind: track.kind as TrackKind,
      muted,
      ...subscriptionOf(reports, former(before.received.find((each) => each[2] === track)?.[4])),
    })),
  };
}

function connectionOf({ peer, all }: Snapshot, former: Reports): ConnectionStats {
  const pair = selectedPair(all);
  const old = pair && former.get(text(pair, "id") ?? "");
  const local = all.get((pair && text(pair, "localCandidateId")) ?? "");
  return {
    state: peer?.connectionState ?? "closed",
    roundTripTime: inMs(pair, "currentRoundTripTime"),
    bitrateUp: bitrate(pair, old, "bytesSent"),
    bitrateDown: bitrate(pair, old, "bytesReceived"),
    availableUp: figure(pair, "availableOutgoingBitrate"),
    protocol: text(local, "relayProtocol") ?? text(local, "protocol"),
    isRelayed: local && text(local, "candidateType") === "relay",
  };
}

/** Return the pair of candidates in use: the transport names it, and Firefox marks it. */
function selectedPair(all: Reports): Report | undefined {
  const reports = [...all.values()];
  const named = reports.map((each) => all.get(text(each, "selectedCandidatePairId") ?? "")).find(Boolean);
  const pairs = reports.filter((each) => each["type"] === "candidate-pair");
  return (
    named ??
    pairs.find((each) => each["selected"] === true) ??
    pairs.find((each) => each["nominated"] === true && each["state"] === "succeeded")
  );
}

function publicationOf({ name, track, muted }: Publication, reports: Reports, former: Reports): PublicationStats {
  const sent = ofType(reports, "outbound-rtp");
  const told = ofType(reports, "remote-inbound-rtp");
  const olds = new Map(sent.map((each) => [each, former.get(text(each, "id") ?? "")]));
  const layers = sent.map((each) => ({
    rid: text(each, "rid"),
    active: typeof each["active"] === "boolean" ? each["active"] : undefined,
    bitrate: bitrate(each, olds.get(each), "bytesSent"),
    width: figure(each, "frameWidth"),
    height: figure(each, "frameHeight"),
    framesPerSecond: frameRate(each, olds.get(each), "framesEncoded"),
  }));
  const top = layers.reduce<LayerStats | undefined>(
    (best, each) => ((each.width ?? 0) > (best?.width ?? 0) && each.active !== false ? each : best),
    undefined,
  );
  return {
    name,
    kind: track.kind as TrackKind,
    muted,
    bitrate: sum(layers.map((layer) => layer.bitrate)),
    packets: sum(sent.map((each) => change(each, olds.get(each), "packetsSent"))),
    loss: largest(told.map((each) => figure(each, "fractionLost") ?? lossTold(each, reports, former))),
    jitter: largest(told.map((each) => inMs(each, "jitter"))),
    roundTripTime: largest(told.map((each) => inMs(each, "roundTripTime"))),
    codec: codecOf(sent[0], reports),
    width: top?.width,
    height: top?.height,
    framesPerSecond: top?.framesPerSecond,
    limitedBy: sent.map((each) => text(each, "qualityLimitationReason")).find(Boolean),
    layers,
  };
}

/** Return the loss that an SFU has told since the snapshot before, where the browser does not report the share itself. */
function lossTold(told: Report, reports: Reports, former: Reports): number | undefined {
  const id = text(told, "localId") ?? "";
  const lost = change(told, former.get(text(told, "id") ?? ""), "packetsLost");
  const sent = change(reports.get(id), former.get(id), "packetsSent");
  return lost === undefined || !sent ? undefined : Math.min(1, lost / sent);
}

function subscriptionOf(
  reports: Reports,
  former: Reports,
): Omit<SubscriptionStats, "clientId" | "name" | "kind" | "muted"> {
  const report = ofType(reports, "inbound-rtp")[0];
  const old = former.get((report && text(report, "id")) ?? "");
  const packets = change(report, old, "packetsReceived");
  // A late packet lowers the number of lost ones again.
  const lost = difference(report, old, "packetsLost");
  const expected = packets === undefined || lost === undefined ? 0 : packets + Math.max(0, lost);
  const frozen = change(report, old, "totalFreezesDuration");
  return {
    bitrate: bitrate(report, old, "bytesReceived"),
    packets,
    loss: expected > 0 ? Math.max(0, lost ?? 0) / expected : undefined,
    jitter: inMs(report, "jitter"),
    codec: codecOf(report, reports),
    width: figure(report, "frameWidth"),
    height: figure(report, "frameHeight"),
    framesPerSecond: frameRate(report, old, "framesDecoded"),
    frozenTime: frozen && frozen * 1000,
  };
}

function ofType(reports: Reports, type: string): Report[] {
  return [...reports.values()].filter((each) => each["type"] === type);
}

function figure(report: Report | undefined, field: string): number | undefined {
  const value = report?.[field];
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

function text(report: Report | undefined, field: string): string | undefined {
  const value = report?.[field];
  return typeof value === "string" && value !== "" ? value : undefined;
}

/** Return a number of seconds in ms. */
function inMs(report: Report | undefined, field: string): number | undefined {
  const seconds = figure(report, field);
  return seconds && seconds * 1000;
}

function difference(report: Report | undefined, old: Report | undefined, field: string): number | undefined {
  const [now, before] = [figure(report, field), figure(old, field)];
  return now === undefined || before === undefined ? undefined : now - before;
}

/** Return how much a counter has grown; one that was set back has no answer. */
function change(report: Report | undefined, old: Report | undefined, field: string): number | undefined {
  const grown = difference(report, old, field);
  return grown !== undefined && grown >= 0 ? grown : undefined;
}

/** Return how much a counter has grown in one second. */
function rate(report: Report | undefined, old: Report | undefined, field: string): number | undefined {
  const [grown, time] = [change(report, old, field), change(report, old, "timestamp")];
  return grown === undefined || !time ? undefined : (grown * 1000) / time;
}

function bitrate(report: Report | undefined, old: Report | undefined, field: string): number | undefined {
  const bytes = rate(report, old, field);
  return bytes && bytes * 8;
}

function frameRate(report: Report | undefined, old: Report | undefined, counter: string): number | undefined {
  return figure(report, "framesPerSecond") ?? rate(report, old, counter);
}

function codecOf(report: Report | undefined, reports: Reports): string | undefined {
  return text(reports.get(text(report, "codecId") ?? ""), "mimeType")?.replace(/^.*\//, "");
}

function known(figures: (number | undefined)[]): number[] {
  return figures.filter((each) => each !== undefined);
}

function sum(figures: (number | undefined)[]): number | undefined {
  const all = known(figures);
  return all.length > 0 ? all.reduce((total, each) => total + each, 0) : undefined;
}

function largest(figures: (number | undefined)[]): number | undefined {
  const all = known(figures);
  return all.length > 0 ? Math.max(...all) : undefined;
}
