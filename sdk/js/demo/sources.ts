/** What a member sends: the camera and the microphone, or a generated picture and tone that need no device. */

export type SourceKind = "camera" | "pattern" | "nothing";

/** A stream to publish, and how to end what makes it. */
export interface Source {
  readonly kind: SourceKind;
  /** Null when nothing is sent. */
  readonly stream: MediaStream | null;
  stop(): void;
}

/** The camera cannot be had; a person can do something about it, or use the pattern. */
export class CameraError extends Error {}

const WIDTH = 640;
const HEIGHT = 360;
const FRAME_RATE = 15;
const BARS = 8;

/**
 * Open a source.
 *
 * @param name is drawn into the pattern and chooses its colours and its tone.
 * @throws CameraError the camera or the microphone is not there, is in use, or was refused.
 */
export async function openSource(kind: SourceKind, name: string): Promise<Source> {
  if (kind === "pattern") return openPattern(name);
  if (kind === "nothing") return { kind, stream: null, stop: () => undefined };
  const stream = await openCamera();
  return { kind, stream, stop: () => stopTracks(stream) };
}

async function openCamera(): Promise<MediaStream> {
  // Absent on pages that are neither loopback nor https.
  const devices = navigator.mediaDevices as MediaDevices | undefined;
  if (devices === undefined) throw new CameraError("The browser gives a camera to https:// and localhost pages only.");
  try {
    return await devices.getUserMedia({ audio: true, video: { width: { ideal: WIDTH }, height: { ideal: HEIGHT } } });
  } catch (error) {
    throw new CameraError(explain((error as DOMException).name));
  }
}

function explain(reason: string): string {
  switch (reason) {
    case "NotAllowedError":
    case "SecurityError":
      return "The browser was not allowed to use the camera and microphone. Allow it in the address bar, and join again.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "There is no camera or no microphone.";
    case "NotReadableError":
    case "AbortError":
      return "The camera or microphone is in use by another program.";
    default:
      return `The camera could not be opened (${reason}).`;
  }
}

async function openPattern(name: string): Promise<Source> {
  const seed = [...name].reduce((sum, letter) => (sum * 131 + (letter.codePointAt(0) ?? 0) * 47) % 360, 7);
  const picture = drawPattern(name, seed);
  const tone = await playTone(220 + seed);
  const stream = new MediaStream([...picture.stream.getTracks(), ...tone.stream.getTracks()]);
  const stop = (): void => {
    picture.stop();
    tone.stop();
    stopTracks(stream);
  };
  return { kind: "pattern", stream, stop };
}

interface Part {
  stream: MediaStream;
  stop(): void;
}

function drawPattern(name: string, hue: number): Part {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const context = canvas.getContext("2d", { alpha: false });
  if (context === null) throw new Error("the browser cannot draw");
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const draw = (): void => drawFrame(context, name, hue, isCalm);
  draw();
  // A timer rather than animation frames: a window that is covered still has to send.
  const timer = setInterval(draw, 1000 / FRAME_RATE);
  return { stream: canvas.captureStream(FRAME_RATE), stop: () => clearInterval(timer) };
}

function drawFrame(context: CanvasRenderingContext2D, name: string, hue: number, isCalm: boolean): void {
  const now = new Date();
  const seconds = now.getSeconds() + (isCalm ? 0 : now.getMilliseconds() / 1000);
  const width = WIDTH / BARS;
  const shift = ((seconds / 4) % 1) * WIDTH;
  for (let bar = -BARS; bar < BARS; bar += 1) {
    const place = ((bar % BARS) + BARS) % BARS;
    context.fillStyle = `hsl(${hue + place * 12} 65% ${32 + place * 4}%)`;
    // A pixel wider than the bar, so that no gap shows between two of them.
    context.fillRect(bar * width + shift, 0, width + 1, HEIGHT);
  }
  context.fillStyle = "rgb(0 0 0 / 60%)";
  context.fillRect(0, HEIGHT * 0.3, WIDTH, HEIGHT * 0.42);
  context.fillStyle = "#fff";
  context.textAlign = "center";
  context.font = "600 72px ui-monospace, monospace";
  const tenths = isCalm ? "" : `.${Math.floor(now.getMilliseconds() / 100)}`;
  context.fillText(`${now.toTimeString().slice(0, 8)}${tenths}`, WIDTH / 2, HEIGHT * 0.53);
  context.font = "28px system-ui, sans-serif";
  context.fillText(name, WIDTH / 2, HEIGHT * 0.66, WIDTH - 40);
}

async function playTone(frequency: number): Promise<Part> {
  const audio = new AudioContext();
  const tone = new OscillatorNode(audio, { frequency });
  // Quiet: several of them may sound at once.
  const volume = new GainNode(audio, { gain: 0.04 });
  const output = audio.createMediaStreamDestination();
  tone.connect(volume).connect(output);
  tone.start();
  // Not waited for: without an output device it may never resolve, and the picture is worth having alone.
  void audio.resume();
  return { stream: output.stream, stop: () => void audio.close() };
}

function stopTracks(stream: MediaStream): void {
  for (const track of stream.getTracks()) track.stop();
}
