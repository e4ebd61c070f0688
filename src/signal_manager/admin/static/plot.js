// A line plot in SVG of the last fifteen minutes. The legend shows the values at the cursor; the pointer and the arrow keys
// move it.

const SVG = "http://www.w3.org/2000/svg";
const MINUTES = 15;
const LEFT = 46;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 20;
// The line breaks where samples are further apart than this, in seconds, because the service was not reachable.
const GAP = 8;

function svg(name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function html(name, text = "", className = "") {
  const element = document.createElement(name);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

/** Return the smallest of 1, 2, 5, 10, 20, … that is at least the value. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value * 0.999) * power;
}

export class Plot {
  /**
   * @param {string} title
   * @param {{name: string, value: (sample: object) => number | null}[]} series up to three
   * @param {(value: number) => string} format of a value, for the axis and the legend
   * @param {number} least the lowest upper end of the axis
   */
  constructor(title, series, format, least) {
    this.title = title;
    this.series = series;
    this.format = format;
    this.least = least;
    this.samples = [];
    this.at = null; // the moment under the cursor, or null for now
    this.element = html("figure", "", "card plot");
    const caption = html("figcaption");
    this.time = html("span", "", "time");
    caption.append(html("h2", title), this.time);
    this.values = series.map(({ name }, index) => {
      const legend = html("span", `${name} `, `legend series-${index}`);
      const value = html("b", "–");
      legend.append(value);
      caption.append(legend);
      return value;
    });
    this.svg = svg("svg", { tabindex: "0", role: "img" });
    this.element.append(caption, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => this.#moveTo(null));
    this.svg.addEventListener("blur", () => this.#moveTo(null));
    this.svg.addEventListener("keydown", (event) => this.#press(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  show(samples) {
    this.samples = samples;
    this.draw();
  }

  draw() {
    const { width, height } = this.svg.getBoundingClientRect();
    if (!width) return;
    const now = this.samples.at(-1)?.at ?? Date.now() / 1000;
    const from = now - MINUTES * 60;
    const samples = this.samples.filter((sample) => sample.at >= from);
    const known = samples.flatMap((sample) => this.series.map(({ value }) => value(sample) ?? 0));
    const highest = roundUp(Math.max(this.least, ...known));
    this.x = (at) => LEFT + ((at - from) / (MINUTES * 60)) * (width - LEFT - RIGHT);
    const y = (value) => height - BOTTOM - (value / highest) * (height - TOP - BOTTOM);
    const parts = [...this.#axes(width, height, highest, y)];
    this.series.forEach(({ value }, index) => {
      parts.push(svg("path", { class: `series-${index}`, d: this.#line(samples, value, y) }));
    });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.cursor = svg("line", { class: "cursor", y1: TOP, y2: height - BOTTOM });
    this.svg.replaceChildren(...parts, this.cursor);
    this.#tell();
  }

  *#axes(width, height, highest, y) {
    for (const share of [0, 0.5, 1]) {
      const level = y(highest * share);
      yield svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: level, y2: level });
      const label = svg("text", { x: LEFT - 6, y: level + 4, "text-anchor": "end" });
      label.textContent = this.format(highest * share);
      yield label;
    }
    for (const minutes of [15, 10, 5, 0]) {
      const x = LEFT + (1 - minutes / MINUTES) * (width - LEFT - RIGHT);
      const anchor = minutes === 15 ? "start" : minutes ? "middle" : "end";
      const label = svg("text", { x, y: height - 5, "text-anchor": anchor });
      label.textContent = minutes ? `−${minutes} min` : "now";
      yield label;
    }
  }

  #line(samples, value, y) {
    let path = "";
    let last = -Infinity;
    for (const sample of samples) {
      const shown = value(sample);
      if (shown === null) continue;
      path += `${sample.at - last > GAP ? "M" : "L"}${this.x(sample.at).toFixed(1)} ${y(shown).toFixed(1)}`;
      last = sample.at;
    }
    return path;
  }

  #point(event) {
    const { left } = this.svg.getBoundingClientRect();
    let nearest = null;
    for (const sample of this.samples) {
      const distance = Math.abs(this.x(sample.at) - (event.clientX - left));
      if (nearest === null || distance < nearest.distance) nearest = { distance, at: sample.at };
    }
    this.#moveTo(nearest?.at ?? null);
  }

  #press(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.samples.length) return;
    event.preventDefault();
    const present = this.samples.findIndex((sample) => sample.at === this.at);
    const index = (present < 0 ? this.samples.length - 1 : present) + step * (event.shiftKey ? 15 : 1);
    this.#moveTo(this.samples[Math.min(Math.max(index, 0), this.samples.length - 1)].at);
  }

  #moveTo(at) {
    this.at = at;
    this.#tell();
  }

  /** Show the values at the cursor, or the latest ones. */
  #tell() {
    const sample = this.samples.find(({ at }) => at === this.at) ?? this.samples.at(-1);
    this.time.textContent = this.at && sample ? new Date(sample.at * 1000).toLocaleTimeString("en-GB") : "";
    const said = this.series.map(({ name, value }, index) => {
      const shown = sample ? value(sample) : null;
      this.values[index].textContent = shown === null ? "–" : this.format(shown);
      return `${name} ${this.values[index].textContent}`;
    });
    this.svg.setAttribute("aria-label", `${this.title}: ${said.join(", ")}`);
    if (!this.cursor) return;
    this.cursor.style.display = this.at ? "" : "none";
    if (!this.at || !sample) return;
    this.cursor.setAttribute("x1", this.x(sample.at));
    this.cursor.setAttribute("x2", this.x(sample.at));
  }
}
