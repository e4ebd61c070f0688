// Fails when an entry point has grown past what a page should have to load for it.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

// In bytes, gzipped. The first is what every page loads; the others come on top of it.
const LIMITS = {
  "signal-manager.js": 17_900,
  "direct.js": 4_000,
  "devices.js": 1_000,
  "speakers.js": 1_900,
  "stats.js": 2_700,
};

for (const [name, limit] of Object.entries(LIMITS)) {
  const bundle = readFileSync(new URL(`../dist/${name}`, import.meta.url));
  const size = gzipSync(bundle, { level: 9 }).length;
  console.log(`dist/${name} is ${bundle.length} bytes minified, ${size} gzipped; the limit is ${limit}`);
  if (size > limit) process.exitCode = 1;
}
