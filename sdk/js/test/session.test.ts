/** What is kept of a session, and when it cannot go on. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Session } from "../src/session.js";

function begin(): Session {
  const session = new Session(true);
  session.accept({ status: "success", session_id: "s", resume_token: "r" });
  return session;
}

test("only what is not confirmed is kept, in order", () => {
  const session = begin();
  for (const data of ["a", "b", "c", "d"]) session.keep(data);

  session.confirm(2);
  session.confirm(1); // late

  assert.deepEqual(session.unconfirmed, ["c", "d"]);
  assert.ok(session.mayContinue);
});

test("a session whose messages are more than is kept goes on with the next confirmation", () => {
  const session = begin();
  const mebibyte = "x".repeat(2 ** 20);
  for (let n = 0; n < 5; n += 1) session.keep(mebibyte);
  assert.deepEqual([session.unconfirmed.length, session.mayContinue], [0, false]);
  assert.deepEqual(session.wish, { resumable: true, resume: { session_id: "s", resume_token: "", received: 0 } });

  session.keep("sixth");
  assert.equal(session.mayContinue, false);
  session.confirm(5);

  assert.deepEqual(session.unconfirmed, ["sixth"]);
  assert.ok(session.mayContinue);
});

test("what is confirmed makes room", () => {
  const session = begin();
  const mebibyte = "x".repeat(2 ** 20);
  for (let n = 1; n <= 20; n += 1) {
    session.keep(mebibyte);
    session.confirm(n);
  }

  assert.ok(session.mayContinue);
});

test("a confirmation of what was never sent ends the session's continuation", () => {
  const session = begin();
  session.keep("a");

  session.confirm(2);

  assert.equal(session.mayContinue, false);
});

test("a token that changes on the way is the one that counts", () => {
  const session = begin();

  assert.equal(session.accept({ status: "success", session_id: "s", resume_token: "r2", resumed: true }), true);

  assert.deepEqual(session.wish.resume, { session_id: "s", resume_token: "r2", received: 0 });
});

test("nothing is kept for a service that does not resume", () => {
  const session = new Session(true);
  session.accept({ status: "success", session_id: "s" });

  session.keep("a");

  assert.deepEqual([session.unconfirmed, session.mayContinue, session.report()], [[], false, {}]);
});

test("a client that does not resume names its session all the same, so that a newer device keeps the client", () => {
  const session = new Session(false);
  assert.deepEqual(session.wish, {});

  session.accept({ status: "success", session_id: "s", resume_token: "r" });

  assert.deepEqual(session.wish, { resume: { session_id: "s", resume_token: "", received: 0 } });
});
