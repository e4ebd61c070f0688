// Builds dist/devices.js beside the SDK, whose error classes it shares: it imports the bundle that the page has.
import { build } from "esbuild";

await build({
  entryPoints: ["src/devices.ts"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  outfile: "dist/devices.js",
  plugins: [
    {
      name: "shared",
      setup({ onResolve }) {
        onResolve({ filter: /index\.js$/ }, () => ({ path: "./signal-manager.js", external: true }));
      },
    },
  ],
});
