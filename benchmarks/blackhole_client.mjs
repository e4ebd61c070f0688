// A client of the browser SDK that does what it is told on stdin and says on stdout what has happened, one word a line.
//
//     node blackhole_client.mjs URL NAME TOKEN SDK_MODULE SDK_DIRECTORY
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const [url, name, token, module, directory] = process.argv.slice(2);
// What a browser's window is told of its network, this one is told on stdin.
const window = new EventTarget();
globalThis.addEventListener = window.addEventListener.bind(window);
globalThis.removeEventListener = window.removeEventListener.bind(window);

const { SignalClient } = await import(module);
const { WebSocket } = createRequire(join(directory, "package.json"))("ws");
const client = new SignalClient(url, name, token, { WebSocket, requestTimeout: 60_000 });
const say = (word) => console.log(word);
client.on("reconnected", ({ resumed }) => say(resumed ? "back" : "lost"));
client.on("closed", () => say("closed"));
await client.connect();
say("connected");

const works = {
  async join() {
    const room = await client.join(name, { create: true });
    room.on("reconnecting", () => say("rejoined"));
    say("joined");
  },
  async ask() {
    await client.request("ICE_SERVERS", {});
    say("asked");
  },
  reconnect: () => client.reconnect(),
  online: async () => window.dispatchEvent(new Event("online")),
  nothing: async () => undefined,
  close: () => client.close(),
};

for await (const word of createInterface({ input: process.stdin })) {
  works[word]().catch((error) => say(`failed: ${error.message}`));
}
