// One PeerConnection that speaks Cloudflare Realtime's HTTP interface; the tests call its methods as `client.*`.

const parameters = new URLSearchParams(location.search);
const root = `/v1/apps/${parameters.get("app")}/sessions`;

export class Client {
  constructor() {
    this.pc = new RTCPeerConnection({ iceServers: [], bundlePolicy: "max-bundle" });
    this.videos = {}; // mid -> element
    this.channels = {};
    this.received = [];
    this.pc.addEventListener("track", ({ track, transceiver }) => this.show(track, transceiver));
  }

  async call(method, path, body) {
    const response = await fetch(root + path, {
      method,
      headers: { authorization: `Bearer ${parameters.get("secret")}` },
      body: body && JSON.stringify(body),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(`${response.status} ${JSON.stringify(answer)}`);
    return answer;
  }

  async open() {
    this.id = (await this.call("POST", "/new")).sessionId;
    return this.id;
  }

  async connected() {
    while (this.pc.connectionState !== "connected") {
      await new Promise((resolve) => this.pc.addEventListener("connectionstatechange", resolve, { once: true }));
    }
  }

  async offer() {
    await this.pc.setLocalDescription(await this.pc.createOffer());
    return { type: "offer", sdp: this.pc.localDescription.sdp };
  }

  // tracks: {name: "video" | "audio"}
  async publish(tracks, { codec, rids, width = 640, height = 480 } = {}) {
    const kinds = Object.values(tracks);
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: kinds.includes("audio"),
      video: kinds.includes("video") && { width, height, frameRate: 30 },
    });
    const senders = Object.entries(tracks).map(([trackName, kind]) => {
      const track = stream.getTracks().find((candidate) => candidate.kind === kind);
      const layers = { f: [1, 600_000], h: [2, 200_000], q: [4, 100_000] };
      const sendEncodings = rids?.map((rid) => {
        const [scaleResolutionDownBy, maxBitrate] = layers[rid];
        return { rid, scaleResolutionDownBy, maxBitrate };
      });
      const transceiver = this.pc.addTransceiver(track, { direction: "sendonly", sendEncodings });
      // A busy machine makes Chromium give up pictures instead of whole layers.
      if (rids) transceiver.sender.setParameters({ ...transceiver.sender.getParameters(), degradationPreference: "maintain-resolution" });
      if (codec && kind === "video") {
        const { codecs } = RTCRtpSender.getCapabilities("video");
        const wanted = codecs.filter(({ mimeType }) => mimeType === `video/${codec}` || mimeType === "video/rtx");
        transceiver.setCodecPreferences(wanted);
      }
      return { trackName, transceiver };
    });
    const sessionDescription = await this.offer();
    const items = senders.map(({ trackName, transceiver }) => ({ location: "local", mid: transceiver.mid, trackName }));
    const answer = await this.call("POST", `/${this.id}/tracks/new`, { sessionDescription, tracks: items });
    await this.pc.setRemoteDescription(answer.sessionDescription);
    return answer.tracks;
  }

  async pull(tracks) {
    const body = { tracks: tracks.map((track) => ({ location: "remote", ...track })) };
    const answer = await this.call("POST", `/${this.id}/tracks/new`, body);
    if (answer.requiresImmediateRenegotiation) await this.answer(answer.sessionDescription);
    return answer.tracks;
  }

  async answer(offer) {
    await this.pc.setRemoteDescription(offer);
    await this.pc.setLocalDescription(await this.pc.createAnswer());
    const sessionDescription = { type: "answer", sdp: this.pc.localDescription.sdp };
    await this.call("PUT", `/${this.id}/renegotiate`, { sessionDescription });
  }

  async close(mids) {
    for (const transceiver of this.pc.getTransceivers()) {
      if (mids.includes(transceiver.mid)) transceiver.stop();
    }
    const sessionDescription = await this.offer();
    const body = { tracks: mids.map((mid) => ({ mid })), force: false, sessionDescription };
    const answer = await this.call("PUT", `/${this.id}/tracks/close`, body);
    await this.pc.setRemoteDescription(answer.sessionDescription);
    return answer.tracks;
  }

  async prefer(mid, preferredRid) {
    return this.call("PUT", `/${this.id}/tracks/update`, { tracks: [{ mid, simulcast: { preferredRid } }] });
  }

  async restartIce() {
    this.pc.restartIce();
    const sessionDescription = await this.offer();
    const answer = await this.call("PUT", `/${this.id}/renegotiate`, { sessionDescription });
    await this.pc.setRemoteDescription(answer.sessionDescription);
  }

  async establish() {
    const body = { dataChannel: { location: "remote", dataChannelName: "server-events" } };
    const answer = await this.call("POST", `/${this.id}/datachannels/establish`, body);
    await this.answer(answer.sessionDescription);
    await this.connected();
  }

  async channel(item) {
    const answer = await this.call("POST", `/${this.id}/datachannels/new`, { dataChannels: [item] });
    const [{ id }] = answer.dataChannels;
    const channel = this.pc.createDataChannel(item.dataChannelName, { negotiated: true, id });
    channel.addEventListener("message", ({ data }) => this.received.push(data));
    if (channel.readyState !== "open") {
      await new Promise((resolve) => channel.addEventListener("open", resolve, { once: true }));
    }
    this.channels[item.dataChannelName] = channel;
    return answer.dataChannels[0];
  }

  send(name, data) {
    this.channels[name].send(data);
  }

  show(track, transceiver) {
    if (track.kind === "audio") {
      // Chromium measures the level of what is played only.
      const audio = new Audio();
      audio.srcObject = new MediaStream([track]);
      audio.play();
      return;
    }
    const video = document.createElement("video");
    video.id = `mid-${transceiver.mid}`;
    video.muted = video.autoplay = video.playsInline = true;
    video.srcObject = new MediaStream([track]);
    document.body.append(video);
  }

  async received_of(mid) {
    const transceiver = this.pc.getTransceivers().find((candidate) => candidate.mid === mid);
    const report = await transceiver.receiver.getStats();
    return [...report.values()].find(({ type }) => type === "inbound-rtp") ?? {};
  }

  async sent() {
    const report = await this.pc.getStats();
    return [...report.values()].filter(({ type }) => type === "outbound-rtp");
  }

  async codec_of(mid) {
    const transceiver = this.pc.getTransceivers().find((candidate) => candidate.mid === mid);
    const report = await transceiver.receiver.getStats();
    return [...report.values()].find(({ type }) => type === "codec")?.mimeType;
  }

  sections() {
    return this.pc.remoteDescription.sdp.split("\r\nm=").length - 1;
  }
}

window.client = new Client();
