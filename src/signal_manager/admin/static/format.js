// Numbers and times as texts for people.

export function count(value) {
  return value >= 10_000 ? `${trim(value / 1000)}k` : trim(value);
}

function trim(value) {
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(2));
}

/** A short time, given in seconds. */
export function latency(seconds) {
  if (seconds >= 1) return `${trim(seconds)} s`;
  if (seconds >= 0.001) return `${trim(seconds * 1000)} ms`;
  return seconds ? `${trim(seconds * 1_000_000)} µs` : "0";
}

/** A long time, given in seconds. */
export function duration(seconds) {
  for (const [unit, length] of [["d", 86_400], ["h", 3600], ["min", 60]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}

export function ago(at) {
  return at ? `${duration(Date.now() / 1000 - at)} ago` : "";
}

export function bytes(value) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size) return `${trim(value / size)} ${unit}`;
  }
  return `${Math.round(value)} B`;
}

export function percent(share) {
  return `${trim(share * 100)} %`;
}
