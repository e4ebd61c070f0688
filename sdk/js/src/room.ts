/**
 * A room as a member sees it: who is there, what they send, and what this client sends to them.
 *
 * The application says what it wants (`publications.ts`), the service who is there (`members.ts`); one loop brings the
 * media session (`media.ts`) to both, one negotiation at a time, and begins again with a new session when one is lost.
 * Joining, losing and that loop are one module because they are one state: which membership is the present one.
 */

import { aFunction, aSignal, aStream, check, numberUpTo, shortText } from "./arguments.js";
import type { SignalClient } from "./client.js";
import { noteDeparture, settleDepartures } from "./departures.js";
import { Emitter, type Unsubscribe } from "./emitter.js";
import {
  ConflictError,
  InvalidRequestError,
  MalformedMessageError,
  NotFoundError,
  SignalManagerError,
  TooLateError,
  UnavailableError,
  errorFromWire,
} from "./errors.js";
import { MEDIA_TIMEOUT, MediaSession, type PeerConnectionConstructor } from "./media.js";
import { Members, type MemberEvents, type Participant, type PulledTrack } from "./members.js";
import {
  isSame,
  type IceServer,
  type JsonObject,
  type Member,
  type PublishedTrack,
  type RoomAck,
  type RoomEvent,
  type TrackKind,
  type TrackResult,
} from "./messages.js";
import { onNetworkChange } from "./network.js";
import { MAX_ITEMS } from "./fields.js";
import { Publication, Publications } from "./publications.js";
import { completeRetry, type RetryOptions } from "./retry.js";
import { flag, maybe, name, object, oneOf, type RulesOf } from "./fields.js";

/** How to join a room. */
export interface JoinOptions {
  /** Published as part of joining, which saves a round trip; `publish` does the same later. */
  stream?: MediaStream | undefined;
  /** Default: "sender" with something to publish, else "receiver". Either may do both as far as its token allows. */
  role?: "sender" | "receiver" | undefined;
  /** What the other members see of this one. */
  metadata?: JsonObject | undefined;
  /** Create the room when it is not there. */
  create?: boolean | undefined;
  /** For a room that is created. */
  maxParticipants?: number | undefined;
  /** Whether to receive every track of the others without being asked; default true. With false, see `Room.pull`. */
  autoPull?: boolean | undefined;
  /** When and how often in a row to join again where media was lost; default: for about a minute. */
  retry?: RetryOptions | undefined;
  /** Gives joining up. */
  signal?: AbortSignal | undefined;
  /** In place of the global `RTCPeerConnection`. */
  RTCPeerConnection?: PeerConnectionConstructor | undefined;
}

/** What happens in a room, by event name. Members that were there before are in `participants`, without an event. */
export interface RoomEvents extends MemberEvents {
  /** The room's metadata changed. */
  "room-changed": { metadata: JsonObject };
  /** What the others see of this client changed, by `setMetadata` or by an operator. */
  "self-changed": { metadata: JsonObject };
  /** A track of this client's has ended, by "stop sharing" or with its device, and is unpublished. */
  "publication-ended": { publication: Publication };
  /** Media stopped; the room is joined again by itself. */
  reconnecting: { error: Error };
  reconnected: { room: Room };
  /** A track of another member could not be pulled, and is not tried again. */
  error: { error: Error; clientId: string; name: string };
  /** The room is over for this client; the last event. Without `error` it left by itself or was asked to. */
  closed: { reason: string; error?: Error | undefined };
}

const ROOM_EVENTS: Record<keyof RoomEvents, true> = {
  "participant-joined": true,
  "participant-left": true,
  "participant-changed": true,
  "participant-away": true,
  "participant-back": true,
  "room-changed": true,
  "self-changed": true,
  "publication-ended": true,
  "track-muted": true,
  "track-unmuted": true,
  track: true,
  "track-removed": true,
  reconnecting: true,
  reconnected: true,
  error: true,
  closed: true,
};

// How long leaving waits for an answer that nobody needs, and joining until what was left before is known, in ms.
const LEAVE_TIME = 5000;
const SETTLE_TIME = 10_000;

// How often one track is tried before it is given up.
const MAX_ATTEMPTS = 3;

// Media sessions lost, or not even had, in a row before the room is given up: with the delays below, in about a minute.
const MAX_FAILURES = 10;

// The longest delay between two media sessions, in ms; the real ones are random below it.
const MAX_DELAY = 30_000;

// The service, or the SFU behind it, has lost the media session or never had it ready: only a new one helps.
const LOST_CODES: ReadonlySet<number> = new Set([408, 409, 410, 425, 503]);

// The reason of a tracks_unpublished event that nobody asked for (docs/protocol.md, "Rooms").
const SESSION_LOST = "media session lost";

// The reason of the end of a room, or of a membership, that is meant to be joined again (docs/protocol.md, "Rooms").
const RESTARTING = "restarting";

const NO_MEDIA = "the service has no media backend; call the other directly, with signal-manager/direct";

// As many members may be allowed into one room.
const MAX_PLACES = 65_535;

const JOIN: RulesOf<JoinOptions> = {
  stream: maybe(aStream),
  role: maybe(oneOf("sender", "receiver")),
  metadata: maybe(object),
  create: maybe(flag),
  maxParticipants: maybe(numberUpTo(MAX_PLACES, 1)),
  autoPull: maybe(flag),
  retry: maybe(object),
  signal: maybe(aSignal),
  RTCPeerConnection: maybe(aFunction),
};
const PUBLISH = { name: maybe(name), muted: maybe(flag) };
const SCOPE = { scope: maybe(oneOf("participant", "room")) };

// Those that each client is in, or comes into; closed ones are taken out when it joins again.
const rooms = new WeakMap<SignalClient, Room[]>();

/** One membership, from joining until its media session or its connection is lost. */
interface Entry {
  media: MediaSession | null; // null: the service has no media backend
  /** The offer that came with the welcome, not answered yet. */
  offer: { sdp: string; tracks: TrackResult[] } | null;
  stale: string[]; // mids that are received and wanted no longer
  isLost?: boolean; // the media session, not the membership: a new one is to be made
}

/**
 * A room that this client is in; made by `SignalClient.join`.
 *
 *     const room = await client.join("demo", { create: true });
 *     room.on("track", ({ participant, track }) => …);
 *     await room.publish(await navigator.mediaDevices.getUserMedia({ audio: true, video: true }));
 *
 * Tracks of others are pulled as soon as they are announced. When the session with the service or the media is lost,
 * the room is joined again with a new media session: what was published is published again, and what was pulled is
 * pulled again, until `closed`. Listeners that are added in the same turn as `join` resolves miss nothing.
 */
export class Room extends Emitter<RoomEvents> {
  readonly id: string;
  readonly #client: SignalClient;
  readonly #options: JoinOptions;
  readonly #retry: Required<RetryOptions>;
  readonly #members: Members;
  readonly #publications = new Publications({
    onChange: () => void this.#work(),
    onEnded: (publication) => this.#hearOfEnd(publication),
  });
  readonly #subscriptions: Unsubscribe[];
  readonly #ending = new AbortController();
  #entry: Entry | null = null;
  #hasMedia = false;
  #metadata: JsonObject | null = null;
  #own: JsonObject | undefined; // what the others see of this client
  #isWorking = false;
  #isResyncing = false;
  #sequence = 0; // of the last change that `participants` shows
  #newest = 0; // the highest sequence heard of
  #sessions = 0; // that the client has lost since this object was
  #failures = 0; // of media sessions, in a row
  #resume: (() => void) | undefined; // ends a pause early

  private constructor(client: SignalClient, roomId: string, options: JoinOptions) {
    super(ROOM_EVENTS);
    this.id = roomId;
    this.#client = client;
    this.#options = options;
    this.#own = options.metadata;
    this.#retry = completeRetry(options.retry, { attempts: MAX_FAILURES, maxDelay: MAX_DELAY });
    this.#members = new Members(client.clientId, options.autoPull ?? true, {
      emit: (event, value) => this.emit(event, value as never),
      onStale: (mid) => this.#entry?.stale.push(mid),
    });
    this.#subscriptions = [
      client.on("room-event", (event) => this.#hear(event)),
      client.on("reconnected", ({ resumed }) => this.#meetConnection(resumed)),
      client.on("closed", ({ error }) => this.#close("the client is closed", error)),
      ...onNetworkChange(() => this.#checkPath()),
    ];
  }

  /** Join a room; `SignalClient.join` is the way to call this. */
  static async join(client: SignalClient, roomId: string, options: JoinOptions = {}): Promise<Room> {
    check({ roomId: name }, { roomId });
    options = check(JOIN, options, "options");
    const { stream, signal } = options;
    if (options.role === "sender" && stream === undefined) {
      throw new InvalidRequestError("a sender joins with what it sends: pass a `stream`");
    }
    signal?.throwIfAborted();
    // The service would refuse it too, but giving up this attempt would end the membership that there is.
    const present = (rooms.get(client) ?? []).filter(({ state }) => state !== "closed");
    if (present.some(({ id }) => id === roomId)) {
      throw new ConflictError(`this client is in room ${roomId} already, or is joining it`);
    }
    const room = new Room(client, roomId, options);
    rooms.set(client, [...present, room]);
    const giveUp = (): void => room.#ending.abort(signal?.reason);
    signal?.addEventListener("abort", giveUp);
    try {
      if (stream !== undefined) room.#publications.add(stream);
      await room.#enter(options.create ?? false);
    } catch (error) {
      room.#close("not joined", error as Error);
      throw error;
    } finally {
      signal?.removeEventListener("abort", giveUp);
    }
    // In a turn of its own, so that the caller that awaits `join` adds its listeners first.
    setTimeout(() => void room.#work());
    return room;
  }

  /** The other members, by client id. */
  get participants(): ReadonlyMap<string, Participant> {
    return this.#members.all;
  }

  /** The room's metadata; the service sets `created_at` (ms since 1970). */
  get metadata(): JsonObject {
    return this.#metadata ?? {};
  }

  /** What the others see of this client. */
  get ownMetadata(): JsonObject {
    return this.#own ?? {};
  }

  /** Whether the client is in the room, is joining it again, or is out for good. */
  get state(): "joined" | "reconnecting" | "closed" {
    if (this.#isClosed) return "closed";
    return this.#entry === null || this.#entry.isLost ? "reconnecting" : "joined";
  }

  /** Whether there is an SFU behind the room, as far as is known; without one only signals can be sent. */
  get hasMedia(): boolean {
    return this.#hasMedia;
  }

  /**
   * Send the tracks of a camera, a screen or any other stream to the others, until `unpublish` or `leave`.
   *
   * Resolves when the SFU has taken all of them; when it refuses one, none is published and this rejects.
   *
   * @param options.name goes before "audio" and "video" in the tracks' names, as in "screen-video".
   */
  async publish(stream: MediaStream, options: { name?: string; muted?: boolean } = {}): Promise<Publication[]> {
    this.#demandOpen();
    const { name: prefix, muted } = check(PUBLISH, options, "options");
    const added = this.#publications.add(stream, prefix);
    if (muted) for (const publication of added) publication.mute();
    void this.#work();
    try {
      await Promise.all(added.map(({ published }) => published.promise));
    } catch (error) {
      await this.#retract(added);
      throw error;
    }
    return added;
  }

  /** What this client publishes, or is about to: each can be muted, and its track replaced. */
  get publications(): Publication[] {
    return this.#publications.wanted;
  }

  /** Stop sending a stream or a publication; resolves when the SFU has closed it. Tracks themselves are not stopped. */
  async unpublish(what: MediaStream | Publication): Promise<void> {
    await this.#retract(this.#publications.of(what));
  }

  /** Mute camera and microphone, or one of them: what was published without a name, so not the screen. */
  mute(kind?: TrackKind): void {
    this.#publications.mute(kind, true);
  }

  /** Send sound and picture of camera and microphone again. */
  unmute(kind?: TrackKind): void {
    this.#publications.mute(kind, false);
  }

  /**
   * Replace this client's metadata, which joining again repeats, or the room's metadata.
   *
   * @throws ForbiddenError the room's metadata needs the grant `admin`.
   * @throws TooLargeError it is larger than 16,384 bytes as JSON.
   */
  async setMetadata(metadata: JsonObject, options: { scope?: "participant" | "room" } = {}): Promise<void> {
    this.#demandOpen();
    check({ metadata: object }, { metadata });
    const { scope } = check(SCOPE, options, "options");
    const signal = this.#ending.signal;
    const { sequence } = await this.#client.request(
      "METADATA_UPDATE",
      { room_id: this.id, metadata, scope },
      { signal },
    );
    // Otherwise the event has come already, and perhaps one of a later change too.
    if (scope !== "room" && sequence > this.#sequence) this.#takeOwnMetadata(metadata);
  }

  /**
   * Receive a track that is not received yet: with `autoPull: false`, or after it failed. A `track` event follows.
   *
   * @throws NotFoundError nobody publishes it.
   */
  pull(clientId: string, trackName: string): void {
    check({ clientId: name, trackName: name }, { clientId, trackName });
    const track = this.#members.all.get(clientId)?.tracks.get(trackName);
    if (track === undefined) throw new NotFoundError(`${clientId} publishes no track ${trackName}`);
    track.isWanted = true;
    track.attempts = 0;
    void this.#work();
  }

  /**
   * Make a new path to the SFU at once, as after a change of network that the application knows of.
   *
   * The media session is replaced behind the same membership: `reconnecting` and `reconnected` follow, others see a
   * pause. The room does so by itself when the connection fails, and when nothing arrives any more after a reconnect.
   */
  restartIce(): void {
    const entry = this.#entry;
    if (entry?.media) this.#lose(entry, new UnavailableError("the media session is replaced"), { staysIn: true });
  }

  /**
   * Leave the room. The promise rejects for a wrong argument only; a service that cannot be reached is told as soon as it
   * can be.
   */
  async leave(reason?: string): Promise<void> {
    check({ reason: maybe(shortText) }, { reason });
    if (this.#isClosed) return;
    this.#close("left");
    noteDeparture(this.#client, this.id, reason);
    await this.#depart();
  }

  #demandOpen(): void {
    if (this.#isClosed) throw new InvalidRequestError("the room is closed; join it again");
  }

  get #isClosed(): boolean {
    return this.#ending.signal.aborted;
  }

  // Joining

  /** Become a member, with a new media session. */
  async #enter(mayCreate: boolean): Promise<void> {
    this.#newest = 0;
    await settleDepartures(this.#client, SETTLE_TIME, this.#ending.signal); // else it would still be counted in
    this.#ending.signal.throwIfAborted();
    const { fresh } = this.#publications;
    // A client that joins again publishes its later tracks too, as if it had had them from the start.
    const isSender = this.#options.role !== "receiver" && fresh.length > 0;
    let media = isSender ? await this.#openSender() : null;
    try {
      const offer = media === null ? null : await media.offer(fresh);
      const ack = await this.#knock({ role: isSender ? "sender" : "receiver", ...offer }, mayCreate);
      const sessions = this.#sessions;
      if (ack.session_id === "") {
        media?.close();
        media = null;
      } else {
        media ??= this.#openMedia({ ice_servers: ack.ice_servers });
      }
      if (media !== null && offer !== null) await this.#finishOffer(media, fresh, offer.tracks, ack);
      this.#ending.signal.throwIfAborted();
      if (sessions !== this.#sessions) throw new UnavailableError("the connection was lost while joining");
      this.#welcome(ack, media);
    } catch (error) {
      media?.close();
      this.#publications.forgetSession();
      if (mayBeMember(error)) {
        noteDeparture(this.#client, this.id, undefined);
        await this.#depart();
      }
      throw error;
    }
  }

  /** Ask to be let in, and create the room when it is not there and that is wanted. */
  async #knock(
    entry: { role: string; offer_sdp?: string; tracks?: PublishedTrack[] },
    mayCreate: boolean,
  ): Promise<RoomAck> {
    const { maxParticipants } = this.#options;
    const fields = { ...entry, room_id: this.id, metadata: this.#own };
    const options = { signal: this.#ending.signal, timeout: MEDIA_TIMEOUT };
    const join = (creation = {}): Promise<RoomAck> =>
      this.#client.request("WEBRTC_ROOM_JOIN", { ...fields, ...creation }, options);
    try {
      return await join(mayCreate ? { create_if_missing: true, max_participants: maxParticipants } : {});
    } catch (error) {
      // A service that does not know `create_if_missing`: a room that was closed answers 400 there rather than 404.
      const isMissing = error instanceof NotFoundError || error instanceof InvalidRequestError;
      if (!mayCreate || !isMissing) throw error;
    }
    try {
      const creation = { ...fields, max_participants: maxParticipants };
      return await this.#client.request("WEBRTC_ROOM_CREATE", creation, options);
    } catch (error) {
      if (!(error instanceof ConflictError)) throw error;
    }
    return await join(); // another client has created it meanwhile
  }

  async #openSender(): Promise<MediaSession> {
    return this.#openMedia(await this.#client.request("ICE_SERVERS", {}, { signal: this.#ending.signal }));
  }

  #openMedia(iceServers: { ice_servers: IceServer[]; expires_at?: number | undefined }): MediaSession {
    const PeerConnection =
      this.#options.RTCPeerConnection ??
      (globalThis as { RTCPeerConnection?: PeerConnectionConstructor }).RTCPeerConnection;
    if (!PeerConnection) throw new InvalidRequestError("there is no RTCPeerConnection here: pass one as an option");
    const media: MediaSession = new MediaSession(this.#client, this.id, iceServers, PeerConnection, {
      isReceiving: () => this.#members.areHeard,
      onConnected: () => this.#calmDown(),
      onLost: (error) => this.#entry?.media === media && this.#loseMedia(this.#entry, error),
      onTrack: (result, mid, track) => this.#members.announce(result, mid, track),
    });
    return media;
  }

  /** Apply the answer that came with the welcome; what it leaves out is published later. */
  async #finishOffer(
    media: MediaSession,
    sent: Publication[],
    tracks: PublishedTrack[],
    ack: { answer_sdp?: string | undefined; tracks?: TrackResult[] | undefined },
  ): Promise<void> {
    if (ack.answer_sdp === undefined) return media.withdraw(sent);
    const results = tracks.map(({ mid }) => ack.tracks?.find((result) => result.mid === mid));
    const refused = sent.filter((_, index) => results[index]?.error_code !== undefined);
    await media.accept(ack.answer_sdp, refused);
    for (const [index, publication] of sent.entries()) this.#settle(publication, results[index]);
  }

  #welcome(ack: RoomAck, media: MediaSession | null): void {
    const offer = ack.offer_sdp === undefined ? null : { sdp: ack.offer_sdp, tracks: ack.tracks };
    const entry: Entry = { media, offer, stale: [] };
    this.#entry = entry;
    this.#hasMedia = media !== null;
    this.#showState(ack.participants, ack.sequence, ack.connection_info.metadata);
    if (this.#newest > this.#sequence) void this.#resync(entry);
  }

  /** Wait a little until the service knows of a departure, if it can be told at the moment. */
  async #depart(): Promise<void> {
    if (this.#client.isConnected) await settleDepartures(this.#client, LEAVE_TIME);
  }

  // Losing the room, joining it again, and its end

  /** Note that a media session is lost; `staysIn`: the service still counts this client in. */
  #lose(entry: Entry, error: Error, { staysIn } = { staysIn: false }): void {
    if (entry !== this.#entry) return;
    this.#entry = staysIn ? { media: null, offer: null, stale: [], isLost: true } : null;
    entry.media?.close();
    this.#members.forgetMids();
    this.#publications.forgetSession();
    if (!entry.isLost) this.emit("reconnecting", { error });
    void this.#work();
  }

  #loseMedia(entry: Entry, error: Error): void {
    if (entry !== this.#entry || entry.isLost) return;
    this.#fail(error);
    this.#lose(entry, error, { staysIn: true });
  }

  /** After a reconnect, which often comes of another network, or news of one, see whether the media's path is lost. */
  #checkPath(): void {
    void this.#entry?.media?.checkPath();
  }

  /** The client is connected again: still in the room, or in a new session that is in none. */
  #meetConnection(isResumed: boolean): void {
    this.#failures = 0;
    if (isResumed) this.#checkPath();
    else this.#loseSession();
    void this.#work();
  }

  #loseSession(): void {
    this.#sessions += 1;
    if (this.#entry !== null) this.#lose(this.#entry, new UnavailableError("the connection to the service was lost"));
  }

  async #reenter(): Promise<void> {
    const lost = this.#entry; // the membership, where that is still there
    if (lost === null || this.#failures > 1) await this.#pause(this.#failures);
    if (this.#isClosed || !this.#client.isConnected || lost !== this.#entry) return;
    try {
      if (lost !== null) await this.#replaceMedia(lost);
      else {
        // The service may still count this client in.
        noteDeparture(this.#client, this.id, "media lost");
        await this.#enter(true);
      }
    } catch (error) {
      if (this.#isClosed || !this.#client.isConnected) return;
      if (lost !== null) {
        if (lost === this.#entry) this.#entry = null; // leaving and joining again is what is left
        return this.#fail(error as Error);
      }
      const isRefused = error instanceof SignalManagerError && error.code < 500 && !error.retryable;
      if (isRefused && !LOST_CODES.has(error.code)) return this.#close("the room cannot be joined again", error);
      return this.#fail(error as Error);
    }
    this.emit("reconnected", { room: this });
  }

  /** Begin a new media session behind the same membership. */
  async #replaceMedia(lost: Entry): Promise<void> {
    const { fresh } = this.#publications;
    const media = await this.#openSender();
    try {
      const offer = fresh.length > 0 ? await media.offer(fresh) : null;
      const options = { signal: this.#ending.signal, timeout: MEDIA_TIMEOUT };
      const ack = await this.#client.request("RENEGOTIATE", { room_id: this.id, tracks: [], ...offer }, options);
      if (offer !== null) await this.#finishOffer(media, fresh, offer.tracks, ack);
      this.#ending.signal.throwIfAborted();
      if (lost !== this.#entry) throw new UnavailableError("the membership was lost meanwhile");
    } catch (error) {
      media.close();
      this.#publications.forgetSession();
      throw error;
    }
    this.#entry = { media, offer: null, stale: [] };
    if (this.#newest > this.#sequence) void this.#resync(this.#entry);
  }

  /** Count one more failure in a row, until it is one too many. */
  #fail(error: Error): void {
    this.#failures += 1;
    if (this.#failures >= this.#retry.attempts) this.#close("the room cannot be joined again", error);
  }

  /** Forget the failures once nothing is left to do and media flows: each alone may go wrong again and again. */
  #calmDown(): void {
    if (this.#entry === null || this.#entry.isLost || this.#isWorking || this.#nextJob() !== null) return;
    if (this.#entry.media === null || this.#entry.media.isConnected) this.#failures = 0;
  }

  /** Wait for a random time, the longer the more went wrong before; the end of the room ends it early. */
  #pause(failures: number): Promise<void> {
    const { baseDelay, maxDelay, random } = this.#retry;
    const ms = random() * Math.min(maxDelay, baseDelay * 2 ** failures);
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#resume = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #close(reason: string, error?: Error): void {
    if (this.#subscriptions.length === 0) return;
    for (const unsubscribe of this.#subscriptions.splice(0)) unsubscribe();
    const ended = error ?? new UnavailableError(`the room is closed: ${reason}`);
    this.#ending.abort(ended);
    this.#entry?.media?.close();
    this.#entry = null;
    this.#publications.removeAll(ended);
    this.#resume?.();
    this.emit("closed", { reason, error });
  }

  // The others: every change has a number, and none may be missing

  #hear(event: RoomEvent): void {
    if (event.room_id !== this.id) return;
    this.#newest = Math.max(this.#newest, event.sequence);
    const entry = this.#entry;
    // While joining or reading the whole state, that is newer; `#newest` tells whether it is new enough.
    if (entry === null || this.#isResyncing || event.sequence <= this.#sequence) return;
    if (event.sequence > this.#sequence + 1) return void this.#resync(entry);
    this.#sequence = event.sequence;
    if (event.event === "room_closed") this.#leaveWith(entry, event.reason ?? "the room was closed");
    else if (event.participant?.client_id === this.#client.clientId) this.#hearOfMyself(entry, event);
    else if (event.event === "metadata_changed" && event.participant === undefined) this.#takeMetadata(event.metadata);
    else this.#members.apply(event);
    void this.#work();
  }

  /** The service has ended the membership: for good, or because it restarts and has the room again afterwards. */
  #leaveWith(entry: Entry, reason: string): void {
    if (reason === RESTARTING) this.#lose(entry, new UnavailableError("the service restarts"));
    else this.#close(reason);
  }

  #hearOfMyself(entry: Entry, { event, reason, participant }: RoomEvent): void {
    if (event === "metadata_changed") this.#takeOwnMetadata(participant?.metadata);
    if (event === "participant_left") this.#leaveWith(entry, reason ?? "removed from the room");
    else if (event === "tracks_unpublished" && reason === SESSION_LOST) {
      this.#loseMedia(entry, new UnavailableError("the SFU has lost the media session"));
    }
  }

  /** Ask for the whole room, since an event is missing. */
  async #resync(entry: Entry): Promise<void> {
    this.#isResyncing = true;
    try {
      do {
        const state = await this.#client.request("ROOM_STATE", { room_id: this.id });
        if (entry !== this.#entry) return;
        this.#showState(state.participants, state.sequence, state.metadata);
      } while (this.#newest > this.#sequence);
    } catch (error) {
      if (entry === this.#entry) this.#fail(error as Error);
      this.#lose(entry, error as Error);
    } finally {
      this.#isResyncing = false;
    }
    void this.#work();
  }

  #showState(participants: Member[], sequence: number, metadata: JsonObject): void {
    this.#sequence = sequence;
    this.#takeMetadata(metadata);
    const self = participants.find(({ client_id }) => client_id === this.#client.clientId);
    if (self !== undefined) this.#takeOwnMetadata(self.metadata);
    this.#members.showState(participants);
  }

  #takeMetadata(metadata: JsonObject = {}): void {
    const before = this.#metadata;
    this.#metadata = metadata;
    if (before !== null && !isSame(before, metadata)) this.emit("room-changed", { metadata });
  }

  #takeOwnMetadata(metadata: JsonObject = {}): void {
    if (isSame(metadata, this.ownMetadata)) return;
    this.#own = metadata;
    this.emit("self-changed", { metadata });
  }

  // What this client publishes

  #settle(publication: Publication, result?: TrackResult): void {
    if (result?.error_code === undefined) this.#publications.settle(publication);
    else this.#publications.remove(publication, errorOf(result));
  }

  /** "Stop sharing", an unplugged device: a dead track is no use to anybody. */
  #hearOfEnd(publication: Publication): void {
    if (!publication.isWanted || !this.#publications.wanted.includes(publication)) return;
    publication.hasEnded = true;
    this.emit("publication-ended", { publication });
    void this.#retract([publication]);
  }

  async #retract(publications: Publication[]): Promise<void> {
    for (const publication of publications) publication.isWanted = false;
    void this.#work();
    await Promise.all(publications.map(({ gone }) => gone.promise));
  }

  // The loop: one negotiation at a time

  /** See to it that everything becomes as it is wanted; only one such loop runs. */
  async #work(): Promise<void> {
    if (this.#isWorking) return;
    this.#isWorking = true;
    try {
      for (let job = this.#nextJob(); job !== null; job = this.#nextJob()) await job();
    } catch (error) {
      this.#close("a fault of the SDK itself", error as Error);
    } finally {
      this.#isWorking = false;
    }
    this.#calmDown();
  }

  #nextJob(): (() => Promise<void>) | null {
    const entry = this.#entry;
    if (this.#isClosed) return null;
    if (entry === null || entry.isLost) return this.#client.isConnected ? () => this.#reenter() : null;
    const { media, offer } = entry;
    const { fresh, leaving, unsaid, abandoned } = this.#publications;
    if (abandoned.length > 0) return () => this.#forget(abandoned, undefined);
    if (media === null) return fresh.length > 0 ? () => this.#forget(fresh, new InvalidRequestError(NO_MEDIA)) : null;
    if (offer !== null) return () => this.#answerWelcome(entry, media, offer);
    if (leaving.length > 0) return () => this.#unpublish(entry, media, leaving);
    if (fresh.length > 0) return () => this.#publish(entry, media, fresh);
    if (unsaid.length > 0) return () => this.#tellMuted(entry, media, unsaid);
    if (entry.stale.length > 0) return () => this.#drop(entry, media);
    const wanted = this.#members.wanted.slice(0, MAX_ITEMS);
    return wanted.length > 0 ? () => this.#pull(entry, media, wanted) : null;
  }

  async #forget(publications: Publication[], error: Error | undefined): Promise<void> {
    for (const publication of publications) this.#publications.remove(publication, error);
  }

  async #answerWelcome(entry: Entry, media: MediaSession, offer: NonNullable<Entry["offer"]>): Promise<void> {
    entry.offer = null;
    await this.#attempt(entry, [], () => media.answer(offer.sdp, offer.tracks));
  }

  async #publish(entry: Entry, media: MediaSession, publications: Publication[]): Promise<void> {
    const results = await this.#attempt(entry, publications, () => media.publish(publications));
    if (results === undefined || entry !== this.#entry) return;
    for (const [index, publication] of publications.entries()) this.#settle(publication, results[index]);
  }

  async #unpublish(entry: Entry, media: MediaSession, publications: Publication[]): Promise<void> {
    try {
      await media.unpublish(publications, publications[0]?.hasEnded ? "ended" : undefined);
    } catch (error) {
      // Half closed is nothing to go on with; a new session does not have them.
      return this.#loseMedia(entry, error as Error);
    }
    for (const publication of publications) this.#publications.remove(publication);
  }

  async #tellMuted(entry: Entry, media: MediaSession, publications: Publication[]): Promise<void> {
    await this.#attempt(entry, [], () => media.mute(publications));
  }

  async #drop(entry: Entry, media: MediaSession): Promise<void> {
    const mids = entry.stale.splice(0, MAX_ITEMS);
    await this.#attempt(entry, [], () => media.drop(mids));
  }

  async #pull(entry: Entry, media: MediaSession, tracks: PulledTrack[]): Promise<void> {
    const results = await this.#attempt(entry, tracks, () => media.pull(tracks));
    if (results === undefined || entry !== this.#entry) return;
    let isEarly = false;
    for (const [index, track] of tracks.entries()) {
      if (track.mid !== null || track.isPaused || !this.#members.has(track)) continue;
      this.#countAttempt(track, errorOf(results[index] ?? {}));
      isEarly ||= track.isWanted;
    }
    if (isEarly) await this.#pause(1);
  }

  /** Run one negotiation: a lost session is replaced, and a refusal counts against the tracks that it is about. */
  async #attempt<Result>(
    entry: Entry,
    tracks: (Publication | PulledTrack)[],
    negotiate: () => Promise<Result>,
  ): Promise<Result | undefined> {
    try {
      return await negotiate();
    } catch (thrown) {
      const error = thrown as Error;
      if (entry !== this.#entry) return undefined; // lost or left meanwhile
      const isFromService = error instanceof SignalManagerError;
      const isLost = isFromService && LOST_CODES.has(error.code);
      // A lost session says nothing about the tracks; what the browser itself refuses, it may refuse again.
      if (!isLost) for (const track of tracks) this.#countAttempt(track, error);
      if (isLost || !isFromService) this.#loseMedia(entry, error);
      else if (error.retryable) await this.#pause(1);
      return undefined;
    }
  }

  /** Count one more try of a track, until it is one too many; a refusal that will stay is the last. */
  #countAttempt(track: Publication | PulledTrack, error: Error): void {
    if (!(track instanceof Publication) && track.isPaused) return; // its publisher's media session was replaced
    const isLast = error instanceof SignalManagerError && !error.retryable;
    track.attempts += isLast ? MAX_ATTEMPTS : 1;
    if (track.attempts < MAX_ATTEMPTS) return;
    if (track instanceof Publication) return this.#publications.remove(track, error);
    track.isWanted = false;
    if (this.#members.has(track)) this.emit("error", { error, clientId: track.clientId, name: track.name });
  }
}

/** Tell whether the service may count a client in that met this error while joining. A refusal is clear. */
function mayBeMember(error: unknown): boolean {
  const isRefusal = error instanceof SignalManagerError && !(error instanceof MalformedMessageError);
  return !isRefusal || error instanceof TooLateError || error instanceof UnavailableError;
}

function errorOf(result: TrackResult): SignalManagerError {
  const { error_message, error_code, mid } = result;
  const code = error_code ?? (mid ? 503 : 502); // what came from a media session that has been replaced comes again
  return errorFromWire(error_message ?? "the SFU took no notice of the track", { code });
}
