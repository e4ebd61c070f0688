// Fails when the bundle has grown past what a page should have to load for signaling.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const LIMIT_BYTES = 18 * 1024;

const bundle = readFileSync(new URL("../dist/signal-manager.js", import.meta.url));
const size = gzipSync(bundle, { level: 9 }).length;
console.log(`dist/signal-manager.js is ${bundle.length} bytes minified, ${size} gzipped; the limit is ${LIMIT_BYTES}`);
process.exitCode = size < LIMIT_BYTES ? 0 : 1;
