/**
 * Releases a camera or microphone while its publication is muted, so that its light goes out, and opens it again.
 *
 * Only pages that need it load this entry point, `signal-manager/devices`.
 */

import { InvalidRequestError, type Publication } from "./index.js";

// Ms between two black pictures of a released camera, because an SFU forgets tracks without packets.
const BLACK_INTERVAL = 500;

/** Opens a device again, and returns its track. */
export type Reopen = () => Promise<MediaStreamTrack>;

interface Released {
  reopen: Reopen;
  track: MediaStreamTrack; // the stopped track
  blank: MediaStreamTrack; // the track that is sent in its place
  isGone: boolean;
  attempt?: Promise<MediaStreamTrack> | undefined;
}

const all = new WeakMap<Publication, Released>();

/**
 * Mute a publication and stop its track; a black or silent one is sent in its place.
 *
 * @param reopen opens the track again; default: `getUserMedia` with the track's device and constraints.
 * @throws InvalidRequestError the track is not of a camera or microphone, and `reopen` is missing.
 */
export function releaseDevice(publication: Publication, reopen?: Reopen): void {
  expectPublication(publication);
  const { track } = publication;
  const before = all.get(publication);
  if (before !== undefined && before.blank === track) {
    before.attempt = undefined; // an open in progress is no longer wanted
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
  // If the media session ends meanwhile, the next one starts with the track that is sent then.
  publication.replaceTrack(blank).catch(() => undefined);
}

/**
 * Open a device that `releaseDevice` released, without negotiation, and unmute. The new track replaces the old one in the
 * publication's stream. A publication that was not released is only unmuted.
 *
 * If the device cannot be opened (`NotAllowedError`), this rejects and the publication stays muted.
 */
export async function restoreDevice(publication: Publication): Promise<void> {
  expectPublication(publication);
  const released = all.get(publication);
  if (released === undefined || released.blank !== publication.track) return publication.unmute();
  const attempt = (released.attempt ??= released.reopen());
  try {
    const track = await attempt;
    if (released.attempt !== attempt || released.isGone || publication.track !== released.blank) {
      // The publication was released again, unpublished or replaced meanwhile, so the device must not stay open.
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

/** Return a function that opens the same device again, and no other. */
function reopenOf(track: MediaStreamTrack): Reopen {
  const { deviceId, displaySurface } = track.getSettings();
  if (!deviceId || displaySurface) {
    throw new InvalidRequestError(
      "the track is not of a camera or microphone, expected a function that opens it again",
    );
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
