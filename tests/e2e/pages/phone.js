// Two of these pages call each other through the SDK as an application uses it: no SFU, the service only relays.
import { DirectCalls, SignalClient } from "./signal-manager.js";

const video = document.querySelector("video");

window.phone = {
  heard: [],
  reconnections: [],
  state: "",
  reason: "",

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
      call.answer(await camera());
    });
    await this.client.connect();
  },

  async dial(name) {
    this.follow(this.calls.dial(name, await camera()));
  },

  follow(call) {
    this.call = call;
    call.on("track", ({ streams }) => (video.srcObject = streams[0]));
    call.on("state", ({ state }) => (this.state = state));
    call.on("closed", ({ reason }) => (this.reason = reason));
  },

  async say(other, from, to) {
    for (let n = from; n < to; n += 1) {
      await this.client.sendMessage(other, n);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  },

  frames: () => video.getVideoPlaybackQuality().totalVideoFrames,
};

function camera() {
  return navigator.mediaDevices.getUserMedia({
    audio: true,
    video: { width: 320, height: 240 },
  });
}
