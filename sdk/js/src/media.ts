/**
 * One media session: the RTCPeerConnection to the SFU, which publishes and pulls tracks.
 *
 * `room.ts` decides what to publish and pull, calls one negotiation at a time, and replaces a lost session.
 */

import { UnavailableError } from "./errors.js";
import type { Fields, IceServer, PublishedTrack, TrackKind, TrackResult } from "./messages.js";
import type { Requester } from "./ports.js";

/** Makes a peer connection, as the global `RTCPeerConnection` does. */
export type PeerConnectionConstructor = new (configuration: RTCConfiguration) => RTCPeerConnection;

/** A track of this client, and the name by which others pull it. */
export interface LocalTrack {
  readonly name: string;
  readonly track: MediaStreamTrack;
  readonly stream: MediaStream;
  readonly muted: boolean;
  /** Its sender in the present media session, from the offer on. */
  sender: RTCRtpSender | null;
  /** The value of `muted` that the service knows. */
  said: boolean;
}

/** A track of another member. */
export interface TrackRef {
  readonly clientId: string;
  readonly name: string;
}

/** The callbacks of a media session. */
export interface MediaListener {
  /** Whether a track should arrive from a member that is not away. */
  isReceiving(): boolean;
  /** Media can flow. */
  onConnected(): void;
  /** The session cannot continue; called once, and not after `close`. */
  onLost(error: Error): void;
  /** A pulled track has arrived. */
  onTrack(result: TrackResult, mid: string, track: MediaStreamTrack): void;
}

/**
 * How long a request about media may take, in ms. The service waits for other requests to the SFU and for tracks that
 * are not sent yet, with its own bounds.
 */
export const MEDIA_TIMEOUT = 30_000;

type NegotiationType = "TRACKS_MUTE" | "TRACKS_NEW" | "TRACKS_CLOSE" | "RENEGOTIATE";

// How long ICE may take to recover by itself, in ms. Browsers already wait some seconds before they report
// "disconnected".
const DISCONNECTED_LIMIT = 3000;

// A path is lost when no packet arrives in the time in which this many packets arrived before, within these bounds in ms.
// The upper bound exceeds the 2.5 s between ICE's own checks, which may be the only packets.
const MISSED_PACKETS = 10;
const SILENCE = [800, 3000] as const;
// Ms between two checks.
const LOOK = 100;

// New ICE servers are requested when a tenth of the credentials' life is left, but at most this many ms before their end.
const RENEWAL_MARGIN = 60_000;
// Ms between two such requests at least, and until the first one if the end of the credentials is unknown.
const RENEWAL_PAUSE = 10_000;
// Ms between two checks of a relay whose credentials end, because a TURN server may drop it then. That is a weaker sign
// than a lost connection, so the silence must be longer.
const RELAY_LOOK = 1000;
const RELAY_SILENCE = 2000;
// The longest delay of a timer, in ms.
const LONGEST_DELAY = 2 ** 31 - 1;

/** One media session. After a method has rejected with anything but a refusal, the session must be replaced. */
export class MediaSession {
  readonly #client: Requester;
  readonly #roomId: string;
  readonly #peer: RTCPeerConnection;
  readonly #listener: MediaListener;
  readonly #senders = new Map<LocalTrack, RTCRtpTransceiver>();
  readonly #ending = new AbortController();
  #connectedAt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #renewal: ReturnType<typeof setTimeout> | undefined;
  #relayWatch: ReturnType<typeof setInterval> | undefined;
  #expiresAt: number | undefined; // when the peer connection's first credentials end

  constructor(
    client: Requester,
    roomId: string,
    { ice_servers: iceServers, expires_at }: { ice_servers: IceServer[]; expires_at?: number | undefined },
    PeerConnection: PeerConnectionConstructor,
    listener: MediaListener,
  ) {
    this.#client = client;
    this.#roomId = roomId;
    this.#listener = listener;
    this.#expiresAt = expires_at;
    this.#peer = new PeerConnection({ iceServers: iceServers as RTCIceServer[] });
    this.#peer.onconnectionstatechange = () => this.#watch();
    this.#planRenewal(expires_at === undefined ? 2 * RENEWAL_PAUSE : renewalDelay(expires_at));
  }

  get peer(): RTCPeerConnection {
    return this.#peer;
  }

  /** Whether media can flow now. */
  get isConnected(): boolean {
    return this.#peer.connectionState === "connected";
  }

  /** Close the connection; waiting requests reject. */
  close(): void {
    this.#ending.abort(new UnavailableError("the media session has ended"));
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
    clearInterval(this.#relayWatch);
    this.#peer.onconnectionstatechange = null;
    for (const local of this.#senders.keys()) this.#detach(local);
    this.#peer.close();
  }

  /** Return the offer that publishes `tracks`; `accept` or `withdraw` must follow. */
  async offer(tracks: LocalTrack[]): Promise<{ offer_sdp: string; tracks: PublishedTrack[] }> {
    for (const local of tracks) {
      const { track, stream } = local;
      const transceiver = this.#peer.addTransceiver(track, { direction: "sendonly", streams: [stream] });
      this.#senders.set(local, transceiver);
      local.sender = transceiver.sender;
    }
    await this.#peer.setLocalDescription();
    return { offer_sdp: this.#localSdp(), tracks: tracks.map((local) => this.#describe(local)) };
  }

  /** Apply the SFU's answer to `offer`, and stop the tracks that the SFU refused. */
  async accept(answerSdp: string, refused: LocalTrack[] = []): Promise<void> {
    await this.#peer.setRemoteDescription({ type: "answer", sdp: answerSdp });
    for (const local of refused) this.#forget(local);
  }

  /** Withdraw an offer that the service refused. */
  async withdraw(tracks: LocalTrack[]): Promise<void> {
    await this.#peer.setLocalDescription({ type: "rollback" });
    for (const local of tracks) this.#forget(local);
  }

  /** Publish tracks by TRACKS_NEW and return their results; reject without a change if all are refused. */
  async publish(tracks: LocalTrack[]): Promise<TrackResult[]> {
    const offer = await this.offer(tracks);
    try {
      const reply = await this.#ask("TRACKS_NEW", offer);
      const results = offer.tracks.map(({ mid }) => reply.tracks.find((result) => result.mid === mid));
      const found = results.map((result, index) => result ?? reply.tracks[index] ?? {});
      const refused = tracks.filter((_, index) => found[index]?.error_code !== undefined);
      if (reply.answer_sdp === undefined) await this.withdraw(tracks);
      else await this.accept(reply.answer_sdp, refused);
      return found;
    } catch (error) {
      if (this.#peer.signalingState === "have-local-offer") await this.withdraw(tracks);
      throw error;
    }
  }

  /** Stop publishing, with a negotiation, so that the m-sections can be used again. */
  async unpublish(tracks: LocalTrack[], reason?: string): Promise<void> {
    const mids = tracks.map((local) => ({ mid: this.#midOf(local) }));
    for (const local of tracks) this.#forget(local);
    await this.#peer.setLocalDescription();
    const reply = await this.#ask("TRACKS_CLOSE", { tracks: mids, offer_sdp: this.#localSdp(), reason });
    if (reply.answer_sdp === undefined) throw new UnavailableError("expected an SDP answer from the SFU, got none");
    await this.accept(reply.answer_sdp);
  }

  /** Pull tracks of other members and return their results; reject without a change if the request is refused. */
  async pull(refs: TrackRef[]): Promise<TrackResult[]> {
    const tracks = refs.map(({ clientId, name }) => ({ client_id: clientId, track_name: name }));
    const reply = await this.#ask("TRACKS_NEW", { tracks });
    const results = tracks.map((track, index) => ({
      ...track,
      ...(findResult(reply.tracks, track) ?? reply.tracks[index]),
    }));
    await this.answer(reply.offer_sdp, results);
    return results;
  }

  /** Announce pulled tracks by their mids, and answer the SFU's offer for them if there is one. */
  async answer(offerSdp: string | undefined, results: TrackResult[]): Promise<void> {
    if (offerSdp !== undefined) await this.#peer.setRemoteDescription({ type: "offer", sdp: offerSdp });
    for (const { mid, receiver } of this.#peer.getTransceivers()) {
      const result = results.find((each) => each.mid === mid && each.error_code === undefined);
      if (mid && result) this.#listener.onTrack(result, mid, receiver.track);
    }
    if (offerSdp === undefined) return;
    await this.#peer.setLocalDescription();
    await this.#ask("RENEGOTIATE", { answer_sdp: this.#localSdp() });
  }

  /** Tell the service which tracks are muted; a service that refuses the request is not asked again. */
  async mute(tracks: LocalTrack[]): Promise<void> {
    const told = tracks.map((local) => ({ mid: this.#midOf(local), muted: local.muted }));
    for (const local of tracks) local.said = local.muted;
    await this.#ask("TRACKS_MUTE", { tracks: told });
  }

  /** Stop receiving pulled tracks; tracks that are closed already are no error. */
  async drop(mids: string[]): Promise<void> {
    await this.#ask("TRACKS_CLOSE", { tracks: mids.map((mid) => ({ mid })) });
  }

  /** Check whether the path to the SFU is lost; `onLost` follows if it is. */
  async checkPath(shortest = SILENCE[0] as number): Promise<void> {
    if (await this.#hasLostPath(shortest)) this.#lose("the path to the SFU is lost");
  }

  /**
   * Return whether the path is silent for too long, from the last packet on. A path on which no media is sent or received
   * is silent by itself, and is never lost.
   */
  async #hasLostPath(least: number): Promise<boolean> {
    const most = SILENCE[1];
    const began = performance.now();
    let before: number | undefined;
    while (this.isConnected && (this.#senders.size > 0 || this.#listener.isReceiving())) {
      await new Promise((resolve) => setTimeout(resolve, LOOK)); // packets under way still arrive
      const { received, packets, silence } = await this.#look();
      before ??= received;
      if (received !== before) return false;
      const looked = performance.now() - began;
      const usual = (MISSED_PACKETS * Math.max(began - this.#connectedAt, most)) / packets;
      const isSilent = usual < most ? Math.max(silence, looked) > Math.max(usual, least) : looked > most;
      if (isSilent) return true;
    }
    return this.#peer.connectionState === "disconnected" || this.#peer.connectionState === "failed";
  }

  /** Return the bytes received until now, and the ms since the last packet (0 if the browser does not tell). */
  async #look(): Promise<{ received: number; packets: number; silence: number }> {
    let [received, packets, last, now] = [0, 0, 0, 0];
    (await this.#peer.getStats()).forEach((report: RTCIceCandidatePairStats & { packetsReceived?: number }) => {
      if (report.type !== "candidate-pair") return;
      received += (report.bytesReceived ?? 0) + (report.responsesReceived ?? 0);
      packets += report.packetsReceived ?? 0;
      last = Math.max(last, report.lastPacketReceivedTimestamp ?? 0);
      now = Math.max(now, report.timestamp);
    });
    return { received, packets, silence: last && now - last };
  }

  #planRenewal(delay: number): void {
    this.#renewal = setTimeout(() => void this.#renewIceServers(), Math.min(delay, LONGEST_DELAY));
  }

  /** Request new ICE servers before their credentials end, for the peer connection's later ICE restarts. */
  async #renewIceServers(): Promise<void> {
    try {
      const reply = await this.#client.request("ICE_SERVERS", {}, { signal: this.#ending.signal });
      this.#peer.setConfiguration({ iceServers: reply.ice_servers as RTCIceServer[] });
      if (this.#expiresAt !== undefined) await this.#watchRelay();
      this.#expiresAt ??= reply.expires_at;
      if (reply.expires_at !== undefined) this.#planRenewal(renewalDelay(reply.expires_at));
    } catch {
      if (!this.#ending.signal.aborted) this.#planRenewal(RENEWAL_PAUSE);
    }
  }

  /** Check the present relay: new credentials do not reach it, and some servers drop it when the old ones end. */
  async #watchRelay(): Promise<void> {
    const stats = await this.#peer.getStats();
    let isRelayed = false;
    stats.forEach((report: RTCIceCandidatePairStats) => {
      if (report.type !== "candidate-pair" || report.state !== "succeeded" || !report.nominated) return;
      isRelayed ||= stats.get(report.localCandidateId)?.candidateType === "relay";
    });
    clearInterval(this.#relayWatch);
    if (isRelayed && !this.#ending.signal.aborted)
      this.#relayWatch = setInterval(() => void this.checkPath(RELAY_SILENCE), RELAY_LOOK);
  }

  #ask<T extends NegotiationType>(type: T, fields: Omit<Fields[T], "room_id">): Promise<Fields[`${T}_ACK`]> {
    const inRoom = { ...fields, room_id: this.#roomId } as Fields[T];
    return this.#client.request(type, inRoom, { signal: this.#ending.signal, timeout: MEDIA_TIMEOUT });
  }

  #describe(local: LocalTrack): PublishedTrack {
    const { name, track, muted } = local;
    local.said = muted;
    const published = { mid: this.#midOf(local), track_name: name, kind: track.kind as TrackKind };
    return muted ? { ...published, muted } : published;
  }

  #forget(local: LocalTrack): void {
    this.#detach(local);
    this.#senders.get(local)?.stop();
    this.#senders.delete(local);
  }

  #detach(local: LocalTrack): void {
    if (local.sender === this.#senders.get(local)?.sender) local.sender = null;
  }

  #midOf(local: LocalTrack): string {
    return this.#senders.get(local)?.mid ?? "";
  }

  #localSdp(): string {
    return this.#peer.localDescription?.sdp ?? "";
  }

  #watch(): void {
    const state = this.#peer.connectionState;
    clearTimeout(this.#timer);
    if (state === "connected") {
      this.#connectedAt ||= performance.now();
      this.#listener.onConnected();
    } else if (state === "failed") this.#lose("the peer connection failed");
    else if (state === "disconnected") {
      this.#timer = setTimeout(() => this.#lose("the peer connection was lost"), DISCONNECTED_LIMIT);
    }
  }

  #lose(reason: string): void {
    this.close();
    this.#listener.onLost(new UnavailableError(reason));
  }
}

function renewalDelay(expiresAt: number): number {
  const left = expiresAt - Date.now();
  return Math.max(RENEWAL_PAUSE, left - Math.min(RENEWAL_MARGIN, left / 10));
}

function findResult(results: TrackResult[], { client_id, track_name }: TrackResult): TrackResult | undefined {
  return results.find((result) => result.client_id === client_id && result.track_name === track_name);
}
