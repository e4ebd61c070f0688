// Two of these pages call each other through the SDK as an application uses it: no SFU, the service only relays.
import { DirectCalls } from "./direct.js";
import { SignalClient } from "./signal-manager.js";

const video = document.querySelector("video");

window.phone = {
  heard: [],
  reconnections: [],
  state: "",
  reason: "",
  answers: true,
  tiles: new Map(), // what is seen of each call
  faults: [],

  async connect(url, name, token) {
    this.client = new SignalClient(url, name, token, {
      retry: { baseDelay: 50 },
    });
    this.client.on("message", ({ data }) => this.heard.push(data));
    this.client.on("reconnected", ({ resumed }) =>
      this.reconnections.push(resumed),
    );
    this.calls = new DirectCalls(this.client);
    this.calls.on("incoming", async ({ call }) => {
      this.follow(call);
      if (!this.answers) return;
      const stream = await camera();
      if (call.isRinging) call.answer(stream);
    });
    await this.client.connect();
  },

  async dial(name) {
    const stream = await camera();
    this.follow(this.calls.dial(name, stream));
  },

  // Dials again, and tells what the browser thought of the connection before.
  async redial(name) {
    const was = this.state;
    await this.dial(name);
    return was;
  },

  follow(call) {
    if (this.call === call) return;
    this.call = call;
    this.state = "";
    call.on("track", ({ streams }) => {
      this.tiles.set(call, streams[0]);
      video.srcObject = streams[0];
    });
    call.on("state", ({ state }) => {
      if (call === this.call) this.state = state;
    });
    call.on("error", ({ error }) => this.faults.push(String(error)));
    call.on("closed", ({ reason }) => {
      this.tiles.delete(call);
      this.reason = reason;
    });
  },

  async say(other, from, to) {
    for (let n = from; n < to; n += 1) {
      await this.client.sendMessage(other, n);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  },

  sight() {
    return {
      calls: this.calls.active.size,
      tiles: this.tiles.size,
      state: this.state,
      ringing: this.call?.isRinging ?? false,
    };
  },

  frames: () => video.getVideoPlaybackQuality().totalVideoFrames,
};

let opened;

function camera() {
  opened ??= navigator.mediaDevices.getUserMedia({
    audio: true,
    video: { width: 320, height: 240 },
  });
  return opened;
}
