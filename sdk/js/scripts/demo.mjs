// Builds the demo page into the Python package, whose wheel has it ready; --check only compares what is there.
import { build } from "esbuild";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

const source = fileURLToPath(new URL("../demo/", import.meta.url));
const target = fileURLToPath(new URL("../../../src/signal_manager/admin/demo/", import.meta.url));

const { outputFiles } = await build({
  entryPoints: ["demo.ts", "demo.css", "index.html"].map((name) => join(source, name)),
  outdir: target,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  loader: { ".html": "copy" },
  write: false,
});

if (process.argv.includes("--check")) {
  const stale = outputFiles
    .filter(({ path, contents }) => !isCurrent(path, contents))
    .map(({ path }) => basename(path));
  console.log(stale.length > 0 ? `stale: ${stale.join(", ")}; run: npm run build:demo` : "the demo page is current");
  process.exitCode = stale.length > 0 ? 1 : 0;
} else {
  mkdirSync(target, { recursive: true });
  for (const { path, contents } of outputFiles) writeFileSync(path, contents);
  console.log(outputFiles.map(({ path, contents }) => `${basename(path)}: ${contents.length} bytes`).join("\n"));
}

function isCurrent(path, contents) {
  try {
    return readFileSync(path).equals(contents);
  } catch {
    return false;
  }
}
