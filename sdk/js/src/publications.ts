/**
 * What this client publishes in a room: tracks with their names, from `publish` to the end of `unpublish`.
 *
 * `room.ts` brings the media session to what is wanted here.
 */

import { InvalidRequestError } from "./errors.js";
import type { LocalTrack } from "./media.js";
import type { TrackKind } from "./messages.js";
import { NAME_RULE, isValidName } from "./payload.js";

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
    // Whoever waits hears of it; that nobody waits is no fault.
    this.promise.catch(() => undefined);
  }
}

/** A track of this client, and how far publishing it has come. */
export class Publication implements LocalTrack {
  readonly name: string;
  readonly track: MediaStreamTrack;
  readonly stream: MediaStream;
  isWanted = true;
  isPublished = false; // in the present media session
  attempts = 0; // to publish it, in a row
  /** Settles once: when it was published first, or will never be. */
  readonly published = new Deferred();
  /** Resolves when it is no longer there. */
  readonly gone = new Deferred();

  constructor(name: string, track: MediaStreamTrack, stream: MediaStream) {
    this.name = name;
    this.track = track;
    this.stream = stream;
  }
}

/** The publications of one room. */
export class Publications {
  readonly #all = new Set<Publication>();

  /** Those to publish. */
  get fresh(): Publication[] {
    return [...this.#all].filter(({ isWanted, isPublished }) => isWanted && !isPublished);
  }

  /** Those to close. */
  get leaving(): Publication[] {
    return [...this.#all].filter(({ isWanted, isPublished }) => !isWanted && isPublished);
  }

  /** Those that only need to be forgotten. */
  get abandoned(): Publication[] {
    return [...this.#all].filter(({ isWanted, isPublished }) => !isWanted && !isPublished);
  }

  of(stream: MediaStream): Publication[] {
    return [...this.#all].filter((publication) => publication.stream === stream);
  }

  /** Want every track of a stream to be published, under names that are free. */
  add(stream: MediaStream, prefix?: string): Publication[] {
    const tracks = stream.getTracks();
    if (tracks.length === 0) throw new InvalidRequestError("the stream has no tracks");
    return tracks.map((track) => {
      const name = this.#freeName(prefix ? `${prefix}-${track.kind}` : track.kind);
      const publication = new Publication(name, track, stream);
      this.#all.add(publication);
      return publication;
    });
  }

  /** Forget a publication that the SFU does not have, or no longer. */
  remove(publication: Publication, error: Error = new InvalidRequestError("unpublished meanwhile")): void {
    this.#all.delete(publication);
    publication.published.reject(error);
    publication.gone.resolve();
  }

  removeAll(error: Error): void {
    for (const publication of [...this.#all]) this.remove(publication, error);
  }

  /** Note that a publication is with the SFU. */
  settle(publication: Publication): void {
    publication.isPublished = true;
    publication.attempts = 0;
    publication.published.resolve();
  }

  /** Note that the media session is gone: everything wanted must be published again. */
  forgetSession(): void {
    for (const publication of this.#all) publication.isPublished = false;
  }

  enable(kind: TrackKind | undefined, isEnabled: boolean): void {
    for (const { track } of this.#all) if (kind === undefined || track.kind === kind) track.enabled = isEnabled;
  }

  #freeName(wanted: string): string {
    if (!isValidName(wanted)) throw new InvalidRequestError(`a track's name is ${wanted}, expected ${NAME_RULE}`);
    const taken = new Set([...this.#all].map(({ name }) => name));
    let name = wanted;
    for (let n = 2; taken.has(name); n += 1) name = `${wanted}-${n}`;
    return name;
  }
}
