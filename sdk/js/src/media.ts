/**
 * One RTCPeerConnection and the SFU's media session behind it: publish, pull, close; it lives once.
 *
 * `room.ts` decides what is published and pulled, calls one negotiation at a time, and replaces a session that is lost.
 */

import type { SignalClient } from "./client.js";
import { UnavailableError } from "./errors.js";
import type { Fields, IceServer, PublishedTrack, TrackKind, TrackResult } from "./messages.js";

/** Makes a peer connection, as the global `RTCPeerConnection` does. */
export type PeerConnectionConstructor = new (configuration: RTCConfiguration) => RTCPeerConnection;

/** A track of this client, and the name others pull it by. */
export interface LocalTrack {
  readonly name: string;
  readonly track: MediaStreamTrack;
  readonly stream: MediaStream;
  readonly muted: boolean;
  /** What sends it in the present media session; takes a replaced track from the making of the offer on. */
  sender: RTCRtpSender | null;
  /** What the service has been told of `muted`. */
  said: boolean;
}

/** A track of another member. */
export interface TrackRef {
  readonly clientId: string;
  readonly name: string;
}

/** Who hears of a media session. */
export interface MediaListener {
  /** Whether something is to be received from members that are there. */
  isReceiving(): boolean;
  /** Media flows. */
  onConnected(): void;
  /** The session cannot go on; comes once, and not after `close`. */
  onLost(error: Error): void;
  /** The receiving end of a pulled track is there. */
  onTrack(result: TrackResult, mid: string, track: MediaStreamTrack): void;
}

/**
 * How long a request about media may take, in ms: the service waits for its turn at the SFU and for tracks that are not
 * sent yet, within bounds of its own.
 */
export const MEDIA_TIMEOUT = 30_000;

type NegotiationType = "TRACKS_MUTE" | "TRACKS_NEW" | "TRACKS_CLOSE" | "RENEGOTIATE";

// ICE may recover from a short loss by itself; after this long it does not (in ms). Browsers wait some seconds already
// before they say "disconnected".
const DISCONNECTED_LIMIT = 3000;

// A path is lost when nothing comes on it for as long as so many packets took until then, within these bounds (in ms). The
// upper one is longer than the 2.5 s between ICE's own checks, which are all that comes where there are few packets.
const MISSED_PACKETS = 10;
const SILENCE = [800, 3000] as const;
// Between two looks (in ms).
const LOOK = 100;

// How long before their end ICE servers are asked for again: a tenth of what is left, but no more than this (in ms).
const RENEWAL_MARGIN = 60_000;
// Between two such questions at least, and until the first one where nobody has said when they end (in ms).
const RENEWAL_PAUSE = 10_000;
// Between two looks at the path of a relay whose credentials end, in ms: a TURN server may drop it then. That is a weaker
// sign than a lost connection, so that the silence must be longer.
const RELAY_LOOK = 1000;
const RELAY_SILENCE = 2000;
// The longest delay that timers take (in ms).
const LONGEST_DELAY = 2 ** 31 - 1;

/** One media session. After a method has thrown anything but a refusal that it names, the session is of no use. */
export class MediaSession {
  readonly #client: SignalClient;
  readonly #roomId: string;
  readonly #peer: RTCPeerConnection;
  readonly #listener: MediaListener;
  readonly #senders = new Map<LocalTrack, RTCRtpTransceiver>();
  readonly #ending = new AbortController();
  #connectedAt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #renewal: ReturnType<typeof setTimeout> | undefined;
  #relayWatch: ReturnType<typeof setInterval> | undefined;
  #expiresAt: number | undefined; // the credentials that the peer connection began with

  constructor(
    client: SignalClient,
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

  /** Whether media can flow now. */
  get isConnected(): boolean {
    return this.#peer.connectionState === "connected";
  }

  /** End the connection; what still waits for the service rejects. */
  close(): void {
    this.#ending.abort(new UnavailableError("the media session has ended"));
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
    clearInterval(this.#relayWatch);
    this.#peer.onconnectionstatechange = null;
    for (const local of this.#senders.keys()) this.#detach(local);
    this.#peer.close();
  }

  /** Make the offer that publishes `tracks`; `accept` or `withdraw` must follow. */
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

  /** Apply the SFU's answer to `offer`, and stop the tracks of it that the SFU refused. */
  async accept(answerSdp: string, refused: LocalTrack[] = []): Promise<void> {
    await this.#peer.setRemoteDescription({ type: "answer", sdp: answerSdp });
    for (const local of refused) this.#forget(local);
  }

  /** Take an offer back that the service refused. */
  async withdraw(tracks: LocalTrack[]): Promise<void> {
    await this.#peer.setLocalDescription({ type: "rollback" });
    for (const local of tracks) this.#forget(local);
  }

  /** Publish by TRACKS_NEW. Resolves to each track's result; a refusal of the whole rejects and changes nothing. */
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

  /** Stop publishing, by negotiation: so the m-sections can be used again. */
  async unpublish(tracks: LocalTrack[], reason?: string): Promise<void> {
    const mids = tracks.map((local) => ({ mid: this.#midOf(local) }));
    for (const local of tracks) this.#forget(local);
    await this.#peer.setLocalDescription();
    const reply = await this.#ask("TRACKS_CLOSE", { tracks: mids, offer_sdp: this.#localSdp(), reason });
    if (reply.answer_sdp === undefined) throw new UnavailableError("the SFU answered no SDP");
    await this.accept(reply.answer_sdp);
  }

  /** Pull tracks of other members. Resolves to each track's result; rejects without a change when none was tried. */
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

  /** Answer the SFU's offer for pulled tracks, which are announced by their mids; without an offer only announce. */
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

  /** Tell the service which tracks are muted; one that refuses it is not asked again. */
  async mute(tracks: LocalTrack[]): Promise<void> {
    const told = tracks.map((local) => ({ mid: this.#midOf(local), muted: local.muted }));
    for (const local of tracks) local.said = local.muted;
    await this.#ask("TRACKS_MUTE", { tracks: told });
  }

  /** Stop receiving pulled tracks; closing what is closed already is no error. */
  async drop(mids: string[]): Promise<void> {
    await this.#ask("TRACKS_CLOSE", { tracks: mids.map((mid) => ({ mid })) });
  }

  /** Look whether the path to the SFU is lost, when something suggests it; `onLost` follows if it is. */
  async checkPath(shortest = SILENCE[0] as number): Promise<void> {
    if (await this.#hasLostPath(shortest)) this.#lose("the path to the SFU is lost");
  }

  /**
   * Silence counts from the last packet, which came before something suggested a loss. The path is silent by itself
   * where nothing is sent, which the SFU reports on, and nothing comes in.
   */
  async #hasLostPath(least: number): Promise<boolean> {
    const most = SILENCE[1];
    const began = performance.now();
    let before: number | undefined;
    while (this.isConnected && (this.#senders.size > 0 || this.#listener.isReceiving())) {
      await new Promise((resolve) => setTimeout(resolve, LOOK)); // what was on its way still comes
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

  /** Return what has come in until now, and for how long nothing has (in ms; 0 where the browser does not say). */
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

  /** Ask for ICE servers again before their credentials end, for the peer connection's later attempts to find a path. */
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

  /** New credentials do not reach the relay that there is, which some servers drop when the old ones end. */
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
