/**
 * Calls from browser to browser, without an SFU: media goes directly, the service relays the signals.
 *
 * Direct calls need no media backend and have two clients. Either side may change a call at any time, by the
 * pattern "perfect negotiation" (W3C WebRTC 1.0, section 10.7).
 *
 * Pages that call through an SFU do not load this entry point, `signal-manager/direct`.
 */

import { aFunction, aKind, aStream, check, having } from "./arguments.js";
import { makeId } from "./ids.js";
import {
  Emitter,
  InvalidRequestError,
  NotFoundError,
  SignalManagerError,
  UnavailableError,
  type IceServer,
  type JsonObject,
  type PeerConnectionConstructor,
  type SignalClient,
  type SignalReceived,
  type TrackKind,
  type Unsubscribe,
} from "./index.js";
import { isObject } from "./messages.js";
import { listOf, maybe, name, object, type RulesOf } from "./fields.js";

/** Options of direct calls. */
export interface DirectOptions {
  /** The ICE servers; default: those from the service. */
  iceServers?: IceServer[] | undefined;
  /** In place of the global `RTCPeerConnection`. */
  RTCPeerConnection?: PeerConnectionConstructor | undefined;
}

/** The events of a call, by name. */
export interface CallEvents {
  /** The other side sends a track. */
  track: { track: MediaStreamTrack; streams: readonly MediaStream[] };
  /** Media flows ("connected"), or does not for now. */
  state: { state: RTCPeerConnectionState };
  /** A signal of the other side was invalid; the call continues. */
  error: { error: Error };
  /** The call is over; the last event. */
  closed: { reason: string; error?: Error | undefined };
}

type SignalKind = "offer" | "answer" | "ice-candidate";

// How long a call may ring, in ms.
const RING_TIME = 60_000;

// The most calls that may ring at the same time; further ones are ignored.
const MAX_RINGING = 16;

// The most signals that an unanswered call keeps: an offer, and more candidates than any machine has.
const MAX_KEPT = 256;

// The most ended calls to remember, so that their late signals do not ring again.
const REMEMBERED_CALLS = 64;

// The length of a UUID; a longer id names no call.
const MAX_ID_LENGTH = 36;

// How often ICE is restarted after a failed connection before the call ends.
const MAX_RESTARTS = 2;

// How long an offer that crossed another one may remain unanswered before it is sent again, in ms.
const INSIST_AFTER = 1000;

// The silence of the other side, in ms, after which dialling again replaces the call.
const SILENCE = 1000;

/** The field of the SIGNAL_MESSAGE that ends a call; all other messages belong to the application. */
const BYE = "direct_call_ended";

const OPTIONS: RulesOf<DirectOptions> = { iceServers: maybe(listOf(object)), RTCPeerConnection: maybe(aFunction) };

/** The direct calls of one client: `dial` another client, or answer an `incoming` call. One call per other client. */
export class DirectCalls extends Emitter<{ incoming: { call: DirectCall } }> {
  readonly #client: SignalClient;
  readonly #options: DirectOptions;
  readonly #calls = new Map<string, DirectCall>(); // by the other's client id
  readonly #over = new Set<string>(); // ids of ended calls and of closed pages, oldest first
  readonly #instance = makeId(); // names this page in every signal, because a reloaded page has lost the call's state
  readonly #subscriptions: Unsubscribe[];

  constructor(client: SignalClient, options: DirectOptions = {}) {
    super({ incoming: true });
    check({ client: having("a SignalClient", "sendOffer") }, { client });
    options = check(OPTIONS, options, "options");
    this.#client = client;
    this.#options = options;
    this.#subscriptions = [
      client.on("offer", (signal) => this.#route("offer", signal)),
      client.on("answer", (signal) => this.#route("answer", signal)),
      client.on("ice-candidate", (signal) => this.#route("ice-candidate", signal)),
      client.on("message", (signal) => this.#hearBye(signal)),
      client.on("closed", ({ error }) => this.#closeAll("the client is closed", error)),
    ];
    // A closing page ends its calls, because a restored one has lost their state.
    const hangUp = (): void => this.#hangUp();
    globalThis.addEventListener?.("pagehide", hangUp);
    this.#subscriptions.push(() => globalThis.removeEventListener?.("pagehide", hangUp));
  }

  /** The calls that are not over, by the other's client id. */
  get active(): ReadonlyMap<string, DirectCall> {
    return this.#calls;
  }

  /**
   * Call another client, to send a stream or only to receive. The call's events tell its progress. If that client's call
   * rings here, this answers it. An unanswered or silent call with that client is replaced.
   *
   * @throws InvalidRequestError there is a call with that client already.
   */
  dial(clientId: string, stream?: MediaStream): DirectCall {
    check({ clientId: name, stream: maybe(aStream) }, { clientId, stream });
    if (clientId === this.#client.clientId) throw new InvalidRequestError("a client cannot call itself");
    const present = this.#calls.get(clientId);
    if (present?.isRinging) {
      // Both called each other at the same time, and the other was faster.
      present.answer(stream);
      return present;
    }
    if (present?.isStale) present.close();
    else if (present !== undefined) throw new InvalidRequestError(`there is a call with ${clientId} already`);
    const call = this.#make(clientId, makeId());
    void call.start(stream, true);
    return call;
  }

  /** End all calls, and ignore later ones. */
  close(): void {
    this.#closeAll("closed");
  }

  #make(clientId: string, callId: string): DirectCall {
    const call: DirectCall = new DirectCall(this.#client, clientId, callId, this.#instance, this.#options, () => {
      this.#calls.delete(clientId);
      this.#forget(call.id);
    });
    this.#calls.set(clientId, call);
    return call;
  }

  #forget(callId: string): void {
    this.#over.add(callId);
    const [oldest] = this.#over;
    if (this.#over.size > REMEMBERED_CALLS && oldest !== undefined) this.#over.delete(oldest);
  }

  #route(kind: SignalKind, { sender, data }: SignalReceived): void {
    const callId = callIdIn(data, "call_id") ?? makeId();
    const instance = callIdIn(data, "instance_id");
    if (this.#over.has(callId) || (instance !== undefined && this.#over.has(instance))) return;
    const call = this.#calls.get(sender);
    if (call?.peerInstance !== undefined && instance !== undefined && call.peerInstance !== instance) {
      this.#forget(call.peerInstance);
      call.end("the other side began anew");
    } else if (call !== undefined) {
      call.peerInstance ??= instance;
      return call.receive(kind, data);
    }
    const ringing = [...this.#calls.values()].filter(({ isRinging }) => isRinging).length;
    if (kind !== "offer" || ringing >= MAX_RINGING) return;
    const incoming = this.#make(sender, callId);
    incoming.peerInstance = instance;
    incoming.receive(kind, data);
    this.emit("incoming", { call: incoming });
  }

  #hearBye({ sender, data }: SignalReceived): void {
    const callId = callIdIn(data, BYE);
    if (callId === undefined) return;
    const call = this.#calls.get(sender);
    if (call?.id === callId) call.end("the other side ended it");
    else this.#forget(callId);
  }

  #hangUp(): void {
    for (const call of [...this.#calls.values()]) call.close();
  }

  #closeAll(reason: string, error?: Error): void {
    for (const unsubscribe of this.#subscriptions.splice(0)) unsubscribe();
    for (const call of [...this.#calls.values()]) {
      if (error === undefined) call.close();
      else call.end(reason, error);
    }
  }
}

/** One call, dialled or incoming; made by `DirectCalls`. */
export class DirectCall extends Emitter<CallEvents> {
  /** The other's client id. */
  readonly peerId: string;
  /** The instance of the other's page, known from its first signal. @internal */
  peerInstance: string | undefined;
  readonly #instance: string;
  #id: string;
  readonly #client: SignalClient;
  readonly #options: DirectOptions;
  readonly #onOver: () => void;
  readonly #isPolite: boolean;
  readonly #reconnected: Unsubscribe;
  readonly #kept: [SignalKind, unknown][] = []; // signals that wait for a peer connection
  #peer: RTCPeerConnection | null = null;
  #isStarted = false;
  #isAnswered = false;
  #isOver = false;
  #isMakingOffer = false;
  #isIgnoringOffer = false;
  #isSettingAnswer = false;
  #hasRepeatedOffer = false;
  #restarts = 0;
  #handling: Promise<void> = Promise.resolve(); // signals are handled one after another
  #ringTimer: ReturnType<typeof setTimeout>;
  #insistTimer: ReturnType<typeof setTimeout> | undefined;

  /** @internal */
  constructor(
    client: SignalClient,
    peerId: string,
    id: string,
    instance: string,
    options: DirectOptions,
    onOver: () => void,
  ) {
    super({ track: true, state: true, error: true, closed: true });
    this.peerId = peerId;
    this.#id = id;
    this.#instance = instance;
    this.#client = client;
    this.#options = options;
    this.#onOver = onOver;
    // Both sides must agree which of them yields when their offers cross.
    this.#isPolite = client.clientId < peerId;
    this.#reconnected = client.on("reconnected", ({ resumed }) => resumed || this.#sendAgain());
    this.#ringTimer = setTimeout(() => this.#giveUp("nobody answered"), RING_TIME);
  }

  /** The id of the call in its signals. */
  get id(): string {
    return this.#id;
  }

  /** Whether the call came in and waits for `answer`. */
  get isRinging(): boolean {
    return !this.#isStarted && !this.#isOver;
  }

  /** Whether the call is unanswered or silent, so that dialling again replaces it. @internal */
  get isStale(): boolean {
    const state = this.#peer?.connectionState;
    if (state === "connected") return this.#isSilent();
    return (this.#isStarted && !this.#isAnswered) || state === "disconnected" || state === "failed";
  }

  /** Whether media has stopped; browsers report a lost connection only seconds later. */
  #isSilent(): boolean {
    const heard = this.#connection()
      .getReceivers()
      .flatMap((receiver) => receiver.getSynchronizationSources().map(({ timestamp }) => timestamp));
    return heard.length > 0 && performance.timeOrigin + performance.now() - Math.max(...heard) > SILENCE;
  }

  /** Accept an incoming call, to send a stream or only to receive. */
  answer(stream?: MediaStream): void {
    check({ stream: maybe(aStream) }, { stream });
    if (!this.isRinging) throw new InvalidRequestError("the call does not ring");
    void this.start(stream, false);
  }

  /** Send the tracks of another stream too. */
  publish(stream: MediaStream): void {
    check({ stream: aStream }, { stream });
    const peer = this.#connection();
    for (const track of stream.getTracks()) peer.addTrack(track, stream);
  }

  /** Stop sending the tracks of a stream; the tracks themselves are not stopped. */
  unpublish(stream: MediaStream): void {
    check({ stream: aStream }, { stream });
    const peer = this.#connection();
    const tracks = new Set<MediaStreamTrack | null>(stream.getTracks());
    for (const sender of peer.getSenders()) if (tracks.has(sender.track)) peer.removeTrack(sender);
  }

  /** Send silence and black in place of the tracks. */
  mute(kind?: TrackKind): void {
    this.#enable(kind, false);
  }

  /** Send the tracks again. */
  unmute(kind?: TrackKind): void {
    this.#enable(kind, true);
  }

  /** End the call, or refuse it while it rings, and tell the other side. */
  close(): void {
    this.#giveUp("closed");
  }

  /** Open the peer connection, and handle the signals that waited for it. @internal */
  async start(stream: MediaStream | undefined, isCaller: boolean): Promise<void> {
    this.#isStarted = true;
    try {
      const iceServers = await this.#findIceServers();
      if (this.#isOver) return;
      this.#open(iceServers);
      if (stream !== undefined) this.publish(stream);
      else if (isCaller) this.#askForMedia();
      for (const [kind, data] of this.#kept.splice(0)) this.receive(kind, data);
    } catch (error) {
      this.#giveUp("the call could not be started", error as Error);
    }
  }

  /** Handle a signal of the other side. @internal */
  receive(kind: SignalKind, data: unknown): void {
    if (this.#isOver) return;
    if (this.#peer === null) {
      if (this.#kept.length < MAX_KEPT) this.#kept.push([kind, data]);
      return;
    }
    this.#handling = this.#handling.then(() => this.#handle(kind, data));
  }

  /** End the call without telling the other side. @internal */
  end(reason: string, error?: Error): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#ringTimer);
    clearTimeout(this.#insistTimer);
    this.#reconnected();
    this.#peer?.close();
    this.#onOver();
    this.emit("closed", { reason, error });
  }

  #giveUp(reason: string, error?: Error): void {
    if (this.#isOver) return;
    // The other side may be gone, and then needs no message.
    if (this.#client.isConnected) this.#client.sendMessage(this.peerId, { [BYE]: this.#id }).catch(() => undefined);
    this.end(reason, error);
  }

  async #findIceServers(): Promise<IceServer[]> {
    if (this.#options.iceServers !== undefined) return this.#options.iceServers;
    try {
      return (await this.#client.request("ICE_SERVERS", {})).ice_servers;
    } catch (error) {
      // Without ICE servers the browsers use only their own addresses.
      if (error instanceof SignalManagerError && !error.retryable) return [];
      throw error;
    }
  }

  #open(iceServers: IceServer[]): void {
    const PeerConnection =
      this.#options.RTCPeerConnection ??
      (globalThis as { RTCPeerConnection?: PeerConnectionConstructor }).RTCPeerConnection;
    if (!PeerConnection)
      throw new InvalidRequestError("there is no global RTCPeerConnection: pass the option RTCPeerConnection");
    const peer = new PeerConnection({ iceServers: iceServers as RTCIceServer[] });
    peer.onnegotiationneeded = () => void this.#offer(peer);
    peer.onicecandidate = ({ candidate }) => {
      if (candidate !== null) this.#send("sendIceCandidate", { ...candidate.toJSON() });
    };
    peer.ontrack = ({ track, streams }) => this.emit("track", { track, streams });
    peer.onconnectionstatechange = () => this.#watch(peer);
    this.#peer = peer;
  }

  #askForMedia(): void {
    for (const kind of ["audio", "video"]) this.#connection().addTransceiver(kind, { direction: "recvonly" });
  }

  #connection(): RTCPeerConnection {
    if (this.#peer === null || this.#isOver) throw new InvalidRequestError("the call is not open");
    return this.#peer;
  }

  async #offer(peer: RTCPeerConnection): Promise<void> {
    this.#isMakingOffer = true;
    try {
      await peer.setLocalDescription();
      this.#sendDescription(peer);
    } catch (error) {
      if (!this.#isOver) this.#giveUp("no offer could be made", error as Error);
    } finally {
      this.#isMakingOffer = false;
    }
  }

  async #handle(kind: SignalKind, data: unknown): Promise<void> {
    const peer = this.#peer;
    if (this.#isOver || peer === null) return;
    try {
      if (!isObject(data)) throw new InvalidRequestError(`${this.peerId} sent an ${kind} that is not an object`);
      if (kind === "ice-candidate") await this.#handleCandidate(peer, data);
      else await this.#handleDescription(peer, kind, data);
    } catch (error) {
      if (!this.#isOver) this.emit("error", { error: error as Error });
    }
  }

  async #handleDescription(peer: RTCPeerConnection, type: "offer" | "answer", data: JsonObject): Promise<void> {
    if (typeof data["sdp"] !== "string") throw new InvalidRequestError(`${this.peerId} sent an ${type} without SDP`);
    // The other side may answer an offer and its repetition, if the first answer takes as long as that.
    if (type === "answer" && this.#hasRepeatedOffer && peer.signalingState === "stable") return;
    const isReady = !this.#isMakingOffer && (peer.signalingState === "stable" || this.#isSettingAnswer);
    this.#isIgnoringOffer = !this.#isPolite && type === "offer" && !isReady;
    if (this.#isIgnoringOffer) return this.#insist();
    this.#id = callIdIn(data, "call_id") ?? this.#id;
    this.#isSettingAnswer = type === "answer";
    try {
      await peer.setRemoteDescription({ type, sdp: data["sdp"] });
    } finally {
      this.#isSettingAnswer = false;
    }
    clearTimeout(this.#ringTimer);
    this.#isAnswered = true;
    if (type === "answer") return;
    await peer.setLocalDescription();
    this.#sendDescription(peer);
  }

  /** Send an unanswered offer again, because it may have gone to a page that is closed. */
  #insist(): void {
    clearTimeout(this.#insistTimer);
    this.#insistTimer = setTimeout(() => this.#sendAgain(), INSIST_AFTER);
  }

  async #handleCandidate(peer: RTCPeerConnection, data: JsonObject): Promise<void> {
    try {
      await peer.addIceCandidate(data as RTCIceCandidateInit);
    } catch (error) {
      // The candidate belongs to the offer that was ignored.
      if (!this.#isIgnoringOffer) throw error;
    }
  }

  #sendDescription(peer: RTCPeerConnection): void {
    const description = peer.localDescription;
    if (description === null) return;
    const { type, sdp } = description;
    this.#send(type === "offer" ? "sendOffer" : "sendAnswer", { type, sdp });
  }

  #send(how: "sendOffer" | "sendAnswer" | "sendIceCandidate", data: JsonObject): void {
    const isOffer = how === "sendOffer";
    this.#client[how](this.peerId, { ...data, call_id: this.#id, instance_id: this.#instance }, { ack: isOffer }).then(
      (status) => {
        if (status === "offline") this.#failToSend(new NotFoundError(`${this.peerId} is offline`));
      },
      (error: Error) => this.#failToSend(error),
    );
  }

  /** Send a signal again or renegotiate if the connection was lost; a refusal ends the call. */
  #failToSend(error: Error): void {
    if (error instanceof SignalManagerError && error.retryable) return;
    this.end("the other cannot be reached", error);
  }

  #sendAgain(): void {
    if (this.#peer?.signalingState !== "have-local-offer") return;
    this.#hasRepeatedOffer = true;
    this.#sendDescription(this.#peer);
  }

  #watch(peer: RTCPeerConnection): void {
    const state = peer.connectionState;
    this.emit("state", { state });
    if (state === "connected") this.#restarts = 0;
    if (state !== "failed") return;
    this.#restarts += 1;
    if (this.#restarts <= MAX_RESTARTS) return void this.#restart(peer);
    this.#giveUp("the connection failed", new UnavailableError(`found no way to ${this.peerId}`));
  }

  /** Restart ICE with new credentials, because the failed path may be a relay whose credentials have expired. */
  async #restart(peer: RTCPeerConnection): Promise<void> {
    const iceServers = await this.#findIceServers().catch(() => undefined);
    if (this.#isOver) return;
    if (iceServers !== undefined) peer.setConfiguration({ iceServers: iceServers as RTCIceServer[] });
    peer.restartIce();
  }

  #enable(kind: TrackKind | undefined, isEnabled: boolean): void {
    check({ kind: maybe(aKind) }, { kind });
    for (const { track } of this.#connection().getSenders()) {
      if (track !== null && (kind === undefined || track.kind === kind)) track.enabled = isEnabled;
    }
  }
}

function callIdIn(data: unknown, field: string): string | undefined {
  const id = isObject(data) ? data[field] : undefined;
  return typeof id === "string" && id.length <= MAX_ID_LENGTH ? id : undefined;
}
