// One member of a room, through the SDK as an application uses it; the tests call its methods as `member.*`.
import { releaseDevice, restoreDevice } from "./devices.js";
import { SignalClient } from "./signal-manager.js";
import { activeSpeakers, audioLevels } from "./speakers.js";
import { connectionQuality, roomStats, watchStats } from "./stats.js";

const video = document.querySelector("video");
const canvas = document.createElement("canvas");
const context = canvas.getContext("2d", { willReadFrequently: true });

window.member = {
  peers: [],
  descriptions: 0, // that peer connections were given: each negotiation takes two
  opened: [], // every track of a device
  removed: 0,

  async join(url, name, token) {
    const counting = this;
    this.client = new SignalClient(url, name, token);
    await this.client.connect();
    this.room = await this.client.join("demo", {
      create: true,
      RTCPeerConnection: class extends RTCPeerConnection {
        constructor(...parameters) {
          super(...parameters);
          counting.peers.push(this);
        }
        setLocalDescription(...parameters) {
          counting.descriptions += 1;
          return super.setLocalDescription(...parameters);
        }
        setRemoteDescription(...parameters) {
          counting.descriptions += 1;
          return super.setRemoteDescription(...parameters);
        }
      },
    });
    this.room.on("track", ({ track }) => {
      if (track.kind === "video") video.srcObject = new MediaStream([track]);
      else this.play(track);
    });
    this.room.on("track-removed", () => (this.removed += 1));
  },

  // Chromium measures the energy of what is played only.
  play(track) {
    const audio = new Audio();
    audio.srcObject = new MediaStream([track]);
    audio.play();
  },

  async publish() {
    this.stream = await navigator.mediaDevices.getUserMedia({
      audio: true,
      video: { width: 320, height: 240 },
    });
    this.opened.push(...this.stream.getTracks());
    const published = await this.room.publish(this.stream);
    this.publications = Object.fromEntries(published.map((each) => [each.track.kind, each]));
  },

  // Publish a tone that is so loud; `setVolume` changes it.
  async publishTone() {
    const context = new AudioContext();
    const tone = context.createOscillator();
    this.volume = context.createGain();
    this.volume.gain.value = 0;
    const output = context.createMediaStreamDestination();
    tone.connect(this.volume).connect(output);
    tone.start();
    await this.room.publish(output.stream);
  },

  setVolume(gain) {
    this.volume.gain.value = gain;
  },

  // Hear who speaks, by the names before the dash of client ids; "me" is this client.
  listen() {
    const nameOf = (participant) => participant?.clientId.split("-")[0] ?? "me";
    this.speakers = [];
    this.levels = {};
    activeSpeakers(this.room, {}, (speakers) => {
      this.speakers = speakers.map(({ participant }) => nameOf(participant));
    });
    audioLevels(this.room, {}, (levels) => {
      this.levels = Object.fromEntries([...levels].map(([who, level]) => [nameOf(who), level]));
    });
  },

  heard() {
    return { speakers: this.speakers, levels: this.levels };
  },

  release(kind) {
    releaseDevice(this.publications[kind]);
  },

  async restore(kind) {
    await restoreDevice(this.publications[kind]);
    this.opened.push(this.publications[kind].track);
  },

  // What is sent: `opened` holds how the device's tracks are, oldest first.
  sending(kind) {
    const { track, muted } = this.publications[kind];
    return {
      muted,
      live: track.readyState === "live" && track.enabled,
      inStream: this.stream.getTracks().includes(track),
      opened: this.opened.filter((each) => each.kind === kind).map(({ readyState }) => readyState),
    };
  },

  async replace(color) {
    await this.publications.video.replaceTrack(paint(color));
  },

  setMuted(isMuted) {
    if (isMuted) this.publications.video.mute();
    else this.publications.video.unmute();
  },

  stats() {
    return roomStats(this.room);
  },

  // Watch until the room is closed; `qualities` holds what was seen: of the connection, and of the first other member.
  watch() {
    this.qualities = [];
    watchStats(this.room, { interval: 200 }, (stats) => {
      const [other] = this.room.participants.keys();
      this.qualities.push([connectionQuality(stats), other && connectionQuality(stats, other)]);
    });
  },

  lastQuality() {
    return this.qualities.at(-1) ?? null;
  },

  async leave() {
    const { length } = this.qualities;
    await this.room.leave();
    await new Promise((resolve) => setTimeout(resolve, 500));
    return this.qualities.length - length;
  },

  negotiated() {
    return {
      peers: this.peers.length,
      descriptions: this.descriptions,
      removed: this.removed,
    };
  },

  // The middle of a corner of the picture: the fake camera is green there, and its pie is not.
  picture() {
    const track = [...this.room.participants.values()][0]?.tracks.get("video");
    const { videoWidth, videoHeight } = video;
    if (videoWidth === 0) return { color: "none", frames: 0, muted: track?.muted };
    canvas.width = 1;
    canvas.height = 1;
    context.drawImage(video, videoWidth / 16, videoHeight / 16, videoWidth / 16, videoHeight / 16, 0, 0, 1, 1);
    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
    const strongest = Math.max(red, green, blue);
    const color = strongest < 50 ? "black" : ["red", "green", "blue"][[red, green, blue].indexOf(strongest)];
    return {
      color,
      frames: video.getVideoPlaybackQuality().totalVideoFrames,
      muted: track?.muted,
    };
  },

  async energy() {
    let energy = 0;
    for (const report of (await this.peers.at(-1).getStats()).values()) {
      if (report.type === "inbound-rtp") energy += report.totalAudioEnergy ?? 0;
    }
    return energy;
  },
};

// A picture of one colour that goes on; a canvas sends only what is drawn.
function paint(color) {
  const picture = document.createElement("canvas");
  const brush = picture.getContext("2d", { alpha: false });
  picture.width = 320;
  picture.height = 240;
  const draw = () => {
    brush.fillStyle = color;
    brush.fillRect(0, 0, 320, 240);
  };
  draw();
  setInterval(draw, 100);
  return picture.captureStream().getTracks()[0];
}
