// Builds the entry points beside the SDK: they share its classes, because they import the bundle that the page has.
import { build } from "esbuild";

await build({
  entryPoints: ["src/devices.ts", "src/direct.ts", "src/speakers.ts", "src/stats.ts"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  sourcemap: true,
  outdir: "dist",
  plugins: [
    {
      name: "shared",
      setup({ onResolve }) {
        onResolve({ filter: /\/(index|errors)\.js$/ }, () => ({ path: "./signal-manager.js", external: true }));
      },
    },
  ],
});
