/**
 * Letting a camera or microphone go while its publication is muted, so that its light goes out, and opening it again.
 *
 * An entry point of its own, `signal-manager/devices`: pages that do not need it do not load it.
 */

import { InvalidRequestError, type Publication } from "./index.js";

// How often (ms) a released camera's black picture is drawn: an SFU forgets tracks of which nothing comes.
const BLACK_INTERVAL = 500;

/** Opens a device again, and returns its track. */
export type Reopen = () => Promise<MediaStreamTrack>;

interface Released {
  reopen: Reopen;
  track: MediaStreamTrack; // that was stopped
  blank: MediaStreamTrack; // that is sent in its place
  isGone: boolean;
  attempt?: Promise<MediaStreamTrack> | undefined;
}

const all = new WeakMap<Publication, Released>();

/**
 * Mute a publication and stop its track; what is sent in its place is black or silent.
 *
 * @param reopen opens the track again; default: `getUserMedia` with the track's device and constraints.
 * @throws InvalidRequestError the track is of no camera or microphone, and `reopen` is missing.
 */
export function releaseDevice(publication: Publication, reopen?: Reopen): void {
  expectPublication(publication);
  const { track } = publication;
  const before = all.get(publication);
  if (before !== undefined && before.blank === track) {
    before.attempt = undefined; // what is being opened is not wanted any more
    return;
  }
  const open = reopen ?? reopenOf(track);
  if (typeof open !== "function") throw new InvalidRequestError(`reopen is ${typeof open}, expected a function`);
  const { blank, stop } = makeBlank(track.kind);
  const released: Released = { reopen: open, track, blank, isGone: false };
  all.set(publication, released);
  publication.mute();
  track.stop();
  blank.addEventListener("ended", stop);
  void publication.gone.promise.then(() => {
    released.isGone = true;
    blank.stop();
    stop();
  });
  // A media session that ends meanwhile is replaced, and the next one begins with what is sent then.
  publication.replaceTrack(blank).catch(() => undefined);
}

/**
 * Open what `releaseDevice` has let go, without negotiation, and unmute; the new track takes the old one's place in the
 * publication's stream. What was not released is unmuted.
 *
 * Where the device cannot be opened (`NotAllowedError`), this rejects and the publication stays muted.
 */
export async function restoreDevice(publication: Publication): Promise<void> {
  expectPublication(publication);
  const released = all.get(publication);
  if (released === undefined || released.blank !== publication.track) return publication.unmute();
  const attempt = (released.attempt ??= released.reopen());
  try {
    const track = await attempt;
    if (released.attempt !== attempt || released.isGone || publication.track !== released.blank) {
      // Released again, unpublished or replaced meanwhile: a device that nobody waits for must not stay open.
      if (track !== publication.track) track.stop();
      return;
    }
    const replaced = publication.replaceTrack(track);
    await Promise.resolve(); // a track of the wrong kind is refused at once
    if (publication.track === track) {
      released.blank.stop();
      released.blank.dispatchEvent(new Event("ended"));
      publication.stream.removeTrack(released.track);
      publication.stream.addTrack(track);
      publication.unmute();
    }
    await replaced;
  } finally {
    if (released.attempt === attempt) released.attempt = undefined;
  }
}

function expectPublication(publication: Publication | undefined | null): void {
  if (typeof publication?.replaceTrack === "function") return;
  throw new InvalidRequestError(`publication is ${typeof publication}, expected one of room.publish`);
}

/** Return what opens the device of a track again, and no other device. */
function reopenOf(track: MediaStreamTrack): Reopen {
  const { deviceId, displaySurface } = track.getSettings();
  if (!deviceId || displaySurface) {
    throw new InvalidRequestError("the track is of no camera or microphone, expected a function that opens it again");
  }
  const constraints = { ...track.getConstraints(), deviceId: { exact: deviceId } };
  return async () => {
    const stream = await navigator.mediaDevices.getUserMedia({ [track.kind]: constraints });
    return stream.getTracks()[0] as MediaStreamTrack;
  };
}

function makeBlank(kind: string): { blank: MediaStreamTrack; stop(): void } {
  if (kind === "audio") {
    const audio = new AudioContext();
    const { stream } = audio.createMediaStreamDestination();
    return { blank: stream.getTracks()[0] as MediaStreamTrack, stop: () => void audio.close().catch(() => undefined) };
  }
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { alpha: false });
  const draw = (): void => context?.fillRect(0, 0, canvas.width, canvas.height);
  draw();
  const timer = setInterval(draw, BLACK_INTERVAL);
  return { blank: canvas.captureStream().getTracks()[0] as MediaStreamTrack, stop: () => clearInterval(timer) };
}
