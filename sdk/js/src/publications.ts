/**
 * The tracks that this client publishes in a room, from `publish` to the end of `unpublish`.
 *
 * `room.ts` brings the media session in line with them.
 */

import { aKind, aStream, check } from "./arguments.js";
import { InvalidRequestError } from "./errors.js";
import type { LocalTrack } from "./media.js";
import type { TrackKind } from "./messages.js";
import { MAX_ITEMS, maybe, name } from "./fields.js";

// Ms between two checks of the tracks, because `track.stop()` fires no event.
const CHECK_INTERVAL = 1000;

/** A promise and the means to settle it. */
class Deferred {
  readonly promise: Promise<void>;
  resolve!: () => void;
  reject!: (error: unknown) => void;

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    // Awaiting the promise still throws; a rejection that no caller awaits is not an error.
    this.promise.catch(() => undefined);
  }
}

/** The callbacks of a publication. */
export interface PublicationListener {
  onChange(): void;
  onEnded(publication: Publication): void;
}

/** A track of this client, and the progress of publishing it; applications call `mute` and `replaceTrack`. */
export class Publication implements LocalTrack {
  /** The name by which the other members know it. */
  readonly name: string;
  /** The stream that `publish` was given. */
  readonly stream: MediaStream;
  /** Whether `publish` was given its name. */
  readonly isNamed: boolean;
  /** The value of `muted` that the service knows. @hidden */
  said = false;
  /** @hidden */
  sender: RTCRtpSender | null = null;
  /** @hidden */
  isWanted = true;
  /** Whether it is unpublished because its track ended by itself. */
  hasEnded = false;
  /** Whether it is published in the present media session. */
  isPublished = false;
  /** Failed attempts to publish it in a row. @hidden */
  attempts = 0;
  /** Settles once: when it was first published, or when it cannot be. @hidden */
  readonly published = new Deferred();
  /** Resolves when it is unpublished. @hidden */
  readonly gone = new Deferred();
  readonly #listener: PublicationListener;
  #track: MediaStreamTrack;
  #isMuted = false;

  constructor(
    name: string,
    track: MediaStreamTrack,
    stream: MediaStream,
    isNamed: boolean,
    listener: PublicationListener,
  ) {
    this.name = name;
    this.stream = stream;
    this.isNamed = isNamed;
    this.#listener = listener;
    this.#track = track;
    this.#watch();
  }

  /** The track that is sent now. */
  get track(): MediaStreamTrack {
    return this.#track;
  }

  /** Whether it sends silence or black in place of the track. */
  get muted(): boolean {
    return this.#isMuted;
  }

  /** Send silence or black in place of the track, at once, and tell the others. */
  mute(): void {
    this.setMuted(true);
  }

  /** Send the track again, and tell the others. */
  unmute(): void {
    this.setMuted(false);
  }

  /** Mute or unmute. @hidden */
  setMuted(isMuted: boolean): void {
    this.#isMuted = isMuted;
    this.#track.enabled = !isMuted;
    this.#listener.onChange();
  }

  /**
   * Send another track of the same kind from now on, without negotiation; a muted publication stays muted.
   *
   * If the browser refuses the track, this rejects, and the former one continues.
   */
  async replaceTrack(track: MediaStreamTrack): Promise<void> {
    const kind = (track as MediaStreamTrack | undefined)?.kind;
    if (kind !== this.#track.kind) {
      throw new InvalidRequestError(`the track is of kind ${kind}, expected ${this.#track.kind}`);
    }
    track.enabled = !this.#isMuted;
    const { sender } = this;
    const before = this.#track;
    this.#track = track;
    this.#watch();
    try {
      await sender?.replaceTrack(track);
    } catch (error) {
      // An error of an ended media session does not matter, because the next one starts with the present track.
      if (sender !== this.sender) return;
      if (this.#track === track) {
        this.#track = before;
        before.enabled = !this.#isMuted;
      }
      throw error;
    }
  }

  #watch(): void {
    const track = this.#track;
    track.addEventListener("ended", () => track === this.#track && this.#listener.onEnded(this));
  }

  /** Check whether code has stopped the track, which fires no event. */
  checkEnd(): void {
    if (this.#track.readyState === "ended") this.#listener.onEnded(this);
  }
}

/** The publications of one room. The lists of next tasks never exceed the size of one request. */
export class Publications {
  readonly #all = new Set<Publication>();
  readonly #listener: PublicationListener;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(listener: PublicationListener) {
    this.#listener = listener;
  }

  /** The publications that are published or pending. */
  get wanted(): Publication[] {
    return [...this.#all].filter(({ isWanted }) => isWanted);
  }

  /** The publications whose mute state the service must be told next. */
  get unsaid(): Publication[] {
    return this.#next(({ isPublished, muted, said }) => isPublished && muted !== said);
  }

  /** The publications to publish next. */
  get fresh(): Publication[] {
    return this.#next(({ isWanted, isPublished }) => isWanted && !isPublished);
  }

  /** The publications to close next, all for the same reason. */
  get leaving(): Publication[] {
    const ended = this.#next(({ isWanted, isPublished, hasEnded }) => !isWanted && isPublished && hasEnded);
    return ended.length > 0 ? ended : this.#next(({ isWanted, isPublished }) => !isWanted && isPublished);
  }

  /** The unwanted publications that the SFU does not have. */
  get abandoned(): Publication[] {
    return [...this.#all].filter(({ isWanted, isPublished }) => !isWanted && !isPublished);
  }

  /** The publications that an argument means: a publication itself, or all of a stream or of its tracks. */
  of(what: MediaStream | Publication): Publication[] {
    const tracks = what instanceof Publication ? [] : check({ stream: aStream }, { stream: what }).stream.getTracks();
    return [...this.#all].filter((each) => each === what || each.stream === what || tracks.includes(each.track));
  }

  /** Add a pending publication for every track of a stream, under names that are free. */
  add(stream: MediaStream, prefix?: string): Publication[] {
    const tracks = check({ stream: aStream }, { stream }).stream.getTracks();
    if (tracks.length === 0) throw new InvalidRequestError("the stream has no tracks");
    return tracks.map((track) => {
      const name = this.#freeName(prefix ? `${prefix}-${track.kind}` : track.kind);
      const publication = new Publication(name, track, stream, prefix !== undefined, this.#listener);
      this.#all.add(publication);
      this.#timer ??= setInterval(() => this.wanted.forEach((each) => each.checkEnd()), CHECK_INTERVAL);
      return publication;
    });
  }

  /** Remove a publication that the SFU does not have. */
  remove(publication: Publication, error: Error = new InvalidRequestError("unpublished meanwhile")): void {
    this.#all.delete(publication);
    if (this.#all.size === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
    publication.published.reject(error);
    publication.gone.resolve();
  }

  removeAll(error: Error): void {
    for (const publication of [...this.#all]) this.remove(publication, error);
  }

  /** Note that the SFU has a publication. */
  settle(publication: Publication): void {
    publication.isPublished = true;
    publication.attempts = 0;
    publication.published.resolve();
  }

  /** Note that the media session is lost, so that all wanted tracks must be published again. */
  forgetSession(): void {
    for (const publication of this.#all) publication.isPublished = false;
  }

  /** Mute camera and microphone, or one of them: the publications without a name. */
  mute(only: TrackKind | undefined, isMuted: boolean): void {
    check({ kind: maybe(aKind) }, { kind: only });
    for (const publication of this.#all) {
      const isMeant = only === undefined || publication.track.kind === only;
      if (!publication.isNamed && isMeant) publication.setMuted(isMuted);
    }
  }

  #next(isDue: (publication: Publication) => boolean): Publication[] {
    return [...this.#all].filter(isDue).slice(0, MAX_ITEMS);
  }

  #freeName(wanted: string): string {
    check({ name }, { name: wanted });
    const taken = new Set([...this.#all].map((each) => each.name));
    let free = wanted;
    for (let n = 2; taken.has(free); n += 1) free = `${wanted}-${n}`;
    return free;
  }
}
