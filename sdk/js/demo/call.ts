/** A call: one client in one room, shown as tiles, from joining until it is left or lost. */

import { SignalClient, type Participant, type Room, type TrackKind } from "../src/index.js";
import type { Source } from "./sources.js";
import { Meter } from "./statistics.js";
import type { Muted, Tiles } from "./tiles.js";

/** Where and as whom to join. */
export interface CallSettings {
  url: string;
  clientId: string;
  token: string;
  roomId: string;
  name: string;
  source: Source;
  codec: string | null;
}

/** Who hears of a call. */
export interface CallListener {
  /** Something that is worth a line. */
  onNews(text: string): void;
  /** A picture or a sound is missing, and will be. */
  onProblem(text: string): void;
  onState(state: "connected" | "reconnecting"): void;
  /** How many others are there now. */
  onCompany(others: number): void;
  /** The call is over although nobody left it; comes last. */
  onEnded(reason: string): void;
}

// In ms.
const READING_INTERVAL = 1000;

// The longest pause between two attempts to connect, in ms: someone sits and waits, and the service is near.
const MAX_RETRY_DELAY = 4000;

const NO_MEDIA =
  'This service forwards no media (media.backend is "none"): you can be in the room, and nobody is seen or heard.';

/** A call that goes on. */
export class Call {
  readonly #client: SignalClient;
  readonly #room: Room;
  readonly #source: Source;
  readonly #meter: Meter;
  readonly #tiles: Tiles;
  readonly #listener: CallListener;
  readonly #timer: ReturnType<typeof setInterval>;
  #isOver = false;

  private constructor(
    client: SignalClient,
    room: Room,
    meter: Meter,
    { source, clientId, name }: CallSettings,
    tiles: Tiles,
    listener: CallListener,
  ) {
    this.#client = client;
    this.#room = room;
    this.#source = source;
    this.#meter = meter;
    this.#tiles = tiles;
    this.#listener = listener;
    tiles.add(clientId, name, { isOwn: true, isMirrored: source.kind === "camera" });
    for (const track of source.stream?.getTracks() ?? []) tiles.addTrack(clientId, track);
    for (const participant of room.participants.values()) {
      tiles.add(participant.clientId, nameOf(participant));
      tiles.markAway(participant.clientId, participant.away);
      tiles.markMuted(participant.clientId, mutedOf(participant.tracks.values()));
    }
    this.#listen();
    listener.onState("connected");
    this.#countOthers();
    if (!meter.hasMedia) listener.onProblem(NO_MEDIA);
    this.#timer = setInterval(() => void this.#read(), READING_INTERVAL);
  }

  /** Connect and join; what was opened on the way is closed again when that fails. The source is not. */
  static async join(settings: CallSettings, tiles: Tiles, listener: CallListener): Promise<Call> {
    const { url, clientId, token, roomId, name, source, codec } = settings;
    const client = new SignalClient(url, clientId, token, { retry: { maxDelay: MAX_RETRY_DELAY } });
    try {
      await client.connect();
      const meter = new Meter(codec);
      const room = await client.join(roomId, {
        create: true,
        metadata: { name },
        stream: source.stream ?? undefined,
        RTCPeerConnection: meter.PeerConnection,
      });
      return new Call(client, room, meter, settings, tiles, listener);
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  setMuted(kind: TrackKind, isMuted: boolean): void {
    if (isMuted) this.#room.mute(kind);
    else this.#room.unmute(kind);
    const own = this.#room.publications.map(({ track, muted }) => ({ kind: track.kind, muted }));
    this.#tiles.markMuted(this.#client.clientId, mutedOf(own));
  }

  /** Leave, and stop the source. */
  async leave(): Promise<void> {
    this.#end();
    await this.#room.leave();
    await this.#client.close("left");
  }

  /** Say good-bye when there is no time to wait for an answer: the page is about to go. */
  drop(): void {
    this.#end();
    void this.#client.close("page closed");
  }

  #listen(): void {
    const { onNews, onProblem, onState, onEnded } = this.#listener;
    this.#room.on("participant-joined", ({ participant }) => {
      this.#tiles.add(participant.clientId, nameOf(participant));
      onNews(`${nameOf(participant)} joined`);
      this.#countOthers();
    });
    this.#room.on("participant-left", ({ participant }) => {
      this.#tiles.remove(participant.clientId);
      if (!this.#isOver) onNews(`${nameOf(participant)} left`);
      this.#countOthers();
    });
    for (const event of ["participant-away", "participant-back"] as const) {
      this.#room.on(event, ({ participant }) => {
        this.#tiles.markAway(participant.clientId, participant.away);
        onNews(`${nameOf(participant)} is ${participant.away ? "away" : "back"}`);
      });
    }
    this.#room.on("track", ({ participant, track }) => this.#tiles.addTrack(participant.clientId, track));
    this.#room.on("track-removed", ({ participant, track }) => this.#tiles.removeTrack(participant.clientId, track));
    for (const event of ["track", "track-removed", "track-muted", "track-unmuted"] as const) {
      this.#room.on(event, ({ participant }) =>
        this.#tiles.markMuted(participant.clientId, mutedOf(participant.tracks.values())),
      );
    }
    this.#client.on("disconnected", () => onState("reconnecting"));
    // Otherwise the room has more to do, and says when it is done.
    this.#client.on("reconnected", () => this.#room.state === "joined" && onState("connected"));
    this.#room.on("reconnecting", () => onState("reconnecting"));
    this.#room.on("reconnected", () => onState("connected"));
    this.#room.on("error", ({ clientId, name, error }) => {
      const participant = this.#room.participants.get(clientId);
      onProblem(`The ${name} of ${participant ? nameOf(participant) : clientId} cannot be shown: ${error.message}.`);
    });
    this.#room.on("closed", ({ reason, error }) => {
      if (this.#isOver) return;
      this.#end();
      void this.#client.close();
      onEnded(error ? `${reason} (${error.message})` : reason);
    });
  }

  #countOthers(): void {
    // The room tells of a change before or after it made it, so the tiles are what counts.
    if (!this.#isOver) this.#listener.onCompany(this.#tiles.count - 1);
  }

  async #read(): Promise<void> {
    const figures = await this.#meter.read();
    if (!this.#isOver) this.#tiles.show(figures);
  }

  #end(): void {
    this.#isOver = true;
    clearInterval(this.#timer);
    this.#source.stop();
    this.#tiles.removeAll();
  }
}

/** Return which kinds of these tracks are muted: all tracks of the kind, and at least one. */
function mutedOf(tracks: Iterable<{ kind: string | undefined; muted: boolean }>): Muted {
  const all = [...tracks];
  const isMuted = (kind: TrackKind): boolean => {
    const some = all.filter((track) => track.kind === kind);
    return some.length > 0 && some.every(({ muted }) => muted);
  };
  return { audio: isMuted("audio"), video: isMuted("video") };
}

/** Return a member's name, or its client id when it gave no name. */
function nameOf({ clientId, metadata }: Participant): string {
  const { name } = metadata;
  return typeof name === "string" && name.trim() !== "" ? name.trim().slice(0, 40) : clientId;
}
