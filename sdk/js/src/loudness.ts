/** Smooths levels, and decides from them who speaks. `speakers.ts` measures the levels. */

// How fast a smoothed level rises and falls: the ms in which it covers 63 % of the way.
const ATTACK = 50;
const RELEASE = 300;
// The same of the loudness by which speakers are ordered.
const MEMORY = 1000;

// Sound is from one level on, silence below another one.
const LOUD = 0.02;
const QUIET = 0.01;

// A member speaks when it made sound for more than half of the last time, by a mean that forgets within so many ms: after
// 350 ms of sound, while a cough is shorter, and in spite of the gaps between words.
const PRESENCE = 0.5;
const PRESENCE_MEMORY = 500;

// It speaks until so many ms of silence.
const END = 1000;

// A speaker passes the one before it when it is so many times as loud.
const LOUDER = 1.5;

interface State {
  level: number;
  loudness: number;
  presence: number; // the share of the last time with sound
  heardAt: number; // when the last sound was
}

/** The levels and speakers of one room; `Who` is a member. */
export class Detector<Who> {
  /** The smoothed levels, from 0 to 1. */
  readonly levels = new Map<Who, number>();
  /** Who speaks, the loudest first. */
  readonly speakers: Who[] = [];
  readonly #states = new Map<Who, State>();
  #last: number | undefined;

  /** Take the levels at a time in ms; who is not among them is gone. */
  update(levels: ReadonlyMap<Who, number>, now: number): void {
    const passed = now - (this.#last ?? now);
    this.#last = now;
    for (const who of [...this.#states.keys()]) if (!levels.has(who)) this.#forget(who);
    for (const [who, level] of levels) this.#take(who, level, passed, now);
    this.#order();
  }

  #forget(who: Who): void {
    this.#states.delete(who);
    this.levels.delete(who);
    this.#silence(who);
  }

  #silence(who: Who): void {
    const place = this.speakers.indexOf(who);
    if (place >= 0) this.speakers.splice(place, 1);
  }

  #take(who: Who, raw: number, passed: number, now: number): void {
    const state = this.#states.get(who) ?? { level: 0, loudness: 0, presence: 0, heardAt: 0 };
    this.#states.set(who, state);
    state.level = approach(state.level, raw, passed, raw > state.level ? ATTACK : RELEASE);
    state.loudness = approach(state.loudness, state.level, passed, MEMORY);
    state.presence = approach(state.presence, raw >= LOUD ? 1 : 0, passed, PRESENCE_MEMORY);
    this.levels.set(who, state.level);
    if (raw >= QUIET) state.heardAt = now;
    const speaks = this.speakers.includes(who);
    if (speaks && now - state.heardAt >= END) this.#silence(who);
    else if (!speaks && state.presence >= PRESENCE) this.speakers.push(who);
  }

  /** Let each speaker pass those before it that are clearly quieter. */
  #order(): void {
    const { speakers } = this;
    const loudness = (index: number): number => this.#states.get(speakers[index] as Who)?.loudness ?? 0;
    for (let end = 1; end < speakers.length; end += 1) {
      for (let place = end; place > 0 && loudness(place) > LOUDER * loudness(place - 1); place -= 1) {
        const [who] = speakers.splice(place, 1);
        speakers.splice(place - 1, 0, who as Who);
      }
    }
  }
}

function approach(from: number, to: number, passed: number, time: number): number {
  return to + (from - to) * Math.exp(-passed / time);
}
