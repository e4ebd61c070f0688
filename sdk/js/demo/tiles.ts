/** The grid of members: one tile each, with picture, sound, name and figures. */

import type { Figures } from "./statistics.js";

/** Which kinds of a member's tracks are muted, each of them as a whole. */
export interface Muted {
  readonly audio: boolean;
  readonly video: boolean;
}

/** Finds an element that the page is written with. */
export function byId<T extends HTMLElement>(id: string, type: new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`the page has no ${type.name} #${id}`);
  return element;
}

function make(tag: string, className: string, text = ""): HTMLElement {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** One member. */
class Tile {
  readonly element = make("li", "tile");
  readonly #stream = new MediaStream();
  readonly #video = document.createElement("video");
  readonly #figures = make("span", "figures");
  readonly #away = make("span", "away", "away");
  readonly #badge = make("span", "muted");
  readonly #play: HTMLElement;
  #muted: Muted = { audio: false, video: false };

  constructor(clientId: string, name: string, { isOwn = false, isMirrored = false } = {}) {
    this.element.dataset["participant"] = clientId;
    this.element.dataset["name"] = name;
    this.element.dataset["own"] = String(isOwn);
    this.element.classList.toggle("mirrored", isMirrored);
    this.#video.autoplay = true;
    this.#video.playsInline = true;
    this.#video.muted = isOwn; // nobody wants to hear themselves
    this.#video.setAttribute("aria-label", `Video of ${name}`);
    this.#video.srcObject = this.#stream;
    this.#play = make("button", "play", "Play");
    this.#play.hidden = true;
    this.#play.addEventListener("click", () => void this.#start());
    const initial = make("span", "initial", [...name][0]?.toUpperCase() ?? "");
    initial.setAttribute("aria-hidden", "true");
    const caption = make("div", "caption");
    this.#away.hidden = true;
    caption.append(make("span", "who", isOwn ? `${name} (you)` : name), this.#badge, this.#away, this.#figures);
    this.element.append(initial, this.#video, caption, this.#play);
    this.markMuted(this.#muted);
  }

  add(track: MediaStreamTrack): void {
    // After a reconnect, a track takes the place of the one before.
    for (const old of this.#stream.getTracks()) if (old.kind === track.kind) this.#stream.removeTrack(old);
    this.#stream.addTrack(track);
    this.#showWhetherLive();
    void this.#start();
  }

  remove(track: MediaStreamTrack): void {
    this.#stream.removeTrack(track);
    this.#showWhetherLive();
  }

  show(figures: Map<string, Figures>): void {
    for (const track of this.#stream.getTracks()) {
      const each = figures.get(track.id);
      if (each === undefined) continue;
      if (each.kind === "video") this.#showVideo(each);
      else this.#note({ energy: each.energy, "audio-lost": each.lost, "audio-codec": each.codec });
    }
  }

  /** Say on the tile whether its member is away. */
  markAway(isAway: boolean): void {
    this.element.dataset["away"] = String(isAway);
    this.#away.hidden = !isAway;
  }

  /** Say on the tile what is muted; in place of a muted picture, which is black, there is the name's first letter. */
  markMuted(muted: Muted): void {
    this.#muted = muted;
    const { audio, video } = muted;
    this.#badge.textContent = audio && video ? "sound and picture muted" : audio ? "sound muted" : "picture muted";
    this.#badge.hidden = !audio && !video;
    this.element.dataset["muted"] = [audio && "audio", video && "video"].filter(Boolean).join(" ");
    this.#figures.hidden = video;
    this.#showWhetherLive();
  }

  end(): void {
    this.#video.srcObject = null;
    this.element.remove();
  }

  #showVideo({ width, height, frames, framesPerSecond, loss, lost, codec }: Figures): void {
    const parts = [`${Math.round(framesPerSecond)} frames/s`];
    if (width > 0) parts.unshift(`${width}×${height}`);
    if (loss !== null) parts.push(`${(loss * 100).toFixed(1)} % lost`);
    this.#figures.textContent = parts.join(" · ");
    this.#note({ width, height, frames, lost, codec });
  }

  #note(facts: Record<string, number | string>): void {
    for (const [name, value] of Object.entries(facts)) this.element.setAttribute(`data-${name}`, String(value));
  }

  #showWhetherLive(): void {
    this.element.classList.toggle("live", this.#stream.getVideoTracks().length > 0 && !this.#muted.video);
  }

  /** Play; a browser that wants to be asked by a person gets a button for it. */
  async #start(): Promise<void> {
    try {
      await this.#video.play();
      this.#play.hidden = true;
    } catch (error) {
      if ((error as DOMException).name === "NotAllowedError") this.#play.hidden = false;
    }
  }
}

/** All tiles, by client id. */
export class Tiles {
  readonly #list: HTMLElement;
  readonly #tiles = new Map<string, Tile>();

  constructor(list: HTMLElement) {
    this.#list = list;
  }

  get count(): number {
    return this.#tiles.size;
  }

  add(clientId: string, name: string, options: { isOwn?: boolean; isMirrored?: boolean } = {}): void {
    this.remove(clientId);
    const tile = new Tile(clientId, name, options);
    this.#tiles.set(clientId, tile);
    this.#list.append(tile.element);
  }

  remove(clientId: string): void {
    this.#tiles.get(clientId)?.end();
    this.#tiles.delete(clientId);
  }

  removeAll(): void {
    for (const clientId of [...this.#tiles.keys()]) this.remove(clientId);
  }

  addTrack(clientId: string, track: MediaStreamTrack): void {
    this.#tiles.get(clientId)?.add(track);
  }

  removeTrack(clientId: string, track: MediaStreamTrack): void {
    this.#tiles.get(clientId)?.remove(track);
  }

  markAway(clientId: string, isAway: boolean): void {
    this.#tiles.get(clientId)?.markAway(isAway);
  }

  markMuted(clientId: string, muted: Muted): void {
    this.#tiles.get(clientId)?.markMuted(muted);
  }

  show(figures: Map<string, Figures>): void {
    for (const tile of this.#tiles.values()) tile.show(figures);
  }
}
