/** Clients of the gateway that the environment names, and what their answers must look like. */
import assert from "node:assert/strict";
import { createHmac, randomUUID } from "node:crypto";
import { createClient } from "@supabase/supabase-js";

export const { SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, SUPABASE_SECRET_KEY, JWT_SECRET } = process.env;
export const PASSWORD = "correct horse";

/** A browser in which nobody is signed in; `options` as createClient takes them. */
export const visitor = (options) => createClient(SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, options);

export const service = createClient(SUPABASE_URL, SUPABASE_SECRET_KEY);

export const newEmail = () => `${randomUUID()}@example.com`;

/** A client with a new user signed in, as `{ client, user, email }`. */
export async function signedUp() {
  const [client, email] = [visitor(), newEmail()];
  const { user } = answer(await client.auth.signUp({ email, password: PASSWORD }));
  return { client, user, email };
}

/** The data of a request that must succeed. */
export function answer({ data, error }) {
  assert.ifError(error && new Error(`${error.code}: ${error.message}`, { cause: error }));
  return data;
}

/** Checks that a request was refused with this code and, if given, this HTTP status; returns the error. */
export function refused({ data, error, status }, code, wantedStatus = status) {
  assert.equal(error?.code, code, `instead of ${code}: ${JSON.stringify(error ?? data)}`);
  assert.equal(status, wantedStatus);
  return error;
}

/** A token signed as hosted Supabase signs with a shared secret; an hour old or an hour to live. */
export function token(claims, { expired = false, secret = JWT_SECRET } = {}) {
  const exp = Math.floor(Date.now() / 1000) + (expired ? -3600 : 3600);
  const encoded = [
    { alg: "HS256", typ: "JWT" },
    { aud: "authenticated", exp, ...claims },
  ].map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"));
  const signed = encoded.join(".");
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

/** A client whose every request carries this token. */
export const bearing = (accessToken) => visitor({ accessToken: async () => accessToken });
