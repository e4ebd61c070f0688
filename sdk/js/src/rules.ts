/**
 * What each field of each message must be, for what is sent and for what is received alike.
 *
 * Made by tools/protocol from src/signal_manager/protocol: do not edit.
 */

import type { MessageType } from "./messages.js";
import { anything, count, flag, amount, listOf, maybe, name, object, oneOf, part, places, tag, text, MAX_ITEMS, type Rules } from "./fields.js";

const resumeRules = part({
  session_id: text,
  resume_token: text,
  received: count,
});

const publishedTrackRules = part({
  mid: tag,
  track_name: name,
  kind: maybe(text),
  muted: maybe(flag),
});

const simulcastRules = part({
  preferred_rid: tag,
  priority_ordering: maybe(oneOf("asciibetical", "none")),
  rid_not_available: maybe(oneOf("asciibetical", "none")),
});

const trackRequestRules = part({
  mid: maybe(tag),
  track_name: name,
  kind: maybe(oneOf("audio", "video")),
  client_id: maybe(name),
  session_id: maybe(name),
  simulcast: maybe(simulcastRules),
  muted: maybe(flag),
});

const trackMuteRules = part({
  mid: tag,
  muted: flag,
});

const trackMidRules = part({
  mid: tag,
});

const trackUpdateRules = part({
  mid: tag,
  track_name: maybe(name),
  client_id: maybe(name),
  session_id: maybe(name),
  simulcast: maybe(simulcastRules),
});

const trackResultRules = part({
  mid: maybe(text),
  track_name: maybe(text),
  kind: maybe(text),
  client_id: maybe(text),
  session_id: maybe(text),
  error_code: maybe(count),
  error_message: maybe(text),
});

const dataChannelRequestRules = part({
  location: oneOf("local", "remote"),
  data_channel_name: name,
  client_id: maybe(name),
  session_id: maybe(name),
  ordered: maybe(flag),
  max_retransmits: maybe(count),
  max_packet_life_time: maybe(count),
  wait_for_ack: maybe(flag),
  can_reply: maybe(flag),
});

const dataChannelResultRules = part({
  data_channel_name: text,
  id: maybe(count),
  location: maybe(text),
  client_id: maybe(text),
  session_id: maybe(text),
  error_code: maybe(count),
  error_message: maybe(text),
});

const iceServerRules = part({
  urls: listOf(text),
  username: maybe(text),
  credential: maybe(text),
});

const connectionInfoRules = part({
  room_id: text,
  role: text,
  app_id: text,
  session_id: text,
  status: text,
  metadata: object,
});

const memberRules = part({
  client_id: text,
  role: text,
  session_id: maybe(text),
  metadata: maybe(object),
  tracks: maybe(listOf(publishedTrackRules)),
  away: maybe(flag),
});

const sentPublishedTrackRules = part({
  mid: tag,
  track_name: name,
  kind: maybe(oneOf("audio", "video")),
  muted: maybe(flag),
});

const signalRules = {
  target_client_id: maybe(name),
  sender_client_id: maybe(name),
  signal_data: anything,
  ack: maybe(flag),
};

const requestRules = {
  version: maybe(text),
  client_id: maybe(name),
  auth_token: maybe(text),
};

const roomEntryRules = {
  ...requestRules,
  role: text,
  offer_sdp: maybe(text),
  tracks: maybe(listOf(sentPublishedTrackRules, MAX_ITEMS)),
  metadata: maybe(object),
};

const roomAckRules = {
  version: text,
  status: count,
  message: text,
  room_id: text,
  session_id: text,
  app_id: text,
  stun_url: text,
  ice_servers: listOf(iceServerRules),
  connection_info: connectionInfoRules,
  answer_sdp: maybe(text),
  offer_sdp: maybe(text),
  requires_renegotiation: maybe(flag),
  participants: listOf(memberRules),
  tracks: listOf(trackResultRules),
  sequence: count,
};

/** By message type. */
export const RULES: Record<MessageType, Rules> = {
  CONNECT: {
  client_id: name,
  auth_token: text,
  version: maybe(text),
  capabilities: maybe(listOf(text, MAX_ITEMS)),
  metadata: maybe(object),
  instance_id: maybe(text),
  resumable: maybe(flag),
  resume: maybe(resumeRules),
  },
  CONNECT_ACK: {
  status: text,
  session_id: text,
  server_version: maybe(text),
  heartbeat_interval: maybe(amount),
  heartbeat_timeout: maybe(amount),
  capabilities: maybe(listOf(text)),
  resume_token: maybe(text),
  resume_window: maybe(amount),
  resumed: maybe(flag),
  received: maybe(count),
  token_expires_at: maybe(count),
  token_expiry: maybe(text),
  },
  DISCONNECT: {
  client_id: maybe(name),
  reason: maybe(text),
  },
  HEARTBEAT: {
  timestamp: maybe(count),
  received: maybe(count),
  },
  HEARTBEAT_ACK: {
  timestamp: count,
  server_time: maybe(count),
  received: maybe(count),
  },
  GOAWAY: {
  reason: text,
  reconnect_after: count,
  },
  TOKEN_RENEW: {
  auth_token: text,
  },
  TOKEN_RENEW_ACK: {
  status: count,
  expires_at: maybe(count),
  },
  SIGNAL_OFFER: signalRules,
  SIGNAL_ANSWER: signalRules,
  SIGNAL_ICE_CANDIDATE: signalRules,
  SIGNAL_MESSAGE: {
  ...signalRules,
  room_id: maybe(name),
  },
  SIGNAL_ACK: {
  status: text,
  target_client_id: maybe(name),
  },
  REGISTER: {
  version: maybe(text),
  client_id: maybe(name),
  auth_token: maybe(text),
  room_id: maybe(name),
  capabilities: maybe(listOf(text, MAX_ITEMS)),
  metadata: maybe(object),
  },
  REGISTER_ACK: {
  version: text,
  status: count,
  message: text,
  client_id: text,
  session_id: text,
  },
  UNREGISTER: {
  version: maybe(text),
  client_id: maybe(name),
  auth_token: maybe(text),
  },
  UNREGISTER_ACK: {
  version: text,
  status: count,
  message: text,
  client_id: text,
  },
  WEBRTC_ROOM_CREATE: {
  ...roomEntryRules,
  room_id: maybe(name),
  max_participants: maybe(places),
  },
  WEBRTC_ROOM_CREATE_ACK: roomAckRules,
  WEBRTC_ROOM_JOIN: {
  ...roomEntryRules,
  room_id: name,
  create_if_missing: maybe(flag),
  max_participants: maybe(places),
  },
  WEBRTC_ROOM_JOIN_ACK: {
  ...roomAckRules,
  created: maybe(flag),
  },
  WEBRTC_ROOM_LEAVE: {
  ...requestRules,
  room_id: name,
  reason: maybe(text),
  },
  WEBRTC_ROOM_LEAVE_ACK: {
  version: text,
  status: count,
  message: text,
  room_id: text,
  client_id: text,
  },
  ROOM_EVENT: {
  room_id: text,
  sequence: count,
  event: text,
  participant: maybe(memberRules),
  tracks: maybe(listOf(publishedTrackRules)),
  reason: maybe(text),
  metadata: maybe(object),
  },
  ROOM_STATE: {
  ...requestRules,
  room_id: name,
  },
  ROOM_STATE_ACK: {
  room_id: text,
  sequence: count,
  participants: listOf(memberRules),
  metadata: object,
  max_participants: count,
  created_at: maybe(count),
  },
  METADATA_UPDATE: {
  ...requestRules,
  room_id: name,
  metadata: object,
  scope: maybe(oneOf("participant", "room")),
  },
  METADATA_UPDATE_ACK: {
  sequence: count,
  },
  TRACKS_NEW: {
  ...requestRules,
  room_id: name,
  tracks: listOf(trackRequestRules, MAX_ITEMS),
  offer_sdp: maybe(text),
  },
  TRACKS_NEW_ACK: {
  tracks: listOf(trackResultRules),
  answer_sdp: maybe(text),
  offer_sdp: maybe(text),
  requires_renegotiation: maybe(flag),
  },
  RENEGOTIATE: {
  ...requestRules,
  room_id: name,
  answer_sdp: maybe(text),
  offer_sdp: maybe(text),
  tracks: maybe(listOf(sentPublishedTrackRules, MAX_ITEMS)),
  },
  RENEGOTIATE_ACK: {
  status: count,
  session_id: maybe(text),
  answer_sdp: maybe(text),
  tracks: maybe(listOf(trackResultRules)),
  },
  TRACKS_CLOSE: {
  ...requestRules,
  room_id: name,
  tracks: listOf(trackMidRules, MAX_ITEMS),
  offer_sdp: maybe(text),
  reason: maybe(text),
  },
  TRACKS_CLOSE_ACK: {
  tracks: listOf(trackResultRules),
  answer_sdp: maybe(text),
  },
  TRACKS_UPDATE: {
  ...requestRules,
  room_id: name,
  tracks: listOf(trackUpdateRules, MAX_ITEMS),
  },
  TRACKS_UPDATE_ACK: {
  tracks: listOf(trackResultRules),
  },
  DATACHANNELS_NEW: {
  ...requestRules,
  room_id: name,
  data_channels: listOf(dataChannelRequestRules, MAX_ITEMS),
  offer_sdp: maybe(text),
  },
  DATACHANNELS_NEW_ACK: {
  data_channels: listOf(dataChannelResultRules),
  answer_sdp: maybe(text),
  offer_sdp: maybe(text),
  requires_renegotiation: maybe(flag),
  },
  ICE_SERVERS: requestRules,
  ICE_SERVERS_ACK: {
  ice_servers: listOf(iceServerRules),
  expires_at: maybe(count),
  },
  TRACKS_MUTE: {
  ...requestRules,
  room_id: name,
  tracks: listOf(trackMuteRules, MAX_ITEMS),
  },
  TRACKS_MUTE_ACK: {
  tracks: listOf(trackResultRules),
  },
  ERROR: {
  error_code: count,
  error_message: text,
  details: maybe(object),
  retryable: maybe(flag),
  },
};
