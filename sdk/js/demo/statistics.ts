/** How each track does, once a second, from the peer connection's statistics. */

import type { PeerConnectionConstructor } from "../src/index.js";

/** Figures of one track; rates are those since the reading before. */
export interface Figures {
  kind: string;
  width: number;
  height: number;
  /** Decoded, or encoded where the track is this client's own, since the start. */
  frames: number;
  framesPerSecond: number;
  /** The share of packets that were lost, 0 to 1; null where it is not known. */
  loss: number | null;
  /** Packets lost since the start. */
  lost: number;
  /** What was heard since the start (W3C webrtc-stats, "totalAudioEnergy"). */
  energy: number;
  codec: string;
}

/** A report's entries: those used here, with all their fields optional. */
interface Entry extends RTCStats {
  kind?: string;
  trackIdentifier?: string;
  mediaSourceId?: string;
  codecId?: string;
  mimeType?: string;
  localId?: string;
  frameWidth?: number;
  frameHeight?: number;
  framesDecoded?: number;
  framesEncoded?: number;
  packetsReceived?: number;
  packetsLost?: number;
  fractionLost?: number;
  totalAudioEnergy?: number;
}

interface Reading {
  at: number; // ms
  frames: number;
  received: number;
  lost: number;
}

/**
 * Watches the peer connections of one room: the SDK makes a new one whenever media was lost.
 *
 * @param codec which of the browser's video codecs is offered first, as in "H264"; null leaves it to the browser.
 */
export class Meter {
  /** What the SDK takes in place of the global `RTCPeerConnection`. */
  readonly PeerConnection: PeerConnectionConstructor;
  #peer: RTCPeerConnection | null = null;
  #readings = new Map<string, Reading>();

  constructor(codec: string | null) {
    const watch = (peer: RTCPeerConnection): void => {
      this.#peer = peer;
      this.#readings.clear();
    };
    this.PeerConnection = class extends RTCPeerConnection {
      constructor(configuration: RTCConfiguration) {
        super(configuration);
        watch(this);
      }

      override addTransceiver(track: MediaStreamTrack | string, init?: RTCRtpTransceiverInit): RTCRtpTransceiver {
        const transceiver = super.addTransceiver(track, init);
        if (codec !== null) prefer(transceiver, codec);
        return transceiver;
      }
    };
  }

  /** Whether there is a media session now. */
  get hasMedia(): boolean {
    return this.#peer !== null && this.#peer.connectionState !== "closed";
  }

  /** Return the figures of every track, by the track's id. */
  async read(): Promise<Map<string, Figures>> {
    const peer = this.#peer;
    const figures = new Map<string, Figures>();
    if (peer === null || !this.hasMedia) return figures;
    const report = await peer.getStats();
    const entries = new Map<string, Entry>();
    report.forEach((entry: Entry) => entries.set(entry.id, entry));
    for (const entry of entries.values()) {
      if (entry.type === "inbound-rtp") figures.set(entry.trackIdentifier ?? "", this.#received(entry, entries));
      if (entry.type !== "outbound-rtp") continue;
      const source = entries.get(entry.mediaSourceId ?? "");
      if (source?.trackIdentifier !== undefined) figures.set(source.trackIdentifier, this.#sent(entry, entries));
    }
    return figures;
  }

  #received(entry: Entry, entries: Map<string, Entry>): Figures {
    const { frames, lost, received } = { frames: entry.framesDecoded ?? 0, ...packetsOf(entry) };
    const before = this.#note(entry, { frames, lost, received });
    const expected = received - before.received + lost - before.lost;
    return {
      ...commonOf(entry, entries),
      frames,
      framesPerSecond: rate(frames - before.frames, entry.timestamp - before.at),
      // A packet that came late makes the count of lost ones fall.
      loss: expected > 0 ? Math.max(0, lost - before.lost) / expected : null,
      lost,
    };
  }

  #sent(entry: Entry, entries: Map<string, Entry>): Figures {
    const remote = [...entries.values()].find(
      ({ type, localId }) => type === "remote-inbound-rtp" && localId === entry.id,
    );
    const frames = entry.framesEncoded ?? 0;
    const before = this.#note(entry, { frames, lost: 0, received: 0 });
    return {
      ...commonOf(entry, entries),
      frames,
      framesPerSecond: rate(frames - before.frames, entry.timestamp - before.at),
      loss: remote?.fractionLost ?? null,
      lost: remote?.packetsLost ?? 0,
    };
  }

  /** Keep a reading, and return the one before it; the first is compared with itself. */
  #note({ id, timestamp }: Entry, reading: Omit<Reading, "at">): Reading {
    const now = { at: timestamp, ...reading };
    const before = this.#readings.get(id) ?? now;
    this.#readings.set(id, now);
    return before;
  }
}

function packetsOf({ packetsLost = 0, packetsReceived = 0 }: Entry): { lost: number; received: number } {
  return { lost: packetsLost, received: packetsReceived };
}

function commonOf(
  entry: Entry,
  entries: Map<string, Entry>,
): Pick<Figures, "kind" | "width" | "height" | "energy" | "codec"> {
  return {
    kind: entry.kind ?? "",
    width: entry.frameWidth ?? 0,
    height: entry.frameHeight ?? 0,
    energy: entry.totalAudioEnergy ?? 0,
    codec: entries.get(entry.codecId ?? "")?.mimeType?.replace(/^\w+\//, "") ?? "",
  };
}

function rate(count: number, ms: number): number {
  return ms > 0 ? (count * 1000) / ms : 0;
}

function prefer(transceiver: RTCRtpTransceiver, codec: string): void {
  const codecs = RTCRtpSender.getCapabilities("video")?.codecs ?? [];
  const isWanted = ({ mimeType }: { mimeType: string }): boolean =>
    mimeType.toLowerCase() === `video/${codec.toLowerCase()}`;
  // Audio, or a codec that this browser does not have: it offers what it has.
  if (transceiver.sender.track?.kind !== "video" || !codecs.some(isWanted)) return;
  transceiver.setCodecPreferences([...codecs.filter(isWanted), ...codecs.filter((each) => !isWanted(each))]);
}
