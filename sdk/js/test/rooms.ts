/**
 * The rooms of a service and the SFU behind it, for tests: as docs/protocol.md has them, and with faults on demand.
 *
 * It keeps the SFU's rule that negotiations of one session must not overlap, and counts who breaks it.
 */

import { MAX_ITEMS } from "../src/fields.js";
import { makeId } from "../src/ids.js";
import type { Fields, Member, MessageType, PublishedTrack, RoomEvent, TrackResult } from "../src/messages.js";
import type { Section } from "./peer.js";
import { Inbox, type Received, type ServiceConnection, type TestService } from "./service.js";

/** What a fault does in place of the answer; undefined is nothing at all. */
export type Fault = (connection: ServiceConnection, request: Received) => void;

interface FakeMember {
  connection: ServiceConnection;
  role: string;
  sessionId: string;
  metadata: Record<string, unknown>;
  tracks: PublishedTrack[];
  sections: Section[];
  isOffering: boolean;
}

interface FakeRoom {
  sequence: number;
  members: Map<string, FakeMember>;
}

/** Refuse with a code. */
export function refuse(code: number, message = "on demand"): Fault {
  return (connection, request) => connection.refuse(request, code, message);
}

export class FakeRooms {
  readonly rooms = new Map<string, FakeRoom>();
  /** Requests in the order in which they came. */
  readonly log: [client: string, type: MessageType][] = [];
  readonly requests = new Inbox<Received & { client: string }>();
  /** Negotiations that came while another one of the same session was not finished. */
  overlaps = 0;
  /** Whether there is an SFU. */
  hasMedia = true;
  /** Whether it knows `create_if_missing`; an older one does not. */
  createsIfMissing = true;
  /** What each pull of a track with this name is refused with, for as long as it is here. */
  readonly badTracks = new Map<string, number>();
  readonly #faults = new Map<MessageType, Fault[]>();

  constructor(service: TestService) {
    service.onMessage = (connection, request) => this.#serve(connection, request);
    service.onClose = (connection) => {
      for (const id of [...this.rooms.keys()]) this.#leave(id, connection, "connection lost");
    };
  }

  /** Let the next request of a type go wrong. */
  fail(type: MessageType, fault: Fault): void {
    this.#faults.set(type, [...(this.#faults.get(type) ?? []), fault]);
  }

  /** Keep members whose connection is lost, and let them come back as they were. */
  resumeSessions(service: TestService): void {
    service.onClose = () => undefined;
    service.door = (connection, request) => {
      const resume = request.fields["resume"] as Fields["CONNECT"]["resume"];
      const session = { status: "success", session_id: resume?.session_id ?? makeId(), resume_token: "r" };
      for (const { members } of this.rooms.values()) {
        const member = members.get(connection.clientId);
        if (member !== undefined) member.connection = connection;
      }
      // What was in flight when connections are dropped here has arrived.
      const received = this.log.filter(([client]) => client === connection.clientId).length;
      connection.send("CONNECT_ACK", { ...session, ...(resume && { resumed: true, received }) }, request.id);
    };
  }

  count(type: MessageType): number {
    return this.log.filter(([, each]) => each === type).length;
  }

  member(roomId: string, clientId: string): FakeMember {
    return this.rooms.get(roomId)!.members.get(clientId)!;
  }

  /** Change a room and tell its members, or keep the news from them. */
  announce(roomId: string, change: Omit<RoomEvent, "room_id" | "sequence">, isHeard = true): void {
    const room = this.rooms.get(roomId)!;
    room.sequence += 1;
    if (!isHeard) return;
    const event = { room_id: roomId, sequence: room.sequence, ...change };
    for (const { connection } of room.members.values()) connection.send("ROOM_EVENT", event);
  }

  describe(roomId: string, clientId: string): Member {
    const { role, sessionId, metadata, tracks } = this.member(roomId, clientId);
    return { client_id: clientId, role, session_id: sessionId, metadata, tracks };
  }

  #serve(connection: ServiceConnection, request: Received): void {
    this.log.push([connection.clientId, request.type]);
    this.requests.put({ ...request, client: connection.clientId });
    const fault = this.#faults.get(request.type)?.shift();
    if (fault !== undefined) return fault(connection, request);
    const { tracks } = request.fields;
    if (Array.isArray(tracks) && tracks.length > MAX_ITEMS) return connection.refuse(request, 400, "too many tracks");
    const roomId = request.fields["room_id"] as string;
    switch (request.type) {
      case "ICE_SERVERS":
        return connection.send("ICE_SERVERS_ACK", { ice_servers: [{ urls: ["stun:s.example"] }] }, request.id);
      case "WEBRTC_ROOM_CREATE":
        if (this.rooms.has(roomId)) return connection.refuse(request, 409, "there is such a room");
        this.rooms.set(roomId, { sequence: 0, members: new Map() });
        return this.#join(connection, request, "WEBRTC_ROOM_CREATE_ACK");
      case "WEBRTC_ROOM_JOIN": {
        const created =
          !this.rooms.has(roomId) && this.createsIfMissing && request.fields["create_if_missing"] === true;
        if (created) this.rooms.set(roomId, { sequence: 0, members: new Map() });
        return this.#join(connection, request, "WEBRTC_ROOM_JOIN_ACK", created ? { created } : {});
      }
      case "WEBRTC_ROOM_LEAVE": {
        if (!this.#leave(roomId, connection, request.fields["reason"] as string)) {
          return connection.refuse(request, 404, "not in this room");
        }
        const ack = { version: "1.0.0", status: 200, message: "", room_id: roomId, client_id: connection.clientId };
        return connection.send("WEBRTC_ROOM_LEAVE_ACK", ack, request.id);
      }
      case "ROOM_STATE":
        return connection.send("ROOM_STATE_ACK", this.#state(roomId), request.id);
      case "TRACKS_MUTE": {
        const { tracks } = request.fields as never as Fields["TRACKS_MUTE"];
        const member = this.member(roomId, connection.clientId);
        for (const { mid, muted } of tracks) {
          member.tracks = member.tracks.map((track) => (track.mid === mid ? { ...track, muted } : track));
          const changed = member.tracks.filter((track) => track.mid === mid);
          const event = muted ? "tracks_muted" : "tracks_unmuted";
          this.announce(roomId, { event, participant: this.describe(roomId, connection.clientId), tracks: changed });
        }
        return connection.send("TRACKS_MUTE_ACK", { tracks: tracks.map(({ mid }) => ({ mid })) }, request.id);
      }
      case "METADATA_UPDATE": {
        const metadata = request.fields["metadata"] as Record<string, unknown>;
        connection.send("METADATA_UPDATE_ACK", { sequence: this.rooms.get(roomId)!.sequence + 1 }, request.id);
        if (request.fields["scope"] === "room") return this.announce(roomId, { event: "metadata_changed", metadata });
        this.member(roomId, connection.clientId).metadata = metadata;
        const participant = this.describe(roomId, connection.clientId);
        return this.announce(roomId, { event: "metadata_changed", participant });
      }
      case "TRACKS_NEW":
        if (this.#isBusy(connection, request, roomId)) return;
        return request.fields["offer_sdp"] === undefined
          ? this.#pull(connection, request, roomId)
          : this.#publish(connection, request, roomId);
      case "RENEGOTIATE":
        return this.#renegotiate(connection, request, roomId);
      case "TRACKS_CLOSE":
        if (this.#isBusy(connection, request, roomId)) return;
        return this.#closeTracks(connection, request, roomId);
      default:
        return undefined;
    }
  }

  #state(roomId: string): Fields["ROOM_STATE_ACK"] {
    const { sequence, members } = this.rooms.get(roomId)!;
    const participants = [...members.keys()].map((clientId) => this.describe(roomId, clientId));
    return { room_id: roomId, sequence, participants, metadata: {}, max_participants: 0 };
  }

  #join(
    connection: ServiceConnection,
    request: Received,
    ackType: "WEBRTC_ROOM_JOIN_ACK" | "WEBRTC_ROOM_CREATE_ACK",
    extra: { created?: boolean } = {},
  ): void {
    const {
      room_id: roomId,
      role,
      offer_sdp,
      tracks,
      metadata,
    } = request.fields as never as Fields["WEBRTC_ROOM_JOIN"];
    const room = this.rooms.get(roomId);
    if (room === undefined) return connection.refuse(request, 404, "no such room");
    if (room.members.has(connection.clientId)) return connection.refuse(request, 409, "already in the room");
    const sessionId = this.hasMedia ? makeId() : "";
    const member: FakeMember = {
      connection,
      role,
      sessionId,
      metadata: metadata ?? {},
      tracks: tracks ?? [],
      sections: [],
      isOffering: false,
    };
    const others = [...room.members].flatMap(([client_id, other]) =>
      other.tracks.map(({ track_name, kind }) => ({ client_id, track_name, kind: kind! })),
    );
    room.members.set(connection.clientId, member);
    let results: TrackResult[] = (tracks ?? []).map((track) => ({ ...track }));
    let negotiation = {};
    if (this.hasMedia && offer_sdp !== undefined) {
      member.sections = JSON.parse(offer_sdp);
      negotiation = { answer_sdp: answerTo(member.sections) };
    } else if (this.hasMedia && others.length > 0) {
      results = others.map((track) => this.#addSection(member, track));
      negotiation = this.#offer(member);
    }
    this.announce(roomId, { event: "participant_joined", participant: this.describe(roomId, connection.clientId) });
    const { participants, sequence } = this.#state(roomId);
    const info = { room_id: roomId, role, app_id: "", session_id: sessionId, status: "active", metadata: {} };
    connection.send(
      ackType,
      {
        version: "1.0.0",
        status: 200,
        message: "",
        room_id: roomId,
        session_id: sessionId,
        app_id: "",
        stun_url: "",
        ice_servers: [{ urls: ["stun:s.example"] }],
        connection_info: info,
        ...negotiation,
        participants,
        tracks: results,
        sequence,
        ...extra,
      },
      request.id,
    );
  }

  #leave(roomId: string, connection: ServiceConnection, reason: string | undefined): boolean {
    const room = this.rooms.get(roomId);
    if (room?.members.get(connection.clientId)?.connection !== connection) return false;
    const participant = this.describe(roomId, connection.clientId);
    room.members.delete(connection.clientId);
    this.announce(roomId, { event: "participant_left", participant, reason });
    if (room.members.size === 0) this.rooms.delete(roomId);
    return true;
  }

  #isBusy(connection: ServiceConnection, request: Received, roomId: string): boolean {
    const member = this.rooms.get(roomId)?.members.get(connection.clientId);
    if (member === undefined) connection.refuse(request, 404, "not in this room");
    else if (member.isOffering) {
      this.overlaps += 1;
      connection.refuse(request, 500, "negotiations overlap");
    } else return false;
    return true;
  }

  #publish(connection: ServiceConnection, request: Received, roomId: string): void {
    const { offer_sdp, tracks } = request.fields as never as Fields["TRACKS_NEW"];
    const member = this.member(roomId, connection.clientId);
    member.sections = JSON.parse(offer_sdp!);
    const results = tracks.map((track) => {
      const code = this.badTracks.get(track.track_name);
      return code === undefined ? { ...track } : { mid: track.mid, error_code: code, error_message: "bad track" };
    });
    const published = tracks.filter((_, index) => results[index]?.error_code === undefined) as PublishedTrack[];
    member.tracks = [...member.tracks, ...published];
    connection.send("TRACKS_NEW_ACK", { tracks: results, answer_sdp: answerTo(member.sections) }, request.id);
    if (published.length === 0) return;
    const participant = this.describe(roomId, connection.clientId);
    this.announce(roomId, { event: "tracks_published", participant, tracks: published });
  }

  #pull(connection: ServiceConnection, request: Received, roomId: string): void {
    const member = this.member(roomId, connection.clientId);
    const { tracks } = request.fields as never as Fields["TRACKS_NEW"];
    const results = tracks.map(({ client_id, track_name }): TrackResult => {
      const code = this.badTracks.get(track_name);
      const source = this.rooms
        .get(roomId)!
        .members.get(client_id!)
        ?.tracks.find((each) => each.track_name === track_name);
      if (code !== undefined) return { client_id, track_name, error_code: code, error_message: "bad track" };
      if (source === undefined) return { client_id, track_name, error_code: 404, error_message: "no such track" };
      const { sessionId } = this.member(roomId, client_id!);
      const pulled = this.#addSection(member, { client_id: client_id!, track_name, kind: source.kind! });
      return { ...pulled, session_id: sessionId };
    });
    const isOffer = results.some(({ mid }) => mid !== undefined);
    connection.send("TRACKS_NEW_ACK", { tracks: results, ...(isOffer ? this.#offer(member) : {}) }, request.id);
  }

  #addSection(member: FakeMember, track: { client_id: string; track_name: string; kind: string }): TrackResult {
    const mid = String(member.sections.length);
    member.sections.push({ mid, kind: track.kind, direction: "sendonly" });
    return { mid, client_id: track.client_id, track_name: track.track_name };
  }

  #offer(member: FakeMember): { offer_sdp: string; requires_renegotiation: boolean } {
    member.isOffering = true;
    return { offer_sdp: JSON.stringify(member.sections), requires_renegotiation: true };
  }

  #renegotiate(connection: ServiceConnection, request: Received, roomId: string): void {
    const member = this.rooms.get(roomId)?.members.get(connection.clientId);
    const { tracks, offer_sdp } = request.fields as never as Fields["RENEGOTIATE"];
    if (member !== undefined && tracks !== undefined) {
      return this.#replace(connection, request, roomId, { tracks, offer_sdp });
    }
    if (!member?.isOffering) return connection.refuse(request, 400, "nothing to answer");
    member.isOffering = false;
    connection.send("RENEGOTIATE_ACK", { status: 200 }, request.id);
  }

  #replace(
    connection: ServiceConnection,
    request: Received,
    roomId: string,
    { tracks, offer_sdp }: { tracks: PublishedTrack[]; offer_sdp: string | undefined },
  ): void {
    const member = this.member(roomId, connection.clientId);
    Object.assign(member, { sessionId: makeId(), tracks: [], sections: [], isOffering: false });
    this.announce(roomId, {
      event: "media_replaced",
      participant: this.describe(roomId, connection.clientId),
      tracks,
    });
    if (offer_sdp !== undefined) member.sections = JSON.parse(offer_sdp);
    member.tracks = tracks;
    const answer = offer_sdp === undefined ? {} : { answer_sdp: answerTo(member.sections) };
    connection.send("RENEGOTIATE_ACK", { status: 200, session_id: member.sessionId, tracks, ...answer }, request.id);
    if (tracks.length === 0) return;
    this.announce(roomId, {
      event: "tracks_published",
      participant: this.describe(roomId, connection.clientId),
      tracks,
    });
  }

  #closeTracks(connection: ServiceConnection, request: Received, roomId: string): void {
    const { tracks, offer_sdp, reason = "closed" } = request.fields as never as Fields["TRACKS_CLOSE"];
    const member = this.member(roomId, connection.clientId);
    const mids = new Set(tracks.map(({ mid }) => mid));
    const closed = member.tracks.filter(({ mid }) => mids.has(mid));
    member.tracks = member.tracks.filter(({ mid }) => !mids.has(mid));
    const answer = offer_sdp === undefined ? {} : { answer_sdp: answerTo(JSON.parse(offer_sdp)) };
    connection.send("TRACKS_CLOSE_ACK", { tracks, ...answer }, request.id);
    if (closed.length === 0) return;
    const participant = this.describe(roomId, connection.clientId);
    this.announce(roomId, { event: "tracks_unpublished", participant, tracks: closed, reason });
  }
}

function answerTo(sections: Section[]): string {
  return JSON.stringify(sections.map(({ mid, kind }) => ({ mid, kind, direction: "recvonly" })));
}
