/** Who may what, and what a page of another origin may. */
import assert from "node:assert/strict";
import test from "node:test";
import {
  answer,
  bearing,
  refused,
  service,
  SUPABASE_PUBLISHABLE_KEY,
  SUPABASE_URL,
  token,
  visitor,
} from "./clients.mjs";
import { ada, books, leGuin, mallory, mallorysUser, mark, spare, user } from "./library.mjs";

test("who is asking", async () => {
  assert.deepEqual(answer(await visitor().rpc("who")), { uid: null, role: "anon", user: "anon" });
  assert.deepEqual(answer(await ada.rpc("who")), { uid: user.id, role: "authenticated", user: "authenticated" });
  assert.equal(answer(await service.rpc("who")).user, "service_role");
  const ours = bearing(token({ sub: user.id, user_id: user.id, type: "access", role: "authenticated" }));
  assert.equal(answer(await ours.rpc("who")).uid, user.id);
});

test("a missing right is 401 for a visitor and 403 for a user", async () => {
  refused(await visitor().rpc("for_service_only"), "42501", 401);
  refused(await ada.rpc("for_service_only"), "42501", 403);
  refused(await visitor().from("tasks").select(), "42501", 401);
  refused(await books("hidden_note"), "42501", 403);
  refused(await books("*"), "42501", 403);
  assert.equal(answer(await service.rpc("for_service_only")), 1);
});

test("tokens that are expired, forged or none", async () => {
  const claims = { sub: user.id, role: "authenticated" };
  const ask = (accessToken) => bearing(accessToken).from("projects").select();
  assert.equal(refused(await ask(token(claims, { expired: true })), "PGRST303", 401).message, "JWT expired");
  refused(await ask(token(claims, { secret: "another" })), "PGRST301", 401);
  refused(await ask("a.b.c"), "PGRST301", 401);
  refused(await ask(token({ ...claims, role: "postgres" })), "22023", 401);
});

test("rows of somebody else are out of reach in every form", async () => {
  const isLeGuin = (query) => query.eq("id", leGuin.id);
  const empty = [
    isLeGuin(mallory.from("authors").select()),
    mallory.from("authors").select("*, books!author_id(title)").or(`id.eq.${leGuin.id},name.like.${mark}*`),
    mallory.from("books").select("title, author:author_id(name)").gt("pages", 0),
    mallory.from("authors").select("name, books!author_id!inner(title)").like("books.title", "%"),
    mallory.rpc("authors_of_stars", { at_least: 0 }),
    isLeGuin(mallory.from("authors").update({ stars: 0 })).select(),
    isLeGuin(mallory.from("authors").delete()).select(),
    mallory.from("users").select("id, email, projects(*), tasks(*)").neq("id", mallorysUser.id),
  ];
  for (const query of empty) assert.deepEqual(answer(await query), []);
  const { count } = await isLeGuin(mallory.from("authors").select("*", { count: "exact", head: true }));
  assert.equal(count, 0);
  refused(await mallory.from("authors").insert({ ...spare(), owner: user.id }), "42501", 403);
  refused(await mallory.from("authors").upsert({ id: leGuin.id, ...spare() }), "42501", 403);
  refused(await mallory.from("books").insert({ author_id: leGuin.id, title: "x" }), "42501", 403);
  assert.deepEqual(answer(await isLeGuin(ada.from("authors").select()).single()).name, leGuin.name);
});

test("a row of one's own that points to somebody else's does not show it", async () => {
  const theirs = {
    user_id: user.id,
    name: "Secret",
    repo_name: mark,
    repo_owner: "a",
    repo_url: `https://github.com/a/${mark}`,
  };
  const { id } = answer(await service.from("projects").insert(theirs).select("id").single());
  answer(await service.from("tasks").insert({ user_id: mallorysUser.id, project_id: id }));
  const tasks = (columns) => mallory.from("tasks").select(columns);
  assert.deepEqual(answer(await tasks("status, project:projects(name)")), [{ status: "pending", project: null }]);
  assert.deepEqual(answer(await tasks("status, projects!inner(name)")), []);
  assert.deepEqual(answer(await tasks("status, projects(name)").like("projects.name", "S%")), [
    { status: "pending", projects: null },
  ]);
  assert.deepEqual(answer(await tasks("status, projects(name)").not("projects", "is", null)), []);
  assert.deepEqual(answer(await ada.from("projects").select("name, tasks(id)").eq("id", id)), [
    { name: "Secret", tasks: [] },
  ]);
});

// ------------------------------------------------------------------------------------------------------- in a browser

test("a browser's preflight allows every header that the client sends", async () => {
  const sent = new Set();
  const recording = async (url, options) => {
    new Headers(options.headers).forEach((_, name) => sent.add(name));
    return fetch(url, options);
  };
  const client = visitor({ global: { fetch: recording } });
  answer(await client.rpc("add", { a: 1 }, { count: "exact" }));
  await client.from("authors").upsert(spare()).select().single();
  await client.auth.signInWithPassword({ email: "nobody@example.com", password: "wrong horse" });
  for (const name of ["authorization", "apikey", "content-type", "prefer", "x-client-info", "content-profile"]) {
    assert.ok(sent.has(name), `the client no longer sends ${name}`);
  }
  for (const [path, method] of [
    ["/rest/v1/authors", "PATCH"],
    ["/rest/v1/authors", "DELETE"],
    ["/auth/v1/user", "PUT"],
  ]) {
    const asked = {
      Origin: "https://app.example.com",
      "Access-Control-Request-Method": method,
      "Access-Control-Request-Headers": [...sent].sort().join(","),
    };
    const preflight = await fetch(`${SUPABASE_URL}${path}`, { method: "OPTIONS", headers: asked });
    assert.equal(preflight.status, 200);
    assert.equal(preflight.headers.get("access-control-allow-origin"), "*");
    assert.ok(preflight.headers.get("access-control-allow-methods").includes(method));
    const allowed = preflight.headers.get("access-control-allow-headers").toLowerCase();
    assert.deepEqual(
      [...sent].filter((name) => !allowed.includes(name)),
      [],
    );
  }
});

test("a page of any origin may read answers, errors and the count", async () => {
  const headers = { Origin: "https://app.example.com", apikey: SUPABASE_PUBLISHABLE_KEY };
  for (const path of [
    "/rest/v1/authors",
    "/rest/v1/nothing",
    "/rest/v1/rpc/letters",
    "/auth/v1/user",
    "/storage/v1/bucket",
  ]) {
    const seen = await fetch(`${SUPABASE_URL}${path}`, { headers });
    assert.equal(seen.headers.get("access-control-allow-origin"), "*", path);
    assert.match(seen.headers.get("access-control-expose-headers"), /content-range/i);
    assert.match(seen.headers.get("content-type"), /^application\/json/);
  }
});
