/**
 * A room as a member sees it: the other members and their tracks, and the tracks that this client publishes.
 *
 * The application decides what to publish (`publications.ts`), and the service reports the members (`members.ts`). One
 * loop brings the media session (`media.ts`) in line with both, one negotiation at a time, and starts a new session when
 * one is lost. Joining, losses and the loop are in one module because they share the present membership.
 */

import { aFunction, aSignal, aStream, check, numberUpTo, shortText } from "./arguments.js";
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
import type { RoomClient } from "./ports.js";
import { Publication, Publications } from "./publications.js";
import { completeRetry, type RetryOptions } from "./retry.js";
import { flag, maybe, name, object, oneOf, type RulesOf } from "./fields.js";

/** How to join a room. */
export interface JoinOptions {
  /** A stream to publish while joining, which saves a round trip; `publish` does the same later. */
  stream?: MediaStream | undefined;
  /** Default: "sender" with a `stream`, else "receiver". Both may publish and pull if the token allows it. */
  role?: "sender" | "receiver" | undefined;
  /** This member's metadata, which the others see. */
  metadata?: JsonObject | undefined;
  /** Whether to create the room if it does not exist. */
  create?: boolean | undefined;
  /** The capacity of a room that is created. */
  maxParticipants?: number | undefined;
  /** Whether to pull every track of the others; default true. With false, the application calls `Room.pull`. */
  autoPull?: boolean | undefined;
  /** When and how often in a row to join again after a loss of media; default: for about a minute. */
  retry?: RetryOptions | undefined;
  /** Aborts joining. */
  signal?: AbortSignal | undefined;
  /** In place of the global `RTCPeerConnection`. */
  RTCPeerConnection?: PeerConnectionConstructor | undefined;
}

/** The events of a room, by name. Members that were there before are in `participants`, without an event. */
export interface RoomEvents extends MemberEvents {
  /** The room's metadata changed. */
  "room-changed": { metadata: JsonObject };
  /** This client's metadata changed, by `setMetadata` or by an operator. */
  "self-changed": { metadata: JsonObject };
  /** A track of this client has ended, by "stop sharing" or with its device, and is unpublished. */
  "publication-ended": { publication: Publication };
  /** Media stopped; the client joins the room again by itself. */
  reconnecting: { error: Error };
  reconnected: { room: Room };
  /** A track of another member could not be pulled, and is not tried again. */
  error: { error: Error; clientId: string; name: string };
  /** The membership has ended; the last event. Without `error` the client left, or the service removed it. */
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

// In ms: how long leaving waits for its answer, and how long joining waits until earlier departures are known.
const LEAVE_TIME = 5000;
const SETTLE_TIME = 10_000;

// The most attempts for one track.
const MAX_ATTEMPTS = 3;

// The most media sessions in a row that fail or are lost before the room is given up: about a minute with the delays
// below.
const MAX_FAILURES = 10;

// The longest delay between two media sessions, in ms; the real ones are random below it.
const MAX_DELAY = 30_000;

// Codes that mean that the media session is lost or was never ready, so that only a new one helps.
const LOST_CODES: ReadonlySet<number> = new Set([408, 409, 410, 425, 503]);

// The reason of a tracks_unpublished event that no member asked for (docs/protocol.md, "Rooms").
const SESSION_LOST = "media session lost";

// The reason of an end after which the client joins again (docs/protocol.md, "Rooms").
const RESTARTING = "restarting";

const NO_MEDIA = "the service has no media backend; call the other directly, with signal-manager/direct";

// The largest capacity of a room.
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

// The rooms that each client is in or joins; closed ones are removed when it joins again.
const rooms = new WeakMap<RoomClient, Room[]>();

/** One membership, from joining until its media session or its connection is lost. */
interface Entry {
  media: MediaSession | null; // null: the service has no media backend
  /** The offer in the reply to the join, until it is answered. */
  offer: { sdp: string; tracks: TrackResult[] } | null;
  stale: string[]; // mids that are still received but no longer wanted
  isLost?: boolean; // whether the media session is lost, but not the membership
}

/**
 * A room that this client is in; made by `SignalClient.join`.
 *
 *     const room = await client.join("demo", { create: true });
 *     room.on("track", ({ participant, track }) => …);
 *     await room.publish(await navigator.mediaDevices.getUserMedia({ audio: true, video: true }));
 *
 * The room pulls tracks of others as soon as they are announced. When the session with the service or the media is lost,
 * it joins again with a new media session, and publishes and pulls the same tracks again, until `closed`. Listeners that
 * are added in the same turn as `join` resolves miss no event.
 */
export class Room extends Emitter<RoomEvents> {
  readonly id: string;
  readonly #client: RoomClient;
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
  #own: JsonObject | undefined; // this client's metadata
  #isWorking = false;
  #isResyncing = false;
  #sequence = 0; // number of the last change that `participants` shows
  #newest = 0; // the highest number received
  #sessions = 0; // sessions that the client has lost since this object was created
  #failures = 0; // failed media sessions in a row
  #resume: (() => void) | undefined; // ends a pause early

  private constructor(client: RoomClient, roomId: string, options: JoinOptions) {
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

  /** Join a room; applications call `SignalClient.join`. */
  static async join(client: RoomClient, roomId: string, options: JoinOptions = {}): Promise<Room> {
    check({ roomId: name }, { roomId });
    options = check(JOIN, options, "options");
    const { stream, signal } = options;
    if (options.role === "sender" && stream === undefined) {
      throw new InvalidRequestError("expected a `stream` with the role sender");
    }
    signal?.throwIfAborted();
    // The service would refuse a second join too, but aborting that one would end the present membership.
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

  /** This client's metadata, which the others see. */
  get ownMetadata(): JsonObject {
    return this.#own ?? {};
  }

  /** Whether the client is in the room, is joining it again, or has left for good. */
  get state(): "joined" | "reconnecting" | "closed" {
    if (this.#isClosed) return "closed";
    return this.#entry === null || this.#entry.isLost ? "reconnecting" : "joined";
  }

  /** Whether the room has an SFU, as far as is known; without one only signals can be sent. */
  get hasMedia(): boolean {
    return this.#hasMedia;
  }

  /**
   * The peer connection to the SFU, to read figures from; undefined without media. A later media session has another one.
   */
  get peerConnection(): RTCPeerConnection | undefined {
    return this.#entry?.media?.peer;
  }

  /**
   * Send the tracks of a camera, a screen or any other stream to the others, until `unpublish` or `leave`.
   *
   * Resolves when the SFU has taken all of them; when it refuses one, none is published and this rejects.
   *
   * @param options.name the prefix of the tracks' names, such as "screen" in "screen-video".
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

  /** The publications of this client, open or pending; each can be muted, and its track replaced. */
  get publications(): Publication[] {
    return this.#publications.wanted;
  }

  /** Stop sending a stream or a publication; resolves when the SFU has closed it. Tracks themselves are not stopped. */
  async unpublish(what: MediaStream | Publication): Promise<void> {
    await this.#retract(this.#publications.of(what));
  }

  /** Mute camera and microphone, or one of them: the publications without a name, so not the screen. */
  mute(kind?: TrackKind): void {
    this.#publications.mute(kind, true);
  }

  /** Unmute camera and microphone, or one of them. */
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
    // If the sequence is newer, the event has arrived already, perhaps with one of a later change.
    if (scope !== "room" && sequence > this.#sequence) this.#takeOwnMetadata(metadata);
  }

  /**
   * Pull a track, with `autoPull: false` or after it failed. A `track` event follows.
   *
   * @throws NotFoundError the client publishes no such track.
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
   * Replace the media session at once, for an application that knows of a new network.
   *
   * The membership stays: `reconnecting` and `reconnected` follow, and the others see a pause. The room does the same by
   * itself when the connection fails, or when no packets arrive after a reconnect.
   */
  restartIce(): void {
    const entry = this.#entry;
    if (entry?.media) this.#lose(entry, new UnavailableError("the media session is replaced"), { staysIn: true });
  }

  /**
   * Leave the room. The promise rejects for a wrong argument only. If the service cannot be reached, it is told later.
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

  /** Join, with a new media session. */
  async #enter(mayCreate: boolean): Promise<void> {
    this.#newest = 0;
    await settleDepartures(this.#client, SETTLE_TIME, this.#ending.signal); // else the service might still count it as a member
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

  /** Send the request to join; create the room if it is missing and `create` is set. */
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
      // A service without `create_if_missing` answers 400 for a closed room rather than 404.
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
    if (!PeerConnection)
      throw new InvalidRequestError("there is no global RTCPeerConnection: pass the option RTCPeerConnection");
    const media: MediaSession = new MediaSession(this.#client, this.id, iceServers, PeerConnection, {
      isReceiving: () => this.#members.areHeard,
      onConnected: () => this.#calmDown(),
      onLost: (error) => this.#entry?.media === media && this.#loseMedia(this.#entry, error),
      onTrack: (result, mid, track) => this.#members.announce(result, mid, track),
    });
    return media;
  }

  /** Apply the answer in the reply to the join; tracks that it leaves out are published later. */
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

  /** Wait up to a limit until the service knows of a departure, if there is a connection. */
  async #depart(): Promise<void> {
    if (this.#client.isConnected) await settleDepartures(this.#client, LEAVE_TIME);
  }

  // Losing the room, joining it again, and its end

  /** Note that a media session is lost; with `staysIn` the membership remains. */
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

  /** Check the media's path after a reconnect or a change of network. */
  #checkPath(): void {
    void this.#entry?.media?.checkPath();
  }

  /** Handle a reconnect: a resumed session is still in the room, a new one is in none. */
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
    const lost = this.#entry; // the membership, if it remains
    if (lost === null || this.#failures > 1) await this.#pause(this.#failures);
    if (this.#isClosed || !this.#client.isConnected || lost !== this.#entry) return;
    try {
      if (lost !== null) await this.#replaceMedia(lost);
      else {
        // The service may still count this client as a member.
        noteDeparture(this.#client, this.id, "media lost");
        await this.#enter(true);
      }
    } catch (error) {
      if (this.#isClosed || !this.#client.isConnected) return;
      if (lost !== null) {
        if (lost === this.#entry) this.#entry = null; // the remaining way is to leave and join again
        return this.#fail(error as Error);
      }
      const isRefused = error instanceof SignalManagerError && error.code < 500 && !error.retryable;
      if (isRefused && !LOST_CODES.has(error.code)) return this.#close("the room cannot be joined again", error);
      return this.#fail(error as Error);
    }
    this.emit("reconnected", { room: this });
  }

  /** Start a new media session for the same membership. */
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

  /** Count a failure; end the room after too many in a row. */
  #fail(error: Error): void {
    this.#failures += 1;
    if (this.#failures >= this.#retry.attempts) this.#close("the room cannot be joined again", error);
  }

  /** Reset the count of failures once media flows and no work is left; work alone could fail again and again. */
  #calmDown(): void {
    if (this.#entry === null || this.#entry.isLost || this.#isWorking || this.#nextJob() !== null) return;
    if (this.#entry.media === null || this.#entry.media.isConnected) this.#failures = 0;
  }

  /** Wait for a random time that grows with the failures; the end of the room ends it early. */
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
    // A state that is being read replaces this event; `#newest` tells whether the state is new enough.
    if (entry === null || this.#isResyncing || event.sequence <= this.#sequence) return;
    if (event.sequence > this.#sequence + 1) return void this.#resync(entry);
    this.#sequence = event.sequence;
    if (event.event === "room_closed") this.#leaveWith(entry, event.reason ?? "the room was closed");
    else if (event.participant?.client_id === this.#client.clientId) this.#hearOfMyself(entry, event);
    else if (event.event === "metadata_changed" && event.participant === undefined) this.#takeMetadata(event.metadata);
    else this.#members.apply(event);
    void this.#work();
  }

  /** Handle a membership that the service has ended: for good, or because it restarts. */
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

  /** Read the whole state of the room, because an event is missing. */
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

  /** Unpublish a track that ended by itself: by "stop sharing", or with its device. */
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

  /** Run the loop until publications and pulled tracks are as wanted; only one runs at a time. */
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
      // A session with half-closed tracks is unusable; a new one does not have them.
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

  /** Run one negotiation; replace a lost session, and count a refusal against its tracks. */
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
      // A lost session says nothing about the tracks, but the browser may refuse the same tracks again.
      if (!isLost) for (const track of tracks) this.#countAttempt(track, error);
      if (isLost || !isFromService) this.#loseMedia(entry, error);
      else if (error.retryable) await this.#pause(1);
      return undefined;
    }
  }

  /** Count a failed attempt of a track; give up after too many, or at once after a final refusal. */
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

/** Tell whether a client may be a member although its join failed with this error; a refusal means that it is not. */
function mayBeMember(error: unknown): boolean {
  const isRefusal = error instanceof SignalManagerError && !(error instanceof MalformedMessageError);
  return !isRefusal || error instanceof TooLateError || error instanceof UnavailableError;
}

function errorOf(result: TrackResult): SignalManagerError {
  const { error_message, error_code, mid } = result;
  const code = error_code ?? (mid ? 503 : 502); // a track of a media session that was replaced is announced again
  return errorFromWire(error_message ?? "the SFU took no notice of the track", { code });
}
