/**
 * The members of a room and their tracks, as states and events of the service describe them.
 *
 * `room.ts` orders states and events and pulls the tracks. This module applies them and tells the application.
 */

import {
  isSame,
  type JsonObject,
  type Member,
  type PublishedTrack,
  type RoomEvent,
  type TrackKind,
  type TrackResult,
} from "./messages.js";
import type { TrackRef } from "./media.js";

/** A track that another member publishes. */
export interface RemoteTrack {
  readonly name: string;
  readonly kind: TrackKind | undefined;
  /** Whether its publisher has muted it. */
  readonly muted: boolean;
  /** The receiving end; null until it is pulled. */
  readonly track: MediaStreamTrack | null;
}

/** Another member of the room. */
export interface Participant {
  readonly clientId: string;
  readonly role: string;
  /** Whether the member is silent or has lost its connection, and is expected back. */
  readonly away: boolean;
  readonly metadata: JsonObject;
  /** The tracks that it publishes, by name. */
  readonly tracks: ReadonlyMap<string, RemoteTrack>;
}

/** A track of a member that can be shown, or can no longer be shown. */
export interface TrackEvent {
  participant: Participant;
  name: string;
  kind: TrackKind;
  track: MediaStreamTrack;
}

/** The events of a room's members, by name. */
export interface MemberEvents {
  "participant-joined": { participant: Participant };
  "participant-left": { participant: Participant; reason?: string | undefined };
  /** The service has lost contact with the member: `participant-back` or `participant-left` follows. */
  "participant-away": { participant: Participant };
  "participant-back": { participant: Participant };
  /** Its metadata changed. */
  "participant-changed": { participant: Participant };
  /** A track can be shown. After a reconnect the event is repeated, just after `track-removed` for the old track. */
  track: TrackEvent;
  /** A track can no longer be shown; the reason, if there is one, is the service's, such as "ended". */
  "track-removed": TrackEvent & { reason?: string | undefined };
  "track-muted": { participant: Participant; name: string };
  "track-unmuted": { participant: Participant; name: string };
}

/** A track of another member, and the progress of pulling it. */
export class PulledTrack implements RemoteTrack, TrackRef {
  readonly clientId: string;
  readonly name: string;
  readonly kind: TrackKind | undefined;
  track: MediaStreamTrack | null = null;
  muted: boolean;
  isWanted: boolean;
  mid: string | null = null; // in the present media session
  attempts = 0; // failed attempts to pull it in a row
  isPaused = false; // whether its publisher has a new media session and does not send there yet

  constructor(clientId: string, published: PublishedTrack, isWanted: boolean) {
    this.clientId = clientId;
    this.name = published.track_name;
    const { kind } = published;
    this.kind = kind === "audio" || kind === "video" ? kind : undefined; // a newer service may announce others
    this.muted = published.muted ?? false;
    this.isWanted = isWanted;
  }
}

class RoomMember implements Participant {
  readonly clientId: string;
  role = "";
  away = false;
  metadata: JsonObject = {};
  sessionId: string | undefined;
  readonly tracks = new Map<string, PulledTrack>();

  constructor(clientId: string) {
    this.clientId = clientId;
  }

  update(state: Member): void {
    this.role = state.role;
    this.away = state.away ?? false;
    this.sessionId = state.session_id;
    if (state.metadata !== undefined) this.metadata = state.metadata;
  }
}

/** The callbacks of the members. */
export interface MembersListener {
  emit<Name extends keyof MemberEvents>(event: Name, value: MemberEvents[Name]): void;
  /** The track with this mid is no longer wanted. */
  onStale(mid: string): void;
}

/** The other members of one room. */
export class Members {
  readonly all = new Map<string, RoomMember>();
  readonly #ownId: string;
  readonly #autoPull: boolean;
  readonly #listener: MembersListener;

  constructor(ownId: string, autoPull: boolean, listener: MembersListener) {
    this.#ownId = ownId;
    this.#autoPull = autoPull;
    this.#listener = listener;
  }

  /** The tracks that are to be pulled and are not. */
  get wanted(): PulledTrack[] {
    return this.#tracks().filter((track) => track.isWanted && track.mid === null && !track.isPaused);
  }

  /** Whether a track is received from a member that is not away. */
  get areHeard(): boolean {
    return this.#tracks().some(({ clientId, mid }) => mid !== null && !this.all.get(clientId)?.away);
  }

  /** Tell whether a track is still published. */
  has(track: PulledTrack): boolean {
    return this.all.get(track.clientId)?.tracks.get(track.name) === track;
  }

  /** Apply a state of the room, and emit the events that lead to it from the former state. */
  showState(members: Member[]): void {
    const others = members.filter(({ client_id }) => client_id !== this.#ownId);
    const present = new Set(others.map(({ client_id }) => client_id));
    for (const clientId of [...this.all.keys()]) if (!present.has(clientId)) this.#remove(clientId);
    for (const state of others) {
      const member = this.all.get(state.client_id) ?? this.#add(state);
      const wasAway = member.away;
      const before = member.metadata;
      const isSameSession = member.sessionId === state.session_id;
      const published = state.tracks ?? [];
      for (const each of published) if (member.tracks.get(each.track_name)?.isPaused) this.#addTrack(member, each);
      const names = new Set(published.map(({ track_name }) => track_name));
      for (const name of [...member.tracks.keys()]) {
        if (!isSameSession || !names.has(name)) this.#removeTrack(member, name);
      }
      member.update(state);
      if (member.away !== wasAway) this.#tellAbsence(member);
      if (!isSame(member.metadata, before)) this.#listener.emit("participant-changed", { participant: member });
      for (const track of published) {
        if (member.tracks.has(track.track_name)) this.#setMuted(member, track);
        else this.#addTrack(member, track);
      }
    }
  }

  /** Apply one event about another member. */
  apply({ event, participant: state, tracks, reason }: RoomEvent): void {
    if (state === undefined || state.client_id === this.#ownId) return;
    if (event === "participant_left") return this.#remove(state.client_id, reason);
    const brings = event === "participant_joined" || event === "tracks_published";
    const member = this.all.get(state.client_id) ?? (brings && this.#add(state));
    if (!member) return; // an unknown event of a newer service
    member.update(state);
    if (event === "metadata_changed") this.#listener.emit("participant-changed", { participant: member });
    else if (event === "participant_away" || event === "participant_back") this.#tellAbsence(member);
    else if (event === "tracks_muted" || event === "tracks_unmuted")
      for (const each of tracks ?? []) this.#setMuted(member, each);
    else if (event === "media_replaced") this.#pause(member, tracks ?? []);
    else if (event === "tracks_unpublished")
      for (const each of tracks ?? []) this.#removeTrack(member, each.track_name, reason);
    else if (brings) for (const each of tracks ?? state.tracks ?? []) this.#addTrack(member, each);
  }

  /** Note that a pulled track has arrived; one that is no longer wanted is stale. */
  announce(result: TrackResult, mid: string, track: MediaStreamTrack): void {
    const { client_id: clientId = "", track_name: name = "", session_id: sessionId } = result;
    const participant = this.all.get(clientId);
    const pulled = participant?.tracks.get(name);
    // If the publisher's media session was replaced during the pull, the pulled track has ended.
    const isFormer = sessionId !== undefined && sessionId !== participant?.sessionId;
    if (!participant || !pulled?.isWanted || pulled.mid !== null || isFormer) return this.#listener.onStale(mid);
    // The track of the former media session was kept until now, so that the application can show it.
    this.#retire(participant, pulled);
    pulled.mid = mid;
    pulled.track = track;
    pulled.attempts = 0;
    this.#listener.emit("track", { participant, name, kind: track.kind as TrackKind, track });
  }

  /** Note that the media session is lost, so that all wanted tracks must be pulled again. */
  forgetMids(): void {
    for (const track of this.#tracks()) track.mid = null;
  }

  #tracks(): PulledTrack[] {
    return [...this.all.values()].flatMap((member) => [...member.tracks.values()]);
  }

  #tellAbsence(participant: RoomMember): void {
    this.#listener.emit(participant.away ? "participant-away" : "participant-back", { participant });
  }

  #add(state: Member): RoomMember {
    const member = new RoomMember(state.client_id);
    member.update(state);
    this.all.set(member.clientId, member);
    this.#listener.emit("participant-joined", { participant: member });
    return member;
  }

  #remove(clientId: string, reason?: string): void {
    const member = this.all.get(clientId);
    if (member === undefined) return;
    for (const name of [...member.tracks.keys()]) this.#removeTrack(member, name);
    this.all.delete(clientId);
    this.#listener.emit("participant-left", { participant: member, reason });
  }

  /** Keep showing these tracks until they arrive from a new media session; the other tracks have ended. */
  #pause(member: RoomMember, coming: PublishedTrack[]): void {
    const names = new Set(coming.map(({ track_name }) => track_name));
    for (const [name, pulled] of [...member.tracks]) {
      if (!names.has(name)) this.#removeTrack(member, name);
      else {
        this.#forgetMid(pulled);
        pulled.isPaused = true;
      }
    }
  }

  #forgetMid(pulled: PulledTrack): void {
    if (pulled.mid !== null) this.#listener.onStale(pulled.mid);
    pulled.mid = null;
  }

  #addTrack(member: RoomMember, published: PublishedTrack): void {
    const paused = member.tracks.get(published.track_name);
    if (paused?.isPaused) {
      this.#forgetMid(paused); // a pull in progress has brought a track that has ended since
      paused.isPaused = false;
      paused.attempts = 0;
      this.#setMuted(member, published);
      return;
    }
    this.#removeTrack(member, published.track_name);
    member.tracks.set(published.track_name, new PulledTrack(member.clientId, published, this.#autoPull));
  }

  #setMuted(participant: RoomMember, { track_name: name, muted = false }: PublishedTrack): void {
    const track = participant.tracks.get(name);
    if (track === undefined || track.muted === muted) return;
    track.muted = muted;
    this.#listener.emit(muted ? "track-muted" : "track-unmuted", { participant, name });
  }

  #removeTrack(member: RoomMember, name: string, reason?: string): void {
    const pulled = member.tracks.get(name);
    if (pulled === undefined) return;
    member.tracks.delete(name);
    if (pulled.mid !== null) this.#listener.onStale(pulled.mid);
    this.#retire(member, pulled, reason);
  }

  #retire(participant: RoomMember, { name, track }: PulledTrack, reason?: string): void {
    if (track === null) return;
    this.#listener.emit("track-removed", { participant, name, kind: track.kind as TrackKind, track, reason });
  }
}
