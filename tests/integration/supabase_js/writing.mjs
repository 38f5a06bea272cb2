/** Changes, with and without an answer, and calls of functions. */
import assert from "node:assert/strict";
import test from "node:test";
import { answer, refused } from "./clients.mjs";
import { ada, books, borges, leGuin, spare, titles } from "./library.mjs";

test("insert answers with nothing, or with the rows it is asked for", async () => {
  const silent = await ada.from("authors").insert(spare());
  assert.deepEqual([silent.status, silent.data, silent.error], [201, null, null]);
  const rows = [spare({ tags: ["a", 'b"c'], facts: { ä: [1, null] } }), spare({ tags: [], facts: {} })];
  const shown = await ada.from("authors").insert(rows, { count: "exact" }).select("name, tags, facts");
  assert.deepEqual([shown.status, shown.count, shown.data], [201, 2, rows]);
});

test("what some of several rows lack is null, or the default on request", async () => {
  const rows = () => [spare({ stars: 5 }), spare({ tags: ["x"] })];
  refused(await ada.from("authors").insert(rows()), "23502", 400);
  const insert = ada.from("authors").insert(rows(), { defaultToNull: false });
  assert.deepEqual(answer(await insert.select("tags, stars")), [
    { tags: [], stars: 5 },
    { tags: ["x"], stars: 3 },
  ]);
});

test("update answers with nothing, with rows, or with a count", async () => {
  const { id } = answer(await ada.from("authors").insert(spare()).select("id").single());
  const update = (stars, options) => ada.from("authors").update({ stars }, options).eq("id", id);
  const silent = await update(1);
  assert.deepEqual([silent.status, silent.data, silent.error], [204, null, null]);
  assert.deepEqual(answer(await update(2).select("id, stars")), [{ id, stars: 2 }]);
  assert.deepEqual(answer(await update(4).select("stars").single()), { stars: 4 });
  assert.equal((await update(5, { count: "exact" })).count, 1);
  assert.deepEqual(answer(await update(6).eq("stars", -1).select()), []);
  refused(await update(6).eq("stars", -1).select().single(), "PGRST116", 406);
  assert.equal(answer(await update(6).eq("stars", -1).select().maybeSingle()), null);
});

test("upsert merges, or ignores what is there", async () => {
  const row = answer(await ada.from("authors").insert(spare()).select("name, stars").single());
  const upsert = (stars, options) =>
    ada.from("authors").upsert({ name: row.name, stars }, { onConflict: "name", ...options });
  assert.deepEqual(answer(await upsert(4).select("name, stars").single()), { ...row, stars: 4 });
  assert.deepEqual(answer(await upsert(5, { ignoreDuplicates: true }).select("name")), []);
  assert.equal((await upsert(5)).data, null);
  assert.deepEqual(answer(await ada.from("authors").select("stars").eq("name", row.name).single()), { stars: 5 });
  const { id } = answer(await ada.from("authors").upsert(spare()).select("id").single());
  assert.deepEqual(
    answer(
      await ada
        .from("authors")
        .upsert({ id, ...spare({ stars: 1 }) })
        .select("id, stars")
        .single(),
    ),
    { id, stars: 1 },
  );
});

test("delete answers with nothing, with rows, or with a count", async () => {
  const insert = async () => answer(await ada.from("authors").insert(spare()).select("id").single()).id;
  const remove = (id, options) => ada.from("authors").delete(options).eq("id", id);
  const silent = await remove(await insert());
  assert.deepEqual([silent.status, silent.data, silent.error], [204, null, null]);
  const id = await insert();
  assert.deepEqual(answer(await remove(id).select("id").single()), { id });
  assert.equal((await remove(await insert(), { count: "exact" })).count, 1);
});

test("a change of more rows than allowed is taken back", async () => {
  const change = (rows) => ada.from("books").update({ pages: 1 }).eq("author_id", leGuin.id).maxAffected(rows);
  assert.equal(refused(await change(1), "PGRST124", 400).details, "The query affects 2 rows");
  assert.deepEqual(await titles(books().eq("pages", 1)), []);
});

test("a change of all rows is refused, as hosted Supabase refuses it", async () => {
  refused(await ada.from("books").update({ pages: 1 }), "21000", 400);
  refused(await ada.from("books").delete(), "21000", 400);
});

// ---------------------------------------------------------------------------------------------------------- functions

test("a function's value, with defaults, arrays and JSON", async () => {
  assert.equal(answer(await ada.rpc("add", { a: 1, b: 2 })), 3);
  assert.equal(answer(await ada.rpc("add", { a: 1 })), 11);
  const extra = { x: [1, null, "ä"] };
  const heard = answer(await ada.rpc("shout", { words: ["hi", 'a"b,c'], extra }));
  assert.deepEqual(heard, { first: "HI", count: 2, extra });
});

test("a stable function called with GET, or only counted", async () => {
  assert.equal(answer(await ada.rpc("add", { a: 1, b: 2 }, { get: true })), 3);
  const words = { words: ["hi", "you"], extra: '{"n": 1}' };
  assert.deepEqual(answer(await ada.rpc("shout", words, { get: true })), { first: "HI", count: 2, extra: { n: 1 } });
  const counted = await ada.rpc("authors_of_stars", { at_least: 0 }, { head: true, count: "exact" });
  assert.ok(counted.count >= 2);
  refused(await ada.rpc("add_star", { author: leGuin.id }, { get: true }), "25006", 405);
});

test("a function's rows are filtered, embedded and counted like a table's", async () => {
  const query = ada.rpc("authors_of_stars", { at_least: 1 }, { count: "exact" }).in("id", [leGuin.id, borges.id]);
  const { data, count } = await query.select("name, books!author_id(title)").order("name").limit(1);
  assert.deepEqual([count, data], [2, [{ name: borges.name, books: [{ title: "Ficciones" }] }]]);
  const row = answer(await ada.rpc("author_named", { wanted: borges.name }));
  assert.equal(row.id, borges.id);
  assert.equal(
    answer(await ada.rpc("authors_of_stars", { at_least: 1 }).eq("id", borges.id).single()).name,
    borges.name,
  );
});

test("a function's set of values, its own columns, or nothing", async () => {
  assert.deepEqual(answer(await ada.rpc("letters")), ["a", "b", "c"]);
  const page = await ada.rpc("letters", {}, { count: "exact" }).range(1, 1);
  assert.deepEqual([page.data, page.count], [["b"], 3]);
  assert.deepEqual(answer(await ada.rpc("squares", { up_to: 5 }).gt("square", 9)), [{ square: 16 }, { square: 25 }]);
  const nothing = await ada.rpc("add_star", { author: leGuin.id });
  assert.deepEqual([nothing.status, nothing.data, nothing.error], [204, null, null]);
});

test("what a function raises arrives whole, and PTnnn is the HTTP status", async () => {
  for (const [code, status] of [
    ["PT429", 429],
    ["PT404", 404],
    ["PT402", 402],
    ["P0001", 400],
    ["23505", 409],
    ["PT999", 500],
  ]) {
    const error = refused(await ada.rpc("refuse", { code, message: "too_many" }), code, status);
    const { message, details, hint } = error;
    assert.deepEqual({ message, details, hint }, { message: "too_many", details: '{"limit": 3}', hint: "Wait." });
  }
});
