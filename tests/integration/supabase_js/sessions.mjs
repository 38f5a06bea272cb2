/** Accounts and sessions: what supabase.auth does. */
import assert from "node:assert/strict";
import test from "node:test";
import { answer, newEmail, PASSWORD, service, signedUp, SUPABASE_URL, token, visitor } from "./clients.mjs";

const ANOTHER_PASSWORD = "another horse";

/** A further device on which the user of `email` signs in. */
async function device(email, password = PASSWORD) {
  const client = visitor();
  const { session } = answer(await client.auth.signInWithPassword({ email, password }));
  return { client, session };
}

const isSignedIn = async ({ session }) => (await visitor().auth.getUser(session.access_token)).error === null;

function refusedByAuth({ error }, code, status) {
  assert.deepEqual([error?.code, error?.status], [code, status], String(error));
  return error;
}

test("signing up stores what the form says and answers with user and session", async () => {
  const [client, email] = [visitor(), newEmail()];
  const options = { data: { full_name: "Ada" }, emailRedirectTo: "http://localhost:3000/welcome?from=mail" };
  const { user, session } = answer(
    await client.auth.signUp({ email: email.toUpperCase(), password: PASSWORD, options }),
  );
  assert.deepEqual(
    [user.email, user.aud, user.role, user.user_metadata.full_name],
    [email, "authenticated", "authenticated", "Ada"],
  );
  assert.deepEqual(user.app_metadata, { provider: "email", providers: ["email"] });
  assert.equal(user.identities[0].provider, "email");
  assert.ok(user.email_confirmed_at && user.created_at);
  assert.equal(session.expires_in, 3600);
  assert.equal(session.user.id, user.id);
  const profile = client.from("users").select("email, full_name").eq("id", user.id).single();
  assert.deepEqual(answer(await profile), { email, full_name: "Ada" });
});

test("sign-ups that cannot be", async () => {
  const { email } = await signedUp();
  const signUp = (email, password) => visitor().auth.signUp({ email, password });
  refusedByAuth(await signUp(email, PASSWORD), "user_already_exists", 422);
  refusedByAuth(await signUp("not an address", PASSWORD), "validation_failed", 400);
  const weak = refusedByAuth(await signUp(newEmail(), "short"), "weak_password", 422);
  assert.deepEqual(weak.reasons, ["length"]);
  refusedByAuth(await visitor().auth.signInAnonymously(), "anonymous_provider_disabled", 422);
});

test("a wrong password and an unknown address look the same", async () => {
  const { email } = await signedUp();
  for (const credentials of [
    { email, password: "wrong horse" },
    { email: newEmail(), password: PASSWORD },
  ]) {
    refusedByAuth(await visitor().auth.signInWithPassword(credentials), "invalid_credentials", 400);
  }
});

test("the same flow with PKCE, which a server-side page uses", async () => {
  const [client, email] = [visitor({ auth: { flowType: "pkce" } }), newEmail()];
  assert.ok(answer(await client.auth.signUp({ email, password: PASSWORD })).session);
  answer(await client.auth.signOut().then(({ error }) => ({ error })));
  assert.ok(answer(await client.auth.signInWithPassword({ email, password: PASSWORD })).session);
});

test("the token's claims are the user's, checked with the server", async () => {
  const { client, user, email } = await signedUp();
  const { claims, header } = answer(await client.auth.getClaims());
  assert.deepEqual(
    [claims.sub, claims.email, claims.role, claims.aud],
    [user.id, email, "authenticated", "authenticated"],
  );
  assert.deepEqual([claims.iss, claims.is_anonymous, header.alg], [`${SUPABASE_URL}/auth/v1`, false, "HS256"]);
  const { session } = answer(await client.auth.getSession());
  assert.equal(answer(await visitor().auth.getClaims(session.access_token)).claims.session_id, claims.session_id);
});

test("getUser of one's own session, of a given token, and of none", async () => {
  const { client, user } = await signedUp();
  assert.equal(answer(await client.auth.getUser()).user.id, user.id);
  const { session } = answer(await client.auth.getSession());
  assert.equal(answer(await visitor().auth.getUser(session.access_token)).user.id, user.id);
  assert.equal((await visitor().auth.getUser()).error.name, "AuthSessionMissingError");
  refusedByAuth(await visitor().auth.getUser("a.b.c"), "bad_jwt", 403);
  refusedByAuth(await visitor().auth.getUser(token({ sub: user.id }, { expired: true })), "bad_jwt", 403);
  refusedByAuth(await visitor().auth.getUser(token({ sub: user.id }, { secret: "another" })), "bad_jwt", 403);
  const gone = token({ sub: "00000000-0000-4000-8000-000000000000", role: "authenticated" });
  refusedByAuth(await visitor().auth.getUser(gone), "user_not_found", 403);
});

test("refreshing keeps the session and changes both tokens' use", async () => {
  const { client, user } = await signedUp();
  const { session: old } = answer(await client.auth.getSession());
  const { session } = answer(await client.auth.refreshSession());
  assert.notEqual(session.refresh_token, old.refresh_token);
  assert.equal(session.user.id, user.id);
  assert.equal(answer(await client.auth.getUser()).user.id, user.id);
  const { refresh_token } = session;
  assert.ok(answer(await visitor().auth.refreshSession({ refresh_token })).session);
  refusedByAuth(await visitor().auth.refreshSession({ refresh_token: "unknown" }), "refresh_token_not_found", 400);
});

test("a session carried over from elsewhere is taken up", async () => {
  const { client, user } = await signedUp();
  const { session } = answer(await client.auth.getSession());
  const page = visitor();
  assert.equal(answer(await page.auth.setSession(session)).user.id, user.id);
  assert.equal(answer(await page.rpc("who")).uid, user.id);
});

test("signing out everywhere, here, or everywhere else", async () => {
  const signOut = async ({ client }, scope) =>
    assert.equal((await client.auth.signOut(scope && { scope })).error, null);
  const devices = async () => {
    const { email } = await signedUp();
    return Promise.all([device(email), device(email)]);
  };
  for (const [scope, hereAfter, thereAfter] of [
    [undefined, false, false],
    ["global", false, false],
    ["local", false, true],
    ["others", true, false],
  ]) {
    const [here, there] = await devices();
    await signOut(here, scope);
    assert.deepEqual([await isSignedIn(here), await isSignedIn(there)], [hereAfter, thereAfter], `scope ${scope}`);
  }
});

test("a session that has ended neither refreshes nor ends others", async () => {
  const { email } = await signedUp();
  const [ended, other] = [await device(email), await device(email)];
  await ended.client.auth.signOut({ scope: "local" });
  const stale = await visitor().auth.getUser(ended.session.access_token);
  assert.equal(stale.error.name, "AuthSessionMissingError"); // the client's name for GoTrue's session_not_found
  const { refresh_token } = ended.session;
  refusedByAuth(await visitor().auth.refreshSession({ refresh_token }), "refresh_token_not_found", 400);
  assert.equal(
    (await service.auth.admin.signOut(ended.session.access_token, "global")).error.name,
    "AuthSessionMissingError",
  );
  assert.ok(await isSignedIn(other));
});

test("users change their data and their address", async () => {
  const { client } = await signedUp();
  const email = newEmail();
  answer(await client.auth.updateUser({ data: { a: 1, b: 2 } }));
  const { user } = answer(await client.auth.updateUser({ email, data: { b: null, c: 3 } }));
  assert.deepEqual(
    [user.email, user.user_metadata.a, user.user_metadata.b, user.user_metadata.c],
    [email, 1, undefined, 3],
  );
  const { email: taken } = await signedUp();
  refusedByAuth(await client.auth.updateUser({ email: taken }), "email_exists", 422);
});

test("nobody gives himself rights", async () => {
  const { client } = await signedUp();
  const claimed = {
    data: { is_test_user: true },
    app_metadata: { is_test_user: true, role: "service_role" },
    role: "service_role",
  };
  const { user } = answer(await client.auth.updateUser(claimed));
  assert.deepEqual([user.role, user.app_metadata], ["authenticated", { provider: "email", providers: ["email"] }]);
  refusedByAuth(await client.auth.admin.listUsers(), "not_admin", 403);
});

test("a new password ends the user's other sessions and must be another one", async () => {
  const { client, email } = await signedUp();
  const other = await device(email);
  refusedByAuth(await client.auth.updateUser({ password: PASSWORD }), "same_password", 422);
  refusedByAuth(await client.auth.updateUser({ password: "short" }), "weak_password", 422);
  assert.ok(await isSignedIn(other));
  answer(await client.auth.updateUser({ password: ANOTHER_PASSWORD }));
  assert.equal(await isSignedIn(other), false);
  answer(await client.auth.getUser());
  refusedByAuth(await visitor().auth.signInWithPassword({ email, password: PASSWORD }), "invalid_credentials", 400);
  assert.ok((await device(email, ANOTHER_PASSWORD)).session);
});

test("administrators create, find, change and delete users", async () => {
  const { admin } = service.auth;
  const [email, full_name] = [newEmail(), "Grace"];
  const created = answer(
    await admin.createUser({ email, password: PASSWORD, email_confirm: true, user_metadata: { full_name } }),
  );
  const { id } = created.user;
  assert.equal(answer(await admin.getUserById(id)).user.user_metadata.full_name, full_name);
  const page = answer(await admin.listUsers({ page: 1, perPage: 1 }));
  assert.equal(page.users.length, 1);
  assert.ok(page.total >= 1);
  const changed = answer(await admin.updateUserById(id, { app_metadata: { plan: "pro" } }));
  assert.equal(changed.user.app_metadata.plan, "pro");
  const { session } = await device(email);
  assert.equal(answer(await visitor().auth.getClaims(session.access_token)).claims.app_metadata.plan, "pro");
  answer(await admin.deleteUser(id));
  refusedByAuth(await admin.getUserById(id), "user_not_found", 404);
  refusedByAuth(await visitor().auth.getUser(session.access_token), "user_not_found", 403);
});

test("what sends e-mail, and what is not there, is refused with a sentence", async () => {
  const email = newEmail();
  for (const asked of [
    visitor().auth.signInWithOtp({ email }),
    visitor().auth.resetPasswordForEmail(email),
    visitor().auth.resend({ type: "signup", email }),
    service.auth.admin.inviteUserByEmail(email),
  ]) {
    assert.match(refusedByAuth(await asked, "email_provider_disabled", 422).message, /sends no e-mail/);
  }
  const { error } = await visitor().auth.verifyOtp({ email, token: "123456", type: "email" });
  assert.match(error.message, /The local stack has no POST \/auth\/v1\/verify/);
});
