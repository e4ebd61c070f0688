/**
 * A peer connection for tests: the offer/answer state machine of RFC 8829 without media.
 *
 * Its SDP is a JSON list of m-sections. It throws where a browser would: on descriptions out of order, on answers that
 * do not fit their offer, and after `close`.
 */

/** One m-section as seen by the side that wrote it. */
export interface Section {
  mid: string;
  kind: string;
  direction: "sendonly" | "recvonly" | "sendrecv" | "inactive";
}

export class FakeTrack extends EventTarget {
  readonly id = crypto.randomUUID();
  readonly kind: string;
  enabled = true;
  readyState = "live";

  constructor(kind: string) {
    super();
    this.kind = kind;
  }

  getSettings(): MediaTrackSettings {
    return { deviceId: `${this.kind}-device` };
  }

  getConstraints(): MediaTrackConstraints {
    return { width: 640 };
  }

  stop(): void {
    this.readyState = "ended";
  }

  end(): void {
    this.readyState = "ended";
    this.dispatchEvent(new Event("ended"));
  }
}

export class FakeStream {
  readonly #tracks: FakeTrack[];

  constructor(...kinds: string[]) {
    this.#tracks = kinds.map((kind) => new FakeTrack(kind));
  }

  getTracks(): FakeTrack[] {
    return [...this.#tracks];
  }

  addTrack(track: FakeTrack): void {
    this.#tracks.push(track);
  }

  removeTrack(track: FakeTrack): void {
    this.#tracks.splice(this.#tracks.indexOf(track), 1);
  }
}

/** A stream as the SDK takes it. */
export function makeStream(...kinds: string[]): MediaStream {
  return new FakeStream(...kinds) as never;
}

class FakeTransceiver {
  mid: string | null = null;
  isStopped = false;
  isReceiving = false;
  isPending = false; // its mid comes from an offer that may be rolled back
  readonly kind: string;
  readonly sender: { track: FakeTrack | null; replaceTrack(track: FakeTrack): Promise<void> };
  readonly receiver: { track: FakeTrack };

  constructor(kind: string, track: FakeTrack | null) {
    this.kind = kind;
    this.sender = {
      track,
      async replaceTrack(next) {
        this.track = next;
      },
    };
    this.receiver = { track: new FakeTrack(kind) };
  }

  stop(): void {
    this.isStopped = true;
  }

  describe(): Section {
    const direction = this.isStopped ? "inactive" : this.sender.track ? "sendrecv" : "recvonly";
    return { mid: this.mid ?? "", kind: this.kind, direction };
  }
}

export class FakePeer {
  static all: FakePeer[] = [];

  configuration: RTCConfiguration;
  received = 0; // grows when media arrives
  packets = 0; // that have come until now
  lastPacketAt: number | undefined;
  looks = 0; // how often that was asked for
  heardAt: number[] = []; // when a packet of each source came last, in ms since the epoch
  readonly transceivers: FakeTransceiver[] = [];
  readonly candidates: unknown[] = [];
  signalingState = "stable";
  connectionState = "new";
  localDescription: { type: string; sdp: string } | null = null;
  restarts = 0;
  onconnectionstatechange: (() => void) | null = null;
  onnegotiationneeded: (() => void) | null = null;
  onicecandidate: ((event: unknown) => void) | null = null;
  ontrack: ((event: unknown) => void) | null = null;
  #isNegotiationNeeded = false;

  constructor(configuration: RTCConfiguration) {
    this.configuration = configuration;
    FakePeer.all.push(this);
  }

  /** What a browser does when its transport changes. */
  become(state: string): void {
    this.connectionState = state;
    this.onconnectionstatechange?.();
  }

  setConfiguration(configuration: RTCConfiguration): void {
    this.configuration = configuration;
  }

  async getStats(): Promise<Map<string, object>> {
    this.looks += 1;
    const { received: bytesReceived, packets: packetsReceived, lastPacketAt: lastPacketReceivedTimestamp } = this;
    const pair = { type: "candidate-pair", timestamp: Date.now(), bytesReceived, packetsReceived };
    return new Map([["pair", { ...pair, lastPacketReceivedTimestamp }]]);
  }

  getReceivers(): { getSynchronizationSources(): { timestamp: number }[] }[] {
    return this.heardAt.map((timestamp) => ({ getSynchronizationSources: () => [{ timestamp }] }));
  }

  addTransceiver(what: FakeTrack | string): FakeTransceiver {
    this.#checkOpen();
    const transceiver =
      typeof what === "string" ? new FakeTransceiver(what, null) : new FakeTransceiver(what.kind, what);
    this.transceivers.push(transceiver);
    this.#needNegotiation();
    return transceiver;
  }

  addTrack(track: FakeTrack): void {
    this.#checkOpen();
    const free = this.transceivers.find(
      ({ kind, sender, isStopped }) => kind === track.kind && !sender.track && !isStopped,
    );
    if (free) free.sender.track = track;
    else this.transceivers.push(new FakeTransceiver(track.kind, track));
    this.#needNegotiation();
  }

  removeTrack(sender: { track: FakeTrack | null }): void {
    sender.track = null;
    this.#needNegotiation();
  }

  getTransceivers(): FakeTransceiver[] {
    return this.transceivers;
  }

  getSenders(): { track: FakeTrack | null }[] {
    return this.transceivers.map(({ sender }) => sender);
  }

  restartIce(): void {
    this.restarts += 1;
    this.#needNegotiation();
  }

  async addIceCandidate(candidate: unknown): Promise<void> {
    if (this.localDescription === null) throw new Error("InvalidStateError: no description yet");
    this.candidates.push(candidate);
  }

  async setLocalDescription(description?: { type: string }): Promise<void> {
    await Promise.resolve();
    this.#checkOpen();
    if (description?.type === "rollback") return this.#rollBack();
    if (this.signalingState === "have-remote-offer") {
      const answered = this.transceivers.filter(({ mid }) => mid !== null);
      this.localDescription = { type: "answer", sdp: JSON.stringify(answered.map((each) => each.describe())) };
      this.signalingState = "stable";
      this.#fireWhenNeeded();
      return;
    }
    this.#isNegotiationNeeded = false;
    const taken = new Set(this.transceivers.map(({ mid }) => mid));
    let next = 0;
    for (const transceiver of this.transceivers.filter(({ mid, isStopped }) => mid === null && !isStopped)) {
      while (taken.has(String(next))) next += 1;
      transceiver.mid = String(next);
      transceiver.isPending = true;
      taken.add(transceiver.mid);
    }
    const sections = this.transceivers.filter(({ mid }) => mid !== null).map((each) => each.describe());
    this.localDescription = { type: "offer", sdp: JSON.stringify(sections) };
    this.signalingState = "have-local-offer";
    setImmediate(() => {
      if (sections.length > 0)
        this.onicecandidate?.({ candidate: { toJSON: () => ({ candidate: "c", sdpMid: "0" }) } });
      this.onicecandidate?.({ candidate: null });
    });
  }

  async setRemoteDescription({ type, sdp }: { type: string; sdp: string }): Promise<void> {
    await Promise.resolve();
    this.#checkOpen();
    const sections = JSON.parse(sdp) as Section[];
    if (type === "answer") {
      if (this.signalingState !== "have-local-offer") throw new Error("InvalidStateError: an answer without an offer");
      const offered = (JSON.parse(this.localDescription!.sdp) as Section[]).map(({ mid }) => mid);
      if (sections.map(({ mid }) => mid).join() !== offered.join()) throw new Error("the answer fits another offer");
      for (const transceiver of this.transceivers) transceiver.isPending = false;
      this.signalingState = "stable";
      this.#receive(sections);
      this.#fireWhenNeeded();
      return;
    }
    if (this.signalingState === "have-local-offer") this.#rollBack();
    this.signalingState = "have-remote-offer";
    for (const section of sections) this.#meet(section);
    this.#receive(sections);
  }

  close(): void {
    this.signalingState = "closed";
    this.connectionState = "closed";
  }

  #meet(section: Section): void {
    if (this.transceivers.some(({ mid }) => mid === section.mid)) return;
    const free = this.transceivers.find(
      ({ mid, kind, isStopped }) => mid === null && kind === section.kind && !isStopped,
    );
    const transceiver = free ?? new FakeTransceiver(section.kind, null);
    transceiver.mid = section.mid;
    if (!free) this.transceivers.push(transceiver);
    if (this.transceivers.every(({ mid, sender }) => mid !== null || !sender.track)) this.#isNegotiationNeeded = false;
  }

  #receive(sections: Section[]): void {
    for (const { mid, direction } of sections) {
      const transceiver = this.transceivers.find((each) => each.mid === mid);
      if (transceiver && !transceiver.isReceiving && direction.startsWith("send")) {
        transceiver.isReceiving = true;
        this.ontrack?.({ track: transceiver.receiver.track, streams: [], transceiver });
      }
    }
  }

  #rollBack(): void {
    if (this.signalingState !== "have-local-offer") throw new Error("InvalidStateError: nothing to roll back");
    for (const transceiver of this.transceivers) {
      if (transceiver.isPending) transceiver.mid = null;
      transceiver.isPending = false;
    }
    this.signalingState = "stable";
    this.#isNegotiationNeeded = true;
  }

  #needNegotiation(): void {
    this.#isNegotiationNeeded = true;
    queueMicrotask(() => this.#fireWhenNeeded());
  }

  #fireWhenNeeded(): void {
    if (!this.#isNegotiationNeeded || this.signalingState !== "stable") return;
    this.#isNegotiationNeeded = false;
    this.onnegotiationneeded?.();
  }

  #checkOpen(): void {
    if (this.signalingState === "closed") throw new Error("InvalidStateError: the connection is closed");
  }
}
