/**
 * How loud each member of a room is, and who speaks.
 *
 * Only pages that need it load this entry point, `signal-manager/speakers`. Levels come from the audio-level header
 * extension of RTP (RFC 6464), else from the browser's `getStats`. This client's own level comes from `getStats`, else
 * from an `AnalyserNode`.
 */

import { InvalidRequestError, type Participant, type Publication, type Room } from "./index.js";
import { Detector } from "./loudness.js";

/** A member who speaks, or this client. */
export interface Speaker {
  /** The member; null is this client. */
  participant: Participant | null;
  /** How loud it is now, smoothed, from 0 to 1. Speech is mostly from 0.02 to 0.3. */
  level: number;
}

/** The smoothed levels, from 0 to 1, by member; null is this client. Those that send no sound are not in it. */
export type AudioLevels = ReadonlyMap<Participant | null, number>;

/** Options of `audioLevels` and `activeSpeakers`. */
export interface SpeakersOptions {
  /** Ends watching. */
  signal?: AbortSignal | undefined;
}

// Ms between two looks at the levels.
const INTERVAL = 100;

// The age in ms from which a packet's level no longer counts.
const STALE = 500;

type Listener = (detector: Detector<Participant | null>) => void;

/**
 * Call `listener` with the levels ten times in a second, until the room is closed: for a meter.
 *
 * Muted tracks and members that are away have the level 0. An exception in the listener is reported as an uncaught error.
 *
 * @returns a function that ends watching, as `options.signal` does.
 * @throws InvalidRequestError an argument is wrong.
 */
export function audioLevels(
  room: Room,
  options: SpeakersOptions,
  listener: (levels: AudioLevels) => unknown,
): () => void {
  expectListener(listener);
  return watch(room, options, (detector) => listener(new Map(detector.levels)));
}

/**
 * Call `listener` with all who speak, the loudest first, when that changes, until the room is closed.
 *
 * A member speaks after 350 ms of sound, so that a cough does not count, and until a second of silence. One that speaks
 * already stays before one that is only a little louder. This client is in the list too, without a participant.
 *
 * @returns a function that ends watching, as `options.signal` does.
 * @throws InvalidRequestError an argument is wrong.
 */
export function activeSpeakers(
  room: Room,
  options: SpeakersOptions,
  listener: (speakers: Speaker[]) => unknown,
): () => void {
  expectListener(listener);
  let told: (Participant | null)[] = [];
  return watch(room, options, ({ speakers, levels }) => {
    if (speakers.length === told.length && speakers.every((each, index) => each === told[index])) return;
    told = [...speakers];
    listener(told.map((participant) => ({ participant, level: levels.get(participant) ?? 0 })));
  });
}

function expectListener(listener: unknown): void {
  if (typeof listener !== "function") throw new InvalidRequestError(`expected a listener, got ${typeof listener}`);
}

function watch(room: Room | undefined | null, { signal }: SpeakersOptions, listener: Listener): () => void {
  if (typeof room?.publish !== "function") throw new InvalidRequestError(`room is ${typeof room}, expected a Room`);
  const meters = new Meters(room);
  const detector = new Detector<Participant | null>();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isOver = false;
  const stop = (): void => {
    isOver = true;
    clearTimeout(timer);
    unsubscribe();
    signal?.removeEventListener("abort", stop);
    meters.close();
  };
  const look = async (): Promise<void> => {
    const began = performance.now();
    const levels = await meters.read(began);
    if (isOver) return;
    detector.update(levels, began);
    try {
      listener(detector);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
    if (!isOver) timer = setTimeout(() => void look(), Math.max(0, INTERVAL - (performance.now() - began)));
  };
  const unsubscribe = room.on("closed", stop);
  signal?.addEventListener("abort", stop);
  if (signal?.aborted || room.state === "closed") stop();
  else timer = setTimeout(() => void look());
  return stop;
}

/** When the last packet of a track was noticed, by its own time and by ours. */
interface Heard {
  timestamp: number;
  at: number;
}

/** The present levels of a room's tracks. */
class Meters {
  readonly #room: Room;
  readonly #heard = new WeakMap<MediaStreamTrack, Heard>();
  readonly #analysers = new Map<MediaStreamTrack, Analyser>();

  constructor(room: Room) {
    this.#room = room;
  }

  /** Return the loudest level of each member that sends sound, and of this client. */
  async read(now: number): Promise<Map<Participant | null, number>> {
    const levels = new Map<Participant | null, number>();
    const { publications, participants, peerConnection } = this.#room;
    const own = publications.filter(({ track }) => track.kind === "audio");
    for (const track of this.#analysers.keys()) if (!own.some((each) => each.track === track)) this.#drop(track);
    const note = async (who: Participant | null, level: Promise<number> | number): Promise<void> => {
      levels.set(who, Math.max(levels.get(who) ?? 0, await level));
    };
    const receivers = peerConnection?.getReceivers() ?? [];
    await Promise.all([
      ...own.map((each) => note(null, each.muted ? 0 : this.#ownLevel(each))),
      ...[...participants.values()].flatMap((participant) =>
        [...participant.tracks.values()].map(({ kind, track, muted }) => {
          const receiver = kind === "audio" && receivers.find((each) => each.track === track);
          if (!receiver) return undefined;
          return note(participant, muted || participant.away ? 0 : this.#levelOf(receiver, now));
        }),
      ),
    ]);
    return levels;
  }

  close(): void {
    for (const track of [...this.#analysers.keys()]) this.#drop(track);
  }

  #drop(track: MediaStreamTrack): void {
    this.#analysers.get(track)?.close();
    this.#analysers.delete(track);
  }

  async #levelOf(receiver: RTCRtpReceiver, now: number): Promise<number> {
    const sources = receiver.getSynchronizationSources?.() ?? [];
    const last = sources.reduce<RTCRtpSynchronizationSource | undefined>(
      (newest, each) => (each.timestamp > (newest?.timestamp ?? 0) ? each : newest),
      undefined,
    );
    if (last?.audioLevel === undefined) return (await reportedLevel(receiver, "inbound-rtp")) ?? 0;
    // A source is reported for 10 s after its last packet. Its clock need not be the page's.
    const before = this.#heard.get(receiver.track);
    if (before?.timestamp === last.timestamp) return now - before.at < STALE ? last.audioLevel : 0;
    this.#heard.set(receiver.track, { timestamp: last.timestamp, at: now });
    return last.audioLevel;
  }

  async #ownLevel({ sender, track }: Publication): Promise<number> {
    const level = sender && (await reportedLevel(sender, "media-source"));
    if (typeof level === "number") return level;
    let analyser = this.#analysers.get(track);
    if (analyser === undefined && typeof AudioContext === "function" && track.readyState === "live") {
      analyser = new Analyser(track);
      this.#analysers.set(track, analyser);
    }
    return analyser?.read() ?? 0;
  }
}

async function reportedLevel(source: RTCRtpReceiver | RTCRtpSender, type: string): Promise<number | undefined> {
  let level: number | undefined;
  try {
    (await source.getStats()).forEach((report: { type: string; audioLevel?: unknown }) => {
      if (report.type === type && typeof report.audioLevel === "number") level = report.audioLevel;
    });
  } catch {
    // The connection is closed.
  }
  return level;
}

/** Measures a track of this page. */
class Analyser {
  readonly #context = new AudioContext();
  readonly #node = this.#context.createAnalyser();
  readonly #samples = new Float32Array(this.#node.fftSize);

  constructor(track: MediaStreamTrack) {
    this.#context.createMediaStreamSource(new MediaStream([track])).connect(this.#node);
    // A context that was made before the user touched the page waits for this.
    void this.#context.resume().catch(() => undefined);
  }

  /** Return the largest sample of the last moment. */
  read(): number {
    this.#node.getFloatTimeDomainData(this.#samples);
    return this.#samples.reduce((most, each) => Math.max(most, Math.abs(each)), 0);
  }

  close(): void {
    void this.#context.close().catch(() => undefined);
  }
}
